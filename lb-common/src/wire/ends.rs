//! Who sent an IP packet to whom: all that an access list asks, of frames of any kind.
//!
//! Nothing behind the addresses is judged, so fragments, options, extension headers and packets of
//! any protocol have their ends read too.
//!
//! Must not know: access lists, XDP contexts.

use super::{
    Buf, ETHERTYPE_IPV4, ETHERTYPE_IPV6, ICMP, ICMP_LEN, ICMP6, IPV6_LEN, Ipv4Header, Ipv6Header,
    OFFSET_MASK, is_icmp_error, is_icmp6_error, read_ethernet,
};
use crate::pod::is_mapped;

/// [`network`]: an IPv4 header follows.
pub const FAMILY_IPV4: u32 = 4;
/// [`network`]: an IPv6 header follows.
pub const FAMILY_IPV6: u32 = 6;

/// The ends of an IPv4 packet; addresses as they lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends4 {
    /// Sender.
    pub source: u32,
    /// Receiver.
    pub destination: u32,
}

/// The ends of an IPv6 packet; addresses as they lie in memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ends6 {
    /// Sender.
    pub source: [u32; 4],
    /// Receiver.
    pub destination: [u32; 4],
}

impl Ends6 {
    /// The sender's IPv4 address if it is written as `::ffff:a.b.c.d` (RFC 4291 2.5.5.2).
    #[inline(always)]
    pub const fn mapped_source(&self) -> Option<u32> {
        if is_mapped(&self.source) { Some(self.source[3]) } else { None }
    }
}

/// The family of the network header and its offset, behind up to two VLAN tags; family 0 is
/// neither, or a frame that is cut off.
#[inline(always)]
pub fn network<B: Buf + ?Sized>(buf: &B) -> (u32, usize) {
    match read_ethernet(buf) {
        Some((ETHERTYPE_IPV4, l3, _)) => (FAMILY_IPV4, l3),
        Some((ETHERTYPE_IPV6, l3, _)) => (FAMILY_IPV6, l3),
        _ => (0, 0),
    }
}

/// The ends of the IPv4 packet at `l3`, and those of the packet that it is an ICMP error about.
#[inline(always)]
pub fn ends4<B: Buf + ?Sized>(buf: &B, l3: usize) -> Option<(Ends4, Option<Ends4>)> {
    let (ip, own) = header4(buf, l3)?;
    let l4 = l3 + (ip.version_ihl & 0xf) as usize * 4;
    let is_first = ip.fragment.get() & OFFSET_MASK == 0;
    if ip.protocol != ICMP || !is_first {
        return Some((own, None));
    }
    let about = match buf.load(l4) {
        Some(kind) if is_icmp_error(kind) => header4(buf, l4 + ICMP_LEN).map(|(_, ends)| ends),
        _ => None,
    };
    Some((own, about))
}

/// The same for IPv6.
#[inline(always)]
pub fn ends6<B: Buf + ?Sized>(buf: &B, l3: usize) -> Option<(Ends6, Option<Ends6>)> {
    let (ip, own) = header6(buf, l3)?;
    let l4 = l3 + IPV6_LEN;
    if ip.next_header != ICMP6 {
        return Some((own, None));
    }
    let about = match buf.load(l4) {
        Some(kind) if is_icmp6_error(kind) => header6(buf, l4 + ICMP_LEN).map(|(_, ends)| ends),
        _ => None,
    };
    Some((own, about))
}

#[inline(always)]
fn header4<B: Buf + ?Sized>(buf: &B, at: usize) -> Option<(Ipv4Header, Ends4)> {
    let ip: Ipv4Header = buf.load(at)?;
    let ends = Ends4 { source: ip.source, destination: ip.destination };
    (ip.version_ihl >> 4 == 4).then_some((ip, ends))
}

#[inline(always)]
fn header6<B: Buf + ?Sized>(buf: &B, at: usize) -> Option<(Ipv6Header, Ends6)> {
    let ip: Ipv6Header = buf.load(at)?;
    let ends = Ends6 { source: ip.source, destination: ip.destination };
    ip.is_version_6().then_some((ip, ends))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::MAPPED;

    /// An IPv4 header of `words` words from 192.0.2.1 to 192.0.2.2.
    fn ipv4(words: u8, protocol: u8, fragment: u16) -> Vec<u8> {
        let mut head = vec![0x40 | words, 0, 0, 0, 0, 0];
        head.extend(fragment.to_be_bytes());
        head.extend([64, protocol, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2]);
        head.resize(usize::from(words) * 4, 0);
        head
    }

    fn ipv6(next: u8) -> Vec<u8> {
        let mut head = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        head.extend([[0x20; 16], [0x21; 16]].concat());
        head
    }

    fn behind(tags: &[u16], ethertype: u16, packet: &[u8]) -> Vec<u8> {
        let mut frame = vec![0; 12];
        for tag in tags {
            frame.extend([tag.to_be_bytes(), 5u16.to_be_bytes()].concat());
        }
        frame.extend(ethertype.to_be_bytes());
        frame.extend(packet);
        frame
    }

    fn word(bytes: [u8; 4]) -> u32 {
        u32::from_ne_bytes(bytes)
    }

    #[test]
    fn ends_are_found_behind_every_kind_of_head() {
        for tags in [&[][..], &[0x8100], &[0x88a8], &[0x8100, 0x8100], &[0x88a8, 0x8100]] {
            let l3 = 14 + 4 * tags.len();
            for (words, protocol, fragment) in [(5, 6, 0), (15, 17, 0), (5, 6, 0x2000), (6, 47, 9)]
            {
                let frame = behind(tags, 0x0800, &ipv4(words, protocol, fragment));
                assert_eq!(network(&frame[..]), (FAMILY_IPV4, l3));
                let (ends, about) = ends4(&frame[..], l3).expect("an IPv4 packet");
                assert_eq!(ends.source, word([192, 0, 2, 1]));
                assert_eq!((ends.destination, about), (word([192, 0, 2, 2]), None));
            }
            let frame = behind(tags, 0x86dd, &ipv6(44));
            assert_eq!(network(&frame[..]), (FAMILY_IPV6, l3));
            let (ends, about) = ends6(&frame[..], l3).expect("an IPv6 packet");
            assert_eq!(
                (ends.source, ends.destination),
                ([word([0x20; 4]); 4], [word([0x21; 4]); 4])
            );
            assert_eq!((about, ends.mapped_source()), (None, None));
        }
    }

    #[test]
    fn what_is_cut_off_or_of_another_version_has_no_ends() {
        let v4 = behind(&[], 0x0800, &ipv4(5, 6, 0));
        let v6 = behind(&[], 0x86dd, &ipv6(6));
        for length in 0..v4.len() {
            let (family, l3) = network(&v4[..length]);
            assert!(family == 0 || ends4(&v4[..length], l3).is_none(), "{length}");
        }
        for length in 0..v6.len() {
            let (family, l3) = network(&v6[..length]);
            assert!(family == 0 || ends6(&v6[..length], l3).is_none(), "{length}");
        }
        assert_eq!(ends4(&behind(&[], 0x0800, &ipv6(6))[..], 14), None);
        assert_eq!(ends6(&behind(&[], 0x86dd, &ipv4(15, 6, 0))[..], 14), None);
        assert_eq!(network(&behind(&[], 0x0806, &[0; 46])[..]), (0, 0));
    }

    #[test]
    fn an_error_tells_what_packet_it_is_about() {
        let error = |kind: u8, fragment| {
            let mut packet = ipv4(6, ICMP, fragment);
            packet.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
            let mut about = ipv4(5, 6, 0);
            about[16..20].copy_from_slice(&[203, 0, 113, 9]);
            packet.extend(about);
            ends4(&behind(&[0x8100], 0x0800, &packet)[..], 18).expect("an IPv4 packet").1
        };
        let ends = Ends4 { source: word([192, 0, 2, 1]), destination: word([203, 0, 113, 9]) };
        for kind in 0..=20 {
            let expected = matches!(kind, 3 | 11 | 12).then_some(ends);
            assert_eq!(error(kind, 0), expected, "type {kind}");
        }
        assert_eq!(error(3, 1), None, "a later fragment has no ICMP header");
        let error = |kind: u8, next| {
            let mut packet = ipv6(next);
            packet.extend([kind, 0, 0, 0, 0, 0, 0, 0]);
            packet.extend(ipv6(6));
            ends6(&behind(&[], 0x86dd, &packet)[..], 14).expect("an IPv6 packet").1
        };
        for kind in [0, 1, 2, 3, 4, 5, 128, 135] {
            assert_eq!(error(kind, ICMP6).is_some(), (1..=4).contains(&kind), "type {kind}");
        }
        assert_eq!(error(1, 6), None);
    }

    #[test]
    fn a_mapped_source_is_an_ipv4_address() {
        let ends = |source| Ends6 { source, destination: [0; 4] };
        let last = word([192, 0, 2, 1]);
        assert_eq!(ends([0, 0, MAPPED, last]).mapped_source(), Some(last));
        for other in [[1, 0, MAPPED, last], [0, 1, MAPPED, last], [0, 0, 0, last]] {
            assert_eq!(ends(other).mapped_source(), None);
        }
    }
}
