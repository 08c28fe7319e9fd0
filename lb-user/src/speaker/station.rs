//! Links and addresses of this host, as far as VRRP looks at them, kept from the kernel's events.
//!
//! Must not know: sockets, states, what is done about a change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use netlink_packet_route::address::{
    AddressAttribute, AddressHeaderFlags, AddressMessage, AddressProtocol,
};
use netlink_packet_route::link::{LinkAttribute, LinkFlags, LinkMessage, LinkXdp};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::speaker::kernel::{OWNER, Place};
use crate::vrrp::frame::Mac;

/// One interface.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Link {
    /// Its name.
    pub(super) name: String,
    /// Its MAC address, if it has one.
    pub(super) mac: Option<Mac>,
    /// Whether it is up and has carrier.
    pub(super) running: bool,
    /// Whether an XDP program is attached.
    pub(super) has_xdp: bool,
    /// The interface that it is on top of.
    pub(super) parent: Option<u32>,
}

/// An address that an interface has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Held {
    /// Where it is.
    pub(super) place: Place,
    /// Whether VRRP put it there, now or in an earlier life.
    pub(super) is_virtual: bool,
    /// Whether another address of its network comes first.
    pub(super) is_secondary: bool,
}

/// All interfaces and addresses.
#[derive(Clone, Debug, Default)]
pub(super) struct Station {
    links: BTreeMap<u32, Link>,
    held: BTreeMap<Place, Held>,
}

/// What an event changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// A link came, went, or is another one.
    Link,
    /// An address is new.
    Added(Place),
    /// An address is gone.
    Removed(Place),
}

impl Station {
    /// Everything anew.
    pub(super) fn read(links: &[LinkMessage], addresses: &[AddressMessage]) -> Self {
        let mut station = Self::default();
        for link in links {
            station.links.extend(read_link(link));
        }
        for address in addresses {
            station.held.extend(read_address(address).map(|held| (held.place, held)));
        }
        station
    }

    /// Follows an event of the kernel.
    pub(super) fn follow(&mut self, message: &RouteNetlinkMessage) -> Option<Change> {
        match message {
            // A bridge tells of its ports in messages of its own, which say less of the link.
            RouteNetlinkMessage::NewLink(message) | RouteNetlinkMessage::DelLink(message)
                if message.header.interface_family != AddressFamily::Unspec =>
            {
                None
            }
            RouteNetlinkMessage::NewLink(message) => {
                let (index, link) = read_link(message)?;
                let before = self.links.insert(index, link.clone());
                (before != Some(link)).then_some(Change::Link)
            }
            RouteNetlinkMessage::DelLink(message) => {
                let index = message.header.index;
                self.held.retain(|place, _| place.ifindex != index);
                self.links.remove(&index).map(|_| Change::Link)
            }
            RouteNetlinkMessage::NewAddress(message) => {
                let held = read_address(message)?;
                let before = self.held.insert(held.place, held);
                (before != Some(held)).then_some(Change::Added(held.place))
            }
            RouteNetlinkMessage::DelAddress(message) => {
                let place = read_address(message)?.place;
                self.held.remove(&place).map(|_| Change::Removed(place))
            }
            _ => None,
        }
    }

    /// The interface of this name, with its index.
    pub(super) fn link(&self, name: &str) -> Option<(u32, &Link)> {
        self.links.iter().find(|(_, link)| link.name == name).map(|(index, link)| (*index, link))
    }

    /// All interfaces by index.
    pub(super) fn links(&self) -> impl Iterator<Item = (u32, &Link)> {
        self.links.iter().map(|(index, link)| (*index, link))
    }

    /// Whether an address is there.
    pub(super) fn holds(&self, place: &Place) -> bool {
        self.held.contains_key(place)
    }

    /// Whether any interface has this address.
    pub(super) fn has_address(&self, address: IpAddr) -> bool {
        self.held.keys().any(|place| place.address == address)
    }

    /// Whether an address is there because VRRP put it there.
    pub(super) fn is_virtual(&self, place: &Place) -> bool {
        self.held.get(place).is_some_and(|held| held.is_virtual)
    }

    /// Whether there is an interface of this index.
    pub(super) fn has_link(&self, ifindex: u32) -> bool {
        self.links.contains_key(&ifindex)
    }

    /// Addresses that VRRP put on interfaces, also in an earlier life.
    pub(super) fn virtual_places(&self) -> Vec<Place> {
        self.held.values().filter(|held| held.is_virtual).map(|held| held.place).collect()
    }

    /// The interface's own addresses of a family: those that adverts may leave from.
    pub(super) fn own(&self, ifindex: u32, v4: bool) -> Vec<IpAddr> {
        let own = |held: &&Held| {
            held.place.ifindex == ifindex && held.place.address.is_ipv4() == v4 && !held.is_virtual
        };
        self.held.values().filter(own).map(|held| held.place.address).collect()
    }

    /// The address that adverts leave from: the interface's first IPv4 address, or its link-local
    /// one. `excluded` are virtual addresses, which may be there without VRRP's doing.
    pub(super) fn primary(
        &self,
        ifindex: u32,
        v4: bool,
        excluded: &BTreeSet<IpAddr>,
    ) -> Option<IpAddr> {
        let fits = |held: &&Held| {
            held.place.ifindex == ifindex && !held.is_virtual && fit(held.place.address, v4)
        };
        let mut found: Vec<&Held> = self.held.values().filter(fits).collect();
        found.sort_by_key(|held| {
            (excluded.contains(&held.place.address), held.is_secondary, held.place.address)
        });
        found.first().map(|held| held.place.address)
    }

    /// The link-local address of an interface.
    pub(super) fn link_local(&self, ifindex: u32) -> Option<Ipv6Addr> {
        match self.primary(ifindex, false, &BTreeSet::new()) {
            Some(IpAddr::V6(address)) => Some(address),
            _ => None,
        }
    }
}

fn fit(address: IpAddr, v4: bool) -> bool {
    match address {
        IpAddr::V4(_) => v4,
        // RFC 9568 section 5.1.2.1.
        IpAddr::V6(address) => !v4 && address.is_unicast_link_local(),
    }
}

fn read_link(message: &LinkMessage) -> Option<(u32, Link)> {
    let flags = message.header.flags;
    let mut link = Link {
        running: flags.contains(LinkFlags::Up) && flags.contains(LinkFlags::Running),
        ..Link::default()
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes) => link.mac = bytes.as_slice().try_into().ok(),
            LinkAttribute::Link(index) => link.parent = Some(*index),
            LinkAttribute::Xdp(xdp) => {
                link.has_xdp = xdp.iter().any(|item| matches!(item, LinkXdp::ProgId(1..)));
            }
            _ => {}
        }
    }
    (!link.name.is_empty()).then_some((message.header.index, link))
}

fn read_address(message: &AddressMessage) -> Option<Held> {
    let (mut address, mut is_virtual) = (None, false);
    for attribute in &message.attributes {
        match attribute {
            // On a point-to-point link the other one is the other end's.
            AddressAttribute::Local(local) => address = Some(*local),
            AddressAttribute::Address(other) => address = address.or(Some(*other)),
            AddressAttribute::Protocol(AddressProtocol::Other(OWNER)) => is_virtual = true,
            _ => {}
        }
    }
    let header = &message.header;
    // One flag has two meanings: for IPv6 it is "temporary".
    let is_secondary = header.flags.contains(AddressHeaderFlags::Secondary);
    let place = Place { ifindex: header.index, address: address?, prefix_len: header.prefix_len };
    Some(Held { place, is_virtual, is_secondary })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link(index: u32, name: &str, running: bool) -> LinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        if running {
            message.header.flags = LinkFlags::Up | LinkFlags::Running;
        }
        message.attributes.push(LinkAttribute::IfName(name.to_owned()));
        message
    }

    fn address(index: u32, text: &str, prefix_len: u8, is_virtual: bool) -> AddressMessage {
        let mut message = AddressMessage::default();
        message.header.index = index;
        message.header.prefix_len = prefix_len;
        message.attributes.push(AddressAttribute::Local(text.parse().expect("an address")));
        if is_virtual {
            message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(OWNER)));
        }
        message
    }

    fn station() -> Station {
        let mut secondary = address(2, "10.0.0.1", 24, false);
        secondary.header.flags = AddressHeaderFlags::Secondary;
        Station::read(
            &[link(2, "eth0", true), link(3, "eth1", false)],
            &[
                secondary,
                address(2, "10.0.0.3", 24, false),
                address(2, "10.0.0.2", 24, true),
                address(2, "2001:db8::2", 64, false),
                address(2, "fe80::2", 64, false),
                address(3, "192.0.2.1", 24, false),
            ],
        )
    }

    #[test]
    fn adverts_leave_from_the_first_own_address_of_the_interface() {
        let station = station();
        let primary = |v4, excluded: &[&str]| {
            let excluded = excluded.iter().map(|text| text.parse().expect("an address")).collect();
            station.primary(2, v4, &excluded).map(|address| address.to_string())
        };
        assert_eq!(primary(true, &[]).as_deref(), Some("10.0.0.3"));
        assert_eq!(primary(true, &["10.0.0.3"]).as_deref(), Some("10.0.0.1"));
        assert_eq!(primary(false, &[]).as_deref(), Some("fe80::2"));
        assert_eq!(station.primary(3, false, &BTreeSet::new()), None);
        let own: Vec<String> = station.own(2, true).iter().map(ToString::to_string).collect();
        assert_eq!(own, ["10.0.0.1", "10.0.0.3"]);
    }

    #[test]
    fn events_are_followed_and_repeated_ones_are_no_change() {
        let mut station = station();
        let lost = RouteNetlinkMessage::NewLink(link(2, "eth0", false));
        assert_eq!(station.follow(&lost), Some(Change::Link));
        assert_eq!(station.follow(&lost), None);
        let vip = address(2, "10.0.0.2", 24, true);
        let place = read_address(&vip).expect("an address").place;
        let gone = RouteNetlinkMessage::DelAddress(vip.clone());
        assert_eq!(station.follow(&gone), Some(Change::Removed(place)));
        assert_eq!((station.follow(&gone), station.virtual_places()), (None, vec![]));
        let back = RouteNetlinkMessage::NewAddress(vip);
        assert_eq!(station.follow(&back), Some(Change::Added(place)));
        let mut port = link(2, "eth0", false);
        port.header.interface_family = AddressFamily::Bridge;
        assert_eq!(station.follow(&RouteNetlinkMessage::DelLink(port)), None);
        assert!(station.link("eth0").is_some(), "it only left a bridge");
        let unplugged = RouteNetlinkMessage::DelLink(link(2, "eth0", false));
        assert_eq!(station.follow(&unplugged), Some(Change::Link));
        assert!(station.link("eth0").is_none() && !station.holds(&place));
    }
}
