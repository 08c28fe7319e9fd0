//! One family's connection tables: the live one, to read, and the sandbox's, which holds the few
//! entries that one packet can meet.
//!
//! Must not know: services, programs.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use anyhow::{Context, ensure};
use aya::maps::MapData;
use lb_common::conn::{ConnEntry, ConnKey, REPLY, Word};
use lb_common::hash::TableSeed;
use lb_common::service::{METHOD_NAT, RealServer};
use lb_common::table::{self, Bucket, SLOTS};

use super::Known;
use crate::dataplane::bpf::connections::ConnTable;
use crate::dataplane::bpf::sys;

/// Both tables of a family.
pub(super) struct Side<K> {
    pub(super) live: ConnTable<K>,
    pub(super) own: ConnTable<K>,
    buckets: OwnedFd,
    seed: TableSeed,
}

impl<K: ConnKey> Side<K> {
    /// `pins` are those of the live table and of its insert counts; `buckets` is the sandbox's table
    /// as a map.
    pub(super) fn new(
        pins: [PathBuf; 2],
        own: ConnTable<K>,
        buckets: OwnedFd,
        seed: TableSeed,
    ) -> anyhow::Result<Self> {
        let [slots, inserts] = pins;
        let open = |pin: &PathBuf| {
            MapData::from_pin(pin).with_context(|| format!("open {}", pin.display()))
        };
        let (slots, inserts) = (open(&slots)?, open(&inserts)?);
        let sizes = (slots.info()?.max_entries(), inserts.info()?.max_entries());
        let live = ConnTable::open((slots.fd().as_fd(), inserts.fd().as_fd()), sizes, seed)?;
        Ok(Self { live, own, buckets, seed })
    }

    /// The live connection under this key.
    pub(super) fn known(&self, key: &K) -> Option<Known> {
        let (_, entry) = self.live.find(key)?;
        Some(Known { word: Word::from_raw(entry.word), seen: entry.seen })
    }

    /// The live entries that a packet with this key can meet: its own, the other half of its pair,
    /// and whatever holds the place that a reply half would have at one of `servers`, with the
    /// connection that it belongs to.
    pub(super) fn meet(
        &self,
        key: &K,
        servers: &BTreeSet<u32>,
        element: impl Fn(u32) -> Option<RealServer>,
    ) -> Vec<ConnEntry<K>> {
        let mut found = Vec::new();
        let mut take = |key: &K| {
            let (_, entry) = self.live.find(key)?;
            if !found.iter().any(|e: &ConnEntry<K>| e.key.is_same(&entry.key)) {
                found.push(entry);
            }
            Some(entry)
        };
        let own = take(key);
        let own_server = own.map(|entry| Word::from_raw(entry.word).real_server());
        let reply_half = |index: u32| {
            let server = element(index).filter(|server| server.method == METHOD_NAT)?;
            Some(key.reply_from(&server.address, server.port))
        };
        let halves = servers.iter().copied().chain(own_server).filter_map(reply_half);
        let mut entries: Vec<_> = halves.filter_map(|half| take(&half)).collect();
        entries.extend(own);
        for entry in entries {
            if Word::from_raw(entry.word).has(REPLY) {
                take(&entry.forward_key());
            }
        }
        found
    }

    /// Puts entries into the sandbox's table, which is empty.
    pub(super) fn put(&self, entries: &[ConnEntry<K>]) -> anyhow::Result<()> {
        let mut written: BTreeMap<u32, Bucket<K>> = BTreeMap::new();
        for entry in entries {
            let hash = entry.key.table_hash(&self.seed);
            let first = table::first_bucket(hash, self.own.buckets());
            let second = table::second_bucket(hash, self.own.buckets(), first);
            let is_put = [first, second].into_iter().any(|index| {
                let bucket = written.entry(index).or_insert(Self::EMPTY);
                let free = bucket.slots.iter_mut().find(|slot| slot.word == 0);
                free.map(|slot| *slot = *entry).is_some()
            });
            ensure!(is_put, "the packet meets more connections than can be copied");
        }
        self.write(written)
    }

    /// Empties the sandbox's table.
    pub(super) fn clear(&self) -> anyhow::Result<()> {
        let slots = 0..u64::from(self.own.buckets()) * SLOTS as u64;
        let used = slots.filter(|slot| self.own.word(*slot).raw() != 0);
        let buckets = used.map(|slot| ((slot / SLOTS as u64) as u32, Self::EMPTY));
        self.write(buckets.collect())
    }

    fn write(&self, buckets: BTreeMap<u32, Bucket<K>>) -> anyhow::Result<()> {
        let (indices, buckets): (Vec<u32>, Vec<Bucket<K>>) = buckets.into_iter().unzip();
        sys::update_batch(self.buckets.as_fd(), &indices, &buckets)
            .context("write the sandbox's connections")
    }

    const EMPTY: Bucket<K> = Bucket { slots: [ConnEntry::ZERO; SLOTS] };
}
