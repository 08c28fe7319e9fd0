//! Requests and replies of every method, family and protocol, as whole frames.

use anyhow::{Context, Result};
use lb_common::service::{METHOD_DR, METHOD_NAT, Traffic};
use lb_common::verdict::Counter;

use crate::frames::{Frame, L4, flag};
use crate::rig::*;
use crate::services::*;

/// Runs `body` for every method, family and protocol, each with a service of two servers.
fn each_kind(body: impl Fn(&mut Rig, &Installed, bool, L4) -> Result<()> + Sync) {
    with(1000, |rig| {
        for (n, (method, v6)) in (0..).zip(KINDS) {
            for (protocol, l4) in [(TCP, L4::Tcp(flag::SYN)), (UDP, L4::Udp)] {
                let wanted =
                    Wanted::new(method, protocol, vip(v6, 80 + n), &servers(v6, 2, 8080 + n));
                let service = rig.install(&wanted)?;
                body(rig, &service, v6, l4)
                    .with_context(|| format!("method {method} v6 {v6} {l4:?}"))?;
            }
        }
        Ok(())
    });
}

/// The flags of a packet in the middle of a connection.
fn later(l4: L4) -> L4 {
    if matches!(l4, L4::Tcp(_)) { L4::Tcp(flag::ACK) } else { l4 }
}

/// The flags of a server's first answer.
fn answer(l4: L4) -> L4 {
    if matches!(l4, L4::Tcp(_)) { L4::Tcp(flag::SYN | flag::ACK) } else { l4 }
}

#[test]
fn requests_reach_the_real_server_of_their_connection() {
    each_kind(|rig, service, v6, l4| {
        for (n, server) in [(0, 0), (1, 1), (2, 0)] {
            let first = service.request(l4, client(v6, n));
            rig.becomes(&first, CLIENT_SIDE, &service.sent(&first, server), REDIRECT);
            let next =
                Frame { payload: b"more".to_vec(), ..service.request(later(l4), client(v6, n)) };
            for _ in 0..2 {
                rig.becomes(&next, CLIENT_SIDE, &service.sent(&next, server), REDIRECT);
            }
        }
        Ok(())
    });
}

#[test]
fn nat_replies_come_from_the_virtual_address() {
    each_kind(|rig, service, v6, l4| {
        let request = service.request(l4, client(v6, 0));
        rig.becomes(&request, CLIENT_SIDE, &service.sent(&request, 0), REDIRECT);
        for l4 in [answer(l4), later(l4)] {
            let reply = service.reply(l4, 0, client(v6, 0));
            if service.wanted.method == METHOD_NAT {
                let returned = service.returned(&reply, &request);
                rig.becomes(&reply, SERVER_SIDE, &returned, REDIRECT);
            } else {
                rig.passes(&reply.bytes(), SERVER_SIDE);
            }
        }
        Ok(())
    });
}

#[test]
fn one_interface_for_both_sides_sends_back_by_it() {
    with(1000, |rig| {
        for (method, v6) in KINDS {
            let listen = vip(v6, 80 + u16::from(method));
            let mut wanted = Wanted::new(method, TCP, listen, &servers(v6, 1, 8080));
            wanted.egress = CLIENT_SIDE;
            let service = rig.install(&wanted)?;
            let request = service.request(L4::Tcp(flag::SYN), client(v6, 0));
            rig.becomes(&request, CLIENT_SIDE, &service.sent(&request, 0), TX);
            if method == METHOD_NAT {
                let reply = service.reply(L4::Tcp(flag::SYN | flag::ACK), 0, client(v6, 0));
                rig.becomes(&reply, CLIENT_SIDE, &service.returned(&reply, &request), TX);
            }
        }
        Ok(())
    });
}

#[test]
fn a_udp_checksum_that_was_not_computed_stays_so() {
    with(1000, |rig| {
        for (method, v6) in KINDS {
            let listen = vip(v6, 53 + u16::from(method));
            let service = rig.install(&Wanted::new(method, UDP, listen, &servers(v6, 1, 53)))?;
            let request = service.request(L4::UdpUnsummed, client(v6, 0));
            for _ in 0..2 {
                rig.becomes(&request, CLIENT_SIDE, &service.sent(&request, 0), REDIRECT);
            }
            if method == METHOD_NAT {
                let reply = service.reply(L4::UdpUnsummed, 0, client(v6, 0));
                rig.becomes(&reply, SERVER_SIDE, &service.returned(&reply, &request), REDIRECT);
            }
        }
        Ok(())
    });
}

/// `change` makes a frame into another; the payload is chosen so that the latter's sum is zero.
fn summing_to_zero(mut frame: Frame, change: impl Fn(&Frame) -> Frame) -> Frame {
    frame.payload = vec![0, 0];
    // The missing word is the complement of the sum without it, which is what is computed.
    let missing = change(&frame).computed_udp_checksum();
    frame.payload = missing.to_be_bytes().to_vec();
    assert_eq!(change(&frame).computed_udp_checksum(), 0);
    frame
}

#[test]
fn a_udp_checksum_that_becomes_zero_is_sent_as_all_ones() {
    with(1000, |rig| {
        for v6 in [false, true] {
            let wanted = Wanted::new(METHOD_NAT, UDP, vip(v6, 53), &servers(v6, 1, 5353));
            let service = rig.install(&wanted)?;
            let request = service.request(L4::Udp, client(v6, 0));
            let request = summing_to_zero(request, |f| service.sent(f, 0));
            let sent = service.sent(&request, 0);
            assert!(sent.bytes().windows(2).any(|pair| pair == [0xff, 0xff]));
            rig.becomes(&request, CLIENT_SIDE, &sent, REDIRECT);
            let reply = service.reply(L4::Udp, 0, client(v6, 0));
            let reply = summing_to_zero(reply, |f| service.returned(f, &request));
            rig.becomes(&reply, SERVER_SIDE, &service.returned(&reply, &request), REDIRECT);
        }
        Ok(())
    });
}

#[test]
fn a_packet_at_the_end_of_its_time_to_live_is_dropped() {
    each_kind(|rig, service, v6, l4| {
        let request = service.request(l4, client(v6, 0));
        rig.becomes(&request, CLIENT_SIDE, &service.sent(&request, 0), REDIRECT);
        let last = Frame { ttl: 2, ..request.clone() };
        rig.becomes(&last, CLIENT_SIDE, &service.sent(&last, 0), REDIRECT);
        for ttl in [1, 0] {
            let over = Frame { ttl, ..request.clone() };
            rig.drops(&over, CLIENT_SIDE, Counter::TtlExceeded);
            if service.wanted.method == METHOD_NAT {
                let reply = Frame { ttl, ..service.reply(later(l4), 0, client(v6, 0)) };
                rig.drops(&reply, SERVER_SIDE, Counter::TtlExceeded);
            }
            let new = Frame { ttl, ..service.request(l4, client(v6, 9)) };
            rig.drops(&new, CLIENT_SIDE, Counter::TtlExceeded);
        }
        Ok(())
    });
}

#[test]
fn payloads_of_any_length_and_padding_survive() {
    each_kind(|rig, service, v6, l4| {
        // 5,000 bytes do not fit the linear part: the rest of the frame is in fragments of memory.
        for (n, length) in (0..).zip([0, 1, 2, 3, 17, 1000, 1399, 1400, 5000]) {
            let mut request = service.request(l4, client(v6, n));
            request.payload = (0..length).map(|i| (i * 7) as u8).collect();
            request.padding = if length < 20 { 18 } else { 0 };
            let server = usize::from(n % 2);
            rig.becomes(&request, CLIENT_SIDE, &service.sent(&request, server), REDIRECT);
            if service.wanted.method == METHOD_NAT {
                let mut reply = service.reply(answer(l4), server, client(v6, n));
                (reply.payload, reply.padding) = (request.payload.clone(), request.padding);
                rig.becomes(&reply, SERVER_SIDE, &service.returned(&reply, &request), REDIRECT);
            }
        }
        Ok(())
    });
}

#[test]
fn traffic_is_counted_exactly_in_packets_and_in_bytes_from_the_ip_header_on() {
    each_kind(|rig, service, v6, l4| {
        let mut expected = [Traffic::zeroed(); 2];
        for n in 0..5u16 {
            let server = usize::from(n % 2);
            let of = &mut expected[server];
            of.connections += 1;
            for round in 0..3 {
                let l4 = if round == 0 { l4 } else { later(l4) };
                let mut request = service.request(l4, client(v6, n));
                request.payload = vec![7; 100 * usize::from(n) + round];
                request.padding = 9;
                request.tags = vec![(0x8100, 5)];
                rig.becomes(&request, CLIENT_SIDE, &service.sent(&request, server), REDIRECT);
                of.packets_in += 1;
                of.bytes_in += request.ip_length();
                if service.wanted.method == METHOD_DR {
                    continue;
                }
                let mut reply = service.reply(answer(l4), server, client(v6, n));
                reply.payload = vec![8; 1000];
                rig.becomes(&reply, SERVER_SIDE, &service.returned(&reply, &request), REDIRECT);
                of.packets_out += 1;
                of.bytes_out += reply.ip_length();
            }
        }
        for (server, expected) in expected.iter().enumerate() {
            assert_eq!(rig.traffic(service.index[server])?, *expected);
        }
        Ok(())
    });
}
