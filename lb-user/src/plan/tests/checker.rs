//! What must hold after every single operation, and what a finished plan must have reached.
//!
//! Must not know: how the planner works.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use lb_common::conn::{ConnKey, ConnKey4, ConnKey6};
use lb_common::hash;
use lb_common::pod::{mapped, unmapped};
use lb_common::service::{
    GENERATION_MASK, METHOD_NAT, METHOD_TUNNEL, RS_EXPIRED, RS_MSS_CLAMP, RS_RESET, RS_VALID,
    Region,
};

use super::*;
use crate::model::Scheduler;
use crate::sched::{maglev, ring};

/// Watches a history of plans.
#[derive(Default)]
pub(super) struct Checker {
    /// Whose a use of an element was.
    owners: HashMap<(u32, u16), Owner>,
    /// What each table names, by the place of its content; the content is kept alive.
    named: HashMap<usize, (Arc<[u32]>, BTreeSet<u32>)>,
}

impl Checker {
    /// Follows `ops` from `before`; the model after them, or what went wrong.
    pub(super) fn follow(
        &mut self,
        before: &Installed,
        ops: &[MapOp],
        limits: Limits,
    ) -> Result<Installed, String> {
        let mut model = before.clone();
        for (place, op) in ops.iter().enumerate() {
            self.permits(before, &model, op)
                .and_then(|()| {
                    apply(&mut model, op);
                    self.holds(&model, limits)
                })
                .map_err(|fault| format!("operation {place}, {op:?}: {fault}"))?;
        }
        Ok(model)
    }

    /// Whether an operation may be done to this state.
    fn permits(&mut self, before: &Installed, now: &Installed, op: &MapOp) -> Result<(), String> {
        let fail = |cond: bool, fault: &str| if cond { Err(fault.to_owned()) } else { Ok(()) };
        match op {
            MapOp::WriteSlots { base, slots } => {
                let new = u64::from(*base)..u64::from(*base) + slots.len() as u64;
                let hit = before.slots.iter().chain(&now.slots).any(|(base, table)| {
                    let old = u64::from(*base)..u64::from(*base) + table.slots.len() as u64;
                    new.start < old.end && old.start < new.end
                });
                fail(hit, "slots that are read, or were when the plan began")
            }
            MapOp::ClearCounts { index } | MapOp::RetireTraffic { index, .. }
                if matches!(op, MapOp::ClearCounts { .. })
                    == now.real_servers.contains_key(index) =>
            {
                Err("the real server is in use, or is not".to_owned())
            }
            MapOp::ClearService { id } => {
                let used = now.services.values().any(|entry| entry.id == *id)
                    || now.real_servers.values().any(|server| server.service == *id);
                fail(used, "the id is in use")
            }
            MapOp::SetRealServer { index, value } if value.flags & RS_VALID != 0 => {
                let owner = Owner::of(value);
                let old = now.real_servers.get(index).map(Owner::of);
                fail(old.is_some_and(|old| old != owner), "another server's element")?;
                let first = *self.owners.entry((*index, value.generation)).or_insert(owner);
                fail(first != owner, "a generation of another server")?;
                let limbo = now.freed.get(index) == Some(&value.generation);
                fail(limbo, "the generation of the free element")
            }
            _ => Ok(()),
        }
    }

    /// The invariants of every state that packets can meet.
    pub(super) fn holds(&mut self, now: &Installed, limits: Limits) -> Result<(), String> {
        if now.services.len() > limits.services as usize {
            return Err("too many services".to_owned());
        }
        for (index, server) in &now.real_servers {
            let generation = server.generation;
            if *index >= limits.real_servers || generation == 0 || generation > GENERATION_MASK {
                return Err(format!("real server {index} has generation {generation}"));
            }
        }
        let mut end = 0;
        for (base, table) in &now.slots {
            if *base < end {
                return Err(format!("tables overlap at {base}"));
            }
            end = base + table.slots.len() as u32;
        }
        if end > limits.slots {
            return Err("a table reaches too far".to_owned());
        }
        for (key, entry) in &now.services {
            if entry.id >= limits.services {
                return Err(format!("id {}", entry.id));
            }
            for region in [entry.slots, entry.maglev].into_iter().filter(|r| r.len > 0) {
                let table = now.table(region).ok_or(format!("{region:?} is not written"))?;
                for index in self.named(table) {
                    let server = now.real_servers.get(index);
                    if server.is_none_or(|server| server.service != entry.id) {
                        return Err(format!("service {} names server {index}", entry.id));
                    }
                }
            }
            let (word, bit) = hash::filter_place(filter_word(&key.address));
            let bits = now.filter.get(&word).copied().unwrap_or(0);
            if !now.vips.contains(&key.address) || bits & bit == 0 {
                return Err(format!("{} is out of reach", listen_name(key)));
            }
        }
        Ok(())
    }

    fn named(&mut self, table: &Table) -> &BTreeSet<u32> {
        let place = table.slots.as_ptr().addr();
        let new = || (Arc::clone(&table.slots), table.slots.iter().copied().collect());
        &self.named.entry(place).or_insert_with(new).1
    }
}

/// As the program computes it.
fn filter_word(address: &Address) -> u32 {
    match *address == mapped(unmapped(address)) {
        true => ConnKey4 { destination: unmapped(address), ..ConnKey4::zeroed() }.filter_word(),
        false => ConnKey6 { destination: *address, ..ConnKey6::zeroed() }.filter_word(),
    }
}

/// Whether the maps do what is wanted, found out without the planner.
pub(super) fn fulfils(now: &Installed, wanted: &Wanted) -> Result<(), String> {
    let keys = wanted.services.iter().flat_map(|service| &service.listen);
    let keys: BTreeSet<ServiceKey> = keys.copied().collect();
    if !now.services.keys().eq(&keys) {
        return Err("other keys".to_owned());
    }
    let vips: BTreeSet<Address> = keys.iter().map(|key| key.address).collect();
    let nat = wanted.services.iter().filter(|service| service.method == METHOD_NAT);
    let servers = nat.flat_map(|service| &service.servers).map(|server| &server.address);
    for address in vips.iter().chain(servers) {
        let (word, bit) = hash::filter_place(filter_word(address));
        if now.filter.get(&word).is_none_or(|bits| bits & bit == 0) {
            return Err("an address that the filter keeps out".to_owned());
        }
    }
    if now.virtual_macs != wanted.virtual_macs {
        return Err("other virtual MAC addresses".to_owned());
    }
    if now.vips != vips || now.settings != wanted.settings {
        return Err("other addresses or settings".to_owned());
    }
    let mut ids = BTreeSet::new();
    for service in &wanted.services {
        let entry = now.services[&service.listen[0]];
        if !ids.insert(entry.id) {
            return Err(format!("two services have id {}", entry.id));
        }
        if service.listen.iter().any(|key| now.services[key] != entry) {
            return Err("keys of one service differ".to_owned());
        }
        let mut members = Vec::new();
        for server in &service.servers {
            let owner = Owner {
                service: entry.id,
                address: server.address,
                port: server.port,
                method: service.method,
            };
            let is = |element: &RealServer| {
                Owner::of(element) == owner
                    && element.timeouts == service.timeouts
                    && (element.flags & RS_EXPIRED != 0) == server.expire
                    && element.weight == server.weight
                    && element.next_hop == server.next_hop.unwrap_or(Link::zeroed())
                    && is_path(element, service, server)
            };
            let found = now.real_servers.iter().find(|(_, element)| is(element));
            let (index, _) = found.ok_or(format!("no element for {owner:?}"))?;
            let identity = Identity { address: server.address, port: server.port };
            let weight = match service.scheduler {
                Scheduler::Rr | Scheduler::Wrr => server.weight,
                Scheduler::Lc | Scheduler::Wlc => u32::from(server.place.is_some()),
                Scheduler::Sh | Scheduler::Mh => server.place.unwrap_or(0),
            };
            members.push(maglev::Server { identity, weight, index: *index });
        }
        let weights: Vec<_> = members.iter().map(|m| (m.index, m.weight)).collect();
        let (id, slots) = match service.scheduler {
            Scheduler::Rr => (0, ring::build(&weights, ring::Kind::Rr)),
            Scheduler::Wrr => (0, ring::build(&weights, ring::Kind::Wrr)),
            Scheduler::Lc => (1, placed(&members)),
            Scheduler::Wlc => (2, placed(&members)),
            Scheduler::Sh | Scheduler::Mh => (3, Vec::new()),
        };
        let flags = if service.scheduler.hashes() { 0 } else { 3 };
        if (entry.scheduler, entry.flags) != (id, flags | service.flags) {
            return Err(format!("another scheduler in {}", entry.id));
        }
        let read = |region: Region| match region.len {
            0 => Vec::new(),
            _ => now.table(region).map(|table| table.slots.to_vec()).unwrap_or_default(),
        };
        let purpose = if id == 3 { maglev::Use::Scheduler } else { maglev::Use::Fallback };
        let size = maglev::size(service.servers.len(), purpose);
        if read(entry.slots) != slots || read(entry.maglev) != maglev::build(&members, size) {
            return Err(format!("other tables in {}", entry.id));
        }
    }
    Ok(())
}

fn placed(members: &[maglev::Server]) -> Vec<u32> {
    members.iter().filter(|member| member.weight > 0).map(|member| member.index).collect()
}

/// The path as it must stand in an element: the servers of these tests are IPv4, so a tunnel's
/// header takes 20 bytes.
fn is_path(element: &RealServer, service: &WantedService, server: &WantedServer) -> bool {
    let tunnel = service.method == METHOD_TUNNEL;
    let mtu = server.path.mtu.saturating_sub(if tunnel { 20 } else { 0 });
    let source = if tunnel { server.path.source } else { [0; 16] };
    element.mtu == mtu as u16
        && element.tunnel_source == source
        && (element.flags & RS_MSS_CLAMP != 0) == (tunnel && service.mss_clamp)
        && (element.flags & RS_RESET != 0) == (service.method == METHOD_NAT && service.reset)
}
