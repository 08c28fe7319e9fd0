//! Lines on their way to a writer that may be slow: bounded, and never waited for by who writes.
//!
//! Must not know: where lines go.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// The lines of one target.
#[derive(Debug, Default)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    lost: AtomicU64,
}

#[derive(Debug, Default)]
struct State {
    lines: VecDeque<Vec<u8>>,
    bytes: usize,
    /// Who waits for the target to be opened anew.
    reopen: Vec<Sender<io::Result<()>>>,
    is_closing: bool,
    /// The writer is done.
    is_over: bool,
}

/// What the writer is to do next.
pub(super) enum Work {
    /// Write this.
    Line(Vec<u8>),
    /// Open the target anew, and tell how that went.
    Reopen(Sender<io::Result<()>>),
    /// Nothing: the time was up.
    Nothing,
    /// End.
    End,
}

impl Queue {
    /// Adds a line; one that finds no room is lost, and counted.
    pub(super) fn push(&self, line: Vec<u8>) {
        let mut state = self.lock();
        let is_full = state.lines.len() >= MOST_LINES || state.bytes + line.len() > MOST_BYTES;
        if is_full || state.is_closing {
            drop(state);
            self.lose(1);
            return;
        }
        state.bytes += line.len();
        state.lines.push_back(line);
        self.changed.notify_all();
    }

    /// Counts lines that did not reach the target.
    pub(super) fn lose(&self, lines: u64) {
        self.lost.fetch_add(lines, Ordering::Relaxed);
    }

    /// How many did not.
    pub(super) fn lost(&self) -> u64 {
        self.lost.load(Ordering::Relaxed)
    }

    /// Asks for the target to be opened anew, before what waits is written.
    pub(super) fn reopen(&self, done: Sender<io::Result<()>>) {
        self.lock().reopen.push(done);
        self.changed.notify_all();
    }

    /// What is to be done next, waited for as long as it takes.
    pub(super) fn take(&self) -> Work {
        let mut state = self.lock();
        loop {
            if let Some(done) = state.reopen.pop() {
                return Work::Reopen(done);
            }
            if let Some(line) = state.lines.pop_front() {
                state.bytes -= line.len();
                return Work::Line(line);
            }
            if state.is_closing {
                return Work::End;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What cannot wait while a line cannot be written, within `patience`.
    pub(super) fn interrupted(&self, patience: Duration) -> Work {
        let until = Instant::now() + patience;
        let mut state = self.lock();
        loop {
            if let Some(done) = state.reopen.pop() {
                return Work::Reopen(done);
            }
            if state.is_closing {
                return Work::End;
            }
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Work::Nothing;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// No more lines; the writer ends when those that wait are written.
    pub(super) fn close(&self) {
        self.lock().is_closing = true;
        self.changed.notify_all();
    }

    /// The writer has ended; what still waits is lost.
    pub(super) fn end(&self) {
        let mut state = self.lock();
        state.is_over = true;
        self.lose(state.lines.len() as u64);
        state.lines.clear();
        self.changed.notify_all();
    }

    /// Waits until the writer has ended, at most until then.
    pub(super) fn wait_end(&self, until: Instant) {
        let mut state = self.lock();
        while !state.is_over {
            let left = until.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return;
            }
            let waited = self.changed.wait_timeout(state, left);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Lines that wait for a writer.
const MOST_LINES: usize = 4096;
/// Their bytes.
const MOST_BYTES: usize = 4 << 20;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_finds_no_room_is_lost_and_counted() {
        let queue = Queue::default();
        for _ in 0..MOST_LINES + 3 {
            queue.push(b"x".to_vec());
        }
        assert_eq!(queue.lost(), 3);
        assert!(matches!(queue.take(), Work::Line(line) if line == b"x"));
        queue.push(vec![0; MOST_BYTES]);
        assert_eq!(queue.lost(), 4, "bytes are bounded too");
        queue.close();
        queue.push(b"late".to_vec());
        assert_eq!(queue.lost(), 5);
    }

    #[test]
    fn a_reopening_overtakes_lines_and_the_end_waits_for_them() {
        let queue = Queue::default();
        queue.push(b"1".to_vec());
        let (done, _) = std::sync::mpsc::channel();
        queue.reopen(done);
        queue.close();
        assert!(matches!(queue.take(), Work::Reopen(_)));
        assert!(matches!(queue.take(), Work::Line(_)));
        assert!(matches!(queue.take(), Work::End));
        assert!(matches!(queue.interrupted(Duration::from_secs(60)), Work::End));
    }
}
