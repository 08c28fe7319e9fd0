//! From route, neighbour and link table to the Ethernet header of a frame.
//!
//! Pure: [`resolve`] decides on what netlink reported. A route over a VLAN device resolves to its
//! parent with the VLAN id, because XDP sends through the parent and writes the tag itself.
//!
//! Must not know: sockets, real servers, BPF.

use std::net::IpAddr;

use crate::netlink::{Link, LinkKind, LinkTable, Neighbour, Route};

/// How a frame leaves for a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct NextHop {
    /// The interface that the frame is sent through; a VLAN device's parent.
    pub ifindex: u32,
    /// Source MAC address.
    pub smac: [u8; 6],
    /// Destination MAC address.
    pub dmac: [u8; 6],
    /// VLAN id of the frame's tag, if it needs one.
    pub vlan: Option<u16>,
}

/// What packets to a destination must keep to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Path {
    /// Largest packet in bytes, from its IP header on.
    pub mtu: u32,
    /// The source address that the kernel would choose.
    pub source: Option<IpAddr>,
}

/// The path of this route: the smallest MTU of the route, its device and a VLAN's parent. `None`
/// when there is none to speak of.
pub fn path(links: &LinkTable, route: Option<&Route>) -> Option<Path> {
    let route = route.filter(|route| !route.local)?;
    let device = links.get(route.ifindex)?;
    let port = port(links, device).map_or(device, |(port, _)| port);
    let mtus = [route.mtu, Some(device.mtu), Some(port.mtu)];
    // A device without an MTU does not bound it.
    let mtu = mtus.into_iter().flatten().filter(|mtu| *mtu != 0).min().unwrap_or(0);
    Some(Path { mtu, source: route.source })
}

/// Why a next hop is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum Unresolved {
    /// The routing table has no way there.
    #[error("no route")]
    NoRoute,
    /// The destination is an address of this host.
    #[error("it is an address of this host")]
    LocalAddress,
    /// The outgoing interface, or a VLAN's parent, is down or without carrier.
    #[error("interface {ifindex} is down")]
    LinkDown {
        /// Index of the interface.
        ifindex: u32,
    },
    /// Nobody answered for the next hop's address yet.
    #[error("the neighbour does not answer")]
    NeighbourUnresolved,
    /// The outgoing interface is not Ethernet, or its parent is in another network namespace.
    #[error("interface {ifindex} is not an Ethernet device of this namespace")]
    NoEthernet {
        /// Index of the interface.
        ifindex: u32,
    },
    /// A VLAN device on top of a VLAN device: frames would need two tags.
    #[error("interface {ifindex} is a VLAN in a VLAN")]
    StackedVlan {
        /// Index of the interface.
        ifindex: u32,
    },
}

/// The next hop on this route by way of this neighbour.
pub fn resolve(
    links: &LinkTable,
    route: Option<&Route>,
    neighbour: Option<&Neighbour>,
) -> Result<NextHop, Unresolved> {
    let route = route.ok_or(Unresolved::NoRoute)?;
    if route.local {
        return Err(Unresolved::LocalAddress);
    }
    let device = links.get(route.ifindex).ok_or(Unresolved::NoRoute)?;
    let (port, vlan) = port(links, device)?;
    for link in [device, port] {
        if !(link.up && link.running) {
            return Err(Unresolved::LinkDown { ifindex: link.index });
        }
    }
    let smac = device.mac.ok_or(Unresolved::NoEthernet { ifindex: device.index })?;
    let dmac = neighbour.and_then(Neighbour::usable_mac).ok_or(Unresolved::NeighbourUnresolved)?;
    Ok(NextHop { ifindex: port.index, smac, dmac, vlan })
}

/// The interface that frames of `device` leave through, and their tag.
fn port<'a>(links: &'a LinkTable, device: &'a Link) -> Result<(&'a Link, Option<u16>), Unresolved> {
    let LinkKind::Vlan { parent, id } = device.kind else { return Ok((device, None)) };
    let parent = parent
        .and_then(|index| links.get(index))
        .ok_or(Unresolved::NoEthernet { ifindex: device.index })?;
    match parent.kind {
        LinkKind::Plain => Ok((parent, Some(id))),
        LinkKind::Vlan { .. } => Err(Unresolved::StackedVlan { ifindex: device.index }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::netlink::NeighbourState;

    const GATEWAY: [u8; 6] = [2, 0, 0, 0, 0, 0xfe];

    fn mac(index: u8) -> [u8; 6] {
        [2, 0, 0, 0, 0, index]
    }

    fn link(index: u8, kind: LinkKind) -> Link {
        Link {
            index: u32::from(index),
            name: format!("eth{index}"),
            mac: Some(mac(index)),
            up: true,
            running: true,
            mtu: 1500,
            kind,
        }
    }

    /// 1 is plain, 2 a VLAN 100 on 1, 3 a VLAN in 2, 4 a VLAN with its parent elsewhere.
    fn links() -> Vec<Link> {
        vec![
            link(1, LinkKind::Plain),
            link(2, LinkKind::Vlan { parent: Some(1), id: 100 }),
            link(3, LinkKind::Vlan { parent: Some(2), id: 200 }),
            link(4, LinkKind::Vlan { parent: None, id: 300 }),
        ]
    }

    fn over(ifindex: u32) -> Route {
        Route { ifindex, gateway: None, source: None, local: false, mtu: None }
    }

    #[track_caller]
    fn check(links: Vec<Link>, route: Option<Route>, expected: Result<NextHop, Unresolved>) {
        let neighbour = Neighbour {
            ifindex: 1,
            address: IpAddr::from([10, 0, 0, 1]),
            mac: Some(GATEWAY),
            state: NeighbourState::Resolved,
            managed: true,
            ours: true,
        };
        let found = resolve(&links.into_iter().collect(), route.as_ref(), Some(&neighbour));
        assert_eq!(found, expected);
    }

    #[test]
    fn a_plain_interface_sends_untagged_from_its_own_address() {
        let hop = NextHop { ifindex: 1, smac: mac(1), dmac: GATEWAY, vlan: None };
        check(links(), Some(over(1)), Ok(hop));
    }

    #[test]
    fn a_vlan_device_sends_tagged_through_its_parent() {
        let hop = NextHop { ifindex: 1, smac: mac(2), dmac: GATEWAY, vlan: Some(100) };
        check(links(), Some(over(2)), Ok(hop));
    }

    #[test]
    fn what_cannot_be_sent_says_why() {
        check(links(), None, Err(Unresolved::NoRoute));
        check(links(), Some(over(9)), Err(Unresolved::NoRoute));
        check(links(), Some(Route { local: true, ..over(1) }), Err(Unresolved::LocalAddress));
        check(links(), Some(over(3)), Err(Unresolved::StackedVlan { ifindex: 3 }));
        check(links(), Some(over(4)), Err(Unresolved::NoEthernet { ifindex: 4 }));
        let mut tunnel = links();
        tunnel[0].mac = None;
        check(tunnel, Some(over(1)), Err(Unresolved::NoEthernet { ifindex: 1 }));
    }

    #[test]
    fn a_vlan_over_a_parent_without_carrier_is_down() {
        let mut no_carrier = links();
        no_carrier[0].running = false;
        check(no_carrier.clone(), Some(over(2)), Err(Unresolved::LinkDown { ifindex: 1 }));
        check(no_carrier, Some(over(1)), Err(Unresolved::LinkDown { ifindex: 1 }));
    }

    #[test]
    fn the_smallest_mtu_on_the_way_out_bounds_a_path() {
        let mtu = |links: Vec<Link>, route| {
            path(&links.into_iter().collect(), Some(&route)).map(|path| path.mtu)
        };
        assert_eq!(mtu(links(), over(1)), Some(1500));
        assert_eq!(mtu(links(), Route { mtu: Some(1400), ..over(1) }), Some(1400));
        assert_eq!(mtu(links(), Route { mtu: Some(9000), ..over(1) }), Some(1500));
        let mut jumbo = links();
        jumbo[0].mtu = 9000;
        assert_eq!(mtu(jumbo.clone(), over(1)), Some(9000));
        assert_eq!(mtu(jumbo.clone(), over(2)), Some(1500), "the VLAN device's own");
        (jumbo[0].mtu, jumbo[1].mtu) = (1300, 1500);
        assert_eq!(mtu(jumbo, over(2)), Some(1300), "the VLAN's parent's");
        assert_eq!(mtu(links(), over(9)), None);
        assert_eq!(mtu(links(), Route { local: true, ..over(1) }), None);
        let source = Some(IpAddr::from([10, 0, 0, 9]));
        let found = path(&links().into_iter().collect(), Some(&Route { source, ..over(1) }));
        assert_eq!(found, Some(Path { mtu: 1500, source }));
        assert_eq!(path(&LinkTable::default(), None), None);
    }

    #[test]
    fn a_neighbour_without_an_answer_is_unresolved() {
        let table = links().into_iter().collect();
        let found = resolve(&table, Some(&over(1)), None);
        assert_eq!(found, Err(Unresolved::NeighbourUnresolved));
    }
}
