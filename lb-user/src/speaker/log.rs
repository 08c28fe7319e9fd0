//! The speaker's log: where the controller says, changed by a thread that may wait for files.
//!
//! Until a controller has said something, and when it names no other target, lines go to standard
//! error, which is the daemon's.
//!
//! Must not know: VRRP, the configuration file.

use std::sync::mpsc::{Sender, channel};

use serde::{Deserialize, Serialize};

use crate::logging::Logger;
use crate::model::{
    Facility, Log, LogFormat, LogLevel, LogSink, LogTarget, Severity, SyslogAddress,
};

/// The program's name for syslog.
pub const TAG: &str = "lb-speaker";

/// The `log` section of the controller, in words.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogSettings {
    /// Name of the node.
    pub node: String,
    /// The least important level that is written.
    pub level: String,
    /// `text` or `json`.
    pub format: String,
    /// Where lines go.
    pub targets: Vec<Target>,
}

/// Where lines go.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// The path of a file.
    pub file: Option<String>,
    /// A syslog server: `ip:port`, or the path of a socket. With neither, it is standard error.
    pub syslog: Option<String>,
    /// Its facility.
    pub facility: String,
    /// The least severe that is sent.
    pub max_level: String,
    /// What is more severe is sent as this.
    pub min_level: String,
}

impl LogSettings {
    /// What the speaker is told.
    pub fn of(log: &Log, node: &str) -> Self {
        let target = |target: &LogTarget| {
            let words =
                Target { max_level: target.max_level.name().to_owned(), ..Target::default() };
            match &target.sink {
                LogSink::Stderr => words,
                LogSink::File(path) => {
                    Target { file: Some(path.to_string_lossy().into_owned()), ..words }
                }
                LogSink::Syslog { address, facility, min_level } => Target {
                    syslog: Some(address.to_string()),
                    facility: facility.name().to_owned(),
                    min_level: min_level.name().to_owned(),
                    ..words
                },
            }
        };
        Self {
            node: node.to_owned(),
            level: log.level.name().to_owned(),
            format: log.format.name().to_owned(),
            targets: log.targets.iter().map(target).collect(),
        }
    }

    /// What it means; a word that is not known is taken for the usual one.
    pub fn log(&self) -> Log {
        let severity = |word: &str, usual| Severity::named(word).unwrap_or(usual);
        let target = |target: &Target| {
            let sink = match (&target.file, &target.syslog) {
                (Some(path), _) => LogSink::File(path.into()),
                (None, Some(address)) => LogSink::Syslog {
                    address: match address.parse() {
                        Ok(address) => SyslogAddress::Udp(address),
                        Err(_) => SyslogAddress::Unix(address.into()),
                    },
                    facility: Facility::named(&target.facility).unwrap_or(Facility::DAEMON),
                    min_level: severity(&target.min_level, Severity::Emerg),
                },
                (None, None) => LogSink::Stderr,
            };
            LogTarget { sink, max_level: severity(&target.max_level, Severity::Debug) }
        };
        let level = LogLevel::ALL.into_iter().find(|level| level.name() == self.level);
        let is_json = self.format == LogFormat::Json.name();
        Log {
            level: level.unwrap_or(LogLevel::Info),
            format: if is_json { LogFormat::Json } else { LogFormat::Text },
            targets: self.targets.iter().map(target).collect(),
        }
    }
}

/// Changes the log without anybody waiting for it: opening a file may take as long as it likes.
#[derive(Debug)]
pub(super) struct Keeper(Sender<Change>);

enum Change {
    Set(Box<LogSettings>),
    Reopen,
}

impl Keeper {
    /// Starts the thread.
    pub(super) fn start(logger: Logger) -> std::io::Result<Self> {
        let (sender, changes) = channel();
        let work = move || {
            for change in changes {
                match change {
                    Change::Set(settings) => logger.set(&settings.log(), &settings.node),
                    Change::Reopen => {
                        for reopened in logger.reopen() {
                            if let Some(error) = reopened.error {
                                tracing::error!(log = reopened.target, "not opened anew: {error}");
                            }
                        }
                    }
                }
            }
        };
        std::thread::Builder::new().name("log keeper".to_owned()).spawn(work)?;
        Ok(Self(sender))
    }

    /// The log is as this says.
    pub(super) fn set(&self, settings: Box<LogSettings>) {
        // Without its thread the log stays as it is.
        let _gone = self.0.send(Change::Set(settings));
    }

    /// Files were renamed.
    pub(super) fn reopen(&self) {
        let _gone = self.0.send(Change::Reopen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_speaker_is_told_means_the_same() {
        let syslog = |address, facility: &str| LogSink::Syslog {
            address,
            facility: Facility::named(facility).expect("a facility"),
            min_level: Severity::Crit,
        };
        let sinks = [
            LogSink::Stderr,
            LogSink::File("/var/log/lb/lb.log".into()),
            syslog(SyslogAddress::Udp(([127, 0, 0, 1], 514).into()), "local0"),
            syslog(SyslogAddress::Unix("/dev/log".into()), "daemon"),
        ];
        let target = |sink| LogTarget { sink, max_level: Severity::Notice };
        let targets = sinks.into_iter().map(target).collect();
        let log = Log { level: LogLevel::Debug, format: LogFormat::Json, targets };
        let told = LogSettings::of(&log, "lb01");
        assert_eq!(told.log(), log);
        assert_eq!(told.node, "lb01");
        let text = serde_json::to_string(&told).expect("JSON");
        assert_eq!(serde_json::from_str::<LogSettings>(&text).expect("the same"), told);
    }
}
