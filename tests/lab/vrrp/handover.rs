//! The ways in which a master ends, and how long it takes until the other has its address.
//!
//! Must not know: makes.

use crate::vrrp::stage::{
    VIP, between, client_asks, client_knows, in_time, instance, owns, repaired, setups, start,
};
use anyhow::{Context, Result, ensure};
use harness::pair::{Node, Pair};
use harness::vrrp::capture::{Capture, Heard, Moment, now};
use harness::vrrp::instance::Instance;
use harness::vrrp::packet::Advert;
use harness::vrrp::router::Make;
use harness::wait::{eventually, seconds};

pub(crate) fn stop(pair: &Pair, makes: [Make; 2]) -> Result<()> {
    stopped(pair, makes, &instance())
}

pub(crate) fn stop_version2(pair: &Pair, makes: [Make; 2]) -> Result<()> {
    stopped(pair, makes, &instance().version2("1111"))
}

fn stopped(pair: &Pair, makes: [Make; 2], instance: &Instance) -> Result<()> {
    let capture = Capture::start(pair)?;
    let [a, _b] = start(pair, makes, &setups(instance))?;
    heard_by_backup(&capture, pair, instance)?;
    client_knows(pair, VIP)?;
    let since = now();
    a.stop()?;
    let last = capture.wait_advert(&pair.a, since, seconds(5), "a goodbye", is_goodbye)?;
    owns(&pair.b, &pair.a, VIP)?;
    let first = first_of(&capture, &pair.b, since)?;
    in_time("the hand-over", between(last.at, first.at), instance.skew(), instance.skew())?;
    ensure!(capture.announcements(&pair.b, VIP, last.at)?.len() >= 5, "B does not announce it");
    client_asks(pair, &pair.b, VIP)
}

pub(crate) fn silent_death(pair: &Pair, makes: [Make; 2]) -> Result<()> {
    cut_off(pair, makes, &instance())
}

pub(crate) fn silent_death_version2(pair: &Pair, makes: [Make; 2]) -> Result<()> {
    cut_off(pair, makes, &instance().version2("1111"))
}

fn cut_off(pair: &Pair, makes: [Make; 2], instance: &Instance) -> Result<()> {
    let capture = Capture::start(pair)?;
    let _routers = start(pair, makes, &setups(instance))?;
    heard_by_backup(&capture, pair, instance)?;
    client_knows(pair, VIP)?;
    let before = now();
    pair.cut(&pair.a)?;
    let after = now();
    eventually(seconds(10), "B has the address", || pair.b.holds(VIP))?;
    let first = first_of(&capture, &pair.b, before)?;
    // What A sent while the switch was told may have come through or not.
    let [early, late] = [before, after].map(|until| last_until(&capture, &pair.a, until));
    let down = instance.down_interval();
    ensure!(between(early?, first.at) + seconds(1) / 200 >= down, "B did not wait for {down:?}");
    in_time("the take-over", between(late?, first.at), seconds(0), down)?;
    client_asks(pair, &pair.b, VIP)?;
    ensure!(pair.a.holds(VIP)?, "A, which cannot know, gave the address up");
    let met = now();
    pair.mend(&pair.a)?;
    repaired(pair, &capture, met)
}

pub(crate) fn lost_carrier(pair: &Pair, makes: [Make; 2]) -> Result<()> {
    let capture = Capture::start(pair)?;
    let _routers = start(pair, makes, &setups(&instance()))?;
    heard_by_backup(&capture, pair, &instance())?;
    client_knows(pair, VIP)?;
    let before = now();
    pair.unplug(&pair.a)?;
    owns(&pair.b, &pair.a, VIP)?;
    let (first, down) = (first_of(&capture, &pair.b, before)?, instance().down_interval());
    in_time("the take-over", between(before, first.at), seconds(0), down)?;
    client_asks(pair, &pair.b, VIP)?;
    pair.mend(&pair.a)?;
    owns(&pair.a, &pair.b, VIP)?;
    client_asks(pair, &pair.a, VIP)
}

pub(crate) fn frozen(pair: &Pair, makes: [Make; 2]) -> Result<()> {
    let capture = Capture::start(pair)?;
    let setups = setups(&instance());
    let [a, _b] = start(pair, makes, &setups)?;
    heard_by_backup(&capture, pair, &instance())?;
    client_knows(pair, VIP)?;
    let before = now();
    a.freeze()?;
    eventually(seconds(5), "B has the address", || pair.b.holds(VIP))?;
    let (first, down) = (first_of(&capture, &pair.b, before)?, instance().down_interval());
    in_time("the take-over", between(before, first.at), seconds(0), down)?;
    client_asks(pair, &pair.b, VIP)?;
    a.kill()?;
    ensure!(pair.a.holds(VIP)?, "who took the address from a dead node?");
    let _a = harness::vrrp::router::Router::start(makes[0], &pair.a, &setups[0])?;
    owns(&pair.a, &pair.b, VIP)?;
    client_asks(pair, &pair.a, VIP)
}

/// Waits until the backup has heard the master twice, so that it waits from its last advert on.
pub(crate) fn heard_by_backup(capture: &Capture, pair: &Pair, instance: &Instance) -> Result<()> {
    let since = now();
    eventually(instance.interval * 4 + seconds(1), "two adverts", || {
        Ok(capture.adverts(&pair.a, since)?.len() >= 2)
    })
}

/// The first advert of `node` since `since`.
pub(crate) fn first_of(capture: &Capture, node: &Node, since: Moment) -> Result<Heard<Advert>> {
    capture.wait_advert(node, since, seconds(5), "its first", |_| true)
}

fn last_until(capture: &Capture, node: &Node, until: Moment) -> Result<Moment> {
    let adverts = capture.adverts(node, Moment::ZERO)?;
    let last = adverts.iter().rfind(|heard| heard.at <= until);
    Ok(last.with_context(|| format!("{} has said nothing", node.name))?.at)
}

pub(crate) fn is_goodbye(advert: &Advert) -> bool {
    advert.priority == 0
}
