//! The interfaces that XDP is attached to: mode, driver, queues, offloads.
//!
//! Must not know: how facts are gathered, how findings are shown.

use crate::doctor::Finding;
use crate::doctor::facts::{Facts, Interface};
use crate::model::{AttachMode, Dataplane, Director};
use crate::netlink::{LinkKind, XdpMode};

pub(super) fn judge(director: &Director, facts: &Facts) -> Vec<Finding> {
    let Some(plane) = &director.dataplane else {
        return Vec::new();
    };
    let mut findings = Vec::new();
    for name in &plane.interfaces {
        let Some(interface) = facts.interfaces.get(name) else { continue };
        findings.push(mode(plane, name, interface, facts));
        findings.extend(queues(name, interface, facts.kernel.cpus));
        findings.extend(offloads(name, interface, facts));
    }
    if !plane.interfaces.is_empty() {
        let text = "XDP does not see what this host itself sends to a virtual address: test from \
                    another host";
        findings.push(Finding::ok("local_traffic", "host", text));
    }
    findings
}

fn mode(plane: &Dataplane, name: &str, interface: &Interface, facts: &Facts) -> Finding {
    let driver = match interface.driver.as_str() {
        "" => String::new(),
        driver => format!(" (driver {driver})"),
    };
    let runs = facts.daemon.is_some() || facts.pins.in_use;
    match interface.xdp {
        None if runs => Finding::error(
            "xdp",
            name,
            format!(
                "a daemon is running and no XDP program is attached{driver}: nothing is forwarded"
            ),
        )
        .mended_by("lb reload"),
        None => Finding::ok("xdp", name, format!("no XDP program is attached{driver}")),
        Some(_) if !runs && facts.pins.versions.is_empty() => Finding::error(
            "xdp",
            name,
            "an XDP program of somebody else is attached: `lb run` cannot attach its own",
        )
        .mended_by(format!("ip link set dev {name} xdp off")),
        Some(XdpMode::Native) => Finding::ok("xdp", name, format!("native mode{driver}")),
        Some(XdpMode::Generic) if plane.mode == AttachMode::Generic => {
            Finding::ok("xdp", name, format!("generic mode{driver}, as the file asks for"))
        }
        Some(XdpMode::Generic) => {
            let mtu = facts.links.by_name(name).map_or(0, |link| link.mtu);
            let text = format!(
                "generic mode{driver}: the driver took no native program, because it has no XDP, \
                 has too few queues for it, or not with MTU {mtu}. Forwarding costs several times \
                 more; `lb run` logs the driver's answer"
            );
            let finding = Finding::warn("xdp", name, text);
            if mtu > 1500 {
                return finding.mended_by(format!("ip link set dev {name} mtu 1500"));
            }
            finding
        }
    }
}

/// With one queue, one CPU does all the work: XDP runs where the queue's interrupt is.
fn queues(name: &str, interface: &Interface, cpus: u64) -> Option<Finding> {
    let (used, possible) = interface.queues?;
    let wanted = possible.min(cpus);
    Some(if used < wanted {
        let text = format!(
            "{used} of {possible} receive queues are in use on {cpus} CPUs: XDP runs on the CPUs \
             of the queues only"
        );
        Finding::warn("queues", name, text)
            .mended_by(format!("ethtool -L {name} combined {wanted}"))
    } else {
        let note = if used < cpus { ", the most that the driver has" } else { "" };
        Finding::ok("queues", name, format!("{used} receive queues on {cpus} CPUs{note}"))
    })
}

fn offloads(name: &str, interface: &Interface, facts: &Facts) -> Vec<Finding> {
    let is_on =
        |offload: &str| interface.offloads.get(offload).copied().filter(|offload| offload.on);
    let link = facts.links.by_name(name);
    let is_parent = |kind: LinkKind| match kind {
        LinkKind::Vlan { parent, .. } => parent.is_some() && parent == link.map(|l| l.index),
        LinkKind::Plain => false,
    };
    let has_vlans = facts.links.iter().any(|link| is_parent(link.kind));
    let mut findings = Vec::new();
    let merges = "packets are merged before XDP sees them, and then do not fit the way out";
    let untags = "VLAN tags are taken off before XDP sees them, so that frames of its VLANs look \
                  like untagged ones";
    for (offload, short, why, matters) in [
        ("large-receive-offload", "lro", merges, true),
        ("rx-gro-hw", "rx-gro-hw", merges, true),
        ("rx-vlan-offload", "rxvlan", untags, has_vlans),
    ] {
        let Some(state) = is_on(offload).filter(|_| matters) else { continue };
        let text = format!("{offload} is on: {why}");
        findings.push(if state.fixed {
            Finding::warn("offload", name, format!("{text}; the driver does not let it be changed"))
        } else {
            let command = format!("ethtool -K {name} {short} off");
            Finding::warn("offload", name, text).mended_by(command)
        });
    }
    if findings.is_empty() && !interface.offloads.is_empty() {
        findings.push(Finding::ok("offload", name, "no offload changes what XDP sees"));
    }
    findings
}
