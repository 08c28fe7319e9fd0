//! Any text is answered with a director or with errors that have a place, and never by a panic.
//!
//! Mutates `docs/lb.yaml` and `good/everything.yaml` by bytes, by lines and with YAML's special
//! words. `PROPTEST_CASES=N` runs N of each instead of the few that keep the tests quick.
//!
//! Must not know: what the messages say.

use super::super::load;
use super::repository;
use proptest::prelude::*;
use std::fs;

/// Judges the answer to any text.
fn check(text: &str) {
    match load("f", text, "host") {
        Ok(loaded) => assert!(!loaded.director.node.is_empty()),
        Err(errors) => {
            assert!(!errors.is_empty());
            assert!(errors.is_sorted_by_key(|e| (e.line, e.column)));
            let lines = text.split(['\n', '\r', '\u{85}', '\u{2028}', '\u{2029}']).count();
            for error in errors {
                assert!(error.line >= 1 && error.column >= 1 && error.line <= lines, "{error}");
                assert!(!error.path.is_empty() && !error.message.is_empty());
                assert_eq!(error.to_string().lines().count(), 1, "{error}");
            }
        }
    }
}

const WORDS: &[&str] = &[
    "&a ",
    "*a",
    "<<: *a",
    "<<: [*a, *a]",
    "!t ",
    "|",
    ">",
    "- ",
    ": ",
    "\n",
    "  ",
    "\t",
    "{",
    "}",
    "[",
    "]",
    "'",
    "\"",
    "#",
    "---\n",
    "...\n",
    "? ",
    "null",
    "~",
    "off",
    "1e999",
    ".nan",
    "0x1F",
    "080",
    "-1",
    "\u{feff}",
    "\u{85}",
    "\u{2028}",
    "\r",
    "%YAML 1.1\n",
    "!!binary ",
    "99999999999999999999999999999999999999999999",
    "name: ",
];

#[derive(Clone, Debug)]
enum Change {
    Insert(usize, usize),
    Byte(usize, u8),
    Remove(usize, usize),
    Repeat(usize, usize),
}

fn change() -> impl Strategy<Value = Change> {
    let at = any::<usize>;
    prop_oneof![
        (at(), 0..WORDS.len()).prop_map(|(at, word)| Change::Insert(at, word)),
        (at(), any::<u8>()).prop_map(|(at, byte)| Change::Byte(at, byte)),
        (at(), 1..40usize).prop_map(|(at, len)| Change::Remove(at, len)),
        (at(), 1..200usize).prop_map(|(at, len)| Change::Repeat(at, len)),
    ]
}

fn mutate(text: &str, changes: &[Change]) -> String {
    let mut bytes = text.as_bytes().to_vec();
    for change in changes {
        let len = bytes.len() + 1;
        match *change {
            Change::Insert(at, word) => {
                let at = at % len;
                bytes.splice(at..at, WORDS[word].bytes());
            }
            Change::Byte(at, byte) => {
                let at = at % len;
                bytes.splice(at..at, [byte]);
            }
            Change::Remove(at, count) => {
                let at = at % len;
                bytes.drain(at..bytes.len().min(at + count));
            }
            Change::Repeat(at, count) => {
                let at = at % len;
                let part = bytes[at..bytes.len().min(at + count)].to_vec();
                bytes.splice(at..at, part);
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn read(path: &str) -> String {
    fs::read_to_string(repository(path)).expect("a file of the repository")
}

fn cases(few: u32) -> ProptestConfig {
    let default = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_some() {
        return default;
    }
    ProptestConfig { cases: few, ..default }
}

proptest! {
    #![proptest_config(cases(96))]

    #[test]
    fn mutations_of_a_good_file_are_answered(changes in prop::collection::vec(change(), 1..6)) {
        check(&mutate(&read("tests/vectors/config/good/everything.yaml"), &changes));
    }

    #[test]
    fn any_text_is_answered(text in "\\PC{0,80}", words in prop::collection::vec(0..WORDS.len(), 0..12)) {
        let mut all = text;
        all.extend(words.into_iter().map(|word| WORDS[word]));
        check(&all);
    }
}

proptest! {
    #![proptest_config(cases(8))]

    #[test]
    fn mutations_of_the_reference_are_answered(changes in prop::collection::vec(change(), 1..6)) {
        check(&mutate(&read("docs/lb.yaml"), &changes));
    }
}

#[test]
fn nesting_and_length_are_bounded() {
    check(&"[".repeat(2_000));
    check(&"a: {".repeat(500));
    check(&format!("virtual_services: {}{}", "[".repeat(120), "]".repeat(120)));
    check(&format!("node: {}", "x".repeat(100_000)));
    check(&format!("{}: 1", "k".repeat(1_000)));
    check(&"#\n".repeat(9 << 20));
}
