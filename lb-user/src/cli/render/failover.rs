//! `lb check --peer`: a table for each virtual router, then the findings.
//!
//! Must not know: how the directors were analysed.

use crate::cli::render::table::{Align, table};
use crate::failover::{Case, Finding, InstanceReport, Report};

/// The whole report.
pub fn failover(report: &Report) -> String {
    let mut text = String::new();
    for instance in &report.instances {
        text.push_str(&format!("\n{}\n", headline(instance)));
        for line in rows(report, instance).lines() {
            text.push_str(&format!("  {line}\n"));
        }
    }
    if report.instances.is_empty() {
        text.push_str("\nneither file has an instance of VRRP\n");
    }
    if !report.findings.is_empty() {
        text.push('\n');
    }
    for Finding { kind, instance, message } in &report.findings {
        let about = instance.as_ref().map_or_else(String::new, |name| format!("{name}: "));
        text.push_str(&format!("{}: {about}{message}\n", kind.name()));
    }
    text
}

fn headline(instance: &InstanceReport) -> String {
    let name = match &instance.names {
        [Some(one), Some(other)] if one != other => format!("{one}/{other}"),
        [Some(name), _] | [None, Some(name)] => name.clone(),
        [None, None] => String::new(),
    };
    let family = if instance.family == "ipv4" { "IPv4" } else { "IPv6" };
    let addresses = instance.addresses.join(", ");
    format!("{name}: virtual router {} ({family}): {addresses}", instance.virtual_router_id)
}

fn rows(report: &Report, instance: &InstanceReport) -> String {
    let [one, other] = &report.nodes;
    let header = ["after", one, other, "owner", "when mended"];
    let mut rows = vec![header.map(str::to_owned).to_vec()];
    for (index, case) in instance.cases.iter().enumerate() {
        let nothing = case.kind == "none";
        let failure = match (nothing, index) {
            (true, 0) => case.failure.clone(),
            (true, _) => format!("once {} owns them", case.owner_before),
            (false, _) => case.failure.clone(),
        };
        let mended = if nothing { "" } else { &case.owner_after_repair };
        let [one, other] = [0, 1].map(|node| standing(case, node));
        rows.push(vec![failure, one, other, case.owner.clone(), mended.to_owned()]);
    }
    table(&[Align::Left; 5], &rows)
}

/// A node's effective priority, or why it takes no part.
fn standing(case: &Case, node: usize) -> String {
    match case.priorities[node] {
        Some(priority) => priority.to_string(),
        None if case.standings[node] == "absent" => "-".to_owned(),
        None => case.standings[node].to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::failover::{Node, analyse};
    use std::fs;
    use std::path::{Path, PathBuf};
    use std::time::Instant;

    fn folder() -> PathBuf {
        PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/vectors/failover")
    }

    fn analysed(pair: &Path) -> Report {
        let director = |name: &str| {
            let text = fs::read_to_string(pair.join(name)).expect("both files of a vector");
            let loaded = config::load(name, &text, "host");
            loaded.unwrap_or_else(|errors| panic!("{}: {errors:#?}", pair.display())).director
        };
        let [one, other] = ["a.yaml", "b.yaml"].map(director);
        let nodes = [&one, &other].map(|director| Node { name: director.node.clone(), director });
        analyse(&nodes, Instant::now())
    }

    /// Compares with a file, or writes it with `UPDATE_EXPECT=1`.
    fn compare(file: &Path, got: &str) -> Option<String> {
        if std::env::var_os("UPDATE_EXPECT").is_some_and(|v| v == "1") {
            fs::write(file, got).expect("the repository is writable");
            return None;
        }
        let expected = fs::read_to_string(file).unwrap_or_default();
        (expected != got).then(|| format!("{}\nexpected:\n{expected}\ngot:\n{got}", file.display()))
    }

    #[test]
    fn every_pair_of_files_gives_the_recorded_report() {
        let mut failures = Vec::new();
        let entries = fs::read_dir(folder()).expect("the vectors are in the repository");
        let pairs: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
        assert!(pairs.len() >= 30, "{} pairs", pairs.len());
        for pair in pairs {
            failures.extend(compare(&pair.join("report.txt"), &failover(&analysed(&pair))));
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }

    #[test]
    fn the_document_has_its_keys() {
        let pair = folder().join("weight-too-small");
        let document = serde_json::to_string_pretty(&analysed(&pair)).expect("plain data");
        assert_eq!(compare(&pair.join("report.json"), &(document + "\n")), None);
    }

    #[test]
    fn another_owner_is_another_report() {
        let mut report = analysed(&folder().join("weight-too-small"));
        let expected = failover(&report);
        report.instances[0].cases[3].owner = "lb02".to_owned();
        assert_ne!(failover(&report), expected);
    }
}
