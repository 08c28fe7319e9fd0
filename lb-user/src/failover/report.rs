//! The result in plain data; its JSON keys are the product's contract.
//!
//! Must not know: how it is printed.

use serde::Serialize;

use super::failure::{Failure, What};
use super::pairs::{self, Pair};
use super::{Owner, Owners, Scene, Seen};
use crate::vrrp::priority::Standing;

/// Everything that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Report {
    /// Names of the two directors: that of FILE, then that of the peer.
    pub nodes: [String; 2],
    /// Every virtual router, in the order of the files.
    pub instances: Vec<InstanceReport>,
    /// The worst first.
    pub findings: Vec<Finding>,
}

impl Report {
    /// How many findings are errors.
    #[must_use]
    pub fn errors(&self) -> usize {
        self.findings.iter().filter(|finding| finding.kind == Kind::Error).count()
    }
}

/// One virtual router of both directors.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct InstanceReport {
    /// The instance's name in each file; `null` in a file that has none.
    pub names: [Option<String>; 2],
    /// The VRID.
    pub virtual_router_id: u8,
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// Addresses of either file, advertised or not.
    pub addresses: Vec<String>,
    /// First nothing wrong, then every single failure. Where a node does not take the addresses
    /// back, the same again for failures of the other one, which then owns them.
    pub cases: Vec<Case>,
}

/// A failure and what becomes of the addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Case {
    /// In words: `lb01: script chk fails`.
    pub failure: String,
    /// Where it happens; `null` when nothing is wrong.
    pub node: Option<String>,
    /// `none`, `node`, `interface`, `script`, `virtual_service` or `dataplane`.
    pub kind: &'static str,
    /// Effective priority on each node; `null` where it takes no part.
    pub priorities: [Option<u8>; 2],
    /// On each node: `fit`, `fault`, `dead` or `absent`.
    pub standings: [&'static str; 2],
    /// Who owned the addresses before: a node's name, `nobody`, `both` or `tie`.
    pub owner_before: String,
    /// Who does then, in the same words.
    pub owner: String,
    /// Who does after the failure has been mended.
    pub owner_after_repair: String,
}

/// How bad a finding is, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A fail-over does not happen, or both nodes own an address.
    Error,
    /// It works, but perhaps not as meant.
    Warning,
    /// Good to know.
    Note,
}

impl Kind {
    /// As it is written.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// Something to know about the two files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Finding {
    /// How bad it is.
    pub kind: Kind,
    /// The instance it is about; both names where they differ.
    pub instance: Option<String>,
    /// What, why, and what to do.
    pub message: String,
}

impl Finding {
    pub(super) fn new(kind: Kind, pair: Option<&Pair<'_>>, message: impl Into<String>) -> Self {
        Self { kind, instance: pair.map(Pair::name), message: message.into() }
    }
}

/// An owner as it is written.
pub(super) fn owner(scene: &Scene<'_>, owner: Owner) -> String {
    match owner {
        Owner::Node(node) => scene.nodes[node].name.clone(),
        Owner::Nobody => "nobody".to_owned(),
        Owner::Both => "both".to_owned(),
        Owner::Tie => "tie".to_owned(),
    }
}

/// A failure as it is written.
pub(super) fn failure(scene: &Scene<'_>, failure: &Failure) -> String {
    let node = &scene.nodes[failure.node].name;
    match failure.what {
        What::Node => format!("{node} dead"),
        _ => format!("{node}: {}", failure.what),
    }
}

/// The report of one pair.
pub(super) fn instance(scene: &Scene<'_>, pair: usize, seen: &[Seen<'_>]) -> InstanceReport {
    let Pair { of } = scene.pairs[pair];
    let mut addresses = Vec::new();
    for address in of.into_iter().flatten().flat_map(pairs::owned) {
        let shown = format!("{}/{}", address.address, address.prefix_len);
        if !addresses.contains(&shown) {
            addresses.push(shown);
        }
    }
    let any = scene.pairs[pair].any();
    let mut cases = Vec::new();
    for Seen { owner, cases: failures } in seen {
        let still = Owners { after: *owner, repaired: *owner };
        cases.push(case(scene, pair, None, *owner, still));
        let failures = failures.iter();
        cases.extend(failures.map(|(f, owners)| case(scene, pair, Some(f), *owner, *owners)));
    }
    InstanceReport {
        names: of.map(|instance| instance.map(|instance| instance.name.clone())),
        virtual_router_id: any.virtual_router_id,
        family: if pairs::is_ipv4(any) { "ipv4" } else { "ipv6" },
        addresses,
        cases,
    }
}

fn case(
    scene: &Scene<'_>,
    pair: usize,
    failed: Option<&Failure>,
    before: Owner,
    owners: Owners,
) -> Case {
    let parts = [0, 1].map(|node| {
        let Some(seat) = scene.seat(pair, node, failed) else { return ("absent", None) };
        let dead = failed.is_some_and(|f| f.node == node && f.what == What::Node);
        match seat.standing {
            _ if dead => ("dead", None),
            Standing::Fit if !scene.is_barred(pair, node, failed) => ("fit", Some(seat.priority)),
            _ => ("fault", None),
        }
    });
    Case {
        failure: failed.map_or("nothing".to_owned(), |f| failure(scene, f)),
        node: failed.map(|f| scene.nodes[f.node].name.clone()),
        kind: failed.map_or("none", |f| f.what.kind()),
        priorities: parts.map(|(_, priority)| priority),
        standings: parts.map(|(standing, _)| standing),
        owner_before: owner(scene, before),
        owner: owner(scene, owners.after),
        owner_after_repair: owner(scene, owners.repaired),
    }
}
