//! Frames around VRRP: adverts in their IP packets, and how addresses are announced and asked for.
//!
//! Adverts leave as whole Ethernet frames, so that the source MAC address is the one that RFC 9568
//! section 7.3 asks for and no local filter is in the way. [`read`] is the other direction: what a
//! frame that came in says about virtual routers and addresses.
//!
//! Must not know: sockets, states, which addresses are ours.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::csum;

use crate::vrrp::packet::{PROTOCOL, TTL};

/// A MAC address.
pub type Mac = [u8; 6];

/// The MAC address of a virtual router (RFC 9568 section 7.3).
#[must_use]
pub fn virtual_mac(v4: bool, vrid: u8) -> Mac {
    [0, 0, 0x5e, 0, if v4 { 1 } else { 2 }, vrid]
}

/// The MAC address of a multicast group (RFC 1112 section 6.4, RFC 2464 section 7).
#[must_use]
pub fn group_mac(group: IpAddr) -> Mac {
    match group {
        IpAddr::V4(group) => {
            let [_, b, c, d] = group.octets();
            [1, 0, 0x5e, b & 0x7f, c, d]
        }
        IpAddr::V6(group) => {
            let [.., a, b, c, d] = group.octets();
            [0x33, 0x33, a, b, c, d]
        }
    }
}

/// Whom a frame goes from and to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The sender's MAC address.
    pub from: Mac,
    /// The receiver's.
    pub to: Mac,
}

/// An advert's message in an IP packet in a frame; `None` when the addresses are of two families.
#[must_use]
pub fn advert(way: Way, source: IpAddr, destination: IpAddr, message: &[u8]) -> Option<Vec<u8>> {
    let mut frame = Vec::with_capacity(ETHERNET + 40 + message.len());
    match (source, destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => {
            ethernet(&mut frame, way, ETHERTYPE_IPV4);
            let length = u16::try_from(20 + message.len()).ok()?;
            let mut header = [0; 20];
            header[0] = 0x45;
            header[1] = CONTROL;
            header[2..4].copy_from_slice(&length.to_be_bytes());
            header[8] = TTL;
            header[9] = PROTOCOL;
            header[12..16].copy_from_slice(&source.octets());
            header[16..20].copy_from_slice(&destination.octets());
            let sum = csum::full(&header, 0).to_ne_bytes();
            header[10..12].copy_from_slice(&sum);
            frame.extend(header);
        }
        (IpAddr::V6(source), IpAddr::V6(destination)) => {
            ethernet(&mut frame, way, ETHERTYPE_IPV6);
            ipv6(&mut frame, CONTROL, message.len(), PROTOCOL, source, destination)?;
        }
        _ => return None,
    }
    frame.extend(message);
    Some(frame)
}

/// Tells everybody that `address` is at `mac`: a gratuitous ARP request (RFC 5944 section 4.6, as
/// keepalived sends it) or an unsolicited neighbour advertisement (RFC 4861 section 4.4). `router`
/// says whether this host forwards IPv6.
#[must_use]
pub fn announcement(mac: Mac, address: IpAddr, router: bool) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp(mac, address, BROADCAST, address),
        IpAddr::V6(address) => {
            let flags = if router { 0xa0 } else { 0x20 };
            let mut body = vec![ADVERTISEMENT, 0, 0, 0, flags, 0, 0, 0];
            body.extend(address.octets());
            body.extend([2, 1]);
            body.extend(mac);
            let way = Way { from: mac, to: group_mac(ALL_NODES.into()) };
            neighbour(way, address, ALL_NODES, body)
        }
    }
}

/// Asks who has `address`, without saying that this host has it: an ARP probe (RFC 5227 section
/// 1.1) or a neighbour solicitation. IPv6 asks from `link_local`, so that the answer comes back to
/// this host alone.
#[must_use]
pub fn question(mac: Mac, address: IpAddr, link_local: Option<Ipv6Addr>) -> Vec<u8> {
    match address {
        IpAddr::V4(address) => arp(mac, Ipv4Addr::UNSPECIFIED, [0; 6], address),
        IpAddr::V6(address) => {
            let source = link_local.unwrap_or(Ipv6Addr::UNSPECIFIED);
            let [.., b, c, d] = address.octets();
            // RFC 4291 section 2.7.1.
            let group: Ipv6Addr = [0xff, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 0xff, b, c, d].into();
            let mut body = vec![SOLICITATION, 0, 0, 0, 0, 0, 0, 0];
            body.extend(address.octets());
            if !source.is_unspecified() {
                body.extend([1, 1]);
                body.extend(mac);
            }
            let way = Way { from: mac, to: group_mac(group.into()) };
            neighbour(way, source, group, body)
        }
    }
}

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Heard<'a> {
    /// A VRRP message.
    Vrrp {
        /// Who sent it.
        source: IpAddr,
        /// Whom it is for.
        destination: IpAddr,
        /// TTL or hop limit.
        ttl: u8,
        /// The message, as long as the IP header says.
        message: &'a [u8],
    },
    /// Somebody says that an address is theirs.
    Claim {
        /// The address.
        address: IpAddr,
        /// Where they say that it is.
        mac: Mac,
    },
}

/// Reads a frame; `None` when it says nothing of interest, or is damaged.
#[must_use]
pub fn read(frame: &[u8]) -> Option<Heard<'_>> {
    let payload = frame.get(ETHERNET..)?;
    match u16::from_be_bytes([*frame.get(12)?, *frame.get(13)?]) {
        ETHERTYPE_IPV4 => read_ipv4(payload),
        ETHERTYPE_IPV6 => read_ipv6(payload),
        ETHERTYPE_ARP => read_arp(payload),
        _ => None,
    }
}

fn read_ipv4(packet: &[u8]) -> Option<Heard<'_>> {
    let header = usize::from(packet.first()? & 0xf) * 4;
    let fixed = packet.get(..20)?;
    let length = usize::from(u16::from_be_bytes([fixed[2], fixed[3]]));
    // Fragments are not put together: an advert always fits a frame.
    let is_fragment = u16::from_be_bytes([fixed[6], fixed[7]]) & 0x3fff != 0;
    if fixed[0] >> 4 != 4 || header < 20 || fixed[9] != PROTOCOL || is_fragment {
        return None;
    }
    if csum::full(packet.get(..header)?, 0) != 0 {
        return None;
    }
    Some(Heard::Vrrp {
        source: octets4(&fixed[12..16])?.into(),
        destination: octets4(&fixed[16..20])?.into(),
        ttl: fixed[8],
        message: packet.get(header..length)?,
    })
}

fn read_ipv6(packet: &[u8]) -> Option<Heard<'_>> {
    let header = packet.get(..IPV6)?;
    let length = usize::from(u16::from_be_bytes([header[4], header[5]]));
    let message = packet.get(IPV6..IPV6 + length)?;
    let (source, destination) = (octets6(&header[8..24])?, octets6(&header[24..40])?);
    match header[6] {
        _ if header[0] >> 4 != 6 => None,
        PROTOCOL => Some(Heard::Vrrp {
            source: source.into(),
            destination: destination.into(),
            ttl: header[7],
            message,
        }),
        // RFC 4861 section 7.1.2: the hop limit shows that it was not forwarded.
        ICMPV6 if header[7] == TTL => read_advertisement(message, source, destination),
        _ => None,
    }
}

fn read_advertisement(
    message: &[u8],
    source: Ipv6Addr,
    destination: Ipv6Addr,
) -> Option<Heard<'_>> {
    if *message.first()? != ADVERTISEMENT || message.get(1) != Some(&0) {
        return None;
    }
    let sum = pseudo_header(source, destination, message.len(), ICMPV6);
    if csum::full(message, sum) != 0 {
        return None;
    }
    let address = octets6(message.get(8..24)?)?.into();
    let mut options = message.get(24..)?;
    while let [kind, units, ..] = options
        && *units > 0
    {
        let (option, rest) = options.split_at_checked(usize::from(*units) * 8)?;
        if *kind == 2 {
            return Some(Heard::Claim { address, mac: option.get(2..8)?.try_into().ok()? });
        }
        options = rest;
    }
    None
}

/// Replies, and requests whose sender has the address that they ask for, claim it. So does every
/// other request: whoever asks from an address says that it is theirs.
fn read_arp(packet: &[u8]) -> Option<Heard<'_>> {
    let packet = packet.get(..28)?;
    if packet[..6] != ARP_IPV4 || !matches!(packet[7], 1 | 2) || packet[6] != 0 {
        return None;
    }
    let address = octets4(&packet[14..18])?;
    let mac = packet[8..14].try_into().ok()?;
    (!address.is_unspecified()).then_some(Heard::Claim { address: address.into(), mac })
}

fn octets4(bytes: &[u8]) -> Option<Ipv4Addr> {
    <[u8; 4]>::try_from(bytes).ok().map(Ipv4Addr::from)
}

fn octets6(bytes: &[u8]) -> Option<Ipv6Addr> {
    <[u8; 16]>::try_from(bytes).ok().map(Ipv6Addr::from)
}

fn ethernet(frame: &mut Vec<u8>, way: Way, ethertype: u16) {
    frame.extend(way.to);
    frame.extend(way.from);
    frame.extend(ethertype.to_be_bytes());
}

fn arp(mac: Mac, sender: Ipv4Addr, target_mac: Mac, target: Ipv4Addr) -> Vec<u8> {
    let mut frame = Vec::with_capacity(42);
    ethernet(&mut frame, Way { from: mac, to: BROADCAST }, ETHERTYPE_ARP);
    frame.extend(ARP_IPV4);
    frame.extend([0, 1]);
    frame.extend(mac);
    frame.extend(sender.octets());
    frame.extend(target_mac);
    frame.extend(target.octets());
    frame
}

/// A neighbour discovery message in its packet; its checksum is filled in.
fn neighbour(way: Way, source: Ipv6Addr, destination: Ipv6Addr, mut body: Vec<u8>) -> Vec<u8> {
    let sum = pseudo_header(source, destination, body.len(), ICMPV6);
    let sum = csum::full(&body, sum).to_ne_bytes();
    body[2..4].copy_from_slice(&sum);
    let mut frame = Vec::with_capacity(ETHERNET + IPV6 + body.len());
    ethernet(&mut frame, way, ETHERTYPE_IPV6);
    // A message of ours is far shorter than 64 KiB.
    let _fits = ipv6(&mut frame, 0, body.len(), ICMPV6, source, destination);
    frame.extend(body);
    frame
}

fn ipv6(
    frame: &mut Vec<u8>,
    class: u8,
    length: usize,
    next: u8,
    source: Ipv6Addr,
    destination: Ipv6Addr,
) -> Option<()> {
    let length = u16::try_from(length).ok()?;
    frame.extend([0x60 | class >> 4, class << 4, 0, 0]);
    frame.extend(length.to_be_bytes());
    frame.extend([next, TTL]);
    frame.extend(source.octets());
    frame.extend(destination.octets());
    Some(())
}

/// RFC 8200 section 8.1, as a sum of words as they lie in memory.
fn pseudo_header(source: Ipv6Addr, destination: Ipv6Addr, length: usize, next: u8) -> u64 {
    let words = |bytes: &[u8]| -> u64 {
        bytes.chunks_exact(2).map(|pair| u64::from(u16::from_ne_bytes([pair[0], pair[1]]))).sum()
    };
    let length = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    words(&source.octets()) + words(&destination.octets()) + words(&length) + words(&[0, next])
}

const BROADCAST: Mac = [0xff; 6];
const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
const ETHERNET: usize = 14;
const IPV6: usize = 40;
const ETHERTYPE_IPV4: u16 = 0x0800;
const ETHERTYPE_IPV6: u16 = 0x86dd;
const ETHERTYPE_ARP: u16 = 0x0806;
/// Ethernet, IPv4, and the lengths of their addresses.
const ARP_IPV4: [u8; 6] = [0, 1, 8, 0, 6, 4];
const ICMPV6: u8 = 58;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Traffic class CS6, internetwork control, as keepalived sends it.
const CONTROL: u8 = 0xc0;

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = [2, 0, 0, 0, 0, 1];

    fn v4(last: u8) -> IpAddr {
        IpAddr::from([10, 77, 0, last])
    }

    fn v6(last: u16) -> IpAddr {
        IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, last])
    }

    #[test]
    fn an_advert_is_read_as_it_was_sent_also_when_it_is_padded() {
        let message = [0x31, 51, 150, 1, 0, 100, 0x42, 0xd9, 10, 77, 0, 100];
        for (source, group) in
            [(v4(1), IpAddr::from([224, 0, 0, 18])), (v6(1), "ff02::12".parse().expect("one"))]
        {
            let way = Way { from: MAC, to: group_mac(group) };
            let mut frame = advert(way, source, group, &message).expect("one family");
            frame.resize(60.max(frame.len() + 3), 0);
            let heard = read(&frame).expect("an advert");
            let message = &message[..];
            assert_eq!(heard, Heard::Vrrp { source, destination: group, ttl: 255, message });
        }
        assert_eq!(advert(Way { from: MAC, to: MAC }, v4(1), v6(1), &message), None);
    }

    #[test]
    fn groups_have_the_mac_addresses_of_the_rfcs() {
        assert_eq!(group_mac(IpAddr::from([224, 0, 0, 18])), [1, 0, 0x5e, 0, 0, 18]);
        assert_eq!(group_mac(IpAddr::from([239, 129, 2, 3])), [1, 0, 0x5e, 1, 2, 3]);
        let group: IpAddr = "ff02::12".parse().expect("one");
        assert_eq!(group_mac(group), [0x33, 0x33, 0, 0, 0, 0x12]);
        assert_eq!(virtual_mac(true, 51), [0, 0, 0x5e, 0, 1, 51]);
        assert_eq!(virtual_mac(false, 51), [0, 0, 0x5e, 0, 2, 51]);
    }

    /// The bytes that keepalived 2.2.7 sends for 10.77.0.100.
    #[test]
    fn a_gratuitous_arp_is_keepaliveds() {
        let frame = announcement(MAC, v4(100), false);
        let expected = [
            &[0xff; 6][..],
            &MAC,
            &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1],
            &MAC,
            &[10, 77, 0, 100],
            &[0xff; 6],
            &[10, 77, 0, 100],
        ]
        .concat();
        assert_eq!(frame, expected);
        assert_eq!(read(&frame), Some(Heard::Claim { address: v4(100), mac: MAC }));
    }

    #[test]
    fn an_ipv6_announcement_overrides_and_is_a_claim() {
        for router in [false, true] {
            let frame = announcement(MAC, v6(0x100), router);
            assert_eq!(frame[..6], [0x33, 0x33, 0, 0, 0, 1]);
            assert_eq!(frame[ETHERNET + IPV6 + 4], if router { 0xa0 } else { 0x20 });
            assert_eq!(read(&frame), Some(Heard::Claim { address: v6(0x100), mac: MAC }));
        }
    }

    #[test]
    fn a_question_claims_nothing_and_says_whom_to_answer() {
        let frame = question(MAC, v4(100), None);
        assert_eq!((frame.len(), read(&frame)), (42, None));
        assert_eq!(frame[28..32], [0; 4], "the sender's address");
        let IpAddr::V6(own) = v6(1) else { unreachable!() };
        let frame = question(MAC, v6(0x100), Some(own));
        assert_eq!(frame[..6], [0x33, 0x33, 0xff, 0, 1, 0]);
        assert_eq!(read(&frame), None);
        assert_eq!(frame[ETHERNET + IPV6 + 24..ETHERNET + IPV6 + 26], [1, 1]);
        let anonymous = question(MAC, v6(0x100), None);
        assert_eq!(anonymous.len(), ETHERNET + IPV6 + 24, "no link-layer option from ::");
    }

    #[test]
    fn damaged_frames_say_nothing_and_none_panics() {
        let message = [0x31, 51, 150, 1, 0, 100, 0, 0, 10, 77, 0, 100];
        let group = IpAddr::from([224, 0, 0, 18]);
        let way = Way { from: MAC, to: MAC };
        let good = [
            advert(way, v4(1), group, &message).expect("one family"),
            advert(way, v6(1), v6(2), &message).expect("one family"),
            announcement(MAC, v4(1), false),
            announcement(MAC, v6(1), false),
        ];
        for frame in &good {
            for end in 0..frame.len() {
                assert_eq!(read(&frame[..end]), None, "cut at {end}");
            }
            for at in 0..frame.len() {
                for bit in 0..8 {
                    let mut frame = frame.clone();
                    frame[at] ^= 1 << bit;
                    let _heard = read(&frame);
                }
            }
        }
        let mut fragment = good[0].clone();
        fragment[ETHERNET + 6] = 0x20;
        assert_eq!(read(&fragment), None);
        let mut checksum = good[3].clone();
        checksum[ETHERNET + IPV6 + 2] ^= 1;
        assert_eq!(read(&checksum), None);
    }
}
