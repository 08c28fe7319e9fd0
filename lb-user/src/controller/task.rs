//! The controller's task: one owner of state, one queue, and what follows from each event.
//!
//! It awaits nothing but its queue: reading files and long tables happens on blocking threads,
//! next hops are another task's, and map writes are short. Changes within 10 ms become one plan.
//!
//! Must not know: HTTP, argv, map layouts.

use std::collections::{BTreeSet, HashMap};
use std::net::IpAddr;
use std::time::{Duration, Instant, SystemTime};

use lb_common::service::{EVENT_NEIGHBOUR, EVENT_PATH_MTU};
use tokio::sync::mpsc;

use crate::controller::checked::Health;
use crate::controller::chronicle::Chronicle;
use crate::controller::document::Status;
use crate::controller::engine::{Engine, HEARTBEAT_MAX};
use crate::controller::event::{Event, Signal};
use crate::controller::itself::{self, Probes};
use crate::controller::overrides::Overrides;
use crate::controller::report::{self, Names, Source};
use crate::controller::request::{Document, Refusal, RefusalKind, Reply, Request, Verb};
use crate::controller::routes::{Ask, Routes};
use crate::controller::standing::{Lives, Standing};
use crate::controller::steer::Keeping;
use crate::controller::via::Via;
use crate::controller::vrrp::Vrrp;
use crate::controller::wanted::{self, World};
use crate::controller::{Start, systemd};
use crate::dataplane::listing::Reader;
use crate::health::{Change, Runner};
use crate::metrics::{Reloads, Snapshot};
use crate::model::Director;
use crate::netlink::sysctl::Sysctls;
use crate::netlink::{Address, Netlink};
use crate::watchdog::{self, Weight};

/// Changes within this time become one plan.
const COALESCE: Duration = Duration::from_millis(10);
/// How long a new real server waits for its next hop before the kernel program is left to ask.
pub(super) const RESOLVE: Duration = Duration::from_secs(1);
/// Events of the kernel program that are looked at per heartbeat.
const MAX_EVENTS: usize = 1024;
/// Time between heartbeats.
const BEAT: Duration = Duration::from_secs(1);
/// A turn of the loop takes milliseconds; a plan for many services a good part of a second.
const STUCK: Duration = Duration::from_secs(5);

/// The state of the daemon.
pub(super) struct Controller {
    pub(super) start: Start,
    pub(super) engine: Option<Engine>,
    pub(super) runner: Runner<Event>,
    pub(super) health: Health,
    /// What is remembered of services.
    pub(super) lives: Lives,
    /// Where they stand, as of the last plan.
    pub(super) standing: Standing,
    pub(super) routes: Routes,
    pub(super) via: Via,
    /// Nothing is planned before links and next hops were heard of once.
    pub(super) has_routes: bool,
    /// What the resolver was told to find.
    pub(super) destinations: Option<BTreeSet<IpAddr>>,
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
    /// When a share changes by itself, because a server comes back slowly.
    pub(super) step_at: Option<Instant>,
    /// Reloads that are answered once the new file serves.
    pub(super) waiting: Vec<Request>,
    pub(super) reloading: bool,
    /// Addresses are being changed.
    pub(super) addressing: bool,
    /// They are to be changed once more.
    pub(super) address_again: bool,
    pub(super) stopping: Option<Instant>,
    pub(super) is_ready: bool,
    /// The maps hold what the configuration asks for.
    pub(super) is_planned: bool,
    pub(super) vrrp: Vrrp,
    pub(super) chronicle: Chronicle,
    pub(super) drift: u64,
    pub(super) reloads: Reloads,
    pub(super) apply_error: Option<String>,
    /// The configuration as the file has it, without what was changed at run time.
    pub(super) file: Director,
    /// What was changed at run time.
    pub(super) overrides: Overrides,
    pub(super) keeping: Keeping,
    /// What was in force before a change whose plan is not written yet.
    pub(super) previous: Option<InForce>,
    /// A reload was asked for while another was under way.
    pub(super) reload_again: bool,
    pub(super) probes: Probes,
    /// Why the daemon ends by itself.
    pub(super) fatal: Option<anyhow::Error>,
}

/// What can be gone back to.
#[derive(Debug)]
pub(super) struct InForce {
    /// The configuration in force.
    pub(super) director: Director,
    /// As the file had it.
    pub(super) file: Director,
    /// What was changed at run time.
    pub(super) overrides: Overrides,
    /// What deserved attention in it.
    pub(super) warnings: Vec<String>,
    /// It was replaced by a reload.
    pub(super) is_reload: bool,
}

impl Controller {
    /// Runs until it is told to stop.
    pub(super) async fn run(mut self, mut queue: mpsc::Receiver<Event>) -> anyhow::Result<()> {
        let pulse = watchdog::part("controller", STUCK, Weight::Vital);
        let mut beat = tokio::time::interval(BEAT);
        beat.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            pulse.begin();
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
        drop(pulse);
        self.stop(queue).await
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Health(change) => self.health_changed(&change),
            Event::Routes(routes) => self.routed(routes),
            Event::Request(request) => self.answer(request),
            Event::Loaded(result, request) => self.loaded(result, request),
            Event::Addresses(result) => self.addressed(result),
            Event::Speaker(event) => self.speaker(event),
            Event::Script(changed) => self.script_changed(&changed),
            Event::Filters(found) => self.vrrp.filters.found(found),
            Event::Signal(Signal::Reload) => self.begin_reload(None),
            Event::Signal(Signal::ReopenLogs) => self.reopen_logs(None),
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

    fn health_changed(&mut self, change: &Change) {
        if self.health.hear(&change.target) {
            self.change();
        }
    }

    /// Links or next hops changed.
    fn routed(&mut self, routes: Routes) {
        let links_changed = self.has_routes && self.routes.links != routes.links;
        self.routes = routes;
        self.has_routes = true;
        let hops = &self.routes.hops;
        self.resolving.retain(|ip, _| !hops.contains_key(ip));
        self.follow_ways();
        if let (Some(plane), Some(engine)) =
            (self.start.director.dataplane.clone(), &mut self.engine)
            && self.stopping.is_none()
        {
            engine.follow_interfaces(&plane, &self.routes.links);
            if links_changed {
                // The kernel forgets addresses and settings of a link that goes.
                self.prepare_interfaces(&plane);
                self.begin_addresses(&plane);
            }
        }
        self.change();
    }

    /// Something changed that the maps may have to follow.
    pub(super) fn change(&mut self) {
        self.plan_at.get_or_insert_with(|| Instant::now() + COALESCE);
    }

    fn wake_at(&self) -> Option<Instant> {
        let step = self.step_at;
        let deadlines = self.plan_at.into_iter().chain(self.stopping).chain(step);
        deadlines.chain(self.resolving.values().copied()).min()
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
        if self.step_at.take_if(|at| *at <= now).is_some() {
            self.change();
        }
        if self.plan_at.is_some_and(|at| at <= now) {
            self.plan_at = None;
            if self.has_routes {
                self.plan();
            }
        }
    }

    /// Brings the maps in line, and answers those who waited for it.
    pub(super) fn plan(&mut self) {
        // A configuration that is refused has changed nothing that somebody is to be told of.
        let lives = self.previous.as_ref().map(|_| self.lives.clone());
        let transitions = self.judge();
        let result = self.apply();
        if let (Err(_), Some(lives)) = (&result, lives) {
            self.lives = lives;
        } else {
            self.tell(transitions);
        }
        match &result {
            Ok(count) => {
                if *count > 0 {
                    tracing::debug!(operations = count, "maps written");
                }
                self.apply_error = None;
                if self.previous.take().is_some_and(|previous| previous.is_reload) {
                    self.reload_ended(None);
                }
                self.follow_destinations();
            }
            Err(error) => self.plan_failed(error),
        }
        self.is_planned |= result.is_ok();
        self.track();
        if !self.resolving.is_empty() || self.addressing || !self.vrrp.is_settled() {
            return;
        }
        for request in std::mem::take(&mut self.waiting) {
            request.answer(match &result {
                Ok(count) => Ok(Document::Reload(super::document::Reload {
                    changes: *count as u64,
                    warnings: self.start.warnings.clone(),
                })),
                Err(error) => Err(Refusal::new(RefusalKind::Failed, format!("{error:#}"))),
            });
        }
        if !self.is_ready && result.is_ok() {
            self.is_ready = true;
            tracing::info!("ready");
            systemd::ready("serving");
            if std::mem::take(&mut self.reload_again) {
                self.begin_reload(None);
            }
        }
    }

    /// A plan was refused or not written: the configuration before it stays in force.
    fn plan_failed(&mut self, error: &anyhow::Error) {
        tracing::error!("the maps stay as they were: {error:#}");
        self.apply_error = Some(format!("{error:#}"));
        if !self.is_ready {
            self.fatal = Some(anyhow::anyhow!("{error:#}"));
        } else if let Some(previous) = self.previous.take() {
            self.go_back(previous, error);
        }
    }

    fn apply(&mut self) -> anyhow::Result<usize> {
        let Some(plane) = &self.start.director.dataplane else {
            return Ok(0);
        };
        let (leaving, virtual_macs) = (self.leaving(), self.virtual_macs());
        let Some(mut engine) = self.engine.take() else {
            return Ok(0);
        };
        let clock = engine.dataplane().clock();
        let resolving = self.resolving.keys().copied().collect();
        let jiffies = |span| clock.jiffies_in(span);
        let world = World {
            standing: &self.standing,
            leaving: &leaving,
            routes: &self.routes,
            resolving: &resolving,
            jiffies: &jiffies,
            heartbeat_max: HEARTBEAT_MAX,
        };
        let mut wanted = wanted::compile(&self.start.director, plane, &world);
        wanted.virtual_macs = virtual_macs.unwrap_or_else(|| engine.virtual_macs());
        if self.stopping.is_some() {
            // New connections get the stack's answer at once; open ones may end.
            wanted.services.clear();
        }
        let result = engine.apply(&wanted);
        self.engine = Some(engine);
        result
    }

    fn beat(&mut self) {
        self.beat_dataplane();
        self.look_after_probes();
        self.look_for_deafness();
        self.track();
    }

    fn beat_dataplane(&mut self) {
        let Some(engine) = &mut self.engine else {
            return;
        };
        let beaten = engine.dataplane().beat();
        self.vrrp.has_beaten = beaten.is_ok();
        if let Err(error) = beaten {
            tracing::error!("no heartbeat: {error:#}");
        }
        if let Err(error) = engine.end_bans() {
            tracing::error!("bans that are over stay in the list: {error:#}");
        }
        for _ in 0..MAX_EVENTS {
            let Some(event) = engine.dataplane().tables().next_event() else { break };
            let Some(ask) = ask_of(&event) else { continue };
            // A full queue: the next dropped packet asks again.
            let _later = self.asks.try_send(ask);
        }
    }

    fn answer(&mut self, request: Request) {
        if self.has_routes && self.plan_at.take().is_some() {
            // What is shown is what the maps do.
            self.plan();
        }
        match request.verb.clone() {
            Verb::Status => {
                let vrrp = self.vrrp_instances();
                let config_path = self.start.config_path.display().to_string();
                let reply = self.with_source(|source| {
                    source
                        .status()
                        .map(|status| Document::Status(Status { vrrp, config_path, ..status }))
                });
                request.answer(reply);
            }
            Verb::Stats => {
                let reply = self.with_source(|source| source.stats().map(Document::Stats));
                request.answer(reply);
            }
            Verb::History => self.history(request),
            Verb::Metrics => {
                let measured = Snapshot {
                    vrrp: self.measured_vrrp(),
                    notifications: self.notified(),
                    log: self.measured_log(),
                    parts: itself::parts(),
                    process: itself::process(),
                    ..Snapshot::default()
                };
                let document =
                    |snapshot: Snapshot| Document::Metrics(Box::new(snapshot.with(measured)));
                let reply = self.with_source(|source| source.snapshot().map(document));
                request.answer(reply);
            }
            Verb::Connections { service, limit } => {
                self.connections(request, service.as_deref(), limit);
            }
            Verb::Reload => self.begin_reload(Some(request)),
            Verb::ReopenLogs => self.reopen_logs(Some(request)),
            Verb::Bans => self.bans(request),
            Verb::Ban { prefix, span } => {
                let reply = self.ban(prefix, span);
                request.answer(reply);
            }
            Verb::Vrrp => {
                let reply = self.vrrp_document();
                request.answer(reply);
            }
            Verb::Resign { name } => self.resign(request, &name),
            Verb::Steer(steer) => self.steer(request, &steer),
            Verb::Events => {
                let events = self.chronicle.document();
                request.answer(Ok(Document::Events(events)));
            }
            Verb::Explain(asked) => self.explain(request, asked),
            Verb::Unban { prefix } => {
                let reply = self.unban(prefix);
                request.answer(reply);
            }
        }
    }

    pub(super) fn with_source(
        &mut self,
        document: impl FnOnce(&mut Source<'_>) -> anyhow::Result<Document>,
    ) -> Reply {
        let mut warnings = self.start.warnings.clone();
        warnings.extend(self.apply_error.iter().map(|e| format!("the maps are not current: {e}")));
        warnings.extend(self.own_warnings());
        let mut source = Source {
            director: &self.start.director,
            engine: self.engine.as_mut(),
            standing: &self.standing,
            health: &self.health,
            warnings: &warnings,
            drift: self.drift,
            reloads: self.reloads,
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
        let reader = Reader::new(engine.dataplane(), names.real_servers.iter());
        tokio::task::spawn_blocking(move || {
            let (rows, total) = reader.read(limit, |id| wanted.is_none_or(|wanted| wanted == id));
            let document = report::connections(rows, total, &names, clock);
            request.answer(Ok(Document::Connections(document)));
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
        systemd::stopping("draining");
        self.vrrp.begin_stop();
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
        if self.fatal.is_some() {
            return true;
        }
        let Some(until) = self.stopping else {
            return false;
        };
        let is_open =
            |engine: &mut Engine| engine.connections().is_ok_and(|(active, _)| active > 0);
        Instant::now() >= until || !self.engine.as_mut().is_some_and(is_open)
    }

    async fn stop(mut self, mut queue: mpsc::Receiver<Event>) -> anyhow::Result<()> {
        let keep = self.start.keep_dataplane;
        self.vrrp.stop().await;
        while let Ok(event) = queue.try_recv() {
            // What the speaker said at its end is to be told.
            if let Event::Speaker(event) = event {
                self.speaker(event);
            }
        }
        while self.addressing {
            // What is being added now is to be removed as well.
            match tokio::time::timeout(RESOLVE, queue.recv()).await {
                Ok(Some(Event::Addresses(result))) => self.addressed(result),
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => break,
            }
        }
        for request in self.waiting.drain(..) {
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
        self.vrrp.say_goodbye().await;
        tracing::info!("stopped");
        self.fatal.map_or(Ok(()), Err)
    }
}

/// A seed that differs from one start to the next.
pub(super) fn seed() -> u64 {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |age| age.as_nanos() as u64)
}

/// What an event of the kernel program asks of the resolver.
fn ask_of(event: &lb_common::service::Event) -> Option<Ask> {
    let ip = crate::dataplane::listing::ip;
    match event.kind {
        EVENT_NEIGHBOUR => Some(Ask::Missed(ip(&event.address))),
        EVENT_PATH_MTU => Some(Ask::PathMtu {
            destination: ip(&event.address),
            source: ip(&event.source),
            mtu: event.value,
        }),
        _ => None,
    }
}

pub(super) fn failed(error: &anyhow::Error) -> Refusal {
    Refusal::new(RefusalKind::Failed, format!("{error:#}"))
}

async fn sleep_until(at: Option<Instant>) {
    if let Some(at) = at {
        tokio::time::sleep_until(at.into()).await;
    }
}
