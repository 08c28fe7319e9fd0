//! Health checks: defaults, and which check a real server gets.
//!
//! Must not know: services, how probes are done.

use super::super::contract::{CHECK_TYPES, CheckType};
use super::super::problem::{Problems, quoted};
use super::super::raw::{At, CheckUse, Flap, HealthCheck, Http, Written};
use super::super::units;
use super::check_kind;
use crate::model;
use http::{HeaderValue, Method, Uri};
use std::collections::HashMap;
use std::sync::Arc;
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

    /// The checks that the first written one of `uses` names, each once; none is written:
    /// unchecked. `None` is a fault.
    pub(super) fn resolve(&self, uses: &[&Written<CheckUse>]) -> Option<Vec<model::HealthCheck>> {
        let Some(written) = uses.iter().find(|written| !written.is_absent()) else {
            return Some(Vec::new());
        };
        let all = self.named_by(written.at()?)?;
        let mut each = Vec::with_capacity(all.len());
        for check in all {
            if !each.contains(&check) {
                each.push(check);
            }
        }
        Some(each)
    }

    fn named_by(&self, At { value, place }: &At<CheckUse>) -> Option<Vec<model::HealthCheck>> {
        match value {
            CheckUse::Off => Some(Vec::new()),
            CheckUse::Inline(raw) => Some(vec![meant(raw, self.problems)?]),
            CheckUse::Named(name) => match self.named.get(name.as_str()) {
                Some(check) => Some(vec![check.clone()?]),
                None => {
                    self.problems.error(place, self.unknown(name));
                    None
                }
            },
            CheckUse::All(uses) => {
                let each: Vec<_> = uses.iter().map(|at| self.named_by(at)).collect();
                Some(each.into_iter().collect::<Option<Vec<_>>>()?.concat())
            }
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
        problems.error(
            &raw.place.key("type"),
            "a health check needs a `type`; write such as `type: tcp`",
        );
    }
    let kind = raw.kind.at()?.value;
    refuse_foreign_keys(raw, kind, problems);
    let kind = match kind {
        CheckType::Ping => model::CheckKind::Ping,
        CheckType::Tcp => model::CheckKind::Tcp,
        CheckType::Http => {
            for (key, place) in [("sni", raw.http.sni.place()), ("verify", raw.http.verify.place())]
            {
                if let Some(place) = place {
                    problems.warning(place, format!("`{key}` has no effect without type https"));
                }
            }
            model::CheckKind::Http(Arc::new(http(&raw.http, None, problems)?))
        }
        CheckType::Https => {
            let tls = tls(&raw.http, problems)?;
            model::CheckKind::Http(Arc::new(http(&raw.http, Some(tls), problems)?))
        }
        CheckType::Udp => check_kind::udp(&raw.kinds),
        CheckType::Dns => check_kind::dns(&raw.kinds),
        CheckType::Smtp => check_kind::smtp(&raw.kinds),
        CheckType::Grpc => check_kind::grpc(&raw.kinds),
        CheckType::Exec => check_kind::exec(&raw.kinds, &raw.place, problems)?,
    };
    let interval = raw.interval.value_or(Duration::from_secs(2));
    let retry_interval = raw.retry_interval.value_or(interval);
    if let (model::CheckKind::Udp(udp), Some(place)) = (&kind, raw.kind.place()) {
        check_kind::warn_of_silence(udp, interval.min(retry_interval), place, problems);
    }
    Some(model::HealthCheck {
        kind,
        interval,
        retry_interval,
        timeout: raw.timeout.value_or(interval),
        rise: raw.rise.value_or(2),
        fall: raw.fall.value_or(3),
        port: raw.port.at().map(|at| at.value),
        starts_up: raw.starts_up.value_or(false),
        flap: raw.flap.at().and_then(|at| at.value.as_ref()).map(flap),
        via: via(raw, problems)?,
    })
}

/// How probes get to the server. By way of a service is for what is asked over TCP or UDP.
fn via(raw: &HealthCheck, problems: &Problems) -> Option<model::Via> {
    if raw.via.is_absent() {
        return Some(model::Via::Direct);
    }
    let At { value, place } = raw.via.at()?;
    let refused = match raw.kind.at()?.value {
        CheckType::Ping => Some("a ping has no connection that could be led there and back"),
        CheckType::Exec => Some("a command opens its own sockets"),
        CheckType::Tcp
        | CheckType::Http
        | CheckType::Https
        | CheckType::Udp
        | CheckType::Dns
        | CheckType::Smtp
        | CheckType::Grpc => None,
    };
    if let (model::Via::Service(_), Some(why)) = (value, refused) {
        problems.error(place, format!("`via: service` is not for this type of check: {why}"));
        return None;
    }
    Some(*value)
}

/// Notes keys that belong to other types of check.
fn refuse_foreign_keys(raw: &HealthCheck, kind: CheckType, problems: &Problems) {
    if let (CheckType::Ping, Some(place)) = (kind, raw.port.place()) {
        problems.error(place, "a ping has no port");
    }
    let http = &raw.http;
    let of_http = [
        ("method", http.method.place()),
        ("path", http.path.place()),
        ("host", http.host.place()),
        ("headers", http.headers.place()),
        ("expect.status", http.status.place()),
        ("expect.body", http.body.place()),
        ("expect.digest", http.digest.place()),
        ("sni", http.sni.place()),
        ("verify", http.verify.place()),
    ];
    let of_http = of_http.map(|(key, place)| (key, place, "types http and https"));
    let others = check_kind::keys(&raw.kinds);
    let is_http = matches!(kind, CheckType::Http | CheckType::Https);
    let foreign = of_http.into_iter().filter(|_| !is_http).chain(
        others
            .into_iter()
            .filter(|key| key.owner != kind)
            .map(|key| (key.name, key.place, key.whose)),
    );
    let word = CHECK_TYPES.built.iter().find(|(_, built)| *built == kind);
    let word = word.map_or("", |(word, _)| word);
    for (key, place, whose) in foreign {
        if let Some(place) = place {
            let message = format!("`{key}` is for {whose}, this check is of {word}");
            problems.error(place, message);
        }
    }
}

fn http(raw: &Http, tls: Option<model::TlsCheck>, problems: &Problems) -> Option<model::HttpCheck> {
    let method = raw.method.value_or(Method::GET);
    if let (Some(place), &Method::HEAD) = (raw.body.place(), &method) {
        problems.error(place, "an answer to HEAD has no body");
    }
    if let (Some(place), &Method::HEAD) = (raw.digest.place(), &method) {
        problems.error(place, "an answer to HEAD has no body");
    }
    let host = match raw.host.at() {
        Some(at) => Some(HeaderValue::from_str(&at.value).ok()?),
        None => None,
    };
    Some(model::HttpCheck {
        method,
        path: raw.path.value_or(Uri::from_static("/")),
        host,
        headers: raw.headers.value_or(Vec::new()),
        status: raw.status.value_or(vec![200..=399]),
        body: raw.body.at().map(|at| at.value.clone()),
        digest: raw.digest.at().map(|at| at.value),
        tls,
    })
}

/// The name is `sni`, else `host` without its port, else the real server's address.
fn tls(raw: &Http, problems: &Problems) -> Option<model::TlsCheck> {
    let verify = raw.verify.value_or(true);
    let name = match (raw.sni.at(), raw.host.at()) {
        (Some(at), _) => Some(at.value.clone()),
        (None, Some(At { value, place })) => match units::server_name(without_port(value)) {
            Ok(name) => Some(name),
            Err(message) => {
                problems.error(place, format!("{message}; write `sni`"));
                return None;
            }
        },
        (None, None) => None,
    };
    Some(model::TlsCheck { name, verify })
}

/// The name or address in a Host header.
fn without_port(host: &str) -> &str {
    if let Some((address, _)) = host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        return address;
    }
    match host.split_once(':') {
        Some((name, port)) if !port.contains(':') => name,
        _ => host,
    }
}

fn flap(raw: &Flap) -> model::Flap {
    model::Flap {
        changes: raw.changes.value_or(5),
        per: raw.per.value_or(Duration::from_secs(60)),
        hold: raw.hold.value_or(Duration::from_secs(60)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_header_names_a_certificate_without_its_port() {
        for (host, name) in [
            ("www.example.com", "www.example.com"),
            ("www.example.com:8443", "www.example.com"),
            ("192.0.2.1:8443", "192.0.2.1"),
            ("[2001:db8::1]:8443", "2001:db8::1"),
            ("2001:db8::1", "2001:db8::1"),
        ] {
            assert_eq!(without_port(host), name);
        }
    }
}
