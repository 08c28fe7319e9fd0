//! What the operator does with servers at run time: drain, enable, disable, weight, add, remove.
//!
//! A change is answered when the maps follow it, and a kept one when it is written. One that the
//! maps have no room for leaves everything as it was.
//!
//! Must not know: HTTP, map layouts.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use crate::controller::chronicle::EventKind;
use crate::controller::document::Steered;
use crate::controller::overrides::{Action, ServerName};
use crate::controller::request::{Document, Refusal, RefusalKind, Reply, Request, Steer};
use crate::controller::state_file;
use crate::controller::task::{Controller, InForce, failed};
use crate::model::{Protocol, RealServer, VirtualService};

/// Changes that are being written.
#[derive(Debug, Default)]
pub(super) struct Keeping {
    /// How many there were.
    number: u64,
    /// Which one is written.
    written: Arc<Mutex<u64>>,
}

impl Controller {
    /// Does it, or says why not.
    pub(super) fn steer(&mut self, request: Request, steer: &Steer) {
        let steered = self.steered(steer);
        let Ok((server, Document::Steered(mut document))) = steered else {
            return request.answer(steered.map(|(_, document)| document));
        };
        self.chronicle.add(
            EventKind::RealServer,
            &server.to_string(),
            word(steer.action),
            "by the operator",
        );
        if !steer.persist {
            return request.answer(Ok(Document::Steered(document)));
        }
        document.kept = true;
        let (path, kept) = (self.start.state_path.clone(), self.overrides.kept.clone());
        self.keeping.number += 1;
        let (number, written) = (self.keeping.number, self.keeping.written.clone());
        tokio::task::spawn_blocking(move || {
            // One after the other; what a later change has written holds this one too.
            let mut last = written.lock().unwrap_or_else(PoisonError::into_inner);
            let result = if *last > number { Ok(()) } else { state_file::write(&path, &kept) };
            if result.is_ok() {
                *last = number.max(*last);
            }
            request.answer(match result {
                Ok(()) => Ok(Document::Steered(document)),
                Err(error) => {
                    let text = format!("it is in force now, but not kept: {error:#}");
                    Err(Refusal::new(RefusalKind::Failed, text))
                }
            });
        });
    }

    fn steered(&mut self, steer: &Steer) -> Result<(ServerName, Document), Refusal> {
        let busy = |why: &str| Err(Refusal::new(RefusalKind::Busy, why));
        if self.stopping.is_some() {
            return busy("the daemon is stopping");
        }
        if self.reloading || !self.is_ready {
            return busy("a configuration is being taken over: ask again");
        }
        let server = self.meant(steer)?;
        let before = self.in_force(false);
        self.overrides.take(&server, steer.action, steer.persist);
        self.overrides.tidy(&self.file);
        let (director, ignored) = self.overrides.apply(&self.file);
        if let Some(ignored) = ignored.into_iter().find(|ignored| ignored.server == server) {
            self.overrides = before.overrides;
            let text = format!("{server}: {}", ignored.why);
            return Err(Refusal::new(RefusalKind::Invalid, text));
        }
        self.start.director = director;
        self.previous = Some(before);
        self.follow_director();
        self.plan_at = None;
        self.plan();
        if let Some(error) = &self.apply_error {
            return Err(failed(&anyhow::anyhow!("nothing was changed: {error}")));
        }
        let document = self.steered_document(&server)?;
        Ok((server, document))
    }

    /// The server that is meant; its port may be left out where there is no doubt.
    fn meant(&self, steer: &Steer) -> Result<ServerName, Refusal> {
        if let Some(kept) = self.left_behind(steer) {
            return Ok(kept);
        }
        let director = &self.start.director;
        let services = &director.virtual_services;
        let Some(service) = services.iter().find(|service| service.name == steer.service) else {
            let names: Vec<&str> = services.iter().map(|s| s.name.as_str()).collect();
            let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            let text = format!("there is no virtual service {:?}: there is {names}", steer.service);
            return Err(Refusal::new(RefusalKind::NotFound, text));
        };
        let server =
            |port| ServerName { service: service.name.clone(), address: steer.address, port };
        let ports: Vec<u16> = service
            .real_servers
            .iter()
            .filter(|rs| rs.address == steer.address && steer.port.is_none_or(|p| p == rs.port))
            .map(|rs| rs.port)
            .collect();
        let is_added = matches!(steer.action, Action::Add(_));
        match (ports.as_slice(), is_added) {
            ([], true) => {
                let usual = service.listen.first().map_or(0, |listen| listen.port);
                Ok(server(steer.port.unwrap_or(usual)))
            }
            ([port, ..], true) => {
                let text = format!("{} is there already", server(*port));
                Err(Refusal::new(RefusalKind::Invalid, text))
            }
            ([port], false) => Ok(server(*port)),
            ([], false) => Err(no_such_server(service, steer)),
            (several, false) => {
                let text = format!(
                    "{} has {} on {} ports: say which",
                    service.name,
                    steer.address,
                    several.len()
                );
                Err(Refusal::new(RefusalKind::Invalid, text))
            }
        }
    }

    /// What is kept of a server that has left the file can only be removed.
    fn left_behind(&self, steer: &Steer) -> Option<ServerName> {
        if steer.action != Action::Remove || !steer.persist {
            return None;
        }
        let services = &self.start.director.virtual_services;
        let is_there = |name: &ServerName| {
            let service = services.iter().find(|service| service.name == name.service);
            service.is_some_and(|service| {
                let servers = service.real_servers.iter();
                servers.map(|rs| (rs.address, rs.port)).any(|rs| rs == (name.address, name.port))
            })
        };
        let is_meant = |name: &&ServerName| {
            name.service == steer.service
                && name.address == steer.address
                && steer.port.is_none_or(|port| port == name.port)
                && !is_there(name)
        };
        self.overrides.kept.keys().find(is_meant).cloned()
    }

    fn steered_document(&mut self, server: &ServerName) -> Reply {
        let mut document = Steered {
            target: server.to_string(),
            state: "removed".to_owned(),
            ..Steered::default()
        };
        self.with_source(|source| {
            let mut services = source.director.virtual_services.iter().enumerate();
            let found = services.find(|(_, service)| service.name == server.service);
            let is_udp = |s: &VirtualService| s.listen.iter().all(|l| l.protocol == Protocol::Udp);
            let is_udp = found.is_some_and(|(_, service)| is_udp(service));
            document.protocol = if is_udp { "udp" } else { "tcp" }.to_owned();
            let is = |rs: &RealServer| (rs.address, rs.port) == (server.address, server.port);
            if let Some((at, service)) = found
                && let Some(place) = service.real_servers.iter().position(is)
            {
                let rs = source.real_server((at, place), service, &service.real_servers[place])?;
                document.state = rs.state;
                document.weight = rs.weight;
                document.effective_weight = rs.effective_weight;
                document.active_connections = rs.active_connections;
                document.inactive_connections = rs.inactive_connections;
            }
            Ok(Document::Steered(document))
        })
    }

    /// What holds now, to go back to. `is_reload` says what would replace it.
    pub(super) fn in_force(&self, is_reload: bool) -> InForce {
        InForce {
            director: self.start.director.clone(),
            file: self.file.clone(),
            overrides: self.overrides.clone(),
            warnings: self.start.warnings.clone(),
            is_reload,
        }
    }
}

fn no_such_server(service: &VirtualService, steer: &Steer) -> Refusal {
    let servers = service.real_servers.iter();
    let known: Vec<String> =
        servers.map(|rs| SocketAddr::new(rs.address, rs.port).to_string()).collect();
    let known = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
    let asked = match steer.port {
        Some(port) => SocketAddr::new(steer.address, port).to_string(),
        None => steer.address.to_string(),
    };
    let text = format!("{} has no real server {asked}: it has {known}", service.name);
    Refusal::new(RefusalKind::NotFound, text)
}

fn word(action: Action) -> &'static str {
    match action {
        Action::Enable => "ENABLED",
        Action::Drain => "DRAIN",
        Action::Disable => "DISABLED",
        Action::Weight(_) => "WEIGHT",
        Action::Add(_) => "ADDED",
        Action::Remove => "REMOVED",
    }
}
