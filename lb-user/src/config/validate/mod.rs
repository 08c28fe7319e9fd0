//! What the file means: defaults, references and rules across keys, from `raw` to the model.
//!
//! [`director`] returns `None` only after it, or `raw`, has noted why.
//!
//! Must not know: YAML, types of single values, lines and columns.

mod admin;
mod check_kind;
mod checks;
mod life;
mod log;
mod notifications;
mod prefixes;
mod services;
mod vrrp;

use super::problem::{Place, Problems};
use super::raw::{At, Dataplane, File, Written};
use super::units;
use crate::model;
use std::collections::HashSet;
use std::path::PathBuf;

/// The director that `file` describes.
pub(super) fn director(
    file: &File,
    host_name: &str,
    problems: &Problems,
) -> Option<model::Director> {
    let checks = checks::Checks::new(&file.health_checks, problems);
    let virtual_services = services::all(file, &checks, problems);
    let dataplane = dataplane(file, problems);
    let (notifications, mail) = notifications::notifications(file, problems);
    let vrrp = vrrp::vrrp(file, mail, problems);
    let http = admin::http(file, problems);
    let admin = model::Admin::default();
    let log = log::log(file, problems);
    Some(model::Director {
        node: file.node.value_or(host_name.to_owned()),
        dataplane: dataplane?,
        virtual_services: virtual_services?,
        vrrp: vrrp?,
        notifications: notifications?,
        admin: model::Admin { socket: file.socket.value_or(admin.socket), http: http? },
        log: log?,
    })
}

/// The outer `None` is a fault, the inner one a file without data plane.
fn dataplane(file: &File, problems: &Problems) -> Option<Option<model::Dataplane>> {
    let services = file.virtual_services.at().filter(|at| !at.value.is_empty());
    let raw = match (&file.dataplane, services) {
        (Written::Bad, _) => return None,
        (Written::Is(At { value, .. }), None) if value.empty => return Some(None),
        (Written::Is(At { value, .. }), _) => value,
        (Written::Absent, None) => return Some(None),
        (Written::Absent, Some(services)) => {
            let place = Place { id: services.place.id, path: "dataplane.interfaces".to_owned() };
            problems.error(&place, NO_INTERFACES);
            return None;
        }
    };
    let interfaces = interfaces(raw, problems)?;
    let addresses = addresses(raw, &interfaces, problems)?;
    let timeouts = model::Timeouts::default();
    Some(Some(model::Dataplane {
        interfaces,
        mode: raw.mode.value_or(model::AttachMode::Auto),
        pin_path: raw.pin_path.value_or(PathBuf::from("/sys/fs/bpf/lb")),
        connections: raw.connections.value_or(1_000_000),
        timeouts: model::Timeouts {
            tcp: raw.timeouts.tcp.value_or(timeouts.tcp),
            tcp_syn: raw.timeouts.tcp_syn.value_or(timeouts.tcp_syn),
            tcp_fin: raw.timeouts.tcp_fin.value_or(timeouts.tcp_fin),
            udp: raw.timeouts.udp.value_or(timeouts.udp),
        },
        new_connections_per_second: raw.new_connections_per_second.value_or(0),
        deny: prefixes::deny(raw, problems)?,
        allow: prefixes::allow(raw, problems)?,
        replies: raw.replies.value_or(model::Replies::LastHop),
        addresses,
    }))
}

fn interfaces(raw: &Dataplane, problems: &Problems) -> Option<Vec<String>> {
    let written = match &raw.interfaces {
        Written::Bad => return None,
        Written::Is(At { value, .. }) if !value.is_empty() => value,
        Written::Is(At { place, .. }) => {
            problems.error(place, NO_INTERFACES);
            return None;
        }
        Written::Absent => {
            problems.error(&raw.place.key("interfaces"), NO_INTERFACES);
            return None;
        }
    };
    let mut seen = HashSet::new();
    for At { value, place } in written {
        if !seen.insert(value) {
            problems.error(place, format!("interface `{value}` is listed twice"));
        }
    }
    Some(written.iter().map(|at| at.value.clone()).collect())
}

fn addresses(
    raw: &Dataplane,
    interfaces: &[String],
    problems: &Problems,
) -> Option<Vec<model::OwnedAddress>> {
    let mut seen = HashSet::new();
    let mut owned = Vec::new();
    for At { value: (address, prefix_len, device), place } in &raw.addresses {
        if !seen.insert(*address) {
            problems.error(place, format!("address {address} is listed twice"));
        }
        let interface = match (device, interfaces) {
            (Some(device), _) => device.clone(),
            (None, [only]) => only.clone(),
            (None, _) => {
                let names = units::list(interfaces.iter().map(String::as_str));
                let message = format!(
                    "which of the interfaces {names}? write `{address}/{prefix_len} dev NAME`"
                );
                problems.error(place, message);
                continue;
            }
        };
        owned.push(model::OwnedAddress { address: *address, prefix_len: *prefix_len, interface });
    }
    Some(owned)
}

const NO_INTERFACES: &str = "virtual services need interfaces that XDP is attached to; write `dataplane: {interfaces: [eth0]}`";
