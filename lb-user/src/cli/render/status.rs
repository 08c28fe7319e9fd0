//! `lb status`, listed like `ipvsadm -Ln`.
//!
//! The weight is what counts now; where that differs from the configuration, both are shown as
//! `effective/configured`.
//!
//! Must not know: sockets, where a document came from.

use crate::cli::render::endpoint;
use crate::cli::render::table::{Align, table};
use crate::cli::render::vrrp::instances;
use crate::controller::document::{Check, Dataplane, Quorum, RealServer, Status, VirtualService};

/// The whole text.
pub fn status(status: &Status) -> String {
    let mut text =
        format!("lb {} on {}: {}\n", status.version, status.node, plane(&status.dataplane));
    for warning in &status.dataplane.warnings {
        text.push_str(&format!("warning: {warning}\n"));
    }
    if !status.vrrp.is_empty() {
        text.push_str(&instances(&status.vrrp));
    }
    if status.virtual_services.is_empty() {
        text.push_str("no virtual services\n");
        return text;
    }
    let servers = status.virtual_services.iter().flat_map(|service| {
        let servers = service.real_servers.iter().map(|server| row(service, server));
        servers.chain(sorry(service)).collect::<Vec<_>>()
    });
    let header = [
        "  -> RemoteAddress:Port",
        "Forward",
        "Weight",
        "ActiveConn",
        "InActConn",
        "State",
        "Check",
    ];
    let header = header.map(str::to_owned).to_vec();
    let rows: Vec<Vec<String>> = std::iter::once(header).chain(servers).collect();
    let laid_out = table(&[Align::Left; 7], &rows);
    let mut lines = laid_out.split_inclusive('\n');
    text.push_str("Prot LocalAddress:Port Scheduler Name State\n");
    text.extend(lines.next());
    for service in &status.virtual_services {
        text.push_str(&heading(service));
        let rows = service.real_servers.len() + usize::from(sorry(service).is_some());
        text.extend(lines.by_ref().take(rows));
    }
    text
}

fn plane(dataplane: &Dataplane) -> String {
    if dataplane.mode.is_empty() {
        return "no dataplane".to_owned();
    }
    format!(
        "{} XDP on {}, {} of {} connections",
        dataplane.mode,
        dataplane.interfaces.join(", "),
        dataplane.connections.used,
        dataplane.connections.capacity
    )
}

/// One line for each address; several share the real servers below.
fn heading(service: &VirtualService) -> String {
    let lines = service.listen.iter().map(|listen| {
        let (address, protocol) = listen.rsplit_once('/').unwrap_or((listen, ""));
        let protocol = protocol.to_uppercase();
        let VirtualService { scheduler, scheduler_flags, name, state, .. } = service;
        let flags = match scheduler_flags.join(",") {
            none if none.is_empty() => none,
            some => format!(" ({some})"),
        };
        let quorum = match service.quorum {
            Quorum { up: 0 | 1, hysteresis: 0 } => String::new(),
            Quorum { up, hysteresis: 0 } => format!(", weight {} of {up}", service.live_weight),
            Quorum { up, hysteresis } => {
                format!(", weight {} of {up} +-{hysteresis}", service.live_weight)
            }
        };
        format!("{protocol:<4} {address} {scheduler}{flags} {name} {state}{quorum}\n")
    });
    lines.collect()
}

fn row(service: &VirtualService, server: &RealServer) -> Vec<String> {
    let weight = if server.effective_weight == server.weight {
        server.weight.to_string()
    } else {
        format!("{}/{}", server.effective_weight, server.weight)
    };
    vec![
        format!("  -> {:<28}", endpoint(&server.address, server.port)),
        forward(&service.forwarding).to_owned(),
        weight,
        server.active_connections.to_string(),
        server.inactive_connections.to_string(),
        state(server),
        server.check.as_ref().map(check).unwrap_or_default(),
    ]
}

/// The sorry server while it is used or has connections left.
fn sorry(service: &VirtualService) -> Option<Vec<String>> {
    let server = service.sorry_server.as_ref()?;
    if !server.in_use && server.active_connections + server.inactive_connections == 0 {
        return None;
    }
    Some(vec![
        format!("  -> {:<28}", endpoint(&server.address, server.port)),
        forward(&service.forwarding).to_owned(),
        u32::from(server.in_use).to_string(),
        server.active_connections.to_string(),
        server.inactive_connections.to_string(),
        "sorry".to_owned(),
        String::new(),
    ])
}

/// The state, and in doubt HAProxy's count: `up 2/3` falls after two more failures, `down 1/2` has
/// had one success of two.
fn state(server: &RealServer) -> String {
    let in_doubt = |check: &&Check| match server.state.as_str() {
        "up" => check.count < check.of,
        "down" => check.count > 0,
        _ => false,
    };
    let state = match server.check.as_ref().filter(in_doubt) {
        Some(check) => format!("{} {}/{}", server.state, check.count, check.of),
        None => server.state.clone(),
    };
    match server.slow_start_percent {
        Some(percent) => format!("{state}, {percent} %"),
        None => state,
    }
}

/// ipvsadm's names of the forwarding methods.
fn forward(method: &str) -> &str {
    match method {
        "dr" => "Route",
        "nat" => "Masq",
        "fullnat" => "FullNat",
        "tunnel" => "Tunnel",
        other => other,
    }
}

/// As HAProxy shows it: `L7OK/200 in 1ms`, with the reason of a failure.
fn check(check: &Check) -> String {
    if check.status == "INI" {
        return check.status.clone();
    }
    let code = check.code.map(|code| format!("/{code}")).unwrap_or_default();
    let detail =
        if check.detail.is_empty() { String::new() } else { format!(": {}", check.detail) };
    format!("{}{code} in {}ms{detail}", check.status, check.duration_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::document::{Capacity, SorryServer};

    fn server(address: &str, state: &str, effective: u32, status: &str) -> RealServer {
        let check = Check {
            status: status.into(),
            duration_ms: 1,
            detail: if status == "L4CON" { "Connection refused".into() } else { String::new() },
            code: None,
            count: if state == "up" { 3 } else { 0 },
            of: if state == "up" { 3 } else { 2 },
            ..Check::default()
        };
        RealServer {
            address: address.into(),
            port: 80,
            weight: 2,
            effective_weight: effective,
            state: state.into(),
            active_connections: 3,
            inactive_connections: 12,
            check: (!status.is_empty()).then_some(check),
            ..RealServer::default()
        }
    }

    #[test]
    fn services_are_listed_like_ipvsadm() {
        let web = VirtualService {
            name: "web".into(),
            listen: vec!["192.168.20.50:80/tcp".into(), "[2001:db8::50]:80/tcp".into()],
            scheduler: "sh".into(),
            scheduler_flags: vec!["sh-port".into(), "sh-fallback".into()],
            forwarding: "dr".into(),
            state: "up".into(),
            connections: 15,
            live_weight: 4,
            quorum: Quorum { up: 5, hysteresis: 1 },
            sorry_server: Some(SorryServer {
                address: "192.168.20.9".into(),
                port: 80,
                in_use: true,
                ..SorryServer::default()
            }),
            real_servers: vec![
                server("192.168.20.233", "up", 2, "L4OK"),
                server("192.168.20.203", "down", 0, "L4CON"),
                server("2001:db8::203", "unchecked", 2, ""),
            ],
        };
        let document = Status {
            node: "lb01".into(),
            version: "0.1.0".into(),
            dataplane: Dataplane {
                mode: "generic".into(),
                interfaces: vec!["eth0".into(), "eth1".into()],
                connections: Capacity { used: 15, capacity: 1000 },
                warnings: vec!["eth0: the driver has no native XDP".into()],
            },
            virtual_services: vec![web],
            ..Status::default()
        };
        let expected = "\
lb 0.1.0 on lb01: generic XDP on eth0, eth1, 15 of 1000 connections
warning: eth0: the driver has no native XDP
Prot LocalAddress:Port Scheduler Name State
  -> RemoteAddress:Port           Forward Weight ActiveConn InActConn State     Check
TCP  192.168.20.50:80 sh (sh-port,sh-fallback) web up, weight 4 of 5 +-1
TCP  [2001:db8::50]:80 sh (sh-port,sh-fallback) web up, weight 4 of 5 +-1
  -> 192.168.20.233:80            Route   2      3          12        up        L4OK in 1ms
  -> 192.168.20.203:80            Route   0/2    3          12        down      L4CON in 1ms: Connection refused
  -> [2001:db8::203]:80           Route   2      3          12        unchecked
  -> 192.168.20.9:80              Route   1      0          0         sorry
";
        assert_eq!(status(&document), expected);
    }

    #[test]
    fn doubt_is_counted_as_haproxy_does() {
        let with = |name: &str, count, of| {
            let mut server = server("192.0.2.1", name, 2, "L7STS");
            server.check = Some(Check { count, of, ..Check::default() });
            state(&server)
        };
        assert_eq!(with("up", 2, 3), "up 2/3");
        assert_eq!(with("up", 3, 3), "up");
        assert_eq!(with("down", 1, 2), "down 1/2");
        assert_eq!(with("down", 0, 2), "down");
        assert_eq!(with("drain", 1, 2), "drain");
    }

    #[test]
    fn a_node_without_services_says_so() {
        let document = Status { node: "lb01".into(), version: "1".into(), ..Status::default() };
        assert_eq!(status(&document), "lb 1 on lb01: no dataplane\nno virtual services\n");
    }
}
