//! What is not ours goes to the stack as it came.

use std::net::IpAddr;

use lb_common::service::{METHOD_DR, METHOD_NAT};

use crate::frames::{Frame, L4, flag};
use crate::rig::*;
use crate::services::*;

/// Services of both methods and protocols on one virtual address a family.
fn install_all(rig: &mut Rig) -> anyhow::Result<Vec<Installed>> {
    let mut all = Vec::new();
    for (method, v6) in KINDS {
        for protocol in [TCP, UDP] {
            let listen = vip(v6, 80 + u16::from(method));
            let wanted = Wanted::new(method, protocol, listen, &servers(v6, 2, listen.1));
            all.push(rig.install(&wanted)?);
        }
    }
    Ok(all)
}

fn address(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// A frame as a client's router sends it.
fn frame(l4: L4, source: IpAddr, destination: IpAddr, port: u16) -> Frame {
    let mut frame = Frame::new(l4, (source, 40_000), (destination, port));
    (frame.to, frame.from) = (CLIENT_SIDE_MAC, CLIENT_MAC);
    frame
}

#[test]
fn what_the_director_itself_is_asked_reaches_it() {
    with(100, |rig| {
        install_all(rig)?;
        let mut arp = vec![0xff; 6];
        arp.extend(CLIENT_MAC);
        arp.extend([8, 6, 0, 1, 8, 0, 6, 4, 0, 1]);
        arp.extend(CLIENT_MAC);
        arp.extend([198, 51, 100, 1, 0, 0, 0, 0, 0, 0, 203, 0, 113, 1]);
        rig.passes(&arp, CLIENT_SIDE);
        for v6 in [false, true] {
            let (here, there) = (client(v6, 0).0, vip(v6, 80).0);
            let own = address(if v6 { "2001:db8:c::fe" } else { "198.51.100.254" });
            let many = address(if v6 { "ff02::12" } else { "224.0.0.18" });
            let (echo, solicit) = if v6 { ([128, 0], [135, 0]) } else { ([8, 0], [13, 0]) };
            let icmp = L4::Raw(if v6 { 58 } else { 1 });
            let rows = [
                Frame { payload: [&echo[..], &[0; 62]].concat(), ..frame(icmp, here, there, 0) },
                Frame { payload: [&solicit[..], &[0; 22]].concat(), ..frame(icmp, here, there, 0) },
                Frame { ttl: 255, payload: vec![0x31; 20], ..frame(L4::Raw(112), here, many, 0) },
                Frame { payload: vec![0; 20], ..frame(L4::Raw(112), here, there, 0) },
                frame(L4::Tcp(flag::SYN), here, own, 22),
                frame(L4::Tcp(flag::ACK), here, own, 22),
                frame(L4::Udp, here, own, 53),
                frame(L4::Raw(47), here, there, 0),
            ];
            for row in rows {
                rig.passes(&row.bytes(), CLIENT_SIDE);
            }
        }
        Ok(())
    });
}

#[test]
fn an_unknown_port_of_a_virtual_address_is_the_stacks() {
    with(100, |rig| {
        install_all(rig)?;
        for v6 in [false, true] {
            for l4 in [L4::Tcp(flag::SYN), L4::Tcp(flag::ACK), L4::Tcp(flag::RST), L4::Udp] {
                for ttl in [64, 1] {
                    let row = frame(l4, client(v6, 0).0, vip(v6, 0).0, 443);
                    rig.passes(&Frame { ttl, ..row }.bytes(), CLIENT_SIDE);
                }
            }
        }
        Ok(())
    });
}

#[test]
fn a_new_connection_in_a_frame_for_another_station_is_not_ours() {
    with(100, |rig| {
        for service in install_all(rig)? {
            let v6 = service.wanted.listen.0.is_ipv6();
            let l4 = if service.wanted.protocol == TCP { L4::Tcp(flag::SYN) } else { L4::Udp };
            let mut frame = service.request(l4, client(v6, 0));
            for to in [[0x02, 0, 0, 0, 0x0d, 9], [0xff; 6], [0x01, 0, 0x5e, 1, 2, 3]] {
                frame.to = to;
                rig.passes(&frame.bytes(), CLIENT_SIDE);
            }
            // Of an interface that nothing is known of, every frame is ours.
            rig.interface(CLIENT_SIDE, [0; 6], 0)?;
            frame.to = [0x02, 0, 0, 0, 0x0d, 9];
            rig.becomes(&frame, CLIENT_SIDE, &service.sent(&frame, 0), REDIRECT);
            rig.interface(CLIENT_SIDE, CLIENT_SIDE_MAC, 0)?;
        }
        Ok(())
    });
}

#[test]
fn headers_that_are_cut_off_anywhere_are_the_stacks() {
    with(1000, |rig| {
        for service in install_all(rig)? {
            let v6 = service.wanted.listen.0.is_ipv6();
            let l4 = if service.wanted.protocol == TCP { L4::Tcp(flag::SYN) } else { L4::Udp };
            for tags in [vec![], vec![(0x8100, 1)], vec![(0x88a8, 1), (0x8100, 2)]] {
                let mut frame = service.request(l4, client(v6, 0));
                frame.payload = Vec::new();
                frame.tags = tags;
                let whole = frame.bytes();
                for length in 14..whole.len() {
                    rig.passes(&whole[..length], CLIENT_SIDE);
                }
                let next =
                    Frame { ports: (41_000 + frame.tags.len() as u16, frame.ports.1), ..frame };
                let (out, _) = rig.observe(&next.bytes(), CLIENT_SIDE);
                assert_eq!(out.verdict, REDIRECT, "the whole frame is ours");
            }
        }
        Ok(())
    });
}

#[test]
fn lengths_and_versions_that_lie_are_the_stacks() {
    with(100, |rig| {
        let v4 =
            rig.install(&Wanted::new(METHOD_DR, TCP, vip(false, 80), &servers(false, 1, 80)))?;
        let v6 =
            rig.install(&Wanted::new(METHOD_NAT, TCP, vip(true, 80), &servers(true, 1, 80)))?;
        let good4 = v4.request(L4::Tcp(flag::SYN), client(false, 0)).bytes();
        let good6 = v6.request(L4::Tcp(flag::SYN), client(true, 0)).bytes();
        let rows: [(&[u8], usize, &[u8]); 10] = [
            (&good4, 14, &[0x44]),  // a header of 16 bytes
            (&good4, 14, &[0x40]),  // none at all
            (&good4, 14, &[0x4f]),  // 60 bytes, more than there are
            (&good4, 14, &[0x55]),  // IP version 5
            (&good4, 16, &[0, 39]), // the packet ends within the TCP header
            (&good4, 16, &[0, 0]),  // a length of zero
            (&good4, 12, &[0x86, 0xdd]),
            (&good6, 14, &[0x40]),
            (&good6, 18, &[0, 19]),
            (&good6, 12, &[0x08, 0x00]),
        ];
        for (good, at, bytes) in rows {
            let mut frame = good.to_vec();
            frame[at..at + bytes.len()].copy_from_slice(bytes);
            rig.passes(&frame, CLIENT_SIDE);
        }
        Ok(())
    });
}
