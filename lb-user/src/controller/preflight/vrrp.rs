//! What this host lacks for the instances of VRRP.
//!
//! Must not know: how findings are shown, packets, states.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Finding, Host, Severity};
use crate::model::{OwnedAddress, Prefix, VrrpInstance};

/// Everything that this host lacks for these instances.
pub(super) fn check(instances: &[VrrpInstance], host: &Host) -> Vec<Finding> {
    if instances.is_empty() {
        return Vec::new();
    }
    let mut findings = Vec::new();
    let lacking = super::lacking(host.capabilities);
    let lacking: Vec<_> = lacking.into_iter().filter(|name| NEEDED.contains(name)).collect();
    if !lacking.is_empty() {
        let message = format!(
            "vrrp.instances: this process lacks {}: run it as root, or grant them (systemd: \
             AmbientCapabilities=)",
            lacking.join(", ")
        );
        findings.push(Finding { severity: Severity::Refuse, message });
    }
    let moving: BTreeSet<IpAddr> = instances.iter().flat_map(owned).map(|a| a.address).collect();
    for instance in instances {
        findings.extend(interfaces(instance, host));
        findings
            .extend(owned(instance).filter_map(|address| subnet(instance, address, host, &moving)));
    }
    findings
}

fn owned(instance: &VrrpInstance) -> impl Iterator<Item = &OwnedAddress> {
    instance.addresses.iter().chain(&instance.addresses_excluded)
}

/// Interfaces that an instance names and that are not there.
fn interfaces(instance: &VrrpInstance, host: &Host) -> Vec<Finding> {
    let mut named = vec![("interface", instance.interface.as_str())];
    named.extend(owned(instance).map(|address| ("addresses", address.interface.as_str())));
    named.extend(instance.track.interfaces.iter().map(|t| ("track.interfaces", t.name.as_str())));
    let mut seen = BTreeSet::new();
    named.retain(|(_, name)| host.links.by_name(name).is_none() && seen.insert(*name));
    let finding = |(key, name): (&str, &str)| {
        let present: Vec<&str> = host.links.iter().map(|link| link.name.as_str()).collect();
        let message = format!(
            "vrrp.instances, {}: {key}: there is no interface {name}: this host has {}",
            instance.name,
            present.join(", ")
        );
        Finding { severity: Severity::Refuse, message }
    };
    named.into_iter().map(finding).collect()
}

/// An address without a mask of its own has to lie in a subnet of its interface, or no neighbour
/// asks for it there.
fn subnet(
    instance: &VrrpInstance,
    address: &OwnedAddress,
    host: &Host,
    moving: &BTreeSet<IpAddr>,
) -> Option<Finding> {
    let single = if address.address.is_ipv4() { 32 } else { 128 };
    let link = host.links.by_name(&address.interface)?;
    if address.prefix_len != single {
        return None;
    }
    // A virtual address that is there now may be elsewhere when it is asked for.
    let of_host = host.addresses.iter().filter(|own| {
        own.ifindex == link.index
            && own.address.is_ipv4() == address.address.is_ipv4()
            && !moving.contains(&own.address)
    });
    let mut subnets = Vec::new();
    for own in of_host {
        let subnet = |of| Prefix::new(of, own.prefix_len);
        if subnet(own.address) == subnet(address.address) {
            return None;
        }
        subnets.push(format!("{}/{}", own.address, own.prefix_len));
    }
    let has =
        if subnets.is_empty() { "no address of its family".to_owned() } else { subnets.join(", ") };
    let message = format!(
        "vrrp.instances, {}: {}/{single} lies in no subnet of {}, which has {has}: neighbours will \
         not ask for it there; write its mask as in {}/{}, or see that routers send it to this host",
        instance.name,
        address.address,
        address.interface,
        address.address,
        if single == 32 { 24 } else { 64 },
    );
    Some(Finding { severity: Severity::Warn, message })
}

/// What adverts and addresses take.
const NEEDED: [&str; 2] = ["CAP_NET_ADMIN", "CAP_NET_RAW"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;
    use crate::netlink::{Address, Link, LinkKind};

    fn instances(written: &str) -> Vec<VrrpInstance> {
        let text = format!(
            "vrrp: {{instances: [{{name: VI_1, interface: eth0, virtual_router_id: 51, {written}}}]}}"
        );
        config::load("f", &text, "host").expect("a good file").director.vrrp.instances
    }

    /// A host with eth0 (192.0.2.2/24, and the virtual address as its master) and eth1.
    fn host() -> Host {
        let link = |index, name: &str| Link {
            index,
            name: name.into(),
            mac: Some([2, 0, 0, 0, 0, 1]),
            up: true,
            running: true,
            mtu: 1500,
            kind: LinkKind::Plain,
        };
        let address = |ifindex, ip: &str, prefix_len| Address {
            ifindex,
            address: ip.parse().expect("an address"),
            prefix_len,
        };
        Host {
            capabilities: u64::MAX,
            xdp: None,
            bpffs: false,
            links: [link(2, "eth0"), link(3, "eth1")].into_iter().collect(),
            addresses: vec![
                address(2, "192.0.2.2", 24),
                address(2, "fe80::2", 64),
                address(2, "198.51.100.1", 32),
            ],
            commands: Vec::new(),
            logs: Vec::new(),
        }
    }

    #[track_caller]
    fn finds(written: &str, host: &Host, expected: &[(Severity, &str)]) {
        let findings = check(&instances(written), host);
        assert_eq!(findings.len(), expected.len(), "{findings:?}");
        for (finding, (severity, text)) in findings.iter().zip(expected) {
            assert_eq!(finding.severity, *severity, "{finding:?}");
            assert!(finding.message.contains(text), "{finding:?}");
        }
    }

    #[test]
    fn a_node_without_instances_needs_nothing() {
        assert_eq!(check(&[], &Host { capabilities: 0, ..host() }), []);
    }

    #[test]
    fn an_address_that_neighbours_will_not_ask_for_is_found() {
        finds("addresses: [192.0.2.1, 198.51.100.2/24]", &host(), &[]);
        finds("addresses: ['fe80::51']", &host(), &[]);
        let none = "198.51.100.1/32 lies in no subnet of eth0, which has 192.0.2.2/24:";
        finds("addresses: [198.51.100.1]", &host(), &[(Severity::Warn, none)]);
        let other = "192.0.2.1/32 lies in no subnet of eth1, which has no address of its family:";
        let tracked = "addresses: ['192.0.2.1 dev eth1'], track: {interfaces: [eth1]}";
        finds(tracked, &host(), &[(Severity::Warn, other)]);
        let excluded = "2001:db8::1/128 lies in no subnet of eth0, which has fe80::2/64";
        let written = "addresses: [192.0.2.1], addresses_excluded: ['2001:db8::1']";
        finds(written, &host(), &[(Severity::Warn, excluded)]);
    }

    #[test]
    fn interfaces_have_to_be_there() {
        let written =
            "addresses: ['192.0.2.1/24 dev eth2'], track: {interfaces: [eth2, eth3, eth1]}";
        finds(
            written,
            &host(),
            &[
                (
                    Severity::Refuse,
                    "VI_1: addresses: there is no interface eth2: this host has eth0, eth1",
                ),
                (Severity::Refuse, "VI_1: track.interfaces: there is no interface eth3"),
            ],
        );
    }

    #[test]
    fn adverts_need_rights() {
        let user = Host { capabilities: 1 << 12, ..host() };
        finds("addresses: [192.0.2.1]", &user, &[(Severity::Refuse, "lacks CAP_NET_RAW: run")]);
    }
}
