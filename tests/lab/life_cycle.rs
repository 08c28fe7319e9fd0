//! Quorum, sorry server, slow start, several checks of one server, and who is told of it all.

use crate::stage::{Method, WEB, file, http_servers, web};
use anyhow::{Context, Result, ensure};
use harness::config::{Config, RealServer, Service};
use harness::daemon::{Daemon, number};
use harness::peer::{self, Site};
use harness::process::Tool;
use harness::topology::{Family, server_address};
use harness::wait::{eventually, millis, seconds};
use harness::{Lab, scenario};
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

/// The sequence of the pure tests, with real servers: quorum 3 with hysteresis 1 over weights 1, 2
/// and 1; the sorry server gets new connections between the loss and the return.
#[test]
fn quorum_and_sorry_server_follow_the_live_weight() {
    scenario(Method::Nat.shape(4), |lab| {
        let mut sites = sites(lab, 3)?;
        let _sorry = peer::http_server(lab.server(4)?, "sorry", WEB)?;
        let told = lab.dir.path().join("told");
        let program = program(lab, "program", &format!("echo \"$*\" >> {}", told.display()))?;
        let mut service = web(lab, Method::Nat, Family::V4)
            .check(CHECK)
            .with("quorum:")
            .with("  {up: 3, hysteresis: 1,")
            .with(&format!("   on_up: [{program}, up], on_down: [{program}, down]}}"))
            .with(&format!("sorry_server: {{address: {}}}", server_address(Family::V4, 4)));
        service.real_servers.pop();
        service.real_servers[1].weight = 2;
        let lb = Daemon::start(lab, &file(lab, Method::Nat, Family::V4, service))?;
        stands(&lb, "up", 4)?;
        answers(lab, &["rs1", "rs2", "rs3"])?;
        for (change, weight, state) in [
            ("1 503", 3, "up"),
            ("3 503", 2, "up"),
            ("2 503", 0, "down"),
            ("3 200", 1, "down"),
            ("2 200", 3, "down"),
            ("1 200", 4, "up"),
            ("2 503", 2, "up"),
            ("3 503", 1, "down"),
            ("2 200", 3, "down"),
            ("3 200", 4, "up"),
        ] {
            let (n, code) = change.split_once(' ').context("server and status")?;
            sites[n.parse::<usize>()? - 1].tell(&format!("status {code}"))?;
            stands(&lb, state, weight).with_context(|| format!("after {change}"))?;
            let sorry = lb.status()?["virtual_services"][0]["sorry_server"]["in_use"] == true;
            ensure!(sorry == (state == "down"), "after {change}: {}", lb.status()?);
            if sorry {
                answers(lab, &["sorry"])?;
            }
        }
        answers(lab, &["rs1", "rs2", "rs3"])?;
        let expected = [
            "up VS web UP 4",
            "down VS web DOWN 0",
            "up VS web UP 4",
            "down VS web DOWN 1",
            "up VS web UP 4",
        ];
        exactly(&told, &expected)?;
        let log = lb.log();
        ensure!(log.contains("Lost quorum 3-1=2 > 0 for virtual service web"), "{log}");
        ensure!(log.contains("Gained quorum 3+1=4 <= 4 for virtual service web"), "{log}");
        Ok(())
    });
}

/// The share of new connections of a server that returned grows in a straight line.
#[test]
fn slow_start_rises_in_a_straight_line() {
    for scheduler in ["rr", "wrr"] {
        scenario(Method::Nat.shape(2), |lab| {
            let mut sites = sites(lab, 2)?;
            let service = web(lab, Method::Nat, Family::V4)
                .scheduler(scheduler)
                .check(CHECK)
                .with("slow_start: 10s");
            let lb = Daemon::start(lab, &file(lab, Method::Nat, Family::V4, service))?;
            wait(&lb, 2, "up")?;
            sites[1].tell("status 503")?;
            wait(&lb, 2, "down")?;
            sites[1].tell("status 200")?;
            wait(&lb, 2, "up")?;
            let mut last = 0;
            while let Some(before) = percent(&lb)? {
                ensure!(before >= last, "{before} after {last}");
                last = before;
                let found = peer::get(&lab.client, &Method::Nat.url(Family::V4, WEB), 200)?;
                let Some(after) = percent(&lb)? else { break };
                // Of two servers of one weight: p against 1 is p / (1 + p) of all.
                let share = found.of("rs2") as f64 / found.of("rs1").max(1) as f64;
                let (from, to) = (before as f64 / 100.0 - 0.10, after as f64 / 100.0 + 0.10);
                ensure!((from..=to).contains(&share), "{share} at {before}..{after} %: {found}");
            }
            ensure!(last >= 80, "only seen up to {last} %");
            let url = Method::Nat.url(Family::V4, WEB);
            peer::get(&lab.client, &url, 40)?.exactly(&[("rs1", 20), ("rs2", 20)])
        });
    }
}

/// One failure, one truth: what several services share goes down in all of them at once, with one
/// log line, one event, one mail and one run of the command.
#[test]
fn a_shared_server_s_failure_is_told_once() {
    scenario(Method::Nat.shape(2), |lab| {
        let mut sites = sites(lab, 2)?;
        let told = lab.dir.path().join("told");
        let program = program(lab, "program", &format!("echo \"$*\" >> {}", told.display()))?;
        let mut sink = Tool::serve(&lab.director, &["smtp-sink", "--bind", MAIL])?;
        let lb = Daemon::start(lab, &shared(lab, &program))?;
        for name in ["web", "api", "old"] {
            eventually(seconds(5), "all are up", || {
                Ok(lb.real_server(name, &server_address(Family::V4, 2))?["state"] == "up")
            })?;
        }
        sites[1].tell("status 503")?;
        let begun = Instant::now();
        let downs = |status: &Value| {
            let services = status["virtual_services"].as_array().cloned().unwrap_or_default();
            services.iter().filter(|s| s["real_servers"][1]["state"] == "down").count()
        };
        let mut first = None;
        loop {
            let now = downs(&lb.status()?);
            if now > 0 {
                first.get_or_insert_with(Instant::now);
            }
            if now == 3 {
                break;
            }
            ensure!(begun.elapsed() < seconds(10), "{}", lb.status()?);
        }
        let spread = first.context("nothing went down")?.elapsed();
        ensure!(spread < millis(100), "the last one followed {spread:?} after the first");
        let rs2 = format!("{}:{WEB}", server_address(Family::V4, 2));
        exactly(&told, &[&format!("RS {rs2} DOWN web,api,old")])?;
        let mail = sink.json(seconds(5))?;
        let subject = mail["subject"].as_str().unwrap_or_default();
        ensure!(subject == format!("[lab] Realserver {rs2} of web,api,old - DOWN"), "{mail}");
        ensure!(mail["body"].as_str().unwrap_or_default().contains("L7STS/503"), "{mail}");
        let log = lb.log();
        let lines: Vec<&str> = log.lines().filter(|line| line.contains("is DOWN")).collect();
        ensure!(lines.len() == 1, "{lines:?}");
        let line = lines[0];
        for part in [
            format!("Server web/{rs2}, api/{rs2}, old/{rs2} is DOWN, reason: Layer7 wrong status"),
            "code: 503".to_owned(),
            "check duration: ".to_owned(),
            "1 active and 0 backup servers of api left.".to_owned(),
        ] {
            ensure!(line.contains(&part), "{part:?} is not in {line}");
        }
        let events = lb.events()?;
        let down = events.iter().filter(|e| e["kind"] == "real_server" && e["state"] == "DOWN");
        ensure!(down.count() == 1, "{events:?}");
        // Its return, and another failure at once, are the next mail: ten seconds later, as one.
        sites[1].tell("status 200")?;
        wait(&lb, 2, "up")?;
        sites[0].tell("status 503")?;
        wait(&lb, 1, "down")?;
        let digest = sink.json(seconds(15))?;
        ensure!(digest["subject"] == "[lab] 2 changes of state", "{digest}");
        let apart = begun.elapsed();
        ensure!(apart >= seconds(10), "the second mail came after {apart:?}");
        Ok(())
    });
}

/// Three services over the same servers with the same check; one of them wants mail.
fn shared(lab: &Lab, program: &str) -> Config {
    let vip = Method::Nat.vip(Family::V4);
    let servers = || -> Vec<RealServer> {
        (1..=2).map(|n| RealServer::new(server_address(Family::V4, n)).port(WEB)).collect()
    };
    let mut config = Config::new(&lab.director_interfaces()).vip(vip, "wan0");
    for (name, port, email) in [("web", WEB, true), ("api", 81, false), ("old", 82, false)] {
        let mut service = Service::new(name, (vip, port, "tcp"), "nat", servers());
        service.health_check = "shared".into();
        let command = format!("[{program}]");
        let line = format!("notify: {{up: {command}, down: {command}, email: {email}}}");
        config.services.push(service.with(&line));
    }
    config.more = vec![
        format!("health_checks: {{shared: {{{CHECK}}}}}"),
        format!("notifications: {{email: {{smtp: \"{MAIL}\", from: lb@lab, to: [ops@lab]}}}}"),
    ];
    config
}

/// A server with two checks is up while both are, and the one that fails is shown.
#[test]
fn every_check_of_a_server_has_to_pass() {
    scenario(Method::Nat.shape(1), |lab| {
        let mut site = Site::start(lab.server(1)?, WEB)?;
        let mut service = web(lab, Method::Nat, Family::V4);
        service.health_check =
            format!("[{{{CHECK}}}, {{type: tcp, port: 8081, interval: 200ms, rise: 1, fall: 1}}]");
        let lb = Daemon::start(lab, &file(lab, Method::Nat, Family::V4, service))?;
        eventually(seconds(5), "the other check fails", || {
            let server = lb.real_server("web", &server_address(Family::V4, 1))?;
            let right = server["state"] == "down" && server["check"]["status"] == "L4CON";
            Ok(right && server["checks"][1]["status"] == "L7OK")
        })?;
        let second = peer::http_server(lab.server(1)?, "second", 8081)?;
        wait(&lb, 1, "up")?;
        site.tell("status 503")?;
        wait(&lb, 1, "down")?;
        ensure!(lb.real_server("web", &server_address(Family::V4, 1))?["check"]["code"] == 503);
        site.tell("status 200")?;
        wait(&lb, 1, "up")?;
        drop(second);
        wait(&lb, 1, "down")
    });
}

/// The exit code of a command is the server's weight, two less, as keepalived's `misc_dynamic`.
#[test]
fn a_command_gives_the_weight() {
    scenario(Method::Nat.shape(2), |lab| {
        let _servers = http_servers(lab)?;
        let code = lab.dir.path().join("code");
        fs::write(&code, "5")?;
        // The command runs as another user, who has to get there.
        fs::set_permissions(lab.dir.path(), fs::Permissions::from_mode(0o755))?;
        let command = program(lab, "weight", &format!("exit $(cat {})", code.display()))?;
        let mut service = web(lab, Method::Nat, Family::V4).scheduler("wrr");
        service.health_check = format!(
            "{{type: exec, command: [{command}], interval: 200ms, rise: 1, fall: 1, user: nobody}}"
        );
        service.real_servers[1].weight = 7;
        let lb = Daemon::start(lab, &file(lab, Method::Nat, Family::V4, service))?;
        let weighs = |weight: u64, state: &str| {
            eventually(seconds(5), &format!("{state} with weight {weight}"), || {
                let server = lb.real_server("web", &server_address(Family::V4, 2))?;
                let found = number(&server, "effective_weight")?;
                Ok(found == weight && server["state"] == state)
            })
        };
        weighs(3, "up")?;
        fs::write(&code, "2")?;
        weighs(0, "drain")?;
        fs::write(&code, "0")?;
        weighs(7, "up")?;
        fs::write(&code, "1")?;
        weighs(0, "down")
    });
}

/// A reload that replaces every server does not lose the quorum while the new ones are asked.
#[test]
fn a_reload_with_other_servers_keeps_the_quorum() {
    scenario(Method::Nat.shape(2), |lab| {
        let _servers = http_servers(lab)?;
        let mut service = web(lab, Method::Nat, Family::V4).check(CHECK);
        let other = service.real_servers.pop().context("two servers")?;
        let mut config = file(lab, Method::Nat, Family::V4, service);
        let lb = Daemon::start(lab, &config)?;
        wait(&lb, 1, "up")?;
        config.services[0].real_servers = vec![other];
        lb.reload(&config)?;
        wait(&lb, 2, "up")?;
        let events = lb.events()?;
        let lost = events.iter().any(|e| e["kind"] == "virtual_service" && e["state"] == "DOWN");
        ensure!(!lost, "{events:?}");
        Ok(())
    });
}

fn sites(lab: &Lab, count: usize) -> Result<Vec<Site>> {
    (1..=count)
        .map(|n| {
            let mut site = Site::start(lab.server(n)?, WEB)?;
            site.tell(&format!("body rs{n}"))?;
            Ok(site)
        })
        .collect()
}

/// Waits until the service is as it should be.
fn stands(lb: &Daemon<'_>, state: &str, weight: u64) -> Result<()> {
    eventually(seconds(10), &format!("{state} with weight {weight}"), || {
        let service = &lb.status()?["virtual_services"][0];
        ensure!(number(service, "live_weight")? == weight, "{service}");
        Ok(service["state"] == state)
    })
}

fn answers(lab: &Lab, names: &[&str]) -> Result<()> {
    let found = peer::get(&lab.client, &Method::Nat.url(Family::V4, WEB), 24)?;
    let others = found.by_name.keys().any(|name| !names.contains(&name.as_str()));
    let all = names.iter().all(|name| found.of(name) > 0);
    ensure!(all && !others && found.failed == 0, "{names:?} should answer: {found}");
    Ok(())
}

fn percent(lb: &Daemon<'_>) -> Result<Option<u64>> {
    let server = lb.real_server("web", &server_address(Family::V4, 2))?;
    Ok(server["slow_start_percent"].as_u64())
}

fn wait(lb: &Daemon<'_>, n: usize, state: &str) -> Result<()> {
    lb.wait_state("web", &server_address(Family::V4, n), state, seconds(10))
}

/// A shell program in the lab's folder.
fn program(lab: &Lab, name: &str, body: &str) -> Result<String> {
    let path = lab.dir.path().join(name);
    fs::write(&path, format!("#!/bin/sh\n{body}\n"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path.to_str().context("the path is text")?.to_string())
}

/// Waits until the file has exactly these lines.
fn exactly(path: &std::path::Path, expected: &[&str]) -> Result<()> {
    eventually(LIMIT, &format!("{} is complete", path.display()), || {
        let text = fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        ensure!(lines == expected, "it has {lines:?}, not {expected:?}");
        Ok(true)
    })
}

const LIMIT: Duration = seconds(5);
const MAIL: &str = "127.0.0.1:2525";
const CHECK: &str = "type: http, interval: 200ms, retry_interval: 100ms, timeout: 200ms, rise: 1, \
                     fall: 2, expect: {status: 200}";
