//! The analysis against rules that are written down a second time, and its advice against itself.
//!
//! Whole reports are compared where they are printed, against `tests/vectors/failover`.
//!
//! Must not know: how the analysis finds its answer.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod any;
mod rules;

use super::{InstanceReport, Kind, Node, Report, analyse};
use crate::config;
use crate::model::Director;
use std::time::Instant;

fn director(text: &str) -> Director {
    config::load("f", text, "host").unwrap_or_else(|errors| panic!("{text}\n{errors:#?}")).director
}

fn report(files: [&str; 2]) -> Report {
    let directors = files.map(director);
    let [one, other] = &directors;
    let nodes = [
        Node { name: "a".to_owned(), director: one },
        Node { name: "b".to_owned(), director: other },
    ];
    analyse(&nodes, Instant::now())
}

/// An instance of this priority with a script of this weight.
fn file(priority: u8, weight: i16, more: &str) -> String {
    format!(
        "vrrp: {{scripts: {{chk: {{command: [/bin/check], weight: {weight}}}}},\n\
         instances: [{{name: VI_1, interface: eth0, virtual_router_id: 51, priority: {priority},\n\
         addresses: [192.0.2.1], track: {{scripts: [chk]}}{more}}}]}}\n"
    )
}

fn owner<'a>(instance: &'a InstanceReport, failure: &str) -> &'a str {
    let mut cases = instance.cases.iter();
    &cases.find(|case| case.failure == failure).unwrap_or_else(|| panic!("{failure}")).owner
}

/// The weight that an error of the report advises.
fn advised(report: &Report) -> Option<i16> {
    let errors = report.findings.iter().filter(|finding| finding.kind == Kind::Error);
    let advice = errors.filter_map(|finding| finding.message.split_once("a weight of "));
    let mut weights = advice.map(|(_, rest)| rest.split(' ').next().unwrap().parse().unwrap());
    weights.next()
}

#[test]
fn the_advised_weight_is_the_least_that_moves_the_addresses() {
    let mut told = 0;
    for (high, low, weight) in [
        (105, 100, -2),
        (150, 100, -50),
        (150, 100, 10),
        (254, 1, -5),
        (101, 100, 1),
        (254, 200, 30),
    ] {
        let with = |weight| report([&file(high, weight, ""), &file(low, weight, "")]);
        let is = |weight: i16| owner(&with(weight).instances[0], "a: script chk fails").to_owned();
        assert_eq!(is(weight), "a", "{high} {low} {weight}");
        let Some(least) = advised(&with(weight)) else { continue };
        told += 1;
        assert_eq!(is(least), "b", "{high} {low} {least}");
        assert_eq!(with(least).errors(), 0, "{high} {low} {least}");
        assert_eq!(is(least - weight.signum()), "a", "{high} {low} {least}");
        assert!(with(least - weight.signum()).errors() > 0);
    }
    // From 254 to 1 there is a weight of -254 to go, and 254 + w cannot be more than 254.
    assert_eq!(told, 4);
}

#[test]
fn a_weight_that_cannot_do_it_is_not_advised() {
    let report = report([&file(254, -5, ""), &file(1, -5, "")]);
    assert_eq!(advised(&report), None);
    let message = &report.findings[0].message;
    assert!(message.contains("no weight would do; give weight 0"), "{message}");
}

#[test]
fn who_hears_nothing_becomes_master_as_well() {
    // b knows a as a peer, and sends to somebody else.
    let unicast =
        |source: &str, peers: &str| format!(", unicast: {{source: {source}, peers: {peers}}}");
    let a = file(110, 0, &unicast("192.0.2.2", "[192.0.2.3]"));
    let b = |peers: &str| file(100, 0, &unicast("192.0.2.3", peers));
    let both = report([&a, &b("[192.0.2.2]")]);
    assert_eq!((owner(&both.instances[0], "nothing"), both.errors()), ("a", 0));
    let one = report([&a, &b("[192.0.2.4]")]);
    assert_eq!(owner(&one.instances[0], "nothing"), "both");
    assert_eq!(one.errors(), 2, "{:?}", one.findings);
}

#[test]
fn nodes_are_told_apart_by_their_place_and_not_by_their_files() {
    let (one, other) = (file(120, -10, ""), file(100, -10, ""));
    let straight = report([&one, &other]);
    let crossed = report([&other, &one]);
    let swap = |name: &str| name.replace('a', "x").replace('b', "a").replace('x', "b");
    assert_eq!(straight.errors(), crossed.errors());
    for failure in ["nothing", "a dead", "b dead", "a: script chk fails", "b: interface eth0 down"]
    {
        let mirrored = match failure.strip_prefix('a') {
            Some(rest) => format!("b{rest}"),
            None => failure.strip_prefix('b').map_or(failure.to_owned(), |rest| format!("a{rest}")),
        };
        assert_eq!(
            owner(&straight.instances[0], failure),
            swap(owner(&crossed.instances[0], &mirrored)),
            "{failure}"
        );
    }
}

#[test]
fn instances_find_their_partner_among_several_of_one_id() {
    let instance = |name: &str, interface: &str, ip: &str, priority: u8| {
        format!(
            "{{name: {name}, interface: {interface}, virtual_router_id: 51, priority: {priority}, addresses: [{ip}]}}"
        )
    };
    let file = |instances: [String; 2]| format!("vrrp: {{instances: [{}]}}", instances.join(", "));
    // By address although interface and name say otherwise.
    let one =
        file([instance("x", "eth0", "192.0.2.1", 110), instance("y", "eth1", "192.0.2.2", 110)]);
    let other =
        file([instance("x", "eth0", "192.0.2.2", 100), instance("y", "eth1", "192.0.2.1", 100)]);
    let report = report([&one, &other]);
    assert_eq!(report.errors(), 0, "{:?}", report.findings);
    let names: Vec<_> =
        report.instances.iter().map(|i| i.names.clone().map(Option::unwrap)).collect();
    assert_eq!(names, [["x", "y"], ["y", "x"]].map(|names| names.map(str::to_owned)));
}
