//! Runs the tests and counts them.
//!
//! cargo's output is passed on as it comes; the last line is `N passed, N failed, N skipped`.
//! A test that was left out is listed again at the end, with its reason.
//!
//! Must not know: what is tested, or how the lab works.

use anyhow::{Result, bail};

use crate::build;
use crate::setup::{self, Install};
use crate::sys::{self, Cmd, step};

/// What the test programs reported.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Tests that held.
    pub(crate) passed: u32,
    /// Tests that did not.
    pub(crate) failed: u32,
    /// Tests that were left out.
    pub(crate) skipped: u32,
    /// Names and reasons of those that were left out; the reason may be empty.
    pub(crate) left_out: Vec<(String, String)>,
}

/// `cargo xtask test`: everything; the lab drives the release binary.
pub(crate) fn all(install: Install, args: &[&str]) -> Result<()> {
    judge(&run_all(install, args)?)
}

/// Unit tests that only root can run, by the beginning of their names, and why.
const OF_ROOT: &[(&str, &str)] = &[
    ("exec::tests::", "they run commands as other users"),
    ("firewall::tests::there_is_always_something_to_say", "it runs commands as another user"),
    ("health::probe::ping::tests::a_request_that_is_given_up", "it opens raw sockets"),
    ("health::probe::ping::tests::five_hundred_hosts", "it opens raw sockets"),
    ("health::probe::ping::tests::this_host_answers", "it opens raw sockets"),
    ("netlink::tests::", "they make interfaces"),
    ("notify::tests::", "they run commands as other users"),
    ("track::tracker::tests::", "they run commands as other users"),
];

/// `cargo xtask test --pure`: tests that need neither root nor a network.
pub(crate) fn pure(install: Install, args: &[&str]) -> Result<()> {
    setup::run(&[setup::BUILD], install)?;
    let packages = ["--package", "lb-common", "--package", "lb-user", "--package", "xtask"];
    let args = without(OF_ROOT, args);
    let counts =
        cargo_test(Cmd::cargo().args(["test", "--no-fail-fast"]).args(packages).args(args))?;
    for (names, why) in OF_ROOT {
        println!("left out: {names}*: {why}; `cargo xtask test` runs them as root");
    }
    judge(&counts)
}

/// The arguments for `cargo test` with those that leave tests out.
fn without<'a>(left_out: &'a [(&str, &str)], args: &[&'a str]) -> Vec<&'a str> {
    let own = args.iter().position(|arg| *arg == "--").unwrap_or(args.len());
    let (cargos, programs) = args.split_at(own);
    let skips = left_out.iter().flat_map(|(names, _)| ["--skip", names]);
    let programs = programs.iter().skip(1).copied();
    cargos.iter().copied().chain(["--"]).chain(skips).chain(programs).collect()
}

/// Builds the release binary and runs all tests of the workspace.
pub(crate) fn run_all(install: Install, args: &[&str]) -> Result<Counts> {
    sys::need_root(
        "the lab makes network namespaces and loads XDP programs; `test --pure` needs none",
    )?;
    setup::run(&[setup::BUILD, setup::LAB], install)?;
    let lb = build::release(&["--package", "lb-user", "--package", "lb-tests", "--bins"])?;
    let all = ["test", "--workspace", "--exclude", "lb-ebpf", "--no-fail-fast"];
    cargo_test(Cmd::cargo().args(all).args(args).env("LB_BIN", lb))
}

fn cargo_test(command: Cmd) -> Result<Counts> {
    let mut counts = Counts::default();
    let success = step("run the tests", || {
        command.stream(|line| {
            println!("{line}");
            counts.read(line);
        })
    })?;
    if !success && counts.failed == 0 {
        // It did not compile, or a test program ended without a report.
        counts.failed = 1;
    }
    Ok(counts)
}

/// Prints the counts and fails if a test did.
fn judge(counts: &Counts) -> Result<()> {
    counts.print_left_out();
    println!("{counts}");
    if counts.failed > 0 {
        bail!("tests failed; see above");
    }
    Ok(())
}

impl Counts {
    /// Takes in one line of a test program's output.
    pub(crate) fn read(&mut self, line: &str) {
        if let Some(result) = line.strip_prefix("test result: ") {
            let number = |what: &str| {
                let fields = result.split(['.', ';']).map(str::trim);
                fields
                    .filter_map(|field| field.strip_suffix(what))
                    .find_map(|n| n.trim().parse::<u32>().ok())
            };
            self.passed += number(" passed").unwrap_or(0);
            self.failed += number(" failed").unwrap_or(0);
            self.skipped += number(" ignored").unwrap_or(0);
        } else if let Some((name, rest)) =
            line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ignored"))
        {
            let reason = rest.trim_start_matches([',', ' ']);
            self.left_out.push((name.into(), reason.into()));
        }
    }

    /// Lists the tests that were left out.
    pub(crate) fn print_left_out(&self) {
        for (name, reason) in &self.left_out {
            println!(
                "skipped: {name}: {}",
                if reason.is_empty() { "no reason given" } else { reason }
            );
        }
    }

    /// Whether a test was left out without a reason.
    pub(crate) fn silently_skipped(&self) -> bool {
        let explained = self.left_out.iter().filter(|(_, reason)| !reason.is_empty()).count();
        explained < self.skipped as usize
    }
}

impl std::fmt::Display for Counts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} passed, {} failed, {} skipped", self.passed, self.failed, self.skipped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(output: &str) -> Counts {
        let mut counts = Counts::default();
        output.lines().for_each(|line| counts.read(line));
        counts
    }

    #[test]
    fn results_of_several_programs_are_added() {
        let counts = counts(
            "test a ... ok\n\
             test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 7 filtered out; finished in 0.00s\n\
             test b ... ignored, takes an hour\n\
             test result: ok. 2 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s",
        );
        assert_eq!(counts.to_string(), "5 passed, 1 failed, 1 skipped");
        assert_eq!(counts.left_out, [("b".into(), "takes an hour".into())]);
        assert!(!counts.silently_skipped());
    }

    #[test]
    fn what_is_left_out_stands_behind_what_was_given() {
        let left_out = [("a::", "root"), ("b::", "root")];
        let skips = "-- --skip a:: --skip b::";
        assert_eq!(without(&left_out, &[]).join(" "), skips);
        let given = ["--lib", "x", "--", "--test-threads", "1"];
        let expected = format!("--lib x {skips} --test-threads 1");
        assert_eq!(without(&left_out, &given).join(" "), expected);
    }

    #[test]
    fn a_skip_without_reason_is_seen() {
        let counts = counts(
            "test b ... ignored\ntest result: ok. 0 passed; 0 failed; 1 ignored; 0 measured",
        );
        assert!(counts.silently_skipped());
    }
}
