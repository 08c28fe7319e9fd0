//! Sampling the counters of many real servers: what is read, and what it costs.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use lb_common::pod::mapped;
use lb_common::service::{METHOD_DR, RealServer};
use lb_user::dataplane::sampling::Sampler;
use lb_user::metrics::history::{History, Owner};
use lb_user::plan::MapOp;

use crate::frames::L4;
use crate::rig::*;
use crate::services::*;

#[test]
fn counters_are_read_with_their_owners() {
    with(1_000, |rig| {
        let wanted = Wanted::new(METHOD_DR, UDP, vip(false, 53), &servers(false, 2, 53));
        let service = rig.install(&wanted)?;
        let sampler = Sampler::open(rig.dataplane.directory())?;
        let mut history = History::default();
        history.take(sampler.read()?);
        for port in 0..10 {
            let frame = service.request(L4::Udp, client(false, port));
            rig.run(&frame.bytes(), CLIENT_SIDE)?;
        }
        let reading = sampler.read()?;
        let connections: u64 = reading.servers.values().map(|(_, t)| t.connections).sum();
        ensure!(connections == 10, "{reading:?}");
        for index in &service.index {
            let (owner, traffic) = reading.servers.get(index).context("a server is missing")?;
            let element = rig.dataplane.tables().real_server(*index)?;
            let expected =
                Owner { service: element.service, address: element.address, port: element.port };
            ensure!(*owner == expected, "{owner:?}, not {expected:?}");
            ensure!(*traffic == rig.dataplane.tables().traffic(*index)?, "{traffic:?}");
        }
        let latest = history.take(reading);
        let key = key_of(vip(false, 53), UDP);
        ensure!(latest.service(&key).is_some_and(|rates| rates.connections > 0.0), "no rate");
        Ok(())
    });
}

#[test]
fn a_hundred_thousand_servers_are_read_in_less_than_a_second() {
    with(1_000, |rig| {
        const SERVERS: u32 = 100_000;
        for index in 0..SERVERS {
            let [_, b, c, d] = index.to_be_bytes();
            let address = mapped([10, b, c, d]);
            let value = RealServer {
                address,
                port: 80,
                service: index / 10,
                generation: 1,
                ..RealServer::zeroed()
            };
            rig.dataplane.tables().apply(&MapOp::SetRealServer { index, value })?;
        }
        let sampler = Sampler::open(rig.dataplane.directory())?;
        let start = Instant::now();
        let reading = sampler.read()?;
        let (read, count) = (start.elapsed(), reading.servers.len());
        let mut history = History::default();
        history.take(reading);
        let again = sampler.read()?;
        let start = Instant::now();
        history.take(again);
        println!("{count} servers: read in {read:?}, compared in {:?}", start.elapsed());
        ensure!(count == SERVERS as usize, "{count} were read");
        ensure!(read < Duration::from_secs(1), "{read:?}");
        Ok(())
    });
}
