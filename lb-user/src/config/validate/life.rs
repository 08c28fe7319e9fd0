//! The life of a service's servers: defaults, and the rules for its quorum and sorry server.
//!
//! Must not know: how packets are forwarded beyond what each method requires.

use std::time::Duration;

use super::super::problem::{Place, Problems};
use super::super::raw::{self, Command, Life, SorryServer, Written};
use crate::model::{self, AdminState, Quorum, Scheduler, ServiceNotify};

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
    problems: &Problems,
) -> Option<Meant> {
    if let Some(at) = raw.slow_start.at().filter(|at| !at.value.is_zero() && scheduler.hashes()) {
        let message = format!("{} chooses by a hash: slow_start has no effect", scheduler.name());
        problems.warning(&at.place, message);
    }
    let quorum = quorum(&raw.quorum, &defaults.quorum, problems)?;
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

fn quorum(
    own: &Written<raw::Quorum>,
    defaults: &Written<raw::Quorum>,
    problems: &Problems,
) -> Option<Quorum> {
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
    if let Some(place) = place.filter(|_| meant.hysteresis >= meant.up) {
        // keepalived refuses it as well: the lower bound would be 0, which is never missed.
        let message = format!(
            "hysteresis {} is not below the quorum of {}: the service would never be down",
            meant.hysteresis, meant.up
        );
        problems.error(&place.key("hysteresis"), message);
        return None;
    }
    Some(meant)
}

fn take(written: &Written<Command>, to: &mut Vec<String>) {
    if let Some(at) = written.at() {
        *to = at.value.clone().unwrap_or_default();
    }
}

/// Warns of a quorum that all servers together do not reach.
pub(super) fn judge_quorum(
    quorum: &Quorum,
    servers: &[model::RealServer],
    place: &Place,
    problems: &Problems,
) {
    let in_service = servers.iter().filter(|server| server.admin == AdminState::Ready);
    let all: u64 = in_service.map(|server| u64::from(server.weight)).sum();
    let needed = u64::from(quorum.up) + u64::from(quorum.hysteresis);
    // The default needs no word: what has no servers says so already.
    if *quorum != Quorum::default() && all < needed {
        let message = format!(
            "the quorum can never be reached: up {} + hysteresis {} is more than all weights together, {all}",
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
