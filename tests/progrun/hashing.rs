//! sh and mh: a source's server, weights, and what happens when that server takes nothing new.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};

use anyhow::{Result, ensure};
use lb_common::pod::mapped;
use lb_common::service::{METHOD_DR, METHOD_NAT, SCHEDULER_HASH};
use lb_common::verdict::Counter;
use lb_user::sched::maglev::{self, Identity};

use crate::frames::{L4, flag};
use crate::rig::*;
use crate::services::*;

const SYN: L4 = L4::Tcp(flag::SYN);
const ACK: L4 = L4::Tcp(flag::ACK);

/// A service over servers of these weights, with the table that the planner would give it.
fn hashed(method: u8, port: u16, weights: &[u32]) -> Wanted {
    let mut wanted =
        Wanted::new(method, TCP, vip(false, port), &servers(false, weights.len() as u16, port));
    let members: Vec<maglev::Server> = (0u32..)
        .zip(weights)
        .map(|(index, weight)| {
            let identity = Identity { address: mapped([10, 5, 0, index as u8 + 1]), port };
            maglev::Server { identity, weight: *weight, index }
        })
        .collect();
    let table = maglev::build(&members, maglev::size(weights.len(), maglev::Use::Scheduler));
    wanted.maglev = table.into_iter().map(|index| index as usize).collect();
    (wanted.scheduler, wanted.weights, wanted.ring) =
        (SCHEDULER_HASH, weights.to_vec(), Vec::new());
    (wanted.hash_port, wanted.hash_fallback) = (false, false);
    wanted
}

/// The `n`th source, with some port.
fn source(n: u32, port: u16) -> End {
    (IpAddr::V4(Ipv4Addr::from(0xc633_0000 + n)), port)
}

/// Who gets a packet, `None` when it is dropped for want of a server.
#[track_caller]
fn gets(rig: &mut Rig, service: &Installed, l4: L4, client: End) -> Option<usize> {
    let request = service.request(l4, client);
    let (out, counted) = rig.observe(&request.bytes(), CLIENT_SIDE);
    if out.verdict == DROP {
        assert_eq!(counted.get(Counter::NoRealServer.name()), Some(&1), "{counted:?}");
        return None;
    }
    let sent = |server: &usize| service.sent(&request, *server).bytes() == out.frame;
    Some((0..service.index.len()).find(sent).expect("it goes to a server"))
}

#[test]
fn one_source_has_one_server_and_shares_follow_weights() {
    with(65_536, |rig| {
        let weights = [1, 2, 3, 0];
        for (port, hash_port) in [(81, false), (82, true)] {
            let wanted = Wanted { hash_port, ..hashed(METHOD_DR, port, &weights) };
            let service = rig.install(&wanted)?;
            let (mut shares, mut split) = ([0usize; 4], 0);
            for n in 0..3000 {
                let own: BTreeSet<_> =
                    (0..3).map(|port| gets(rig, &service, SYN, source(n, 1000 + port))).collect();
                ensure!(!own.contains(&None), "{n} is dropped");
                split += usize::from(own.len() > 1);
                own.into_iter().flatten().for_each(|server| shares[server] += 1);
            }
            if hash_port {
                ensure!(split > 1500, "the port hardly counts: {split} of 3000");
                continue;
            }
            ensure!(split == 0, "{split} sources have several servers");
            for (share, weight) in shares.into_iter().zip(weights) {
                let meant = 500 * weight as usize;
                ensure!(share.abs_diff(meant) <= meant / 8, "{shares:?} for {weights:?}");
            }
        }
        Ok(())
    });
}

#[test]
fn a_quiet_servers_sources_are_dropped_or_go_to_others_as_the_fallback_says() {
    with(65_536, |rig| {
        let mut before = Vec::new();
        for (port, hash_fallback) in [(83, false), (84, true)] {
            let wanted = Wanted { hash_fallback, ..hashed(METHOD_DR, port, &[1, 1, 1, 1]) };
            let mut service = rig.install(&wanted)?;
            let mut own = Vec::new();
            for n in 0..400 {
                own.push(gets(rig, &service, SYN, source(n, 1000)));
            }
            rig.set_weight(&mut service, 2, 0)?;
            let mut now = BTreeSet::new();
            for n in 0..400 {
                let usual = own[n as usize];
                // What is open goes on.
                ensure!(gets(rig, &service, ACK, source(n, 1000)) == usual, "{n} was open");
                let new = gets(rig, &service, SYN, source(n, 2000));
                match usual {
                    Some(2) if hash_fallback => {
                        ensure!(new.is_some_and(|server| server != 2), "{n} goes to {new:?}");
                        let again = gets(rig, &service, SYN, source(n, 3000));
                        ensure!(again == new, "one source, two servers: {new:?}, {again:?}");
                        now.insert(new);
                    }
                    Some(2) => ensure!(new.is_none(), "{n} goes to {new:?}"),
                    usual => ensure!(new == usual, "{n} moves from {usual:?} to {new:?}"),
                }
            }
            ensure!(!hash_fallback || now.len() == 3, "all go to {now:?}");
            before.push(own);
            // Nobody is left: with the fallback too.
            for server in 0..4 {
                rig.set_weight(&mut service, server, 0)?;
            }
            ensure!(gets(rig, &service, SYN, source(1, 4000)).is_none(), "weight 0 was chosen");
        }
        Ok(())
    });
}

#[test]
fn a_flow_in_its_middle_finds_its_server_without_the_table_even_if_that_is_quiet() {
    with(65_536, |rig| {
        let wanted = Wanted { hash_fallback: true, ..hashed(METHOD_DR, 85, &[3, 1, 2]) };
        let mut service = rig.install(&wanted)?;
        for n in 0..200 {
            let client = source(n, 5000);
            let server = gets(rig, &service, SYN, client);
            ensure!(rig.remove(&service.request(SYN, client))?, "no entry to lose");
            let own = server.expect("a server");
            let weight = service.elements[own].weight;
            rig.set_weight(&mut service, own, 0)?;
            let then = gets(rig, &service, ACK, client);
            ensure!(then == server, "{n} had {server:?} and is sent to {then:?}");
            rig.set_weight(&mut service, own, weight)?;
        }
        Ok(())
    });
}

#[test]
fn flows_without_entries_pass_quiet_servers_over_as_new_ones_do() {
    with(65_536, |rig| {
        for (port, hash_fallback) in [(86, false), (87, true)] {
            let wanted = Wanted { hash_fallback, ..hashed(METHOD_DR, port, &[1, 1]) };
            let mut service = rig.install(&wanted)?;
            rig.set_weight(&mut service, 0, 0)?;
            let mut fates = BTreeSet::new();
            for n in 0..40 {
                let new = gets(rig, &service, SYN, source(n, 1000));
                rig.configure(|config| config.flood_limit = 1)?;
                gets(rig, &service, SYN, source(n, 1999));
                let flooded = gets(rig, &service, SYN, source(n, 2000));
                rig.configure(|config| config.flood_limit = 0)?;
                ensure!(flooded == new, "{n}: {flooded:?}, {new:?}");
                fates.insert(new);
            }
            let other = if hash_fallback { vec![Some(1)] } else { vec![None, Some(1)] };
            ensure!(fates.into_iter().eq(other), "other fates");
        }
        Ok(())
    });
}

#[test]
fn nat_finds_another_server_for_a_source_whose_own_one_knows_its_port() {
    with(1000, |rig| {
        let ports = [8080, 8081, 8082];
        let services = ports
            .map(|port| {
                let mut wanted = hashed(METHOD_NAT, port, &[1, 1]);
                wanted.servers = servers(false, 2, 8000);
                rig.install(&wanted)
            })
            .into_iter()
            .collect::<Result<Vec<_>>>()?;
        for n in 0..20 {
            let client = source(n, 1000);
            let first = gets(rig, &services[0], SYN, client);
            let second = gets(rig, &services[1], SYN, client);
            ensure!(first.is_some() && second.is_some() && first != second, "{first:?} {second:?}");
            let third = services[2].request(SYN, client);
            rig.drops(&third, CLIENT_SIDE, Counter::NatTupleInUse);
        }
        Ok(())
    });
}
