//! `lb check FILE --peer FILE`: who owns the virtual addresses after each single failure of two
//! directors, and what of their files keeps them from taking over from each other.
//!
//! [`analyse`] matches the instances of both files (`pairs`), asks the receiving rules of
//! [`crate::vrrp`] whether they would hear each other (`hearing`), and runs its state machines
//! through every single failure (`failure`) and its repair (`election`): so the answer is the
//! daemon's own, not another set of rules. `verdict` and `differences` turn what was seen into
//! findings.
//!
//! Assumes that both directors start together, that nothing else fails, and that the network
//! carries adverts both ways. Priorities of objects that are tracked by name are those of both
//! files, so a check that only one file has fails on that node only.
//!
//! Must not know: files, clocks, sockets, how a report is shown.

mod differences;
mod election;
mod failure;
mod hearing;
mod pairs;
mod report;
mod verdict;

#[cfg(test)]
mod tests;

use std::time::Instant;

pub use report::{Case, Finding, InstanceReport, Kind, Report};

use crate::model::Director;
use election::{Course, Seat};
use failure::{Failure, What};
use pairs::Pair;

/// One of the two directors.
#[derive(Clone, Debug)]
pub struct Node<'a> {
    /// What it is called in the report; different from the other one's.
    pub name: String,
    /// What its file means.
    pub director: &'a Director,
}

/// Looks at every single failure. `now` is any moment: the analysis has a time of its own.
#[must_use]
pub fn analyse(nodes: &[Node<'_>; 2], now: Instant) -> Report {
    let pairs = pairs::all([nodes[0].director, nodes[1].director]);
    let hears: Vec<_> = pairs.iter().map(hearing::Hearing::of).collect();
    let mut findings = differences::all(nodes, &pairs);
    let mut instances = Vec::new();
    let mut reports: Vec<Option<InstanceReport>> = pairs.iter().map(|_| None).collect();
    for cluster in pairs::clusters([nodes[0].director, nodes[1].director], &pairs) {
        let scene = Scene { nodes, pairs: &pairs, hears: &hears, cluster: &cluster, now };
        let cases = scene.cases();
        for (at, &pair) in cluster.iter().enumerate() {
            let seen: Vec<_> =
                cases.iter().map(|(failure, owners)| (failure, owners[at])).collect();
            findings.extend(verdict::of(&scene, pair, &seen));
            reports[pair] = Some(report::instance(&scene, pair, &seen));
        }
    }
    instances.extend(reports.into_iter().flatten());
    findings.sort_by_key(|finding| finding.kind);
    Report { nodes: [nodes[0].name.clone(), nodes[1].name.clone()], instances, findings }
}

/// What is analysed at once: instances that move independently of all others.
struct Scene<'a> {
    nodes: &'a [Node<'a>; 2],
    pairs: &'a [Pair<'a>],
    hears: &'a [hearing::Hearing],
    /// Indices of `pairs`.
    cluster: &'a [usize],
    now: Instant,
}

/// Who owns the addresses of one pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// The node of this index.
    Node(usize),
    /// Nobody.
    Nobody,
    /// Both nodes at once.
    Both,
    /// One of the two: the higher primary address decides, which the files do not say.
    Tie,
}

/// Who owns the addresses of one pair after a failure, and after its repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owners {
    after: Owner,
    repaired: Owner,
}

impl Scene<'_> {
    /// Nothing wrong, then every failure, with the owners of each pair of the cluster.
    fn cases(&self) -> Vec<(Option<Failure>, Vec<Owners>)> {
        let mut failures = vec![None];
        failures.extend(failure::all(self.nodes, self.pairs, self.cluster).into_iter().map(Some));
        let courses = [false, true].map(|swapped| self.course(swapped));
        let seats = |failure: Option<&Failure>| self.seats(failure);
        failures
            .into_iter()
            .map(|failure| {
                let dead = failure.as_ref().filter(|f| f.what == What::Node).map(|f| f.node);
                let [one, other] =
                    courses.each_ref().map(|course| course.take(dead, &seats(failure.as_ref())));
                let owners = one.into_iter().zip(other);
                let owners =
                    owners.map(|((after, repaired), (other_after, other_repaired))| Owners {
                        after: either(after, other_after),
                        repaired: either(repaired, other_repaired),
                    });
                (failure, owners.collect())
            })
            .collect()
    }

    /// The cluster after both nodes have started, with one of the two orders of their addresses.
    fn course(&self, swapped: bool) -> Course {
        let hears = self.cluster.iter().map(|&pair| self.hears[pair].matrix()).collect();
        let seats = self.seats(None);
        let groups = [0, 1]
            .map(|node| pairs::groups(self.nodes[node].director, node, self.pairs, self.cluster));
        let plans = self.cluster.iter().map(|&pair| {
            [0, 1].map(|node| {
                let instance = self.pairs[pair].of[node]?;
                Some(election::settings(instance, node, swapped, groups[node].concerns(pair)))
            })
        });
        let plans: Vec<_> = plans.collect();
        Course::begin(&plans, &seats, groups.map(|groups| groups.members), hears, self.now)
    }

    /// The conditions of every instance of the cluster, on each node.
    fn seats(&self, failure: Option<&Failure>) -> Vec<[Option<Seat>; 2]> {
        let of = |&pair: &usize| [0, 1].map(|node| self.seat(pair, node, failure));
        self.cluster.iter().map(of).collect()
    }

    /// The conditions of one instance; `None` when the node has none.
    fn seat(&self, pair: usize, node: usize, failure: Option<&Failure>) -> Option<Seat> {
        let instance = self.pairs[pair].of[node]?;
        let failing = failure.filter(|f| f.node == node).map(|f| &f.what);
        Some(failure::seat(self.nodes[node].director, instance, failing))
    }
}

/// What both orders of addresses come to.
fn either(one: Owner, other: Owner) -> Owner {
    match (one, other) {
        (one, other) if one == other => one,
        (Owner::Both, _) | (_, Owner::Both) => Owner::Both,
        (Owner::Nobody, _) | (_, Owner::Nobody) => Owner::Nobody,
        _ => Owner::Tie,
    }
}
