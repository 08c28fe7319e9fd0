//! Who is told of what becomes of real servers and quorums: one log line, one event, one mail and
//! one run of each command for one transition, however many services share it.
//!
//! Log lines have HAProxy's wording for servers and keepalived's for quorums.
//!
//! Must not know: how commands run and mails are sent.

use std::net::SocketAddr;
use std::time::Instant;

use crate::controller::chronicle::EventKind;
use crate::controller::standing::{ServerTransition, Transition};
use crate::controller::task::Controller;
use crate::health::{HealthState, ProbeResult};
use crate::model::{Director, VirtualService};
use crate::notify::{Kind, Notification, State};

impl Controller {
    /// Looks where everything stands; gives what somebody is to be told of.
    pub(super) fn judge(&mut self) -> Vec<Transition> {
        let now = Instant::now();
        let (standing, transitions) = self.lives.judge(&self.start.director, &self.health, now);
        self.standing = standing;
        self.step_at = self.lives.next_step(&self.start.director, now);
        transitions
    }

    /// Tells of what has changed.
    pub(super) fn tell(&mut self, transitions: Vec<Transition>) {
        if self.stopping.is_some() {
            return;
        }
        for transition in transitions {
            match transition {
                Transition::Server(changed) => self.server_changed(&changed),
                Transition::Quorum { service, up, first } => {
                    self.quorum_changed(service, up, first);
                }
            }
        }
    }

    fn server_changed(&mut self, changed: &ServerTransition) {
        let director = &self.start.director;
        let names = names(director, changed);
        let (last, since) = self.reason(changed);
        let shown = shown(director, changed);
        let left: Vec<String> = changed
            .places
            .iter()
            .filter_map(|(at, _)| Some((director.virtual_services.get(*at)?, *at)))
            .map(|(service, at)| {
                let servers = self.standing.services.get(at).map_or(&[][..], |s| &s.servers);
                let active = servers.iter().filter(|s| s.effective.weight > 0).count();
                let in_use = self.standing.services.get(at).is_some_and(|s| s.is_sorry);
                let sorry = usize::from(in_use);
                let of = if changed.places.len() > 1 {
                    format!(" of {}", service.name)
                } else {
                    String::new()
                };
                let rest = if changed.up { "online" } else { "left" };
                format!("{active} active and {sorry} backup servers{of} {rest}.")
            })
            .collect();
        let word = if changed.up { "UP" } else { "DOWN" };
        let line = format!("Server {} is {word}, {since}. {}", shown.join(", "), left.join(" "));
        if changed.up {
            tracing::info!(severity = "notice", "{line}");
        } else {
            tracing::warn!(severity = "alert", "{line}");
        }
        let cause = last.map_or(String::new(), |last| why(&last));
        let name = changed.name();
        self.chronicle.add(EventKind::RealServer, &shown.join(", "), word, &cause);
        if changed.up && changed.first {
            return;
        }
        let services = changed.places.iter();
        let services = services.filter_map(|(at, _)| director.virtual_services.get(*at));
        let mut commands: Vec<Vec<String>> = Vec::new();
        let mut email = false;
        for service in services {
            email |= service.notify.email;
            let command = if changed.up { &service.notify.up } else { &service.notify.down };
            if !commands.contains(command) {
                commands.push(command.clone());
            }
        }
        self.vrrp.notifier.send(Notification {
            kind: Kind::RealServer,
            name,
            state: if changed.up { State::Up } else { State::Down },
            figure: names.join(","),
            cause,
            commands,
            email,
        });
    }

    /// The result that decided it, and how HAProxy puts it.
    fn reason(&self, changed: &ServerTransition) -> (Option<ProbeResult>, String) {
        let decided = if changed.up { HealthState::Up } else { HealthState::Down };
        let mut results = changed
            .target
            .iter()
            .filter_map(|id| self.health.get(*id))
            .filter(|checked| checked.state == decided)
            .filter_map(|checked| checked.observed.get().last);
        let last = results.next();
        let text = match &last {
            Some(last) => {
                let code = last.code.map(|code| format!(", code: {code}")).unwrap_or_default();
                let info = if last.detail.is_empty() {
                    String::new()
                } else {
                    format!(", info: \"{}\"", last.detail)
                };
                let took = last.duration.as_millis();
                format!("reason: {}{code}{info}, check duration: {took}ms", last.status.words())
            }
            None => "reason: no check has ended yet".to_owned(),
        };
        (last, text)
    }

    fn quorum_changed(&mut self, at: usize, up: bool, first: bool) {
        let director = &self.start.director;
        let (Some(service), Some(stands)) =
            (director.virtual_services.get(at), self.standing.services.get(at))
        else {
            return;
        };
        let cause = quorum_line(service, up, stands.live_weight);
        let sorry = match service.sorry_server {
            Some(sorry) if !up => {
                let sorry = SocketAddr::new(sorry.address, sorry.port);
                format!("; new connections go to the sorry server {sorry}")
            }
            _ => String::new(),
        };
        if up {
            tracing::info!(severity = "notice", "{cause}");
        } else if stands.live_weight == 0 {
            tracing::error!(
                severity = "emerg",
                "virtual service {} has no server available! {cause}{sorry}",
                service.name
            );
        } else {
            tracing::error!(severity = "alert", "{cause}{sorry}");
        }
        let word = if up { "UP" } else { "DOWN" };
        self.chronicle.add(EventKind::VirtualService, &service.name, word, &cause);
        let quorum = &service.quorum;
        let own = if up { &quorum.on_up } else { &quorum.on_down };
        // keepalived's quorum_up runs at the start too: it may be what announces the service.
        let is_news = !(up && first);
        let every = if up { &service.notify.up } else { &service.notify.down };
        let commands = if is_news { vec![own.clone(), every.clone()] } else { vec![own.clone()] };
        self.vrrp.notifier.send(Notification {
            kind: Kind::VirtualService,
            name: service.name.clone(),
            state: if up { State::Up } else { State::Down },
            figure: stands.live_weight.to_string(),
            cause: format!("{cause}{sorry}"),
            commands,
            email: service.notify.email && is_news,
        });
    }
}

/// The services that have it, in file order.
fn names(director: &Director, changed: &ServerTransition) -> Vec<String> {
    let services = changed.places.iter().filter_map(|(at, _)| director.virtual_services.get(*at));
    services.map(|service| service.name.clone()).collect()
}

/// `service/address:port` of each of them.
fn shown(director: &Director, changed: &ServerTransition) -> Vec<String> {
    let places = changed.places.iter().filter_map(|(at, place)| {
        let service = director.virtual_services.get(*at)?;
        let server = service.real_servers.get(*place)?;
        Some(format!("{}/{}", service.name, SocketAddr::new(server.address, server.port)))
    });
    places.collect()
}

/// keepalived's line: bound and weight with the sign between them.
fn quorum_line(service: &VirtualService, up: bool, live: u64) -> String {
    let quorum = &service.quorum;
    let (wanted, hysteresis) = (u64::from(quorum.up), u64::from(quorum.hysteresis));
    let name = &service.name;
    if up {
        let bound = wanted + hysteresis;
        format!("Gained quorum {wanted}+{hysteresis}={bound} <= {live} for virtual service {name}")
    } else {
        let bound = wanted.saturating_sub(hysteresis);
        format!("Lost quorum {wanted}-{hysteresis}={bound} > {live} for virtual service {name}")
    }
}

/// A result in a few words.
fn why(last: &ProbeResult) -> String {
    let code = last.code.map(|code| format!("/{code}")).unwrap_or_default();
    let detail = if last.detail.is_empty() { String::new() } else { format!(": {}", last.detail) };
    format!("{}{code}{detail}", last.status.name())
}
