//! Open connections when one director takes over from the other.
//!
//! Both directors are `lb`; who moves the virtual address is a make of router.
//!
//! Must not know: how a director finds the server of a connection that it has not seen begin.

use crate::vrrp::stage::{VIP, client_knows, instance, owns, setups};
use anyhow::{Context, Result, ensure};
use harness::config::{Config, RealServer, Service};
use harness::daemon::Daemon;
use harness::pair::{self, INTERFACE, Pair};
use harness::peer::{self, Held, Holder};
use harness::programs;
use harness::topology::{Family, endpoint, server_address};
use harness::vrrp::router::{Make, Router};

#[test]
fn a_thousand_connections_survive_a_failover_with_mh() {
    pair::scenario(SERVERS, |pair| {
        let held = after_failover(pair, [Make::Keepalived; 2], "mh", 1000)?;
        ensure!(held.open == 1000, "{held:?}");
        held.unbroken().map(drop)
    });
}

#[test]
fn a_thousand_connections_survive_a_failover_of_lb() {
    pair::scenario(SERVERS, |pair| {
        let held = after_failover(pair, [Make::Lb; 2], "mh", 1000)?;
        ensure!(held.open == 1000, "{held:?}");
        held.unbroken().map(drop)
    });
}

/// The oracle: where the second director does not know the first one's choice, they break.
#[test]
fn connections_of_a_round_robin_break_at_a_failover() {
    pair::scenario(SERVERS, |pair| {
        let held = after_failover(pair, [Make::Keepalived; 2], "rr", 100)?;
        ensure!(held.failed >= 20, "only {} of 100 broke", held.failed);
        Ok(())
    });
}

/// Opens `count` connections from fifty addresses through A, cuts A off, and asks all again.
pub(crate) fn after_failover(
    pair: &Pair,
    makes: [Make; 2],
    scheduler: &str,
    count: usize,
) -> Result<Held> {
    let _echoes: Vec<_> =
        pair.servers.iter().map(|ns| peer::hold_server(ns, PORT)).collect::<Result<_>>()?;
    let sources = pair.give_client_addresses(50)?;
    let mut directors = Vec::new();
    for ((node, make), setup) in pair.nodes().into_iter().zip(makes).zip(setups(&instance())) {
        let forwards = match make {
            Make::Lb => None,
            _ => Some(Daemon::start(node, &config(scheduler))?),
        };
        directors.push((Router::start_director(make, node, &setup, config(scheduler))?, forwards));
    }
    for node in pair.nodes() {
        ensure!(!node.pids_of(&programs::lb()?)?.is_empty(), "no lb forwards on {}", node.name);
    }
    owns(&pair.a, &pair.b, VIP)?;
    client_knows(pair, VIP)?;
    let mut holder = Holder::start_from(&pair.client, &endpoint(VIP, PORT), &sources)?;
    let opened = holder.open(count)?.unbroken().context("before anything happened")?;
    ensure!(opened.open == count as u64, "{opened:?}");
    pair.cut(&pair.a)?;
    harness::wait::eventually(harness::wait::seconds(5), "B takes over", || pair.b.holds(VIP))?;
    holder.echo()
}

fn config(scheduler: &str) -> Config {
    let servers = (1..=SERVERS).map(|n| RealServer::new(server_address(Family::V4, n)));
    let service = Service::new("echo", (VIP, PORT, "tcp"), "dr", servers.collect());
    Config::new(&[INTERFACE]).service(service.scheduler(scheduler))
}

const SERVERS: usize = 3;
const PORT: u16 = 90;
