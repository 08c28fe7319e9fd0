//! The ways of packets: next hops and MTUs to real servers, virtual addresses, sockets, filters.
//!
//! Must not know: how facts are gathered, how findings are shown.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::doctor::facts::{Facts, Way};
use crate::doctor::gather::destinations;
use crate::doctor::{Finding, Severity};
use crate::model::{Director, ForwardingMethod, Protocol, VirtualService};

/// Clients' packets are not larger, whatever the interface allows.
const ETHERNET: u32 = 1500;
/// Every IPv6 network carries packets of this size (RFC 8200 section 5).
const IPV6_LEAST: u32 = 1280;
/// Every IPv4 host receives packets of this size (RFC 791).
const IPV4_LEAST: u32 = 576;

pub(super) fn judge(director: &Director, facts: &Facts) -> Vec<Finding> {
    let mut findings = next_hops(director, facts);
    for service in &director.virtual_services {
        if service.forwarding == ForwardingMethod::Tunnel {
            findings.extend(tunnels(director, service, facts));
        }
    }
    findings.extend(addresses(director, facts));
    findings.extend(sockets(director, facts));
    if !director.vrrp.instances.is_empty() {
        findings.extend(filters(facts));
    }
    findings
}

fn next_hops(director: &Director, facts: &Facts) -> Vec<Finding> {
    let mut users: BTreeMap<IpAddr, &str> = BTreeMap::new();
    for service in &director.virtual_services {
        for server in destinations(service) {
            users.entry(server).or_insert(&service.name);
        }
    }
    let mut findings = Vec::new();
    for (server, service) in &users {
        let Some(Way { interface, next_hop, trouble: Some(trouble), .. }) = facts.ways.get(server)
        else {
            continue;
        };
        let via = if next_hop == server { String::new() } else { format!(" by {next_hop}") };
        let text = format!("packets of {service} cannot reach this real server{via}: {trouble}");
        let finding = Finding::error("next_hop", &server.to_string(), text);
        findings.push(match interface {
            // The kernel asks anew for what it does not remember having failed.
            Some(interface) => {
                finding.mended_by(format!("ip neigh del {next_hop} dev {interface}"))
            }
            None => finding,
        });
    }
    if findings.is_empty() && !users.is_empty() {
        let text = format!("next hops of {} real servers are known or not asked for", users.len());
        findings.push(Finding::ok("next_hop", "host", text));
    }
    findings
}

/// Whether clients' packets fit a tunnel's way out.
fn tunnels(director: &Director, service: &VirtualService, facts: &Facts) -> Vec<Finding> {
    let plane = director.dataplane.iter().flat_map(|plane| &plane.interfaces);
    let came = plane.filter_map(|name| facts.links.by_name(name)).map(|link| link.mtu).max();
    let largest = came.unwrap_or(ETHERNET).min(ETHERNET);
    let least = match service.listen.iter().any(|listen| listen.address.is_ipv6()) {
        true => IPV6_LEAST,
        false => IPV4_LEAST,
    };
    let has_udp = service.listen.iter().any(|listen| listen.protocol == Protocol::Udp);
    let mut by_interface: BTreeMap<(&str, u32), (u32, IpAddr)> = BTreeMap::new();
    for server in destinations(service) {
        let Some(way) = facts.ways.get(&server) else { continue };
        if let (Some(interface), Some(mtu)) = (&way.interface, way.mtu) {
            let header = if server.is_ipv4() { 20 } else { 40 };
            by_interface.entry((interface, header)).or_insert((mtu, server));
        }
    }
    let mut findings = Vec::new();
    for ((interface, header), (mtu, server)) in by_interface {
        let (fits, needed) = (mtu.saturating_sub(header), largest + header);
        let name = &service.name;
        let what = format!(
            "{name}: the way to {server} has MTU {mtu}, so a tunnel carries packets of {fits} bytes"
        );
        let command = format!("ip link set dev {interface} mtu {needed}");
        let (severity, text) = if fits < least {
            (Severity::Error, format!("{what}, less than the {least} that every sender may use"))
        } else if fits >= largest {
            (Severity::Ok, what)
        } else if has_udp || !service.tunnel.mss_clamp {
            let text = format!(
                "{what}; clients send up to {largest}: larger ones are answered with an ICMP error, \
                 which some networks drop"
            );
            (Severity::Warn, text)
        } else {
            (Severity::Ok, format!("{what}; the MSS of TCP is lowered to that"))
        };
        let finding = Finding::new(severity, "tunnel_mtu", interface, text);
        let is_mended = severity > Severity::Ok;
        findings.push(if is_mended { finding.mended_by(command) } else { finding });
    }
    findings
}

/// Virtual addresses that two of us, or somebody beside us, put on this host.
fn addresses(director: &Director, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    let fixed = director.dataplane.iter().flat_map(|plane| &plane.addresses);
    let fixed: BTreeSet<IpAddr> = fixed.map(|address| address.address).collect();
    for instance in &director.vrrp.instances {
        let state = facts.daemon.as_ref().and_then(|daemon| daemon.vrrp.get(&instance.name));
        for owned in instance.addresses.iter().chain(&instance.addresses_excluded) {
            let place = owned.address.to_string();
            if fixed.contains(&owned.address) {
                let text = format!(
                    "it is in dataplane.addresses and in the VRRP instance {}: it would be on both \
                     directors at once. Take it out of dataplane.addresses",
                    instance.name
                );
                findings.push(Finding::error("virtual_address", &place, text));
                continue;
            }
            let here: Vec<_> =
                facts.addresses.iter().filter(|a| a.address == owned.address).collect();
            let is_master = state.is_some_and(|state| state == "master");
            if let (Some(present), false) = (here.first(), is_master) {
                let link = facts.links.get(present.ifindex);
                let device = link.map_or("?", |link| link.name.as_str());
                let text = format!(
                    "it is on {device} although the VRRP instance {} is {}: somebody else put it \
                     there, and both directors answer for it",
                    instance.name,
                    state.map_or("not running", String::as_str),
                );
                let len = present.prefix_len;
                findings.push(
                    Finding::error("virtual_address", &place, text)
                        .mended_by(format!("ip addr del {place}/{len} dev {device}")),
                );
            } else if here.len() > 1 {
                let text = "it is on several interfaces of this host";
                findings.push(Finding::warn("virtual_address", &place, text));
            }
        }
    }
    findings
}

/// Local sockets that get nothing because a service takes their packets.
fn sockets(director: &Director, facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    for service in &director.virtual_services {
        for listen in &service.listen {
            let is_shadowed = |(protocol, socket): &&(Protocol, std::net::SocketAddr)| {
                *protocol == listen.protocol
                    && socket.port() == listen.port
                    && socket.ip().to_canonical() == listen.address
            };
            if let Some((_, socket)) = facts.listeners.iter().find(is_shadowed) {
                let text = format!(
                    "a program of this host waits on {socket}, and the service {} takes every \
                     packet for it",
                    service.name
                );
                let flags = if listen.protocol == Protocol::Tcp { "-ltnp" } else { "-lunp" };
                let who = format!("ss {flags} 'sport = :{}'", listen.port);
                let text = format!("{text}; `{who}` names it");
                findings.push(Finding::warn("shadowed_socket", &socket.to_string(), text));
            }
        }
    }
    findings
}

fn filters(facts: &Facts) -> Vec<Finding> {
    if facts.filters.is_empty() {
        return vec![Finding::ok("firewall", "host", "no rule was found that drops VRRP")];
    }
    let finding = |line: &String| {
        let is_certain = !line.starts_with("perhaps ");
        let severity = if is_certain { Severity::Error } else { Severity::Warn };
        Finding::new(severity, "firewall", "host", format!("VRRP is dropped: {line}"))
    };
    facts.filters.iter().map(finding).collect()
}
