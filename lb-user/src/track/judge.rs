//! When a script runs next and what its results mean: health's machine behind a first result that
//! counts at once.
//!
//! Sans-IO: the caller runs the script at [`Judge::due`] and reports with [`Judge::take`].
//!
//! Must not know: processes, clocks.

use std::time::Instant;

use crate::exec::End;
use crate::health::fsm::{HealthState, Machine, Pace};
use crate::health::report::Outcome;

/// What a run says.
pub(super) fn outcome(end: &End) -> Outcome {
    match end {
        End::Exited(0) => Outcome::Success,
        End::Exited(_) | End::Signalled(_) | End::TimedOut | End::Refused(_) => Outcome::Failure,
        End::NotStarted(_) => Outcome::Unknown,
    }
}

/// The results of one script.
#[derive(Clone, Debug)]
pub(super) struct Judge {
    pace: Pace,
    /// `None` before the first result.
    machine: Option<Machine>,
    /// Of the next run, while there is no machine.
    first: Instant,
}

impl Judge {
    /// The first run is due at once. With `well` known, results count as after others.
    pub(super) fn new(pace: Pace, well: Option<bool>, now: Instant) -> Self {
        let machine = well.map(|well| Machine::known(pace, state(well), now));
        Self { pace, machine, first: now }
    }

    /// When the next run starts.
    pub(super) fn due(&self) -> Instant {
        self.machine.as_ref().map_or(self.first, Machine::poll_timeout)
    }

    /// Takes the result, at `now`, of the run that started at [`Self::due`].
    pub(super) fn take(&mut self, now: Instant, outcome: Outcome) {
        let next = (self.first + self.pace.interval).max(now);
        match (&mut self.machine, outcome) {
            (Some(machine), _) => {
                machine.on_outcome(now, outcome);
            }
            (None, Outcome::Unknown) => self.first = next,
            (None, Outcome::Success | Outcome::Failure) => {
                let state = state(outcome == Outcome::Success);
                self.machine = Some(Machine::known(self.pace, state, next));
            }
        }
    }

    /// What is taken to be so; `None` before the first result.
    pub(super) fn well(&self) -> Option<bool> {
        self.machine.as_ref().map(|machine| machine.state() == HealthState::Up)
    }

    /// Results in a row that contradict [`Self::well`], and how many change it.
    pub(super) fn doubt(&self) -> (u32, u32) {
        self.machine.as_ref().map_or((0, 1), Machine::doubt)
    }
}

fn state(well: bool) -> HealthState {
    if well { HealthState::Up } else { HealthState::Down }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const INTERVAL: Duration = Duration::from_secs(2);

    /// Feeds results (`+`, `-`, `?` no result) and writes what is so after each: `U`, `D` or `.`
    #[track_caller]
    fn rows(well: Option<bool>, results: &str, expected: &str) {
        let pace = Pace { interval: INTERVAL, rise: 2, fall: 3 };
        let start = Instant::now();
        let mut judge = Judge::new(pace, well, start);
        let mut seen = String::new();
        for (n, letter) in (0..).zip(results.chars()) {
            assert_eq!(judge.due(), start + INTERVAL * n, "from start to start");
            let outcome = match letter {
                '+' => Outcome::Success,
                '-' => Outcome::Failure,
                _ => Outcome::Unknown,
            };
            judge.take(judge.due() + INTERVAL / 2, outcome);
            seen.push(judge.well().map_or('.', |well| if well { 'U' } else { 'D' }));
        }
        assert_eq!(seen, expected, "results {results}");
    }

    #[test]
    fn the_first_result_counts_at_once_and_the_others_in_a_row() {
        rows(None, "+--+---", "UUUUUUD");
        rows(None, "-+-++", "DDDDU");
        rows(None, "??-", "..D");
        rows(None, "+-?--", "UUUUD");
    }

    #[test]
    fn with_a_known_state_the_first_result_is_one_of_many() {
        rows(Some(true), "---", "UUD");
        rows(Some(false), "++", "DU");
    }

    #[test]
    fn a_run_that_took_too_long_delays_the_next_without_a_burst() {
        let start = Instant::now();
        let pace = Pace { interval: INTERVAL, rise: 1, fall: 1 };
        let mut judge = Judge::new(pace, None, start);
        let late = start + INTERVAL * 10;
        judge.take(late, Outcome::Success);
        assert_eq!(judge.due(), late);
        judge.take(late + INTERVAL * 3, Outcome::Failure);
        assert_eq!((judge.due(), judge.well()), (late + INTERVAL * 3, Some(false)));
    }
}
