//! Ctrl-C without leaving anything behind: the first SIGINT or SIGTERM only sets a flag.
//!
//! The demo calls [`catch`] at its start; every wait in the harness asks [`check`] and ends with
//! an error, so that destructors remove the lab. A second signal ends the process at once.
//!
//! Must not know: what is running.
#![allow(unsafe_code)]

use anyhow::{Context, Result, bail};
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal, sigaction};
use std::sync::atomic::{AtomicBool, Ordering};

/// From now on SIGINT and SIGTERM ask for a clean end.
///
/// # Errors
/// When the handler cannot be installed.
pub fn catch() -> Result<()> {
    let flags = SaFlags::SA_RESTART | SaFlags::SA_RESETHAND;
    let action = SigAction::new(SigHandler::Handler(remember), flags, SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM] {
        // SAFETY: the handler only stores into an atomic, which is async-signal-safe.
        unsafe { sigaction(signal, &action) }.with_context(|| format!("catch {signal}"))?;
    }
    Ok(())
}

/// Fails once a signal has asked for the end.
///
/// # Errors
/// When the run was interrupted.
pub fn check() -> Result<()> {
    if INTERRUPTED.load(Ordering::Relaxed) {
        bail!("interrupted");
    }
    Ok(())
}

extern "C" fn remember(_signal: i32) {
    INTERRUPTED.store(true, Ordering::Relaxed);
}

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
