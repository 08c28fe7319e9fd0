//! The log on stderr: text or JSON lines, with a level that a reload can change.
//!
//! Must not know: what is logged.

use std::io::IsTerminal;

use tracing::level_filters::LevelFilter;
use tracing_appender::non_blocking::{NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

use crate::model::{Log, LogFormat, LogLevel};

/// Changes the level of the log that [`start`] set up.
#[derive(Clone, Debug)]
pub struct LevelHandle(reload::Handle<LevelFilter, Registry>);

impl LevelHandle {
    /// From now on, nothing below `level` is written.
    pub fn set(&self, level: LogLevel) {
        // Fails only when the subscriber is gone, and then there is nobody to tell.
        let _gone = self.0.reload(filter(level));
    }
}

/// Sets up the log of this process, once.
pub fn start(log: Log) -> anyhow::Result<LevelHandle> {
    start_with(log, std::io::stderr)
}

/// The same for a process that must not wait for whoever reads its log: lines that nobody takes are
/// dropped. The log ends with the guard.
pub fn start_patient(log: Log) -> anyhow::Result<WorkerGuard> {
    let builder = NonBlockingBuilder::default().lossy(true).buffered_lines_limit(MOST_LINES);
    let (writer, guard) = builder.finish(std::io::stderr());
    start_with(log, writer)?;
    Ok(guard)
}

fn start_with<W>(log: Log, writer: W) -> anyhow::Result<LevelHandle>
where
    W: for<'w> fmt::MakeWriter<'w> + Send + Sync + 'static,
{
    let (level, handle) = reload::Layer::new(filter(log.level));
    let layer = match log.format {
        LogFormat::Text => {
            fmt::layer().with_writer(writer).with_ansi(std::io::stderr().is_terminal()).boxed()
        }
        LogFormat::Json => fmt::layer().json().flatten_event(true).with_writer(writer).boxed(),
    };
    tracing_subscriber::registry().with(level).with(layer).try_init()?;
    Ok(LevelHandle(handle))
}

/// Lines that wait for a reader.
const MOST_LINES: usize = 4096;

fn filter(level: LogLevel) -> LevelFilter {
    match level {
        LogLevel::Error => LevelFilter::ERROR,
        LogLevel::Warn => LevelFilter::WARN,
        LogLevel::Info => LevelFilter::INFO,
        LogLevel::Debug => LevelFilter::DEBUG,
        LogLevel::Trace => LevelFilter::TRACE,
    }
}
