//! Segments of connections whose nat server was removed: who sends one gets an exact RST back, byte
//! by byte, where the server's service asks for it.

use anyhow::{Result, ensure};
use lb_common::service::{METHOD_NAT, RS_RESET};
use lb_common::verdict::Counter;
use lb_user::plan::MapOp;

use crate::frames::{Frame, L4, checksum, flag, hex, octets};
use crate::rig::*;
use crate::services::*;

const SYN: L4 = L4::Tcp(flag::SYN);
const ACK: L4 = L4::Tcp(flag::ACK);

/// The RST that answers a frame of ours, from how RFC 9293 3.10.7.1 and the headers' RFCs have it.
fn rst(answered: &Frame) -> Vec<u8> {
    let frame = Frame {
        to: answered.from,
        from: answered.to,
        source: answered.destination,
        destination: answered.source,
        ports: (answered.ports.1, answered.ports.0),
        l4: L4::Tcp(flag::RST),
        ttl: 64,
        payload: Vec::new(),
        padding: 0,
        options: Vec::new(),
        tcp_options: Vec::new(),
        extensions: Vec::new(),
        ..answered.clone()
    };
    let mut bytes = frame.bytes();
    let l3 = 14 + 4 * frame.tags.len();
    let l4 = if frame.source.is_ipv4() {
        // No class, no identification, and so Don't Fragment.
        bytes[l3 + 1] = 0;
        bytes[l3 + 4..l3 + 8].copy_from_slice(&[0, 0, 0x40, 0]);
        bytes[l3 + 10..l3 + 12].fill(0);
        let sum = checksum(&[&bytes[l3..l3 + 20]]).to_be_bytes();
        bytes[l3 + 10..l3 + 12].copy_from_slice(&sum);
        l3 + 20
    } else {
        bytes[l3..l3 + 4].copy_from_slice(&[0x60, 0, 0, 0]);
        l3 + 40
    };
    // What frames of these tests acknowledge is 05060708. Nothing is acknowledged, no window given.
    bytes[l4 + 4..l4 + 12].copy_from_slice(&[5, 6, 7, 8, 0, 0, 0, 0]);
    bytes[l4 + 14..l4 + 18].fill(0);
    let tail = [0, 0, 0, 20, 0, 0, 0, 6];
    let (source, destination) = (octets(frame.source), octets(frame.destination));
    let sum = checksum(&[&source, &destination, &tail, &bytes[l4..]]).to_be_bytes();
    bytes[l4 + 16..l4 + 18].copy_from_slice(&sum);
    bytes
}

/// The frame is answered with an RST; tells whether a connection was counted.
#[track_caller]
fn is_reset(rig: &mut Rig, frame: &Frame, ingress: u32) -> u64 {
    let (out, mut counted) = rig.observe(&frame.bytes(), ingress);
    let wanted = rst(frame);
    assert_eq!(out.verdict, TX, "verdict; counted {counted:?}, of {frame:?}");
    assert!(out.frame == wanted, "\n{}not\n{}", hex(&out.frame), hex(&wanted));
    let reset = counted.remove(Counter::Reset.name()).unwrap_or(0);
    assert_eq!(counted, Counted::new());
    reset
}

/// Sets or clears the service's wish in a server's element.
fn wish(rig: &mut Rig, service: &mut Installed, server: usize, reset: bool) -> Result<()> {
    let element = &mut service.elements[server];
    element.flags = element.flags & !RS_RESET | if reset { RS_RESET } else { 0 };
    let (index, value) = (service.index[server], *element);
    rig.apply(&MapOp::SetRealServer { index, value })
}

/// Runs `body` for both families, with and without tags on the servers' side, with an open
/// connection of the first server.
fn each(body: impl Fn(&mut Rig, &mut Installed, Frame, Frame) -> Result<()> + Sync) {
    with(1000, |rig| {
        for (n, v6) in (0..).zip([false, true, false, true]) {
            let listen = vip(v6, 80 + n);
            let mut wanted = Wanted::new(METHOD_NAT, TCP, listen, &servers(v6, 2, listen.1));
            wanted.tags = if n < 2 { Vec::new() } else { vec![(0x8100, 42)] };
            let mut service = rig.install(&wanted)?;
            wish(rig, &mut service, 0, true)?;
            let client = client(v6, n);
            for l4 in [SYN, ACK] {
                let request = service.request(l4, client);
                rig.becomes(&request, CLIENT_SIDE, &service.sent(&request, 0), REDIRECT);
            }
            let (request, reply) = (service.request(ACK, client), service.reply(ACK, 0, client));
            body(rig, &mut service, request, reply)?;
        }
        Ok(())
    });
}

#[test]
fn both_ends_of_a_removed_servers_connection_get_an_exact_rst() {
    each(|rig, service, request, reply| {
        rig.bump(service, 0)?;
        // The connection is counted with the first of its ends, whichever that is.
        assert_eq!(is_reset(rig, &reply, SERVER_SIDE), 1);
        assert_eq!(is_reset(rig, &request, CLIENT_SIDE), 0);
        for flags in [flag::FIN | flag::ACK, flag::PSH | flag::ACK] {
            let request = Frame { l4: L4::Tcp(flags), ..request.clone() };
            assert_eq!(is_reset(rig, &request, CLIENT_SIDE), 0);
        }
        let answer = Frame { l4: L4::Tcp(flag::SYN | flag::ACK), ..reply.clone() };
        assert_eq!(is_reset(rig, &answer, SERVER_SIDE), 0);
        let odd = Frame { tcp_options: vec![1; 12], padding: 6, ..reply };
        assert_eq!(is_reset(rig, &odd, SERVER_SIDE), 0);
        let mut unusual = Frame { payload: vec![7; 900], ..request };
        if unusual.source.is_ipv4() {
            unusual.options = vec![1; 8];
        } else {
            unusual.extensions = vec![(60, vec![0, 0, 1, 4, 0, 0, 0, 0])];
        }
        assert_eq!(is_reset(rig, &unusual, CLIENT_SIDE), 0);
        // The entry is the sweep's to close; counts follow it.
        ensure!(rig.counts(service.index[0])? == (1, 0), "counts moved");
        Ok(())
    });
}

#[test]
fn what_must_not_be_answered_is_not() {
    each(|rig, service, request, reply| {
        rig.bump(service, 0)?;
        let with = |frame: &Frame, flags| Frame { l4: L4::Tcp(flags), ..frame.clone() };
        // An RST is never answered (RFC 9293 3.5.2), and what acknowledges nothing tells no number.
        let reset = with(&request, flag::RST | flag::ACK);
        for flags in [flag::RST, flag::RST | flag::ACK, flag::PSH] {
            let reply = with(&reply, flags);
            rig.drops(&reply, SERVER_SIDE, Counter::ReplyWithoutConnection);
        }
        rig.drops(&reset, CLIENT_SIDE, Counter::RstWithoutConnection);
        Ok(())
    });
}

#[test]
fn a_new_connection_from_the_same_port_is_admitted() {
    each(|rig, service, request, _| {
        rig.bump(service, 0)?;
        let syn = Frame { l4: SYN, ..request };
        rig.becomes(&syn, CLIENT_SIDE, &service.sent(&syn, 1), REDIRECT);
        ensure!(rig.counts(service.index[0])? == (0, 0), "the old one is not closed");
        Ok(())
    });
}

#[test]
fn without_the_wish_and_while_the_server_lives_nothing_changes() {
    each(|rig, service, request, reply| {
        rig.becomes(&request, CLIENT_SIDE, &service.sent(&request, 0), REDIRECT);
        wish(rig, service, 0, false)?;
        rig.bump(service, 0)?;
        rig.drops(&reply, SERVER_SIDE, Counter::ReplyWithoutConnection);
        let (out, counted) = rig.observe(&request.bytes(), CLIENT_SIDE);
        ensure!(out.verdict == REDIRECT, "verdict {} {counted:?}", out.verdict);
        ensure!(!counted.contains_key(Counter::Reset.name()), "{counted:?}");
        Ok(())
    });
}
