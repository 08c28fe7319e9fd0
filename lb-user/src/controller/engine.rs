//! The data plane as the controller drives it: what is installed, what is to be, and the sweep.
//!
//! Must not know: YAML, health checks, HTTP.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use lb_common::pod::Address;
use lb_common::service::{RS_EXPIRED, ServiceKey, Traffic};
use lb_common::verdict::Counter;
use tokio::sync::mpsc;

use crate::controller::event::Event;
use crate::controller::history::{Found, Sampling};
use crate::dataplane::bpf::{Attached, Dataplane, Entry, Mode, Options, Sandbox, add};
use crate::dataplane::detour::{Running, Worker};
use crate::dataplane::sweep::{Report, Sweeper};
use crate::health::HealthState;
use crate::model::{self, Prefix};
use crate::netlink::LinkTable;
use crate::plan::{Changes, Installed, Limits, MapOp, Planner, VirtualMac, Wanted, listen_name};
use crate::watchdog::{self, Weight};

/// Tells what a plan did.
fn log(changes: &Changes) {
    for key in &changes.services_added {
        tracing::info!(service = listen_name(key), "virtual service added");
    }
    for key in &changes.services_removed {
        tracing::info!(service = listen_name(key), "virtual service removed");
    }
    for (_, server) in &changes.servers_added {
        tracing::info!(?server, "real server added");
    }
    for (_, server) in &changes.servers_left {
        tracing::info!(?server, "real server left; its connections may end");
    }
    for (_, server) in &changes.servers_retired {
        tracing::debug!(?server, "real server is gone");
    }
    if changes.prefixes_added + changes.prefixes_removed > 0 {
        let (added, removed) = (changes.prefixes_added, changes.prefixes_removed);
        tracing::info!(added, removed, "access lists changed");
    }
}

/// Time between the starts of two sweeps, at the least.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);
/// A slice of the table takes milliseconds, and its pause nine times as long.
const SWEEP_STUCK: Duration = Duration::from_secs(30);
/// A sweep takes at most this part of one CPU's time.
const SWEEP_SHARE: u32 = 10;
/// Age of the heartbeat above which the kernel program asks the routing table itself.
pub const HEARTBEAT_MAX: Duration = Duration::from_secs(4);

/// The open data plane and what is installed in it.
pub struct Engine {
    dataplane: Dataplane,
    planner: Planner,
    /// Real servers that left the file, and since when the maps say so.
    leaving: BTreeMap<u32, Instant>,
    idle: BTreeSet<u32>,
    /// Dropped to end the sweep's thread.
    sweeping: Option<std_mpsc::Sender<()>>,
    /// The thread for held frames.
    detouring: Option<Running>,
    /// The thread that samples the counters.
    sampling: Option<Sampling>,
    explainer: Explainer,
}

/// The sandbox for `lb explain`, loaded when it is first used; for threads that may block.
#[derive(Clone)]
pub struct Explainer {
    directory: PathBuf,
    sandbox: Arc<Mutex<Option<Sandbox>>>,
}

impl Explainer {
    fn new(directory: &Path) -> Self {
        Self { directory: directory.to_path_buf(), sandbox: Arc::default() }
    }

    /// Asks the sandbox; loading it takes a second or so.
    ///
    /// # Errors
    /// When it cannot be loaded, or `ask` fails.
    pub fn ask<T>(&self, ask: impl FnOnce(&mut Sandbox) -> anyhow::Result<T>) -> anyhow::Result<T> {
        // Whoever panicked left at worst a copy, which the next run is not misled by: made anew.
        let mut held = self.sandbox.lock().unwrap_or_else(|poisoned| {
            let mut held = poisoned.into_inner();
            *held = None;
            held
        });
        if held.is_none() {
            *held = Some(Sandbox::open(&self.directory).context("load the sandbox")?);
        }
        let result = ask(held.as_mut().context("the sandbox was loaded")?);
        if result.is_err() {
            // What it holds is not known for certain.
            *held = None;
        }
        result
    }
}

impl Engine {
    /// Opens the data plane, with what an earlier daemon left in its maps.
    ///
    /// # Errors
    /// As `Dataplane::open`.
    pub fn open(plane: &model::Dataplane) -> anyhow::Result<Self> {
        let options = Options { pin_path: plane.pin_path.clone(), connections: plane.connections };
        let mut dataplane = Dataplane::open(&options)?;
        let (installed, repairs) = Installed::adopt(dataplane.tables().contents()?);
        for repair in repairs {
            tracing::warn!("maps of an earlier run: {repair}");
        }
        let explainer = Explainer::new(dataplane.directory());
        Ok(Self {
            dataplane,
            explainer,
            planner: Planner::new(installed, Limits::default()),
            leaving: BTreeMap::new(),
            idle: BTreeSet::new(),
            sweeping: None,
            detouring: None,
            sampling: None,
        })
    }

    /// The data plane.
    pub fn dataplane(&mut self) -> &mut Dataplane {
        &mut self.dataplane
    }

    /// Makes the maps what is wanted; gives the number of operations.
    ///
    /// # Errors
    /// When the plan does not fit the maps (nothing was changed), or a write failed (what was
    /// written is read back, so that the next plan mends the rest).
    pub fn apply(&mut self, wanted: &Wanted) -> anyhow::Result<usize> {
        let plan = self.planner.plan(wanted, &self.idle)?;
        for (written, op) in plan.ops.iter().enumerate() {
            if let Err(error) = self.dataplane.tables().apply(op) {
                self.planner.commit_part(&plan, written);
                return Err(error.context(format!("write the maps: {op:?}")));
            }
        }
        log(&plan.changes);
        let count = plan.ops.len();
        self.planner.commit(plan);
        self.set_entry()?;
        self.idle.clear();
        let now = Instant::now();
        self.leaving = self
            .planner
            .leaving()
            .iter()
            .map(|&index| (index, self.leaving.get(&index).copied().unwrap_or(now)))
            .collect();
        Ok(count)
    }

    /// Bans a prefix until a time in jiffies; 0 is until it is lifted.
    ///
    /// # Errors
    /// When the list is full, or the kernel refuses.
    pub fn ban(&mut self, prefix: Prefix, until: u64) -> anyhow::Result<()> {
        let op = self.planner.ban(prefix, until)?;
        self.carry_out(&op)?;
        self.set_entry()
    }

    /// Lifts a ban; false when there is none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn unban(&mut self, prefix: Prefix) -> anyhow::Result<bool> {
        let Some(op) = self.planner.unban(prefix) else {
            return Ok(false);
        };
        self.carry_out(&op)?;
        self.set_entry()?;
        Ok(true)
    }

    /// Removes bans that are over. The kernel program honours their end without this.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn end_bans(&mut self) -> anyhow::Result<()> {
        for op in self.planner.expired_bans(self.dataplane.clock().now()) {
            self.carry_out(&op)?;
        }
        self.set_entry()
    }

    fn carry_out(&mut self, op: &MapOp) -> anyhow::Result<()> {
        let written = self.dataplane.tables().apply(op);
        written.with_context(|| format!("write the maps: {op:?}"))?;
        self.planner.carried(op);
        Ok(())
    }

    /// Lets frames enter by the guard while an access list has an entry, and else by the first
    /// stage itself.
    fn set_entry(&mut self) -> anyhow::Result<()> {
        let entry = Entry::for_lists(self.planner.installed().has_lists());
        self.dataplane.enter_by(entry)
    }

    /// The sandbox.
    pub fn explainer(&self) -> Explainer {
        self.explainer.clone()
    }

    /// What the maps hold.
    pub fn installed(&self) -> &Installed {
        self.planner.installed()
    }

    /// Real servers that left the file and still have connections.
    pub fn leaving(&self) -> impl Iterator<Item = (u32, &lb_common::service::RealServer)> {
        let servers = &self.planner.installed().real_servers;
        self.leaving.keys().filter_map(|index| Some((*index, servers.get(index)?)))
    }

    /// Takes note of a sweep: a leaving server that no entry names any more may be retired. True
    /// when there is such a one.
    pub fn swept(&mut self, report: &Report) -> bool {
        let Some(started) = report.started else {
            return false;
        };
        for (&index, &since) in &self.leaving {
            let counts = self.dataplane.tables().counts(index);
            let none = counts.is_ok_and(|c| c.active == 0 && c.inactive == 0);
            if since < started && none && !report.seen.contains(&index) {
                self.idle.insert(index);
            }
        }
        !self.idle.is_empty()
    }

    /// Id of the installed service that listens on a key.
    pub fn service_id(&self, key: &ServiceKey) -> Option<u32> {
        self.planner.installed().services.get(key).map(|entry| entry.id)
    }

    /// Index of a real server of the service that listens on a key.
    pub fn server_index(&self, key: &ServiceKey, address: Address, port: u16) -> Option<u32> {
        self.planner.index_of(key, &address, port)
    }

    /// What the maps of an earlier daemon say of a real server's health: up when it got new
    /// connections, down when its connections were expired.
    pub fn adopted_health(
        &self,
        key: &ServiceKey,
        address: Address,
        port: u16,
    ) -> Option<HealthState> {
        let installed = self.planner.installed();
        let index = self.server_index(key, address, port)?;
        let server = installed.real_servers.get(&index)?;
        if server.flags & RS_EXPIRED != 0 {
            return Some(HealthState::Down);
        }
        let table = installed.table(installed.services.get(key)?.slots)?;
        table.slots.contains(&index).then_some(HealthState::Up)
    }

    /// Traffic of a service over all its real servers, those that are gone included.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn service_traffic(&mut self, service: u32) -> anyhow::Result<Traffic> {
        let mut sum = self.dataplane.tables().retired(service)?;
        let of_service: Vec<u32> = self
            .planner
            .installed()
            .real_servers
            .iter()
            .filter(|(_, server)| server.service == service)
            .map(|(index, _)| *index)
            .collect();
        for index in of_service {
            sum = add(&sum, &self.dataplane.tables().traffic(index)?);
        }
        Ok(sum)
    }

    /// Virtual MAC addresses that are served by now.
    pub fn virtual_macs(&self) -> BTreeSet<VirtualMac> {
        self.planner.installed().virtual_macs.clone()
    }

    /// Connections in the tables: active, and all.
    ///
    /// # Errors
    /// When a map cannot be read.
    pub fn connections(&mut self) -> anyhow::Result<(u64, u64)> {
        let indices: Vec<u32> = self.planner.installed().real_servers.keys().copied().collect();
        let mut sums = (0u64, 0u64);
        for index in indices {
            let counts = self.dataplane.tables().counts(index)?;
            sums.0 = sums.0.wrapping_add(counts.active);
            sums.1 = sums.1.wrapping_add(counts.active).wrapping_add(counts.inactive);
        }
        Ok(sums)
    }

    /// Every real server that is installed, leaving ones included.
    pub fn real_servers(&self) -> BTreeMap<u32, lb_common::service::RealServer> {
        self.planner.installed().real_servers.clone()
    }

    /// Attaches to exactly these interfaces.
    ///
    /// # Errors
    /// In words for the operator; what was attached before stays attached.
    pub fn attach(&mut self, plane: &model::Dataplane) -> anyhow::Result<()> {
        let before: BTreeSet<String> =
            self.dataplane.links().iter().map(|link| link.interface.clone()).collect();
        for interface in &plane.interfaces {
            match self.dataplane.attach(interface, plane.mode) {
                Ok(mode) if !before.contains(interface) => {
                    tracing::info!(interface, mode = mode.name(), "XDP is attached");
                }
                Ok(_) => {}
                Err(error) => {
                    for added in plane.interfaces.iter().filter(|name| !before.contains(*name)) {
                        self.dataplane.detach(added)?;
                    }
                    return Err(error);
                }
            }
        }
        let foreign: Vec<String> = self
            .dataplane
            .links()
            .iter()
            .map(|link| link.interface.clone())
            .filter(|name| !plane.interfaces.contains(name))
            .collect();
        for interface in foreign {
            self.dataplane.detach(&interface)?;
            tracing::info!(interface, "XDP is detached");
        }
        Ok(())
    }

    /// Attaches again to interfaces that were made anew since, or that could not be attached to.
    pub fn follow_interfaces(&mut self, plane: &model::Dataplane, links: &LinkTable) {
        for interface in &plane.interfaces {
            let Some(index) = links.by_name(interface).map(|link| link.index) else {
                continue;
            };
            let is_current = |l: &Attached| l.interface == *interface && l.ifindex == index;
            if self.dataplane.links().iter().any(is_current) {
                continue;
            }
            match self.dataplane.attach(interface, plane.mode) {
                Ok(mode) => {
                    tracing::warn!(
                        interface,
                        mode = mode.name(),
                        "made anew: XDP is attached again"
                    );
                }
                Err(error) => tracing::error!("{error:#}"),
            }
        }
    }

    /// The slowest mode of any interface.
    pub fn mode(&self) -> Mode {
        let generic = self.dataplane.links().iter().any(|link| link.mode == Mode::Generic);
        if generic { Mode::Generic } else { Mode::Native }
    }

    /// Starts the sweep in a thread of its own.
    ///
    /// # Errors
    /// When maps cannot be opened or no thread can be made.
    pub fn start_sweep(&mut self, events: mpsc::Sender<Event>) -> anyhow::Result<()> {
        let mut sweeper = Sweeper::new(&mut self.dataplane)?;
        let (sender, stop) = std_mpsc::channel();
        let pulse = watchdog::part("sweep", SWEEP_STUCK, Weight::Useful);
        let sweep = move || {
            let is_stopped = |wait: Duration| {
                stop.recv_timeout(wait) != Err(std_mpsc::RecvTimeoutError::Timeout)
            };
            loop {
                // Each slice of the table is something new.
                pulse.begin();
                let pause = |took: Duration| {
                    std::thread::sleep(took * (SWEEP_SHARE - 1));
                    pulse.begin();
                };
                let wait = match sweeper.pass(pause) {
                    Ok(report) => {
                        let cpu = report.cpu;
                        if events.blocking_send(Event::Sweep(report)).is_err() {
                            return;
                        }
                        SWEEP_INTERVAL.max(cpu * SWEEP_SHARE)
                    }
                    Err(error) => {
                        tracing::error!("the sweep failed, expired connections stay: {error:#}");
                        SWEEP_INTERVAL * 10
                    }
                };
                pulse.rest();
                if is_stopped(wait) {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("sweep".to_owned())
            .spawn(sweep)
            .context("start the sweep's thread")?;
        self.sweeping = Some(sender);
        Ok(())
    }

    /// Starts the thread that holds frames and runs them again.
    ///
    /// # Errors
    /// When maps cannot be opened, no thread can be made, or packet sockets are not allowed.
    pub fn start_detours(&mut self) -> anyhow::Result<()> {
        self.detouring = Some(Worker::new(&self.dataplane)?.start()?);
        Ok(())
    }

    /// Starts the thread that samples the counters.
    ///
    /// # Errors
    /// When maps cannot be opened or no thread can be made.
    pub fn start_sampling(&mut self) -> anyhow::Result<()> {
        self.sampling = Some(Sampling::start(self.dataplane.directory())?);
        Ok(())
    }

    /// What was found by sampling the counters; nothing before it began.
    pub fn sampled(&self) -> Found {
        self.sampling.as_ref().map(Sampling::found).unwrap_or_default()
    }

    /// Every counter: what the programs counted, and what user space did with held frames.
    ///
    /// # Errors
    /// When the map cannot be read.
    pub fn counters(&mut self) -> anyhow::Result<Vec<(Counter, u64)>> {
        let mut counters = self.dataplane.tables().counters()?;
        if let Some(detours) = &self.detouring {
            for (counter, value) in &mut counters {
                *value += detours.counts.get(*counter);
            }
        }
        Ok(counters)
    }

    /// Ends forwarding and removes every pin.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn remove(mut self) -> anyhow::Result<()> {
        self.sweeping = None;
        self.detouring = None;
        self.sampling = None;
        // A sandbox that is being loaded now must not pin maps again that are removed.
        let _nobody_loads = self.explainer.sandbox.lock().unwrap_or_else(PoisonError::into_inner);
        self.dataplane.remove()
    }
}
