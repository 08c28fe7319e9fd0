//! The desired state in domain words: what the YAML file means once it is validated.
//!
//! `config` produces a [`Director`]; the controller owns the current one and turns it into map
//! operations. Values are plain data with every default applied, so nobody after `config` has to
//! know what a missing key means.
//!
//! Must not know: serde, YAML, files, BPF, tokio.

mod admin;
mod check;
mod check_kind;
mod life;
mod log;
mod prefix;
mod vrrp;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

pub use admin::{Admin, AdminHttp, Certificate, Role, ServerTls, TlsVersion, User};
pub use check::{CheckKind, Flap, HealthCheck, HttpCheck, Pattern, TlsCheck, Via, Way};
pub use check_kind::{
    Digest, DnsCheck, ExecCheck, GrpcCheck, HexPattern, SmtpCheck, UdpCheck, hex,
};
pub use life::{AdminState, Quorum, ServiceNotify, SorryServer};
pub use log::{Facility, Log, LogFormat, LogLevel, LogSink, LogTarget, Severity, SyslogAddress};
pub use prefix::Prefix;
pub use vrrp::{
    Email, Garp, InitialState, Notifications, Password, Script, SyncGroup, Track, Unicast, Vrrp,
    VrrpInstance, VrrpNotify, VrrpVersion, Weighted,
};

/// Everything one configuration file asks of this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Director {
    /// Name of this node in logs and in `lb status`; the host name unless the file says otherwise.
    pub node: String,
    /// The XDP plane; `None` means that no BPF is needed at all.
    pub dataplane: Option<Dataplane>,
    /// L4 services in file order.
    pub virtual_services: Vec<VirtualService>,
    /// Who owns virtual addresses.
    pub vrrp: Vrrp,
    /// Who is told of transitions.
    pub notifications: Notifications,
    /// Where the CLI reaches the daemon.
    pub admin: Admin,
    /// What is logged, and how.
    pub log: Log,
}

/// The `dataplane` section.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataplane {
    /// Interfaces that XDP is attached to, by name.
    pub interfaces: Vec<String>,
    /// How XDP is attached.
    pub mode: AttachMode,
    /// Directory on a bpffs that holds maps and links.
    pub pin_path: PathBuf,
    /// Capacity of the connection table in connections.
    pub connections: u32,
    /// How long an idle connection is remembered.
    pub timeouts: Timeouts,
    /// New flows per second and core above which flows get no entry; 0 is never.
    pub new_connections_per_second: u32,
    /// Sources whose packets are dropped.
    pub deny: Prefixes,
    /// Unless empty, the only sources that reach virtual addresses.
    pub allow: Prefixes,
    /// How a nat reply finds its way back to the client.
    pub replies: Replies,
    /// Addresses added at start and removed at stop.
    pub addresses: Vec<OwnedAddress>,
}

/// An access list. Shared, because it may be long and is compared often.
pub type Prefixes = Arc<BTreeSet<Prefix>>;

/// How XDP is attached to an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AttachMode {
    /// In the driver, or the start is refused.
    Native,
    /// In the stack, on skbs; works on every interface and is slower.
    Generic,
    /// Native where the driver has it, else generic with a warning.
    Auto,
}

/// Where nat replies are sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replies {
    /// To the neighbour that the request came from ("auto last hop").
    LastHop,
    /// Where the routing table says, as IPVS does.
    Route,
}

/// Idle times after which a connection is forgotten (ipvsadm `--set` and the kernel's tables).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// ESTABLISHED.
    pub tcp: Duration,
    /// SYN_RECV, and a flow picked up in its middle until its second packet.
    pub tcp_syn: Duration,
    /// FIN_WAIT.
    pub tcp_fin: Duration,
    /// UDP.
    pub udp: Duration,
}

impl Default for Timeouts {
    /// IPVS's values: 15 min, 60 s, 2 min and 5 min.
    fn default() -> Self {
        Self {
            tcp: Duration::from_secs(15 * 60),
            tcp_syn: Duration::from_secs(60),
            tcp_fin: Duration::from_secs(2 * 60),
            udp: Duration::from_secs(5 * 60),
        }
    }
}

/// An address that the daemon puts on an interface while it runs.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnedAddress {
    /// The address.
    pub address: IpAddr,
    /// Its prefix length; 32 or 128 when the file gives none.
    pub prefix_len: u8,
    /// The interface by name.
    pub interface: String,
}

/// An L4 service: one or several `address:port/protocol` that share real servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualService {
    /// Unique name.
    pub name: String,
    /// What clients connect to.
    pub listen: Vec<Listen>,
    /// How a new connection chooses its real server.
    pub scheduler: Scheduler,
    /// How sh and mh hash.
    pub hash: Hash,
    /// How packets reach the real server.
    pub forwarding: ForwardingMethod,
    /// How its tunnels are made; without a meaning for other methods.
    pub tunnel: Tunnel,
    /// What becomes of a real server's connections when its check fails.
    pub on_failure: OnFailure,
    /// Both ends of a removed real server's TCP connections get an RST; nat only.
    pub reset_on_removal: bool,
    /// Real servers in file order.
    pub real_servers: Vec<RealServer>,
    /// What a real server has that is added at run time.
    pub added_server: AddedServer,
    /// When it is up.
    pub quorum: Quorum,
    /// Who is told of transitions.
    pub notify: ServiceNotify,
    /// Where new connections go while the quorum is missing.
    pub sorry_server: Option<SorryServer>,
    /// How long a server that came back takes to get its whole share; zero is at once.
    pub slow_start: Duration,
}

/// What the file says of every real server of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddedServer {
    /// Its weight.
    pub weight: u32,
    /// How it is probed.
    pub health_checks: Vec<HealthCheck>,
}

/// One virtual address, port and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Listen {
    /// The virtual address (VIP).
    pub address: IpAddr,
    /// The port, in host order.
    pub port: u16,
    /// TCP or UDP.
    pub protocol: Protocol,
}

/// Transport protocol of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Protocol {
    /// RFC 9293.
    Tcp,
    /// RFC 768.
    Udp,
}

/// Choice of a real server for a new connection, in ipvsadm's names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheduler {
    /// Round robin over every real server of weight above 0.
    Rr,
    /// Round robin in proportion to the weights.
    Wrr,
    /// The real server with the fewest connections.
    Lc,
    /// The real server with the fewest connections for its weight.
    Wlc,
    /// By a hash of the source.
    Sh,
    /// By a hash of the source in a Maglev table.
    Mh,
}

impl Scheduler {
    /// Its name, ipvsadm's.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rr => "rr",
            Self::Wrr => "wrr",
            Self::Lc => "lc",
            Self::Wlc => "wlc",
            Self::Sh => "sh",
            Self::Mh => "mh",
        }
    }

    /// Whether a flow's server follows from its source alone.
    pub const fn hashes(self) -> bool {
        matches!(self, Self::Sh | Self::Mh)
    }
}

/// Options of sh and mh (ipvsadm's `-b sh-port,sh-fallback`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Hash {
    /// The source's port counts as well as its address.
    pub port: bool,
    /// A flow whose server takes no new connections goes to another one; otherwise it is dropped.
    pub fallback: bool,
}

/// How packets reach a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ForwardingMethod {
    /// Direct routing: only the MAC addresses change; the real server answers the client itself.
    Dr,
    /// The destination is rewritten, and the source of the replies back.
    Nat,
    /// The packet gets another IP header; the real server takes it off and answers the client
    /// itself.
    Tunnel,
}

impl ForwardingMethod {
    /// Whether a real server of this port can serve a service by this method.
    ///
    /// # Errors
    /// In words.
    pub fn fits_port(self, service: u16, server: u16) -> Result<(), String> {
        let name = match self {
            Self::Dr => "dr",
            Self::Tunnel => "tunnel",
            Self::Nat => return Ok(()),
        };
        if server == service {
            return Ok(());
        }
        Err(format!("{name} keeps the packet's port: it must be the service's {service}"))
    }

    /// Whether a real server of this address can serve a service of a family by this method.
    ///
    /// # Errors
    /// In words.
    pub fn fits_family(self, service_is_ipv4: bool, server: IpAddr) -> Result<(), String> {
        if self == Self::Tunnel || service_is_ipv4 == server.is_ipv4() {
            return Ok(());
        }
        let (server, service) = if server.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
        Err(format!("an {server} server can serve an {service} service by tunnel only"))
    }
}

/// The `tunnel` key of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tunnel {
    /// The outer header.
    pub kind: TunnelKind,
    /// The MSS in a client's SYN is lowered to what fits the tunnel.
    pub mss_clamp: bool,
}

/// Kinds of tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TunnelKind {
    /// IP in IP, of any families (RFC 2003, RFC 2473, RFC 4213).
    Ipip,
}

impl Default for Tunnel {
    fn default() -> Self {
        Self { kind: TunnelKind::Ipip, mss_clamp: true }
    }
}

/// `on_failure`: what a failed check does beyond stopping new connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OnFailure {
    /// Connections of the server are expired, so that clients are told (IPVS expire_nodest_conn=1).
    Remove,
    /// Connections stay, as for weight 0 (keepalived inhibit_on_failure).
    Quiesce,
}

/// A server behind a virtual service (IPVS code: destination).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RealServer {
    /// Its address.
    pub address: IpAddr,
    /// Its port; the service's own for dr.
    pub port: u16,
    /// Configured weight; 0 quiesces: existing connections stay, new ones go elsewhere.
    pub weight: u32,
    /// What the operator wants of it.
    pub admin: AdminState,
    /// How it is probed: it is up while all of these are. None means that it is always taken to be
    /// up ("unchecked").
    pub health_checks: Vec<HealthCheck>,
}
