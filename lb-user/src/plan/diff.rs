//! One plan in the making: each service that changed is compared with what is installed.
//!
//! Services that are as the last plan had them are skipped; the rest is compared by content, so an
//! adopted state that fits gives no operation at all.
//!
//! Must not know: clocks, errors of the kernel.

mod free;
mod leaving;
mod scheduler;

use std::collections::{BTreeSet, HashSet};

use lb_common::encap;
use lb_common::service::{
    Interface, METHOD_NAT, METHOD_TUNNEL, RS_EXPIRED, RS_MSS_CLAMP, RS_NEXT_HOP, RS_RESET,
    RS_VALID, RealServer, Region, ServiceEntry, ServiceKey,
};
use lb_common::wire::Link;

use self::free::{FreeIndices, Ids};
use super::installed::is_generation;
use super::lists::Lists;
use super::op::{MapOp, Phases};
use super::{
    Cached, Changes, Owner, Path, Plan, PlanError, Planner, Regions, TableInputs, Wanted,
    WantedServer, WantedService, listen_name, next_generation, reach, socket_address,
};
use crate::sched::maglev::{self, Identity};

/// A service and its first listen key.
type Keyed<'a> = (ServiceKey, &'a WantedService);

/// A plan in the making.
pub(super) struct Draft<'a> {
    planner: &'a Planner,
    wanted: &'a Wanted,
    phases: Phases,
    changes: Changes,
    regions: Regions,
    ids: Ids,
    free: FreeIndices<'a>,
    /// Elements of the services that were compared.
    used: HashSet<u32>,
    cached: Vec<(ServiceKey, Cached)>,
}

impl<'a> Draft<'a> {
    pub(super) fn new(planner: &'a Planner, wanted: &'a Wanted) -> Self {
        let mut regions = planner.regions.clone();
        regions.release();
        Self {
            planner,
            wanted,
            phases: Phases::default(),
            changes: Changes::default(),
            regions,
            ids: Ids::default(),
            free: FreeIndices { planner, last: None, fresh: planner.fresh },
            used: HashSet::new(),
            cached: Vec::new(),
        }
    }

    pub(super) fn finish(mut self, idle: &BTreeSet<u32>) -> Result<Plan, PlanError> {
        let cache = &self.planner.cache;
        let (changed, forgotten) = self.sort_services()?;
        let same_keys = |(first, service): &(ServiceKey, &WantedService)| {
            cache.get(first).is_some_and(|cached| cached.wanted.listen == service.listen)
        };
        self.settings();
        let lists = self.lists()?;
        if self.planner.settled && forgotten.is_empty() && changed.iter().all(same_keys) {
            self.services(&changed)?;
        } else {
            let listens = self.listens()?;
            self.services(&changed)?;
            self.removed_services(&listens);
            let vips = listens.iter().map(|key| key.address).collect();
            reach::diff(&self.planner.installed, &vips, &mut self.phases);
        }
        let addresses = changed.iter().flat_map(|(_, service)| {
            // Replies of a nat server are met by its address.
            let servers = service.servers.iter().filter(|_| service.method == METHOD_NAT);
            let vips = service.listen.iter().map(|key| &key.address);
            vips.chain(servers.map(|server| &server.address))
        });
        reach::open(&self.planner.installed, addresses, &mut self.phases);
        let outdated = changed.iter().map(|(first, _)| first).chain(&forgotten);
        let leaving = self.leaving(outdated.filter_map(|first| cache.get(first)));
        let leaving = self.retire(leaving, idle);
        self.leaving_hops(&leaving);
        Ok(Plan {
            ops: self.phases.into_ops(),
            changes: self.changes,
            regions: self.regions,
            cached: self.cached,
            forgotten,
            leaving,
            fresh: self.free.fresh,
            lists,
        })
    }

    /// The services that are not as the last plan had them, and the first keys of those that are
    /// no more.
    fn sort_services(&mut self) -> Result<(Vec<Keyed<'a>>, Vec<ServiceKey>), PlanError> {
        let cache = &self.planner.cache;
        let mut changed = Vec::new();
        let mut firsts = HashSet::with_capacity(self.wanted.services.len());
        let mut known = 0;
        for service in &self.wanted.services {
            let Some(first) = service.listen.first() else {
                continue;
            };
            if !firsts.insert(*first) {
                return Err(PlanError::DuplicateListen { listen: listen_name(first) });
            }
            let cached = cache.get(first);
            known += usize::from(cached.is_some());
            match cached {
                Some(cached) if cached.wanted == *service => {
                    self.ids.claimed.insert(cached.id);
                }
                _ => changed.push((*first, service)),
            }
        }
        let mut forgotten = Vec::new();
        if known < cache.len() {
            forgotten.extend(cache.keys().filter(|first| !firsts.contains(first)));
        }
        Ok((changed, forgotten))
    }

    fn services(&mut self, changed: &[Keyed<'_>]) -> Result<(), PlanError> {
        changed.iter().try_for_each(|(first, service)| self.service(*first, service))
    }

    /// All listen keys; none stands there twice, and they fit in beside those installed.
    fn listens(&self) -> Result<HashSet<ServiceKey>, PlanError> {
        let mut listens = HashSet::with_capacity(self.wanted.services.len());
        for key in self.wanted.services.iter().flat_map(|service| &service.listen) {
            if !listens.insert(*key) {
                return Err(PlanError::DuplicateListen { listen: listen_name(key) });
            }
        }
        let installed = &self.planner.installed.services;
        let gone = installed.keys().filter(|key| !listens.contains(key)).count();
        let (needed, capacity) = (listens.len() + gone, self.planner.limits.services);
        if needed > capacity as usize {
            return Err(PlanError::ServicesExhausted { needed, capacity });
        }
        Ok(listens)
    }

    fn settings(&mut self) {
        let (installed, wanted) = (&self.planner.installed, self.wanted);
        let ops = &mut self.phases.settings;
        if wanted.settings != installed.settings {
            ops.push(MapOp::SetConfig(wanted.settings));
        }
        for (profile, value) in &wanted.timeouts {
            if installed.timeouts.get(profile) != Some(value) {
                ops.push(MapOp::SetTimeouts { profile: *profile, value: *value });
            }
        }
        for (ifindex, value) in &wanted.interfaces {
            let old = installed.interfaces.get(ifindex).copied().unwrap_or(Interface::zeroed());
            if old != *value {
                ops.push(MapOp::SetInterface { ifindex: *ifindex, value: *value });
            }
        }
        for ifindex in installed.interfaces.keys().filter(|i| !wanted.interfaces.contains_key(i)) {
            ops.push(MapOp::SetInterface { ifindex: *ifindex, value: Interface::zeroed() });
        }
        let (is, should) = (&installed.virtual_macs, &wanted.virtual_macs);
        ops.extend(
            is.symmetric_difference(should)
                .map(|mac| MapOp::SetVirtualMac { mac: *mac, served: should.contains(mac) }),
        );
    }

    /// Compares the access lists, unless they are those of the last plan.
    fn lists(&mut self) -> Result<Lists, PlanError> {
        let wanted = Lists::of(self.wanted);
        if self.planner.lists.as_ref().is_none_or(|last| !last.is_same(&wanted)) {
            let (installed, capacity) = (&self.planner.installed, self.planner.limits.prefixes);
            let (added, removed) = wanted.diff(installed, capacity, &mut self.phases)?;
            self.changes.prefixes_added = added;
            self.changes.prefixes_removed = removed;
        }
        Ok(wanted)
    }

    /// Compares one service.
    fn service(&mut self, first: ServiceKey, service: &WantedService) -> Result<(), PlanError> {
        let (id, old) = self.id(service)?;
        let (indices, members) = self.servers(id, service)?;
        let configured = service.servers.iter().filter(|server| server.configured).count();
        let size = maglev::size(configured, scheduler::purpose(service.scheduler));
        let inputs = TableInputs { scheduler: service.scheduler, size, members };
        let (slots, maglev) = self.tables(first, &inputs, old)?;
        let value = ServiceEntry {
            id,
            flags: service.flags | scheduler::flags(service.scheduler),
            scheduler: scheduler::id(service.scheduler),
            timeouts: service.timeouts,
            slots,
            maglev,
        };
        let before = self.phases.services.len();
        for key in &service.listen {
            if self.planner.installed.services.get(key) != Some(&value) {
                self.phases.services.push(MapOp::SetService { key: *key, value });
            }
        }
        if old.is_none() {
            self.changes.services_added.push(first);
        } else if self.phases.services.len() > before {
            self.changes.services_changed.push(first);
        }
        let cached = Cached { wanted: service.clone(), id, indices, inputs };
        self.cached.push((first, cached));
        Ok(())
    }

    /// The service's id, and the entry that it is taken from.
    fn id(&mut self, service: &WantedService) -> Result<(u32, Option<ServiceEntry>), PlanError> {
        let installed = &self.planner.installed;
        let capacity = self.planner.limits.services;
        for entry in service.listen.iter().filter_map(|key| installed.services.get(key)) {
            if entry.id < capacity && self.ids.claimed.insert(entry.id) {
                return Ok((entry.id, Some(*entry)));
            }
        }
        let id = self
            .ids
            .lowest(installed, capacity)
            .ok_or(PlanError::ServicesExhausted { needed: capacity as usize + 1, capacity })?;
        self.phases.settings.push(MapOp::ClearService { id });
        Ok((id, None))
    }

    /// Compares a service's real servers. Gives their indices, and those that want slots.
    fn servers(
        &mut self,
        id: u32,
        service: &WantedService,
    ) -> Result<(Vec<u32>, Vec<maglev::Server>), PlanError> {
        let mut indices = Vec::with_capacity(service.servers.len());
        let mut members = Vec::with_capacity(service.servers.len());
        let mut seen = HashSet::with_capacity(service.servers.len());
        let name = || service.listen.first().map(listen_name).unwrap_or_default();
        for server in &service.servers {
            let WantedServer { address, port, .. } = *server;
            let identity = Identity { address, port };
            if !seen.insert(identity) {
                let server = socket_address(&address, port);
                return Err(PlanError::DuplicateServer { service: name(), server });
            }
            let owner = Owner { service: id, address, port, method: service.method };
            let index = match self.planner.indices.get(&owner) {
                Some(index) => {
                    self.known_server(*index, owner, service, server);
                    *index
                }
                None => {
                    let (index, generation) =
                        self.free.take().ok_or_else(|| PlanError::RealServersExhausted {
                            service: name(),
                            capacity: self.planner.limits.real_servers,
                            leaving: self.planner.leaving.len(),
                        })?;
                    let generation = next_generation(generation);
                    let value = element(owner, generation, service, server);
                    self.phases.real_servers.push(MapOp::ClearCounts { index });
                    self.phases.real_servers.push(MapOp::SetRealServer { index, value });
                    self.changes.servers_added.push((index, identity));
                    index
                }
            };
            self.used.insert(index);
            indices.push(index);
            let share = scheduler::share(service.scheduler, server);
            members.extend(share.map(|weight| maglev::Server { identity, weight, index }));
        }
        Ok((indices, members))
    }

    /// Compares a real server that has an element.
    fn known_server(
        &mut self,
        index: u32,
        owner: Owner,
        service: &WantedService,
        server: &WantedServer,
    ) {
        let Some(old) = self.planner.installed.real_servers.get(&index) else {
            return;
        };
        let expires = server.expire && old.flags & RS_EXPIRED == 0;
        let renewed = expires || !is_generation(old.generation);
        let generation = if renewed { next_generation(old.generation) } else { old.generation };
        let value = element(owner, generation, service, server);
        if *old == value {
            return;
        }
        let op = MapOp::SetRealServer { index, value };
        match renewed {
            true => self.phases.expired.push(op),
            false => self.phases.real_servers.push(op),
        }
        // One that comes back from leaving unchanged is told by nothing; it has its index still.
        self.changes.servers_changed.push((index, identity(&value)));
    }

    /// The regions of a service's tables; those of `old` where their content is right.
    fn tables(
        &mut self,
        first: ServiceKey,
        inputs: &TableInputs,
        old: Option<ServiceEntry>,
    ) -> Result<(Region, Region), PlanError> {
        if let (Some(old), Some(cached)) = (old, self.planner.cache.get(&first))
            && cached.id == old.id
            && cached.inputs == *inputs
        {
            return Ok((old.slots, old.maglev));
        }
        let weights: Vec<(u32, u32)> =
            inputs.members.iter().map(|member| (member.index, member.weight)).collect();
        let slots = scheduler::table(inputs.scheduler, &weights);
        let slots = self.place(first, slots, old.map(|old| old.slots))?;
        let maglev = maglev::build(&inputs.members, inputs.size);
        let maglev = self.place(first, maglev, old.map(|old| old.maglev))?;
        Ok((slots, maglev))
    }

    /// A region that holds this table.
    fn place(
        &mut self,
        first: ServiceKey,
        table: Vec<u32>,
        old: Option<Region>,
    ) -> Result<Region, PlanError> {
        let installed = old.and_then(|old| Some((old, self.planner.installed.table(old)?)));
        if let Some((old, installed)) = installed
            && *installed.slots == *table
        {
            return Ok(old);
        }
        let needed = table.len() as u32;
        let region = self.regions.take(needed).ok_or_else(|| PlanError::SlotsExhausted {
            service: listen_name(&first),
            needed,
            available: self.regions.available(),
        })?;
        if needed > 0 {
            let op = MapOp::WriteSlots { base: region.base, slots: table.into() };
            self.phases.before_services.push(op);
        }
        Ok(region)
    }

    fn removed_services(&mut self, listens: &HashSet<ServiceKey>) {
        let mut told = HashSet::new();
        for (key, entry) in &self.planner.installed.services {
            if listens.contains(key) {
                continue;
            }
            self.phases.removed.push(MapOp::RemoveService { key: *key });
            if !self.ids.claimed.contains(&entry.id) && told.insert(entry.id) {
                self.changes.services_removed.push(*key);
            }
        }
    }
}

/// An element of `real_servers`.
fn element(
    owner: Owner,
    generation: u16,
    service: &WantedService,
    server: &WantedServer,
) -> RealServer {
    let clamps = service.mss_clamp && owner.method == METHOD_TUNNEL;
    let resets = service.reset && owner.method == METHOD_NAT;
    let value = RealServer {
        address: owner.address,
        port: owner.port,
        generation,
        flags: RS_VALID
            | if server.expire { RS_EXPIRED } else { 0 }
            | if clamps { RS_MSS_CLAMP } else { 0 }
            | if resets { RS_RESET } else { 0 },
        service: owner.service,
        timeouts: service.timeouts,
        method: owner.method,
        weight: server.weight,
        ..RealServer::zeroed()
    };
    with_hop(value, server.next_hop, &server.path)
}

/// An element with another way to its real server.
fn with_hop(mut value: RealServer, hop: Option<Link>, path: &Path) -> RealServer {
    let tunnel = value.method == METHOD_TUNNEL;
    let overhead = if tunnel { encap::overhead(&value.address_words()) as u32 } else { 0 };
    // No packet is larger than what 16 bits can say, so a larger MTU is the same as that.
    value.mtu = u16::try_from(path.mtu.saturating_sub(overhead)).unwrap_or(u16::MAX);
    value.tunnel_source = if tunnel { path.source } else { [0; 16] };
    value.flags = value.flags & !RS_NEXT_HOP | if hop.is_some() { RS_NEXT_HOP } else { 0 };
    value.next_hop = hop.unwrap_or(Link::zeroed());
    value
}

fn identity(server: &RealServer) -> Identity {
    Identity { address: server.address, port: server.port }
}
