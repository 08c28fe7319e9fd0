//! VLAN tags, IPv4 options, IPv6 extension headers, and fragments of what is not ours.

use lb_common::service::{METHOD_DR, METHOD_NAT};

use crate::cut::cut;
use crate::frames::{Frame, L4, Tag, flag};
use crate::rig::*;
use crate::services::*;

/// Untagged, 802.1Q, 802.1ad, QinQ of either outer type; with priorities.
const TAGGINGS: [&[Tag]; 5] = [
    &[],
    &[(0x8100, 0x6005)],
    &[(0x88a8, 0x0007)],
    &[(0x8100, 0x0009), (0x8100, 0x200a)],
    &[(0x88a8, 0xe00b), (0x8100, 0x0fff)],
];

#[test]
fn tags_of_both_sides_are_exchanged_whatever_their_number() {
    with(1000, |rig| {
        for (method, v6) in KINDS {
            for (n, out) in (0..).zip(TAGGINGS) {
                let listen = vip(v6, 80 + u16::from(method) * 10 + n);
                let mut wanted = Wanted::new(method, TCP, listen, &servers(v6, 1, listen.1));
                wanted.tags = out.to_vec();
                let service = rig.install(&wanted)?;
                for (m, tags) in (0..).zip(TAGGINGS) {
                    both_ways(rig, &service, v6, m, tags);
                }
            }
        }
        Ok(())
    });
}

/// A request with these tags, twice, and its reply.
fn both_ways(rig: &mut Rig, service: &Installed, v6: bool, n: u16, tags: &[Tag]) {
    for l4 in [L4::Tcp(flag::SYN), L4::Tcp(flag::ACK)] {
        let mut request = service.request(l4, client(v6, n));
        request.tags = tags.to_vec();
        rig.becomes(&request, CLIENT_SIDE, &service.sent(&request, 0), REDIRECT);
        if service.wanted.method == METHOD_NAT {
            let reply = service.reply(L4::Tcp(flag::SYN | flag::ACK), 0, client(v6, n));
            rig.becomes(&reply, SERVER_SIDE, &service.returned(&reply, &request), REDIRECT);
        }
    }
}

#[test]
fn a_third_tag_and_an_inner_provider_tag_are_not_ours() {
    with(100, |rig| {
        let service =
            rig.install(&Wanted::new(METHOD_DR, TCP, vip(false, 80), &servers(false, 1, 80)))?;
        let mut frame = service.request(L4::Tcp(flag::SYN), client(false, 0));
        for tags in [vec![(0x8100, 1); 3], vec![(0x88a8, 1), (0x88a8, 2)], vec![(0x9100, 3)]] {
            frame.tags = tags;
            rig.passes(&frame.bytes(), CLIENT_SIDE);
        }
        Ok(())
    });
}

#[test]
fn ipv4_options_of_every_length_stay_in_the_packet() {
    with(1000, |rig| {
        for method in [METHOD_DR, METHOD_NAT] {
            for (protocol, l4) in [(TCP, L4::Tcp(flag::SYN)), (UDP, L4::Udp)] {
                let listen = vip(false, 80 + u16::from(method));
                let wanted = Wanted::new(method, protocol, listen, &servers(false, 1, listen.1));
                let service = rig.install(&wanted)?;
                for n in 1..=10u16 {
                    let mut request = service.request(l4, client(false, n));
                    // A timestamp option (RFC 791) as long as the room, but for its last byte.
                    request.options = vec![0x44; usize::from(n) * 4];
                    request.tags = if n % 2 == 0 { vec![(0x8100, n)] } else { Vec::new() };
                    rig.becomes(&request, CLIENT_SIDE, &service.sent(&request, 0), REDIRECT);
                    if method == METHOD_NAT {
                        let mut reply = service.reply(l4, 0, client(false, n));
                        reply.options = vec![1; usize::from(n) * 4];
                        let returned = service.returned(&reply, &request);
                        rig.becomes(&reply, SERVER_SIDE, &returned, REDIRECT);
                    }
                }
            }
        }
        Ok(())
    });
}

/// An extension header of `units` times eight bytes after its first eight.
fn extension(number: u8, units: u8) -> (u8, Vec<u8>) {
    let mut bytes = vec![0; 8 + 8 * usize::from(units)];
    bytes[1] = units;
    (number, bytes)
}

/// A routing header with this many segments left.
fn routing(left: u8) -> (u8, Vec<u8>) {
    (43, vec![0, 2, 0, left, 0, 0, 0, 0, 0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9])
}

/// A fragment header (RFC 8200 4.5): offset in units of eight bytes, and whether more follow.
fn fragment(offset: u16, more: bool) -> (u8, Vec<u8>) {
    let [high, low] = (offset << 3 | u16::from(more)).to_be_bytes();
    (44, vec![0, 0, high, low, 1, 2, 3, 4])
}

/// An authentication header (RFC 4302), whose length counts in units of four bytes.
fn authentication() -> (u8, Vec<u8>) {
    let mut bytes = vec![0; 24];
    bytes[1] = 4;
    (51, bytes)
}

const HOPS: u8 = 0;
const DESTINATION: u8 = 60;

#[test]
fn ipv6_extension_headers_are_read_through() {
    let chains = [
        vec![extension(HOPS, 0)],
        vec![extension(DESTINATION, 3)],
        vec![routing(0)],
        vec![fragment(0, false)],
        vec![authentication()],
        vec![extension(HOPS, 1), extension(DESTINATION, 0), routing(0), fragment(0, false)],
        vec![
            extension(HOPS, 0),
            extension(DESTINATION, 0),
            routing(0),
            fragment(0, false),
            authentication(),
            extension(DESTINATION, 0),
        ],
        // The transport header begins at 14 + 40 + 456 = 510, one byte before the last place.
        vec![extension(DESTINATION, 56)],
    ];
    with(1000, |rig| {
        for method in [METHOD_DR, METHOD_NAT] {
            for (protocol, l4) in [(TCP, L4::Tcp(flag::SYN)), (UDP, L4::Udp)] {
                let listen = vip(true, 80 + u16::from(method));
                let wanted = Wanted::new(method, protocol, listen, &servers(true, 1, listen.1));
                let service = rig.install(&wanted)?;
                for (n, chain) in (0..).zip(&chains) {
                    let mut request = service.request(l4, client(true, n));
                    request.extensions.clone_from(chain);
                    for _ in 0..2 {
                        rig.becomes(&request, CLIENT_SIDE, &service.sent(&request, 0), REDIRECT);
                    }
                    if method == METHOD_NAT {
                        let mut reply = service.reply(l4, 0, client(true, n));
                        reply.extensions.clone_from(chain);
                        let returned = service.returned(&reply, &request);
                        rig.becomes(&reply, SERVER_SIDE, &returned, REDIRECT);
                    }
                }
            }
        }
        Ok(())
    });
}

#[test]
fn ipv6_headers_that_cannot_be_judged_are_not_ours() {
    with(100, |rig| {
        let service =
            rig.install(&Wanted::new(METHOD_DR, TCP, vip(true, 80), &servers(true, 1, 80)))?;
        let mut frame = service.request(L4::Tcp(flag::SYN), client(true, 0));
        let chains = [
            // The destination is not the final one.
            vec![routing(1)],
            vec![extension(HOPS, 0), routing(2)],
            // One header more than are read.
            vec![extension(DESTINATION, 0); 7],
            // Beyond the reach of the program.
            vec![extension(DESTINATION, 57)],
            // No next header, mobility, ESP.
            vec![(59, vec![0; 8])],
            vec![extension(135, 0)],
            vec![extension(50, 0)],
        ];
        for chain in chains {
            frame.extensions = chain;
            rig.passes(&frame.bytes(), CLIENT_SIDE);
        }
        Ok(())
    });
}

/// First, middle and last piece of a packet.
fn pieces(frame: &Frame) -> Vec<Vec<u8>> {
    let whole = Frame { payload: vec![7; 900], ..frame.clone() };
    cut(&whole, 4711, 400)
}

#[test]
fn fragments_to_others_and_of_other_protocols_pass() {
    with(100, |rig| {
        for v6 in [false, true] {
            let service =
                rig.install(&Wanted::new(METHOD_DR, UDP, vip(v6, 80), &servers(v6, 1, 80)))?;
            let ours = service.request(L4::Udp, client(v6, 0));
            let others = Frame { destination: servers(v6, 1, 80)[0].0, ..ours.clone() };
            let ping = Frame { l4: L4::Raw(if v6 { 58 } else { 1 }), ..ours };
            for piece in pieces(&others).iter().chain(&pieces(&ping)) {
                rig.passes(piece, CLIENT_SIDE);
            }
        }
        Ok(())
    });
}
