//! Frames of our own making, to ask what would become of such a packet.
//!
//! Must not know: maps, programs, what the answer is.

use std::net::{IpAddr, SocketAddr};

use lb_common::conn::{ConnKey4, ConnKey6, flags};
use lb_common::csum;
use lb_common::wire::{TCP, UDP};

use super::bpf::Flow;

/// What a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Segment {
    /// The first packet of a TCP connection.
    Syn,
    /// One in the middle of it.
    Ack,
    /// A datagram.
    Udp,
}

impl Segment {
    /// IP protocol number.
    pub fn protocol(self) -> u8 {
        if self == Self::Udp { UDP } else { TCP }
    }

    /// Its name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::Syn => "TCP SYN",
            Self::Ack => "TCP ACK",
            Self::Udp => "UDP",
        }
    }
}

/// A sender that no network card has: locally administered.
const SENDER: [u8; 6] = [0x02, 0, 0, 0, 0, 1];
/// A datagram says something, so that its length is not that of a header.
const PAYLOAD: &[u8] = b"lb explain";

/// An untagged frame to an interface with this address; `None` when the ends are of two families.
pub fn frame(
    to: [u8; 6],
    (source, destination): (SocketAddr, SocketAddr),
    segment: Segment,
) -> Option<Vec<u8>> {
    let mut out = [to, SENDER].concat();
    let mut body = transport(source.port(), destination.port(), segment);
    let protocol = segment.protocol();
    let length = body.len() as u16;
    let addresses = match (source.ip(), destination.ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let addresses = [a.octets(), b.octets()].concat();
            out.extend([0x08, 0x00]);
            let mut head = vec![0x45, 0];
            head.extend((20 + length).to_be_bytes());
            // No identification, don't fragment, no offset.
            head.extend([0, 0, 0x40, 0, 64, protocol, 0, 0]);
            head.extend(&addresses);
            let sum = csum::full(&head, 0).to_ne_bytes();
            head[10..12].copy_from_slice(&sum);
            out.extend(head);
            addresses
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let addresses = [a.octets(), b.octets()].concat();
            out.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            out.extend(length.to_be_bytes());
            out.extend([protocol, 64]);
            out.extend(&addresses);
            addresses
        }
        _ => return None,
    };
    let [high, low] = length.to_be_bytes();
    let pseudo = [&addresses[..], &[0, protocol, high, low], &body].concat();
    let sum = match csum::full(&pseudo, 0) {
        0 => u16::MAX,
        sum => sum,
    };
    let at = if segment == Segment::Udp { 6 } else { 16 };
    body[at..at + 2].copy_from_slice(&sum.to_ne_bytes());
    out.extend(body);
    Some(out)
}

/// Header and payload, the checksum zero.
fn transport(source: u16, destination: u16, segment: Segment) -> Vec<u8> {
    let mut out = [source.to_be_bytes(), destination.to_be_bytes()].concat();
    match segment {
        Segment::Udp => {
            out.extend((8 + PAYLOAD.len() as u16).to_be_bytes());
            out.extend([0, 0]);
            out.extend(PAYLOAD);
        }
        Segment::Syn | Segment::Ack => {
            let is_syn = segment == Segment::Syn;
            let acknowledged: u32 = if is_syn { 0 } else { 1 };
            out.extend(1u32.to_be_bytes());
            out.extend(acknowledged.to_be_bytes());
            // A SYN has the option MSS 1460.
            out.extend(if is_syn { [6 << 4, flags::SYN] } else { [5 << 4, flags::ACK] });
            out.extend([0xff, 0xff, 0, 0, 0, 0]);
            if is_syn {
                out.extend([2, 4, 0x05, 0xb4]);
            }
        }
    }
    out
}

/// The key of such a packet; `None` when the ends are of two families.
pub fn flow(source: SocketAddr, destination: SocketAddr, protocol: u8) -> Option<Flow> {
    let (source_port, destination_port) = (source.port(), destination.port());
    let pad = [0; 3];
    Some(match (source.ip(), destination.ip()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => {
            let (source, destination) = (a.octets(), b.octets());
            Flow::V4(ConnKey4 { source, destination, source_port, destination_port, protocol, pad })
        }
        (IpAddr::V6(a), IpAddr::V6(b)) => {
            let (source, destination) = (a.octets(), b.octets());
            Flow::V6(ConnKey6 { source, destination, source_port, destination_port, protocol, pad })
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn made(source: &str, destination: &str, segment: Segment) -> Option<Vec<u8>> {
        let end = |text: &str| text.parse().expect("an address with a port");
        frame([2, 0, 0, 0, 0, 9], (end(source), end(destination)), segment)
    }

    #[test]
    fn frames_are_whole_and_their_checksums_right() {
        for segment in [Segment::Syn, Segment::Ack, Segment::Udp] {
            for (source, destination, head, ethertype) in [
                ("192.0.2.1:40000", "198.51.100.9:80", 20, [0x08, 0x00]),
                ("[2001:db8::1]:40000", "[2001:db8::9]:80", 40, [0x86, 0xdd]),
            ] {
                let frame = made(source, destination, segment).expect("a frame");
                assert_eq!(frame[..12], [2, 0, 0, 0, 0, 9, 2, 0, 0, 0, 0, 1]);
                assert_eq!(frame[12..14], ethertype);
                let body = &frame[14 + head..];
                let addresses = &frame[14 + head - if head == 20 { 8 } else { 32 }..14 + head];
                let length = body.len() as u8;
                let pseudo = [addresses, &[0, segment.protocol(), 0, length], body].concat();
                // Over what contains its own checksum, the sum is all ones: nothing is left.
                assert_eq!(csum::full(&pseudo, 0), 0, "{segment:?} {source}");
                if head == 20 {
                    assert_eq!(csum::full(&frame[14..34], 0), 0);
                    assert_eq!(usize::from(frame[17]), frame.len() - 14);
                    assert_eq!(frame[23], segment.protocol());
                }
                assert_eq!(body[..4], [0x9c, 0x40, 0, 80]);
                match segment {
                    Segment::Udp => assert_eq!(body[4..6], [0, length]),
                    Segment::Syn => assert_eq!((body[12] >> 2, body[13]), (length, 2)),
                    Segment::Ack => assert_eq!((body[12] >> 2, body[13]), (length, 0x10)),
                }
            }
        }
        assert_eq!(made("192.0.2.1:1", "[2001:db8::9]:80", Segment::Syn), None);
    }
}
