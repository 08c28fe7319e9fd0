//! Round robin is exact over both CPUs together, in every forwarding method and family.

use crate::stage::{Method, WEB, all_servers, file, http_servers, web};
use anyhow::Result;
use harness::config::{Config, Service};
use harness::daemon::Daemon;
use harness::peer;
use harness::topology::{Family, address, endpoint, server_address};
use harness::{Lab, Shape, scenario};

#[test]
fn rr_nat_is_exact() {
    scenario(Method::Nat.shape(2), |lab| rr_is_exact(lab, Method::Nat, Family::V4));
}

#[test]
fn rr_nat_is_exact_over_ipv6() {
    scenario(Method::Nat.shape(2), |lab| rr_is_exact(lab, Method::Nat, Family::V6));
}

#[test]
fn rr_dr_is_exact_over_ipv6() {
    scenario(Method::Dr.shape(2), |lab| rr_is_exact(lab, Method::Dr, Family::V6));
}

fn rr_is_exact(lab: &Lab, method: Method, family: Family) -> Result<()> {
    let _servers = http_servers(lab)?;
    let _lb = Daemon::start(lab, &file(lab, method, family, web(lab, method, family)))?;
    let answers = peer::get(&lab.client, &method.url(family, WEB), 100)?;
    answers.exactly(&[("rs1", 50), ("rs2", 50)])
}

#[test]
fn wrr_dr_is_exact() {
    scenario(Method::Dr.shape(2), |lab| {
        let _servers = http_servers(lab)?;
        let mut service = web(lab, Method::Dr, Family::V4).scheduler("wrr");
        service.real_servers[1].weight = 2;
        let _lb = Daemon::start(lab, &file(lab, Method::Dr, Family::V4, service))?;
        let answers = peer::get(&lab.client, &Method::Dr.url(Family::V4, WEB), 300)?;
        answers.exactly(&[("rs1", 100), ("rs2", 200)])
    });
}

#[test]
fn nat_with_one_arm_is_exact() {
    scenario(Shape::OneLan { servers: 2 }, |lab| {
        lab.route_replies_through_director()?;
        let _servers = http_servers(lab)?;
        for (n, family) in [Family::V4, Family::V6].into_iter().enumerate() {
            let vip = address::VIP_ONE_ARM[n];
            let service = Service::new("web", (vip, WEB, "tcp"), "nat", all_servers(lab, family));
            let config = Config::new(&["lan0"]).vip(vip, "lan0").service(service);
            let lb = Daemon::start(lab, &config)?;
            let answers = peer::get(&lab.client, &peer::url(&endpoint(vip, WEB)), 100)?;
            answers.exactly(&[("rs1", 50), ("rs2", 50)])?;
            lb.terminate()?;
        }
        Ok(())
    });
}

#[test]
fn rr_is_exact_over_udp() {
    for method in [Method::Nat, Method::Dr] {
        scenario(method.shape(2), |lab| {
            let serve = |n: usize| {
                let to = endpoint(&method.target(Family::V4, n), DNS);
                peer::udp_server(lab.server(n)?, &format!("rs{n}"), &to)
            };
            let _servers = (serve(1)?, serve(2)?);
            let listen = (method.vip(Family::V4), DNS, "udp");
            let service = Service::new("dns", listen, method.name(), all_servers(lab, Family::V4));
            let _lb = Daemon::start(lab, &file(lab, method, Family::V4, service))?;
            let answers = peer::udp_ask(&lab.client, &method.endpoint(Family::V4, DNS), 100)?;
            answers.exactly(&[("rs1", 50), ("rs2", 50)])
        });
    }
}

#[test]
fn nat_reaches_a_server_on_another_port() {
    scenario(Method::Nat.shape(1), |lab| {
        let _server = peer::http_server(lab.server(1)?, "rs1", 8080)?;
        let mut service = web(lab, Method::Nat, Family::V4);
        service.real_servers[0].port = Some(8080);
        let lb = Daemon::start(lab, &file(lab, Method::Nat, Family::V4, service))?;
        let url = Method::Nat.url(Family::V4, WEB);
        peer::get(&lab.client, &url, 20)?.exactly(&[("rs1", 20)])?;
        let server = lb.real_server("web", &server_address(Family::V4, 1))?;
        anyhow::ensure!(server["port"] == 8080, "lb status shows {server}");
        Ok(())
    });
}

const DNS: u16 = 53;
