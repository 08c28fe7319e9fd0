//! The section `log`: defaults, and what each target needs.
//!
//! Must not know: how a line is written, whether a file can be opened.

use super::super::problem::Problems;
use super::super::raw::{At, File, LogTarget, Written};
use crate::model::{self, Facility, LogSink, Severity};
use std::collections::HashSet;

/// What the section means.
pub(super) fn log(file: &File, problems: &Problems) -> Option<model::Log> {
    let default = model::Log::default();
    let targets = match &file.log_to {
        Written::Absent => default.targets,
        Written::Bad => return None,
        Written::Is(At { value, .. }) => {
            let mut seen = HashSet::new();
            let targets = value.iter().filter_map(|raw| {
                let target = target(raw, problems)?;
                if !seen.insert(target.sink.to_string()) {
                    let message = format!("{} is listed twice", target.sink);
                    problems.error(&raw.place, message);
                }
                Some(target)
            });
            let targets: Vec<_> = targets.collect();
            if targets.len() != value.len() {
                return None;
            }
            targets
        }
    };
    Some(model::Log {
        level: file.log_level.value_or(default.level),
        format: file.log_format.value_or(default.format),
        targets,
    })
}

fn target(raw: &LogTarget, problems: &Problems) -> Option<model::LogTarget> {
    let max_level = raw.max_level.value_or(Severity::Debug);
    if raw.is_stderr {
        return Some(model::LogTarget { sink: LogSink::Stderr, max_level });
    }
    let sink = match (&raw.syslog, &raw.file) {
        (Written::Bad, _) | (_, Written::Bad) => return None,
        (Written::Is(address), Written::Absent) => LogSink::Syslog {
            address: address.value.clone(),
            facility: raw.facility.value_or(Facility::DAEMON),
            min_level: raw.min_level.value_or(Severity::Emerg),
        },
        (Written::Absent, Written::Is(path)) => {
            let mut is_good = true;
            let places = [("facility", raw.facility.place()), ("min_level", raw.min_level.place())];
            for (key, place) in places {
                if let Some(place) = place {
                    problems.error(place, format!("`{key}` is of syslog; a file has none"));
                    is_good = false;
                }
            }
            if !is_good {
                return None;
            }
            LogSink::File(path.value.clone())
        }
        (Written::Absent, Written::Absent) => {
            problems.error(&raw.place, NEITHER);
            return None;
        }
        (Written::Is(_), Written::Is(_)) => {
            problems.error(&raw.place, "has both `syslog` and `file`; write two targets");
            return None;
        }
    };
    Some(model::LogTarget { sink, max_level })
}

const NEITHER: &str = "has neither `syslog` nor `file`; write such as {syslog: /dev/log}";
