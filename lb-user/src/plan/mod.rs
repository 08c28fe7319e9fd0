//! From what is wanted to what has to be written: the only way into the maps.
//!
//! [`Planner::plan`] compares [`Wanted`] with what is [`Installed`] and gives a [`Plan`]: operations
//! that may be stopped after any one of them without a packet going wrong. When they are written,
//! [`Planner::commit`] takes them over. Nothing is ever flushed: a server that leaves the file keeps
//! its element, and so its connections, until the caller says that it has none any more.
//!
//! Must not know: aya, errors of the kernel, clocks.

mod diff;
mod installed;
mod lists;
mod op;
mod reach;
mod regions;
pub mod sweep;
#[cfg(test)]
mod tests;
mod wanted;

use std::collections::{BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use lb_common::abi::{MAX_PREFIXES, MAX_REAL_SERVERS, MAX_SERVICES, MAX_SLOTS};
use lb_common::pod::Address;
use lb_common::service::{
    METHOD_DR, METHOD_NAT, METHOD_TUNNEL, RS_VALID, RealServer, Region, ServiceKey,
};
use lb_common::wire::{TCP, UDP};

pub use installed::{Defect, Installed, Parts, Settings, Table, next_generation};
pub use lists::{Denial, List};
pub use op::{MapOp, apply};
pub use regions::Regions;
pub use wanted::{Path, VirtualMac, Wanted, WantedServer, WantedService};

use crate::model::{Prefix, Scheduler};
use crate::sched::maglev::{self, Identity};
use lists::Lists;

/// How much the maps hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Listen keys, and service ids.
    pub services: u32,
    /// Real servers, those that are leaving included.
    pub real_servers: u32,
    /// Entries of all slot tables.
    pub slots: u32,
    /// Prefixes of one family in one access list, those that a plan removes included.
    pub prefixes: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            services: MAX_SERVICES,
            real_servers: MAX_REAL_SERVERS,
            slots: MAX_SLOTS,
            prefixes: MAX_PREFIXES,
        }
    }
}

/// Why there is no plan. What is installed stays in force as a whole.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Two services, or one twice, listen on the same key.
    #[error("{listen} is listened on twice")]
    DuplicateListen {
        /// The key.
        listen: String,
    },
    /// A service has a real server twice.
    #[error("service {service} has the real server {server} twice")]
    DuplicateServer {
        /// The service's first listen key.
        service: String,
        /// The server.
        server: SocketAddr,
    },
    /// Too many listen keys, those that this plan would remove included.
    #[error(
        "{needed} listen addresses do not fit into {capacity}, those that are being replaced \
         included; remove some, or replace them in several steps"
    )]
    ServicesExhausted {
        /// Keys before and after together.
        needed: usize,
        /// What fits.
        capacity: u32,
    },
    /// No element is free for a real server.
    #[error(
        "service {service} has a real server too many: {capacity} fit, of which {leaving} have \
         left the file and still have connections; remove real servers or wait for those"
    )]
    RealServersExhausted {
        /// The service's first listen key.
        service: String,
        /// What fits.
        capacity: u32,
        /// Servers that left and keep their element.
        leaving: usize,
    },
    /// No run of slots is long enough for a table.
    #[error(
        "no room for the {needed} slots of a table of service {service} ({available} are free in \
         all): use smaller or fewer distinct weights, or fewer services or real servers"
    )]
    SlotsExhausted {
        /// The service's first listen key.
        service: String,
        /// Slots of the table.
        needed: u32,
        /// Free slots over all.
        available: u64,
    },
    /// Too many prefixes in an access list.
    #[error(
        "{needed} prefixes of one family do not fit into the {capacity} of the {list} list, those \
         that were banned or are being replaced included; merge some, or lift bans"
    )]
    PrefixesExhausted {
        /// The list.
        list: List,
        /// Prefixes before and after together.
        needed: usize,
        /// What fits.
        capacity: u32,
    },
}

/// What a plan does, for logs.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// New services, by first listen key.
    pub services_added: Vec<ServiceKey>,
    /// Services that left, by one of the keys they had.
    pub services_removed: Vec<ServiceKey>,
    /// Services whose own entries change, by first listen key.
    pub services_changed: Vec<ServiceKey>,
    /// Real servers that are taken into use, with their index.
    pub servers_added: Vec<(u32, Identity)>,
    /// Real servers that left the file and keep their connections.
    pub servers_left: Vec<(u32, Identity)>,
    /// Real servers whose element changes: next hop, timeouts or expiry.
    pub servers_changed: Vec<(u32, Identity)>,
    /// Real servers that left earlier and whose element is given back.
    pub servers_retired: Vec<(u32, Identity)>,
    /// Prefixes that the file adds to access lists.
    pub prefixes_added: usize,
    /// Prefixes that are no longer in the file's access lists.
    pub prefixes_removed: usize,
}

/// Operations, and what they make of the planner. Dropped, it changes nothing.
#[derive(Debug)]
pub struct Plan {
    /// What to write, in this order.
    pub ops: Vec<MapOp>,
    /// The same in words.
    pub changes: Changes,
    regions: Regions,
    cached: Vec<(ServiceKey, Cached)>,
    forgotten: Vec<ServiceKey>,
    leaving: BTreeSet<u32>,
    fresh: u32,
    /// The access lists that the plan makes.
    lists: Lists,
}

/// Makes plans, and remembers what earlier ones have installed.
#[derive(Clone, Debug)]
pub struct Planner {
    limits: Limits,
    installed: Installed,
    regions: Regions,
    /// Elements in use by whose they are.
    indices: HashMap<Owner, u32>,
    /// Elements in use that no service of the last plan has.
    leaving: BTreeSet<u32>,
    /// Whether a plan was committed, so that no table names a server in `leaving`.
    settled: bool,
    /// Services as last planned, by first listen key.
    cache: HashMap<ServiceKey, Cached>,
    /// No element below was never used.
    fresh: u32,
    /// The access lists of the last plan that was carried out as a whole.
    lists: Option<Lists>,
}

/// Whose element of `real_servers` it is. A server that changes any of this is another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Owner {
    service: u32,
    address: Address,
    port: u16,
    method: u8,
}

impl Owner {
    fn of(server: &RealServer) -> Self {
        Self {
            service: server.service,
            address: server.address,
            port: server.port,
            method: server.method,
        }
    }
}

/// A service as last planned.
#[derive(Clone, Debug)]
struct Cached {
    wanted: WantedService,
    id: u32,
    /// Its elements.
    indices: Vec<u32>,
    inputs: TableInputs,
}

/// All that a service's tables are made from.
#[derive(Clone, Debug, PartialEq, Eq)]
struct TableInputs {
    scheduler: Scheduler,
    size: u32,
    members: Vec<maglev::Server>,
}

impl Planner {
    /// A planner for maps with this content: empty ones, or adopted ones.
    pub fn new(installed: Installed, limits: Limits) -> Self {
        let mut regions = Regions::new(limits.slots);
        for (base, table) in &installed.slots {
            regions.reserve(Region { base: *base, len: table.slots.len() as u32 });
        }
        let mut indices = HashMap::new();
        for (index, server) in &installed.real_servers {
            indices.entry(Owner::of(server)).or_insert(*index);
        }
        let leaving = installed.real_servers.keys().copied().collect();
        Self {
            limits,
            installed,
            regions,
            indices,
            leaving,
            settled: false,
            cache: HashMap::new(),
            fresh: 0,
            lists: None,
        }
    }

    /// What the maps hold.
    pub fn installed(&self) -> &Installed {
        &self.installed
    }

    /// Indices of real servers that left the file and keep their element. Before the first commit
    /// these are all that were adopted.
    pub fn leaving(&self) -> &BTreeSet<u32> {
        &self.leaving
    }

    /// The index of a real server of the service that listens on `key`.
    pub fn index_of(&self, key: &ServiceKey, address: &Address, port: u16) -> Option<u32> {
        let cached = self.installed.services.get(key)?;
        let server = |method| Owner { service: cached.id, address: *address, port, method };
        let found = [METHOD_DR, METHOD_NAT, METHOD_TUNNEL]
            .into_iter()
            .filter_map(|method| self.indices.get(&server(method)))
            .copied();
        // One that changed its method has two: the one that is not leaving is meant.
        found.min_by_key(|index| self.leaving.contains(index))
    }

    /// What has to be written so that the maps hold what is wanted. Of those in
    /// [`Planner::leaving`], the real servers in `idle` are given back: the caller looked for
    /// connections of theirs after the commit that made them leave, and found none.
    pub fn plan(&self, wanted: &Wanted, idle: &BTreeSet<u32>) -> Result<Plan, PlanError> {
        diff::Draft::new(self, wanted).finish(idle)
    }

    /// What bans a prefix until `until`, in jiffies; 0 is until it is lifted. [`Planner::carried`]
    /// takes it over when it was written.
    ///
    /// # Errors
    /// When the list is full.
    pub fn ban(&self, prefix: Prefix, until: u64) -> Result<MapOp, PlanError> {
        lists::ban(&self.installed, prefix, until, self.limits.prefixes)
    }

    /// What lifts a ban; `None` when there is none. The file's own entry stays.
    pub fn unban(&self, prefix: Prefix) -> Option<MapOp> {
        lists::unban(&self.installed, prefix)
    }

    /// What removes the bans that were over before `now`, in jiffies.
    pub fn expired_bans(&self, now: u64) -> Vec<MapOp> {
        lists::expired(&self.installed, now)
    }

    /// Takes over an operation that was written outside a plan.
    pub fn carried(&mut self, op: &MapOp) {
        self.installed.apply(op, &mut Vec::new());
    }

    /// Takes a plan over after all of it was written.
    pub fn commit(&mut self, plan: Plan) {
        let mut freed = Vec::new();
        plan.ops.iter().for_each(|op| self.write(op, &mut freed));
        self.regions = plan.regions;
        freed.into_iter().for_each(|region| self.regions.set_aside(region));
        plan.forgotten.iter().for_each(|key| drop(self.cache.remove(key)));
        self.cache.extend(plan.cached);
        self.leaving = plan.leaving;
        self.fresh = plan.fresh;
        self.lists = Some(plan.lists);
        self.settled = true;
    }

    /// Takes the first `written` operations of a plan over, after the next one failed. The next
    /// plan compares everything anew and does what is missing.
    pub fn commit_part(&mut self, plan: &Plan, written: usize) {
        let mut freed = Vec::new();
        plan.ops.iter().take(written).for_each(|op| self.write(op, &mut freed));
        let mut installed = std::mem::take(&mut self.installed);
        installed.slots.retain(|_, table| table.uses > 0);
        *self = Self::new(installed, self.limits);
        for region in freed {
            for taken in self.regions.reserve(region) {
                self.regions.set_aside(taken);
            }
        }
    }

    fn write(&mut self, op: &MapOp, freed: &mut Vec<Region>) {
        if let MapOp::SetRealServer { index, value } = op {
            if let Some(old) = self.installed.real_servers.get(index) {
                let owner = Owner::of(old);
                if self.indices.get(&owner) == Some(index) {
                    self.indices.remove(&owner);
                }
            }
            if value.flags & RS_VALID != 0 {
                self.indices.entry(Owner::of(value)).or_insert(*index);
            }
        }
        self.installed.apply(op, freed);
    }
}

/// A listen key as the file has it.
pub fn listen_name(key: &ServiceKey) -> String {
    let socket = socket_address(&key.address, key.port);
    match key.protocol {
        TCP => format!("{socket}/tcp"),
        UDP => format!("{socket}/udp"),
        other => format!("{socket}/{other}"),
    }
}

fn socket_address(address: &Address, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::from(*address)).to_canonical(), port)
}
