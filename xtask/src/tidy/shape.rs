//! The shape of a Rust file: its head, its length, and the length of its functions.
//!
//! Must not know: what the code means.

use super::mask::{block_end, in_tests, words};
use super::{File, Problem};

/// Longest file, in lines.
const FILE_LIMIT: usize = 800;

/// A file longer than this is worth a second look.
const FILE_NOTE: usize = 400;

/// Longest function, in lines.
const FUNCTION_LIMIT: usize = 80;

/// Packages whose files say what they must not know.
const LAYERED: [&str; 3] = ["lb-common/", "lb-ebpf/", "lb-user/"];

/// Each file says what it is; in the product's packages also what it must not know.
pub(super) fn head(file: &File, problems: &mut Vec<Problem>) {
    if !file.text.starts_with("//! ") {
        problems.push(file.problem(0, "the file does not begin with `//!` and what it is"));
        return;
    }
    let head = file.text.lines().take_while(|line| line.starts_with("//!"));
    let mut said = head.map(|line| line.trim_start_matches("//!").trim_start());
    let layered = LAYERED.iter().any(|package| file.path.starts_with(package));
    if layered && !said.any(|line| line.starts_with("Must not know: ")) {
        problems.push(file.problem(0, "the head has no line `Must not know: ...`"));
    }
}

/// Files and functions stay short enough to read at once.
pub(super) fn lengths(file: &File, problems: &mut Vec<Problem>) {
    let lines = file.text.lines().count();
    if lines > FILE_LIMIT {
        problems.push(
            file.problem(0, format!("the file has {lines} lines; {FILE_LIMIT} are the limit")),
        );
    }
    for at in words(&file.code, "fn") {
        let Some((name, end)) = function(&file.code, at) else { continue };
        let lines = file.line(end - 1) - file.line(at) + 1;
        if lines > FUNCTION_LIMIT && !in_tests(&file.code, at) {
            let message =
                format!("the function {name} has {lines} lines; {FUNCTION_LIMIT} are the limit");
            problems.push(file.problem(at, message));
        }
    }
}

/// A remark on a file that is long but not too long.
pub(super) fn long_file_note(file: &File) -> Option<String> {
    let lines = file.text.lines().count();
    let long = file.is_rust() && lines > FILE_NOTE && lines <= FILE_LIMIT;
    long.then(|| format!("{} has {lines} lines (more than {FILE_NOTE})", file.path))
}

/// Name and end of the function whose `fn` is at `at`; `None` for a type or a bodiless one.
fn function(code: &str, at: usize) -> Option<(&str, usize)> {
    let rest = code[at + 2..].trim_start();
    let name = rest.split(['(', '<']).next()?.trim();
    if name.is_empty() {
        return None;
    }
    // A `;` may stand in an array type inside brackets or parentheses.
    let mut depth = 0;
    for (offset, byte) in code.bytes().enumerate().skip(at) {
        match byte {
            b'(' | b'[' => depth += 1,
            b')' | b']' => depth -= 1,
            b';' if depth == 0 => return None,
            b'{' if depth == 0 => return Some((name, block_end(code, offset))),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::super::tests::said;
    use super::super::{File, check};
    use super::*;

    #[test]
    fn a_file_without_head_is_reported() {
        let problems = check(&[File::new("xtask/src/x.rs", "fn f() {}\n")]);
        assert_eq!(
            problems[0].to_string(),
            "xtask/src/x.rs:1: the file does not begin with `//!` and what it is"
        );
    }

    #[test]
    fn a_product_file_says_what_it_must_not_know_and_a_test_need_not() {
        let text = "//! A module.\n//! It must.\n";
        let problems =
            check(&[File::new("lb-user/src/plan/mod.rs", text), File::new("tests/lab/a.rs", text)]);
        assert_eq!(problems.len(), 1, "{problems:?}");
        assert!(problems[0].message.contains("Must not know"));
    }

    #[test]
    fn a_file_above_the_limit_is_reported_and_a_long_one_noted() {
        let said = said("xtask/src/x.rs", &"// x\n".repeat(798));
        assert_eq!(said, ["1: the file has 801 lines; 800 are the limit"]);
        let long = File::new("xtask/src/x.rs", "// x\n".repeat(401));
        assert!(long_file_note(&long).is_some_and(|note| note.contains("401 lines")));
    }

    #[test]
    fn a_long_function_is_reported_outside_tests() {
        let function = format!("fn f(a: [u8; 4]) -> u8 {{\n{}}}\n", "    g('}');\n".repeat(79));
        assert_eq!(
            said("xtask/src/x.rs", &function),
            ["4: the function f has 81 lines; 80 are the limit"]
        );
        assert_eq!(said("xtask/src/x.rs", &format!("mod tests {{\n{function}}}\n")), [""; 0]);
    }

    #[test]
    fn a_function_of_eighty_lines_and_a_bodiless_one_are_no_problem() {
        let function = format!("fn f() {{\n{}}}\n", "    g();\n".repeat(78));
        let others = format!(
            "trait T {{ fn h(&self, a: [u8; 2]); }}\ntype F = fn(u8);\n{}",
            "// x\n".repeat(90)
        );
        assert_eq!(said("xtask/src/x.rs", &format!("{function}{others}")), [""; 0]);
    }
}
