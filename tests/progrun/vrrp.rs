//! VRRP: every frame is counted for its virtual router and passes, and virtual MAC addresses are
//! served while this node is master of theirs.

use std::net::IpAddr;

use anyhow::Result;
use harness::bpf::Map;
use lb_common::abi;
use lb_common::service::{METHOD_DR, METHOD_NAT};
use lb_common::wire::vrrp::Family;
use lb_user::plan::{MapOp, VirtualMac};

use crate::frames::{Frame, L4, Mac, flag};
use crate::rig::*;
use crate::services::*;

const VRRP: L4 = L4::Raw(112);

/// Adverts of keepalived 2.2.7 for VRID 51: version 2 with a password, version 3, version 3 for IPv6.
const V2: [u8; 20] = [
    0x21, 0x33, 0x96, 0x01, 0x01, 0x01, 0xda, 0xb6, 0x0a, 0x4d, 0x00, 0x64, 0x31, 0x31, 0x31, 0x31,
    0x00, 0x00, 0x00, 0x00,
];
const V3: [u8; 12] = [0x31, 0x33, 0x96, 0x01, 0x00, 0x64, 0x42, 0xd9, 0x0a, 0x4d, 0x00, 0x64];
const V3_IPV6: [u8; 40] = [
    0x31, 0x33, 0x96, 0x02, 0x00, 0x64, 0xe9, 0x67, // fe80::77:100
    0xfe, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x77, 0x01, 0x00, // fd77::100
    0xfd, 0x77, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x01, 0x00,
];

/// A router's frame with this message, to all routers.
fn advert(v6: bool, message: &[u8]) -> Frame {
    let end = |text: &str| -> IpAddr { text.parse().expect("an address") };
    let (from, to) = match v6 {
        false => (end("10.77.0.1"), end("224.0.0.18")),
        true => (end("fe80::989a:b1ff:fec1:904"), end("ff02::12")),
    };
    Frame {
        to: if v6 { [0x33, 0x33, 0, 0, 0, 0x12] } else { [0x01, 0, 0x5e, 0, 0, 0x12] },
        from: virtual_mac(if v6 { Family::V6 } else { Family::V4 }, 51),
        ttl: 255,
        payload: message.to_vec(),
        ..Frame::new(VRRP, (from, 0), (to, 0))
    }
}

fn adverts() -> [Frame; 3] {
    [advert(false, &V2), advert(false, &V3), advert(true, &V3_IPV6)]
}

/// The address of a virtual router, as RFC 9568 7.3 writes it.
fn virtual_mac(family: Family, vrid: u8) -> Mac {
    match family {
        Family::V4 => [0x00, 0x00, 0x5e, 0x00, 0x01, vrid],
        Family::V6 => [0x00, 0x00, 0x5e, 0x00, 0x02, vrid],
    }
}

impl Rig {
    /// The frame passes, and these are all VRRP frames that were ever counted.
    #[track_caller]
    fn hears(&mut self, frame: &[u8], expected: &[(Family, u8, u64)]) {
        self.passes(frame, CLIENT_SIDE);
        let heard = self.dataplane.tables().vrrp_frames().expect("the frames that were counted");
        assert_eq!(heard, expected);
    }

    fn serve(&mut self, family: Family, vrid: u8, served: bool) -> Result<()> {
        self.apply(&MapOp::SetVirtualMac { mac: VirtualMac { family, vrid }, served })
    }
}

#[test]
fn every_advert_is_counted_for_its_router_and_passes() {
    with(100, |rig| {
        rig.hears(&[0; 14], &[]);
        for entered_by_guard in [false, true] {
            if entered_by_guard {
                rig.enter_by_guard()?;
            }
            // What was counted through the other program before.
            let before = if entered_by_guard { 6 } else { 0 };
            let [v2, v3, v3_ipv6] = adverts();
            let mut v4 = 2 * before;
            for mut frame in [v2, v3] {
                // Untagged, padded as short frames are, tagged, with an option.
                let rows: [&dyn Fn(&mut Frame); 6] = [
                    &|_| {},
                    &|frame| frame.padding = 60 - frame.bytes().len().min(60),
                    &|frame| frame.tags = vec![(0x8100, 7)],
                    &|frame| frame.tags = vec![(0x88a8, 7), (0x8100, 8)],
                    &|frame| frame.tags = vec![],
                    &|frame| frame.options = vec![0x94, 4, 0, 0],
                ];
                for change in rows {
                    change(&mut frame);
                    v4 += 1;
                    let v6 = (before > 0).then_some((Family::V6, 51, before));
                    let expected: Vec<_> = [(Family::V4, 51, v4)].into_iter().chain(v6).collect();
                    rig.hears(&frame.bytes(), &expected);
                }
            }
            for n in 1..=6 {
                let frame = Frame { padding: n as usize, ..v3_ipv6.clone() };
                let expected = [(Family::V4, 51, v4), (Family::V6, 51, before + n)];
                rig.hears(&frame.bytes(), &expected);
            }
        }
        Ok(())
    });
}

#[test]
fn each_router_of_either_family_has_its_own_count() {
    with(100, |rig| {
        let mut expected = Vec::new();
        for (family, message) in [(Family::V4, &V3[..]), (Family::V6, &V3_IPV6[..])] {
            for (vrid, count) in [(1, 1), (2, 3), (255, 2)] {
                let mut message = message.to_vec();
                message[1] = vrid;
                let frame = advert(family == Family::V6, &message).bytes();
                for _ in 0..count {
                    rig.passes(&frame, CLIENT_SIDE);
                }
                expected.push((family, vrid, count));
            }
        }
        // A router is not told by its message alone: unicast, any version, a broken checksum.
        let mut broken = V2.to_vec();
        (broken[0], broken[1], broken[6]) = (0x41, 9, 0);
        let mut frame = advert(false, &broken);
        (frame.to, frame.ttl) = (CLIENT_SIDE_MAC, 1);
        frame.destination = "10.77.0.2".parse()?;
        expected.insert(2, (Family::V4, 9, 1));
        rig.hears(&frame.bytes(), &expected);
        Ok(())
    });
}

#[test]
fn frames_that_were_cut_off_are_not_counted() {
    with(100, |rig| {
        for frame in adverts() {
            for tags in [vec![], vec![(0x8100, 7)]] {
                let whole = Frame { tags, ..frame.clone() }.bytes();
                for length in 14..whole.len() {
                    rig.hears(&whole[..length], &[]);
                }
            }
            // Long enough a frame, but by IP's length the message ends in its header.
            rig.hears(
                &Frame { payload: frame.payload[..7].to_vec(), padding: 40, ..frame }.bytes(),
                &[],
            );
        }
        // A later fragment has no VRID, whatever is where one would be.
        let [v2, _, _] = adverts();
        rig.hears(&Frame { fragment: 1, ..v2.clone() }.bytes(), &[]);
        rig.hears(&Frame { fragment: 0x2000, ..v2 }.bytes(), &[(Family::V4, 51, 1)]);
        Ok(())
    });
}

#[test]
fn other_protocols_are_not_counted() {
    with(100, |rig| {
        for frame in adverts() {
            let v6 = frame.source.is_ipv6();
            for protocol in [0, 1, 2, 4, 41, 47, 50, 51, 58, 89, 111, 113, 132] {
                rig.hears(&Frame { l4: L4::Raw(protocol), ..frame.clone() }.bytes(), &[]);
            }
            for l4 in [L4::Tcp(flag::SYN), L4::Udp] {
                rig.hears(&Frame { l4, ports: (112, 112), ..frame.clone() }.bytes(), &[]);
            }
            let mut arp = frame.bytes();
            arp[12..14].copy_from_slice(&[0x08, 0x06]);
            rig.hears(&arp, &[]);
            if v6 {
                let extensions = vec![(0, vec![0; 8])];
                rig.hears(&Frame { extensions, ..frame }.bytes(), &[]);
            }
        }
        Ok(())
    });
}

#[test]
fn counts_of_all_cpus_are_added() {
    with(100, |rig| {
        let map = Map::open(&rig.dataplane.directory().join(abi::MAP_VRRP_FRAMES))?;
        let cpus = map.value_size() / 8;
        let counts: Vec<u8> = (1..=cpus as u64).flat_map(u64::to_ne_bytes).collect();
        map.write(&(256u32 + 51).to_ne_bytes(), &counts)?;
        let sum = (1..=cpus as u64).sum::<u64>();
        let [_, _, v3_ipv6] = adverts();
        rig.hears(&v3_ipv6.bytes(), &[(Family::V6, 51, sum + 1)]);
        Ok(())
    });
}

#[test]
fn a_virtual_mac_address_is_served_by_its_master_only() {
    with(1000, |rig| {
        for (method, v6) in KINDS {
            let listen = vip(v6, 80 + u16::from(method));
            let service = rig.install(&Wanted::new(method, TCP, listen, &servers(v6, 1, 8080)))?;
            for (n, (own, other)) in
                (0..).step_by(10).zip([(Family::V4, Family::V6), (Family::V6, Family::V4)])
            {
                let request =
                    |n, to| Frame { to, ..service.request(L4::Tcp(flag::SYN), client(v6, n)) };
                let to = virtual_mac(own, 51);
                rig.passes(&request(n, to).bytes(), CLIENT_SIDE);
                rig.serve(own, 51, true)?;
                let served = request(n, to);
                for l4 in [L4::Tcp(flag::SYN), L4::Tcp(flag::ACK)] {
                    let frame = Frame { l4, ..served.clone() };
                    rig.becomes(&frame, CLIENT_SIDE, &service.sent(&frame, 0), REDIRECT);
                }
                // Not for another router, not for another's family, nor for any other station.
                let near = [[0, 0, 0x5e, 0, 3, 51], [0, 0, 0x5e, 1, 1, 51], [2, 0, 0x5e, 0, 1, 51]];
                let strange = [[0xff; 6], [0x02, 0, 0, 0, 0x0d, 9], [0x01, 0, 0x5e, 0, 0, 51]];
                let routers = [virtual_mac(own, 52), virtual_mac(other, 51), virtual_mac(own, 0)];
                for to in near.into_iter().chain(strange).chain(routers) {
                    rig.passes(&request(n + 1, to).bytes(), CLIENT_SIDE);
                }
                // Its own address is always ours.
                let frame = request(n + 2, CLIENT_SIDE_MAC);
                rig.becomes(&frame, CLIENT_SIDE, &service.sent(&frame, 0), REDIRECT);
                rig.serve(own, 51, false)?;
                rig.passes(&request(n + 3, to).bytes(), CLIENT_SIDE);
            }
        }
        Ok(())
    });
}

#[test]
fn what_was_sent_to_a_virtual_mac_address_is_answered_from_the_interfaces_own() {
    with(1000, |rig| {
        rig.serve(Family::V4, 51, true)?;
        rig.serve(Family::V6, 52, true)?;
        for v6 in [false, true] {
            let to = if v6 { virtual_mac(Family::V6, 52) } else { virtual_mac(Family::V4, 51) };
            let nat =
                rig.install(&Wanted::new(METHOD_NAT, TCP, vip(v6, 80), &servers(v6, 1, 8080)))?;
            let request = Frame { to, ..nat.request(L4::Tcp(flag::SYN), client(v6, 0)) };
            // The last hop is learnt from the first request, kept by the next, and learnt anew from
            // one of another router.
            for from in [CLIENT_MAC, CLIENT_MAC, [2, 0, 0, 0, 0x0c, 9]] {
                let request = Frame { from, ..request.clone() };
                rig.becomes(&request, CLIENT_SIDE, &nat.sent(&request, 0), REDIRECT);
                let reply = nat.reply(L4::Tcp(flag::SYN | flag::ACK), 0, client(v6, 0));
                let mut returned = nat.returned(&reply, &request);
                returned.from = CLIENT_SIDE_MAC;
                rig.becomes(&reply, SERVER_SIDE, &returned, REDIRECT);
            }
            let mut wanted = Wanted::new(METHOD_DR, UDP, vip(v6, 81), &servers(v6, 1, 81));
            wanted.mtu = 1300;
            let narrow = rig.install(&wanted)?;
            let mut big = Frame { to, ..narrow.request(L4::Udp, client(v6, 0)) };
            (big.fragment, big.payload) = (0x4000, vec![0; 1400]);
            let (out, counted) = rig.observe(&big.bytes(), CLIENT_SIDE);
            assert_eq!((out.verdict, counted.get("path_mtu_told")), (TX, Some(&1)), "{counted:?}");
            assert_eq!(&out.frame[..12], [CLIENT_MAC, CLIENT_SIDE_MAC].concat());
        }
        Ok(())
    });
}
