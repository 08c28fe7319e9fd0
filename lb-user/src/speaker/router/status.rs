//! What a virtual router tells of itself.
//!
//! Must not know: who reads it.

use std::time::SystemTime;

use crate::speaker::protocol::{Reason, Status};
use crate::speaker::router::Router;
use crate::vrrp::fsm::Instance;
use crate::vrrp::priority::Part;

impl Router {
    /// Everything about it.
    pub(in crate::speaker) fn status(&self, instance: &Instance) -> Status {
        let reasons = self.effective.reasons.iter().map(|reason| Reason {
            name: reason.name.clone(),
            part: match reason.part {
                Part::Adds(weight) => format!("{weight:+}"),
                Part::Fault => "fault".to_owned(),
                Part::Pending => "pending".to_owned(),
            },
        });
        Status {
            name: self.config.name.clone(),
            state: instance.state().name().to_owned(),
            priority: self.config.priority,
            effective_priority: instance.priority(),
            reasons: reasons.collect(),
            master: instance.master(),
            source: self.position.map(|position| position.source),
            held: self.held.iter().map(|place| place.address).collect(),
            contested: self.contest.contested().map(|(address, _)| address).collect(),
            filtered: self.filtered,
            counters: self.counters.clone(),
            transitions: self.transitions.clone(),
        }
    }

    /// Follows how many adverts came through the filters of this host since the last call.
    pub(in crate::speaker) fn look_for_filters(&mut self, through: u64) {
        let heard = std::mem::take(&mut self.heard);
        self.unheard = if through > 0 { 0 } else { self.unheard.saturating_add(heard) };
        let filtered = self.unheard >= DEAF_AFTER;
        if filtered && !self.filtered {
            tracing::warn!(
                instance = %self.config.name, interface = %self.config.interface,
                "a packet filter of this host drops VRRP (protocol 112); adverts are heard \
                 nevertheless, but other programs do not hear them"
            );
        }
        self.filtered = filtered;
    }

    /// The interface and the family of its group.
    pub(in crate::speaker) fn group(&self) -> Option<(u32, bool)> {
        self.position.map(|position| (position.ifindex, self.v4))
    }
}

/// Adverts that the packet socket alone heard, after which a filter must be in the way.
const DEAF_AFTER: u64 = 3;

/// Now, for people.
pub(super) fn unix_millis() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}
