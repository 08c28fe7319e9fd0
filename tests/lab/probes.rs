//! What health checks find, by HAProxy's names, in `lb status --json`: HTTP, HTTPS, TCP and ping.

use crate::stage::{Method, WEB, file, web};
use anyhow::{Context, Result, ensure};
use harness::config::{Config, RealServer, Service};
use harness::daemon::{Daemon, Paths, number};
use harness::peer::Site;
use harness::topology::{Family, address, server_address};
use harness::wait::{eventually, millis, seconds, throughout};
use harness::{Lab, scenario};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use serde_json::Value;
use std::fs;
use std::path::PathBuf;
use std::time::Instant;

/// One server with a check, written without its timing.
pub(crate) fn one(lab: &Lab, check: &str) -> Config {
    let service = web(lab, Method::Nat, Family::V4).check(&format!("{check}, {FAST}"));
    file(lab, Method::Nat, Family::V4, service)
}

/// Waits until the check of `service`'s server shows `status`, and its server is `state`.
pub(crate) fn shows(lb: &Daemon<'_>, service: &str, state: &str, status: &str) -> Result<Value> {
    eventually(seconds(10), &format!("{service} is {state} by {status}"), || {
        let all = lb.status()?;
        let services = all["virtual_services"].as_array().context("no services")?;
        let found = services.iter().find(|s| s["name"] == service).context("no service")?;
        let server = &found["real_servers"][0];
        let right = server["state"] == state && server["check"]["status"] == status;
        ensure!(right, "{server}");
        Ok(Some(server["check"].clone()))
    })
}

pub(crate) fn says(check: &Value, part: &str) -> Result<()> {
    let detail = check["detail"].as_str().unwrap_or_default();
    ensure!(detail.contains(part), "{part:?} is not in {check}");
    Ok(())
}

#[test]
fn an_http_status_takes_a_server_out_and_back_in() {
    scenario(Method::Nat.shape(1), |lab| {
        let mut site = Site::start(lab.server(1)?, WEB)?;
        let check = "type: http, path: /health, host: www.lab.test, expect: {status: [200-299]}";
        let lb = Daemon::start(lab, &one(lab, check))?;
        let up = shows(&lb, "web", "up", "L7OK")?;
        ensure!(up["code"] == 200 && up["detail"] == "" && up["of"] == 3, "{up}");
        ensure!(up["last_change"].is_u64(), "{up}");
        site.tell("status 503")?;
        let down = shows(&lb, "web", "down", "L7STS")?;
        ensure!(down["code"] == 503 && number(&down, "duration_ms")? < 300, "{down}");
        says(&down, "unexpected status 503")?;
        let server = lb.real_server("web", &server_address(Family::V4, 1))?;
        ensure!(number(&server, "effective_weight")? == 0, "{server}");
        site.tell("status 204")?;
        ensure!(shows(&lb, "web", "up", "L7OK")?["code"] == 204);
        site.tell("hang yes")?;
        let down = shows(&lb, "web", "down", "L7TOUT")?;
        ensure!(number(&down, "duration_ms")? >= 300 && down["code"].is_null(), "{down}");
        Ok(())
    });
}

#[test]
fn a_body_that_does_not_match_is_l7rsp() {
    scenario(Method::Nat.shape(1), |lab| {
        let mut site = Site::start(lab.server(1)?, WEB)?;
        let lb = Daemon::start(lab, &one(lab, "type: http, expect: {body: \"^ok\"}"))?;
        shows(&lb, "web", "up", "L7OK")?;
        site.tell("body maintenance")?;
        let down = shows(&lb, "web", "down", "L7RSP")?;
        ensure!(down["code"] == 200, "{down}");
        says(&down, "`^ok` was not found in the body (11 bytes): \"maintenance\"")
    });
}

#[test]
fn tcp_tells_refused_from_silent() {
    scenario(Method::Nat.shape(1), |lab| {
        let mut config = one(lab, "type: tcp");
        let lb = Daemon::start(lab, &config)?;
        says(&shows(&lb, "web", "down", "L4CON")?, "Connection refused")?;
        let site = Site::start(lab.server(1)?, WEB)?;
        shows(&lb, "web", "up", "L4OK")?;
        let [director, _] = address::DIRECTOR_LAN;
        lab.server(1)?.ip(&format!("route add blackhole {director}/32\n"))?;
        let silent = shows(&lb, "web", "down", "L4TOUT")?;
        ensure!(number(&silent, "duration_ms")? >= 300, "{silent}");
        says(&silent, "no answer within 300ms")?;
        // The same through the HTTP check: the connection is what is missing.
        config.services[0].health_check = format!("{{type: http, {FAST}}}");
        lb.reload(&config)?;
        shows(&lb, "web", "down", "L4TOUT")?;
        lab.server(1)?.ip(&format!("route del blackhole {director}/32\n"))?;
        shows(&lb, "web", "up", "L7OK")?;
        drop(site);
        says(&shows(&lb, "web", "down", "L4CON")?, "Connection refused")
    });
}

#[test]
fn ping_finds_hosts_that_are_there_lost_and_unreachable() {
    scenario(Method::Nat.shape(1), |lab| {
        for family in [Family::V4, Family::V6] {
            let service = web(lab, Method::Nat, family).check(&format!("type: ping, {FAST}"));
            let lb = Daemon::start(lab, &file(lab, Method::Nat, family, service))?;
            shows(&lb, "web", "up", "L4OK")?;
            let (director, bits) = match family {
                Family::V4 => (address::DIRECTOR_LAN[0], 32),
                Family::V6 => (address::DIRECTOR_LAN[1], 128),
            };
            lab.server(1)?.ip(&format!("route add blackhole {director}/{bits}\n"))?;
            says(&shows(&lb, "web", "down", "L4TOUT")?, "no echo reply within 300ms")?;
            lab.server(1)?.ip(&format!("route del blackhole {director}/{bits}\n"))?;
            shows(&lb, "web", "up", "L4OK")?;
            let host = server_address(family, 1);
            lab.director.ip(&format!("route add unreachable {host}/{bits}\n"))?;
            shows(&lb, "web", "down", "L4CON")?;
            lab.director.ip(&format!("route del unreachable {host}/{bits}\n"))?;
            shows(&lb, "web", "up", "L4OK")?;
            drop(lb);
        }
        Ok(())
    });
}

/// An authority in the lab's trust store, and a certificate of its for `www.lab.test`.
pub(crate) fn certificate(lab: &Lab) -> Result<(PathBuf, PathBuf)> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let key = KeyPair::generate()?;
    let leaf = CertificateParams::new(vec!["www.lab.test".to_owned()])?.signed_by(&key, &ca)?;
    fs::write(Paths::of(lab).trusted, ca.pem())?;
    let (cert_file, key_file) = (lab.dir.path().join("site.pem"), lab.dir.path().join("site.key"));
    fs::write(&cert_file, leaf.pem())?;
    fs::write(&key_file, key.serialize_pem())?;
    Ok((cert_file, key_file))
}

#[test]
fn https_verifies_chain_and_name_unless_told_otherwise() {
    scenario(Method::Nat.shape(1), |lab| {
        let (cert, key) = certificate(lab)?;
        let mut site = Site::start_tls(lab.server(1)?, WEB, &cert, &key)?;
        let mut config = one(lab, "type: https, sni: www.lab.test, expect: {body: ok}");
        let lb = Daemon::start(lab, &config)?;
        ensure!(shows(&lb, "web", "up", "L7OK")?["code"] == 200);
        let mut reload = |check: &str| {
            config.services[0].health_check = format!("{{{check}, {FAST}}}");
            lb.reload(&config)
        };
        reload("type: https, host: other.lab.test")?;
        let wrong = shows(&lb, "web", "down", "L6RSP")?;
        ensure!(wrong["code"].is_null(), "{wrong}");
        says(&wrong, "the certificate is for www.lab.test, not for other.lab.test: set `sni`")?;
        reload("type: https, host: other.lab.test, verify: false")?;
        shows(&lb, "web", "up", "L7OK")?;
        // No name at all: the certificate would have to be for the address.
        reload("type: https")?;
        says(&shows(&lb, "web", "down", "L6RSP")?, "not for 10.0.1.11")?;
        reload("type: https, sni: www.lab.test")?;
        shows(&lb, "web", "up", "L7OK")?;
        // A reload reads the trusted certificates anew, with another check as with the same.
        certificate(lab)?;
        reload("type: https, sni: www.lab.test")?;
        shows(&lb, "web", "down", "L6RSP")?;
        site.tell("status 500")?;
        reload("type: https, sni: www.lab.test, verify: false")?;
        shows(&lb, "web", "down", "L7STS")?;
        drop(site);
        let _plain = Site::start(lab.server(1)?, WEB)?;
        says(&shows(&lb, "web", "down", "L6RSP")?, "the connection")
    });
}

#[test]
fn a_flapping_server_is_held_down() {
    scenario(Method::Nat.shape(1), |lab| {
        let mut site = Site::start(lab.server(1)?, WEB)?;
        let config = one(lab, "type: http, flap: {changes: 2, per: 60s, hold: 3s}");
        let lb = Daemon::start(lab, &config)?;
        shows(&lb, "web", "up", "L7OK")?;
        site.tell("status 500")?;
        shows(&lb, "web", "down", "L7STS")?;
        site.tell("status 200")?;
        // The third change is one too many: probes succeed and the server stays down.
        let held = eventually(seconds(5), "it is held down", || {
            let check = shows(&lb, "web", "down", "L7OK")?;
            Ok(check["detail"].as_str().is_some_and(|d| d.contains("held down")).then_some(check))
        })?;
        let began = Instant::now();
        says(&held, "its state changes too often")?;
        throughout(seconds(2), "it is held", || {
            let state = lb.real_server("web", &server_address(Family::V4, 1))?;
            Ok(state["state"] == "down")
        })?;
        let up = shows(&lb, "web", "up", "L7OK")?;
        ensure!(began.elapsed() >= millis(2500), "held only {:?}", began.elapsed());
        ensure!(up["detail"] == "", "{up}");
        Ok(())
    });
}

#[test]
fn services_with_one_check_of_one_server_share_its_probe() {
    scenario(Method::Nat.shape(1), |lab| {
        let mut site = Site::start(lab.server(1)?, WEB)?;
        let check = "type: http, interval: 100ms, timeout: 1s, rise: 1, fall: 1";
        let service = |name: &str, port: u16, check: &str| {
            let listen = (Method::Nat.vip(Family::V4), port, "tcp");
            let server = RealServer::new(server_address(Family::V4, 1)).port(WEB);
            Service::new(name, listen, "nat", vec![server]).check(check)
        };
        let other = format!("{check}, path: /other");
        let mut config = file(lab, Method::Nat, Family::V4, service("web", WEB, check))
            .service(service("two", 81, check))
            .service(service("three", 82, &other));
        let lb = Daemon::start(lab, &config)?;
        for name in ["web", "two", "three"] {
            shows(&lb, name, "up", "L7OK")?;
        }
        ensure!(lb.status()?["health"]["targets"] == 2, "{}", lb.status()?["health"]);
        config.services.pop();
        lb.reload(&config)?;
        ensure!(lb.status()?["health"]["targets"] == 1, "{}", lb.status()?["health"]);
        // What the server was asked is what the daemon says it has asked, once for both.
        let probes = |lb: &Daemon<'_>| {
            let status = lb.status()?;
            let of = |n: usize| {
                number(&status["virtual_services"][n]["real_servers"][0]["check"], "probes")
            };
            ensure!(of(0)? == of(1)?, "{status}");
            of(0)
        };
        let (before, (_, asked_before)) = (probes(&lb)?, site.count()?);
        eventually(seconds(10), "20 more probes", || Ok(probes(&lb)? >= before + 20))?;
        let (_, asked) = site.count()?;
        let probed = probes(&lb)? - before;
        let asked = asked - asked_before;
        ensure!(asked.abs_diff(probed) <= 3, "{asked} requests for {probed} probes");
        site.tell("status 500")?;
        for name in ["web", "two"] {
            shows(&lb, name, "down", "L7STS")?;
        }
        Ok(())
    });
}

/// Timing in which a state changes within a second.
pub(crate) const FAST: &str =
    "interval: 300ms, retry_interval: 100ms, timeout: 300ms, rise: 2, fall: 3";
