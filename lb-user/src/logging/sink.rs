//! One target of the log: a queue, and the thread that writes what is in it.
//!
//! Whoever has a line gives it to [`Sink::send`], which never waits; access logs can do the same.
//! When a target fails, its thread tries again and lines gather in the queue; those that find no
//! room, or that cannot be kept, are counted.
//!
//! Must not know: events, the format of their text.

use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use jiff::tz::TimeZone;

use super::format::{self, Origin};
use super::output::{Failure, Output};
use super::queue::{Queue, Work};
use crate::model::{LogSink, LogTarget, Severity, SyslogAddress};
use crate::watchdog::{self, Pulse, Weight};

/// A target that takes lines.
#[derive(Debug)]
pub struct Sink {
    target: LogTarget,
    name: String,
    frame: Frame,
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    queue: Queue,
    trouble: Mutex<Trouble>,
}

/// What is put around a line.
#[derive(Debug)]
enum Frame {
    /// Its end.
    Line,
    /// Its severity, as systemd reads it (sd-daemon(3)), and its end.
    Journal,
    /// A datagram of its own with a head.
    Syslog { origin: Origin, zone: TimeZone, min_level: Severity },
}

/// What is wrong with a target now.
#[derive(Debug, Default)]
struct Trouble {
    now: Option<String>,
    /// When it was told last.
    told: Option<Instant>,
    /// What is wrong now was told.
    is_told: bool,
}

impl Sink {
    /// Opens the target and starts its thread. `node` and `tag` say whose lines these are.
    ///
    /// # Errors
    /// When a file cannot be opened, or no thread can be made.
    pub fn open(target: &LogTarget, node: &str, tag: &str) -> io::Result<Self> {
        let output = Output::open(&target.sink)?;
        let frame = match &target.sink {
            LogSink::Stderr if format::is_journal() => Frame::Journal,
            LogSink::Stderr | LogSink::File(_) => Frame::Line,
            LogSink::Syslog { address, facility, min_level } => {
                let host = match address {
                    SyslogAddress::Udp(_) => Some(node.to_owned()),
                    // The daemon of this host knows where it is.
                    SyslogAddress::Unix(_) => None,
                };
                let origin = Origin {
                    facility: *facility,
                    host,
                    tag: tag.to_owned(),
                    pid: std::process::id(),
                };
                Frame::Syslog { origin, zone: TimeZone::system(), min_level: *min_level }
            }
        };
        let (shared, name) = (Arc::new(Shared::default()), target.sink.to_string());
        let writer = Writer {
            output,
            shared: Arc::clone(&shared),
            pulse: watchdog::part(format!("log to {name}"), STUCK, Weight::Useful),
            name: name.clone(),
        };
        std::thread::Builder::new().name("log".to_owned()).spawn(move || writer.run())?;
        Ok(Self { target: target.clone(), name, frame, shared })
    }

    /// What it was opened for.
    pub fn target(&self) -> &LogTarget {
        &self.target
    }

    /// Its name, which no other target has.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether lines of this severity go here.
    pub fn takes(&self, severity: Severity) -> bool {
        severity <= self.target.max_level
    }

    /// Whether lines are read by systemd, which knows when they come and how severe they are.
    pub(super) fn is_journal(&self) -> bool {
        matches!(self.frame, Frame::Journal)
    }

    /// Whether lines are datagrams that begin with a time and a name.
    pub(super) fn is_syslog(&self) -> bool {
        matches!(self.frame, Frame::Syslog { .. })
    }

    /// Writes a line without its end, if it is severe enough. Never waits.
    pub fn send(&self, at: Timestamp, severity: Severity, body: &str) {
        if !self.takes(severity) {
            return;
        }
        let line = match &self.frame {
            Frame::Line => format!("{body}\n").into_bytes(),
            Frame::Journal => format!("<{}>{body}\n", severity as u8).into_bytes(),
            Frame::Syslog { origin, zone, min_level } => {
                let at = at.to_zoned(zone.clone());
                format::syslog(origin, &at, severity.max(*min_level), body)
            }
        };
        self.shared.queue.push(line);
    }

    /// Lines that were lost so far.
    pub fn lost(&self) -> u64 {
        self.shared.queue.lost()
    }

    /// What is wrong with it now.
    pub fn trouble(&self) -> Option<String> {
        self.shared.trouble().now.clone()
    }

    /// Has it opened anew; the answer comes through the channel.
    pub(super) fn reopen(&self) -> Receiver<io::Result<()>> {
        let (done, answer) = channel();
        self.shared.queue.reopen(done);
        answer
    }

    /// Takes no more lines; those that wait are still written, until then at most.
    pub(super) fn close(&self) {
        self.shared.queue.close();
    }

    /// Waits for the end after [`Self::close`].
    pub(super) fn wait_end(&self, until: Instant) {
        self.shared.queue.wait_end(until);
    }
}

impl Drop for Sink {
    fn drop(&mut self) {
        self.close();
    }
}

impl Shared {
    fn trouble(&self) -> MutexGuard<'_, Trouble> {
        self.trouble.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The thread's side.
struct Writer {
    output: Output,
    shared: Arc<Shared>,
    pulse: Pulse,
    name: String,
}

impl Writer {
    fn run(mut self) {
        loop {
            match self.shared.queue.take() {
                Work::Nothing => {}
                Work::End => break,
                Work::Reopen(done) => self.reopen(&done),
                Work::Line(line) => {
                    if !self.deliver(line) {
                        break;
                    }
                }
            }
        }
        self.shared.queue.end();
    }

    /// False when the end has come and the line could not be written.
    fn deliver(&mut self, mut line: Vec<u8>) -> bool {
        let mut pause = FIRST_PAUSE;
        loop {
            self.pulse.begin();
            let written = self.output.write(&mut line);
            self.pulse.rest();
            let error = match written {
                Ok(()) => {
                    self.is_well();
                    return true;
                }
                Err(Failure::Never(error) | Failure::Before(error)) => {
                    self.shared.queue.lose(1);
                    self.fails(&error);
                    return true;
                }
                Err(Failure::Later(error)) => error,
            };
            self.fails(&error);
            match self.shared.queue.interrupted(pause) {
                Work::End => {
                    self.shared.queue.lose(1);
                    return false;
                }
                Work::Reopen(done) => self.reopen(&done),
                Work::Nothing | Work::Line(_) => {}
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    fn reopen(&mut self, done: &Sender<io::Result<()>>) {
        self.pulse.begin();
        let result = self.output.reopen();
        self.pulse.rest();
        // Whoever asked may have gone.
        let _gone = done.send(result);
    }

    /// What a target's trouble says may go to that target: hence at most once a minute.
    fn fails(&self, error: &io::Error) {
        let mut trouble = self.shared.trouble();
        if trouble.now.replace(error.to_string()).is_some() {
            return;
        }
        trouble.is_told = trouble.told.is_none_or(|told| told.elapsed() > TELL_EVERY);
        if trouble.is_told {
            trouble.told = Some(Instant::now());
            drop(trouble);
            tracing::error!(log = self.name, "log lines cannot be written: {error}");
        }
    }

    fn is_well(&self) {
        let mut trouble = self.shared.trouble();
        if trouble.now.take().is_none() || !std::mem::take(&mut trouble.is_told) {
            return;
        }
        drop(trouble);
        let lost = self.shared.queue.lost();
        tracing::info!(log = self.name, lost, "log lines are written again");
    }
}

/// How long one line may take.
const STUCK: Duration = Duration::from_secs(10);
/// Between two attempts.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// From one line about a target's trouble to the next.
const TELL_EVERY: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests;
