//! The thread that takes frames from the ring, holds them and runs them again.
//!
//! It works without asking anybody, and bounded: a batch at a time, with a pause after a full one,
//! so that a flood takes a part of one CPU; what does not fit the ring meanwhile is counted by the
//! program. What is too big for its way is split here (`split`), also when it was held before. The controller starts it and reads its counts.
//!
//! Must not know: services, why a frame was decided about as it was.

use std::io::PipeWriter;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use lb_common::detour::{DETOUR_DECIDED, DETOUR_FRAGMENT, DETOUR_SPLIT, DetourHead};
use lb_common::fragment::FragmentKey;
use lb_common::verdict::Counter;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::bpf::{Dataplane, Detours, Rerun, Verdict};
use super::fragments::{Fragments, Held, LIMITS, Plane};
use super::split::split;
use crate::watchdog::{self, Weight};

/// What user space counted of held frames, since the daemon started.
#[derive(Debug, Default)]
pub struct Counts([AtomicU64; COUNTED.len()]);

/// The counters that are user space's.
const COUNTED: [Counter; 6] = [
    Counter::FragmentTimeout,
    Counter::FragmentOverflow,
    Counter::DetourFailed,
    Counter::DetourPassLimit,
    Counter::DetourReruns,
    Counter::Split,
];

/// Records that are taken between two pauses.
const BATCH: usize = 256;
/// After a full batch the thread rests this many times as long as the batch took.
const REST: u32 = 3;
/// Frames that are given to the stack within a second; each takes some milliseconds.
const PASSES: u32 = 50;
/// A batch takes milliseconds.
const STUCK: Duration = Duration::from_secs(10);

impl Counts {
    /// What was counted for this reason.
    pub fn get(&self, counter: Counter) -> u64 {
        Self::place(counter).map_or(0, |at| self.0[at].load(Ordering::Relaxed))
    }

    fn add(&self, counter: Counter, count: u64) {
        if let Some(at) = Self::place(counter) {
            self.0[at].fetch_add(count, Ordering::Relaxed);
        }
    }

    fn place(counter: Counter) -> Option<usize> {
        COUNTED.iter().position(|own| *own == counter)
    }
}

/// Runs frames again, and counts.
struct Runner {
    detours: Detours,
    rerun: Rerun,
    counts: Arc<Counts>,
    /// The second that `passed` counts in.
    since: Instant,
    passed: u32,
}

/// Everything that the thread has.
pub struct Worker {
    runner: Runner,
    fragments: Fragments,
}

/// The running thread; dropping it ends it.
#[derive(Debug)]
pub struct Running {
    _alive: PipeWriter,
    /// What it counted.
    pub counts: Arc<Counts>,
}

impl Worker {
    /// A worker of this data plane.
    ///
    /// # Errors
    /// When its maps cannot be opened, or packet sockets are not allowed.
    pub fn new(dataplane: &Dataplane) -> anyhow::Result<Self> {
        let runner = Runner {
            detours: Detours::open(dataplane)?,
            rerun: Rerun::new(dataplane)?,
            counts: Arc::default(),
            since: Instant::now(),
            passed: 0,
        };
        Ok(Self { runner, fragments: Fragments::new(LIMITS) })
    }

    /// What it counts.
    pub fn counts(&self) -> Arc<Counts> {
        Arc::clone(&self.runner.counts)
    }

    /// Packets and bytes that are held.
    pub fn held(&self) -> (usize, usize) {
        self.fragments.size()
    }

    /// Starts the thread. What the ring holds from before is of packets that are long gone.
    ///
    /// # Errors
    /// When no thread or pipe can be made.
    pub fn start(mut self) -> anyhow::Result<Running> {
        let (stop, alive) = std::io::pipe().context("make a pipe")?;
        let counts = self.counts();
        let pulse = watchdog::part("detours", STUCK, Weight::Useful);
        let run = move || {
            while let Some((head, _)) = self.runner.detours.take() {
                let lost = match head.reason {
                    DETOUR_FRAGMENT => Counter::FragmentTimeout,
                    _ => Counter::DetourFailed,
                };
                self.runner.counts.add(lost, u64::from(head.length != 0));
            }
            loop {
                pulse.rest();
                let patience = self.fragments.wake_at();
                match wait(&[self.runner.detours.as_fd(), stop.as_fd()], patience) {
                    Ok(ready) if ready[1] => return,
                    Ok(_) => {}
                    Err(error) => {
                        tracing::error!(%error, "held fragments stay behind: waiting failed");
                        return pulse.fail();
                    }
                }
                pulse.begin();
                let began = Instant::now();
                if self.turn(began) == BATCH {
                    std::thread::sleep(began.elapsed() * REST);
                }
            }
        };
        std::thread::Builder::new()
            .name("detour".to_owned())
            .spawn(run)
            .context("start the thread for held frames")?;
        Ok(Running { _alive: alive, counts })
    }

    /// Takes at most a batch from the ring, and does what is due. Gives the number of records.
    pub fn turn(&mut self, now: Instant) -> usize {
        let mut taken = 0;
        while taken < BATCH
            && let Some((head, frame)) = self.runner.detours.take()
        {
            taken += 1;
            self.take(now, &head, frame);
        }
        if self.fragments.wake_at().is_some_and(|at| at <= now) {
            self.fragments.wake(now, &mut self.runner);
        }
        let lost = self.fragments.take_lost();
        self.runner.counts.add(Counter::FragmentTimeout, lost.timeout);
        self.runner.counts.add(Counter::FragmentOverflow, lost.overflow);
        taken
    }

    fn take(&mut self, now: Instant, head: &DetourHead, frame: Vec<u8>) {
        match head.reason {
            DETOUR_FRAGMENT => {
                let held = Held { ingress: head.ingress, frame };
                self.fragments.receive(now, head.key, held, &mut self.runner);
            }
            DETOUR_DECIDED => self.fragments.decided(&head.key, &mut self.runner),
            DETOUR_SPLIT => {
                let counter = self.runner.split(&Held { ingress: head.ingress, frame }, head.mtu);
                self.runner.counts.add(counter, 1);
            }
            reason => {
                tracing::warn!(reason, "a frame was held for a reason that this lb does not know");
                self.runner.counts.add(Counter::DetourFailed, 1);
            }
        }
    }
}

impl Plane for Runner {
    fn is_decided(&mut self, key: &FragmentKey) -> bool {
        self.detours.is_decided(key)
    }

    fn rerun(&mut self, held: Held) {
        let counter = self.run(&held, false);
        self.counts.add(counter, 1);
    }
}

impl Runner {
    /// Runs a frame; what became of it.
    fn run(&mut self, held: &Held, is_piece: bool) -> Counter {
        match self.rerun.run(&held.frame, held.ingress, is_piece) {
            Ok(Verdict::Sent | Verdict::Dropped) => Counter::DetourReruns,
            Ok(Verdict::Pass) => self.pass(held),
            Ok(Verdict::TooBig(mtu)) => self.split(held, mtu),
            Err(error) => {
                tracing::debug!(%error, ingress = held.ingress, "a held frame was not sent");
                Counter::DetourFailed
            }
        }
    }

    /// Makes fragments of a packet and runs them in order, so that the first one leads the others;
    /// what became of the whole. It never comes back here: pieces are not split again.
    fn split(&mut self, held: &Held, mtu: u32) -> Counter {
        let Some(pieces) = split(&held.frame, mtu) else {
            tracing::debug!(mtu, ingress = held.ingress, "a packet could not be split");
            return Counter::DetourFailed;
        };
        for frame in pieces {
            let became = self.run(&Held { ingress: held.ingress, frame }, true);
            // Without one of them the others are worth nothing.
            if became != Counter::DetourReruns {
                return became;
            }
        }
        self.counts.add(Counter::Split, 1);
        Counter::DetourReruns
    }

    /// Gives a frame to the stack, unless that was done too often lately.
    fn pass(&mut self, held: &Held) -> Counter {
        if self.since.elapsed() >= Duration::from_secs(1) {
            (self.since, self.passed) = (Instant::now(), 0);
        }
        self.passed += 1;
        if self.passed > PASSES {
            return Counter::DetourPassLimit;
        }
        match self.rerun.pass(&held.frame, held.ingress) {
            Ok(()) => Counter::DetourReruns,
            Err(error) => {
                tracing::debug!(%error, ingress = held.ingress, "a held frame was not passed");
                Counter::DetourFailed
            }
        }
    }
}

/// Waits until one of two descriptors is ready or the time has come; says which are.
fn wait(fds: &[std::os::fd::BorrowedFd<'_>; 2], until: Option<Instant>) -> nix::Result<[bool; 2]> {
    let timeout = match until {
        None => PollTimeout::NONE,
        Some(at) => {
            // A millisecond more than less: too early would be in vain.
            let left = at.saturating_duration_since(Instant::now()).as_millis() + 1;
            PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
        }
    };
    let mut polled = fds.map(|fd| PollFd::new(fd, PollFlags::POLLIN));
    match poll(&mut polled, timeout) {
        Ok(_) | Err(nix::errno::Errno::EINTR) => {}
        Err(error) => return Err(error),
    }
    Ok(polled.map(|fd| fd.any().unwrap_or(false)))
}
