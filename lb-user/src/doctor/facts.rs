//! What is known of a host before it is judged: plain values, as they were read.
//!
//! Must not know: what they mean, how they were read.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use crate::controller::preflight;
use crate::model::Protocol;
use crate::netlink::{Address, LinkTable, Neighbour, XdpMode};

/// Everything that was read.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    /// What `lb check` finds.
    pub preflight: Vec<preflight::Finding>,
    /// The running daemon, if one answers.
    pub daemon: Option<Daemon>,
    /// The kernel.
    pub kernel: Kernel,
    /// The interfaces that XDP is attached to, by name.
    pub interfaces: BTreeMap<String, Interface>,
    /// All interfaces of this network namespace.
    pub links: LinkTable,
    /// All addresses of this network namespace.
    pub addresses: Vec<Address>,
    /// Settings by their key, as `sysctl` prints them; those that do not exist are left out.
    pub settings: BTreeMap<String, String>,
    /// Where packets to each real server go.
    pub ways: BTreeMap<IpAddr, Way>,
    /// All neighbours.
    pub neighbours: Vec<Neighbour>,
    /// The wall clock.
    pub clock: Clock,
    /// What is pinned.
    pub pins: Pins,
    /// Local sockets that wait for connections or packets.
    pub listeners: Vec<(Protocol, SocketAddr)>,
    /// What drops VRRP on this host, in words; empty when no rule was found that does.
    pub filters: Vec<String>,
}

/// The daemon that answers on the socket.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Daemon {
    /// Its process, if the socket tells.
    pub pid: Option<i32>,
    /// Its version.
    pub version: String,
    /// File descriptors that it may have.
    pub files: Option<u64>,
    /// What it warns of.
    pub warnings: Vec<String>,
    /// States of its VRRP instances by name.
    pub vrrp: BTreeMap<String, String>,
    /// Connections in its table, and how many fit.
    pub connections: (u64, u64),
}

/// The kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Kernel {
    /// `uname -r`.
    pub release: String,
    /// It describes its types (/sys/kernel/btf/vmlinux).
    pub btf: bool,
    /// CPUs that this process may run on.
    pub cpus: u64,
}

/// An interface that XDP is attached to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Interface {
    /// How a program is attached by now, if one is.
    pub xdp: Option<XdpMode>,
    /// Its driver, as ethtool names it; empty when ethtool could not be asked.
    pub driver: String,
    /// Offloads by their name in `ethtool -k`.
    pub offloads: BTreeMap<String, Offload>,
    /// Receive queues in use, and how many the driver could have; `None` when it does not tell.
    pub queues: Option<(u64, u64)>,
}

/// An offload of an interface.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offload {
    /// It is on.
    pub on: bool,
    /// The driver does not let it be changed.
    pub fixed: bool,
}

/// Where packets to a real server go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Way {
    /// The outgoing interface, if there is a route.
    pub interface: Option<String>,
    /// The next hop on it.
    pub next_hop: IpAddr,
    /// Largest packet on the way out.
    pub mtu: Option<u32>,
    /// Why packets cannot be sent there; `None` when they can, or nobody has tried.
    pub trouble: Option<String>,
}

/// The wall clock.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Clock {
    /// Since 1970.
    pub now: Duration,
    /// The kernel's clock is disciplined; `None` when nobody could say.
    pub synchronised: Option<bool>,
}

/// What is pinned below the pin path.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pins {
    /// Version directories that are there.
    pub versions: Vec<String>,
    /// A daemon holds them.
    pub in_use: bool,
}
