//! What keepalived's users run into: keys that are allowed and do not do what they look like.
//!
//! Must not know: what is wrong, other instances.

use super::super::super::raw::{self, At};
use super::Context;
use crate::model::InitialState;
use crate::vrrp::priority::OWNER;

/// What is allowed and does not do what it looks like.
pub(super) fn judge(context: &Context<'_>, raw: &raw::Instance) {
    let problems = context.problems;
    let weights = context.weights(&raw.track);
    let shown = |(kind, name, weight): &(&str, &str, i16)| format!("{kind} {name} ({weight:+})");
    let list = weights.iter().map(shown).collect::<Vec<_>>().join(", ");
    let owner = raw.priority.at().filter(|at| at.value == OWNER);
    if let Some(At { value: false, place }) = raw.preempt.at() {
        if owner.is_some() {
            problems.warning(place, "has no effect: priority 255 always takes over");
        } else if raw.initial_state.at().is_some_and(|at| at.value == InitialState::Master) {
            let message = "`initial_state: master` does nothing here: without preemption the node waits \
                           as backup, and a master of lower priority stays";
            problems.warning(place, message);
        }
        if !weights.is_empty() && owner.is_none() {
            let message = format!(
                "without preemption this node does not take over while the other one lives, however \
                 weights move the priorities ({list}); give weight 0, which makes a fault"
            );
            problems.warning(place, message);
        }
        if let Some(delay) = raw.preempt_delay.at().filter(|at| !at.value.is_zero()) {
            problems.warning(&delay.place, "has no effect without preemption");
        }
    } else if let Some(delay) = raw.preempt_delay.at().filter(|at| !at.value.is_zero())
        && !weights.is_empty()
    {
        let message = format!(
            "also puts off a fail-over that weights ask for ({list}) while the other node lives; \
             give weight 0, which makes a fault"
        );
        problems.warning(&delay.place, message);
    }
    if let (Some(at), false) = (owner, weights.is_empty()) {
        let message = format!("priority 255 does not change, so weights never count: {list}");
        problems.warning(&at.place, message);
    }
}
