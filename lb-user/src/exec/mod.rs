//! Runs a command once: as another user, with a clean environment, for a bounded time.
//!
//! [`Command::run`] checks (see [`check()`]), starts and waits. A command is the leader of a process
//! group of its own, works in `/`, reads nothing, and keeps none of the daemon's descriptors
//! (those are all close-on-exec). What it writes is kept up to [`MAX_OUTPUT`]; the rest is read
//! and thrown away. At the timeout its group gets SIGTERM, and [`GRACE`] later at the latest
//! SIGKILL; a run whose future is dropped is killed at once. It is reaped in every case.
//!
//! A command that ends by itself may leave processes behind unless it is `alone`; whoever writes
//! to its output then gets a broken pipe. As with keepalived a command has no supplementary
//! groups. It would inherit a real-time policy of the thread that starts it, and is killed at once if
//! it does: such a thread must have set `SCHED_RESET_ON_FORK`.
//!
//! Needs a tokio runtime with I/O and time, and, to become another user, `CAP_SETUID`,
//! `CAP_SETGID` and `CAP_KILL`.
//!
//! Must not know: why a command runs, what its exit code means.

mod check;
mod run;
#[cfg(test)]
pub(crate) mod tests;

use std::fmt;
use std::time::Duration;

pub use check::{Refused, RunAs, Whom, check};

/// Bytes of a command's output that are kept: the first ones.
pub const MAX_OUTPUT: usize = 4096;

/// From SIGTERM to SIGKILL at a timeout.
pub const GRACE: Duration = Duration::from_secs(1);

/// The search path of commands.
pub const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What is to be run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Command {
    /// Program and arguments; the program by its absolute path.
    pub words: Vec<String>,
    /// As whom it runs, in that user's primary group.
    pub user: RunAs,
    /// Environment besides `PATH`.
    pub environment: Vec<(String, String)>,
    /// For the whole run.
    pub timeout: Duration,
    /// Whether what it leaves behind is killed when it ends.
    pub alone: bool,
}

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with this code.
    Exited(i32),
    /// By a signal that did not come from here, by its number.
    Signalled(i32),
    /// It was killed at its timeout.
    TimedOut,
    /// It was not started because of what it is: no such user or program, not safe, or the kernel
    /// will not run it.
    Refused(Refused),
    /// It was not started because of what passes, such as a lack of memory or descriptors.
    NotStarted(String),
}

impl End {
    /// Whether it ended by itself with code 0.
    pub fn is_success(&self) -> bool {
        *self == Self::Exited(0)
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exited(code) => write!(f, "exit code {code}"),
            Self::Signalled(signal) => write!(f, "killed by signal {signal}"),
            Self::TimedOut => f.write_str("timed out and was killed"),
            Self::Refused(why) => write!(f, "not started: {why}"),
            Self::NotStarted(why) => write!(f, "not started: {why}"),
        }
    }
}

/// What became of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ran {
    /// How it ended.
    pub end: End,
    /// From the start of the check to the end.
    pub duration: Duration,
    /// The first bytes of standard output and standard error, as they came: [`MAX_OUTPUT`] of
    /// them, or as many as [`Command::run_keeping`] was told.
    pub output: String,
}

impl Ran {
    /// The last line of the output that is not blank, without control characters; empty if there
    /// is none.
    pub fn last_line(&self) -> String {
        let line = self.output.lines().rev().find(|line| !line.trim().is_empty());
        line.unwrap_or_default().trim().chars().filter(|c| !c.is_control()).collect()
    }
}
