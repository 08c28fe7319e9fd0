//! The page's changes: HAProxy's form, `s` (server), `b` (service) and `action`, with a token.
//!
//! Must not know: HTML, how a change is made.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::StatusCode;

use crate::admin::api::{self, Answer, PREFIX, escape};

/// A form that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Form {
    /// `csrf_token`; empty when it is missing.
    pub(super) token: String,
    /// Path and query of the API for each server.
    pub(super) changes: Result<Vec<Change>, String>,
}

/// One server's change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Change {
    /// For the result: `drain web/10.0.0.1:80`.
    pub(super) what: String,
    /// Of the API.
    pub(super) path: String,
    /// Of the API.
    pub(super) query: String,
}

impl Form {
    /// Reads `application/x-www-form-urlencoded`.
    pub(super) fn read(body: &[u8]) -> Result<Self, Answer> {
        let bad = |text: String| Answer::error(StatusCode::BAD_REQUEST, text);
        let text = std::str::from_utf8(body).map_err(|_| bad("the form is not UTF-8".into()))?;
        let fields = api::parameters(text).map_err(bad)?;
        let (mut token, mut servers) = (None, Vec::new());
        let mut single = HashMap::new();
        let mut faults = Vec::new();
        for (key, value) in fields {
            match key.as_str() {
                "csrf_token" if token.is_none() => token = Some(value),
                "s" => servers.push(value),
                "b" | "action" | "weight" if !single.contains_key(&key) => {
                    single.insert(key, value);
                }
                "b" | "action" | "weight" | "csrf_token" => {
                    faults.push(format!("{key} is given twice"));
                }
                _ => faults.push(format!("the form has no field {key:?}")),
            }
        }
        let changes = match faults.into_iter().next() {
            Some(fault) => Err(fault),
            None => changes(&servers, &single),
        };
        Ok(Self { token: token.unwrap_or_default(), changes })
    }
}

fn changes(servers: &[String], single: &HashMap<String, String>) -> Result<Vec<Change>, String> {
    let field = |key: &str| single.get(key).map(String::as_str).unwrap_or_default();
    let (service, action) = (field("b"), field("action"));
    if servers.is_empty() || servers.iter().any(String::is_empty) || service.is_empty() {
        return Err("say which server: s=ADDRESS:PORT and b=SERVICE".to_owned());
    }
    if servers.len() > MAX_SERVERS {
        return Err(format!("at most {MAX_SERVERS} servers are changed at once"));
    }
    let (verb, name) = match action {
        "ready" => ("enable", "ready"),
        "drain" => ("drain", "drain"),
        "maint" => ("disable", "maint"),
        "weight" => ("weight", "weight"),
        "" => return Err("say what to do: action=ready, drain, maint or weight".to_owned()),
        _ => return Err(format!("unknown action {action:?}; ready, drain, maint or weight")),
    };
    let weight = match (verb, field("weight")) {
        ("weight", "") => return Err("say which weight: weight=N".to_owned()),
        ("weight", number) => match number.parse::<u32>() {
            Ok(number) => Some(number),
            Err(_) => return Err(format!("weight={number:?} is not a number")),
        },
        // The page's field of this name is sent along with every button.
        _ => None,
    };
    let change = |server: &String| {
        let target = format!("{service}/{server}");
        let mut query = format!("target={}", escape(&target));
        let mut what = format!("{name} {target}");
        if let Some(weight) = weight {
            query.push_str(&format!("&weight={weight}"));
            what.push_str(&format!(" {weight}"));
        }
        Change { what, path: format!("{PREFIX}{verb}"), query }
    };
    Ok(servers.iter().map(change).collect())
}

/// What became of each user's last change, for the page that follows it.
#[derive(Default)]
pub(super) struct Results(Mutex<HashMap<String, (Instant, Outcome)>>);

/// What became of a change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Outcome {
    /// It was done.
    pub(super) done: bool,
    /// In words.
    pub(super) text: String,
}

impl Results {
    /// Keeps the last one of `user`. There are as many as users.
    pub(super) fn put(&self, user: &str, outcome: Outcome, now: Instant) {
        let mut results = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        results.retain(|_, (at, _)| now.saturating_duration_since(*at) < SHOWN);
        results.insert(user.to_owned(), (now, outcome));
    }

    /// The last one, while it is news.
    pub(super) fn get(&self, user: &str, now: Instant) -> Option<Outcome> {
        let results = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, outcome) = results.get(user)?;
        (now.saturating_duration_since(*at) < SHOWN).then(|| outcome.clone())
    }
}

const MAX_SERVERS: usize = 64;
const SHOWN: Duration = Duration::from_secs(60);

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(form: &str, expected: Result<&[(&str, &str)], &str>) {
        let form = Form::read(form.as_bytes()).expect("a form");
        match (form.changes, expected) {
            (Ok(found), Ok(expected)) => {
                let found: Vec<_> =
                    found.iter().map(|c| (c.path.as_str(), c.query.as_str())).collect();
                assert_eq!(found, expected);
            }
            (Err(found), Err(expected)) => assert!(found.contains(expected), "{found}"),
            (found, expected) => panic!("{found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn buttons_are_operations_of_the_api() {
        let target = "target=web%2F10.0.0.1%3A80";
        let rows = |verb: &'static str| format!("{PREFIX}{verb}");
        for (action, verb) in [("ready", "enable"), ("drain", "drain"), ("maint", "disable")] {
            let form = format!("s=10.0.0.1:80&b=web&action={action}&weight=7&csrf_token=x");
            check(&form, Ok(&[(&rows(verb), target)]));
        }
        let weighted = format!("{target}&weight=7");
        check("s=10.0.0.1%3A80&b=web&action=weight&weight=7", Ok(&[(&rows("weight"), &weighted)]));
        let two = [(rows("drain"), "target=web%2Fa%3A1"), (rows("drain"), "target=web%2Fb%3A1")];
        let two: Vec<_> = two.iter().map(|(path, query)| (path.as_str(), *query)).collect();
        check("s=a:1&s=b:1&b=web&action=drain", Ok(&two));
        check(
            "s=[2001:db8::1]:80&b=a%26b&action=drain",
            Ok(&[(&rows("drain"), "target=a%26b%2F%5B2001%3Adb8%3A%3A1%5D%3A80")]),
        );
    }

    #[test]
    fn what_is_wrong_with_a_form_is_said() {
        check("", Err("say which server"));
        check("s=a:1&action=drain", Err("say which server"));
        check("s=&b=web&action=drain", Err("say which server"));
        check("s=a:1&b=web", Err("say what to do"));
        check("s=a:1&b=web&action=stop", Err("unknown action \"stop\""));
        check("s=a:1&b=web&action=weight", Err("say which weight"));
        check("s=a:1&b=web&action=weight&weight=-1", Err("is not a number"));
        check("s=a:1&b=web&b=dns&action=drain", Err("b is given twice"));
        check("s=a:1&b=web&action=drain&x=1", Err("no field \"x\""));
        check(&format!("b=web&action=drain{}", "&s=a:1".repeat(65)), Err("at most 64"));
        let token = |form: &str| Form::read(form.as_bytes()).expect("a form").token;
        assert_eq!((token("csrf_token=abc"), token("s=1")), ("abc".into(), String::new()));
        for broken in [b"s=%zz".as_slice(), b"s=\xff", b"s=%ff"] {
            assert!(Form::read(broken).is_err());
        }
    }

    #[test]
    fn a_result_is_its_users_and_gets_old() {
        let results = Results::default();
        let now = Instant::now();
        let outcome = Outcome { done: true, text: "drain web/a:1: done".into() };
        results.put("ada", outcome.clone(), now);
        assert_eq!(results.get("ada", now), Some(outcome));
        assert_eq!(results.get("bob", now), None);
        assert_eq!(results.get("ada", now + SHOWN), None);
    }
}
