//! Metrics in Prometheus's text format (version 0.0.4): a snapshot of counters in, text out.
//!
//! [`families()`] is the registry: the one list of what there is, each with what it takes from a
//! [`Snapshot`]. Values are cumulative or current; Prometheus makes its own rates. `docs/metrics.md`
//! is checked against the list. [`history`] makes rates and the last minutes for people.
//!
//! Must not know: who scrapes, map handles.

mod families;
pub mod history;
mod snapshot;
#[cfg(test)]
mod tests;

pub use families::families;
pub use snapshot::{
    Check, Dataplane, LogTarget, Notifications, Part, Prefixes, Process, RealServer, Reloads,
    Service, Snapshot, VrrpFrames, VrrpInstance,
};

/// What the values of a family do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// They only grow, until what they count is made anew.
    Counter,
    /// They are what is now.
    Gauge,
}

impl Kind {
    fn name(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

/// Metrics of one name.
pub struct Family {
    /// Its name; a counter's ends in `_total`.
    pub name: &'static str,
    /// What its values do.
    pub kind: Kind,
    /// Names of its labels, in the order in which samples give their values.
    pub labels: &'static [&'static str],
    /// What it tells, in one line.
    pub help: &'static str,
    /// Adds its samples.
    samples: fn(&Snapshot, &mut Samples<'_>),
}

/// Where a family puts its samples.
struct Samples<'a> {
    family: &'a Family,
    text: &'a mut String,
}

impl Samples<'_> {
    /// One sample; `values` are those of the family's labels.
    fn add(&mut self, values: &[&str], value: u64) {
        self.add_text(values, &value.to_string());
    }

    /// The same with a value that need not be whole.
    fn add_real(&mut self, values: &[&str], value: f64) {
        self.add_text(values, &value.to_string());
    }

    fn add_text(&mut self, values: &[&str], value: &str) {
        debug_assert_eq!(values.len(), self.family.labels.len(), "{}", self.family.name);
        self.text.push_str(self.family.name);
        for (n, (label, value)) in self.family.labels.iter().zip(values).enumerate() {
            self.text.push(if n == 0 { '{' } else { ',' });
            self.text.push_str(label);
            self.text.push_str("=\"");
            escape(value, self.text);
            self.text.push('"');
        }
        let close = if values.is_empty() { "" } else { "}" };
        self.text.push_str(&format!("{close} {value}\n"));
    }
}

/// A label's value: backslash, quote and line feed are escaped.
fn escape(value: &str, text: &mut String) {
    for letter in value.chars() {
        match letter {
            '\\' => text.push_str("\\\\"),
            '"' => text.push_str("\\\""),
            '\n' => text.push_str("\\n"),
            other => text.push(other),
        }
    }
}

/// The whole text, in the order of [`families()`].
pub fn render(snapshot: &Snapshot) -> String {
    let mut text = String::new();
    for family in families() {
        let Family { name, kind, help, .. } = family;
        text.push_str(&format!("# HELP {name} {help}\n# TYPE {name} {}\n", kind.name()));
        (family.samples)(snapshot, &mut Samples { family, text: &mut text });
    }
    text
}

/// The media type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";
