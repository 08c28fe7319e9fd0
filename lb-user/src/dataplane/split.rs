//! IPv4 packets in fragments, as a router makes them (RFC 791 section 3.2).
//!
//! [`split`] works on whole frames: every piece has the frame's own head, with its VLAN tags. The
//! packet may be a fragment itself.
//!
//! Must not know: why a packet does not fit, where it goes.

use lb_common::csum;
use lb_common::wire::{self, IPV4_LEN, Parsed};

/// Fragments of one packet; more would be for a path that no host uses, at our cost.
const MOST_PIECES: usize = 64;
/// A fragment's payload is a multiple of this, but for the last one's.
const UNIT: usize = 8;
/// More Fragments, in the 16 bits that also have the offset.
const MORE: u16 = 0x2000;
/// Don't Fragment.
const DONT: u16 = 0x4000;
/// The offset, in units.
const OFFSET: u16 = 0x1fff;
/// In an option's type: it goes into every fragment.
const COPIED: u8 = 0x80;
/// The option that ends the list.
const END: u8 = 0;
/// The option that fills.
const NOTHING: u8 = 1;

/// The fragments of this frame's packet, in order, each of at most `mtu` bytes from the IP header
/// on. `None` when it is not IPv4, may not be fragmented or is broken, or `mtu` is too small.
pub fn split(frame: &[u8], mtu: u32) -> Option<Vec<Vec<u8>>> {
    let Parsed::V4(packet) = wire::parse(frame) else {
        return None;
    };
    let (head, ip) = frame.split_at_checked(packet.l3())?;
    let length = usize::from(u16::from_be_bytes([*ip.get(2)?, *ip.get(3)?]));
    let (header, payload) = ip.get(..length)?.split_at_checked(usize::from(ip[0] & 0xf) * 4)?;
    // A new checksum would hide that the header had been changed on the way.
    if header.len() < IPV4_LEN || csum::full(header, 0) != 0 {
        return None;
    }
    let word = u16::from_be_bytes([header[6], header[7]]);
    let mtu = usize::try_from(mtu).ok()?;
    // The first piece's header is the longest.
    let room = mtu.checked_sub(header.len())? / UNIT * UNIT;
    if word & DONT != 0 || room == 0 || payload.len().div_ceil(room) > MOST_PIECES {
        return None;
    }
    let later = header_of_later(header)?;
    let mut pieces = Vec::new();
    for (n, bytes) in payload.chunks(room).enumerate() {
        let offset = usize::from(word & OFFSET) + n * room / UNIT;
        let offset = u16::try_from(offset).ok().filter(|offset| *offset <= OFFSET)?;
        let is_last = (n + 1) * room >= payload.len();
        let more = if is_last { word & MORE } else { MORE };
        let mut header = if n == 0 { header.to_vec() } else { later.clone() };
        let length = u16::try_from(header.len() + bytes.len()).ok()?;
        header[2..4].copy_from_slice(&length.to_be_bytes());
        let word = word & !(MORE | OFFSET) | more | offset;
        header[6..8].copy_from_slice(&word.to_be_bytes());
        header[10..12].fill(0);
        let sum = csum::full(&header, 0);
        header[10..12].copy_from_slice(&sum.to_ne_bytes());
        pieces.push([head, &header, bytes].concat());
    }
    Some(pieces)
}

/// The header of a fragment that is not the first, with the options that go into every one.
fn header_of_later(header: &[u8]) -> Option<Vec<u8>> {
    let (fixed, mut options) = header.split_at_checked(IPV4_LEN)?;
    let mut later = fixed.to_vec();
    while let Some(&kind) = options.first() {
        let length = match kind {
            END => break,
            NOTHING => 1,
            _ => usize::from(*options.get(1)?),
        };
        if kind != NOTHING && length < 2 {
            return None;
        }
        let (option, rest) = options.split_at_checked(length)?;
        if kind & COPIED != 0 {
            later.extend(option);
        }
        options = rest;
    }
    later.resize(later.len().next_multiple_of(4), END);
    later[0] = 0x40 | u8::try_from(later.len() / 4).ok()?;
    Some(later)
}

#[cfg(test)]
mod tests;
