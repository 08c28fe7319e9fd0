//! Slows those who guess passwords, by source: after a few wrong ones each next try must wait
//! longer than the last.
//!
//! Whoever sends a password that was found right lately is not asked to wait, so that guesses from
//! the same address keep nobody out.
//!
//! Must not know: HTTP, passwords.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Wrong passwords by source.
#[derive(Default)]
pub(super) struct Throttle(Mutex<HashMap<IpAddr, Failures>>);

struct Failures {
    count: u32,
    last: Instant,
}

impl Failures {
    /// Until when the source has to wait.
    fn until(&self) -> Instant {
        let more = self.count.saturating_sub(FREE);
        let wait = if more == 0 {
            Duration::ZERO
        } else {
            LONGEST.min(Duration::from_secs(1 << (more - 1).min(16)))
        };
        self.last + wait
    }
}

impl Throttle {
    /// How long `source` still has to wait; zero is not at all.
    pub(super) fn wait(&self, source: IpAddr, now: Instant) -> Duration {
        let failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let until = failures.get(&network(source)).map_or(now, Failures::until);
        until.saturating_duration_since(now)
    }

    /// A wrong password.
    pub(super) fn failed(&self, source: IpAddr, now: Instant) {
        let mut failures = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let source = network(source);
        if !failures.contains_key(&source) && failures.len() >= MAX_SOURCES {
            failures.retain(|_, failed| now.saturating_duration_since(failed.last) < FORGIVEN);
            let oldest = failures.iter().min_by_key(|(_, failed)| failed.last);
            if let Some(oldest) = oldest.map(|(source, _)| *source)
                && failures.len() >= MAX_SOURCES
            {
                failures.remove(&oldest);
            }
        }
        let entry = failures.entry(source).or_insert(Failures { count: 0, last: now });
        if now.saturating_duration_since(entry.last) >= FORGIVEN {
            entry.count = 0;
        }
        entry.count = entry.count.saturating_add(1);
        entry.last = now;
    }

    /// A right one.
    pub(super) fn succeeded(&self, source: IpAddr) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(&network(source));
    }
}

/// A host of IPv6 has a /64 to send from.
pub(super) fn network(source: IpAddr) -> IpAddr {
    match source.to_canonical() {
        IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        v4 @ IpAddr::V4(_) => v4,
    }
}

/// Slips that cost nothing.
const FREE: u32 = 5;
const LONGEST: Duration = Duration::from_secs(60);
const FORGIVEN: Duration = Duration::from_secs(15 * 60);
const MAX_SOURCES: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    #[test]
    fn waiting_grows_with_every_wrong_password_and_ends_with_a_right_one() {
        let throttle = Throttle::default();
        let (now, source) = (Instant::now(), ip("192.0.2.1"));
        for expected in [0, 0, 0, 0, 0, 1, 2, 4, 8, 16, 32, 60, 60] {
            throttle.failed(source, now);
            assert_eq!(throttle.wait(source, now).as_secs(), expected);
        }
        assert_eq!(throttle.wait(ip("192.0.2.2"), now), Duration::ZERO);
        assert_eq!(throttle.wait(ip("::ffff:192.0.2.1"), now).as_secs(), 60, "one host");
        assert_eq!(throttle.wait(source, now + Duration::from_secs(61)), Duration::ZERO);
        throttle.succeeded(source);
        throttle.failed(source, now);
        assert_eq!(throttle.wait(source, now), Duration::ZERO);
    }

    #[test]
    fn a_network_of_ipv6_is_one_source_and_memory_is_bounded() {
        let throttle = Throttle::default();
        let now = Instant::now();
        for host in 0..8 {
            throttle.failed(ip(&format!("2001:db8::{host}")), now);
        }
        assert!(throttle.wait(ip("2001:db8::ffff"), now) > Duration::ZERO);
        assert_eq!(throttle.wait(ip("2001:db8:0:1::1"), now), Duration::ZERO);
        for host in 0..2 * MAX_SOURCES as u32 {
            throttle.failed(IpAddr::V4(host.into()), now + Duration::from_secs(1));
        }
        assert_eq!(throttle.0.lock().expect("not poisoned").len(), MAX_SOURCES);
    }
}
