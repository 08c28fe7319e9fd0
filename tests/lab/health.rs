//! Who gets connections when servers fail, return, are quiesced or leave the file.

use crate::stage::{Method, WEB, file, http_servers, web};
use anyhow::{Result, ensure};
use harness::config::Service;
use harness::daemon::{Daemon, number};
use harness::peer::{self, Held, Holder, Load};
use harness::process::Tool;
use harness::topology::{Family, server_address};
use harness::wait::{eventually, millis, seconds};
use harness::{Lab, scenario};
use std::time::{Duration, Instant};

#[test]
fn a_failed_server_gets_nothing_and_returns_in_nat() {
    scenario(Method::Nat.shape(2), |lab| fails_and_returns(lab, Method::Nat));
}

#[test]
fn a_failed_server_gets_nothing_and_returns_in_dr() {
    scenario(Method::Dr.shape(2), |lab| fails_and_returns(lab, Method::Dr));
}

fn fails_and_returns(lab: &Lab, method: Method) -> Result<()> {
    let mut servers = http_servers(lab)?;
    let service = web(lab, method, Family::V4).check(CHECK);
    let lb = Daemon::start(lab, &file(lab, method, Family::V4, service))?;
    wait_all(lab, &lb, "up")?;
    let mut load = Load::start(&lab.client, &method.url(Family::V4, WEB))?;
    eventually(seconds(5), "both servers answer", || {
        let answers = load.count()?;
        Ok(answers.of("rs1") >= 50 && answers.of("rs2") >= 50)
    })?;

    let stopped = Instant::now();
    drop(servers.pop());
    lb.wait_state("web", &rs2(), "down", seconds(10))?;
    ensure!(stopped.elapsed() >= EARLIEST_DOWN, "down after {:?}", stopped.elapsed());
    load.mark()?;
    eventually(seconds(10), "200 requests", || Ok(load.count()?.total() >= 200))?;

    load.mark()?;
    let started = Instant::now();
    servers.push(peer::http_server(lab.server(2)?, "rs2", WEB)?);
    lb.wait_state("web", &rs2(), "up", seconds(10))?;
    ensure!(started.elapsed() >= EARLIEST_UP, "up after {:?}", started.elapsed());
    eventually(seconds(10), "rs2 answers again", || Ok(load.count()?.of("rs2") >= 50))?;

    let phases = load.stop()?;
    phases[1].unbroken()?;
    ensure!(phases[1].of("rs2") == 0, "rs2 answered while it was down: {}", phases[1]);
    phases[2].unbroken()
}

#[test]
fn a_server_that_never_answered_is_not_used() {
    scenario(Method::Nat.shape(2), |lab| {
        let _one = peer::http_server(lab.server(1)?, "rs1", WEB)?;
        let service = web(lab, Method::Nat, Family::V4).check(CHECK);
        let lb = Daemon::start(lab, &file(lab, Method::Nat, Family::V4, service))?;
        lb.wait_state("web", &rs1(), "up", seconds(10))?;
        lb.wait_state("web", &rs2(), "down", seconds(10))?;
        let answers = peer::get(&lab.client, &Method::Nat.url(Family::V4, WEB), 50)?;
        answers.exactly(&[("rs1", 50)])
    });
}

/// The director has the VIP too: the check must not come from it, or its answer goes to the
/// server's own loopback. RFC 6724's longest prefix would choose a /128 VIP as the source.
#[test]
fn checks_reach_servers_that_have_the_vip_over_ipv6() {
    scenario(Method::Dr.shape(2), |lab| {
        let _servers = http_servers(lab)?;
        let service = web(lab, Method::Dr, Family::V6).check(CHECK);
        let lb = Daemon::start(lab, &file(lab, Method::Dr, Family::V6, service))?;
        for n in 1..=2 {
            lb.wait_state("web", &server_address(Family::V6, n), "up", seconds(10))?;
        }
        Ok(())
    });
}

#[test]
fn removal_tells_the_clients_of_a_failed_server_by_rst() {
    for method in [Method::Nat, Method::Dr] {
        scenario(method.shape(2), |lab| {
            let held = hold_through_failure(lab, method, "remove")?;
            ensure!(held.open == 20 && held.failed == 20, "{held:?}");
            let told = |reason: &String| reason.contains("Reset") || reason.contains("BrokenPipe");
            ensure!(held.reasons.iter().all(told), "not all were told by RST: {held:?}");
            Ok(())
        });
    }
}

#[test]
fn quiesce_keeps_the_connections_of_a_failed_server() {
    for method in [Method::Nat, Method::Dr] {
        scenario(method.shape(2), |lab| {
            let held = hold_through_failure(lab, method, "quiesce")?.unbroken()?;
            ensure!(held.open == 40, "{held:?}");
            Ok(())
        });
    }
}

/// Opens 40 connections, fails rs2's check (it listens on a port of its own, so the connections
/// are not touched), and tries a round trip on each.
fn hold_through_failure(lab: &Lab, method: Method, on_failure: &str) -> Result<Held> {
    let _servers = hold_servers(lab)?;
    let _check = peer::http_server(lab.server(1)?, "check", CHECK_PORT)?;
    let check = peer::http_server(lab.server(2)?, "check", CHECK_PORT)?;
    let service = web(lab, method, Family::V4)
        .check(&format!("{CHECK}, port: {CHECK_PORT}"))
        .on_failure(on_failure);
    let lb = Daemon::start(lab, &file(lab, method, Family::V4, service))?;
    wait_all(lab, &lb, "up")?;
    let mut holder = Holder::start(&lab.client, &method.endpoint(Family::V4, WEB))?;
    holder.open(40)?.unbroken()?;
    ensure!(active(&lb, &rs2())? == 20, "rs2 has not half of the connections");
    drop(check);
    lb.wait_state("web", &rs2(), "down", seconds(10))?;
    let held = holder.echo()?;
    let left = if on_failure == "remove" { 0 } else { 20 };
    eventually(seconds(10), "the counters of rs2 settle", || Ok(active(&lb, &rs2())? == left))?;
    let before = active(&lb, &rs1())?;
    let more = holder.open(10)?.unbroken()?;
    ensure!(active(&lb, &rs1())? == before + 10, "a new connection missed rs1: {more:?}");
    Ok(held)
}

#[test]
fn weight_0_quiesces() {
    scenario(Method::Nat.shape(2), |lab| {
        quiesced(lab, |service| service.real_servers[1].weight = 0)
    });
}

#[test]
fn a_disabled_server_keeps_its_connections() {
    scenario(Method::Dr.shape(2), |lab| {
        quiesced(lab, |service| service.real_servers[1].disabled = true)
    });
}

fn quiesced(lab: &Lab, change: impl FnOnce(&mut Service)) -> Result<()> {
    let method = if lab.shape == Method::Dr.shape(2) { Method::Dr } else { Method::Nat };
    let _servers = hold_servers(lab)?;
    let mut config = file(lab, method, Family::V4, web(lab, method, Family::V4));
    let lb = Daemon::start(lab, &config)?;
    let mut holder = Holder::start(&lab.client, &method.endpoint(Family::V4, WEB))?;
    holder.open(20)?.unbroken()?;
    change(&mut config.services[0]);
    lb.reload(&config)?;
    let server = lb.real_server("web", &rs2())?;
    ensure!(number(&server, "effective_weight")? == 0, "lb status shows {server}");
    let held = holder.open(20)?.unbroken()?;
    ensure!(held.open == 40, "{held:?}");
    holder.echo()?.unbroken()?;
    ensure!(active(&lb, &rs1())? == 30 && active(&lb, &rs2())? == 10, "{}", lb.status()?);
    Ok(())
}

#[test]
fn a_server_that_leaves_the_file_keeps_its_connections_until_they_end() {
    for method in [Method::Nat, Method::Dr] {
        scenario(method.shape(2), |lab| {
            let _servers = hold_servers(lab)?;
            let mut config =
                file(lab, method, Family::V4, web(lab, method, Family::V4)).timeouts("tcp_fin: 1s");
            let lb = Daemon::start(lab, &config)?;
            let mut holder = Holder::start(&lab.client, &method.endpoint(Family::V4, WEB))?;
            holder.open(20)?.unbroken()?;
            config.services[0].real_servers.pop();
            lb.reload(&config)?;
            holder.echo()?.unbroken()?;
            let before = harness::counters::established(lab.server(2)?, WEB)?;
            holder.open(20)?.unbroken()?;
            holder.echo()?.unbroken()?;
            let after = harness::counters::established(lab.server(2)?, WEB)?;
            ensure!((before, after) == (10, 10), "rs2 had {before}, then {after}");
            holder.close(40)?.unbroken()?;
            Ok(())
        });
    }
}

fn hold_servers(lab: &Lab) -> Result<Vec<Tool>> {
    lab.servers.iter().map(|ns| peer::hold_server(ns, WEB)).collect()
}

fn wait_all(lab: &Lab, lb: &Daemon, state: &str) -> Result<()> {
    (1..=lab.servers.len())
        .try_for_each(|n| lb.wait_state("web", &server_address(Family::V4, n), state, seconds(10)))
}

fn active(lb: &Daemon, address: &str) -> Result<u64> {
    number(&lb.real_server("web", address)?, "active_connections")
}

fn rs1() -> String {
    server_address(Family::V4, 1)
}

fn rs2() -> String {
    server_address(Family::V4, 2)
}

const CHECK: &str =
    "type: tcp, interval: 400ms, retry_interval: 200ms, timeout: 400ms, rise: 2, fall: 3";
const CHECK_PORT: u16 = 8081;
/// Three failures are two retry intervals apart.
const EARLIEST_DOWN: Duration = millis(400);
/// Two successes are one retry interval apart.
const EARLIEST_UP: Duration = millis(200);
