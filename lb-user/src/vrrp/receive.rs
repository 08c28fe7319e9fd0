//! What is done with a received datagram before the state machine hears of it.
//!
//! The checks of RFC 9568 section 7.1 and RFC 3768 section 7.1 in their order, as pure functions
//! of the bytes, of what the socket says of the datagram and of what the instance expects. A
//! difference that two routers of one configuration may have for a moment, such as another list
//! of addresses, is reported and never a reason to drop: dropping makes two masters.
//!
//! Must not know: sockets, states, timers.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::vrrp::fsm::Advert;
use crate::vrrp::packet::{self, Auth, Checksum, DecodeError, GROUP_V4, GROUP_V6, Packet, TTL};
use crate::vrrp::timing::{Interval, Version};

/// What the socket says of a datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// Its TTL or hop limit.
    pub ttl: u8,
    /// Whom it came from.
    pub source: IpAddr,
    /// Whom it is for.
    pub destination: IpAddr,
    /// Index of the interface that it came in on.
    pub interface: u32,
}

/// What an instance expects of its peers' adverts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Index of its interface.
    pub interface: u32,
    /// Its virtual router identifier.
    pub vrid: u8,
    /// Its version.
    pub version: Version,
    /// Its own interval.
    pub interval: Interval,
    /// [`Auth::None`] or [`Auth::Pass`].
    pub auth: Auth,
    /// The virtual addresses that it advertises; the first one decides the family.
    pub addresses: Vec<IpAddr>,
    /// The addresses of its interface that adverts may leave from.
    pub own: Vec<IpAddr>,
    /// Its peers if it speaks unicast; empty for multicast.
    pub peers: Vec<IpAddr>,
}

/// An advert that the state machine is to hear.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The event.
    pub advert: Advert,
    /// Which form of checksum it had, to be counted.
    pub checksum: Checksum,
    /// Whether an IPv6 advert does not begin with a link-local address, as section 5.2.9 of
    /// RFC 9568 asks; keepalived sends what it is given.
    pub first_not_link_local: bool,
}

/// Why a datagram is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// It came in on another interface.
    #[error("it came in on another interface")]
    Interface,
    /// It has another address family than the instance.
    #[error("it has another address family")]
    Family,
    /// Unicast for a multicast instance, or the other way round.
    #[error("it was sent to an address that this instance does not listen to")]
    Destination,
    /// A multicast advert was forwarded by a router, or is made up.
    #[error("its TTL is {0} instead of 255")]
    Ttl(u8),
    /// Its source is an address of this host: a loop, or somebody uses our address.
    #[error("its source is an address of this host")]
    OwnAddress,
    /// A unicast advert of somebody who is no peer.
    #[error("its source is no peer")]
    Peer,
    /// The bytes are wrong in themselves.
    #[error(transparent)]
    Packet(#[from] DecodeError),
    /// Another version than the instance's.
    #[error("it speaks another version of VRRP")]
    Version,
    /// Another virtual router.
    #[error("it is for virtual router {0}")]
    Vrid(u8),
    /// Another type of authentication.
    #[error("its authentication is of another type")]
    AuthType,
    /// Another password.
    #[error("its password is another one")]
    Password,
    /// Version 2 with another interval (RFC 3768 section 7.1: MUST discard).
    #[error("its interval is {}s", .0.centiseconds() / 100)]
    Interval(Interval),
}

impl Refused {
    /// The reason's name in counters.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Interface => "interface",
            Self::Family => "family",
            Self::Destination => "destination",
            Self::Ttl(_) => "ttl",
            Self::OwnAddress => "own_address",
            Self::Peer => "peer",
            Self::Packet(error) => error.reason(),
            Self::Version => "version",
            Self::Vrid(_) => "vrid",
            Self::AuthType => "auth_type",
            Self::Password => "auth_password",
            Self::Interval(_) => "interval",
        }
    }
}

/// Takes a datagram for an instance, or says why not.
pub fn accept(message: &[u8], facts: &Facts, expected: &Expected) -> Result<Accepted, Refused> {
    datagram(facts, expected)?;
    let packet = packet::decode(message, facts.source, facts.destination)?;
    content(&packet, expected)?;
    let first_not_link_local = match packet.addresses.first() {
        Some(IpAddr::V6(address)) => !address.is_unicast_link_local(),
        _ => false,
    };
    let list = |addresses: &[IpAddr]| addresses.iter().copied().collect::<BTreeSet<_>>();
    Ok(Accepted {
        advert: Advert {
            source: facts.source,
            priority: packet.priority,
            interval: packet.interval,
            same_addresses: list(&packet.addresses) == list(&expected.addresses),
        },
        checksum: packet.checksum,
        first_not_link_local,
    })
}

/// What the IP header and the socket say.
fn datagram(facts: &Facts, expected: &Expected) -> Result<(), Refused> {
    if facts.interface != expected.interface {
        return Err(Refused::Interface);
    }
    let v4 = expected.addresses.first().is_none_or(IpAddr::is_ipv4);
    if facts.source.is_ipv4() != v4 || facts.destination.is_ipv4() != v4 {
        return Err(Refused::Family);
    }
    let group = if v4 { IpAddr::V4(GROUP_V4) } else { IpAddr::V6(GROUP_V6) };
    let multicast = expected.peers.is_empty();
    if multicast != (facts.destination == group) {
        return Err(Refused::Destination);
    }
    // Unicast adverts may cross routers, so their TTL says nothing.
    if multicast && facts.ttl != TTL {
        return Err(Refused::Ttl(facts.ttl));
    }
    if expected.own.contains(&facts.source) {
        return Err(Refused::OwnAddress);
    }
    if !multicast && !expected.peers.contains(&facts.source) {
        return Err(Refused::Peer);
    }
    Ok(())
}

/// What the message says, against the configuration.
fn content(packet: &Packet, expected: &Expected) -> Result<(), Refused> {
    if packet.version != expected.version {
        return Err(Refused::Version);
    }
    if packet.vrid != expected.vrid {
        return Err(Refused::Vrid(packet.vrid));
    }
    match (packet.auth, expected.auth) {
        (Auth::None, Auth::None) => {}
        (Auth::Pass(theirs), Auth::Pass(ours)) => {
            // All eight bytes, so that the time says nothing about the password.
            let difference = theirs.iter().zip(ours).fold(0, |sum, (a, b)| sum | (a ^ b));
            if difference != 0 {
                return Err(Refused::Password);
            }
        }
        _ => return Err(Refused::AuthType),
    }
    if packet.version == Version::V2 && packet.interval != expected.interval {
        return Err(Refused::Interval(packet.interval));
    }
    Ok(())
}
