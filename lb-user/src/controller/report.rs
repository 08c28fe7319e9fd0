//! Documents from the controller's state: `lb status`, `lb stats`, `lb connections`.
//!
//! Must not know: HTTP, how a document is shown.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Instant, SystemTime};

use lb_common::conn::Timeouts;
use lb_common::service::{RealServer as Element, Traffic};
use lb_common::verdict::CounterKind;
use lb_common::wire;

use crate::controller::checked::Health;
use crate::controller::document::{
    Capacity, Check, Connection, Connections, Counters, Dataplane, HealthSummary, Quorum, Rates,
    RealServer, RealServerStats, ServiceStats, SorryServer, Stats, Status, VirtualService,
};
use crate::controller::engine::Engine;
use crate::controller::standing::{ServiceStanding, Standing};
use crate::controller::wanted::{address, key};
use crate::dataplane::bpf::Clock;
use crate::dataplane::listing::{Row, ip};
use crate::health::{CheckStatus, HealthState, Observation, Outcome};
use crate::metrics::{self, Reloads};
use crate::model::{self, Director, ForwardingMethod, Protocol};

/// What documents are made from.
pub struct Source<'a> {
    /// The configuration in force.
    pub director: &'a Director,
    /// The data plane, if there is one.
    pub engine: Option<&'a mut Engine>,
    /// Where services and real servers stand.
    pub standing: &'a Standing,
    /// What was heard of probed targets.
    pub health: &'a Health,
    /// What is not as it should be.
    pub warnings: &'a [String],
    /// Connections by which counts have drifted.
    pub drift: u64,
    /// What became of reloads.
    pub reloads: Reloads,
}

impl Source<'_> {
    /// `lb status`, of one service if a name is given.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn status(&mut self) -> anyhow::Result<Status> {
        let director = self.director;
        let mut virtual_services = Vec::new();
        for (at, service) in director.virtual_services.iter().enumerate() {
            virtual_services.push(self.service(at, service)?);
        }
        Ok(Status {
            node: director.node.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            dataplane: self.dataplane()?,
            health: HealthSummary { targets: self.health.len() as u64 },
            virtual_services,
            ..Status::default()
        })
    }

    fn dataplane(&mut self) -> anyhow::Result<Dataplane> {
        let warnings = self.warnings.to_vec();
        let Some(engine) = self.engine.as_deref_mut() else {
            return Ok(Dataplane { warnings, ..Dataplane::default() });
        };
        let (_, used) = engine.connections()?;
        Ok(Dataplane {
            mode: engine.mode().name().to_owned(),
            interfaces: self.director.dataplane.iter().flat_map(|d| d.interfaces.clone()).collect(),
            connections: Capacity {
                used,
                capacity: u64::from(engine.dataplane().tables().capacity()),
            },
            warnings,
        })
    }

    fn service(
        &mut self,
        at: usize,
        service: &model::VirtualService,
    ) -> anyhow::Result<VirtualService> {
        let mut real_servers = Vec::new();
        for (place, server) in service.real_servers.iter().enumerate() {
            real_servers.push(self.real_server((at, place), service, server)?);
        }
        let none = ServiceStanding::default();
        let stands = self.standing.services.get(at).unwrap_or(&none);
        let up = stands.has_quorum == Some(true);
        let (live_weight, is_sorry) = (stands.live_weight, stands.is_sorry);
        let sorry = service.sorry_server.map(|sorry| self.sorry_server(service, sorry, is_sorry));
        let traffic = self.service_traffic(service)?;
        Ok(VirtualService {
            name: service.name.clone(),
            listen: service.listen.iter().map(listen).collect(),
            scheduler: service.scheduler.name().to_owned(),
            scheduler_flags: scheduler_flags(service),
            forwarding: forwarding(service.forwarding).to_owned(),
            state: if up { "up" } else { "down" }.to_owned(),
            connections: traffic.connections,
            live_weight,
            quorum: Quorum {
                up: service.quorum.up.into(),
                hysteresis: service.quorum.hysteresis.into(),
            },
            sorry_server: sorry.transpose()?,
            real_servers,
        })
    }

    fn sorry_server(
        &mut self,
        service: &model::VirtualService,
        sorry: model::SorryServer,
        in_use: bool,
    ) -> anyhow::Result<SorryServer> {
        let mut document = SorryServer {
            address: sorry.address.to_string(),
            port: sorry.port,
            in_use,
            ..SorryServer::default()
        };
        let index = self.index_of(service, sorry.address, sorry.port);
        if let (Some(index), Some(engine)) = (index, self.engine.as_deref_mut()) {
            let counts = engine.dataplane().tables().counts(index)?;
            document.active_connections = counts.active;
            document.inactive_connections = counts.inactive;
            document.connections = engine.dataplane().tables().traffic(index)?.connections;
        }
        Ok(document)
    }

    /// All checks of a server, the ones that fail first.
    fn checks(&self, (service, server): (usize, usize)) -> Vec<Check> {
        let now = Instant::now();
        let mut seen: Vec<Observation> =
            self.health.of(service, server).map(|checked| checked.observed.get()).collect();
        seen.sort_by_key(|seen| {
            match (seen.state, seen.last.as_ref().map(|r| r.status.outcome())) {
                (HealthState::Down, Some(Outcome::Failure)) => 0,
                (HealthState::Down, _) => 1,
                (HealthState::Up, Some(Outcome::Failure)) => 2,
                (HealthState::Up, _) => 3,
            }
        });
        seen.into_iter().map(|seen| check(seen, now)).collect()
    }

    pub(super) fn real_server(
        &mut self,
        place: (usize, usize),
        service: &model::VirtualService,
        server: &model::RealServer,
    ) -> anyhow::Result<RealServer> {
        let stands = self.standing.server(place.0, place.1).copied();
        let effective = stands.map(|stands| stands.effective);
        let mut checks = self.checks(place);
        let worst = checks.first().cloned();
        if checks.len() == 1 {
            checks.clear();
        }
        let mut document = RealServer {
            address: server.address.to_string(),
            port: server.port,
            weight: server.weight,
            effective_weight: effective.map_or(0, |effective| effective.weight),
            state: effective.map_or("down", |effective| effective.state.name()).to_owned(),
            slow_start_percent: stands.and_then(|s| s.ramp).map(|part| (part * 100.0) as u8),
            check: worst,
            checks,
            ..RealServer::default()
        };
        let (Some(index), Some(engine)) = (self.index(service, server), self.engine.as_deref_mut())
        else {
            return Ok(document);
        };
        let counts = engine.dataplane().tables().counts(index)?;
        let traffic = engine.dataplane().tables().traffic(index)?;
        document.active_connections = counts.active;
        document.inactive_connections = counts.inactive;
        document.connections = traffic.connections;
        document.packets_in = traffic.packets_in;
        document.bytes_in = traffic.bytes_in;
        document.packets_out = traffic.packets_out;
        document.bytes_out = traffic.bytes_out;
        Ok(document)
    }

    /// `lb stats`.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn stats(&mut self) -> anyhow::Result<Stats> {
        let director = self.director;
        let mut stats = Stats { drift: self.drift, ..Stats::default() };
        let latest = self.engine.as_deref().map(|engine| engine.sampled().latest());
        let latest = latest.unwrap_or_default();
        for service in &director.virtual_services {
            let mut real_servers = Vec::new();
            for server in &service.real_servers {
                let index = self.index(service, server);
                let address = address(server.address);
                let sampled = index.and_then(|index| latest.server(index, &address, server.port));
                real_servers.push(RealServerStats {
                    address: server.address.to_string(),
                    port: server.port,
                    counters: counters(&self.server_traffic(service, server)?),
                    rates: sampled.as_ref().map(rates).unwrap_or_default(),
                });
            }
            let sampled = service.listen.first().and_then(|l| latest.service(&key(l)));
            stats.services.push(ServiceStats {
                name: service.name.clone(),
                counters: counters(&self.service_traffic(service)?),
                rates: sampled.as_ref().map(rates).unwrap_or_default(),
                real_servers,
            });
        }
        if let Some(engine) = self.engine.as_deref_mut() {
            for (counter, value) in engine.counters()? {
                let by_reason = match counter.kind() {
                    CounterKind::Drop | CounterKind::Answered => &mut stats.drops,
                    CounterKind::WithoutEntry => &mut stats.without_entry,
                    CounterKind::Detour | CounterKind::Note => &mut stats.notes,
                };
                by_reason.insert(counter.name().to_owned(), value);
            }
        }
        Ok(stats)
    }

    pub(super) fn index(
        &self,
        service: &model::VirtualService,
        server: &model::RealServer,
    ) -> Option<u32> {
        self.index_of(service, server.address, server.port)
    }

    fn index_of(&self, service: &model::VirtualService, ip: IpAddr, port: u16) -> Option<u32> {
        let key = key(service.listen.first()?);
        self.engine.as_deref()?.server_index(&key, address(ip), port)
    }

    pub(super) fn service_traffic(
        &mut self,
        service: &model::VirtualService,
    ) -> anyhow::Result<Traffic> {
        let key = service.listen.first().map(key);
        let Some(engine) = self.engine.as_deref_mut() else {
            return Ok(Traffic::zeroed());
        };
        match key.and_then(|key| engine.service_id(&key)) {
            Some(id) => engine.service_traffic(id),
            None => Ok(Traffic::zeroed()),
        }
    }

    pub(super) fn server_traffic(
        &mut self,
        service: &model::VirtualService,
        server: &model::RealServer,
    ) -> anyhow::Result<Traffic> {
        match (self.index(service, server), self.engine.as_deref_mut()) {
            (Some(index), Some(engine)) => engine.dataplane().tables().traffic(index),
            _ => Ok(Traffic::zeroed()),
        }
    }
}

/// What rows of the connection table are named with.
#[derive(Clone, Debug, Default)]
pub struct Names {
    /// Service names by id.
    pub services: BTreeMap<u32, String>,
    /// Real servers by index.
    pub real_servers: BTreeMap<u32, Element>,
    /// Timeouts in jiffies.
    pub timeouts: Option<Timeouts>,
}

/// `lb connections`.
pub fn connections(rows: Vec<Row>, total: u64, names: &Names, clock: Clock) -> Connections {
    let now = clock.now();
    let connections = rows.into_iter().map(|row| connection(&row, names, clock, now)).collect();
    Connections { connections, total }
}

fn connection(row: &Row, names: &Names, clock: Clock, now: u64) -> Connection {
    let server = names.real_servers.get(&row.real_server);
    let real = match server {
        Some(server) => end((ip(&server.address), server.port)),
        None => String::new(),
    };
    let mut flags = Vec::new();
    if row.provisional {
        flags.push("provisional".to_owned());
    }
    if server.is_some_and(|server| server.generation != row.generation) {
        flags.push("server-failed".to_owned());
    }
    let timeout = names.timeouts.map_or(0, |t| t.by_state[row.timeout_index & 0xf]);
    let left = timeout.saturating_sub(now.saturating_sub(row.seen));
    Connection {
        service: names.services.get(&row.service).cloned().unwrap_or_default(),
        protocol: if row.protocol == wire::TCP { "tcp" } else { "udp" }.to_owned(),
        client: end(row.client),
        virtual_address: end(row.virtual_end),
        real,
        state: row.state.name().to_owned(),
        flags,
        expires_s: clock.span_of(left).as_secs(),
    }
}

fn end((ip, port): (IpAddr, u16)) -> String {
    SocketAddr::new(ip, port).to_string()
}

/// The last probe of a target, and where its state stands.
fn check(seen: Observation, now: Instant) -> Check {
    let (contrary, threshold) = seen.doubt;
    let toward = match seen.state {
        HealthState::Up => threshold - contrary.min(threshold),
        HealthState::Down => contrary,
    };
    let mut document = Check {
        status: CheckStatus::Initializing.name().to_owned(),
        last_change: seen.last_change.map(unix_seconds),
        count: toward,
        of: threshold,
        probes: seen.probes,
        ..Check::default()
    };
    if let Some(last) = seen.last {
        document.status = last.status.name().to_owned();
        document.code = last.code;
        document.duration_ms = last.duration.as_millis() as u64;
        document.detail = last.detail;
    }
    if let Some(left) = seen.held_until.and_then(|until| until.checked_duration_since(now)) {
        let held =
            format!("held down for {} s more: its state changes too often", left.as_secs() + 1);
        let before = if document.detail.is_empty() { "" } else { "; " };
        document.detail = format!("{}{before}{held}", document.detail);
    }
    document
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn counters(traffic: &Traffic) -> Counters {
    Counters {
        connections: traffic.connections,
        packets_in: traffic.packets_in,
        packets_out: traffic.packets_out,
        bytes_in: traffic.bytes_in,
        bytes_out: traffic.bytes_out,
    }
}

fn rates(sampled: &metrics::history::Rates) -> Rates {
    Rates {
        connections: Some(sampled.connections),
        packets_in: Some(sampled.packets_in),
        packets_out: Some(sampled.packets_out),
        bytes_in: Some(sampled.bytes_in),
        bytes_out: Some(sampled.bytes_out),
    }
}

/// `ip:port/proto`.
pub fn listen(listen: &model::Listen) -> String {
    let protocol = match listen.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    format!("{}/{protocol}", SocketAddr::new(listen.address, listen.port))
}

/// As ipvsadm shows them: `sh-port`, `sh-fallback`.
fn scheduler_flags(service: &model::VirtualService) -> Vec<String> {
    let model::Hash { port, fallback } = service.hash;
    let name = service.scheduler.name();
    let flags = [(port, "port"), (fallback, "fallback")].into_iter();
    let set = flags.filter(|(set, _)| *set && service.scheduler.hashes());
    set.map(|(_, flag)| format!("{name}-{flag}")).collect()
}

fn forwarding(method: ForwardingMethod) -> &'static str {
    match method {
        ForwardingMethod::Dr => "dr",
        ForwardingMethod::Nat => "nat",
        ForwardingMethod::Tunnel => "tunnel",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::health::{ProbeResult, Tally};

    fn observation(state: HealthState, doubt: (u32, u32)) -> Observation {
        let last = ProbeResult {
            status: CheckStatus::L7Status,
            duration: Duration::from_micros(2_700),
            code: Some(503),
            weight: None,
            detail: "unexpected status".into(),
        };
        Observation {
            state,
            last_change: Some(SystemTime::UNIX_EPOCH + Duration::from_millis(1_500)),
            last: Some(last),
            doubt,
            held_until: None,
            is_settled: true,
            probes: 7,
            tally: Tally::default(),
            weight: None,
        }
    }

    #[test]
    fn a_check_shows_the_last_result_and_the_count_as_haproxy_does() {
        let now = Instant::now();
        let shown = check(observation(HealthState::Up, (1, 3)), now);
        let expected = Check {
            status: "L7STS".into(),
            code: Some(503),
            duration_ms: 2,
            detail: "unexpected status".into(),
            last_change: Some(1),
            count: 2,
            of: 3,
            probes: 7,
        };
        assert_eq!(shown, expected);
        let shown = check(observation(HealthState::Down, (1, 2)), now);
        assert_eq!((shown.count, shown.of), (1, 2));
    }

    #[test]
    fn a_held_target_says_for_how_long() {
        let now = Instant::now();
        let mut seen = observation(HealthState::Down, (0, 2));
        seen.held_until = Some(now + Duration::from_millis(41_500));
        let detail = check(seen.clone(), now).detail;
        assert_eq!(
            detail,
            "unexpected status; held down for 42 s more: its state changes too often"
        );
        seen.held_until = Some(now - Duration::from_secs(1));
        assert_eq!(check(seen, now).detail, "unexpected status");
    }
}
