//! Probes by way of their service: sets up in the data plane what the file's checks ask for.
//!
//! A way has an index for as long as a check uses it. Probes may go by it once its real server's
//! next hop is known and the programs are on the interface towards it; the answers come in by that
//! interface or by one of the data plane's.
//!
//! Must not know: how packets are led, what a probe says.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

use lb_common::via::MAX_WAYS;

use crate::controller::routes::Routes;
use crate::controller::task::Controller;
use crate::dataplane::bpf::ViaService;
use crate::health::Target;
use crate::health::ways::{Known, Ways};
use crate::model::{Dataplane, Way};

/// What is set up.
#[derive(Default)]
pub(super) struct Via {
    wanted: BTreeSet<Way>,
    indices: Indices,
    /// Loaded with the first way, and kept: answers to the last probes are still on their way.
    programs: Option<ViaService>,
    /// When the kernel last refused them, and why.
    refused: Option<(Instant, String)>,
    /// What was last told about a failure.
    told: Option<String>,
}

/// From one attempt to load the programs to the next.
const PATIENCE: Duration = Duration::from_secs(10);

/// Which way has which index. One that is given back is the last to be given out again.
#[derive(Debug, Default)]
struct Indices {
    by_way: BTreeMap<Way, u16>,
    free: std::collections::VecDeque<u16>,
    /// Indices that were given out at all.
    used: u16,
}

impl Indices {
    /// The indices that `wanted` has no use for. They are to be emptied.
    fn retain(&mut self, wanted: &BTreeSet<Way>) -> Vec<u16> {
        let gone: Vec<Way> =
            self.by_way.keys().filter(|way| !wanted.contains(way)).copied().collect();
        let freed: Vec<u16> = gone.iter().filter_map(|way| self.by_way.remove(way)).collect();
        self.free.extend(&freed);
        freed
    }

    /// The index of a way, and whether it is new; `None` when there is none left.
    fn take(&mut self, way: Way) -> Option<(u16, bool)> {
        if let Some(index) = self.by_way.get(&way) {
            return Some((*index, false));
        }
        let fresh = || u32::from(self.used) < MAX_WAYS;
        let index = if fresh() {
            self.used += 1;
            self.used - 1
        } else {
            self.free.pop_front()?
        };
        self.by_way.insert(way, index);
        Some((index, true))
    }

    /// Gives an index back that could not be used.
    fn give_back(&mut self, way: &Way) {
        self.free.extend(self.by_way.remove(way));
    }
}

impl Via {
    /// The ways that these targets ask for.
    pub(super) fn want<'a>(&mut self, targets: impl Iterator<Item = &'a Target>) {
        self.wanted = targets.filter_map(|target| target.check.via.way()).collect();
    }

    /// Sets up every way whose next hop is known, and tells probes.
    pub(super) fn follow(&mut self, plane: &Dataplane, routes: &Routes, ways: &Ways) {
        if self.wanted.is_empty() && self.programs.is_none() {
            return;
        }
        let wanted = self.wanted.clone();
        // Not before the programs drop what is still marked so may another way have the mark.
        let mut failed = self.forget(&wanted).err();
        if let Err(error) = self.listen(plane, routes) {
            failed.get_or_insert(error);
        }
        let mut known = HashMap::new();
        for way in wanted {
            let state = match routes.hops.get(&way.server) {
                None => Known::NoNextHop,
                Some(hop) => match self.lead(way, hop.ifindex, routes) {
                    Ok(index) => Known::Ready(index),
                    Err(error) => {
                        let why = format!("{error:#}");
                        failed.get_or_insert(error);
                        Known::Failed(why)
                    }
                },
            };
            known.insert(way, state);
        }
        ways.set(known);
        self.tell(failed);
    }

    fn forget(&mut self, wanted: &BTreeSet<Way>) -> anyhow::Result<()> {
        for index in self.indices.retain(wanted) {
            if let Some(programs) = &mut self.programs {
                programs.set(index, None)?;
            }
        }
        Ok(())
    }

    /// Answers may come in by any of the data plane's interfaces.
    fn listen(&mut self, plane: &Dataplane, routes: &Routes) -> anyhow::Result<()> {
        for name in &plane.interfaces {
            if let Some(link) = routes.links.by_name(name) {
                self.programs()?.attach(name, link.index)?;
            }
        }
        Ok(())
    }

    /// Sets a way up by this interface.
    fn lead(&mut self, way: Way, ifindex: u32, routes: &Routes) -> anyhow::Result<u16> {
        let link = routes.links.get(ifindex);
        let name = link.map(|link| link.name.clone()).unwrap_or_default();
        self.programs()?.attach(&name, ifindex)?;
        let Some((index, is_new)) = self.indices.take(way) else {
            anyhow::bail!("more than {MAX_WAYS} real servers are checked `via: service`");
        };
        if is_new && let Err(error) = self.programs()?.set(index, Some(&way)) {
            self.indices.give_back(&way);
            return Err(error);
        }
        Ok(index)
    }

    fn programs(&mut self) -> anyhow::Result<&mut ViaService> {
        if self.programs.is_none() {
            if let Some((at, why)) = &self.refused
                && at.elapsed() < PATIENCE
            {
                // Not once for each way: the kernel takes its time to say no.
                anyhow::bail!("{why}");
            }
            let loaded = ViaService::load();
            self.refused = loaded.as_ref().err().map(|why| (Instant::now(), format!("{why:#}")));
            self.programs = Some(loaded?);
        }
        self.programs.as_mut().ok_or_else(|| anyhow::anyhow!("they were loaded"))
    }

    /// Once for each reason, and once when it is over.
    fn tell(&mut self, failed: Option<anyhow::Error>) {
        let failed = failed.map(|error| format!("{error:#}"));
        if failed == self.told {
            return;
        }
        match &failed {
            Some(why) => tracing::error!("health checks `via: service` cannot be done: {why}"),
            None => tracing::info!("health checks `via: service` can be done again"),
        }
        self.told = failed;
    }
}

impl Controller {
    /// Brings the ways of probes in line with the targets and the next hops.
    pub(super) fn follow_ways(&mut self) {
        if let Some(plane) = &self.start.director.dataplane {
            self.via.follow(plane, &self.routes, self.runner.ways());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn way(n: u8) -> Way {
        Way { vip: [192, 0, 2, 1].into(), server: [10, 0, 0, n].into(), tunnel: false }
    }

    #[test]
    fn a_way_keeps_its_index_and_a_freed_one_waits_long() {
        let mut indices = Indices::default();
        assert_eq!(indices.take(way(1)), Some((0, true)));
        assert_eq!(indices.take(way(2)), Some((1, true)));
        assert_eq!(indices.take(way(1)), Some((0, false)));
        assert_eq!(indices.retain(&BTreeSet::from([way(2)])), [0]);
        assert_eq!(indices.take(way(2)), Some((1, false)));
        // Not the one that packets may still be marked with.
        assert_eq!(indices.take(way(1)), Some((2, true)));
    }

    #[test]
    fn indices_are_used_again_when_all_were() {
        let mut indices = Indices { used: MAX_WAYS as u16, ..Indices::default() };
        assert_eq!(indices.take(way(1)), None);
        indices.free.extend([7, 9]);
        assert_eq!(indices.take(way(1)), Some((7, true)));
        indices.give_back(&way(1));
        assert_eq!(indices.take(way(2)), Some((9, true)));
    }
}
