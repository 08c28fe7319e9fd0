//! The state machine of one health-checked target: rise, fall and when to probe next.
//!
//! Sans-IO: the caller probes at [`Machine::poll_timeout`] and reports with
//! [`Machine::on_result`], passing the time. The state before the first result is the check's
//! `starts_up`; `rise` and `fall` are strict from the first result on, so a target that starts
//! down comes up with its first success only when `rise` is 1. While results contradict the state
//! it is in doubt and probes follow each other by `retry_interval` (HAProxy `fastinter`,
//! keepalived `delay_before_retry`), else by `interval`, counted from one start to the next.
//!
//! With `flap`, the change that is one too many within `per` holds the target down for `hold`,
//! whatever the change was. Probes go on; a target that has `rise` successes in a row by then
//! comes up with the first success after the hold. The count begins anew with the hold.
//!
//! Must not know: sockets, probes, clocks, weights.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::health::report::{Outcome, ProbeResult};
use crate::model::{Flap, HealthCheck};

/// Whether a target is taken to serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HealthState {
    /// It serves.
    Up,
    /// It does not.
    Down,
}

/// A change of state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum HealthEvent {
    /// `rise` successes in a row.
    Up,
    /// `fall` failures in a row.
    Down,
}

/// How often something is asked, and how many answers in a row change its state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pace {
    /// From one start to the next.
    pub interval: Duration,
    /// Successes in a row that bring it up.
    pub rise: u32,
    /// Failures in a row that take it down.
    pub fall: u32,
}

/// The state of one target.
#[derive(Clone, Debug)]
pub struct Machine {
    interval: Duration,
    retry_interval: Duration,
    rise: u32,
    fall: u32,
    state: HealthState,
    /// Results in a row that contradict `state`. Below the threshold that changes it, except while
    /// the target is held down: then it stops at the threshold.
    contrary: u32,
    next_probe: Instant,
    flap: Option<Flap>,
    /// When the state changed, the newest last; at most `flap.changes` of them.
    changes: VecDeque<Instant>,
    held_until: Option<Instant>,
}

impl Machine {
    /// A machine in the check's start state whose first probe is due at a moment of the first
    /// interval that `seed` chooses, so that a thousand targets are not probed at once.
    pub fn new(check: &HealthCheck, now: Instant, seed: u64) -> Self {
        let state = if check.starts_up { HealthState::Up } else { HealthState::Down };
        Self::resume(check, state, now, seed)
    }

    /// The same in a state that is known already: the one of a check whose numbers were changed by
    /// a reload, or of the daemon before this one.
    pub fn resume(check: &HealthCheck, state: HealthState, now: Instant, seed: u64) -> Self {
        Self {
            interval: check.interval,
            retry_interval: check.retry_interval,
            rise: check.rise.max(1),
            fall: check.fall.max(1),
            state,
            contrary: 0,
            next_probe: now + spread(check.interval, seed),
            flap: check.flap,
            changes: VecDeque::new(),
            held_until: None,
        }
    }

    /// The state now.
    pub fn state(&self) -> HealthState {
        self.state
    }

    /// Results in a row that contradict the state, and how many change it. HAProxy shows the same
    /// as `DOWN 1/2` (successes of `rise`) and `UP 2/3` (failures left of `fall`).
    pub fn doubt(&self) -> (u32, u32) {
        (self.contrary, self.threshold())
    }

    /// Until when the target is held down because its state changed too often. The hold is over
    /// with the first result after that moment.
    pub fn held_until(&self) -> Option<Instant> {
        self.held_until
    }

    /// A machine in a known state for what is not the check of a server, whose next probe is due at
    /// `next`. Nothing is in doubt and nothing holds it down.
    pub fn known(pace: Pace, state: HealthState, next: Instant) -> Self {
        Self {
            interval: pace.interval,
            retry_interval: pace.interval,
            rise: pace.rise.max(1),
            fall: pace.fall.max(1),
            state,
            contrary: 0,
            next_probe: next,
            flap: None,
            changes: VecDeque::new(),
            held_until: None,
        }
    }

    /// When the next probe starts. Valid until the next [`Self::on_result`].
    pub fn poll_timeout(&self) -> Instant {
        self.next_probe
    }

    /// Takes the result of the probe that started at [`Self::poll_timeout`].
    pub fn on_result(&mut self, now: Instant, result: &ProbeResult) -> Option<HealthEvent> {
        self.on_outcome(now, result.status.outcome())
    }

    /// The same for what is no probe of a server.
    pub fn on_outcome(&mut self, now: Instant, outcome: Outcome) -> Option<HealthEvent> {
        self.held_until = self.held_until.filter(|until| now < *until);
        let event = match (self.state, outcome) {
            (_, Outcome::Unknown) => {
                self.schedule(now, self.retry_interval);
                return None;
            }
            (HealthState::Up, Outcome::Success) | (HealthState::Down, Outcome::Failure) => {
                self.contrary = 0;
                None
            }
            (HealthState::Up, Outcome::Failure) | (HealthState::Down, Outcome::Success) => {
                self.contradict(now)
            }
        };
        let in_doubt = self.contrary > 0 && self.contrary < self.threshold();
        let pause = if in_doubt { self.retry_interval } else { self.interval };
        self.schedule(now, pause);
        event
    }

    fn threshold(&self) -> u32 {
        match self.state {
            HealthState::Up => self.fall,
            HealthState::Down => self.rise,
        }
    }

    fn contradict(&mut self, now: Instant) -> Option<HealthEvent> {
        self.contrary = (self.contrary + 1).min(self.threshold());
        if self.contrary < self.threshold() || self.held_until.is_some() {
            return None;
        }
        self.count_change(now);
        if self.state == HealthState::Down && self.held_until.is_some() {
            // It would have come up once too often.
            return None;
        }
        self.contrary = 0;
        match self.state {
            HealthState::Up => {
                self.state = HealthState::Down;
                Some(HealthEvent::Down)
            }
            HealthState::Down => {
                self.state = HealthState::Up;
                Some(HealthEvent::Up)
            }
        }
    }

    /// Begins a hold when this change is one too many.
    fn count_change(&mut self, now: Instant) {
        let Some(Flap { changes, per, hold }) = self.flap else {
            return;
        };
        while self.changes.front().is_some_and(|at| now.duration_since(*at) >= per) {
            self.changes.pop_front();
        }
        if self.changes.len() < changes as usize {
            self.changes.push_back(now);
        } else {
            self.changes.clear();
            self.held_until = Some(now + hold);
        }
    }

    /// From start to start, but never in the past: a probe that took longer than the pause, or a
    /// process that was stopped, does not make a burst.
    fn schedule(&mut self, now: Instant, pause: Duration) {
        self.next_probe = (self.next_probe + pause).max(now);
    }
}

/// A duration in `[0, interval)` chosen by the seed (splitmix64's finaliser).
fn spread(interval: Duration, seed: u64) -> Duration {
    let mut mixed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^= mixed >> 31;
    let nanos = u64::try_from(interval.as_nanos()).unwrap_or(u64::MAX);
    let offset = (u128::from(mixed) * u128::from(nanos)) >> 64;
    Duration::from_nanos(u64::try_from(offset).unwrap_or(0))
}

#[cfg(test)]
pub(crate) mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::health::report::CheckStatus;
    use crate::model::{CheckKind, Via};

    const INTERVAL: Duration = Duration::from_secs(2);
    const RETRY: Duration = Duration::from_millis(500);

    pub(crate) fn check(rise: u32, fall: u32) -> HealthCheck {
        HealthCheck {
            kind: CheckKind::Tcp,
            interval: INTERVAL,
            retry_interval: RETRY,
            timeout: INTERVAL,
            rise,
            fall,
            port: None,
            starts_up: false,
            flap: None,
            via: Via::Direct,
        }
    }

    pub(crate) fn result(letter: char) -> ProbeResult {
        let status = match letter {
            '+' => CheckStatus::L4Ok,
            '-' => CheckStatus::L4Con,
            't' => CheckStatus::L4Timeout,
            _ => CheckStatus::SocketError,
        };
        ProbeResult {
            status,
            duration: Duration::ZERO,
            code: None,
            weight: None,
            detail: String::new(),
        }
    }

    /// Feeds results (`+` ok, `-` refused, `t` timeout, `?` local lack) and writes what came of
    /// each: `U` or `D` for an event, else `.` with certainty and `~` in doubt.
    #[track_caller]
    fn rows(check: &HealthCheck, results: &str, expected: &str) {
        let start = Instant::now();
        let mut machine = Machine::new(check, start, 1);
        let mut seen = String::new();
        for letter in results.chars() {
            let probed = machine.poll_timeout();
            let event = machine.on_result(probed, &result(letter));
            let pause = machine.poll_timeout() - probed;
            seen.push(match event {
                Some(HealthEvent::Up) => 'U',
                Some(HealthEvent::Down) => 'D',
                None if pause == check.retry_interval => '~',
                None => '.',
            });
        }
        assert_eq!(seen, expected, "results {results}");
    }

    #[test]
    fn rise_and_fall_count_results_in_a_row() {
        rows(&check(2, 3), "++", "~U");
        rows(&check(2, 3), "+-++", "~.~U");
        rows(&check(2, 3), "++--+---", "~U~~.~~D");
        rows(&check(2, 3), "++-t-", "~U~~D");
        rows(&check(1, 1), "+-+-", "UDUD");
        rows(&check(3, 2), "-----", ".....");
    }

    #[test]
    fn a_target_that_starts_up_falls_only_after_fall_failures() {
        let up = HealthCheck { starts_up: true, ..check(2, 3) };
        rows(&up, "---", "~~D");
        rows(&up, "+++", "...");
    }

    #[test]
    fn a_lack_on_this_host_neither_counts_nor_clears() {
        rows(&check(2, 2), "++?????", "~U~~~~~");
        rows(&check(2, 2), "++-?-", "~U~~D");
    }

    #[test]
    fn a_slow_probe_delays_the_next_without_a_burst() {
        let start = Instant::now();
        let mut machine = Machine::new(&check(1, 1), start, 9);
        let late = machine.poll_timeout() + Duration::from_secs(60);
        machine.on_result(late, &result('-'));
        assert_eq!(machine.poll_timeout(), late);
        machine.on_result(late, &result('-'));
        assert_eq!(machine.poll_timeout(), late + INTERVAL);
    }

    #[test]
    fn a_resumed_machine_keeps_its_state() {
        let now = Instant::now();
        let mut machine = Machine::resume(&check(2, 2), HealthState::Up, now, 3);
        assert_eq!(machine.state(), HealthState::Up);
        assert_eq!(machine.on_result(now, &result('+')), None);
    }

    #[test]
    fn first_probes_are_spread_over_the_interval() {
        let now = Instant::now();
        let mut quarters = [0; 4];
        for seed in 0..400 {
            let offset = Machine::new(&check(1, 1), now, seed).poll_timeout() - now;
            assert!(offset < INTERVAL);
            quarters[usize::try_from(offset.as_millis() / 500).expect("small")] += 1;
        }
        assert!(quarters.iter().all(|n| *n > 60), "{quarters:?}");
    }

    #[test]
    fn doubt_is_counted_towards_the_threshold() {
        let start = Instant::now();
        let mut machine = Machine::resume(&check(2, 3), HealthState::Up, start, 1);
        assert_eq!(machine.doubt(), (0, 3));
        machine.on_result(start, &result('-'));
        assert_eq!(machine.doubt(), (1, 3));
        machine.on_result(start, &result('?'));
        assert_eq!(machine.doubt(), (1, 3));
        machine.on_result(start, &result('+'));
        assert_eq!(machine.doubt(), (0, 3));
    }

    const FLAP: Flap =
        Flap { changes: 3, per: Duration::from_secs(60), hold: Duration::from_secs(30) };

    /// Results one second apart, from the given moment of `start` on.
    fn feed(machine: &mut Machine, start: Instant, at: u64, results: &str) -> String {
        let event = |(n, letter)| {
            let now = start + Duration::from_secs(at + n);
            let held = machine.held_until.is_some_and(|until| now < until);
            match machine.on_result(now, &result(letter)) {
                Some(HealthEvent::Up) => 'U',
                Some(HealthEvent::Down) => 'D',
                None if held || machine.held_until.is_some() => 'h',
                None => '.',
            }
        };
        (0..).zip(results.chars()).map(event).collect()
    }

    #[test]
    fn too_many_changes_hold_the_target_down() {
        let start = Instant::now();
        let flapping = HealthCheck { flap: Some(FLAP), ..check(1, 1) };
        // The fourth change would be to down: it is taken, and what follows is held.
        let mut machine = Machine::resume(&flapping, HealthState::Down, start, 1);
        assert_eq!(feed(&mut machine, start, 0, "+-+-+-++"), "UDUDhhhh");
        // Held until second 33; then the next success brings it up, and counts from nothing.
        assert_eq!(feed(&mut machine, start, 31, "+++-+-"), "hhUDUD");
        // The fourth change would be to up: it is refused.
        let mut machine = Machine::resume(&flapping, HealthState::Up, start, 1);
        assert_eq!(feed(&mut machine, start, 0, "-+-+++"), "DUDhhh");
        assert_eq!(machine.state(), HealthState::Down);
    }

    #[test]
    fn changes_that_are_far_apart_are_taken() {
        let start = Instant::now();
        let flapping = HealthCheck { flap: Some(FLAP), ..check(1, 1) };
        let mut machine = Machine::resume(&flapping, HealthState::Down, start, 1);
        for n in 0..50 {
            let letter = if n % 2 == 0 { "+" } else { "-" };
            let seen = feed(&mut machine, start, n * 20, letter);
            assert!(seen == "U" || seen == "D", "change {n}: {seen}");
        }
    }

    #[test]
    fn a_hold_is_not_in_doubt_and_probes_go_on() {
        let start = Instant::now();
        let flapping = HealthCheck { flap: Some(Flap { changes: 1, ..FLAP }), ..check(2, 1) };
        let mut machine = Machine::resume(&flapping, HealthState::Up, start, 1);
        assert_eq!(feed(&mut machine, start, 0, "-++++"), "D.hhh");
        let before = machine.poll_timeout();
        machine.on_result(start, &result('+'));
        assert_eq!(machine.poll_timeout() - before, INTERVAL);
    }

    proptest! {
        /// Shadow model: the state after a history is decided by its last run that was long
        /// enough, found by looking at the whole history anew each time.
        #[test]
        fn state_is_what_the_whole_history_says(
            rise in 1_u32..5, fall in 1_u32..5, starts_up: bool, results in "[-+t?]{0,80}",
        ) {
            let check = HealthCheck { starts_up, ..check(rise, fall) };
            let mut machine = Machine::new(&check, Instant::now(), 7);
            let mut history = Vec::new();
            for letter in results.chars() {
                let before = machine.state();
                let due = machine.poll_timeout();
                let event = machine.on_result(due, &result(letter));
                if letter != '?' {
                    history.push(letter == '+');
                }
                let expected = shadow(&history, rise, fall, starts_up);
                prop_assert_eq!(machine.state() == HealthState::Up, expected);
                prop_assert_eq!(event.is_some(), before != machine.state());
                let pause = machine.poll_timeout() - due;
                prop_assert!(pause == INTERVAL || pause == RETRY);
                let certain = history.last().is_none_or(|last| *last == expected);
                if letter != '?' {
                    prop_assert_eq!(pause == INTERVAL, certain);
                }
            }
        }

        /// Whatever the results and the gaps between them: no window of `per` has more changes
        /// than `changes` and the one that begins the hold, nothing comes up while it is held,
        /// and a target that is well for long enough always comes up.
        #[test]
        fn changes_are_bounded_and_the_hold_ends(
            rise in 1_u32..4, fall in 1_u32..4, changes in 1_u32..5, per in 1_u64..40,
            hold in 1_u64..40, results in proptest::collection::vec((any::<bool>(), 0_u64..9), 0..200),
        ) {
            let flap = Flap {
                changes,
                per: Duration::from_secs(per),
                hold: Duration::from_secs(hold),
            };
            let check = HealthCheck { flap: Some(flap), ..check(rise, fall) };
            let mut now = Instant::now();
            let mut machine = Machine::new(&check, now, 7);
            let mut taken: Vec<Instant> = Vec::new();
            for (ok, gap) in results {
                now += Duration::from_secs(gap);
                let held = machine.held_until().is_some_and(|until| now < until);
                let event = machine.on_result(now, &result(if ok { '+' } else { '-' }));
                prop_assert!(!(held && event.is_some()), "a held target changed");
                prop_assert!(machine.held_until().is_none() || machine.state() == HealthState::Down);
                taken.extend(event.map(|_| now));
                if hold >= per {
                    let within = taken.iter().filter(|at| now - **at < flap.per).count();
                    prop_assert!(within <= changes as usize + 1, "{within} changes");
                }
            }
            for _ in 0..rise {
                now += flap.hold;
                machine.on_result(now, &result('+'));
            }
            now += flap.hold;
            machine.on_result(now, &result('+'));
            prop_assert_eq!(machine.state(), HealthState::Up);
        }
    }

    /// Walks back to the newest run of equal results that reached its threshold.
    fn shadow(history: &[bool], rise: u32, fall: u32, starts_up: bool) -> bool {
        for end in (0..history.len()).rev() {
            let ok = history[end];
            let run = history[..=end].iter().rev().take_while(|r| **r == ok).count();
            if run >= if ok { rise } else { fall } as usize {
                return ok;
            }
        }
        starts_up
    }
}
