//! ICMP errors: reading the packet that one quotes, rewriting one through nat, and making "too big".
//!
//! An error is about the packet whose head it carries. Reversed, that packet's addresses and ports
//! are the key of the connection that the error belongs to (RFC 5508).
//!
//! Must not know: connections, services, frames beyond their IP headers.

use crate::csum::{self, Delta};
use crate::encap::{self, MIN_MTU6};
use crate::key::{ConnKey, ConnKey4, ConnKey6};
use crate::rewrite::{self, Edit, End, Unfit};
use crate::wire::{
    self, Be16, Buf, ICMP, ICMP_LEN, ICMP6, IPIP, IPV4_LEN, IPV6, IPV6_LEN, Ipv4Header, Ipv6Header,
    OFFSET_MASK, Packet, Part, TCP, UDP,
};

/// The packet that an ICMP error quotes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quoted<K> {
    /// Its addresses, ports and protocol; a tunnel's packet ([`IPIP`], [`IPV6`]) has no ports.
    pub key: K,
    /// Offset of its IP header. Read it by [`Quoted::l3`].
    l3_offset: u32,
    /// Offset of its transport header. Read it by [`Quoted::l4`].
    l4_offset: u32,
}

impl<K: ConnKey> Quoted<K> {
    /// Whether it is a tunnel's.
    #[inline(always)]
    pub fn is_tunnel(&self) -> bool {
        matches!(self.key.protocol(), IPIP | IPV6)
    }

    /// Offset of its IP header, visibly within reach.
    #[inline(always)]
    const fn l3(&self) -> usize {
        (self.l3_offset & MAX_QUOTED_OFFSET) as usize
    }

    /// Offset of its transport header, visibly within reach.
    #[inline(always)]
    const fn l4(&self) -> usize {
        (self.l4_offset & MAX_QUOTED_OFFSET) as usize
    }
}

/// Quoted headers beyond this offset are left to the stack; a mask.
const MAX_QUOTED_OFFSET: u32 = 0x3ff;
/// Extension headers of a quoted packet that are read before giving up.
const MAX_EXTENSIONS: usize = 3;

/// What becomes of a packet that is too big for the way to its real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TooBig {
    /// Its sender is told this MTU.
    Tell(u32),
    /// It came without Don't Fragment (RFC 791): it goes on in fragments. Where that cannot be, its
    /// sender is told this MTU, or nothing if it is 0.
    Split(u32),
    /// It is no larger than every IPv6 link must take, and routers do not fragment in IPv6: nobody
    /// can be told to send less (RFC 8200 section 5).
    Stuck,
    /// It must not be answered (RFC 1122 3.2.2, RFC 4443 2.4 e).
    Silent,
}

/// A family with its ICMP.
pub trait Icmp: Edit {
    /// Bytes that a message of ours quotes, the larger first. Fixed, so that their sum is a loop of
    /// known length; the smaller one is for what comes in pieces, or over a very small MTU.
    const QUOTES: [usize; 2];
    /// Length of the headers before them.
    const HEADERS: usize;
    /// What announces the family in a frame.
    const ETHERTYPE: u16;

    /// Reads the packet that the error `packet` quotes. `None` when it is not one to be followed.
    fn quoted<B: Buf + ?Sized>(buf: &B, packet: &Packet<Self>) -> Option<Quoted<Self>>;

    /// The MTU that an error reports, 0 when it does not say; `None` when it is about other things.
    fn path_mtu<B: Buf + ?Sized>(buf: &B, packet: &Packet<Self>) -> Option<u32>;

    /// Rewrites `end` of the error and the other end of what it quotes to an address (as four
    /// words, the last one for IPv4) and a port, and ages it.
    ///
    /// # Errors
    /// When the packet does not fit; it is to be dropped.
    fn translate<B: Buf + ?Sized>(
        buf: &mut B,
        packet: &Packet<Self>,
        quoted: &Quoted<Self>,
        end: End,
        to: ([u32; 4], u16),
    ) -> Result<(), Unfit>;

    /// What becomes of a packet that is larger than `mtu`.
    fn too_big<B: Buf + ?Sized>(buf: &B, packet: &Packet<Self>, mtu: u32) -> TooBig;

    /// Writes the headers of "too big" at `at`, before `quote` bytes, one of [`Icmp::QUOTES`], of
    /// the packet with `key` that are there already.
    fn tell<B: Buf + ?Sized>(
        buf: &mut B,
        at: usize,
        key: &Self,
        mtu: u32,
        quote: usize,
    ) -> Option<()>;
}

impl Icmp for ConnKey4 {
    // With the headers at most 576 bytes (RFC 1812 4.3.2.3); at least header and eight bytes.
    const QUOTES: [usize; 2] = [528, 68];
    const HEADERS: usize = IPV4_LEN + ICMP_LEN;
    const ETHERTYPE: u16 = wire::ETHERTYPE_IPV4;

    #[inline(always)]
    fn quoted<B: Buf + ?Sized>(buf: &B, packet: &Packet<Self>) -> Option<Quoted<Self>> {
        let l3 = packet.l4() + ICMP_LEN;
        let ip: Ipv4Header = buf.load(l3)?;
        let header = (ip.version_ihl & 0xf) as usize * 4;
        // A later fragment has no ports.
        if ip.version_ihl >> 4 != 4 || header < IPV4_LEN || ip.fragment.get() & OFFSET_MASK != 0 {
            return None;
        }
        let l4 = l3 + header;
        let ports = read_ports(buf, ip.protocol, l4, packet)?;
        let key = Self::new(ip.source, ip.destination, ports, ip.protocol);
        Some(Quoted { key, l3_offset: l3 as u32, l4_offset: l4 as u32 })
    }

    #[inline(always)]
    fn path_mtu<B: Buf + ?Sized>(buf: &B, packet: &Packet<Self>) -> Option<u32> {
        let [kind, code]: [u8; 2] = buf.load(packet.l4())?;
        let mtu: Be16 = buf.load(packet.l4() + 6)?;
        // RFC 1191 section 4: fragmentation needed, and the MTU or 0 from an old router.
        (kind == 3 && code == 4).then_some(u32::from(mtu.get()))
    }

    #[inline(always)]
    fn translate<B: Buf + ?Sized>(
        buf: &mut B,
        packet: &Packet<Self>,
        quoted: &Quoted<Self>,
        end: End,
        (address, port): ([u32; 4], u16),
    ) -> Result<(), Unfit> {
        let (outer_at, quoted_at) = match end {
            End::Source => (packet.l3() + 12, quoted.l3() + 16),
            End::Destination => (packet.l3() + 16, quoted.l3() + 12),
        };
        let address = address[3];
        let outer: u32 = buf.load(outer_at).ok_or(Unfit::Short)?;
        rewrite::age4_with(buf, packet.l3(), Delta::ZERO.quad(outer, address))?;
        buf.store(outer_at, address).ok_or(Unfit::Short)?;
        let inner: u32 = buf.load(quoted_at).ok_or(Unfit::Short)?;
        let sum: u16 = buf.load(quoted.l3() + 10).ok_or(Unfit::Short)?;
        let changed = Delta::ZERO.quad(inner, address);
        let new_sum = changed.apply(sum);
        buf.store(quoted_at, address).ok_or(Unfit::Short)?;
        buf.store(quoted.l3() + 10, new_sum).ok_or(Unfit::Short)?;
        translate_ports(buf, packet, quoted, (end, port), (changed, changed.word(sum, new_sum)))
    }

    #[inline(always)]
    fn too_big<B: Buf + ?Sized>(buf: &B, packet: &Packet<Self>, mtu: u32) -> TooBig {
        let Some(fragment) = buf.load::<Be16>(packet.l3() + 6) else {
            return TooBig::Silent;
        };
        let first = packet.key.source[0];
        // Zero, loopback, multicast, reserved and broadcast are no single host.
        let nobody = first == 0 || first == 127 || first >= 224;
        // Only a whole ICMP error can be led to a connection.
        if packet.key.protocol == ICMP {
            return TooBig::Silent;
        }
        let silent = nobody || fragment.get() & 0x1fff != 0;
        if fragment.get() & 0x4000 == 0 {
            return TooBig::Split(if silent { 0 } else { mtu });
        }
        if silent { TooBig::Silent } else { TooBig::Tell(mtu) }
    }

    #[inline(always)]
    fn tell<B: Buf + ?Sized>(
        buf: &mut B,
        at: usize,
        key: &Self,
        mtu: u32,
        quote: usize,
    ) -> Option<()> {
        let length = (Self::HEADERS + quote) as u16;
        let ends = [key.destination_words()[3], key.source_words()[3]];
        // Precedence "internetwork control" (RFC 1812 4.3.2.5).
        buf.store(at, encap::header4(0xc0, length, ICMP, ends))?;
        let [high, low] = (mtu as u16).to_be_bytes();
        let words = [u32::from_ne_bytes([3, 4, 0, 0]), u32::from_ne_bytes([0, 0, high, low])];
        let at = at + IPV4_LEN;
        if quote == Self::QUOTES[0] {
            return finish::<{ Self::QUOTES[0] / 4 }, B>(buf, at, words, 0);
        }
        finish::<{ Self::QUOTES[1] / 4 }, B>(buf, at, words, 0)
    }
}

impl Icmp for ConnKey6 {
    // With the headers at most 1280 bytes (RFC 4443 3.2).
    const QUOTES: [usize; 2] = [1232, 512];
    const HEADERS: usize = IPV6_LEN + ICMP_LEN;
    const ETHERTYPE: u16 = wire::ETHERTYPE_IPV6;

    #[inline(always)]
    fn quoted<B: Buf + ?Sized>(buf: &B, packet: &Packet<Self>) -> Option<Quoted<Self>> {
        let l3 = packet.l4() + ICMP_LEN;
        let ip: Ipv6Header = buf.load(l3)?;
        if !ip.is_version_6() {
            return None;
        }
        let mut next = ip.next_header;
        let mut l4 = l3 + IPV6_LEN;
        for _ in 0..MAX_EXTENSIONS {
            if !wire::is_extension(next) {
                break;
            }
            let (following, length, piece) = wire::read_extension(buf, next, l4)?;
            l4 += length;
            // A later fragment has no ports.
            if piece >> 3 != 0 || l4 > MAX_QUOTED_OFFSET as usize {
                return None;
            }
            next = following;
        }
        let ports = read_ports(buf, next, l4, packet)?;
        let key = Self::new(ip.source, ip.destination, ports, next);
        Some(Quoted { key, l3_offset: l3 as u32, l4_offset: l4 as u32 })
    }

    #[inline(always)]
    fn path_mtu<B: Buf + ?Sized>(buf: &B, packet: &Packet<Self>) -> Option<u32> {
        let kind: u8 = buf.load(packet.l4())?;
        let mtu: u32 = buf.load(packet.l4() + 4)?;
        (kind == 2).then_some(u32::from_be(mtu))
    }

    #[inline(always)]
    fn translate<B: Buf + ?Sized>(
        buf: &mut B,
        packet: &Packet<Self>,
        quoted: &Quoted<Self>,
        end: End,
        (address, port): ([u32; 4], u16),
    ) -> Result<(), Unfit> {
        let (outer_at, quoted_at) = match end {
            End::Source => (packet.l3() + 8, quoted.l3() + 24),
            End::Destination => (packet.l3() + 24, quoted.l3() + 8),
        };
        rewrite::age6(buf, packet.l3())?;
        let outer: [u32; 4] = buf.load(outer_at).ok_or(Unfit::Short)?;
        buf.store(outer_at, address).ok_or(Unfit::Short)?;
        let inner: [u32; 4] = buf.load(quoted_at).ok_or(Unfit::Short)?;
        buf.store(quoted_at, address).ok_or(Unfit::Short)?;
        let changed = Delta::ZERO.address(&inner, &address);
        // The pseudo header has the outer address too (RFC 4443 2.3).
        let message = changed.address(&outer, &address);
        translate_ports(buf, packet, quoted, (end, port), (changed, message))
    }

    #[inline(always)]
    fn too_big<B: Buf + ?Sized>(_: &B, packet: &Packet<Self>, mtu: u32) -> TooBig {
        let source = packet.key.source_words();
        let [a, b, c, d] = source;
        let multicast =
            a & u32::from_ne_bytes([0xff, 0, 0, 0]) == u32::from_ne_bytes([0xff, 0, 0, 0]);
        if packet.key.protocol == ICMP6 || multicast || a | b | c | d == 0 {
            return TooBig::Silent;
        }
        // A later fragment's first one is told of; it quotes the ports.
        if !matches!(packet.part, Part::Whole | Part::First) {
            return TooBig::Silent;
        }
        if packet.bytes <= MIN_MTU6 {
            return TooBig::Stuck;
        }
        TooBig::Tell(if mtu < MIN_MTU6 { MIN_MTU6 } else { mtu })
    }

    #[inline(always)]
    fn tell<B: Buf + ?Sized>(
        buf: &mut B,
        at: usize,
        key: &Self,
        mtu: u32,
        quote: usize,
    ) -> Option<()> {
        let length = (ICMP_LEN + quote) as u16;
        let (source, destination) = (key.destination_words(), key.source_words());
        buf.store(at, encap::header6((0xc0, 0), length, ICMP6, &source, &destination))?;
        let words = [u32::from_ne_bytes([2, 0, 0, 0]), mtu.to_be()];
        let pseudo = source.iter().chain(&destination).map(|word| u64::from(*word)).sum::<u64>()
            + u64::from(u32::from(length).to_be())
            + u64::from(u32::from_ne_bytes([0, 0, 0, ICMP6]));
        let at = at + IPV6_LEN;
        if quote == Self::QUOTES[0] {
            return finish::<{ Self::QUOTES[0] / 4 }, B>(buf, at, words, pseudo);
        }
        finish::<{ Self::QUOTES[1] / 4 }, B>(buf, at, words, pseudo)
    }
}

/// The ports of a quoted TCP or UDP header, of which eight bytes must be there (RFC 792); 0 for a
/// tunnel's packet, and `None` for any other.
#[inline(always)]
fn read_ports<K: ConnKey, B: Buf + ?Sized>(
    buf: &B,
    protocol: u8,
    l4: usize,
    packet: &Packet<K>,
) -> Option<[u16; 2]> {
    match protocol {
        TCP | UDP if l4 + 8 <= packet.l3() + packet.bytes as usize => {
            let head: [Be16; 4] = buf.load(l4)?;
            Some([head[0].get(), head[1].get()])
        }
        IPIP | IPV6 => Some([0, 0]),
        _ => None,
    }
}

/// Rewrites the quoted port and, as far as it is quoted, the checksum that knows of it, and then the
/// message's own. `changed` is what changed in the quoted pseudo header, `message` all in the
/// message.
#[inline(always)]
fn translate_ports<K: ConnKey, B: Buf + ?Sized>(
    buf: &mut B,
    packet: &Packet<K>,
    quoted: &Quoted<K>,
    (end, port): (End, u16),
    (changed, message): (Delta, Delta),
) -> Result<(), Unfit> {
    let port_at = quoted.l4() + if matches!(end, End::Source) { 2 } else { 0 };
    let old: Be16 = buf.load(port_at).ok_or(Unfit::Short)?;
    let new = Be16::new(port);
    buf.store(port_at, new).ok_or(Unfit::Short)?;
    let changed = changed.word(old.0, new.0);
    let mut message = message.word(old.0, new.0);
    let tcp = quoted.key.protocol() == TCP;
    let sum_at = quoted.l4() + if tcp { 16 } else { 6 };
    let is_quoted = sum_at + 2 <= packet.l3() + packet.bytes as usize;
    if let Some(sum) = buf.load::<u16>(sum_at)
        && is_quoted
        && (tcp || sum != 0)
    {
        let new_sum = changed.apply(sum);
        let new_sum = if !tcp && new_sum == 0 { 0xffff } else { new_sum };
        buf.store(sum_at, new_sum).ok_or(Unfit::Short)?;
        message = message.word(sum, new_sum);
    }
    let sum: u16 = buf.load(packet.l4() + 2).ok_or(Unfit::Short)?;
    buf.store(packet.l4() + 2, message.apply(sum)).ok_or(Unfit::Short)
}

/// Writes an ICMP header of two words, with the sum over it and the `N` words behind it.
#[inline(always)]
fn finish<const N: usize, B: Buf + ?Sized>(
    buf: &mut B,
    at: usize,
    [first, second]: [u32; 2],
    pseudo: u64,
) -> Option<()> {
    let mut sum = pseudo + u64::from(first) + u64::from(second);
    for n in 0..N {
        sum += u64::from(buf.load::<u32>(at + ICMP_LEN + n * 4)?);
    }
    let [a, b] = (!csum::fold(sum)).to_ne_bytes();
    buf.store(at, [first | u32::from_ne_bytes([0, 0, a, b]), second])
}

#[cfg(test)]
mod tests;
