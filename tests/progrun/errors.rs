//! ICMP errors: to the server or the client whose packet they quote, whole frames.

use std::net::IpAddr;

use anyhow::{Context, Result};
use lb_common::service::{EVENT_PATH_MTU, METHOD_DR, METHOD_NAT, METHOD_TUNNEL};
use lb_common::verdict::Counter;

use crate::frames::{Frame, L4, checksum, flag, octets};
use crate::rig::*;
use crate::services::*;
use crate::tunnels;

/// A router on the way, which reports an error.
fn router(v6: bool) -> IpAddr {
    if v6 { "2001:db8:9::1" } else { "198.51.100.99" }.parse().expect("an address")
}

/// An ICMP error about `quoted`, to its source, in the frame that `like` is in.
#[derive(Clone, Debug)]
struct Error {
    kind: [u8; 2],
    rest: u32,
    from: IpAddr,
    to: IpAddr,
    ttl: u8,
    /// The quoted packet's bytes.
    quote: Vec<u8>,
    /// The frame's head.
    head: Vec<u8>,
}

impl Error {
    /// "Too big" about a packet, of which `beyond` bytes after the header's first eight are quoted.
    fn about(packet: &Frame, beyond: usize, from: IpAddr) -> Self {
        let v6 = packet.source.is_ipv6();
        let plain = Frame { tags: Vec::new(), ..packet.clone() };
        let mut quote = plain.bytes()[14..].to_vec();
        let head = if v6 { 40 } else { 20 };
        quote.truncate(head + packet.options.len() + 8 + beyond);
        let kind = if v6 { [2, 0] } else { [3, 4] };
        Self { kind, rest: 1400, from, to: packet.source, ttl: 64, quote, head: Vec::new() }
    }

    fn bytes(&self) -> Vec<u8> {
        // The IP header of a frame that carries the message.
        let mut icmp = vec![self.kind[0], self.kind[1], 0, 0];
        icmp.extend(self.rest.to_be_bytes());
        icmp.extend(&self.quote);
        let v6 = self.to.is_ipv6();
        let ends = [octets(self.from), octets(self.to)].concat();
        let length = (icmp.len() as u32).to_be_bytes();
        let sum = if v6 {
            checksum(&[&ends, &length, &[0, 0, 0, 58], &icmp])
        } else {
            checksum(&[&icmp])
        };
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
        let mut carrier =
            Frame::new(L4::Raw(if v6 { 58 } else { 1 }), (self.from, 0), (self.to, 0));
        (carrier.ttl, carrier.payload) = (self.ttl, icmp);
        let bytes = carrier.bytes();
        [&self.head, &bytes[12..]].concat()
    }

    /// In a frame of these addresses and tags.
    fn in_frame(mut self, to: [u8; 6], from: [u8; 6], tags: &[(u16, u16)]) -> Self {
        self.head = [to, from].concat();
        for (kind, control) in tags {
            self.head.extend(kind.to_be_bytes());
            self.head.extend(control.to_be_bytes());
        }
        self
    }
}

/// An error about what a server of `service` sent to a client, as it comes to the director.
fn to_vip(service: &Installed, client: End, beyond: usize) -> Error {
    let mut packet = Frame::new(protocol(service), service.wanted.listen, client);
    packet.payload = vec![9; 200];
    let v6 = client.0.is_ipv6();
    Error::about(&packet, beyond, router(v6)).in_frame(CLIENT_SIDE_MAC, CLIENT_MAC, &[])
}

/// Good errors for the fuzzer, to a service and, with nat, to a client of it.
pub(crate) fn seeds(service: &Installed, client: End) -> Vec<Vec<u8>> {
    let mut all = vec![to_vip(service, client, 0).bytes(), to_vip(service, client, 40).bytes()];
    if service.wanted.method == METHOD_NAT {
        let inside = service.sent(&service.request(protocol(service), client), 0);
        let error = Error::about(&inside, 4, router(client.0.is_ipv6()));
        all.push(error.in_frame(CLIENT_SIDE_MAC, server_mac(0), &[]).bytes());
    }
    all
}

fn protocol(service: &Installed) -> L4 {
    if service.wanted.protocol == TCP { L4::Tcp(flag::ACK) } else { L4::Udp }
}

/// What it must be when it leaves for that server.
fn sent(service: &Installed, error: &Error, client: End, beyond: usize, server: usize) -> Vec<u8> {
    let mut expected = error.clone();
    if service.wanted.method == METHOD_NAT {
        let end = service.wanted.servers[server];
        let mut packet = Frame::new(protocol(service), end, client);
        packet.payload = vec![9; 200];
        expected = Error::about(&packet, beyond, error.from);
        expected.to = end.0;
    }
    expected.ttl -= 1;
    let tags = &service.wanted.tags;
    let (to, from) = (server_mac(service.index[server]), our_mac(service.wanted.egress));
    expected.in_frame(to, from, tags).bytes()
}

#[track_caller]
fn forwarded(rig: &mut Rig, bytes: &[u8], ingress: u32, expected: &[u8], verdict: u32) {
    let (out, counted) = rig.observe(bytes, ingress);
    assert_eq!(out.verdict, verdict, "{counted:?}");
    assert_same(&out.frame, expected);
    assert_eq!(drops_in(&counted), 0, "{counted:?}");
    assert_eq!(counted.get("icmp_errors_forwarded"), Some(&1), "{counted:?}");
}

/// Runs `body` with a service of two servers of every kind; the first client has the second one.
fn each_kind(body: impl Fn(&mut Rig, &Installed, bool) -> Result<()> + Sync) {
    with(1000, |rig| {
        for (n, (method, v6)) in (0..).zip(KINDS) {
            for (protocol, l4) in [(TCP, L4::Tcp(flag::SYN)), (UDP, L4::Udp)] {
                for tags in [&[][..], &[(0x8100, 3)]] {
                    let port = 80 + n + 10 * tags.len() as u16;
                    let ends = servers(v6, 2, 8080 + port);
                    let mut wanted = Wanted::new(method, protocol, vip(v6, port), &ends);
                    wanted.tags = tags.to_vec();
                    // The table for what is not known names the first one only.
                    (wanted.ring, wanted.maglev) = (vec![1], vec![0]);
                    let service = rig.install(&wanted)?;
                    let request = service.request(l4, client(v6, 0));
                    rig.becomes(&request, CLIENT_SIDE, &service.sent(&request, 1), REDIRECT);
                    body(rig, &service, v6)
                        .with_context(|| format!("method {method} v6 {v6} {protocol}"))?;
                }
            }
        }
        Ok(())
    });
}

#[test]
fn an_error_for_a_virtual_address_reaches_the_server_of_its_connection() {
    each_kind(|rig, service, v6| {
        let request = service.request(protocol(service), client(v6, 0));
        let before = rig.entry(&request)?;
        for beyond in [0, 12, 100] {
            for tags in [&[][..], &[(0x8100, 9)], &[(0x88a8, 1), (0x8100, 2)]] {
                let client = client(v6, 0);
                let error = to_vip(service, client, beyond);
                let error = error.in_frame(CLIENT_SIDE_MAC, CLIENT_MAC, tags);
                let expected = sent(service, &error, client, beyond, 1);
                forwarded(rig, &error.bytes(), CLIENT_SIDE, &expected, REDIRECT);
            }
        }
        assert_eq!(rig.entry(&request)?, before, "an error leaves no trace");
        Ok(())
    });
}

#[test]
fn an_error_about_no_known_connection_goes_by_the_maglev_table() {
    each_kind(|rig, service, v6| {
        let stranger = client(v6, 77);
        let error = to_vip(service, stranger, 0);
        let expected = sent(service, &error, stranger, 0, 0);
        forwarded(rig, &error.bytes(), CLIENT_SIDE, &expected, REDIRECT);
        let request = service.request(protocol(service), stranger);
        assert!(rig.entry(&request)?.is_none(), "an error makes no connection");
        // In a frame for another station it is none of ours.
        let foreign = error.in_frame([2, 9, 9, 9, 9, 9], CLIENT_MAC, &[]);
        rig.passes(&foreign.bytes(), CLIENT_SIDE);
        Ok(())
    });
}

#[test]
fn an_expired_connection_is_no_more_asked() {
    each_kind(|rig, service, v6| {
        let hz = rig.hz();
        rig.age(&service.request(protocol(service), client(v6, 0)), 400 * hz)?;
        let error = to_vip(service, client(v6, 0), 0);
        let expected = sent(service, &error, client(v6, 0), 0, 0);
        forwarded(rig, &error.bytes(), CLIENT_SIDE, &expected, REDIRECT);
        Ok(())
    });
}

#[test]
fn an_error_about_a_nat_request_reaches_its_client_from_the_virtual_address() {
    each_kind(|rig, service, v6| {
        if service.wanted.method != METHOD_NAT {
            return Ok(());
        }
        let request = service.request(protocol(service), client(v6, 0));
        let end = service.wanted.servers[1];
        for from in [end.0, router(v6)] {
            for beyond in [0, 12] {
                let inside = Frame {
                    destination: end.0,
                    ports: (request.ports.0, end.1),
                    ..request.clone()
                };
                let tags = &service.wanted.tags;
                let error = Error::about(&inside, beyond, from).in_frame(
                    SERVER_SIDE_MAC,
                    server_mac(service.index[1]),
                    tags,
                );
                let mut expected = Error::about(&request, beyond, service.wanted.listen.0)
                    .in_frame(request.from, request.to, &[]);
                expected.ttl -= 1;
                forwarded(rig, &error.bytes(), SERVER_SIDE, &expected.bytes(), REDIRECT);
            }
        }
        Ok(())
    });
}

#[test]
fn an_error_about_a_nat_connection_that_is_over_is_dropped() {
    with(1000, |rig| {
        for v6 in [false, true] {
            let wanted = Wanted::new(METHOD_NAT, TCP, vip(v6, 80), &servers(v6, 1, 8080));
            let mut service = rig.install(&wanted)?;
            let request = service.request(L4::Tcp(flag::SYN), client(v6, 0));
            rig.becomes(&request, CLIENT_SIDE, &service.sent(&request, 0), REDIRECT);
            rig.bump(&mut service, 0)?;
            let inside = service.sent(&request, 0);
            let error = Error::about(&inside, 0, router(v6)).in_frame(
                SERVER_SIDE_MAC,
                server_mac(service.index[0]),
                &[],
            );
            let (out, counted) = rig.observe(&error.bytes(), SERVER_SIDE);
            assert_eq!(out.verdict, DROP);
            assert_eq!(counted.get(Counter::ReplyWithoutConnection.name()), Some(&1));
        }
        Ok(())
    });
}

#[test]
fn what_is_not_about_a_connection_of_ours_passes() {
    with(1000, |rig| {
        for v6 in [false, true] {
            let service =
                rig.install(&Wanted::new(METHOD_NAT, TCP, vip(v6, 80), &servers(v6, 1, 8080)))?;
            let request = service.request(L4::Tcp(flag::SYN), client(v6, 0));
            rig.becomes(&request, CLIENT_SIDE, &service.sent(&request, 0), REDIRECT);
            let good = to_vip(&service, client(v6, 0), 0);
            let quote = |change: &dyn Fn(&mut Vec<u8>)| {
                let mut error = good.clone();
                change(&mut error.quote);
                error.bytes()
            };
            let (protocol_at, source_at, ports_at) = if v6 { (6, 23, 40) } else { (9, 15, 20) };
            let odd = [
                // Not an error; another protocol; no service on the port; a quote cut short; not
                // the packet of whom it is sent to.
                Error { kind: if v6 { [128, 0] } else { [8, 0] }, ..good.clone() }.bytes(),
                quote(&|q| q[protocol_at] = 99),
                quote(&|q| q[ports_at + 1] = 81),
                quote(&|q| q.truncate(ports_at + 7)),
                quote(&|q| q.truncate(3)),
                quote(&|q| q[source_at] ^= 1),
                Error { to: router(v6), ..good.clone() }.bytes(),
            ];
            for (n, bytes) in odd.iter().enumerate() {
                println!("case {n}");
                rig.passes(bytes, CLIENT_SIDE);
            }
        }
        Ok(())
    });
}

#[test]
fn an_error_goes_through_the_tunnel_of_its_server() {
    with(1000, |rig| {
        for (inner6, outer6) in tunnels::FAMILIES {
            let mut wanted = tunnels::wanted(TCP, inner6, outer6, 2);
            (wanted.ring, wanted.mtu) = (vec![1], 1400);
            let service = rig.install(&wanted)?;
            let client = client(inner6, 0);
            let request = service.request(L4::Tcp(flag::SYN), client);
            tunnels::tunnels(rig, &service, &request, 1);
            let error = to_vip(&service, client, 20);
            // As a frame of the rig's own kind, for what it must become.
            let mut carrier =
                Frame::new(L4::Raw(if inner6 { 58 } else { 1 }), (error.from, 0), (error.to, 0));
            (carrier.to, carrier.from) = (CLIENT_SIDE_MAC, CLIENT_MAC);
            let l3 = if inner6 { 40 } else { 20 };
            carrier.payload = error.bytes()[14 + l3..].to_vec();
            assert_eq!(carrier.bytes(), error.bytes());
            tunnels::tunnels(rig, &service, &carrier, 1);
            // An error that does not fit is not answered with an error.
            carrier.payload.resize(1401, 0);
            rig.drops(&carrier, CLIENT_SIDE, Counter::TooBig);
        }
        Ok(())
    });
}

#[test]
fn an_error_about_a_tunnels_packet_is_told_to_the_controller() {
    with(1000, |rig| {
        for (inner6, outer6) in tunnels::FAMILIES {
            let service = rig.install(&tunnels::wanted(TCP, inner6, outer6, 1))?;
            assert_eq!(service.wanted.method, METHOD_TUNNEL);
            let (source, server) = (tunnels::source(outer6), service.wanted.servers[0].0);
            let protocol = if inner6 { 41 } else { 4 };
            let mut packet = Frame::new(L4::Raw(protocol), (source, 0), (server, 0));
            packet.payload = vec![0x45; 64];
            let error = Error::about(&packet, 0, router(outer6));
            let error = error.in_frame(SERVER_SIDE_MAC, server_mac(0), &[]);
            let (out, counted) = rig.observe(&error.bytes(), SERVER_SIDE);
            assert_eq!(out.verdict, PASS, "the stack may learn from it as well");
            assert_eq!(counted, Counted::from([("path_mtu_heard", 1)]));
            let event = rig.dataplane.tables().next_event().context("no event")?;
            assert_eq!((event.kind, event.value), (EVENT_PATH_MTU, 1400));
            assert_eq!((event.address, event.source), (address(server), address(source)));
            // Other errors say nothing of an MTU.
            let other = Error { kind: [if outer6 { 1 } else { 3 }, 1], ..error };
            rig.passes(&other.bytes(), SERVER_SIDE);
        }
        Ok(())
    });
}

#[test]
fn a_service_without_servers_drops_errors_too() {
    with(100, |rig| {
        for v6 in [false, true] {
            let mut wanted = Wanted::new(METHOD_DR, TCP, vip(v6, 80), &servers(v6, 1, 80));
            (wanted.ring, wanted.maglev) = (Vec::new(), Vec::new());
            let service = rig.install(&wanted)?;
            let (out, counted) =
                rig.observe(&to_vip(&service, client(v6, 0), 0).bytes(), CLIENT_SIDE);
            assert_eq!(out.verdict, DROP);
            assert_eq!(counted, Counted::from([("no_real_server", 1)]));
        }
        Ok(())
    });
}
