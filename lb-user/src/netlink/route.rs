//! Routes: where the kernel would send a packet to one address.
//!
//! Must not know: real servers, why a destination is asked for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use futures::TryStreamExt;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteMessage, RouteMetric, RouteType, RouteVia,
};
use rtnetlink::RouteMessageBuilder;

use crate::netlink::{
    LinkTable, Netlink, NetlinkError, NextHop, Path, Unresolved, answer, next_hop,
};

/// The kernel's answer for one destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Route {
    /// Index of the outgoing interface.
    pub ifindex: u32,
    /// The router, or `None` when the destination is on the link.
    pub gateway: Option<IpAddr>,
    /// The source address that the kernel would choose.
    pub source: Option<IpAddr>,
    /// The destination is an address of this host.
    pub local: bool,
    /// Largest packet by the route itself: what was configured, or what the kernel learnt.
    pub mtu: Option<u32>,
}

impl Route {
    /// The neighbour that a packet to `destination` is handed to.
    pub fn neighbour(&self, destination: IpAddr) -> IpAddr {
        self.gateway.unwrap_or(destination)
    }
}

/// What [`Netlink::resolve`] found out about a destination.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolution {
    /// The route, unless there is none. Its neighbour is the one to keep managed.
    pub route: Option<Route>,
    /// The next hop, or why it is unknown.
    pub next_hop: Result<NextHop, Unresolved>,
    /// What packets on the route must keep to.
    pub path: Option<Path>,
}

impl Netlink {
    /// The route to a destination; `None` when there is none (unreachable, prohibited, blackhole).
    pub async fn route(&self, destination: IpAddr) -> Result<Option<Route>, NetlinkError> {
        let message = match destination {
            IpAddr::V4(ip) => {
                RouteMessageBuilder::<Ipv4Addr>::new().destination_prefix(ip, 32).build()
            }
            IpAddr::V6(ip) => {
                RouteMessageBuilder::<Ipv6Addr>::new().destination_prefix(ip, 128).build()
            }
        };
        let mut request = self.handle.route().get(message);
        // What `ip route get` sends: the builder's defaults describe a route to be added.
        let header = &mut request.message_mut().header;
        header.table = 0;
        header.kind = RouteType::Unspec;
        header.protocol = 0.into();
        header.scope = 0.into();
        let replies = request.execute();
        let what = || format!("look up the route to {destination}");
        match answer(what, replies.try_collect::<Vec<RouteMessage>>()).await {
            Ok(messages) => Ok(messages.first().and_then(parse)),
            Err(error) => match error.errno() {
                Some(libc::ENETUNREACH | libc::EHOSTUNREACH | libc::EACCES | libc::EINVAL) => {
                    Ok(None)
                }
                _ => Err(error),
            },
        }
    }

    /// Route, neighbour and [`next_hop::resolve`] for one destination.
    pub async fn resolve(
        &self,
        links: &LinkTable,
        destination: IpAddr,
    ) -> Result<Resolution, NetlinkError> {
        let route = self.route(destination).await?;
        let neighbour = match &route {
            Some(route) if !route.local => {
                self.neighbour(route.ifindex, route.neighbour(destination)).await?
            }
            _ => None,
        };
        let next_hop = next_hop::resolve(links, route.as_ref(), neighbour.as_ref());
        let path = next_hop::path(links, route.as_ref());
        Ok(Resolution { route, next_hop, path })
    }
}

fn parse(message: &RouteMessage) -> Option<Route> {
    let mut ifindex = None;
    let mut gateway = None;
    let mut source = None;
    let mut mtu = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => ifindex = Some(*index),
            RouteAttribute::Gateway(address) => gateway = ip(address),
            RouteAttribute::Via(RouteVia::Inet(ip)) => gateway = Some(IpAddr::V4(*ip)),
            RouteAttribute::Via(RouteVia::Inet6(ip)) => gateway = Some(IpAddr::V6(*ip)),
            RouteAttribute::PrefSource(address) => source = ip(address),
            RouteAttribute::Metrics(metrics) => {
                mtu = metrics.iter().find_map(|metric| match metric {
                    RouteMetric::Mtu(mtu) => Some(*mtu),
                    _ => None,
                });
            }
            _ => {}
        }
    }
    let local = match message.header.kind {
        RouteType::Unicast => false,
        RouteType::Local => true,
        _ => return None,
    };
    Some(Route { ifindex: ifindex?, gateway, source, local, mtu })
}

fn ip(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(ip) => Some(IpAddr::V4(*ip)),
        RouteAddress::Inet6(ip) => Some(IpAddr::V6(*ip)),
        _ => None,
    }
}
