//! Events become records, and records lines in every target that takes them.
//!
//! An event says how severe it is by the field `severity`, one of syslog's words; without it its
//! level does. The field itself is shown as JSON's key of that name only.
//!
//! Must not know: queues, files, sockets.

use std::fmt::Debug;
use std::io::IsTerminal;
use std::sync::Arc;

use jiff::Timestamp;
use serde_json::Value as Json;
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::format::{self, Record, Value};
use super::sink::Sink;
use crate::model::{LogFormat, LogSink, Severity};

/// All targets, and how lines look there.
#[derive(Debug)]
pub(super) struct Distribution {
    pub(super) node: String,
    pub(super) format: LogFormat,
    pub(super) sinks: Vec<Arc<Sink>>,
}

impl<S: Subscriber> Layer<S> for Distribution {
    fn on_event(&self, event: &Event<'_>, _context: Context<'_, S>) {
        let metadata = event.metadata();
        let mut record = Record {
            at: Timestamp::now(),
            level: *metadata.level(),
            severity: format::severity_of(*metadata.level()),
            target: metadata.target().to_owned(),
            message: String::new(),
            fields: Vec::new(),
        };
        event.record(&mut Reader(&mut record));
        self.distribute(&record);
    }
}

impl Distribution {
    fn distribute(&self, record: &Record) {
        let (mut message, mut json) = (None, None);
        for sink in self.sinks.iter().filter(|sink| sink.takes(record.severity)) {
            if self.format == LogFormat::Json && !sink.is_syslog() {
                let json = json.get_or_insert_with(|| format::json(record, &self.node));
                sink.send(record.at, record.severity, json);
                continue;
            }
            let message = message.get_or_insert_with(|| format::message(record));
            if sink.is_syslog() || sink.is_journal() {
                sink.send(record.at, record.severity, message);
                continue;
            }
            let is_stderr = sink.target().sink == LogSink::Stderr;
            let colours = is_stderr && std::io::stderr().is_terminal();
            sink.send(record.at, record.severity, &format::text(record, message, colours));
        }
    }
}

/// Takes the fields of an event.
struct Reader<'a>(&'a mut Record);

impl Reader<'_> {
    fn put(&mut self, field: &Field, value: Value) {
        match (field.name(), value) {
            ("message", Value::Quoted(text) | Value::Plain(text)) => self.0.message = text,
            // What the crate `log` tells comes with these.
            ("log.target", Value::Quoted(text)) => self.0.target = text,
            (name, _) if name.starts_with("log.") => {}
            ("severity", Value::Quoted(word)) if Severity::named(&word).is_some() => {
                self.0.severity = Severity::named(&word).unwrap_or(self.0.severity);
            }
            (name, value) => self.0.fields.push((name, value)),
        }
    }
}

impl Visit for Reader<'_> {
    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.put(field, Value::Plain(format!("{value:?}")));
    }

    fn record_str(&mut self, field: &Field, value: &str) {
        self.put(field, Value::Quoted(value.to_owned()));
    }

    fn record_error(&mut self, field: &Field, value: &(dyn std::error::Error + 'static)) {
        self.put(field, Value::Plain(value.to_string()));
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.put(field, Value::Bare(value.into()));
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.put(field, Value::Bare(value.into()));
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.put(field, Value::Bare(value.into()));
    }

    fn record_f64(&mut self, field: &Field, value: f64) {
        self.put(field, Value::Bare(Json::from(value)));
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::model::LogTarget;

    #[test]
    fn an_event_goes_to_every_target_that_takes_it() {
        let folder = std::env::temp_dir().join(format!("lb-layer-{}", std::process::id()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let open = |name: &str, max_level| {
            let target = LogTarget { sink: LogSink::File(folder.join(name)), max_level };
            Arc::new(Sink::open(&target, "lb01", "lb").expect("a sink"))
        };
        let sinks = vec![open("all", Severity::Debug), open("severe", Severity::Alert)];
        let layer =
            Distribution { node: "lb01".to_owned(), format: LogFormat::Text, sinks: sinks.clone() };
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            tracing::info!(up = true, name = "web", count = 3, "told");
            let address = std::net::Ipv4Addr::LOCALHOST;
            tracing::warn!(severity = "alert", %address, "Server {} is DOWN", "web/a");
            tracing::info!(severity = "loud", "no such word");
        });
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        for sink in &sinks {
            sink.close();
            sink.wait_end(until);
        }
        let read = |name: &str| std::fs::read_to_string(folder.join(name)).expect("a file");
        let (all, severe) = (read("all"), read("severe"));
        let _gone = std::fs::remove_dir_all(&folder);
        let lines: Vec<&str> = all.lines().collect();
        assert_eq!(lines.len(), 3, "{all}");
        assert!(lines[0].ends_with(": told up=true name=\"web\" count=3"), "{all}");
        assert!(lines[1].ends_with(": Server web/a is DOWN address=127.0.0.1"), "{all}");
        assert!(lines[2].ends_with(": no such word severity=\"loud\""), "{all}");
        assert_eq!(severe.lines().collect::<Vec<_>>(), [lines[1]]);
    }
}
