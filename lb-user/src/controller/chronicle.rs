//! The last things that happened, for people: a bounded list of events.
//!
//! Must not know: who reads it, what is done about an event.

use std::collections::VecDeque;
use std::time::SystemTime;

use crate::controller::document::{Event, Events};

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum EventKind {
    /// A real server.
    RealServer,
    /// A virtual service's quorum.
    VirtualService,
    /// A VRRP instance or group.
    Vrrp,
    /// The configuration.
    Config,
}

impl EventKind {
    fn name(self) -> &'static str {
        match self {
            Self::RealServer => "real_server",
            Self::VirtualService => "virtual_service",
            Self::Vrrp => "vrrp",
            Self::Config => "config",
        }
    }
}

/// The last events, oldest first.
#[derive(Debug, Default)]
pub struct Chronicle {
    events: VecDeque<Event>,
}

impl Chronicle {
    /// Adds an event that happens now; the oldest makes room.
    pub fn add(&mut self, kind: EventKind, name: &str, state: &str, reason: &str) {
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(Event {
            time: humantime::format_rfc3339_millis(SystemTime::now()).to_string(),
            kind: kind.name().to_owned(),
            name: name.to_owned(),
            state: state.to_owned(),
            reason: reason.to_owned(),
        });
    }

    /// All of them.
    pub fn document(&self) -> Events {
        Events { events: self.events.iter().cloned().collect() }
    }
}

/// Events that are kept.
const MAX_EVENTS: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_event_makes_room() {
        let mut chronicle = Chronicle::default();
        for n in 0..=MAX_EVENTS {
            chronicle.add(EventKind::Config, &n.to_string(), "", "");
        }
        let events = chronicle.document().events;
        assert_eq!((events.len(), events[0].name.as_str()), (MAX_EVENTS, "1"));
    }
}
