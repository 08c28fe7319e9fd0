//! What a thousand targets cost: CPU time of the whole daemon, kernel included, sockets, and how
//! long results take, while they answer and while nobody does.
//!
//! The bound of CPU time is one for a release build (`LB_BIN`).

use crate::checks::nginx;
use crate::stage::{Method, WEB, file};
use anyhow::{Context, Result, ensure};
use harness::config::{Config, RealServer, Service};
use harness::daemon::{Daemon, number};
use harness::topology::{Family, address, server_address};
use harness::wait::{eventually, millis, seconds, throughout};
use harness::{Lab, scenario};
use serde_json::Value;
use std::fs;
use std::time::{Duration, Instant};

/// Half tcp, half http, every second, each at an address of its own.
fn thousand(lab: &Lab) -> Result<Config> {
    lab.server(1)?.ip("route add local 10.9.0.0/16 dev lo\n")?;
    let host = server_address(Family::V4, 1);
    lab.director.ip(&format!("route add 10.9.0.0/16 via {host}\n"))?;
    let servers = |from: usize| {
        (from..from + TARGETS / 2)
            .map(|n| RealServer::new(format!("10.9.{}.{}", n / 250, 1 + n % 250)).port(WEB))
            .collect()
    };
    let timing = "interval: 1s, timeout: 1s, rise: 1, fall: 1";
    let service = |name: &str, port: u16, check: &str, from: usize| {
        let listen = (Method::Nat.vip(Family::V4), port, "tcp");
        Service::new(name, listen, "nat", servers(from)).check(&format!("{check}, {timing}"))
    };
    Ok(file(lab, Method::Nat, Family::V4, service("tcp", 81, "type: tcp", 0)).service(service(
        "http",
        82,
        "type: http, expect: {body: ok}",
        TARGETS / 2,
    )))
}

/// Every real server of `lb status`.
fn servers(lb: &Daemon<'_>) -> Result<Vec<Value>> {
    let status = lb.status()?;
    let services = status["virtual_services"].as_array().context("no services")?;
    let all = services.iter().filter_map(|service| service["real_servers"].as_array());
    Ok(all.flatten().cloned().collect())
}

fn are(lb: &Daemon<'_>, state: &str) -> Result<usize> {
    Ok(servers(lb)?.iter().filter(|server| server["state"] == state).count())
}

/// Probes that have ended, of each server.
fn probes(lb: &Daemon<'_>) -> Result<Vec<u64>> {
    servers(lb)?.iter().map(|server| number(&server["check"], "probes")).collect()
}

/// Connections that the server has taken so far.
fn asked(lab: &Lab) -> Result<u64> {
    let text = lab.server(1)?.run("curl -s http://127.0.0.1/status")?;
    let line = text.lines().nth(2).with_context(|| format!("nginx says {text:?}"))?;
    let accepted = line.split_whitespace().next().unwrap_or_default();
    accepted.parse().with_context(|| format!("nginx says {text:?}"))
}

/// Sockets that the daemon itself has open.
fn sockets(lb: &Daemon<'_>) -> Result<usize> {
    let folder = fs::read_dir(format!("/proc/{}/fd", lb.pid()))?;
    let targets = folder.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    Ok(targets.filter(|target| target.to_string_lossy().starts_with("socket:")).count())
}

/// Lets `span` pass; the most sockets that were open meanwhile.
fn most_sockets(lb: &Daemon<'_>, span: Duration) -> Result<usize> {
    let mut most = 0;
    throughout(span, "sockets are counted", || {
        most = most.max(sockets(lb)?);
        anyhow::Ok(true)
    })?;
    Ok(most)
}

#[test]
fn a_thousand_checks_a_second_cost_at_most_15_percent_of_a_core_and_1000_sockets() {
    scenario(Method::Nat.shape(1), |lab| {
        // A server that is cheap: nothing but the director is to be busy.
        let _site = nginx(lab, SITE)?;
        let lb = Daemon::start(lab, &thousand(lab)?)?;
        eventually(seconds(30), "all servers are up", || Ok(are(&lb, "up")? == TARGETS))?;

        // While they answer: as many results as seconds for each, and what they cost. The samples
        // of sockets are left out of this time: reading /proc takes the daemon's locks.
        let (began, cpu, before) = (Instant::now(), lb.cpu_seconds()?, asked(lab)?);
        let each_before = probes(&lb)?;
        harness::wait::idle(seconds(MEASURED))?;
        let (cpu, after) = (lb.cpu_seconds()? - cpu, asked(lab)?);
        let took = began.elapsed().as_secs_f64();
        let each: Vec<u64> =
            probes(&lb)?.iter().zip(&each_before).map(|(after, before)| after - before).collect();
        let rate = (after - before) as f64 / took;
        let share = cpu / took * 100.0;
        let (fewest, most) = (each.iter().min(), each.iter().max());
        println!(
            "{TARGETS} targets: {rate:.0} probes a second, {share:.1} % of a core ({:.0} us \
             each); {fewest:?} to {most:?} results of each in {took:.1} s",
            cpu / took / rate * 1e6
        );
        ensure!(rate > TARGETS as f64 * 0.95, "only {rate:.0} probes a second");
        ensure!(fewest.is_some_and(|n| n + 2 >= MEASURED), "some had only {fewest:?} results");
        ensure!(are(&lb, "up")? == TARGETS, "not all servers are up");
        let answered = most_sockets(&lb, seconds(3))?;

        // While nobody answers: every probe lasts until its timeout, and still every server is
        // found to be down within interval and timeout. Nothing asks the daemon meanwhile.
        let [director, _] = address::DIRECTOR_LAN;
        lab.server(1)?.ip(&format!("route add blackhole {director}/32\n"))?;
        let most = most_sockets(&lb, seconds(2) + millis(SLACK_MS))?;
        let down = are(&lb, "down")?;
        let most = most.max(most_sockets(&lb, seconds(3))?);
        println!("sockets: {answered} while they answer, {most} while nobody does");
        ensure!(down == TARGETS, "{down} are down after interval and timeout");
        ensure!(most <= 1000 && answered <= 1000, "{answered} and {most} sockets");
        ensure!(share <= 15.0, "{share:.1} % of a core");
        Ok(())
    });
}

const TARGETS: usize = 1000;
const SITE: &str = "server {\n listen 80 backlog=4096;\n location = /status { stub_status; }\n \
                    location / { return 200 \"ok\"; }\n}\n";
/// Seconds.
const MEASURED: u64 = 20;
/// For the command that silences the servers, and busy processors.
const SLACK_MS: u64 = 250;
