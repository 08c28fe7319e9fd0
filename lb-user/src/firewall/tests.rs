//! Listings of a real `nft` in `tests/vectors/nft`, with what is found in them beside each as
//! `.txt`; `UPDATE_EXPECT=1` writes what came out.
//!
//! Must not know: how rules are judged.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::{Path, PathBuf};

use proptest::prelude::*;
use serde_json::{Value as Json, json};

use super::listing::ask_of;
use super::{Packet, judge};

fn packet(interface: &str, source: Option<&str>, destination: &str) -> Packet {
    Packet {
        interface: interface.to_owned(),
        source: source.map(|source| source.parse().unwrap()),
        destination: destination.parse().unwrap(),
    }
}

fn packets() -> [Packet; 4] {
    [
        packet("eth0", Some("192.0.2.3"), "224.0.0.18"),
        packet("eth0", None, "224.0.0.18"),
        packet("eth1", Some("192.0.2.9"), "192.0.2.1"),
        packet("eth0", Some("fe80::2"), "ff02::12"),
    ]
}

fn called(packet: &Packet) -> String {
    let source = packet.source.map_or("somebody".to_owned(), |source| source.to_string());
    format!("{}: {source} -> {}\n", packet.interface, packet.destination)
}

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/nft")
}

/// What is expected is in the file; where it differs, both are shown.
fn compare(file: &Path, got: &str, failures: &mut Vec<String>) {
    if std::env::var_os("UPDATE_EXPECT").is_some_and(|v| v == "1") {
        std::fs::write(file, got).expect("the repository is writable");
        return;
    }
    let expected = std::fs::read_to_string(file).unwrap_or_default();
    if expected != got {
        failures.push(format!("{}: expected\n{expected}got\n{got}", file.display()));
    }
}

/// Every listing as it is, and the rules of `expressions.json` each by itself: there a certain drop
/// would hide what follows it.
#[test]
fn every_listing_leads_to_the_lines_beside_it() {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(vectors()).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "json"));
    files.sort();
    assert!(files.len() >= 7, "{files:?}");
    let mut failures = Vec::new();
    for file in files {
        let listing = std::fs::read_to_string(&file).unwrap();
        let each = file.ends_with("expressions.json");
        let listings = if each { one_by_one(&listing) } else { vec![listing] };
        let mut got = String::new();
        for packet in packets() {
            got.push_str(&called(&packet));
            for listing in &listings {
                for line in judge(listing, &packet).expect("it is a listing") {
                    got.push_str(&format!("  {line}\n"));
                }
            }
        }
        compare(&file.with_extension("txt"), &got, &mut failures);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// Listings that have one rule of the base chain each.
fn one_by_one(listing: &str) -> Vec<String> {
    let whole: Json = serde_json::from_str(listing).unwrap();
    let objects = whole["nftables"].as_array().unwrap();
    let is_own = |object: &&Json| object.get("rule").is_some_and(|rule| rule["chain"] == "p");
    let with = |rule: &Json| {
        let others = objects.iter().filter(|object| !is_own(object));
        json!({"nftables": others.chain([rule]).collect::<Vec<_>>()}).to_string()
    };
    objects.iter().filter(is_own).map(with).collect()
}

/// A listing of one table `inet t`.
fn table(objects: &[Json]) -> String {
    let mut all = vec![json!({"metainfo": {"json_schema_version": 1}})];
    for object in objects {
        let mut object = object.clone();
        for (_, what) in object.as_object_mut().unwrap() {
            what["family"] = json!("inet");
            what["table"] = json!("t");
        }
        all.push(object);
    }
    json!({"nftables": all}).to_string()
}

fn base(name: &str, priority: i64, policy: &str) -> Json {
    json!({"chain": {"name": name, "type": "filter", "hook": "input", "prio": priority, "policy": policy}})
}

fn rule(chain: &str, handle: u64, statements: &Json) -> Json {
    json!({"rule": {"chain": chain, "handle": handle, "expr": statements}})
}

#[track_caller]
fn check(objects: &[Json], expected: &[&str]) {
    assert_eq!(judge(&table(objects), &packets()[0]).unwrap(), expected);
}

fn perhaps() -> Json {
    json!({"limit": {"rate": 1, "per": "second"}})
}

#[test]
fn an_accept_ends_its_base_chain_only() {
    let objects = [
        base("b", 5, "accept"),
        base("a", 0, "drop"),
        rule("a", 1, &json!([{"accept": null}])),
        rule("b", 2, &json!([{"drop": null}])),
        base("c", 9, "drop"),
    ];
    check(&objects, &["inet t b: handle 2: drop"]);
}

#[test]
fn what_perhaps_drops_makes_nothing_behind_it_less_certain_but_an_accept_does() {
    let drop = rule("a", 1, &json!([perhaps(), {"drop": null}]));
    let accept = rule("a", 2, &json!([perhaps(), {"accept": null}]));
    let first = "perhaps inet t a: handle 1: limit rate 1/second drop";
    check(&[base("a", 0, "drop"), drop.clone()], &[first, "inet t a: policy drop"]);
    check(&[base("a", 0, "drop"), drop, accept], &[first, "perhaps inet t a: policy drop"]);
}

#[test]
fn jumps_come_back_and_gotos_do_not() {
    let inner = rule("inner", 1, &json!([{"counter": null}]));
    let and_then = |kind: &str| {
        [
            base("a", 0, "drop"),
            rule("a", 2, &json!([{kind: {"target": "inner"}}])),
            rule("a", 3, &json!([{"accept": null}])),
            inner.clone(),
        ]
    };
    check(&and_then("jump"), &[]);
    check(&and_then("goto"), &["inet t a: policy drop"]);
    let returning = [
        base("a", 0, "accept"),
        rule("a", 2, &json!([{"jump": {"target": "inner"}}])),
        rule("a", 3, &json!([{"drop": null}])),
        rule("inner", 4, &json!([perhaps(), {"return": null}])),
        rule("inner", 5, &json!([{"reject": null}])),
    ];
    let expected = ["perhaps inet t inner: handle 5: reject", "inet t a: handle 3: drop"];
    check(&returning, &expected);
}

/// `nft` 1.0.6 leaves the device out, later versions do not.
#[test]
fn an_ingress_chain_of_another_interface_is_not_met() {
    let listing = std::fs::read_to_string(vectors().join("ingress.json")).unwrap();
    let drop = ["netdev early eth0: handle 3: ether daddr 01:00:5e:00:00:12 drop"];
    for (device, expected) in
        [("\"eth0\"", &drop[..]), ("[\"eth7\", \"eth0\"]", &drop), ("\"eth7\"", &[])]
    {
        let said = listing
            .replace("\"hook\": \"ingress\"", &format!("\"hook\": \"ingress\", \"dev\": {device}"));
        assert_eq!(judge(&said, &packets()[0]).unwrap(), expected, "{device}");
    }
}

#[test]
fn chains_that_jump_to_each_other_end() {
    let jump = |to: &str| json!([perhaps(), {"jump": {"target": to}}]);
    let mut objects = vec![base("a", 0, "drop")];
    objects.extend((0..50).map(|handle| rule("a", handle, &jump("b"))));
    objects.extend((0..50).map(|handle| rule("b", handle, &jump("a"))));
    check(&objects, &["perhaps inet t a: policy drop"]);
}

#[test]
fn texts_are_short_and_without_control_characters() {
    let objects = [
        base("a", 0, "accept"),
        rule(
            "a",
            1,
            &json!([{"log": {"prefix": "x\u{1b}[31m\n"}}, {"strange": {"a": "y".repeat(999)}}, {"drop": null}]),
        ),
    ];
    let found = judge(&table(&objects), &packets()[0]).unwrap();
    assert!(
        found[0].starts_with("perhaps inet t a: handle 1: log prefix \"x[31m\" strange {\"a\":")
    );
    assert!(found[0].chars().count() < 300 && found[0].ends_with("..."), "{found:?}");
}

#[test]
fn what_is_no_listing_is_refused() {
    for listing in ["", "nothing", "{\"nftables\": [", "{\"nftables\": 3}", "{}"] {
        assert!(judge(listing, &packets()[0]).is_err(), "{listing}");
    }
    assert_eq!(judge("# Warning\n{\"nftables\": []}", &packets()[0]).unwrap(), [""; 0]);
}

/// A program that says `output` and exits with `code`.
async fn asked(code: u8, output: &str, legacy: &[String]) -> Vec<String> {
    let folder = crate::exec::tests::Folder::new("nft");
    let script = folder.script("nft", &format!("cat <<'END'\n{output}\nEND\nexit {code}"));
    ask_of(&script, &packets()[..1], legacy).await
}

#[tokio::test(flavor = "current_thread")]
async fn there_is_always_something_to_say() {
    let legacy = ["filter".to_owned()];
    let plain = std::fs::read_to_string(vectors().join("plain.json")).unwrap();
    let found = ["inet filter input: handle 2: ip protocol vrrp counter drop"];
    assert_eq!(asked(0, &plain, &legacy).await, found);
    // The same rule about another protocol is none that does.
    let other = plain.replace("\"vrrp\"", "\"tcp\"");
    assert!(asked(0, &other, &[]).await[0].starts_with("no rule of nftables"));
    let nothing = asked(0, "{\"nftables\": []}", &legacy).await;
    assert!(nothing[0].starts_with("no rule of nftables"), "{nothing:?}");
    assert!(nothing[1].starts_with("legacy iptables has rules as well (tables filter)"));
    let failed = asked(1, "Operation not permitted", &[]).await;
    let expected = "nft could not be asked for the rule: exit code 1: Operation not permitted; \
                    run `nft -a list ruleset` or `iptables-save` and look for what drops protocol 112";
    assert_eq!(failed, [expected]);
    let unreadable = asked(0, "nonsense", &[]).await;
    assert!(unreadable[0].contains("its output is unreadable: it holds no JSON"));
    let missing = ask_of("/nowhere/nft", &packets()[..1], &[]).await;
    assert!(missing[0].contains("it is not installed (package nftables)"), "{missing:?}");
}

/// JSON made of the words that listings have, so that it gets far.
fn anything() -> impl Strategy<Value = Json> {
    let words = [
        "nftables", "chain", "rule", "set", "map", "elem", "val", "expr", "match", "op", "left",
        "right", "meta", "key", "l4proto", "payload", "protocol", "field", "ip", "saddr", "prefix",
        "addr", "len", "range", "concat", "vmap", "data", "drop", "jump", "goto", "target", "@x",
        "xt", "type", "name", "==", "!=", "input", "inet", "hook", "policy", "fib", "flags", "&",
        "ct", "state", "new", "", "*", "\\*", "10.0.0.1", "::", "iifname", "limit", "family",
    ];
    let word = proptest::sample::select(words.to_vec());
    let leaf = prop_oneof![
        Just(Json::Null),
        any::<bool>().prop_map(Json::from),
        any::<u64>().prop_map(Json::from),
        any::<i64>().prop_map(Json::from),
        word.clone().prop_map(Json::from),
    ];
    leaf.prop_recursive(6, 64, 5, move |inner| {
        let entry = (word.clone(), inner.clone());
        prop_oneof![
            proptest::collection::vec(inner, 0..5).prop_map(Json::from),
            proptest::collection::vec(entry, 0..3)
                .prop_map(|entries| entries.into_iter().map(|(k, v)| (k.to_owned(), v)).collect()),
        ]
    })
}

proptest! {
    #[test]
    fn no_listing_makes_it_panic(statements in proptest::collection::vec(anything(), 0..6),
                                 elements in anything(), object in anything()) {
        let objects = [
            base("a", 0, "drop"),
            rule("a", 1, &Json::from(statements)),
            json!({"set": {"name": "x", "elem": elements}}),
        ];
        let listing = table(&objects);
        for packet in packets() {
            let found = judge(&listing, &packet).unwrap();
            prop_assert!(found.len() <= 16);
            let is_line = |line: &String| !line.contains(char::is_control);
            prop_assert!(found.iter().all(is_line), "{found:?}");
            let _ = judge(&object.to_string(), &packet);
            let _ = judge(&json!({"nftables": [object]}).to_string(), &packet);
        }
    }

    #[test]
    fn no_match_makes_it_panic(left in anything(), right in anything(), op in "==|!=|in|!|<|>|<=|>=") {
        let one = json!([{"match": {"op": op, "left": left, "right": right}}, {"drop": null}]);
        let objects = [base("a", 0, "accept"), rule("a", 1, &one)];
        for packet in packets() {
            let _ = judge(&table(&objects), &packet).unwrap();
        }
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in ".{0,200}") {
        let _ = judge(&bytes, &packets()[0]);
    }
}
