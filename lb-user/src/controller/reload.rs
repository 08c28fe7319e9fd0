//! Start and reload: from a configuration to what runs.
//!
//! A reload is a difference: what the new file does not change is not touched. What a running
//! daemon cannot change is refused before anything is.
//!
//! Must not know: how a file is parsed, map operations.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::mpsc;

use crate::config;
use crate::controller::checked::Health;
use crate::controller::chronicle::{Chronicle, EventKind};
use crate::controller::engine::Engine;
use crate::controller::event::{AddressResult, Event, LoadResult};
use crate::controller::itself::Probes;
use crate::controller::overrides::Overrides;
use crate::controller::request::{Refusal, RefusalKind, Request};
use crate::controller::routes::{self, Routes};
use crate::controller::standing::{Lives, Standing};
use crate::controller::steer::Keeping;
use crate::controller::task::{Controller, InForce, seed};
use crate::controller::via::Via;
use crate::controller::vrrp::Vrrp;
use crate::controller::{Start, logs, systemd};
use crate::health::Runner;
use crate::metrics::Reloads;
use crate::model::{Dataplane, Director};
use crate::netlink::sysctl::Sysctls;
use crate::netlink::{Address, LinkTable, Netlink, Ownership, events};

impl Controller {
    /// Brings up what the configuration asks for; on failure, takes down what it brought up.
    pub(super) async fn begin(
        mut start: Start,
        events: mpsc::Sender<Event>,
    ) -> anyhow::Result<Self> {
        let kept = std::mem::take(&mut start.kept);
        let overrides = Overrides { kept, ..Overrides::default() };
        let (director, ignored) = overrides.apply(&start.director);
        let file = std::mem::replace(&mut start.director, director);
        start.warnings.extend(ignored.iter().map(ToString::to_string));
        let netlink = Netlink::open()?;
        let links = netlink.links().await?;
        let mut engine = match &start.director.dataplane {
            Some(plane) => Some(Engine::open(plane)?),
            None => None,
        };
        let adopted = engine.as_mut().is_some_and(|engine| engine.dataplane().is_adopted());
        let asks = routes::spawn(netlink.clone(), events.clone());
        events::spawn(asks.clone())?;
        let vrrp = Vrrp::new(&start.director, events.clone());
        let mut controller = Self {
            start,
            engine,
            runner: Runner::new(events.clone(), seed()),
            health: Health::default(),
            lives: Lives::default(),
            standing: Standing::default(),
            routes: Routes::default(),
            via: Via::default(),
            has_routes: false,
            destinations: None,
            asks,
            resolving: HashMap::new(),
            netlink,
            sysctls: Sysctls::new(),
            addresses: BTreeSet::new(),
            events: events.clone(),
            plan_at: None,
            step_at: None,
            waiting: Vec::new(),
            addressing: false,
            address_again: false,
            reloading: false,
            stopping: None,
            is_ready: false,
            is_planned: false,
            vrrp,
            chronicle: Chronicle::default(),
            drift: 0,
            reloads: Reloads::default(),
            apply_error: None,
            file,
            overrides,
            keeping: Keeping::default(),
            previous: None,
            reload_again: false,
            probes: Probes::new(),
            fatal: None,
        };
        if let Err(error) = controller.bring_up(&links, adopted).await {
            if !adopted {
                controller.take_down().await;
            }
            return Err(error);
        }
        controller.follow_director();
        Ok(controller)
    }

    async fn bring_up(&mut self, links: &LinkTable, adopted: bool) -> anyhow::Result<()> {
        let Some(plane) = self.start.director.dataplane.clone() else {
            return Ok(());
        };
        if adopted {
            tracing::info!("the maps of an earlier run are taken over");
        }
        let events = self.events.clone();
        let engine = self.engine.as_mut().context("a data plane was opened")?;
        engine.dataplane().beat()?;
        engine.attach(&plane)?;
        engine.start_sweep(events)?;
        engine.start_detours()?;
        engine.start_sampling()?;
        if engine.mode() == crate::dataplane::bpf::Mode::Generic {
            self.start.warnings.push("XDP runs in generic mode, which is slower".to_owned());
        }
        let capacity = engine.dataplane().tables().capacity();
        if capacity != plane.connections {
            self.start.warnings.push(format!(
                "dataplane.connections: the maps of an earlier run hold {capacity} connections; \
                 {} need a stop without --keep-dataplane and a start",
                plane.connections
            ));
        }
        self.prepare_interfaces(&plane);
        let owned = self.netlink.owned_addresses().await?.into_iter().collect();
        let (owned, result) = set_addresses(&self.netlink, &plane, links, owned).await;
        self.addresses = owned;
        result?;
        tracing::info!(
            "packets that this host itself sends to a virtual address are not forwarded: \
             XDP sees only what comes in"
        );
        Ok(())
    }

    async fn take_down(mut self) {
        for address in std::mem::take(&mut self.addresses) {
            if let Err(error) = self.netlink.remove_address(address).await {
                tracing::warn!(%error, "an address stays behind");
            }
        }
        self.sysctls.restore();
        if let Some(Err(error)) = self.engine.take().map(Engine::remove) {
            tracing::warn!("pins stay behind: {error:#}");
        }
    }

    /// Kernel settings that forwarding needs; what is set already is left alone.
    pub(super) fn prepare_interfaces(&mut self, plane: &Dataplane) {
        for error in self.sysctls.prepare(plane.interfaces.iter().map(String::as_str)) {
            tracing::warn!("{error}");
        }
    }

    /// Brings addresses in line with the configuration, in a task of its own.
    pub(super) fn begin_addresses(&mut self, plane: &Dataplane) {
        if self.addressing {
            // One after the other: each begins with what the one before it left.
            self.address_again = true;
            return;
        }
        let (netlink, owned, events) =
            (self.netlink.clone(), self.addresses.clone(), self.events.clone());
        let (plane, links) = (plane.clone(), self.routes.links.clone());
        self.addressing = true;
        tokio::spawn(async move {
            let result = set_addresses(&netlink, &plane, &links, owned).await;
            // The controller waits for this before it ends.
            let _gone = events.send(Event::Addresses(result)).await;
        });
    }

    /// Addresses are as the configuration says, or not.
    pub(super) fn addressed(&mut self, (owned, result): AddressResult) {
        self.addressing = false;
        self.addresses = owned;
        if std::mem::take(&mut self.address_again)
            && self.stopping.is_none()
            && let Some(plane) = self.start.director.dataplane.clone()
        {
            self.begin_addresses(&plane);
        }
        if let Err(error) = result {
            tracing::error!("{error:#}");
            self.start.warnings.push(format!("{error:#}"));
        }
        self.change();
    }

    /// Reads the file again on a blocking thread.
    pub(super) fn begin_reload(&mut self, request: Option<Request>) {
        if self.reloading || self.stopping.is_some() || !self.is_ready {
            self.reload_again |= self.stopping.is_none() && request.is_none();
            if let Some(request) = request {
                let why = match (self.stopping.is_some(), self.is_ready) {
                    (true, _) => "stopping",
                    (false, true) => "a reload is under way",
                    (false, false) => "starting: ask again",
                };
                request.answer(Err(Refusal::new(RefusalKind::Busy, why)));
            }
            return;
        }
        self.reloading = true;
        systemd::reloading();
        let path = self.start.config_path.clone();
        let host_name = self.start.host_name.clone();
        let (events, logger) = (self.events.clone(), self.start.logger.clone());
        let admin = Arc::clone(&self.start.admin);
        tokio::task::spawn_blocking(move || {
            let name = path.display().to_string();
            let result = match std::fs::read_to_string(&path) {
                Ok(text) => config::load(&name, &text, &host_name)
                    .map(Box::new)
                    .map_err(|errors| errors.iter().map(ToString::to_string).collect())
                    .and_then(|loaded| logs::prepare(&logger, loaded))
                    .and_then(|loaded| admin.stage(&loaded.director).map(|()| loaded)),
                Err(error) => Err(vec![format!("{name}: {error}")]),
            };
            // A controller that is gone has no use for the file.
            let _gone = events.blocking_send(Event::Loaded(result, request));
        });
    }

    /// The file was read: take it over, or say why not.
    pub(super) fn loaded(&mut self, result: LoadResult, request: Option<Request>) {
        self.reloading = false;
        let refused = match result {
            Ok(_) if self.stopping.is_some() => Some(vec!["the daemon is stopping".to_owned()]),
            Ok(loaded) => match self.take_over(*loaded) {
                Ok(()) => None,
                Err(error) => Some(vec![format!("{error:#}")]),
            },
            Err(errors) => Some(errors),
        };
        if refused.is_some() {
            self.start.admin.discard();
        }
        // Not before: what is staged for the next file would take the place of this one's.
        if std::mem::take(&mut self.reload_again) {
            self.begin_reload(None);
        }
        if self.is_ready {
            systemd::ready("serving");
        }
        let Some(errors) = refused else {
            self.waiting.extend(request);
            return;
        };
        self.start.logger.forget();
        for error in &errors {
            tracing::error!("reload refused: {error}");
        }
        self.reload_ended(Some(errors.first().map_or("", String::as_str)));
        if let Some(request) = request {
            let line = "the file is refused, the old configuration stays in force";
            request.answer(Err(Refusal::invalid_config(line, errors)));
        }
    }

    /// A file is in force, or was refused for a reason.
    pub(super) fn reload_ended(&mut self, refused: Option<&str>) {
        self.reloads.end(refused.is_none());
        match refused {
            None => {
                tracing::info!("configuration reloaded");
                self.chronicle.add(EventKind::Config, "reload", "DONE", "");
            }
            Some(why) => self.chronicle.add(EventKind::Config, "reload", "REFUSED", why),
        }
    }

    /// The maps refused what was to be in force: everything is as before, and whoever asked is told.
    pub(super) fn go_back(&mut self, previous: InForce, error: &anyhow::Error) {
        if previous.is_reload {
            self.reload_ended(Some(&format!("{error:#}")));
            self.start.admin.roll_back();
            for request in std::mem::take(&mut self.waiting) {
                request.answer(Err(Refusal::new(RefusalKind::Failed, format!("{error:#}"))));
            }
        }
        self.follow_log(&previous.director);
        let refused = std::mem::replace(&mut self.start.director, previous.director);
        self.file = previous.file;
        self.overrides = previous.overrides;
        self.start.warnings = previous.warnings;
        if let Some(plane) = self.start.director.dataplane.clone()
            && refused.dataplane.as_ref() != Some(&plane)
        {
            if let Some(engine) = &mut self.engine
                && let Err(error) = engine.attach(&plane)
            {
                tracing::error!("{error:#}");
            }
            self.prepare_interfaces(&plane);
            self.begin_addresses(&plane);
        }
        self.follow_director();
    }

    fn take_over(&mut self, loaded: config::Loaded) -> anyhow::Result<()> {
        let before = &self.start.director;
        refuse_what_needs_a_start(before, &loaded.director)?;
        if let (Some(plane), Some(engine)) = (&loaded.director.dataplane, &mut self.engine) {
            engine.attach(plane)?;
            self.prepare_interfaces(plane);
        }
        let before = self.start.director.clone();
        if let (Some(old), Some(new)) = (&before.dataplane, &loaded.director.dataplane)
            && old.addresses != new.addresses
        {
            self.begin_addresses(new);
        }
        self.follow_log(&loaded.director);
        let told = loaded.warnings.iter().map(ToString::to_string).collect();
        let warnings = std::mem::replace(&mut self.start.warnings, told);
        self.start.admin.commit();
        let mut before = self.in_force(true);
        before.warnings = warnings;
        self.overrides.passing.clear();
        let (director, ignored) = self.overrides.apply(&loaded.director);
        self.file = loaded.director;
        self.start.director = director;
        self.start.warnings.extend(ignored.iter().map(ToString::to_string));
        self.previous.get_or_insert(before);
        self.follow_director();
        Ok(())
    }
}

/// Puts exactly the configured addresses on interfaces. `owned` are those that this program put
/// there before; gives those that it owns now.
async fn set_addresses(
    netlink: &Netlink,
    plane: &Dataplane,
    links: &LinkTable,
    mut owned: BTreeSet<Address>,
) -> AddressResult {
    let result = change_addresses(netlink, plane, links, &mut owned).await;
    (owned, result)
}

async fn change_addresses(
    netlink: &Netlink,
    plane: &Dataplane,
    links: &LinkTable,
    owned: &mut BTreeSet<Address>,
) -> anyhow::Result<()> {
    let mut wanted = BTreeSet::new();
    for address in &plane.addresses {
        let link = links.by_name(&address.interface).with_context(|| {
            format!("dataplane.addresses: there is no interface {}", address.interface)
        })?;
        wanted.insert(Address {
            ifindex: link.index,
            address: address.address,
            prefix_len: address.prefix_len,
        });
    }
    for &address in &wanted {
        if netlink.add_address(address).await? == Ownership::Ours {
            owned.insert(address);
        }
    }
    let gone: Vec<Address> = owned.difference(&wanted).copied().collect();
    for address in gone {
        netlink.remove_address(address).await?;
        owned.remove(&address);
    }
    Ok(())
}

/// What cannot change while the daemon runs.
fn refuse_what_needs_a_start(before: &Director, after: &Director) -> anyhow::Result<()> {
    let refuse =
        |key: &str| anyhow::bail!("{key} cannot change while lb runs: stop it and start it again");
    match (&before.dataplane, &after.dataplane) {
        (Some(before), Some(after)) => {
            if before.pin_path != after.pin_path {
                return refuse("dataplane.pin_path");
            }
            if before.connections != after.connections {
                return refuse("dataplane.connections");
            }
        }
        (None, None) => {}
        _ => return refuse("dataplane"),
    }
    if before.admin.socket != after.admin.socket {
        return refuse("admin.socket");
    }
    Ok(())
}
