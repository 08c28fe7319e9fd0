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
        let mended = if index == 0 { "" } else { &case.owner_after_repair };
        let [one, other] = [0, 1].map(|node| standing(case, node));
        rows.push(vec![case.failure.clone(), one, other, case.owner.clone(), mended.to_owned()]);
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
