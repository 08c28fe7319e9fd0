//! What the maps are to hold: the file, health and the neighbours, in the planner's words.
//!
//! The controller computes it anew for each plan; [`super::Planner`] finds out what changed.
//!
//! Must not know: why a weight or a next hop is what it is, indices of real servers that stay.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::conn::Timeouts;
use lb_common::pod::Address;
use lb_common::service::{Interface, ServiceKey};
use lb_common::wire::Link;
use lb_common::wire::vrrp::{self, Family};

use super::installed::Settings;
use crate::model::{Prefixes, Scheduler};

/// Everything that user space wants in the maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wanted {
    /// Virtual services; no listen key may stand in two of them.
    pub services: Vec<WantedService>,
    /// Timeouts by profile. A profile that is not named keeps what it has: real servers that left
    /// the file may still use it.
    pub timeouts: Vec<(u32, Timeouts)>,
    /// Settings of the program.
    pub settings: Settings,
    /// Interfaces by index; one that is not named becomes unknown.
    pub interfaces: BTreeMap<u32, Interface>,
    /// Virtual MAC addresses that are served: those of the virtual routers that this node is master
    /// of. One that is not named is left to whoever is.
    pub virtual_macs: BTreeSet<VirtualMac>,
    /// The file's deny list. What was banned at run time is no part of it and stays.
    pub deny: Prefixes,
    /// The file's allow list.
    pub allow: Prefixes,
    /// New next hops and paths of real servers that left the file and still have connections, by
    /// index (see [`super::Planner::leaving`]). One that is not named keeps what it has.
    pub leaving_hops: BTreeMap<u32, (Option<Link>, Path)>,
}

/// The MAC address of a virtual router (RFC 9568 7.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VirtualMac {
    /// The router's address family.
    pub family: Family,
    /// Its identifier.
    pub vrid: u8,
}

impl VirtualMac {
    /// Its index in `virtual_macs`.
    pub fn index(self) -> u32 {
        vrrp::index(self.family, self.vrid)
    }

    /// The one with this index.
    pub fn of_index(index: u32) -> Self {
        let (family, vrid) = vrrp::of_index(index);
        Self { family, vrid }
    }
}

/// A virtual service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WantedService {
    /// What clients connect to; at least one key.
    pub listen: Vec<ServiceKey>,
    /// How a new connection chooses its real server.
    pub scheduler: Scheduler,
    /// `METHOD_*`.
    pub method: u8,
    /// Both ends of a server's connections get an RST when those are expired, which they also are
    /// when it leaves the file (nat).
    pub reset: bool,
    /// Tunnels lower the MSS of connections to what fits.
    pub mss_clamp: bool,
    /// `SERVICE_*` flags beyond those that follow from the scheduler.
    pub flags: u32,
    /// Timeout profile.
    pub timeouts: u32,
    /// Real servers; no address and port may stand there twice.
    pub servers: Vec<WantedServer>,
}

/// A real server of a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WantedServer {
    /// Its address.
    pub address: Address,
    /// Its port, host order.
    pub port: u16,
    /// Effective weight; 0 gets no new connections and keeps those it has.
    pub weight: u32,
    /// Its weight in tables that do not follow the effective one: the configured weight as long as
    /// it has its place there, healthy or not; `None` when it is out.
    pub place: Option<u32>,
    /// Whether it counts for the size of the Maglev table. True for every server of the file,
    /// healthy or not: the size must not follow health.
    pub configured: bool,
    /// Next hop; `None` while it is not known.
    pub next_hop: Option<Link>,
    /// The path to it.
    pub path: Path,
    /// Its connections are to be expired: its check failed and `on_failure` is remove. Acted on
    /// once, when it turns true.
    pub expire: bool,
}

/// What is known of the path to a real server, beside its next hop.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// Largest packet on it, from the IP header on; 0 is unknown.
    pub mtu: u32,
    /// Our address on it; all zero is unknown.
    pub source: Address,
}
