//! Where log lines go, how important they must be, and what they look like.
//!
//! Severities and facilities are syslog's (RFC 3164 section 4.1.1), in HAProxy's words.
//!
//! Must not know: serde, YAML, how a line is written.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

/// The `log` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// The least important level that is written.
    pub level: LogLevel,
    /// Text or JSON lines on stderr and in files; syslog's are text.
    pub format: LogFormat,
    /// Where lines go, at least one, each once.
    pub targets: Vec<LogTarget>,
}

impl Default for Log {
    fn default() -> Self {
        let stderr = LogTarget { sink: LogSink::Stderr, max_level: Severity::Debug };
        Self { level: LogLevel::Info, format: LogFormat::Text, targets: vec![stderr] }
    }
}

/// Log levels, most important first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something looks wrong.
    Warn,
    /// Life cycle and state changes.
    Info,
    /// Detail for finding faults.
    Debug,
    /// Everything.
    Trace,
}

impl LogLevel {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Error, Self::Warn, Self::Info, Self::Debug, Self::Trace];

    /// Its name in the file and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
            Self::Trace => "trace",
        }
    }
}

/// Log formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// One readable line an event.
    Text,
    /// One JSON object an event.
    Json,
}

impl LogFormat {
    /// Its name in the file and on the command line.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Text => "text",
            Self::Json => "json",
        }
    }
}

/// One entry of `log.to`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LogTarget {
    /// Where lines go.
    pub sink: LogSink,
    /// The least severe that is sent there.
    pub max_level: Severity,
}

/// Where log lines go.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LogSink {
    /// The daemon's standard error: a terminal, a file, or the journal.
    Stderr,
    /// A file that lines are added to.
    File(PathBuf),
    /// A syslog server, or the one of this host.
    Syslog {
        /// Where it listens.
        address: SyslogAddress,
        /// What kind of program writes.
        facility: Facility,
        /// The most severe that is told: what is more severe is sent as this.
        min_level: Severity,
    },
}

impl fmt::Display for LogSink {
    /// A name that no other sink of a file has.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stderr => f.write_str("stderr"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Syslog { address, facility, .. } => {
                write!(f, "syslog {address} {}", facility.name())
            }
        }
    }
}

/// Where a syslog server listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum SyslogAddress {
    /// UDP.
    Udp(SocketAddr),
    /// A Unix datagram socket.
    Unix(PathBuf),
}

impl fmt::Display for SyslogAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Udp(address) => address.fmt(f),
            Self::Unix(path) => path.display().fmt(f),
        }
    }
}

/// Severities, the most severe first; the number is the one on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// The system is unusable: HAProxy says so when a backend has no server left.
    Emerg,
    /// Somebody has to act at once: HAProxy's "Server ... is DOWN".
    Alert,
    /// Critical.
    Crit,
    /// Something failed.
    Err,
    /// Something looks wrong.
    Warning,
    /// Normal but significant: HAProxy's "Server ... is UP".
    Notice,
    /// For information.
    Info,
    /// For finding faults.
    Debug,
}

impl Severity {
    /// All of them, in order.
    pub const ALL: [Self; 8] = [
        Self::Emerg,
        Self::Alert,
        Self::Crit,
        Self::Err,
        Self::Warning,
        Self::Notice,
        Self::Info,
        Self::Debug,
    ];

    /// HAProxy's word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Emerg => "emerg",
            Self::Alert => "alert",
            Self::Crit => "crit",
            Self::Err => "err",
            Self::Warning => "warning",
            Self::Notice => "notice",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }

    /// The severity that a word names.
    pub fn named(word: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|severity| severity.name() == word)
    }
}

/// Facilities; the number is the one on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Facility(u8);

impl Facility {
    /// What programs in the background use unless they are told otherwise.
    pub const DAEMON: Self = Self(3);
    /// The words of HAProxy's configuration manual (section 4.2, `log`), by their numbers.
    const NAMES: [&str; 24] = [
        "kern", "user", "mail", "daemon", "auth", "syslog", "lpr", "news", "uucp", "cron", "auth2",
        "ftp", "ntp", "audit", "alert", "cron2", "local0", "local1", "local2", "local3", "local4",
        "local5", "local6", "local7",
    ];

    /// The facility of this number, below 24.
    pub const fn new(number: u8) -> Self {
        assert!((number as usize) < Self::NAMES.len());
        Self(number)
    }

    /// Its number.
    pub const fn number(self) -> u8 {
        self.0
    }

    /// Its word.
    pub const fn name(self) -> &'static str {
        Self::NAMES[self.0 as usize]
    }

    /// The facility that a word names.
    pub fn named(word: &str) -> Option<Self> {
        (0..24).map(Self).find(|facility| facility.name() == word)
    }
}
