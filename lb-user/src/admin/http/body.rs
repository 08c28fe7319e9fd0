//! Bodies of requests: read within limits, and for the API turned into parameters.
//!
//! Must not know: routes, users.

use std::time::Duration;

use http_body_util::{BodyExt, LengthLimitError, Limited};
use hyper::StatusCode;
use hyper::body::{Body as _, Bytes, Incoming};
use serde_json::Value;

use crate::admin::api::{Answer, escape};
use crate::admin::operations::{Kind, Operation};

/// The whole body.
pub(in crate::admin) async fn read(body: Incoming) -> Result<Bytes, Answer> {
    let too_large = || {
        let text = format!("the request's body has more than {} KiB", MAX_BODY / 1024);
        Answer::error(StatusCode::PAYLOAD_TOO_LARGE, text)
    };
    if body.size_hint().lower() > MAX_BODY as u64 {
        return Err(too_large());
    }
    match tokio::time::timeout(PATIENCE, Limited::new(body, MAX_BODY).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.downcast_ref::<LengthLimitError>().is_some() => Err(too_large()),
        Ok(Err(error)) => {
            Err(Answer::error(StatusCode::BAD_REQUEST, format!("the request's body: {error}")))
        }
        Err(_elapsed) => {
            Err(Answer::error(StatusCode::REQUEST_TIMEOUT, "the request's body did not come"))
        }
    }
}

/// The parameters of an operation as a query, out of a JSON object.
pub(in crate::admin) fn query(
    operation: &Operation,
    query: Option<&str>,
    body: &[u8],
) -> Result<String, Answer> {
    let bad = |text: String| Answer::error(StatusCode::BAD_REQUEST, text);
    let query = query.unwrap_or("");
    if body.iter().all(u8::is_ascii_whitespace) {
        return Ok(query.to_owned());
    }
    let value = serde_json::from_slice::<Value>(body);
    let value = value.map_err(|error| bad(format!("the body is not JSON: {error}")))?;
    let Value::Object(object) = value else {
        return Err(bad("the body is not a JSON object of parameters".to_owned()));
    };
    if !query.is_empty() && !object.is_empty() {
        return Err(bad("parameters are in the query or in the body, not in both".to_owned()));
    }
    let mut pairs = Vec::new();
    for (key, value) in &object {
        let Some(parameter) = operation.parameters.iter().find(|known| known.name == key) else {
            let known: Vec<&str> = operation.parameters.iter().map(|known| known.name).collect();
            let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            let text = format!("{} has no parameter {key:?}; known: {known}", operation.name);
            return Err(bad(text));
        };
        let text = match (parameter.kind, value) {
            (Kind::Text, Value::String(text)) => text.clone(),
            (Kind::Number, Value::Number(number)) if number.is_u64() => number.to_string(),
            (Kind::Flag, Value::Bool(flag)) => flag.to_string(),
            (kind, _) => {
                let expected = match kind {
                    Kind::Text => "a text",
                    Kind::Number => "a whole number",
                    Kind::Flag => "true or false",
                };
                return Err(bad(format!("{key}: expected {expected}, found {}", kind_of(value))));
            }
        };
        pairs.push(format!("{}={}", escape(key), escape(&text)));
    }
    if pairs.is_empty() { Ok(query.to_owned()) } else { Ok(pairs.join("&")) }
}

fn kind_of(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "another number",
        Value::String(_) => "a text",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

const MAX_BODY: usize = 64 * 1024;
const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::{audit, operations};

    #[test]
    fn a_json_object_becomes_parameters_or_says_why_not() {
        let ban = operations::find("ban").expect("an operation");
        let check = |text: &str, expected: Result<&str, &str>| match (
            query(ban, None, text.as_bytes()),
            expected,
        ) {
            (Ok(found), Ok(expected)) => assert_eq!(found, expected, "{text}"),
            (Err(answer), Err(expected)) => {
                assert_eq!(answer.status, StatusCode::BAD_REQUEST);
                let why = audit::reason(&answer);
                assert!(why.contains(expected), "{text}: {why}");
            }
            (found, expected) => panic!("{text}: {found:?}, expected {expected:?}"),
        };
        check("", Ok(""));
        check(" \r\n", Ok(""));
        check("{}", Ok(""));
        check(r#"{"prefix":"10.0.0.0/8","for_ms":5}"#, Ok("for_ms=5&prefix=10.0.0.0%2F8"));
        check(r#"{"prefix":"a&for_ms=1"}"#, Ok("prefix=a%26for_ms%3D1"));
        check("{", Err("not JSON"));
        check("\u{feff}{}", Err("not JSON"));
        check(r#"{"prefix":"a"} x"#, Err("not JSON"));
        check("[]", Err("not a JSON object"));
        check("null", Err("not a JSON object"));
        check(r#"{"Prefix":"a"}"#, Err("no parameter \"Prefix\"; known: prefix, for_ms"));
        check(r#"{"prefix":10}"#, Err("prefix: expected a text, found another number"));
        check(r#"{"prefix":null}"#, Err("found null"));
        check(r#"{"for_ms":"5"}"#, Err("for_ms: expected a whole number, found a text"));
        check(r#"{"for_ms":-5}"#, Err("expected a whole number"));
        check(r#"{"for_ms":1.5}"#, Err("expected a whole number"));
        check(&format!("{}{}", "[".repeat(500), "]".repeat(500)), Err("not JSON"));
        let both = query(ban, Some("prefix=10.0.0.1"), br#"{"for_ms":5}"#);
        assert!(both.is_err_and(|answer| audit::reason(&answer).contains("not in both")));
        assert_eq!(
            query(ban, Some("prefix=10.0.0.1"), b"{}").ok().as_deref(),
            Some("prefix=10.0.0.1")
        );
    }
}
