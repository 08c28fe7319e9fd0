//! Keeps the log from being flooded: one line a minute about the same thing.
//!
//! Must not know: what the lines say.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

/// What was logged, and when.
#[derive(Debug, Default)]
pub(super) struct Quiet(BTreeMap<(&'static str, IpAddr), Logged>);

#[derive(Debug)]
struct Logged {
    at: Instant,
    suppressed: u64,
}

impl Quiet {
    /// Whether something about an address may be logged at `now`; then how many lines about it
    /// were left out before.
    pub(super) fn admit(&mut self, now: Instant, what: &'static str, whom: IpAddr) -> Option<u64> {
        if self.0.len() >= MOST {
            self.0.retain(|_, logged| now < logged.at + EVERY);
        }
        let is_full = self.0.len() >= MOST;
        let suppressed = match self.0.get_mut(&(what, whom)) {
            Some(logged) if now < logged.at + EVERY => {
                logged.suppressed += 1;
                return None;
            }
            Some(logged) => logged.suppressed,
            // Somebody makes addresses up.
            None if is_full => return None,
            None => 0,
        };
        self.0.insert((what, whom), Logged { at: now, suppressed: 0 });
        Some(suppressed)
    }

    /// [`Self::admit`] by the clock.
    pub(super) fn is_news(&mut self, what: &'static str, whom: IpAddr) -> bool {
        self.admit(Instant::now(), what, whom).is_some()
    }
}

/// From one line to the next.
const EVERY: Duration = Duration::from_secs(60);
/// Things that are told apart.
const MOST: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;

    fn host(last: u16) -> IpAddr {
        IpAddr::from([0, 0, 0, 0, 0, 0, 0, last])
    }

    #[test]
    fn the_same_thing_is_said_once_a_minute_with_what_was_left_out() {
        let (mut quiet, start) = (Quiet::default(), Instant::now());
        assert_eq!(quiet.admit(start, "ttl", host(1)), Some(0));
        for second in 1..60 {
            assert_eq!(quiet.admit(start + Duration::from_secs(second), "ttl", host(1)), None);
        }
        assert_eq!(quiet.admit(start, "vrid", host(1)), Some(0));
        assert_eq!(quiet.admit(start, "ttl", host(2)), Some(0));
        assert_eq!(quiet.admit(start + EVERY, "ttl", host(1)), Some(59));
    }

    #[test]
    fn made_up_addresses_fill_nothing() {
        let (mut quiet, start) = (Quiet::default(), Instant::now());
        let said = (0..1000).filter(|last| quiet.admit(start, "ttl", host(*last)).is_some());
        assert_eq!((said.count(), quiet.0.len()), (MOST, MOST));
        assert_eq!(quiet.admit(start + EVERY, "ttl", host(999)), Some(0));
    }
}
