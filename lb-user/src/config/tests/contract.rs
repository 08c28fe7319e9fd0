//! Walks `docs/lb.yaml` and the table of keys against each other.
//!
//! A key of the reference is either built, and then used by `good/everything.yaml`, or refused as
//! not supported yet. No key may be in one of the two only.
//!
//! Must not know: how values are read.

use super::super::contract::{Inside, Key, ROOT};
use super::super::load;
use super::super::yaml::{self, Kind, Node};
use super::repository;
use std::collections::BTreeSet;
use std::fs;

/// A key of a scope: keys that several places share count once.
type Seen = BTreeSet<(usize, &'static str)>;

fn reference() -> Node {
    let text = fs::read_to_string(repository("docs/lb.yaml")).expect("docs/lb.yaml");
    yaml::parse(&text).expect("docs/lb.yaml is YAML")
}

/// One key of the reference: its path with steps of lists as `[]`, and whether all of it is built.
struct Use {
    steps: Vec<String>,
    built: bool,
}

/// Notes every key below `node`; panics on one that the table does not have.
fn walk(node: &Node, inside: Inside, path: &Use, seen: &mut Seen, uses: &mut Vec<Use>) {
    match &node.kind {
        Kind::List(items) => {
            let mut steps = path.steps.clone();
            steps.push("[]".into());
            let path = Use { steps, built: path.built };
            items.iter().for_each(|item| walk(item, inside, &path, seen, uses));
        }
        Kind::Map(entries) => {
            for entry in entries {
                let mut steps = path.steps.clone();
                steps.push(entry.key.clone());
                let (below, built) = match inside {
                    Inside::Free => return,
                    Inside::Named(keys) => (Inside::Map(keys), path.built),
                    Inside::Map(keys) => {
                        let key = keys.iter().find(|key| key.name == entry.key);
                        let key = key.unwrap_or_else(|| panic!("{steps:?} is not in the table"));
                        seen.insert((keys.as_ptr().addr(), key.name));
                        (key.inside, path.built && key.built)
                    }
                    Inside::Value => panic!("{steps:?}: the table knows no mapping here"),
                };
                let path = Use { steps, built };
                walk(&entry.value, below, &path, seen, uses);
                uses.push(path);
            }
        }
        _ => {}
    }
}

fn walked(node: &Node) -> (Seen, Vec<Use>) {
    let (mut seen, mut uses) = (Seen::new(), Vec::new());
    let root = Use { steps: Vec::new(), built: true };
    walk(node, Inside::Map(ROOT), &root, &mut seen, &mut uses);
    (seen, uses)
}

/// Every key of the table, with a path for messages.
fn table(keys: &'static [Key], path: &str, all: &mut Vec<(usize, &'static Key, String)>) {
    if all.iter().any(|(scope, ..)| *scope == keys.as_ptr().addr()) {
        return;
    }
    for key in keys {
        all.push((keys.as_ptr().addr(), key, format!("{path}.{}", key.name)));
    }
    for key in keys {
        table(key.inside.keys(), &format!("{path}.{}", key.name), all);
    }
}

/// Keys that stand in comments of the reference only.
const IN_COMMENTS: &[&str] = &[
    // "{mode: append, except: [10.0.0.0/8]}"
    "frontends.forwarded_for.mode",
    "frontends.forwarded_for.except",
    // "also host_suffix, host_regex; path, path_regex; header_regex, query, status"
    "frontends.rules.when.host_suffix",
    "frontends.rules.when.path",
    "frontends.rules.when.path_regex",
    "frontends.rules.when.header_regex",
    "frontends.rules.when.query",
    "frontends.rules.when.status",
    // "any of scheme, host, port, path, prefix"
    "frontends.rules.redirect.host",
    "frontends.rules.redirect.port",
    "frontends.rules.redirect.path",
    "frontends.rules.redirect.prefix",
    // "also in a rule"
    "frontends.rules.request_headers",
    "frontends.rules.response_headers",
];

#[test]
fn table_and_reference_have_the_same_keys() {
    let (seen, _) = walked(&reference());
    let mut all = Vec::new();
    table(ROOT, "", &mut all);
    let missing: BTreeSet<String> = all
        .iter()
        .filter(|(scope, key, _)| !seen.contains(&(*scope, key.name)))
        .map(|(_, _, path)| canonical(path))
        .collect();
    let comments: BTreeSet<String> = IN_COMMENTS.iter().map(|path| (*path).to_owned()).collect();
    assert_eq!(missing, comments);
    let text = fs::read_to_string(repository("docs/lb.yaml")).expect("docs/lb.yaml");
    for path in IN_COMMENTS {
        let key = path.rsplit('.').next().unwrap();
        assert!(text.contains(key), "{path} is nowhere");
    }
}

/// The table is walked depth first, so shared scopes appear below `defaults`.
fn canonical(path: &str) -> String {
    let path = path.trim_start_matches('.');
    path.replacen("defaults.virtual_service.health_check", "health_checks", 1)
        .replacen("defaults.frontend", "frontends", 1)
        .replacen("defaults.backend", "backends", 1)
}

/// The smallest document with the value that `steps` lead to, in flow style (which is JSON).
fn only(node: &Node, steps: &[String]) -> Option<String> {
    let Some((step, rest)) = steps.split_first() else { return Some(flow(node)) };
    match &node.kind {
        // The items of a list differ; the first that has the rest of the way will do.
        Kind::List(items) => {
            items.iter().find_map(|item| only(item, rest)).map(|text| format!("[{text}]"))
        }
        Kind::Map(entries) => {
            let entry = entries.iter().find(|entry| entry.key == *step)?;
            Some(format!("{{{:?}: {}}}", step, only(&entry.value, rest)?))
        }
        _ => None,
    }
}

fn flow(node: &Node) -> String {
    match &node.kind {
        Kind::Null => "null".into(),
        Kind::Bool(value) => value.to_string(),
        Kind::Int(value) => value.to_string(),
        Kind::Float(value) => value.to_string(),
        Kind::Text(value) => format!("{value:?}"),
        Kind::List(items) => format!("[{}]", items.iter().map(flow).collect::<Vec<_>>().join(", ")),
        Kind::Map(entries) => {
            let entry = |e: &yaml::Entry| format!("{:?}: {}", e.key, flow(&e.value));
            format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
        }
    }
}

#[test]
fn every_key_of_the_reference_works_or_is_refused_as_not_supported_yet() {
    let reference = reference();
    let (_, uses) = walked(&reference);
    assert!(uses.len() > 300, "{} keys", uses.len());
    for Use { steps, built } in &uses {
        let text = only(&reference, steps).expect("the key is in the reference");
        let messages: Vec<String> = match load("f", &text, "host") {
            Ok(_) => Vec::new(),
            Err(errors) => errors.iter().map(ToString::to_string).collect(),
        };
        assert!(!messages.iter().any(|m| m.contains("unknown key")), "{text}: {messages:?}");
        assert!(!messages.iter().any(|m| m.contains("not valid YAML")), "{text}: {messages:?}");
        if !built {
            // Refused at the first key on the way that is not built.
            let key = first_later(steps);
            let said = format!("`{key}` is not supported yet");
            assert!(messages.iter().any(|m| m.ends_with(&said)), "{text}: {messages:?}");
        }
    }
}

fn first_later(steps: &[String]) -> &str {
    let mut inside = Inside::Map(ROOT);
    for step in steps.iter().filter(|step| *step != "[]") {
        match inside {
            Inside::Named(keys) => inside = Inside::Map(keys),
            _ => match inside.keys().iter().find(|key| key.name == step) {
                Some(key) if key.built => inside = key.inside,
                _ => return step,
            },
        }
    }
    panic!("{steps:?} is built")
}

#[test]
fn every_built_key_is_used_by_a_good_file() {
    let path = repository("tests/vectors/config/good/everything.yaml");
    let text = fs::read_to_string(path).unwrap();
    let (seen, _) = walked(&yaml::parse(&text).unwrap());
    let mut all = Vec::new();
    table(ROOT, "", &mut all);
    for (scope, key, path) in all {
        assert_eq!(key.built, seen.contains(&(scope, key.name)), "{path}");
    }
}

#[test]
fn the_reference_itself_is_refused_only_for_what_is_not_built() {
    let text = fs::read_to_string(repository("docs/lb.yaml")).unwrap();
    let errors = load("lb.yaml", &text, "host").unwrap_err();
    let other: Vec<_> = errors
        .iter()
        .filter(|e| !e.message.contains("not supported yet"))
        .map(|e| (e.path.as_str(), e.message.as_str()))
        .collect();
    // A check of a type that is not built has no `type` problem of its own, and so on. To show
    // every key, the reference has one address both with and without VRRP, which no file may, and
    // where a password's hash stands, three dots instead of one that somebody might copy.
    let address = "192.168.20.50 is also dataplane.addresses[0], which this node keeps in every \
                   state: write it in one place";
    let hash = "is not an argon2id hash ($argon2id$v=19$...); make one by `argon2 SALT -id -e`, see \
                docs/admin-api.md";
    let expected =
        [("vrrp.instances[0].addresses[0]", address), ("admin.http.users[0].password_hash", hash)];
    assert_eq!(other, expected);
    assert!(errors.is_sorted_by_key(|e| (e.line, e.column)));
}
