//! The commands of the repository: `cargo xtask COMMAND`.
//!
//! This file reads the command line and calls the module of the command; `help` lists them.
//! Each command first sees to it that the tools it needs are there (`setup`).
//!
//! Must not know: how a command does its work, anything of the product's crates.

use std::process::ExitCode;

use anyhow::{Result, bail};

mod bpf;
mod build;
mod ci;
mod setup;
mod sim;
mod sys;
mod test;
mod tidy;

fn main() -> ExitCode {
    match run(std::env::args().skip(1).collect()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Runs the command that `args` name.
fn run(mut args: Vec<String>) -> Result<()> {
    let own = args.iter().position(|arg| arg == "--").unwrap_or(args.len());
    let no_install = args[..own].iter().position(|arg| arg == "--no-install");
    if let Some(at) = no_install {
        args.remove(at);
    }
    let install = if no_install.is_some() { setup::Install::Refuse } else { setup::Install::Allow };
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    sys::enter_workspace()?;
    match args.as_slice() {
        ["setup"] => setup::run(&[setup::BUILD, setup::LAB], install),
        ["build"] => build::build(install),
        ["demo", rest @ ..] => build::demo(install, rest),
        ["bench", "packet", rest @ ..] => build::bench_packet(install, rest),
        ["bench", "failover", rest @ ..] => build::bench_failover(install, rest),
        ["sim", "vrrp", rest @ ..] => sim::vrrp(install, rest),
        ["test", "--pure", rest @ ..] => test::pure(install, rest),
        ["test", rest @ ..] => test::all(install, rest),
        ["tidy"] => tidy::run(),
        ["ci"] => ci::run(install),
        [] | ["help" | "--help" | "-h", ..] => {
            println!("{HELP}");
            Ok(())
        }
        other => bail!("`{}` is no command; `cargo xtask help` lists them", other.join(" ")),
    }
}

const HELP: &str = "\
Usage: cargo xtask COMMAND [--no-install]

  setup           finds or installs everything that the other commands need
  build           builds target/release/lb
  demo            builds, then shows a director at work in network namespaces (root)
  test [ARGS]     all tests; ARGS go to `cargo test` (root)
  test --pure     the tests that need no root; names those that it leaves out
  sim vrrp [--seeds N | --seed S]
                  three simulated routers with loss, delays and crashes; S is traced
  tidy            checks the layers, file heads, lengths and other rules of the sources
  ci              formatting, lints, tidy, docs, dependencies, then all tests (root)
  bench packet    cost per packet of the XDP program beside two floors of the same run (root)
  bench failover  how long a client is without an answer when a master goes, beside keepalived (root)
  help            this text

Missing system packages are installed with apt-get, saying which and why. With --no-install
nothing is installed: what is missing is named, with the command that installs it.

Variables: LB_BPF_CARGO, LB_BPF_RUSTC (compiler for the BPF target, with library sources),
LB_BPF_LINKER (bpf-linker).";
