//! What metrics are made from, out of the controller's state.
//!
//! Must not know: the text of metrics, who asks.

use std::net::SocketAddr;

use lb_common::wire::vrrp::Family;

use crate::controller::effective::ServerState;
use crate::controller::engine::Engine;
use crate::controller::report::Source;
use crate::metrics::{Dataplane, Prefixes, RealServer, Service, Snapshot, VrrpFrames};
use crate::model;

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
        })
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
