//! Everything that must hold before a change is merged: `cargo xtask ci`.
//!
//! Every step runs, also after a failure, and a table at the end says how each one went.
//!
//! Must not know: how a rule is checked or a test run.

use std::env;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

use crate::bpf;
use crate::setup::{self, Install};
use crate::sys::{self, Cmd};
use crate::{test, tidy};

/// How a step went.
enum Outcome {
    /// What it checks holds; with a remark.
    Passed(String),
    /// It could not run for a reason that is nobody's fault here.
    Skipped(String),
    /// What it checks does not hold, with the reason.
    Failed(String),
}

/// A row of the final table.
struct Row {
    name: &'static str,
    took: Duration,
    outcome: Outcome,
}

/// `cargo xtask ci`.
pub(crate) fn run(install: Install) -> Result<()> {
    sys::need_root("it contains the tests of the lab")?;
    let mut rows = Vec::new();
    let mut step = |name: &'static str, run: &mut dyn FnMut() -> Result<Outcome>| {
        eprintln!("==> {name}");
        let start = Instant::now();
        let outcome = run().unwrap_or_else(|error| Outcome::Failed(format!("{error:#}")));
        if let Outcome::Failed(reason) = &outcome {
            eprintln!("error: {name}: {reason}");
        }
        rows.push(Row { name, took: start.elapsed(), outcome });
    };
    step("setup", &mut || {
        setup::run(&[setup::BUILD, setup::LAB, setup::LINT], install).map(passed)
    });
    step("fmt", &mut || cargo(&["fmt", "--all", "--", "--check"]));
    step("clippy", &mut || {
        cargo(&[
            "clippy",
            "--workspace",
            "--exclude",
            "lb-ebpf",
            "--all-targets",
            "--",
            "-D",
            "warnings",
        ])
    });
    step("clippy (bpf)", &mut clippy_bpf);
    step("tidy", &mut || tidy::run().map(passed));
    step("docs", &mut || {
        let args =
            ["doc", "--no-deps", "--workspace", "--exclude", "lb-ebpf", "--document-private-items"];
        Cmd::cargo().args(args).env("RUSTDOCFLAGS", "-Dwarnings").run().map(passed)
    });
    step("deny", &mut || deny(&["licenses", "bans", "sources"]));
    step("advisories", &mut advisories);
    step("machete", &mut || Cmd::new(setup::tool("cargo-machete")?).run().map(passed));
    step("test", &mut || tests(install));
    summary(&rows)
}

fn passed(_: ()) -> Outcome {
    Outcome::Passed(String::new())
}

fn cargo(args: &[&str]) -> Result<Outcome> {
    Cmd::cargo().args(args).run().map(passed)
}

/// Lints lb-ebpf with the compiler that builds it.
fn clippy_bpf() -> Result<Outcome> {
    let root = sys::root()?;
    let (Some(compiler), Some(linker)) = (bpf::compiler(), bpf::linker(&root)) else {
        bail!("no compiler or linker for the BPF target: run `cargo xtask setup`");
    };
    let command =
        compiler.cargo("clippy", &root, &linker, env::consts::ARCH, &root.join("target/bpf"));
    Cmd::from(command).args(["--", "-D", "warnings"]).run().map(passed)
}

fn deny(checks: &[&str]) -> Result<Outcome> {
    Cmd::new(setup::tool("cargo-deny")?)
        .args(["check", "--hide-inclusion-graph"])
        .args(checks)
        .run()
        .map(passed)
}

/// Known vulnerabilities. The database is on the network; without it the check is skipped aloud.
fn advisories() -> Result<Outcome> {
    let deny = setup::tool("cargo-deny")?;
    if let Err(error) = Cmd::new(&deny).args(["fetch", "db"]).capture() {
        let reason = error.to_string();
        let reason = reason.lines().rfind(|line| !line.trim().is_empty()).unwrap_or_default();
        return Ok(Outcome::Skipped(format!(
            "the advisory database cannot be fetched: {}",
            reason.trim()
        )));
    }
    Cmd::new(deny).args(["check", "--disable-fetch", "advisories"]).run().map(passed)
}

/// All tests; one that is left out without a reason is a failure here.
fn tests(install: Install) -> Result<Outcome> {
    let counts = test::run_all(install, &[])?;
    counts.print_left_out();
    let said = counts.to_string();
    let held = counts.failed == 0 && !counts.silently_skipped();
    Ok(if held { Outcome::Passed(said) } else { Outcome::Failed(said) })
}

/// Prints the table, then the tests' counts on a line of their own.
fn summary(rows: &[Row]) -> Result<()> {
    println!("\n{:<14} {:>9}  result", "step", "time");
    for Row { name, took, outcome } in rows {
        let (verdict, remark) = match outcome {
            Outcome::Passed(remark) => ("ok", remark),
            Outcome::Skipped(reason) => ("skipped", reason),
            Outcome::Failed(reason) => ("FAILED", reason),
        };
        println!("{name:<14} {:>9}  {verdict} {remark}", sys::seconds(*took));
    }
    if let Some(Row { outcome: Outcome::Passed(counts) | Outcome::Failed(counts), .. }) =
        rows.last()
    {
        println!("{counts}");
    }
    let failed: Vec<&str> = rows
        .iter()
        .filter(|row| matches!(row.outcome, Outcome::Failed(_)))
        .map(|row| row.name)
        .collect();
    if !failed.is_empty() {
        bail!("failed: {}", failed.join(", "));
    }
    Ok(())
}
