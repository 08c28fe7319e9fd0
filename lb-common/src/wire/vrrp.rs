//! VRRP on the wire: which virtual router a frame is of, and which one's virtual MAC address it is
//! sent to.
//!
//! Virtual routers of both families have one range of numbers, so that an array holds something of
//! each: see [`index`].
//!
//! Must not know: what an advertisement says, who is master.

use super::{
    Buf, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPV4_LEN, IPV6_LEN, Ipv4Header, Ipv6Header, Macs,
    OFFSET_MASK, read_ethernet,
};

/// IP protocol number of VRRP (RFC 9568 5.1.1.4, 5.1.2.4).
pub const VRRP: u8 = 112;
/// What every version has before the addresses (RFC 3768 5.1, RFC 9568 5.2).
const HEADER_LEN: usize = 8;

/// Virtual routers of both families: the numbers that [`index`] gives are below this.
pub const VIRTUAL_ROUTERS: u32 = 512;

/// A virtual router's address family: each has virtual router identifiers (VRID) of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The number of a virtual router: its VRID for IPv4, 256 and its VRID for IPv6.
#[inline(always)]
pub const fn index(family: Family, vrid: u8) -> u32 {
    match family {
        Family::V4 => vrid as u32,
        Family::V6 => 0x100 | vrid as u32,
    }
}

/// Whose number this is; the inverse of [`index`].
pub const fn of_index(index: u32) -> (Family, u8) {
    (if index & 0x100 == 0 { Family::V4 } else { Family::V6 }, index as u8)
}

/// The number of the virtual router that a frame of `length` bytes is of; `None` when it is no VRRP,
/// or when IP's length says more than the frame holds. Neither version, checksum nor addresses are
/// looked at: this tells what arrives, not what is right.
#[inline(always)]
pub fn router_of<B: Buf + ?Sized>(buf: &B, length: usize) -> Option<u32> {
    let (ethertype, l3, _) = read_ethernet(buf)?;
    let (family, header, bytes) = match ethertype {
        ETHERTYPE_IPV4 => {
            let ip: Ipv4Header = buf.load(l3)?;
            let header = (ip.version_ihl & 0xf) as usize * 4;
            // A later fragment begins in the middle of the message.
            let begins = ip.fragment.get() & OFFSET_MASK == 0;
            if ip.version_ihl >> 4 != 4 || header < IPV4_LEN || ip.protocol != VRRP || !begins {
                return None;
            }
            (Family::V4, header, ip.total_length.get() as usize)
        }
        ETHERTYPE_IPV6 => {
            let ip: Ipv6Header = buf.load(l3)?;
            if !ip.is_version_6() || ip.next_header != VRRP {
                return None;
            }
            (Family::V6, IPV6_LEN, ip.payload_length.get() as usize + IPV6_LEN)
        }
        _ => return None,
    };
    if bytes < header + HEADER_LEN || l3 + bytes > length {
        return None;
    }
    let [_, vrid]: [u8; 2] = buf.load(l3 + header)?;
    Some(index(family, vrid))
}

/// The number of the virtual router whose MAC address a frame is sent to: 00-00-5E-00-01-VRID for
/// IPv4, 00-00-5E-00-02-VRID for IPv6 (RFC 9568 7.3).
#[inline(always)]
pub const fn router_of_mac([first, second, _]: Macs) -> Option<u32> {
    let [family, vrid, ..] = second.to_ne_bytes();
    match family {
        _ if first != u32::from_ne_bytes([0x00, 0x00, 0x5e, 0x00]) => None,
        1 => Some(index(Family::V4, vrid)),
        2 => Some(index(Family::V6, vrid)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod;

    /// Datagrams of keepalived 2.2.7, from their IP headers on: VRID 51 of either family.
    const V2: &[u8] = &[
        0x45, 0xc0, 0, 40, 0, 1, 0, 0, 255, VRRP, 0, 0, 10, 77, 0, 1, 224, 0, 0, 18, 0x21, 0x33,
        0x96, 0x01, 0x01, 0x01, 0xda, 0xb6, 0x0a, 0x4d, 0x00, 0x64, 0x31, 0x31, 0x31, 0x31, 0, 0,
        0, 0,
    ];
    const V3: &[u8] = &[
        0x45, 0xc0, 0, 32, 0, 1, 0, 0, 255, VRRP, 0, 0, 10, 77, 0, 1, 224, 0, 0, 18, 0x31, 0x33,
        0x96, 0x01, 0x00, 0x64, 0x42, 0xd9, 0x0a, 0x4d, 0x00, 0x64,
    ];

    fn v6() -> Vec<u8> {
        let mut packet = vec![0x6c, 0, 0, 0, 0, 40, VRRP, 255];
        packet.extend([0xfe; 32]);
        packet.extend([0x31, 0x33, 0x96, 0x02, 0x00, 0x64, 0xe9, 0x67]);
        packet.extend([0xfd; 32]);
        packet
    }

    fn frame(tags: &[u16], ethertype: u16, packet: &[u8]) -> Vec<u8> {
        let mut frame = vec![0x02; 12];
        for tag in tags {
            frame.extend([tag.to_be_bytes(), 7u16.to_be_bytes()].concat());
        }
        frame.extend(ethertype.to_be_bytes());
        frame.extend(packet);
        frame
    }

    fn check(frame: &[u8], expected: Option<u32>) {
        assert_eq!(router_of(frame, frame.len()), expected, "{frame:02x?}");
    }

    #[test]
    fn a_frame_is_of_its_vrid_behind_any_tags_options_and_padding() {
        for tags in [&[][..], &[0x8100], &[0x88a8, 0x8100]] {
            for (ethertype, packet, router) in
                [(0x0800, V2, 51), (0x0800, V3, 51), (0x86dd, &v6()[..], 256 + 51)]
            {
                let mut frame = frame(tags, ethertype, packet);
                check(&frame, Some(router));
                frame.resize(frame.len() + 30, 0xee);
                check(&frame, Some(router));
            }
        }
        let mut options = V3.to_vec();
        (options[0], options[3]) = (0x46, 36);
        options.splice(20..20, [1, 1, 1, 0]);
        check(&frame(&[], 0x0800, &options), Some(51));
    }

    #[test]
    fn a_frame_that_does_not_hold_its_packet_is_of_none() {
        for (ethertype, packet) in [(0x0800, V2), (0x0800, V3), (0x86dd, &v6()[..])] {
            let whole = frame(&[], ethertype, packet);
            for length in 0..whole.len() {
                check(&whole[..length], None);
            }
        }
        // IP's length ends in the header.
        let mut short = V3.to_vec();
        short[3] = 20 + 7;
        check(&frame(&[], 0x0800, &short), None);
        let mut short = v6();
        short[5] = 7;
        check(&frame(&[], 0x86dd, &short), None);
    }

    #[test]
    fn other_packets_are_of_none() {
        let change = |packet: &[u8], at: usize, byte: u8| {
            let mut packet = packet.to_vec();
            packet[at] = byte;
            packet
        };
        // IP version 5, a header of 16 bytes, ICMP, OSPF, a fragment offset.
        for (at, byte) in [(0, 0x55), (0, 0x44), (9, 1), (9, 89), (7, 1)] {
            check(&frame(&[], 0x0800, &change(V2, at, byte)), None);
        }
        // More fragments of what begins here.
        check(&frame(&[], 0x0800, &change(V2, 6, 0x20)), Some(51));
        // IP version 4, hop-by-hop options, TCP.
        for (at, byte) in [(0, 0x4c), (6, 0), (6, 6)] {
            check(&frame(&[], 0x86dd, &change(&v6(), at, byte)), None);
        }
        check(&frame(&[], 0x86dd, V2), None);
        check(&frame(&[], 0x0806, V2), None);
    }

    #[test]
    fn a_virtual_mac_address_names_its_router_and_no_other_address_does() {
        let router = |to: [u8; 6]| {
            let mut frame = [0x33; 12];
            frame[..6].copy_from_slice(&to);
            router_of_mac(pod::from_bytes(&frame).expect("three words"))
        };
        for vrid in [0, 1, 51, 255] {
            assert_eq!(router([0, 0, 0x5e, 0, 1, vrid]), Some(index(Family::V4, vrid)));
            assert_eq!(router([0, 0, 0x5e, 0, 2, vrid]), Some(index(Family::V6, vrid)));
        }
        let near = [[0, 0, 0x5e, 0, 0, 1], [0, 0, 0x5e, 0, 3, 1], [1, 0, 0x5e, 0, 1, 1]];
        let far = [[0, 0, 0x5e, 1, 1, 1], [0xff; 6], [0; 6]];
        assert!(near.into_iter().chain(far).all(|mac| router(mac).is_none()));
    }

    #[test]
    fn every_number_is_one_routers() {
        for number in 0..VIRTUAL_ROUTERS {
            let (family, vrid) = of_index(number);
            assert_eq!(index(family, vrid), number);
        }
    }
}
