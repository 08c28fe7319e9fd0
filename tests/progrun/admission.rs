//! Packets without a connection, and those whose connection is over: who gets them, what is made
//! of them, what is counted.

use anyhow::{Context, Result};
use lb_common::conn::{GRACE, PROVISIONAL};
use lb_common::hash;
use lb_common::service::{METHOD_DR, METHOD_NAT};
use lb_common::verdict::Counter;

use crate::frames::{Frame, L4, flag};
use crate::rig::*;
use crate::services::*;

const SYN: L4 = L4::Tcp(flag::SYN);
const ACK: L4 = L4::Tcp(flag::ACK);

/// Runs `body` for every method and family with a TCP service of `count` servers.
fn each_tcp(count: u16, body: impl Fn(&mut Rig, &mut Installed, bool) -> Result<()> + Sync) {
    with(1000, |rig| {
        for (method, v6) in KINDS {
            let listen = vip(v6, 80 + u16::from(method));
            let wanted = Wanted::new(method, TCP, listen, &servers(v6, count, listen.1));
            let mut service = rig.install(&wanted)?;
            body(rig, &mut service, v6).with_context(|| format!("method {method} v6 {v6}"))?;
        }
        Ok(())
    });
}

/// The request goes to this server.
#[track_caller]
fn to_server(rig: &mut Rig, service: &Installed, request: &Frame, server: usize) {
    rig.becomes(request, CLIENT_SIDE, &service.sent(request, server), REDIRECT);
}

/// A request of the `n`th client goes to this server.
#[track_caller]
fn goes(rig: &mut Rig, service: &Installed, n: u16, l4: L4, server: usize) -> Frame {
    let request = service.request(l4, client(service.wanted.listen.0.is_ipv6(), n));
    to_server(rig, service, &request, server);
    request
}

/// Active and inactive connections of every server of a service.
#[track_caller]
fn counts(rig: &mut Rig, service: &Installed, expected: &[(i64, i64)]) {
    let found: Vec<_> =
        service.index.iter().map(|&index| rig.counts(index).expect("an index")).collect();
    assert_eq!(found, expected, "active and inactive connections");
}

/// The state of a frame's connection, as text; a provisional one is marked.
fn state(rig: &Rig, frame: &Frame) -> Result<String> {
    Ok(match rig.entry(frame)? {
        None => "none".to_owned(),
        Some(e) if e.word.has(PROVISIONAL) => format!("{} provisional", e.state().name()),
        Some(e) => e.state().name().to_owned(),
    })
}

#[test]
fn a_reset_without_connection_is_dropped() {
    each_tcp(1, |rig, service, v6| {
        for flags in [flag::RST, flag::RST | flag::ACK, flag::RST | flag::SYN] {
            let reset = service.request(L4::Tcp(flags), client(v6, 0));
            rig.drops(&reset, CLIENT_SIDE, Counter::RstWithoutConnection);
            assert!(rig.entry(&reset)?.is_none());
        }
        counts(rig, service, &[(0, 0)]);
        Ok(())
    });
}

#[test]
fn a_connection_met_in_its_middle_goes_by_the_maglev_table_and_is_confirmed_by_a_second_packet() {
    each_tcp(2, |rig, service, v6| {
        let method = service.wanted.method;
        let listen = vip(v6, 4430 + u16::from(method));
        let mut wanted = Wanted::new(method, TCP, listen, &servers(v6, 2, listen.1));
        (wanted.ring, wanted.maglev) = (vec![0], vec![1; 13]);
        let service = rig.install(&wanted)?;
        let request = service.request(ACK, client(v6, 0));
        for (note, expected) in [(1, "ESTABLISHED provisional"), (0, "ESTABLISHED")] {
            let (_, mut counted) = rig.counted(|rig| {
                to_server(rig, &service, &request, 1);
                Ok(())
            })?;
            assert_eq!(counted.remove("connections_picked_up").unwrap_or(0), note);
            assert_eq!(counted, Counted::new());
            assert_eq!(state(rig, &request)?, expected);
            counts(rig, &service, &[(0, 0), (1, 0)]);
            assert_eq!(rig.traffic(service.index[1])?.connections, 1);
        }
        for (n, flags, dr, nat) in [
            (1, flag::SYN | flag::ACK, "ESTABLISHED", "ESTABLISHED"),
            (2, flag::FIN | flag::ACK, "FIN_WAIT", "CLOSE_WAIT"),
            (3, 0, "CLOSE", "CLOSE"),
        ] {
            let request = goes(rig, &service, n, L4::Tcp(flags), 1);
            let expected = if method == METHOD_NAT { nat } else { dr };
            assert_eq!(state(rig, &request)?, format!("{expected} provisional"));
        }
        counts(rig, &service, &[(0, 0), (2, 2)]);
        Ok(())
    });
}

#[test]
fn a_provisional_connection_lives_as_long_as_syn_recv() {
    each_tcp(2, |rig, service, v6| {
        let hz = rig.hz();
        let lives = |rig: &mut Rig, n: u16, confirmed: bool, age: u64| -> Result<bool> {
            let request = service.request(ACK, client(v6, n));
            for _ in 0..=usize::from(confirmed) {
                rig.run(&request.bytes(), CLIENT_SIDE)?;
            }
            rig.age(&request, age)?;
            let (_, counted) = rig.counted(|rig| rig.run(&request.bytes(), CLIENT_SIDE))?;
            Ok(!counted.contains_key("connections_picked_up"))
        };
        assert!(lives(rig, 0, false, 59 * hz)?);
        assert!(!lives(rig, 1, false, 61 * hz)?);
        assert!(lives(rig, 2, true, 899 * hz)?);
        assert!(!lives(rig, 3, true, 901 * hz)?);
        Ok(())
    });
}

#[test]
fn a_syn_stays_with_a_living_connection() {
    each_tcp(2, |rig, service, _| {
        let request = goes(rig, service, 0, SYN, 0);
        assert_eq!(state(rig, &request)?, "SYN_RECV");
        goes(rig, service, 0, SYN, 0);
        assert_eq!(state(rig, &request)?, "SYN_RECV");
        goes(rig, service, 0, ACK, 0);
        goes(rig, service, 0, SYN, 0);
        assert_eq!(state(rig, &request)?, "ESTABLISHED");
        counts(rig, service, &[(1, 0), (0, 0)]);
        Ok(())
    });
}

#[test]
fn a_syn_on_a_connection_that_ended_is_scheduled_anew() {
    each_tcp(2, |rig, service, v6| {
        let nat = service.wanted.method == METHOD_NAT;
        let fin = L4::Tcp(flag::FIN | flag::ACK);
        let ends: [(&str, &[L4]); 3] = [
            ("FIN_WAIT", &[ACK, fin]),
            ("TIME_WAIT", &[fin]),
            ("CLOSE", &[ACK, L4::Tcp(flag::RST)]),
        ];
        let mut turn = 0;
        for (n, (name, packets)) in (0..).zip(ends) {
            let (old, new) = (turn % 2, (turn + 1) % 2);
            turn += 2;
            let syn = goes(rig, service, n, SYN, old);
            for &l4 in packets {
                if nat && name == "FIN_WAIT" && l4 == fin {
                    // With both halves seen, it is the server's end that leads there.
                    let reply = service.reply(fin, old, client(v6, n));
                    rig.becomes(&reply, SERVER_SIDE, &service.returned(&reply, &syn), REDIRECT);
                } else {
                    goes(rig, service, n, l4, old);
                }
            }
            assert_eq!(state(rig, &syn)?, name);
            let before = [rig.counts(service.index[old])?, rig.counts(service.index[new])?];
            goes(rig, service, n, SYN, new);
            assert_eq!(state(rig, &syn)?, "SYN_RECV");
            let after = [rig.counts(service.index[old])?, rig.counts(service.index[new])?];
            assert_eq!(after[0], (before[0].0, before[0].1 - 1), "{name}");
            assert_eq!(after[1], (before[1].0 + 1, before[1].1), "{name}");
            if nat {
                // The new pair's replies are translated, the old one's no longer.
                let reply = service.reply(L4::Tcp(flag::SYN | flag::ACK), new, client(v6, n));
                rig.becomes(&reply, SERVER_SIDE, &service.returned(&reply, &syn), REDIRECT);
                rig.passes(&service.reply(ACK, old, client(v6, n)).bytes(), SERVER_SIDE);
            }
        }
        counts(rig, service, &[(0, 0), (3, 0)]);
        Ok(())
    });
}

#[test]
fn an_expired_connection_is_none() {
    each_tcp(2, |rig, service, v6| {
        let hz = rig.hz();
        for (n, over) in [(0, false), (1, true)] {
            let (first, second) = (usize::from(n) % 2, 0);
            let syn = goes(rig, service, n, SYN, first);
            goes(rig, service, n, ACK, first);
            rig.age(&syn, if over { 901 * hz } else { 899 * hz })?;
            if service.wanted.method == METHOD_NAT && over {
                let reply = service.reply(ACK, first, client(v6, n));
                rig.age(&reply, 901 * hz)?;
                rig.drops(&reply, SERVER_SIDE, Counter::ReplyWithoutConnection);
            }
            goes(rig, service, n, SYN, if over { second } else { first });
        }
        counts(rig, service, &[(2, 0), (0, 0)]);
        // Over for a packet that opens nothing as well: it is met in its middle.
        let syn = service.request(SYN, client(v6, 1));
        rig.age(&syn, 61 * hz)?;
        let reset = service.request(L4::Tcp(flag::RST), client(v6, 1));
        rig.drops(&reset, CLIENT_SIDE, Counter::RstWithoutConnection);
        counts(rig, service, &[(1, 0), (0, 0)]);
        assert_eq!(state(rig, &syn)?, "none");
        Ok(())
    });
}

#[test]
fn connections_of_a_servers_earlier_use_are_scheduled_anew() {
    each_tcp(2, |rig, service, v6| {
        goes(rig, service, 0, SYN, 0);
        goes(rig, service, 0, ACK, 0);
        goes(rig, service, 1, SYN, 1);
        rig.bump(service, 0)?;
        if service.wanted.method == METHOD_NAT {
            let reply = service.reply(ACK, 0, client(v6, 0));
            rig.drops(&reply, SERVER_SIDE, Counter::ReplyWithoutConnection);
        }
        service.entry.maglev = service.entry.slots;
        goes(rig, service, 1, ACK, 1);
        goes(rig, service, 0, SYN, 0);
        counts(rig, service, &[(1, 0), (1, 0)]);
        rig.bump(service, 0)?;
        goes(rig, service, 0, SYN, 1);
        counts(rig, service, &[(0, 0), (2, 0)]);
        Ok(())
    });
}

#[test]
fn without_a_real_server_new_connections_are_dropped_and_old_ones_go_on() {
    each_tcp(1, |rig, service, v6| {
        goes(rig, service, 0, SYN, 0);
        rig.set_ring(service, &[])?;
        rig.drops(&service.request(SYN, client(v6, 1)), CLIENT_SIDE, Counter::NoRealServer);
        goes(rig, service, 0, ACK, 0);
        // The Maglev table still names one for connections that other directors made.
        goes(rig, service, 2, ACK, 0);
        let mut none = Wanted::new(service.wanted.method, TCP, vip(v6, 9), &servers(v6, 1, 9));
        (none.ring, none.maglev) = (Vec::new(), Vec::new());
        let none = rig.install(&none)?;
        for l4 in [SYN, ACK] {
            rig.drops(&none.request(l4, client(v6, 0)), CLIENT_SIDE, Counter::NoRealServer);
        }
        none.request(ACK, client(v6, 0));
        counts(rig, service, &[(2, 0)]);
        Ok(())
    });
}

#[test]
fn new_connections_take_turns_exactly() {
    each_tcp(3, |rig, service, v6| {
        for n in 0..30 {
            goes(rig, service, n, SYN, usize::from(n) % 3);
            // What belongs to a connection takes nobody's turn.
            goes(rig, service, n, SYN, usize::from(n) % 3);
            goes(rig, service, n, ACK, usize::from(n) % 3);
        }
        counts(rig, service, &[(10, 0), (10, 0), (10, 0)]);
        // Weights are slots; a server of weight 0 has none, and what it has goes on.
        let ring = [0, 0, 1, 0, 1];
        rig.set_ring(service, &ring)?;
        for n in 30..60 {
            // The cursor is at 30, a multiple of five.
            goes(rig, service, n, SYN, ring[usize::from(n) % 5]);
        }
        goes(rig, service, 2, ACK, 2);
        counts(rig, service, &[(28, 0), (22, 0), (10, 0)]);
        // A second address of the same service shares its turns.
        let port = 99 + u16::from(service.wanted.method);
        let again =
            if v6 { format!("[2001:db8:f::2]:{port}") } else { format!("203.0.113.2:{port}") };
        let again = end(&again);
        rig.listen(service, again)?;
        for n in 60..70 {
            let listen = if n % 2 == 0 { service.wanted.listen } else { again };
            let request = Frame {
                destination: listen.0,
                ports: (client(v6, n).1, listen.1),
                ..service.request(SYN, client(v6, n))
            };
            to_server(rig, service, &request, ring[usize::from(n) % 5]);
        }
        Ok(())
    });
}

#[test]
fn the_hash_of_the_client_chooses_the_slot_with_or_without_its_port() {
    with(10_000, |rig| {
        for v6 in [false, true] {
            for hash_port in [false, true] {
                let mut wanted = Wanted::new(
                    METHOD_DR,
                    TCP,
                    vip(v6, 80 + u16::from(hash_port)),
                    &servers(v6, 5, 80),
                );
                wanted.hash_port = hash_port;
                wanted.maglev = (0..251).map(|i| i * 7 % 5).collect();
                let service = rig.install(&wanted)?;
                let mut hit = [false; 5];
                for n in 0..200 {
                    let (ip, port) = client(v6, n);
                    let key = hash::address(
                        hash::FLOW_SEED,
                        &address(ip),
                        if hash_port { port } else { 0 },
                    );
                    let server = wanted.maglev[hash::slot(key, 251) as usize];
                    goes(rig, &service, n, ACK, server);
                    hit[server] = true;
                }
                let expected = if hash_port { 5 } else { 1 };
                assert_eq!(hit.iter().filter(|hit| **hit).count(), expected);
            }
        }
        Ok(())
    });
}

#[test]
fn nat_takes_another_server_when_one_already_knows_the_client() {
    with(1000, |rig| {
        for v6 in [false, true] {
            // Three services over the same servers: a client's address and port can be known to
            // each of them once.
            let ends = servers(v6, 2, 8080);
            let of = |port, servers: &[End]| Wanted::new(METHOD_NAT, TCP, vip(v6, port), servers);
            let first = rig.install(&of(80, &ends[..1]))?;
            let second = rig.install(&of(81, &ends))?;
            let third = rig.install(&of(82, &ends))?;
            let one = goes(rig, &first, 0, SYN, 0);
            let two = goes(rig, &second, 0, SYN, 1);
            let refused = third.request(SYN, client(v6, 0));
            rig.drops(&refused, CLIENT_SIDE, Counter::NatTupleInUse);
            let refused = third.request(ACK, client(v6, 0));
            rig.drops(&refused, CLIENT_SIDE, Counter::NatTupleInUse);
            counts(rig, &first, &[(1, 0)]);
            counts(rig, &second, &[(0, 0), (1, 0)]);
            counts(rig, &third, &[(0, 0), (0, 0)]);
            // Replies of both go where they belong.
            for (service, server, request) in [(&first, 0, &one), (&second, 1, &two)] {
                let reply = service.reply(L4::Tcp(flag::SYN | flag::ACK), server, client(v6, 0));
                rig.becomes(&reply, SERVER_SIDE, &service.returned(&reply, request), REDIRECT);
            }
            // A connection that is over makes room.
            rig.age(&one, 61 * rig.hz())?;
            goes(rig, &third, 0, SYN, 0);
            counts(rig, &first, &[(0, 0)]);
            counts(rig, &third, &[(1, 0), (0, 0)]);
        }
        Ok(())
    });
}

#[test]
fn a_reply_half_without_its_connection_holds_its_place_for_a_second() {
    with(1000, |rig| {
        let hz = rig.hz();
        for v6 in [false, true] {
            let ends = servers(v6, 1, 8080);
            let of = |port| Wanted::new(METHOD_NAT, TCP, vip(v6, port), &ends);
            let (service, other) = (rig.install(&of(80))?, rig.install(&of(81))?);
            let request = goes(rig, &service, 0, SYN, 0);
            let reply = service.reply(ACK, 0, client(v6, 0));
            rig.remove(&request)?;
            let now = rig.jiffies()?;
            // Young: another CPU may be about to make its connection.
            rig.set_seen(&reply, now - hz / 2)?;
            let (_, counted) = rig.counted(|rig| {
                goes(rig, &service, 0, SYN, 0);
                Ok(())
            })?;
            assert_eq!(counted, Counted::from([("table_exists", 1)]));
            assert!(rig.entry(&request)?.is_none());
            rig.drops(&other.request(SYN, client(v6, 0)), CLIENT_SIDE, Counter::NatTupleInUse);
            // Old: nobody will.
            rig.set_seen(&reply, now - hz - 2)?;
            let taken = goes(rig, &other, 0, SYN, 0);
            let reply = other.reply(ACK, 0, client(v6, 0));
            rig.becomes(&reply, SERVER_SIDE, &other.returned(&reply, &taken), REDIRECT);
            counts(rig, &other, &[(1, 0)]);
        }
        Ok(())
    });
}

#[test]
fn a_full_table_forwards_by_hash_without_entries() {
    for method in [METHOD_DR, METHOD_NAT] {
        // Two buckets: every key may lie in all eight slots.
        with(2, |rig| {
            [false, true].into_iter().try_for_each(|v6| {
                let mut wanted = Wanted::new(method, TCP, vip(v6, 80), &servers(v6, 2, 80));
                wanted.ring = vec![0];
                wanted.maglev = vec![1];
                let service = rig.install(&wanted)?;
                let nat = method == METHOD_NAT;
                let room = if nat { 4 } else { 8 };
                for n in 0..room {
                    goes(rig, &service, n, SYN, 0);
                }
                counts(rig, &service, &[(i64::from(room), 0), (0, 0)]);
                for _ in 0..2 {
                    let (_, counted) = rig.counted(|rig| {
                        goes(rig, &service, 999, SYN, 1);
                        Ok(())
                    })?;
                    assert_eq!(counted, Counted::from([("table_full", 1)]));
                }
                counts(rig, &service, &[(i64::from(room), 0), (0, 0)]);
                assert_eq!(rig.traffic(service.index[1])?.connections, 0);
                assert_eq!(rig.traffic(service.index[1])?.packets_in, 2);
                goes(rig, &service, 3, ACK, 0);
                // With room for one half only, nat makes none and leaves none.
                if nat {
                    let stray = service.request(SYN, client(v6, 999));
                    rig.passes(&service.reply(ACK, 0, client(v6, 999)).bytes(), SERVER_SIDE);
                    assert!(rig.entry(&stray)?.is_none());
                }
                Ok(())
            })
        });
    }
}

#[test]
fn with_room_for_one_half_only_nat_leaves_neither() {
    with(2, |rig| {
        let dr =
            rig.install(&Wanted::new(METHOD_DR, TCP, vip(false, 80), &servers(false, 1, 80)))?;
        let nat =
            rig.install(&Wanted::new(METHOD_NAT, TCP, vip(false, 81), &servers(false, 1, 81)))?;
        for n in 0..7 {
            goes(rig, &dr, n, SYN, 0);
        }
        let (_, counted) = rig.counted(|rig| {
            goes(rig, &nat, 99, SYN, 0);
            Ok(())
        })?;
        assert_eq!(counted, Counted::from([("table_full", 1)]));
        counts(rig, &nat, &[(0, 0)]);
        assert!(rig.entry(&nat.request(SYN, client(false, 99)))?.is_none());
        assert!(rig.entry(&nat.reply(ACK, 0, client(false, 99)))?.is_none());
        // The last place is free again, once nobody can be looking at it any more.
        let closed = rig.jiffies()?;
        while rig.jiffies()? < closed + GRACE {}
        goes(rig, &dr, 7, SYN, 0);
        counts(rig, &dr, &[(8, 0)]);
        Ok(())
    });
}

#[test]
fn above_the_flood_limit_flows_get_no_entries() {
    each_tcp(2, |rig, service, v6| {
        // Of this test's two CPUs only one counts.
        harness::bpf::pin_to_cpu(0)?;
        // A second that does not end during the test.
        let hz = rig.hz() * 1000;
        rig.configure(|config| (config.flood_limit, config.hz) = (0, hz))?;
        let mut wanted = Wanted::new(
            service.wanted.method,
            TCP,
            vip(v6, 70 + u16::from(service.wanted.method)),
            &servers(v6, 2, 70),
        );
        (wanted.ring, wanted.maglev) = (vec![0], vec![1]);
        let service = rig.install(&wanted)?;
        goes(rig, &service, 0, SYN, 0);
        rig.configure(|config| config.flood_limit = 1 << 40)?;
        // The first row finds the counter of a second that began at boot, later ones that of the
        // row before; only how it goes on from here counts.
        goes(rig, &service, 1, SYN, 0);
        let used = rig.new_flows()?;
        rig.configure(|config| config.flood_limit = used + 3)?;
        for n in 2..5 {
            goes(rig, &service, n, SYN, 0);
        }
        for n in 5..8 {
            let (_, counted) = rig.counted(|rig| {
                goes(rig, &service, n, SYN, 1);
                Ok(())
            })?;
            assert_eq!(counted, Counted::from([("flood", 1)]));
            assert!(rig.entry(&service.request(SYN, client(v6, n)))?.is_none());
        }
        goes(rig, &service, 3, ACK, 0);
        counts(rig, &service, &[(5, 0), (0, 0)]);
        // A new second begins anew.
        rig.configure(|config| config.hz = 1)?;
        std::thread::sleep(std::time::Duration::from_millis(50));
        goes(rig, &service, 8, SYN, 0);
        rig.configure(|config| (config.flood_limit, config.hz) = (0, hz))
    });
}
