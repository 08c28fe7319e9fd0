//! What a real server needs, worked out from what the host has.
//!
//! Must not know: how anything is changed or remembered.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use anyhow::{bail, ensure};

use crate::netlink::sysctl::key;
use crate::netlink::{Address, Link, LinkKind, LinkTable};

/// Refuses what is no virtual address.
pub(super) fn check_vip(vip: IpAddr) -> anyhow::Result<()> {
    let mapped = matches!(vip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some());
    let local = match vip {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_broadcast(),
        IpAddr::V6(v6) => v6.is_unicast_link_local(),
    };
    ensure!(
        !(mapped || local || vip.is_unspecified() || vip.is_loopback() || vip.is_multicast()),
        "{vip} cannot be a virtual address: give the address that clients connect to"
    );
    Ok(())
}

/// Whether the address is on `lo` already. An address that is elsewhere is refused: this host
/// would speak for it on the network.
pub(super) fn is_on_loopback(
    vip: IpAddr,
    loopback: u32,
    links: &LinkTable,
    addresses: &[Address],
) -> anyhow::Result<bool> {
    let mut found = false;
    for at in addresses.iter().filter(|at| at.address == vip) {
        let name = links.get(at.ifindex).map_or("another interface", |link| &link.name);
        let length = at.prefix_len;
        if at.ifindex != loopback {
            bail!(
                "{vip} is on {name} of this host, which would answer for it in the director's \
                 place: `ip address del {vip}/{length} dev {name}` first"
            );
        }
        if length != full_length(vip) {
            bail!(
                "{vip} is on lo with length /{length}, which makes the whole network this host's \
                 own: `ip address del {vip}/{length} dev lo` first"
            );
        }
        found = true;
    }
    Ok(found)
}

/// Length of a prefix that is one address.
pub(super) fn full_length(vip: IpAddr) -> u8 {
    if vip.is_ipv4() { 32 } else { 128 }
}

/// ARP settings of a host that has an address without speaking for it (LVS-HOWTO, "ARP problem";
/// ip-sysctl.rst): key, value, and the values that do as well.
///
/// `arp_ignore` 1 answers only for addresses of the asked interface; 2 and 8 answer less.
/// `arp_announce` 2 asks with an address of the sending interface. The greater value of `all` and
/// of the interface holds; lo is set too, as the guides have it.
pub(super) fn arp() -> Vec<(String, &'static str, &'static [&'static str])> {
    let of = |interface| {
        [
            (key("ipv4", interface, "arp_ignore"), "1", &["2", "8"][..]),
            (key("ipv4", interface, "arp_announce"), "2", &[][..]),
        ]
    };
    ["all", "lo"].into_iter().flat_map(of).collect()
}

/// Turns strict reverse-path filters into loose ones: requests come by the director's segment,
/// replies may leave by another. Where nothing is filtered nothing changes.
///
/// `values` are those of `rp_filter` by interface; the greater of `all` and the interface's own
/// holds. `bare` interfaces receive IPv4 packets without having an IPv4 address, where a loose
/// filter refuses everything that another interface leads to (fib_frontend.c): they get none, and
/// what `all` said moves down to the others.
pub(super) fn relaxed(
    values: &BTreeMap<String, String>,
    bare: &BTreeSet<String>,
) -> Vec<(String, String)> {
    let of = |name: &str| values.get(name).and_then(|v| v.parse::<u8>().ok()).unwrap_or(0);
    let loose = |value: u8| if value == 1 { 2 } else { value };
    let all = of("all");
    let filtered = bare.iter().any(|name| all.max(of(name)) != 0);
    let mut wanted = Vec::new();
    for name in values.keys().filter(|name| !matches!(name.as_str(), "all" | "lo")) {
        let value = match (filtered, bare.contains(name)) {
            (true, true) => 0,
            (true, false) => loose(all.max(of(name))),
            (false, _) if all == 0 => loose(of(name)),
            (false, _) => of(name),
        };
        if value != of(name) {
            wanted.push((name.clone(), value));
        }
    }
    let value = if filtered { 0 } else { loose(all) };
    if value != all {
        wanted.push(("all".to_owned(), value));
    }
    let named = |(name, value): (String, u8)| (key("ipv4", &name, "rp_filter"), value.to_string());
    wanted.into_iter().map(named).collect()
}

/// Interfaces by which tunnelled packets may come: Ethernet, up, with an address of more than the
/// link. In place of a VLAN device the one below it, which sees its frames first.
pub(super) fn interfaces(links: &LinkTable, addresses: &[Address]) -> BTreeSet<String> {
    let local = |address: IpAddr| match address {
        IpAddr::V4(v4) => v4.is_link_local() || v4.is_loopback(),
        IpAddr::V6(v6) => v6.is_unicast_link_local() || v6.is_loopback(),
    };
    let addressed = addresses.iter().filter(|at| !local(at.address));
    addressed.filter_map(|at| below(links, at.ifindex)).map(|link| link.name.clone()).collect()
}

/// The interface itself, or what a VLAN device is on top of.
fn below(links: &LinkTable, ifindex: u32) -> Option<&Link> {
    let mut link = links.get(ifindex).filter(|link| link.up && link.mac.is_some())?;
    // 802.1ad below 802.1Q; more makes no sense.
    for _ in 0..2 {
        match link.kind {
            LinkKind::Vlan { parent: Some(parent), .. } => link = links.get(parent)?,
            _ => break,
        }
    }
    Some(link)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().expect("an address")
    }

    fn link(index: u32, name: &str, kind: LinkKind) -> Link {
        let mac = (name != "lo").then_some([2, 0, 0, 0, 0, index as u8]);
        Link { index, name: name.into(), mac, up: true, running: true, mtu: 1500, kind }
    }

    fn at(ifindex: u32, text: &str, prefix_len: u8) -> Address {
        Address { ifindex, address: ip(text), prefix_len }
    }

    #[test]
    fn only_addresses_of_clients_networks_are_virtual_addresses() {
        for vip in ["192.0.2.50", "10.0.0.1", "2001:db8::50", "fd00::1"] {
            assert!(check_vip(ip(vip)).is_ok(), "{vip}");
        }
        for vip in ["0.0.0.0", "127.0.0.1", "224.0.0.1", "169.254.0.1", "255.255.255.255", "::"]
            .into_iter()
            .chain(["::1", "fe80::1", "ff02::1", "::ffff:192.0.2.1"])
        {
            assert!(check_vip(ip(vip)).is_err(), "{vip}");
        }
    }

    #[test]
    fn an_address_elsewhere_is_refused_with_the_command_that_helps() {
        let links: LinkTable = [link(1, "lo", LinkKind::Plain), link(2, "eth0", LinkKind::Plain)]
            .into_iter()
            .collect();
        let vip = ip("192.0.2.50");
        let look = |addresses: &[Address]| is_on_loopback(vip, 1, &links, addresses);
        assert!(!look(&[at(2, "192.0.2.51", 24)]).expect("free"));
        assert!(look(&[at(1, "192.0.2.50", 32)]).expect("there"));
        let error = look(&[at(2, "192.0.2.50", 24)]).expect_err("elsewhere").to_string();
        assert!(error.contains("`ip address del 192.0.2.50/24 dev eth0`"), "{error}");
        let error = look(&[at(1, "192.0.2.50", 24)]).expect_err("too wide").to_string();
        assert!(error.contains("dev lo"), "{error}");
    }

    /// Values by interface, the interfaces without an address, and what is to change.
    #[track_caller]
    fn check(values: &[(&str, &str)], bare: &[&str], expected: &[(&str, &str)]) {
        let values = values.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        let bare = bare.iter().map(|name| (*name).to_owned()).collect();
        let expected: Vec<(String, String)> = expected
            .iter()
            .map(|(name, value)| (format!("net.ipv4.conf.{name}.rp_filter"), (*value).into()))
            .collect();
        assert_eq!(relaxed(&values, &bare), expected);
    }

    #[test]
    fn strict_becomes_loose_and_nothing_becomes_stricter() {
        check(&[("all", "0"), ("default", "0"), ("eth0", "0"), ("lo", "1")], &[], &[]);
        check(&[("all", "1"), ("default", "1"), ("eth0", "0")], &[], &[("all", "2")]);
        check(&[("all", "2"), ("default", "1"), ("eth0", "1")], &[], &[]);
        check(
            &[("all", "0"), ("default", "1"), ("eth0", "1"), ("eth1", "0"), ("eth2", "2")],
            &[],
            &[("default", "2"), ("eth0", "2")],
        );
    }

    #[test]
    fn an_interface_without_an_address_gets_no_filter_and_the_others_keep_theirs() {
        check(&[("all", "0"), ("eth0", "0"), ("eth1", "1")], &["eth0"], &[("eth1", "2")]);
        check(
            &[("all", "1"), ("default", "0"), ("eth0", "1"), ("eth1", "0")],
            &["eth0"],
            &[("default", "2"), ("eth0", "0"), ("eth1", "2"), ("all", "0")],
        );
        check(
            &[("all", "2"), ("default", "0"), ("eth0", "0"), ("eth1", "2")],
            &["eth0"],
            &[("default", "2"), ("all", "0")],
        );
    }

    #[test]
    fn tunnels_end_where_addresses_are() {
        let links: LinkTable = [
            link(1, "lo", LinkKind::Plain),
            link(2, "eth0", LinkKind::Plain),
            link(3, "eth1", LinkKind::Plain),
            link(4, "eth1.7", LinkKind::Vlan { parent: Some(3), id: 7 }),
            link(5, "eth2", LinkKind::Plain),
            Link { up: false, ..link(6, "eth3", LinkKind::Plain) },
            link(7, "eth4.9", LinkKind::Vlan { parent: None, id: 9 }),
        ]
        .into_iter()
        .collect();
        let addresses = [
            at(1, "127.0.0.1", 8),
            at(1, "192.0.2.50", 32),
            at(2, "10.0.0.1", 24),
            at(4, "2001:db8::1", 64),
            at(5, "fe80::5", 64),
            at(6, "10.0.3.1", 24),
            at(7, "10.0.4.1", 24),
        ];
        let found: Vec<String> = interfaces(&links, &addresses).into_iter().collect();
        assert_eq!(found, ["eth0", "eth1", "eth4.9"]);
    }
}
