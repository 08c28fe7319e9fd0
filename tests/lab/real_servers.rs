//! `lb real-server` changes what a real server needs, and nothing is left of it afterwards.

use anyhow::{Context, Result, ensure};
use harness::encapsulator::Encapsulator;
use harness::netns::Netns;
use harness::real_server::{command, remembered, settings, setup, undo};
use harness::stub::Stub;
use harness::topology::{Family, address, endpoint, server_address};
use harness::{Lab, Shape, peer, scenario};

use crate::stage::Method;
use crate::transfers::{carry, receivers};

#[test]
fn a_setup_is_put_back_exactly_also_what_was_not_default() {
    scenario(Shape::OneLan { servers: 0 }, |lab| {
        let (dir, host) = (&lab.dir, &lab.client);
        host.sysctl(&[
            ("net/ipv4/conf/lo/arp_announce", "1"),
            ("net/ipv4/conf/default/rp_filter", "1"),
            ("net/ipv4/conf/lan0/rp_filter", "1"),
        ])?;
        host.ip(&format!("addr add {THIRD}/32 dev lo\n"))?;
        let before = settings(host)?;
        ensure!(said(&setup(dir, host, FIRST, "dr")?, "10.0.1.80: set up for dr"));
        let done = settings(host)?;
        for wanted in [
            "net.ipv4.conf.all.arp_ignore = 1",
            "net.ipv4.conf.all.arp_announce = 2",
            "net.ipv4.conf.lo.arp_ignore = 1",
            "net.ipv4.conf.lo.arp_announce = 2",
            "net.ipv4.conf.all.rp_filter = 0",
            "net.ipv4.conf.default.rp_filter = 2",
            "net.ipv4.conf.lan0.rp_filter = 2",
        ] {
            ensure!(done.iter().any(|line| line == wanted), "no {wanted}: {done:#?}");
        }
        let scope = |line: &&String| line.contains("10.0.1.80/32 scope host");
        ensure!(done.iter().find(scope).is_some(), "the address is missing: {done:#?}");

        ensure!(setup(dir, host, FIRST, "dr")? == ["10.0.1.80: was set up for dr already"]);
        ensure!(settings(host)? == done, "the second time something changed");

        setup(dir, host, SECOND, "dr")?;
        ensure!(said(&setup(dir, host, THIRD, "dr")?, "10.0.1.81/32 is on lo already"));
        undo(dir, host, FIRST)?;
        let kept = settings(host)?;
        ensure!(kept.iter().any(|line| line == "net.ipv4.conf.all.arp_ignore = 1"), "{kept:#?}");
        undo(dir, host, THIRD)?;
        let deprecated = |line: &String| line.contains("fd00:1::80/128") && line.contains("deprec");
        ensure!(settings(host)?.iter().any(deprecated), "{:#?}", settings(host)?);
        undo(dir, host, SECOND)?;
        ensure!(settings(host)? == before, "{before:#?}\n{:#?}", settings(host)?);
        ensure!(remembered(dir, host)?.is_empty(), "something is remembered");

        let nothing = undo(dir, host, THIRD)?;
        ensure!(said(&nothing, "nothing is remembered"), "{nothing:?}");
        ensure!(said(&nothing, "`ip address del 10.0.1.81/32 dev lo`"), "{nothing:?}");
        ensure!(settings(host)? == before, "an undo without a setup changed something");
        Ok(())
    });
}

#[test]
fn what_others_have_changed_since_is_left_alone() {
    scenario(Shape::OneLan { servers: 0 }, |lab| {
        let (dir, host) = (&lab.dir, &lab.client);
        setup(dir, host, FIRST, "dr")?;
        host.sysctl(&[("net/ipv4/conf/all/arp_ignore", "2")])?;
        host.ip(&format!("addr del {FIRST}/32 dev lo\n"))?;
        let lines = setup(dir, host, FIRST, "dr")?;
        ensure!(said(&lines, "10.0.1.80/32 added to lo"), "the address was not mended: {lines:?}");
        let lines = undo(dir, host, FIRST)?;
        ensure!(said(&lines, "arp_ignore is 2 by somebody else's doing"), "{lines:?}");
        let after = settings(host)?;
        ensure!(after.iter().any(|line| line == "net.ipv4.conf.all.arp_ignore = 2"), "{after:#?}");
        Ok(())
    });
}

#[test]
fn a_setup_that_fails_changes_nothing() {
    scenario(Shape::OneLan { servers: 0 }, |lab| {
        let (dir, host) = (&lab.dir, &lab.client);
        let stub = host.enter(|| Stub::attach("lan0"))?;
        let before = settings(host)?;
        refused(lab, host, &["--vip", FIRST, "--method", "tunnel"], "another XDP program")?;
        ensure!(settings(host)? == before, "{before:#?}\n{:#?}", settings(host)?);
        ensure!(remembered(dir, host)?.is_empty(), "something is remembered");
        // With an earlier setup, that stays.
        setup(dir, host, SECOND, "dr")?;
        let before = settings(host)?;
        refused(lab, host, &["--vip", FIRST, "--method", "tunnel"], "another XDP program")?;
        ensure!(settings(host)? == before, "{before:#?}\n{:#?}", settings(host)?);
        drop(stub);
        refused(lab, host, &["--vip", address::CLIENT_LAN[0]], "ip address del 10.0.1.2/24")?;
        let tunnel = ["--vip", FIRST, "--method", "tunnel", "--interface", "eth7"];
        refused(lab, host, &tunnel, "there is no interface eth7")?;
        refused(lab, host, &["--vip", "127.0.0.1"], "cannot be a virtual address")
    });
}

#[test]
fn tunnelled_packets_reach_the_service_and_are_answered_directly() {
    scenario(Method::Tunnel.shape(1), |lab| {
        lab.widen_lan()?;
        let server = lab.server(1)?;
        let before = settings(server)?;
        lab.end_tunnels_at_servers()?;
        for (family, is_last) in [(Family::V4, false), (Family::V6, true)] {
            let vip = Method::Tunnel.vip(family);
            let receivers = receivers(lab, Method::Tunnel, family)?;
            for outer in [Family::V4, Family::V6] {
                let target = server_address(outer, 1);
                let tunnel = Encapsulator::start(lab, vip, &target)?;
                carry(lab, Method::Tunnel, family).with_context(|| format!("{vip} by {target}"))?;
                tunnel.end()?;
            }
            drop(receivers);
            let lines = undo(&lab.dir, server, vip)?;
            ensure!(said(&lines, "decapsulation ended on lan0") == is_last, "{lines:?}");
            ensure!(lines.iter().all(|line| line != "0 packets were unpacked"), "{lines:?}");
        }
        ensure!(settings(server)? == before, "{before:#?}\n{:#?}", settings(server)?);
        Ok(())
    });
}

#[test]
fn a_tunnel_to_an_address_that_is_set_up_for_dr_is_not_unpacked() {
    scenario(Method::Tunnel.shape(1), |lab| {
        let [vip, other] = address::VIP_TUNNEL;
        let server = lab.server(1)?;
        // The program is there, for another address.
        setup(&lab.dir, server, other, "tunnel")?;
        setup(&lab.dir, server, vip, "tunnel")?;
        let _server = peer::udp_server(server, "rs1", &endpoint(vip, UDP))?;
        let tunnel = Encapsulator::start(lab, vip, &server_address(Family::V4, 1))?;
        peer::udp_ask(&lab.client, &endpoint(vip, UDP), 5)?.exactly(&[("rs1", 5)])?;
        let lines = setup(&lab.dir, server, vip, "dr")?;
        ensure!(said(&lines, "are no longer unpacked"), "{lines:?}");
        let answers = peer::udp_ask(&lab.client, &endpoint(vip, UDP), 1)?;
        ensure!(answers.failed == 1, "{answers}");
        tunnel.end()
    });
}

/// `setup` with these arguments is refused and says so.
fn refused(lab: &Lab, host: &Netns, args: &[&str], because: &str) -> Result<()> {
    let output = command(&lab.dir, host, &[&["setup"], args].concat())?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.code() == Some(1), "{args:?}: {}: {said}", output.status);
    ensure!(said.contains(because), "{args:?}: {said}");
    Ok(())
}

fn said(lines: &[String], what: &str) -> bool {
    lines.iter().any(|line| line.contains(what))
}

const FIRST: &str = "10.0.1.80";
const SECOND: &str = "fd00:1::80";
const THIRD: &str = "10.0.1.81";
const UDP: u16 = 9001;
