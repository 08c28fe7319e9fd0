//! The routes: from method, path and query to a verb, and from a reply to status and body.
//!
//! Pure, so that every malformed request is a row of a test.
//!
//! Must not know: sockets, connections, who asks.

use hyper::{Method, StatusCode};

use crate::controller::document::Error;
use crate::controller::request::{Refusal, RefusalKind, Reply, Verb};

/// Where everything is.
pub const PREFIX: &str = "/api/v1/";

/// Connections that are listed when no limit is given.
pub const DEFAULT_LIMIT: usize = 1_000;

/// An answer that is decided before or without the controller.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The HTTP status.
    pub status: StatusCode,
    /// A JSON document.
    pub body: Vec<u8>,
    /// The methods that the path takes, for 405.
    pub allow: Option<&'static str>,
}

impl Answer {
    /// An error in one line.
    pub fn error(status: StatusCode, error: impl Into<String>) -> Self {
        let document = Error { error: error.into(), errors: Vec::new() };
        Self { status, body: json(&document), allow: None }
    }
}

/// What a request asks for, or the answer to one that asks for nothing we have.
pub fn route(method: &Method, path: &str, query: Option<&str>) -> Result<Verb, Answer> {
    let name = path.strip_prefix(PREFIX).unwrap_or("");
    let allowed = match name {
        "status" | "stats" | "connections" => "GET",
        "reload" => "POST",
        _ => {
            let text = format!(
                "there is no {path:?}; ask for {PREFIX}status, stats, connections \
                                or reload"
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
    if name != "connections" {
        return match (parameters.first(), name) {
            (Some((key, _)), _) => Err(bad(format!("{path} has no parameter {key:?}"))),
            (None, "status") => Ok(Verb::Status),
            (None, "stats") => Ok(Verb::Stats),
            (None, _) => Ok(Verb::Reload),
        };
    }
    let mut service = None;
    let mut limit = DEFAULT_LIMIT;
    for (key, value) in parameters {
        match key.as_str() {
            "service" => service = Some(value),
            "limit" => {
                let number = value.parse();
                limit = number.map_err(|_| bad(format!("limit={value:?} is not a number")))?;
            }
            _ => return Err(bad(format!("{path} has no parameter {key:?}"))),
        }
    }
    Ok(Verb::Connections { service, limit })
}

/// The path and query that [`route`] turns back into this verb.
pub fn path_of(verb: &Verb) -> (Method, String) {
    match verb {
        Verb::Status => (Method::GET, format!("{PREFIX}status")),
        Verb::Stats => (Method::GET, format!("{PREFIX}stats")),
        Verb::Reload => (Method::POST, format!("{PREFIX}reload")),
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
        Ok(document) => Answer { status: StatusCode::OK, body: json(document), allow: None },
        Err(Refusal { kind, document }) => {
            let status = match kind {
                RefusalKind::Invalid => StatusCode::UNPROCESSABLE_ENTITY,
                RefusalKind::NotFound => StatusCode::NOT_FOUND,
                RefusalKind::Busy => StatusCode::SERVICE_UNAVAILABLE,
                RefusalKind::Failed => StatusCode::INTERNAL_SERVER_ERROR,
            };
            Answer { status, body: json(document), allow: None }
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

fn parameters(query: &str) -> Result<Vec<(String, String)>, String> {
    let pairs = query.split('&').filter(|pair| !pair.is_empty());
    pairs
        .map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((unescape(key)?, unescape(value)?))
        })
        .collect()
}

fn escape(text: &str) -> String {
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

    fn connections(service: Option<&str>, limit: usize) -> Verb {
        Verb::Connections { service: service.map(str::to_owned), limit }
    }

    #[test]
    fn requests_become_verbs() {
        check("GET /api/v1/status", Ok(Verb::Status));
        check("GET /api/v1/stats?", Ok(Verb::Stats));
        check("POST /api/v1/reload", Ok(Verb::Reload));
        check("GET /api/v1/connections", Ok(connections(None, DEFAULT_LIMIT)));
        check("GET /api/v1/connections?service=a%2Fb+c&limit=5", Ok(connections(Some("a/b c"), 5)));
    }

    #[test]
    fn what_is_malformed_says_why() {
        check("GET /", Err((404, "there is no")));
        check("GET /api/v1/", Err((404, "there is no")));
        check("GET /api/v1/../v1/status", Err((404, "there is no")));
        check("GET /api/v1/reload", Err((405, "takes POST, not GET")));
        check("DELETE /api/v1/status", Err((405, "takes GET")));
        check("GET /api/v1/status?x=1", Err((400, "no parameter")));
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
            Verb::Reload,
            connections(None, 7),
            connections(Some("a&b=c d%/é"), 0),
        ] {
            let (method, path) = path_of(&verb);
            check(&format!("{method} {path}"), Ok(verb));
        }
    }
}
