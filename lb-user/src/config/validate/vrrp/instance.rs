//! One instance of VRRP: its defaults, and what its keys allow each other.
//!
//! Must not know: other instances.

use super::super::super::problem::{Place, quoted};
use super::super::super::raw::{self, At, Command, Items, Notify, Written};
use super::{Context, hint, is_bad, is_link_local, traps};
use crate::model::{self, InitialState, OwnedAddress, VrrpVersion, Weighted};
use crate::vrrp::timing::{Interval, Version};
use std::collections::HashSet;
use std::net::IpAddr;
use std::time::Duration;

/// What one instance means; every fault of it is told before it is given up.
pub(super) fn instance(context: &Context<'_>, raw: &raw::Instance) -> Option<model::VrrpInstance> {
    needed(context, raw);
    let addresses = addresses(context, raw);
    let version = version(context, raw);
    let interval = interval(context, raw, version);
    let password = password(context, raw, version);
    let unicast = unicast(context, raw);
    let track = track(context, raw);
    let notify = notify(&raw.notify);
    traps::judge(context, raw);
    mail(context, raw);
    let (addresses, addresses_excluded) = addresses?;
    let garp = model::Garp::default();
    raw.accept.at().map(|_| ()).or(raw.accept.is_absent().then_some(()))?;
    Some(model::VrrpInstance {
        name: raw.name.at()?.value.clone(),
        interface: raw.interface.at()?.value.clone(),
        virtual_router_id: raw.virtual_router_id.at()?.value,
        version: version?,
        priority: raw.priority.value_or(100),
        advertisement_interval: interval?,
        initial_state: raw.initial_state.value_or(InitialState::Backup),
        preempt: raw.preempt.value_or(true),
        preempt_delay: raw.preempt_delay.value_or(Duration::ZERO),
        password: password?,
        addresses,
        addresses_excluded,
        unicast: unicast?,
        virtual_mac: raw.virtual_mac.value_or(false),
        garp: model::Garp {
            count: raw.garp.count.value_or(garp.count),
            delay: raw.garp.delay.value_or(garp.delay),
            refresh: raw.garp.refresh.value_or(garp.refresh),
        },
        track: track?,
        notify: notify?,
    })
}

fn needed(context: &Context<'_>, raw: &raw::Instance) {
    let missing = [
        (raw.name.is_absent(), "name", "an instance needs a `name`"),
        (
            raw.interface.is_absent(),
            "interface",
            "an instance needs an `interface` for its adverts",
        ),
        (
            raw.virtual_router_id.is_absent(),
            "virtual_router_id",
            "an instance needs a `virtual_router_id` from 1 to 255, the same on both directors",
        ),
        (
            raw.addresses.written.is_absent(),
            "addresses",
            "an instance needs `addresses`; write such as [192.0.2.1/24]",
        ),
    ];
    for (_, key, message) in missing.into_iter().filter(|(absent, ..)| *absent) {
        context.problems.error(&raw.place.key(key), message);
    }
    if let (Some(place), true) = (raw.addresses.written.place(), raw.addresses.good.is_empty()) {
        context.problems.error(place, "has no value; write at least one ADDRESS/LEN");
    }
}

/// The instance's family: that of its first address.
fn ipv4(raw: &raw::Instance) -> Option<bool> {
    raw.addresses.good.first().map(|at| at.value.0.is_ipv4())
}

/// Advertised and excluded addresses. Those of another family than the first cannot be
/// advertised with it, so they are owned like the excluded ones.
fn addresses(
    context: &Context<'_>,
    raw: &raw::Instance,
) -> Option<(Vec<OwnedAddress>, Vec<OwnedAddress>)> {
    let ipv4 = ipv4(raw)?;
    let own = raw.interface.at().map(|at| &at.value);
    let tracked: HashSet<&String> =
        raw.track.interfaces.good.iter().map(|at| &at.value.name).collect();
    let (mut advertised, mut excluded) = (Vec::new(), Vec::new());
    for (At { value: (address, prefix_len, device), place }, is_advertised) in raw
        .addresses
        .good
        .iter()
        .map(|at| (at, true))
        .chain(raw.addresses_excluded.good.iter().map(|at| (at, false)))
    {
        let interface = device.as_ref().or(own);
        if let (Some(device), Some(own)) = (device, own)
            && device != own
            && !tracked.contains(device)
            && !is_bad(&raw.track.interfaces.written)
        {
            let message = format!(
                "{device} is not tracked: when it is down, this node stays master of an address that \
                 nobody reaches; add {device} to `track.interfaces`"
            );
            context.problems.warning(place, message);
        }
        let same_family = address.is_ipv4() == ipv4;
        if is_advertised && !same_family {
            let message = format!(
                "adverts hold addresses of one family, and the first one's is {}: {address} is owned and \
                 not advertised; write it in `addresses_excluded`",
                if ipv4 { "IPv4" } else { "IPv6" }
            );
            context.problems.warning(place, message);
        }
        let address = |interface: &String| OwnedAddress {
            address: *address,
            prefix_len: *prefix_len,
            interface: interface.clone(),
        };
        let list = if is_advertised && same_family { &mut advertised } else { &mut excluded };
        list.extend(interface.map(address));
    }
    count_and_first(context, raw, advertised.len());
    let good = |items: &Items<_>| !is_bad(&items.written);
    (good(&raw.addresses) && good(&raw.addresses_excluded)).then_some((advertised, excluded))
}

fn count_and_first(context: &Context<'_>, raw: &raw::Instance, count: usize) {
    let Some(place) = raw.addresses.written.place() else { return };
    if count > MAX_ADDRESSES {
        let message = format!(
            "{count} addresses do not fit into an advert: at most {MAX_ADDRESSES} do; move some to `addresses_excluded`"
        );
        context.problems.error(place, message);
    } else if count > MANY_ADDRESSES {
        let message = format!(
            "{count} addresses in every advert: keepalived advises {MANY_ADDRESSES} at most; move some to \
             `addresses_excluded`"
        );
        context.problems.warning(place, message);
    }
    if let Some(At { value: (first @ IpAddr::V6(_), ..), place }) = raw.addresses.good.first()
        && !is_link_local(first)
    {
        let message = "RFC 9568 (5.2.9) asks for a link-local address first (such as fe80::51/64), and \
                       some routers drop other adverts; keepalived and lb do not";
        context.problems.warning(place, message);
    }
}

fn version(context: &Context<'_>, raw: &raw::Instance) -> Option<VrrpVersion> {
    let ipv4 = ipv4(raw);
    match (&raw.version, ipv4) {
        (Written::Bad, _) => None,
        (Written::Is(At { value: 2, place }), Some(false)) => {
            let message = "version 2 has no IPv6; write `version: 3` or leave it out";
            context.problems.error(place, message);
            None
        }
        (Written::Is(At { value: 2, .. }), _) => Some(VrrpVersion::V2),
        (Written::Is(_), _) => Some(VrrpVersion::V3),
        (Written::Absent, Some(true)) => Some(VrrpVersion::V2),
        (Written::Absent, Some(false)) => Some(VrrpVersion::V3),
        (Written::Absent, None) => None,
    }
}

fn interval(
    context: &Context<'_>,
    raw: &raw::Instance,
    version: Option<VrrpVersion>,
) -> Option<Duration> {
    let (wire, says) = match version? {
        VrrpVersion::V2 => (
            Version::V2,
            "version 2 says whole seconds from 1s to 255s, `version: 3` steps of 10ms",
        ),
        VrrpVersion::V3 => (Version::V3, "version 3 says steps of 10ms from 10ms to 40950ms"),
    };
    if is_bad(&raw.advertisement_interval) {
        return None;
    }
    let interval = raw.advertisement_interval.value_or(Duration::from_secs(1));
    if Interval::new(wire, interval).is_none() {
        if let Some(place) = raw.advertisement_interval.place() {
            context.problems.error(place, says);
        }
        return None;
    }
    Some(interval)
}

/// The outer `None` is a fault.
fn password(
    context: &Context<'_>,
    raw: &raw::Instance,
    version: Option<VrrpVersion>,
) -> Option<Option<model::Password>> {
    let At { value, place } = match &raw.authentication {
        Written::Absent => return Some(None),
        Written::Bad => return None,
        Written::Is(at) => at,
    };
    let Some(authentication) = value else { return Some(None) };
    if version == Some(VrrpVersion::V3) {
        let message = "version 3 has no authentication (RFC 9568); leave it out";
        context.problems.error(place, message);
        return None;
    }
    for (absent, key, message) in [
        (
            authentication.kind.is_absent(),
            "type",
            "authentication needs a `type`; write `type: pass`",
        ),
        (authentication.password.is_absent(), "password", "authentication needs a `password`"),
    ] {
        if absent {
            context.problems.error(&place.key(key), message);
        }
    }
    authentication.kind.at()?;
    let password = authentication.password.at()?;
    let message = "version 2 sends the password in clear: it keeps misconfigured routers apart and \
                   no attacker out";
    context.problems.warning(&password.place, message);
    Some(Some(model::Password(password.value.clone())))
}

/// The outer `None` is a fault.
fn unicast(context: &Context<'_>, raw: &raw::Instance) -> Option<Option<model::Unicast>> {
    let At { value, place } = match &raw.unicast {
        Written::Absent => return Some(None),
        Written::Bad => return None,
        Written::Is(at) => at,
    };
    let Some(unicast) = value else { return Some(None) };
    let problems = context.problems;
    if unicast.source.is_absent() {
        let message = "unicast needs a `source`: this node's address that adverts leave from";
        problems.error(&place.key("source"), message);
    }
    if unicast.peers.written.is_absent() {
        problems.error(&place.key("peers"), NO_PEERS);
    }
    if let (Some(place), true) = (unicast.peers.written.place(), unicast.peers.good.is_empty()) {
        problems.error(place, NO_PEERS);
    }
    let family = ipv4(raw);
    let mut seen = HashSet::new();
    let fits = |at: &At<IpAddr>| {
        let fits = family.is_none_or(|ipv4| ipv4 == at.value.is_ipv4());
        if !fits {
            let family = if at.value.is_ipv4() { "IPv6" } else { "IPv4" };
            problems.error(&at.place, format!("adverts of {family} addresses go over {family}"));
        }
        fits
    };
    let mut good = unicast.source.at().is_none_or(fits);
    for at in &unicast.peers.good {
        good &= fits(at);
        if unicast.source.at().is_some_and(|source| source.value == at.value) {
            problems.error(&at.place, format!("{} is this node's own `source`", at.value));
            good = false;
        }
        if !seen.insert(at.value) {
            problems.error(&at.place, format!("{} is listed twice", at.value));
            good = false;
        }
    }
    unicast.peers.written.at()?;
    let peers: Vec<_> = unicast.peers.good.iter().map(|at| at.value).collect();
    let source = unicast.source.at()?.value;
    (good && !peers.is_empty()).then_some(Some(model::Unicast { source, peers }))
}

fn track(context: &Context<'_>, raw: &raw::Instance) -> Option<model::Track> {
    let problems = context.problems;
    let track = &raw.track;
    let scripts: Vec<&str> = context.raw.scripts.iter().map(|(n, _)| n.value.as_str()).collect();
    for At { value, place } in &track.scripts.good {
        if !scripts.contains(&value.as_str()) {
            let hint = hint(value, &scripts, "`vrrp.scripts` has none");
            problems.error(place, format!("there is no script {}; {hint}", quoted(value)));
        }
    }
    for At { value, place } in &track.virtual_services.good {
        if let Some(known) = context.services.as_ref().filter(|k| !k.contains(&value.name.as_str()))
        {
            let hint = hint(&value.name, known, "`virtual_services` has none");
            let message = format!("there is no virtual service {}; {hint}", quoted(&value.name));
            problems.error(place, message);
        }
    }
    twice(context, track.scripts.good.iter().map(|at| (at.value.as_str(), &at.place)));
    for list in [&track.interfaces, &track.virtual_services] {
        twice(context, list.good.iter().map(|at| (at.value.name.as_str(), &at.place)));
    }
    let own = raw.interface.at().map(|at| at.value.as_str());
    for At { value, place } in &track.interfaces.good {
        if Some(value.name.as_str()) == own {
            let message = format!(
                "{} is the instance's own interface: it is in fault when that is down, whatever is tracked",
                value.name
            );
            problems.warning(place, message);
        }
    }
    track.scripts.written.at().map(|_| ()).or(track.scripts.written.is_absent().then_some(()))?;
    Some(model::Track {
        scripts: track.scripts.good.iter().map(|at| at.value.clone()).collect(),
        interfaces: weighted(&track.interfaces)?,
        virtual_services: weighted(&track.virtual_services)?,
    })
}

fn twice<'a>(context: &Context<'_>, names: impl Iterator<Item = (&'a str, &'a Place)>) {
    let mut seen = HashSet::new();
    for (name, place) in names {
        if !seen.insert(name) {
            context.problems.error(place, format!("{} is tracked twice", quoted(name)));
        }
    }
}

fn weighted(items: &Items<raw::Weighted>) -> Option<Vec<Weighted>> {
    if is_bad(&items.written) {
        return None;
    }
    let weighted = |at: &At<raw::Weighted>| {
        let At { value, .. } = at;
        if is_bad(&value.weight) {
            return None;
        }
        Some(Weighted { name: value.name.clone(), weight: value.weight.value_or(0) })
    };
    items.good.iter().map(weighted).collect()
}

/// The commands of `notify`; `None` if one of them is faulty.
pub(super) fn notify(raw: &Notify) -> Option<model::VrrpNotify> {
    let command = |written: &Written<Command>| match written {
        Written::Bad => None,
        _ => Some(written.value_or(None).unwrap_or_default()),
    };
    Some(model::VrrpNotify {
        master: command(&raw.master)?,
        backup: command(&raw.backup)?,
        fault: command(&raw.fault)?,
        stop: command(&raw.stop)?,
        any: command(&raw.any)?,
        email: raw.email.value_or(false),
    })
}

fn mail(context: &Context<'_>, raw: &raw::Instance) {
    if let (Some(At { value: true, place }), false) = (raw.notify.email.at(), context.mail) {
        let message = "no mail can go out: `notifications.email` says through whom and to whom";
        context.problems.error(place, message);
    }
}

const NO_PEERS: &str =
    "unicast needs `peers`: the other directors' addresses; leave `unicast` out for multicast";
/// An 8-bit count.
const MAX_ADDRESSES: usize = 255;
/// keepalived's advice.
const MANY_ADDRESSES: usize = 20;
