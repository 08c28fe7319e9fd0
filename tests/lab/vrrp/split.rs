//! A switch that loses multicast: two masters, and how they become one again.
//!
//! Must not know: makes.

use crate::vrrp::stage::{
    VIP, client_asks, client_knows, instance, repaired, setups, start, stays,
};
use anyhow::Result;
use harness::pair::Pair;
use harness::vrrp::capture::{Capture, now};
use harness::vrrp::router::Make;
use harness::wait::{eventually, seconds};

pub(crate) fn multicast(pair: &Pair, makes: [Make; 2]) -> Result<()> {
    let capture = Capture::start(pair)?;
    let _routers = start(pair, makes, &setups(&instance()))?;
    client_knows(pair, VIP)?;
    pair.drop_multicast()?;
    eventually(seconds(5), "both have the address", || {
        Ok(pair.a.holds(VIP)? && pair.b.holds(VIP)?)
    })?;
    client_asks(pair, &pair.b, VIP)?;
    let healed = now();
    pair.pass_multicast()?;
    repaired(pair, &capture, healed)?;
    stays(&capture, [&pair.a, &pair.b], VIP, instance().down_interval() * 3)
}
