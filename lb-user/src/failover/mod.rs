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
use crate::vrrp::priority::Standing;
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
    let mut reports: Vec<Option<InstanceReport>> = pairs.iter().map(|_| None).collect();
    for cluster in pairs::clusters([nodes[0].director, nodes[1].director], &pairs) {
        let scene = Scene { nodes, pairs: &pairs, hears: &hears, cluster: &cluster, now };
        let starts = scene.starts();
        for (at, &pair) in cluster.iter().enumerate() {
            let seen = starts.iter().filter_map(|start| start.of(at)).collect::<Vec<_>>();
            findings.extend(verdict::of(&scene, pair, &seen));
            reports[pair] = Some(report::instance(&scene, pair, &seen));
        }
    }
    let instances = reports.into_iter().flatten().collect();
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
    /// One of the two: what decides is not in the files (the higher primary address, or who of
    /// two sync groups was first).
    Tie,
}

/// Who owns the addresses of one pair after a failure, and after its repair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Owners {
    after: Owner,
    repaired: Owner,
}

/// What was seen of a cluster from one state in which nothing is wrong.
struct Start {
    /// Who owns each pair of the cluster.
    owners: Vec<Owner>,
    /// By pair, whether this state is one of its own; the first start is everybody's.
    concerns: Vec<bool>,
    /// Failures, with the owners of each pair of the cluster.
    cases: Vec<(Failure, Vec<Owners>)>,
}

/// What was seen of one pair from one state in which nothing is wrong.
struct Seen<'a> {
    owner: Owner,
    cases: Vec<(&'a Failure, Owners)>,
}

impl Start {
    /// What concerns the pair at a place of the cluster.
    fn of(&self, at: usize) -> Option<Seen<'_>> {
        let cases = self.cases.iter().map(|(failure, owners)| (failure, owners[at])).collect();
        self.concerns[at].then(|| Seen { owner: self.owners[at], cases })
    }
}

impl Scene<'_> {
    /// Both nodes freshly started; and, where a node does not take the addresses back after its
    /// death was mended, the state in which the other one owns them.
    fn starts(&self) -> Vec<Start> {
        let failures = failure::all(self.nodes, self.pairs, self.cluster);
        let courses = [false, true].map(|swapped| self.course(swapped));
        let fresh = self.start(&courses, vec![true; self.cluster.len()], failures.clone());
        let mut starts = Vec::new();
        for node in [0, 1] {
            let dead = fresh.cases.iter().find(|(f, _)| f.node == node && f.what == What::Node);
            let Some((_, after)) = dead else { continue };
            let other = Owner::Node(1 - node);
            let concerns: Vec<bool> = fresh
                .owners
                .iter()
                .zip(after)
                .map(|(start, after)| *start == Owner::Node(node) && after.repaired == other)
                .collect();
            if concerns.contains(&true) {
                let courses = courses.each_ref().map(|course| course.after_death(node));
                let of_other = failures.iter().filter(|f| f.node != node).cloned().collect();
                starts.push(self.start(&courses, concerns, of_other));
            }
        }
        starts.insert(0, fresh);
        starts
    }

    fn start(&self, courses: &[Course; 2], concerns: Vec<bool>, failures: Vec<Failure>) -> Start {
        let [one, other] = courses.each_ref().map(Course::owners);
        let owners = one.into_iter().zip(other).map(|(one, other)| either(one, other)).collect();
        let case = |failure: Failure| {
            let dead = (failure.what == What::Node).then_some(failure.node);
            let seats = self.seats(Some(&failure));
            let [one, other] = courses.each_ref().map(|course| course.take(dead, &seats));
            let owners = one.into_iter().zip(other).map(|((after, repaired), other)| Owners {
                after: either(after, other.0),
                repaired: either(repaired, other.1),
            });
            let owners = owners.collect();
            (failure, owners)
        };
        Start { owners, concerns, cases: failures.into_iter().map(case).collect() }
    }

    /// The cluster after both nodes have started, with one of the two orders of their addresses and
    /// of their starts.
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
        let groups = groups.map(|groups| groups.members);
        Course::begin(&plans, &seats, &groups, hears, usize::from(swapped), self.now)
    }

    /// Whether a failure keeps an instance from taking part: by itself, or by a member of its
    /// sync group.
    fn is_barred(&self, pair: usize, node: usize, failure: Option<&Failure>) -> bool {
        let barred = |pair: usize| {
            let seat = self.seat(pair, node, failure);
            seat.is_some_and(|seat| !seat.link || seat.standing != Standing::Fit)
        };
        let director = self.nodes[node].director;
        let groups = pairs::groups(director, node, self.pairs, self.cluster).members;
        let together = groups
            .into_iter()
            .filter(|group| group.iter().any(|&member| self.cluster[member] == pair));
        barred(pair) || together.flatten().any(|member| barred(self.cluster[member]))
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
