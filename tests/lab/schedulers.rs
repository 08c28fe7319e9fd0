//! Schedulers that look at connections or hash, with the real binary: who gets what, and that two
//! directors with the same file have the same tables.

use crate::stage::{Method, WEB, all_servers, file, http_servers, web};
use anyhow::{Context, Result, ensure};
use harness::bpf::Map;
use harness::config::{Config, Service};
use harness::daemon::{Daemon, detach, dump_map, number, pinned};
use harness::peer::{self, Holder};
use harness::process::Tool;
use harness::topology::{Family, server_address};
use harness::wait::{millis, seconds};
use harness::{Lab, scenario};
use serde_json::Value;

#[test]
fn lc_fills_the_emptier_server_whatever_the_weights() {
    scenario(Method::Nat.shape(2), |lab| {
        let _servers = hold_servers(lab)?;
        let mut service = web(lab, Method::Nat, Family::V6).scheduler("lc");
        service.real_servers[0].weight = 0;
        let mut config = file(lab, Method::Nat, Family::V6, service);
        let lb = Daemon::start(lab, &config)?;
        let mut holder = Holder::start(&lab.client, &Method::Nat.endpoint(Family::V6, WEB))?;
        holder.open(20)?.unbroken()?;
        ensure!(active(&lb, Family::V6)? == [0, 20], "weight 0 was chosen");
        config.services[0].real_servers[0].weight = 1;
        config.services[0].real_servers[1].weight = 9;
        lb.reload(&config)?;
        holder.open(20)?.unbroken()?;
        ensure!(active(&lb, Family::V6)? == [20, 20], "{:?}", active(&lb, Family::V6)?);
        holder.open(20)?.unbroken()?;
        ensure!(active(&lb, Family::V6)? == [30, 30], "{:?}", active(&lb, Family::V6)?);
        Ok(())
    });
}

#[test]
fn the_default_is_wlc_and_follows_weights_as_they_change() {
    scenario(Method::Dr.shape(2), |lab| {
        let _servers = hold_servers(lab)?;
        let mut service = web(lab, Method::Dr, Family::V4).scheduler("");
        service.real_servers[1].weight = 3;
        let mut config = file(lab, Method::Dr, Family::V4, service);
        let lb = Daemon::start(lab, &config)?;
        ensure!(lb.status()?["virtual_services"][0]["scheduler"] == "wlc", "another default");
        let mut holder = Holder::start(&lab.client, &Method::Dr.endpoint(Family::V4, WEB))?;
        holder.open(40)?.unbroken()?;
        ensure!(active(&lb, Family::V4)? == [10, 30], "{:?}", active(&lb, Family::V4)?);
        config.services[0].real_servers[1].weight = 1;
        lb.reload(&config)?;
        holder.open(20)?.unbroken()?;
        ensure!(active(&lb, Family::V4)? == [30, 30], "{:?}", active(&lb, Family::V4)?);
        Ok(())
    });
}

#[test]
fn sh_keeps_a_client_on_its_server_and_the_port_spreads_it() {
    scenario(Method::Dr.shape(2), |lab| {
        let _servers = http_servers(lab)?;
        let mut service = web(lab, Method::Dr, Family::V4).scheduler("sh");
        let lb = Daemon::start(lab, &file(lab, Method::Dr, Family::V4, service.clone()))?;
        let url = Method::Dr.url(Family::V4, WEB);
        let answers = peer::get(&lab.client, &url, 60)?;
        ensure!(answers.of("rs1") == 60 || answers.of("rs2") == 60, "{answers}");
        service.hash = "port: true, fallback: true".into();
        lb.reload(&file(lab, Method::Dr, Family::V4, service))?;
        let answers = peer::get(&lab.client, &url, 60)?;
        ensure!(answers.of("rs1") > 5 && answers.of("rs2") > 5, "{answers}");
        let shown = lb.text(&["status"])?;
        ensure!(shown.contains(" sh (sh-port,sh-fallback) web"), "{shown}");
        Ok(())
    });
}

#[test]
fn the_client_of_a_quiesced_server_waits_or_goes_elsewhere_as_the_fallback_says() {
    for scheduler in ["sh", "mh"] {
        scenario(Method::Nat.shape(2), |lab| {
            let mut servers = [Some(web_server(lab, 1)?), Some(web_server(lab, 2)?)];
            let mut service = web(lab, Method::Nat, Family::V4)
                .scheduler(scheduler)
                .check(CHECK)
                .on_failure("quiesce");
            let lb = Daemon::start(lab, &file(lab, Method::Nat, Family::V4, service.clone()))?;
            wait(&lb, 1, "up")?;
            wait(&lb, 2, "up")?;
            let url = Method::Nat.url(Family::V4, WEB);
            let first = peer::get(&lab.client, &url, 20)?;
            let (own, other) = if first.of("rs1") == 20 { (1, 2) } else { (2, 1) };
            first.exactly(&[(&format!("rs{own}"), 20)])?;
            drop(servers[own - 1].take());
            wait(&lb, own, "down")?;
            let dropped = drops(&lb)?;
            let none = peer::get_within(&lab.client, &url, 2, millis(600))?;
            ensure!(none.of("rs1") + none.of("rs2") == 0, "it was answered: {none}");
            ensure!(drops(&lb)? > dropped, "not dropped for want of a server");
            service.hash = "fallback: true".into();
            lb.reload(&file(lab, Method::Nat, Family::V4, service.clone()))?;
            peer::get(&lab.client, &url, 20)?.exactly(&[(&format!("rs{other}"), 20)])?;
            // With remove it leaves the table, and the other one has its place.
            service.hash = String::new();
            service.on_failure = "remove".into();
            lb.reload(&file(lab, Method::Nat, Family::V4, service))?;
            peer::get(&lab.client, &url, 20)?.exactly(&[(&format!("rs{other}"), 20)])
        });
    }
}

#[test]
fn connections_of_mh_survive_a_lost_connection_table() {
    scenario(Method::Dr.shape(2), |lab| {
        let _servers = hold_servers(lab)?;
        let mut service = web(lab, Method::Dr, Family::V4).scheduler("mh");
        service.hash = "port: true".into();
        let lb = Daemon::start(lab, &file(lab, Method::Dr, Family::V4, service))?;
        let mut holder = Holder::start(&lab.client, &Method::Dr.endpoint(Family::V4, WEB))?;
        holder.open(40)?.unbroken()?;
        let before = active(&lb, Family::V4)?;
        ensure!(before.iter().all(|count| *count > 5), "{before:?}");
        lb.kill();
        detach(lab)?;
        let lb = Daemon::start_again(lab)?;
        ensure!(active(&lb, Family::V4)? == [0, 0], "the table was not lost");
        holder.echo()?.unbroken()?;
        ensure!(active(&lb, Family::V4)? == before, "{:?}", active(&lb, Family::V4)?);
        Ok(())
    });
}

/// Each runs in namespaces of its own with the same file; what their servers went through differs,
/// and so do the tables on the way.
#[test]
fn two_directors_with_the_same_file_have_the_same_tables() {
    let mut dumps = Vec::new();
    let mut take = |history: fn(&Lab, &Config) -> Result<[Vec<u8>; 2]>| {
        scenario(Method::Dr.shape(3), |lab| {
            dumps.push(history(lab, &all_schedulers(lab))?);
            Ok(())
        });
    };
    take(|lab, config| {
        let mut servers = http_servers(lab)?;
        let lb = Daemon::start(lab, config)?;
        (1..=3).try_for_each(|n| wait(&lb, n, "up"))?;
        let between = tables(lab)?;
        drop(servers.pop());
        wait(&lb, 3, "down")?;
        drop(servers.pop());
        wait(&lb, 2, "down")?;
        servers.push(web_server(lab, 3)?);
        wait(&lb, 3, "up")?;
        Ok([between, tables(lab)?])
    });
    take(|lab, config| {
        let _third = web_server(lab, 3)?;
        let lb = Daemon::start(lab, config)?;
        wait(&lb, 3, "up")?;
        wait(&lb, 1, "down")?;
        let between = tables(lab)?;
        let _first = web_server(lab, 1)?;
        wait(&lb, 1, "up")?;
        wait(&lb, 2, "down")?;
        Ok([between, tables(lab)?])
    });
    let [[one_between, one], [other_between, other]] = &dumps[..] else {
        panic!("two directors");
    };
    assert!(one.len() > 4 * 1000, "hardly anything to compare: {} bytes", one.len());
    assert_ne!(one_between, other_between, "no health event has changed a table");
    assert_ne!(one, one_between);
    assert_eq!(one, other);
}

/// A service for each scheduler, all over the same servers and the same check.
fn all_schedulers(lab: &Lab) -> Config {
    let mut config = Config::new(&lab.director_interfaces());
    let vip = Method::Dr.vip(Family::V4);
    config = config.vip(vip, "lan0");
    for (port, scheduler) in (WEB..).zip(["mh", "sh", "wlc", "lc", "wrr", "rr"]) {
        let mut servers = all_servers(lab, Family::V4);
        servers[1].weight = 2;
        servers[2].weight = 3;
        let name = if port == WEB { "web" } else { scheduler };
        let service = Service::new(name, (vip, port, "tcp"), "dr", servers)
            .scheduler(scheduler)
            .check(&format!("{CHECK}, port: {WEB}"));
        config = config.service(service);
    }
    config
}

/// The content of both tables of every service, in the order of their ports.
fn tables(lab: &Lab) -> Result<Vec<u8>> {
    let services: Value = serde_json::from_str(&dump_map(lab, "services")?)?;
    let mut services = services.as_array().context("a list of services")?.clone();
    services.sort_by_key(|service| service["key"]["port"].as_u64());
    ensure!(services.len() == 6, "{} services", services.len());
    let map = Map::open(&pinned(lab, "slots")?)?;
    let mut bytes = Vec::new();
    for service in &services {
        for table in ["slots", "maglev"] {
            let region = &service["value"][table];
            let at = |key| number(region, key).map(|number| number as u32);
            let (base, len) = (at("base")?, at("len")?);
            bytes.extend(len.to_ne_bytes());
            for index in base..base + len {
                let mut slot = [0; 4];
                ensure!(map.read(&index.to_ne_bytes(), &mut slot)?, "no slot {index}");
                bytes.extend(slot);
            }
        }
    }
    Ok(bytes)
}

fn hold_servers(lab: &Lab) -> Result<Vec<Tool>> {
    lab.servers.iter().map(|ns| peer::hold_server(ns, WEB)).collect()
}

fn web_server(lab: &Lab, n: usize) -> Result<Tool> {
    peer::http_server(lab.server(n)?, &format!("rs{n}"), WEB)
}

fn wait(lb: &Daemon, n: usize, state: &str) -> Result<()> {
    lb.wait_state("web", &server_address(Family::V4, n), state, seconds(10))
}

/// Active connections of both servers.
fn active(lb: &Daemon, family: Family) -> Result<[u64; 2]> {
    let of = |n| {
        let server = lb.real_server("web", &server_address(family, n))?;
        number(&server, "active_connections")
    };
    Ok([of(1)?, of(2)?])
}

fn drops(lb: &Daemon) -> Result<u64> {
    Ok(lb.stats()?["drops"]["no_real_server"].as_u64().unwrap_or(0))
}

const CHECK: &str =
    "type: tcp, interval: 400ms, retry_interval: 200ms, timeout: 400ms, rise: 2, fall: 3";
