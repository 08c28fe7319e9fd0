//! The guard: who is dropped by the deny list, and who passes the allow list.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use lb_common::service::{CONFIG_ALLOW_ONLY, METHOD_DR, METHOD_NAT};
use lb_common::verdict::Counter;
use lb_user::model::Prefix;
use lb_user::plan::{Denial, List, MapOp};

use crate::frames::{Frame, L4, Tag, flag};
use crate::rig::*;
use crate::services::*;

const TAGGINGS: [&[Tag]; 4] =
    [&[], &[(0x8100, 0x6005)], &[(0x88a8, 7)], &[(0x88a8, 9), (0x8100, 0x200a)]];

fn prefix(text: &str) -> Prefix {
    text.parse().expect("a prefix")
}

/// A client with an address of its own.
fn source(v6: bool, n: u8) -> End {
    let ip = if v6 { format!("2001:db8:c::{n}") } else { format!("198.51.100.{n}") };
    (ip.parse().expect("an address"), 40_000)
}

/// The prefix of this length around an address.
fn around(address: IpAddr, len: u8) -> Prefix {
    Prefix::new(address, len).expect("a length of its family")
}

fn list(rig: &mut Rig, list: List, prefixes: &[Prefix]) -> Result<()> {
    rig.apply(&MapOp::AddPrefixes { list, prefixes: prefixes.into() })
}

/// Bans until this time in jiffies.
fn ban(rig: &mut Rig, prefix: Prefix, until: u64) -> Result<()> {
    let denial = Denial { configured: false, banned: Some(until) };
    rig.apply(&MapOp::SetDenial { prefix, denial })
}

/// What an entry of the deny list has counted.
fn packets(rig: &mut Rig, prefix: Prefix) -> Result<u64> {
    let entries = rig.dataplane.tables().lists().denials()?.read()?;
    let entry = entries.into_iter().find(|(own, ..)| *own == prefix);
    Ok(entry.with_context(|| format!("no entry {prefix}"))?.2)
}

/// A service of this family, and the guard before it.
fn guarded(rig: &mut Rig, v6: bool, method: u8) -> Result<Installed> {
    rig.enter_by_guard()?;
    let listen = vip(v6, 80 + u16::from(method));
    rig.install(&Wanted::new(method, TCP, listen, &servers(v6, 1, listen.1)))
}

const SYN: L4 = L4::Tcp(flag::SYN);

#[test]
fn the_longest_prefix_counts_and_others_are_forwarded_as_ever() {
    with(1000, |rig| {
        for v6 in [false, true] {
            let service = guarded(rig, v6, METHOD_DR)?;
            let banned = source(v6, 1);
            let [host, wide] = if v6 { [128, 48] } else { [32, 16] };
            let [host, wide] = [around(banned.0, host), around(banned.0, wide)];
            let frame = service.request(SYN, banned);
            rig.becomes(&frame, CLIENT_SIDE, &service.sent(&frame, 0), REDIRECT);
            list(rig, List::Deny, &[wide])?;
            // An open connection is cut as well.
            let open = service.request(L4::Tcp(flag::ACK), banned);
            rig.drops(&open, CLIENT_SIDE, Counter::Denied);
            list(rig, List::Deny, &[host])?;
            for _ in 0..3 {
                rig.drops(&frame, CLIENT_SIDE, Counter::Denied);
            }
            let neighbour = service.request(SYN, source(v6, 2));
            rig.drops(&neighbour, CLIENT_SIDE, Counter::Denied);
            assert_eq!((packets(rig, host)?, packets(rig, wide)?), (3, 2));
            let elsewhere: IpAddr =
                if v6 { "2001:db8:ffff::9" } else { "203.0.114.9" }.parse().expect("an address");
            let other = service.request(SYN, (elsewhere, 40_000));
            rig.becomes(&other, CLIENT_SIDE, &service.sent(&other, 0), REDIRECT);
            // A change of the entry keeps what it counted.
            ban(rig, host, 0)?;
            assert_eq!(packets(rig, host)?, 3);
            let gone = MapOp::RemovePrefixes { list: List::Deny, prefixes: [host, wide].into() };
            rig.apply(&gone)?;
            rig.apply(&gone).context("what is gone already is no fault")?;
            rig.becomes(&open, CLIENT_SIDE, &service.sent(&open, 0), REDIRECT);
            assert!(rig.dataplane.tables().lists().is_empty()?);
        }
        Ok(())
    });
}

#[test]
fn without_the_guard_the_list_does_nothing() {
    // The planted fault: what `drops` finds above is the guard's doing and nobody else's.
    with(100, |rig| {
        let service =
            rig.install(&Wanted::new(METHOD_DR, TCP, vip(false, 80), &servers(false, 1, 80)))?;
        list(rig, List::Deny, &[prefix("0.0.0.0/0")])?;
        let frame = service.request(SYN, source(false, 0));
        rig.becomes(&frame, CLIENT_SIDE, &service.sent(&frame, 0), REDIRECT);
        rig.enter_by_guard()?;
        rig.drops(&frame, CLIENT_SIDE, Counter::Denied);
        Ok(())
    });
}

#[test]
fn a_ban_ends_by_the_kernels_clock() {
    with(100, |rig| {
        let service = guarded(rig, false, METHOD_DR)?;
        let one = source(false, 1);
        let frame = service.request(SYN, one);
        let host = around(one.0, 32);
        let deadline = rig.jiffies()? + rig.hz() / 4;
        ban(rig, host, deadline)?;
        rig.drops(&frame, CLIENT_SIDE, Counter::Denied);
        let mut last_drop = 0;
        let first_pass = loop {
            let before = rig.jiffies()?;
            let out = rig.run(&frame.bytes(), CLIENT_SIDE)?;
            match out.verdict {
                DROP => last_drop = before,
                _ => break rig.jiffies()?,
            }
        };
        assert!(last_drop < deadline, "dropped at {last_drop}, which is after {deadline}");
        assert!(first_pass >= deadline, "passed at {first_pass}, which is before {deadline}");
        Ok(())
    });
}

#[test]
fn what_is_over_hides_no_shorter_prefix() {
    with(1000, |rig| {
        for v6 in [false, true] {
            let service = guarded(rig, v6, METHOD_DR)?;
            let one = source(v6, 1);
            let frame = service.request(SYN, one);
            let most = if v6 { 128 } else { 32 };
            // Every prefix around the client but the widest was banned, and is not any more.
            let now = rig.jiffies()?;
            for len in 1..=most {
                ban(rig, around(one.0, len), now)?;
            }
            rig.becomes(&frame, CLIENT_SIDE, &service.sent(&frame, 0), REDIRECT);
            ban(rig, around(one.0, 0), now + 3600 * rig.hz())?;
            rig.drops(&frame, CLIENT_SIDE, Counter::Denied);
            assert_eq!(packets(rig, around(one.0, 0))?, 1);
            assert_eq!(packets(rig, around(one.0, most))?, 0);
            // In the file beside a ban that is over: the file holds.
            let denial = Denial { configured: true, banned: Some(now) };
            rig.apply(&MapOp::SetDenial { prefix: around(one.0, most), denial })?;
            rig.drops(&frame, CLIENT_SIDE, Counter::Denied);
            assert_eq!(packets(rig, around(one.0, most))?, 1);
            for len in 0..=most {
                let prefixes = [around(one.0, len)].into();
                rig.apply(&MapOp::RemovePrefixes { list: List::Deny, prefixes })?;
            }
        }
        Ok(())
    });
}

/// Frames of every kind from `source` to `destination`.
fn every_kind(source: IpAddr, destination: IpAddr) -> Vec<Frame> {
    let mut frames = Vec::new();
    let v6 = source.is_ipv6();
    for l4 in [SYN, L4::Udp, L4::Raw(if v6 { 58 } else { 1 }), L4::Raw(47), L4::Raw(112)] {
        let mut plain = Frame::new(l4, (source, 4000), (destination, 80));
        (plain.to, plain.from) = (CLIENT_SIDE_MAC, CLIENT_MAC);
        let kinds = if v6 {
            let with = |extensions| Frame { extensions, ..plain.clone() };
            vec![
                with(vec![]),
                with(vec![(0, vec![0; 8])]),
                with(vec![(44, vec![0, 0, 0, 1, 1, 2, 3, 4])]),
                with(vec![(44, vec![0, 0, 3, 0x20, 1, 2, 3, 4])]),
                with(vec![(60, vec![0; 8]); 7]),
            ]
        } else {
            let with = |words: usize, fragment| Frame {
                options: vec![1; words * 4],
                fragment,
                ..plain.clone()
            };
            vec![
                with(0, 0),
                with(1, 0),
                with(10, 0),
                with(0, 0x2000),
                with(0, 0x2064),
                with(3, 200),
            ]
        };
        for kind in kinds {
            frames.extend(TAGGINGS.map(|tags| Frame { tags: tags.to_vec(), ..kind.clone() }));
        }
    }
    frames
}

#[test]
fn every_kind_of_packet_is_dropped_wherever_it_goes() {
    with(100, |rig| {
        for v6 in [false, true] {
            guarded(rig, v6, METHOD_DR)?;
            let denied = source(v6, 1).0;
            let others: IpAddr =
                if v6 { "2001:db8:77::1" } else { "198.51.101.254" }.parse().expect("an address");
            list(rig, List::Deny, &[around(denied, if v6 { 64 } else { 24 })])?;
            for destination in [vip(v6, 80).0, others] {
                for frame in every_kind(denied, destination) {
                    rig.drops(&frame, CLIENT_SIDE, Counter::Denied);
                }
            }
            // The destination does not count.
            for frame in every_kind(others, denied) {
                rig.passes(&frame.bytes(), CLIENT_SIDE);
            }
        }
        let mut arp = vec![0xff; 12];
        arp.extend([8, 6]);
        arp.resize(60, 0);
        rig.passes(&arp, CLIENT_SIDE);
        for length in 14..34 {
            let frame = every_kind(source(false, 1).0, vip(false, 80).0)[0].bytes();
            rig.passes(&frame[..length], CLIENT_SIDE);
        }
        Ok(())
    });
}

#[test]
fn an_ipv4_source_in_an_ipv6_packet_is_the_ipv4_source() {
    with(100, |rig| {
        let service = guarded(rig, true, METHOD_DR)?;
        let mapped: IpAddr = "::ffff:198.51.100.9".parse().expect("an address");
        let frame = service.request(SYN, (mapped, 4000));
        list(rig, List::Deny, &[prefix("198.51.100.0/24")])?;
        rig.drops(&frame, CLIENT_SIDE, Counter::Denied);
        let compatible: IpAddr = "::198.51.100.9".parse().expect("an address");
        let other = service.request(SYN, (compatible, 4000));
        rig.becomes(&other, CLIENT_SIDE, &service.sent(&other, 0), REDIRECT);
        Ok(())
    });
}

/// Lets only these reach services.
fn allow_only(rig: &mut Rig, prefixes: &[Prefix]) -> Result<()> {
    list(rig, List::Allow, prefixes)?;
    rig.configure(|config| config.flags |= CONFIG_ALLOW_ONLY)
}

#[test]
fn an_allow_list_keeps_others_from_virtual_addresses_only() {
    with(1000, |rig| {
        for v6 in [false, true] {
            let service = guarded(rig, v6, METHOD_NAT)?;
            let (friend, other) = (source(v6, 1), source(v6, 2));
            allow_only(rig, &[around(friend.0, if v6 { 128 } else { 32 })])?;
            let request = service.request(SYN, friend);
            rig.becomes(&request, CLIENT_SIDE, &service.sent(&request, 0), REDIRECT);
            let reply = service.reply(L4::Tcp(flag::SYN | flag::ACK), 0, friend);
            rig.becomes(&reply, SERVER_SIDE, &service.returned(&reply, &request), REDIRECT);
            for frame in every_kind(other.0, vip(v6, 80).0) {
                rig.drops(&frame, CLIENT_SIDE, Counter::NotAllowed);
            }
            let own: IpAddr =
                if v6 { "2001:db8:c::fe" } else { "198.51.101.254" }.parse().expect("an address");
            for frame in every_kind(other.0, own) {
                rig.passes(&frame.bytes(), CLIENT_SIDE);
            }
            // Denied goes before allowed.
            ban(rig, around(friend.0, if v6 { 128 } else { 32 }), 0)?;
            rig.drops(&request, CLIENT_SIDE, Counter::Denied);
        }
        Ok(())
    });
}

#[test]
fn a_list_of_one_family_keeps_the_other_out() {
    with(100, |rig| {
        let service = guarded(rig, true, METHOD_DR)?;
        allow_only(rig, &[prefix("198.51.100.0/24")])?;
        let frame = service.request(SYN, source(true, 1));
        rig.drops(&frame, CLIENT_SIDE, Counter::NotAllowed);
        let mapped: IpAddr = "::ffff:198.51.100.9".parse().expect("an address");
        let frame = service.request(SYN, (mapped, 4000));
        rig.becomes(&frame, CLIENT_SIDE, &service.sent(&frame, 0), REDIRECT);
        Ok(())
    });
}

/// An ICMP error of a router to the virtual address, about a packet from there to `about`.
fn error(v6: bool, kind: u8, router: IpAddr, about: IpAddr) -> Frame {
    let vip = vip(v6, 80).0;
    let inner = Frame::new(L4::Tcp(flag::ACK), (vip, 80), (about, 4000)).bytes();
    let mut error = Frame::new(L4::Raw(if v6 { 58 } else { 1 }), (router, 0), (vip, 0));
    (error.to, error.from) = (CLIENT_SIDE_MAC, CLIENT_MAC);
    error.payload = [&[kind, 0, 0, 0, 0, 0, 0, 0][..], &inner[14..]].concat();
    error
}

#[test]
fn errors_about_packets_to_allowed_clients_come_through() {
    with(100, |rig| {
        for v6 in [false, true] {
            guarded(rig, v6, METHOD_DR)?;
            let (friend, other) = (source(v6, 1).0, source(v6, 2).0);
            let router: IpAddr =
                if v6 { "2001:db8:77::1" } else { "192.0.2.254" }.parse().expect("an address");
            allow_only(rig, &[around(friend, if v6 { 128 } else { 32 })])?;
            let (errors, others) = if v6 { ([1, 2, 3], [128, 135]) } else { ([3, 11, 12], [8, 5]) };
            for kind in errors {
                for tags in TAGGINGS {
                    let tags = tags.to_vec();
                    let good = Frame { tags: tags.clone(), ..error(v6, kind, router, friend) };
                    ensure!(rig.run(&good.bytes(), CLIENT_SIDE)?.verdict != DROP, "{good:?}");
                    let bad = Frame { tags, ..error(v6, kind, router, other) };
                    rig.drops(&bad, CLIENT_SIDE, Counter::NotAllowed);
                }
            }
            for kind in others {
                rig.drops(&error(v6, kind, router, friend), CLIENT_SIDE, Counter::NotAllowed);
            }
        }
        Ok(())
    });
}
