//! What routers say, read from Ethernet frames: adverts, gratuitous ARP, neighbour advertisements.
//!
//! Written from RFC 3768, RFC 9568, RFC 826 and RFC 4861, and shared with nobody: a fault in the
//! product's codec must not be repeated here. Nothing is refused: a wrong field is shown as it is.
//!
//! Must not know: who sends, or what should be sent.

use crate::frame::{Mac, checksum};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

/// One thing that a router said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// A VRRP advertisement.
    Advert(Advert),
    /// An ARP packet.
    Arp(Arp),
    /// A neighbour advertisement (ICMPv6 type 136).
    Neighbour(Neighbour),
}

/// A VRRP advertisement with all of its headers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Advert {
    /// Source and destination on the link.
    pub macs: [Mac; 2],
    /// Source address.
    pub source: IpAddr,
    /// Destination address.
    pub destination: IpAddr,
    /// TTL or hop limit.
    pub ttl: u8,
    /// Type of service or traffic class.
    pub tos: u8,
    /// Version of the protocol.
    pub version: u8,
    /// Type of the packet; 1 is an advertisement.
    pub kind: u8,
    /// VRID.
    pub vrid: u8,
    /// Priority; 0 is a goodbye.
    pub priority: u8,
    /// The advertisement interval, in the version's unit.
    pub interval: Duration,
    /// Authentication type (version 2) or the reserved bits (version 3).
    pub auth_type: u8,
    /// Authentication data of version 2, otherwise empty.
    pub auth: Vec<u8>,
    /// What its checksum covers.
    pub checksum: Checksum,
    /// How many addresses it says that it has.
    pub count: u8,
    /// The addresses.
    pub addresses: Vec<IpAddr>,
    /// Length of the VRRP message, as the IP header has it.
    pub length: usize,
}

/// What an advert's checksum is right for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// The message alone.
    Message,
    /// The pseudo-header and the message.
    PseudoHeader,
    /// Neither.
    Wrong,
}

/// An ARP packet of Ethernet and IPv4.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Arp {
    /// Source and destination on the link.
    pub macs: [Mac; 2],
    /// 1 is a request, 2 a reply.
    pub operation: u16,
    /// Hardware address of the sender.
    pub sender_mac: Mac,
    /// Protocol address of the sender.
    pub sender: Ipv4Addr,
    /// Hardware address of the target.
    pub target_mac: Mac,
    /// Protocol address of the target.
    pub target: Ipv4Addr,
}

impl Arp {
    /// Whether it announces an address (RFC 5227 section 1.2).
    pub fn is_gratuitous(&self) -> bool {
        self.sender == self.target && !self.sender.is_unspecified()
    }
}

/// A neighbour advertisement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Neighbour {
    /// Source and destination on the link.
    pub macs: [Mac; 2],
    /// Source address.
    pub source: Ipv6Addr,
    /// Destination address.
    pub destination: Ipv6Addr,
    /// Hop limit.
    pub hop_limit: u8,
    /// The flags R, S and O.
    pub flags: [bool; 3],
    /// The address that it is about.
    pub target: Ipv6Addr,
    /// The target's Ethernet address, if the option is there.
    pub target_mac: Option<Mac>,
    /// Whether the ICMPv6 checksum is right.
    pub checksum: bool,
}

impl Said {
    /// Reads a frame; `None` when it is nothing of the above or is cut short.
    pub fn read(frame: &[u8]) -> Option<Self> {
        let macs = [array(frame, 6)?, array(frame, 0)?];
        match half(frame, 12)? {
            0x0806 => arp(macs, frame.get(14..)?).map(Self::Arp),
            0x0800 => ipv4(macs, frame.get(14..)?).map(Self::Advert),
            0x86dd => ipv6(macs, frame.get(14..)?),
            _ => None,
        }
    }
}

fn arp(macs: [Mac; 2], packet: &[u8]) -> Option<Arp> {
    if packet.get(..6)? != [0, 1, 8, 0, 6, 4] {
        return None;
    }
    Some(Arp {
        macs,
        operation: half(packet, 6)?,
        sender_mac: array(packet, 8)?,
        sender: Ipv4Addr::from(array::<4>(packet, 14)?),
        target_mac: array(packet, 18)?,
        target: Ipv4Addr::from(array::<4>(packet, 24)?),
    })
}

fn ipv4(macs: [Mac; 2], packet: &[u8]) -> Option<Advert> {
    let header = usize::from(packet.first()? & 15) * 4;
    if packet[0] >> 4 != 4 || *packet.get(9)? != PROTOCOL {
        return None;
    }
    // A short frame is padded: the header says where the message ends.
    let message = packet.get(header..usize::from(half(packet, 2)?))?;
    let (source, destination) = (array::<4>(packet, 12)?, array::<4>(packet, 16)?);
    let length = u16::try_from(message.len()).ok()?;
    let pseudo = [&source[..], &destination, &[0, PROTOCOL], &length.to_be_bytes()].concat();
    let ends = [IpAddr::from(source), IpAddr::from(destination)];
    advert(macs, ends, [packet[8], packet[1]], message, &pseudo)
}

fn ipv6(macs: [Mac; 2], packet: &[u8]) -> Option<Said> {
    let length = half(packet, 4)?;
    let message = packet.get(40..40 + usize::from(length))?;
    let (source, destination) = (array::<16>(packet, 8)?, array::<16>(packet, 24)?);
    let next = *packet.get(6)?;
    let zeros = [0, 0, 0, next];
    let pseudo = [&source[..], &destination, &[0, 0], &length.to_be_bytes(), &zeros].concat();
    match next {
        PROTOCOL => {
            let ends = [IpAddr::from(source), IpAddr::from(destination)];
            let class = u8::try_from((half(packet, 0)? >> 4) & 0xff).ok()?;
            advert(macs, ends, [packet[7], class], message, &pseudo).map(Said::Advert)
        }
        ICMPV6 if message.first() == Some(&136) => {
            let flags = *message.get(4)?;
            let option = message.get(24..32).filter(|option| option[..2] == [2, 1]);
            Some(Said::Neighbour(Neighbour {
                macs,
                source: source.into(),
                destination: destination.into(),
                hop_limit: packet[7],
                flags: [0x80, 0x40, 0x20].map(|bit| flags & bit != 0),
                target: Ipv6Addr::from(array::<16>(message, 8)?),
                target_mac: option.and_then(|option| array(option, 2)),
                checksum: sums_up(&[&pseudo[..], message].concat()),
            }))
        }
        _ => None,
    }
}

fn advert(
    macs: [Mac; 2],
    [source, destination]: [IpAddr; 2],
    [ttl, tos]: [u8; 2],
    message: &[u8],
    pseudo: &[u8],
) -> Option<Advert> {
    let fixed: [u8; 8] = array(message, 0)?;
    let version = fixed[0] >> 4;
    let (interval, auth_type) = if version == 2 {
        (Duration::from_secs(u64::from(fixed[5])), fixed[4])
    } else {
        let centiseconds = u64::from(u16::from_be_bytes([fixed[4] & 15, fixed[5]]));
        (Duration::from_millis(centiseconds * 10), fixed[4] >> 4)
    };
    let (size, count) = (if source.is_ipv4() { 4 } else { 16 }, usize::from(fixed[3]));
    let rest = &message[8..];
    let (list, auth) = rest.split_at((size * count).min(rest.len()));
    let checksum = if sums_up(message) {
        Checksum::Message
    } else if sums_up(&[pseudo, message].concat()) {
        Checksum::PseudoHeader
    } else {
        Checksum::Wrong
    };
    Some(Advert {
        macs,
        source,
        destination,
        ttl,
        tos,
        version,
        kind: fixed[0] & 15,
        vrid: fixed[1],
        priority: fixed[2],
        interval,
        auth_type,
        auth: auth.to_vec(),
        checksum,
        count: fixed[3],
        addresses: list.chunks_exact(size).filter_map(address).collect(),
        length: message.len(),
    })
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    let v4 = array::<4>(bytes, 0).filter(|_| bytes.len() == 4).map(IpAddr::from);
    v4.or_else(|| array::<16>(bytes, 0).map(IpAddr::from))
}

/// Whether bytes with their checksum sum up to nothing (RFC 1071).
fn sums_up(bytes: &[u8]) -> bool {
    let mut even = bytes.to_vec();
    even.resize(bytes.len().next_multiple_of(2), 0);
    checksum(&even) == 0
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn half(bytes: &[u8], at: usize) -> Option<u16> {
    array(bytes, at).map(u16::from_be_bytes)
}

/// VRRP's number among the IP protocols.
pub(crate) const PROTOCOL: u8 = 112;
const ICMPV6: u8 = 58;

#[cfg(test)]
mod tests {
    use super::*;

    /// Adverts that keepalived 2.2.7 has sent, without their IP headers.
    const V2: [u8; 20] = *b"\x21\x33\x96\x01\x01\x01\xda\xb6\x0a\x4d\x00\x641111\0\0\0\0";
    const V3: [u8; 12] = *b"\x31\x33\x96\x01\x00\x64\x42\xd9\x0a\x4d\x00\x64";

    fn framed(message: &[u8]) -> Vec<u8> {
        let length = u8::try_from(20 + message.len()).expect("short");
        let mut frame = [&[1, 0, 0x5e, 0, 0, 18][..], &[2, 0, 0, 0, 0, 10], &[8, 0]].concat();
        frame.extend([0x45, 0xc0, 0, length, 0, 1, 0, 0, 255, 112, 0, 0]);
        frame.extend([10, 77, 0, 1, 224, 0, 0, 18]);
        frame.extend(message);
        frame.resize(60.max(frame.len()), 0);
        frame
    }

    fn read(message: &[u8]) -> Advert {
        match Said::read(&framed(message)) {
            Some(Said::Advert(advert)) => advert,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn recorded_adverts_are_read() {
        let v2 = read(&V2);
        assert_eq!((v2.version, v2.vrid, v2.priority, v2.ttl, v2.tos), (2, 51, 150, 255, 0xc0));
        assert_eq!((v2.interval, v2.auth_type), (Duration::from_secs(1), 1));
        assert_eq!((v2.auth.as_slice(), v2.length), (&b"1111\0\0\0\0"[..], 20));
        assert_eq!(v2.checksum, Checksum::Message);
        let v3 = read(&V3);
        assert_eq!((v3.version, v3.count, v3.length), (3, 1, 12));
        assert_eq!(v3.checksum, Checksum::PseudoHeader);
        assert_eq!(v3.addresses, [IpAddr::from([10, 77, 0, 100])]);
    }

    #[test]
    fn a_wrong_byte_is_seen() {
        let mut message = V3;
        message[2] = 0;
        assert_eq!(read(&message).checksum, Checksum::Wrong);
        assert_eq!(read(&message).priority, 0);
    }

    #[test]
    fn no_frame_is_too_short() {
        let frame = framed(&V2);
        for length in 0..frame.len() {
            let _ = Said::read(&frame[..length]);
        }
    }
}
