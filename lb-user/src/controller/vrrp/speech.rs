//! From the configuration to what the speaker is told, and from what it tells to documents.
//!
//! Must not know: processes, sockets, when something is said.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, SystemTime};

use lb_common::wire::vrrp::Family;

use crate::controller::document::{
    VrrpCounters, VrrpInstance as Document, VrrpReason, VrrpScript, VrrpTransition,
};
use crate::metrics;
use crate::model::{Director, OwnedAddress, Script, VrrpInstance, VrrpVersion};
use crate::notify::{Counts, Kind, Notification, State};
use crate::plan::VirtualMac;
use crate::speaker::protocol::{
    Configuration, Counters, Entered, GroupConfig, InstanceConfig, Status, Tracked, Vip,
};
use crate::track::Observation;

/// What the speaker has to know of a director.
pub(super) fn configuration(director: &Director) -> Configuration {
    let vrrp = &director.vrrp;
    Configuration {
        grace: vrrp.controller_grace,
        interfaces: director.dataplane.iter().flat_map(|plane| plane.interfaces.clone()).collect(),
        instances: vrrp.instances.iter().map(instance).collect(),
        groups: vrrp
            .sync_groups
            .iter()
            .map(|group| GroupConfig {
                name: group.name.clone(),
                instances: group.instances.clone(),
            })
            .collect(),
    }
}

fn instance(instance: &VrrpInstance) -> InstanceConfig {
    let password = instance.password.as_ref().map(|password| {
        let mut field = [0; 8];
        // The configuration has at most eight bytes.
        for (to, from) in field.iter_mut().zip(password.0.bytes()) {
            *to = from;
        }
        field
    });
    let unicast = instance.unicast.as_ref();
    InstanceConfig {
        name: instance.name.clone(),
        interface: instance.interface.clone(),
        vrid: instance.virtual_router_id,
        version: number(instance.version),
        priority: instance.priority,
        interval: instance.advertisement_interval,
        preempt: instance.preempt,
        preempt_delay: instance.preempt_delay,
        password,
        addresses: instance.addresses.iter().map(vip).collect(),
        excluded: instance.addresses_excluded.iter().map(vip).collect(),
        unicast: unicast.map(|unicast| (unicast.source, unicast.peers.clone())),
        virtual_mac: instance.virtual_mac,
        garp_count: instance.garp.count,
        garp_delay: instance.garp.delay,
        garp_refresh: instance.garp.refresh,
        interfaces: instance
            .track
            .interfaces
            .iter()
            .map(|tracked| (tracked.name.clone(), tracked.weight))
            .collect(),
    }
}

fn number(version: VrrpVersion) -> u8 {
    match version {
        VrrpVersion::V2 => 2,
        VrrpVersion::V3 => 3,
    }
}

fn vip(address: &OwnedAddress) -> Vip {
    Vip {
        address: address.address,
        prefix_len: address.prefix_len,
        interface: address.interface.clone(),
    }
}

/// What the controller knows of tracked objects.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    /// Whether the data plane does its work; the outer `None` is a director without one, the inner
    /// one that it has only begun.
    pub(super) plane: Option<Option<bool>>,
    /// Whether virtual services have their quorum, by name.
    pub(super) services: BTreeMap<String, Option<bool>>,
    /// Whether scripts are well, by name.
    pub(super) scripts: BTreeMap<String, Option<bool>>,
}

/// The tracked objects of each instance.
pub(super) fn tracked(director: &Director, known: &Known) -> BTreeMap<String, Vec<Tracked>> {
    let of = |instance: &VrrpInstance| {
        let plane = known.plane.map(|well| tracked_as("heartbeat of the data plane", 0, well));
        let scripts = instance.track.scripts.iter().filter_map(|name| {
            let script = director.vrrp.scripts.iter().find(|script| script.name == *name)?;
            let well = known.scripts.get(name).copied().flatten();
            Some(tracked_as(&format!("script {name}"), script.weight, well))
        });
        let services = instance.track.virtual_services.iter().map(|service| {
            let well = known.services.get(&service.name).copied().flatten();
            tracked_as(&format!("virtual service {}", service.name), service.weight, well)
        });
        (instance.name.clone(), plane.into_iter().chain(scripts).chain(services).collect())
    };
    director.vrrp.instances.iter().map(of).collect()
}

/// The scripts that an instance tracks; others need not run.
pub(super) fn tracked_scripts(director: &Director) -> Vec<Script> {
    let is_tracked = |script: &&Script| {
        director.vrrp.instances.iter().any(|i| i.track.scripts.contains(&script.name))
    };
    director.vrrp.scripts.iter().filter(is_tracked).cloned().collect()
}

/// What is to be told of a transition; nothing about one of an instance that has left the file,
/// and nothing about the beginning.
pub(super) fn notification(director: &Director, entered: &Entered) -> Option<Notification> {
    let vrrp = &director.vrrp;
    let (kind, notify) = if entered.group {
        let group = vrrp.sync_groups.iter().find(|group| group.name == entered.name)?;
        (Kind::Group, &group.notify)
    } else {
        let instance = vrrp.instances.iter().find(|instance| instance.name == entered.name)?;
        (Kind::Instance, &instance.notify)
    };
    let (state, command) = match entered.state.as_str() {
        "master" => (State::Master, &notify.master),
        "backup" => (State::Backup, &notify.backup),
        "fault" => (State::Fault, &notify.fault),
        "init" if entered.stopped => (State::Stop, &notify.stop),
        _ => return None,
    };
    Some(Notification {
        kind,
        name: entered.name.clone(),
        state,
        figure: entered.priority.to_string(),
        cause: entered.cause.clone(),
        commands: vec![command.clone(), notify.any.clone()],
        email: notify.email,
    })
}

/// What is shown of a script.
pub(super) fn script(name: &str, observed: &Observation) -> VrrpScript {
    let state = match observed.well {
        None => "init",
        Some(true) => "up",
        Some(false) => "down",
    };
    let last = observed.last.as_ref();
    VrrpScript {
        name: name.to_owned(),
        state: state.to_owned(),
        last: last.map(|run| run.end.to_string()).unwrap_or_default(),
        duration_ms: last.map_or(0, |run| run.duration.as_millis() as u64),
    }
}

/// The MAC address of an instance's virtual router.
pub(super) fn virtual_mac(instance: &VrrpInstance) -> Option<VirtualMac> {
    let family = match instance.addresses.first()?.address {
        IpAddr::V4(_) => Family::V4,
        IpAddr::V6(_) => Family::V6,
    };
    Some(VirtualMac { family, vrid: instance.virtual_router_id })
}

fn tracked_as(name: &str, weight: i16, well: Option<bool>) -> Tracked {
    Tracked { name: name.to_owned(), weight, well }
}

/// What is shown of an instance; `status` is missing while there is no speaker.
pub(super) fn document(
    director: &Director,
    instance: &VrrpInstance,
    status: Option<&Status>,
) -> Document {
    let group = director.vrrp.sync_groups.iter().find(|g| g.instances.contains(&instance.name));
    let owned = instance.addresses.iter().chain(&instance.addresses_excluded);
    let mut document = Document {
        name: instance.name.clone(),
        state: "init".to_owned(),
        priority: instance.priority,
        effective_priority: instance.priority,
        addresses: owned.map(|owned| owned.address.to_string()).collect(),
        interface: instance.interface.clone(),
        virtual_router_id: instance.virtual_router_id,
        version: number(instance.version),
        sync_group: group.map(|group| group.name.clone()).unwrap_or_default(),
        ..Document::default()
    };
    let Some(status) = status else { return document };
    let text = |address: Option<IpAddr>| address.map(|a| a.to_string());
    document.state.clone_from(&status.state);
    document.effective_priority = status.effective_priority;
    document.master = text(status.master).unwrap_or_default();
    document.source = text(status.source).unwrap_or_default();
    document.reasons = status
        .reasons
        .iter()
        .map(|reason| VrrpReason { name: reason.name.clone(), effect: reason.part.clone() })
        .collect();
    document.held = status.held.iter().map(ToString::to_string).collect();
    document.contested = status.contested.iter().map(ToString::to_string).collect();
    document.filtered = status.filtered;
    document.transitions = status
        .transitions
        .iter()
        .rev()
        .map(|transition| VrrpTransition {
            at: time(transition.at_ms),
            from: transition.from.clone(),
            to: transition.to.clone(),
            cause: transition.cause.clone(),
        })
        .collect();
    document.counters = counters(&status.counters);
    document
}

/// What metrics tell of notifications.
pub(super) fn told(counts: &Counts) -> metrics::Notifications {
    metrics::Notifications {
        commands_run: counts.commands_run,
        commands_failed: counts.commands_failed,
        dropped: counts.notifications_dropped,
        mails_sent: counts.mails_sent,
        mails_failed: counts.mails_failed,
        mails_dropped: counts.mails_dropped,
    }
}

/// What metrics tell of an instance.
pub(super) fn measured(document: Document) -> metrics::VrrpInstance {
    let counters = document.counters;
    metrics::VrrpInstance {
        name: document.name,
        state: document.state,
        priority: document.priority,
        effective_priority: document.effective_priority,
        contested: document.contested.len() as u64,
        filtered: document.filtered,
        sent: counters.sent,
        send_errors: counters.send_errors,
        received: counters.received,
        refused: counters.refused.into_iter().collect(),
        masters: counters.masters,
        duplicate_masters: counters.duplicate_masters,
        contests: counters.contests,
        put_back: counters.put_back,
        late: counters.late,
    }
}

fn counters(counters: &Counters) -> VrrpCounters {
    let Counters {
        sent,
        send_errors,
        received,
        plain_checksums,
        refused,
        announcements,
        masters,
        duplicate_masters,
        contests,
        put_back,
        late,
    } = counters.clone();
    VrrpCounters {
        sent,
        send_errors,
        received,
        plain_checksums,
        refused,
        announcements,
        masters,
        duplicate_masters,
        contests,
        put_back,
        late,
    }
}

/// RFC 3339 in UTC.
fn time(millis: u64) -> String {
    let at = SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
    humantime::format_rfc3339_millis(at).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        for (millis, text) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_001, "2000-02-29T00:00:00.001Z"),
            (1_735_689_599_999, "2024-12-31T23:59:59.999Z"),
            (4_102_444_800_000, "2100-01-01T00:00:00.000Z"),
        ] {
            assert_eq!(time(millis), text);
        }
    }
}
