//! What an operator does with `lb`'s virtual routers, and sees of them.
//!
//! Must not know: how the daemon and its speaker talk to each other.

use crate::vrrp::handover::is_goodbye;
use crate::vrrp::stage::{VIP, client_asks, client_knows, instance, owns, setups, start, stays};
use anyhow::{Context, Result, ensure};
use harness::config::{Config, RealServer, Service};
use harness::daemon::{self, Daemon};
use harness::pair::{self, INTERFACE, Node, address};
use harness::peer;
use harness::topology::{Family, server_address};
use harness::vrrp::capture::{Capture, now};
use harness::vrrp::instance::{Instance, Script, Setup};
use harness::vrrp::packet::Said;
use harness::vrrp::router::Make::{Keepalived, Lb};
use harness::vrrp::router::Router;
use harness::wait::{eventually, seconds};
use serde_json::Value;

#[test]
fn a_master_resigns_on_request_and_leaves_the_address_to_the_other() {
    pair::scenario(0, |pair| {
        let capture = Capture::start(pair)?;
        let [a, b] = start(pair, [Lb, Lb], &setups(&instance()))?;
        let (a, b) = (lb(&a)?, lb(&b)?);
        eventually(seconds(3), "both know who is master", || {
            let (here, there) = (vrrp(a)?, vrrp(b)?);
            Ok(here["state"] == "master" && there["master"] == address::A[0])
        })?;
        let refused = daemon::lb(&pair.b, &["vrrp", "resign", "VI_1"])?;
        let why = String::from_utf8_lossy(&refused.stderr).into_owned();
        ensure!(refused.status.code() == Some(1) && why.contains("not master here"), "{why}");
        let since = now();
        a.text(&["vrrp", "resign", "VI_1"])?;
        capture.wait_advert(&pair.a, since, seconds(1), "a goodbye", is_goodbye)?;
        owns(&pair.b, &pair.a, VIP)?;
        // It has the higher priority and does not come back until it has been master again.
        stays(&capture, [&pair.b, &pair.a], VIP, instance().down_interval() * 4)?;
        let told = vrrp(a)?;
        ensure!(told["transitions"][0]["cause"] == "asked to resign", "{told}");
        b.text(&["vrrp", "resign", "VI_1"])?;
        owns(&pair.a, &pair.b, VIP)?;
        let status = a.status()?;
        ensure!(status["vrrp"][0]["state"] == "master", "{}", status["vrrp"]);
        let text = a.text(&["vrrp"])?;
        ensure!(text.contains("VI_1") && text.contains("MASTER") && text.contains(VIP), "{text}");
        Ok(())
    });
}

#[test]
fn an_address_that_something_removes_comes_back() {
    pair::scenario(0, |pair| {
        let [a, _b] = start(pair, [Lb, Keepalived], &setups(&instance()))?;
        let capture = Capture::start(pair)?;
        let since = now();
        // Not by flushing, which would try again and again against the speaker.
        pair.a.ns.run(&format!("ip address del {VIP}/32 dev {INTERFACE}"))?;
        eventually(seconds(1), "the address is back", || pair.a.holds(VIP))?;
        eventually(seconds(1), "it is announced", || {
            Ok(!capture.announcements(&pair.a, VIP, since)?.is_empty())
        })?;
        stays(&capture, [&pair.a, &pair.b], VIP, seconds(1))?;
        let told = vrrp(lb(&a)?)?;
        ensure!(told["counters"]["put_back"] == 1, "{told}");
        Ok(())
    });
}

#[test]
fn a_reload_keeps_what_it_does_not_change() {
    pair::scenario(0, |pair| {
        let capture = Capture::start(pair)?;
        let [a, _b] = start(pair, [Lb, Keepalived], &setups(&instance()))?;
        let a = lb(&a)?;
        let since = now();
        let other = Instance::new("VI_2", 90, &[address::VIP[1]]).named("VI_2", 52);
        let more = Instance { announcements: Some(2), ..instance().priority(160) };
        let with = |instances| {
            let mut config = Config::new(&[INTERFACE]);
            config.vrrp = Setup { instances, ..Setup::default() };
            config
        };
        a.reload(&with(vec![more.clone(), other.clone()]))?;
        eventually(seconds(3), "the new instance is master", || pair.a.holds(address::VIP[1]))?;
        let excluded = vec![address::OTHER_VIP[0].to_owned()];
        a.reload(&with(vec![Instance { excluded, ..more }, other]))?;
        eventually(seconds(1), "the new address is there", || pair.a.holds(address::OTHER_VIP[0]))?;
        let before = pair.a.holds(VIP)?;
        let refused = a.reload_refused("vrrp: {instances: [{name: VI_1}]}")?;
        ensure!(before && pair.a.holds(VIP)?, "a refused file moved the address: {refused}");
        stays(&capture, [&pair.a, &pair.b], VIP, seconds(1))?;
        let silence = capture.longest_silence(&pair.a, since, now())?;
        ensure!(silence < instance().interval * 2, "A was silent for {silence:?}");
        let adverts = capture.adverts(&pair.a, since)?;
        ensure!(!adverts.iter().any(|heard| is_goodbye(&heard.what)), "A said goodbye");
        ensure!(adverts.iter().any(|heard| heard.what.priority == 160), "the priority is the old");
        let told = vrrp(a)?;
        let transitions = told["transitions"].as_array().context("transitions")?;
        ensure!(transitions.len() == 2, "{told}");
        Ok(())
    });
}

#[test]
fn a_node_whose_speaker_is_dead_is_drowned_out() {
    pair::scenario(0, |pair| {
        let capture = Capture::start(pair)?;
        let [a, b] = start(pair, [Lb, Lb], &setups(&instance()))?;
        client_knows(pair, VIP)?;
        let since = now();
        // Its kernel keeps the address and answers for it.
        a.kill()?;
        eventually(seconds(2), "B takes over", || pair.b.holds(VIP))?;
        ensure!(pair.a.holds(VIP)?, "A has lost the address by itself");
        let b = lb(&b)?;
        eventually(seconds(2), "the address is contested", || Ok(vrrp(b)?["contested"][0] == VIP))?;
        client_asks(pair, &pair.b, VIP)?;
        let count = || Ok::<_, anyhow::Error>(capture.announcements(&pair.b, VIP, since)?.len());
        let before = count()?;
        eventually(seconds(2), "it is announced again and again", || Ok(count()? >= before + 5))?;
        pair.a.remove(VIP)?;
        eventually(seconds(2), "the address is settled", || {
            Ok(vrrp(b)?["contested"].as_array().is_some_and(Vec::is_empty))
        })
    });
}

#[test]
fn the_virtual_mac_is_all_that_is_seen_of_a_master() {
    pair::scenario(1, |pair| {
        let capture = Capture::start(pair)?;
        let _server = peer::http_server(pair.server(1)?, "rs1", 80)?;
        let virtual_mac = |instance: Instance| Instance { virtual_mac: true, ..instance };
        let [mut a, b] = setups(&virtual_mac(instance()));
        a.instances[0].excluded = vec![address::VIP[1].to_owned()];
        let servers = vec![RealServer::new(server_address(Family::V4, 1))];
        let service = Service::new("web", (VIP, 80, "tcp"), "dr", servers);
        let config = || Config::new(&[INTERFACE]).service(service.clone());
        let a = Router::start_director(Lb, &pair.a, &a, config())?;
        let b = Router::start_director(Lb, &pair.b, &b, config())?;
        owns(&pair.a, &pair.b, VIP)?;
        let seen_at = |node: &Node| -> Result<()> {
            let client = &pair.client;
            client.run("ip neigh flush all")?;
            client.run(&format!("ping -c 2 -i 0.2 -W 2 {VIP}"))?;
            // What the node asks for from the address teaches the client too.
            node.ns.run(&format!("ping -c 1 -W 2 -I {VIP} {}", address::CLIENT[0]))?;
            let table = client.run(&format!("ip neigh show {VIP}"))?;
            ensure!(table.contains(MAC), "{}: {}", node.name, table.trim());
            Ok(())
        };
        seen_at(&pair.a)?;
        pair.client.run(&format!("ping -c 1 -W 2 {}", address::VIP[1]))?;
        peer::get(&pair.client, &format!("http://{VIP}:80/"), 10)?.exactly(&[("rs1", 10)])?;
        a.stop()?;
        owns(&pair.b, &pair.a, VIP)?;
        seen_at(&pair.b)?;
        peer::get(&pair.client, &format!("http://{VIP}:80/"), 10)?.exactly(&[("rs1", 10)])?;
        drop(b);
        for heard in capture.of(&pair.a)?.into_iter().chain(capture.of(&pair.b)?) {
            match heard.what {
                Said::Advert(advert) => ensure!(advert.macs[0] == MAC_BYTES, "{advert:?}"),
                Said::Arp(arp) if arp.sender.to_string() == VIP => {
                    let macs = [arp.sender_mac, arp.macs[0]];
                    ensure!(macs == [MAC_BYTES; 2], "{arp:?}");
                }
                _ => {}
            }
        }
        Ok(())
    });
}

#[test]
fn detach_takes_away_what_dead_processes_left() {
    pair::scenario(0, |pair| {
        let setup = Setup::one(Instance { virtual_mac: true, ..instance() });
        let a = Router::start(Lb, &pair.a, &setup)?;
        eventually(seconds(5), "A is master", || pair.a.holds(VIP))?;
        a.kill()?;
        ensure!(pair.a.holds(VIP)?, "A has lost the address by itself");
        daemon::detach(&pair.a)?;
        ensure!(!pair.a.holds(VIP)?, "the address is still there");
        let links = pair.a.ns.run("ip -o link")?;
        let rules = pair.a.ns.run("ip rule")?;
        ensure!(!links.contains("lbv4") && !rules.contains(VIP), "{links}{rules}");
        let setting = format!("cat /proc/sys/net/ipv4/conf/{INTERFACE}/arp_ignore");
        let arp_ignore = pair.a.ns.run(&setting)?;
        ensure!(arp_ignore.trim() == "0", "arp_ignore stays {arp_ignore}");
        Ok(())
    });
}

/// A weight of -2 on 105 against 100 moves nothing, and `lb check --peer` says so beforehand.
#[test]
fn a_weight_that_is_too_small_is_found_before_it_fails() {
    pair::scenario(0, |pair| {
        let flag = pair.dir().path().join("well");
        std::fs::write(&flag, "")?;
        let flag = flag.to_str().context("the path is text")?.to_owned();
        let script = Script {
            name: "chk".into(),
            command: vec!["/usr/bin/test".into(), "-e".into(), flag.clone()],
            weight: -2,
        };
        let tracked = Instance { track_scripts: vec!["chk".into()], ..instance().priority(105) };
        let a = Setup { scripts: vec![script], ..Setup::one(tracked) };
        let b = Setup::one(instance().priority(100));
        let file = |setup: &Setup, node: &Node, name: &str| -> Result<String> {
            let mut config = Config::new(&[INTERFACE]);
            config.vrrp = setup.clone();
            let path = daemon::write_as(node, name, &config, &node.dir.bpffs().join("x"))?;
            Ok(path.to_str().context("the path is text")?.to_owned())
        };
        let (file_a, file_b) = (file(&a, &pair.a, "a.yaml")?, file(&b, &pair.b, "b.yaml")?);
        let said = daemon::lb(&pair.a, &["check", &file_a, "--peer", &file_b])?;
        let text = String::from_utf8_lossy(&said.stdout).into_owned()
            + &String::from_utf8_lossy(&said.stderr);
        ensure!(said.status.code() == Some(1) && text.contains("103"), "{text}");
        let capture = Capture::start(pair)?;
        let routers = start(pair, [Lb, Lb], &[a, b])?;
        std::fs::remove_file(&flag)?;
        let daemon = lb(&routers[0])?;
        eventually(seconds(4), "the script counts", || {
            Ok(vrrp(daemon)?["effective_priority"] == 103)
        })?;
        stays(&capture, [&pair.a, &pair.b], VIP, instance().down_interval() * 3)
    });
}

#[test]
fn the_owner_of_the_addresses_is_master_at_once() {
    pair::scenario(0, |pair| {
        let slow = instance().every(seconds(1)).priority(255);
        let _a = Router::start(Lb, &pair.a, &Setup::one(slow.clone()))?;
        // A backup would wait for three intervals.
        eventually(slow.interval * 2, "A is master", || pair.a.holds(VIP))
    });
}

/// keepalived would be deaf, and a second master.
#[test]
fn a_local_packet_filter_makes_no_second_master_and_is_named() {
    pair::scenario(0, |pair| {
        let capture = Capture::start(pair)?;
        let [_a, b] = start(pair, [Keepalived, Lb], &setups(&instance()))?;
        let b = lb(&b)?;
        let nft = |words: &str| pair.b.ns.run(&format!("nft {words}"));
        nft("add table inet filter")?;
        nft("add chain inet filter input { type filter hook input priority 0 ; }")?;
        nft("add rule inet filter input ip protocol vrrp drop")?;
        eventually(seconds(10), "the rule is named", || {
            let told = vrrp(b)?;
            let rule = told["filters"][0].as_str().unwrap_or_default().to_owned();
            Ok(told["filtered"] == true && rule.contains("ip protocol vrrp drop"))
        })?;
        stays(&capture, [&pair.a, &pair.b], VIP, instance().down_interval() * 3)?;
        nft("flush ruleset")?;
        eventually(seconds(5), "nothing is filtered", || Ok(vrrp(b)?["filtered"] == false))
    });
}

/// A node that does not forward must not be master, whatever its priority.
#[test]
fn a_node_whose_program_is_taken_off_gives_way() {
    pair::scenario(0, |pair| {
        let capture = Capture::start(pair)?;
        let [a, _b] = start(pair, [Lb, Keepalived], &setups(&instance()))?;
        let since = now();
        let pin = program_link(&pair.a)?;
        pair.a.ns.run(&format!("bpftool link detach pinned {pin}"))?;
        // Nobody is told when that happens, so the speaker looks once a second.
        capture.wait_advert(&pair.a, since, seconds(3), "a goodbye", is_goodbye)?;
        owns(&pair.b, &pair.a, VIP)?;
        let told = vrrp(lb(&a)?)?;
        ensure!(told["state"] == "fault" && told["reasons"][0]["effect"] == "fault", "{told}");
        Ok(())
    });
}

/// The pin of the link that holds the XDP program on the node's interface.
fn program_link(node: &Node) -> Result<String> {
    let map = daemon::pinned(node, "config")?;
    let beside = std::fs::read_dir(map.parent().context("a folder")?)?;
    let mut pins = beside.flatten().map(|entry| entry.path().display().to_string());
    let is_link = |pin: &String| pin.contains("/link-") && pin.ends_with(INTERFACE);
    pins.find(is_link).context("no pinned link of the interface")
}

/// The virtual MAC address of VRID 51 (RFC 9568 section 7.3).
const MAC: &str = "00:00:5e:00:01:33";
const MAC_BYTES: [u8; 6] = [0, 0, 0x5e, 0, 1, 51];

fn lb<'a>(router: &'a Router<'a>) -> Result<&'a Daemon<'a>> {
    router.daemon().context("it is lb")
}

/// What `lb vrrp` tells of the instance.
fn vrrp(daemon: &Daemon<'_>) -> Result<Value> {
    let text = daemon.text(&["vrrp", "VI_1", "--json"])?;
    let document: Value = serde_json::from_str(&text)?;
    Ok(document["instances"][0].clone())
}
