//! What the operator does at run time: drain, enable, disable, weight, add, remove, `--persist`.

use crate::stage::{Method, WEB, file, http_servers, web};
use anyhow::{Context, Result, ensure};
use harness::daemon::{self, Daemon, Paths, number};
use harness::peer::{self, Holder};
use harness::topology::{Family, server_address};
use harness::wait::{eventually, seconds};
use harness::{Lab, scenario};
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, Stdio};

/// New connections stop at once, open ones go on, the command counts them down and ends.
#[test]
fn drain_counts_open_connections_down_to_none() {
    for method in [Method::Nat, Method::Dr] {
        scenario(method.shape(2), |lab| {
            let _servers: Vec<_> =
                lab.servers.iter().map(|ns| peer::hold_server(ns, WEB)).collect::<Result<_>>()?;
            let config =
                file(lab, method, Family::V4, web(lab, method, Family::V4)).timeouts("tcp_fin: 1s");
            let lb = Daemon::start(lab, &config)?;
            let mut holder = Holder::start(&lab.client, &method.endpoint(Family::V4, WEB))?;
            holder.open(20)?.unbroken()?;
            ensure!(active(&lb, &rs2())? == 10, "{}", lb.status()?);
            let target = target(2);
            // A deadline that is too short says what is left.
            let output = daemon::lb(lab, &["drain", &target, "--timeout", "1s"])?;
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            ensure!(output.status.code() == Some(1) && said.contains("10 connections"), "{said}");
            ensure!(lb.real_server("web", &rs2())?["state"] == "drain");
            let mut drain = Running::start(lab, &["drain", &target])?;
            ensure!(drain.line()?.contains(": 10 connections open"));
            let held = holder.open(20)?.unbroken()?;
            ensure!(held.open == 40, "{held:?}");
            holder.echo()?.unbroken()?;
            let (one, two) = (active(&lb, &rs1())?, active(&lb, &rs2())?);
            ensure!(
                (one, two) == (30, 10),
                "a new connection came to the drained server: {one} {two}"
            );
            holder.close(40)?.unbroken()?;
            let rest = drain.end()?;
            let last = rest.lines().last().unwrap_or_default();
            ensure!(last.contains("no connection is open"), "{rest}");
            lb.text(&["enable", &target])?;
            holder.open(10)?.unbroken()?;
            ensure!(active(&lb, &rs2())? == 5, "{}", lb.status()?);
            Ok(())
        });
    }
}

#[test]
fn a_drain_ends_with_an_error_when_the_server_is_enabled_again() {
    scenario(Method::Nat.shape(2), |lab| {
        let _servers: Vec<_> =
            lab.servers.iter().map(|ns| peer::hold_server(ns, WEB)).collect::<Result<_>>()?;
        let config = file(lab, Method::Nat, Family::V4, web(lab, Method::Nat, Family::V4));
        let lb = Daemon::start(lab, &config)?;
        let mut holder = Holder::start(&lab.client, &Method::Nat.endpoint(Family::V4, WEB))?;
        holder.open(4)?.unbroken()?;
        let mut drain = Running::start(lab, &["drain", &target(2)])?;
        ensure!(drain.line()?.contains(": 2 connections open"));
        lb.text(&["enable", &target(2)])?;
        let error = drain.end().err().context("the drain ended well")?.to_string();
        ensure!(error.contains("enabled"), "{error}");
        Ok(())
    });
}

#[test]
fn weights_and_states_take_effect_at_once_and_end_with_the_next_reload() {
    scenario(Method::Nat.shape(2), |lab| {
        let _servers = http_servers(lab)?;
        let service = web(lab, Method::Nat, Family::V4).scheduler("wrr");
        let config = file(lab, Method::Nat, Family::V4, service);
        let lb = Daemon::start(lab, &config)?;
        lb.text(&["weight", &target(1), "3"])?;
        shares(lab, &[("rs1", 30), ("rs2", 10)])?;
        lb.text(&["disable", &target(1)])?;
        ensure!(lb.real_server("web", &rs1())?["state"] == "disabled");
        shares(lab, &[("rs2", 40)])?;
        // An address is enough where there is no doubt.
        lb.text(&["enable", &format!("web/{}", rs1())])?;
        shares(lab, &[("rs1", 30), ("rs2", 10)])?;
        lb.reload(&config)?;
        shares(lab, &[("rs1", 20), ("rs2", 20)])
    });
}

#[test]
fn servers_are_added_and_removed_and_checked_as_the_file_says() {
    scenario(Method::Nat.shape(3), |lab| {
        let _servers = http_servers(lab)?;
        let mut service =
            web(lab, Method::Nat, Family::V4).check("type: tcp, interval: 200ms, rise: 1, fall: 1");
        service.real_servers.pop();
        let config = file(lab, Method::Nat, Family::V4, service);
        let lb = Daemon::start(lab, &config)?;
        lb.wait_state("web", &rs1(), "up", seconds(5))?;
        lb.wait_state("web", &rs2(), "up", seconds(5))?;
        let rs3 = server_address(Family::V4, 3);
        lb.text(&["add", "web", &rs3])?;
        lb.wait_state("web", &rs3, "up", seconds(5))?;
        shares(lab, &[("rs1", 20), ("rs2", 20), ("rs3", 20)])?;
        lb.text(&["remove", &target(1)])?;
        shares(lab, &[("rs2", 20), ("rs3", 20)])?;
        refused(lab, &["remove", &target(1)], "no real server")?;
        refused(lab, &["add", "web", &rs3], "is there already")?;
        refused(lab, &["add", "nothing", &rs3], "there is no virtual service")?;
        refused(lab, &["add", "web", Method::Nat.vip(Family::V4)], "virtual address")?;
        refused(lab, &["weight", "web/10.9.9.9:80", "1"], "no real server")?;
        refused(lab, &["drain", "web"], "is not SERVICE/ADDRESS")?;
        shares(lab, &[("rs2", 20), ("rs3", 20)])?;
        let events = lb.events()?;
        let said: Vec<_> = events.iter().filter(|e| e["kind"] == "real_server").collect();
        ensure!(said.iter().any(|e| e["state"] == "ADDED"), "{said:?}");
        ensure!(said.iter().any(|e| e["state"] == "REMOVED"), "{said:?}");
        Ok(())
    });
}

#[test]
fn what_persists_holds_over_reloads_and_restarts_and_is_told() {
    scenario(Method::Nat.shape(2), |lab| {
        let _servers = http_servers(lab)?;
        let service = web(lab, Method::Nat, Family::V4).scheduler("wrr");
        let mut config = file(lab, Method::Nat, Family::V4, service);
        let lb = Daemon::start(lab, &config)?;
        lb.text(&["weight", &target(1), "3", "--persist"])?;
        lb.text(&["weight", &target(2), "5"])?;
        lb.reload(&config)?;
        shares(lab, &[("rs1", 30), ("rs2", 10)])?;
        lb.text(&["disable", &target(2), "--persist"])?;
        ensure!(lb.terminate()?.success());
        let (state, file) = (Paths::of(lab).state, Paths::of(lab).config);
        let args = ["check", &file.display().to_string(), "--state", &state.display().to_string()];
        let checked = daemon::lb(lab, &args)?;
        let said = String::from_utf8_lossy(&checked.stderr).into_owned();
        ensure!(said.contains("weight 3") && said.contains(": disabled"), "{said}");
        let lb = Daemon::start_again(lab)?;
        shares(lab, &[("rs1", 10)])?;
        ensure!(lb.real_server("web", &rs2())?["state"] == "disabled");
        lb.text(&["enable", &target(2), "--persist"])?;
        lb.text(&["weight", &target(1), "1", "--persist"])?;
        shares(lab, &[("rs1", 10), ("rs2", 10)])?;
        let kept = std::fs::read_to_string(&state)?;
        ensure!(kept.contains("\"servers\": []"), "the file says it now: {kept}");
        // What a kept change is about has left the file: it is told and waits.
        lb.text(&["weight", &target(2), "2", "--persist"])?;
        config.services[0].real_servers.pop();
        lb.reload(&config)?;
        let warnings = lb.status()?["dataplane"]["warnings"].to_string();
        ensure!(warnings.contains("ignored"), "{warnings}");
        shares(lab, &[("rs1", 10)])
    });
}

#[test]
fn a_broken_state_file_is_refused_before_anything_is_changed() {
    scenario(Method::Nat.shape(1), |lab| {
        let config = file(lab, Method::Nat, Family::V4, web(lab, Method::Nat, Family::V4));
        daemon::write(lab, &config)?;
        std::fs::write(Paths::of(lab).state, "{")?;
        let mut command = daemon::run_command(lab, &Paths::of(lab).config)?;
        let (status, said) = daemon::refused(lab, &mut command)?;
        ensure!(status.code() == Some(1) && said.contains("state.json"), "{said}");
        Ok(())
    });
}

fn refused(lab: &Lab, args: &[&str], why: &str) -> Result<()> {
    let output = daemon::lb(lab, args)?;
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.code() == Some(1) && said.contains(why), "lb {args:?}: {said}");
    Ok(())
}

fn shares(lab: &Lab, expected: &[(&str, u64)]) -> Result<()> {
    let all: u64 = expected.iter().map(|(_, share)| share).sum();
    let url = Method::Nat.url(Family::V4, WEB);
    peer::get(&lab.client, &url, u32::try_from(all)?)?.exactly(expected)
}

/// A command that runs for a while.
struct Running {
    child: Child,
    lines: BufReader<std::process::ChildStdout>,
}

impl Running {
    fn start(lab: &Lab, args: &[&str]) -> Result<Self> {
        let mut command: Command = daemon::command(lab, args)?;
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
        let stdout = child.stdout.take().context("its output")?;
        Ok(Self { child, lines: BufReader::new(stdout) })
    }

    fn line(&mut self) -> Result<String> {
        let mut line = String::new();
        self.lines.read_line(&mut line)?;
        Ok(line)
    }

    /// Waits for its end; gives what it printed since, or why it failed.
    fn end(&mut self) -> Result<String> {
        eventually(seconds(10), "the command ends", || Ok(self.child.try_wait()?.is_some()))?;
        let (mut rest, mut error) = (String::new(), String::new());
        self.lines.read_to_string(&mut rest)?;
        self.child.stderr.take().context("its errors")?.read_to_string(&mut error)?;
        ensure!(self.child.wait()?.success(), "{error}");
        Ok(rest)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Fails only when it has ended.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn active(lb: &Daemon, address: &str) -> Result<u64> {
    number(&lb.real_server("web", address)?, "active_connections")
}

fn target(n: usize) -> String {
    format!("web/{}:{WEB}", server_address(Family::V4, n))
}

fn rs1() -> String {
    server_address(Family::V4, 1)
}

fn rs2() -> String {
    server_address(Family::V4, 2)
}
