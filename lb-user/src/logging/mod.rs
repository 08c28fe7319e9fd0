//! The log of a process: every event to every target of `log.to`.
//!
//! [`start`] sets it up, once. A [`Logger`] changes level, format and targets while the process
//! runs, opens files anew, and says what was lost. `layer` turns events into lines (`format`), and
//! a [`Sink`] for each target, with a thread of its own, writes them (`output`) from its `queue`:
//! whoever logs never waits for who reads.
//!
//! An event's severity is that of its level (error: err, warn: warning, info: info, debug and trace:
//! debug), or what its field `severity` says. HAProxy's words for state changes have HAProxy's
//! severities: a server that goes down is `alert`, one that comes up `notice`, a service without any
//! server `emerg`:
//!
//! ```text
//! tracing::warn!(severity = "alert", "Server {service}/{server} is DOWN, reason: {reason}");
//! ```
//!
//! Must not know: what is logged, the configuration file.

mod format;
mod layer;
mod output;
mod queue;
mod sink;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Registry, reload};

use crate::model::{Log, LogLevel};
use layer::Distribution;
pub use output::examine;
pub use sink::Sink;

/// The running log. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Logger {
    level: reload::Handle<LevelFilter, Registry>,
    distribution: reload::Handle<Distribution, Filtered>,
    state: Arc<Mutex<State>>,
    tag: &'static str,
}

type Filtered = Layered<reload::Layer<LevelFilter, Registry>, Registry>;

#[derive(Debug)]
struct State {
    node: String,
    sinks: Vec<Arc<Sink>>,
    /// Targets that were opened for a file which is not in force yet.
    prepared: Vec<Arc<Sink>>,
    /// Lines that sinks lost which are no more, by their targets' names.
    lost_before: BTreeMap<String, u64>,
}

/// Has what waits written, for a moment, when it is dropped: at the end of the process.
#[derive(Debug)]
pub struct Guard(Logger);

impl Drop for Guard {
    fn drop(&mut self) {
        let sinks = self.0.sinks();
        sinks.iter().for_each(|sink| sink.close());
        let until = Instant::now() + GOODBYE;
        sinks.iter().for_each(|sink| sink.wait_end(until));
    }
}

/// What became of a target that was to be opened anew.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reopened {
    /// The target's name.
    pub target: String,
    /// Why it was not.
    pub error: Option<String>,
}

/// Sets up the log of this process. `tag` is the program's name for syslog.
///
/// # Errors
/// When a file cannot be opened, or there is a log already.
pub fn start(log: &Log, node: &str, tag: &'static str) -> anyhow::Result<(Logger, Guard)> {
    let sinks = open(log, node, tag, &[]).map_err(anyhow::Error::msg)?;
    let (level, level_handle) = reload::Layer::new(filter(log.level));
    let distribution =
        Distribution { node: node.to_owned(), format: log.format, sinks: sinks.clone() };
    let (layer, distribution) = reload::Layer::new(distribution);
    tracing_subscriber::registry().with(level).with(layer).try_init()?;
    let state =
        State { node: node.to_owned(), sinks, prepared: Vec::new(), lost_before: BTreeMap::new() };
    let state = Arc::new(Mutex::new(state));
    let logger = Logger { level: level_handle, distribution, state, tag };
    Ok((logger.clone(), Guard(logger)))
}

impl Logger {
    /// Opens the targets of a file that may come into force, so that [`Self::set`] neither waits
    /// nor fails.
    ///
    /// # Errors
    /// When one cannot be opened; then nothing has changed.
    pub fn prepare(&self, log: &Log, node: &str) -> Result<(), String> {
        let sinks = {
            let state = self.state();
            // Another node writes other lines: nothing that is open now will do.
            if state.node == node { state.sinks.clone() } else { Vec::new() }
        };
        let prepared = open(log, node, self.tag, &sinks)?;
        self.state().prepared = prepared;
        Ok(())
    }

    /// The file that [`Self::prepare`] was asked for does not come into force.
    pub fn forget(&self) {
        self.state().prepared.clear();
    }

    /// From now on, the log is as this says. A target that cannot be opened is left out and told.
    pub fn set(&self, log: &Log, node: &str) {
        let mut state = self.state();
        let mut known = std::mem::take(&mut state.prepared);
        if state.node == node {
            known.extend(state.sinks.iter().cloned());
        }
        drop(state);
        let mut sinks = Vec::new();
        let mut failed = Vec::new();
        for target in &log.targets {
            let one = Log { targets: vec![target.clone()], ..log.clone() };
            match open(&one, node, self.tag, &known) {
                Ok(opened) => sinks.extend(opened),
                Err(error) => failed.push(error),
            }
        }
        let mut state = self.state();
        for gone in std::mem::take(&mut state.sinks) {
            if !sinks.iter().any(|sink| Arc::ptr_eq(sink, &gone)) {
                *state.lost_before.entry(gone.name().to_owned()).or_default() += gone.lost();
            }
        }
        state.sinks.clone_from(&sinks);
        node.clone_into(&mut state.node);
        drop(state);
        let distribution = Distribution { node: node.to_owned(), format: log.format, sinks };
        // Both fail only when the subscriber is gone, and then there is nobody to tell.
        let _gone = self.distribution.reload(distribution);
        let _gone = self.level.reload(filter(log.level));
        for error in failed {
            tracing::error!("{error}");
        }
    }

    /// Opens every target anew, after files were renamed. Waits for the threads that write, so not
    /// for a thread that must go on.
    pub fn reopen(&self) -> Vec<Reopened> {
        let asked: Vec<_> = self.sinks().into_iter().map(|sink| (sink.reopen(), sink)).collect();
        let until = Instant::now() + PATIENCE;
        let answered = asked.into_iter().map(|(answer, sink)| {
            let left = until.saturating_duration_since(Instant::now());
            let error = match answer.recv_timeout(left) {
                Ok(Ok(())) => None,
                Ok(Err(error)) => Some(error.to_string()),
                Err(_) => Some(format!("its writer has been busy for {PATIENCE:?}")),
            };
            Reopened { target: sink.name().to_owned(), error }
        });
        answered.collect()
    }

    /// Lines that each target lost so far.
    pub fn lost(&self) -> Vec<(String, u64)> {
        let state = self.state();
        let all = |sink: &Arc<Sink>| {
            // A target that was opened anew goes on counting.
            let before = state.lost_before.get(sink.name()).copied().unwrap_or(0);
            (sink.name().to_owned(), before + sink.lost())
        };
        state.sinks.iter().map(all).collect()
    }

    /// What is wrong with targets now.
    pub fn troubles(&self) -> Vec<String> {
        let sinks = self.sinks();
        let trouble = |sink: &Arc<Sink>| {
            let trouble = sink.trouble()?;
            Some(format!("log to {}: lines cannot be written: {trouble}", sink.name()))
        };
        sinks.iter().filter_map(trouble).collect()
    }

    /// Every target, for lines that are no events: access logs.
    pub fn sinks(&self) -> Vec<Arc<Sink>> {
        self.state().sinks.clone()
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The sinks of a file: those that are open already, and new ones.
fn open(
    log: &Log,
    node: &str,
    tag: &'static str,
    known: &[Arc<Sink>],
) -> Result<Vec<Arc<Sink>>, String> {
    let sinks = log.targets.iter().map(|target| {
        if let Some(sink) = known.iter().find(|sink| sink.target() == target) {
            return Ok(Arc::clone(sink));
        }
        let opened = Sink::open(target, node, tag);
        opened.map(Arc::new).map_err(|error| format!("log.to: {}: {error}", target.sink))
    });
    sinks.collect()
}

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}

/// How long the end of the process waits for lines.
const GOODBYE: Duration = Duration::from_secs(1);
/// How long a target may take to be opened anew.
const PATIENCE: Duration = Duration::from_secs(5);
