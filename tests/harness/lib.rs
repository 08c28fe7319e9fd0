//! The lab: network namespaces, peers and the real `lb` binary.
//!
//! [`scenario`] builds a lab of a given [`Shape`], runs a closure in it, prints the daemon's logs
//! when the closure fails, and removes everything. Inside, a scenario starts servers and clients
//! ([`peer`]), writes a [`config::Config`], starts a [`daemon::Daemon`] and looks at what arrives.
//!
//! Must not know: lb-user's internals. The lab drives the binary, the YAML file, the admin socket
//! and bpftool, as an operator does.

pub mod answers;
pub mod bpf;
pub mod browser;
pub mod config;
pub mod counters;
pub mod daemon;
pub mod encapsulator;
mod fabric;
pub mod frame;
pub mod interrupt;
pub mod labdir;
pub mod netns;
pub mod pair;
pub mod peer;
pub mod probe;
pub mod process;
pub mod programs;
pub mod real_server;
pub mod snapshot;
pub mod stub;
pub mod topology;
pub mod vrrp;
pub mod wait;
pub mod web;

use anyhow::Result;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};

pub use topology::{Lab, Shape};

/// Runs `body` in a fresh lab and removes the lab, whatever happens.
///
/// # Panics
/// When the lab cannot be built or `body` fails; the daemon's logs are printed before.
pub fn scenario(shape: Shape, body: impl FnOnce(&Lab) -> Result<()>) {
    let lab = match Lab::new(shape) {
        Ok(lab) => lab,
        Err(error) => panic!("the lab could not be built: {error:#}"),
    };
    match catch_unwind(AssertUnwindSafe(|| body(&lab))) {
        Ok(Ok(())) => {}
        Ok(Err(error)) => {
            lab.print_logs();
            drop(lab);
            panic!("{error:#}");
        }
        Err(cause) => {
            lab.print_logs();
            drop(lab);
            resume_unwind(cause);
        }
    }
}
