//! What metrics are made from, out of the controller's state.
//!
//! Must not know: the text of metrics, who asks.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use lb_common::wire::vrrp::Family;

use crate::controller::effective::ServerState;
use crate::controller::engine::Engine;
use crate::controller::report::Source;
use crate::health::{CheckStatus, HealthState, Observation};
use crate::metrics::{Check, Dataplane, Prefixes, RealServer, Service, Snapshot, VrrpFrames};
use crate::model::{self, CheckKind};

impl Source<'_> {
    /// Everything that metrics tell.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn snapshot(&mut self) -> anyhow::Result<Snapshot> {
        let director = self.director;
        let mut services = Vec::with_capacity(director.virtual_services.len());
        for (at, service) in director.virtual_services.iter().enumerate() {
            services.push(self.measured_service(at, service)?);
        }
        let drift = self.drift;
        Ok(Snapshot {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            node: director.node.clone(),
            dataplane: self.engine.as_deref_mut().map(|engine| plane(engine, drift)).transpose()?,
            services,
            reloads: self.reloads,
            ..Snapshot::default()
        })
    }

    fn measured_service(
        &mut self,
        at: usize,
        service: &model::VirtualService,
    ) -> anyhow::Result<Service> {
        let mut real_servers = Vec::with_capacity(service.real_servers.len());
        for (place, server) in service.real_servers.iter().enumerate() {
            real_servers.push(self.measured_server((at, place), service, server)?);
        }
        let stands = self.standing.services.get(at);
        Ok(Service {
            name: service.name.clone(),
            up: stands.is_some_and(|stands| stands.has_quorum == Some(true)),
            live_weight: stands.map_or(0, |stands| stands.live_weight),
            sorry: stands.is_some_and(|stands| stands.is_sorry),
            traffic: self.service_traffic(service)?,
            real_servers,
        })
    }

    fn measured_server(
        &mut self,
        place: (usize, usize),
        service: &model::VirtualService,
        server: &model::RealServer,
    ) -> anyhow::Result<RealServer> {
        let stands = self.standing.server(place.0, place.1);
        let effective = stands.map(|stands| stands.effective);
        let counts = match (self.index(service, server), self.engine.as_deref_mut()) {
            (Some(index), Some(engine)) => Some(engine.dataplane().tables().counts(index)?),
            _ => None,
        };
        Ok(RealServer {
            endpoint: SocketAddr::new(server.address, server.port).to_string(),
            up: effective.is_some_and(|effective| {
                !matches!(effective.state, ServerState::Down | ServerState::Disabled)
            }),
            weight: server.weight.into(),
            effective_weight: effective.map_or(0, |effective| effective.weight.into()),
            active: counts.map_or(0, |counts| counts.active),
            inactive: counts.map_or(0, |counts| counts.inactive),
            traffic: self.server_traffic(service, server)?,
            checks: self.measured_checks(place, server),
        })
    }
}

impl Source<'_> {
    /// How a real server is checked.
    fn measured_checks(&self, place: (usize, usize), server: &model::RealServer) -> Vec<Check> {
        let mut seen: Vec<&str> = Vec::new();
        let checked = self.health.of(place.0, place.1).zip(&server.health_checks);
        let checks = checked.map(|(checked, configured)| {
            // Two of one kind are told apart by their order in the file.
            let kind = kind(&configured.kind);
            let same = seen.iter().filter(|other| **other == kind).count();
            seen.push(kind);
            let name = if same == 0 { kind.to_owned() } else { format!("{kind} {}", same + 1) };
            check(name, checked.observed.get())
        });
        checks.collect()
    }
}

fn check(name: String, observed: Observation) -> Check {
    let last = observed.last.as_ref();
    let seconds =
        |at: SystemTime| Some(at.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs_f64());
    Check {
        name,
        up: observed.state == HealthState::Up,
        status: last.map_or(CheckStatus::Initializing, |last| last.status).name().to_owned(),
        duration: last.map_or(Duration::ZERO, |last| last.duration),
        last_change: observed.last_change.and_then(seconds),
        changes: observed.tally.changes,
        results: observed.tally.results.into_iter().collect(),
    }
}

fn kind(kind: &CheckKind) -> &'static str {
    match kind {
        CheckKind::Ping => "ping",
        CheckKind::Tcp => "tcp",
        CheckKind::Http(http) if http.tls.is_some() => "https",
        CheckKind::Http(_) => "http",
        CheckKind::Udp(_) => "udp",
        CheckKind::Dns(_) => "dns",
        CheckKind::Smtp(_) => "smtp",
        CheckKind::Grpc(_) => "grpc",
        CheckKind::Exec(_) => "exec",
    }
}

fn plane(engine: &mut Engine, drift: u64) -> anyhow::Result<Dataplane> {
    let (_, connections) = engine.connections()?;
    let installed = engine.installed();
    let configured = installed.deny.values().filter(|denial| denial.configured).count();
    let prefixes = Prefixes {
        configured: configured as u64,
        banned: (installed.deny.len() - configured) as u64,
        allowed: installed.allow.len() as u64,
    };
    let mode = engine.mode().name().to_owned();
    let counters = engine.counters()?;
    let capacity = engine.dataplane().tables().capacity().into();
    let vrrp_frames = engine.dataplane().tables().vrrp_frames()?;
    let vrrp_frames = vrrp_frames.into_iter().map(|(family, vrid, count)| VrrpFrames {
        family: match family {
            Family::V4 => "ipv4",
            Family::V6 => "ipv6",
        },
        vrid,
        count,
    });
    let vrrp_frames = vrrp_frames.collect();
    Ok(Dataplane { mode, counters, connections, capacity, drift, prefixes, vrrp_frames })
}
