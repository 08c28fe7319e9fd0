//! Which parts of the slot array are free.
//!
//! First fit, neighbours joined. A region that a plan frees is [set aside](Regions::set_aside)
//! until the next plan: a packet may still be reading it.
//!
//! Must not know: what slots hold.

use std::collections::BTreeMap;

use lb_common::service::Region;

/// The free parts of the slot array.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Regions {
    /// Length by first slot; no two touch.
    free: BTreeMap<u32, u32>,
    aside: Vec<Region>,
}

impl Regions {
    /// An array of `len` free slots.
    pub fn new(len: u32) -> Self {
        let free = (len > 0).then_some((0, len)).into_iter().collect();
        Self { free, aside: Vec::new() }
    }

    /// Takes the first free run of `len` slots; `None` when there is none. `len` 0 is the empty
    /// region.
    pub fn take(&mut self, len: u32) -> Option<Region> {
        if len == 0 {
            return Some(Region { base: 0, len: 0 });
        }
        let (base, found) = self.free.iter().find(|(_, found)| **found >= len)?;
        let (base, found) = (*base, *found);
        self.free.remove(&base);
        if found > len {
            self.free.insert(base + len, found - len);
        }
        Some(Region { base, len })
    }

    /// Marks those slots of `region` that are free as taken; gives them back as regions.
    pub fn reserve(&mut self, region: Region) -> Vec<Region> {
        let end = region.base.saturating_add(region.len);
        let mut taken = Vec::new();
        while let Some((base, len)) = self.free_before(end, region.base) {
            let (from, to) = (base.max(region.base), (base + len).min(end));
            self.free.remove(&base);
            if base < from {
                self.free.insert(base, from - base);
            }
            if to < base + len {
                self.free.insert(to, base + len - to);
            }
            taken.push(Region { base: from, len: to - from });
        }
        taken
    }

    /// A free run that lies partly in `start..end`.
    fn free_before(&self, end: u32, start: u32) -> Option<(u32, u32)> {
        let (base, len) = self.free.range(..end).next_back()?;
        (base + len > start).then_some((*base, *len))
    }

    /// Keeps a region that nothing names any more until [`Regions::release`].
    pub fn set_aside(&mut self, region: Region) {
        if region.len > 0 {
            self.aside.push(region);
        }
    }

    /// Frees what was set aside.
    pub fn release(&mut self) {
        for region in std::mem::take(&mut self.aside) {
            self.free(region);
        }
    }

    /// Free slots, without those that are set aside.
    pub fn available(&self) -> u64 {
        self.free.values().map(|len| u64::from(*len)).sum()
    }

    fn free(&mut self, Region { mut base, mut len }: Region) {
        if let Some((before, before_len)) = self.free.range(..base).next_back()
            && before + before_len == base
        {
            (base, len) = (*before, before_len + len);
            self.free.remove(&base);
        }
        if let Some(after) = self.free.remove(&(base + len)) {
            len += after;
        }
        self.free.insert(base, len);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn region(base: u32, len: u32) -> Region {
        Region { base, len }
    }

    #[test]
    fn the_first_fit_is_taken_and_neighbours_are_joined() {
        let mut regions = Regions::new(100);
        let taken: Vec<_> = [10, 20, 30].into_iter().filter_map(|len| regions.take(len)).collect();
        assert_eq!(taken, [region(0, 10), region(10, 20), region(30, 30)]);
        assert_eq!(regions.take(41), None);
        assert_eq!(regions.take(0), Some(region(0, 0)));
        regions.set_aside(taken[1]);
        assert_eq!(regions.take(15), Some(region(60, 15)));
        regions.release();
        assert_eq!(regions.take(15), Some(region(10, 15)));
        for taken in [taken[0], region(10, 15), taken[2], region(60, 15)] {
            regions.set_aside(taken);
        }
        regions.release();
        assert_eq!(regions, Regions::new(100));
    }

    #[test]
    fn a_reservation_takes_what_is_free_of_it() {
        let mut regions = Regions::new(100);
        assert_eq!(regions.reserve(region(20, 10)), [region(20, 10)]);
        assert_eq!(regions.reserve(region(10, 30)), [region(30, 10), region(10, 10)]);
        assert_eq!(regions.reserve(region(90, u32::MAX)), [region(90, 10)]);
        assert_eq!(regions.available(), 60);
        assert!(regions.reserve(region(15, 20)).is_empty());
    }
}
