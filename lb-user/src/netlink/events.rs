//! What changes in the kernel's links, neighbours and routes, as coalesced events.
//!
//! [`spawn`] listens on its own connection and sends to the channel of its owner. Changes within
//! 10 ms of the first become at most one event for each interface and neighbour and one for all
//! routes, so a flapping port or a routing protocol that learns a full table costs little.
//!
//! Must not know: who listens and what a change means.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use futures::StreamExt;
use netlink_packet_core::{NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use rtnetlink::MulticastGroup;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::netlink::{Neighbour, NeighbourState, NetlinkError, neighbour};

/// Something changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NetlinkEvent {
    /// An interface appeared, changed or went; read the link table again.
    LinkChanged {
        /// Its index.
        ifindex: u32,
    },
    /// A neighbour's newest entry; one that was removed is in state `Failed` without a MAC.
    NeighbourChanged(Neighbour),
    /// Routes changed; resolve again.
    RouteChanged,
    /// Events were lost, or the kernel's socket was closed; read everything again.
    Resync,
}

/// Listens in this thread's network namespace until the receiver is gone.
pub fn spawn<E>(events: mpsc::Sender<E>) -> Result<JoinHandle<()>, NetlinkError>
where
    E: From<NetlinkEvent> + Send + 'static,
{
    let (connection, handle, mut messages) = rtnetlink::new_multicast_connection(&[
        MulticastGroup::Link,
        MulticastGroup::Neigh,
        MulticastGroup::Ipv4Route,
        MulticastGroup::Ipv6Route,
    ])
    .map_err(NetlinkError::Open)?;
    tokio::spawn(connection);
    Ok(tokio::spawn(async move {
        // The connection ends when its last handle does.
        let _handle = handle;
        while let Some((first, _)) = messages.next().await {
            let mut pending = Pending::default();
            pending.take(&first);
            let window = tokio::time::sleep(WINDOW);
            tokio::pin!(window);
            loop {
                tokio::select! {
                    () = &mut window => break,
                    message = messages.next() => match message {
                        Some((message, _)) => pending.take(&message),
                        None => break,
                    },
                }
            }
            for event in pending.events() {
                if events.send(E::from(event)).await.is_err() {
                    return;
                }
            }
        }
        tracing::error!("netlink events ended: next hops follow changes no more until a restart");
        let _gone = events.send(E::from(NetlinkEvent::Resync)).await;
    }))
}

#[derive(Debug, Default)]
struct Pending {
    links: BTreeSet<u32>,
    neighbours: BTreeMap<(u32, IpAddr), Neighbour>,
    routes: bool,
    lost: bool,
}

impl Pending {
    fn take(&mut self, message: &NetlinkMessage<RouteNetlinkMessage>) {
        match &message.payload {
            NetlinkPayload::InnerMessage(message) => self.take_inner(message),
            NetlinkPayload::Overrun(_) => self.lost = true,
            _ => {}
        }
    }

    fn take_inner(&mut self, message: &RouteNetlinkMessage) {
        match message {
            RouteNetlinkMessage::NewLink(link) | RouteNetlinkMessage::DelLink(link) => {
                self.links.insert(link.header.index);
            }
            RouteNetlinkMessage::NewNeighbour(message) => self.neighbour(neighbour::parse(message)),
            RouteNetlinkMessage::DelNeighbour(message) => {
                self.neighbour(neighbour::parse(message).map(|gone| Neighbour {
                    mac: None,
                    state: NeighbourState::Failed,
                    managed: false,
                    ours: false,
                    ..gone
                }));
            }
            RouteNetlinkMessage::NewRoute(_) | RouteNetlinkMessage::DelRoute(_) => {
                self.routes = true;
            }
            _ => {}
        }
    }

    fn neighbour(&mut self, neighbour: Option<Neighbour>) {
        if let Some(neighbour) = neighbour {
            self.neighbours.insert((neighbour.ifindex, neighbour.address), neighbour);
        }
    }

    /// A loss makes all else superfluous.
    fn events(self) -> Vec<NetlinkEvent> {
        if self.lost {
            return vec![NetlinkEvent::Resync];
        }
        let links = self.links.into_iter().map(|ifindex| NetlinkEvent::LinkChanged { ifindex });
        let routes = self.routes.then_some(NetlinkEvent::RouteChanged);
        let neighbours = self.neighbours.into_values().map(NetlinkEvent::NeighbourChanged);
        links.chain(routes).chain(neighbours).collect()
    }
}

const WINDOW: Duration = Duration::from_millis(10);

#[cfg(test)]
mod tests {
    use netlink_packet_core::NetlinkHeader;
    use netlink_packet_route::link::LinkMessage;
    use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourMessage};
    use netlink_packet_route::route::RouteMessage;

    use super::*;

    fn link(index: u32) -> RouteNetlinkMessage {
        let mut message = LinkMessage::default();
        message.header.index = index;
        RouteNetlinkMessage::NewLink(message)
    }

    fn entry(last: u8) -> NeighbourMessage {
        let mut message = NeighbourMessage::default();
        message.header.ifindex = 1;
        message.header.state = netlink_packet_route::neighbour::NeighbourState::Reachable;
        let address = NeighbourAddress::Inet([10, 0, 0, last].into());
        message.attributes.push(NeighbourAttribute::Destination(address));
        message
    }

    #[test]
    fn a_burst_becomes_one_event_for_each_thing() {
        let mut pending = Pending::default();
        for message in [
            link(2),
            link(2),
            RouteNetlinkMessage::NewRoute(RouteMessage::default()),
            RouteNetlinkMessage::DelRoute(RouteMessage::default()),
            RouteNetlinkMessage::NewNeighbour(entry(1)),
            RouteNetlinkMessage::NewNeighbour(entry(2)),
            RouteNetlinkMessage::DelNeighbour(entry(1)),
        ] {
            pending.take_inner(&message);
        }
        let events = pending.events();
        assert_eq!(events.len(), 4, "{events:?}");
        assert_eq!(events[0], NetlinkEvent::LinkChanged { ifindex: 2 });
        assert_eq!(events[1], NetlinkEvent::RouteChanged);
        let NetlinkEvent::NeighbourChanged(gone) = events[2] else { panic!("{events:?}") };
        assert_eq!(gone.state, NeighbourState::Failed);
    }

    #[test]
    fn a_loss_asks_for_everything_again() {
        let mut pending = Pending::default();
        pending.take_inner(&link(2));
        let overrun = NetlinkPayload::Overrun(Vec::new());
        pending.take(&NetlinkMessage::new(NetlinkHeader::default(), overrun));
        assert_eq!(pending.events(), [NetlinkEvent::Resync]);
    }
}
