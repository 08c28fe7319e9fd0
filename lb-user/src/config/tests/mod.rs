//! Tests of the whole way from text to director, against files.
//!
//! `vectors` compares complete outputs, `contract` walks `docs/lb.yaml`, `fuzz` mutates it,
//! `positions` are those of the reader alone, `vrrp` the meaning of its section.
//!
//! Must not know: private steps that have tests of their own beside them.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod contract;
mod fuzz;
mod positions;
mod vectors;
mod vrrp;

use std::path::PathBuf;

/// A path from the root of the repository.
fn repository(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}
