//! Health checks: one truth about every target, for every plane.
//!
//! [`Runner::set_targets`] is told which targets are wanted; it keeps one task for each distinct
//! [`Target`] (address and check), so services that share one share its probes. A task asks its
//! [`fsm::Machine`] when to probe, probes, and sends a [`Report`] with the result, the state and,
//! when the state changed, the [`HealthEvent`]. What a state means for traffic is the controller's.
//!
//! Must not know: weights, services, BPF, the configuration file.

pub mod fsm;
pub mod probe;
mod report;
mod runner;

pub use fsm::{HealthEvent, HealthState, Machine};
pub use report::{CheckStatus, Outcome, ProbeResult, Report, Target};
pub use runner::{Changes, Runner, Wanted};
