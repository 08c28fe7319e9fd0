//! Sync groups: all or none.
//!
//! Must not know: single clauses.

use super::*;
use crate::vrrp::group::{Group, MemberOutput};
use crate::vrrp::priority::OWNER;

/// Two members with a clock in milliseconds, started at 0.
struct Pair {
    group: Group,
    start: Instant,
}

impl Pair {
    fn started(priorities: [u8; 2]) -> Self {
        let member = |priority| {
            Instance::new(Settings { grouped: true, ..settings() }, priority, Standing::Fit)
        };
        let group = Group::new(priorities.map(member).to_vec());
        let mut pair = Self { group, start: Instant::now() };
        let now = pair.start;
        let _ = pair.group.handle_all(now, &Event::Startup);
        pair
    }

    fn masters() -> Self {
        let mut pair = Self::started([100, 100]);
        let _ = pair.timers(3609.375);
        pair.states(State::Master, State::Master);
        pair
    }

    fn time(&self, millis: f64) -> Instant {
        self.start + Duration::from_nanos((millis * 1e6).round() as u64)
    }

    fn at(&mut self, millis: f64, member: usize, event: Event) -> Vec<MemberOutput> {
        let now = self.time(millis);
        self.group.handle(now, member, event)
    }

    fn timers(&mut self, millis: f64) -> Vec<MemberOutput> {
        let now = self.time(millis);
        self.group.timers(now)
    }

    #[track_caller]
    fn states(&self, first: State, second: State) {
        let states: Vec<_> = self.group.members().iter().map(Instance::state).collect();
        assert_eq!(states, [first, second]);
    }
}

fn track(standing: Standing) -> Event {
    Event::Track { priority: 100, standing }
}

#[test]
fn a_member_waits_until_every_other_one_wants_to_be_master() {
    let mut pair = Pair::started([100, 100]);
    let _ = pair.at(3000.0, 1, Event::Advert(advert(9, 200)));
    assert_eq!(pair.timers(3609.375), []);
    pair.states(State::Backup, State::Backup);
    assert!(pair.group.members()[0].ready());
    // The second one's master is silent from 3 s on.
    let outputs = pair.timers(6609.375);
    pair.states(State::Master, State::Master);
    let taken = |member| {
        let own = outputs.iter().filter(|(index, _)| *index == member);
        own.map(|(_, output)| *output).collect::<Vec<_>>()
    };
    assert_eq!(taken(0), takeover(100, Cause::Group));
    assert_eq!(taken(1), takeover(100, Cause::Group));
}

#[test]
fn an_advert_takes_the_wish_back() {
    let mut pair = Pair::started([100, 100]);
    let _ = pair.at(3000.0, 1, Event::Advert(advert(9, 200)));
    let _ = pair.timers(3609.375);
    let _ = pair.at(4000.0, 0, Event::Advert(advert(9, 200)));
    assert!(!pair.group.members()[0].ready());
    let _ = pair.timers(6609.375);
    pair.states(State::Backup, State::Backup);
}

#[test]
fn when_one_member_gives_way_all_resign() {
    let mut pair = Pair::masters();
    let outputs = pair.at(4000.0, 1, Event::Advert(advert(9, 200)));
    let better = Cause::BetterMaster { address: host(9), priority: 200 };
    assert_eq!(
        outputs,
        [
            (1, Output::ReleaseVips),
            (1, entered(State::Backup, better)),
            (0, send(0)),
            (0, Output::ReleaseVips),
            (0, entered(State::Backup, Cause::Group)),
        ]
    );
}

#[test]
fn when_one_member_is_in_fault_all_are_until_it_recovers() {
    let mut pair = Pair::masters();
    let outputs = pair.at(4000.0, 0, track(Standing::Fault));
    let fault = |member, cause| {
        [(member, send(0)), (member, Output::ReleaseVips), (member, entered(State::Fault, cause))]
    };
    assert_eq!(outputs, [fault(0, Cause::Tracking), fault(1, Cause::Group)].concat());
    assert_eq!(pair.group.next_deadline(), None);
    let _ = pair.at(5000.0, 1, Event::LinkDown);
    let _ = pair.at(6000.0, 0, track(Standing::Fit));
    pair.states(State::Fault, State::Fault);
    let _ = pair.at(7000.0, 1, Event::LinkUp);
    pair.states(State::Backup, State::Backup);
}

#[test]
fn owners_are_master_at_once_only_together() {
    Pair::started([OWNER, OWNER]).states(State::Master, State::Master);
    Pair::started([OWNER, 100]).states(State::Backup, State::Backup);
}

#[test]
fn resigning_is_for_all_members() {
    let mut pair = Pair::masters();
    let outputs = pair.at(4000.0, 0, Event::Resign);
    let resigned = outputs.iter().filter(|(_, output)| *output == send(0)).count();
    assert_eq!(resigned, 2);
    // Neither preempts afterwards: a lower master is followed by both.
    for member in [0, 1] {
        let _ = pair.at(7000.0, member, Event::Advert(advert(9, 1)));
    }
    assert_eq!(pair.timers(10_000.0), []);
    pair.states(State::Backup, State::Backup);
}

#[test]
fn a_rival_of_one_member_makes_all_announce() {
    let mut pair = Pair::masters();
    let outputs = pair.at(4000.0, 0, Event::Advert(advert(9, 50)));
    assert!(outputs.contains(&(0, announce(Round::Answer))));
    assert!(outputs.contains(&(1, announce(Round::Answer))));
}

#[test]
fn an_unknown_member_is_no_panic() {
    let mut pair = Pair::started([100, 100]);
    assert_eq!(pair.at(1.0, 2, Event::LinkDown), []);
}

/// Whatever happens, members are master together, and acquire and release in turn.
#[test]
fn all_or_none_after_any_event() {
    for seed in 0..200 {
        let mut rng = Rng(seed);
        let mut pair = Pair::started([100, 150]);
        let (mut now, mut owned) = (0.0, [false; 2]);
        for step in 0..200 {
            now += rng.below(2500) as f64;
            let member = rng.below(2) as usize;
            let outputs = match rng.below(9) {
                0 => pair.at(now, member, Event::Advert(advert(9, rng.below(256) as u8))),
                1 => pair.at(now, member, Event::LinkDown),
                2 | 3 => pair.at(now, member, Event::LinkUp),
                4 => pair.at(now, member, track(Standing::Fault)),
                5 => pair.at(now, member, track(Standing::Fit)),
                6 if rng.one_in(4) => pair.at(now, member, Event::Resign),
                _ => pair.timers(now),
            };
            for (member, output) in outputs {
                match output {
                    Output::AcquireVips => assert!(!std::mem::replace(&mut owned[member], true)),
                    Output::ReleaseVips => assert!(std::mem::replace(&mut owned[member], false)),
                    _ => {}
                }
            }
            let states = [0, 1].map(|member| pair.group.members()[member].state());
            assert_eq!(states.map(|state| state == State::Master), owned, "seed {seed} {step}");
            assert_eq!(owned[0], owned[1], "seed {seed}, step {step}: {states:?}");
        }
    }
}
