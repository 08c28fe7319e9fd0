//! Positions of nodes, and the faults of text that is no usable YAML.
//!
//! `check` names a node by its path and compares its line and column.
//!
//! Must not know: the contract.

use super::super::marks;
use super::super::yaml::{Fault, Kind, Node, parse, position};
use super::repository;
use std::collections::HashSet;
use std::fs;

/// Position of the node that `path` of keys and indices (as text; `!key` is the key) names.
fn check(text: &str, path: &[&str], expected: (usize, usize)) {
    let root = parse(text).expect("test text is YAML");
    let mut id = root.id;
    let mut node = &root;
    for step in path {
        match &node.kind {
            Kind::List(items) => node = &items[step.parse::<usize>().expect("index")],
            Kind::Map(entries) => {
                let name = step.trim_start_matches('!');
                let entry = entries.iter().rev().find(|e| e.key == name).expect("key");
                node = &entry.value;
                if step.starts_with('!') {
                    id = entry.key_id;
                    continue;
                }
            }
            other => panic!("{step} in {other:?}"),
        }
        id = node.id;
    }
    assert_eq!(position(text, id), expected, "{path:?} in\n{text}");
}

fn check_fault(text: &str, expected: (usize, usize, &str)) {
    let Fault { line, column, message } = parse(text).expect_err("a fault");
    assert_eq!((line, column, message.as_str()), expected);
}

#[test]
fn positions_are_exact_in_block_style() {
    let text = "# c\na:\n  - x: 1\n    y: [p, q]\n  - z: |\n      text\n    'w':   \"v\"\n";
    check(text, &["a", "0"], (3, 5));
    check(text, &["!a"], (2, 1));
    check(text, &["a"], (3, 3));
    check(text, &["a", "0", "!x"], (3, 5));
    check(text, &["a", "0", "x"], (3, 8));
    check(text, &["a", "0", "y", "1"], (4, 12));
    check(text, &["a", "1", "z"], (5, 8));
    check(text, &["a", "1", "!w"], (7, 5));
    check(text, &["a", "1", "w"], (7, 12));
}

#[test]
fn positions_are_exact_in_flow_style_over_lines_and_in_wide_text() {
    let text = "a: {b: [1,\n   {c: ü, d: é}], e:\n  f}\n";
    check(text, &["a"], (1, 4));
    check(text, &["a", "b"], (1, 8));
    check(text, &["a", "b", "1"], (2, 4));
    check(text, &["a", "b", "1", "d"], (2, 14));
    check(text, &["a", "e"], (3, 3));
}

#[test]
fn positions_of_aliased_and_merged_values_are_at_the_anchor() {
    let text = "a: &a {b: 1, c: 2}\nd: *a\ne:\n  <<: *a\n  c: 3\nf: &f x\ng: *f\n";
    check(text, &["d"], (1, 4));
    check(text, &["d", "c"], (1, 17));
    check(text, &["e", "b"], (1, 11));
    check(text, &["e", "!b"], (1, 8));
    check(text, &["e", "c"], (5, 6));
    check(text, &["g"], (6, 4));
}

#[test]
fn positions_of_missing_values_and_the_second_of_two_keys() {
    check("a:\nb: 1\n", &["a"], (1, 3));
    check("a: 1\na: 2\n", &["!a"], (2, 1));
    check("a: 1\r\nb: 2\r\n", &["b"], (2, 4));
}

#[test]
fn faults_say_where_and_what() {
    check_fault(
        "a: 1\n---\nb: 2\n",
        (3, 1, "a second YAML document starts here; only one is allowed"),
    );
    check_fault("a: 1\n---", (2, 4, "a second YAML document starts here; only one is allowed"));
    check_fault("a:\n\t- b\n", (2, 1, "a tab cannot indent YAML; use spaces"));
    check_fault("a: b\u{7}\n", (1, 5, "character U+0007 is not allowed in YAML"));
    check_fault("{a: 1}: 2\n", (1, 1, "a key must be text"));
    check_fault("a: !x 1\n", (1, 4, "YAML tags such as `!x` are not supported"));
    check_fault("a:\n  <<: 1\n", (2, 3, "the merge key `<<` needs a mapping or a list of them"));
}

#[test]
fn aliases_cannot_expand_without_bound() {
    let mut bomb = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x]\n");
    for n in 1..20 {
        let items = vec![format!("*a{}", n - 1); 9].join(", ");
        bomb += &format!("a{n}: &a{n} [{items}]\n");
    }
    assert!(parse(&bomb).is_err());
    let wide = format!("a: &a [{}]\nb: [{}]\n", "x,".repeat(5000), "*a,".repeat(5000));
    let fault = parse(&wide).expect_err("25 million nodes");
    assert_eq!(fault.message, "aliases make this file expand to too many values");
    assert!(parse("a: &a [*a, *a]\n").is_err());
    assert!(parse(&"[".repeat(100_000)).is_err());
}

/// The numbers of all nodes and keys are 0 up to how many there are.
fn count(node: &Node) -> u32 {
    1 + match &node.kind {
        Kind::List(items) => items.iter().map(count).sum(),
        Kind::Map(entries) => entries.iter().map(|e| 1 + count(&e.value)).sum(),
        _ => 0,
    }
}

#[test]
fn one_reading_finds_what_many_readings_find() {
    let folder = repository("tests/vectors/config/bad");
    let files = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut compared = 0;
    for file in files.filter(|file| file.extension().is_some_and(|e| e == "yaml")) {
        let text = fs::read_to_string(&file).unwrap();
        let Ok(root) = parse(&text) else { continue };
        let all: HashSet<u32> = (1..count(&root)).collect();
        for (id, fast) in marks::positions(&text, &all) {
            assert_eq!(fast, position(&text, id), "node {id} of {}", file.display());
            compared += 1;
        }
        assert!(text.contains('*') || marks::positions(&text, &all).len() == all.len());
    }
    assert!(compared > 500, "{compared}");
}
