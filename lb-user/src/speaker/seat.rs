//! Virtual routers with their state machine: one alone, or a sync group.
//!
//! Must not know: sockets, the controller.

use std::time::Instant;

use crate::speaker::hands::Hands;
use crate::speaker::protocol::{Entered, Report, Status};
use crate::speaker::router::Router;
use crate::vrrp::fsm::{Cause, Event, Instance, Output, State};
use crate::vrrp::group::Group;

/// Routers that change together.
pub(super) struct Seat {
    /// The sync group's name; `None` for a router alone.
    pub(super) group: Option<String>,
    core: Core,
    /// In the order of the state machine's members.
    pub(super) routers: Vec<Router>,
    /// The group's state as it was told last.
    told: State,
}

enum Core {
    Single(Box<Instance>),
    Group(Group),
}

impl Seat {
    /// Routers that have begun nothing yet. Without a group's name there is one of them.
    pub(super) fn new(group: Option<String>, routers: Vec<Router>) -> Self {
        let grouped = group.is_some();
        let mut instances: Vec<Instance> = routers
            .iter()
            .map(|router| {
                let effective = router.effective();
                Instance::new(router.settings(grouped), effective.priority, effective.standing)
            })
            .collect();
        let core = match (grouped, instances.len()) {
            (false, 1) => Core::Single(Box::new(instances.remove(0))),
            _ => Core::Group(Group::new(instances)),
        };
        Self { group, core, routers, told: State::Init }
    }

    /// A member's state machine.
    pub(super) fn instance(&self, member: usize) -> &Instance {
        match &self.core {
            Core::Single(instance) => instance,
            Core::Group(group) => &group.members()[member],
        }
    }

    /// Its members as they are.
    pub(super) fn status(&self) -> impl Iterator<Item = Status> {
        let members = self.routers.iter().enumerate();
        members.map(|(member, router)| router.status(self.instance(member)))
    }

    /// When [`Self::timers`] is due.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        match &self.core {
            Core::Single(instance) => instance.next_deadline(),
            Core::Group(group) => group.next_deadline(),
        }
    }

    /// Gives an event to one member.
    pub(super) fn handle(&mut self, now: Instant, member: usize, event: Event, hands: &mut Hands) {
        let outputs = match &mut self.core {
            Core::Single(instance) => alone(instance.handle(now, event)),
            Core::Group(group) => group.handle(now, member, event),
        };
        self.carry_out(now, &outputs, hands);
    }

    /// Gives an event to all members.
    pub(super) fn handle_all(&mut self, now: Instant, event: &Event, hands: &mut Hands) {
        let outputs = match &mut self.core {
            Core::Single(instance) => alone(instance.handle(now, event.clone())),
            Core::Group(group) => group.handle_all(now, event),
        };
        self.carry_out(now, &outputs, hands);
    }

    /// Does what is due.
    pub(super) fn timers(&mut self, now: Instant, hands: &mut Hands) {
        if self.next_deadline().is_none_or(|at| at > now) {
            return;
        }
        let outputs = match &mut self.core {
            Core::Single(instance) => alone(instance.handle(now, Event::Timer)),
            Core::Group(group) => group.timers(now),
        };
        self.carry_out(now, &outputs, hands);
    }

    fn carry_out(&mut self, now: Instant, outputs: &[(usize, Output)], hands: &mut Hands) {
        for (member, output) in outputs {
            self.routers[*member].carry_out(now, output, hands);
        }
        self.tell(outputs, hands);
    }

    /// Tells of the group's state when it is another one: all are master, one is in fault, or
    /// neither.
    fn tell(&mut self, outputs: &[(usize, Output)], hands: &mut Hands) {
        let Some(name) = &self.group else { return };
        let states: Vec<State> = self.routers.iter().map(Router::state).collect();
        let state = if states.contains(&State::Fault) {
            State::Fault
        } else if states.contains(&State::Init) {
            State::Init
        } else if states.iter().all(|state| *state == State::Master) {
            State::Master
        } else {
            State::Backup
        };
        if std::mem::replace(&mut self.told, state) == state {
            return;
        }
        let cause = outputs.iter().find_map(|(_, output)| match output {
            Output::Entered { cause, .. } => Some(*cause),
            _ => None,
        });
        tracing::info!(group = %name, "the sync group is {}", state.name().to_uppercase());
        hands.reports.push(Report::Entered(Entered {
            group: true,
            name: name.clone(),
            state: state.name().to_owned(),
            stopped: matches!(cause, Some(Cause::Shutdown)),
            priority: 0,
            cause: cause.map(|cause| cause.to_string()).unwrap_or_default(),
        }));
    }
}

fn alone(outputs: Vec<Output>) -> Vec<(usize, Output)> {
    outputs.into_iter().map(|output| (0, output)).collect()
}
