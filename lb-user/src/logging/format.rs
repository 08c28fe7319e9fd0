//! What a log line looks like: text, JSON, syslog's head. Pure.
//!
//! Must not know: where lines go.

use std::fmt::Write;
use std::os::unix::fs::MetadataExt;

use jiff::{Timestamp, Zoned};
use serde_json::{Map, Value as Json};
use tracing::Level;

use crate::model::{Facility, Severity};

/// One event.
#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) at: Timestamp,
    pub(super) level: Level,
    pub(super) severity: Severity,
    /// The module that tells.
    pub(super) target: String,
    pub(super) message: String,
    /// In the order in which they were written.
    pub(super) fields: Vec<(&'static str, Value)>,
}

/// The value of a field.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Value {
    /// Text that the reader sees in quotes.
    Quoted(String),
    /// Text that is shown as it is.
    Plain(String),
    /// A number, or true or false.
    Bare(Json),
}

/// Who sends to a syslog server.
#[derive(Clone, Debug)]
pub(super) struct Origin {
    pub(super) facility: Facility,
    pub(super) host: Option<String>,
    pub(super) tag: String,
    pub(super) pid: u32,
}

/// How severe an event of this level is, unless it says so itself.
pub(super) fn severity_of(level: Level) -> Severity {
    match level {
        Level::ERROR => Severity::Err,
        Level::WARN => Severity::Warning,
        Level::INFO => Severity::Info,
        Level::DEBUG | Level::TRACE => Severity::Debug,
    }
}

/// The message and the fields in one line.
pub(super) fn message(record: &Record) -> String {
    let mut line = String::new();
    escape(&record.message, &mut line);
    for (name, value) in &record.fields {
        if !line.is_empty() {
            line.push(' ');
        }
        line.push_str(name);
        line.push('=');
        match value {
            Value::Quoted(text) => escape(&format!("{text:?}"), &mut line),
            Value::Plain(text) => escape(text, &mut line),
            Value::Bare(json) => line.push_str(&json.to_string()),
        }
    }
    line
}

/// A line for people and files: time, level, module, message. With colours on a terminal.
pub(super) fn text(record: &Record, message: &str, colours: bool) -> String {
    let Record { at, level, target, .. } = record;
    let (on, off) = match *level {
        _ if !colours => ("", ""),
        Level::ERROR => ("\x1b[31m", "\x1b[0m"),
        Level::WARN => ("\x1b[33m", "\x1b[0m"),
        Level::INFO => ("\x1b[32m", "\x1b[0m"),
        _ => ("\x1b[34m", "\x1b[0m"),
    };
    format!("{at:.6} {on}{level:>5}{off} {target}: {message}")
}

/// One JSON object: the event's own keys first, then its fields.
pub(super) fn json(record: &Record, node: &str) -> String {
    let mut object = Map::new();
    let mut put = |key: &str, text: String| object.insert(key.to_owned(), Json::String(text));
    put("timestamp", format!("{:.6}", record.at));
    put("level", record.level.to_string());
    put("severity", record.severity.name().to_owned());
    put("node", node.to_owned());
    put("message", record.message.clone());
    put("target", record.target.clone());
    for (name, value) in &record.fields {
        let value = match value {
            Value::Quoted(text) | Value::Plain(text) => Json::String(text.clone()),
            Value::Bare(json) => json.clone(),
        };
        let mut key = (*name).to_owned();
        while object.contains_key(&key) {
            key.push('_');
        }
        object.insert(key, value);
    }
    Json::Object(object).to_string()
}

/// A datagram of RFC 3164, as HAProxy sends it. To the daemon of this host without the host's name.
pub(super) fn syslog(origin: &Origin, at: &Zoned, severity: Severity, body: &str) -> Vec<u8> {
    let priority = origin.facility.number() * 8 + severity as u8;
    let mut line = format!("<{priority}>{} ", at.strftime("%b %e %H:%M:%S"));
    if let Some(host) = &origin.host {
        line.push_str(host);
        line.push(' ');
    }
    // Writing to a string does not fail.
    let _ = write!(line, "{}[{}]: ", origin.tag, origin.pid);
    escape(body, &mut line);
    let mut end = line.len().min(LONGEST);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    line.truncate(end);
    line.into_bytes()
}

/// Whether standard error is a stream of the journal (systemd.exec(5), `$JOURNAL_STREAM`).
pub(super) fn is_journal() -> bool {
    let told = std::env::var("JOURNAL_STREAM").unwrap_or_default();
    let Some((device, inode)) = told.split_once(':') else { return false };
    // The same object that this process has as its second descriptor.
    std::fs::metadata("/proc/self/fd/2")
        .is_ok_and(|stderr| device == stderr.dev().to_string() && inode == stderr.ino().to_string())
}

/// Control characters would end a line, or reach somebody's terminal.
fn escape(text: &str, line: &mut String) {
    for letter in text.chars() {
        if letter.is_control() {
            line.extend(letter.escape_default());
        } else {
            line.push(letter);
        }
    }
}

/// What syslog servers take in one message (rsyslog's default).
const LONGEST: usize = 8192;

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    fn record() -> Record {
        Record {
            at: "2026-11-21T08:05:09.123456789Z".parse().expect("a time"),
            level: Level::WARN,
            severity: Severity::Alert,
            target: "lb_user::health".to_owned(),
            message: "Server web/a is DOWN\nreally".to_owned(),
            fields: vec![
                ("address", Value::Plain("10.0.0.1:80".to_owned())),
                ("detail", Value::Quoted("a \"b\"\u{1b}".to_owned())),
                ("count", Value::Bare(3.into())),
                ("node", Value::Plain("other".to_owned())),
            ],
        }
    }

    #[test]
    fn text_is_one_line_whatever_is_told() {
        let line = text(&record(), &message(&record()), false);
        assert_eq!(
            line,
            "2026-11-21T08:05:09.123456Z  WARN lb_user::health: Server web/a is DOWN\\nreally \
             address=10.0.0.1:80 detail=\"a \\\"b\\\"\\u{1b}\" count=3 node=other"
        );
        let coloured = text(&record(), "x", true);
        assert!(coloured.contains("\x1b[33m WARN\x1b[0m"), "{coloured:?}");
    }

    #[test]
    fn json_keeps_types_and_its_own_keys() {
        let value: Json = serde_json::from_str(&json(&record(), "lb01")).expect("JSON");
        assert_eq!(value["timestamp"], "2026-11-21T08:05:09.123456Z");
        assert_eq!((&value["level"], &value["severity"]), (&"WARN".into(), &"alert".into()));
        assert_eq!(value["message"], "Server web/a is DOWN\nreally");
        assert_eq!((&value["node"], &value["node_"]), (&"lb01".into(), &"other".into()));
        assert_eq!(value["detail"], "a \"b\"\u{1b}");
        assert_eq!(value["count"], 3);
    }

    #[test]
    fn a_datagram_has_haproxys_head() {
        let origin = |host: Option<&str>| Origin {
            facility: Facility::named("local0").expect("a facility"),
            host: host.map(str::to_owned),
            tag: "lb".to_owned(),
            pid: 7,
        };
        let at = record().at.to_zoned(TimeZone::fixed(jiff::tz::offset(1)));
        let sent = |origin: &Origin, body: &str| {
            String::from_utf8(syslog(origin, &at, Severity::Alert, body)).expect("text")
        };
        // 16 * 8 + 1; the time is the host's own, the day of the month is padded with a space.
        assert_eq!(sent(&origin(Some("lb01")), "x"), "<129>Nov 21 09:05:09 lb01 lb[7]: x");
        assert_eq!(sent(&origin(None), "a\nb"), "<129>Nov 21 09:05:09 lb[7]: a\\nb");
        let long = sent(&origin(None), &"é".repeat(LONGEST));
        assert!(long.len() <= LONGEST && long.len() > LONGEST - 4, "{}", long.len());
    }
}
