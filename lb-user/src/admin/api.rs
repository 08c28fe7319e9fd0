//! The routes: from method, path and query to a verb, and from a reply to status and body.
//!
//! Pure, so that every malformed request is a row of a test.
//!
//! Must not know: sockets, connections, who asks.

use std::net::SocketAddr;
use std::time::Duration;

use hyper::{Method, StatusCode};

use crate::controller::document::Error;
use crate::controller::overrides::Action;
use crate::controller::report;
use crate::controller::request::{Asked, Document, Refusal, RefusalKind, Reply, Steer, Verb};
use crate::controller::state_file::MAX_WEIGHT;
use crate::metrics;

/// Where everything is.
pub const PREFIX: &str = "/api/v1/";

/// Where Prometheus's text is, beside the API.
pub const METRICS: &str = "/metrics";

/// Connections that are listed when no limit is given.
pub const DEFAULT_LIMIT: usize = 1_000;

/// An answer that is decided before or without the controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// A JSON document, or metrics.
    pub body: Vec<u8>,
    /// What the body is.
    pub content_type: &'static str,
    /// The methods that the path takes, for 405.
    pub allow: Option<&'static str>,
}

impl Answer {
    /// An error in one line.
    pub fn error(status: StatusCode, error: impl Into<String>) -> Self {
        let document = Error { error: error.into(), errors: Vec::new() };
        Self::json(status, &document)
    }

    fn json(status: StatusCode, document: &impl serde::Serialize) -> Self {
        Self { status, body: json(document), content_type: "application/json", allow: None }
    }
}

/// What a request asks for, or the answer to one that asks for nothing we have.
pub fn route(method: &Method, path: &str, query: Option<&str>) -> Result<Verb, Answer> {
    let name = match path {
        METRICS => "metrics",
        _ => path.strip_prefix(PREFIX).filter(|name| *name != "metrics").unwrap_or(""),
    };
    let allowed = match name {
        "metrics" | "status" | "stats" | "history" | "connections" | "bans" | "explain"
        | "vrrp" | "events" => "GET",
        "reload" | "reopen-logs" | "ban" | "unban" | "resign" | "drain" | "enable" | "disable"
        | "weight" | "add" | "remove" => "POST",
        _ => {
            let text = format!(
                "there is no {path:?}; ask for {PREFIX}status, stats, history, connections, explain, \
                 events, bans, ban, unban, vrrp, resign, drain, enable, disable, weight, add, remove, \
                 reopen-logs or reload, or for {METRICS}"
            );
            return Err(Answer::error(StatusCode::NOT_FOUND, text));
        }
    };
    if method.as_str() != allowed {
        let answer = Answer::error(
            StatusCode::METHOD_NOT_ALLOWED,
            format!("{path} takes {allowed}, not {method}"),
        );
        return Err(Answer { allow: Some(allowed), ..answer });
    }
    let bad = |text: String| Answer::error(StatusCode::BAD_REQUEST, text);
    let parameters = parameters(query.unwrap_or("")).map_err(bad)?;
    for (at, (key, _)) in parameters.iter().enumerate() {
        if parameters[..at].iter().any(|(other, _)| other == key) {
            return Err(bad(format!("{key:?} is given twice")));
        }
    }
    let unknown = |key: &str| bad(format!("{path} has no parameter {key:?}"));
    match name {
        "connections" => return connections(&parameters, unknown, bad),
        "explain" => return explain(&parameters, unknown, bad),
        "ban" | "unban" => return ban(name, &parameters, unknown, bad),
        "resign" => return resign(&parameters, unknown, bad),
        "drain" | "enable" | "disable" | "weight" | "add" | "remove" => {
            return steer(name, &parameters, unknown, bad);
        }
        _ => {}
    }
    match (parameters.first(), name) {
        (Some((key, _)), _) => Err(unknown(key)),
        (None, "status") => Ok(Verb::Status),
        (None, "stats") => Ok(Verb::Stats),
        (None, "history") => Ok(Verb::History),
        (None, "metrics") => Ok(Verb::Metrics),
        (None, "bans") => Ok(Verb::Bans),
        (None, "vrrp") => Ok(Verb::Vrrp),
        (None, "reopen-logs") => Ok(Verb::ReopenLogs),
        (None, "events") => Ok(Verb::Events),
        (None, _) => Ok(Verb::Reload),
    }
}

type Parameters = [(String, String)];

fn connections(
    parameters: &Parameters,
    unknown: impl Fn(&str) -> Answer,
    bad: impl Fn(String) -> Answer,
) -> Result<Verb, Answer> {
    let mut service = None;
    let mut limit = DEFAULT_LIMIT;
    for (key, value) in parameters {
        match key.as_str() {
            "service" => service = Some(value.clone()),
            "limit" => {
                let number = value.parse();
                limit = number.map_err(|_| bad(format!("limit={value:?} is not a number")))?;
            }
            _ => return Err(unknown(key)),
        }
    }
    Ok(Verb::Connections { service, limit })
}

/// `from=IP[:PORT]&to=IP:PORT/PROTO`.
fn explain(
    parameters: &Parameters,
    unknown: impl Fn(&str) -> Answer,
    bad: impl Fn(String) -> Answer,
) -> Result<Verb, Answer> {
    let (mut from, mut to) = (None, None);
    for (key, value) in parameters {
        match key.as_str() {
            "from" => from = Some(value),
            "to" => to = Some(value),
            _ => return Err(unknown(key)),
        }
    }
    let (Some(from), Some(to)) = (from, to) else {
        return Err(bad("say which packet: from=IP[:PORT] and to=IP:PORT/PROTO".to_owned()));
    };
    Asked::parse(from, to).map(Verb::Explain).map_err(bad)
}

/// `prefix=IP[/LEN]`, and for a ban `for_ms=N`.
fn ban(
    name: &str,
    parameters: &Parameters,
    unknown: impl Fn(&str) -> Answer,
    bad: impl Fn(String) -> Answer,
) -> Result<Verb, Answer> {
    let (mut prefix, mut span) = (None, None);
    for (key, value) in parameters {
        match key.as_str() {
            "prefix" => prefix = Some(value.parse().map_err(&bad)?),
            "for_ms" if name == "ban" => {
                let millis = value.parse().ok().filter(|millis| *millis > 0);
                let wrong = || bad(format!("for_ms={value:?} is not a number above 0"));
                span = Some(Duration::from_millis(millis.ok_or_else(wrong)?));
            }
            _ => return Err(unknown(key)),
        }
    }
    let prefix = prefix.ok_or_else(|| bad("say whom: prefix=IP or prefix=IP/LEN".to_owned()))?;
    Ok(if name == "ban" { Verb::Ban { prefix, span } } else { Verb::Unban { prefix } })
}

/// `target=SERVICE/ADDRESS[:PORT]`, `weight=N` where one is meant, and `persist=true`.
fn steer(
    name: &str,
    parameters: &Parameters,
    unknown: impl Fn(&str) -> Answer,
    bad: impl Fn(String) -> Answer,
) -> Result<Verb, Answer> {
    let (mut target, mut weight, mut persist) = (None, None, false);
    for (key, value) in parameters {
        match (key.as_str(), name) {
            ("target", _) => target = Some(Steer::target(value).map_err(&bad)?),
            ("weight", "weight" | "add") => {
                let number = value.parse().ok().filter(|weight| *weight <= MAX_WEIGHT);
                let wrong =
                    || bad(format!("weight={value:?} is not a number from 0 to {MAX_WEIGHT}"));
                weight = Some(number.ok_or_else(wrong)?);
            }
            ("persist", _) => {
                let flag = value.parse();
                persist =
                    flag.map_err(|_| bad(format!("persist={value:?} is not true or false")))?;
            }
            _ => return Err(unknown(key)),
        }
    }
    let say = || bad("say which: target=SERVICE/ADDRESS:PORT".to_owned());
    let (service, address, port) = target.ok_or_else(say)?;
    let action = match name {
        "drain" => Action::Drain,
        "enable" => Action::Enable,
        "disable" => Action::Disable,
        "add" => Action::Add(weight),
        "remove" => Action::Remove,
        _ => Action::Weight(weight.ok_or_else(|| bad("say how much: weight=N".to_owned()))?),
    };
    Ok(Verb::Steer(Steer { service, address, port, action, persist }))
}

/// `name=INSTANCE`.
fn resign(
    parameters: &Parameters,
    unknown: impl Fn(&str) -> Answer,
    bad: impl Fn(String) -> Answer,
) -> Result<Verb, Answer> {
    match parameters {
        [(key, name)] if key == "name" => Ok(Verb::Resign { name: name.clone() }),
        [] => Err(bad("say which instance: name=INSTANCE".to_owned())),
        [(key, _), ..] => Err(unknown(key)),
    }
}

/// The path and query that [`route`] turns back into this verb.
pub fn path_of(verb: &Verb) -> (Method, String) {
    match verb {
        Verb::Status => (Method::GET, format!("{PREFIX}status")),
        Verb::Stats => (Method::GET, format!("{PREFIX}stats")),
        Verb::History => (Method::GET, format!("{PREFIX}history")),
        Verb::Reload => (Method::POST, format!("{PREFIX}reload")),
        Verb::ReopenLogs => (Method::POST, format!("{PREFIX}reopen-logs")),
        Verb::Metrics => (Method::GET, METRICS.to_owned()),
        Verb::Bans => (Method::GET, format!("{PREFIX}bans")),
        Verb::Ban { prefix, span } => {
            let mut path = format!("{PREFIX}ban?prefix={}", escape(&prefix.to_string()));
            if let Some(span) = span {
                path.push_str(&format!("&for_ms={}", span.as_millis()));
            }
            (Method::POST, path)
        }
        Verb::Explain(Asked { from, port, to }) => {
            let from = match port {
                Some(port) => SocketAddr::new(*from, *port).to_string(),
                None => from.to_string(),
            };
            let to = report::listen(to);
            let path = format!("{PREFIX}explain?from={}&to={}", escape(&from), escape(&to));
            (Method::GET, path)
        }
        Verb::Vrrp => (Method::GET, format!("{PREFIX}vrrp")),
        Verb::Events => (Method::GET, format!("{PREFIX}events")),
        Verb::Steer(steer) => {
            let (name, weight) = match steer.action {
                Action::Enable => ("enable", None),
                Action::Drain => ("drain", None),
                Action::Disable => ("disable", None),
                Action::Weight(weight) => ("weight", Some(weight)),
                Action::Add(weight) => ("add", weight),
                Action::Remove => ("remove", None),
            };
            let mut path = format!("{PREFIX}{name}?target={}", escape(&steer.shown()));
            if let Some(weight) = weight {
                path.push_str(&format!("&weight={weight}"));
            }
            if steer.persist {
                path.push_str("&persist=true");
            }
            (Method::POST, path)
        }
        Verb::Resign { name } => (Method::POST, format!("{PREFIX}resign?name={}", escape(name))),
        Verb::Unban { prefix } => {
            (Method::POST, format!("{PREFIX}unban?prefix={}", escape(&prefix.to_string())))
        }
        Verb::Connections { service, limit } => {
            let mut path = format!("{PREFIX}connections?limit={limit}");
            if let Some(service) = service {
                path.push_str("&service=");
                path.push_str(&escape(service));
            }
            (Method::GET, path)
        }
    }
}

/// The answer that carries the controller's reply.
pub fn respond(reply: &Reply) -> Answer {
    match reply {
        Ok(Document::Metrics(snapshot)) => Answer {
            status: StatusCode::OK,
            body: metrics::render(snapshot).into_bytes(),
            content_type: metrics::CONTENT_TYPE,
            allow: None,
        },
        Ok(document) => Answer::json(StatusCode::OK, document),
        Err(Refusal { kind, document }) => {
            let status = match kind {
                RefusalKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
                RefusalKind::NotFound => StatusCode::NOT_FOUND,
                RefusalKind::Busy => StatusCode::SERVICE_UNAVAILABLE,
                RefusalKind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
                RefusalKind::Late => StatusCode::GATEWAY_TIMEOUT,
            };
            Answer::json(status, document)
        }
    }
}

/// One line of JSON.
fn json(document: &impl serde::Serialize) -> Vec<u8> {
    // Only maps with keys that are no strings fail, and the documents have none.
    let mut text = serde_json::to_vec(document).unwrap_or_default();
    text.push(b'\n');
    text
}

/// The pairs of a query, or of a form.
pub(super) fn parameters(query: &str) -> Result<Vec<(String, String)>, String> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((unescape(key)?, unescape(value)?))
        })
        .collect()
}

/// Percent-encoded, for a query.
pub(super) fn escape(text: &str) -> String {
    let mut escaped = String::new();
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            escaped.push(char::from(byte));
        } else {
            escaped.push_str(&format!("%{byte:02X}"));
        }
    }
    escaped
}

fn unescape(text: &str) -> Result<String, String> {
    let broken = || format!("{text:?} is not percent-encoded UTF-8");
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&byte, after)) = rest.split_first() {
        rest = after;
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let (digits, after) = rest.split_at_checked(2).ok_or_else(broken)?;
                let digit = |at: usize| char::from(digits[at]).to_digit(16).ok_or_else(broken);
                let value = digit(0)? * 16 + digit(1)?;
                bytes.push(u8::try_from(value).map_err(|_| broken())?);
                rest = after;
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).map_err(|_| broken())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[track_caller]
    fn check(request: &str, expected: Result<Verb, (u16, &str)>) {
        let (method, target) = request.split_once(' ').expect("METHOD PATH");
        let method: Method = method.parse().expect("a method");
        let (path, query) =
            target.split_once('?').map_or((target, None), |(path, query)| (path, Some(query)));
        match (route(&method, path, query), expected) {
            (Ok(found), Ok(verb)) => assert_eq!(found, verb),
            (Err(answer), Err((status, text))) => {
                let body = String::from_utf8(answer.body).expect("UTF-8");
                assert_eq!(answer.status.as_u16(), status, "{body}");
                assert!(body.contains(text), "{body}");
            }
            (found, expected) => panic!("{request}: {found:?}, expected {expected:?}"),
        }
    }

    fn ban(prefix: &str, millis: Option<u64>) -> Verb {
        let prefix = prefix.parse().expect("a prefix");
        Verb::Ban { prefix, span: millis.map(Duration::from_millis) }
    }

    fn explain(from: &str, to: &str) -> Verb {
        Verb::Explain(Asked::parse(from, to).expect("a packet"))
    }

    fn steer(target: &str, action: Action, persist: bool) -> Verb {
        let (service, address, port) = Steer::target(target).expect("a target");
        Verb::Steer(Steer { service, address, port, action, persist })
    }

    fn connections(service: Option<&str>, limit: usize) -> Verb {
        Verb::Connections { service: service.map(str::to_owned), limit }
    }

    #[test]
    fn requests_become_verbs() {
        check("GET /api/v1/status", Ok(Verb::Status));
        check("GET /api/v1/stats?", Ok(Verb::Stats));
        check("POST /api/v1/reload", Ok(Verb::Reload));
        check("GET /api/v1/connections", Ok(connections(None, DEFAULT_LIMIT)));
        check("GET /api/v1/bans", Ok(Verb::Bans));
        check("POST /api/v1/ban?prefix=10.0.0.1/8&for_ms=5", Ok(ban("10.0.0.0/8", Some(5))));
        check("POST /api/v1/ban?prefix=2001%3Adb8%3A%3A1", Ok(ban("2001:db8::1/128", None)));
        check("GET /api/v1/connections?service=a%2Fb+c&limit=5", Ok(connections(Some("a/b c"), 5)));
    }

    #[test]
    fn what_is_malformed_says_why() {
        check("GET /", Err((404, "there is no")));
        check("GET /api/v1/", Err((404, "there is no")));
        check("GET /api/v1/../v1/status", Err((404, "there is no")));
        check("GET /api/v1/metrics", Err((404, "there is no")));
        check("POST /metrics", Err((405, "takes GET")));
        check("GET /metrics?x=1", Err((400, "no parameter")));
        check("GET /api/v1/reload", Err((405, "takes POST, not GET")));
        check("DELETE /api/v1/status", Err((405, "takes GET")));
        check("GET /api/v1/status?x=1", Err((400, "no parameter")));
        check("GET /api/v1/ban?prefix=10.0.0.1", Err((405, "takes POST")));
        check("POST /api/v1/ban", Err((400, "say whom")));
        check("POST /api/v1/ban?prefix=10.0.0.1&for_ms=0", Err((400, "above 0")));
        check("POST /api/v1/ban?prefix=10.0.0.1&for=5s", Err((400, "no parameter")));
        check("POST /api/v1/unban?prefix=10.0.0.1&for_ms=5", Err((400, "no parameter")));
        check("POST /api/v1/unban?prefix=web", Err((400, "is not IP")));
        check("GET /api/v1/explain?from=10.0.0.1", Err((400, "say which packet")));
        check("GET /api/v1/explain?from=10.0.0.1&to=x", Err((400, "no protocol")));
        check("GET /api/v1/explain?http=x", Err((400, "no parameter")));
        check("POST /api/v1/explain", Err((405, "takes GET")));
        check("POST /api/v1/drain", Err((400, "say which")));
        let twice = "POST /api/v1/drain?target=web/10.0.0.1:80&target=web/10.0.0.2:80";
        check(twice, Err((400, "given twice")));
        check("GET /api/v1/drain?target=web/10.0.0.1:80", Err((405, "takes POST")));
        check("POST /api/v1/drain?target=web", Err((400, "is not SERVICE")));
        check("POST /api/v1/drain?target=/10.0.0.1:80", Err((400, "is not SERVICE")));
        check("POST /api/v1/drain?target=web/10.0.0.1:0", Err((400, "is not SERVICE")));
        check("POST /api/v1/drain?target=web/10.0.0.1:80&weight=1", Err((400, "no parameter")));
        check("POST /api/v1/weight?target=web/10.0.0.1:80", Err((400, "say how much")));
        check("POST /api/v1/weight?target=web/10.0.0.1&weight=65536", Err((400, "0 to 65535")));
        check("POST /api/v1/remove?target=web/10.0.0.1&persist=yes", Err((400, "true or false")));
        check("GET /api/v1/connections?limit=-1", Err((400, "is not a number")));
        check("GET /api/v1/connections?limit=", Err((400, "is not a number")));
        check("GET /api/v1/connections?limit=99999999999999999999999", Err((400, "number")));
        check("GET /api/v1/connections?service=%f", Err((400, "percent")));
        check("GET /api/v1/connections?service=%zz", Err((400, "percent")));
        check("GET /api/v1/connections?service=%ff", Err((400, "UTF-8")));
        check("GET /api/v1/connections?service=%+5", Err((400, "percent")));
    }

    proptest! {
        /// Whatever is sent is answered, and whatever is named comes through unchanged.
        #[test]
        fn no_request_panics(path in "\\PC{0,40}", query in "[a-z%+=&0-9é]{0,40}", name: String) {
            let _answer = route(&Method::GET, &path, Some(&query));
            let _answer = route(&Method::GET, "/api/v1/connections", Some(&query));
            prop_assert_eq!(unescape(&escape(&name)), Ok(name));
        }
    }

    #[test]
    fn a_verbs_path_leads_back_to_it() {
        for verb in [
            Verb::Status,
            Verb::Stats,
            Verb::History,
            Verb::Reload,
            Verb::ReopenLogs,
            Verb::Metrics,
            Verb::Bans,
            ban("10.0.0.0/8", None),
            ban("2001:db8::/32", Some(1500)),
            Verb::Unban { prefix: "2001:db8::1".parse().expect("a prefix") },
            explain("192.0.2.1", "192.0.2.9:80/tcp"),
            explain("[2001:db8::1]:4000", "[2001:db8::9]:53/udp"),
            connections(None, 7),
            connections(Some("a&b=c d%/é"), 0),
            Verb::Events,
            steer("web/10.0.0.1:80", Action::Drain, true),
            steer("a b/c/10.0.0.1", Action::Enable, false),
            steer("web/[2001:db8::1]:80", Action::Disable, false),
            steer("web/2001:db8::1", Action::Weight(0), true),
            steer("web/10.0.0.1:80", Action::Add(None), false),
            steer("web/10.0.0.1:80", Action::Add(Some(65535)), true),
            steer("web/10.0.0.1:80", Action::Remove, false),
        ] {
            let (method, path) = path_of(&verb);
            check(&format!("{method} {path}"), Ok(verb));
        }
    }
}
