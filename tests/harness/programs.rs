//! Where the programs under test are: `lb` itself, and the lab's own tool.
//!
//! `LB_BIN` names the `lb` binary (`cargo xtask test` sets it); without it the release build of
//! this workspace is taken. The labtool lies beside the running test or demo.
//!
//! Must not know: what the programs do.

use anyhow::{Result, bail};
use std::path::{Path, PathBuf};

/// The `lb` binary under test.
///
/// # Errors
/// When there is none at the expected path.
pub fn lb() -> Result<PathBuf> {
    let path = match std::env::var_os("LB_BIN") {
        Some(path) => std::path::absolute(path)?,
        None => Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target/release/lb"),
    };
    if !path.is_file() {
        bail!("no lb binary at {}: run `cargo xtask build` or set LB_BIN", path.display());
    }
    Ok(path.canonicalize()?)
}

/// Prometheus's own tool, which `cargo xtask setup` puts among the workspace's tools.
///
/// # Errors
/// When it is neither there nor in `PATH`.
pub fn promtool() -> Result<PathBuf> {
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("target/tools/bin/promtool");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join("promtool"));
    match [own].into_iter().chain(found).find(|path| path.is_file()) {
        Some(path) => Ok(path),
        None => bail!("no promtool: run `cargo xtask setup`, or install prometheus"),
    }
}

/// The lab's own tool, `lb-labtool`.
///
/// # Errors
/// When it was not built beside the running program.
pub fn labtool() -> Result<PathBuf> {
    let this = std::env::current_exe()?;
    // A test runs in target/PROFILE/deps, a binary in target/PROFILE.
    for folder in this.ancestors().skip(1).take(2) {
        let path = folder.join("lb-labtool");
        if path.is_file() {
            return Ok(path);
        }
    }
    bail!("no lb-labtool beside {}: run `cargo build -p lb-tests`", this.display())
}
