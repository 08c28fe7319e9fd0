//! Probes by way of a service (`via: service`): what becomes of their packets and of the answers.
//!
//! A probe's socket is connected to its real server's own address, so that routing, neighbour and
//! source address are the kernel's business, and carries a mark that names a [`Way`]. On its way
//! out the packet gets the virtual address as destination, and with a tunnel an outer header to the
//! real server, so that it meets there what a client's packet meets. The real server answers from the
//! virtual address: on its way in the answer gets the real server's address as source, before a
//! host that has the virtual address itself could take it for a forgery. [`Probe`] is how the two
//! directions know of each other.
//!
//! [`read`] and [`read_error`] say what a frame is and where its parts lie; [`is_for`], [`outer4`] and
//! [`outer6`] decide. Changing the packet, checksums included, is the caller's: the kernel knows
//! which checksums are left to the network card.
//!
//! Must not know: maps, helpers, why a way is there.

use crate::encap::{header4, header6};
use crate::hash;
use crate::pod;
use crate::pod::mapped_words;
use crate::wire::{
    Be16, Buf, ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ICMP, ICMP_LEN, ICMP6, IPIP, IPV4_LEN,
    IPV6, IPV6_LEN, TCP, UDP,
};

/// Ways by their index: [`Way`].
pub const MAP_WAYS: &str = "via_ways";
/// Probes that are under way: [`Probe`] to the real server's address.
pub const MAP_PROBES: &str = "via_probes";
/// The program that packets leave by.
pub const PROGRAM_OUT: &str = "lb_via_out";
/// The program that answers come in by.
pub const PROGRAM_IN: &str = "lb_via_in";
/// Ways that there can be.
pub const MAX_WAYS: u32 = 8192;
/// Probes of which answers are known: those before are forgotten, the least used first.
pub const MAX_PROBES: u32 = 65536;

/// Marks of probe sockets (`SO_MARK`): this, and a way's index in the lower half. "LB" in ASCII.
pub const MARK: u32 = 0x4c42_0000;

/// The way that a mark names; `None` when it is not one of ours.
#[inline(always)]
pub const fn way_of(mark: u32) -> Option<u32> {
    if mark & 0xffff_0000 == MARK { Some(mark & 0xffff) } else { None }
}

/// An address as the words of [`crate::pod::Address`]: IPv4 addresses are mapped.
pub type Words = [u32; 4];

pod! {
    /// How probes of one real server by one virtual address go.
    pub struct Way {
        /// The virtual address; zero when there is no such way.
        pub vip: [u32; 4],
        /// The real server's own, of the same family.
        pub server: [u32; 4],
        /// 1 with a tunnel (IP in IP), 0 without one.
        pub tunnel: u32,
    }
}

pod! {
    /// What an answer is known by.
    pub struct Probe {
        /// The virtual address, which it comes from.
        pub vip: [u32; 4],
        /// The director's own, which it goes to.
        pub local: [u32; 4],
        /// The virtual port, as it lies in a packet.
        pub port: u16,
        /// The director's.
        pub local_port: u16,
        /// TCP or UDP.
        pub protocol: u32,
    }
}

/// A TCP or UDP packet that is no fragment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its source.
    pub source: Words,
    /// Its destination.
    pub destination: Words,
    /// Source and destination port, as they lie in the packet.
    pub ports: [u16; 2],
    /// TCP or UDP.
    pub protocol: u8,
    /// Whether it is IPv4.
    pub v4: bool,
    /// Traffic class with its ECN bits.
    pub class: u8,
    /// Offset of the IP header.
    pub l3: usize,
    /// Offset of the TCP or UDP header.
    pub l4: usize,
    /// Length from the IP header on, in bytes, as the header says.
    pub bytes: u16,
}

impl Seen {
    /// Where the source address lies.
    #[inline(always)]
    pub const fn source_at(&self) -> usize {
        self.l3 + if self.v4 { 12 } else { 8 }
    }

    /// Where the destination address lies.
    #[inline(always)]
    pub const fn destination_at(&self) -> usize {
        self.l3 + if self.v4 { 16 } else { 24 }
    }

    /// Where the checksum of the TCP or UDP header lies.
    #[inline(always)]
    pub const fn checksum_at(&self) -> usize {
        self.l4 + if self.protocol == UDP { 6 } else { 16 }
    }

    /// What the answer to this packet is known by, once `vip` is its destination.
    #[inline(always)]
    pub const fn asking(&self, vip: Words) -> Probe {
        Probe {
            vip,
            local: self.source,
            port: self.ports[1],
            local_port: self.ports[0],
            protocol: self.protocol as u32,
        }
    }

    /// What this packet is known by if it is an answer.
    #[inline(always)]
    pub const fn answering(&self) -> Probe {
        Probe {
            vip: self.source,
            local: self.destination,
            port: self.ports[0],
            local_port: self.ports[1],
            protocol: self.protocol as u32,
        }
    }
}

/// An ICMP error, and the packet that it quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    /// Who sent it.
    pub source: Words,
    /// Offset of its own IP header.
    pub l3: usize,
    /// Offset of its ICMP header.
    pub icmp: usize,
    /// The quoted packet.
    pub quoted: Seen,
}

/// Where the checksum of an IPv4 header lies in it.
pub const IPV4_CHECKSUM: usize = 10;
/// Where the checksum of an ICMP header lies in it.
pub const ICMP_CHECKSUM: usize = 2;

/// Reads a frame without tags in it. `None` for everything that is no whole TCP or UDP packet.
#[inline(always)]
pub fn read<B: Buf + ?Sized>(buf: &B) -> Option<Seen> {
    match buf.load::<Be16>(12)?.get() {
        ETHERTYPE_IPV4 => read4(buf, ETHERNET_LEN),
        ETHERTYPE_IPV6 => read6(buf, ETHERNET_LEN),
        _ => None,
    }
}

#[inline(always)]
fn read4<B: Buf + ?Sized>(buf: &B, l3: usize) -> Option<Seen> {
    let header: [u32; 5] = buf.load(l3)?;
    let [version, class, high, low] = header[0].to_ne_bytes();
    let [_, _, fragment, offset] = header[1].to_ne_bytes();
    let [_, protocol, _, _] = header[2].to_ne_bytes();
    let length = (version & 0xf) as usize * 4;
    // More to come, or not the first: a fragment. Don't Fragment is no matter.
    if version >> 4 != 4
        || length < IPV4_LEN
        || fragment & 0x3f | offset != 0
        || (protocol != TCP && protocol != UDP)
    {
        return None;
    }
    let l4 = l3 + length;
    Some(Seen {
        source: mapped_words(header[3]),
        destination: mapped_words(header[4]),
        ports: buf.load(l4)?,
        protocol,
        v4: true,
        class,
        l3,
        l4,
        bytes: u16::from_be_bytes([high, low]),
    })
}

#[inline(always)]
fn read6<B: Buf + ?Sized>(buf: &B, l3: usize) -> Option<Seen> {
    let header: [u32; 10] = buf.load(l3)?;
    let [first, second, _, _] = header[0].to_ne_bytes();
    let [high, low, protocol, _] = header[1].to_ne_bytes();
    if first >> 4 != 6 || (protocol != TCP && protocol != UDP) {
        return None;
    }
    let l4 = l3 + IPV6_LEN;
    Some(Seen {
        source: [header[2], header[3], header[4], header[5]],
        destination: [header[6], header[7], header[8], header[9]],
        ports: buf.load(l4)?,
        protocol,
        v4: false,
        class: first << 4 | second >> 4,
        l3,
        l4,
        bytes: u16::from_be_bytes([high, low]).saturating_add(IPV6_LEN as u16),
    })
}

/// Reads a frame without tags in it: an ICMP error that quotes a TCP or UDP packet.
#[inline(always)]
pub fn read_error<B: Buf + ?Sized>(buf: &B) -> Option<Error> {
    let l3 = ETHERNET_LEN;
    match buf.load::<Be16>(12)?.get() {
        ETHERTYPE_IPV4 => {
            let header: [u32; 5] = buf.load(l3)?;
            let [version, _, _, _] = header[0].to_ne_bytes();
            let [_, _, fragment, offset] = header[1].to_ne_bytes();
            let icmp = l3 + (version & 0xf) as usize * 4;
            if version >> 4 != 4
                || header[2].to_ne_bytes()[1] != ICMP
                || fragment & 0x3f | offset != 0
                || !matches!(buf.load::<u8>(icmp)?, 3 | 11 | 12)
            {
                return None;
            }
            let quoted = read4(buf, icmp + ICMP_LEN)?;
            Some(Error { source: mapped_words(header[3]), l3, icmp, quoted })
        }
        ETHERTYPE_IPV6 => {
            let header: [u32; 10] = buf.load(l3)?;
            let icmp = l3 + IPV6_LEN;
            if header[0].to_ne_bytes()[0] >> 4 != 6
                || header[1].to_ne_bytes()[2] != ICMP6
                || !matches!(buf.load::<u8>(icmp)?, 1..=4)
            {
                return None;
            }
            let source = [header[2], header[3], header[4], header[5]];
            Some(Error { source, l3, icmp, quoted: read6(buf, icmp + ICMP_LEN)? })
        }
        _ => None,
    }
}

/// Whether a marked packet may go this way: what it is sent to is the way's real server. A way
/// that was given to another server while the packet waited has another.
#[inline(always)]
pub const fn is_for(seen: &Seen, way: &Way) -> bool {
    same(&seen.destination, &way.server) && !same(&way.vip, &[0; 4])
}

/// Whether two addresses are equal.
#[inline(always)]
pub const fn same(a: &Words, b: &Words) -> bool {
    (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]) | (a[3] ^ b[3]) == 0
}

/// The outer header of a tunnel to `server` before an IPv4 packet.
#[inline(always)]
pub fn outer4(seen: &Seen, server: &Words) -> [u32; 5] {
    let length = seen.bytes.wrapping_add(IPV4_LEN as u16);
    header4(seen.class, length, IPIP, [seen.source[3], server[3]])
}

/// The outer header of a tunnel to `server` before an IPv6 packet.
#[inline(always)]
pub fn outer6(seen: &Seen, server: &Words) -> [u32; 10] {
    let ports = u64::from(seen.ports[0]) << 16 | u64::from(seen.ports[1]);
    // RFC 6438: equal for all packets of a flow, and not 0.
    let label = (hash::mix(ports) >> 44) as u32 | 1;
    header6((seen.class, label), seen.bytes, IPV6, &seen.source, server)
}

#[cfg(test)]
mod tests;
