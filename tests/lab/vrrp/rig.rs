//! The lab for virtual routers sees what it should: accidents happen, and faults do not pass.
//!
//! Must not know: the product.

use crate::vrrp::stage::{VIP, in_time, instance, owns, setups, start, stays};
use anyhow::{Result, ensure};
use harness::pair;
use harness::probe::{self, Probe};
use harness::vrrp::capture::{Capture, now};
use harness::vrrp::router::{Make, Router};
use harness::wait::{eventually, idle, millis, seconds};

const BOTH: [Make; 2] = [Make::Keepalived; 2];

#[test]
fn what_a_scenario_asks_can_be_refused() {
    pair::scenario(0, |pair| {
        let capture = Capture::start(pair)?;
        let wrong = setups(&instance()).map(|mut setup| {
            setup.instances[0].priority = 250 - setup.instances[0].priority;
            setup
        });
        ensure!(crate::vrrp::election::version3(pair, BOTH).is_ok(), "the control fails");
        let _routers = [
            Router::start(BOTH[0], &pair.a, &wrong[0])?,
            Router::start(BOTH[1], &pair.b, &wrong[1])?,
        ];
        owns(&pair.b, &pair.a, VIP)?;
        let span = millis(300);
        ensure!(stays(&capture, [&pair.a, &pair.b], VIP, span).is_err(), "A does not have it");
        ensure!(capture.silent(&pair.b, now() - seconds(1)).is_err(), "B does say something");
        ensure!(in_time("it", millis(200), millis(300), millis(400)).is_err(), "too early");
        ensure!(in_time("it", millis(600), millis(300), millis(400)).is_err(), "too late");
        Ok(())
    });
}

#[test]
fn each_accident_is_what_it_is_called() {
    pair::scenario(0, |pair| {
        let carrier = || pair.a.ns.run("ip link show lan0");
        let reaches = || Ok(pair.client.run("ping -c 1 -W 1 10.0.1.1").is_ok());
        ensure!(reaches()?, "nothing has happened yet");
        pair.cut(&pair.a)?;
        ensure!(!reaches()?, "a cut node answers");
        ensure!(!carrier()?.contains("NO-CARRIER"), "a cut node has lost its carrier");
        pair.mend(&pair.a)?;
        eventually(seconds(2), "a mended node answers", reaches)?;
        pair.unplug(&pair.a)?;
        ensure!(carrier()?.contains("NO-CARRIER"), "an unplugged node has carrier");
        pair.mend(&pair.a)?;
        eventually(seconds(2), "a mended node answers", reaches)?;
        pair.drop_multicast()?;
        ensure!(reaches()?, "without multicast nothing else passes");
        Ok(())
    });
}

#[test]
fn a_dead_router_says_nothing() {
    pair::scenario(0, |pair| {
        let capture = Capture::start(pair)?;
        let [a, b] = start(pair, BOTH, &setups(&instance()))?;
        let since = now();
        let runs = || -> Result<usize> {
            let all = pair.a.processes()?;
            Ok(all.iter().filter(|(_, line)| line.starts_with("keepalived")).count())
        };
        ensure!(runs()? == 2, "keepalived is a parent and a child: {:?}", pair.a.processes()?);
        a.kill()?;
        ensure!(runs()? == 0, "not all of it is dead: {:?}", pair.a.processes()?);
        // The pitfall: killed the wrong way, keepalived says goodbye and gives the address back.
        eventually(seconds(2), "B takes over", || pair.b.holds(VIP))?;
        let adverts = capture.adverts(&pair.a, since)?;
        ensure!(adverts.iter().all(|heard| heard.what.priority == 150), "it said {adverts:?}");
        ensure!(pair.a.holds(VIP)?, "a dead router has removed its address");
        pair.a.remove(VIP)?;
        ensure!(!pair.a.holds(VIP)?, "the address cannot be removed");
        let silence = capture.longest_silence(&pair.a, since, now())?;
        ensure!(silence > millis(250), "it goes on: {silence:?}");
        b.stop()
    });
}

#[test]
fn a_probe_measures_a_planted_gap() {
    pair::scenario(0, |pair| {
        let _server = probe::server(&pair.a.ns, "A", 7777)?;
        let mut probe = Probe::start(&pair.client, "10.0.1.1:7777", millis(1))?;
        probe.settled("A", 200, seconds(5))?;
        let window = probe.window()?;
        let unnoticed = instance().down_interval();
        ensure!(window.longest_gap()? < unnoticed, "a gap without a reason: {window:?}");
        probe.mark()?;
        pair.cut(&pair.a)?;
        let planted = unnoticed * 2;
        idle(planted)?;
        let cut = probe.window()?;
        ensure!(cut.open_gap()? + millis(10) >= planted, "an open gap went unnoticed: {cut:?}");
        pair.mend(&pair.a)?;
        eventually(seconds(3), "A answers again", || Ok(probe.window()?.open_gap()? < millis(20)))?;
        let gap = probe.window()?.longest_gap()?;
        let expected = planted - millis(10)..planted + unnoticed;
        ensure!(expected.contains(&gap), "{planted:?} were measured as {gap:?}");
        ensure!(probe.window()?.first("B").is_none(), "B cannot have answered");
        Ok(())
    });
}
