//! What a frame is to a director, judged from its bytes: written for the fuzzer, apart from the
//! product's parser, and slow on purpose.

use std::collections::BTreeSet;

use crate::frames::Mac;

/// An address (4 or 16 bytes), a port, a protocol.
pub(crate) type Place = (Vec<u8>, u16, u8);

/// What a director serves.
#[derive(Clone, Debug, Default)]
pub(crate) struct Served {
    /// Where services listen.
    pub(crate) services: BTreeSet<Place>,
    /// Where nat replies come from.
    pub(crate) nat_servers: BTreeSet<Place>,
    /// Virtual addresses.
    pub(crate) vips: BTreeSet<Vec<u8>>,
    /// The address of the interface that frames come by.
    pub(crate) mac: Mac,
}

/// What is to become of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Nothing of ours: to the stack, as it came.
    Foreign,
    /// A fragment to a virtual address: dropped.
    Fragment,
    /// For a service, in a frame for us: never to the stack.
    Ours,
    /// A reply, an ICMP error, or a frame for another station: it depends on what is known.
    Depends,
}

impl Served {
    /// Classifies a frame.
    pub(crate) fn class(&self, frame: &[u8]) -> Class {
        let Some(packet) = read(frame) else {
            return Class::Foreign;
        };
        if packet.fragment {
            let ours = self.vips.contains(&packet.destination);
            return if ours { Class::Fragment } else { Class::Foreign };
        }
        if packet.error {
            return Class::Depends;
        }
        let (from, to) = packet.ports;
        if self.services.contains(&(packet.destination, to, packet.protocol)) {
            return if frame[..6] == self.mac { Class::Ours } else { Class::Depends };
        }
        if self.nat_servers.contains(&(packet.source, from, packet.protocol)) {
            return Class::Depends;
        }
        Class::Foreign
    }
}

struct Packet {
    source: Vec<u8>,
    destination: Vec<u8>,
    protocol: u8,
    ports: (u16, u16),
    fragment: bool,
    /// An ICMP error.
    error: bool,
}

/// A number in network order.
fn number(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_be_bytes([*bytes.get(at)?, *bytes.get(at + 1)?]))
}

/// Reads TCP or UDP over IP, under at most two tags of which only the outer may be a provider's.
fn read(frame: &[u8]) -> Option<Packet> {
    let mut at = 12;
    let mut kind = number(frame, at)?;
    if kind == 0x88a8 || kind == 0x8100 {
        at += 4;
        kind = number(frame, at)?;
        if kind == 0x8100 {
            at += 4;
            kind = number(frame, at)?;
        }
    }
    let packet = frame.get(at + 2..)?;
    let base = at + 2;
    match kind {
        0x0800 => read4(packet, base),
        0x86dd => read6(packet, base),
        _ => None,
    }
}

fn read4(packet: &[u8], _base: usize) -> Option<Packet> {
    let head = packet.get(..20)?;
    let length = usize::from(head[0] & 15) * 4;
    if head[0] >> 4 != 4 || length < 20 {
        return None;
    }
    let (more, offset) = (head[6] & 0x20 != 0, number(head, 6)? & 0x1fff);
    let total = usize::from(number(head, 2)?);
    finish(packet, (head[9], length, total), more || offset != 0, &head[12..16], &head[16..20])
}

fn read6(packet: &[u8], base: usize) -> Option<Packet> {
    let head = packet.get(..40)?;
    if head[0] >> 4 != 6 {
        return None;
    }
    let total = 40 + usize::from(number(head, 4)?);
    let (mut kind, mut at) = (head[6], 40);
    let mut fragment = false;
    let mut headers = 0;
    // What follows a real fragment header is not whole, so nothing behind it is read.
    while [0, 43, 44, 51, 60].contains(&kind) && !fragment && headers < 6 {
        let header = packet.get(at..at + 4)?;
        let length = match kind {
            44 => 8,
            // A length of 255 units is beyond reach anyway.
            51 => (usize::from(header[1]) + 2).min(256) * 4,
            _ => (usize::from(header[1]) + 1) * 8,
        };
        if kind == 43 && header[3] != 0 {
            return None;
        }
        if kind == 44 {
            let word = number(header, 2)?;
            fragment = word >> 3 != 0 || word & 1 != 0;
        }
        kind = header[0];
        at += length;
        headers += 1;
        // The program reads headers that begin within the first 512 bytes of a frame.
        if base + at > 511 {
            return None;
        }
    }
    finish(packet, (kind, at, total), fragment, &head[8..24], &head[24..40])
}

/// The transport header must be there and lie within what IP says is the packet.
fn finish(
    packet: &[u8],
    (protocol, at, total): (u8, usize, usize),
    fragment: bool,
    source: &[u8],
    destination: &[u8],
) -> Option<Packet> {
    let errors: &[u8] = match (protocol, source.len()) {
        (1, 4) => &[3, 11, 12],
        (58, 16) => &[1, 2, 3, 4],
        _ => &[],
    };
    let error = !fragment && packet.get(at).is_some_and(|kind| errors.contains(kind));
    let need = match protocol {
        1 | 58 if error => 8,
        6 => 20,
        17 => 8,
        _ => return None,
    };
    let ports = if fragment {
        (0, 0)
    } else {
        if at + need > total || at + need > packet.len() {
            return None;
        }
        (number(packet, at)?, number(packet, at + 2)?)
    };
    let (source, destination) = (source.to_vec(), destination.to_vec());
    Some(Packet { source, destination, protocol, ports, fragment, error })
}
