//! Frames: from bytes to a connection key and the offsets where its headers are.
//!
//! [`fast4`] and [`fast6`] read the frames that make up nearly all traffic (no VLAN tag, no
//! options, no extension header, no fragment) with constant offsets; [`parse`] reads everything.
//! The same code runs on XDP frames and on slices.
//!
//! A fragment is never misread: only a first one has ports, and only if it holds its whole transport
//! header ([`Part`]).
//!
//! Must not know: XDP contexts, services.

use crate::key::{ConnKey, ConnKey4, ConnKey6};
use crate::pod;
use crate::pod::Pod;

/// Bytes that can be read and written at checked offsets.
pub trait Buf {
    /// The value at `offset`; `None` when it would reach beyond the end.
    fn load<T: Pod>(&self, offset: usize) -> Option<T>;

    /// Writes `value` at `offset`; `None` when it would reach beyond the end.
    fn store<T: Pod>(&mut self, offset: usize, value: T) -> Option<()>;
}

/// A 16-bit number in network byte order, as it lies in a header.
#[repr(transparent)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Be16(pub u16);

// SAFETY: transparent over u16.
#[allow(unsafe_code)]
unsafe impl Pod for Be16 {}

impl Be16 {
    /// Its value in host order.
    #[inline(always)]
    pub const fn get(self) -> u16 {
        u16::from_be(self.0)
    }

    /// From a value in host order.
    #[inline(always)]
    pub const fn new(value: u16) -> Self {
        Self(value.to_be())
    }
}

/// RFC 791. Addresses are kept as they lie in memory.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Ipv4Header {
    pub(crate) version_ihl: u8,
    tos: u8,
    total_length: Be16,
    id: Be16,
    pub(crate) fragment: Be16,
    ttl: u8,
    pub(crate) protocol: u8,
    checksum: u16,
    pub(crate) source: u32,
    pub(crate) destination: u32,
}

// SAFETY: repr(C), integers only, 20 bytes without padding (checked below).
#[allow(unsafe_code)]
unsafe impl Pod for Ipv4Header {}
const _: () = assert!(size_of::<Ipv4Header>() == IPV4_LEN);

/// RFC 8200.
#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub struct Ipv6Header {
    version_class_flow: u32,
    payload_length: Be16,
    pub(crate) next_header: u8,
    hop_limit: u8,
    pub(crate) source: [u32; 4],
    pub(crate) destination: [u32; 4],
}

// SAFETY: repr(C), integers only, 40 bytes without padding (checked below).
#[allow(unsafe_code)]
unsafe impl Pod for Ipv6Header {}
const _: () = assert!(size_of::<Ipv6Header>() == IPV6_LEN);

pod! {
    /// How a frame is sent: the addresses in frame order, the interface, the VLAN tags.
    pub struct Link {
        /// Destination: the neighbour.
        pub peer_mac: [u8; 6],
        /// Source: our own interface.
        pub our_mac: [u8; 6],
        /// Interface index.
        pub ifindex: u32,
        /// VLAN tags (priority, DEI and VLAN id), outer first, host order; unused ones are 0.
        pub tags: [u16; 2],
        /// Number of tags, plus [`TAGS_PROVIDER`] when the outer one is 802.1ad.
        pub tag_count: u8,
        /// Zero, but in a connection that is over: see `ConnEntry::set_told`.
        pub pad: [u8; 3],
    }
}

/// In a tag count: the outer tag's type is 802.1ad (0x88a8), not 802.1Q (0x8100).
pub const TAGS_PROVIDER: u8 = 0x80;

/// Destination and source of a frame, as the three words that its first 12 bytes are.
pub type Macs = [u32; 3];

/// The addresses of the answer to a frame: destination and source exchanged.
#[inline(always)]
pub const fn swapped(m: Macs) -> Macs {
    // Bytes d0 d1 d2 d3 | d4 d5 s0 s1 | s2 s3 s4 s5 in little-endian words.
    let [a, b, c] = [m[0].to_le(), m[1].to_le(), m[2].to_le()];
    [
        u32::from_le(b >> 16 | c << 16),
        u32::from_le(c >> 16 | a << 16),
        u32::from_le(a >> 16 | b << 16),
    ]
}

/// These addresses with another destination, given as two words of which the second has nothing but
/// its last two bytes.
#[inline(always)]
pub const fn sent_to([_, second, third]: Macs, [head, tail]: [u32; 2]) -> Macs {
    [head, second & u32::from_ne_bytes([0, 0, 0xff, 0xff]) | tail, third]
}

impl Link {
    /// The first 12 bytes of a frame that is sent over this link.
    #[inline(always)]
    pub fn macs(&self) -> Macs {
        *pod::head::<Link, Macs>(self)
    }

    /// Whether a frame with these addresses and tags, received on `ifindex`, came over this link.
    #[inline(always)]
    pub fn is_source_of(&self, received: Macs, ifindex: u32, tags: &Tags) -> bool {
        let ours = self.macs();
        let theirs = swapped(received);
        (ours[0] ^ theirs[0]) | (ours[1] ^ theirs[1]) | (ours[2] ^ theirs[2]) == 0
            && self.ifindex == ifindex
            && self.tag_count == tags.count
            && self.tags == tags.tci
    }

    /// The link that answers to a frame with these addresses and tags, received on `ifindex`.
    #[inline(always)]
    pub fn answering(received: Macs, ifindex: u32, tags: &Tags) -> Self {
        let mut link = Self::zeroed();
        *pod::head_mut::<Link, Macs>(&mut link) = swapped(received);
        link.ifindex = ifindex;
        link.tags = tags.tci;
        link.tag_count = tags.count;
        link
    }
}

/// VLAN tags of a received frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tags {
    /// Tag control information, outer first, host order.
    pub tci: [u16; 2],
    /// As [`Link::tag_count`].
    pub count: u8,
}

impl Tags {
    /// An untagged frame.
    pub const NONE: Self = Self { tci: [0, 0], count: 0 };

    /// Bytes that the tags take in the frame.
    #[inline(always)]
    pub const fn len(count: u8) -> usize {
        (count & 3) as usize * 4
    }
}

/// A TCP or UDP packet of which every header was read, or an ICMP error, which has no ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Packet<K> {
    /// Addresses, ports and protocol.
    pub key: K,
    /// Offset of the IP header. Read it by [`Packet::l3`].
    pub l3_offset: u32,
    /// Offset of the TCP, UDP or ICMP header. Read it by [`Packet::l4`].
    pub l4_offset: u32,
    /// Length from the IP header on, in bytes.
    pub bytes: u32,
    /// IP's identification, which the fragments of a packet share; 0 when the packet is whole.
    pub identification: u32,
    /// TCP flags; 0 for UDP.
    pub tcp_flags: u8,
    /// Which part of a packet this is. Ports and flags are 0 in what is neither whole nor first.
    pub part: Part,
    /// Sent in again by user space, which wants to know where the packet goes.
    pub rerun: bool,
    /// VLAN tags.
    pub tags: Tags,
}

/// Which part of an IP packet a frame holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Part {
    /// All of it. An IPv6 fragment that is the only one is whole (RFC 6946).
    Whole = 0,
    /// The first fragment, with its whole transport header.
    First = 1,
    /// A later fragment. Its protocol is that of IPv4, or what the IPv6 fragment header names, which
    /// may be another extension header.
    Later = 2,
    /// A fragment that would let the transport header be assembled from pieces: a first one that
    /// ends in it, or a later one that reaches into it (RFC 1858, RFC 3128).
    Short = 3,
}

impl<K: ConnKey> Packet<K> {
    /// A packet of which nothing is known.
    #[inline(always)]
    pub const fn empty() -> Self {
        Self {
            key: K::ZERO,
            l3_offset: 0,
            l4_offset: 0,
            bytes: 0,
            identification: 0,
            tcp_flags: 0,
            part: Part::Whole,
            rerun: false,
            tags: Tags::NONE,
        }
    }

    /// Offset of the IP header, visibly within an Ethernet header with its tags.
    #[inline(always)]
    pub const fn l3(&self) -> usize {
        (self.l3_offset & 0x1f) as usize
    }

    /// Offset of the TCP or UDP header, visibly within reach: see [`MAX_L4_OFFSET`].
    #[inline(always)]
    pub const fn l4(&self) -> usize {
        (self.l4_offset & MAX_L4_OFFSET) as usize
    }
}

/// Headers beyond this offset are left to the stack; a mask, so that the verifier sees the bound.
pub const MAX_L4_OFFSET: u32 = 0x1ff;

/// What a frame is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed {
    /// TCP or UDP over IPv4.
    V4(Packet<ConnKey4>),
    /// TCP or UDP over IPv6.
    V6(Packet<ConnKey6>),
    /// An ICMP message about another packet.
    Icmp4(Packet<ConnKey4>),
    /// The same in IPv6.
    Icmp6(Packet<ConnKey6>),
    /// Anything else, broken packets included: it is not for us to judge.
    Other,
}

/// Length of an untagged Ethernet header.
pub const ETHERNET_LEN: usize = 14;
/// Length of an IPv4 header without options.
pub const IPV4_LEN: usize = 20;
/// Offset of both addresses in an IPv4 header.
const ADDRESSES4: usize = 12;
/// Length of the IPv6 header.
pub const IPV6_LEN: usize = 40;
/// IP protocol number of TCP.
pub const TCP: u8 = 6;
/// IP protocol number of UDP.
pub const UDP: u8 = 17;
/// IP protocol number of ICMP.
pub const ICMP: u8 = 1;
/// IP protocol number of IPv4 in IP (RFC 2003).
pub const IPIP: u8 = 4;
/// IP protocol number of IPv6 in IP (RFC 4213, RFC 2473).
pub const IPV6: u8 = 41;
/// IP protocol number of ICMPv6.
pub const ICMP6: u8 = 58;
/// Length of an ICMP header, in both versions.
pub const ICMP_LEN: usize = 8;

/// EtherType of IPv4.
pub const ETHERTYPE_IPV4: u16 = 0x0800;
/// EtherType of IPv6.
pub const ETHERTYPE_IPV6: u16 = 0x86dd;
pub(crate) const ETHERTYPE_VLAN: u16 = 0x8100;
pub(crate) const ETHERTYPE_PROVIDER: u16 = 0x88a8;
const TCP_LEN: usize = 20;
const UDP_LEN: usize = 8;
/// RFC 791: the flag More Fragments and the 13 bits of the offset.
pub(crate) const FRAGMENT_MASK: u16 = 0x3fff;
/// RFC 791: the offset alone, in units of eight bytes.
pub(crate) const OFFSET_MASK: u16 = 0x1fff;
/// Extension headers that are read before giving up.
const MAX_EXTENSIONS: usize = 6;
/// Number of the IPv6 fragment header (RFC 8200 4.5).
const FRAGMENT_HEADER: u8 = 44;

/// An untagged IPv4 TCP or UDP packet without options and not fragmented; else `None`.
#[inline(always)]
pub fn fast4<B: Buf + ?Sized>(buf: &B) -> Option<Packet<ConnKey4>> {
    if buf.load::<Be16>(12)?.get() != ETHERTYPE_IPV4 {
        return None;
    }
    let ip: Ipv4Header = buf.load(ETHERNET_LEN)?;
    if ip.version_ihl != 0x45 || ip.fragment.0 & FRAGMENT_MASK.to_be() != 0 {
        return None;
    }
    finish4(buf, &ip, Piece::WHOLE, (ETHERNET_LEN, ETHERNET_LEN + IPV4_LEN), Tags::NONE)
}

/// An untagged IPv6 TCP or UDP packet without extension headers; else `None`.
#[inline(always)]
pub fn fast6<B: Buf + ?Sized>(buf: &B) -> Option<Packet<ConnKey6>> {
    if buf.load::<Be16>(12)?.get() != ETHERTYPE_IPV6 {
        return None;
    }
    let ip: Ipv6Header = buf.load(ETHERNET_LEN)?;
    if !ip.is_version_6() {
        return None;
    }
    let l4 = ETHERNET_LEN + IPV6_LEN;
    finish6(buf, &ip, (ip.next_header, Piece::WHOLE), (ETHERNET_LEN, l4), Tags::NONE)
}

/// What this frame is, with up to two VLAN tags, IPv4 options and IPv6 extension headers.
#[inline(always)]
pub fn parse<B: Buf + ?Sized>(buf: &B) -> Parsed {
    read_ethernet(buf)
        .and_then(|(ethertype, l3, tags)| match ethertype {
            ETHERTYPE_IPV4 => parse4(buf, l3, tags),
            ETHERTYPE_IPV6 => parse6(buf, l3, tags),
            _ => None,
        })
        .unwrap_or(Parsed::Other)
}

/// EtherType, offset of what follows, and the tags in between.
#[inline(always)]
fn read_ethernet<B: Buf + ?Sized>(buf: &B) -> Option<(u16, usize, Tags)> {
    let outer = buf.load::<Be16>(12)?.get();
    if outer != ETHERTYPE_VLAN && outer != ETHERTYPE_PROVIDER {
        return Some((outer, ETHERNET_LEN, Tags::NONE));
    }
    let provider = if outer == ETHERTYPE_PROVIDER { TAGS_PROVIDER } else { 0 };
    let tci = buf.load::<Be16>(14)?.get();
    let inner = buf.load::<Be16>(16)?.get();
    if inner != ETHERTYPE_VLAN {
        return Some((inner, 18, Tags { tci: [tci, 0], count: 1 | provider }));
    }
    let inner_tci = buf.load::<Be16>(18)?.get();
    let ethertype = buf.load::<Be16>(20)?.get();
    Some((ethertype, 22, Tags { tci: [tci, inner_tci], count: 2 | provider }))
}

#[inline(always)]
fn parse4<B: Buf + ?Sized>(buf: &B, l3: usize, tags: Tags) -> Option<Parsed> {
    let ip: Ipv4Header = buf.load(l3)?;
    let header = (ip.version_ihl & 0xf) as usize * 4;
    if ip.version_ihl >> 4 != 4 || header < IPV4_LEN {
        return None;
    }
    let word = ip.fragment.get() & FRAGMENT_MASK;
    if ip.protocol == ICMP {
        let l4 = l3 + header;
        let is_error = word == 0 && is_icmp_error(buf.load(l4)?);
        let bytes = ip.total_length.get() as usize;
        let key = ConnKey4::new(ip.source, ip.destination, [0, 0], ICMP);
        return message(key, is_error, (l3, l4, bytes), tags).map(Parsed::Icmp4);
    }
    if ip.protocol != TCP && ip.protocol != UDP {
        return None;
    }
    let piece = if word == 0 {
        Piece::WHOLE
    } else {
        Piece::of(word & OFFSET_MASK, u32::from(ip.id.get()), ip.protocol)
    };
    finish4(buf, &ip, piece, (l3, l3 + header), tags).map(Parsed::V4)
}

/// What IP says of fragmentation.
#[derive(Clone, Copy)]
struct Piece {
    part: Part,
    identification: u32,
}

impl Piece {
    const WHOLE: Self = Self { part: Part::Whole, identification: 0 };

    /// A fragment at this offset in units of eight bytes; `protocol` is what begins the packet.
    #[inline(always)]
    fn of(offset: u16, identification: u32, protocol: u8) -> Self {
        let part = match offset {
            0 => Part::First,
            _ if protocol == TCP && (offset as usize) * 8 < TCP_LEN => Part::Short,
            _ => Part::Later,
        };
        Self { part, identification }
    }
}

#[inline(always)]
fn parse6<B: Buf + ?Sized>(buf: &B, l3: usize, tags: Tags) -> Option<Parsed> {
    let ip: Ipv6Header = buf.load(l3)?;
    if !ip.is_version_6() {
        return None;
    }
    let mut next = ip.next_header;
    let mut offset = l3 + IPV6_LEN;
    let mut piece = Piece::WHOLE;
    for _ in 0..MAX_EXTENSIONS {
        // What follows a later fragment's header is the middle of something.
        if matches!(piece.part, Part::Later | Part::Short) || !is_extension(next) {
            break;
        }
        // A fragment of a fragment is nothing that anybody sends.
        if next == FRAGMENT_HEADER && piece.part != Part::Whole {
            return None;
        }
        let (following, length, word) = read_extension(buf, next, offset)?;
        // RFC 6946: a fragment that is whole is an ordinary packet.
        if word != 0 {
            let identification: [Be16; 2] = buf.load(offset + 4)?;
            let [high, low] = identification.map(|half| u32::from(half.get()));
            piece = Piece::of(word >> 3, high << 16 | low, following);
        }
        offset += length;
        if offset > MAX_L4_OFFSET as usize {
            return None;
        }
        next = following;
    }
    if next == ICMP6 {
        let is_error = piece.part == Part::Whole && is_icmp6_error(buf.load(offset)?);
        let bytes = ip.payload_length.get() as usize + IPV6_LEN;
        let key = ConnKey6::new(ip.source, ip.destination, [0, 0], ICMP6);
        return message(key, is_error, (l3, offset, bytes), tags).map(Parsed::Icmp6);
    }
    finish6(buf, &ip, (next, piece), (l3, offset), tags).map(Parsed::V6)
}

/// Whether a next header is an extension header that can be read over: hop-by-hop and destination
/// options, routing, fragment, authentication.
#[inline(always)]
pub(crate) const fn is_extension(next: u8) -> bool {
    matches!(next, 0 | 60 | 43 | FRAGMENT_HEADER | 51)
}

/// The extension header `kind` at `offset`: what follows it, its length, and for a fragment header
/// its offset and flag More Fragments as they lie in it, else 0.
#[inline(always)]
pub(crate) fn read_extension<B: Buf + ?Sized>(
    buf: &B,
    kind: u8,
    offset: usize,
) -> Option<(u8, usize, u16)> {
    let [following, units, b2, b3]: [u8; 4] = buf.load(offset)?;
    match kind {
        // RFC 8200 4.4: with segments left, the destination is not the final one.
        43 if b3 != 0 => None,
        FRAGMENT_HEADER => Some((following, 8, u16::from_be_bytes([b2, b3]) & !0b110)),
        // RFC 4302 2.2: in units of four bytes, minus two.
        51 => Some((following, (units.saturating_add(1) as usize + 1) * 4, 0)),
        _ => Some((following, (units as usize + 1) * 8, 0)),
    }
}

/// Whether an ICMP type is an error: unreachable, time exceeded, parameter problem (RFC 792).
#[inline(always)]
pub(crate) const fn is_icmp_error(kind: u8) -> bool {
    matches!(kind, 3 | 11 | 12)
}

/// Whether an ICMPv6 type is an error: unreachable, too big, time exceeded, parameter problem
/// (RFC 4443).
#[inline(always)]
pub(crate) const fn is_icmp6_error(kind: u8) -> bool {
    matches!(kind, 1..=4)
}

/// An ICMP error of which at least its own header and a quoted IPv4 header are there by length.
#[inline(always)]
fn message<K: ConnKey>(
    key: K,
    is_error: bool,
    (l3, l4, bytes): (usize, usize, usize),
    tags: Tags,
) -> Option<Packet<K>> {
    (is_error && l4 + ICMP_LEN + IPV4_LEN <= l3 + bytes).then_some(Packet {
        key,
        l3_offset: l3 as u32,
        l4_offset: l4 as u32,
        bytes: bytes as u32,
        identification: 0,
        tcp_flags: 0,
        part: Part::Whole,
        rerun: false,
        tags,
    })
}

#[inline(always)]
fn finish4<B: Buf + ?Sized>(
    buf: &B,
    ip: &Ipv4Header,
    piece: Piece,
    (l3, l4): (usize, usize),
    tags: Tags,
) -> Option<Packet<ConnKey4>> {
    let bytes = ip.total_length.get() as usize;
    let (part, ports, tcp_flags) = read_l4(buf, (ip.protocol, piece.part), l4, l3 + bytes)?;
    let ports = [ports[0].get(), ports[1].get()];
    // One word, of which the key's first one is made.
    let addresses: u64 = buf.load(l3 + ADDRESSES4)?;
    let key = ConnKey4::of_header(addresses, ports, ip.protocol);
    Some(Packet {
        key,
        l3_offset: l3 as u32,
        l4_offset: l4 as u32,
        bytes: bytes as u32,
        identification: piece.identification,
        tcp_flags,
        part,
        rerun: false,
        tags,
    })
}

#[inline(always)]
fn finish6<B: Buf + ?Sized>(
    buf: &B,
    ip: &Ipv6Header,
    (protocol, piece): (u8, Piece),
    (l3, l4): (usize, usize),
    tags: Tags,
) -> Option<Packet<ConnKey6>> {
    let bytes = ip.payload_length.get() as usize + IPV6_LEN;
    let (part, ports, tcp_flags) = read_l4(buf, (protocol, piece.part), l4, l3 + bytes)?;
    let ports = [ports[0].get(), ports[1].get()];
    let key = ConnKey6::new(ip.source, ip.destination, ports, protocol);
    Some(Packet {
        key,
        l3_offset: l3 as u32,
        l4_offset: l4 as u32,
        bytes: bytes as u32,
        identification: piece.identification,
        tcp_flags,
        part,
        rerun: false,
        tags,
    })
}

/// Ports and TCP flags of the header at `l4`, which must be whole before `end` as IP declares it;
/// a first fragment in which it is not is short.
#[inline(always)]
fn read_l4<B: Buf + ?Sized>(
    buf: &B,
    (protocol, part): (u8, Part),
    l4: usize,
    end: usize,
) -> Option<(Part, [Be16; 2], u8)> {
    const NO_PORTS: [Be16; 2] = [Be16(0), Be16(0)];
    if matches!(part, Part::Later | Part::Short) {
        // An extension header may come first in what was cut up.
        let ours = matches!(protocol, TCP | UDP | 0 | 43 | 51 | 60);
        return ours.then_some((part, NO_PORTS, 0));
    }
    match protocol {
        TCP if l4 + TCP_LEN <= end => {
            let header: [u32; 5] = buf.load(l4)?;
            Some((part, split(header[0]), header[3].to_ne_bytes()[1]))
        }
        UDP if l4 + UDP_LEN <= end => {
            let header: [u32; 2] = buf.load(l4)?;
            Some((part, split(header[0]), 0))
        }
        TCP | UDP if matches!(part, Part::First) => Some((Part::Short, NO_PORTS, 0)),
        _ => None,
    }
}

/// The two ports of a TCP or UDP header's first four bytes.
#[inline(always)]
fn split(ports: u32) -> [Be16; 2] {
    let [a, b, c, d] = ports.to_ne_bytes();
    [Be16(u16::from_ne_bytes([a, b])), Be16(u16::from_ne_bytes([c, d]))]
}

impl Ipv6Header {
    #[inline(always)]
    pub(crate) fn is_version_6(&self) -> bool {
        self.version_class_flow.to_ne_bytes()[0] >> 4 == 6
    }
}

/// Bytes of a frame in memory: what tests and fuzzers parse.
impl Buf for [u8] {
    fn load<T: Pod>(&self, offset: usize) -> Option<T> {
        pod::from_bytes(self.get(offset..offset.checked_add(size_of::<T>())?)?)
    }

    fn store<T: Pod>(&mut self, offset: usize, value: T) -> Option<()> {
        let end = offset.checked_add(size_of::<T>())?;
        self.get_mut(offset..end)?.copy_from_slice(pod::bytes_of(&value));
        Some(())
    }
}

mod ends;
pub mod vrrp;
pub use ends::{Ends4, Ends6, FAMILY_IPV4, FAMILY_IPV6, ends4, ends6, network};

#[cfg(test)]
mod tests;
