//! Who gives way to whom.
//!
//! Must not know: makes.

use crate::vrrp::handover::first_of;
use crate::vrrp::stage::{VIP, between, in_time, instance, owns, setups, start, stays};
use anyhow::{Result, ensure};
use harness::pair::{Pair, address};
use harness::vrrp::capture::{Capture, now};
use harness::vrrp::instance::{Instance, Setup};
use harness::vrrp::router::{Make, Router};
use harness::wait::{eventually, millis, seconds};

pub(crate) fn preempts(pair: &Pair, makes: [Make; 2]) -> Result<()> {
    let capture = Capture::start(pair)?;
    let setups = setups(&instance());
    let [a, _b] = start(pair, makes, &setups)?;
    a.stop()?;
    owns(&pair.b, &pair.a, VIP)?;
    let since = now();
    let _a = Router::start(makes[0], &pair.a, &setups[0])?;
    owns(&pair.a, &pair.b, VIP)?;
    let down = setups[0].instances[0].down_interval();
    let first = first_of(&capture, &pair.a, since)?;
    ensure!(between(since, first.at) >= down, "A did not wait for {down:?} before it preempted");
    stays(&capture, [&pair.a, &pair.b], VIP, down * 2)
}

pub(crate) fn nopreempt(pair: &Pair, makes: [Make; 2]) -> Result<()> {
    let capture = Capture::start(pair)?;
    let setups = setups(&instance().nopreempt());
    let [a, b] = start(pair, makes, &setups)?;
    a.stop()?;
    owns(&pair.b, &pair.a, VIP)?;
    let _a = Router::start(makes[0], &pair.a, &setups[0])?;
    stays(&capture, [&pair.b, &pair.a], VIP, instance().down_interval() * 4)?;
    // And it is not deaf: a goodbye it takes.
    b.stop()?;
    owns(&pair.a, &pair.b, VIP)
}

pub(crate) fn delay(pair: &Pair, makes: [Make; 2]) -> Result<()> {
    let capture = Capture::start(pair)?;
    let patient = Instance { preempt_delay: seconds(2), ..instance() };
    let [setup_a, setup_b] = setups(&patient);
    let _b = Router::start(makes[1], &pair.b, &setup_b)?;
    owns(&pair.b, &pair.a, VIP)?;
    let before = now();
    let _a = Router::start(makes[0], &pair.a, &setup_a)?;
    let after = now();
    owns(&pair.a, &pair.b, VIP)?;
    let first = first_of(&capture, &pair.a, before)?;
    // It may count from the first advert that it hears, or from when it would have taken over.
    let (least, most) = (seconds(2), seconds(2) + patient.down_interval() + patient.interval);
    ensure!(between(before, first.at) >= least, "A preempted before {least:?}");
    in_time("the preemption", between(after, first.at), seconds(0), most)
}

pub(crate) fn tie(pair: &Pair, makes: [Make; 2]) -> Result<()> {
    let capture = Capture::start(pair)?;
    pair.drop_multicast()?;
    let setup = Setup::one(instance());
    let _routers =
        [Router::start(makes[0], &pair.a, &setup)?, Router::start(makes[1], &pair.b, &setup)?];
    eventually(seconds(5), "both have the address", || {
        Ok(pair.a.holds(VIP)? && pair.b.holds(VIP)?)
    })?;
    pair.pass_multicast()?;
    owns(&pair.b, &pair.a, VIP)?;
    stays(&capture, [&pair.b, &pair.a], VIP, instance().down_interval() * 3)
}

pub(crate) fn dual_master(pair: &Pair, makes: [Make; 2]) -> Result<()> {
    let other_vip = address::OTHER_VIP[0];
    let setup = |first: u8, second: u8| Setup {
        instances: vec![
            instance().priority(first),
            Instance::new("VI_2", second, &[other_vip]).named("VI_2", 52),
        ],
        ..Setup::default()
    };
    let setups = [setup(150, 100), setup(100, 150)];
    let [_a, b] = start(pair, makes, &setups)?;
    owns(&pair.b, &pair.a, other_vip)?;
    ensure!(pair.a.holds(VIP)? && !pair.b.holds(VIP)?, "the other router has moved too");
    b.stop()?;
    owns(&pair.a, &pair.b, other_vip)?;
    ensure!(pair.a.holds(VIP)?, "A has lost its own");
    let _b = Router::start(makes[1], &pair.b, &setups[1])?;
    owns(&pair.b, &pair.a, other_vip)?;
    eventually(millis(500), "A has its own", || pair.a.holds(VIP))
}
