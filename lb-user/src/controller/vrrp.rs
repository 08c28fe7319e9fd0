//! VRRP as the controller sees it: it tells the speaker what to be and how tracked objects are,
//! and keeps what the speaker says.
//!
//! Must not know: the election, sockets, packets.

mod speech;

use crate::controller::document::{Resigned, Vrrp as VrrpDocument, VrrpInstance};
use crate::controller::request::{Document, Refusal, RefusalKind, Reply, Request};
use crate::controller::task::Controller;
use crate::controller::wanted::World;
use crate::model::Director;
use crate::speaker::client::{self, Client};
use crate::speaker::protocol::{Entered, Report, Request as Say, Status};
use speech::Known;

/// What the controller has of VRRP.
#[derive(Default)]
pub(super) struct Vrrp {
    /// The line to the speaker, once an instance has asked for one.
    client: Option<Client>,
    is_up: bool,
    /// Configurations that the speaker has not taken over yet.
    configuring: usize,
    /// All instances as the speaker told last.
    statuses: Vec<Status>,
    /// Those who asked for a resignation, in the order of their answers.
    resigning: Vec<(String, Request)>,
    /// Whether the last heartbeat was written.
    pub(super) has_beaten: bool,
}

impl Vrrp {
    /// Whether what was asked of the speaker is in force.
    pub(super) fn is_settled(&self) -> bool {
        self.client.is_none() || (self.is_up && self.configuring == 0)
    }

    /// Has the speaker resign and end.
    pub(super) fn begin_stop(&mut self) {
        if let Some(client) = &self.client {
            client.say(Say::Stop);
        }
    }

    /// Waits until the speaker is gone.
    pub(super) async fn stop(&mut self) {
        if let Some(client) = self.client.take() {
            client.stop().await;
        }
    }

    fn status(&self, name: &str) -> Option<&Status> {
        self.statuses.iter().find(|status| status.name == name)
    }
}

impl Controller {
    /// Makes the speaker follow the configuration in force.
    pub(super) fn follow_vrrp(&mut self) {
        let director = &self.start.director;
        if self.vrrp.client.is_none() {
            if director.vrrp.instances.is_empty() {
                return;
            }
            let socket = client::socket_beside(&director.admin.socket);
            let (netlink, events) = (self.netlink.clone(), self.events.clone());
            self.vrrp.client = Some(Client::start(socket, director.log, netlink, events));
        }
        if self.vrrp.is_up {
            self.configure_vrrp();
        }
    }

    fn configure_vrrp(&mut self) {
        let configuration = Box::new(speech::configuration(&self.start.director));
        let tracked = speech::tracked(&self.start.director, &self.known());
        if let Some(client) = &self.vrrp.client
            && client.say(Say::Configure(configuration, tracked))
        {
            self.vrrp.configuring += 1;
        }
    }

    /// Tells the speaker how tracked objects are by now.
    pub(super) fn track(&mut self) {
        if !self.vrrp.is_up {
            return;
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
        let resolving = self.resolving.keys().copied().collect();
        let world = self.world(&resolving);
        let services = director.virtual_services.iter().map(|service| {
            let takes_new = |server| world.effective(service, server).weight > 0;
            let has_quorum = service.real_servers.iter().any(takes_new);
            (service.name.clone(), self.is_planned.then_some(has_quorum))
        });
        let plane = director.dataplane.as_ref();
        Known {
            plane: plane.map(|_| self.is_planned.then_some(self.vrrp.has_beaten)),
            services: services.collect(),
            scripts: std::collections::BTreeMap::new(),
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
                for (_, request) in std::mem::take(&mut self.vrrp.resigning) {
                    request.answer(Err(Refusal::new(RefusalKind::Failed, "the speaker is gone")));
                }
            }
            client::Event::Said(Report::Status(statuses)) => self.vrrp.statuses = statuses,
            client::Event::Said(Report::Entered(entered)) => self.entered(&entered),
            client::Event::Said(Report::Done(what, result)) => self.done(&what, result),
            client::Event::Said(Report::Hello { .. }) => {}
        }
        self.change();
    }

    fn entered(&mut self, entered: &Entered) {
        tracing::debug!(name = %entered.name, state = %entered.state, "VRRP transition");
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
            scripts: Vec::new(),
        }))
    }

    /// All instances as they are.
    pub(super) fn vrrp_instances(&self) -> Vec<VrrpInstance> {
        let director: &Director = &self.start.director;
        let document =
            |instance| speech::document(director, instance, self.vrrp.status(&instance.name));
        director.vrrp.instances.iter().map(document).collect()
    }

    /// What real servers are worth by now.
    fn world<'a>(
        &'a self,
        resolving: &'a std::collections::HashSet<std::net::IpAddr>,
    ) -> World<'a> {
        World {
            health: &self.health,
            leaving: &NOBODY,
            routes: &self.routes,
            resolving,
            jiffies: &|_| 0,
            heartbeat_max: crate::controller::engine::HEARTBEAT_MAX,
        }
    }
}

static NOBODY: std::collections::BTreeMap<u32, std::net::IpAddr> =
    std::collections::BTreeMap::new();
