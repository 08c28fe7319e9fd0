//! Service ids and real-server indices that a plan may give out.
//!
//! Must not know: what they are given to.

use std::collections::HashSet;
use std::ops::Bound;

use super::super::Planner;
use super::super::installed::Installed;

/// Service ids in the making of a plan.
#[derive(Default)]
pub(super) struct Ids {
    /// Installed ids that a wanted service keeps.
    pub(super) claimed: HashSet<u32>,
    /// Ids that may not be given to a new service; made when the first one is.
    taken: Option<Vec<bool>>,
    next: u32,
}

impl Ids {
    /// The lowest id that neither an entry nor a real server in use has.
    pub(super) fn lowest(&mut self, installed: &Installed, capacity: u32) -> Option<u32> {
        let taken = self.taken.get_or_insert_with(|| {
            let mut taken = vec![false; capacity as usize];
            let entries = installed.services.values().map(|entry| entry.id);
            for id in entries.chain(installed.real_servers.values().map(|rs| rs.service)) {
                if let Some(taken) = taken.get_mut(id as usize) {
                    *taken = true;
                }
            }
            taken
        });
        let found = (self.next..capacity).find(|id| !taken[*id as usize])?;
        self.next = found + 1;
        Some(found)
    }
}

/// Elements of `real_servers` that nobody has.
pub(super) struct FreeIndices<'a> {
    pub(super) planner: &'a Planner,
    /// The last one given of those that were in use once.
    pub(super) last: Option<u32>,
    pub(super) fresh: u32,
}

impl FreeIndices<'_> {
    /// A free element and the generation that it has.
    pub(super) fn take(&mut self) -> Option<(u32, u16)> {
        let (installed, limit) = (&self.planner.installed, self.planner.limits.real_servers);
        let after = self.last.map_or(Bound::Unbounded, Bound::Excluded);
        if let Some((index, generation)) = installed.freed.range((after, Bound::Unbounded)).next()
            && *index < limit
        {
            self.last = Some(*index);
            return Some((*index, *generation));
        }
        let known = |index| {
            installed.real_servers.contains_key(&index) || installed.freed.contains_key(&index)
        };
        let index = (self.fresh..limit).find(|index| !known(*index))?;
        self.fresh = index + 1;
        Some((index, 0))
    }
}
