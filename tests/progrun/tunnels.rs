//! Tunnels: packets in another IP header, of all four combinations of families.

use std::net::IpAddr;

use anyhow::{Context, Result};
use lb_common::service::METHOD_TUNNEL;
use lb_common::verdict::Counter;

use crate::frames::{Frame, L4, checksum, flag, octets};
use crate::rig::*;
use crate::services::*;

/// Our end of tunnels.
pub(crate) fn source(v6: bool) -> IpAddr {
    if v6 { "2001:db8:5::fe" } else { "10.5.0.254" }.parse().expect("an address")
}

/// A service of one family with servers of another.
pub(crate) fn wanted(protocol: u8, inner6: bool, outer6: bool, count: u16) -> Wanted {
    let port = 8000 + u16::from(outer6) * 100 + u16::from(protocol);
    let ends = servers(outer6, count, port);
    let mut wanted = Wanted::new(METHOD_TUNNEL, protocol, vip(inner6, port), &ends);
    wanted.tunnel_source = Some(source(outer6));
    wanted
}

/// What goes to a server: a new head and an outer header, and the packet, aged.
pub(crate) fn wrapped(service: &Installed, request: &Frame, server: usize) -> Vec<u8> {
    let sent = service.sent(request, server);
    let plain = Frame { tags: Vec::new(), ..sent.clone() }.bytes();
    let outer = service.wanted.servers[server].0;
    let mut bytes = sent.bytes()[..12 + 4 * sent.tags.len()].to_vec();
    bytes.extend(if outer.is_ipv6() { [0x86, 0xdd] } else { [8, 0] });
    let inner6 = request.source.is_ipv6();
    let (protocol, length) = (if inner6 { 41 } else { 4 }, request.ip_length() as u16);
    // The traffic class of frames here: 0x01 over IPv6, 0x10 over IPv4.
    let class = if inner6 { 0x01 } else { 0x10 };
    if outer.is_ipv6() {
        bytes.extend([0x60 | class >> 4, class << 4, 0, 0]);
        bytes.extend(length.to_be_bytes());
        bytes.extend([protocol, 64]);
    } else {
        bytes.extend([0x45, class]);
        bytes.extend((length + 20).to_be_bytes());
        bytes.extend([0, 0, 0x40, 0, 64, protocol]);
        let ends = [octets(source(false)), octets(outer)].concat();
        let head = &bytes[bytes.len() - 10..];
        let sum = checksum(&[head, &ends]);
        bytes.extend(sum.to_be_bytes());
    }
    bytes.extend([octets(source(outer.is_ipv6())), octets(outer)].concat());
    bytes.extend(&plain[14..]);
    bytes
}

/// Blanks an outer IPv6 header's flow label, which must not be 0; gives it.
fn label(frame: &mut [u8], tags: usize) -> u32 {
    let at = 14 + 4 * tags;
    let label = u32::from_be_bytes([0, frame[at + 1] & 0xf, frame[at + 2], frame[at + 3]]);
    frame[at + 1] &= 0xf0;
    frame[at + 2..at + 4].fill(0);
    label
}

#[track_caller]
pub(crate) fn tunnels(rig: &mut Rig, service: &Installed, request: &Frame, server: usize) -> u32 {
    let (mut out, counted) = rig.observe(&request.bytes(), CLIENT_SIDE);
    assert_eq!(out.verdict, service.verdict(CLIENT_SIDE), "{request:?}; {counted:?}");
    let outer6 = service.wanted.servers[server].0.is_ipv6();
    let label = if outer6 { label(&mut out.frame, service.wanted.tags.len()) } else { 1 };
    assert_ne!(label, 0);
    assert_same(&out.frame, &wrapped(service, request, server));
    assert_eq!(drops_in(&counted), 0, "{counted:?}");
    label
}

/// Inner and outer family.
pub(crate) const FAMILIES: [(bool, bool); 4] =
    [(false, false), (false, true), (true, false), (true, true)];

/// Runs `body` for all families and both protocols.
fn each_tunnel(
    change: impl Fn(&mut Wanted) + Sync,
    body: impl Fn(&mut Rig, &Installed, bool, L4) -> Result<()> + Sync,
) {
    with(1000, |rig| {
        for (inner6, outer6) in FAMILIES {
            for (protocol, l4) in [(TCP, L4::Tcp(flag::SYN)), (UDP, L4::Udp)] {
                let mut wanted = wanted(protocol, inner6, outer6, 2);
                change(&mut wanted);
                let service = rig.install(&wanted)?;
                body(rig, &service, inner6, l4)
                    .with_context(|| format!("{inner6} in {outer6}, {l4:?}"))?;
            }
        }
        Ok(())
    });
}

#[test]
fn packets_are_wrapped_for_the_server_of_their_connection() {
    each_tunnel(
        |_| {},
        |rig, service, v6, l4| {
            for (n, server) in [(0, 0), (1, 1)] {
                let first = service.request(l4, client(v6, n));
                let label = tunnels(rig, service, &first, server);
                let later = if matches!(l4, L4::Tcp(_)) { L4::Tcp(flag::ACK) } else { l4 };
                let next = Frame {
                    payload: vec![7; 100],
                    padding: 5,
                    ..service.request(later, client(v6, n))
                };
                for _ in 0..2 {
                    assert_eq!(tunnels(rig, service, &next, server), label, "one flow, one label");
                }
                let traffic = rig.traffic(service.index[server])?;
                assert_eq!((traffic.connections, traffic.packets_in), (1, 3));
                assert_eq!(traffic.bytes_in, first.ip_length() + 2 * next.ip_length());
            }
            Ok(())
        },
    );
}

#[test]
fn tags_on_either_side_and_options_inside_are_kept_apart() {
    for tags in [&[(0x8100, 7)][..], &[(0x88a8, 3), (0x8100, 4)]] {
        each_tunnel(
            |wanted| wanted.tags = tags.to_vec(),
            |rig, service, v6, l4| {
                for tags in [&[][..], &[(0x8100, 5)], &[(0x88a8, 1), (0x8100, 2)]] {
                    let mut request = service.request(l4, client(v6, 0));
                    request.tags = tags.to_vec();
                    tunnels(rig, service, &request, 0);
                }
                let mut odd = service.request(l4, client(v6, 0));
                if v6 {
                    odd.extensions = vec![(60, vec![0; 8])];
                } else {
                    odd.options = vec![1; 8];
                }
                tunnels(rig, service, &odd, 0);
                Ok(())
            },
        );
    }
}

#[test]
fn one_interface_sends_back_by_it() {
    each_tunnel(
        |wanted| wanted.egress = CLIENT_SIDE,
        |rig, service, v6, l4| {
            tunnels(rig, service, &service.request(l4, client(v6, 0)), 0);
            Ok(())
        },
    );
}

#[test]
fn without_an_address_of_our_own_nothing_is_sent() {
    each_tunnel(
        |wanted| wanted.tunnel_source = None,
        |rig, service, v6, l4| {
            let request = service.request(l4, client(v6, 0));
            for _ in 0..2 {
                rig.drops(&request, CLIENT_SIDE, Counter::NoTunnelSource);
            }
            Ok(())
        },
    );
}

#[test]
fn a_packet_at_the_end_of_its_time_to_live_is_not_wrapped() {
    each_tunnel(
        |_| {},
        |rig, service, v6, l4| {
            let request = Frame { ttl: 1, ..service.request(l4, client(v6, 0)) };
            rig.drops(&request, CLIENT_SIDE, Counter::TtlExceeded);
            Ok(())
        },
    );
}

/// A SYN with an MSS, as the frame it is and with another MSS.
fn syn_with_mss(service: &Installed, client: End, mss: u16) -> Frame {
    let mut frame = service.request(L4::Tcp(flag::SYN), client);
    let [high, low] = mss.to_be_bytes();
    frame.tcp_options = vec![1, 2, 4, high, low, 4, 2, 0];
    frame
}

#[test]
fn the_mss_of_a_syn_is_lowered_to_what_fits() {
    for clamp in [true, false] {
        with(1000, |rig| {
            for (inner6, outer6) in FAMILIES {
                let mut wanted = wanted(TCP, inner6, outer6, 1);
                (wanted.mtu, wanted.mss_clamp) = (1480, clamp);
                let service = rig.install(&wanted)?;
                let fits = 1480 - if inner6 { 60 } else { 40 };
                for (n, (offered, expected)) in
                    [(1460, fits), (fits + 1, fits), (fits, fits), (536, 536)]
                        .into_iter()
                        .enumerate()
                {
                    let expected = if clamp { expected } else { offered };
                    let client = client(inner6, n as u16);
                    let request = syn_with_mss(&service, client, offered);
                    let meant = syn_with_mss(&service, client, expected);
                    let (mut out, counted) = rig.observe(&request.bytes(), CLIENT_SIDE);
                    if outer6 {
                        label(&mut out.frame, 0);
                    }
                    assert_same(&out.frame, &wrapped(&service, &meant, 0));
                    let clamped = u64::from(offered != expected);
                    assert_eq!(counted.get("mss_clamped").copied().unwrap_or(0), clamped);
                }
                // Not a SYN: what looks like the option is left alone.
                let mut later = syn_with_mss(&service, client(inner6, 0), 1460);
                later.l4 = L4::Tcp(flag::ACK);
                tunnels(rig, &service, &later, 0);
            }
            Ok(())
        });
    }
}
