//! Kernel settings that forwarding, VRRP and BPF depend on.
//!
//! Must not know: how facts are gathered, how findings are shown.

use std::collections::BTreeSet;

use crate::doctor::Finding;
use crate::doctor::facts::Facts;
use crate::model::{Director, ForwardingMethod};
use crate::netlink::sysctl;

pub(super) fn judge(director: &Director, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for name in interfaces(director) {
        if facts.links.by_name(name).is_some() {
            findings.extend(reverse_path(name, facts));
            findings.extend(set_by_the_daemon(director, name, facts));
        }
    }
    findings.extend(flux(director, facts));
    findings.extend(bpf(facts));
    findings.extend(conntrack(facts));
    findings.extend(neighbour_table(facts));
    findings
}

/// The interfaces that packets of services, checks and VRRP use.
fn interfaces(director: &Director) -> BTreeSet<&str> {
    let plane = director.dataplane.iter().flat_map(|plane| &plane.interfaces);
    let vrrp = director.vrrp.instances.iter().map(|instance| &instance.interface);
    plane.chain(vrrp).map(String::as_str).collect()
}

/// A setting of an interface, and the one of `all`.
fn both(facts: &Facts, name: &str, setting: &str) -> Option<(u8, u8)> {
    let value = |interface| {
        let value = facts.settings.get(&sysctl::key("ipv4", interface, setting))?;
        value.parse::<u8>().ok()
    };
    Some((value(name)?, value("all")?))
}

/// The greater of the two values counts (ip-sysctl).
fn reverse_path(name: &str, facts: &Facts) -> Option<Finding> {
    let (own, all) = both(facts, name, "rp_filter")?;
    Some(if own.max(all) == 1 {
        let text = "rp_filter is strict (1): what comes in another way than its answer would go is \
                    dropped, such as answers to health checks, unicast adverts, and requests that \
                    go to the stack";
        let key = sysctl::key("ipv4", name, "rp_filter");
        Finding::warn("rp_filter", name, text).mended_by(format!("sysctl -w {key}=2"))
    } else {
        Finding::ok("rp_filter", name, format!("rp_filter is {}", own.max(all)))
    })
}

/// What a daemon sets at its start and somebody may have taken back.
fn set_by_the_daemon(director: &Director, name: &str, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let plane = director.dataplane.as_ref();
    if facts.daemon.is_none() || !plane.is_some_and(|p| p.interfaces.iter().any(|i| i == name)) {
        return findings;
    }
    let forwards = facts.settings.get(&sysctl::key("ipv4", name, "forwarding"));
    if forwards.is_some_and(|value| value == "0") {
        let key = sysctl::key("ipv4", name, "forwarding");
        let text = "the interface does not forward: when a next hop is not known, the program \
                    cannot ask the routing table, and drops the packet";
        findings
            .push(Finding::error("forwarding", name, text).mended_by(format!("sysctl -w {key}=1")));
    }
    let nat = director.virtual_services.iter().any(|s| s.forwarding == ForwardingMethod::Nat);
    if let Some((own, all)) = both(facts, name, "send_redirects").filter(|_| nat)
        && own.max(all) == 1
    {
        let key = sysctl::key("ipv4", name, "send_redirects");
        let text = "redirects are sent: they lead real servers of nat around this director";
        findings.push(
            Finding::warn("send_redirects", name, text)
                .mended_by(format!("sysctl -w net.ipv4.conf.all.send_redirects=0 {key}=0")),
        );
    }
    findings
}

/// Two interfaces in one network answer for each other's addresses unless they are told not to.
fn flux(director: &Director, facts: &Facts) -> Option<Finding> {
    let mut networks = BTreeSet::new();
    let names = interfaces(director);
    for address in facts.addresses.iter().filter(|a| a.address.is_ipv4() && a.prefix_len < 32) {
        let Some(link) = facts.links.get(address.ifindex) else { continue };
        let network = crate::model::Prefix::new(address.address, address.prefix_len);
        if names.contains(link.name.as_str()) {
            networks.insert((network, link.name.as_str()));
        }
    }
    let twice = networks.iter().zip(networks.iter().skip(1)).find(|(one, two)| one.0 == two.0)?;
    let ((_, one), (_, two)) = twice;
    let setting = |name, setting| both(facts, name, setting).map(|(own, all)| own.max(all));
    let is_guarded = |name| setting(name, "arp_ignore") >= Some(1);
    if is_guarded(one) && is_guarded(two) {
        return None;
    }
    let text = format!(
        "{one} and {two} are in one network, and each answers ARP for the other's addresses: \
         virtual addresses may be learnt with the wrong MAC address"
    );
    let command = "sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2";
    Some(Finding::warn("arp", one, text).mended_by(command))
}

fn bpf(facts: &Facts) -> Vec<Finding> {
    let value = |key: &str| facts.settings.get(key).map(String::as_str);
    let mut findings = Vec::new();
    match value("net.core.bpf_jit_enable") {
        Some("0") => {
            let text = "BPF programs are interpreted: each packet costs many times more";
            findings.push(
                Finding::error("bpf_jit", "host", text)
                    .mended_by("sysctl -w net.core.bpf_jit_enable=1"),
            );
        }
        Some(_) => findings.push(Finding::ok("bpf_jit", "host", "BPF programs are compiled")),
        None => {}
    }
    if value("kernel.unprivileged_bpf_disabled") == Some("0") {
        let text =
            "any user may load BPF programs, a way to attack the kernel that lb does not need";
        findings.push(
            Finding::warn("unprivileged_bpf", "host", text)
                .mended_by("sysctl -w kernel.unprivileged_bpf_disabled=2"),
        );
    }
    findings
}

fn number(facts: &Facts, key: &str) -> Option<u64> {
    facts.settings.get(key)?.parse().ok()
}

/// Forwarded packets do not go through conntrack; those to the stack do.
fn conntrack(facts: &Facts) -> Option<Finding> {
    let used = number(facts, "net.netfilter.nf_conntrack_count")?;
    let max = number(facts, "net.netfilter.nf_conntrack_max").filter(|max| *max > 0)?;
    Some(if used * 100 / max >= 80 {
        let text = format!(
            "{used} of {max} entries of nf_conntrack are used: when it is full, health checks and \
             whatever else goes through the stack is dropped (what XDP forwards is not)"
        );
        Finding::warn("conntrack", "host", text)
            .mended_by(format!("sysctl -w net.netfilter.nf_conntrack_max={}", max * 2))
    } else {
        Finding::ok(
            "conntrack",
            "host",
            format!("{used} of {max} entries of nf_conntrack are used"),
        )
    })
}

/// Neighbours beyond gc_thresh3 are not learnt, and those beyond gc_thresh2 soon forgotten.
fn neighbour_table(facts: &Facts) -> Option<Finding> {
    let hops: BTreeSet<_> = facts.ways.values().map(|way| way.next_hop).collect();
    let needed = facts.neighbours.iter().filter(|n| n.address.is_ipv4()).count().max(hops.len());
    let limit = number(facts, "net.ipv4.neigh.default.gc_thresh2")?;
    Some(if needed as u64 >= limit {
        let text = format!(
            "{needed} neighbours and gc_thresh2 is {limit}: the kernel forgets neighbours that are \
             in use"
        );
        let wanted = (needed as u64 * 2).next_power_of_two();
        let command = format!(
            "sysctl -w net.ipv4.neigh.default.gc_thresh2={wanted} \
             net.ipv4.neigh.default.gc_thresh3={}",
            wanted * 2
        );
        Finding::warn("gc_thresh", "host", text).mended_by(command)
    } else {
        Finding::ok("gc_thresh", "host", format!("{needed} neighbours, room for {limit}"))
    })
}
