//! What a frame is to a director, judged from its bytes: written for the fuzzer, apart from the
//! product's parser, and slow on purpose.

use std::collections::BTreeSet;

use lb_common::hash;

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
    /// The product's address filter, in which foreign addresses may share a nat server's bit.
    pub(crate) filter: Vec<u64>,
}

/// What is to become of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// Nothing of ours: to the stack, as it came.
    Foreign,
    /// A later fragment to a virtual address: never to the stack, unless its first one went there.
    Later,
    /// A fragment to a virtual address that hides the transport header: dropped.
    Short,
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
        if matches!(packet.part, Part::Later | Part::Short) {
            return self.class_of_rest(frame, &packet);
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

impl Served {
    /// Classifies a fragment without ports.
    fn class_of_rest(&self, frame: &[u8], packet: &Packet) -> Class {
        let from_server = self.is_in_filter(&packet.source);
        if !self.vips.contains(&packet.destination) {
            return if from_server { Class::Depends } else { Class::Foreign };
        }
        match packet.part {
            _ if frame[..6] != self.mac => Class::Depends,
            Part::Short => Class::Short,
            _ => Class::Later,
        }
    }

    /// Whether the filter lets an address through, as every nat server's.
    fn is_in_filter(&self, address: &[u8]) -> bool {
        let words: Vec<u32> = address
            .chunks_exact(4)
            .map(|word| u32::from_ne_bytes([word[0], word[1], word[2], word[3]]))
            .collect();
        let word = match words[..] {
            [a, b, c, d] => hash::filter_fold(&[a, b, c, d]),
            [a] => a,
            _ => return false,
        };
        let (word, bit) = hash::filter_place(word);
        self.filter.get(word as usize).is_some_and(|bits| bits & bit != 0)
    }
}

/// Which part of a packet a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Whole,
    First,
    Later,
    Short,
}

/// The part that a fragment's offset (in units of eight bytes) and flag say.
fn part(offset: u16, more: bool, protocol: u8) -> Part {
    match (offset, more) {
        (0, false) => Part::Whole,
        (0, true) => Part::First,
        // RFC 3128, for the 20 bytes of a TCP header.
        (1 | 2, _) if protocol == 6 => Part::Short,
        _ => Part::Later,
    }
}

struct Packet {
    source: Vec<u8>,
    destination: Vec<u8>,
    protocol: u8,
    ports: (u16, u16),
    /// An ICMP error.
    error: bool,
    part: Part,
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
    let part = part(offset, more, head[9]);
    if ![1, 6, 17].contains(&head[9]) {
        return None;
    }
    finish(packet, (head[9], length, total), part, &head[12..16], &head[16..20])
}

fn read6(packet: &[u8], base: usize) -> Option<Packet> {
    let head = packet.get(..40)?;
    if head[0] >> 4 != 6 {
        return None;
    }
    let total = 40 + usize::from(number(head, 4)?);
    let (mut kind, mut at) = (head[6], 40);
    let mut found = Part::Whole;
    let mut headers = 0;
    // What follows a later fragment's header is the middle of something.
    while [0, 43, 44, 51, 60].contains(&kind)
        && [Part::Whole, Part::First].contains(&found)
        && headers < 6
    {
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
            if found == Part::First {
                return None;
            }
            let word = number(header, 2)?;
            found = part(word >> 3, word & 1 != 0, header[0]);
            if found != Part::Whole {
                packet.get(at..at + 8)?;
            }
        }
        kind = header[0];
        at += length;
        headers += 1;
        // The program reads headers that begin within the first 512 bytes of a frame.
        if base + at > 511 {
            return None;
        }
    }
    finish(packet, (kind, at, total), found, &head[8..24], &head[24..40])
}

/// The transport header must be there and lie within what IP says is the packet.
fn finish(
    packet: &[u8],
    (protocol, at, total): (u8, usize, usize),
    part: Part,
    source: &[u8],
    destination: &[u8],
) -> Option<Packet> {
    let errors: &[u8] = match (protocol, source.len()) {
        (1, 4) => &[3, 11, 12],
        (58, 16) => &[1, 2, 3, 4],
        _ => &[],
    };
    let error = part == Part::Whole && packet.get(at).is_some_and(|kind| errors.contains(kind));
    let is_rest = matches!(part, Part::Later | Part::Short);
    let need = match protocol {
        1 | 58 if error => 8,
        6 => 20,
        17 => 8,
        // An extension header may come first in what was cut up.
        0 | 43 | 51 | 60 if is_rest => 0,
        _ => return None,
    };
    let (ports, part) = if is_rest {
        ((0, 0), part)
    } else if at + need > total {
        // A whole packet is broken then; a first fragment hides its header.
        ((0, 0), (part == Part::First).then_some(Part::Short)?)
    } else if at + need > packet.len() {
        return None;
    } else {
        ((number(packet, at)?, number(packet, at + 2)?), part)
    };
    let (source, destination) = (source.to_vec(), destination.to_vec());
    Some(Packet { source, destination, protocol, ports, error, part })
}
