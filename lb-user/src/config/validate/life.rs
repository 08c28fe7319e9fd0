//! The life of a service's servers: defaults, and the rules for its quorum and sorry server.
//!
//! Must not know: how packets are forwarded beyond what each method requires.

use std::time::Duration;

use super::super::problem::{Place, Problems};
use super::super::raw::{self, Command, Life, SorryServer, Written};
use crate::model::{self, Quorum, Scheduler, ServiceNotify};

/// What a service says of its life, each key of its own or else of the defaults.
pub(super) struct Meant {
    pub(super) slow_start: Duration,
    pub(super) notify: ServiceNotify,
    pub(super) quorum: Quorum,
}

pub(super) fn meant(
    raw: &Life,
    defaults: &Life,
    scheduler: Scheduler,
    servers: Option<&[model::RealServer]>,
    problems: &Problems,
) -> Option<Meant> {
    if let Some(at) = raw.slow_start.at().filter(|at| !at.value.is_zero() && scheduler.hashes()) {
        let message = format!("{} chooses by a hash: slow_start has no effect", scheduler.name());
        problems.warning(&at.place, message);
    }
    let (mut quorum, place) = quorum(&raw.quorum, &defaults.quorum)?;
    if let (Some(servers), Some(place)) = (servers, place) {
        lower(&mut quorum, servers, place, problems);
    }
    Some(Meant {
        slow_start: raw.slow_start.or(&defaults.slow_start).value_or(Duration::ZERO),
        notify: notify(&raw.notify, &defaults.notify)?,
        quorum,
    })
}

/// A key of the service's own mapping, else of the defaults'.
fn notify(
    own: &Written<raw::ServiceNotify>,
    defaults: &Written<raw::ServiceNotify>,
) -> Option<ServiceNotify> {
    let mut meant = ServiceNotify::default();
    for written in [defaults, own] {
        if written.at().is_none() && !written.is_absent() {
            return None;
        }
        if let Some(at) = written.at() {
            take(&at.value.up, &mut meant.up);
            take(&at.value.down, &mut meant.down);
            meant.email = at.value.email.value_or(meant.email);
        }
    }
    Some(meant)
}

fn quorum<'a>(
    own: &'a Written<raw::Quorum>,
    defaults: &'a Written<raw::Quorum>,
) -> Option<(Quorum, Option<&'a Place>)> {
    let mut meant = Quorum::default();
    let mut place = None;
    for written in [defaults, own] {
        if written.at().is_none() && !written.is_absent() {
            return None;
        }
        if let Some(at) = written.at() {
            meant.up = at.value.up.value_or(meant.up);
            meant.hysteresis = at.value.hysteresis.value_or(meant.hysteresis);
            take(&at.value.on_up, &mut meant.on_up);
            take(&at.value.on_down, &mut meant.on_down);
            place = Some(&at.place);
        }
    }
    Some((meant, place))
}

fn take(written: &Written<Command>, to: &mut Vec<String>) {
    if let Some(at) = written.at() {
        *to = at.value.clone().unwrap_or_default();
    }
}

/// Lowers what could never be reached or never be missed, as keepalived does, and says so.
fn lower(quorum: &mut Quorum, servers: &[model::RealServer], place: &Place, problems: &Problems) {
    let all: u64 = servers.iter().map(|server| u64::from(server.weight)).sum();
    let all = u32::try_from(all).unwrap_or(u32::MAX);
    if all > 0 && quorum.up > all {
        let message =
            format!("a quorum of {} is lowered to {all}, all weights together", quorum.up);
        problems.warning(&place.key("up"), message);
        quorum.up = all;
    }
    if quorum.hysteresis >= quorum.up {
        let lowered = quorum.up - 1;
        let message = format!(
            "hysteresis {} is lowered to {lowered}: with a quorum of {} the service would never be down",
            quorum.hysteresis, quorum.up
        );
        problems.warning(&place.key("hysteresis"), message);
        quorum.hysteresis = lowered;
    }
    if all > 0 && quorum.up + quorum.hysteresis > all {
        let message = format!(
            "once lost, the quorum can never be reached again: up {} + hysteresis {} is more than all \
             weights together, {all}",
            quorum.up, quorum.hysteresis
        );
        problems.warning(place, message);
    }
}

/// The written sorry server; its rules are those of a real server.
pub(super) fn sorry_server<'a>(
    own: &'a Written<Option<SorryServer>>,
    defaults: &'a Written<Option<SorryServer>>,
) -> Option<Option<(&'a SorryServer, &'a Place)>> {
    let written = own.or(defaults);
    if written.is_absent() {
        return Some(None);
    }
    let at = written.at()?;
    Some(at.value.as_ref().map(|server| (server, &at.place)))
}
