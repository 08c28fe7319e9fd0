//! The description against the routes, and against documents as they are written.
//!
//! Must not know: how documents come about.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use hyper::{Method, StatusCode};
use serde::Serialize;
use serde_json::Value;

use super::*;
use crate::admin::api::{self, METRICS, PREFIX};
use crate::controller::document::*;
use crate::controller::overrides::Action;
use crate::controller::request::{Asked, Steer, Verb};

/// One of every verb. A new one does not compile here until it is added.
fn verbs() -> Vec<Verb> {
    let prefix = "192.0.2.0/24".parse().expect("a prefix");
    let all = vec![
        Verb::Status,
        Verb::Stats,
        Verb::Connections { service: Some("web".into()), limit: 5 },
        Verb::Metrics,
        Verb::Bans,
        Verb::Ban { prefix, span: Some(Duration::from_secs(1)) },
        Verb::Unban { prefix },
        Verb::Explain(Asked::parse("192.0.2.1", "192.0.2.9:80/tcp").expect("a packet")),
        Verb::Vrrp,
        Verb::Resign { name: "VI_1".into() },
        steer(Action::Drain),
        steer(Action::Enable),
        steer(Action::Disable),
        steer(Action::Weight(5)),
        steer(Action::Add(Some(5))),
        steer(Action::Remove),
        Verb::Events,
        Verb::History,
        Verb::ReopenLogs,
        Verb::Reload,
    ];
    for verb in &all {
        match verb {
            Verb::Status
            | Verb::Stats
            | Verb::History
            | Verb::Connections { .. }
            | Verb::Metrics
            | Verb::Bans
            | Verb::Ban { .. }
            | Verb::Unban { .. }
            | Verb::Explain(_)
            | Verb::Vrrp
            | Verb::Resign { .. }
            | Verb::Steer(_)
            | Verb::Events
            | Verb::ReopenLogs
            | Verb::Reload => {}
        }
    }
    all
}

fn steer(action: Action) -> Verb {
    let (service, address, port) = Steer::target("web/10.0.0.1:80").expect("a target");
    Verb::Steer(Steer { service, address, port, action, persist: true })
}

#[test]
fn every_verb_is_described_with_its_method_and_parameters() {
    let description = description();
    let mut described: BTreeSet<String> =
        description["paths"].as_object().expect("paths").keys().cloned().collect();
    for verb in verbs() {
        let (method, path) = api::path_of(&verb);
        let (path, query) = path.split_once('?').unwrap_or((&path, ""));
        let Some(name) = path.strip_prefix(PREFIX) else {
            assert_eq!(path, METRICS, "metrics are not JSON");
            continue;
        };
        described.remove(&format!("/{name}"));
        let entry = &description["paths"][format!("/{name}")];
        let operation = &entry[method.as_str().to_lowercase()];
        assert!(operation.is_object(), "{method} {path} is not described");
        let names: Vec<&str> = operation["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(|parameter| parameter["name"].as_str())
            .collect();
        for (key, _) in api::parameters(query).expect("a query") {
            assert!(names.contains(&key.as_str()), "{path}: {key} is not described");
        }
    }
    assert!(described.is_empty(), "described, and no verb: {described:?}");
}

#[test]
fn every_described_operation_has_a_route_that_takes_its_example() {
    for operation in OPERATIONS {
        let method = if operation.changes { Method::POST } else { Method::GET };
        let pairs: Vec<String> = operation
            .parameters
            .iter()
            .map(|parameter| format!("{}={}", parameter.name, api::escape(parameter.example)))
            .collect();
        let path = format!("{PREFIX}{}", operation.name);
        let routed = api::route(&method, &path, Some(&pairs.join("&")));
        assert!(routed.is_ok(), "{path}: {routed:?}");
        for parameter in operation.parameters {
            let without: Vec<String> = pairs
                .iter()
                .filter(|pair| !pair.starts_with(&format!("{}=", parameter.name)))
                .cloned()
                .collect();
            let routed = api::route(&method, &path, Some(&without.join("&")));
            let is_needed = routed.is_err_and(|answer| answer.status == StatusCode::BAD_REQUEST);
            assert_eq!(is_needed, parameter.required, "{path}: {}", parameter.name);
        }
    }
}

/// Documents with an entry in every list and map, so that every key is there.
fn documents() -> Vec<(&'static str, Value)> {
    fn json(document: &impl Serialize) -> Value {
        serde_json::to_value(document).expect("JSON")
    }
    let counts = || BTreeMap::from([("x".to_owned(), 1)]);
    let rates = Rates {
        connections: Some(0.5),
        packets_in: Some(0.5),
        packets_out: Some(0.5),
        bytes_in: Some(0.5),
        bytes_out: Some(0.5),
    };
    let series = ServiceHistory {
        connections: vec![0.5],
        packets_in: vec![0.5],
        bytes_in: vec![0.5],
        bytes_out: vec![0.5],
        ..ServiceHistory::default()
    };
    let check = Check { code: Some(200), last_change: Some(1), ..Check::default() };
    let server = RealServer {
        check: Some(check.clone()),
        checks: vec![check],
        slow_start_percent: Some(5),
        ..RealServer::default()
    };
    let service = VirtualService {
        listen: vec![String::new()],
        scheduler_flags: vec!["sh-port".into()],
        sorry_server: Some(SorryServer::default()),
        real_servers: vec![server],
        ..VirtualService::default()
    };
    let instance = VrrpInstance {
        reasons: vec![VrrpReason::default()],
        transitions: vec![VrrpTransition::default()],
        counters: VrrpCounters { refused: counts(), ..VrrpCounters::default() },
        ..VrrpInstance::default()
    };
    let status = Status {
        virtual_services: vec![service],
        vrrp: vec![instance.clone()],
        ..Status::default()
    };
    let server = RealServerStats { rates, ..RealServerStats::default() };
    let service = ServiceStats { rates, real_servers: vec![server], ..ServiceStats::default() };
    let stats = Stats {
        services: vec![service],
        drops: counts(),
        without_entry: counts(),
        notes: counts(),
        ..Stats::default()
    };
    let vrrp =
        Vrrp { instances: vec![instance], scripts: vec![VrrpScript::default()], ..Vrrp::default() };
    let connections =
        Connections { connections: vec![Connection::default()], ..Connections::default() };
    vec![
        ("Error", json(&Error { error: String::new(), errors: vec![String::new()] })),
        ("Status", json(&status)),
        ("Stats", json(&stats)),
        ("Connections", json(&connections)),
        ("Reload", json(&Reload { warnings: vec![String::new()], ..Reload::default() })),
        ("Bans", json(&Bans { bans: vec![Ban::default()] })),
        ("Lifted", json(&Lifted { denied_by: Some(String::new()), ..Lifted::default() })),
        ("Explanation", json(&Explanation { steps: vec![String::new()], ..Default::default() })),
        ("Vrrp", json(&vrrp)),
        ("Steered", json(&Steered::default())),
        ("Reopened", json(&Reopened { targets: vec![String::new()] })),
        ("History", json(&History { interval_s: 5, services: vec![series] })),
        ("Events", json(&Events { events: vec![Event::default()] })),
        ("Resigned", json(&Resigned::default())),
    ]
}

/// Notes where a document and its schema differ, and which schemas were met.
fn compare(
    root: &Value,
    schema: &Value,
    value: &Value,
    at: &str,
    met: &mut BTreeSet<String>,
    faults: &mut Vec<String>,
) {
    if let Some(reference) = schema["$ref"].as_str() {
        let name = reference.rsplit('/').next().expect("a name");
        let pointed = root.pointer(&reference[1..]);
        match pointed {
            Some(schema) => {
                met.insert(name.to_owned());
                compare(root, schema, value, at, met, faults);
            }
            None => faults.push(format!("{at}: {reference} leads nowhere")),
        }
        return;
    }
    if let Some(any) = schema["anyOf"].as_array() {
        return compare(root, &any[0], value, at, met, faults);
    }
    let fits = match schema["type"].as_str() {
        None => true,
        Some("string") => value.is_string(),
        Some("integer") => value.is_u64(),
        Some("number") => value.is_number(),
        Some("boolean") => value.is_boolean(),
        Some("array") => value.is_array(),
        Some("object") => value.is_object(),
        Some(_) => false,
    };
    if !fits {
        faults.push(format!("{at}: {value} is no {}", schema["type"]));
    }
    for (n, item) in value.as_array().into_iter().flatten().enumerate() {
        compare(root, &schema["items"], item, &format!("{at}[{n}]"), met, faults);
    }
    let Some(object) = value.as_object() else { return };
    if schema["additionalProperties"].is_object() {
        for (key, item) in object {
            let below = format!("{at}.{key}");
            compare(root, &schema["additionalProperties"], item, &below, met, faults);
        }
        return;
    }
    let properties = schema["properties"].as_object().cloned().unwrap_or_default();
    for (key, item) in object {
        match properties.get(key) {
            Some(schema) => compare(root, schema, item, &format!("{at}.{key}"), met, faults),
            None => faults.push(format!("{at}.{key} is not described")),
        }
    }
    for key in properties.keys().filter(|key| !object.contains_key(*key)) {
        faults.push(format!("{at}.{key} is described and not there"));
    }
}

fn faults(description: &Value, documents: &[(&str, Value)]) -> Vec<String> {
    let (mut met, mut faults) = (BTreeSet::new(), Vec::new());
    for (name, value) in documents {
        let reference = serde_json::json!({ "$ref": format!("#/components/schemas/{name}") });
        compare(description, &reference, value, name, &mut met, &mut faults);
    }
    let schemas = description["components"]["schemas"].as_object().expect("schemas");
    faults.extend(
        schemas.keys().filter(|name| !met.contains(*name)).map(|name| format!("{name} is unused")),
    );
    faults
}

#[test]
fn documents_have_exactly_the_keys_that_are_described() {
    assert_eq!(faults(&description(), &documents()), Vec::<String>::new());
}

#[test]
fn a_key_that_is_missing_or_of_another_type_is_found() {
    let mut planted = description();
    let schemas = &mut planted["components"]["schemas"];
    let capacity = schemas["Capacity"]["properties"].as_object_mut().expect("keys");
    capacity.remove("used");
    schemas["Ban"]["properties"]["packets"] = serde_json::json!({ "type": "string" });
    schemas["Reload"]["properties"]["more"] = serde_json::json!({ "type": "string" });
    let faults = faults(&planted, &documents());
    assert_eq!(
        faults,
        [
            "Status.dataplane.connections.used is not described",
            "Reload.more is described and not there",
            "Bans.bans[0].packets: 0 is no \"string\"",
        ]
    );
}

#[test]
fn every_reference_leads_somewhere_and_ids_are_unique() {
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(object) => {
                found.extend(object.get("$ref").and_then(Value::as_str));
                object.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| references(value, found)),
            _ => {}
        }
    }
    let description = description();
    assert_eq!(description["openapi"], "3.1.0");
    let mut found = Vec::new();
    references(&description, &mut found);
    assert!(found.len() > 50, "{}", found.len());
    for reference in found {
        let pointer = reference.strip_prefix('#').expect("of this document");
        assert!(description.pointer(pointer).is_some(), "{reference}");
    }
    let mut ids = BTreeSet::new();
    for path in description["paths"].as_object().expect("paths").values() {
        for operation in path.as_object().expect("methods").values() {
            assert!(ids.insert(operation["operationId"].as_str().expect("an id")));
            assert!(operation["responses"]["200"].is_object());
            assert!(operation["responses"]["401"].is_object());
        }
    }
}
