//! The state machines of two nodes on one network, run through a failure and its repair.
//!
//! Every interval is a second here, for who owns an address follows from priorities and not from
//! lengths; whether differing intervals are heard at all is `hearing`'s business.
//!
//! Must not know: configuration, what a failure is.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use super::Owner;
use super::hearing;
use crate::model::VrrpInstance;
use crate::vrrp::fsm::{Advert, Event, Gratuitous, Instance, Output, Settings, State};
use crate::vrrp::group::{Group, MemberOutput};
use crate::vrrp::priority::Standing;
use crate::vrrp::timing::Interval;

/// The conditions of one instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seat {
    /// Its effective priority.
    pub(super) priority: u8,
    /// Whether its tracked objects let it take part.
    pub(super) standing: Standing,
    /// Whether its interface has carrier.
    pub(super) link: bool,
}

/// By node, what an instance is made of; by pair of the cluster.
pub(super) type Plans = [[Option<Settings>; 2]];
/// By node, the conditions of an instance; by pair of the cluster.
pub(super) type Seats = [[Option<Seat>; 2]];

/// What the machine of an instance is configured with.
pub(super) fn settings(
    instance: &VrrpInstance,
    node: usize,
    swapped: bool,
    grouped: bool,
) -> Settings {
    let second = Interval::from_seconds(1).expect("1 is not 0");
    let higher = (node == 1) != swapped;
    let primary = match &instance.unicast {
        Some(unicast) => unicast.source,
        None => IpAddr::V4(Ipv4Addr::new(192, 0, 2, if higher { 2 } else { 1 })),
    };
    Settings {
        version: hearing::version(instance),
        interval: second,
        preempt: instance.preempt,
        preempt_delay: if instance.preempt_delay.is_zero() { Duration::ZERO } else { DELAY },
        gratuitous: Gratuitous { count: 1, delay: Duration::ZERO, refresh: Duration::ZERO },
        primary,
        grouped,
    }
}

/// A cluster whose nodes have started and settled.
#[derive(Clone, Debug)]
pub(super) struct Course {
    world: World,
    fresh: [Side; 2],
    well: Vec<[Option<Seat>; 2]>,
}

impl Course {
    /// Starts both nodes together. `groups` are places in the cluster, by node; `hears` says for
    /// each pair which node hears the other; `first` is the node that is a moment ahead where
    /// there are groups: those whose members point to different nodes would give way to each
    /// other in step, which no two real clocks do for long.
    pub(super) fn begin(
        plans: &Plans,
        well: &Seats,
        groups: &[Vec<Vec<usize>>; 2],
        hears: Vec<[bool; 2]>,
        first: usize,
        now: Instant,
    ) -> Self {
        let fresh = [0, 1].map(|node| Side::new(plans, well, node, &groups[node]));
        let mut world = World { now, sides: fresh.clone(), queue: VecDeque::new(), hears };
        world.start(first);
        if groups.iter().any(|groups| !groups.is_empty()) {
            world.pass(AHEAD);
        }
        world.start(1 - first);
        world.pass(SETTLED);
        Self { world, fresh, well: well.to_vec() }
    }

    /// The same after one node was dead and has come back.
    pub(super) fn after_death(&self, node: usize) -> Self {
        let mut world = self.world.clone();
        world.sides[node] = Side::default();
        world.pass(SETTLED);
        world.sides[node] = self.fresh[node].clone();
        world.start(node);
        world.pass(SETTLED);
        Self { world, ..self.clone() }
    }

    /// The owners of every pair while nothing is wrong.
    pub(super) fn owners(&self) -> Vec<Owner> {
        self.world.owners()
    }

    /// The owners of every pair while `dead` is dead, or under the conditions `seats`, and after
    /// all is well again.
    pub(super) fn take(&self, dead: Option<usize>, seats: &Seats) -> Vec<(Owner, Owner)> {
        let mut world = self.world.clone();
        match dead {
            Some(node) => world.sides[node] = Side::default(),
            None => world.change(&self.well, seats),
        }
        world.pass(SETTLED);
        let after = world.owners();
        match dead {
            Some(node) => {
                world.sides[node] = self.fresh[node].clone();
                world.start(node);
            }
            None => world.change(seats, &self.well),
        }
        world.pass(SETTLED);
        after.into_iter().zip(world.owners()).collect()
    }
}

/// The instances of one node; none when it is dead.
#[derive(Clone, Debug, Default)]
struct Side {
    units: Vec<Unit>,
}

/// What moves by itself.
#[derive(Clone, Debug)]
enum Unit {
    /// An instance, and its place in the cluster.
    One(usize, Instance),
    /// A sync group, and its members' places.
    Group(Vec<usize>, Group),
}

impl Side {
    fn new(plans: &Plans, seats: &Seats, node: usize, groups: &[Vec<usize>]) -> Self {
        let instance = |at: usize| {
            let (settings, seat) = (plans[at][node].clone()?, seats[at][node]?);
            Some(Instance::new(settings, seat.priority, seat.standing))
        };
        let grouped = groups.iter().map(|places| {
            let members = places.iter().filter_map(|&at| instance(at)).collect();
            Unit::Group(places.clone(), Group::new(members))
        });
        let free = (0..plans.len()).filter(|at| !groups.iter().any(|g| g.contains(at)));
        let free = free.filter_map(|at| Some(Unit::One(at, instance(at)?)));
        Self { units: grouped.chain(free).collect() }
    }

    fn is_master(&self, place: usize) -> bool {
        self.units.iter().any(|unit| match unit {
            Unit::One(at, instance) => *at == place && instance.state() == State::Master,
            Unit::Group(places, group) => places
                .iter()
                .zip(group.members())
                .any(|(at, member)| *at == place && member.state() == State::Master),
        })
    }

    fn deadline(&self) -> Option<Instant> {
        self.units.iter().filter_map(Unit::deadline).min()
    }
}

impl Unit {
    fn deadline(&self) -> Option<Instant> {
        match self {
            Self::One(_, instance) => instance.next_deadline(),
            Self::Group(_, group) => group.next_deadline(),
        }
    }

    /// Gives an event to the instance of a place; adverts that go out, by place.
    fn handle(&mut self, now: Instant, place: usize, event: &Event) -> Vec<MemberOutput> {
        match self {
            Self::One(at, instance) if *at == place => {
                by_place(*at, instance.handle(now, event.clone()))
            }
            Self::Group(places, group) => match places.iter().position(|at| *at == place) {
                Some(member) => of_group(places, group.handle(now, member, event.clone())),
                None => Vec::new(),
            },
            Self::One(..) => Vec::new(),
        }
    }

    fn start(&mut self, now: Instant) -> Vec<MemberOutput> {
        match self {
            Self::One(at, instance) => by_place(*at, instance.handle(now, Event::Startup)),
            Self::Group(places, group) => of_group(places, group.handle_all(now, &Event::Startup)),
        }
    }

    fn timer(&mut self, now: Instant) -> Vec<MemberOutput> {
        match self {
            Self::One(at, instance) if instance.next_deadline().is_some_and(|due| due <= now) => {
                by_place(*at, instance.handle(now, Event::Timer))
            }
            Self::One(..) => Vec::new(),
            Self::Group(places, group) => of_group(places, group.timers(now)),
        }
    }

    fn primary(&self, place: usize) -> Option<IpAddr> {
        match self {
            Self::One(at, instance) => (*at == place).then(|| instance.settings().primary),
            Self::Group(places, group) => {
                let member = places.iter().position(|at| *at == place)?;
                Some(group.members()[member].settings().primary)
            }
        }
    }
}

fn by_place(place: usize, outputs: Vec<Output>) -> Vec<MemberOutput> {
    outputs.into_iter().map(|output| (place, output)).collect()
}

fn of_group(places: &[usize], outputs: Vec<MemberOutput>) -> Vec<MemberOutput> {
    outputs.into_iter().map(|(member, output)| (places[member], output)).collect()
}

/// Both nodes, the adverts between them, and the time.
#[derive(Clone, Debug)]
struct World {
    now: Instant,
    sides: [Side; 2],
    /// When an advert arrives, at which node, for which place.
    queue: VecDeque<(Instant, usize, usize, Advert)>,
    hears: Vec<[bool; 2]>,
}

impl World {
    fn start(&mut self, node: usize) {
        for at in 0..self.sides[node].units.len() {
            let outputs = self.sides[node].units[at].start(self.now);
            self.send(node, at, &outputs);
        }
    }

    /// Tells every instance what its conditions are now.
    fn change(&mut self, before: &Seats, seats: &Seats) {
        for place in 0..seats.len() {
            for node in [0, 1] {
                let (Some(before), Some(seat)) = (before[place][node], seats[place][node]) else {
                    continue;
                };
                if before == seat {
                    continue;
                }
                let Seat { priority, standing, link } = seat;
                self.tell(node, place, &Event::Track { priority, standing });
                if before.link != link {
                    self.tell(node, place, &if link { Event::LinkUp } else { Event::LinkDown });
                }
            }
        }
    }

    fn tell(&mut self, node: usize, place: usize, event: &Event) {
        for at in 0..self.sides[node].units.len() {
            let outputs = self.sides[node].units[at].handle(self.now, place, event);
            self.send(node, at, &outputs);
        }
    }

    fn send(&mut self, node: usize, unit: usize, outputs: &[MemberOutput]) {
        let second = Interval::from_seconds(1).expect("1 is not 0");
        for (place, output) in outputs {
            let Output::SendAdvert { priority } = *output else { continue };
            let primary = self.sides[node].units[unit].primary(*place);
            let (Some(source), true) = (primary, self.hears[*place][1 - node]) else { continue };
            let advert = Advert { source, priority, interval: second, same_addresses: true };
            self.queue.push_back((self.now + WIRE, 1 - node, *place, advert));
        }
    }

    /// Lets time pass.
    fn pass(&mut self, span: Duration) {
        let end = self.now + span;
        loop {
            let arrival = self.queue.front().map(|(at, ..)| *at);
            let timer = self.sides.iter().filter_map(Side::deadline).min();
            let Some(next) = arrival.into_iter().chain(timer).min().filter(|at| *at <= end) else {
                break;
            };
            self.now = self.now.max(next);
            if let Some((_, node, place, advert)) = self.queue.pop_front_if(|(at, ..)| *at <= next)
            {
                self.tell(node, place, &Event::Advert(advert));
                continue;
            }
            for node in [0, 1] {
                for at in 0..self.sides[node].units.len() {
                    let outputs = self.sides[node].units[at].timer(self.now);
                    self.send(node, at, &outputs);
                }
            }
        }
        self.now = end;
    }

    fn owners(&self) -> Vec<Owner> {
        let owner = |place: usize| match self.sides.each_ref().map(|side| side.is_master(place)) {
            [true, true] => Owner::Both,
            [true, false] => Owner::Node(0),
            [false, true] => Owner::Node(1),
            [false, false] => Owner::Nobody,
        };
        (0..self.hears.len()).map(owner).collect()
    }
}

/// How long an advert is under way: shorter than any two priorities' skews are apart.
const WIRE: Duration = Duration::from_micros(10);
/// How far ahead a node is that starts first: longer than an advert is under way.
const AHEAD: Duration = Duration::from_millis(1);
/// What stands for every preempt delay.
const DELAY: Duration = Duration::from_secs(4);
/// Until nothing changes any more: a delayed preemption after a silence, a few times over.
const SETTLED: Duration = Duration::from_secs(30);
