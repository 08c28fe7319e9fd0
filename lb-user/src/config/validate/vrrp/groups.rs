//! Sync groups: instances that are master together or not at all.
//!
//! Must not know: how groups move.

use super::super::super::problem::{Place, quoted};
use super::super::super::raw::{At, SyncGroup};
use super::{Context, hint, instance, is_bad};
use crate::model;
use std::collections::HashMap;

/// Every group, or `None` if one is faulty.
pub(super) fn all(context: &Context<'_>) -> Option<Vec<model::SyncGroup>> {
    let names = context.raw.instances.good.iter().map(|at| at.value.name.at());
    // A name that could not be read may be the one that a group means.
    let known: Option<Vec<&str>> = names.map(|at| at.map(|at| at.value.as_str())).collect();
    let known = known.filter(|_| !is_bad(&context.raw.instances.written));
    let mut seen: HashMap<&str, &Place> = HashMap::new();
    let mut groups = Vec::new();
    for At { value, .. } in &context.raw.sync_groups.good {
        groups.push(group(context, value, known.as_deref(), &mut seen));
    }
    groups.into_iter().collect()
}

fn group<'a>(
    context: &Context<'_>,
    raw: &'a SyncGroup,
    known: Option<&[&str]>,
    seen: &mut HashMap<&'a str, &'a Place>,
) -> Option<model::SyncGroup> {
    let problems = context.problems;
    if raw.name.is_absent() {
        problems.error(&raw.place.key("name"), "a sync group needs a `name`");
    }
    if raw.instances.written.is_absent() {
        problems.error(&raw.place.key("instances"), NO_INSTANCES);
    }
    if let (Some(place), true) = (raw.instances.written.place(), raw.instances.good.is_empty()) {
        problems.error(place, NO_INSTANCES);
    }
    for At { value, place } in &raw.instances.good {
        if let Some(known) = known.filter(|known| !known.contains(&value.as_str())) {
            let hint = hint(value, known, "`vrrp.instances` has none");
            problems.error(place, format!("there is no instance {}; {hint}", quoted(value)));
        }
        if let Some(first) = seen.get(value.as_str()) {
            let message = format!("{} is already {}: one group at most", quoted(value), first.path);
            problems.error(place, message);
        } else {
            seen.insert(value, place);
        }
        weights(context, value, place);
    }
    let notify = instance::notify(&raw.notify)?;
    raw.instances.written.at()?;
    Some(model::SyncGroup {
        name: raw.name.at()?.value.clone(),
        instances: raw.instances.good.iter().map(|at| at.value.clone()).collect(),
        notify,
    })
}

/// Weights move one member's priority, and the group goes where all members agree.
fn weights(context: &Context<'_>, name: &str, place: &Place) {
    let instances = context.raw.instances.good.iter();
    let member =
        instances.map(|at| &at.value).find(|i| i.name.at().is_some_and(|n| n.value == name));
    let Some(member) = member else { return };
    let weights = context.weights(&member.track);
    let shown = |(kind, name, weight): &(&str, &str, i16)| format!("{kind} {name} ({weight:+})");
    let list = weights.iter().map(shown).collect::<Vec<_>>().join(", ");
    if !weights.is_empty() {
        let message = format!(
            "{} tracks with weights in a sync group: {list}; they move its own priority only, and \
             the group moves when all members agree; give weight 0, or track the same in every member",
            quoted(name)
        );
        context.problems.warning(place, message);
    }
}

const NO_INSTANCES: &str = "a sync group needs `instances`; write at least one name";
