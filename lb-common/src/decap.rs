//! Decapsulation on a real server: IP in IP (RFC 2003, 2473, 4213), all four pairs of families.
//!
//! [`find`] reads a frame and says what its outer headers are; the caller decides by the inner
//! destination, cuts [`Tunnelled::outer`] bytes off the frame's head and lets
//! [`Tunnelled::finish`] write the Ethernet header in front of the inner packet, with VLAN tags
//! kept and the congestion mark carried over (RFC 6040). The inner time to live is not touched.
//!
//! Must not know: maps, addresses that are ours, what becomes of the frame.

use crate::csum::{self, Delta};
use crate::pod::mapped_words;
use crate::wire::{
    Be16, Buf, ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ETHERTYPE_PROVIDER, ETHERTYPE_VLAN,
    FRAGMENT_MASK, IPIP, IPV4_LEN, IPV6, IPV6_LEN, Macs,
};

/// Virtual addresses whose tunnelled packets are unpacked: [`Key`] to 1.
pub const MAP_VIPS: &str = "decap_vips";
/// Per-CPU counts by [`Count`].
pub const MAP_COUNTS: &str = "decap_counts";
/// The program.
pub const PROGRAM: &str = "lb_decap";
/// Virtual addresses that a real server can have.
pub const MAX_VIPS: u32 = 1024;

/// An address as the words of [`crate::pod::Address`]: IPv4 addresses are mapped.
pub type Key = [u32; 4];

/// Index into the counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Count {
    /// Packets that were unpacked.
    Unpacked = 0,
    /// Packets dropped because they were marked on the way and their sender does not know marks
    /// (RFC 6040 4.2).
    Congested = 1,
    /// Packets that were left alone because the frame's head could not be moved.
    Stuck = 2,
}

impl Count {
    /// How many there are.
    pub const COUNT: u32 = 3;
}

/// A family of the inner packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    /// IPv4, protocol 4.
    V4,
    /// IPv6, protocol 41.
    V6,
}

/// A frame that holds an IP packet in an IP packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnelled {
    /// Destination of the inner packet.
    pub destination: Key,
    /// What the inner packet is.
    pub inner: Inner,
    /// Bytes of the outer headers.
    outer: u32,
    /// Bytes of the Ethernet header with its tags.
    link: u32,
    macs: Macs,
    /// EtherType and value of the VLAN tags as they lie in the frame; those not there are 0.
    tags: [u32; 2],
    /// The inner packet's congestion field afterwards, or `CONGESTED`.
    mark: u8,
    /// The inner packet's congestion field as it came.
    marked: u8,
}

impl Tunnelled {
    /// Bytes to cut off the frame's head.
    #[inline(always)]
    pub const fn outer(&self) -> u32 {
        self.outer
    }

    /// Whether it is to be dropped: congestion was met, and only a drop can tell the sender.
    #[inline(always)]
    pub const fn is_congested(&self) -> bool {
        self.mark == CONGESTED
    }

    /// Completes the frame whose first [`Self::outer`] bytes are gone. `None` when it is too short,
    /// which a frame that [`find`] read never is.
    #[inline(always)]
    #[must_use]
    pub fn finish<B: Buf + ?Sized>(&self, buf: &mut B) -> Option<()> {
        buf.store(0, self.macs)?;
        let ethertype = Be16::new(match self.inner {
            Inner::V4 => ETHERTYPE_IPV4,
            Inner::V6 => ETHERTYPE_IPV6,
        });
        match self.link as usize {
            ETHERNET_LEN => {
                buf.store(12, ethertype)?;
                self.remark(buf, ETHERNET_LEN)
            }
            ONE_TAG => {
                buf.store(12, self.tags[0])?;
                buf.store(16, ethertype)?;
                self.remark(buf, ONE_TAG)
            }
            _ => {
                buf.store(12, self.tags[0])?;
                buf.store(16, self.tags[1])?;
                buf.store(20, ethertype)?;
                self.remark(buf, TWO_TAGS)
            }
        }
    }

    /// Writes the congestion field of the inner packet at `l3`, if it changed.
    #[inline(always)]
    fn remark<B: Buf + ?Sized>(&self, buf: &mut B, l3: usize) -> Option<()> {
        if self.mark == self.marked {
            return Some(());
        }
        let old: u16 = buf.load(l3)?;
        let [first, second] = old.to_ne_bytes();
        match self.inner {
            Inner::V4 => {
                let new = u16::from_ne_bytes([first, second & !3 | self.mark]);
                let checksum: u16 = buf.load(l3 + 10)?;
                buf.store(l3, new)?;
                buf.store(l3 + 10, Delta::ZERO.word(old, new).apply(checksum))
            }
            Inner::V6 => buf.store(l3, [first, second & 0xcf | self.mark << 4]),
        }
    }
}

/// The congestion field of an unpacked packet (RFC 6040, figure 4), or `CONGESTED`.
#[inline(always)]
const fn congestion(outer: u8, inner: u8) -> u8 {
    match (outer & 3, inner & 3) {
        (CE, NOT_ECT) => CONGESTED,
        (CE, _) => CE,
        (ECT_1, ECT_0) => ECT_1,
        (_, inner) => inner,
    }
}

/// Reads a frame: `None` for everything that is not a whole IP packet in a whole IP packet.
/// What is odd (fragments, a wrong checksum, unknown extension headers) is left to the stack.
#[inline(always)]
pub fn find<B: Buf + ?Sized>(buf: &B) -> Option<Tunnelled> {
    let macs: Macs = buf.load(0)?;
    let first: u32 = buf.load(12)?;
    match ethertype(first) {
        ETHERTYPE_IPV4 => outer4(buf, ETHERNET_LEN, macs, [0, 0]),
        ETHERTYPE_IPV6 => outer6(buf, ETHERNET_LEN, macs, [0, 0]),
        ETHERTYPE_VLAN | ETHERTYPE_PROVIDER => {
            let second: u32 = buf.load(16)?;
            match ethertype(second) {
                ETHERTYPE_IPV4 => outer4(buf, ONE_TAG, macs, [first, 0]),
                ETHERTYPE_IPV6 => outer6(buf, ONE_TAG, macs, [first, 0]),
                ETHERTYPE_VLAN => match buf.load::<Be16>(20)?.get() {
                    ETHERTYPE_IPV4 => outer4(buf, TWO_TAGS, macs, [first, second]),
                    ETHERTYPE_IPV6 => outer6(buf, TWO_TAGS, macs, [first, second]),
                    _ => None,
                },
                _ => None,
            }
        }
        _ => None,
    }
}

/// The EtherType in the first half of four bytes as they lie in the frame.
#[inline(always)]
const fn ethertype(bytes: u32) -> u16 {
    let [high, low, _, _] = bytes.to_ne_bytes();
    u16::from_be_bytes([high, low])
}

/// An outer IPv4 header: not a fragment, checksum right, options allowed.
#[inline(always)]
fn outer4<B: Buf + ?Sized>(buf: &B, l3: usize, macs: Macs, tags: [u32; 2]) -> Option<Tunnelled> {
    let header: [u32; 5] = buf.load(l3)?;
    let [version, tos, length_high, length_low] = header[0].to_ne_bytes();
    let [_, _, fragment_high, fragment_low] = header[1].to_ne_bytes();
    let length = (version & 0xf) as usize * 4;
    let end = u16::from_be_bytes([length_high, length_low]) as usize;
    if version >> 4 != 4
        || length < IPV4_LEN
        || u16::from_be_bytes([fragment_high, fragment_low]) & FRAGMENT_MASK != 0
    {
        return None;
    }
    let inner = inner_of(header[2].to_ne_bytes()[1])?;
    let mut sum = 0u64;
    for word in header {
        sum += word as u64;
    }
    for word in 0..MAX_OPTION_WORDS {
        if word * 4 < length - IPV4_LEN {
            sum += buf.load::<u32>(l3 + IPV4_LEN + word * 4)? as u64;
        }
    }
    if csum::fold(sum) != 0xffff {
        return None;
    }
    read_inner(buf, (inner, tos, end), (l3, length), macs, tags)
}

/// An outer IPv6 header, alone or with the tunnel encapsulation limit that Linux adds.
#[inline(always)]
fn outer6<B: Buf + ?Sized>(buf: &B, l3: usize, macs: Macs, tags: [u32; 2]) -> Option<Tunnelled> {
    let header: [u32; 2] = buf.load(l3)?;
    let [version, class, _, _] = header[0].to_ne_bytes();
    let [length_high, length_low, next, _] = header[1].to_ne_bytes();
    if version >> 4 != 6 {
        return None;
    }
    let mark = class >> 4;
    let end = u16::from_be_bytes([length_high, length_low]) as usize + IPV6_LEN;
    if next != DESTINATION_OPTIONS {
        return read_inner(buf, (inner_of(next)?, mark, end), (l3, IPV6_LEN), macs, tags);
    }
    let options: [u8; 8] = buf.load(l3 + IPV6_LEN)?;
    // RFC 2473 4.1.1, padded to eight bytes behind it or before it.
    let inner = match options {
        [next, 0, LIMIT, 1, _, 1, 1, _] | [next, 0, LIMIT, 1, _, 0, 0, 0] => inner_of(next)?,
        [next, 0, 1, 1, _, LIMIT, 1, _] | [next, 0, 0, 0, 0, LIMIT, 1, _] => inner_of(next)?,
        _ => return None,
    };
    read_inner(buf, (inner, mark, end), (l3, IPV6_LEN + options.len()), macs, tags)
}

/// The family that a protocol number says.
#[inline(always)]
const fn inner_of(protocol: u8) -> Option<Inner> {
    match protocol {
        IPIP => Some(Inner::V4),
        IPV6 => Some(Inner::V6),
        _ => None,
    }
}

/// Reads the inner header behind `outer` bytes of outer headers; it must be whole before `end`.
#[inline(always)]
fn read_inner<B: Buf + ?Sized>(
    buf: &B,
    (inner, mark, end): (Inner, u8, usize),
    (l3, outer): (usize, usize),
    macs: Macs,
    tags: [u32; 2],
) -> Option<Tunnelled> {
    let at = l3 + outer;
    let (destination, marked) = match inner {
        Inner::V4 => {
            let header: [u32; 5] = buf.load(at)?;
            let [version, tos, _, _] = header[0].to_ne_bytes();
            if version >> 4 != 4 || version & 0xf < 5 || outer + IPV4_LEN > end {
                return None;
            }
            (mapped_words(header[4]), tos & 3)
        }
        Inner::V6 => {
            let header: [u32; 10] = buf.load(at)?;
            let [version, class, _, _] = header[0].to_ne_bytes();
            if version >> 4 != 6 || outer + IPV6_LEN > end {
                return None;
            }
            ([header[6], header[7], header[8], header[9]], class >> 4 & 3)
        }
    };
    Some(Tunnelled {
        destination,
        inner,
        outer: outer as u32,
        link: l3 as u32,
        macs,
        tags,
        mark: congestion(mark, marked),
        marked,
    })
}

/// In place of a congestion field: the packet is to be dropped.
const CONGESTED: u8 = 0xff;
/// RFC 3168: the four values of the congestion field.
const NOT_ECT: u8 = 0;
const ECT_1: u8 = 1;
const ECT_0: u8 = 2;
const CE: u8 = 3;

const ONE_TAG: usize = ETHERNET_LEN + 4;
const TWO_TAGS: usize = ETHERNET_LEN + 8;
const DESTINATION_OPTIONS: u8 = 60;
/// The option tunnel encapsulation limit.
const LIMIT: u8 = 4;
/// Options of an IPv4 header in units of four bytes.
const MAX_OPTION_WORDS: usize = 10;

#[cfg(test)]
mod tests;
