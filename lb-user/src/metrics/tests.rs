//! The whole text through a strict parser, and the page that describes it against the registry.
//!
//! Must not know: where snapshots come from.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::time::Duration;

use lb_common::service::Traffic;
use lb_common::verdict::{Counter, CounterKind};

use super::*;

/// A sample: its labels, and its value.
type Sample = (BTreeMap<String, String>, u64);

/// Families by name, with their type and samples.
type Parsed = BTreeMap<String, (String, Vec<Sample>)>;

/// Reads the text format, version 0.0.4, and refuses all that a scraper could stumble over.
fn parse(text: &str) -> Result<Parsed, String> {
    let mut families = Parsed::new();
    let mut series = BTreeSet::new();
    let mut open: Option<(String, Option<String>)> = None;
    if !text.is_empty() && !text.ends_with('\n') {
        return Err("the last line has no end".into());
    }
    for line in text.lines() {
        let fail = |why: &str| Err(format!("{why}: {line:?}"));
        if let Some(rest) = line.strip_prefix("# HELP ") {
            let Some((name, help)) = rest.split_once(' ') else { return fail("no help") };
            if help.is_empty() || help.contains('\\') || families.contains_key(name) {
                return fail("help is empty, escaped, or of a family told before");
            }
            if open.as_ref().is_some_and(|(_, kind)| kind.is_none()) {
                return fail("the family before has no type");
            }
            open = Some((name.to_owned(), None));
        } else if let Some(rest) = line.strip_prefix("# TYPE ") {
            let Some((name, kind)) = rest.split_once(' ') else { return fail("no type") };
            let is_counter = kind == "counter";
            if !(is_counter || kind == "gauge") || is_counter != name.ends_with("_total") {
                return fail("the type does not fit");
            }
            if open != Some((name.to_owned(), None))
                || !is_name(name)
                || !["lb_", "process_"].iter().any(|own| name.starts_with(own))
            {
                return fail("a type without its help, or a bad name");
            }
            open = Some((name.to_owned(), Some(kind.to_owned())));
            families.insert(name.to_owned(), (kind.to_owned(), Vec::new()));
        } else {
            let (name, sample) = parse_sample(line).map_err(|why| format!("{why}: {line:?}"))?;
            let Some((family, Some(_))) = &open else { return fail("a sample before its type") };
            if *family != name || !series.insert((name.clone(), sample.0.clone())) {
                return fail("a sample of another family, or told twice");
            }
            families.entry(name).or_default().1.push(sample);
        }
    }
    Ok(families)
}

fn is_name(text: &str) -> bool {
    let is_letter = |c: char| c.is_ascii_alphabetic() || c == '_';
    text.starts_with(is_letter) && text.chars().all(|c| is_letter(c) || c.is_ascii_digit())
}

fn parse_sample(line: &str) -> Result<(String, Sample), &'static str> {
    let end = line.find(['{', ' ']).ok_or("no value")?;
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        loop {
            let (label, after) = rest.split_once("=\"").ok_or("a label without value")?;
            let (value, after) = parse_value(after)?;
            if !is_name(label) || labels.insert(label.to_owned(), value).is_some() {
                return Err("a label's name");
            }
            rest = after;
            match rest.strip_prefix(',') {
                Some(more) => rest = more,
                None => break,
            }
        }
        rest = rest.strip_prefix('}').ok_or("labels that do not end")?;
    }
    let value = rest.strip_prefix(' ').ok_or("no space before the value")?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    // Times need not be whole; here their fraction does not matter.
    let (whole, fraction) = match value.split_once('.') {
        Some((whole, fraction)) if name.contains("_seconds") => (whole, fraction),
        _ => (value, "0"),
    };
    let is_number = digits(whole) && digits(fraction);
    let value = whole.parse().ok().filter(|_| is_number).ok_or("not a number")?;
    Ok((name.to_owned(), (labels, value)))
}

/// A label's value up to its closing quote, and what follows.
fn parse_value(text: &str) -> Result<(String, &str), &'static str> {
    let mut value = String::new();
    let mut letters = text.char_indices();
    while let Some((at, letter)) = letters.next() {
        match letter {
            '"' => return Ok((value, &text[at + 1..])),
            '\\' => value.push(match letters.next() {
                Some((_, 'n')) => '\n',
                Some((_, same @ ('\\' | '"'))) => same,
                _ => return Err("an unknown escape"),
            }),
            other => value.push(other),
        }
    }
    Err("a value that does not end")
}

fn traffic(n: u64) -> Traffic {
    Traffic {
        connections: n,
        packets_in: n + 1,
        bytes_in: n + 2,
        packets_out: n + 3,
        bytes_out: n + 4,
    }
}

fn snapshot() -> Snapshot {
    let counters = Counter::ALL.iter().zip(1000..).map(|(counter, n)| (*counter, n)).collect();
    let server = |endpoint: &str, n| RealServer {
        endpoint: endpoint.into(),
        up: n == 20,
        weight: 3,
        effective_weight: n,
        active: n + 5,
        inactive: n + 6,
        traffic: traffic(n),
        checks: vec![Check {
            name: "http".into(),
            up: n == 20,
            status: "L7STS".into(),
            duration: Duration::from_millis(2500),
            last_change: Some(1.8e9),
            changes: 3,
            results: vec![("L7OK", 40), ("L7STS", 2)],
        }],
    };
    Snapshot {
        version: "1.2".into(),
        node: "lb01".into(),
        dataplane: Some(Dataplane {
            mode: "native".into(),
            counters,
            connections: 7,
            capacity: 1000,
            drift: 0,
            prefixes: Prefixes { configured: 1, banned: 2, allowed: 3 },
            vrrp_frames: vec![VrrpFrames { family: "ipv4", vrid: 51, count: 12 }],
        }),
        services: vec![
            Service {
                name: "a".into(),
                up: false,
                live_weight: 2,
                sorry: true,
                traffic: traffic(10),
                real_servers: vec![],
            },
            Service {
                name: "quo\"te\\back\nline{é}".into(),
                up: true,
                live_weight: 5,
                sorry: false,
                traffic: traffic(u64::MAX - 4),
                real_servers: vec![server("10.0.0.1:80", 20), server("[2001:db8::1]:80", 0)],
            },
        ],
        vrrp: vec![VrrpInstance {
            name: "VI_1".into(),
            state: "master".into(),
            priority: 105,
            effective_priority: 103,
            contested: 2,
            refused: vec![("ttl".into(), 7)],
            ..VrrpInstance::default()
        }],
        notifications: Notifications {
            commands_run: 9,
            commands_failed: 4,
            dropped: 6,
            ..Notifications::default()
        },
        reloads: Reloads { applied: 4, refused: 5, last_refused: true },
        log: vec![LogTarget { name: "stderr".into(), lost: 8 }],
        parts: vec![Part { name: "sweep".into(), stuck: Duration::from_millis(31_250) }],
        process: Some(Process {
            start: 1.8e9,
            cpu: 0.25,
            open_fds: 20,
            max_fds: 1024,
            virtual_bytes: 1 << 30,
            resident_bytes: 1 << 24,
            threads: 9,
        }),
    }
}

/// The value of the one sample with these labels.
fn value(parsed: &Parsed, name: &str, labels: &[(&str, &str)]) -> u64 {
    let wanted: BTreeMap<_, _> =
        labels.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let (_, samples) = parsed.get(name).unwrap_or_else(|| panic!("no family {name}"));
    let found = samples.iter().find(|(own, _)| *own == wanted);
    found.unwrap_or_else(|| panic!("no {name}{labels:?} in {samples:?}")).1
}

#[test]
fn the_whole_text_is_what_a_scraper_reads() {
    let text = render(&snapshot());
    let parsed = parse(&text).expect("the text format");
    assert_eq!(parsed.len(), families().count());
    for family in families() {
        let (kind, samples) = &parsed[family.name];
        assert_eq!(kind, family.kind.name());
        assert!(!samples.is_empty(), "{} has no sample", family.name);
        let labels: BTreeSet<_> = family.labels.iter().copied().collect();
        for (own, _) in samples {
            assert!(own.keys().map(String::as_str).eq(labels.iter().copied()), "{}", family.name);
        }
    }
    let odd = ("service", "quo\"te\\back\nline{é}");
    let second = ("real_server", "[2001:db8::1]:80");
    let value = |name, labels: &[_]| value(&parsed, name, labels);
    assert_eq!(value("lb_service_connections_total", &[("service", "a")]), 10);
    assert_eq!(value("lb_service_bytes_total", &[odd, ("direction", "out")]), u64::MAX);
    assert_eq!(value("lb_service_packets_total", &[("service", "a"), ("direction", "in")]), 11);
    assert_eq!(value("lb_real_server_active_connections", &[odd, second]), 5);
    assert_eq!(value("lb_real_server_inactive_connections", &[odd, second]), 6);
    assert_eq!(value("lb_real_server_weight", &[odd, second]), 3);
    assert_eq!(value("lb_real_server_effective_weight", &[odd, second]), 0);
    assert_eq!(value("lb_real_server_up", &[odd, second]), 0);
    assert_eq!(value("lb_real_server_packets_total", &[odd, second, ("direction", "out")]), 3);
    assert_eq!(value("lb_real_server_bytes_total", &[odd, second, ("direction", "in")]), 2);
    assert_eq!(value("lb_dataplane_mode", &[("mode", "native")]), 1);
    assert_eq!(value("lb_dataplane_mode", &[("mode", "generic")]), 0);
    assert_eq!(value("lb_connections", &[]), 7);
    assert_eq!(value("lb_reloads_total", &[("result", "refused")]), 5);
    assert_eq!(value("lb_last_reload_successful", &[]), 0);
    assert_eq!(value("lb_deny_prefixes", &[("reason", "manual")]), 2);
    assert_eq!(value("lb_notify_commands_total", &[("result", "ok")]), 5);
    assert_eq!(value("lb_notify_commands_total", &[("result", "failed")]), 4);
    assert_eq!(value("lb_notify_dropped_total", &[]), 6);
    let check = ("check", "http");
    assert_eq!(value("lb_check_up", &[odd, second, check]), 0);
    assert_eq!(value("lb_check_status", &[odd, second, check, ("status", "L7STS")]), 1);
    assert_eq!(value("lb_check_probes_total", &[odd, second, check, ("status", "L7OK")]), 40);
    assert_eq!(value("lb_check_state_changes_total", &[odd, second, check]), 3);
    assert!(text.contains("check=\"http\"} 2.5\n"), "a duration keeps its fraction");
    assert!(text.contains("} 1800000000\n"), "no exponent");
    assert_eq!(value("lb_stuck_seconds", &[("part", "sweep")]), 31);
    assert_eq!(value("lb_log_lines_lost_total", &[("target", "stderr")]), 8);
    assert_eq!(value("process_open_fds", &[]), 20);
    assert!(text.contains("process_cpu_seconds_total 0.25\n"));
    assert_eq!(render(&snapshot()), text, "the order is stable");
}

#[test]
fn every_counter_of_the_data_plane_is_told_once() {
    let parsed = parse(&render(&snapshot())).expect("the text format");
    for (counter, expected) in Counter::ALL.iter().zip(1000..) {
        let (family, label) = match counter.kind() {
            CounterKind::Drop | CounterKind::Answered => ("lb_drops_total", "reason"),
            CounterKind::WithoutEntry => ("lb_without_entry_total", "reason"),
            CounterKind::Detour | CounterKind::Note => ("lb_notes_total", "note"),
        };
        assert_eq!(value(&parsed, family, &[(label, counter.name())]), expected);
    }
    let told = ["lb_drops_total", "lb_without_entry_total", "lb_notes_total"];
    let told: usize = told.iter().map(|name| parsed[*name].1.len()).sum();
    assert_eq!(told, Counter::ALL.len());
}

#[test]
fn a_node_without_a_data_plane_is_told_as_well() {
    let parsed = parse(&render(&Snapshot::default())).expect("the text format");
    assert_eq!(parsed.len(), families().count());
    assert_eq!(value(&parsed, "lb_last_reload_successful", &[]), 1);
    assert!(parsed["lb_drops_total"].1.is_empty());
}

#[test]
fn the_parser_refuses_what_a_scraper_would_not_read() {
    let head = "# HELP lb_x_total X.\n# TYPE lb_x_total counter\n";
    parse(&format!("{head}lb_x_total{{a=\"1\",b=\"\"}} 1\nlb_x_total 2\n")).expect("good");
    for bad in [
        "lb_x_total 1\n",
        "# TYPE lb_x_total counter\n",
        "# HELP lb_x_total X.\nlb_x_total 1\n",
        "# HELP lb_x_total X.\n# TYPE lb_y_total counter\n",
        "# HELP lb_x X.\n# TYPE lb_x counter\n",
        "# HELP lb_x_total X.\n# TYPE lb_x_total gauge\n",
        "# HELP x_total X.\n# TYPE x_total counter\n",
        "# HELP lb_x_total \n# TYPE lb_x_total counter\n",
        "# HELP lb_x_total X.\n# HELP lb_y_total Y.\n# TYPE lb_y_total counter\n",
    ] {
        assert!(parse(bad).is_err(), "{bad:?}");
    }
    for bad in [
        "lb_x_total 1",
        "lb_x_total 1\nlb_x_total 1\n",
        "lb_x_total{a=\"1\"} 1\nlb_x_total{a=\"1\"} 2\n",
        "lb_x_total -1\n",
        "lb_x_total 1.5\n",
        "lb_x_total  1\n",
        "lb_x_total{a=\"1} 1\n",
        "lb_x_total{a=\"1\\x\"} 1\n",
        "lb_x_total{a=\"1\",} 1\n",
        "lb_x_total{a=\"1\",a=\"2\"} 1\n",
        "lb_x_total{a-b=\"1\"} 1\n",
        "lb_x_total{} 1\n",
        "lb_y_total 1\n",
        "\n",
        "# HELP lb_x_total Again.\n# TYPE lb_x_total counter\n",
    ] {
        assert!(parse(&format!("{head}{bad}")).is_err(), "{bad:?}");
    }
}

/// Names of metrics in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric() && c != '_');
    words.filter(|word| word.starts_with("lb_") || word.starts_with("process_")).collect()
}

/// Those of them that no family has.
fn unknown(text: &str) -> Vec<&str> {
    let known = |name: &&str| !families().any(|family| family.name == *name);
    names(text).into_iter().filter(known).collect()
}

#[test]
fn alerts_and_dashboard_ask_for_families_that_there_are() {
    for (file, least) in [("prometheus/lb.rules.yml", 20), ("grafana/lb.json", 25)] {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy").join(file);
        let text = fs::read_to_string(&path).expect("a file of deploy");
        let none: [&str; 0] = [];
        assert_eq!(unknown(&text), none, "{file}");
        assert!(names(&text).len() >= least, "{file}: {}", names(&text).len());
    }
    assert_eq!(unknown("rate(lb_drop_total[5m]) / lb_connections"), ["lb_drop_total"]);
}

#[test]
fn the_page_lists_every_family() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let page = fs::read_to_string(path).expect("docs/metrics.md");
    let rows = families().map(|family| {
        let labels: Vec<_> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        let (name, kind) = (family.name, family.kind.name());
        format!("| `{name}` | {kind} | {} | {} |", labels.join(", "), family.help)
    });
    let rows: Vec<String> = rows.collect();
    let found: Vec<&str> = page
        .lines()
        .filter(|line| line.starts_with("| `lb_") || line.starts_with("| `process_"))
        .collect();
    assert!(found == rows, "docs/metrics.md should list\n{}\n", rows.join("\n"));
    for counter in Counter::ALL {
        assert!(page.contains(&format!("`{}`", counter.name())), "{} is missing", counter.name());
    }
}
