//! Notices a stuck part of this process, and says which.
//!
//! A part that works for ever takes a [`Pulse`] from [`part`] and tells when it begins something,
//! and when it waits for others; that is one atomic store. [`start`] starts a thread that looks at
//! all parts once a second, logs those that have been at one thing for longer than their limit, and
//! says to its owner whether the daemon can still do its work. [`parts`] is for whoever asks.
//!
//! The parts are the process's, hence one list for all of it; nobody's pulse takes its lock.
//!
//! Must not know: what a part does, systemd, who asks.

mod judge;
mod runtime;

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

pub use judge::{Judge, News, Seen};
pub use runtime::watch_runtime;

/// What a stuck part means for the daemon.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// Without it the daemon is of no use: systemd is to start it anew.
    Vital,
    /// The rest goes on.
    Useful,
}

/// A part's sign of life. Dropped, the part is over and in order, unless it panicked: then it counts
/// as stuck from that moment on.
#[derive(Debug)]
pub struct Pulse(Arc<Part>);

#[derive(Debug)]
struct Part {
    name: String,
    limit: Duration,
    weight: Weight,
    /// When it began what it is at, in milliseconds of [`now`]; 0 while it waits for others.
    since: AtomicU64,
}

/// A part that waits for others, until its pulse says something else. `limit` is how long it may be
/// at one thing.
pub fn part(name: impl Into<String>, limit: Duration, weight: Weight) -> Pulse {
    let part = Part { name: name.into(), limit, weight, since: AtomicU64::new(0) };
    let part = Arc::new(part);
    list().push(Arc::clone(&part));
    Pulse(part)
}

impl Pulse {
    /// It begins something, now.
    pub fn begin(&self) {
        self.0.since.store(millis(now()), Ordering::Relaxed);
    }

    /// It has failed for good: it counts as stuck from now on.
    pub fn fail(self) {
        self.begin();
        // Without its end it stays in the list.
        std::mem::forget(self);
    }

    /// It waits for others: for however long, it is not stuck.
    pub fn rest(&self) {
        self.0.since.store(0, Ordering::Relaxed);
    }

    /// Whether it is at something.
    pub fn is_busy(&self) -> bool {
        self.0.since.load(Ordering::Relaxed) > 0
    }

    /// It has been at one thing for so long already.
    pub fn begun(&self, ago: Duration) {
        self.0.since.store(millis(now().saturating_sub(ago)), Ordering::Relaxed);
    }
}

impl Drop for Pulse {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.begin();
        } else {
            list().retain(|part| !Arc::ptr_eq(part, &self.0));
        }
    }
}

/// Every part, in the order of their beginning.
pub fn parts() -> Vec<Seen> {
    let now = now();
    let seen = |part: &Arc<Part>| {
        let since = part.since.load(Ordering::Relaxed);
        let busy = (since > 0).then(|| now.saturating_sub(Duration::from_millis(since)));
        Seen { name: part.name.clone(), limit: part.limit, weight: part.weight, busy }
    };
    list().iter().map(seen).collect()
}

/// Looks at all parts once a second, for good. `tell` is called each time with whether every vital
/// part is well.
///
/// # Errors
/// When no thread can be made.
pub fn start(tell: impl Fn(bool) + Send + 'static) -> std::io::Result<()> {
    let watch = move || {
        let mut judge = Judge::default();
        loop {
            let parts = parts();
            for news in judge.look(&parts) {
                news.log();
            }
            tell(!parts.iter().any(|part| part.weight == Weight::Vital && part.is_stuck()));
            std::thread::sleep(EVERY);
        }
    };
    std::thread::Builder::new().name("watchdog".to_owned()).spawn(watch).map(drop)
}

/// Time since the first question; a millisecond is added so that no moment is 0.
fn now() -> Duration {
    static START: OnceLock<Instant> = OnceLock::new();
    START.get_or_init(Instant::now).elapsed()
}

fn millis(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap_or(u64::MAX).max(1)
}

fn list() -> MutexGuard<'static, Vec<Arc<Part>>> {
    static PARTS: Mutex<Vec<Arc<Part>>> = Mutex::new(Vec::new());
    PARTS.lock().unwrap_or_else(PoisonError::into_inner)
}

/// From one look to the next.
const EVERY: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(name: &str) -> Option<Seen> {
        parts().into_iter().find(|part| part.name == name)
    }

    #[test]
    fn a_part_is_busy_from_its_beginning_to_its_rest() {
        let pulse = part("test: busy", Duration::from_secs(5), Weight::Useful);
        assert_eq!(seen("test: busy").expect("a part").busy, None);
        pulse.begin();
        assert!(seen("test: busy").expect("a part").busy.is_some());
        pulse.rest();
        assert_eq!(seen("test: busy").expect("a part").busy, None);
        pulse.begun(Duration::ZERO);
        assert!(seen("test: busy").expect("a part").busy.is_some());
        drop(pulse);
        assert_eq!(seen("test: busy"), None, "it ended in order");
    }

    #[test]
    fn a_part_that_panicked_is_not_forgotten() {
        let pulse = part("test: panic", Duration::ZERO, Weight::Useful);
        let ended = std::thread::spawn(move || {
            let _pulse = pulse;
            panic!("as planned");
        });
        assert!(ended.join().is_err());
        while !seen("test: panic").expect("it is still a part").is_stuck() {
            std::thread::yield_now();
        }
    }
}
