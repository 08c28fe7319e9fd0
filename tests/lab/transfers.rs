//! Bulk transfers arrive unharmed, and nat keeps most of the kernel's speed.

use crate::stage::{Method, all_servers, file, no_checksum_errors};
use anyhow::{Result, ensure};
use harness::config::Service;
use harness::daemon::Daemon;
use harness::peer;
use harness::process::Tool;
use harness::topology::{Family, endpoint, server_address};
use harness::{Lab, scenario};

#[test]
fn nat_carries_transfers_unharmed() {
    scenario(Method::Nat.shape(2), |lab| transfers(lab, Method::Nat, (Family::V4, Family::V4)));
}

#[test]
fn nat_carries_transfers_unharmed_over_ipv6() {
    scenario(Method::Nat.shape(2), |lab| transfers(lab, Method::Nat, (Family::V6, Family::V6)));
}

#[test]
fn dr_carries_transfers_unharmed() {
    scenario(Method::Dr.shape(2), |lab| transfers(lab, Method::Dr, (Family::V4, Family::V4)));
}

#[test]
fn dr_carries_transfers_unharmed_over_ipv6() {
    scenario(Method::Dr.shape(2), |lab| transfers(lab, Method::Dr, (Family::V6, Family::V6)));
}

#[test]
fn tunnels_of_4in4_carry_transfers_unharmed() {
    tunnel_transfers(Family::V4, Family::V4);
}

#[test]
fn tunnels_of_6in6_carry_transfers_unharmed() {
    tunnel_transfers(Family::V6, Family::V6);
}

#[test]
fn tunnels_of_4in6_carry_transfers_unharmed() {
    tunnel_transfers(Family::V4, Family::V6);
}

#[test]
fn tunnels_of_6in4_carry_transfers_unharmed() {
    tunnel_transfers(Family::V6, Family::V4);
}

/// Over a LAN of 1,500 bytes, where what clients send first does not fit.
fn tunnel_transfers(family: Family, via: Family) {
    scenario(Method::Tunnel.shape(2), |lab| {
        lab.end_tunnels_at_servers()?;
        transfers(lab, Method::Tunnel, (family, via))
    });
}

/// Transfers to a service over every server of the lab. `via` is the family of the real servers'
/// own addresses: for tunnels it may be another than the clients'.
fn transfers(lab: &Lab, method: Method, (family, via): (Family, Family)) -> Result<()> {
    let _servers = receivers(lab, method, family)?;
    let service = |name: &str, port: u16, protocol: &str| {
        let listen = (method.vip(family), port, protocol);
        Service::new(name, listen, method.name(), all_servers(lab, via))
    };
    let config =
        file(lab, method, family, service("bulk", TCP, "tcp")).service(service("copy", UDP, "udp"));
    let _lb = Daemon::start(lab, &config)?;
    carry(lab, method, family)
}

/// The receiving ends, on every server.
pub(crate) fn receivers(lab: &Lab, method: Method, family: Family) -> Result<Vec<Tool>> {
    let mut servers = Vec::new();
    for (n, ns) in (1..).zip(&lab.servers) {
        servers.push(peer::tcp_sink(ns, TCP)?);
        servers.push(peer::udp_copy_server(ns, &endpoint(&method.target(family, n), UDP))?);
    }
    Ok(servers)
}

/// 50 MB over TCP in both directions and 5 MB over UDP.
pub(crate) fn carry(lab: &Lab, method: Method, family: Family) -> Result<()> {
    let tcp = method.endpoint(family, TCP);
    peer::tcp_copy(&lab.client, &tcp, &[])?.equal()?;
    peer::tcp_copy(&lab.client, &tcp, &["--direction", "down"])?.equal()?;
    let copied = peer::udp_copy(&lab.client, &method.endpoint(family, UDP), &[])?;
    copied.equal()?;
    ensure!(copied.resent <= MOST_RESENT, "{} datagrams were sent again", copied.resent);
    no_checksum_errors(lab)
}

#[test]
fn nat_reaches_60_percent_of_kernel_forwarding() {
    scenario(Method::Nat.shape(1), |lab| {
        let _server = peer::iperf3_server(lab.server(1)?, IPERF)?;
        let listen = (Method::Nat.vip(Family::V4), IPERF, "tcp");
        let service = Service::new("iperf", listen, "nat", all_servers(lab, Family::V4));
        let config = file(lab, Method::Nat, Family::V4, service);
        let (mut kernel, mut nat) = ([0.0; 3], [0.0; 3]);
        for round in 0..3 {
            lab.forward_in_kernel(true)?;
            kernel[round] = peer::iperf3(&lab.client, &server_address(Family::V4, 1), IPERF)?;
            lab.forward_in_kernel(false)?;
            let lb = Daemon::start(lab, &config)?;
            nat[round] = peer::iperf3(&lab.client, Method::Nat.vip(Family::V4), IPERF)?;
            lb.terminate()?;
        }
        let share = 100.0 * median(nat) / median(kernel);
        println!("kernel {kernel:.0?} Mbit/s, nat {nat:.0?} Mbit/s: {share:.0} %");
        ensure!(share >= 60.0, "nat reaches {share:.0} %: kernel {kernel:.0?}, nat {nat:.0?}");
        Ok(())
    });
}

fn median(mut values: [f64; 3]) -> f64 {
    values.sort_by(f64::total_cmp);
    values[1]
}

const TCP: u16 = 9000;
const UDP: u16 = 9001;
const IPERF: u16 = 5201;
/// One in a hundred of the 4,167 datagrams.
const MOST_RESENT: u64 = 41;
