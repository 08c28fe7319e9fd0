//! Tunnels: the IP header that is put before a packet, and what must fit beside it.
//!
//! All four combinations of families (RFC 2003, RFC 2473, RFC 4213). The outer header has the inner
//! one's traffic class with its ECN bits (RFC 6040), a time to live of its own, and no
//! fragmentation: what does not fit is told to its sender.
//!
//! Must not know: how a frame gets room in front, who the real server is.

use crate::csum::{self, Delta};
use crate::key::{ConnKey, ConnKey4, ConnKey6};
use crate::wire::{Be16, Buf, IPIP, IPV4_LEN, IPV6, IPV6_LEN};
use crate::{hash, pod};

/// Time to live and hop limit of packets that the director makes, as Linux's default.
pub const TTL: u8 = 64;
/// Smallest MTU that an IPv6 link may have (RFC 8200 section 5).
pub const MIN_MTU6: u32 = 1280;

/// The two ends of a tunnel, as four words each, an IPv4 address in the last one.
pub struct Tunnel {
    /// The director's end.
    pub source: [u32; 4],
    /// The real server's.
    pub destination: [u32; 4],
}

impl Tunnel {
    /// Whether its outer header is IPv4: an address that is IPv4-mapped.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        pod::is_mapped(&self.destination)
    }

    /// Length of its outer header.
    #[inline(always)]
    pub const fn overhead(&self) -> usize {
        overhead(&self.destination)
    }

    /// Whether the director's end is known.
    #[inline(always)]
    pub const fn is_known(&self) -> bool {
        let [a, b, c, d] = self.source;
        a | b | c | d != 0
    }
}

/// Length of the outer header towards an address in words.
#[inline(always)]
pub const fn overhead(server: &[u32; 4]) -> usize {
    if pod::is_mapped(server) { IPV4_LEN } else { IPV6_LEN }
}

/// A family whose packets can be wrapped.
pub trait Inner: ConnKey {
    /// What the outer header names it by.
    const PAYLOAD: u8;
    /// Length of its IP and TCP headers without options: what an MSS does not count (RFC 6691).
    const TCP_HEADERS: u16;

    /// Traffic class with its ECN bits, of the packet at `l3`.
    fn class<B: Buf + ?Sized>(buf: &B, l3: usize) -> Option<u8>;

    /// 20 bits that are equal for all packets of a flow and never 0 (RFC 6438).
    fn flow_label(&self) -> u32;
}

impl Inner for ConnKey4 {
    const PAYLOAD: u8 = IPIP;
    const TCP_HEADERS: u16 = 40;

    #[inline(always)]
    fn class<B: Buf + ?Sized>(buf: &B, l3: usize) -> Option<u8> {
        buf.load(l3 + 1)
    }

    #[inline(always)]
    fn flow_label(&self) -> u32 {
        let [a, b] = *pod::head::<Self, [u64; 2]>(self);
        label(hash::mix(a ^ b.rotate_left(32)))
    }
}

impl Inner for ConnKey6 {
    const PAYLOAD: u8 = IPV6;
    const TCP_HEADERS: u16 = 60;

    #[inline(always)]
    fn class<B: Buf + ?Sized>(buf: &B, l3: usize) -> Option<u8> {
        let [first, second]: [u8; 2] = buf.load(l3)?;
        Some(first << 4 | second >> 4)
    }

    #[inline(always)]
    fn flow_label(&self) -> u32 {
        let [a, b, c, d, e] = *pod::head::<Self, [u64; 5]>(self);
        let source = hash::mix(a ^ b.rotate_left(32));
        label(hash::mix(source ^ c ^ d.rotate_left(32) ^ e.rotate_left(16)))
    }
}

#[inline(always)]
const fn label(hash: u64) -> u32 {
    let label = (hash >> 44) as u32;
    if label == 0 { 1 } else { label }
}

/// Writes the outer header of `tunnel` at `at`, before an inner packet of `bytes` bytes.
#[inline(always)]
pub fn wrap<K: Inner, B: Buf + ?Sized>(
    buf: &mut B,
    at: usize,
    tunnel: &Tunnel,
    (key, bytes, class): (&K, u32, u8),
) -> Option<()> {
    if tunnel.is_v4() {
        let length = (bytes as u16).wrapping_add(IPV4_LEN as u16);
        let ends = [tunnel.source[3], tunnel.destination[3]];
        return buf.store(at, header4(class, length, K::PAYLOAD, ends));
    }
    let (source, destination) = (&tunnel.source, &tunnel.destination);
    let start = (class, key.flow_label());
    buf.store(at, header6(start, bytes as u16, K::PAYLOAD, source, destination))
}

/// An IPv4 header without options, in memory order: never fragmented (RFC 6864: so its id is 0).
#[inline(always)]
pub fn header4(class: u8, length: u16, protocol: u8, [source, destination]: [u32; 2]) -> [u32; 5] {
    let [high, low] = length.to_be_bytes();
    let first = u32::from_ne_bytes([0x45, class, high, low]);
    let second = u32::from_ne_bytes([0, 0, 0x40, 0]);
    let third = u32::from_ne_bytes([TTL, protocol, 0, 0]);
    let sum = u64::from(first) + u64::from(second) + u64::from(third);
    let sum = sum + u64::from(source) + u64::from(destination);
    let [a, b] = (!csum::fold(sum)).to_ne_bytes();
    [first, second, third | u32::from_ne_bytes([0, 0, a, b]), source, destination]
}

/// An IPv6 header, in memory order. `start` is the traffic class and the flow label.
#[inline(always)]
pub fn header6(
    (class, label): (u8, u32),
    length: u16,
    next: u8,
    source: &[u32; 4],
    destination: &[u32; 4],
) -> [u32; 10] {
    let first = 0x6000_0000 | (class as u32) << 20 | label;
    let [high, low] = length.to_be_bytes();
    let second = u32::from_ne_bytes([high, low, next, TTL]);
    let ([a, b, c, d], [e, f, g, h]) = (*source, *destination);
    [first.to_be(), second, a, b, c, d, e, f, g, h]
}

/// Options that are read before giving up on finding the MSS, which comes first in practice.
const MAX_OPTIONS: usize = 10;
/// Length of a TCP header without options.
const TCP_LEN: usize = 20;
/// Kind and length of the MSS option (RFC 9293 3.2).
const MSS_OPTION: [u8; 2] = [2, 4];

/// Lowers the MSS that the SYN at `l4` offers to `most`. True when it was higher. A SYN without the
/// option, or with options that contradict themselves, stays as it is.
#[inline(always)]
pub fn clamp_mss<B: Buf + ?Sized>(buf: &mut B, l4: usize, most: u16) -> bool {
    clamp(buf, l4, most).is_some()
}

#[inline(always)]
fn clamp<B: Buf + ?Sized>(buf: &mut B, l4: usize, most: u16) -> Option<()> {
    let words: u8 = buf.load(l4 + 12)?;
    let length = (words >> 4) as usize * 4;
    let mut at = TCP_LEN;
    for _ in 0..MAX_OPTIONS {
        if at + 4 > length {
            return None;
        }
        let option: [u8; 2] = buf.load(l4 + at)?;
        if option == MSS_OPTION {
            return lower(buf, l4, at, most);
        }
        at += match option {
            [0, _] => return None,
            [1, _] => 1,
            [_, 0 | 1] => return None,
            [_, length] => length as usize,
        };
    }
    None
}

/// Writes the MSS in the option at `l4 + at`, and a checksum that knows of it.
#[inline(always)]
fn lower<B: Buf + ?Sized>(buf: &mut B, l4: usize, at: usize, most: u16) -> Option<()> {
    let old: Be16 = buf.load(l4 + at + 2)?;
    if old.get() <= most {
        return None;
    }
    let new = Be16::new(most);
    // RFC 1071 section 2 (B): at an odd offset the bytes count the other way round.
    let odd = at & 1 != 0;
    let word = |n: Be16| if odd { n.0.swap_bytes() } else { n.0 };
    let checksum: u16 = buf.load(l4 + 16)?;
    buf.store(l4 + 16, Delta::ZERO.word(word(old), word(new)).apply(checksum))?;
    buf.store(l4 + at + 2, new)
}

#[cfg(test)]
mod tests;
