//! When a master announces its addresses (gratuitous ARP, unsolicited neighbour advertisements).
//!
//! keepalived's schedule: a block at once, a second one after `delay` for switches and hosts that
//! were not ready for the first, and single ones every `refresh` for those that forget.
//!
//! Must not know: states, packets, addresses.

use std::time::{Duration, Instant};

use crate::vrrp::fsm::Output;

/// The `garp` settings of an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gratuitous {
    /// Announcements of each address in a block (keepalived `garp_master_repeat`, 5).
    pub count: u32,
    /// From the first block to the second (`garp_master_delay`, 5 s); 0 is no second block.
    pub delay: Duration,
    /// Between later announcements (`garp_master_refresh`); 0 is none.
    pub refresh: Duration,
}

/// What a block of announcements is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Round {
    /// The addresses are new here.
    First,
    /// The same once more after the delay.
    Second,
    /// Hosts forget.
    Refresh,
    /// Another router may have announced them.
    Answer,
}

impl Gratuitous {
    /// The output of one round, if it has announcements.
    pub(super) fn output(self, round: Round) -> Option<Output> {
        let count = if round == Round::Refresh { self.count.min(1) } else { self.count };
        (count > 0).then_some(Output::SendGratuitous { round, count })
    }
}

/// The announcements that are still to come.
#[derive(Clone, Debug)]
pub(super) struct Schedule {
    second_at: Option<Instant>,
    refresh_at: Option<Instant>,
}

impl Schedule {
    /// After a first block at `now`.
    pub(super) fn new(now: Instant, settings: Gratuitous) -> Self {
        let second_at = positive(settings.delay).map(|delay| now + delay);
        let refresh_at = positive(settings.refresh).map(|refresh| now + settings.delay + refresh);
        Self { second_at, refresh_at }
    }

    /// After an unplanned block at `now`: its second one follows, refreshing goes on.
    pub(super) fn repeat(&mut self, now: Instant, settings: Gratuitous) {
        self.second_at = Self::new(now, settings).second_at;
    }

    /// With other settings: no block is repeated for them.
    pub(super) fn configure(&mut self, now: Instant, settings: Gratuitous) {
        let second = positive(settings.delay).map(|delay| now + delay);
        self.second_at = self.second_at.and_then(|at| second.map(|second| at.min(second)));
        self.refresh_at = positive(settings.refresh).map(|refresh| now + refresh);
    }

    /// When the next block is due.
    pub(super) fn next(&self) -> Option<Instant> {
        match (self.second_at, self.refresh_at) {
            (Some(second), Some(refresh)) => Some(second.min(refresh)),
            (second, refresh) => second.or(refresh),
        }
    }

    /// The blocks that are due at `now`.
    pub(super) fn due(&mut self, now: Instant, settings: Gratuitous, out: &mut Vec<Output>) {
        if self.second_at.is_some_and(|at| at <= now) {
            self.second_at = None;
            out.extend(settings.output(Round::Second));
        }
        if self.refresh_at.is_some_and(|at| at <= now) {
            self.refresh_at = positive(settings.refresh).map(|refresh| now + refresh);
            out.extend(settings.output(Round::Refresh));
        }
    }
}

fn positive(duration: Duration) -> Option<Duration> {
    (!duration.is_zero()).then_some(duration)
}
