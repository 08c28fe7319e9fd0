//! The device of a virtual router that has its own MAC address (RFC 9568 section 7.3).
//!
//! A macvlan, there only while this node is master: a backup must not show the address to any
//! switch. Two things would let the interface's own address out, and clients would learn it:
//! the interface itself answering for the virtual addresses, and packets from them leaving by the
//! routing table's way. So the interface is told to answer for its own addresses alone, and a
//! rule leads packets from the virtual addresses to a copy of its routes, which go by the device.
//!
//! Must not know: the election, when this node is master.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::net::IpAddr;

use netlink_packet_core::{NLM_F_ACK, NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST};
use netlink_packet_route::AddressFamily;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, MacVlanMode};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope,
    RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use rtnetlink::{LinkMacVlan, LinkUnspec};

use crate::speaker::kernel::{Kernel, OWNER};
use crate::vrrp::frame::Mac;

/// A device that is there.
#[derive(Debug)]
pub(super) struct Device {
    /// Its index.
    pub(super) ifindex: u32,
    /// Its MAC address.
    pub(super) mac: Mac,
    /// Addresses with a rule.
    ruled: BTreeSet<IpAddr>,
}

impl Device {
    /// Makes the device of a virtual router on an interface; nothing of it stays when that fails.
    pub(super) fn raise(
        kernel: &mut Kernel,
        parent: (u32, &str),
        v4: bool,
        mac: Mac,
    ) -> io::Result<Self> {
        let name = name(v4, parent.0, mac[5]);
        let made = Self::make(kernel, parent, &name, mac);
        if made.is_err()
            && let Ok(links) = kernel.links()
            && let Some(link) = links.iter().find(|link| is_named(link, &name))
        {
            // Why it failed is what counts.
            let _gone = lower(kernel, link.header.index);
        }
        made
    }

    fn make(
        kernel: &mut Kernel,
        (parent_index, parent_name): (u32, &str),
        name: &str,
        mac: Mac,
    ) -> io::Result<Self> {
        let answers_for_all = arp_ignore(parent_name)? == "0";
        let alias = if answers_for_all { RESTORE } else { "" };
        let add = LinkMacVlan::new(name, parent_index, MacVlanMode::Private)
            .address(mac.to_vec())
            .build();
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
        one(kernel, RouteNetlinkMessage::NewLink(add), flags)?;
        let found = kernel.links()?.into_iter().find(|link| is_named(link, name));
        let ifindex = found.ok_or(io::ErrorKind::NotFound)?.header.index;
        // A link-local address made of the shared MAC address would be on every router.
        set(&format!("ipv6/conf/{name}/addr_gen_mode"), "1")?;
        set(&format!("ipv6/conf/{name}/accept_ra"), "0")?;
        // What comes in here goes back by the interface's routes.
        set(&format!("ipv4/conf/{name}/rp_filter"), "2")?;
        set(&format!("ipv4/conf/{name}/arp_ignore"), "1")?;
        // An alias is taken from a device that is there, not from one that is being made.
        let up = LinkUnspec::new_with_index(ifindex)
            .append_extra_attribute(LinkAttribute::IfAlias(alias.to_owned()))
            .up()
            .build();
        one(kernel, RouteNetlinkMessage::SetLink(up), NLM_F_REQUEST | NLM_F_ACK)?;
        if answers_for_all {
            set(&format!("ipv4/conf/{parent_name}/arp_ignore"), "1")?;
        }
        for v4 in [true, false] {
            copy_routes(kernel, v4, parent_index, ifindex)?;
        }
        Ok(Self { ifindex, mac, ruled: BTreeSet::new() })
    }

    /// Leads packets from exactly these addresses to the device.
    pub(super) fn rule(&mut self, kernel: &mut Kernel, addresses: &BTreeSet<IpAddr>) {
        let gone: Vec<IpAddr> = self.ruled.difference(addresses).copied().collect();
        let new: Vec<IpAddr> = addresses.difference(&self.ruled).copied().collect();
        let add = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE;
        let requests = gone
            .iter()
            .map(|address| {
                (RouteNetlinkMessage::DelRule(self.message(*address)), NLM_F_REQUEST | NLM_F_ACK)
            })
            .chain(
                new.iter()
                    .map(|address| (RouteNetlinkMessage::NewRule(self.message(*address)), add)),
            )
            .collect();
        match kernel.ask(requests) {
            Ok(answers) => {
                for error in answers.into_iter().filter_map(Result::err) {
                    tracing::error!(%error, "a rule for a virtual address cannot be set");
                }
            }
            Err(error) => tracing::error!(%error, "the kernel does not answer: no rule was set"),
        }
        self.ruled.clone_from(addresses);
    }

    /// Takes the device away, with its addresses and routes.
    pub(super) fn lower(mut self, kernel: &mut Kernel) {
        self.rule(kernel, &BTreeSet::new());
        if let Err(error) = lower(kernel, self.ifindex) {
            tracing::error!(%error, "the device of a virtual router cannot be removed");
        }
    }

    fn message(&self, address: IpAddr) -> RuleMessage {
        let mut rule = RuleMessage::default();
        rule.header.family =
            if address.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
        rule.header.src_len = if address.is_ipv4() { 32 } else { 128 };
        rule.header.action = RuleAction::ToTable;
        rule.attributes = vec![
            RuleAttribute::Source(address),
            RuleAttribute::Table(table(self.ifindex)),
            RuleAttribute::Priority(RULE_PRIORITY),
            RuleAttribute::Protocol(RouteProtocol::Other(OWNER)),
        ];
        rule
    }
}

/// Removes the devices and rules that an earlier life left, and says what they were.
pub(super) fn clear(kernel: &mut Kernel) -> io::Result<Vec<String>> {
    let mut removed = Vec::new();
    for link in kernel.links()? {
        if let Some(name) = own_name(&link) {
            removed.push(format!("device {name}"));
            lower(kernel, link.header.index)?;
        }
    }
    for v4 in [true, false] {
        for rule in kernel.rules(v4)? {
            if rule.attributes.contains(&RuleAttribute::Protocol(RouteProtocol::Other(OWNER))) {
                let request = RouteNetlinkMessage::DelRule(rule);
                one(kernel, request, NLM_F_REQUEST | NLM_F_ACK)?;
                removed.push(format!("rule {RULE_PRIORITY}"));
            }
        }
    }
    Ok(removed)
}

/// The interface's routes once more, by the device. Those to networks come before those by
/// gateways, which have to be reachable.
fn copy_routes(kernel: &mut Kernel, v4: bool, from: u32, to: u32) -> io::Result<()> {
    let mut routes: Vec<RouteMessage> = kernel
        .routes(v4)?
        .into_iter()
        .filter(|route| {
            route.header.kind == RouteType::Unicast
                && route.header.table == RouteHeader::RT_TABLE_MAIN
                && route.attributes.contains(&RouteAttribute::Oif(from))
                && !is_link_local(route)
        })
        .collect();
    let by_gateway = |route: &RouteMessage| {
        route.attributes.iter().any(|attribute| matches!(attribute, RouteAttribute::Gateway(_)))
    };
    routes.sort_by_key(by_gateway);
    let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_REPLACE;
    let requests = routes.into_iter().map(|mut route| {
        route.header.table = 0;
        route.header.protocol = RouteProtocol::Other(OWNER);
        route.header.flags = RouteFlags::empty();
        if by_gateway(&route) {
            route.header.flags |= RouteFlags::Onlink;
        } else if v4 {
            route.header.scope = RouteScope::Link;
        }
        route.attributes.retain(|attribute| {
            matches!(
                attribute,
                RouteAttribute::Destination(_)
                    | RouteAttribute::Gateway(_)
                    | RouteAttribute::Priority(_)
                    | RouteAttribute::Metrics(_)
            )
        });
        route.attributes.extend([RouteAttribute::Oif(to), RouteAttribute::Table(table(to))]);
        (RouteNetlinkMessage::NewRoute(route), flags)
    });
    for answer in kernel.ask(requests.collect())? {
        answer?;
    }
    Ok(())
}

fn is_link_local(route: &RouteMessage) -> bool {
    route.attributes.iter().any(|attribute| match attribute {
        RouteAttribute::Destination(RouteAddress::Inet6(address)) => {
            address.is_unicast_link_local() || address.is_multicast()
        }
        _ => false,
    })
}

/// Removes a device. The last one of an interface that was made to answer for its own addresses
/// alone puts that back; which one remembers it does not matter, so it hands the alias on.
fn lower(kernel: &mut Kernel, ifindex: u32) -> io::Result<()> {
    let links = kernel.links()?;
    let gone = links.iter().find(|link| link.header.index == ifindex);
    let (parent, restores) = gone.map_or((None, false), |link| (parent(link), restores(link)));
    remove_link(kernel, ifindex)?;
    let Some(parent) = parent.filter(|_| restores) else { return Ok(()) };
    let other = links.iter().find(|link| {
        link.header.index != ifindex
            && own_name(link).is_some()
            && self::parent(link) == Some(parent)
    });
    if let Some(other) = other {
        let heir = LinkUnspec::new_with_index(other.header.index)
            .append_extra_attribute(LinkAttribute::IfAlias(RESTORE.to_owned()))
            .build();
        return one(kernel, RouteNetlinkMessage::SetLink(heir), NLM_F_REQUEST | NLM_F_ACK);
    }
    let interface = links.iter().find(|link| link.header.index == parent).and_then(link_name);
    match interface {
        Some(name) => set(&format!("ipv4/conf/{name}/arp_ignore"), "0"),
        None => Ok(()),
    }
}

fn arp_ignore(interface: &str) -> io::Result<String> {
    let path = format!("{SYSCTL}ipv4/conf/{interface}/arp_ignore");
    Ok(fs::read_to_string(path)?.trim().to_owned())
}

fn parent(link: &LinkMessage) -> Option<u32> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::Link(index) => Some(*index),
        _ => None,
    })
}

fn restores(link: &LinkMessage) -> bool {
    let is_alias =
        |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::IfAlias(a) if a == RESTORE);
    link.attributes.iter().any(is_alias)
}

fn link_name(link: &LinkMessage) -> Option<&str> {
    link.attributes.iter().find_map(|attribute| match attribute {
        LinkAttribute::IfName(name) => Some(name.as_str()),
        _ => None,
    })
}

fn remove_link(kernel: &mut Kernel, ifindex: u32) -> io::Result<()> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    one(kernel, RouteNetlinkMessage::DelLink(message), NLM_F_REQUEST | NLM_F_ACK)
}

fn one(kernel: &mut Kernel, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
    kernel.ask(vec![(request, flags)])?.into_iter().collect()
}

fn set(setting: &str, value: &str) -> io::Result<()> {
    let path = format!("{SYSCTL}{setting}");
    fs::write(&path, value)
        .map_err(|error| io::Error::new(error.kind(), format!("{path}: {error}")))
}

fn name(v4: bool, parent: u32, vrid: u8) -> String {
    format!("lbv{}.{parent}.{vrid}", if v4 { 4 } else { 6 })
}

fn is_named(link: &LinkMessage, name: &str) -> bool {
    link_name(link) == Some(name)
}

/// The name of a link, if [`name`] gives such names.
fn own_name(link: &LinkMessage) -> Option<&str> {
    link_name(link).filter(|name| {
        let mut parts = name.split('.');
        let kind = matches!(parts.next(), Some("lbv4" | "lbv6"));
        let parent = parts.next().is_some_and(|part| part.parse::<u32>().is_ok());
        let vrid = parts.next().is_some_and(|part| part.parse::<u8>().is_ok());
        kind && parent && vrid && parts.next().is_none()
    })
}

/// A device's own table, far from those that people choose.
fn table(ifindex: u32) -> u32 {
    TABLES + ifindex
}

/// The alias of a device whose end puts the interface's `arp_ignore` back to 0. On the device, so
/// that a later life finds it.
const RESTORE: &str = "lb: arp_ignore of the interface was 0";
const SYSCTL: &str = "/proc/sys/net/";
const TABLES: u32 = 112_000_000;
/// Before the main table (32766), behind what an operator puts first.
const RULE_PRIORITY: u32 = 11_200;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_are_known_again() {
        let longest = name(false, 9_999_999, 255);
        assert!(name(true, 99_999, 255).len() <= 15, "IFNAMSIZ");
        for (name, expected) in [
            (name(true, 2, 51).as_str(), true),
            (longest.as_str(), true),
            ("lbv4.2", false),
            ("lbv5.2.51", false),
            ("lbv4.2.256", false),
            ("lbv4.2.51.1", false),
            ("eth0", false),
        ] {
            let mut link = LinkMessage::default();
            link.attributes.push(LinkAttribute::IfName(name.to_owned()));
            assert_eq!(own_name(&link).is_some(), expected, "{name}");
        }
    }
}
