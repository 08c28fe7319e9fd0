//! Where frames go: learnt last hops, next hops of the controller, and the routing table.

use std::process::Command;

use anyhow::{Context, Result};
use harness::process::run;
use lb_common::service::{
    CONFIG_REPLY_ROUTE, EVENT_NEIGHBOUR, INTERFACE_DOWN, METHOD_DR, METHOD_NAT,
};
use lb_common::verdict::Counter;

use crate::frames::{Frame, L4, Mac, Tag, flag};
use crate::rig::*;
use crate::services::*;

const SYN: L4 = L4::Tcp(flag::SYN);
const ACK: L4 = L4::Tcp(flag::ACK);
const SYN_ACK: L4 = L4::Tcp(flag::SYN | flag::ACK);

/// How a request comes: from whom, to whom, with which tags, by which interface.
type Hop = (Mac, Mac, &'static [Tag], u32);

/// What the namespace's permanent neighbours are called.
const NEIGHBOUR: Mac = [0x02, 0, 0, 0, 0x0a, 1];

/// Gives the director's interfaces addresses, routes and neighbours, and lets it forward.
fn set_up_routes() -> Result<()> {
    for key in ["ipv4/conf/all/forwarding", "ipv6/conf/all/forwarding"] {
        std::fs::write(format!("/proc/sys/net/{key}"), "1").with_context(|| key.to_owned())?;
    }
    let lines = [
        "addr add 198.51.100.254/24 dev d0",
        "addr add 10.5.0.254/24 dev d1",
        "-6 addr add 2001:db8:c::fe/64 dev d0 nodad",
        "-6 addr add 2001:db8:5::fe/64 dev d1 nodad",
        "neigh add 10.5.0.1 lladdr 02:00:00:00:0a:01 dev d1 nud permanent",
        "neigh add 198.51.100.7 lladdr 02:00:00:00:0a:01 dev d0 nud permanent",
        "-6 neigh add 2001:db8:5::1 lladdr 02:00:00:00:0a:01 dev d1 nud permanent",
        "-6 neigh add 2001:db8:c::7 lladdr 02:00:00:00:0a:01 dev d0 nud permanent",
    ];
    lines.iter().try_for_each(|line| ip(line))
}

fn ip(line: &str) -> Result<()> {
    run(Command::new("ip").args(line.split_whitespace())).map(|_| ())
}

/// What the kernel makes of a frame for the neighbour: its own addresses, untagged.
fn routed(mut frame: Frame, egress: u32) -> Frame {
    (frame.to, frame.from, frame.tags) = (NEIGHBOUR, our_mac(egress), Vec::new());
    frame
}

/// The frame becomes `expected`, and only these counters change.
#[track_caller]
fn becomes_counted(
    rig: &mut Rig,
    frame: &Frame,
    ingress: u32,
    expected: &Frame,
    notes: &[(&'static str, u64)],
) {
    let (out, counted) = rig.observe(&frame.bytes(), ingress);
    assert_eq!(out.verdict, REDIRECT, "{counted:?}");
    assert_same(&out.frame, &expected.bytes());
    assert_eq!(counted, notes.iter().copied().collect());
}

#[test]
fn a_last_hop_is_learnt_anew_from_every_request() {
    with(1000, |rig| {
        for v6 in [false, true] {
            let service =
                rig.install(&Wanted::new(METHOD_NAT, TCP, vip(v6, 80), &servers(v6, 1, 8080)))?;
            let reply = service.reply(SYN_ACK, 0, client(v6, 0));
            let mut request = service.request(SYN, client(v6, 0));
            let hops: [Hop; 7] = [
                (CLIENT_MAC, CLIENT_SIDE_MAC, &[], CLIENT_SIDE),
                ([2, 0, 0, 0, 0x0c, 9], CLIENT_SIDE_MAC, &[], CLIENT_SIDE),
                ([2, 0, 0, 0, 0x0c, 9], CLIENT_SIDE_MAC, &[(0x8100, 7)], CLIENT_SIDE),
                ([2, 0, 0, 0, 0x0c, 9], CLIENT_SIDE_MAC, &[(0x8100, 8)], CLIENT_SIDE),
                ([2, 0, 0, 0, 0x0c, 9], CLIENT_SIDE_MAC, &[(0x88a8, 7), (0x8100, 8)], CLIENT_SIDE),
                (
                    [2, 0, 0, 0, 0x0c, 9],
                    [2, 0, 0, 0, 0x0d, 7],
                    &[(0x88a8, 7), (0x8100, 8)],
                    CLIENT_SIDE,
                ),
                (CLIENT_MAC, SERVER_SIDE_MAC, &[], SERVER_SIDE),
            ];
            for (from, to, tags, ingress) in hops {
                (request.from, request.to, request.tags) = (from, to, tags.to_vec());
                let verdict = service.verdict(ingress);
                rig.becomes(&request, ingress, &service.sent(&request, 0), verdict);
                let back = if ingress == SERVER_SIDE { TX } else { REDIRECT };
                for _ in 0..2 {
                    rig.becomes(&reply, SERVER_SIDE, &service.returned(&reply, &request), back);
                }
                let link = rig.entry(&request)?.context("no entry")?.last_hop;
                assert_eq!((link.peer_mac, link.our_mac, link.ifindex), (from, to, ingress));
            }
        }
        Ok(())
    });
}

#[test]
fn a_last_hop_over_a_link_that_is_down_gives_way_to_the_routing_table() {
    with(1000, |rig| {
        let services = [false, true].map(|v6| {
            let wanted = Wanted::new(METHOD_NAT, TCP, vip(v6, 80), &servers(v6, 1, 8080));
            rig.install(&wanted).expect("a service")
        });
        for service in &services {
            let request = service.request(SYN, client(service.wanted.listen.0.is_ipv6(), 0));
            rig.becomes(&request, CLIENT_SIDE, &service.sent(&request, 0), REDIRECT);
        }
        let replies = services.each_ref().map(|service| {
            let v6 = service.wanted.listen.0.is_ipv6();
            let request = service.request(SYN, client(v6, 0));
            let reply = service.reply(SYN_ACK, 0, client(v6, 0));
            (reply.clone(), service.returned(&reply, &request))
        });
        rig.interface(CLIENT_SIDE, CLIENT_SIDE_MAC, INTERFACE_DOWN)?;
        for (reply, _) in &replies {
            rig.drops(reply, SERVER_SIDE, Counter::NoRoute);
        }
        set_up_routes()?;
        for (reply, returned) in &replies {
            let expected = routed(returned.clone(), CLIENT_SIDE);
            becomes_counted(rig, reply, SERVER_SIDE, &expected, &[("route_lookups", 1)]);
        }
        rig.interface(CLIENT_SIDE, CLIENT_SIDE_MAC, 0)?;
        for (reply, returned) in &replies {
            becomes_counted(rig, reply, SERVER_SIDE, returned, &[]);
        }
        // The operator can want the routing table.
        rig.configure(|config| config.flags = CONFIG_REPLY_ROUTE)?;
        for (reply, returned) in &replies {
            let expected = routed(returned.clone(), CLIENT_SIDE);
            becomes_counted(rig, reply, SERVER_SIDE, &expected, &[("route_lookups", 1)]);
        }
        Ok(())
    });
}

#[test]
fn without_a_controller_or_its_next_hop_the_routing_table_is_asked() {
    with(1000, |rig| {
        let max = rig.hz() * 10;
        rig.configure(|config| config.heartbeat_max = max)?;
        for (method, v6) in KINDS {
            let listen = vip(v6, 80 + u16::from(method));
            let service =
                rig.install(&Wanted::new(method, TCP, listen, &servers(v6, 1, listen.1)))?;
            let mut unknown =
                Wanted::new(method, TCP, vip(v6, listen.1 + 100), &servers(v6, 1, 99 + listen.1));
            unknown.next_hop = false;
            let unknown = rig.install(&unknown)?;
            let request = service.request(SYN, client(v6, 0));
            let blind = unknown.request(SYN, client(v6, 0));
            rig.dataplane.beat()?;
            becomes_counted(rig, &request, CLIENT_SIDE, &service.sent(&request, 0), &[]);
            rig.age_heartbeat(max + rig.hz())?;
            for frame in [&request, &blind] {
                rig.drops(frame, CLIENT_SIDE, Counter::NoRoute);
            }
            // Young again: what the controller knows is used, what it does not is asked.
            rig.dataplane.beat()?;
            becomes_counted(rig, &request, CLIENT_SIDE, &service.sent(&request, 0), &[]);
            rig.drops(&blind, CLIENT_SIDE, Counter::NoRoute);
        }
        Ok(())
    });
}

#[test]
fn the_routing_tables_answer_is_used_as_the_kernel_gives_it() {
    with(1000, |rig| {
        set_up_routes()?;
        for (method, v6) in KINDS {
            let listen = vip(v6, 80 + u16::from(method));
            let mut wanted = Wanted::new(method, TCP, listen, &servers(v6, 2, listen.1));
            wanted.ring = vec![0];
            wanted.maglev = vec![1];
            wanted.next_hop = false;
            let service = rig.install(&wanted)?;
            for (l4, tags) in [(SYN, vec![]), (ACK, vec![]), (ACK, vec![(0x8100, 9), (0x8100, 8)])]
            {
                let mut request = service.request(l4, client(v6, 0));
                request.tags = tags;
                let expected = routed(service.sent(&request, 0), SERVER_SIDE);
                becomes_counted(rig, &request, CLIENT_SIDE, &expected, &[("route_lookups", 1)]);
            }
            // The second server has a route and no neighbour: dropped, and the controller is told.
            let (_, counted) = rig.counted(|rig| {
                rig.drops(
                    &service.request(ACK, client(v6, 1)),
                    CLIENT_SIDE,
                    Counter::NeighbourUnresolved,
                );
                Ok(())
            })?;
            assert_eq!(counted.get("route_lookups"), Some(&1));
            let event = rig.dataplane.tables().next_event().context("no event")?;
            assert_eq!(event.address, address(service.wanted.servers[1].0));
            assert_eq!((event.kind, event.value), (EVENT_NEIGHBOUR, SERVER_SIDE));
            assert!(rig.dataplane.tables().next_event().is_none());
        }
        Ok(())
    });
}

#[test]
fn an_old_heartbeat_lets_the_routing_table_decide_over_a_known_next_hop() {
    with(1000, |rig| {
        set_up_routes()?;
        let max = rig.hz() * 10;
        rig.configure(|config| config.heartbeat_max = max)?;
        let service =
            rig.install(&Wanted::new(METHOD_DR, UDP, vip(false, 53), &servers(false, 1, 53)))?;
        let request = service.request(L4::Udp, client(false, 0));
        rig.dataplane.beat()?;
        becomes_counted(rig, &request, CLIENT_SIDE, &service.sent(&request, 0), &[]);
        rig.age_heartbeat(max + rig.hz())?;
        let expected = routed(service.sent(&request, 0), SERVER_SIDE);
        becomes_counted(rig, &request, CLIENT_SIDE, &expected, &[("route_lookups", 1)]);
        rig.age_heartbeat(max - rig.hz())?;
        becomes_counted(rig, &request, CLIENT_SIDE, &service.sent(&request, 0), &[]);
        Ok(())
    });
}
