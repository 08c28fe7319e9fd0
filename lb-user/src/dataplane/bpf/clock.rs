//! The kernel's time in user space: jiffies, and how many make a second.
//!
//! Must not know: what the time is for.

use std::os::fd::BorrowedFd;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::sys;

/// Jiffies as user space reckons them: right to a few ticks, which is enough to propose; the
/// kernel's programs decide by their own clock.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    hz: u64,
    jiffies: u64,
    at: Instant,
}

/// The values that CONFIG_HZ has.
const KNOWN: [u64; 4] = [100, 250, 300, 1000];

/// Long enough to tell 250 from 300 jiffies a second by two stamps.
const APART: Duration = Duration::from_millis(120);

impl Clock {
    /// Finds the kernel's HZ by two readings of its clock.
    ///
    /// # Errors
    /// When the clock program cannot be run.
    pub(super) fn calibrate(mut read: impl FnMut() -> anyhow::Result<u64>) -> anyhow::Result<Self> {
        let first = read()?;
        let start = Instant::now();
        std::thread::sleep(APART);
        let jiffies = read()?;
        let at = Instant::now();
        Ok(Self { hz: nearest(jiffies - first, at - start), jiffies, at })
    }

    /// Jiffies in a second.
    pub fn hz(&self) -> u64 {
        self.hz
    }

    /// Now, in jiffies.
    pub fn now(&self) -> u64 {
        self.jiffies + self.jiffies_in(self.at.elapsed())
    }

    /// A span of time in jiffies.
    pub fn jiffies_in(&self, span: Duration) -> u64 {
        (span.as_micros() * u128::from(self.hz) / 1_000_000) as u64
    }

    /// Jiffies as a span of time.
    pub fn span_of(&self, jiffies: u64) -> Duration {
        Duration::from_millis(jiffies.saturating_mul(1000) / self.hz)
    }
}

/// The known HZ that comes nearest to this many ticks in this time.
fn nearest(ticks: u64, span: Duration) -> u64 {
    let measured = ticks as f64 / span.as_secs_f64();
    let far = |hz: &u64| (measured / *hz as f64).ln().abs();
    KNOWN.into_iter().min_by(|a, b| far(a).total_cmp(&far(b))).unwrap_or(KNOWN[1])
}

/// Runs the clock program: it stamps the heartbeat with the kernel's time.
pub(super) fn beat(program: BorrowedFd<'_>) -> anyhow::Result<()> {
    sys::test_run(program, &[0; 64]).context("run the clock program")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_hz_is_found_though_a_tick_is_cut_off() {
        for hz in KNOWN {
            for late in [0, 7, 30] {
                let span = APART + Duration::from_millis(late);
                let exact = span.as_secs_f64() * hz as f64;
                for ticks in [exact.floor() as u64, exact.ceil() as u64] {
                    assert_eq!(nearest(ticks, span), hz, "{ticks} ticks in {span:?}");
                }
            }
        }
    }
}
