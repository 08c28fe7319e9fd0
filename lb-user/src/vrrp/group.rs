//! Sync groups: instances that are master together or not at all.
//!
//! keepalived's rules. A member whose master is silent waits until every other member wants to be
//! master too, then all become it; when one stops being master, all stop; when one is in fault,
//! all are. Members that have to follow resign with an advert of priority 0, so that their peers
//! follow within a skew (keepalived does so for a fault only).
//!
//! Must not know: sockets, clocks, names, why a member changes.

use std::time::Instant;

use crate::vrrp::fsm::{Event, Follow, Instance, Output, Round, State};

/// The members of a sync group.
#[derive(Clone, Debug)]
pub struct Group {
    members: Vec<Instance>,
}

/// Something to be done for the member of this index.
pub type MemberOutput = (usize, Output);

impl Group {
    /// A group of instances whose settings say that they are grouped.
    #[must_use]
    pub fn new(members: Vec<Instance>) -> Self {
        debug_assert!(members.iter().all(|member| member.settings().grouped));
        Self { members }
    }

    /// The members in their order.
    #[must_use]
    pub fn members(&self) -> &[Instance] {
        &self.members
    }

    /// When [`Self::timers`] is due.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        self.members.iter().filter_map(Instance::next_deadline).min()
    }

    /// Gives [`Event::Timer`] to every member whose deadline has come.
    #[must_use]
    pub fn timers(&mut self, now: Instant) -> Vec<MemberOutput> {
        let mut out = Vec::new();
        for index in 0..self.members.len() {
            if self.members[index].next_deadline().is_some_and(|at| at <= now) {
                out.extend(self.handle(now, index, Event::Timer));
            }
        }
        out
    }

    /// Gives an event that is for all of them to each member: startup, shutdown, resigning.
    #[must_use]
    pub fn handle_all(&mut self, now: Instant, event: &Event) -> Vec<MemberOutput> {
        let mut out = Vec::new();
        for index in 0..self.members.len() {
            self.give(now, index, event.clone(), &mut out);
        }
        self.follow(now, &mut out);
        out
    }

    /// Gives an event to one member and makes the others follow.
    #[must_use]
    pub fn handle(&mut self, now: Instant, member: usize, event: Event) -> Vec<MemberOutput> {
        if event == Event::Resign {
            return self.handle_all(now, &event);
        }
        let mut out = Vec::new();
        if member >= self.members.len() {
            return out;
        }
        self.give(now, member, event, &mut out);
        let answers = |(_, output): &MemberOutput| {
            matches!(output, Output::SendGratuitous { round: Round::Answer, .. })
        };
        if out.iter().any(answers) {
            // The rival's group moves as one, so the other members will not hear of it.
            for other in (0..self.members.len()).filter(|other| *other != member) {
                self.give(now, other, Event::Group(Follow::Announce), &mut out);
            }
        }
        self.follow(now, &mut out);
        out
    }

    fn give(&mut self, now: Instant, member: usize, event: Event, out: &mut Vec<MemberOutput>) {
        let outputs = self.members[member].handle(now, event);
        out.extend(outputs.into_iter().map(|output| (member, output)));
    }

    /// Makes all members be what one of them has become.
    fn follow(&mut self, now: Instant, out: &mut Vec<MemberOutput>) {
        let fault = self.members.iter().any(Instance::own_fault);
        for member in 0..self.members.len() {
            self.give(now, member, Event::Group(Follow::Fault(fault)), out);
        }
        let is_master = |member: &Instance| member.state() == State::Master;
        let agree = self.members.iter().all(|member| is_master(member) || member.ready());
        let follow = if agree { Follow::Master } else { Follow::Backup };
        for member in 0..self.members.len() {
            self.give(now, member, Event::Group(follow), out);
        }
    }
}
