//! The controller's task: one owner of state, one queue, and what follows from each event.
//!
//! It awaits nothing but its queue: reading files and long tables happens on blocking threads,
//! next hops are another task's, and map writes are short. Changes within 10 ms become one plan.
//!
//! Must not know: HTTP, argv, map layouts.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;

use crate::controller::engine::{Engine, HEARTBEAT_MAX};
use crate::controller::event::{Event, Signal};
use crate::controller::report::{self, Names, Source};
use crate::controller::request::{Document, Refusal, RefusalKind, Reply, Request, Verb};
use crate::controller::routes::{Ask, Routes};
use crate::controller::wanted::{self, World};
use crate::controller::{Start, notify};
use crate::dataplane::listing::Reader;
use crate::health::{HealthState, Report, Runner, Target, Wanted as Probed};
use crate::netlink::sysctl::Sysctls;
use crate::netlink::{Address, Netlink};

/// Changes within this time become one plan.
const COALESCE: Duration = Duration::from_millis(10);
/// How long a new real server waits for its next hop before the kernel program is left to ask.
pub(super) const RESOLVE: Duration = Duration::from_secs(1);
/// Time between heartbeats.
const BEAT: Duration = Duration::from_secs(1);

/// The state of the daemon.
pub(super) struct Controller {
    pub(super) start: Start,
    pub(super) engine: Option<Engine>,
    pub(super) runner: Runner<Event>,
    /// Targets that no probe has answered for.
    pub(super) unknown: HashSet<Target>,
    pub(super) last: HashMap<Target, Report>,
    pub(super) routes: Routes,
    pub(super) asks: mpsc::Sender<Ask>,
    /// Destinations that are new, and until when they are waited for.
    pub(super) resolving: HashMap<IpAddr, Instant>,
    pub(super) netlink: Netlink,
    pub(super) sysctls: Sysctls,
    /// Addresses that this daemon put on interfaces.
    pub(super) addresses: BTreeSet<Address>,
    pub(super) events: mpsc::Sender<Event>,
    /// When the next plan is made, if anything changed.
    pub(super) plan_at: Option<Instant>,
    /// Reloads that are answered once the new file serves.
    pub(super) waiting: Vec<(Request, u64)>,
    pub(super) reloading: bool,
    /// Addresses are being changed.
    pub(super) addressing: bool,
    pub(super) stopping: Option<Instant>,
    pub(super) is_ready: bool,
    pub(super) drift: u64,
    pub(super) apply_error: Option<String>,
}

impl Controller {
    /// Runs until it is told to stop.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Event>) -> anyhow::Result<()> {
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let wake = self.wake_at();
            tokio::select! {
                event = queue.recv() => {
                    let Some(event) = event else { break };
                    self.handle(event);
                }
                _ = beat.tick() => self.beat(),
                () = sleep_until(wake), if wake.is_some() => self.wake(),
            }
            if self.is_drained() {
                break;
            }
        }
        self.stop().await
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Probe(report) => self.probed(report),
            Event::Routes(routes) => {
                self.routes = routes;
                if let (Some(plane), Some(engine)) =
                    (&self.start.director.dataplane, &mut self.engine)
                {
                    engine.follow_interfaces(plane, &self.routes.links);
                }
                let hops = &self.routes.hops;
                self.resolving.retain(|ip, _| !hops.contains_key(ip));
                self.change();
            }
            Event::Request(request) => self.answer(request),
            Event::Loaded(result, request) => self.loaded(result, request),
            Event::Addresses(result) => self.addressed(result),
            Event::Signal(Signal::Reload) => self.begin_reload(None),
            Event::Signal(Signal::Stop) => self.begin_stop(),
            Event::Sweep(report) => {
                self.drift = self.drift.max(report.drift);
                if report.drift > 0 {
                    tracing::error!(drift = report.drift, "connection counts have drifted");
                }
                if self.engine.as_mut().is_some_and(|engine| engine.swept(&report)) {
                    self.change();
                }
            }
        }
    }

    fn probed(&mut self, report: Report) {
        let target = (*report.target).clone();
        if self.runner.state(&target).is_none() {
            // It was removed while its report was under way.
            return;
        }
        let first = self.unknown.remove(&target);
        if let Some(event) = report.event {
            tracing::info!(
                target_address = %target.address,
                status = report.result.status.name(),
                detail = report.result.detail,
                "real server is {}", name(report.state)
            );
            tracing::debug!(?event, "health");
        }
        if first || report.event.is_some() {
            self.change();
        }
        self.last.insert(target, report);
    }

    /// Something changed that the maps may have to follow.
    pub(super) fn change(&mut self) {
        self.plan_at.get_or_insert_with(|| Instant::now() + COALESCE);
    }

    fn wake_at(&self) -> Option<Instant> {
        self.plan_at.into_iter().chain(self.resolving.values().copied()).chain(self.stopping).min()
    }

    fn wake(&mut self) {
        let now = Instant::now();
        let before = self.resolving.len();
        self.resolving.retain(|ip, until| {
            if *until <= now {
                tracing::warn!(%ip, "no next hop yet: it is asked from the routing table per packet");
            }
            *until > now
        });
        if self.resolving.len() != before {
            self.change();
        }
        if self.plan_at.is_some_and(|at| at <= now) {
            self.plan_at = None;
            self.plan();
        }
    }

    /// Brings the maps in line, and answers those who waited for it.
    fn plan(&mut self) {
        let result = self.apply();
        match &result {
            Ok(count) => {
                if *count > 0 {
                    tracing::debug!(operations = count, "maps written");
                }
                self.apply_error = None;
            }
            Err(error) => {
                tracing::error!("the maps stay as they were: {error:#}");
                self.apply_error = Some(format!("{error:#}"));
            }
        }
        if !self.resolving.is_empty() || self.addressing {
            return;
        }
        for (request, changes) in std::mem::take(&mut self.waiting) {
            request.answer(match &result {
                Ok(count) => Ok(Document::Reload(super::document::Reload {
                    changes: changes + *count as u64,
                    warnings: self.start.warnings.clone(),
                })),
                Err(error) => Err(Refusal::new(RefusalKind::Failed, format!("{error:#}"))),
            });
        }
        if !self.is_ready {
            self.is_ready = true;
            tracing::info!("ready");
            notify::ready("serving");
        }
    }

    fn apply(&mut self) -> anyhow::Result<usize> {
        let Some(plane) = &self.start.director.dataplane else {
            return Ok(0);
        };
        let Some(mut engine) = self.engine.take() else {
            return Ok(0);
        };
        let clock = engine.dataplane().clock();
        let resolving = self.resolving.keys().copied().collect();
        let jiffies = |span| clock.jiffies_in(span);
        let health = |target: &Target| heard(&self.last, &self.runner, target);
        let world = World {
            health: &health,
            unknown: &self.unknown,
            routes: &self.routes,
            resolving: &resolving,
            jiffies: &jiffies,
            heartbeat_max: HEARTBEAT_MAX,
        };
        let mut wanted = wanted::compile(&self.start.director, plane, &world);
        if self.stopping.is_some() {
            // New connections get the stack's answer at once; open ones may end.
            wanted.services.clear();
        }
        let result = engine.apply(&wanted);
        self.engine = Some(engine);
        result
    }

    fn beat(&mut self) {
        notify::watchdog();
        let Some(engine) = &mut self.engine else {
            return;
        };
        if let Err(error) = engine.dataplane().beat() {
            tracing::error!("no heartbeat: {error:#}");
        }
        while let Some(missed) = engine.dataplane().tables().next_event() {
            let ip = crate::dataplane::listing::ip(&missed.address);
            // A full queue: the next dropped packet asks again.
            let _later = self.asks.try_send(Ask::Missed(ip));
        }
    }

    fn answer(&mut self, request: Request) {
        if self.plan_at.take().is_some() {
            // What is shown is what the maps do.
            self.plan();
        }
        match request.verb.clone() {
            Verb::Status => {
                let reply = self.with_source(|source| source.status().map(Document::Status));
                request.answer(reply);
            }
            Verb::Stats => {
                let reply = self.with_source(|source| source.stats().map(Document::Stats));
                request.answer(reply);
            }
            Verb::Connections { service, limit } => {
                self.connections(request, service.as_deref(), limit);
            }
            Verb::Reload => self.begin_reload(Some(request)),
        }
    }

    fn with_source(
        &mut self,
        document: impl FnOnce(&mut Source<'_>) -> anyhow::Result<Document>,
    ) -> Reply {
        let resolving = self.resolving.keys().copied().collect();
        let health = |target: &Target| heard(&self.last, &self.runner, target);
        let last = |target: &Target| self.last.get(target).cloned();
        let mut warnings = self.start.warnings.clone();
        warnings.extend(self.apply_error.iter().map(|e| format!("the maps are not current: {e}")));
        let mut source = Source {
            director: &self.start.director,
            engine: self.engine.as_mut(),
            world: World {
                health: &health,
                unknown: &self.unknown,
                routes: &self.routes,
                resolving: &resolving,
                jiffies: &|_| 0,
                heartbeat_max: HEARTBEAT_MAX,
            },
            last: &last,
            warnings: &warnings,
            drift: self.drift,
        };
        document(&mut source)
            .map_err(|error| Refusal::new(RefusalKind::Failed, format!("{error:#}")))
    }

    /// The table may be long: it is read on a blocking thread.
    fn connections(&mut self, request: Request, service: Option<&str>, limit: usize) {
        let prepared = self.connection_names().and_then(|names| {
            let wanted = match service {
                None => None,
                Some(name) => Some(self.service_named(name)?),
            };
            Ok((names, wanted))
        });
        let ((names, wanted), Some(engine)) = (match prepared {
            Ok(prepared) => (prepared, self.engine.as_mut()),
            Err(refusal) => return request.answer(Err(refusal)),
        }) else {
            let none = super::document::Connections::default();
            return request.answer(Ok(Document::Connections(none)));
        };
        let clock = engine.dataplane().clock();
        let reader = match Reader::new(engine.dataplane()) {
            Ok(reader) => reader,
            Err(error) => return request.answer(Err(failed(&error))),
        };
        tokio::task::spawn_blocking(move || {
            let rows = reader.read(limit, |id| wanted.is_none_or(|wanted| wanted == id));
            request.answer(match rows {
                Ok((rows, total)) => {
                    Ok(Document::Connections(report::connections(rows, total, &names, clock)))
                }
                Err(error) => Err(failed(&error)),
            });
        });
    }

    fn service_named(&self, name: &str) -> Result<u32, Refusal> {
        let service = self.start.director.virtual_services.iter().find(|s| s.name == name);
        let key = service.and_then(|s| s.listen.first()).map(wanted::key);
        let id = key.and_then(|key| self.engine.as_ref()?.service_id(&key));
        id.ok_or_else(|| {
            Refusal::new(RefusalKind::NotFound, format!("there is no virtual service {name}"))
        })
    }

    fn connection_names(&mut self) -> Result<Names, Refusal> {
        let mut names = Names::default();
        let Some(engine) = &mut self.engine else {
            return Ok(names);
        };
        for service in &self.start.director.virtual_services {
            let key = service.listen.first().map(wanted::key);
            if let Some(id) = key.and_then(|key| engine.service_id(&key)) {
                names.services.insert(id, service.name.clone());
            }
        }
        names.real_servers = engine.real_servers();
        names.timeouts =
            Some(engine.dataplane().tables().timeouts(0).map_err(|error| failed(&error))?);
        Ok(names)
    }

    fn begin_stop(&mut self) {
        if self.stopping.is_some() {
            tracing::info!("stopping at once");
            self.stopping = Some(Instant::now());
            return;
        }
        notify::stopping("draining");
        let patience =
            if self.start.keep_dataplane { Duration::ZERO } else { self.start.drain_timeout };
        tracing::info!(seconds = patience.as_secs(), "stopping: new connections are refused");
        self.stopping = Some(Instant::now() + patience);
        if !self.start.keep_dataplane {
            self.plan_at = None;
            self.plan();
        }
    }

    /// Whether a stop need not wait any longer.
    fn is_drained(&mut self) -> bool {
        let Some(until) = self.stopping else {
            return false;
        };
        let is_open =
            |engine: &mut Engine| engine.connections().is_ok_and(|(active, _)| active > 0);
        Instant::now() >= until || !self.engine.as_mut().is_some_and(is_open)
    }

    async fn stop(mut self) -> anyhow::Result<()> {
        let keep = self.start.keep_dataplane;
        for (request, _) in self.waiting.drain(..) {
            request.answer(Err(Refusal::new(RefusalKind::Busy, "the daemon is stopping")));
        }
        if !keep {
            for address in std::mem::take(&mut self.addresses) {
                if let Err(error) = self.netlink.remove_address(address).await {
                    tracing::warn!(%error, "an address stays behind");
                }
            }
        }
        let (done, stopped) = tokio::sync::oneshot::channel();
        if self.asks.send(Ask::Stop { keep, done }).await.is_ok() {
            let _ended = stopped.await;
        }
        if !keep {
            for error in self.sysctls.restore() {
                tracing::warn!("{error}");
            }
            if let Some(engine) = self.engine.take() {
                engine.remove()?;
            }
        }
        tracing::info!("stopped");
        Ok(())
    }

    /// Probes and next hops of what the configuration in force names.
    pub(super) fn follow_director(&mut self) {
        let mut probed = Vec::new();
        let mut destinations = BTreeSet::new();
        let deadline = Instant::now() + RESOLVE;
        for service in &self.start.director.virtual_services {
            for server in &service.real_servers {
                let is_new = destinations.insert(server.address)
                    && !self.routes.hops.contains_key(&server.address);
                if is_new && self.engine.is_some() {
                    self.resolving.entry(server.address).or_insert(deadline);
                }
                let Some(target) = Target::of(server) else { continue };
                let assume = self.engine.as_ref().and_then(|engine| {
                    let (address, port) = (wanted::address(server.address), server.port);
                    engine.adopted_health(&wanted::key(service.listen.first()?), address, port)
                });
                let known = self.runner.state(&target).is_some();
                if !known && assume.is_none() {
                    self.unknown.insert(target.clone());
                }
                let assume = if self.is_ready { None } else { assume };
                probed.push(Probed { target, assume });
            }
        }
        let targets: HashSet<Target> = probed.iter().map(|p| p.target.clone()).collect();
        self.runner.set_targets(probed);
        self.unknown.retain(|target| targets.contains(target));
        self.last.retain(|target, _| targets.contains(target));
        self.resolving.retain(|ip, _| destinations.contains(ip));
        let asks = self.asks.clone();
        tokio::spawn(async move {
            // A resolver that is gone means that the daemon is stopping.
            let _gone = asks.send(Ask::Destinations(destinations)).await;
        });
        self.change();
    }
}

/// A seed that differs from one start to the next.
pub(super) fn seed() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |age| age.as_nanos() as u64)
}

/// State of a target as far as the controller has heard; a probe may be ahead of its report.
fn heard(
    last: &HashMap<Target, Report>,
    runner: &Runner<Event>,
    target: &Target,
) -> Option<HealthState> {
    last.get(target).map(|report| report.state).or_else(|| runner.state(target))
}

fn name(state: HealthState) -> &'static str {
    match state {
        HealthState::Up => "up",
        HealthState::Down => "down",
    }
}

fn failed(error: &anyhow::Error) -> Refusal {
    Refusal::new(RefusalKind::Failed, format!("{error:#}"))
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at.into()).await;
    }
}
