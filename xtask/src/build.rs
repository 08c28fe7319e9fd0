//! Building the product, and running what is built: the demo and the benchmark.
//!
//! Must not know: how the XDP programs are compiled (the build script of lb-user does it).

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

use crate::setup::{self, Install};
use crate::sys::{self, Cmd, step};

/// `cargo xtask build`.
pub(crate) fn build(install: Install) -> Result<()> {
    setup::run(&[setup::BUILD], install)?;
    println!("{}", release(&["--package", "lb-user"])?.display());
    Ok(())
}

/// `cargo xtask demo`.
pub(crate) fn demo(install: Install, args: &[&str]) -> Result<()> {
    sys::need_root("the demo makes network namespaces and loads XDP programs")?;
    run_lab_program("lb-demo", install, args)
}

/// `cargo xtask bench packet`.
pub(crate) fn bench_packet(install: Install, args: &[&str]) -> Result<()> {
    sys::need_root("the benchmark loads XDP programs")?;
    run_lab_program("lb-bench", install, &[&["packet"], args].concat())
}

/// `cargo xtask bench failover`.
pub(crate) fn bench_failover(install: Install, args: &[&str]) -> Result<()> {
    sys::need_root("the benchmark makes network namespaces")?;
    run_lab_program("lb-bench", install, &[&["failover"], args].concat())
}

/// Builds `lb` and a program of the lab, and becomes the latter.
fn run_lab_program(name: &str, install: Install, args: &[&str]) -> Result<()> {
    setup::run(&[setup::BUILD, setup::LAB], install)?;
    let lb = release(&["--package", "lb-user", "--package", "lb-tests", "--bins"])?;
    let program = lb.with_file_name(name);
    ensure!(has_program(name)? && program.exists(), "the package lb-tests has no program {name}");
    Err(Cmd::new(program).args(args).env("LB_BIN", lb).exec())
}

/// Whether the workspace declares a program of this name; a left-over file would not do.
fn has_program(name: &str) -> Result<bool> {
    let metadata =
        Cmd::cargo().args(["metadata", "--no-deps", "--format-version", "1"]).capture()?;
    Ok(metadata.contains(&format!("\"name\":\"{name}\"")))
}

/// Builds packages in release mode; returns the path of `lb`.
pub(crate) fn release(packages: &[&str]) -> Result<PathBuf> {
    step("build lb (release)", || {
        Cmd::cargo().args(["build", "--release"]).args(packages).run().context("lb does not build")
    })?;
    let lb = sys::root()?.join("target/release/lb");
    ensure!(lb.exists(), "cargo succeeded but {} is not there", lb.display());
    Ok(lb)
}
