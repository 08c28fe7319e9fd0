//! Links and addresses of the kernel, asked and changed without waiting for anything else.
//!
//! The daemon's `netlink` belongs to an asynchronous runtime, whose other tasks may come first.
//! The speaker has nothing else to do while the kernel answers, which takes microseconds; several
//! changes go out at once and their answers are read afterwards.
//!
//! Must not know: VRRP, why something is wanted.

use std::collections::BTreeSet;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Duration;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, NLM_F_EXCL, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol, CacheInfo,
};
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::route::RouteMessage;
use netlink_packet_route::rule::RuleMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use rtnetlink::MulticastGroup;
use socket2::SockRef;

/// The mark of addresses that VRRP put on an interface (`ip -d address` prints `proto 112`).
pub const OWNER: u8 = 112;

/// An address on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Place {
    /// Index of the interface.
    pub(super) ifindex: u32,
    /// The address.
    pub(super) address: IpAddr,
    /// Its prefix length.
    pub(super) prefix_len: u8,
}

/// A connection for requests.
pub(super) struct Kernel {
    socket: Socket,
    sequence: u32,
}

impl Kernel {
    /// Opens the connection in this network namespace.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        SockRef::from(&socket).set_read_timeout(Some(DEADLINE))?;
        Ok(Self { socket, sequence: 0 })
    }

    /// All links, with what is attached to them.
    pub(super) fn links(&mut self) -> io::Result<Vec<LinkMessage>> {
        let found = self.dump(RouteNetlinkMessage::GetLink(LinkMessage::default()))?;
        Ok(found
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewLink(link) => Some(link),
                _ => None,
            })
            .collect())
    }

    /// One link as it is now; `None` when it is gone.
    pub(super) fn link(&mut self, ifindex: u32) -> io::Result<Option<LinkMessage>> {
        let mut asked = LinkMessage::default();
        asked.header.index = ifindex;
        self.send(RouteNetlinkMessage::GetLink(asked), NLM_F_REQUEST)?;
        loop {
            for message in self.receive()? {
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                return match message.payload {
                    NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
                        Ok(Some(link))
                    }
                    NetlinkPayload::Error(error)
                        if error.to_io().raw_os_error() == Some(libc::ENODEV) =>
                    {
                        Ok(None)
                    }
                    NetlinkPayload::Error(error) => Err(error.to_io()),
                    _ => Err(io::ErrorKind::InvalidData.into()),
                };
            }
        }
    }

    /// All addresses.
    pub(super) fn addresses(&mut self) -> io::Result<Vec<AddressMessage>> {
        let found = self.dump(RouteNetlinkMessage::GetAddress(AddressMessage::default()))?;
        Ok(found
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewAddress(address) => Some(address),
                _ => None,
            })
            .collect())
    }

    /// All routes of a family.
    pub(super) fn routes(&mut self, v4: bool) -> io::Result<Vec<RouteMessage>> {
        let mut asked = RouteMessage::default();
        asked.header.address_family = family(v4);
        let found = self.dump(RouteNetlinkMessage::GetRoute(asked))?;
        Ok(found
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewRoute(route) => Some(route),
                _ => None,
            })
            .collect())
    }

    /// All rules of a family.
    pub(super) fn rules(&mut self, v4: bool) -> io::Result<Vec<RuleMessage>> {
        let mut asked = RuleMessage::default();
        asked.header.family = family(v4);
        let found = self.dump(RouteNetlinkMessage::GetRule(asked))?;
        Ok(found
            .into_iter()
            .filter_map(|message| match message {
                RouteNetlinkMessage::NewRule(rule) => Some(rule),
                _ => None,
            })
            .collect())
    }

    /// Adds addresses; the answers are in their order. EEXIST when one is there already. Those on
    /// `devices` bring no route to their network: it is reached by another interface.
    pub(super) fn add(
        &mut self,
        places: &[Place],
        devices: &BTreeSet<u32>,
    ) -> io::Result<Vec<io::Result<()>>> {
        let flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
        let message = |place: &Place| {
            let has_route = !devices.contains(&place.ifindex);
            (RouteNetlinkMessage::NewAddress(address_message(place, has_route)), flags)
        };
        self.ask(places.iter().map(message).collect())
    }

    /// Removes addresses; the answers are in their order. EADDRNOTAVAIL when one is not there.
    pub(super) fn remove(&mut self, places: &[Place]) -> io::Result<Vec<io::Result<()>>> {
        let flags = NLM_F_REQUEST | NLM_F_ACK;
        let message =
            |place| (RouteNetlinkMessage::DelAddress(address_message(place, true)), flags);
        self.ask(places.iter().map(message).collect())
    }

    /// Sends requests, then reads an answer to each; a few dozen at a time, so that the answers fit
    /// the socket.
    pub(super) fn ask(
        &mut self,
        mut requests: Vec<(RouteNetlinkMessage, u16)>,
    ) -> io::Result<Vec<io::Result<()>>> {
        let mut answers = Vec::with_capacity(requests.len());
        while !requests.is_empty() {
            let rest = requests.split_off(requests.len().min(AT_ONCE));
            answers.extend(self.ask_at_once(requests)?);
            requests = rest;
        }
        Ok(answers)
    }

    fn ask_at_once(
        &mut self,
        requests: Vec<(RouteNetlinkMessage, u16)>,
    ) -> io::Result<Vec<io::Result<()>>> {
        let first = self.sequence.wrapping_add(1);
        let count = requests.len();
        for (payload, flags) in requests {
            self.send(payload, flags)?;
        }
        let mut answers: Vec<Option<io::Result<()>>> = (0..count).map(|_| None).collect();
        while answers.iter().any(Option::is_none) {
            for message in self.receive()? {
                let at = message.header.sequence_number.wrapping_sub(first) as usize;
                let (Some(place), NetlinkPayload::Error(error)) =
                    (answers.get_mut(at), message.payload)
                else {
                    continue;
                };
                *place = Some(error.code.map_or(Ok(()), |_| Err(error.to_io())));
            }
        }
        Ok(answers.into_iter().flatten().collect())
    }

    fn dump(&mut self, payload: RouteNetlinkMessage) -> io::Result<Vec<RouteNetlinkMessage>> {
        self.send(payload, NLM_F_REQUEST | NLM_F_DUMP)?;
        let mut found = Vec::new();
        loop {
            for message in self.receive()? {
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                match message.payload {
                    NetlinkPayload::Done(_) => return Ok(found),
                    NetlinkPayload::Error(error) => return Err(error.to_io()),
                    NetlinkPayload::InnerMessage(inner) => found.push(inner),
                    _ => {}
                }
            }
        }
    }

    fn send(&mut self, payload: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(payload);
        message.header.flags = flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0).map(drop)
    }

    fn receive(&self) -> io::Result<Vec<NetlinkMessage<RouteNetlinkMessage>>> {
        Ok(parse(&datagram(&self.socket)?))
    }
}

/// A connection on which the kernel tells what changes.
pub(super) struct Events(Socket);

impl Events {
    /// Listens to links and addresses in this network namespace.
    pub(super) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        for group in [MulticastGroup::Link, MulticastGroup::Ipv4Ifaddr, MulticastGroup::Ipv6Ifaddr]
        {
            socket.add_membership(group as u32)?;
        }
        socket.set_non_blocking(true)?;
        Ok(Self(socket))
    }

    /// What changed since the last call; `None` when some of it was lost.
    pub(super) fn take(&self) -> Option<Vec<RouteNetlinkMessage>> {
        let (mut found, mut is_lost) = (Vec::new(), false);
        loop {
            match datagram(&self.0) {
                Ok(bytes) => {
                    found.extend(parse(&bytes).into_iter().filter_map(|message| {
                        match message.payload {
                            NetlinkPayload::InnerMessage(inner) => Some(inner),
                            _ => None,
                        }
                    }));
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    return (!is_lost).then_some(found);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // The loss is told before what was queued: older than what is read anew, so all of
                // it has to go.
                Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => is_lost = true,
                Err(_broken) => return None,
            }
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn datagram(socket: &Socket) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::with_capacity(DATAGRAM);
    socket.recv(&mut bytes, 0)?;
    Ok(bytes)
}

/// The messages of a datagram; what is not understood is left out.
fn parse(bytes: &[u8]) -> Vec<NetlinkMessage<RouteNetlinkMessage>> {
    let mut found = Vec::new();
    let mut rest = bytes;
    while rest.len() >= HEADER {
        let length = u32::from_ne_bytes([rest[0], rest[1], rest[2], rest[3]]) as usize;
        let Some(message) = rest.get(..length).filter(|_| length >= HEADER) else { break };
        found.extend(NetlinkMessage::deserialize(message));
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or(&[]);
    }
    found
}

fn family(v4: bool) -> AddressFamily {
    if v4 { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn address_message(place: &Place, has_route: bool) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.index = place.ifindex;
    message.header.prefix_len = place.prefix_len;
    message.attributes.push(AddressAttribute::Local(place.address));
    let mut flags = if has_route { AddressFlags::empty() } else { AddressFlags::Noprefixroute };
    match place.address {
        IpAddr::V4(_) => {
            message.header.family = AddressFamily::Inet;
        }
        IpAddr::V6(_) => {
            message.header.family = AddressFamily::Inet6;
            // No duplicate address detection: it would keep the address from serving for a
            // second, and for ever while the old master's answers are still there.
            message.header.flags |= AddressHeaderFlags::Nodad;
            flags |= AddressFlags::Nodad;
            // Deprecated: it never becomes the source of what this host sends of its own.
            let mut lifetimes = CacheInfo::default();
            lifetimes.ifa_preferred = 0;
            lifetimes.ifa_valid = u32::MAX;
            message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
        }
    }
    message.attributes.push(AddressAttribute::Flags(flags));
    message.attributes.push(AddressAttribute::Address(place.address));
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(OWNER)));
    message
}

/// The kernel answers at once; this is for one that does not.
const DEADLINE: Duration = Duration::from_secs(2);
/// More than the kernel puts into one datagram of an answer.
const DATAGRAM: usize = 1 << 16;
/// Requests before their answers are read.
const AT_ONCE: usize = 64;
/// Bytes of a netlink header.
const HEADER: usize = 16;
