//! Probes: each asks one target once and says what it found, within a deadline.
//!
//! [`run`] chooses by the check's kind. A probe never fails: what goes wrong is its result.
//!
//! Must not know: thresholds, states, weights, who asked.

mod tcp;

use crate::health::report::{ProbeResult, Target};
use crate::model::CheckKind;

pub use tcp::tcp;

/// Probes a target once.
pub async fn run(target: &Target) -> ProbeResult {
    match target.check.kind {
        CheckKind::Tcp => tcp(target.address, target.check.timeout).await,
    }
}
