//! VRRP as the controller sees it: it tells the speaker what to be and how tracked objects are,
//! and keeps what the speaker says.
//!
//! Must not know: the election, sockets, packets.

mod deafness;
mod filters;
mod speech;

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::controller::chronicle::EventKind;
use crate::controller::document::{Resigned, Vrrp as VrrpDocument, VrrpInstance, VrrpScript};
use crate::controller::event::Event;
use crate::controller::request::{Document, Refusal, RefusalKind, Reply, Request};
use crate::controller::task::Controller;
use crate::metrics;
use crate::model::{self, Director, Script};
use crate::notify::{Notifier, Settings};
use crate::plan::VirtualMac;
use crate::speaker;
use crate::speaker::client::{self, Client};
use crate::speaker::protocol::{Entered, Report, Request as Say, Status};
use crate::track::{ScriptChanged, Tracker};
use deafness::Deafness;
use filters::Filters;
pub(super) use filters::FiltersFound;
use speech::Known;

/// What the controller has of VRRP.
pub(super) struct Vrrp {
    /// Runs the scripts.
    tracker: Tracker<Event>,
    /// Tells people and programs of transitions.
    pub(super) notifier: Notifier,
    /// The line to the speaker, once an instance has asked for one.
    client: Option<Client>,
    is_up: bool,
    /// A node without instances has looked for what an earlier life left.
    is_swept: bool,
    /// The speaker could not be told the configuration in force.
    is_behind: bool,
    /// Configurations that the speaker has not taken over yet.
    configuring: usize,
    /// Whether the speaker has told of itself since the start.
    has_told: bool,
    /// All instances as the speaker told last.
    statuses: Vec<Status>,
    /// What drops adverts on this host.
    pub(super) filters: Filters,
    /// Those who asked for a resignation, in the order of their answers.
    resigning: Vec<(String, Request)>,
    deafness: Deafness,
    /// Whether the last heartbeat was written.
    pub(super) has_beaten: bool,
}

impl Vrrp {
    /// Nothing runs yet.
    pub(super) fn new(director: &Director, events: mpsc::Sender<Event>) -> Self {
        Self {
            tracker: Tracker::new(events),
            notifier: Notifier::spawn(settings(director)),
            client: None,
            is_up: false,
            is_swept: false,
            is_behind: false,
            configuring: 0,
            has_told: false,
            statuses: Vec::new(),
            filters: Filters::default(),
            resigning: Vec::new(),
            deafness: Deafness::default(),
            // The data plane has beaten once when it was opened.
            has_beaten: true,
        }
    }

    /// Says something to the speaker that need not be heard.
    pub(super) fn say(&self, request: Say) {
        if let Some(client) = self.client.as_ref().filter(|_| self.is_up) {
            client.say(request);
        }
    }

    /// Whether what was asked of the speaker is in force.
    pub(super) fn is_settled(&self) -> bool {
        self.client.is_none() || (self.is_up && self.configuring == 0 && !self.is_behind)
    }

    /// Has the speaker resign and end.
    pub(super) fn begin_stop(&mut self) {
        if let Some(client) = &self.client {
            client.say(Say::Stop);
        }
    }

    /// Waits until the speaker is gone.
    pub(super) async fn stop(&mut self) {
        self.tracker.set_scripts(&[]);
        if let Some(client) = self.client.take() {
            client.stop().await;
        }
    }

    /// Gives what is still to be told a moment.
    pub(super) async fn say_goodbye(&self) {
        let left = self.notifier.stop(GOODBYE).await;
        if left.notifications + left.mails > 0 {
            tracing::warn!(
                notifications = left.notifications,
                mails = left.mails,
                "not told any more"
            );
        }
    }

    /// Whether no instance has another state: the rest is for people.
    fn tells_nothing_new(&self, statuses: &[Status]) -> bool {
        fn state(status: &Status) -> (&str, &str) {
            (&status.name, &status.state)
        }
        self.statuses.iter().map(state).eq(statuses.iter().map(state))
    }

    fn status(&self, name: &str) -> Option<&Status> {
        self.statuses.iter().find(|status| status.name == name)
    }
}

impl Controller {
    /// Makes the speaker follow the configuration in force.
    pub(super) fn follow_vrrp(&mut self) {
        let director = &self.start.director;
        self.vrrp.notifier.set(settings(director));
        self.vrrp.tracker.set_scripts(&speech::tracked_scripts(director));
        if self.vrrp.client.is_none() {
            if director.vrrp.instances.is_empty() {
                if !std::mem::replace(&mut self.vrrp.is_swept, true) {
                    sweep(director);
                }
                return;
            }
            let socket = client::socket_beside(&director.admin.socket);
            let (netlink, events) = (self.netlink.clone(), self.events.clone());
            let log = (director.log.level, director.log.format);
            self.vrrp.client = Some(Client::start(socket, log, netlink, events));
        }
        if self.vrrp.is_up {
            self.configure_vrrp();
        }
    }

    fn configure_vrrp(&mut self) {
        self.say_log(&self.start.director);
        let configuration = Box::new(speech::configuration(&self.start.director));
        let tracked = speech::tracked(&self.start.director, &self.known());
        if let Some(client) = &self.vrrp.client {
            let is_said = client.say(Say::Configure(configuration, tracked));
            self.vrrp.is_behind = !is_said;
            self.vrrp.configuring += usize::from(is_said);
        }
    }

    /// Tells the speaker how tracked objects are by now.
    pub(super) fn track(&mut self) {
        if !self.vrrp.is_up || self.stopping.is_some() {
            return;
        }
        if self.vrrp.is_behind {
            self.configure_vrrp();
        }
        let tracked = speech::tracked(&self.start.director, &self.known());
        if let Some(client) = &self.vrrp.client
            && !client.say(Say::Track(tracked))
        {
            tracing::warn!("the speaker does not listen");
        }
    }

    /// What is known of tracked objects.
    fn known(&self) -> Known {
        let director = &self.start.director;
        let tracked: BTreeSet<&str> = director
            .vrrp
            .instances
            .iter()
            .flat_map(|instance| &instance.track.virtual_services)
            .map(|service| service.name.as_str())
            .collect();
        let services = director.virtual_services.iter().zip(&self.standing.services);
        let services = services.filter(|(service, _)| tracked.contains(service.name.as_str()));
        let services = services.map(|(service, stands)| {
            (service.name.clone(), stands.has_quorum.filter(|_| self.is_planned))
        });
        let plane = director.dataplane.as_ref();
        Known {
            plane: plane.map(|_| self.is_planned.then_some(self.vrrp.has_beaten)),
            services: services.collect(),
            scripts: director
                .vrrp
                .scripts
                .iter()
                .map(|script| {
                    let observed = self.vrrp.tracker.observed(&script.name);
                    (script.name.clone(), observed.and_then(|observed| observed.well))
                })
                .collect(),
        }
    }

    /// The speaker said something, came or went.
    pub(super) fn speaker(&mut self, event: client::Event) {
        match event {
            client::Event::Up => {
                self.vrrp.is_up = true;
                self.vrrp.configuring = 0;
                self.configure_vrrp();
            }
            client::Event::Lost => {
                self.vrrp.is_up = false;
                self.vrrp.configuring = 0;
                self.vrrp.statuses.clear();
                self.follow_filters();
                for (_, request) in std::mem::take(&mut self.vrrp.resigning) {
                    request.answer(Err(Refusal::new(RefusalKind::Failed, "the speaker is gone")));
                }
            }
            client::Event::Said(Report::Status(statuses)) => {
                self.vrrp.has_told = true;
                if !self.vrrp.tells_nothing_new(&statuses) {
                    self.change();
                }
                self.vrrp.statuses = statuses;
                self.follow_filters();
                return;
            }
            client::Event::Said(Report::Entered(entered)) => self.entered(&entered),
            client::Event::Said(Report::Done(what, result)) => self.done(&what, result),
            client::Event::Said(Report::Hello { .. }) => {}
        }
        self.change();
    }

    /// Looks for what drops the adverts of instances that say that something does.
    fn follow_filters(&mut self) {
        let vrrp = &mut self.vrrp;
        vrrp.filters.follow(&self.start.director, &vrrp.statuses, &self.events);
    }

    /// Tells whoever is to be told of a transition.
    fn entered(&mut self, entered: &Entered) {
        let notification = speech::notification(&self.start.director, entered);
        if let Some(notification) = notification {
            let (name, state) = (&notification.name, notification.state.word());
            self.chronicle.add(EventKind::Vrrp, name, state, &notification.cause);
            self.vrrp.notifier.send(notification);
        }
    }

    /// Looks whether what XDP counts is heard; once a second.
    pub(super) fn look_for_deafness(&mut self) {
        let (Some(engine), true) = (&mut self.engine, self.vrrp.is_up) else { return };
        let instances = &self.start.director.vrrp.instances;
        for instance in instances {
            let Some(mac) = speech::virtual_mac(instance) else { continue };
            // XDP counts over all interfaces, so all instances of the identifier count together.
            let alike = |other: &&model::VrrpInstance| speech::virtual_mac(other) == Some(mac);
            let adverts: u64 = instances
                .iter()
                .filter(alike)
                .filter_map(|other| self.vrrp.status(&other.name))
                .map(|status| {
                    status.counters.received + status.counters.refused.values().sum::<u64>()
                })
                .sum();
            let frames = engine.dataplane().tables().vrrp_frames_of(mac.family, mac.vrid);
            let Ok(frames) = frames else { continue };
            if self.vrrp.deafness.look(&instance.name, frames, adverts) {
                tracing::warn!(
                    instance = %instance.name, interface = %instance.interface,
                    "VRRP frames come in and do not reach the speaker: look for a filter with \
                     `tc filter show dev {} ingress`", instance.interface
                );
            }
        }
    }

    /// A script says something else.
    pub(super) fn script_changed(&mut self, changed: &ScriptChanged) {
        let ScriptChanged { name, well, detail } = changed;
        if *well {
            tracing::info!(script = name, detail, "script is well");
        } else {
            tracing::warn!(script = name, detail, "script is not well");
        }
        self.track();
    }

    /// Something that was asked of the speaker is done.
    fn done(&mut self, what: &str, result: Result<(), String>) {
        if what.is_empty() {
            self.vrrp.configuring = self.vrrp.configuring.saturating_sub(1);
            return;
        }
        let found = self.vrrp.resigning.iter().position(|(name, _)| name == what);
        let Some((name, request)) = found.map(|at| self.vrrp.resigning.remove(at)) else { return };
        request.answer(match result {
            Ok(()) => Ok(Document::Resigned(Resigned { resigned: name })),
            Err(error) => Err(Refusal::new(RefusalKind::Failed, error)),
        });
    }

    /// Has an instance resign; answered when it has.
    pub(super) fn resign(&mut self, request: Request, name: &str) {
        let refusal = if !self.start.director.vrrp.instances.iter().any(|i| i.name == name) {
            Some((RefusalKind::NotFound, format!("there is no VRRP instance {name}")))
        } else if self.vrrp.status(name).is_none_or(|status| status.state != "master") {
            Some((RefusalKind::Invalid, format!("{name} is not master here")))
        } else {
            let client = self.vrrp.client.as_ref();
            let is_said = client.is_some_and(|client| client.say(Say::Resign(name.to_owned())));
            (!is_said).then(|| (RefusalKind::Failed, "the speaker does not listen".to_owned()))
        };
        match refusal {
            Some((kind, why)) => request.answer(Err(Refusal::new(kind, why))),
            None => self.vrrp.resigning.push((name.to_owned(), request)),
        }
    }

    /// `lb vrrp`.
    pub(super) fn vrrp_document(&self) -> Reply {
        let speaker = match (&self.vrrp.client, self.vrrp.is_up) {
            (None, _) => "none",
            (Some(_), true) => "running",
            (Some(_), false) => "absent",
        };
        Ok(Document::Vrrp(VrrpDocument {
            speaker: speaker.to_owned(),
            instances: self.vrrp_instances(),
            scripts: self.vrrp_scripts(),
        }))
    }

    fn vrrp_scripts(&self) -> Vec<VrrpScript> {
        let document = |script: &Script| {
            let observed = self.vrrp.tracker.observed(&script.name).unwrap_or_default();
            speech::script(&script.name, &observed)
        };
        self.start.director.vrrp.scripts.iter().map(document).collect()
    }

    /// What the notifier has done, for metrics.
    pub(super) fn notified(&self) -> metrics::Notifications {
        speech::told(&self.vrrp.notifier.counts())
    }

    /// All instances, for metrics.
    pub(super) fn measured_vrrp(&self) -> Vec<metrics::VrrpInstance> {
        self.vrrp_instances().into_iter().map(speech::measured).collect()
    }

    /// Virtual routers with a MAC address of their own that this node is master of; `None` while
    /// the speaker that may have outlived another controller has not told yet.
    pub(super) fn virtual_macs(&self) -> Option<BTreeSet<VirtualMac>> {
        if !self.vrrp.has_told && !self.start.director.vrrp.instances.is_empty() {
            return None;
        }
        let instances = &self.start.director.vrrp.instances;
        let owned = instances.iter().filter(|instance| {
            let status = self.vrrp.status(&instance.name);
            instance.virtual_mac && status.is_some_and(|status| status.state == "master")
        });
        Some(owned.filter_map(speech::virtual_mac).collect())
    }

    /// All instances as they are.
    pub(super) fn vrrp_instances(&self) -> Vec<VrrpInstance> {
        let director: &Director = &self.start.director;
        let document = |instance: &model::VrrpInstance| {
            let status = self.vrrp.status(&instance.name);
            VrrpInstance {
                unheard: self.vrrp.deafness.is_deaf(&instance.name),
                filters: self.vrrp.filters.rules(&instance.name),
                ..speech::document(director, instance, status)
            }
        };
        director.vrrp.instances.iter().map(document).collect()
    }
}

/// What holds for all notifications.
fn settings(director: &Director) -> Settings {
    Settings::new(&director.node, director.notifications.email.clone())
}

/// Ends a speaker that waits for a controller which wants none, and takes away what it left.
fn sweep(director: &Director) {
    let ended = speaker::end(&client::socket_beside(&director.admin.socket));
    let removed = ended.and_then(|_| speaker::clear());
    match removed {
        Ok(removed) => removed.iter().for_each(|what| {
            tracing::info!("left by an earlier life and removed: {what}");
        }),
        Err(error) => tracing::warn!("what VRRP left may have stayed: {error:#}"),
    }
}

/// How long a stop waits for commands and mails.
const GOODBYE: Duration = Duration::from_secs(3);
