//! `lb real-server` on the lab's real servers, and on whoever else a scenario makes one.
//!
//! Each namespace has a state directory of its own in the lab's folder, so nothing outlives it.
//!
//! Must not know: what the command does.

use crate::labdir::LabDir;
use crate::netns::Netns;
use crate::process::run;
use crate::programs;
use anyhow::{Context, Result};
use std::process::Output;

/// Runs `lb real-server ARGS` in a namespace; a bad exit code is for the caller.
///
/// # Errors
/// When the binary is missing or cannot be started.
pub fn command(dir: &LabDir, ns: &Netns, args: &[&str]) -> Result<Output> {
    let state = dir.path().join(format!("{}-real-server", ns.name()));
    let mut command = ns.command(programs::lb()?);
    command.arg("real-server").args(args).arg("--state-dir").arg(state);
    command.output().with_context(|| format!("start lb real-server {}", args.join(" ")))
}

/// Makes a namespace a real server of `vip`; gives the lines that were said.
///
/// # Errors
/// When the command fails.
pub fn setup(dir: &LabDir, ns: &Netns, vip: &str, method: &str) -> Result<Vec<String>> {
    lines(dir, ns, &["setup", "--vip", vip, "--method", method])
}

/// Undoes it; gives the lines that were said.
///
/// # Errors
/// When the command fails.
pub fn undo(dir: &LabDir, ns: &Netns, vip: &str) -> Result<Vec<String>> {
    lines(dir, ns, &["undo", "--vip", vip])
}

/// What remembers the setups in a namespace: names of files, none when nothing is set up.
///
/// # Errors
/// When the directory cannot be read.
pub fn remembered(dir: &LabDir, ns: &Netns) -> Result<Vec<String>> {
    let state = dir.path().join(format!("{}-real-server", ns.name()));
    let entries = std::fs::read_dir(&state).with_context(|| format!("read {}", state.display()))?;
    entries.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

fn lines(dir: &LabDir, ns: &Netns, args: &[&str]) -> Result<Vec<String>> {
    let output = command(dir, ns, args)?;
    anyhow::ensure!(
        output.status.success(),
        "lb real-server {} in {}: {}",
        args.join(" "),
        ns.name(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(String::from_utf8_lossy(&output.stdout).lines().map(String::from).collect())
}

/// Settings and addresses that a setup may change, one a line, and whether XDP is on `lan0`.
///
/// # Errors
/// When one cannot be read.
pub fn settings(ns: &Netns) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for name in ["arp_ignore", "arp_announce", "rp_filter"] {
        let pattern = format!(r"^net\.ipv4\.conf\..*\.{name}$");
        let said = run(ns.command("sysctl").args(["-a", "--pattern", &pattern]))?;
        found.extend(said.lines().map(String::from));
    }
    let addresses = ns.run("ip -oneline address show dev lo")?;
    found.extend(addresses.lines().map(String::from));
    let xdp = ns.run("ip link show")?;
    found.extend(xdp.lines().filter(|line| line.contains("xdp")).map(String::from));
    Ok(found)
}
