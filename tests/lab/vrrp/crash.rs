//! `lb` is a controller and a speaker: what happens when one of them, or both, die.
//!
//! Must not know: how they talk to each other.

use crate::vrrp::handover::{heard_by_backup, is_goodbye};
use crate::vrrp::stage::{SLACK, VIP, between, in_time, instance, owns, setups, start, stays};
use anyhow::{Context, Result, ensure};
use harness::daemon::Daemon;
use harness::pair::{self, Node, Pair};
use harness::vrrp::capture::{Capture, now};
use harness::vrrp::instance::Setup;
use harness::vrrp::router::Make::{Keepalived, Lb};
use harness::vrrp::router::Router;
use harness::wait::{eventually, millis, seconds};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::time::Duration;

#[test]
fn a_controller_that_comes_back_is_no_failover() {
    begin(seconds(5), |pair, capture, [a, _b]| {
        let since = now();
        a.kill_first();
        stays(capture, [&pair.a, &pair.b], VIP, seconds(2))?;
        let again = Daemon::start_again(&pair.a)?;
        stays(capture, [&pair.a, &pair.b], VIP, seconds(1))?;
        let silence = capture.longest_silence(&pair.a, since, now())?;
        ensure!(silence < instance().interval * 2, "A was silent for {silence:?}");
        again.terminate()?;
        owns(&pair.b, &pair.a, VIP)
    });
}

#[test]
fn a_controller_that_stays_away_costs_the_address() {
    begin(seconds(1), |pair, capture, [a, _b]| {
        let since = now();
        a.kill_first();
        let last = capture.wait_advert(&pair.a, since, seconds(4), "a goodbye", is_goodbye)?;
        in_time("the grace", between(since, last.at), millis(900), seconds(1) + millis(500))?;
        owns(&pair.b, &pair.a, VIP)?;
        stays(capture, [&pair.b, &pair.a], VIP, seconds(1))
    });
}

#[test]
fn a_dead_speaker_leaves_no_address() {
    begin(seconds(5), |pair, capture, [_a, _b]| {
        // The controller is alive: it takes the address away at once, before B can have it.
        let mut took = Vec::new();
        for _ in 0..2 {
            took.push(lose_speaker(pair)?);
            owns(&pair.a, &pair.b, VIP)?;
        }
        let before = now();
        took.push(lose_speaker(pair)?);
        took.sort_unstable();
        ensure!(took[1] <= millis(100), "the address was there for {took:?} after the speaker");
        eventually(seconds(2), "B takes over", || pair.b.holds(VIP))?;
        let first = capture.wait_advert(&pair.b, before, seconds(2), "its first", |_| true)?;
        let down = instance().down_interval();
        in_time("the take-over", between(before, first.at), Duration::ZERO, down)?;
        // A new speaker begins as backup, and preempts.
        owns(&pair.a, &pair.b, VIP)?;
        stays(capture, [&pair.a, &pair.b], VIP, down * 2)
    });
}

#[test]
fn when_both_die_the_other_node_takes_over() {
    begin(seconds(5), |pair, capture, [a, _b]| {
        let before = now();
        a.kill()?;
        eventually(seconds(2), "B takes over", || pair.b.holds(VIP))?;
        let first = capture.wait_advert(&pair.b, before, seconds(2), "its first", |_| true)?;
        in_time(
            "the take-over",
            between(before, first.at),
            Duration::ZERO,
            instance().down_interval(),
        )?;
        let adverts = capture.adverts(&pair.a, before)?;
        ensure!(!adverts.iter().any(|heard| is_goodbye(&heard.what)), "who said goodbye?");
        ensure!(pair.a.holds(VIP)?, "A has lost the address by itself");
        let restart = now();
        let _again = Daemon::start_again(&pair.a)?;
        let (holds, said) = (pair.a.holds(VIP)?, capture.adverts(&pair.a, restart)?);
        ensure!(!holds && said.is_empty(), "A begins with the stale address: {holds}, {said:?}");
        owns(&pair.a, &pair.b, VIP)
    });
}

/// A is `lb` with this grace and master, B is keepalived.
fn begin(grace: Duration, body: impl FnOnce(&Pair, &Capture, [Router<'_>; 2]) -> Result<()>) {
    pair::scenario(0, |pair| {
        let capture = Capture::start(pair)?;
        let [a, b] = setups(&instance());
        let setups = [Setup { grace: Some(grace), ..a }, b];
        let routers = start(pair, [Lb, Keepalived], &setups)?;
        heard_by_backup(&capture, pair, &instance())?;
        body(pair, &capture, routers)
    });
}

/// Kills A's speaker; how long A has the address after that.
fn lose_speaker(pair: &Pair) -> Result<Duration> {
    let before = now();
    kill_speaker(&pair.a)?;
    eventually(instance().interval * 3 + SLACK, "A has no address", || Ok(!pair.a.holds(VIP)?))?;
    Ok(between(before, now()))
}

fn kill_speaker(node: &Node) -> Result<()> {
    let all = node.processes()?;
    let speaker = all.iter().find(|(_, line)| line.split_whitespace().nth(1) == Some("speaker"));
    let (pid, _) = speaker.with_context(|| format!("no speaker among {all:?}"))?;
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGKILL).context("kill the speaker")
}
