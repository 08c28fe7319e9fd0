//! Fragments in any order: the program's decisions, and the held ones that user space runs again.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use harness::bpf::Map;
use harness::frame::Wire;
use lb_common::abi;
use lb_common::detour::RerunNote;
use lb_common::fragment::{DROP as DROPPED, FragmentEntry, FragmentKey, PASS as PASSED, REQUEST};
use lb_common::pod::{bytes_of, from_bytes};
use lb_common::service::{METHOD_DR, METHOD_NAT, METHOD_TUNNEL};
use lb_common::verdict::Counter;
use lb_user::dataplane::bpf::{Rerun, Verdict, sys};
use lb_user::dataplane::detour::Worker;

use crate::cut::{cut, cut_again};
use crate::frames::{Frame, L4, flag, hex, octets};
use crate::path_mtu::{narrow, sized, told};
use crate::rig::*;
use crate::services::*;
use crate::tunnels;

/// Bytes of a re-run frame's metadata.
const NOTE: usize = size_of::<RerunNote>();

/// A frame that a test sends, and what it must become.
struct Pair {
    sent: Vec<u8>,
    expected: Vec<u8>,
}

/// A packet in fragments on its way to a server or back, and where they come in and go out.
struct Packet {
    pairs: Vec<Pair>,
    ingress: u32,
    egress: u32,
}

impl Packet {
    /// A request of `client` with 8,000 bytes.
    fn request(service: &Installed, l4: L4, n: u16, id: u32) -> Self {
        Self::of(service, l4, n, id, 1448).0
    }

    /// A request, and the reply to it.
    fn of(service: &Installed, l4: L4, n: u16, id: u32, room: usize) -> (Self, Self) {
        let v6 = service.wanted.listen.0.is_ipv6();
        let payload: Vec<u8> = (0..8000u32).map(|i| (i * 7 + id) as u8).collect();
        let mut request = service.request(l4, client(v6, n));
        request.payload.clone_from(&payload);
        let mut reply = service.reply(l4, 0, client(v6, n));
        reply.payload = payload;
        let returned = service.returned(&reply, &request);
        let sent = service.sent(&request, 0);
        let zip = |from: &Frame, to: &Frame| {
            let pairs = cut(from, id, room).into_iter().zip(cut(to, id, room));
            pairs.map(|(sent, expected)| Pair { sent, expected }).collect()
        };
        (
            Self { pairs: zip(&request, &sent), ingress: CLIENT_SIDE, egress: SERVER_SIDE },
            Self { pairs: zip(&reply, &returned), ingress: SERVER_SIDE, egress: CLIENT_SIDE },
        )
    }

    /// Runs a fragment that is decided about.
    #[track_caller]
    fn goes(&self, rig: &mut Rig, at: usize) {
        let (out, counted) = rig.observe(&self.pairs[at].sent, self.ingress);
        assert_eq!(out.verdict, REDIRECT, "fragment {at}: {counted:?}");
        assert_same(&out.frame, &self.pairs[at].expected);
        assert_eq!(drops_in(&counted), 0, "{counted:?}");
    }

    /// Runs a fragment that is to be held.
    #[track_caller]
    fn is_held(&self, rig: &mut Rig, at: usize) {
        let (out, counted) = rig.observe(&self.pairs[at].sent, self.ingress);
        assert_eq!((out.verdict, counted), (DROP, Counted::from([("detoured", 1)])));
    }
}

/// A service of one server and its protocol's frames.
fn service(rig: &mut Rig, method: u8, v6: bool, l4: L4) -> Result<Installed> {
    let protocol = if matches!(l4, L4::Tcp(_)) { TCP } else { UDP };
    let kind = u16::from(method) * 2 + u16::from(l4 == L4::UdpUnsummed);
    let listen = vip(v6, 5000 + kind);
    rig.install(&Wanted::new(method, protocol, listen, &servers(v6, 1, 9000 + kind)))
}

/// What every combination is tried with.
fn each(rig: &mut Rig, mut body: impl FnMut(&mut Rig, &Installed, L4) -> Result<()>) -> Result<()> {
    for (method, v6) in KINDS {
        for l4 in [L4::Udp, L4::UdpUnsummed, L4::Tcp(flag::SYN)] {
            let service = service(rig, method, v6, l4)?;
            body(rig, &service, l4)
                .with_context(|| format!("method {method}, IPv6 {v6}, {l4:?}"))?;
        }
    }
    Ok(())
}

/// The table of decisions.
fn table(rig: &Rig) -> Result<Map> {
    Ok(Map::open(&rig.dataplane.directory().join(abi::MAP_FRAGMENTS))?)
}

/// The key of a fragment without tags or other extension headers, read by hand.
fn key_of(frame: &[u8]) -> FragmentKey {
    let ip = &frame[14..];
    let mut key = FragmentKey::zeroed();
    if ip[0] >> 4 == 4 {
        key.source = lb_common::pod::mapped(ip[12..16].try_into().expect("4"));
        key.destination = lb_common::pod::mapped(ip[16..20].try_into().expect("4"));
        key.identification = u32::from(u16::from_be_bytes([ip[4], ip[5]]));
        key.protocol = ip[9];
    } else {
        key.source = ip[8..24].try_into().expect("16");
        key.destination = ip[24..40].try_into().expect("16");
        key.identification = u32::from_be_bytes(ip[44..48].try_into().expect("4"));
    }
    key
}

fn entry_of(rig: &Rig, frame: &[u8]) -> Result<Option<FragmentEntry>> {
    let map = table(rig)?;
    let mut bytes = vec![0; map.value_size()];
    Ok(map.read(bytes_of(&key_of(frame)), &mut bytes)?.then(|| from_bytes(&bytes)).flatten())
}

fn set_entry(rig: &Rig, frame: &[u8], change: impl Fn(&mut FragmentEntry)) -> Result<()> {
    let mut entry = entry_of(rig, frame)?.context("no entry to change")?;
    change(&mut entry);
    Ok(table(rig)?.write(bytes_of(&key_of(frame)), bytes_of(&entry))?)
}

/// Takes what is in the ring.
fn turn(worker: &mut Worker) {
    while worker.turn(Instant::now()) > 0 {}
}

/// The frames that left by an interface, as its peer sees them.
struct Peer(Wire);

impl Peer {
    fn of(ifindex: u32) -> Result<Self> {
        Ok(Self(Wire::here(if ifindex == SERVER_SIDE { "s1" } else { "c0" }, [0; 6])?))
    }

    /// These frames arrive, each once and in any order.
    fn gets(&mut self, mut expected: Vec<&[u8]>) -> Result<()> {
        let is_fragment = |frame: &[u8]| frame.len() > 400;
        while !expected.is_empty() {
            let what = format!("{} held fragments", expected.len());
            let found = self.0.receive(Duration::from_secs(5), &what, is_fragment)?;
            let at = expected.iter().position(|frame| *frame == found);
            let at = at.with_context(|| format!("not expected, or twice:\n{}", hex(&found)))?;
            expected.swap_remove(at);
        }
        Ok(())
    }
}

#[test]
fn fragments_in_order_follow_the_first_without_user_space() {
    with(1000, |rig| {
        each(rig, |rig, service, l4| {
            let (request, reply) = Packet::of(service, l4, 1, 77, 1448);
            ensure!(request.pairs.len() == 6, "{} fragments", request.pairs.len());
            for at in 0..6 {
                request.goes(rig, at);
            }
            // Two at once, and one that is sent again.
            let other = Packet::request(service, l4, 2, 78);
            other.goes(rig, 0);
            request.goes(rig, 5);
            other.goes(rig, 3);
            let found = rig.traffic(service.index[0])?;
            let length = |pair: &Pair| pair.sent.len() as u64 - 14;
            let again = [&request.pairs[5], &other.pairs[0], &other.pairs[3]];
            let bytes = request.pairs.iter().chain(again).map(length).sum();
            ensure!((found.packets_in, found.bytes_in) == (9, bytes), "{found:?}");
            if service.wanted.method == METHOD_NAT {
                for at in 0..6 {
                    reply.goes(rig, at);
                }
                ensure!(rig.traffic(service.index[0])?.packets_out == 6);
            }
            Ok(())
        })
    });
}

#[test]
fn every_order_arrives_once_through_every_method_and_back() {
    with(1000, |rig| {
        let mut worker = Worker::new(&rig.dataplane)?;
        let mut next = 100;
        each(rig, |rig, service, l4| {
            let (mut there, mut back) = (Vec::new(), Vec::new());
            next += 2;
            for (n, id) in [(1, next), (2, next + 1)] {
                let (request, reply) = Packet::of(service, l4, n, id, 1448);
                there.push(request);
                back.push(reply);
            }
            any_order(rig, &mut worker, &there)?;
            if service.wanted.method == METHOD_NAT {
                any_order(rig, &mut worker, &back)?;
            }
            Ok(())
        })
    });
}

/// Two packets' fragments mixed, the first ones last.
fn any_order(rig: &mut Rig, worker: &mut Worker, packets: &[Packet]) -> Result<()> {
    let mut peer = Peer::of(packets[0].egress)?;
    let reruns = worker.counts().get(Counter::DetourReruns);
    for at in (1..6).rev() {
        for packet in packets {
            packet.is_held(rig, at);
        }
        if at == 3 {
            // The daemon has taken some before the first comes, and gets the others after.
            turn(worker);
            ensure!(worker.held().0 == packets.len(), "{:?} held", worker.held());
        }
    }
    for packet in packets {
        packet.goes(rig, 0);
    }
    turn(worker);
    ensure!(worker.held() == (0, 0), "{:?} still held", worker.held());
    let count = worker.counts().get(Counter::DetourReruns) - reruns;
    ensure!(count == 5 * packets.len() as u64, "{count} were run again");
    let later = packets.iter().flat_map(|packet| &packet.pairs[1..]);
    peer.gets(later.map(|pair| &pair.expected[..]).collect())
}

#[test]
fn the_first_fragment_lets_go_what_is_held() {
    with(1000, |rig| {
        let service = service(rig, METHOD_NAT, true, L4::Udp)?;
        let mut worker = Worker::new(&rig.dataplane)?;
        let packet = Packet::request(&service, L4::Udp, 1, 5);
        let mut peer = Peer::of(SERVER_SIDE)?;
        packet.is_held(rig, 1);
        packet.is_held(rig, 4);
        turn(&mut worker);
        ensure!(worker.held().0 == 1);
        packet.goes(rig, 0);
        turn(&mut worker);
        ensure!(worker.held() == (0, 0), "{:?} still held", worker.held());
        peer.gets(vec![&packet.pairs[1].expected, &packet.pairs[4].expected])
    });
}

#[test]
fn news_that_get_lost_are_made_up_for() {
    with(1000, |rig| {
        let service = service(rig, METHOD_DR, false, L4::Udp)?;
        let mut worker = Worker::new(&rig.dataplane)?;
        let packet = Packet::request(&service, L4::Udp, 1, 5);
        packet.is_held(rig, 1);
        turn(&mut worker);
        // The table threw the mark out, so the first fragment tells nobody.
        ensure!(table(rig)?.delete(bytes_of(&key_of(&packet.pairs[1].sent)))?);
        packet.goes(rig, 0);
        turn(&mut worker);
        ensure!(worker.held().0 == 1, "somebody told of it");
        let mut peer = Peer::of(SERVER_SIDE)?;
        worker.turn(Instant::now() + Duration::from_millis(60));
        ensure!(worker.held() == (0, 0));
        peer.gets(vec![&packet.pairs[1].expected])
    });
}

#[test]
fn jumbo_fragments_are_held_whole() {
    with(1000, |rig| {
        for v6 in [false, true] {
            let service = service(rig, METHOD_NAT, v6, L4::Udp)?;
            let packet = Packet::of(&service, L4::Udp, 1, 9, 7200).0;
            let mut worker = Worker::new(&rig.dataplane)?;
            packet.is_held(rig, 1);
            // The first one was the short end; now the long one waits as a later fragment.
            let mut long = packet.pairs[0].sent.clone();
            let word = if v6 { 14 + 40 + 2 } else { 14 + 6 };
            long[word + 1] |= if v6 { 0x40 } else { 8 };
            let (out, counted) = rig.observe(&long, CLIENT_SIDE);
            ensure!(out.verdict == DROP && counted == Counted::from([("detoured", 1)]));
            packet.goes(rig, 0);
            turn(&mut worker);
            // An MTU of 1500 on the way out: the long one cannot be sent, and that is counted.
            ensure!(worker.counts().get(Counter::DetourFailed) == 1, "the long one was sent");
            ensure!(worker.counts().get(Counter::DetourReruns) == 1);
            let mut rerun = vec![0; 20_000];
            let input = [bytes_of(&RerunNote::zeroed()), &long].concat();
            let program = rig.dataplane.program(abi::PROGRAM_UNUSUAL)?;
            let ran = sys::test_run_frame(
                std::os::fd::AsFd::as_fd(&program),
                &input,
                NOTE as u32,
                CLIENT_SIDE,
                &mut rerun,
            )?;
            ensure!(ran.length == input.len() && ran.verdict == REDIRECT, "{ran:?}");
            ensure!(rerun[..4] == SERVER_SIDE.to_ne_bytes(), "where to is not told");
            // Behind the headers, nothing changed.
            ensure!(rerun[NOTE + 62..ran.length] == long[62..], "the frame was not kept whole");
        }
        Ok(())
    });
}

#[test]
fn tags_are_exchanged_in_later_and_in_held_fragments() {
    with(1000, |rig| {
        for (n, tags) in (0..).zip([&[][..], &[(0x8100, 5)], &[(0x88a8, 6), (0x8100, 7)]]) {
            let mut wanted =
                Wanted::new(METHOD_NAT, UDP, vip(false, 5100 + n), &servers(false, 1, 9100));
            wanted.tags = vec![(0x8100, 0x600a)];
            let service = rig.install(&wanted)?;
            let mut request = service.request(L4::Udp, client(false, n));
            (request.tags, request.payload) = (tags.to_vec(), vec![3; 2000]);
            let sent = cut(&request, 7, 1448);
            let expected = cut(&service.sent(&request, 0), 7, 1448);
            let program = rig.dataplane.program(abi::PROGRAM_UNUSUAL)?;
            for (sent, expected) in sent.iter().zip(&expected) {
                let (out, _) = rig.observe(sent, CLIENT_SIDE);
                ensure!(out.verdict == REDIRECT, "verdict {}", out.verdict);
                assert_same(&out.frame, expected);
                let input = [bytes_of(&RerunNote::zeroed()), sent].concat();
                let mut output = vec![0; 4096];
                let program = std::os::fd::AsFd::as_fd(&program);
                let ran =
                    sys::test_run_frame(program, &input, NOTE as u32, CLIENT_SIDE, &mut output)?;
                ensure!(ran.verdict == REDIRECT, "{ran:?}");
                ensure!(output[..4] == SERVER_SIDE.to_ne_bytes(), "where to is not told");
                assert_same(&output[NOTE..ran.length], expected);
            }
        }
        Ok(())
    });
}

#[test]
fn a_decision_lasts_a_second_after_its_last_use() {
    with(1000, |rig| {
        each(rig, |rig, service, l4| {
            let packet = Packet::request(service, l4, 1, 3);
            packet.goes(rig, 0);
            let age = |rig: &Rig, jiffies: u64| {
                set_entry(rig, &packet.pairs[0].sent, |entry| entry.seen -= jiffies)
            };
            // Half a second twice is more than one, but it was used in between.
            for at in [1, 2] {
                age(rig, rig.hz() * 6 / 10)?;
                packet.goes(rig, at);
            }
            age(rig, rig.hz() * 3)?;
            packet.is_held(rig, 3);
            Ok(())
        })
    });
}

#[test]
fn fragments_of_a_real_server_that_is_gone_are_dropped() {
    with(1000, |rig| {
        each(rig, |rig, service, l4| {
            let (request, reply) = Packet::of(service, l4, 1, 3, 1448);
            let mut all = vec![request];
            if service.wanted.method == METHOD_NAT {
                all.push(reply);
            }
            for packet in &all {
                packet.goes(rig, 0);
                packet.goes(rig, 1);
            }
            rig.bump(&mut service.clone(), 0)?;
            for packet in &all {
                let (out, counted) = rig.observe(&packet.pairs[2].sent, packet.ingress);
                ensure!(out.verdict == DROP, "verdict {}", out.verdict);
                ensure!(counted == Counted::from([("fragment_refused", 1)]), "{counted:?}");
            }
            Ok(())
        })
    });
}

#[test]
fn fragments_share_the_fate_of_a_first_one_that_is_dropped_or_passed() {
    with(1000, |rig| {
        let mut worker = Worker::new(&rig.dataplane)?;
        for v6 in [false, true] {
            let mut wanted = Wanted::new(METHOD_NAT, TCP, vip(v6, 6000), &servers(v6, 1, 9000));
            let service = rig.install(&wanted)?;
            wanted.listen.1 = 6001;
            (wanted.ring, wanted.maglev) = (Vec::new(), Vec::new());
            let empty = rig.install(&wanted)?;
            let pieces = |frame: &Frame, id| {
                let mut frame = frame.clone();
                frame.payload = vec![1; 4000];
                cut(&frame, id, 1448)
            };
            let syn = L4::Tcp(flag::SYN);
            // Dropped: nobody is there, or a reset of nothing.
            let reset = service.request(L4::Tcp(flag::RST), client(v6, 9));
            for (frame, reason) in [
                (pieces(&empty.request(syn, client(v6, 1)), 1), "no_real_server"),
                (pieces(&reset, 2), "rst_without_connection"),
            ] {
                let (_, counted) = rig.observe(&frame[0], CLIENT_SIDE);
                ensure!(counted == Counted::from([(reason, 1)]), "{counted:?}");
                ensure!(entry_of(rig, &frame[0])?.is_some_and(|e| e.decision == DROPPED));
                let (out, counted) = rig.observe(&frame[1], CLIENT_SIDE);
                ensure!(out.verdict == DROP && counted == Counted::from([("fragment_refused", 1)]));
            }
            // Passed: a port without a service, a nat server's own traffic.
            let mut own = service.reply(syn, 0, (end("192.0.2.1:1").0, 443));
            if v6 {
                own.destination = end("[2001:db8:1::1]:1").0;
            }
            let ssh = Frame { ports: (1, 22), ..service.request(syn, client(v6, 1)) };
            for (frame, ingress) in [(&own, SERVER_SIDE), (&ssh, CLIENT_SIDE)] {
                let frames = pieces(frame, 3);
                for piece in &frames {
                    rig.passes(piece, ingress);
                }
                ensure!(entry_of(rig, &frames[0])?.is_some_and(|e| e.decision == PASSED));
                // And in the other order, through user space.
                let frames = pieces(frame, 4);
                let passed = worker.counts().get(Counter::DetourReruns);
                let (out, counted) = rig.observe(&frames[1], ingress);
                ensure!(out.verdict == DROP && counted == Counted::from([("detoured", 1)]));
                rig.passes(&frames[0], ingress);
                let name = if ingress == SERVER_SIDE { "d1" } else { "d0" };
                let mut stack = Wire::here(name, [0; 6])?;
                turn(&mut worker);
                ensure!(worker.counts().get(Counter::DetourReruns) == passed + 1);
                let is_it = |found: &[u8]| found == &frames[1][..];
                stack.receive(Duration::from_secs(5), "the fragment for the stack", is_it)?;
            }
        }
        Ok(())
    });
}

#[test]
fn fragments_that_hide_the_transport_header_are_dropped() {
    with(1000, |rig| {
        for v6 in [false, true] {
            let service = service(rig, METHOD_DR, v6, L4::Tcp(flag::SYN))?;
            let mut request = service.request(L4::Tcp(flag::SYN), client(v6, 1));
            request.payload = vec![0; 100];
            // RFC 1858: the flags are in the second fragment. RFC 3128: the second one overlaps them.
            for (room, at) in [(8, 0), (16, 0), (8, 1), (8, 2)] {
                let frame = &cut(&request, 1, room)[at];
                let (out, counted) = rig.observe(frame, CLIENT_SIDE);
                ensure!(out.verdict == DROP, "verdict {}", out.verdict);
                ensure!(counted == Counted::from([("fragment_short", 1)]), "{counted:?}");
            }
            // The first whole one is taken.
            let (out, _) = rig.observe(&cut(&request, 1, 24)[0], CLIENT_SIDE);
            ensure!(out.verdict == REDIRECT);
            // To somebody else they are nothing of ours.
            request.destination = servers(v6, 9, 1)[8].0;
            rig.passes(&cut(&request, 1, 8)[0], CLIENT_SIDE);
            rig.passes(&cut(&request, 1, 8)[1], CLIENT_SIDE);
        }
        Ok(())
    });
}

#[test]
fn copies_for_another_station_are_not_held() {
    with(100, |rig| {
        for v6 in [false, true] {
            let service = service(rig, METHOD_NAT, v6, L4::Udp)?;
            let packet = Packet::request(&service, L4::Udp, 1, 3);
            let mut copy = packet.pairs[1].sent.clone();
            copy[5] ^= 1;
            rig.passes(&copy, CLIENT_SIDE);
            packet.is_held(rig, 1);
        }
        Ok(())
    });
}

#[test]
fn a_frame_that_comes_back_undecided_is_dropped_and_not_held_again() {
    with(100, |rig| {
        let service = service(rig, METHOD_DR, false, L4::Udp)?;
        let packet = Packet::request(&service, L4::Udp, 1, 3);
        let mut rerun = Rerun::new(&rig.dataplane)?;
        let (verdict, counted) =
            rig.counted(|_| Ok(rerun.run(&packet.pairs[1].sent, CLIENT_SIDE, false)?))?;
        ensure!(verdict == Verdict::Dropped, "{verdict:?}");
        ensure!(counted == Counted::from([("fragment_undecided", 1)]), "{counted:?}");
        let mut worker = Worker::new(&rig.dataplane)?;
        ensure!(worker.turn(Instant::now()) == 0, "something came through the ring");
        Ok(())
    });
}

#[test]
fn an_interface_that_is_gone_costs_only_what_came_by_it() {
    with(100, |rig| {
        let service = service(rig, METHOD_DR, false, L4::Udp)?;
        let packet = Packet::request(&service, L4::Udp, 1, 3);
        packet.goes(rig, 0);
        let mut rerun = Rerun::new(&rig.dataplane)?;
        ensure!(rerun.run(&packet.pairs[1].sent, 4711, false).is_err());
        ensure!(rerun.run(&packet.pairs[1].sent, CLIENT_SIDE, false)? == Verdict::Sent);
        Ok(())
    });
}

#[test]
fn a_flood_of_orphans_is_bounded_and_every_one_is_counted() {
    with(1000, |rig| {
        let mut worker = Worker::new(&rig.dataplane)?;
        let service = service(rig, METHOD_NAT, false, L4::Udp)?;
        let template = Packet::request(&service, L4::Udp, 1, 0).pairs.swap_remove(1).sent;
        const ORPHANS: u32 = 20_000;
        let flood = |rig: &mut Rig| {
            for n in 0..ORPHANS {
                let mut frame = template.clone();
                frame[18..20].copy_from_slice(&(n as u16).to_be_bytes());
                ensure!(rig.run(&frame, CLIENT_SIDE)?.verdict == DROP);
            }
            Ok(())
        };
        let ((), counted) = rig.counted(flood)?;
        let (held, refused) = (counted["detoured"], counted["detour_full"]);
        ensure!(held + refused == u64::from(ORPHANS), "{counted:?}");
        ensure!(held * 1500 < u64::from(abi::DETOUR_BYTES) && refused > 0, "{counted:?}");
        while worker.turn(Instant::now()) > 0 {
            let (packets, bytes) = worker.held();
            ensure!(packets <= 1024 && bytes <= 8 << 20, "{:?}", worker.held());
        }
        worker.turn(Instant::now() + Duration::from_secs(2));
        let counts = worker.counts();
        let lost = [Counter::FragmentTimeout, Counter::FragmentOverflow].map(|c| counts.get(c));
        ensure!(lost[0] + lost[1] == held && lost[0] > 0 && lost[1] > 0, "{lost:?} of {held}");
        // The service goes on.
        let packet = Packet::request(&service, L4::Udp, 2, 1);
        for at in 0..6 {
            packet.goes(rig, at);
        }
        Ok(())
    });
}

#[test]
fn the_table_of_decisions_forgets_the_oldest() {
    with(1000, |rig| {
        let service = service(rig, METHOD_DR, true, L4::Udp)?;
        let packet = Packet::request(&service, L4::Udp, 1, 0);
        let count = abi::MAX_FRAGMENTED * 2;
        let mut frame = packet.pairs[0].sent.clone();
        for n in 0..count {
            frame[58..62].copy_from_slice(&n.to_be_bytes());
            ensure!(rig.run(&frame, CLIENT_SIDE)?.verdict == REDIRECT);
        }
        let with_id = |n: u32| {
            let mut frame = packet.pairs[1].sent.clone();
            frame[58..62].copy_from_slice(&n.to_be_bytes());
            frame
        };
        ensure!(rig.run(&with_id(0), CLIENT_SIDE)?.verdict == DROP, "the oldest is still there");
        for n in count - 1000..count {
            let entry = entry_of(rig, &with_id(n))?;
            ensure!(entry.is_some_and(|e| e.decision == REQUEST), "{n} is gone");
            ensure!(rig.run(&with_id(n), CLIENT_SIDE)?.verdict == REDIRECT, "{n}");
        }
        Ok(())
    });
}

/// A packet that may be split, and the pieces of `room` bytes that it becomes.
fn splittable(service: &Installed, n: u16) -> (Vec<u8>, Vec<Vec<u8>>) {
    let mut over = sized(service, client(false, n), 2400);
    over.fragment = 0;
    (over.bytes(), cut_again(&service.sent(&over, 0).bytes(), 1376))
}

#[test]
fn what_may_be_split_is_split_with_every_method() {
    with(1000, |rig| {
        let mut worker = Worker::new(&rig.dataplane)?;
        for method in [METHOD_DR, METHOD_NAT] {
            let service = narrow(rig, method, false, 1400)?;
            let mut peer = Peer::of(SERVER_SIDE)?;
            // The first packet of a connection, and one of a known one.
            for _ in 0..2 {
                let (over, pieces) = splittable(&service, 0);
                ensure!(pieces.len() == 2, "{} pieces", pieces.len());
                let (out, counted) = rig.observe(&over, CLIENT_SIDE);
                ensure!((out.verdict, counted) == (DROP, Counted::from([("detoured", 1)])));
                turn(&mut worker);
                peer.gets(pieces.iter().map(Vec::as_slice).collect())?;
            }
            let found = rig.traffic(service.index[0])?;
            // 2,400 bytes, and a second header.
            ensure!(
                (found.connections, found.packets_in, found.bytes_in) == (1, 4, 4840),
                "{found:?}"
            );
        }
        let counts = worker.counts();
        ensure!(counts.get(Counter::Split) == 4 && counts.get(Counter::DetourReruns) == 4);
        let service = narrow(rig, METHOD_TUNNEL, false, 1400)?;
        let mut peer = Peer::of(SERVER_SIDE)?;
        let (over, pieces) = splittable(&service, 0);
        let (out, counted) = rig.observe(&over, CLIENT_SIDE);
        ensure!((out.verdict, counted) == (DROP, Counted::from([("detoured", 1)])));
        turn(&mut worker);
        let outer = [octets(tunnels::source(false)), octets(service.wanted.servers[0].0)].concat();
        for piece in &pieces {
            let wire = peer.0.receive(Duration::from_secs(5), "a piece", |f| f.len() > 400)?;
            ensure!(wire[26..34] == outer, "{}", hex(&wire));
            ensure!(wire[34..] == piece[14..], "{}\n{}", hex(&wire[34..]), hex(&piece[14..]));
        }
        ensure!(counts.get(Counter::Split) == 5, "{} split", counts.get(Counter::Split));
        Ok(())
    });
}

#[test]
fn fragments_are_split_in_any_order() {
    with(1000, |rig| {
        let mut worker = Worker::new(&rig.dataplane)?;
        for (method, id) in [(METHOD_DR, 50), (METHOD_NAT, 51)] {
            let listen = vip(false, 5200 + u16::from(method));
            let mut wanted = Wanted::new(method, UDP, listen, &servers(false, 1, 9200));
            wanted.mtu = 1000;
            let service = rig.install(&wanted)?;
            let packet = Packet::request(&service, L4::Udp, 1, id);
            let mut peer = Peer::of(SERVER_SIDE)?;
            // Each goes to user space once: the later ones because the first is not there yet, the
            // first because it is too big.
            for at in (0..6).rev() {
                packet.is_held(rig, at);
            }
            turn(&mut worker);
            ensure!(worker.held() == (0, 0), "{:?} still held", worker.held());
            let pieces: Vec<Vec<u8>> =
                packet.pairs.iter().flat_map(|pair| cut_again(&pair.expected, 976)).collect();
            ensure!(pieces.len() == 11, "{} pieces", pieces.len());
            peer.gets(pieces.iter().map(Vec::as_slice).collect())?;
            // The decision is there: too big alone brings a later one to user space now.
            packet.is_held(rig, 2);
            packet.goes(rig, 5);
            turn(&mut worker);
            let again = cut_again(&packet.pairs[2].expected, 976);
            peer.gets(again.iter().map(Vec::as_slice).collect())?;
        }
        let counts = worker.counts();
        let found = (counts.get(Counter::DetourReruns), counts.get(Counter::Split));
        ensure!(found == (14, 12), "{found:?}");
        Ok(())
    });
}

#[test]
fn a_piece_is_never_split_again() {
    with(100, |rig| {
        let service = narrow(rig, METHOD_DR, false, 1400)?;
        let (over, _) = splittable(&service, 0);
        let mut rerun = Rerun::new(&rig.dataplane)?;
        let (verdict, counted) = rig.counted(|_| Ok(rerun.run(&over, CLIENT_SIDE, false)?))?;
        ensure!(verdict == Verdict::TooBig(1400) && drops_in(&counted) == 0, "{verdict:?}");
        let (verdict, counted) = rig.counted(|_| Ok(rerun.run(&over, CLIENT_SIDE, true)?))?;
        ensure!(verdict == Verdict::Dropped, "{verdict:?}");
        ensure!(counted == Counted::from([("too_big_unfragmented", 1)]), "{counted:?}");
        let mut worker = Worker::new(&rig.dataplane)?;
        ensure!(worker.turn(Instant::now()) == 0, "something came through the ring");
        Ok(())
    });
}

#[test]
fn who_could_be_split_is_told_when_user_space_is_behind_or_away() {
    with(1000, |rig| {
        let service = narrow(rig, METHOD_DR, false, 1400)?;
        let over = Frame { fragment: 0, ..sized(&service, client(false, 0), 1401) };
        let later = Frame { fragment: 0x2010, ..over.clone() };
        // Nobody takes anything from the ring.
        let room = u64::from(abi::DETOUR_BYTES) / 1400;
        for n in 0.. {
            ensure!(n < room, "the ring takes everything");
            let (out, counted) = rig.observe(&over.bytes(), CLIENT_SIDE);
            if out.verdict == DROP {
                ensure!(counted == Counted::from([("detoured", 1)]), "{counted:?}");
                continue;
            }
            ensure!(counted == Counted::from([("path_mtu_told_unfragmented", 1)]), "{counted:?}");
            assert_same(&out.frame, &told(&over, 1400, 528));
            break;
        }
        let mut worker = Worker::new(&rig.dataplane)?;
        turn(&mut worker);
        let found = worker.counts().get(Counter::Split);
        ensure!(found > 100, "only {found} fitted the ring");
        rig.age_heartbeat(rig.hz() * 3600 + rig.hz())?;
        let (out, counted) = rig.observe(&over.bytes(), CLIENT_SIDE);
        ensure!(out.verdict == TX && counted.contains_key("path_mtu_told_unfragmented"));
        // Nobody is told of a later fragment.
        let first = Frame { fragment: 0x2000, ..over };
        rig.observe(&first.bytes(), CLIENT_SIDE);
        rig.drops(&later, CLIENT_SIDE, Counter::DetourFull);
        Ok(())
    });
}
