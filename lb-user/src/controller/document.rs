//! The documents that the admin API answers with: their keys are the product's contract.
//!
//! The controller fills them, `admin` turns them into JSON and the command line reads them back.
//! Keys may be added, never renamed or removed; a reader takes a missing key as its default, so a
//! newer `lb status` can read an older daemon.
//!
//! Must not know: HTTP, how a document is shown, BPF.

mod vrrp;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use vrrp::{
    Resigned, Vrrp, VrrpCounters, VrrpInstance, VrrpReason, VrrpScript, VrrpTransition,
};

/// `lb status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Status {
    /// Name of the node.
    pub node: String,
    /// Version of the daemon.
    pub version: String,
    /// The XDP plane; with an empty mode when there is none.
    pub dataplane: Dataplane,
    /// Health checks as a whole.
    pub health: HealthSummary,
    /// L4 services in file order.
    pub virtual_services: Vec<VirtualService>,
    /// VRRP instances.
    pub vrrp: Vec<VrrpInstance>,
    /// L7 frontends.
    pub frontends: Vec<serde_json::Value>,
    /// L7 backends.
    pub backends: Vec<serde_json::Value>,
    /// The configuration file of the daemon.
    pub config_path: String,
}

/// The XDP plane in [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Dataplane {
    /// `native` or `generic`.
    pub mode: String,
    /// Interfaces that XDP is attached to.
    pub interfaces: Vec<String>,
    /// Fill of the connection table.
    pub connections: Capacity,
    /// What is not as it should be, in words.
    pub warnings: Vec<String>,
}

/// Health checks in [`Status`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HealthSummary {
    /// Targets that are probed: real servers that share an address and a check are one.
    pub targets: u64,
}

/// How full a table is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Capacity {
    /// Entries in use.
    pub used: u64,
    /// Entries that fit.
    pub capacity: u64,
}

/// An L4 service in [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VirtualService {
    /// Its name.
    pub name: String,
    /// `ip:port/proto` each.
    pub listen: Vec<String>,
    /// ipvsadm's name of the scheduler.
    pub scheduler: String,
    /// ipvsadm's names of its options: `sh-port`, `sh-fallback`, `mh-port`, `mh-fallback`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub scheduler_flags: Vec<String>,
    /// `dr`, `nat`, `fullnat` or `tunnel`.
    pub forwarding: String,
    /// `up` while a real server takes new connections, else `down`.
    pub state: String,
    /// Connections since it was added.
    pub connections: u64,
    /// Weights of the real servers that could take new connections, added up.
    pub live_weight: u64,
    /// How much of it makes the service up.
    pub quorum: Quorum,
    /// Where new connections go while the quorum is missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sorry_server: Option<SorryServer>,
    /// In file order.
    pub real_servers: Vec<RealServer>,
}

/// The quorum of a service in [`Status`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Quorum {
    /// The live weight that is wanted.
    pub up: u64,
    /// By how much it may be missed, and has to be passed.
    pub hysteresis: u64,
}

/// The sorry server of a service in [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SorryServer {
    /// Its address.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// It gets the new connections now.
    pub in_use: bool,
    /// Connections that IPVS counts as active.
    pub active_connections: u64,
    /// The others.
    pub inactive_connections: u64,
    /// Connections since it was added.
    pub connections: u64,
}

/// A real server in [`Status`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RealServer {
    /// Its address.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// Weight of the configuration.
    pub weight: u32,
    /// Weight after health and admin state.
    pub effective_weight: u32,
    /// `up`, `down`, `drain`, `disabled` or `unchecked`.
    pub state: String,
    /// Connections that IPVS counts as active.
    pub active_connections: u64,
    /// The others.
    pub inactive_connections: u64,
    /// Connections since it was added.
    pub connections: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Packets to clients, where the data plane sees them.
    pub packets_out: u64,
    /// Bytes to clients, where the data plane sees them.
    pub bytes_out: u64,
    /// How much of its weight it has while it comes back slowly; `None` is all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slow_start_percent: Option<u8>,
    /// The last probe, of several checks the one that fails; `None` when it is not checked.
    pub check: Option<Check>,
    /// The last probe of every check, those that fail first; empty when there is only one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub checks: Vec<Check>,
}

/// The last probe of a real server.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Check {
    /// HAProxy's name of the result: L4OK, L4CON, L4TOUT, L6TOUT, L6RSP, L7OK, L7TOUT, L7RSP,
    /// L7STS, PROCOK, PROCERR, PROCTOUT; INI before the first one, SOCKERR when this host could
    /// not ask.
    pub status: String,
    /// Status code of the protocol or exit code of the command, where there is one.
    pub code: Option<u16>,
    /// How long it took.
    pub duration_ms: u64,
    /// Why.
    pub detail: String,
    /// When the state last changed, in seconds since 1970; `None` when it has not since the
    /// daemon began to probe.
    pub last_change: Option<u64>,
    /// HAProxy's `UP 2/3` and `DOWN 1/2`: of a server that is up, failures left until it is down;
    /// of one that is down, successes so far.
    pub count: u32,
    /// `fall` of a server that is up, `rise` of one that is down.
    pub of: u32,
    /// Probes that have ended.
    pub probes: u64,
}

/// A server that was drained, enabled, disabled, given a weight, added or removed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Steered {
    /// `service/address:port`.
    pub target: String,
    /// `tcp` or `udp`; `tcp` when the service has both.
    pub protocol: String,
    /// Its state by now, as in [`RealServer`]; `removed` when it is not there any more.
    pub state: String,
    /// Its weight by now.
    pub weight: u32,
    /// Its share of new connections by now.
    pub effective_weight: u32,
    /// Connections that IPVS counts as active.
    pub active_connections: u64,
    /// The others.
    pub inactive_connections: u64,
    /// It holds over reloads and restarts.
    pub kept: bool,
}

/// The last things that happened, oldest first.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Events {
    /// At most 256.
    pub events: Vec<Event>,
}

/// Something that happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Event {
    /// When, as RFC 3339.
    pub time: String,
    /// `real_server`, `virtual_service`, `vrrp` or `config`.
    pub kind: String,
    /// Of what.
    pub name: String,
    /// The state that it entered.
    pub state: String,
    /// Why, for people.
    pub reason: String,
}

/// `lb stats`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Stats {
    /// L4 services in file order.
    pub services: Vec<ServiceStats>,
    /// Dropped packets by reason.
    pub drops: BTreeMap<String, u64>,
    /// Packets that were forwarded without an entry for their connection, by reason.
    pub without_entry: BTreeMap<String, u64>,
    /// What else the data plane counts.
    pub notes: BTreeMap<String, u64>,
    /// Differences that recounting the connection table found; 0 is right.
    pub drift: u64,
}

/// Counters of a service or a real server; they only grow while it exists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Counters {
    /// Connections.
    pub connections: u64,
    /// Packets from clients.
    pub packets_in: u64,
    /// Packets to clients, where the data plane sees them.
    pub packets_out: u64,
    /// Bytes from clients.
    pub bytes_in: u64,
    /// Bytes to clients, where the data plane sees them.
    pub bytes_out: u64,
}

/// [`Counters`] per second. What is not known has no key.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Rates {
    /// Connections.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connections: Option<f64>,
    /// Packets from clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packets_in: Option<f64>,
    /// Packets to clients, where the data plane sees them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub packets_out: Option<f64>,
    /// Bytes from clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_in: Option<f64>,
    /// Bytes to clients, where the data plane sees them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bytes_out: Option<f64>,
}

impl Rates {
    /// Whether nothing is known.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// A service in [`Stats`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceStats {
    /// Its name.
    pub name: String,
    /// Totals over its real servers.
    #[serde(flatten)]
    pub counters: Counters,
    /// Their change per second over the last interval; empty in a service's first seconds.
    pub rates: Rates,
    /// In file order.
    pub real_servers: Vec<RealServerStats>,
}

/// A real server in [`Stats`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct RealServerStats {
    /// Its address.
    pub address: String,
    /// Its port.
    pub port: u16,
    /// Its counters.
    #[serde(flatten)]
    pub counters: Counters,
    /// As in [`ServiceStats`].
    pub rates: Rates,
}

/// The last minutes of every service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// Seconds between two samples.
    pub interval_s: u64,
    /// L4 services in file order.
    pub services: Vec<ServiceHistory>,
}

/// A service in [`History`]: rates per second, oldest first, at most five minutes. A service that
/// was added later has fewer; the last ones of all services are of one time.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceHistory {
    /// Its name.
    pub name: String,
    /// Connections.
    pub connections: Vec<f32>,
    /// Packets from clients.
    pub packets_in: Vec<f32>,
    /// Bytes from clients.
    pub bytes_in: Vec<f32>,
    /// Bytes to clients, where the data plane sees them.
    pub bytes_out: Vec<f32>,
}

/// `lb connections`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Connections {
    /// At most as many as were asked for.
    pub connections: Vec<Connection>,
    /// How many there are.
    pub total: u64,
}

/// One entry of the connection table.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Connection {
    /// Name of the service.
    pub service: String,
    /// `tcp` or `udp`.
    pub protocol: String,
    /// `ip:port`.
    pub client: String,
    /// `ip:port`.
    #[serde(rename = "virtual")]
    pub virtual_address: String,
    /// `ip:port`.
    pub real: String,
    /// IPVS's name of the state.
    pub state: String,
    /// What is special about it.
    pub flags: Vec<String>,
    /// Seconds until it is forgotten.
    pub expires_s: u64,
}

/// `lb reload` that was applied.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reload {
    /// Changes that were made; 0 when the file asks for what is there.
    pub changes: u64,
    /// What the file asks for that deserves attention.
    pub warnings: Vec<String>,
}

/// `lb reopen-logs` that was done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Reopened {
    /// Every target of the log.
    pub targets: Vec<String>,
}

/// `lb bans`; also what `lb ban` is answered with, the new ban alone.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Bans {
    /// The deny list, by address.
    pub bans: Vec<Ban>,
}

/// A prefix whose packets are dropped.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Ban {
    /// `IP/LEN`.
    pub prefix: String,
    /// `config`: it is in the file; `manual`: it was banned at run time.
    pub reason: String,
    /// Seconds until it ends, rounded up; 0 is never.
    pub expires_s: u64,
    /// Packets that it dropped.
    pub packets: u64,
}

/// `lb unban` that was done.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Lifted {
    /// `IP/LEN`.
    pub prefix: String,
    /// What denies it all the same: the file, or a shorter prefix.
    pub denied_by: Option<String>,
}

/// `lb explain`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Explanation {
    /// `forward`, `drop` or `pass` (to the stack).
    pub verdict: String,
    /// Name of the service; empty when there is none.
    pub service: String,
    /// ipvsadm's name of its scheduler.
    pub scheduler: String,
    /// What happened, in order.
    pub steps: Vec<String>,
    /// `ip:port`; empty when there is none.
    pub real_server: String,
    /// The frame as it leaves or goes to the stack, in hexadecimal digits; empty when it is dropped.
    pub packet: String,
}

/// A request that was refused.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Error {
    /// What is wrong, in one line.
    pub error: String,
    /// `FILE:LINE:COL: PATH: message` each, when a file is wrong.
    pub errors: Vec<String>,
}

/// `ip:port`, with brackets around an IPv6 address.
pub fn endpoint(address: &str, port: u16) -> String {
    if address.contains(':') { format!("[{address}]:{port}") } else { format!("{address}:{port}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_keys_are_those_of_the_contract() {
        let status = Status {
            virtual_services: vec![VirtualService {
                real_servers: vec![RealServer {
                    check: Some(Check::default()),
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        };
        let json = serde_json::to_string(&status).expect("JSON");
        let expected = concat!(
            r#"{"node":"","version":"","dataplane":{"mode":"","interfaces":[],"#,
            r#""connections":{"used":0,"capacity":0},"warnings":[]},"health":{"targets":0},"#,
            r#""virtual_services":[{"name":"","listen":[],"scheduler":"","forwarding":"","state":"","#,
            r#""connections":0,"live_weight":0,"quorum":{"up":0,"hysteresis":0},"#,
            r#""real_servers":[{"address":"","port":0,"weight":0,"#,
            r#""effective_weight":0,"state":"","active_connections":0,"inactive_connections":0,"#,
            r#""connections":0,"packets_in":0,"bytes_in":0,"packets_out":0,"bytes_out":0,"#,
            r#""check":{"status":"","code":null,"duration_ms":0,"detail":"","last_change":null,"#,
            r#""count":0,"of":0,"probes":0}}]}],"#,
            r#""vrrp":[],"frontends":[],"backends":[],"config_path":""}"#,
        );
        assert_eq!(json, expected);
        let stats = Stats { services: vec![ServiceStats::default()], ..Default::default() };
        let json = serde_json::to_string(&stats).expect("JSON");
        let expected = concat!(
            r#"{"services":[{"name":"","connections":0,"packets_in":0,"packets_out":0,"#,
            r#""bytes_in":0,"bytes_out":0,"rates":{},"real_servers":[]}],"#,
            r#""drops":{},"without_entry":{},"notes":{},"drift":0}"#,
        );
        assert_eq!(json, expected);
        let json = serde_json::to_string(&Connection::default()).expect("JSON");
        let expected = concat!(
            r#"{"service":"","protocol":"","client":"","virtual":"","real":"","state":"","#,
            r#""flags":[],"expires_s":0}"#,
        );
        assert_eq!(json, expected);
    }

    #[test]
    fn rates_and_history_have_the_keys_of_the_contract() {
        let rates = Rates { connections: Some(1.5), bytes_out: Some(2.0), ..Rates::default() };
        let json = serde_json::to_string(&rates).expect("JSON");
        assert_eq!(json, r#"{"connections":1.5,"bytes_out":2.0}"#);
        let service = ServiceHistory { connections: vec![0.2, 3.0], ..Default::default() };
        let history = History { interval_s: 5, services: vec![service] };
        let json = serde_json::to_string(&history).expect("JSON");
        let expected = concat!(
            r#"{"interval_s":5,"services":[{"name":"","connections":[0.2,3.0],"packets_in":[],"#,
            r#""bytes_in":[],"bytes_out":[]}]}"#,
        );
        assert_eq!(json, expected);
    }

    #[test]
    fn bans_have_the_keys_of_the_contract() {
        let bans = Bans { bans: vec![Ban::default()] };
        let json = serde_json::to_string(&bans).expect("JSON");
        assert_eq!(json, r#"{"bans":[{"prefix":"","reason":"","expires_s":0,"packets":0}]}"#);
    }

    #[test]
    fn an_explanation_has_the_keys_of_the_contract() {
        let json = serde_json::to_string(&Explanation::default()).expect("JSON");
        let expected = concat!(
            r#"{"verdict":"","service":"","scheduler":"","steps":[],"real_server":"","#,
            r#""packet":""}"#
        );
        assert_eq!(json, expected);
    }

    #[test]
    fn an_older_daemons_document_without_a_key_is_read() {
        let status: Status = serde_json::from_str(r#"{"node":"lb01","news":1}"#).expect("read");
        assert_eq!(status.node, "lb01");
    }
}
