//! A full count of the connection tables, to hold against the counts that the program keeps.

use std::collections::{BTreeMap, HashMap};
use std::hash::Hash;
use std::os::fd::AsFd;

use anyhow::Result;
use harness::bpf::Map;
use lb_common::conn::{ConnEntry, ConnKey, ConnKey4, ConnKey6, REPLY, Word};
use lb_user::dataplane::bpf::sys;

use crate::ipvs;
use crate::rig::Rig;

/// What the tables hold.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Census {
    /// Active and inactive connections by real-server index.
    pub(crate) counts: BTreeMap<u32, (i64, i64)>,
    /// Connections.
    pub(crate) forward: usize,
    /// Reply halves.
    pub(crate) replies: usize,
    /// Reply halves without their forward half.
    pub(crate) orphans: usize,
    /// Forward halves of nat without their reply half.
    pub(crate) widows: usize,
    /// Entries that are closed and still there.
    pub(crate) closed: usize,
}

impl Census {
    /// Counts everything.
    pub(crate) fn take(rig: &Rig) -> Result<Self> {
        let mut census = Self::default();
        let (conn4, conn6) = rig.tables();
        census.add::<ConnKey4>(conn4)?;
        census.add::<ConnKey6>(conn6)?;
        Ok(census)
    }

    fn add<K: ConnKey + Hash + Eq>(&mut self, map: &Map) -> Result<()> {
        let entries = all::<K>(map)?;
        for (key, entry) in &entries {
            let word = Word::from_raw(entry.word);
            if word.is_closed() {
                self.closed += 1;
                continue;
            }
            let other = entries.get(&entry.other).map(|e| Word::from_raw(e.word));
            let paired = other.is_some_and(|other| other.pairs_with(word) && !other.is_closed());
            if word.has(REPLY) {
                self.replies += 1;
                self.orphans += usize::from(!paired);
                continue;
            }
            self.forward += 1;
            self.widows += usize::from(entry.other.protocol() == key.protocol() && !paired);
            let counts = self.counts.entry(word.real_server()).or_default();
            if ipvs::is_active(word.state().name()) {
                counts.0 += 1;
            } else {
                counts.1 += 1;
            }
        }
        Ok(())
    }

    /// By how much the program's counts of these real servers are off, and how far below zero.
    pub(crate) fn drift(&self, rig: &mut Rig, servers: &[u32]) -> Result<u64> {
        let mut drift = 0;
        for &index in servers {
            let kept = rig.counts(index)?;
            let found = self.counts.get(&index).copied().unwrap_or((0, 0));
            drift += kept.0.abs_diff(found.0) + kept.1.abs_diff(found.1);
        }
        Ok(drift)
    }
}

/// Every entry of a table that is not changing.
pub(crate) fn all<K: ConnKey + Hash + Eq>(map: &Map) -> Result<HashMap<K, ConnEntry<K>>> {
    let room = map.entries() as usize;
    let (mut keys, mut values) = (vec![K::ZERO; room], vec![ConnEntry::<K>::ZERO; room]);
    let mut found = HashMap::new();
    let mut cursor = sys::Cursor::default();
    loop {
        let (count, last) =
            sys::lookup_batch(map.fd().as_fd(), &mut cursor, &mut keys, &mut values)?;
        found.extend(keys[..count].iter().copied().zip(values[..count].iter().copied()));
        if last {
            return Ok(found);
        }
    }
}
