//! What the maps are to hold: the file, health and the neighbours, in the planner's words.
//!
//! The controller computes it anew for each plan; [`super::Planner`] finds out what changed.
//!
//! Must not know: why a weight or a next hop is what it is, indices of real servers that stay.

use std::collections::BTreeMap;

use lb_common::conn::Timeouts;
use lb_common::pod::Address;
use lb_common::service::{Interface, ServiceKey};
use lb_common::wire::Link;

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
    /// New next hops of real servers that left the file and still have connections, by index (see
    /// [`super::Planner::leaving`]). One that is not named keeps what it has.
    pub leaving_hops: BTreeMap<u32, Option<Link>>,
    /// The file's deny list. What was banned at run time is no part of it and stays.
    pub deny: Prefixes,
    /// The file's allow list.
    pub allow: Prefixes,
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
    /// Whether it counts for the size of the Maglev table. True for every server of the file,
    /// healthy or not: the size must not follow health.
    pub configured: bool,
    /// Next hop; `None` while it is not known.
    pub next_hop: Option<Link>,
    /// Its connections are to be expired: its check failed and `on_failure` is remove. Acted on
    /// once, when it turns true.
    pub expire: bool,
}
