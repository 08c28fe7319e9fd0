//! The registry: every family, and what it takes from a snapshot.
//!
//! Must not know: the text format.

mod health;
mod itself;
mod vrrp;

use lb_common::abi::ABI_VERSION;
use lb_common::service::Traffic;
use lb_common::verdict::{Counter, CounterKind};

use super::{Dataplane, Family, Kind, RealServer, Samples, Service, Snapshot};
use Kind::{Counter as Count, Gauge};

/// Every family, in the order of the text.
pub fn families() -> impl Iterator<Item = &'static Family> {
    FAMILIES.iter().chain(health::FAMILIES).chain(vrrp::FAMILIES).chain(itself::FAMILIES)
}

/// The node and its data plane.
static FAMILIES: &[Family] = &[
    Family {
        name: "lb_build_info",
        kind: Gauge,
        labels: &["node", "version", "abi"],
        help: "Always 1; the labels tell who this is.",
        samples: |s, out| out.add(&[&s.node, &s.version, &ABI_VERSION.to_string()], 1),
    },
    Family {
        name: "lb_reloads_total",
        kind: Count,
        labels: &["result"],
        help: "Reloads of the configuration since the start, applied or refused.",
        samples: |s, out| {
            out.add(&["applied"], s.reloads.applied);
            out.add(&["refused"], s.reloads.refused);
        },
    },
    Family {
        name: "lb_last_reload_successful",
        kind: Gauge,
        labels: &[],
        help: "0 while the file that was read last is not the one in force.",
        samples: |s, out| out.add(&[], u64::from(!s.reloads.last_refused)),
    },
    Family {
        name: "lb_dataplane_mode",
        kind: Gauge,
        labels: &["mode"],
        help: "1 for the mode that XDP runs in; the slower one if interfaces differ.",
        samples: |s, out| {
            for mode in ["native", "generic"] {
                let is_own = s.dataplane.as_ref().is_some_and(|plane| plane.mode == mode);
                out.add(&[mode], u64::from(is_own));
            }
        },
    },
    Family {
        name: "lb_connections",
        kind: Gauge,
        labels: &[],
        help: "Connections in the table.",
        samples: |s, out| of_plane(s, out, |plane| plane.connections),
    },
    Family {
        name: "lb_connections_capacity",
        kind: Gauge,
        labels: &[],
        help: "Connections that fit into the table, of each address family.",
        samples: |s, out| of_plane(s, out, |plane| plane.capacity),
    },
    Family {
        name: "lb_connection_drift_total",
        kind: Count,
        labels: &[],
        help: "Connections by which counts were found wrong when the table was recounted; 0 is right.",
        samples: |s, out| of_plane(s, out, |plane| plane.drift),
    },
    Family {
        name: "lb_drops_total",
        kind: Count,
        labels: &["reason"],
        help: "Packets that were dropped.",
        samples: |s, out| {
            by_kind(s, out, CounterKind::Drop);
            by_kind(s, out, CounterKind::Answered);
        },
    },
    Family {
        name: "lb_without_entry_total",
        kind: Count,
        labels: &["reason"],
        help: "Packets that were forwarded without an entry for their connection.",
        samples: |s, out| by_kind(s, out, CounterKind::WithoutEntry),
    },
    Family {
        name: "lb_notes_total",
        kind: Count,
        labels: &["note"],
        help: "What else the data plane counts; no packet suffered.",
        samples: |s, out| {
            by_kind(s, out, CounterKind::Note);
            by_kind(s, out, CounterKind::Detour);
        },
    },
    Family {
        name: "lb_deny_prefixes",
        kind: Gauge,
        labels: &["reason"],
        help: "Prefixes on the deny list: config is the file, manual a ban beside it.",
        samples: |s, out| {
            if let Some(plane) = &s.dataplane {
                out.add(&["config"], plane.prefixes.configured);
                out.add(&["manual"], plane.prefixes.banned);
            }
        },
    },
    Family {
        name: "lb_allow_prefixes",
        kind: Gauge,
        labels: &[],
        help: "Prefixes on the allow list; 0 lets everybody reach services.",
        samples: |s, out| of_plane(s, out, |plane| plane.prefixes.allowed),
    },
    Family {
        name: "lb_service_up",
        kind: Gauge,
        labels: &["service"],
        help: "1 while it has its quorum: by default, while a real server takes new connections.",
        samples: |s, out| of_services(s, out, |service| u64::from(service.up)),
    },
    Family {
        name: "lb_service_live_weight",
        kind: Gauge,
        labels: &["service"],
        help: "Weights of the real servers that could take new connections, added up.",
        samples: |s, out| of_services(s, out, |service| service.live_weight),
    },
    Family {
        name: "lb_service_sorry",
        kind: Gauge,
        labels: &["service"],
        help: "1 while the sorry server gets the new connections.",
        samples: |s, out| of_services(s, out, |service| u64::from(service.sorry)),
    },
    Family {
        name: "lb_service_connections_total",
        kind: Count,
        labels: &["service"],
        help: "Connections over all real servers that the service ever had.",
        samples: |s, out| of_services(s, out, |service| service.traffic.connections),
    },
    Family {
        name: "lb_service_packets_total",
        kind: Count,
        labels: &["service", "direction"],
        help: "Packets: in is from clients, out to clients where they pass here (nat).",
        samples: |s, out| both_ways(s, out, packets),
    },
    Family {
        name: "lb_service_bytes_total",
        kind: Count,
        labels: &["service", "direction"],
        help: "Their bytes, from the IP header on.",
        samples: |s, out| both_ways(s, out, bytes),
    },
    Family {
        name: "lb_real_server_up",
        kind: Gauge,
        labels: SERVER,
        help: "1 unless its check says that it is down or it is disabled.",
        samples: |s, out| of_servers(s, out, |server| u64::from(server.up)),
    },
    Family {
        name: "lb_real_server_weight",
        kind: Gauge,
        labels: SERVER,
        help: "Weight as configured.",
        samples: |s, out| of_servers(s, out, |server| server.weight),
    },
    Family {
        name: "lb_real_server_effective_weight",
        kind: Gauge,
        labels: SERVER,
        help: "Weight after health and admin state; 0 takes no new connections.",
        samples: |s, out| of_servers(s, out, |server| server.effective_weight),
    },
    Family {
        name: "lb_real_server_active_connections",
        kind: Gauge,
        labels: SERVER,
        help: "Connections that IPVS counts as active: established or being made.",
        samples: |s, out| of_servers(s, out, |server| server.active),
    },
    Family {
        name: "lb_real_server_inactive_connections",
        kind: Gauge,
        labels: SERVER,
        help: "The others: closing ones, and all of UDP.",
        samples: |s, out| of_servers(s, out, |server| server.inactive),
    },
    Family {
        name: "lb_real_server_connections_total",
        kind: Count,
        labels: SERVER,
        help: "Connections since the server was added to the service.",
        samples: |s, out| of_servers(s, out, |server| server.traffic.connections),
    },
    Family {
        name: "lb_real_server_packets_total",
        kind: Count,
        labels: SERVER_DIRECTION,
        help: "Packets, as lb_service_packets_total.",
        samples: |s, out| servers_both_ways(s, out, packets),
    },
    Family {
        name: "lb_real_server_bytes_total",
        kind: Count,
        labels: SERVER_DIRECTION,
        help: "Their bytes, from the IP header on.",
        samples: |s, out| servers_both_ways(s, out, bytes),
    },
];

const SERVER: &[&str] = &["service", "real_server"];
const SERVER_DIRECTION: &[&str] = &["service", "real_server", "direction"];

/// One value of the XDP plane.
fn of_plane(snapshot: &Snapshot, out: &mut Samples<'_>, value: fn(&Dataplane) -> u64) {
    if let Some(plane) = &snapshot.dataplane {
        out.add(&[], value(plane));
    }
}

/// The program's counters of one kind.
fn by_kind(snapshot: &Snapshot, out: &mut Samples<'_>, kind: CounterKind) {
    let counters = snapshot.dataplane.iter().flat_map(|plane| &plane.counters);
    let of_kind = |(counter, _): &&(Counter, u64)| counter.kind() == kind;
    counters.filter(of_kind).for_each(|(counter, value)| out.add(&[counter.name()], *value));
}

/// One value of each service.
fn of_services(snapshot: &Snapshot, out: &mut Samples<'_>, value: fn(&Service) -> u64) {
    for service in &snapshot.services {
        out.add(&[&service.name], value(service));
    }
}

/// One value of each real server.
fn of_servers(snapshot: &Snapshot, out: &mut Samples<'_>, value: fn(&RealServer) -> u64) {
    for service in &snapshot.services {
        for server in &service.real_servers {
            out.add(&[&service.name, &server.endpoint], value(server));
        }
    }
}

/// Both directions of each service.
fn both_ways(snapshot: &Snapshot, out: &mut Samples<'_>, values: fn(&Traffic) -> Directions) {
    for service in &snapshot.services {
        for (direction, value) in values(&service.traffic) {
            out.add(&[&service.name, direction], value);
        }
    }
}

/// Both directions of each real server.
fn servers_both_ways(
    snapshot: &Snapshot,
    out: &mut Samples<'_>,
    values: fn(&Traffic) -> Directions,
) {
    for service in &snapshot.services {
        for server in &service.real_servers {
            for (direction, value) in values(&server.traffic) {
                out.add(&[&service.name, &server.endpoint, direction], value);
            }
        }
    }
}

type Directions = [(&'static str, u64); 2];

fn packets(traffic: &Traffic) -> Directions {
    [("in", traffic.packets_in), ("out", traffic.packets_out)]
}

fn bytes(traffic: &Traffic) -> Directions {
    [("in", traffic.bytes_in), ("out", traffic.bytes_out)]
}
