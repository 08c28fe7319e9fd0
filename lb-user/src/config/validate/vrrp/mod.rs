//! The section `vrrp`: defaults, references and the rules between instances.
//!
//! `instance` judges one instance, `traps` what its keys do together, `groups` the sync groups; here is what several instances may
//! not share.
//!
//! Must not know: how the protocol elects, what the host has.

mod groups;
mod instance;
mod traps;

use super::super::problem::{Place, Problems, quoted};
use super::super::raw::{self, At, File, Written};
use super::super::units;
use crate::model;
use std::collections::{HashMap, HashSet};
use std::net::IpAddr;
use std::time::Duration;

/// What the section means. `mail` is whether `notifications.email` is there, faulty or not.
pub(super) fn vrrp(file: &File, mail: bool, problems: &Problems) -> Option<model::Vrrp> {
    let raw = match &file.vrrp {
        Written::Absent => return Some(model::Vrrp::default()),
        Written::Bad => return None,
        Written::Is(at) => &at.value,
    };
    let instances = &raw.instances.good;
    unique_names("instance", instances.iter().filter_map(|i| i.value.name.at()), problems);
    unique_names("group", raw.sync_groups.good.iter().filter_map(|g| g.value.name.at()), problems);
    unique_routers(instances, problems);
    unique_addresses(file, instances, problems);
    let context = Context { raw, services: services(file), mail, problems };
    let scripts: Vec<_> = raw.scripts.iter().map(|(name, s)| context.script(name, s)).collect();
    context.unused_scripts();
    let meant: Vec<_> =
        instances.iter().map(|at| instance::instance(&context, &at.value)).collect();
    let groups = groups::all(&context);
    if is_bad(&raw.instances.written) || is_bad(&raw.sync_groups.written) {
        return None;
    }
    Some(model::Vrrp {
        controller_grace: raw.controller_grace.value_or(model::Vrrp::default().controller_grace),
        scripts: scripts.into_iter().collect::<Option<_>>()?,
        instances: meant.into_iter().collect::<Option<_>>()?,
        sync_groups: groups?,
    })
}

/// What every instance is judged with.
struct Context<'a> {
    raw: &'a raw::Vrrp,
    /// Names of the virtual services; `None` if the list has faults of its own.
    services: Option<Vec<&'a str>>,
    mail: bool,
    problems: &'a Problems,
}

impl Context<'_> {
    fn script(&self, name: &At<String>, raw: &Option<raw::Script>) -> Option<model::Script> {
        let raw = raw.as_ref()?;
        if raw.command.is_absent() || matches!(&raw.command, Written::Is(at) if at.value.is_none())
        {
            let message = "a script needs a `command`, such as [/usr/libexec/lb/check]";
            self.problems.error(&raw.place.key("command"), message);
        }
        let interval = raw.interval.value_or(Duration::from_secs(1));
        let timeout = raw.timeout.value_or(interval);
        Some(model::Script {
            name: name.value.clone(),
            command: raw.command.at()?.value.clone()?,
            interval,
            timeout,
            rise: raw.rise.value_or(1),
            fall: raw.fall.value_or(1),
            weight: raw.weight.value_or(0),
            user: raw.user.value_or("nobody".to_owned()),
        })
    }

    fn unused_scripts(&self) {
        let instances = self.raw.instances.good.iter();
        let used: HashSet<&String> =
            instances.flat_map(|at| &at.value.track.scripts.good).map(|at| &at.value).collect();
        // A faulty instance or list may be the one that names it.
        let judged = !is_bad(&self.raw.instances.written)
            && !self.raw.instances.good.iter().any(|at| is_bad(&at.value.track.scripts.written));
        for (name, _) in
            self.raw.scripts.iter().filter(|(name, _)| judged && !used.contains(&name.value))
        {
            let message =
                "no instance tracks this script: it never runs; name it in `track.scripts`";
            self.problems.warning(&name.place, message);
        }
    }

    /// A script's weight, as far as it is known.
    fn weight_of_script(&self, name: &str) -> i16 {
        let script = self.raw.scripts.iter().find(|(at, _)| at.value == name);
        let weight = script.and_then(|(_, script)| script.as_ref()).map(|s| s.weight.value_or(0));
        weight.unwrap_or(0)
    }

    /// What an instance tracks with a weight: kind, name and weight.
    fn weights<'b>(&self, track: &'b raw::Track) -> Vec<(&'static str, &'b str, i16)> {
        let scripts = track
            .scripts
            .good
            .iter()
            .map(|at| ("script", at.value.as_str(), self.weight_of_script(&at.value)));
        let weighted = |kind| {
            move |at: &'b At<raw::Weighted>| {
                (kind, at.value.name.as_str(), at.value.weight.value_or(0))
            }
        };
        let interfaces = track.interfaces.good.iter().map(weighted("interface"));
        let services = track.virtual_services.good.iter().map(weighted("virtual service"));
        scripts.chain(interfaces).chain(services).filter(|(_, _, weight)| *weight != 0).collect()
    }
}

/// Names of virtual services, unless one of them could not be read.
fn services(file: &File) -> Option<Vec<&str>> {
    let services = match &file.virtual_services {
        Written::Absent => return Some(Vec::new()),
        Written::Bad => return None,
        Written::Is(at) => &at.value,
    };
    services.iter().map(|service| Some(service.name.at()?.value.as_str())).collect()
}

/// Says which of `known` was perhaps meant, or which there are.
fn hint(given: &str, known: &[&str], none: &str) -> String {
    match units::nearest(given, known.iter().copied()) {
        Some(near) => format!("did you mean `{near}`?"),
        None if known.is_empty() => none.to_owned(),
        None => format!("there are {}", units::list(known.iter().copied())),
    }
}

fn unique_names<'a>(what: &str, names: impl Iterator<Item = &'a At<String>>, problems: &Problems) {
    let mut seen: HashMap<&str, &Place> = HashMap::new();
    for At { value, place } in names {
        if let Some(first) = seen.get(value.as_str()) {
            let message = format!("{what} {} is already {}", quoted(value), first.path);
            problems.error(place, message);
        } else {
            seen.insert(value, place);
        }
    }
}

/// No two instances of a node may take each other's adverts for those of a peer.
fn unique_routers(instances: &[At<raw::Instance>], problems: &Problems) {
    for (index, at) in instances.iter().enumerate() {
        let Some(id) = at.value.virtual_router_id.at() else { continue };
        let first = instances[..index].iter().find(|other| {
            let other_id = other.value.virtual_router_id.at().map(|at| at.value);
            other_id == Some(id.value) && meet(&other.value, &at.value)
        });
        if let Some(first) = first {
            let name = |i: &raw::Instance| {
                i.name.at().map_or(String::new(), |n| format!(" ({})", n.value))
            };
            let message = format!(
                "virtual router {} of this interface and address family is already {}{}: give it another id",
                id.value,
                first.place.path,
                name(&first.value)
            );
            problems.error(&id.place, message);
        }
    }
}

/// Whether two instances of one id are on one interface and in one family, and hear the same senders
/// or have the same device.
fn meet(a: &raw::Instance, b: &raw::Instance) -> bool {
    let interface = |i: &raw::Instance| i.interface.at().map(|at| at.value.clone());
    let ipv4 = |i: &raw::Instance| i.addresses.good.first().map(|at| at.value.0.is_ipv4());
    let same = interface(a).is_some() && interface(a) == interface(b) && ipv4(a) == ipv4(b);
    let peers = |i: &raw::Instance| -> Option<HashSet<IpAddr>> {
        let unicast = i.unicast.at()?.value.as_ref()?;
        Some(unicast.peers.good.iter().map(|at| at.value).collect())
    };
    let virtual_mac = |i: &raw::Instance| i.virtual_mac.value_or(false);
    let hear_the_same = match (peers(a), peers(b)) {
        (Some(a), Some(b)) => !a.is_disjoint(&b),
        (None, None) => true,
        (Some(_), None) | (None, Some(_)) => false,
    };
    // Those who are told apart by their senders still have one virtual MAC address, and its device.
    same && (hear_the_same || (virtual_mac(a) && virtual_mac(b)))
}

/// An address is one instance's, and not `dataplane.addresses`' as well: that one never moves.
fn unique_addresses(file: &File, instances: &[At<raw::Instance>], problems: &Problems) {
    let fixed = file.dataplane.at().into_iter().flat_map(|at| &at.value.addresses);
    let fixed: HashMap<IpAddr, &Place> = fixed.map(|at| (at.value.0, &at.place)).collect();
    let mut seen: HashMap<(IpAddr, Option<String>), &Place> = HashMap::new();
    for At { value: instance, .. } in instances {
        let own = instance.interface.at().map(|at| at.value.clone());
        for At { value: (address, _, device), place } in
            instance.addresses.good.iter().chain(&instance.addresses_excluded.good)
        {
            // A link-local address is another one on another interface.
            let device = device.clone().or_else(|| own.clone()).filter(|_| is_link_local(address));
            if let Some(first) = fixed.get(address) {
                let message = format!(
                    "{address} is also {}, which this node keeps in every state: write it in one place",
                    first.path
                );
                problems.error(place, message);
            } else if let Some(first) = seen.get(&(*address, device.clone())) {
                problems.error(place, format!("{address} is already {}", first.path));
            } else {
                seen.insert((*address, device), place);
            }
        }
    }
}

fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn is_bad<T>(written: &Written<T>) -> bool {
    matches!(written, Written::Bad)
}
