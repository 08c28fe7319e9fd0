//! What most scenarios of virtual routers need: two routers, a capture, who has the address.
//!
//! Must not know: what a scenario does with it.

use anyhow::{Result, ensure};
use harness::pair::{Node, Pair, address};
use harness::vrrp::capture::{Capture, Moment};
use harness::vrrp::instance::{Instance, Setup};
use harness::vrrp::router::{Make, Router};
use harness::wait::{eventually, millis, seconds, throughout};
use std::time::Duration;

/// The address that is fought over.
pub(crate) const VIP: &str = address::VIP[0];
/// What the machine may add to any time of a protocol.
pub(crate) const SLACK: Duration = millis(150);

/// Node A with 150 and node B with 100, otherwise alike.
pub(crate) fn setups(instance: &Instance) -> [Setup; 2] {
    [150, 100].map(|priority| Setup::one(instance.clone().priority(priority)))
}

/// Version 3, 100 ms, the one address.
pub(crate) fn instance() -> Instance {
    Instance::new("VI_1", 100, &[VIP])
}

/// Starts both with A as the master, and waits until it is.
pub(crate) fn start<'a>(
    pair: &'a Pair,
    [a, b]: [Make; 2],
    [setup_a, setup_b]: &[Setup; 2],
) -> Result<[Router<'a>; 2]> {
    let routers = [Router::start(a, &pair.a, setup_a)?, Router::start(b, &pair.b, setup_b)?];
    owns(&pair.a, &pair.b, VIP)?;
    Ok(routers)
}

/// Waits until `owner` has the address and `other` has not.
pub(crate) fn owns(owner: &Node, other: &Node, address: &str) -> Result<()> {
    let what = format!("{} alone has {address}", owner.name);
    eventually(seconds(10), &what, || {
        let (here, there) = (owner.holds(address)?, other.holds(address)?);
        ensure!(here && !there, "{}: {here}, {}: {there}", owner.name, other.name);
        Ok(true)
    })
}

/// Holds for `span`: `owner` has the address and `other` has not, nor says anything.
pub(crate) fn stays(
    capture: &Capture,
    [owner, other]: [&Node; 2],
    address: &str,
    span: Duration,
) -> Result<()> {
    let since = harness::vrrp::capture::now();
    let what = format!("{} alone has {address}", owner.name);
    throughout(span, &what, || Ok(owner.holds(address)? && !other.holds(address)?))?;
    capture.silent(other, since)
}

/// Waits until the client's neighbour table has the address at `node`.
pub(crate) fn client_asks(pair: &Pair, node: &Node, address: &str) -> Result<()> {
    let index = usize::from(node.name == "B");
    let mac = address::MACS[index];
    eventually(seconds(7), &format!("the client finds {address} at {}", node.name), || {
        let table = pair.client.run(&format!("ip neigh show {address}"))?;
        ensure!(table.contains(mac), "{}", table.trim());
        Ok(true)
    })
}

/// Makes the client look the address up, as a host that has used it.
pub(crate) fn client_knows(pair: &Pair, address: &str) -> Result<()> {
    pair.client.run(&format!("ping -c 1 -W 2 {address}")).map(drop)
}

/// After two masters have met: clients that were led to B find A, if A can know that they were.
///
/// B may hear A first and fall silent, and then nobody who is left knows that there were two.
pub(crate) fn repaired(pair: &Pair, capture: &Capture, met: Moment) -> Result<()> {
    owns(&pair.a, &pair.b, VIP)?;
    if !capture.adverts(&pair.b, met)?.is_empty() {
        client_asks(pair, &pair.a, VIP)?;
        let announced = capture.announcements(&pair.a, VIP, met)?;
        ensure!(!announced.is_empty(), "A does not announce the address again");
    }
    Ok(())
}

/// Fails unless `took` lies between `least` and `most` with the machine's slack.
pub(crate) fn in_time(what: &str, took: Duration, least: Duration, most: Duration) -> Result<()> {
    ensure!(
        took + millis(5) >= least && took <= most + SLACK,
        "{what} took {took:?}, not {least:?} to {most:?}"
    );
    Ok(())
}

/// From one moment to another.
pub(crate) fn between(from: Moment, to: Moment) -> Duration {
    to.saturating_sub(from)
}
