//! The single failures of two directors, and what each does to an instance.
//!
//! Must not know: elections.

use std::collections::BTreeSet;
use std::fmt;

use super::Node;
use super::election::Seat;
use super::pairs::Pair;
use crate::model::{Director, VrrpInstance};
use crate::vrrp::priority::{Tracked, effective};

/// Something that fails on one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Failure {
    /// On which node.
    pub(super) node: usize,
    /// What.
    pub(super) what: What,
}

/// What fails.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum What {
    /// The whole node, without a word.
    Node,
    /// An interface loses its carrier.
    Interface(String),
    /// A tracked script.
    Script(String),
    /// A tracked virtual service loses its quorum.
    VirtualService(String),
    /// The data plane does not forward.
    Dataplane,
}

impl What {
    /// Its kind in documents.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Interface(_) => "interface",
            Self::Script(_) => "script",
            Self::VirtualService(_) => "virtual_service",
            Self::Dataplane => "dataplane",
        }
    }

    /// The tracked object that it makes fail.
    pub(super) fn object(&self) -> Option<String> {
        match self {
            Self::Node | Self::Dataplane => None,
            Self::Interface(name) => Some(format!("interface {name}")),
            Self::Script(name) => Some(format!("script {name}")),
            Self::VirtualService(name) => Some(format!("virtual service {name}")),
        }
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Node => f.write_str("dead"),
            Self::Interface(name) => write!(f, "interface {name} down"),
            Self::Script(name) => write!(f, "script {name} fails"),
            Self::VirtualService(name) => write!(f, "virtual service {name} without quorum"),
            Self::Dataplane => f.write_str("data plane does not forward"),
        }
    }
}

/// Every single failure that concerns the pairs of a cluster.
pub(super) fn all(nodes: &[Node<'_>; 2], pairs: &[Pair<'_>], cluster: &[usize]) -> Vec<Failure> {
    let mut failures = Vec::new();
    for (node, Node { director, .. }) in nodes.iter().enumerate() {
        let instances: Vec<_> = cluster.iter().filter_map(|&pair| pairs[pair].of[node]).collect();
        if instances.is_empty() {
            continue;
        }
        let mut all = BTreeSet::from([What::Node]);
        for instance in instances {
            all.insert(What::Interface(instance.interface.clone()));
            let track = &instance.track;
            all.extend(track.interfaces.iter().map(|t| What::Interface(t.name.clone())));
            all.extend(track.scripts.iter().cloned().map(What::Script));
            all.extend(track.virtual_services.iter().map(|t| What::VirtualService(t.name.clone())));
        }
        if director.dataplane.is_some() {
            all.insert(What::Dataplane);
        }
        failures.extend(all.into_iter().map(|what| Failure { node, what }));
    }
    failures
}

/// What an instance tracks, and how each is while `failing` fails.
pub(super) fn tracked(
    director: &Director,
    instance: &VrrpInstance,
    failing: Option<&What>,
) -> Vec<Tracked> {
    let script = |name: &String| {
        let script = director.vrrp.scripts.iter().find(|script| script.name == *name);
        (What::Script(name.clone()), script.map_or(0, |script| script.weight))
    };
    let track = &instance.track;
    let scripts = track.scripts.iter().map(script);
    let interfaces = track.interfaces.iter().map(|t| (What::Interface(t.name.clone()), t.weight));
    let services =
        track.virtual_services.iter().map(|t| (What::VirtualService(t.name.clone()), t.weight));
    let plane = director.dataplane.iter().map(|_| (What::Dataplane, 0));
    let object = |(what, weight): (What, i16)| Tracked {
        name: what.object().unwrap_or_else(|| "data plane".to_owned()),
        weight,
        reverse: false,
        well: Some(failing != Some(&what)),
    };
    scripts.chain(interfaces).chain(services).chain(plane).map(object).collect()
}

/// The conditions of an instance while `failing` fails on its node.
pub(super) fn seat(director: &Director, instance: &VrrpInstance, failing: Option<&What>) -> Seat {
    let effective = effective(instance.priority, &tracked(director, instance, failing));
    let own = matches!(failing, Some(What::Interface(name)) if *name == instance.interface);
    Seat { priority: effective.priority, standing: effective.standing, link: !own }
}
