//! The maps, typed: one method for each thing that is read, [`Tables::apply`] for all that is
//! written.
//!
//! Must not know: why a map changes.

use std::collections::BTreeMap;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::Context;
use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, RingBuf};
use lb_common::abi;
use lb_common::conn::{ConnectionCounts, Timeouts};
use lb_common::pod::Address;
use lb_common::service::{
    Config, Interface, NeighbourWanted, RS_VALID, RealServer, Region, ServiceEntry, ServiceKey,
    Traffic,
};
use lb_common::verdict::Counter;

use super::sys;
use crate::plan::MapOp;

/// Open maps. The connection tables are read by `sweep` and `listing` through descriptors.
pub struct Tables {
    services: HashMap<MapData, ServiceKey, ServiceEntry>,
    real_servers: Array<MapData, RealServer>,
    counts: Array<MapData, ConnectionCounts>,
    traffic: PerCpuArray<MapData, Traffic>,
    slots: Array<MapData, u32>,
    slots_fd: OwnedFd,
    cursors: Array<MapData, u64>,
    retired: Array<MapData, Traffic>,
    timeouts: Array<MapData, Timeouts>,
    config: Array<MapData, Config>,
    filter: Array<MapData, u64>,
    vips: HashMap<MapData, Address, u32>,
    interfaces: Array<MapData, Interface>,
    counters: PerCpuArray<MapData, u64>,
    events: RingBuf<MapData>,
    conn4: MapData,
    conn6: MapData,
    capacity: u32,
}

/// What user space has written into the maps, as they hold it: what a new daemon starts from.
#[derive(Clone, Debug, Default)]
pub struct Contents {
    /// Services by key.
    pub services: BTreeMap<ServiceKey, ServiceEntry>,
    /// Elements that are in use, or were: those with a generation.
    pub real_servers: BTreeMap<u32, RealServer>,
    /// Slot tables by their first entry, as far as services name them.
    pub slots: BTreeMap<u32, Vec<u32>>,
    /// Words of the address filter.
    pub filter: Vec<u64>,
    /// Virtual addresses.
    pub vips: Vec<Address>,
}

/// Opens one map under its type.
macro_rules! take {
    ($ebpf:ident, $name:expr) => {
        $ebpf
            .take_map($name)
            .with_context(|| format!("the object has no map {}", $name))?
            .try_into()
            .with_context(|| format!("map {} is not what this version expects", $name))?
    };
}

impl Tables {
    pub(super) fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let conn4 = connection_map(ebpf, abi::MAP_CONN4)?;
        let conn6 = connection_map(ebpf, abi::MAP_CONN6)?;
        let slots_fd = match ebpf.map(abi::MAP_SLOTS) {
            Some(Map::Array(map)) => map.fd().as_fd().try_clone_to_owned()?,
            _ => anyhow::bail!("the object has no map {}", abi::MAP_SLOTS),
        };
        let capacity = conn4.info()?.max_entries() / 2;
        Ok(Self {
            services: take!(ebpf, abi::MAP_SERVICES),
            real_servers: take!(ebpf, abi::MAP_REAL_SERVERS),
            counts: take!(ebpf, abi::MAP_CONNECTION_COUNTS),
            traffic: take!(ebpf, abi::MAP_TRAFFIC),
            slots: take!(ebpf, abi::MAP_SLOTS),
            slots_fd,
            cursors: take!(ebpf, abi::MAP_CURSORS),
            retired: take!(ebpf, abi::MAP_RETIRED),
            timeouts: take!(ebpf, abi::MAP_TIMEOUTS),
            config: take!(ebpf, abi::MAP_CONFIG),
            filter: take!(ebpf, abi::MAP_FILTER),
            vips: take!(ebpf, abi::MAP_VIPS),
            interfaces: take!(ebpf, abi::MAP_INTERFACES),
            counters: take!(ebpf, abi::MAP_COUNTERS),
            events: take!(ebpf, abi::MAP_EVENTS),
            conn4,
            conn6,
            capacity,
        })
    }

    /// Connections that fit, per family.
    pub fn capacity(&self) -> u32 {
        self.capacity
    }

    /// Descriptors of the connection tables, IPv4 and IPv6.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn connection_maps(&self) -> anyhow::Result<(OwnedFd, OwnedFd)> {
        let copy = |map: &MapData| map.fd().as_fd().try_clone_to_owned();
        Ok((copy(&self.conn4)?, copy(&self.conn6)?))
    }

    /// The kernel's last heartbeat, in jiffies.
    pub(super) fn heartbeat(&self) -> anyhow::Result<u64> {
        Ok(self.config.get(&0, 0).context("read the configuration map")?.heartbeat)
    }

    /// Active and inactive connections of a real server.
    ///
    /// # Errors
    /// When the index is out of range.
    pub fn counts(&self, index: u32) -> anyhow::Result<ConnectionCounts> {
        self.counts.get(&index, 0).with_context(|| format!("read the counts of server {index}"))
    }

    /// A real server's element.
    ///
    /// # Errors
    /// When the index is out of range.
    pub fn real_server(&self, index: u32) -> anyhow::Result<RealServer> {
        self.real_servers.get(&index, 0).with_context(|| format!("read real server {index}"))
    }

    /// A profile of timeouts, in jiffies.
    ///
    /// # Errors
    /// When there is no such profile.
    pub fn timeouts(&self, profile: u32) -> anyhow::Result<Timeouts> {
        self.timeouts.get(&profile, 0).with_context(|| format!("read timeout profile {profile}"))
    }

    /// What all CPUs have forwarded for a real server.
    ///
    /// # Errors
    /// When the index is out of range.
    pub fn traffic(&self, index: u32) -> anyhow::Result<Traffic> {
        let per_cpu = self
            .traffic
            .get(&index, 0)
            .with_context(|| format!("read the traffic of server {index}"))?;
        Ok(per_cpu.iter().fold(Traffic::zeroed(), |sum, t| add(&sum, t)))
    }

    /// Traffic of a service's real servers that are gone.
    ///
    /// # Errors
    /// When there is no such service id.
    pub fn retired(&self, service: u32) -> anyhow::Result<Traffic> {
        self.retired.get(&service, 0).with_context(|| format!("read retired traffic of {service}"))
    }

    /// Every counter over all CPUs.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counters(&self) -> anyhow::Result<Vec<(Counter, u64)>> {
        Counter::ALL
            .iter()
            .map(|&counter| {
                let per_cpu = self.counters.get(&(counter as u32), 0).context("read counters")?;
                Ok((counter, per_cpu.iter().sum()))
            })
            .collect()
    }

    /// The next neighbour that the kernel program missed, if any.
    pub fn next_event(&mut self) -> Option<NeighbourWanted> {
        let item = self.events.next()?;
        lb_common::pod::from_bytes(&item)
    }

    /// What the maps hold of what user space writes.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn contents(&self) -> anyhow::Result<Contents> {
        let mut contents = Contents::default();
        for item in self.services.iter() {
            let (key, entry) = item.context("read services")?;
            contents.services.insert(key, entry);
        }
        for index in 0..abi::MAX_REAL_SERVERS {
            let server = self.real_server(index)?;
            if server.flags & RS_VALID == 0 && server.generation == 0 {
                // Indices are used from the lowest on; one that never was ends them.
                break;
            }
            contents.real_servers.insert(index, server);
        }
        let regions: Vec<Region> =
            contents.services.values().flat_map(|s| [s.slots, s.maglev]).collect();
        for region in regions {
            if region.base.checked_add(region.len).is_some_and(|end| end <= abi::MAX_SLOTS) {
                let slots = (region.base..region.base + region.len)
                    .map(|i| self.slots.get(&i, 0).context("read slots"))
                    .collect::<anyhow::Result<_>>()?;
                contents.slots.insert(region.base, slots);
            }
        }
        contents.filter = (0..abi::FILTER_WORDS)
            .map(|i| self.filter.get(&i, 0).context("read the filter"))
            .collect::<anyhow::Result<_>>()?;
        for item in self.vips.keys() {
            contents.vips.push(item.context("read virtual addresses")?);
        }
        Ok(contents)
    }

    /// Carries out one operation of a plan.
    ///
    /// # Errors
    /// The kernel's, with the operation.
    pub fn apply(&mut self, op: &MapOp) -> anyhow::Result<()> {
        match op {
            MapOp::SetRealServer { index, value } => self.real_servers.set(*index, value, 0)?,
            MapOp::ClearCounts { index } => {
                self.counts.set(*index, ConnectionCounts::zeroed(), 0)?;
                self.clear_traffic(*index)?;
            }
            MapOp::RetireTraffic { index, service } => {
                let sum = add(&self.retired(*service)?, &self.traffic(*index)?);
                self.retired.set(*service, sum, 0)?;
                self.clear_traffic(*index)?;
            }
            MapOp::ClearService { id } => {
                self.cursors.set(*id, 0, 0)?;
                self.retired.set(*id, Traffic::zeroed(), 0)?;
            }
            MapOp::WriteSlots { base, slots } => {
                sys::update_array(self.slots_fd.as_fd(), *base, slots)
                    .context("write a slot table")?;
            }
            MapOp::SetService { key, value } => self.services.insert(key, value, 0)?,
            MapOp::RemoveService { key } => self.services.remove(key)?,
            MapOp::SetVip { address } => self.vips.insert(address, 1, 0)?,
            MapOp::RemoveVip { address } => self.vips.remove(address)?,
            MapOp::SetFilter { word, bits } => self.filter.set(*word, bits, 0)?,
            MapOp::SetTimeouts { profile, value } => self.timeouts.set(*profile, value, 0)?,
            MapOp::SetInterface { ifindex, value } if *ifindex < abi::MAX_INTERFACES => {
                self.interfaces.set(*ifindex, value, 0)?;
            }
            // Without an element, an interface is taken to be up and to be meant by every frame.
            MapOp::SetInterface { .. } => {}
            MapOp::SetConfig(value) => {
                let heartbeat = self.heartbeat()?;
                self.config.set(0, Config { heartbeat, ..*value }, 0)?;
            }
        }
        Ok(())
    }

    fn clear_traffic(&mut self, index: u32) -> anyhow::Result<()> {
        let cpus = aya::util::nr_cpus().map_err(|(what, error)| {
            anyhow::Error::from(error).context(format!("count the CPUs: {what}"))
        })?;
        let zeros = aya::maps::PerCpuValues::try_from(vec![Traffic::zeroed(); cpus])?;
        Ok(self.traffic.set(index, zeros, 0)?)
    }
}

fn connection_map(ebpf: &mut Ebpf, name: &str) -> anyhow::Result<MapData> {
    match ebpf.take_map(name) {
        Some(Map::HashMap(map)) => Ok(map),
        _ => anyhow::bail!("the object has no hash map {name}"),
    }
}

/// The sum of two counts.
pub(crate) fn add(a: &Traffic, b: &Traffic) -> Traffic {
    Traffic {
        connections: a.connections + b.connections,
        packets_in: a.packets_in + b.packets_in,
        bytes_in: a.bytes_in + b.bytes_in,
        packets_out: a.packets_out + b.packets_out,
        bytes_out: a.bytes_out + b.bytes_out,
    }
}
