//! What a sweep of a large table costs, and that it takes all that is over.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use lb_common::conn::Timeouts;
use lb_common::service::{METHOD_DR, METHOD_NAT};
use lb_user::dataplane::sweep::Sweeper;

use crate::census::Census;
use crate::frames::{L4, flag};
use crate::rig::*;
use crate::services::*;

/// Connections that a sweep meets.
const CONNECTIONS: u64 = 200_000;

#[test]
fn a_sweep_of_200_000_connections_takes_less_than_a_second_of_cpu() {
    with(250_000, |rig| {
        let hz = rig.hz();
        let profile = rig.timeouts(Timeouts { by_state: [hz * 3600; 16] })?;
        let mut indices = Vec::new();
        let mut services = Vec::new();
        for (method, v6) in [(METHOD_DR, false), (METHOD_NAT, true)] {
            let mut wanted = Wanted::new(method, TCP, vip(v6, 80), &servers(v6, 4, 8080));
            wanted.profile = profile;
            let service = rig.install(&wanted)?;
            indices.extend(&service.index);
            services.push(service);
        }
        fill(rig, &services, CONNECTIONS / 2)?;
        let mut sweeper = Sweeper::new(&mut rig.dataplane)?;
        let quiet = sweeper.pass(|_| {})?;
        println!("nothing over: {:?} of CPU for {} connections", quiet.cpu, quiet.connections);
        // Reply halves may be proposed when filling took long; none is over.
        ensure!(quiet.connections == CONNECTIONS, "{quiet:?}");
        ensure!(rig.counters()?["connections_expired"] == 0, "{:?}", rig.counters()?);
        ensure!(quiet.cpu < Duration::from_secs(1), "{quiet:?}");
        // All of them are over at once.
        for service in &mut services {
            for server in 0..service.index.len() {
                rig.bump(service, server)?;
            }
        }
        let start = Instant::now();
        let busy = sweeper.pass(|_| {})?;
        println!("all over: {:?} of CPU, {:?} in all", busy.cpu, start.elapsed());
        ensure!(busy.proposed >= CONNECTIONS, "{busy:?}");
        ensure!(busy.cpu < Duration::from_secs(1), "{busy:?}");
        let census = Census::take(rig)?;
        ensure!(census == Census::default(), "left: {census:?}");
        ensure!(census.drift(rig, &indices)? == 0, "counts of nothing are not zero");
        ensure!(rig.counters()?["connections_expired"] == CONNECTIONS, "{:?}", rig.counters()?);
        Ok(())
    });
}

#[test]
fn what_has_run_out_of_time_is_gone_after_one_sweep() {
    with(4096, |rig| {
        let hz = rig.hz();
        let profile = rig.timeouts(Timeouts { by_state: [hz; 16] })?;
        let mut services = Vec::new();
        for (method, v6) in KINDS {
            let listen = vip(v6, 80 + u16::from(method));
            let mut wanted = Wanted::new(method, TCP, listen, &servers(v6, 2, listen.1));
            wanted.profile = profile;
            services.push(rig.install(&wanted)?);
        }
        fill(rig, &services, 500)?;
        let mut sweeper = Sweeper::new(&mut rig.dataplane)?;
        std::thread::sleep(Duration::from_millis(1300));
        let report = sweeper.pass(|_| {})?;
        let census = Census::take(rig)?;
        ensure!(report.proposed >= 2000 && census == Census::default(), "{report:?} {census:?}");
        for service in &services {
            for &index in &service.index {
                ensure!(rig.counts(index)? == (0, 0), "counts of {index}");
            }
        }
        Ok(())
    });
}

#[test]
fn an_empty_table_is_passed_over_and_what_comes_into_it_is_seen() {
    // The default capacity: three quarters of a gigabyte.
    with(1_000_000, |rig| {
        let wanted = Wanted::new(METHOD_NAT, TCP, vip(false, 80), &servers(false, 1, 8080));
        let mut service = rig.install(&wanted)?;
        let mut sweeper = Sweeper::new(&mut rig.dataplane)?;
        sweeper.pass(|_| {})?;
        let mut slices = 0;
        let quiet = sweeper.pass(|_| slices += 1)?;
        println!("nothing there: {:?} of CPU", quiet.cpu);
        ensure!(quiet.cpu < Duration::from_millis(100), "{quiet:?}");
        ensure!(slices == 0, "{slices} slices of nothing were read");
        // Region by region: what was made since the last pass is found by the next one, and again.
        for n in 0..50 {
            let request = service.request(L4::Tcp(flag::SYN), client(false, n));
            rig.run(&request.bytes(), CLIENT_SIDE)?;
            for _ in 0..2 {
                let report = sweeper.pass(|_| {})?;
                ensure!(report.connections == u64::from(n) + 1, "{n}: {report:?}");
            }
        }
        rig.bump(&mut service, 0)?;
        sweeper.pass(|_| {})?;
        ensure!(sweeper.pass(|_| {})?.connections == 0, "some are left");
        let census = Census::take(rig)?;
        ensure!(census == Census::default(), "{census:?}");
        // A place that was used before counts as well.
        let request = service.request(L4::Tcp(flag::SYN), client(false, 0));
        rig.run(&request.bytes(), CLIENT_SIDE)?;
        ensure!(sweeper.pass(|_| {})?.connections == 1, "not seen");
        Ok(())
    });
}

/// Connections of the table's nominal capacity: one slot each, half of what nat would take.
const NOMINAL: u32 = 1_000_000;

#[test]
fn a_million_connections_are_made_found_and_counted() {
    with(NOMINAL, |rig| {
        let mut wanted = Wanted::new(METHOD_DR, TCP, vip(false, 80), &servers(false, 4, 80));
        wanted.profile = rig.timeouts(Timeouts { by_state: [rig.hz() * 3600; 16] })?;
        let service = rig.install(&wanted)?;
        fill(rig, std::slice::from_ref(&service), NOMINAL.into())?;
        let full = rig.counters()?["table_full"];
        let kept = u64::from(NOMINAL) - full;
        let counts: Vec<_> = service.index.iter().map(|&i| rig.counts(i)).collect::<Result<_>>()?;
        println!("{full} of {NOMINAL} inserts found no slot; {counts:?}");
        ensure!(full <= 20, "{full} inserts found no slot");
        let counted: i64 = counts.iter().map(|(active, _)| active).sum();
        ensure!(counted.unsigned_abs() == kept, "{counts:?}, not {kept}");
        let census = Census::take(rig)?;
        ensure!(census.forward as u64 == kept, "{} entries", census.forward);
        ensure!(census.twice + census.busy == 0 && census.drift(rig, &service.index)? == 0);
        Ok(())
    });
}

/// Opens this many connections of each service.
fn fill(rig: &mut Rig, services: &[Installed], count: u64) -> Result<()> {
    for service in services {
        let v6 = service.wanted.listen.0.is_ipv6();
        let mut frame = service.request(L4::Tcp(flag::SYN), client(v6, 0)).bytes();
        // The low bytes of the client's address, and its port: the checksums are not looked at.
        let (address, port) = if v6 { (14 + 20, 14 + 40) } else { (14 + 14, 14 + 20) };
        for n in 0..count {
            let [_, high, low, last] = (n as u32).to_be_bytes();
            frame[address..address + 2].copy_from_slice(&[high, low]);
            frame[port + 1] = last;
            rig.run(&frame, CLIENT_SIDE)?;
        }
    }
    Ok(())
}
