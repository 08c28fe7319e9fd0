//! TCP connections from their first packet to their last, packet by packet.

use anyhow::{Context, Result};
use lb_common::conn::{Direction, State, next_state};
use lb_common::service::METHOD_NAT;

use crate::frames::{L4, flag::*};
use crate::ipvs::{self, Half};
use crate::rig::*;
use crate::services::*;

#[test]
fn the_products_state_tables_are_those_of_ipvs() {
    for (half, direction) in [
        (Half::Input, Direction::Input),
        (Half::Output, Direction::Output),
        (Half::InputOnly, Direction::InputOnly),
    ] {
        for name in ipvs::names() {
            let state = *State::ALL.iter().find(|s| s.name() == name).expect("every state");
            for flags in 0..=255u8 {
                let found = next_state(state, direction, flags).name();
                let expected = ipvs::next(name, half, flags);
                assert_eq!(found, expected, "{name} {half:?} {flags:#04x}");
            }
        }
    }
    for state in State::ALL {
        assert_eq!(u64::from(state.default_timeout_seconds()), ipvs::timeout(state.name()));
        assert_eq!(state.is_active(), ipvs::is_active(state.name()));
    }
}

/// Who sends a packet: the client, or the server (nat only).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum By {
    Client,
    Server,
}
use By::{Client, Server};

/// Lifetimes as both ends play them; a director of dr sees the client's packets only.
const LIFETIMES: [(&str, &[(By, u8)]); 10] = [
    (
        "the client closes first",
        &[
            (Client, SYN),
            (Server, SYN | ACK),
            (Client, ACK),
            (Client, ACK | PSH),
            (Server, ACK | PSH),
            (Client, FIN | ACK),
            (Server, ACK),
            (Server, FIN | ACK),
            (Client, ACK),
        ],
    ),
    (
        "the server closes first",
        &[
            (Client, SYN),
            (Server, SYN | ACK),
            (Client, ACK),
            (Server, FIN | ACK),
            (Client, ACK),
            (Client, FIN | ACK),
            (Server, ACK),
        ],
    ),
    (
        "both close at once",
        &[
            (Client, SYN),
            (Server, SYN | ACK),
            (Client, ACK),
            (Client, FIN | ACK),
            (Server, FIN | ACK),
            (Client, ACK),
            (Server, ACK),
        ],
    ),
    ("the server refuses", &[(Client, SYN), (Server, RST | ACK)]),
    ("the client gives up half open", &[(Client, SYN), (Server, SYN | ACK), (Client, RST)]),
    (
        "the client resets",
        &[(Client, SYN), (Server, SYN | ACK), (Client, ACK), (Client, RST | ACK)],
    ),
    ("the server resets", &[(Client, SYN), (Server, SYN | ACK), (Client, ACK), (Server, RST)]),
    (
        "the handshake is sent again",
        &[
            (Client, SYN),
            (Client, SYN),
            (Server, SYN | ACK),
            (Client, SYN),
            (Server, SYN | ACK),
            (Client, ACK),
            (Client, SYN),
            (Client, ACK),
        ],
    ),
    (
        "half closed, data goes on",
        &[
            (Client, SYN),
            (Server, SYN | ACK),
            (Client, ACK),
            (Client, FIN | ACK),
            (Server, ACK | PSH),
            (Client, ACK),
            (Server, ACK | PSH),
            (Client, ACK),
            (Server, FIN | ACK),
            (Client, ACK),
        ],
    ),
    (
        "packets without a flag that counts",
        &[(Client, SYN), (Server, SYN | ACK), (Client, ACK), (Client, 0), (Server, PSH)],
    ),
];

#[test]
fn every_packet_of_a_lifetime_leaves_the_state_and_the_counts_that_ipvs_has() {
    with(1000, |rig| {
        for (method, v6) in KINDS {
            let listen = vip(v6, 80 + u16::from(method));
            let service =
                rig.install(&Wanted::new(method, TCP, listen, &servers(v6, 1, listen.1)))?;
            for (n, (name, packets)) in (0..).zip(LIFETIMES) {
                play(rig, &service, n, packets)
                    .with_context(|| format!("{name}: method {method} v6 {v6}"))?;
            }
        }
        Ok(())
    });
}

/// Plays one lifetime and compares after every packet.
fn play(rig: &mut Rig, service: &Installed, n: u16, packets: &[(By, u8)]) -> Result<()> {
    let nat = service.wanted.method == METHOD_NAT;
    let who = client(service.wanted.listen.0.is_ipv6(), n);
    let first = service.request(L4::Tcp(SYN), who);
    let others = rig.counts(service.index[0])?;
    let mut state = "NONE";
    for &(by, flags) in packets {
        if by == Client {
            let request = service.request(L4::Tcp(flags), who);
            rig.becomes(&request, CLIENT_SIDE, &service.sent(&request, 0), REDIRECT);
            state = ipvs::next(state, if nat { Half::Input } else { Half::InputOnly }, flags);
        } else if nat {
            let reply = service.reply(L4::Tcp(flags), 0, who);
            rig.becomes(&reply, SERVER_SIDE, &service.returned(&reply, &first), REDIRECT);
            state = ipvs::next(state, Half::Output, flags);
        } else {
            continue;
        }
        let entry = rig.entry(&first)?.context("no entry")?;
        assert_eq!(entry.state().name(), state, "after {by:?} {flags:#04x} of {packets:x?}");
        let (active, inactive) = rig.counts(service.index[0])?;
        let own = (active - others.0, inactive - others.1);
        assert_eq!(own, if ipvs::is_active(state) { (1, 0) } else { (0, 1) }, "in {state}");
    }
    Ok(())
}

#[test]
fn every_state_expires_after_its_timeout() {
    with(1000, |rig| {
        let hz = rig.hz();
        // The packets that lead to each state, with nat's replies.
        let roads: [(&str, &[(By, u8)]); 6] = [
            ("SYN_RECV", &[(Client, SYN)]),
            ("ESTABLISHED", &[(Client, SYN), (Client, ACK)]),
            ("CLOSE_WAIT", &[(Client, SYN), (Client, ACK), (Client, FIN | ACK)]),
            ("FIN_WAIT", &[(Client, SYN), (Client, ACK), (Server, FIN | ACK)]),
            ("TIME_WAIT", &[(Client, SYN), (Client, FIN | ACK)]),
            ("CLOSE", &[(Client, SYN), (Client, ACK), (Client, RST)]),
        ];
        for v6 in [false, true] {
            let service =
                rig.install(&Wanted::new(METHOD_NAT, TCP, vip(v6, 80), &servers(v6, 1, 80)))?;
            for (n, (name, packets)) in (0..).zip(roads) {
                for (m, late) in [(0, false), (1, true)] {
                    let n = 2 * n + m;
                    play(rig, &service, n, packets)?;
                    let first = service.request(L4::Tcp(SYN), client(v6, n));
                    assert_eq!(rig.entry(&first)?.context("no entry")?.state().name(), name);
                    let limit = ipvs::timeout(name) * hz;
                    rig.age(&first, if late { limit + 2 } else { limit - hz })?;
                    let before = rig.traffic(service.index[0])?.connections;
                    let data = service.request(L4::Tcp(ACK), client(v6, n));
                    rig.run(&data.bytes(), CLIENT_SIDE)?;
                    let made = rig.traffic(service.index[0])?.connections - before;
                    assert_eq!(made, u64::from(late), "{name} late {late}");
                }
            }
            let udp =
                rig.install(&Wanted::new(METHOD_NAT, UDP, vip(v6, 53), &servers(v6, 1, 53)))?;
            for (n, late) in [(0, false), (1, true)] {
                let request = udp.request(L4::Udp, client(v6, n));
                rig.run(&request.bytes(), CLIENT_SIDE)?;
                assert_eq!(rig.entry(&request)?.context("no entry")?.state().name(), "UDP");
                rig.age(&request, if late { 301 * hz } else { 299 * hz })?;
                rig.run(&request.bytes(), CLIENT_SIDE)?;
                let made = rig.traffic(udp.index[0])?.connections;
                assert_eq!(made, if late { 3 } else { 1 });
            }
            assert_eq!(rig.counts(udp.index[0])?, (0, 2), "every UDP entry is inactive");
        }
        Ok(())
    });
}

#[test]
fn a_reply_keeps_its_connection_alive_once_a_second() {
    with(100, |rig| {
        // A second that is long beside the test.
        let second = rig.hz() * 100;
        rig.configure(|config| config.hz = second)?;
        for (n, (v6, l4)) in (0..).zip([(false, L4::Tcp(ACK)), (true, L4::Udp)]) {
            let protocol = if l4 == L4::Udp { UDP } else { TCP };
            let wanted = Wanted::new(METHOD_NAT, protocol, vip(v6, 80), &servers(v6, 1, 80));
            let service = rig.install(&wanted)?;
            let who = client(v6, n);
            let first = if l4 == L4::Udp { l4 } else { L4::Tcp(SYN) };
            let request = service.request(first, who);
            rig.run(&request.bytes(), CLIENT_SIDE)?;
            let reply = service.reply(l4, 0, who);
            let now = rig.jiffies()?;
            for (age, refreshed) in [(second * 9 / 10, false), (second * 11 / 10, true)] {
                rig.set_seen(&request, now - 10 * rig.hz())?;
                rig.set_seen(&reply, now - age)?;
                let returned = service.returned(&reply, &request);
                rig.becomes(&reply, SERVER_SIDE, &returned, REDIRECT);
                let seen = rig.entry(&request)?.context("no entry")?.seen;
                assert_eq!(seen >= now, refreshed, "after {age} of {second}");
                let seen = rig.entry(&reply)?.context("no reply half")?.seen;
                assert_eq!(seen >= now, refreshed, "after {age} of {second}");
            }
        }
        Ok(())
    });
}
