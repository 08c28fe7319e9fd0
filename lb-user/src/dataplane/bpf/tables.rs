//! The maps, typed: one method for each thing that is read, [`Tables::apply`] for all that is
//! written.
//!
//! Must not know: why a map changes.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;

use anyhow::Context;
use aya::Ebpf;
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, RingBuf};
use lb_common::abi;
use lb_common::conn::{ConnKey, ConnKey4, ConnKey6, ConnectionCounts, Timeouts};
use lb_common::hash::TableSeed;
use lb_common::pod::{Address, Pod};
use lb_common::service::{Config, Event, Interface, RealServer, ServiceEntry, ServiceKey, Traffic};
use lb_common::table;
use lb_common::verdict::Counter;
use lb_common::wire::vrrp::{self, Family};

use super::access::Lists;
use super::connections::ConnTable;
use super::sys;
use crate::plan::{MapOp, Parts, Settings, VirtualMac};

/// Open maps.
pub struct Tables {
    services: HashMap<MapData, ServiceKey, ServiceEntry>,
    real_servers: Array<MapData, RealServer>,
    counts: Array<MapData, ConnectionCounts>,
    traffic: PerCpuArray<MapData, Traffic>,
    slots_fd: OwnedFd,
    fds: ArrayFds,
    cursors: Array<MapData, u64>,
    retired: Array<MapData, Traffic>,
    timeouts: Array<MapData, Timeouts>,
    config: Array<MapData, Config>,
    filter: Array<MapData, u64>,
    vips: HashMap<MapData, Address, u32>,
    interfaces: Array<MapData, Interface>,
    virtual_macs: Array<MapData, u32>,
    vrrp_frames: PerCpuArray<MapData, u64>,
    counters: PerCpuArray<MapData, u64>,
    events: RingBuf<MapData>,
    lists: Lists,
    connections: ConnTables,
}

/// The connection tables, IPv4 and IPv6, which several threads may read.
pub type ConnTables = (Arc<ConnTable<ConnKey4>>, Arc<ConnTable<ConnKey6>>);

/// Descriptors of arrays that are read whole.
struct ArrayFds {
    real_servers: OwnedFd,
    interfaces: OwnedFd,
    virtual_macs: OwnedFd,
    timeouts: OwnedFd,
    filter: OwnedFd,
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
        let config: Array<MapData, Config> = take!(ebpf, abi::MAP_CONFIG);
        let slots_fd = array_fd(ebpf, abi::MAP_SLOTS)?;
        let fds = ArrayFds {
            real_servers: array_fd(ebpf, abi::MAP_REAL_SERVERS)?,
            interfaces: array_fd(ebpf, abi::MAP_INTERFACES)?,
            virtual_macs: array_fd(ebpf, abi::MAP_VIRTUAL_MACS)?,
            timeouts: array_fd(ebpf, abi::MAP_TIMEOUTS)?,
            filter: array_fd(ebpf, abi::MAP_FILTER)?,
        };
        let seed = config.get(&0, 0).context("read the configuration map")?.seed;
        let conn4 = connection_table(ebpf, (abi::MAP_CONN4, abi::MAP_INSERTS4), seed)?;
        let conn6 = connection_table(ebpf, (abi::MAP_CONN6, abi::MAP_INSERTS6), seed)?;
        Ok(Self {
            services: take!(ebpf, abi::MAP_SERVICES),
            real_servers: take!(ebpf, abi::MAP_REAL_SERVERS),
            counts: take!(ebpf, abi::MAP_CONNECTION_COUNTS),
            traffic: take!(ebpf, abi::MAP_TRAFFIC),
            slots_fd,
            fds,
            cursors: take!(ebpf, abi::MAP_CURSORS),
            retired: take!(ebpf, abi::MAP_RETIRED),
            timeouts: take!(ebpf, abi::MAP_TIMEOUTS),
            config,
            filter: take!(ebpf, abi::MAP_FILTER),
            vips: take!(ebpf, abi::MAP_VIPS),
            interfaces: take!(ebpf, abi::MAP_INTERFACES),
            virtual_macs: take!(ebpf, abi::MAP_VIRTUAL_MACS),
            vrrp_frames: take!(ebpf, abi::MAP_VRRP_FRAMES),
            counters: take!(ebpf, abi::MAP_COUNTERS),
            events: take!(ebpf, abi::MAP_EVENTS),
            lists: Lists::take(ebpf)?,
            connections: (Arc::new(conn4), Arc::new(conn6)),
        })
    }

    /// Connections that fit, per family.
    pub fn capacity(&self) -> u32 {
        table::connections_in(self.connections.0.buckets())
    }

    /// The connection tables, IPv4 and IPv6.
    pub fn connections(&self) -> ConnTables {
        self.connections.clone()
    }

    /// The access lists.
    pub fn lists(&self) -> &Lists {
        &self.lists
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

    /// VRRP frames over all CPUs that have come in since the maps were made, by family and VRID;
    /// those of which none came are left out.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn vrrp_frames(&self) -> anyhow::Result<Vec<(Family, u8, u64)>> {
        let mut found = Vec::new();
        for router in 0..vrrp::VIRTUAL_ROUTERS {
            let per_cpu = self.vrrp_frames.get(&router, 0).context("read the VRRP frames")?;
            let frames = per_cpu.iter().sum();
            if frames != 0 {
                let (family, vrid) = vrrp::of_index(router);
                found.push((family, vrid, frames));
            }
        }
        Ok(found)
    }

    /// VRRP frames of one virtual router over all CPUs.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn vrrp_frames_of(&self, family: Family, vrid: u8) -> anyhow::Result<u64> {
        let index = vrrp::index(family, vrid);
        let per_cpu = self.vrrp_frames.get(&index, 0).context("read the VRRP frames")?;
        Ok(per_cpu.iter().sum())
    }

    /// The next event of the kernel program, if any.
    pub fn next_event(&mut self) -> Option<Event> {
        let item = self.events.next()?;
        lb_common::pod::from_bytes(&item)
    }

    /// What the maps hold of what user space writes.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn contents(&self) -> anyhow::Result<Parts> {
        let mut parts = Parts::default();
        for item in self.services.iter() {
            parts.services.push(item.context("read services")?);
        }
        for item in self.vips.keys() {
            parts.vips.push(item.context("read virtual addresses")?);
        }
        let config = self.config.get(&0, 0).context("read the configuration map")?;
        parts.settings = Settings {
            flags: config.flags,
            flood_limit: config.flood_limit,
            hz: config.hz,
            heartbeat_max: config.heartbeat_max,
        };
        let reach = parts.services.iter().flat_map(|(_, entry)| [entry.slots, entry.maglev]);
        let reach = reach.map(|r| r.base.saturating_add(r.len)).max().unwrap_or(0);
        parts.slots = read_array(&self.slots_fd, reach.min(abi::MAX_SLOTS), 0)?
            .into_iter()
            .map(|(_, slot)| slot)
            .collect();
        let all = abi::MAX_REAL_SERVERS;
        parts.real_servers = read_array(&self.fds.real_servers, all, RealServer::zeroed())?;
        parts.real_servers.retain(|(_, server)| *server != RealServer::zeroed());
        let all = abi::MAX_INTERFACES;
        parts.interfaces = read_array(&self.fds.interfaces, all, Interface::zeroed())?;
        parts.interfaces.retain(|(_, interface)| *interface != Interface::zeroed());
        let served = read_array(&self.fds.virtual_macs, vrrp::VIRTUAL_ROUTERS, 0u32)?.into_iter();
        let served = served.filter(|(_, served)| *served != 0);
        parts.virtual_macs = served.map(|(router, _)| VirtualMac::of_index(router)).collect();
        let all = abi::MAX_TIMEOUT_PROFILES;
        parts.timeouts = read_array(&self.fds.timeouts, all, Timeouts::zeroed())?;
        parts.timeouts.retain(|(_, timeouts)| *timeouts != Timeouts::zeroed());
        parts.filter = read_array(&self.fds.filter, abi::FILTER_WORDS, 0)?;
        parts.filter.retain(|(_, bits)| *bits != 0);
        let denials = self.lists.denials()?.read()?.into_iter();
        parts.deny = denials.map(|(prefix, denial, _)| (prefix, denial)).collect();
        parts.allow = self.lists.allowed()?;
        Ok(parts)
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
            MapOp::SetVirtualMac { mac, served } => {
                self.virtual_macs.set(mac.index(), u32::from(*served), 0)?;
            }
            MapOp::AddPrefixes { list, prefixes } => self.lists.add(*list, prefixes)?,
            MapOp::RemovePrefixes { list, prefixes } => self.lists.remove(*list, prefixes)?,
            MapOp::SetDenial { prefix, denial } => self.lists.set(prefix, *denial)?,
            MapOp::SetConfig(settings) => {
                let Config { heartbeat, seed, .. } =
                    self.config.get(&0, 0).context("read the configuration map")?;
                let value = Config {
                    heartbeat,
                    seed,
                    heartbeat_max: settings.heartbeat_max,
                    hz: settings.hz,
                    flood_limit: settings.flood_limit,
                    flags: settings.flags,
                };
                self.config.set(0, value, 0)?;
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

/// The first `len` elements of an array map.
fn read_array<V: Pod>(map: &OwnedFd, len: u32, empty: V) -> anyhow::Result<Vec<(u32, V)>> {
    const CHUNK: usize = 4096;
    let (mut keys, mut values) = (vec![0u32; CHUNK], vec![empty; CHUNK]);
    let mut cursor = sys::Cursor::default();
    let mut found = Vec::new();
    while found.len() < len as usize {
        let (count, last) = sys::lookup_batch(map.as_fd(), &mut cursor, &mut keys, &mut values)
            .context("read an array map")?;
        found.extend(keys[..count].iter().copied().zip(values[..count].iter().copied()));
        if last {
            break;
        }
    }
    found.truncate(len as usize);
    Ok(found)
}

/// A descriptor of an array map.
pub(super) fn array_fd(ebpf: &Ebpf, name: &str) -> anyhow::Result<OwnedFd> {
    match ebpf.map(name) {
        Some(Map::Array(map)) => Ok(map.fd().as_fd().try_clone_to_owned()?),
        _ => anyhow::bail!("the object has no array map {name}"),
    }
}

pub(super) fn connection_table<K: ConnKey>(
    ebpf: &mut Ebpf,
    (slots, inserts): (&str, &str),
    seed: TableSeed,
) -> anyhow::Result<ConnTable<K>> {
    let mut take = |name: &str| match ebpf.take_map(name) {
        Some(Map::Array(map)) => Ok(map),
        _ => anyhow::bail!("the object has no array map {name}"),
    };
    let (slots, inserts) = (take(slots)?, take(inserts)?);
    let sizes = (slots.info()?.max_entries(), inserts.info()?.max_entries());
    ConnTable::open((slots.fd().as_fd(), inserts.fd().as_fd()), sizes, seed)
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
