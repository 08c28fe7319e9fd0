//! A full count of the connection tables, to hold against the counts that the program keeps.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::hash::Hash;

use anyhow::Result;
use lb_common::conn::{BUSY, ConnKey, REPLY, Word};
use lb_common::table::SLOTS;
use lb_user::dataplane::bpf::ConnTable;

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
    /// Slots that are being filled: none, when nothing runs.
    pub(crate) busy: usize,
    /// Connections whose key is there a second time, or that cannot be found under their key.
    pub(crate) twice: usize,
}

impl Census {
    /// Counts everything.
    pub(crate) fn take(rig: &Rig) -> Result<Self> {
        let mut census = Self::default();
        let (conn4, conn6) = rig.tables();
        census.add(conn4);
        census.add(conn6);
        Ok(census)
    }

    fn add<K: ConnKey + Hash + Eq>(&mut self, table: &ConnTable<K>) {
        let mut entries = HashMap::new();
        for slot in 0..u64::from(table.buckets()) * SLOTS as u64 {
            self.busy += usize::from(table.word(slot).has(BUSY) && !table.word(slot).is_live());
            if let Some(entry) = table.entry(slot) {
                let is_found = table.find(&entry.key).is_some_and(|(at, _)| at == slot);
                let is_first = entries.insert(entry.key, entry).is_none();
                self.twice += usize::from(!(is_found && is_first));
            }
        }
        // Forward halves of nat, the only ones that keep their virtual end, and those with a reply.
        let (mut nat, mut paired) = (0, HashSet::new());
        for entry in entries.values() {
            let word = Word::from_raw(entry.word);
            if word.has(REPLY) {
                self.replies += 1;
                let forward = entries.get(&entry.forward_key());
                if forward.is_some_and(|f| Word::from_raw(f.word).pairs_with(word)) {
                    paired.insert(entry.forward_key());
                } else {
                    self.orphans += 1;
                }
                continue;
            }
            self.forward += 1;
            nat += usize::from(entry.virtual_end != K::NOWHERE);
            let counts = self.counts.entry(word.real_server()).or_default();
            if ipvs::is_active(word.state().name()) {
                counts.0 += 1;
            } else {
                counts.1 += 1;
            }
        }
        self.widows += nat - paired.len();
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
