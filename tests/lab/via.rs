//! Checks by way of their service (`via: service`): a virtual address that is missing on a real
//! server is found, which a check of the server's own address never notices.

use crate::stage::{Method, WEB, web};
use anyhow::{Context, Result, ensure};
use harness::config::{Config, Service};
use harness::daemon::Daemon;
use harness::netns::Netns;
use harness::peer::http_server;
use harness::topology::{Family, server_address};
use harness::wait::{eventually, seconds};
use harness::{Lab, scenario};
use serde_json::Value;

/// A check's timing, for tests that wait for it.
const FAST: &str = "interval: 300ms, retry_interval: 50ms, timeout: 300ms, rise: 2, fall: 3";

#[test]
fn a_missing_address_is_found_by_dr_over_ipv4() {
    found(Method::Dr, Family::V4);
}

#[test]
fn a_missing_address_is_found_by_dr_over_ipv6() {
    found(Method::Dr, Family::V6);
}

#[test]
fn a_missing_address_is_found_through_tunnels_over_ipv4() {
    found(Method::Tunnel, Family::V4);
}

#[test]
fn a_missing_address_is_found_through_tunnels_over_ipv6() {
    found(Method::Tunnel, Family::V6);
}

/// With and without the address on the director itself.
fn found(method: Method, family: Family) {
    scenario(method.shape(2), |lab| {
        if method == Method::Tunnel {
            lab.end_tunnels_at_servers()?;
        }
        let sites = ["rs1", "rs2"];
        let _servers: Vec<_> = (lab.servers.iter().zip(sites))
            .map(|(ns, name)| http_server(ns, name, WEB))
            .collect::<Result<_>>()?;
        for director_has_it in [true, false] {
            missing(lab, method, family, director_has_it)
                .with_context(|| format!("the director has the address: {director_has_it}"))?;
        }
        Ok(())
    });
}

fn missing(lab: &Lab, method: Method, family: Family, director_has_it: bool) -> Result<()> {
    let service = |name: &str, via: &str| {
        let check = format!("type: http, via: {via}, {FAST}");
        Service { name: name.into(), ..web(lab, method, family).check(&check) }
    };
    // The second service differs in its port only; its check asks the same server directly.
    let mut direct = service("direct", "direct");
    direct.listen = direct.listen.replace(":80/", ":81/");
    direct.health_check = direct.health_check.replace("type: http", "type: http, port: 80");
    let mut config = Config::new(&lab.director_interfaces()).service(service("web", "service"));
    config.services.push(direct);
    if director_has_it {
        config = config.vip(method.vip(family), method.interface());
    }
    let lb = Daemon::start(lab, &config)?;
    let first = server_address(family, 1);
    for server in [&first, &server_address(family, 2)] {
        let up = shows(&lb, "web", server, "up", "L7OK")?;
        ensure!(up["code"] == 200, "{up}");
        shows(&lb, "direct", server, "up", "L7OK")?;
    }
    let host = lab.server(1)?;
    address(host, "del", method.vip(family))?;
    let down = shows(&lb, "web", &first, "down", "L4TOUT")?;
    ensure!(down["detail"].as_str().unwrap_or_default().contains("no answer within"), "{down}");
    // What asks the server itself, and what asks the other one, sees nothing of it.
    shows(&lb, "direct", &first, "up", "L7OK")?;
    shows(&lb, "web", &server_address(family, 2), "up", "L7OK")?;
    address(host, "add", method.vip(family))?;
    shows(&lb, "web", &first, "up", "L7OK")?;
    Ok(())
}

/// Adds a virtual address to a real server's loopback, or takes it away.
fn address(host: &Netns, what: &str, vip: &str) -> Result<()> {
    let prefix = if vip.contains(':') { "128 nodad" } else { "32" };
    let prefix = if what == "del" { prefix.trim_end_matches(" nodad") } else { prefix };
    host.ip(&format!("address {what} {vip}/{prefix} dev lo\n"))
}

/// Waits until a server's check shows `status`, and the server is `state`.
fn shows(lb: &Daemon<'_>, service: &str, server: &str, state: &str, status: &str) -> Result<Value> {
    eventually(seconds(10), &format!("{server} of {service} is {state} by {status}"), || {
        let found = lb.real_server(service, server)?;
        let right = found["state"] == state && found["check"]["status"] == status;
        ensure!(right, "{found}");
        Ok(Some(found["check"].clone()))
    })
}
