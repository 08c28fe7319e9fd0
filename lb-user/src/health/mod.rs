//! Health checks: one truth about every target, for every plane.
//!
//! [`Runner::set_targets`] is told which targets are wanted; it keeps one task for each distinct
//! [`Target`] (address and check), so services that share one share its probes. A task asks its
//! [`fsm::Machine`] when to probe, probes, writes what it found into the target's [`Observed`],
//! and sends a [`Change`] when the state changed: a thousand results a second wake nobody. What a
//! state means for traffic is the controller's.
//!
//! A new type of check is a variant of `model::CheckKind` and a file in [`probe`].
//!
//! Must not know: weights, services, BPF, the configuration file.

pub mod fsm;
pub mod probe;
pub(crate) mod report;
mod runner;
pub(crate) mod ways;

pub use fsm::{HealthEvent, HealthState, Machine};
pub use report::{Change, CheckStatus, Observation, Observed, Outcome, ProbeResult, Tally, Target};
pub use runner::{Changes, Runner, Wanted};
pub use ways::Ways;
