//! What the maps hold: a model of exactly those that user space writes.
//!
//! [`Installed::apply`] is what an operation does to the maps, and [`Installed::adopt`] makes the
//! model from maps that an earlier daemon filled. Maps that contradict themselves give a model and
//! a list of [`Defect`]s; the next plan repairs them.
//!
//! Must not know: what is wanted, the kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use lb_common::abi::{MAX_REAL_SERVERS, MAX_SERVICES};
use lb_common::conn::Timeouts;
use lb_common::pod::Address;
use lb_common::service::{
    GENERATION_MASK, Interface, RS_VALID, RealServer, Region, ServiceEntry, ServiceKey,
};

use super::lists::Denial;
use super::op::MapOp;
use super::wanted::VirtualMac;
use crate::model::Prefix;

/// The content of the maps.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Installed {
    /// Services by what clients connect to. An adopted region that cannot be trusted stands here
    /// with base and length `u32::MAX`, which equals nothing that is wanted.
    pub services: BTreeMap<ServiceKey, ServiceEntry>,
    /// Real servers in use, by index.
    pub real_servers: BTreeMap<u32, RealServer>,
    /// Generations of elements that were in use and are not now, by index.
    pub freed: BTreeMap<u32, u16>,
    /// Slot tables that a service names, by the first entry of their region.
    pub slots: BTreeMap<u32, Table>,
    /// Words of the address filter that are not 0.
    pub filter: BTreeMap<u32, u64>,
    /// Virtual addresses.
    pub vips: BTreeSet<Address>,
    /// Timeout profiles that are not all zero.
    pub timeouts: BTreeMap<u32, Timeouts>,
    /// Interfaces that are not all zero.
    pub interfaces: BTreeMap<u32, Interface>,
    /// Virtual MAC addresses that are served.
    pub virtual_macs: BTreeSet<VirtualMac>,
    /// Settings.
    pub settings: Settings,
    /// The deny list, in the file or banned.
    pub deny: BTreeMap<Prefix, Denial>,
    /// The allow list.
    pub allow: BTreeSet<Prefix>,
}

/// A slot table in the map.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Table {
    /// Real-server indices.
    pub slots: Arc<[u32]>,
    /// How often services name it.
    pub uses: u32,
}

/// What user space sets of the program's one `Config`; the heartbeat is not its to write.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Settings {
    /// `CONFIG_*` flags.
    pub flags: u64,
    /// New flows per second and CPU above which flows get no entry; 0 is never.
    pub flood_limit: u64,
    /// Jiffies a second.
    pub hz: u64,
    /// Age of the heartbeat in jiffies above which next hops are not trusted.
    pub heartbeat_max: u64,
}

/// The maps' raw content, as read after a restart.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// All of `services`.
    pub services: Vec<(ServiceKey, ServiceEntry)>,
    /// Elements of `real_servers` by index; those all zero may be left out.
    pub real_servers: Vec<(u32, RealServer)>,
    /// The array `slots` from its start, at least as far as services reach.
    pub slots: Vec<u32>,
    /// Words of `filter` by index; zeros may be left out.
    pub filter: Vec<(u32, u64)>,
    /// All of `vips`.
    pub vips: Vec<Address>,
    /// Elements of `timeouts` by index; those all zero may be left out.
    pub timeouts: Vec<(u32, Timeouts)>,
    /// Elements of `interfaces` by index; those all zero may be left out.
    pub interfaces: Vec<(u32, Interface)>,
    /// Elements of `virtual_macs` that are not 0.
    pub virtual_macs: Vec<VirtualMac>,
    /// What `config` says.
    pub settings: Settings,
    /// All of `deny4` and `deny6`.
    pub deny: Vec<(Prefix, Denial)>,
    /// All of `allow4` and `allow6`.
    pub allow: Vec<Prefix>,
}

/// A contradiction in adopted maps. The next plan repairs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Defect {
    /// An entry's id is beyond the arrays that it is an index of.
    #[error("service id {id} is out of range")]
    ServiceId {
        /// The service.
        key: ServiceKey,
        /// Its id.
        id: u32,
    },
    /// An entry's region reaches beyond the slot array.
    #[error("service {id} names {} slots from {}, beyond the slot array", region.len, region.base)]
    RegionOutside {
        /// The service's id.
        id: u32,
        /// The region.
        region: Region,
    },
    /// An entry's region and another one share slots without being the same.
    #[error("service {id} names {} slots from {} that another table shares", region.len, region.base)]
    RegionOverlaps {
        /// The service's id.
        id: u32,
        /// The region.
        region: Region,
    },
    /// A slot holds the index of no real server.
    #[error("service {id} has a slot that names real server {index}, which is not in use")]
    Slot {
        /// The service's id.
        id: u32,
        /// What the slot holds.
        index: u32,
    },
    /// An element in use has a generation that no connection can have.
    #[error("real server {index} has generation {generation}")]
    Generation {
        /// The element.
        index: u32,
        /// Its generation.
        generation: u16,
    },
    /// An element beyond the array's end.
    #[error("real server {index} is out of range")]
    RealServer {
        /// The element.
        index: u32,
    },
}

impl Installed {
    /// The model of maps with this content, and what is wrong with them.
    pub fn adopt(parts: Parts) -> (Self, Vec<Defect>) {
        let mut defects = Vec::new();
        let mut installed = Self {
            filter: parts.filter.into_iter().filter(|(_, bits)| *bits != 0).collect(),
            vips: parts.vips.into_iter().collect(),
            timeouts: parts
                .timeouts
                .into_iter()
                .filter(|(_, t)| *t != Timeouts::zeroed())
                .collect(),
            interfaces: parts
                .interfaces
                .into_iter()
                .filter(|(_, interface)| *interface != Interface::zeroed())
                .collect(),
            virtual_macs: parts.virtual_macs.into_iter().collect(),
            settings: parts.settings,
            deny: parts.deny.into_iter().collect(),
            allow: parts.allow.into_iter().collect(),
            ..Self::default()
        };
        for (index, server) in parts.real_servers {
            if index >= MAX_REAL_SERVERS {
                defects.push(Defect::RealServer { index });
                continue;
            }
            installed.put_real_server(index, &server);
            let generation = server.generation;
            if server.flags & RS_VALID != 0 && !is_generation(generation) {
                defects.push(Defect::Generation { index, generation });
            }
        }
        installed.services = parts.services.into_iter().collect();
        installed.adopt_tables(&parts.slots, &mut defects);
        (installed, defects)
    }

    /// Finds the tables that entries name; those that cannot be trusted are left out.
    fn adopt_tables(&mut self, slots: &[u32], defects: &mut Vec<Defect>) {
        for (key, entry) in &mut self.services {
            let id = entry.id;
            if id >= MAX_SERVICES {
                defects.push(Defect::ServiceId { key: *key, id });
            }
            for place in [&mut entry.slots, &mut entry.maglev] {
                let region = *place;
                if region.len == 0 {
                    continue;
                }
                if let Some(table) = self.slots.get_mut(&region.base)
                    && table.slots.len() == region.len as usize
                {
                    table.uses += 1;
                    continue;
                }
                let (base, len) = (region.base as usize, region.len as usize);
                let Some(content) = slots.get(base..base.saturating_add(len)) else {
                    defects.push(Defect::RegionOutside { id, region });
                    *place = UNKNOWN;
                    continue;
                };
                if overlaps(&self.slots, region) {
                    defects.push(Defect::RegionOverlaps { id, region });
                    *place = UNKNOWN;
                    continue;
                }
                let bad = content.iter().find(|index| !self.real_servers.contains_key(index));
                defects.extend(bad.map(|index| Defect::Slot { id, index: *index }));
                self.slots.insert(region.base, Table { slots: content.into(), uses: 1 });
            }
        }
    }

    /// Does to the model what the operation does to the maps. Regions that no service names any
    /// more are added to `freed`.
    pub fn apply(&mut self, op: &MapOp, freed: &mut Vec<Region>) {
        match op {
            MapOp::SetConfig(settings) => self.settings = *settings,
            MapOp::SetTimeouts { profile, value } => {
                put(&mut self.timeouts, *profile, *value, &Timeouts::zeroed());
            }
            MapOp::SetInterface { ifindex, value } => {
                put(&mut self.interfaces, *ifindex, *value, &Interface::zeroed());
            }
            MapOp::SetVirtualMac { mac, served: true } => {
                self.virtual_macs.insert(*mac);
            }
            MapOp::SetVirtualMac { mac, served: false } => {
                self.virtual_macs.remove(mac);
            }
            MapOp::SetRealServer { index, value } => self.put_real_server(*index, value),
            MapOp::WriteSlots { base, slots } => {
                self.slots.insert(*base, Table { slots: Arc::clone(slots), uses: 0 });
            }
            MapOp::SetService { key, value } => {
                for region in [value.slots, value.maglev] {
                    if let Some(table) = self.table_mut(region) {
                        table.uses += 1;
                    }
                }
                if let Some(old) = self.services.insert(*key, *value) {
                    self.release(&old, freed);
                }
            }
            MapOp::RemoveService { key } => {
                if let Some(old) = self.services.remove(key) {
                    self.release(&old, freed);
                }
            }
            MapOp::SetVip { address } => {
                self.vips.insert(*address);
            }
            MapOp::RemoveVip { address } => {
                self.vips.remove(address);
            }
            MapOp::SetFilter { word, bits } => put(&mut self.filter, *word, *bits, &0),
            MapOp::AddPrefixes { list, prefixes } => self.list(*list, prefixes),
            MapOp::RemovePrefixes { list, prefixes } => self.unlist(*list, prefixes),
            MapOp::SetDenial { prefix, denial } => {
                self.deny.insert(*prefix, *denial);
            }
            // Counts are the program's; the model does not have them.
            MapOp::ClearCounts { .. }
            | MapOp::ClearService { .. }
            | MapOp::RetireTraffic { .. } => {}
        }
    }

    /// The table in this region, if it is known and whole.
    pub fn table(&self, region: Region) -> Option<&Table> {
        self.slots.get(&region.base).filter(|table| table.slots.len() == region.len as usize)
    }

    fn table_mut(&mut self, region: Region) -> Option<&mut Table> {
        self.slots.get_mut(&region.base).filter(|table| table.slots.len() == region.len as usize)
    }

    fn release(&mut self, entry: &ServiceEntry, freed: &mut Vec<Region>) {
        for region in [entry.slots, entry.maglev] {
            let Some(table) = self.table_mut(region) else {
                continue;
            };
            table.uses = table.uses.saturating_sub(1);
            if table.uses == 0 {
                self.slots.remove(&region.base);
                freed.push(region);
            }
        }
    }

    fn put_real_server(&mut self, index: u32, server: &RealServer) {
        self.real_servers.remove(&index);
        self.freed.remove(&index);
        if server.flags & RS_VALID != 0 {
            self.real_servers.insert(index, *server);
        } else if server.generation != 0 {
            self.freed.insert(index, server.generation);
        }
    }
}

/// Stands for an adopted region that reaches beyond the slot array or into another table.
pub(super) const UNKNOWN: Region = Region { base: u32::MAX, len: u32::MAX };

/// Whether connections can have this generation.
pub(super) fn is_generation(generation: u16) -> bool {
    generation != 0 && generation <= GENERATION_MASK
}

/// The generation of the next use of an element.
pub fn next_generation(generation: u16) -> u16 {
    match generation.wrapping_add(1) & GENERATION_MASK {
        0 => 1,
        next => next,
    }
}

/// Whether a region shares slots with one of the tables.
fn overlaps(tables: &BTreeMap<u32, Table>, region: Region) -> bool {
    let end = region.base.saturating_add(region.len);
    let before = tables.range(..end).next_back();
    before.is_some_and(|(base, table)| *base as usize + table.slots.len() > region.base as usize)
}

/// Sets an array element in a model that leaves empty ones out.
fn put<T: PartialEq>(map: &mut BTreeMap<u32, T>, index: u32, value: T, empty: &T) {
    if value == *empty {
        map.remove(&index);
    } else {
        map.insert(index, value);
    }
}
