//! Makes probes and next hops follow the configuration in force.
//!
//! Must not know: how a probe is done, how a next hop is found.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use crate::controller::checked::{Checked, milder};
use crate::controller::routes::Ask;
use crate::controller::task::{Controller, RESOLVE};
use crate::controller::wanted;
use crate::dataplane::listing::ip;
use crate::health::{HealthState, Target, Wanted as Probed};
use crate::model::VirtualService;

impl Controller {
    /// Probes what the configuration names, and has its next hops found.
    pub(super) fn follow_director(&mut self) {
        let director = self.start.director.clone();
        let deadline = Instant::now() + RESOLVE;
        let mut assumed: HashMap<Target, Option<HealthState>> = HashMap::new();
        let mut named = BTreeSet::new();
        for service in &director.virtual_services {
            let mut look_for = |endpoint: SocketAddr| {
                named.insert(endpoint.ip());
                let known = self.known_health(service, endpoint);
                let is_used = known == Some(HealthState::Up);
                if !is_used
                    && self.engine.is_some()
                    && !self.routes.hops.contains_key(&endpoint.ip())
                {
                    self.resolving.entry(endpoint.ip()).or_insert(deadline);
                }
                known
            };
            if let Some(sorry) = service.sorry_server {
                look_for(SocketAddr::new(sorry.address, sorry.port));
            }
            for server in &service.real_servers {
                let known = look_for(SocketAddr::new(server.address, server.port));
                for target in Target::all(server) {
                    let assume = assumed.entry(target).or_default();
                    *assume = milder(*assume, known);
                }
            }
        }
        self.via.want(assumed.keys());
        self.follow_ways();
        let probed = assumed
            .iter()
            .map(|(target, assume)| Probed { target: target.clone(), assume: *assume });
        self.runner.set_targets(probed);
        self.health.follow(&director, |target| {
            let assume = assumed.get(target).copied().flatten();
            Some(Checked::new(self.runner.observed(target)?, assume))
        });
        self.resolving.retain(|ip, _| named.contains(ip));
        self.follow_destinations();
        self.follow_vrrp();
        self.change();
    }

    /// What the maps do with a real server now, by any of its service's keys.
    fn known_health(&self, service: &VirtualService, endpoint: SocketAddr) -> Option<HealthState> {
        let engine = self.engine.as_ref()?;
        let (address, port) = (wanted::address(endpoint.ip()), endpoint.port());
        let by_key = |listen| engine.adopted_health(&wanted::key(listen), address, port);
        service.listen.iter().fold(None, |known, listen| milder(known, by_key(listen)))
    }

    /// Has the next hops of everything that packets go to found, if that is not the same as before:
    /// the file's real servers, and those that left it and still have connections.
    pub(super) fn follow_destinations(&mut self) {
        let mut wanted = BTreeSet::new();
        for service in &self.start.director.virtual_services {
            wanted.extend(service.real_servers.iter().map(|server| server.address));
            wanted.extend(service.sorry_server.map(|server| server.address));
        }
        wanted.extend(self.leaving().into_values());
        if self.destinations.as_ref() == Some(&wanted) {
            return;
        }
        self.destinations = Some(wanted.clone());
        let asks = self.asks.clone();
        tokio::spawn(async move {
            // A resolver that is gone means that the daemon is stopping.
            let _gone = asks.send(Ask::Destinations(wanted)).await;
        });
    }

    /// Addresses of real servers that left the file and still have connections, by index.
    pub(super) fn leaving(&self) -> BTreeMap<u32, IpAddr> {
        let Some(engine) = &self.engine else {
            return BTreeMap::new();
        };
        engine.leaving().map(|(index, server)| (index, ip(&server.address))).collect()
    }
}
