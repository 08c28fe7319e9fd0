//! Neighbours: the MAC address of a next hop, kept resolved by the kernel while it is managed.
//!
//! Must not know: real servers, why a neighbour is wanted.

use std::net::IpAddr;

use futures::{StreamExt, TryStreamExt};
use netlink_packet_core::{NLM_F_REQUEST, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourExtFlags, NeighbourMessage,
    NeighbourState as KernelState,
};
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::netlink::{Netlink, NetlinkError, OWNER, Ownership, answer};

/// What the kernel knows of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Index of the interface behind which it is.
    pub ifindex: u32,
    /// Its address.
    pub address: IpAddr,
    /// Its MAC address, if known and of Ethernet's length.
    pub mac: Option<[u8; 6]>,
    /// How far it is resolved.
    pub state: NeighbourState,
    /// The kernel keeps it resolved (NTF_EXT_MANAGED).
    pub managed: bool,
    /// Added by this program.
    pub ours: bool,
}

impl Neighbour {
    /// The MAC address that frames may be sent to, or `None`. A stale one counts: the kernel
    /// itself sends to it while it asks again.
    pub fn usable_mac(&self) -> Option<[u8; 6]> {
        match self.state {
            NeighbourState::Resolved | NeighbourState::Static => self.mac,
            NeighbourState::Unresolved | NeighbourState::Failed => None,
        }
    }

    /// Whether the kernel gave the entry up: it was removed, or failed without being managed.
    pub fn is_gone(&self) -> bool {
        self.state == NeighbourState::Failed && !self.managed
    }
}

/// The kernel's NUD states as far as sending tells them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NeighbourState {
    /// REACHABLE, STALE, DELAY, PROBE.
    Resolved,
    /// PERMANENT, NOARP: set by the operator, never asked for.
    Static,
    /// NONE, INCOMPLETE: being asked for, or not yet.
    Unresolved,
    /// FAILED, or gone.
    Failed,
}

impl Netlink {
    /// The entry of one neighbour, or `None` when there is none.
    pub async fn neighbour(
        &self,
        ifindex: u32,
        address: IpAddr,
    ) -> Result<Option<Neighbour>, NetlinkError> {
        let message = message(ifindex, address);
        let mut request = NetlinkMessage::from(RouteNetlinkMessage::GetNeighbour(message));
        request.header.flags = NLM_F_REQUEST;
        let mut handle = self.handle.clone();
        let reply = async move {
            match handle.request(request)?.next().await.map(|reply| reply.payload) {
                Some(NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewNeighbour(found))) => {
                    Ok(parse(&found))
                }
                Some(NetlinkPayload::Error(error)) => Err(rtnetlink::Error::NetlinkError(error)),
                _ => Err(rtnetlink::Error::RequestFailed),
            }
        };
        match answer(|| format!("look up neighbour {address} on interface {ifindex}"), reply).await
        {
            Err(error) if error.errno() == Some(libc::ENOENT) => Ok(None),
            other => other,
        }
    }

    /// Makes the kernel resolve the neighbour now and keep it resolved, until the interface goes
    /// down or loses its carrier: then the kernel forgets even managed neighbours and does not
    /// restore them. Call this again on an event whose [`Neighbour::is_gone`] holds, and for all
    /// when a link comes back. An entry that the operator
    /// made permanent is left alone: it is usable as it is.
    pub async fn manage_neighbour(
        &self,
        ifindex: u32,
        address: IpAddr,
    ) -> Result<Ownership, NetlinkError> {
        if let Some(known) = self.neighbour(ifindex, address).await? {
            if known.state == NeighbourState::Static || (known.managed && !known.ours) {
                return Ok(Ownership::Foreign);
            }
            if known.managed {
                return Ok(Ownership::Ours);
            }
        }
        let mut request =
            self.handle.neighbours().add(ifindex, address).state(KernelState::None).replace();
        request.message_mut().attributes.extend([
            NeighbourAttribute::ExtFlags(NeighbourExtFlags::Managed),
            NeighbourAttribute::Protocol(RouteProtocol::Other(OWNER)),
        ]);
        let what = || format!("manage neighbour {address} on interface {ifindex}");
        answer(what, request.execute()).await?;
        Ok(Ownership::Ours)
    }

    /// Removes a neighbour; one that is gone already is no error. Call it only for what
    /// [`Self::manage_neighbour`] said is ours.
    pub async fn remove_neighbour(
        &self,
        ifindex: u32,
        address: IpAddr,
    ) -> Result<(), NetlinkError> {
        let request = self.handle.neighbours().del(message(ifindex, address)).execute();
        let what = || format!("remove neighbour {address} on interface {ifindex}");
        match answer(what, request).await {
            Err(error) if matches!(error.errno(), Some(libc::ENOENT | libc::ENODEV)) => Ok(()),
            other => other,
        }
    }

    /// All neighbours that carry this program's mark, also those of a daemon that is gone.
    pub async fn owned_neighbours(&self) -> Result<Vec<Neighbour>, NetlinkError> {
        let mut all = self.neighbours().await?;
        all.retain(|neighbour| neighbour.ours);
        Ok(all)
    }

    /// All IPv4 and IPv6 neighbours.
    pub async fn neighbours(&self) -> Result<Vec<Neighbour>, NetlinkError> {
        let request = self.handle.neighbours().get().execute();
        let messages: Vec<NeighbourMessage> =
            answer(|| "list neighbours".into(), request.try_collect()).await?;
        Ok(messages.iter().filter_map(parse).collect())
    }
}

/// Reads a message; `None` for other families (bridge forwarding entries).
pub(super) fn parse(message: &NeighbourMessage) -> Option<Neighbour> {
    let mut mac = None;
    let mut address = None;
    let mut managed = false;
    let mut ours = false;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => {
                address = Some(IpAddr::V4(*ip));
            }
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => {
                address = Some(IpAddr::V6(*ip));
            }
            NeighbourAttribute::LinkLayerAddress(bytes) => mac = bytes.as_slice().try_into().ok(),
            NeighbourAttribute::ExtFlags(flags) => {
                managed = flags.contains(NeighbourExtFlags::Managed);
            }
            NeighbourAttribute::Protocol(RouteProtocol::Other(OWNER)) => ours = true,
            _ => {}
        }
    }
    let state = state(message.header.state);
    Some(Neighbour {
        ifindex: message.header.ifindex,
        address: address?,
        mac,
        state,
        managed,
        ours,
    })
}

fn state(state: KernelState) -> NeighbourState {
    match state {
        KernelState::Reachable | KernelState::Stale | KernelState::Delay | KernelState::Probe => {
            NeighbourState::Resolved
        }
        KernelState::Noarp | KernelState::Permanent => NeighbourState::Static,
        KernelState::Failed => NeighbourState::Failed,
        _ => NeighbourState::Unresolved,
    }
}

fn message(ifindex: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    let (family, destination) = match address {
        IpAddr::V4(ip) => (AddressFamily::Inet, NeighbourAddress::Inet(ip)),
        IpAddr::V6(ip) => (AddressFamily::Inet6, NeighbourAddress::Inet6(ip)),
    };
    message.header.family = family;
    message.header.ifindex = ifindex;
    message.attributes.push(NeighbourAttribute::Destination(destination));
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_or_permanent_neighbour_is_usable_and_a_failed_one_is_not() {
        let usable = |kernel: KernelState| {
            let mut message = message(3, IpAddr::from([10, 0, 0, 1]));
            message.header.state = kernel;
            message.attributes.push(NeighbourAttribute::LinkLayerAddress(vec![2, 0, 0, 0, 0, 1]));
            parse(&message).expect("a neighbour").usable_mac().is_some()
        };
        for state in [
            KernelState::Reachable,
            KernelState::Stale,
            KernelState::Delay,
            KernelState::Probe,
            KernelState::Permanent,
            KernelState::Noarp,
        ] {
            assert!(usable(state), "{state:?}");
        }
        for state in [KernelState::Failed, KernelState::Incomplete, KernelState::None] {
            assert!(!usable(state), "{state:?}");
        }
    }
}
