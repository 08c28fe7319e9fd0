//! What is not a service reaches the director's own stack.

use crate::stage::{Method, WEB, file, http_servers, web};
use anyhow::{Result, ensure};
use harness::daemon::Daemon;
use harness::frame::{Segment, Wire, arp_request, is_arp_reply, mac_of};
use harness::peer::{self, Holder};
use harness::topology::{Family, address, endpoint};
use harness::wait::seconds;
use harness::{Lab, scenario};
use std::net::Ipv4Addr;

#[test]
fn the_directors_own_ports_and_addresses_answer() {
    scenario(Method::Nat.shape(2), |lab| {
        let _lb = both_families(lab)?;
        let _ssh = peer::hold_server(&lab.director, SSH)?;
        let own = address::DIRECTOR_WAN;
        let vips = address::VIP_WAN;
        for address in own.into_iter().chain(vips) {
            let mut holder = Holder::start(&lab.client, &endpoint(address, SSH))?;
            let held = holder.open(5)?.unbroken()?;
            ensure!(held.open == 5, "{address}: {held:?}");
            holder.echo()?.unbroken()?;
            holder.close(5)?.unbroken()?;
        }
        Ok(())
    });
}

#[test]
fn the_stack_answers_echo_to_a_vip() {
    scenario(Method::Nat.shape(2), |lab| {
        let _lb = both_families(lab)?;
        for vip in address::VIP_WAN {
            // Neighbours are asked for anew: ARP and neighbour discovery pass too.
            lab.client.run("ip neigh flush dev wan0")?;
            lab.client.run("ip -6 neigh flush dev wan0")?;
            let said = lab.client.run(&format!("ping -c 3 -i 0.2 -W 3 {vip}"))?;
            ensure!(said.contains(" 0% packet loss"), "{said}");
        }
        Ok(())
    });
}

#[test]
fn arp_for_a_vip_is_answered_by_the_director_alone() {
    scenario(Method::Dr.shape(2), |lab| {
        let _servers = http_servers(lab)?;
        let service = web(lab, Method::Dr, Family::V4);
        let _lb = Daemon::start(lab, &file(lab, Method::Dr, Family::V4, service))?;
        let vip: Ipv4Addr = Method::Dr.vip(Family::V4).parse()?;
        let mut wire = Wire::open(&lab.client, "lan0")?;
        wire.send(&arp_request(wire.mac(), address::CLIENT_LAN[0].parse()?, vip))?;
        let reply = wire.receive(seconds(3), "an ARP reply", |frame| is_arp_reply(frame, vip))?;
        ensure!(reply[6..12] == mac_of(&lab.director, "lan0")?, "another host has the VIP");
        let second = wire.receive(seconds(1), "a second", |frame| is_arp_reply(frame, vip));
        ensure!(second.is_err(), "two hosts answer for the VIP");
        Ok(())
    });
}

#[test]
fn a_reset_of_an_unknown_connection_makes_no_entry() {
    scenario(Method::Nat.shape(2), |lab| {
        let _servers = http_servers(lab)?;
        let lb = both_families(lab)?;
        let mut wire = Wire::open(&lab.client, "wan0")?;
        let reset = Segment {
            macs: [wire.mac(), mac_of(&lab.director, "wan0")?],
            addresses: [address::CLIENT_WAN[0].parse()?, Method::Nat.vip(Family::V4).parse()?],
            ports: [40_000, WEB],
            flags: RST,
            sequence: 1,
        };
        wire.send(&reset.frame())?;
        // A request after it has passed the program, so the reset has too.
        peer::get(&lab.client, &Method::Nat.url(Family::V4, WEB), 1)?.unbroken()?;
        let text = lb.connections()?.to_string();
        ensure!(!text.contains(":40000\""), "the reset has an entry: {text}");
        Ok(())
    });
}

/// One nat service in either family, on port 80.
fn both_families(lab: &Lab) -> Result<Daemon<'_>> {
    let mut v6 = web(lab, Method::Nat, Family::V6);
    v6.name = "web6".into();
    let config = file(lab, Method::Nat, Family::V4, web(lab, Method::Nat, Family::V4))
        .vip(Method::Nat.vip(Family::V6), "wan0")
        .service(v6);
    Daemon::start(lab, &config)
}

const SSH: u16 = 22;
const RST: u8 = 4;
