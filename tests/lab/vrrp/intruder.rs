//! Adverts that a router must not believe; each of them, without its fault, would be believed.
//!
//! Must not know: makes, except that only `lb` is asked to keep its log short.

use crate::vrrp::stage::{VIP, instance};
use anyhow::{Context, Result, ensure};
use harness::pair::Pair;
use harness::vrrp::capture::{Capture, now};
use harness::vrrp::forge::Forged;
use harness::vrrp::instance::{Instance, Setup};
use harness::vrrp::router::{Make, Router};
use harness::wait::{eventually, millis, seconds, throughout};
use std::net::IpAddr;

pub(crate) fn version3(pair: &Pair, [make, _]: [Make; 2]) -> Result<()> {
    let good = Forged::version3(INTRUDER, 200, &[VIP.parse()?]);
    let mut faults = common(&good);
    faults.push(("another version", Forged { version: 2, ..good.clone() }));
    disbelieved(pair, make, &instance(), &good, &faults)
}

pub(crate) fn version2(pair: &Pair, [make, _]: [Make; 2]) -> Result<()> {
    let vip: IpAddr = VIP.parse()?;
    let good = Forged::version2(INTRUDER, 200, &[vip], "1111");
    let mut faults = common(&good);
    let password = Forged::version2(INTRUDER, 200, &[vip], "1112");
    faults.push(("another password", password));
    faults.push(("no authentication", Forged { middle: [0, 1], ..good.clone() }));
    faults.push(("another interval", Forged { middle: [1, 2], ..good.clone() }));
    faults.push(("another version", Forged { version: 3, middle: [0, 100], ..good.clone() }));
    faults.push(("no password", Forged { tail: Vec::new(), ..good.clone() }));
    disbelieved(pair, make, &instance().version2("1111"), &good, &faults)
}

fn common(good: &Forged) -> Vec<(&'static str, Forged)> {
    vec![
        ("a TTL of 254", Forged { ttl: 254, ..good.clone() }),
        ("a wrong checksum", Forged { checksum_error: 1, ..good.clone() }),
        ("another VRID", Forged { vrid: 52, ..good.clone() }),
        ("another type", Forged { kind: 2, ..good.clone() }),
        ("fewer addresses than it counts", Forged { count: Some(9), ..good.clone() }),
    ]
}

fn disbelieved(
    pair: &Pair,
    make: Make,
    instance: &Instance,
    good: &Forged,
    faults: &[(&str, Forged)],
) -> Result<()> {
    let capture = Capture::start(pair)?;
    let router = Router::start(make, &pair.a, &Setup::one(instance.clone()))?;
    eventually(seconds(10), "A has the address", || pair.a.holds(VIP))?;
    for (fault, forged) in faults {
        let (since, lines) = (now(), router.log().lines().count());
        throughout(millis(250), &format!("A has the address, despite {fault}"), || {
            forged.send(&pair.client)?;
            pair.a.holds(VIP)
        })
        .with_context(|| format!("an advert with {fault} was believed"))?;
        let silence = capture.longest_silence(&pair.a, since, now())?;
        // keepalived 2.2.7 waits for a whole interval again after each advert that it refuses, so
        // a stream of them silences it.
        ensure!(
            make != Make::Lb || silence < instance.interval * 2,
            "{fault} made A silent for {silence:?}"
        );
        let lines = router.log().lines().count() - lines;
        ensure!(make != Make::Lb || lines <= 3, "{lines} lines about {fault} in 250 ms");
    }
    ensure!(
        make != Make::Lb || names_intruder(&router.log()),
        "the log does not name the intruder"
    );
    // Without a fault it is believed, so the faults were what was seen.
    good.send(&pair.client)?;
    eventually(seconds(2), "A gives way to a flawless advert", || Ok(!pair.a.holds(VIP)?))?;
    eventually(seconds(10), "A comes back when nobody goes on", || pair.a.holds(VIP))
}

fn names_intruder(log: &str) -> bool {
    log.contains(&INTRUDER.to_string())
}

const INTRUDER: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 0, 1, 9));
