//! Rules about what may stand in a file: clocks, unfinished work, unsafe code, foreign paths.
//!
//! Must not know: layers, lengths.

use super::mask::{in_tests, words};
use super::{File, Problem};

/// Pure cores: time is an argument there.
const PURE: [&str; 12] = [
    "lb-common/src/",
    "lb-user/src/config",
    "lb-user/src/health/fsm",
    "lb-user/src/health/report",
    "lb-user/src/model",
    "lb-user/src/notify/message",
    "lb-user/src/notify/outbox",
    "lb-user/src/notify/queue",
    "lb-user/src/plan",
    "lb-user/src/sched",
    "lb-user/src/track/judge",
    "lb-user/src/vrrp",
];

/// Ways to read a clock.
const CLOCKS: [&str; 4] = ["Instant::now", "SystemTime::now", "tokio::time", ".elapsed()"];

/// Places where `unsafe` is the purpose of the code.
const UNSAFE: [&str; 7] = [
    "lb-ebpf/src/",
    "lb-common/src/pod.rs",
    "lb-common/src/pod/",
    "lb-user/src/dataplane/bpf",
    "lb-user/src/speaker/process.rs",
    "lb-user/src/speaker/socket.rs",
    "tests/harness/",
];

/// Lint groups and lints that no file may switch off as a whole.
const BLANKET: [&str; 6] =
    ["warnings", "unused", "dead_code", "clippy::all", "clippy::pedantic", "missing_docs"];

/// Folders of one machine that have no place in a repository, in two halves each, so that this
/// file passes.
const FOREIGN: [(&str, &str); 2] = [("/wo", "rk/"), ("/ro", "ot/")];

/// Pure cores read no clock; their unit tests may, since that is the only way to get an `Instant`.
pub(super) fn clocks(file: &File, problems: &mut Vec<Problem>) {
    let pure = PURE.iter().any(|core| file.path.starts_with(core));
    if !pure || file.path.contains("/tests") {
        return;
    }
    for clock in CLOCKS {
        // A method has no word edge before its dot.
        let places: Vec<usize> = match clock.starts_with('.') {
            true => file.code.match_indices(clock).map(|(at, _)| at).collect(),
            false => words(&file.code, clock).collect(),
        };
        for at in places.into_iter().filter(|at| !in_tests(&file.code, *at)) {
            problems.push(file.problem(
                at,
                format!("a pure core reads a clock: `{clock}`; take the time as an argument"),
            ));
        }
    }
}

/// No test is switched off, nothing is left to do, no lint is silenced for a whole file.
pub(super) fn unfinished(file: &File, problems: &mut Vec<Problem>) {
    let compact =
        |at: usize| file.code[at..].split(']').next().unwrap_or_default().replace([' ', '\n'], "");
    for (at, _) in file.code.match_indices("#[") {
        let attribute = compact(at);
        if attribute == "#[ignore"
            || attribute.starts_with("#[ignore=")
            || attribute.ends_with(",ignore)")
        {
            problems.push(file.problem(at, "a test is ignored: make it pass, or remove it"));
        }
    }
    for (at, _) in file.code.match_indices("#![") {
        let attribute = compact(at);
        let Some(lints) =
            attribute.strip_prefix("#![allow(").and_then(|rest| rest.strip_suffix(')'))
        else {
            continue;
        };
        for lint in lints.split(',').filter(|lint| BLANKET.contains(lint)) {
            problems.push(file.problem(
                at,
                format!(
                    "`{lint}` is allowed for the whole file: allow it at the item, with a reason"
                ),
            ));
        }
    }
    for name in ["todo!", "unimplemented!"] {
        for at in words(&file.code, name) {
            problems.push(file.problem(at, format!("`{name}` is left in the code")));
        }
    }
}

/// `unsafe` stands only where it is the purpose; in the lab each use says why it is sound.
pub(super) fn unsafe_code(file: &File, problems: &mut Vec<Problem>) {
    let permitted = UNSAFE.iter().any(|place| file.path.starts_with(place));
    for at in words(&file.code, "unsafe") {
        let rest = file.code[at..].split(['{', ';']).next().unwrap_or_default();
        // The promise that a type is plain data belongs beside the type.
        let plain_data = file.path.starts_with("lb-common/")
            && rest.starts_with("unsafe impl")
            && rest.contains("Pod for ");
        if !permitted && !plain_data {
            problems.push(file.problem(at, "`unsafe` outside the modules that may hold it"));
        } else if file.path.starts_with("tests/") && !has_safety_comment(file, at) {
            problems.push(file.problem(at, "`unsafe` without a `// SAFETY:` comment above it"));
        }
    }
}

/// Whether one of the few lines up to the one of `at` says why it is sound.
fn has_safety_comment(file: &File, at: usize) -> bool {
    let line = file.line(at);
    let near = file.text.lines().take(line).skip(line.saturating_sub(8));
    near.map(str::trim).any(|line| line.contains("SAFETY:") || line.starts_with("/// # Safety"))
}

/// No path of one machine stands in the repository.
pub(super) fn foreign_paths(file: &File, problems: &mut Vec<Problem>) {
    for (start, end) in FOREIGN {
        let path = format!("{start}{end}");
        for (at, _) in file.text.match_indices(&path) {
            // Not the middle of a longer path, such as a URL or a folder of the repository.
            let before = file.text[..at].bytes().last();
            if before.is_none_or(|byte| !byte.is_ascii_alphanumeric() && !b"-_.".contains(&byte)) {
                problems.push(file.problem(at, format!("`{path}` is a path of one machine")));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check as check_files;
    use super::super::tests::said;
    use super::*;

    #[track_caller]
    fn check(path: &str, body: &str, expected: &[&str]) {
        let said = said(path, body);
        assert_eq!(said.len(), expected.len(), "{said:?}");
        for (said, expected) in said.iter().zip(expected) {
            assert!(said.contains(expected), "{said} does not hold {expected}");
        }
    }

    #[test]
    fn a_clock_in_a_pure_core_is_reported_and_in_a_shell_not() {
        let body = "fn f() { let t = std::time::Instant::now(); t.elapsed(); }\n";
        check("lb-user/src/sched/ring.rs", body, &["`Instant::now`", "`.elapsed()`"]);
        check("lb-user/src/health/runner.rs", body, &[]);
        check(
            "lb-user/src/health/fsm.rs",
            "use tokio::time::sleep;\n",
            &["4: a pure core reads a clock: `tokio::time`"],
        );
    }

    #[test]
    fn tests_of_a_pure_core_may_make_an_instant() {
        check("lb-user/src/plan/mod.rs", "mod tests { fn f() { Instant::now(); } }\n", &[]);
    }

    #[test]
    fn an_ignored_test_is_reported() {
        check("tests/lab/a.rs", "#[test]\n#[ignore]\nfn f() {}\n", &["5: a test is ignored"]);
        check("tests/lab/a.rs", "#[ignore = \"slow\"]\nfn f() {}\n", &["4: a test is ignored"]);
    }

    #[test]
    fn unfinished_code_is_reported() {
        check(
            "xtask/src/x.rs",
            "fn f() { todo!() }\nfn g() { unimplemented!(\"x\") }\n",
            &["`todo!`", "`unimplemented!`"],
        );
    }

    #[test]
    fn a_blanket_allow_is_reported_and_a_narrow_one_not() {
        check("xtask/src/x.rs", "#![allow(clippy::all, unused)]\n", &["`clippy::all`", "`unused`"]);
        check(
            "xtask/src/x.rs",
            "#![allow(internal_features)]\n#[allow(dead_code)]\nfn f() {}\n",
            &[],
        );
    }

    #[test]
    fn unsafe_is_reported_outside_its_places() {
        let body = "fn f() { unsafe { g() } }\n";
        check("lb-user/src/plan/mod.rs", body, &["4: `unsafe` outside"]);
        check("lb-common/src/hash.rs", body, &["4: `unsafe` outside"]);
        check("lb-user/src/dataplane/bpf.rs", body, &[]);
        check("lb-user/src/dataplane/bpf/maps.rs", body, &[]);
        check("lb-ebpf/src/main.rs", body, &[]);
        check("lb-common/src/conn.rs", "unsafe impl<K> pod::Pod for Entry<K> {}\n", &[]);
        check("lb-user/src/plan/mod.rs", "#![deny(unsafe_code)]\n", &[]);
    }

    #[test]
    fn unsafe_in_the_lab_says_why() {
        check("tests/harness/ns.rs", "fn f() { unsafe { g() } }\n", &["without a `// SAFETY:`"]);
        check(
            "tests/harness/ns.rs",
            "fn f() {\n    // SAFETY: no pointers.\n    unsafe { g() }\n}\n",
            &[],
        );
    }

    #[test]
    fn paths_of_one_machine_are_reported_in_every_file() {
        let text =
            ["see /wo", "rk/x and /ro", "ot/y, not https://a.b/docs/wo", "rk/ here\n"].concat();
        let problems = check_files(&[File::new("docs/a.md", text)]);
        assert_eq!(problems.len(), 2, "{problems:?}");
    }
}
