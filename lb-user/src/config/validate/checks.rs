//! Health checks: defaults, and which check a real server gets.
//!
//! Must not know: services, how probes are done.

use super::super::problem::{Problems, quoted};
use super::super::raw::{At, CheckUse, HealthCheck, Written};
use super::super::units;
use crate::model;
use std::collections::HashMap;
use std::time::Duration;

/// The checks under `health_checks`, and how to resolve a use of one.
pub(super) struct Checks<'a> {
    named: HashMap<&'a str, Option<model::HealthCheck>>,
    problems: &'a Problems,
}

impl<'a> Checks<'a> {
    /// Takes every named check, used or not, so that its faults are told.
    pub(super) fn new(
        raw: &'a [(At<String>, Option<HealthCheck>)],
        problems: &'a Problems,
    ) -> Self {
        let check = |raw: &Option<HealthCheck>| meant(raw.as_ref()?, problems);
        let named = raw.iter().map(|(name, raw)| (name.value.as_str(), check(raw))).collect();
        Self { named, problems }
    }

    /// The check that the first written one of `uses` names; none is written: unchecked. The
    /// outer `None` is a fault.
    pub(super) fn resolve(
        &self,
        uses: &[&Written<CheckUse>],
    ) -> Option<Option<model::HealthCheck>> {
        let Some(written) = uses.iter().find(|written| !written.is_absent()) else {
            return Some(None);
        };
        let At { value, place } = written.at()?;
        match value {
            CheckUse::Off => Some(None),
            CheckUse::Inline(raw) => meant(raw, self.problems).map(Some),
            CheckUse::Named(name) => match self.named.get(name.as_str()) {
                Some(check) => check.clone().map(Some),
                None => {
                    self.problems.error(place, self.unknown(name));
                    None
                }
            },
        }
    }

    fn unknown(&self, name: &str) -> String {
        let mut names: Vec<_> = self.named.keys().copied().collect();
        names.sort_unstable();
        let hint = match units::nearest(name, names.iter().copied()) {
            Some(near) => format!("; did you mean `{near}`?"),
            None if names.is_empty() => "; `health_checks` has none".to_owned(),
            None => String::new(),
        };
        format!("there is no health check {}{hint}", quoted(name))
    }
}

fn meant(raw: &HealthCheck, problems: &Problems) -> Option<model::HealthCheck> {
    if raw.kind.is_absent() {
        problems.error(&raw.place.key("type"), "a health check needs a `type`; write `type: tcp`");
    }
    raw.kind.at()?;
    let interval = raw.interval.value_or(Duration::from_secs(2));
    Some(model::HealthCheck {
        kind: model::CheckKind::Tcp,
        interval,
        retry_interval: raw.retry_interval.value_or(interval),
        timeout: raw.timeout.value_or(interval),
        rise: raw.rise.value_or(2),
        fall: raw.fall.value_or(3),
        port: raw.port.at().map(|at| at.value),
        starts_up: raw.starts_up.value_or(false),
    })
}
