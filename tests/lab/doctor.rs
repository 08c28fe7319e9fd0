//! `lb doctor` on a real director: silent when all is well, and each planted fault is found with a
//! command that mends it.

use crate::stage::{Method, WEB, all_servers, file};
use anyhow::{Context, Result, ensure};
use harness::config::Service;
use harness::daemon::{self, Daemon, Paths};
use harness::process::run;
use harness::topology::{Family, server_address};
use harness::wait::{eventually, seconds};
use harness::{Lab, scenario};
use serde_json::Value;
use std::process::ExitStatus;

#[test]
fn faults_are_found_with_the_command_that_mends_them() {
    scenario(Method::Tunnel.shape(2), |lab| {
        lab.end_tunnels_at_servers()?;
        lab.widen_lan()?;
        let listen = (Method::Tunnel.vip(Family::V4), WEB, "udp");
        let service = Service::new("web", listen, "tunnel", all_servers(lab, Family::V4));
        let config = file(lab, Method::Tunnel, Family::V4, service);
        let lb = Daemon::start(lab, &config)?;
        lab.director
            .run("sysctl -qw net.ipv4.conf.all.rp_filter=0 net.ipv4.conf.lan0.rp_filter=0")?;
        let server = server_address(Family::V4, 1);
        lab.director.run(&format!("ping -c 1 -W 5 {server}"))?;
        let silent = || -> Result<bool> {
            let (status, document) = doctor(lab, &[])?;
            ensure!(status.success() == (document["errors"] == 0), "{status}: {document}");
            let mut wrong = worse(&document, "error")?;
            wrong.extend(worse(&document, "warn")?.into_iter().filter(|f| !is_of_the_machine(f)));
            if !wrong.is_empty() {
                println!("still wrong: {wrong:#?}");
            }
            Ok(wrong.is_empty())
        };
        eventually(seconds(10), "a healthy director", silent)?;

        mends(lab, "rp_filter", "sysctl -qw net.ipv4.conf.lan0.rp_filter=1")?;
        mends(lab, "tunnel_mtu", "ip link set dev lan0 mtu 1500")?;
        mends(lab, "forwarding", "sysctl -qw net.ipv4.conf.lan0.forwarding=0")?;
        eventually(seconds(10), "a director that was mended", silent)?;
        let text = lb.text(&["doctor"])?;
        ensure!(text.contains("0 errors") && text.contains("native mode (driver veth)"), "{text}");
        lb.terminate()?;

        // Without a daemon: what it keeps resolved it would mend itself.
        let paths = Paths::of(lab);
        let path = paths.config.to_str().context("the path is text")?.to_owned();
        let fails = format!("ip neigh replace {server} dev lan0 nud failed");
        mends_with(lab, "next_hop", &fails, &["--config", &path])?;
        Ok(())
    });
}

#[test]
fn the_data_plane_of_a_daemon_that_is_gone_is_found() {
    scenario(Method::Nat.shape(1), |lab| {
        let config =
            file(lab, Method::Nat, Family::V4, crate::stage::web(lab, Method::Nat, Family::V4));
        Daemon::start(lab, &config)?.kill();
        let paths = Paths::of(lab);
        let path = paths.config.to_str().context("the path is text")?.to_owned();
        let (_, document) = doctor(lab, &["--config", &path])?;
        let found = find(&document, "pins")?.context("the pins are not found")?;
        let command = format!("lb detach --pin-path {}", paths.pins.display());
        ensure!(found["severity"] == "warn" && found["command"] == *command, "{found}");
        daemon::detach(lab)?;
        let (_, document) = doctor(lab, &["--config", &path])?;
        ensure!(find(&document, "pins")?.is_none(), "{document}");
        Ok(())
    });
}

/// Plants a fault, finds it, runs the command of the finding, and finds it no more.
fn mends(lab: &Lab, check: &str, fault: &str) -> Result<()> {
    mends_with(lab, check, fault, &[])
}

fn mends_with(lab: &Lab, check: &str, fault: &str, arguments: &[&str]) -> Result<()> {
    lab.director.run(fault)?;
    let (status, document) = doctor(lab, arguments)?;
    let found = find(&document, check)?.with_context(|| format!("no {check} in {document}"))?;
    ensure!(status.success() == (found["severity"] != "error"), "{status}: {document}");
    let command = found["command"].as_str().context("no command")?;
    ensure!(!command.is_empty(), "{found}");
    run(lab.director.command("sh").args(["-c", command])).context(check.to_owned())?;
    eventually(seconds(10), check, || Ok(find(&doctor(lab, arguments)?.1, check)?.is_none()))
}

/// Exit status and document of `lb doctor --json`.
fn doctor(lab: &Lab, arguments: &[&str]) -> Result<(ExitStatus, Value)> {
    let output = daemon::lb(lab, &[&["doctor", "--json"], arguments].concat())?;
    let said = String::from_utf8_lossy(&output.stderr);
    let document = serde_json::from_slice(&output.stdout).with_context(|| said.into_owned())?;
    Ok((output.status, document))
}

/// What is not right by this check.
fn find(document: &Value, check: &str) -> Result<Option<Value>> {
    let found = document["findings"].as_array().context("no findings")?;
    let is_wrong = |found: &&Value| found["check"] == check && found["severity"] != "ok";
    Ok(found.iter().find(is_wrong).cloned())
}

fn worse(document: &Value, severity: &str) -> Result<Vec<Value>> {
    let found = document["findings"].as_array().context("no findings")?;
    Ok(found.iter().filter(|found| found["severity"] == severity).cloned().collect())
}

/// What the machine that the lab runs on may lack, whatever the scenario does.
fn is_of_the_machine(found: &Value) -> bool {
    let checks = ["clock", "kernel", "unprivileged_bpf", "conntrack", "gc_thresh", "queues"];
    checks.iter().any(|check| found["check"] == *check)
}
