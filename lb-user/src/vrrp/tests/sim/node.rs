//! One simulated router, with a place for a planted fault around its state machine.
//!
//! Must not know: the other routers, the network.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use super::super::{host, settings};
use crate::vrrp::fsm::{Advert, Cause, Event, Instance, Output, Settings, State};
use crate::vrrp::priority::Standing;
use crate::vrrp::timing::skew;

/// A fault that is made around the state machine, so that the product has no switch for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Planted {
    /// Backups wait three intervals and no skew.
    NoSkew,
    /// A master says nothing to adverts of lower priority.
    NoAnswer,
    /// The lower address wins between equals.
    TieReversed,
    /// Addresses are kept after mastership.
    NoRelease,
    /// A backup counts with its own interval.
    NotAdopted,
}

/// One router.
pub(super) struct Node {
    pub(super) settings: Settings,
    /// Its priority while nothing moves it.
    pub(super) base: u8,
    pub(super) address: IpAddr,
    /// `None` while it is dead.
    pub(super) instance: Option<Instance>,
    /// Where its own monotonic clock has its zero.
    origin: Instant,
    planted: Option<Planted>,
    /// Whether it has the addresses.
    pub(super) vips: bool,
    pub(super) link_up: bool,
    /// What arrives while the process does not run; `None` while it runs.
    pub(super) stalled: Option<Vec<Advert>>,
    /// Since when it has been a backup that would notice a master's silence.
    pub(super) listens_since: Option<u64>,
    /// Whether it resigned and was not master since.
    pub(super) resigned: bool,
}

impl Node {
    pub(super) fn new(
        index: u8,
        base: u8,
        settings: &Settings,
        origin: Instant,
        planted: Option<Planted>,
    ) -> Self {
        let address = host(index + 1);
        Self {
            settings: Settings { primary: mirrored(address, planted), ..settings.clone() },
            base,
            address,
            instance: None,
            origin,
            planted,
            vips: false,
            link_up: true,
            stalled: None,
            listens_since: None,
            resigned: false,
        }
    }

    /// Settings of a quick router.
    pub(super) fn defaults() -> Settings {
        settings()
    }

    pub(super) fn create(&mut self) {
        self.instance = Some(Instance::new(self.settings.clone(), self.base, Standing::Fit));
    }

    /// The machine stops at once; its addresses are gone with it.
    pub(super) fn crash(&mut self) {
        self.instance = None;
        self.vips = false;
        self.stalled = None;
        self.listens_since = None;
        self.resigned = false;
    }

    pub(super) fn state(&self) -> State {
        self.instance.as_ref().map_or(State::Init, Instance::state)
    }

    /// Priority, then address: who comes before whom.
    pub(super) fn rank(&self) -> (u8, IpAddr) {
        (self.instance.as_ref().map_or(0, Instance::priority), self.address)
    }

    /// When its timer runs out, in nanoseconds of the simulation.
    pub(super) fn deadline(&self) -> Option<u64> {
        if self.stalled.is_some() {
            return None;
        }
        let at = self.instance.as_ref()?.next_deadline()?;
        let nanos = at.saturating_duration_since(self.origin).as_nanos() as u64;
        Some(nanos.saturating_sub(self.missing_skew().as_nanos() as u64))
    }

    /// Gives it an event.
    pub(super) fn feed(&mut self, now: u64, event: Event) -> Vec<Output> {
        let early = if event == Event::Timer { self.missing_skew() } else { Duration::ZERO };
        let at = self.origin + Duration::from_nanos(now) + early;
        let lower = matches!(&event, Event::Advert(advert)
            if advert.priority > 0 && (advert.priority, advert.source) < self.rank());
        let silenced = self.planted == Some(Planted::NoAnswer) && lower;
        let event = self.damaged(event);
        let planted = self.planted;
        let Some(instance) = &mut self.instance else { return Vec::new() };
        let mut outputs = instance.handle(at, event);
        outputs.retain(|output| match output {
            Output::ReleaseVips => planted != Some(Planted::NoRelease),
            Output::SendAdvert { .. } | Output::SendGratuitous { .. } => !silenced,
            _ => true,
        });
        for output in &mut outputs {
            if let Output::Entered { cause: Cause::BetterMaster { address, .. }, .. } = output {
                *address = mirrored(*address, planted);
            }
        }
        outputs
    }

    fn damaged(&self, event: Event) -> Event {
        match (event, self.planted) {
            (Event::Advert(advert), Some(Planted::NotAdopted)) => {
                Event::Advert(Advert { interval: self.settings.interval, ..advert })
            }
            (Event::Advert(advert), planted) => {
                Event::Advert(Advert { source: mirrored(advert.source, planted), ..advert })
            }
            (event, _) => event,
        }
    }

    fn missing_skew(&self) -> Duration {
        match (self.planted, &self.instance) {
            (Some(Planted::NoSkew), Some(instance)) if instance.state() == State::Backup => {
                skew(self.settings.version, instance.priority(), self.settings.interval)
            }
            _ => Duration::ZERO,
        }
    }
}

/// With a reversed tie all addresses are turned over, which turns their order over.
fn mirrored(address: IpAddr, planted: Option<Planted>) -> IpAddr {
    match (planted, address) {
        (Some(Planted::TieReversed), IpAddr::V4(address)) => {
            IpAddr::V4((!address.to_bits()).into())
        }
        _ => address,
    }
}
