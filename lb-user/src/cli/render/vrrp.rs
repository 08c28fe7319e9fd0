//! `lb vrrp`: a line for each instance, or all about one.
//!
//! Must not know: sockets, where a document came from.

use crate::cli::render::table::{Align, table};
use crate::controller::document::{Vrrp, VrrpInstance, VrrpReason};

/// The whole text; `in_full` with everything that is known of each instance.
pub fn vrrp(document: &Vrrp, in_full: bool) -> String {
    if document.instances.is_empty() {
        return "no VRRP instances\n".to_owned();
    }
    let mut text = String::new();
    if document.speaker == "absent" {
        text.push_str("warning: the speaker is not running; this node owns no virtual address\n");
    }
    text.push_str(&instances(&document.instances));
    for instance in &document.instances {
        text.push_str(&warnings(instance));
        if in_full {
            text.push_str(&details(instance));
        }
    }
    if !document.scripts.is_empty() {
        let header = ["Script", "State", "Last run"].map(str::to_owned).to_vec();
        let rows = document.scripts.iter().map(|script| {
            let last = match script.last.as_str() {
                "" => String::new(),
                last => format!("{last} after {} ms", script.duration_ms),
            };
            vec![script.name.clone(), script.state.clone(), last]
        });
        let rows: Vec<Vec<String>> = std::iter::once(header).chain(rows).collect();
        text.push_str(&table(&[Align::Left; 3], &rows));
    }
    text
}

/// One line for each instance.
pub(super) fn instances(instances: &[VrrpInstance]) -> String {
    let header = ["Instance", "VRID", "Interface", "State", "Priority", "Master", "Addresses"];
    let header = header.map(str::to_owned).to_vec();
    let rows = instances.iter().map(|instance| {
        vec![
            instance.name.clone(),
            instance.virtual_router_id.to_string(),
            instance.interface.clone(),
            instance.state.to_uppercase(),
            priority(instance),
            instance.master.clone(),
            instance.addresses.join(" "),
        ]
    });
    let rows: Vec<Vec<String>> = std::iter::once(header).chain(rows).collect();
    table(&[Align::Left; 7], &rows)
}

/// `103 = 105 script chk_disk -2`, or the priority alone.
fn priority(instance: &VrrpInstance) -> String {
    let mut text = instance.effective_priority.to_string();
    if !instance.reasons.is_empty() {
        let reason = |reason: &VrrpReason| format!("{} {}", reason.name, reason.effect);
        let reasons: Vec<String> = instance.reasons.iter().map(reason).collect();
        text.push_str(&format!(" ({}; {})", instance.priority, reasons.join(", ")));
    }
    text
}

fn warnings(instance: &VrrpInstance) -> String {
    let name = &instance.name;
    let mut text = String::new();
    for address in &instance.contested {
        text.push_str(&format!("warning: {name}: {address} is claimed by somebody else too\n"));
    }
    if instance.filtered {
        let rules = match instance.filters.as_slice() {
            [] => String::new(),
            rules => format!(": {}", rules.join("; ")),
        };
        text.push_str(&format!(
            "warning: {name}: a packet filter of this host drops VRRP{rules}\n"
        ));
    }
    if instance.unheard {
        text.push_str(&format!(
            "warning: {name}: VRRP frames come in by {} and do not reach the speaker\n",
            instance.interface
        ));
    }
    text
}

fn details(instance: &VrrpInstance) -> String {
    let counters = &instance.counters;
    let mut text = format!(
        "  version {}, adverts from {}, {} sent, {} received\n",
        instance.version, instance.source, counters.sent, counters.received
    );
    for (reason, count) in &counters.refused {
        text.push_str(&format!("  {count} adverts refused: {reason}\n"));
    }
    for transition in &instance.transitions {
        text.push_str(&format!(
            "  {} {} -> {}: {}\n",
            transition.at,
            transition.from.to_uppercase(),
            transition.to.to_uppercase(),
            transition.cause
        ));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::document::{VrrpScript, VrrpTransition};

    fn instance() -> VrrpInstance {
        VrrpInstance {
            name: "VI_1".into(),
            state: "master".into(),
            priority: 105,
            effective_priority: 103,
            addresses: vec!["192.0.2.50".into(), "2001:db8::50".into()],
            master: "192.0.2.2".into(),
            interface: "eth0".into(),
            virtual_router_id: 51,
            version: 3,
            source: "192.0.2.2".into(),
            reasons: vec![VrrpReason { name: "script chk_disk".into(), effect: "-2".into() }],
            contested: vec!["192.0.2.50".into()],
            transitions: vec![VrrpTransition {
                at: "2026-01-02T03:04:05.678Z".into(),
                from: "backup".into(),
                to: "master".into(),
                cause: "no master was heard".into(),
            }],
            ..VrrpInstance::default()
        }
    }

    #[test]
    fn an_instance_is_a_line_with_the_reasons_of_its_priority() {
        let script = VrrpScript {
            name: "chk_disk".into(),
            state: "down".into(),
            last: "exit code 1".into(),
            duration_ms: 12,
        };
        let document =
            Vrrp { speaker: "running".into(), instances: vec![instance()], scripts: vec![script] };
        let expected = "\
Instance VRID Interface State  Priority                      Master    Addresses
VI_1     51   eth0      MASTER 103 (105; script chk_disk -2) 192.0.2.2 192.0.2.50 2001:db8::50
warning: VI_1: 192.0.2.50 is claimed by somebody else too
Script   State Last run
chk_disk down  exit code 1 after 12 ms
";
        assert_eq!(vrrp(&document, false), expected);
        let full = vrrp(&document, true);
        let line = "  2026-01-02T03:04:05.678Z BACKUP -> MASTER: no master was heard\n";
        assert!(full.contains(line), "{full}");
    }

    #[test]
    fn a_missing_speaker_is_said_first() {
        let document =
            Vrrp { speaker: "absent".into(), instances: vec![instance()], ..Vrrp::default() };
        assert!(vrrp(&document, false).starts_with("warning: the speaker is not running"));
        assert_eq!(vrrp(&Vrrp::default(), false), "no VRRP instances\n");
    }
}
