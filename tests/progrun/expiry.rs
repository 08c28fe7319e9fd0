//! The expire program: it closes what is over, and nothing else, whatever it is given.

use anyhow::{Context, Result};
use lb_common::expire::{BATCH, BatchHead};
use lb_common::pod::bytes_of;
use lb_common::service::{METHOD_DR, METHOD_NAT};

use crate::frames::{Frame, L4, flag};
use crate::rig::*;
use crate::services::*;

const SYN: L4 = L4::Tcp(flag::SYN);
const ACK: L4 = L4::Tcp(flag::ACK);

/// A batch of the keys of these frames.
fn batch(family: u32, count: u32, frames: &[Frame]) -> Vec<u8> {
    let mut data = bytes_of(&BatchHead { count, family, pad: [0; 2] }).to_vec();
    for frame in frames {
        match conn_key(frame) {
            Key::V4(key) => data.extend(bytes_of(&key)),
            Key::V6(key) => data.extend(bytes_of(&key)),
        }
    }
    data
}

/// Proposes these frames' connections; gives how many were closed.
fn propose(rig: &mut Rig, frames: &[Frame]) -> Result<u64> {
    let family = if frames[0].source.is_ipv6() { 6 } else { 4 };
    let data = batch(family, frames.len() as u32, frames);
    let (verdict, counted) = rig.counted(|rig| rig.run_expire(&data))?;
    assert_eq!(verdict, PASS);
    Ok(counted.get("connections_expired").copied().unwrap_or(0))
}

/// Opens connections of clients `0..count` and gives their requests.
fn open(rig: &mut Rig, service: &Installed, count: u16) -> Result<Vec<Frame>> {
    let v6 = service.wanted.listen.0.is_ipv6();
    (0..count)
        .map(|n| {
            let request = service.request(SYN, client(v6, n));
            rig.run(&request.bytes(), CLIENT_SIDE)?;
            Ok(request)
        })
        .collect()
}

#[test]
fn only_what_is_over_is_closed_and_a_whole_batch_of_ipv6_keys_fits() {
    with(1000, |rig| {
        for (method, v6) in KINDS {
            let listen = vip(v6, 80 + u16::from(method));
            let service =
                rig.install(&Wanted::new(method, TCP, listen, &servers(v6, 1, listen.1)))?;
            let requests = open(rig, &service, BATCH as u16)?;
            assert_eq!(propose(rig, &requests)?, 0, "all of them live");
            let hz = rig.hz();
            for request in requests.iter().step_by(2) {
                rig.age(request, 61 * hz)?;
            }
            assert_eq!(propose(rig, &requests)?, u64::from(BATCH / 2));
            assert_eq!(rig.counts(service.index[0])?, (i64::from(BATCH / 2), 0));
            for (n, request) in (0..).zip(&requests) {
                let lives = n % 2 == 1;
                assert_eq!(rig.entry(request)?.is_some(), lives);
                let reply = service.reply(ACK, 0, client(v6, n));
                let has_reply = lives && method == METHOD_NAT;
                assert_eq!(rig.entry(&reply)?.is_some(), has_reply, "the reply half of {n}");
            }
            assert_eq!(propose(rig, &requests)?, 0, "what is gone is not closed again");
            for request in requests.iter().skip(1).step_by(2) {
                rig.age(request, 61 * hz)?;
            }
            assert_eq!(propose(rig, &requests)?, u64::from(BATCH / 2));
            assert_eq!(rig.counts(service.index[0])?, (0, 0));
        }
        Ok(())
    });
}

#[test]
fn connections_of_a_servers_earlier_use_are_closed_at_once() {
    with(1000, |rig| {
        for (method, v6) in KINDS {
            let listen = vip(v6, 80 + u16::from(method));
            let mut service =
                rig.install(&Wanted::new(method, TCP, listen, &servers(v6, 2, listen.1)))?;
            let requests = open(rig, &service, 10)?;
            rig.bump(&mut service, 0)?;
            assert_eq!(propose(rig, &requests)?, 5);
            assert_eq!(rig.counts(service.index[0])?, (0, 0));
            assert_eq!(rig.counts(service.index[1])?, (5, 0));
        }
        Ok(())
    });
}

#[test]
fn inactive_connections_leave_the_inactive_count() {
    with(1000, |rig| {
        for (method, v6) in KINDS {
            let listen = vip(v6, 53 + u16::from(method));
            let service =
                rig.install(&Wanted::new(method, UDP, listen, &servers(v6, 1, listen.1)))?;
            let request = service.request(L4::Udp, client(v6, 0));
            rig.run(&request.bytes(), CLIENT_SIDE)?;
            assert_eq!(rig.counts(service.index[0])?, (0, 1));
            rig.age(&request, 301 * rig.hz())?;
            assert_eq!(propose(rig, std::slice::from_ref(&request))?, 1);
            assert_eq!(rig.counts(service.index[0])?, (0, 0));
        }
        Ok(())
    });
}

#[test]
fn a_reply_half_goes_only_when_it_is_an_orphan_of_more_than_a_second() {
    with(1000, |rig| {
        let hz = rig.hz();
        for v6 in [false, true] {
            let service =
                rig.install(&Wanted::new(METHOD_NAT, TCP, vip(v6, 80), &servers(v6, 1, 8080)))?;
            let request = open(rig, &service, 1)?.remove(0);
            let reply = service.reply(ACK, 0, client(v6, 0));
            let half = std::slice::from_ref(&reply);
            rig.age(&reply, 100 * hz)?;
            assert_eq!(propose(rig, half)?, 0, "old, with its forward half");
            rig.remove(&request)?;
            rig.age(&reply, 0)?;
            let now = rig.jiffies()?;
            rig.set_seen(&reply, now - hz * 3 / 4)?;
            assert_eq!(propose(rig, half)?, 0, "young, without");
            rig.set_seen(&reply, now - hz - 2)?;
            assert_eq!(propose(rig, half)?, 1, "old, without");
            assert!(rig.entry(&reply)?.is_none());
            // Its forward half was taken away by this test, not closed: the count stays.
            assert_eq!(rig.counts(service.index[0])?, (1, 0));
        }
        Ok(())
    });
}

#[test]
fn garbage_does_nothing() {
    with(1000, |rig| {
        let service =
            rig.install(&Wanted::new(METHOD_DR, TCP, vip(false, 80), &servers(false, 1, 80)))?;
        let requests = open(rig, &service, 4)?;
        for request in &requests {
            rig.age(request, 61 * rig.hz())?;
        }
        let good = batch(4, 4, &requests);
        let mut other_family = good.clone();
        other_family[4] = 6;
        let mut no_family = good.clone();
        no_family[4] = 5;
        let rows = [
            batch(4, 0, &requests),
            batch(6, 4, &requests),
            other_family,
            no_family,
            good[..16].to_vec(),
            good[..14].to_vec(),
            good[..31].to_vec(),
            vec![0xff; 3000],
            vec![0; 64],
        ];
        for row in rows {
            let (verdict, counted) = rig.counted(|rig| rig.run_expire(&row))?;
            assert_eq!((verdict, counted), (PASS, Counted::new()));
        }
        assert_eq!(rig.counts(service.index[0])?, (4, 0));
        // A count that lies reaches no further than the keys and the batch.
        let lies = batch(4, u32::MAX, &requests);
        let (_, counted) = rig.counted(|rig| rig.run_expire(&lies))?;
        assert_eq!(counted.get("connections_expired").context("nothing closed")?, &4);
        assert_eq!(rig.counts(service.index[0])?, (0, 0));
        Ok(())
    });
}
