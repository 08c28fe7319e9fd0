//! The daemon's life: killed, started again, reloaded, ended; traffic does not notice.

use crate::stage::{Method, WEB, all_servers, file, http_servers, web};
use anyhow::{Context, Result, ensure};
use harness::config::{RealServer, Service};
use harness::daemon::{self, Daemon, number, used};
use harness::peer::{self, Holder, Load, SteppedDownload, UdpClient};
use harness::snapshot::Snapshot;
use harness::topology::{Family, endpoint, server_address};
use harness::wait::{eventually, idle, seconds};
use harness::{Lab, scenario};

#[test]
fn traffic_outlives_a_killed_daemon() {
    for method in [Method::Nat, Method::Dr] {
        scenario(method.shape(2), |lab| {
            let _servers = http_servers(lab)?;
            let _sinks =
                (peer::tcp_sink(lab.server(1)?, BULK)?, peer::tcp_sink(lab.server(2)?, BULK)?);
            let config = file(lab, method, Family::V4, web(lab, method, Family::V4))
                .service(bulk(lab, method));
            let lb = Daemon::start(lab, &config)?;
            let to = method.endpoint(Family::V4, BULK);
            let mut download = SteppedDownload::start(&lab.client, &to)?;
            lb.kill();
            download.step()?;
            let url = method.url(Family::V4, WEB);
            peer::get(&lab.client, &url, 100)?.exactly(&[("rs1", 50), ("rs2", 50)])?;
            download.finish()
        });
    }
}

#[test]
fn traffic_outlives_a_daemon_that_stays_away() {
    scenario(Method::Nat.shape(2), |lab| {
        let _servers = http_servers(lab)?;
        let config = file(lab, Method::Nat, Family::V4, web(lab, Method::Nat, Family::V4));
        Daemon::start(lab, &config)?.kill();
        // Beyond the age of the heartbeat at which next hops are looked up per packet.
        idle(seconds(8))?;
        let url = Method::Nat.url(Family::V4, WEB);
        peer::get(&lab.client, &url, 100)?.exactly(&[("rs1", 50), ("rs2", 50)])
    });
}

#[test]
fn entries_expire_without_a_daemon() {
    scenario(Method::Nat.shape(2), |lab| {
        let serve = |n: usize| {
            let to = endpoint(&server_address(Family::V4, n), DNS);
            peer::udp_server(lab.server(n)?, &format!("rs{n}"), &to)
        };
        let _servers = (serve(1)?, serve(2)?);
        let listen = (Method::Nat.vip(Family::V4), DNS, "udp");
        let service = Service::new("dns", listen, "nat", all_servers(lab, Family::V4));
        let config = file(lab, Method::Nat, Family::V4, service).timeouts("udp: 2s");
        let lb = Daemon::start(lab, &config)?;
        let mut client = UdpClient::start(&lab.client, &Method::Nat.endpoint(Family::V4, DNS))?;
        let first = client.ask()?;
        ensure!(client.ask()? == first, "one connection changed its server");
        lb.kill();
        ensure!(client.ask()? == first, "the kill changed the server");
        idle(seconds(4))?;
        ensure!(client.ask()? != first, "the entry outlived its timeout: rr was not asked");
        let lb = Daemon::start_again(lab)?;
        eventually(seconds(15), "the sweep empties the table", || Ok(used(&lb.status()?)? == 0))
    });
}

#[test]
fn a_restarted_daemon_takes_over_what_is_there() {
    for method in [Method::Nat, Method::Dr] {
        scenario(method.shape(2), |lab| {
            let _servers = http_servers(lab)?;
            let _holders: Vec<_> =
                lab.servers.iter().map(|ns| peer::hold_server(ns, BULK)).collect::<Result<_>>()?;
            let config = file(lab, method, Family::V4, web(lab, method, Family::V4))
                .service(bulk(lab, method));
            let lb = Daemon::start(lab, &config)?;
            let url = method.url(Family::V4, WEB);
            peer::get(&lab.client, &url, 100)?.unbroken()?;
            let mut holder = Holder::start(&lab.client, &method.endpoint(Family::V4, BULK))?;
            holder.open(50)?.unbroken()?;
            let load = Load::start_keep_alive(&lab.client, &url)?;
            eventually(seconds(5), "the load's connections", || Ok(connections(&lb)? == 102))?;

            lb.kill();
            peer::get(&lab.client, &url, 100)?.exactly(&[("rs1", 50), ("rs2", 50)])?;
            let lb = Daemon::start_again(lab)?;
            holder.echo()?.unbroken()?;
            let counted = connections(&lb)?;
            ensure!(counted == 202, "{counted} connections are counted, 202 were made");
            let server = lb.real_server("bulk", &server_address(Family::V4, 1))?;
            ensure!(number(&server, "active_connections")? == 25, "lb status shows {server}");
            peer::get(&lab.client, &url, 100)?.exactly(&[("rs1", 50), ("rs2", 50)])?;
            load.stop()?.iter().try_for_each(|phase| phase.unbroken())
        });
    }
}

#[test]
fn fifty_reloads_under_load_lose_nothing() {
    scenario(Method::Nat.shape(3), |lab| {
        let _servers = http_servers(lab)?;
        let url = Method::Nat.url(Family::V4, WEB);
        let mut config = file(lab, Method::Nat, Family::V4, web(lab, Method::Nat, Family::V4));
        let lb = Daemon::start(lab, &config)?;
        let mut load = Load::start(&lab.client, &url)?;
        let kept = Load::start_keep_alive(&lab.client, &url)?;
        for round in 0..50 {
            let servers = &mut config.services[0].real_servers;
            match round % 2 {
                0 => drop(servers.pop()),
                _ => servers.push(RealServer::new(server_address(Family::V4, 3))),
            }
            lb.reload(&config).with_context(|| format!("reload {round}"))?;
            load.mark()?;
            eventually(seconds(5), "ten requests", || Ok(load.count()?.total() >= 10))?;
            load.mark()?;
        }
        let phases = load.stop()?;
        for (n, phase) in phases.iter().enumerate() {
            ensure!(phase.failed == 0, "phase {n}: {phase}");
        }
        kept.stop()?.iter().try_for_each(|phase| phase.unbroken())?;
        // After each mark that follows a reload comes a phase in which nothing changes.
        let quiet: Vec<u64> =
            phases.iter().skip(1).step_by(2).map(|phase| phase.of("rs3")).collect();
        let without: u64 = quiet.iter().step_by(2).sum();
        let with: u64 = quiet.iter().skip(1).step_by(2).sum();
        ensure!(without == 0, "rs3 answered {without} requests while it was not in the file");
        ensure!(with > 0, "rs3 never answered");
        Ok(())
    });
}

#[test]
fn a_bad_file_changes_nothing() {
    scenario(Method::Nat.shape(2), |lab| {
        let _servers = http_servers(lab)?;
        let config = file(lab, Method::Nat, Family::V4, web(lab, Method::Nat, Family::V4));
        let lb = Daemon::start(lab, &config)?;
        let before = Snapshot::of(lab)?;
        let good = daemon::write(lab, &config)?;
        for bad in [
            good.replace("scheduler: rr", "scheduler: fastest"),
            good.replace("listen:", "listens:"),
            good.replace(&server_address(Family::V4, 2), "10.0.1.999"),
            "virtual_services: [".to_string(),
        ] {
            ensure!(bad != good, "the file was not made bad");
            let said = lb.reload_refused(&bad)?;
            ensure!(!said.trim().is_empty(), "lb reload did not say what is wrong");
        }
        Snapshot::of(lab)?.same_as(&before)?;
        let answers = peer::get(&lab.client, &Method::Nat.url(Family::V4, WEB), 100)?;
        answers.exactly(&[("rs1", 50), ("rs2", 50)])?;
        lb.reload(&config)
    });
}

#[test]
fn sigterm_leaves_nothing() {
    scenario(Method::Nat.shape(2), |lab| {
        let before = Snapshot::of(lab)?;
        let lb = serve_something(lab)?;
        ensure!(Snapshot::of(lab)?.same_as(&before).is_err(), "a running daemon leaves no trace");
        let status = lb.terminate()?;
        ensure!(status.success(), "lb ended with {status}");
        Snapshot::of(lab)?.same_as(&before)
    });
}

#[test]
fn detach_removes_what_a_killed_daemon_left() {
    scenario(Method::Nat.shape(2), |lab| {
        let before = Snapshot::of(lab)?.without_sysctls();
        serve_something(lab)?.kill();
        let left = Snapshot::of(lab)?.without_sysctls();
        ensure!(left.same_as(&before).is_err(), "a killed daemon leaves no trace");
        daemon::detach(lab)?;
        Snapshot::of(lab)?.without_sysctls().same_as(&before)?;
        // And the host is as good as new.
        let lb = serve_something(lab)?;
        ensure!(lb.terminate()?.success(), "the next daemon did not end well");
        Ok(())
    });
}

fn serve_something(lab: &Lab) -> Result<Daemon<'_>> {
    let _servers = http_servers(lab)?;
    let config = file(lab, Method::Nat, Family::V4, web(lab, Method::Nat, Family::V4))
        .vip(Method::Nat.vip(Family::V6), "wan0");
    let lb = Daemon::start(lab, &config)?;
    peer::get(&lab.client, &Method::Nat.url(Family::V4, WEB), 20)?.unbroken()?;
    Ok(lb)
}

/// Connections that the service `web` has counted since its maps were made.
fn connections(lb: &Daemon) -> Result<u64> {
    let stats = lb.stats()?;
    let services = stats["services"].as_array().context("lb stats lists no services")?;
    let web = services.iter().find(|service| service["name"] == "web");
    number(web.context("lb stats does not list web")?, "connections")
}

/// A second service over the same servers, on a port of its own.
fn bulk(lab: &Lab, method: Method) -> Service {
    let listen = (method.vip(Family::V4), BULK, "tcp");
    Service::new("bulk", listen, method.name(), all_servers(lab, Family::V4))
}

const BULK: u16 = 9000;
const DNS: u16 = 53;
