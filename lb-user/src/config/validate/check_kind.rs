//! Checks of types `udp`, `dns`, `smtp`, `grpc` and `exec`: defaults, and whose keys are whose.
//!
//! Must not know: services, how probes are done.

use super::super::contract::CheckType;
use super::super::problem::{Place, Problems};
use super::super::raw::{Kinds, Written};
use crate::model::{self, CheckKind};
use hickory_proto::rr::{Name, RecordType};
use std::sync::Arc;
use std::time::Duration;

/// A key that belongs to one type of check.
pub(super) struct Owned<'a> {
    pub(super) name: &'static str,
    /// `None` when it is not written.
    pub(super) place: Option<&'a Place>,
    pub(super) owner: CheckType,
    /// The owner in words.
    pub(super) whose: &'static str,
}

/// Every key that belongs to one type; sections stand for their keys.
pub(super) fn keys(raw: &Kinds) -> Vec<Owned<'_>> {
    let sections = raw.sections.iter().map(|(name, section)| {
        let (owner, whose) = match *name {
            "udp" => (CheckType::Udp, "type udp"),
            "dns" => (CheckType::Dns, "type dns"),
            "smtp" => (CheckType::Smtp, "type smtp"),
            _ => (CheckType::Grpc, "type grpc"),
        };
        Owned { name, place: section.place(), owner, whose }
    });
    let of_exec = [
        ("command", raw.command.place()),
        ("user", raw.user.place()),
        ("dynamic_weight", raw.dynamic_weight.place()),
    ];
    let of_exec = of_exec.into_iter().map(|(name, place)| Owned {
        name,
        place,
        owner: CheckType::Exec,
        whose: "type exec",
    });
    sections.chain(of_exec).collect()
}

pub(super) fn udp(raw: &Kinds) -> CheckKind {
    CheckKind::Udp(Arc::new(model::UdpCheck {
        payload: raw.payload.value_or(vec![0]),
        reply: raw.reply.at().map(|at| at.value.clone()),
    }))
}

/// Linux sends about one ICMP error a second to each receiver; what comes in between looks like
/// silence, which would be a success.
pub(super) fn warn_of_silence(
    check: &model::UdpCheck,
    pause: Duration,
    place: &Place,
    problems: &Problems,
) {
    if check.reply.is_none() && pause < Duration::from_secs(1) {
        let message = "without `reply` only an ICMP error shows that a server is down, and hosts \
                       limit these to about one a second: write `reply`, or intervals of 1s or more";
        problems.warning(place, message);
    }
}

/// As keepalived's: who is the authority of the root?
pub(super) fn dns(raw: &Kinds) -> CheckKind {
    CheckKind::Dns(Arc::new(model::DnsCheck {
        name: raw.name.value_or(Name::root()),
        record: raw.record.value_or(RecordType::SOA),
    }))
}

pub(super) fn smtp(raw: &Kinds) -> CheckKind {
    let helo = raw.helo.at().map(|at| at.value.clone());
    CheckKind::Smtp(Arc::new(model::SmtpCheck { helo }))
}

pub(super) fn grpc(raw: &Kinds) -> CheckKind {
    CheckKind::Grpc(Arc::new(model::GrpcCheck { service: raw.service.value_or(String::new()) }))
}

pub(super) fn exec(raw: &Kinds, place: &Place, problems: &Problems) -> Option<CheckKind> {
    let command = match &raw.command {
        Written::Bad => return None,
        written => written.at().and_then(|at| at.value.clone()),
    };
    let Some(command) = command else {
        let place = raw.command.place().cloned().unwrap_or_else(|| place.key("command"));
        problems.error(&place, "a check of type exec needs a `command`; write such as [/bin/true]");
        return None;
    };
    Some(CheckKind::Exec(Arc::new(model::ExecCheck {
        command,
        user: raw.user.value_or("nobody".to_owned()),
        dynamic_weight: raw.dynamic_weight.value_or(true),
    })))
}
