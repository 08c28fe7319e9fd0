//! A client behind a narrow hop: what the hop reports reaches the server that has to send less.

use crate::stage::{Method, all_servers, file, no_checksum_errors};
use anyhow::{Context, Result, ensure};
use harness::config::Service;
use harness::daemon::Daemon;
use harness::peer;
use harness::topology::Family;
use harness::{Lab, Shape, scenario};

#[test]
fn nat_carries_transfers_over_a_narrow_hop() {
    both_families(Method::Nat);
}

#[test]
fn dr_carries_transfers_over_a_narrow_hop() {
    both_families(Method::Dr);
}

#[test]
fn tunnels_carry_transfers_over_a_narrow_hop() {
    both_families(Method::Tunnel);
}

fn both_families(method: Method) {
    scenario(Shape::Routed { servers: 2 }, |lab| {
        if method != Method::Nat {
            lab.route_replies_through_router()?;
        }
        if method == Method::Tunnel {
            lab.end_tunnels_at_servers()?;
        }
        lab.narrow_the_way_to_the_client(HOP)?;
        for server in &lab.servers {
            // Nothing but the report may make them send less (RFC 4821 is another cure).
            server.sysctl(&[("net/ipv4/tcp_mtu_probing", "0")])?;
        }
        for family in [Family::V4, Family::V6] {
            transfers(lab, method, family)
                .with_context(|| format!("{} {family:?}", method.name()))?;
        }
        Ok(())
    });
}

/// Big transfers both ways; every server is met, and each has to be told by itself.
fn transfers(lab: &Lab, method: Method, family: Family) -> Result<()> {
    let sinks = lab.servers.iter().map(|ns| peer::tcp_sink(ns, TCP));
    let _sinks = sinks.collect::<Result<Vec<_>>>()?;
    let listen = (method.vip(family), TCP, "tcp");
    let service = Service::new("bulk", listen, method.name(), all_servers(lab, family));
    let lb = Daemon::start(lab, &file(lab, method, family, service))?;
    let told = || -> Result<u64> {
        let stats = lb.stats()?;
        let notes = &stats["notes"]["icmp_errors_forwarded"];
        notes.as_u64().with_context(|| format!("no such counter: {stats}"))
    };
    let endpoint = method.endpoint(family, TCP);
    ensure!(told()? == 0, "errors before anything was sent");
    for server in 1..=lab.servers.len() as u64 {
        peer::tcp_copy(&lab.client, &endpoint, &["--direction", "down"])?.equal()?;
        ensure!(told()? >= server, "only {} errors for {server} servers", told()?);
    }
    for _ in &lab.servers {
        peer::tcp_copy(&lab.client, &endpoint, &[])?.equal()?;
    }
    no_checksum_errors(lab)?;
    lb.terminate()?;
    Ok(())
}

/// Bytes that the hop lets through.
const HOP: u32 = 1400;
const TCP: u16 = 9000;
