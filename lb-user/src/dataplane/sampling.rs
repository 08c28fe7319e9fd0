//! Reading every real server's counters at once, for rates: with map handles of its own, in batches,
//! for a thread that may block.
//!
//! Must not know: names of services, what the counters are for.

use std::collections::{BTreeMap, HashMap};
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Instant;

use anyhow::Context;
use aya::maps::MapData;
use lb_common::abi;
use lb_common::service::{RealServer, ServiceEntry, ServiceKey, Traffic};

use super::bpf::{add, sys};
use crate::metrics::history::{Owner, Reading};

/// Elements that are read by one call.
const CHUNK: usize = 1024;

/// What the counters are read from.
#[derive(Debug)]
pub struct Sampler {
    services: OwnedFd,
    real_servers: OwnedFd,
    traffic: OwnedFd,
    cpus: usize,
    started: Instant,
}

impl Sampler {
    /// A sampler of the maps that are pinned in `directory`.
    ///
    /// # Errors
    /// When they cannot be opened.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        let open = |name: &str| -> anyhow::Result<OwnedFd> {
            let map = MapData::from_pin(directory.join(name));
            let map = map.with_context(|| format!("open map {name}"))?;
            Ok(map.fd().as_fd().try_clone_to_owned()?)
        };
        let cpus = aya::util::nr_cpus().map_err(|(what, error)| {
            anyhow::Error::from(error).context(format!("count the CPUs: {what}"))
        })?;
        Ok(Self {
            services: open(abi::MAP_SERVICES)?,
            real_servers: open(abi::MAP_REAL_SERVERS)?,
            traffic: open(abi::MAP_TRAFFIC)?,
            cpus,
            started: Instant::now(),
        })
    }

    /// The counters by now. Who owns them is read first: an index that gets another owner
    /// meanwhile has counters that are smaller than its former owner's, never larger.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn read(&self) -> anyhow::Result<Reading> {
        let owners = self.owners()?;
        let at = self.started.elapsed();
        Ok(Reading { at, servers: self.counters(&owners)?, services: self.services()? })
    }

    fn services(&self) -> anyhow::Result<BTreeMap<ServiceKey, u32>> {
        let (mut keys, mut entries) =
            (vec![ServiceKey::zeroed(); CHUNK], vec![ServiceEntry::zeroed(); CHUNK]);
        let mut cursor = sys::Cursor::default();
        let mut found = BTreeMap::new();
        loop {
            let read =
                sys::lookup_batch(self.services.as_fd(), &mut cursor, &mut keys, &mut entries);
            let (count, last) = read.context("read the services")?;
            found.extend(keys.iter().zip(&entries).take(count).map(|(key, e)| (*key, e.id)));
            if last {
                return Ok(found);
            }
        }
    }

    /// The owners of the indices that are in use, in order.
    fn owners(&self) -> anyhow::Result<Vec<(u32, Owner)>> {
        let (mut keys, mut values) = (vec![0u32; CHUNK], vec![RealServer::zeroed(); CHUNK]);
        let mut cursor = sys::Cursor::default();
        let mut found = Vec::new();
        loop {
            let read =
                sys::lookup_batch(self.real_servers.as_fd(), &mut cursor, &mut keys, &mut values);
            let (count, last) = read.context("read the real servers")?;
            let read = keys.iter().zip(&values).take(count);
            let used = read.filter(|(_, server)| server.address != [0; 16]);
            found.extend(used.map(|(index, server)| {
                let RealServer { service, address, port, .. } = *server;
                (*index, Owner { service, address, port })
            }));
            if last {
                return Ok(found);
            }
        }
    }

    /// The counters of these indices, which are in order; runs without any are passed over.
    fn counters(&self, owners: &[(u32, Owner)]) -> anyhow::Result<HashMap<u32, (Owner, Traffic)>> {
        let (mut keys, mut values) =
            (vec![0u32; CHUNK], vec![Traffic::zeroed(); CHUNK * self.cpus]);
        let mut found = HashMap::with_capacity(owners.len());
        let mut left = owners;
        while let Some(&(first, _)) = left.first() {
            let end = left.partition_point(|(index, _)| (index - first) < CHUNK as u32);
            let (run, rest) = left.split_at(end);
            let length = run.last().map_or(1, |(last, _)| (last - first) as usize + 1);
            let mut cursor = sys::Cursor::of_array(first);
            // A value is one element for each CPU, so there is room for more than `length`.
            let read = sys::lookup_batch(
                self.traffic.as_fd(),
                &mut cursor,
                &mut keys[..length],
                &mut values,
            );
            let (count, _) = read.context("read the traffic of real servers")?;
            for (index, owner) in run {
                let place = (index - first) as usize;
                let per_cpu = values.get(place * self.cpus..(place + 1) * self.cpus);
                let Some(per_cpu) = per_cpu.filter(|_| place < count) else { continue };
                let sum = per_cpu.iter().fold(Traffic::zeroed(), |sum, t| add(&sum, t));
                found.insert(*index, (*owner, sum));
            }
            left = rest;
        }
        Ok(found)
    }
}
