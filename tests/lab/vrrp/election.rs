//! Who becomes master, and every field of what it then says.
//!
//! Must not know: makes.

use crate::vrrp::stage::{VIP, instance, owns, setups, stays};
use anyhow::{Context, Result, ensure};
use harness::frame::mac_of;
use harness::pair::{INTERFACE, Node, Pair, address};
use harness::topology::Family;
use harness::vrrp::capture::{Capture, Heard, now};
use harness::vrrp::instance::{Instance, Setup};
use harness::vrrp::packet::{Advert, Checksum, Said};
use harness::vrrp::router::{Make, Router};
use harness::wait::{eventually, millis, seconds};
use std::net::IpAddr;

pub(crate) fn version2(pair: &Pair, makes: [Make; 2]) -> Result<()> {
    let instance = Instance::new("VI_1", 100, &[VIP, address::OTHER_VIP[0]]).version2("1111");
    elected(pair, makes, [instance.clone(), instance])
}

pub(crate) fn version3(pair: &Pair, makes: [Make; 2]) -> Result<()> {
    let instance = Instance::new("VI_1", 100, &[VIP, address::OTHER_VIP[0]]);
    elected(pair, makes, [instance.clone(), instance])
}

pub(crate) fn ipv6(pair: &Pair, makes: [Make; 2]) -> Result<()> {
    // RFC 9568 section 5.2.9: the first one has to be link-local.
    let instance = Instance::new("VI_6", 100, &["fe80::1:50", address::VIP[1]]);
    elected(pair, makes, [instance.clone(), instance])
}

pub(crate) fn unicast(pair: &Pair, makes: [Make; 2]) -> Result<()> {
    let of = |own: &str, peer: &str| Instance {
        unicast: Some((own.into(), peer.into())),
        ..Instance::new("VI_1", 100, &[VIP])
    };
    let (a, b) = (address::A[0], address::B[0]);
    elected(pair, makes, [of(a, b), of(b, a)])
}

/// RFC 9568 section 6.4.2: a backup waits as long as its master's interval asks for.
pub(crate) fn other_interval(pair: &Pair, [a, b]: [Make; 2]) -> Result<()> {
    let capture = Capture::start(pair)?;
    let slow = instance().priority(150).every(millis(500));
    let _a = Router::start(a, &pair.a, &Setup::one(slow.clone()))?;
    eventually(seconds(5), "A is master", || pair.a.holds(VIP))?;
    // Its own interval is 100 ms, and after 360 ms of silence it would take over.
    let _b = Router::start(b, &pair.b, &Setup::one(instance()))?;
    // Before it has heard A for the first time it may.
    capture.wait_advert(&pair.a, now(), seconds(2), "its next", |_| true)?;
    owns(&pair.a, &pair.b, VIP)?;
    stays(&capture, [&pair.a, &pair.b], VIP, slow.interval * 5)
}

fn elected(pair: &Pair, makes: [Make; 2], [a, b]: [Instance; 2]) -> Result<()> {
    let capture = Capture::start(pair)?;
    let started = now();
    let [setup_a, _] = setups(&a);
    let [_, setup_b] = setups(&b);
    let _routers =
        [Router::start(makes[0], &pair.a, &setup_a)?, Router::start(makes[1], &pair.b, &setup_b)?];
    for address in &a.addresses {
        owns(&pair.a, &pair.b, address)?;
    }
    let settled = now();
    stays(&capture, [&pair.a, &pair.b], &a.addresses[0], b.down_interval() * 2)?;
    let adverts = capture.adverts(&pair.a, settled)?;
    ensure!(adverts.len() >= 5, "only {} adverts in two down intervals", adverts.len());
    for Heard { what, .. } in &adverts {
        let expected = expected(pair, &a)?;
        ensure!(*what == expected, "A sends {what:?}\ninstead of {expected:?}");
    }
    let silence = capture.longest_silence(&pair.a, adverts[0].at, adverts[adverts.len() - 1].at)?;
    ensure!(silence < a.down_interval(), "A was silent for {silence:?}");
    for address in &a.addresses {
        let announced = capture.announcements(&pair.a, address, started)?;
        ensure!(announced.len() >= 5, "{address} was announced {} times", announced.len());
        announced.iter().try_for_each(|heard| announces(&pair.a, &heard.what))?;
        ensure!(capture.announcements(&pair.b, address, settled)?.is_empty(), "B announces too");
    }
    Ok(())
}

/// The advert that A has to send, to the last field.
fn expected(pair: &Pair, instance: &Instance) -> Result<Advert> {
    let family = if instance.is_ipv6() { Family::V6 } else { Family::V4 };
    let addresses: Vec<IpAddr> =
        instance.addresses.iter().map(|address| address.parse()).collect::<Result<_, _>>()?;
    let (group, group_mac) = match family {
        Family::V4 => ("224.0.0.18", [1, 0, 0x5e, 0, 0, 0x12]),
        Family::V6 => ("ff02::12", [0x33, 0x33, 0, 0, 0, 0x12]),
    };
    let (destination, mac) = match &instance.unicast {
        Some((_, peer)) => (peer.as_str(), mac_of(&pair.b.ns, INTERFACE)?),
        None => (group, group_mac),
    };
    let mut auth = instance.password.clone().unwrap_or_default().into_bytes();
    auth.resize(if instance.version == 2 { 8 } else { 0 }, 0);
    let size = if family == Family::V4 { 4 } else { 16 };
    let checksum = if instance.version == 2 { Checksum::Message } else { Checksum::PseudoHeader };
    Ok(Advert {
        macs: [mac_of(&pair.a.ns, INTERFACE)?, mac],
        source: pair.a.advert_source(family)?,
        destination: destination.parse()?,
        ttl: 255,
        tos: 0xc0,
        version: instance.version,
        kind: 1,
        vrid: instance.vrid,
        priority: 150,
        interval: instance.interval,
        auth_type: u8::from(instance.password.is_some()),
        length: 8 + size * addresses.len() + auth.len(),
        auth,
        checksum,
        count: u8::try_from(addresses.len())?,
        addresses,
    })
}

/// Fails unless a neighbour that hears this will send to `node`.
fn announces(node: &Node, said: &Said) -> Result<()> {
    let mac = mac_of(&node.ns, INTERFACE)?;
    match said {
        Said::Arp(arp) => ensure!(
            arp.operation == 1 && arp.sender_mac == mac && arp.macs == [mac, [0xff; 6]],
            "{arp:?}"
        ),
        Said::Neighbour(said) => {
            let [_, solicited, overrides] = said.flags;
            ensure!(
                !solicited
                    && overrides
                    && said.hop_limit == 255
                    && said.checksum
                    && said.target_mac.context("no target address option")? == mac
                    && said.destination == "ff02::1".parse::<std::net::Ipv6Addr>()?,
                "{said:?}"
            );
        }
        Said::Advert(_) => {}
    }
    Ok(())
}
