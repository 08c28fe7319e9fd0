//! The state machine of one health-checked target: rise, fall and when to probe next.
//!
//! Sans-IO: the caller probes at [`Machine::poll_timeout`] and reports with
//! [`Machine::on_result`], passing the time. The state before the first result is the check's
//! `starts_up`; `rise` and `fall` are strict from the first result on, so a target that starts
//! down comes up with its first success only when `rise` is 1. While results contradict the state
//! it is in doubt and probes follow each other by `retry_interval` (HAProxy `fastinter`,
//! keepalived `delay_before_retry`), else by `interval`, counted from one start to the next.
//!
//! Must not know: sockets, probes, clocks, weights.

use std::time::{Duration, Instant};

use crate::health::report::{Outcome, ProbeResult};
use crate::model::HealthCheck;

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

/// The state of one target.
#[derive(Clone, Debug)]
pub struct Machine {
    interval: Duration,
    retry_interval: Duration,
    rise: u32,
    fall: u32,
    state: HealthState,
    /// Results in a row that contradict `state`; always below the threshold that changes it.
    contrary: u32,
    next_probe: Instant,
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
        }
    }

    /// The state now.
    pub fn state(&self) -> HealthState {
        self.state
    }

    /// When the next probe starts. Valid until the next [`Self::on_result`].
    pub fn poll_timeout(&self) -> Instant {
        self.next_probe
    }

    /// Takes the result of the probe that started at [`Self::poll_timeout`].
    pub fn on_result(&mut self, now: Instant, result: &ProbeResult) -> Option<HealthEvent> {
        let event = match (self.state, result.status.outcome()) {
            (_, Outcome::Unknown) => {
                self.schedule(now, self.retry_interval);
                return None;
            }
            (HealthState::Up, Outcome::Success) | (HealthState::Down, Outcome::Failure) => {
                self.contrary = 0;
                None
            }
            (HealthState::Up, Outcome::Failure) => self.contradict(self.fall, HealthEvent::Down),
            (HealthState::Down, Outcome::Success) => self.contradict(self.rise, HealthEvent::Up),
        };
        let pause = if self.contrary > 0 { self.retry_interval } else { self.interval };
        self.schedule(now, pause);
        event
    }

    fn contradict(&mut self, threshold: u32, event: HealthEvent) -> Option<HealthEvent> {
        self.contrary += 1;
        if self.contrary < threshold {
            return None;
        }
        self.contrary = 0;
        self.state = match event {
            HealthEvent::Up => HealthState::Up,
            HealthEvent::Down => HealthState::Down,
        };
        Some(event)
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
    use crate::model::CheckKind;

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
        }
    }

    fn result(letter: char) -> ProbeResult {
        let status = match letter {
            '+' => CheckStatus::L4Ok,
            '-' => CheckStatus::L4Con,
            't' => CheckStatus::L4Timeout,
            _ => CheckStatus::SocketError,
        };
        ProbeResult { status, duration: Duration::ZERO, code: None, detail: String::new() }
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
