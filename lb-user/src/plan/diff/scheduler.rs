//! What a scheduler makes of a service's entry and of its tables.
//!
//! Must not know: regions, indices that stay, health.

use lb_common::service::{
    SCHEDULER_HASH, SCHEDULER_LC, SCHEDULER_RING, SCHEDULER_WLC, SERVICE_HASH_FALLBACK,
    SERVICE_HASH_PORT,
};

use crate::model::Scheduler;
use crate::plan::WantedServer;
use crate::sched::{maglev, ring};

/// A scheduler as the program has it.
pub(super) fn id(scheduler: Scheduler) -> u32 {
    match scheduler {
        Scheduler::Rr | Scheduler::Wrr => SCHEDULER_RING,
        Scheduler::Lc => SCHEDULER_LC,
        Scheduler::Wlc => SCHEDULER_WLC,
        Scheduler::Sh | Scheduler::Mh => SCHEDULER_HASH,
    }
}

/// Flags that follow from the scheduler. Where hashing is only the stateless fallback, ports spread
/// the flows and no flow is lost to a server that takes none.
pub(super) fn flags(scheduler: Scheduler) -> u32 {
    if scheduler.hashes() { 0 } else { SERVICE_HASH_PORT | SERVICE_HASH_FALLBACK }
}

/// A server's weight in the service's tables; `None` is no place there.
///
/// rr and wrr have turns for those that take connections. lc and wlc compare weights when they
/// choose, so that a weight is one write: their tables hold each server alike, whatever its weight.
/// sh and mh keep a quiet server's place, so that its flows find it and nobody else's move.
pub(super) fn share(scheduler: Scheduler, server: &WantedServer) -> Option<u32> {
    let share = match scheduler {
        Scheduler::Rr | Scheduler::Wrr => Some(server.weight),
        Scheduler::Lc | Scheduler::Wlc => server.place.map(|_| 1),
        Scheduler::Sh | Scheduler::Mh => server.place,
    };
    share.filter(|weight| *weight > 0)
}

/// What its Maglev table is for.
pub(super) fn purpose(scheduler: Scheduler) -> maglev::Use {
    if scheduler.hashes() { maglev::Use::Scheduler } else { maglev::Use::Fallback }
}

/// What the scheduler chooses from, of `(index, weight)` pairs; empty when it hashes.
pub(super) fn table(scheduler: Scheduler, weights: &[(u32, u32)]) -> Vec<u32> {
    match scheduler {
        Scheduler::Rr => ring::build(weights, ring::Kind::Rr),
        Scheduler::Wrr => ring::build(weights, ring::Kind::Wrr),
        Scheduler::Lc | Scheduler::Wlc => weights.iter().map(|(index, _)| *index).collect(),
        Scheduler::Sh | Scheduler::Mh => Vec::new(),
    }
}
