//! Real servers that left the file: kept while they have connections, then given back.
//!
//! Must not know: how connections are counted.

use std::collections::BTreeSet;

use lb_common::service::{RS_EXPIRED, RS_RESET, RealServer};

use super::super::op::MapOp;
use super::super::{Cached, next_generation};
use super::{Draft, identity, with_hop};

impl Draft<'_> {
    /// Elements that no service has any more; `outdated` are services that changed or left, as
    /// they were.
    pub(super) fn leaving<'c>(
        &mut self,
        outdated: impl Iterator<Item = &'c Cached>,
    ) -> BTreeSet<u32> {
        let before = &self.planner.leaving;
        let mut leaving: BTreeSet<u32> =
            before.iter().filter(|index| !self.used.contains(index)).copied().collect();
        let mut left: Vec<u32> = outdated
            .flat_map(|cached| &cached.indices)
            .filter(|index| !self.used.contains(index))
            .copied()
            .collect();
        leaving.extend(&left);
        if !self.planner.settled {
            left = leaving.iter().copied().collect();
        }
        left.sort_unstable();
        let servers = &self.planner.installed.real_servers;
        let named = left.iter().filter_map(|index| Some((*index, identity(servers.get(index)?))));
        self.changes.servers_left.extend(named);
        left.into_iter().for_each(|index| self.reset(index));
        leaving
    }

    /// A server whose connections are to be reset keeps none when it leaves.
    fn reset(&mut self, index: u32) {
        let Some(old) = self.planner.installed.real_servers.get(&index) else {
            return;
        };
        if old.flags & (RS_RESET | RS_EXPIRED) != RS_RESET {
            return;
        }
        let generation = next_generation(old.generation);
        let value = RealServer { generation, flags: old.flags | RS_EXPIRED, ..*old };
        self.phases.expired.push(MapOp::SetRealServer { index, value });
    }

    /// Gives back the elements that left before this plan and have no connections.
    pub(super) fn retire(
        &mut self,
        mut leaving: BTreeSet<u32>,
        idle: &BTreeSet<u32>,
    ) -> BTreeSet<u32> {
        if !self.planner.settled {
            return leaving;
        }
        for index in idle.intersection(&self.planner.leaving) {
            let Some(old) = self.planner.installed.real_servers.get(index) else {
                continue;
            };
            if !leaving.remove(index) {
                continue;
            }
            let generation = next_generation(old.generation);
            let value = RealServer { generation, ..RealServer::zeroed() };
            self.phases.retired.extend([
                MapOp::RetireTraffic { index: *index, service: old.service },
                MapOp::SetRealServer { index: *index, value },
            ]);
            self.changes.servers_retired.push((*index, identity(old)));
        }
        leaving
    }

    /// Next hops of elements whose connections are still forwarded.
    pub(super) fn leaving_hops(&mut self, leaving: &BTreeSet<u32>) {
        for (index, (hop, path)) in &self.wanted.leaving_hops {
            let Some(old) = self.planner.installed.real_servers.get(index) else {
                continue;
            };
            if !leaving.contains(index) {
                continue;
            }
            // One that is expired by this plan is written once, with its hop.
            let expired = self.phases.expired.iter_mut().find_map(|op| match op {
                MapOp::SetRealServer { index: of, value } if of == index => Some(value),
                _ => None,
            });
            if let Some(value) = expired {
                *value = with_hop(*value, *hop, path);
                continue;
            }
            let value = with_hop(*old, *hop, path);
            if *old != value {
                self.phases.real_servers.push(MapOp::SetRealServer { index: *index, value });
                self.changes.servers_changed.push((*index, identity(old)));
            }
        }
    }
}
