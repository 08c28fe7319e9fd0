//! A second load of the programs, to see what they would do with a packet: they read the live tables,
//! and whatever they write is theirs alone.
//!
//! Maps that the programs only read are the live ones. Of the others the sandbox has its own, almost
//! empty ones, and before a run copies into them what this one packet can meet: its connection and
//! those that could hold its places, its service's cursor, its members' counts, the denials of its
//! source. So a run costs what one packet's neighbourhood costs, whatever the tables hold.
//!
//! Must not know: names, words, who asks.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use anyhow::{Context, ensure};
use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, PerCpuValues, ProgramArray};
use aya::{Ebpf, EbpfLoader};
use lb_common::abi;
use lb_common::access::AccessEntry;
use lb_common::conn::{ConnKey, ConnKey4, ConnKey6, ConnectionCounts, Word};
use lb_common::service::{PerCpu, RealServer, Region, ServiceEntry, ServiceKey, Traffic};
use lb_common::table::{self, TableShape};
use lb_common::verdict::Counter;

use self::side::Side;
use super::tables::{add, array_fd, connection_table};
use super::{access, load, sys};
use crate::dataplane::listing::ip;
use crate::model::Prefix;

mod side;

/// Maps that the programs only read, or do not use at all: the sandbox has the live ones.
/// (`lb_clock`, which writes the configuration, is not run here.)
const SHARED: [&str; 12] = [
    abi::MAP_SERVICES,
    abi::MAP_REAL_SERVERS,
    abi::MAP_SLOTS,
    abi::MAP_RETIRED,
    abi::MAP_TIMEOUTS,
    abi::MAP_CONFIG,
    abi::MAP_FILTER,
    abi::MAP_VIPS,
    abi::MAP_INTERFACES,
    abi::MAP_VIRTUAL_MACS,
    abi::MAP_ALLOW4,
    abi::MAP_ALLOW6,
];

/// Maps that the programs write: the sandbox has its own.
#[cfg(test)]
const OWN: [&str; 18] = [
    abi::MAP_CONN4,
    abi::MAP_CONN6,
    abi::MAP_INSERTS4,
    abi::MAP_INSERTS6,
    abi::MAP_CONNECTION_COUNTS,
    abi::MAP_TRAFFIC,
    abi::MAP_CURSORS,
    abi::MAP_VRRP_FRAMES,
    abi::MAP_COUNTERS,
    abi::MAP_PER_CPU,
    abi::MAP_EVENTS,
    abi::MAP_FRAGMENTS,
    abi::MAP_DETOURS,
    abi::MAP_DETOUR_FRAME,
    abi::MAP_HANDOVER,
    abi::MAP_STAGES,
    abi::MAP_DENY4,
    abi::MAP_DENY6,
];

/// Buckets of the sandbox's connection tables.
const BUCKETS: u32 = 1024;
/// Packets whose fragments the sandbox can remember.
const FRAGMENTED: u32 = 1024;
/// A frame may grow by a tunnel's header and tags.
const OUTPUT_ROOM: usize = 16 * 1024;

/// The programs, loaded a second time over the live tables.
pub struct Sandbox {
    guard: OwnedFd,
    live: Live,
    own: Own,
    v4: Side<ConnKey4>,
    v6: Side<ConnKey6>,
    output: Vec<u8>,
    /// The programs live as long as this.
    _ebpf: Ebpf,
    /// So do the ways between them.
    _stages: ProgramArray<MapData>,
}

/// What is read of the live data plane.
struct Live {
    services: HashMap<MapData, ServiceKey, ServiceEntry>,
    real_servers: Array<MapData, RealServer>,
    slots: OwnedFd,
    counts: Array<MapData, ConnectionCounts>,
    cursors: Array<MapData, u64>,
    per_cpu: PerCpuArray<MapData, PerCpu>,
    deny4: OwnedFd,
    deny6: OwnedFd,
}

/// What the programs write here.
struct Own {
    counts: Array<MapData, ConnectionCounts>,
    cursors: Array<MapData, u64>,
    per_cpu: PerCpuArray<MapData, PerCpu>,
    traffic: PerCpuArray<MapData, Traffic>,
    counters: PerCpuArray<MapData, u64>,
    deny4: OwnedFd,
    deny6: OwnedFd,
    cpus: usize,
}

/// The key that a packet has in the connection table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// Of an IPv4 packet.
    V4(ConnKey4),
    /// Of an IPv6 packet.
    V6(ConnKey6),
}

/// A connection of the live table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Known {
    /// Its word.
    pub word: Word,
    /// When it was last used, in jiffies.
    pub seen: u64,
}

/// A real server that a packet can reach.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its index.
    pub index: u32,
    /// Its element.
    pub server: RealServer,
    /// Its connections before the run.
    pub counts: ConnectionCounts,
}

/// What became of a packet, and what decided it.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The verdict of XDP.
    pub verdict: u32,
    /// The frame as it leaves.
    pub frame: Vec<u8>,
    /// Counters that rose, and by how much.
    pub counted: Vec<(Counter, u64)>,
    /// The entry of the deny list that dropped it.
    pub denied_by: Option<Prefix>,
    /// The packet's connection in the live table.
    pub known: Option<Known>,
    /// The word of the packet's connection after the run.
    pub after: Option<Word>,
    /// The service that its destination is.
    pub service: Option<ServiceEntry>,
    /// The service's cursor before the run.
    pub cursor: u64,
    /// The service's real servers, and those of connections that it meets.
    pub members: Vec<Member>,
    /// Index of the real server that was counted for it, with what was counted.
    pub server: Option<(u32, Traffic)>,
}

/// What a packet can meet, besides connections.
struct Neighbourhood {
    service: Option<ServiceEntry>,
    cursor: u64,
    members: Vec<Member>,
    denials: Vec<(Prefix, AccessEntry)>,
}

/// Opens one map under its type.
macro_rules! typed {
    ($map:expr, $name:expr) => {
        $map.try_into().with_context(|| format!("map {} is not what is expected", $name))?
    };
}

impl Sandbox {
    /// Loads the programs over the maps that are pinned in `directory`.
    ///
    /// # Errors
    /// When the maps are gone, or the kernel refuses.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        for name in abi::MAPS {
            // The loader would make and pin what is missing.
            ensure!(directory.join(name).exists(), "the map {name} is not pinned any more");
        }
        let seed = load::seed_of(directory)?;
        let shape = TableShape { seed, buckets: BUCKETS, pad: 0 };
        let mut loader = EbpfLoader::new();
        for name in SHARED {
            loader.map_pin_path(name, directory.join(name));
        }
        for name in [abi::MAP_CONN4, abi::MAP_CONN6] {
            loader.map_max_entries(name, BUCKETS);
        }
        for name in [abi::MAP_INSERTS4, abi::MAP_INSERTS6] {
            loader.map_max_entries(name, table::regions_of(BUCKETS));
        }
        loader.map_max_entries(abi::MAP_FRAGMENTS, FRAGMENTED);
        loader.override_global(abi::GLOBAL_TABLE, &shape, true);
        let mut ebpf = loader.load(load::OBJECT).map_err(load::explain)?;
        load::load_programs(&mut ebpf)?;
        let stages = load::fill_stages(&mut ebpf)?;
        let guard = load::program_fd(&ebpf, abi::PROGRAM_GUARD)?;
        let live = Live::open(directory, &mut ebpf)?;
        let fds = (array_fd(&ebpf, abi::MAP_CONN4)?, array_fd(&ebpf, abi::MAP_CONN6)?);
        let own4 = connection_table(&mut ebpf, (abi::MAP_CONN4, abi::MAP_INSERTS4), seed)?;
        let own6 = connection_table(&mut ebpf, (abi::MAP_CONN6, abi::MAP_INSERTS6), seed)?;
        let names4 = [abi::MAP_CONN4, abi::MAP_INSERTS4].map(|name| directory.join(name));
        let names6 = [abi::MAP_CONN6, abi::MAP_INSERTS6].map(|name| directory.join(name));
        Ok(Self {
            guard,
            live,
            own: Own::take(&mut ebpf)?,
            v4: Side::new(names4, own4, fds.0, seed)?,
            v6: Side::new(names6, own6, fds.1, seed)?,
            output: vec![0; OUTPUT_ROOM],
            _ebpf: ebpf,
            _stages: stages,
        })
    }

    /// The packet's connection in the live table.
    pub fn known(&self, flow: &Flow) -> Option<Known> {
        match flow {
            Flow::V4(key) => self.v4.known(key),
            Flow::V6(key) => self.v6.known(key),
        }
    }

    /// What becomes of a frame that comes in by `ingress` and whose packet has this key. Nothing of
    /// the live data plane changes.
    ///
    /// # Errors
    /// When a map cannot be read, or there is no such interface.
    pub fn run(&mut self, frame: &[u8], ingress: u32, flow: &Flow) -> anyhow::Result<Outcome> {
        match flow {
            Flow::V4(key) => {
                let Self { guard, live, own, v4, output, .. } = self;
                run(guard, (live, own, v4), (frame, ingress, key), output)
            }
            Flow::V6(key) => {
                let Self { guard, live, own, v6, output, .. } = self;
                run(guard, (live, own, v6), (frame, ingress, key), output)
            }
        }
    }
}

fn run<K: ConnKey>(
    guard: &OwnedFd,
    (live, own, side): (&Live, &mut Own, &mut Side<K>),
    (frame, ingress, key): (&[u8], u32, &K),
    output: &mut [u8],
) -> anyhow::Result<Outcome> {
    let service = live.services.get(&ServiceKey::of(key), 0).ok();
    let mut indices = BTreeSet::new();
    for region in service.iter().flat_map(|service| [service.slots, service.maglev]) {
        live.region(region, &mut indices)?;
    }
    let element = |index: u32| live.real_servers.get(&index, 0).ok();
    let met = side.meet(key, &indices, element);
    indices.extend(met.iter().map(|entry| Word::from_raw(entry.word).real_server()));
    let around = Neighbourhood {
        service,
        cursor: service.map_or(Ok(0), |service| live.cursors.get(&service.id, 0))?,
        members: indices.iter().filter_map(|&index| live.member(index)).collect(),
        denials: live.denials(ip(&key.source()))?,
    };
    let known = side.known(key);
    let result = (|| {
        side.put(&met)?;
        own.copy(live, &around)?;
        let before = own.counters()?;
        let ran = sys::test_run_frame(guard.as_fd(), frame, 0, ingress, output)
            .with_context(|| format!("run a frame of interface {ingress}"))?;
        let after = own.counters()?;
        let counted = before.iter().zip(after).filter(|(before, after)| before.1 != after.1);
        Ok(Outcome {
            verdict: ran.verdict,
            frame: output.get(..ran.length).unwrap_or_default().to_vec(),
            counted: counted.map(|(b, a)| (a.0, a.1 - b.1)).collect(),
            denied_by: own.denied_by(&around)?,
            known,
            after: side.own.find(key).map(|(_, entry)| Word::from_raw(entry.word)),
            service: around.service,
            cursor: around.cursor,
            server: own.counted_server(&around.members)?,
            members: around.members.clone(),
        })
    })();
    // Whatever happened, the next packet meets nothing of this one.
    side.clear()?;
    own.clear(&around)?;
    result
}

impl Live {
    fn open(directory: &Path, ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let pinned = |name: &str| {
            let path = directory.join(name);
            MapData::from_pin(path).with_context(|| format!("open the map {name}"))
        };
        let trie = |name: &str| -> anyhow::Result<OwnedFd> {
            Ok(pinned(name)?.fd().as_fd().try_clone_to_owned()?)
        };
        Ok(Self {
            services: typed!(Map::HashMap(pinned(abi::MAP_SERVICES)?), abi::MAP_SERVICES),
            real_servers: typed!(Map::Array(pinned(abi::MAP_REAL_SERVERS)?), abi::MAP_REAL_SERVERS),
            slots: array_fd(ebpf, abi::MAP_SLOTS)?,
            counts: typed!(
                Map::Array(pinned(abi::MAP_CONNECTION_COUNTS)?),
                abi::MAP_CONNECTION_COUNTS
            ),
            cursors: typed!(Map::Array(pinned(abi::MAP_CURSORS)?), abi::MAP_CURSORS),
            per_cpu: typed!(Map::PerCpuArray(pinned(abi::MAP_PER_CPU)?), abi::MAP_PER_CPU),
            deny4: trie(abi::MAP_DENY4)?,
            deny6: trie(abi::MAP_DENY6)?,
        })
    }

    /// Adds the real servers of a region of the slot array.
    fn region(&self, region: Region, found: &mut BTreeSet<u32>) -> anyhow::Result<()> {
        const CHUNK: u32 = 4096;
        let end = region.base.saturating_add(region.len).min(abi::MAX_SLOTS);
        let mut at = region.base;
        while at < end {
            let count = CHUNK.min(end - at) as usize;
            let (mut keys, mut slots) = (vec![0u32; count], vec![0u32; count]);
            let mut cursor = sys::Cursor::of_array(at);
            let (read, _) =
                sys::lookup_batch(self.slots.as_fd(), &mut cursor, &mut keys, &mut slots)
                    .context("read a slot table")?;
            ensure!(read > 0, "the slot table ends before {end}");
            found.extend(&slots[..read]);
            at += read as u32;
        }
        Ok(())
    }

    fn member(&self, index: u32) -> Option<Member> {
        let server = self.real_servers.get(&index, 0).ok()?;
        Some(Member { index, server, counts: self.counts.get(&index, 0).ok()? })
    }

    fn denials(&self, source: IpAddr) -> anyhow::Result<Vec<(Prefix, AccessEntry)>> {
        let map = if source.is_ipv4() { &self.deny4 } else { &self.deny6 };
        access::covering(map.as_fd(), source)
    }
}

impl Own {
    fn take(ebpf: &mut Ebpf) -> anyhow::Result<Self> {
        let mut take = |name: &str| {
            ebpf.take_map(name).with_context(|| format!("the object has no map {name}"))
        };
        Ok(Self {
            counts: typed!(take(abi::MAP_CONNECTION_COUNTS)?, abi::MAP_CONNECTION_COUNTS),
            cursors: typed!(take(abi::MAP_CURSORS)?, abi::MAP_CURSORS),
            per_cpu: typed!(take(abi::MAP_PER_CPU)?, abi::MAP_PER_CPU),
            traffic: typed!(take(abi::MAP_TRAFFIC)?, abi::MAP_TRAFFIC),
            counters: typed!(take(abi::MAP_COUNTERS)?, abi::MAP_COUNTERS),
            deny4: access::trie(ebpf, abi::MAP_DENY4)?,
            deny6: access::trie(ebpf, abi::MAP_DENY6)?,
            cpus: aya::util::nr_cpus().map_err(|(what, error)| {
                anyhow::Error::from(error).context(format!("count the CPUs: {what}"))
            })?,
        })
    }

    /// Makes what the programs write here what it is in the live maps.
    fn copy(&mut self, live: &Live, around: &Neighbourhood) -> anyhow::Result<()> {
        if let Some(service) = around.service {
            self.cursors.set(service.id, around.cursor, 0)?;
        }
        for member in &around.members {
            self.counts.set(member.index, member.counts, 0)?;
        }
        // Of all CPUs: the run may be on any.
        self.per_cpu.set(0, live.per_cpu.get(&0, 0)?, 0)?;
        access::copy_entries(self.deny(around).as_fd(), &around.denials, false)
    }

    fn deny(&self, around: &Neighbourhood) -> &OwnedFd {
        let is_v4 = around.denials.first().is_some_and(|(prefix, _)| prefix.address().is_ipv4());
        if is_v4 { &self.deny4 } else { &self.deny6 }
    }

    fn counters(&self) -> anyhow::Result<Vec<(Counter, u64)>> {
        let read = |&counter: &Counter| {
            let values = self.counters.get(&(counter as u32), 0).context("read counters")?;
            Ok((counter, values.iter().sum()))
        };
        Counter::ALL.iter().map(read).collect()
    }

    /// The entry of the deny list that has counted the packet.
    fn denied_by(&self, around: &Neighbourhood) -> anyhow::Result<Option<Prefix>> {
        let Some((longest, _)) = around.denials.first() else {
            return Ok(None);
        };
        let now = access::covering(self.deny(around).as_fd(), longest.address())?;
        let is_raised = |(prefix, entry): &&(Prefix, AccessEntry)| {
            now.iter().any(|(p, now)| p == prefix && now.packets != entry.packets)
        };
        Ok(around.denials.iter().find(is_raised).map(|(prefix, _)| *prefix))
    }

    /// The real server that the run counted the packet for. All counts are zero between runs.
    fn counted_server(&self, members: &[Member]) -> anyhow::Result<Option<(u32, Traffic)>> {
        for member in members {
            let traffic = self.traffic.get(&member.index, 0).context("read traffic")?;
            let sum = traffic.iter().fold(Traffic::zeroed(), |sum, one| add(&sum, one));
            if sum != Traffic::zeroed() {
                return Ok(Some((member.index, sum)));
            }
        }
        Ok(None)
    }

    fn clear(&mut self, around: &Neighbourhood) -> anyhow::Result<()> {
        while let Some((index, _)) = self.counted_server(&around.members)? {
            let zeros = PerCpuValues::try_from(vec![Traffic::zeroed(); self.cpus])?;
            self.traffic.set(index, zeros, 0)?;
        }
        access::copy_entries(self.deny(around).as_fd(), &around.denials, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_map_is_either_shared_or_the_sandboxs_own() {
        for name in abi::MAPS {
            let lists = [&SHARED[..], &OWN[..]];
            let count = lists.iter().filter(|list| list.contains(&name)).count();
            assert_eq!(count, 1, "{name}");
        }
        assert_eq!(SHARED.len() + OWN.len(), abi::MAPS.len());
    }
}
