//! Tests of the core as a whole: wire vectors, clauses, and the simulator of several routers.
//!
//! Must not know: sockets.

mod clauses;
mod fuzz;
mod groups;
mod reload;
mod sim;
mod wire;

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use crate::vrrp::fsm::{
    Advert, Cause, Event, Gratuitous, Instance, Output, Round, Settings, State,
};
use crate::vrrp::priority::Standing;
use crate::vrrp::timing::{Interval, Version};

/// 10.77.0.`host`.
fn host(host: u8) -> IpAddr {
    IpAddr::V4(Ipv4Addr::new(10, 77, 0, host))
}

fn millis(version: Version, millis: u64) -> Interval {
    Interval::new(version, Duration::from_millis(millis)).expect("an interval of that version")
}

/// Version 3, 1 s, preempting, on 10.77.0.5, with keepalived's announcements.
fn settings() -> Settings {
    Settings {
        version: Version::V3,
        interval: millis(Version::V3, 1000),
        preempt: true,
        preempt_delay: Duration::ZERO,
        gratuitous: Gratuitous { count: 5, delay: Duration::from_secs(5), refresh: Duration::ZERO },
        primary: host(5),
        grouped: false,
    }
}

/// An advert of 10.77.0.`from` at an interval of 1 s.
fn advert(from: u8, priority: u8) -> Advert {
    Advert {
        source: host(from),
        priority,
        interval: millis(Version::V3, 1000),
        same_addresses: true,
    }
}

/// An instance with a clock in milliseconds.
struct Bench {
    instance: Instance,
    start: Instant,
}

impl Bench {
    fn new(settings: Settings, priority: u8) -> Self {
        let instance = Instance::new(settings, priority, Standing::Fit);
        Self { instance, start: Instant::now() }
    }

    /// Started at 0 ms as backup.
    fn backup(settings: Settings, priority: u8) -> Self {
        let mut bench = Self::new(settings, priority);
        let outputs = bench.at(0.0, Event::Startup);
        assert_eq!(outputs, [entered(State::Backup, Cause::Startup)]);
        bench
    }

    /// Started at 0 ms, master as soon as its timer allows; returns that moment too.
    fn master(settings: Settings, priority: u8) -> (Self, f64) {
        let mut bench = Self::backup(settings, priority);
        let at = bench.deadline().expect("a backup has a deadline");
        let _ = bench.at(at, Event::Timer);
        assert_eq!(bench.instance.state(), State::Master);
        (bench, at)
    }

    fn at(&mut self, millis: f64, event: Event) -> Vec<Output> {
        let now = self.start + Duration::from_nanos((millis * 1e6).round() as u64);
        let outputs = self.instance.handle(now, event);
        let takes_part = matches!(self.instance.state(), State::Backup | State::Master);
        assert_eq!(self.instance.next_deadline().is_some(), takes_part);
        outputs
    }

    /// The next deadline in milliseconds.
    fn deadline(&self) -> Option<f64> {
        let at = self.instance.next_deadline()?;
        Some(at.duration_since(self.start).as_nanos() as f64 / 1e6)
    }

    /// Asserts the next deadline, to the microsecond.
    #[track_caller]
    fn due(&self, millis: f64) {
        let at = self.deadline().expect("a deadline");
        assert!((at - millis).abs() < 0.001, "due at {at} ms instead of {millis} ms");
    }
}

fn entered(state: State, cause: Cause) -> Output {
    Output::Entered { state, cause }
}

fn send(priority: u8) -> Output {
    Output::SendAdvert { priority }
}

fn announce(round: Round) -> Output {
    Output::SendGratuitous { round, count: 5 }
}

/// What a new master does, in order.
fn takeover(priority: u8, cause: Cause) -> [Output; 4] {
    let acquire = Output::AcquireVips;
    [send(priority), acquire, announce(Round::First), entered(State::Master, cause)]
}

/// A small generator of numbers (splitmix64): the same everywhere for the same seed.
struct Rng(u64);

impl Rng {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// A number below `bound`, which is not 0.
    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// True once in `n` times.
    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// A number of the environment: how many, or which seed.
fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable}={text} is no number")))
}
