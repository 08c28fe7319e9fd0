//! Which instance of one file is which of the other, and which move together.
//!
//! Must not know: priorities, failures.

use std::collections::BTreeSet;
use std::net::IpAddr;

use crate::model::{Director, OwnedAddress, VrrpInstance};

/// One virtual router: its instance on each node.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pair<'a> {
    /// By node; at least one is there.
    pub(super) of: [Option<&'a VrrpInstance>; 2],
}

impl<'a> Pair<'a> {
    /// The instance of the first node that has one.
    pub(super) fn any(&self) -> &'a VrrpInstance {
        let [a, b] = self.of;
        a.or(b).expect("a pair has an instance")
    }

    /// The instances of both nodes.
    pub(super) fn both(&self) -> Option<[&'a VrrpInstance; 2]> {
        Some([self.of[0]?, self.of[1]?])
    }

    /// What people call it: its name, or both names.
    pub(super) fn name(&self) -> String {
        match self.both() {
            Some([a, b]) if a.name != b.name => format!("{}/{}", a.name, b.name),
            _ => self.any().name.clone(),
        }
    }
}

/// Whether an instance is one of IPv4.
pub(super) fn is_ipv4(instance: &VrrpInstance) -> bool {
    instance.addresses.first().is_none_or(|first| first.address.is_ipv4())
}

/// Every address of an instance, advertised or not.
pub(super) fn owned(instance: &VrrpInstance) -> impl Iterator<Item = &OwnedAddress> {
    instance.addresses.iter().chain(&instance.addresses_excluded)
}

/// Instances of one id and family belong together; of several the one that shares most.
pub(super) fn all<'a>(directors: [&'a Director; 2]) -> Vec<Pair<'a>> {
    let [ours, theirs] = directors.map(|director| &director.vrrp.instances);
    let mut left: Vec<&VrrpInstance> = theirs.iter().collect();
    let mut pairs = Vec::new();
    for instance in ours {
        let same = |other: &VrrpInstance| {
            other.virtual_router_id == instance.virtual_router_id
                && is_ipv4(other) == is_ipv4(instance)
        };
        let alike = |other: &VrrpInstance| {
            let addresses = |i: &VrrpInstance| -> BTreeSet<IpAddr> {
                owned(i).map(|owned| owned.address).collect()
            };
            let shares = !addresses(other).is_disjoint(&addresses(instance));
            (shares, other.interface == instance.interface, other.name == instance.name)
        };
        // Of equals the first one.
        let best = (0..left.len()).filter(|&n| same(left[n])).rev().max_by_key(|&n| alike(left[n]));
        pairs.push(Pair { of: [Some(instance), best.map(|n| left.remove(n))] });
    }
    pairs.extend(left.into_iter().map(|other| Pair { of: [None, Some(other)] }));
    pairs
}

/// The sync groups of one node, as places in a cluster.
#[derive(Clone, Debug)]
pub(super) struct Groups {
    /// Each group's members: places in the cluster.
    pub(super) members: Vec<Vec<usize>>,
    /// Indices of pairs that are in a group.
    grouped: BTreeSet<usize>,
}

impl Groups {
    /// Whether the instance of this pair is in a group.
    pub(super) fn concerns(&self, pair: usize) -> bool {
        self.grouped.contains(&pair)
    }
}

/// The groups of a node that lie in a cluster.
pub(super) fn groups(
    director: &Director,
    node: usize,
    pairs: &[Pair<'_>],
    cluster: &[usize],
) -> Groups {
    let mut groups = Groups { members: Vec::new(), grouped: BTreeSet::new() };
    for group in &director.vrrp.sync_groups {
        let is_member = |&pair: &usize| {
            pairs[pair].of[node].is_some_and(|instance| group.instances.contains(&instance.name))
        };
        let members: Vec<_> = (0..cluster.len()).filter(|&at| is_member(&cluster[at])).collect();
        if !members.is_empty() {
            groups.grouped.extend(members.iter().map(|&at| cluster[at]));
            groups.members.push(members);
        }
    }
    groups
}

/// Pairs that move independently of all others: those that no group of either node binds.
pub(super) fn clusters(directors: [&Director; 2], pairs: &[Pair<'_>]) -> Vec<Vec<usize>> {
    let all: Vec<usize> = (0..pairs.len()).collect();
    let mut bound: Vec<BTreeSet<usize>> = all.iter().map(|&pair| BTreeSet::from([pair])).collect();
    for node in [0, 1] {
        for members in groups(directors[node], node, pairs, &all).members {
            let (with, mut rest): (Vec<_>, Vec<_>) = bound
                .into_iter()
                .partition(|cluster| members.iter().any(|member| cluster.contains(member)));
            rest.push(with.into_iter().flatten().collect());
            bound = rest;
        }
    }
    bound.sort();
    bound.into_iter().map(|cluster| cluster.into_iter().collect()).collect()
}
