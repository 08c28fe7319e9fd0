//! Where every service and real server stands: computed once before each plan, taken by the maps,
//! the documents, the metrics and VRRP alike.
//!
//! [`Lives`] remembers what has to be remembered from one time to the next (who was told what,
//! whether there was a quorum, since when a server comes back slowly); [`Lives::judge`] gives the
//! [`Standing`] and the [`Transition`]s that somebody is to be told of.
//!
//! A real server is up while all its checks are. Several services may have the same real server with
//! the same checks: then they hang on the same targets, and its change is one transition.
//!
//! Must not know: who is told how, maps, probes.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use crate::controller::checked::{Checked, Health as Known};
use crate::controller::effective::{Effective, Health, ServerState, effective};
use crate::controller::quorum::Gate;
use crate::health::HealthState;
use crate::model::{Director, RealServer, VirtualService};

/// Where everything stands; services and servers are those of the configuration, by their places.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Standing {
    /// Services in file order.
    pub services: Vec<ServiceStanding>,
}

/// Where a service stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ServiceStanding {
    /// Real servers in file order.
    pub servers: Vec<ServerStanding>,
    /// Weights of the servers that could take new connections.
    pub live_weight: u64,
    /// Whether that is enough; `None` while first results are missing.
    pub has_quorum: Option<bool>,
    /// New connections go to the sorry server.
    pub is_sorry: bool,
    /// A server is on its way to its whole share: shares follow the weights whatever the scheduler.
    pub is_slow: bool,
}

/// Where a real server stands.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ServerStanding {
    /// Its weight and state.
    pub effective: Effective,
    /// Its share of new connections now, in proportion to those of the others.
    pub share: u32,
    /// How much of its weight it has, of 1, while it comes back slowly.
    pub ramp: Option<f64>,
}

impl Standing {
    /// Where a real server stands, by its places.
    pub fn server(&self, service: usize, server: usize) -> Option<&ServerStanding> {
        self.services.get(service)?.servers.get(server)
    }
}

/// Something that somebody is to be told of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Transition {
    /// A real server went up or down by its checks.
    Server(ServerTransition),
    /// A service has its quorum, or lost it.
    Quorum {
        /// Which service.
        service: usize,
        /// Whether it has it.
        up: bool,
        /// Known for the first time: only news when it is bad.
        first: bool,
    },
}

/// A real server went up or down by its checks, in whatever services and on whatever ports: one check
/// decided it for all of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerTransition {
    /// Where it listens, each once.
    pub endpoints: Vec<SocketAddr>,
    /// Whether it is up.
    pub up: bool,
    /// Known for the first time: only news when it is bad.
    pub first: bool,
    /// The services that have it, and its place in each.
    pub places: Vec<(usize, usize)>,
    /// The number in [`Known`] of the target that decided it.
    pub target: Option<usize>,
}

impl ServerTransition {
    /// `address:port`, or the address alone when there are several ports.
    pub fn name(&self) -> String {
        match self.endpoints.as_slice() {
            [endpoint] => endpoint.to_string(),
            [endpoint, ..] => endpoint.ip().to_string(),
            [] => String::new(),
        }
    }
}

/// What is remembered of services, by name.
#[derive(Clone, Debug, Default)]
pub struct Lives {
    services: HashMap<String, ServiceLife>,
}

#[derive(Clone, Debug, Default)]
struct ServiceLife {
    /// It was looked at before.
    is_known: bool,
    gate: Gate,
    servers: HashMap<SocketAddr, ServerLife>,
}

#[derive(Clone, Copy, Debug, Default)]
struct ServerLife {
    /// What was last said of its health.
    told: Option<HealthState>,
    /// Whether it took connections when it was last looked at; `None` while it has not yet, of one
    /// that was there when its service began.
    took: Option<bool>,
    /// Since when it comes back slowly.
    since: Option<Instant>,
}

/// The health of a real server over all its checks.
#[derive(Clone, Copy, Debug)]
struct Verdict {
    health: Option<Health>,
    /// More than what it was assumed to be.
    is_certain: bool,
    /// Nothing has been asked yet: its state is what an earlier run knew.
    is_assumed: bool,
    /// It was asked several times, whatever came of it: a quorum does not wait for it any longer.
    was_asked: bool,
}

impl Lives {
    /// Where everything stands at `now`, and what has changed since the last time.
    pub fn judge(
        &mut self,
        director: &Director,
        known: &Known,
        now: Instant,
    ) -> (Standing, Vec<Transition>) {
        self.forget_others(director);
        let mut standing = Standing::default();
        let mut changed: BTreeMap<(IpAddr, Option<usize>, bool), ServerTransition> =
            BTreeMap::new();
        let mut quorums = Vec::new();
        for (at, service) in director.virtual_services.iter().enumerate() {
            let life = self.services.entry(service.name.clone()).or_default();
            let mut is_certain = true;
            let mut servers = Vec::with_capacity(service.real_servers.len());
            for (place, server) in service.real_servers.iter().enumerate() {
                let endpoint = SocketAddr::new(server.address, server.port);
                let verdict = verdict(known.of(at, place));
                let own = life.servers.entry(endpoint).or_insert(ServerLife {
                    took: life.is_known.then_some(false),
                    ..ServerLife::default()
                });
                if let Some(first) = own.hear(&verdict) {
                    let up = own.told == Some(HealthState::Up);
                    let target = decided(known, known.ids(at, place), up);
                    let none = ServerTransition {
                        endpoints: Vec::new(),
                        up,
                        first,
                        places: Vec::new(),
                        target,
                    };
                    let key = (server.address, target, up);
                    let transition = changed.entry(key).or_insert(none);
                    transition.first &= first;
                    if !transition.endpoints.contains(&endpoint) {
                        transition.endpoints.push(endpoint);
                    }
                    transition.places.push((at, place));
                }
                let effective = effective(server, service.on_failure, verdict.health);
                is_certain &= own.told.is_some()
                    || verdict.was_asked
                    || effective.state == ServerState::Disabled;
                servers.push((effective, own.ramp(service, &effective, now)));
            }
            life.is_known = true;
            let live_weight = servers.iter().map(|(e, _)| u64::from(e.weight)).sum();
            let was = life.gate.is_up();
            if life.gate.weigh(&service.quorum, live_weight, is_certain)
                && let Some(up) = life.gate.is_up()
            {
                quorums.push(Transition::Quorum { service: at, up, first: was.is_none() });
            }
            let stands = stands(service, &servers, live_weight, life.gate.is_up());
            standing.services.push(stands);
        }
        let servers = changed.into_values().map(Transition::Server);
        (standing, servers.chain(quorums).collect())
    }

    /// When a share changes by itself, if one does.
    pub fn next_step(&self, director: &Director, now: Instant) -> Option<Instant> {
        let steps = director.virtual_services.iter().filter(|s| !s.slow_start.is_zero());
        let slow = steps.filter(|service| {
            let life = self.services.get(&service.name);
            life.is_some_and(|life| life.servers.values().any(|own| own.since.is_some()))
        });
        slow.map(|service| now + step(service.slow_start)).min()
    }

    fn forget_others(&mut self, director: &Director) {
        let mut named: HashMap<&str, &VirtualService> = HashMap::new();
        named.extend(director.virtual_services.iter().map(|s| (s.name.as_str(), s)));
        self.services.retain(|name, life| {
            let Some(service) = named.get(name.as_str()) else { return false };
            if life.servers.len() > service.real_servers.len() {
                let is = |endpoint: &SocketAddr, server: &RealServer| {
                    *endpoint == SocketAddr::new(server.address, server.port)
                };
                life.servers
                    .retain(|endpoint, _| service.real_servers.iter().any(|s| is(endpoint, s)));
            }
            true
        });
    }
}

impl ServerLife {
    /// Takes what checks say. `Some` when somebody is to be told, with whether it is for the first
    /// time.
    fn hear(&mut self, verdict: &Verdict) -> Option<bool> {
        let Some(Health { state, .. }) = verdict.health else {
            // Without a check there is nothing to tell, and nothing to wait for.
            self.told = Some(HealthState::Up);
            return None;
        };
        if !verdict.is_certain || self.told == Some(state) {
            return None;
        }
        let first = self.told.is_none();
        self.told = Some(state);
        (!(first && verdict.is_assumed)).then_some(first)
    }

    /// How much of its weight it has, while it comes back slowly.
    fn ramp(
        &mut self,
        service: &VirtualService,
        effective: &Effective,
        now: Instant,
    ) -> Option<f64> {
        let takes = effective.weight > 0;
        let took = self.took;
        // Nobody is slow at the start: who has never taken any is not one who comes back.
        self.took = if takes { Some(true) } else { took.map(|_| false) };
        if !takes || service.slow_start.is_zero() || service.scheduler.hashes() {
            self.since = None;
            return None;
        }
        if took == Some(false) {
            self.since = Some(now);
        }
        let passed = now.saturating_duration_since(self.since?);
        let part = passed.as_secs_f64() / service.slow_start.as_secs_f64();
        if part >= 1.0 {
            self.since = None;
            return None;
        }
        Some(part)
    }
}

/// Of a server's targets in the state that it is in now, the one that got there last.
fn decided(known: &Known, targets: &[usize], up: bool) -> Option<usize> {
    let state = if up { HealthState::Up } else { HealthState::Down };
    let in_it = targets.iter().filter_map(|id| {
        let checked = known.get(*id).filter(|checked| checked.state == state)?;
        Some((checked.observed.get().last_change, std::cmp::Reverse(*id)))
    });
    in_it.max().map(|(_, id)| id.0)
}

/// The health of a real server: up while all its checks are.
fn verdict<'a>(checks: impl Iterator<Item = &'a Checked>) -> Verdict {
    let mut verdict = Verdict { health: None, is_certain: true, is_assumed: true, was_asked: true };
    let mut is_known_down = false;
    for checked in checks {
        let seen = checked.observed.get();
        let sum = verdict.health.get_or_insert(Health {
            state: HealthState::Up,
            failed: false,
            weight: None,
        });
        if checked.state == HealthState::Down {
            sum.state = HealthState::Down;
            sum.failed |= checked.failed;
        }
        sum.weight = seen.weight.into_iter().chain(sum.weight).min();
        let is_down = seen.is_settled || checked.failed;
        is_known_down |= checked.state == HealthState::Down && is_down;
        verdict.is_certain &= checked.state == HealthState::Up || is_down;
        verdict.is_assumed &= seen.probes == 0;
        verdict.was_asked &= seen.probes >= ENOUGH;
    }
    verdict.is_certain |= is_known_down;
    verdict
}

fn stands(
    service: &VirtualService,
    servers: &[(Effective, Option<f64>)],
    live_weight: u64,
    has_quorum: Option<bool>,
) -> ServiceStanding {
    let is_sorry = service.sorry_server.is_some() && has_quorum == Some(false);
    let is_slow = servers.iter().any(|(_, ramp)| ramp.is_some());
    let scale = if is_slow { scale(live_weight) } else { 1 };
    let servers = servers.iter().map(|&(mut effective, ramp)| {
        if is_sorry {
            // keepalived takes the others out of the pool; here they finish what they have.
            (effective.weight, effective.in_pool) = (0, false);
        }
        let whole = f64::from(effective.weight) * f64::from(scale);
        let least = f64::from(u8::from(effective.weight > 0));
        let share = (whole * ramp.unwrap_or(1.0)).round().max(least);
        // The product of two weights that are checked to be small.
        let share = share as u32;
        ServerStanding { effective, share, ramp }
    });
    ServiceStanding { servers: servers.collect(), live_weight, has_quorum, is_sorry, is_slow }
}

/// What weights are multiplied with so that parts of them can be told apart, while the slots of a
/// weighted table stay few.
fn scale(live_weight: u64) -> u32 {
    let room = SLOTS / live_weight.max(1);
    u32::try_from(room.clamp(u64::from(LEAST_SCALE), u64::from(MOST_SCALE))).unwrap_or(LEAST_SCALE)
}

/// Time between two changes of a share.
fn step(slow_start: Duration) -> Duration {
    (slow_start / STEPS).max(SHORTEST_STEP)
}

/// Results of a check, whatever they say, after which a quorum does not wait for it.
const ENOUGH: u64 = 3;
/// Slots that the weights of a service come to while one of its servers comes back slowly.
const SLOTS: u64 = 4096;
const LEAST_SCALE: u32 = 10;
const MOST_SCALE: u32 = 64;
/// Changes of the share of a server that comes back slowly.
const STEPS: u32 = 50;
const SHORTEST_STEP: Duration = Duration::from_millis(50);

#[cfg(test)]
mod tests;
