//! Waiting for a condition with a deadline: the lab's only way to synchronise.
//!
//! `eventually(seconds(5), "rs1 is down", || ...)` asks again and again until the closure answers;
//! at the deadline the error names what was waited for. An interrupted demo gives up at once.
//!
//! Must not know: what is waited for.

use crate::interrupt;
use anyhow::{Result, bail};
use std::time::{Duration, Instant};

/// `n` seconds.
pub const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

/// `n` milliseconds.
pub const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// What a condition may answer: `bool`, `Option<T>`, or a `Result` of them.
pub trait Answer {
    /// What comes out when the condition holds.
    type Value;
    /// `Ok` when it holds, else why not (possibly empty).
    fn settled(self) -> Result<Self::Value, String>;
}

impl Answer for bool {
    type Value = ();
    fn settled(self) -> Result<(), String> {
        if self { Ok(()) } else { Err(String::new()) }
    }
}

impl<T> Answer for Option<T> {
    type Value = T;
    fn settled(self) -> Result<T, String> {
        self.ok_or_else(String::new)
    }
}

impl<A: Answer> Answer for Result<A> {
    type Value = A::Value;
    fn settled(self) -> Result<A::Value, String> {
        match self {
            Ok(answer) => answer.settled(),
            Err(error) => Err(format!("{error:#}")),
        }
    }
}

/// Asks until `condition` holds or `limit` has passed.
///
/// # Errors
/// At the deadline, with `what` and the last reason; when the run is interrupted.
pub fn eventually<A: Answer>(
    limit: Duration,
    what: &str,
    mut condition: impl FnMut() -> A,
) -> Result<A::Value> {
    let start = Instant::now();
    loop {
        let reason = match condition().settled() {
            Ok(value) => return Ok(value),
            Err(reason) => reason,
        };
        interrupt::check()?;
        if start.elapsed() > limit {
            let because = if reason.is_empty() { reason } else { format!(" ({reason})") };
            bail!("waited {:.1} s in vain: {what}{because}", limit.as_secs_f64());
        }
        std::thread::sleep(POLL);
    }
}

/// Holds for all of `span`: asks again and again, and fails as soon as `condition` does.
///
/// # Errors
/// When the condition ceases to hold; when the run is interrupted.
pub fn throughout<A: Answer>(
    span: Duration,
    what: &str,
    mut condition: impl FnMut() -> A,
) -> Result<()> {
    let start = Instant::now();
    while start.elapsed() < span {
        if let Err(reason) = condition().settled() {
            bail!("held only {:.1} s: {what} ({reason})", start.elapsed().as_secs_f64());
        }
        interrupt::check()?;
        std::thread::sleep(POLL);
    }
    Ok(())
}

/// Lets `span` pass, where the passing of time is what is tested: an idle timeout.
///
/// # Errors
/// When the run is interrupted.
pub fn idle(span: Duration) -> Result<()> {
    throughout(span, "time passes", || true)
}

const POLL: Duration = millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_condition_that_comes_true_is_returned() {
        let mut asked = 0;
        let value = eventually(seconds(5), "third time", || {
            asked += 1;
            (asked == 3).then_some(asked)
        });
        assert_eq!(value.ok(), Some(3));
    }

    #[test]
    fn the_deadline_names_what_was_waited_for() {
        let error = eventually(millis(1), "the moon", || false).expect_err("it cannot hold");
        assert!(error.to_string().contains("the moon"), "{error}");
    }

    #[test]
    fn a_condition_that_ceases_to_hold_is_found() {
        let mut asked = 0;
        let held = throughout(seconds(5), "twice", || {
            asked += 1;
            asked < 3
        });
        assert!(held.is_err());
    }
}
