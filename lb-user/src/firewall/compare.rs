//! Comparing what a packet has with what a rule asks for, where "perhaps" is an answer.
//!
//! Must not know: packets, chains.

use std::net::IpAddr;

use serde_json::Value as Json;

use super::packet::Value;

/// Whether something is so.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Tri {
    /// It is not.
    No,
    /// It cannot be decided here.
    Perhaps,
    /// It is.
    Yes,
}

impl Tri {
    /// Both.
    pub(super) fn and(self, other: Self) -> Self {
        self.min(other)
    }

    /// At least one.
    fn or(self, other: Self) -> Self {
        self.max(other)
    }

    fn not(self) -> Self {
        match self {
            Self::No => Self::Yes,
            Self::Perhaps => Self::Perhaps,
            Self::Yes => Self::No,
        }
    }
}

impl From<bool> for Tri {
    fn from(so: bool) -> Self {
        if so { Self::Yes } else { Self::No }
    }
}

/// The elements of a set by its name; `None` if they were not listed.
pub(super) type Sets<'a> = &'a dyn Fn(&str) -> Option<&'a [Json]>;

/// Whether a `match` matches.
pub(super) fn matches(value: &Value, operator: &str, right: &Json, sets: Sets<'_>) -> Tri {
    match (value, operator) {
        (Value::Absent, _) => Tri::No,
        (Value::Unknown, _) => Tri::Perhaps,
        (_, "==") => equals(value, right, sets),
        (_, "!=") => equals(value, right, sets).not(),
        (Value::States(_), "in") => equals(value, right, sets),
        (Value::States(_), "!") => equals(value, right, sets).not(),
        (_, "<") => ordered(value, right, |a, b| a < b),
        (_, ">") => ordered(value, right, |a, b| a > b),
        (_, "<=") => ordered(value, right, |a, b| a <= b),
        (_, ">=") => ordered(value, right, |a, b| a >= b),
        _ => Tri::Perhaps,
    }
}

/// Whether a value is `right`, or in it if that is a set, a range or a prefix.
pub(super) fn equals(value: &Value, right: &Json, sets: Sets<'_>) -> Tri {
    match (value, right) {
        (Value::Absent, _) => Tri::No,
        (Value::Unknown, _) => Tri::Perhaps,
        (_, Json::String(name)) if name.starts_with('@') => match sets(&name[1..]) {
            Some(elements) => any(value, elements, sets),
            None => Tri::Perhaps,
        },
        (Value::States(states), _) => among(states, &words(right)),
        (_, Json::Object(object)) => {
            let Some((kind, what)) = object.iter().next() else { return Tri::Perhaps };
            match kind.as_str() {
                "set" => match what.as_array() {
                    Some(elements) => any(value, elements, sets),
                    None => equals(value, what, sets),
                },
                "elem" => what.get("val").map_or(Tri::Perhaps, |one| equals(value, one, sets)),
                "prefix" => in_prefix(value, what),
                "range" => in_range(value, what),
                "concat" => side_by_side(value, what, sets),
                _ => Tri::Perhaps,
            }
        }
        _ => is_one(value, right),
    }
}

fn any(value: &Value, elements: &[Json], sets: Sets<'_>) -> Tri {
    if let Value::States(states) = value {
        let names: Vec<&str> = elements.iter().flat_map(words).collect();
        return among(states, &names);
    }
    elements.iter().map(|element| equals(value, element, sets)).fold(Tri::No, Tri::or)
}

/// The names in a right side of `ct state`.
fn words(right: &Json) -> Vec<&str> {
    match right {
        Json::String(name) => vec![name],
        Json::Array(list) => list.iter().flat_map(words).collect(),
        Json::Object(object) => {
            let inner = ["set", "elem", "val"].iter().find_map(|key| object.get(*key));
            inner.map(words).unwrap_or_default()
        }
        _ => Vec::new(),
    }
}

fn among(states: &[&str], names: &[&str]) -> Tri {
    match states.iter().filter(|state| names.contains(state)).count() {
        0 => Tri::No,
        count if count == states.len() => Tri::Yes,
        _ => Tri::Perhaps,
    }
}

fn is_one(value: &Value, right: &Json) -> Tri {
    match (value, right) {
        (Value::Number(number, _), Json::Number(other)) => (other.as_u64() == Some(*number)).into(),
        (Value::Number(number, names), Json::String(other)) => match number_of(other) {
            Some(other) => (other == *number).into(),
            None => names.contains(&other.as_str()).into(),
        },
        (Value::Address(address), Json::String(other)) => match other.parse::<IpAddr>() {
            Ok(other) => (other == *address).into(),
            Err(_) => Tri::Perhaps,
        },
        (Value::Text(text), Json::String(other)) => match other.strip_suffix('*') {
            Some(escaped) if escaped.ends_with('\\') => Tri::Perhaps,
            Some(beginning) => text.starts_with(beginning).into(),
            None => (text == other).into(),
        },
        (Value::Flag(flag), Json::Bool(other)) => (flag == other).into(),
        _ => Tri::Perhaps,
    }
}

fn in_prefix(value: &Value, what: &Json) -> Tri {
    let network = what.get("addr").and_then(Json::as_str).and_then(|text| text.parse().ok());
    let length = what.get("len").and_then(Json::as_u64);
    let (Value::Address(address), Some(network), Some(length)) = (value, network, length) else {
        return Tri::Perhaps;
    };
    let (width, address, network) = match (*address, network) {
        (IpAddr::V4(a), IpAddr::V4(n)) => (32, u128::from(a.to_bits()), u128::from(n.to_bits())),
        (IpAddr::V6(a), IpAddr::V6(n)) => (128, a.to_bits(), n.to_bits()),
        _ => return Tri::No,
    };
    // A length of 0 shifts everything out.
    let host_bits = 128.min(width - length.min(width)) as u32;
    (address.checked_shr(host_bits) == network.checked_shr(host_bits)).into()
}

fn in_range(value: &Value, what: &Json) -> Tri {
    let Some([first, last]) = what.as_array().map(Vec::as_slice) else { return Tri::Perhaps };
    ordered(value, first, |a, b| a >= b).and(ordered(value, last, |a, b| a <= b))
}

fn side_by_side(value: &Value, what: &Json, sets: Sets<'_>) -> Tri {
    let (Value::Concat(values), Some(parts)) = (value, what.as_array()) else {
        return Tri::Perhaps;
    };
    if values.len() != parts.len() {
        return Tri::Perhaps;
    }
    let each = values.iter().zip(parts).map(|(value, part)| equals(value, part, sets));
    each.fold(Tri::Yes, Tri::and)
}

fn ordered(value: &Value, right: &Json, holds: impl Fn(u128, u128) -> bool) -> Tri {
    let pair = match (value, right) {
        (Value::Number(number, _), Json::Number(other)) => {
            other.as_u64().map(|other| (u128::from(*number), u128::from(other)))
        }
        (Value::Number(number, names), Json::String(other)) => {
            let same = names.contains(&other.as_str()).then_some(*number);
            number_of(other).or(same).map(|other| (u128::from(*number), u128::from(other)))
        }
        (Value::Address(address), Json::String(other)) => match (*address, other.parse()) {
            (IpAddr::V4(a), Ok(IpAddr::V4(b))) => Some((a.to_bits().into(), b.to_bits().into())),
            (IpAddr::V6(a), Ok(IpAddr::V6(b))) => Some((a.to_bits(), b.to_bits())),
            _ => None,
        },
        _ => None,
    };
    pair.map_or(Tri::Perhaps, |(a, b)| holds(a, b).into())
}

fn number_of(text: &str) -> Option<u64> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok(),
        None => text.parse().ok(),
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;
    use serde_json::json;

    #[track_caller]
    fn check(value: &Value, operator: &str, right: &Json, expected: Tri) {
        let elements = [json!("192.0.2.3"), json!({"elem": {"val": "192.0.2.7", "timeout": 3}})];
        let sets = |name: &str| (name == "here").then_some(elements.as_slice());
        assert_eq!(
            matches(value, operator, right, &sets),
            expected,
            "{value:?} {operator} {right}"
        );
    }

    #[test]
    fn what_is_not_there_matches_nothing_and_what_is_not_known_perhaps() {
        for operator in ["==", "!=", "<", "in"] {
            check(&Value::Absent, operator, &json!(1), Tri::No);
            check(&Value::Unknown, operator, &json!(1), Tri::Perhaps);
        }
    }

    #[test]
    fn addresses() {
        let value = Value::Address("192.0.2.7".parse().unwrap());
        let prefix = |addr: &str, len: u32| json!({"prefix": {"addr": addr, "len": len}});
        for (right, expected) in [
            (json!("192.0.2.7"), Tri::Yes),
            (json!("192.0.2.8"), Tri::No),
            (json!("somewhere"), Tri::Perhaps),
            (json!("@here"), Tri::Yes),
            (json!("@elsewhere"), Tri::Perhaps),
            (prefix("192.0.2.0", 24), Tri::Yes),
            (prefix("192.0.2.8", 29), Tri::No),
            (prefix("0.0.0.0", 0), Tri::Yes),
            (prefix("::", 0), Tri::No),
            (prefix("192.0.2.7", 999), Tri::Yes),
            (json!({"range": ["192.0.2.1", "192.0.2.7"]}), Tri::Yes),
            (json!({"range": ["192.0.2.8", "192.0.2.9"]}), Tri::No),
            (json!({"set": ["192.0.2.1", {"range": ["192.0.2.5", "192.0.2.9"]}]}), Tri::Yes),
            (json!({"set": []}), Tri::No),
        ] {
            check(&value, "==", &right, expected);
            check(&value, "!=", &right, expected.not());
        }
        let value = Value::Address("2001:db8::7".parse().unwrap());
        check(&value, "==", &prefix("2001:db8::", 64), Tri::Yes);
        check(&value, "==", &prefix("2001:db8:1::", 48), Tri::No);
        check(&value, "==", &prefix("::", 0), Tri::Yes);
    }

    #[test]
    fn numbers_names_and_texts() {
        let vrrp = Value::Number(112, &["vrrp"]);
        check(&vrrp, "==", &json!("vrrp"), Tri::Yes);
        check(&vrrp, "==", &json!("0x70"), Tri::Yes);
        check(&vrrp, "==", &json!("tcp"), Tri::No);
        check(&vrrp, "!=", &json!({"set": ["tcp", 17]}), Tri::Yes);
        check(&vrrp, "==", &json!({"range": [100, "vrrp"]}), Tri::Yes);
        check(&vrrp, ">", &json!(112), Tri::No);
        check(&vrrp, ">=", &json!("tcp"), Tri::Perhaps);
        let eth0 = Value::Text("eth0".into());
        check(&eth0, "==", &json!("eth*"), Tri::Yes);
        check(&eth0, "==", &json!("eth1"), Tri::No);
        check(&eth0, "!=", &json!({"set": ["lo", "eth0"]}), Tri::No);
        let both = Value::Concat(vec![eth0, vrrp]);
        check(&both, "==", &json!({"set": [{"concat": ["eth0", 112]}]}), Tri::Yes);
        check(&both, "==", &json!({"set": [{"concat": ["eth0", "tcp"]}]}), Tri::No);
        check(&both, "==", &json!({"set": [{"concat": ["eth0"]}]}), Tri::Perhaps);
    }

    #[test]
    fn states() {
        let states = Value::States(&["new", "untracked"]);
        check(&states, "in", &json!(["established", "related"]), Tri::No);
        check(&states, "in", &json!(["new", "untracked"]), Tri::Yes);
        check(&states, "in", &json!("new"), Tri::Perhaps);
        check(&states, "!", &json!("established"), Tri::Yes);
        check(&states, "!=", &json!({"set": ["established", "related"]}), Tri::Yes);
    }
}
