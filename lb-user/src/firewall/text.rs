//! A rule in the words that `nft list ruleset` has for it.
//!
//! The usual statements read as nftables writes them; of others their JSON is shown. Counters are
//! left without their numbers, so that a rule is the same line each time.
//!
//! Must not know: packets, whether a rule matches.

use serde_json::Value as Json;

use super::ruleset::Rule;

/// The text of a rule, one line of bounded length.
pub(super) fn rule(rule: &Rule) -> String {
    let mut parts: Vec<String> = rule.statements.iter().map(statement).collect();
    if let Some(comment) = &rule.comment {
        parts.push(format!("comment \"{comment}\""));
    }
    plain(&parts.join(" "))
}

/// Without control characters, and cut where nobody reads any further.
pub(super) fn plain(text: &str) -> String {
    let mut plain: String = text.chars().filter(|c| !c.is_control()).take(LENGTH + 1).collect();
    if let Some((end, _)) = plain.char_indices().nth(LENGTH) {
        plain.truncate(end);
        plain.push_str("...");
    }
    plain
}

fn statement(statement: &Json) -> String {
    let Some((kind, what)) = only(statement) else { return word(statement) };
    let text = |key: &str| what.get(key).map(operand).unwrap_or_default();
    match kind {
        "match" => {
            let operator = what.get("op").and_then(Json::as_str).unwrap_or_default();
            match operator {
                "==" | "in" => format!("{} {}", text("left"), text("right")),
                _ => format!("{} {operator} {}", text("left"), text("right")),
            }
        }
        "accept" | "drop" | "return" | "continue" | "notrack" => kind.to_owned(),
        "jump" | "goto" => format!("{kind} {}", text("target")),
        "reject" if what.get("expr").is_some() => {
            format!("reject with {} {}", text("type"), text("expr"))
        }
        "reject" if what.get("type").is_some() => format!("reject with {}", text("type")),
        "reject" => "reject".to_owned(),
        "counter" => match what.as_str() {
            Some(name) => format!("counter name \"{name}\""),
            None => "counter".to_owned(),
        },
        "log" => match what.get("prefix").and_then(Json::as_str) {
            Some(prefix) => format!("log prefix \"{prefix}\""),
            None => "log".to_owned(),
        },
        "limit" => match what.as_str() {
            Some(name) => format!("limit name \"{name}\""),
            None => {
                let over = if is_inverted(what) { "over " } else { "" };
                format!("limit rate {over}{}/{}", text("rate"), text("per"))
            }
        },
        "quota" => {
            let over = if is_inverted(what) { "over " } else { "" };
            format!("quota {over}{} {}", text("val"), text("val_unit"))
        }
        "ct count" => {
            let over = if is_inverted(what) { "over " } else { "" };
            format!("ct count {over}{}", text("val"))
        }
        "vmap" => format!("{} vmap {}", text("key"), text("data")),
        "mangle" => format!("{} set {}", text("key"), text("value")),
        "set" => format!("{} {} {{ {} }}", text("op"), text("set"), text("elem")),
        "queue" => format!("queue num {}", text("num")),
        "xt" if what.is_object() => format!("xt {} \"{}\"", text("type"), text("name")),
        _ => statement_as_json(kind, what),
    }
}

/// What can stand on either side of a comparison, and the verdicts of a map.
fn operand(value: &Json) -> String {
    let Some((kind, what)) = only(value) else { return word(value) };
    let text = |key: &str| what.get(key).map(word).unwrap_or_default();
    match kind {
        "meta" => {
            let key = what.as_str().map_or_else(|| text("key"), str::to_owned);
            if key.starts_with("iif") || key.starts_with("oif") {
                key
            } else {
                format!("meta {key}")
            }
        }
        "payload" if what.get("base").is_some() => {
            format!("@{},{},{}", text("base"), text("offset"), text("len"))
        }
        "payload" => format!("{} {}", text("protocol"), text("field")),
        "ct" if what.get("dir").is_some() => format!("ct {} {}", text("dir"), text("key")),
        "ct" | "socket" => format!("{kind} {}", text("key")),
        "fib" => format!("fib {} {}", joined(what.get("flags"), " . ", word), text("result")),
        "exthdr" | "ip option" | "tcp option" => {
            format!("{kind} {} {}", text("name"), text("field")).trim_end().to_owned()
        }
        "set" if what.is_array() => format!("{{ {} }}", joined(Some(what), ", ", element)),
        "set" => operand(what),
        "elem" => what.get("val").map(operand).unwrap_or_default(),
        "prefix" => format!("{}/{}", text("addr"), text("len")),
        "range" => joined(Some(what), "-", word),
        "concat" => joined(Some(what), " . ", operand),
        "&" | "|" | "^" | "<<" | ">>" => joined(Some(what), &format!(" {kind} "), operand),
        "accept" | "drop" | "return" | "continue" => kind.to_owned(),
        "jump" | "goto" => format!("{kind} {}", text("target")),
        _ => value.to_string(),
    }
}

/// An element of a set, or of a map with what it leads to.
fn element(element: &Json) -> String {
    match element.as_array().map(Vec::as_slice) {
        Some([key, value]) => format!("{} : {}", operand(key), operand(value)),
        _ => operand(element),
    }
}

fn joined(list: Option<&Json>, between: &str, of: fn(&Json) -> String) -> String {
    match list.and_then(Json::as_array) {
        Some(list) if list.len() > ELEMENTS => {
            let shown: Vec<String> = list.iter().take(ELEMENTS).map(of).collect();
            format!("{}{between}...", shown.join(between))
        }
        Some(list) => list.iter().map(of).collect::<Vec<_>>().join(between),
        None => list.map(of).unwrap_or_default(),
    }
}

/// A plain value.
fn word(value: &Json) -> String {
    match value {
        Json::String(text) => text.clone(),
        Json::Bool(true) => "exists".to_owned(),
        Json::Bool(false) => "missing".to_owned(),
        Json::Array(list) => list.iter().take(ELEMENTS).map(word).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

fn statement_as_json(kind: &str, what: &Json) -> String {
    if what.is_null() { kind.to_owned() } else { format!("{kind} {what}") }
}

fn is_inverted(what: &Json) -> bool {
    what.get("inv").is_some_and(|inverted| *inverted == Json::Bool(true))
}

/// The only key of an object with its value.
fn only(object: &Json) -> Option<(&str, &Json)> {
    object.as_object()?.iter().next().map(|(key, value)| (key.as_str(), value))
}

/// Characters of a rule that are shown.
const LENGTH: usize = 240;

/// Elements of a set that are shown.
const ELEMENTS: usize = 8;
