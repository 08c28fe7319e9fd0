//! Blanks comments and literals in Rust source, so that rules see code only.
//!
//! [`mask`] keeps every newline and the length in bytes: a place in the result is the same place
//! in the source. [`block_end`] and [`modules`] then count braces safely.
//!
//! Must not know: any rule.

/// `source` with comments and the contents of literals replaced by spaces.
pub(super) fn mask(source: &str) -> String {
    let bytes = source.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let end = skip(bytes, at);
        if end > at {
            out.extend(bytes[at..end].iter().map(|byte| if *byte == b'\n' { b'\n' } else { b' ' }));
            at = end;
        } else {
            out.push(bytes[at]);
            at += 1;
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// End of the comment or literal that begins at `at`; `at` itself if none does.
fn skip(bytes: &[u8], at: usize) -> usize {
    let rest = &bytes[at..];
    let after_word = at > 0 && is_word(bytes[at - 1]);
    match rest {
        [b'/', b'/', ..] => at + position(rest, b"\n").unwrap_or(rest.len()),
        [b'/', b'*', ..] => at + comment_end(rest),
        [b'"', ..] => at + string_end(rest),
        [b'\'', ..] => at + char_end(rest),
        [b'r' | b'b' | b'c', ..] if !after_word => {
            let prefix =
                rest.iter().take_while(|byte| matches!(**byte, b'r' | b'b' | b'c')).count();
            match &rest[prefix..] {
                [b'"' | b'#', ..] if rest[..prefix].contains(&b'r') => {
                    raw_end(rest, prefix).map_or(at, |end| at + end)
                }
                [b'"', ..] if prefix == 1 => at + prefix + string_end(&rest[prefix..]),
                [b'\'', ..] if prefix == 1 => at + prefix + char_end(&rest[prefix..]),
                _ => at,
            }
        }
        _ => at,
    }
}

/// Length of a block comment; they nest.
fn comment_end(rest: &[u8]) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        match &rest[at..] {
            [b'/', b'*', ..] => (depth, at) = (depth + 1, at + 2),
            [b'*', b'/', ..] => (depth, at) = (depth - 1, at + 2),
            _ => at += 1,
        }
        if depth == 0 {
            break;
        }
    }
    at.min(rest.len())
}

/// Length of a string with escapes.
fn string_end(rest: &[u8]) -> usize {
    let mut at = 1;
    while at < rest.len() {
        match rest[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    rest.len()
}

/// Length of a raw string whose `#` or `"` is at `prefix`; `None` for a raw identifier.
fn raw_end(rest: &[u8], prefix: usize) -> Option<usize> {
    let hashes = rest[prefix..].iter().take_while(|byte| **byte == b'#').count();
    let open = prefix + hashes;
    if rest.get(open) != Some(&b'"') {
        return None;
    }
    let close = [b"\"", "#".repeat(hashes).as_bytes()].concat();
    Some(position(&rest[open + 1..], &close).map_or(rest.len(), |at| open + 1 + at + close.len()))
}

/// Length of a character literal; 0 for a lifetime.
fn char_end(rest: &[u8]) -> usize {
    match rest {
        // The escaped character may itself be a quote.
        [b'\'', b'\\', _, tail @ ..] => position(tail, b"'").map_or(0, |at| at + 4),
        [b'\'', first, ..] => {
            let width = match first {
                0..=0x7f => 1,
                0x80..=0xdf => 2,
                0xe0..=0xef => 3,
                _ => 4,
            };
            if rest.get(1 + width) == Some(&b'\'') { width + 2 } else { 0 }
        }
        _ => 0,
    }
}

fn position(haystack: &[u8], needle: &[u8]) -> Option<usize> {
    haystack.windows(needle.len()).position(|window| window == needle)
}

/// Whether a byte can be part of an identifier.
fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

/// Places where `word` stands as a whole word in masked code; it may hold `::` and punctuation.
pub(super) fn words<'a>(code: &'a str, word: &'a str) -> impl Iterator<Item = usize> + 'a {
    let edge = |at: Option<usize>| {
        at.and_then(|at| code.as_bytes().get(at)).is_none_or(|byte| !is_word(*byte))
    };
    let ends_in_word = word.bytes().last().is_some_and(is_word);
    code.match_indices(word)
        .map(|(at, _)| at)
        .filter(move |at| edge(at.checked_sub(1)) && (!ends_in_word || edge(Some(at + word.len()))))
}

/// The place after the brace that closes the one at `open`.
pub(super) fn block_end(code: &str, open: usize) -> usize {
    let mut depth = 0;
    for (at, byte) in code.bytes().enumerate().skip(open) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return at + 1,
            b'}' => depth -= 1,
            _ => {}
        }
    }
    code.len()
}

/// The inline modules of masked code: name, place of the opening brace, place after the closing one.
pub(super) fn modules(code: &str) -> Vec<(&str, usize, usize)> {
    let found = words(code, "mod").filter_map(|at| {
        let (name, _) = code[at + 3..].split_once('{')?;
        let open = at + 3 + name.len();
        let name = name.trim();
        name.bytes().all(is_word).then(|| (name, open, block_end(code, open)))
    });
    found.collect()
}

/// Whether a place lies in an inline module named `tests`.
pub(super) fn in_tests(code: &str, at: usize) -> bool {
    modules(code).iter().any(|(name, open, end)| *name == "tests" && (*open..*end).contains(&at))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(source: &str, expected: &str) {
        let masked = mask(source);
        assert_eq!(masked.len(), source.len());
        assert_eq!(masked.split_whitespace().collect::<Vec<_>>().join(" "), expected);
    }

    #[test]
    fn comments_vanish() {
        check("a // b { \nc /* d /* e */ f */ g", "a c g");
    }

    #[test]
    fn strings_vanish() {
        check(r##"a("x\"{", r#"y"{"#, b"z", br"w") b"##, "a( , , , ) b");
    }

    #[test]
    fn characters_vanish_and_lifetimes_stay() {
        check(r"f<'a>('{', '\'', b'}', '\u{7b}', 'é') 'a", "f<'a>( , , , , ) 'a");
    }

    #[test]
    fn raw_identifiers_and_words_with_a_quote_behind_stay() {
        check("r#type for br in", "r#type for br in");
    }

    #[test]
    fn words_are_whole() {
        assert_eq!(Vec::from_iter(words("unsafe_code unsafe {", "unsafe")), [12]);
    }

    #[test]
    fn inline_modules_are_found_with_their_ends() {
        let code = "mod a; fn f() {} mod tests { fn g() {} } fn h() {}";
        assert_eq!(modules(code), [("tests", 27, 40)]);
        assert!(in_tests(code, 30) && !in_tests(code, 45));
    }
}
