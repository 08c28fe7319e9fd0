//! From the configuration to what the speaker is told, and from what it tells to documents.
//!
//! Must not know: processes, sockets, when something is said.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use crate::controller::document::{
    VrrpCounters, VrrpInstance as Document, VrrpReason, VrrpTransition,
};
use crate::model::{Director, OwnedAddress, VrrpInstance, VrrpVersion};
use crate::speaker::protocol::{
    Configuration, Counters, GroupConfig, InstanceConfig, Status, Tracked, Vip,
};

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
    let text = |address: Option<std::net::IpAddr>| address.map(|a| a.to_string());
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
