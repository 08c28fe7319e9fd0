//! The network between simulated routers, its time, and the rules that are checked at every step.
//!
//! Must not know: what disturbs the network, and when.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use super::super::Rng;
use super::node::Node;
use super::{Rule, Violation};
use crate::vrrp::fsm::{Advert, Cause, Event, Output, State};
use crate::vrrp::priority::Standing;
use crate::vrrp::timing::master_down;

/// How many routers there are.
pub(super) const ROUTERS: usize = 3;

/// Something that happens at its time.
#[derive(Clone, Copy, Debug)]
pub(super) enum Item {
    /// An advert arrives.
    Deliver(usize, Advert),
    /// A stalled process runs again.
    Wake(usize),
    /// Something is done to the network or to a router.
    Disturb(Disturbance),
    /// A master that was answered by a better one must not be master now.
    GaveWay(usize, usize),
}

/// What happens to routers and network.
#[derive(Clone, Copy, Debug)]
pub(super) enum Disturbance {
    Crash(usize),
    Start(usize),
    Shutdown(usize),
    Resign(usize),
    Link(usize, bool),
    Stall(usize, u64),
    Track(usize, u8, Standing),
    Readdress(usize),
    /// Adverts from the first to the second are lost, or not any more.
    Cut(usize, usize, bool),
    /// Percentage of adverts that are lost.
    Loss(u64),
}

/// Three routers on one network.
pub(super) struct World {
    pub(super) now: u64,
    pub(super) rng: Rng,
    pub(super) nodes: Vec<Node>,
    queue: BinaryHeap<Reverse<(u64, u64, usize)>>,
    items: Vec<Option<Item>>,
    /// Whether nothing disturbs the network.
    pub(super) whole: bool,
    pub(super) loss: u64,
    /// The longest delay of an advert.
    pub(super) delay: u64,
    pub(super) cut: [[bool; ROUTERS]; ROUTERS],
    /// When the last advert of each path arrives.
    last: [[u64; ROUTERS]; ROUTERS],
    /// The longest delay of an advert that may still be under way.
    oldest_delay: u64,
    two_since: Option<u64>,
    none_since: Option<u64>,
    /// Changes of state so far.
    pub(super) changes: u64,
    /// Whether two masters at once break a rule now.
    pub(super) clean: bool,
    trace: bool,
}

impl World {
    pub(super) fn new(rng: Rng, nodes: Vec<Node>, delay: u64, trace: bool) -> Self {
        Self {
            now: 0,
            rng,
            nodes,
            queue: BinaryHeap::new(),
            items: Vec::new(),
            whole: false,
            loss: 0,
            delay,
            cut: [[false; ROUTERS]; ROUTERS],
            last: [[0; ROUTERS]; ROUTERS],
            oldest_delay: delay,
            two_since: None,
            none_since: None,
            changes: 0,
            clean: false,
            trace,
        }
    }

    /// A router on its own clock, whose zero is `offset` nanoseconds after `base`.
    pub(super) fn origin(base: Instant, offset: u64) -> Instant {
        base + std::time::Duration::from_nanos(offset)
    }

    pub(super) fn later(&mut self, at: u64, item: Item) {
        let index = self.items.len();
        self.items.push(Some(item));
        self.queue.push(Reverse((at, index as u64, index)));
    }

    /// The longest interval that anybody advertises.
    pub(super) fn longest(&self) -> u64 {
        let intervals = self.nodes.iter().map(|node| node.settings.interval.duration());
        intervals.max().map_or(0, |interval| interval.as_nanos() as u64)
    }

    /// How long a master may be silent at most.
    pub(super) fn down(&self) -> u64 {
        let down = |node: &Node| {
            let longest = self.nodes.iter().map(|other| other.settings.interval).max();
            let interval = longest.unwrap_or(node.settings.interval);
            master_down(node.settings.version, 1, interval).as_nanos() as u64
        };
        self.nodes.iter().map(down).max().unwrap_or(0)
    }

    /// Lets everything happen up to a moment.
    pub(super) fn run_until(&mut self, end: u64) -> Result<(), Violation> {
        loop {
            let timer = (0..ROUTERS).filter_map(|i| Some((self.nodes[i].deadline()?, i))).min();
            let queued = self.queue.peek().map_or(u64::MAX, |Reverse((at, ..))| *at);
            let next = timer.map_or(queued, |(at, _)| at.min(queued));
            if next > end {
                self.advance(end)?;
                return Ok(());
            }
            self.advance(next)?;
            // What was received comes before a timer of the same moment.
            if queued <= next {
                if let Some(Reverse((_, _, index))) = self.queue.pop()
                    && let Some(item) = self.items[index].take()
                {
                    self.happen(item)?;
                }
            } else if let Some((_, node)) = timer {
                self.feed(node, &Event::Timer)?;
            }
        }
    }

    fn advance(&mut self, to: u64) -> Result<(), Violation> {
        self.now = self.now.max(to);
        let now = self.now;
        if let Some(since) = self.two_since
            && self.whole
            && now - since > self.down()
        {
            return Err(self.broken(Rule::TwoMasters, &format!("since {since}")));
        }
        let listens = self.nodes.iter().filter_map(|node| node.listens_since).min();
        if let (Some(none), Some(listens)) = (self.none_since, listens)
            && now.saturating_sub(none.max(listens)) > self.down() + self.oldest_delay
        {
            return Err(self.broken(Rule::NoMaster, &format!("since {none}")));
        }
        Ok(())
    }

    fn happen(&mut self, item: Item) -> Result<(), Violation> {
        match item {
            Item::Deliver(to, advert) => self.deliver(to, advert),
            Item::Wake(node) => self.wake(node),
            Item::Disturb(disturbance) => self.disturb(disturbance),
            Item::GaveWay(better, node) => {
                let [better, node] = [&self.nodes[better], &self.nodes[node]];
                let both = better.state() == State::Master && node.state() == State::Master;
                if both && self.whole && better.rank() > node.rank() {
                    let text = format!("{} goes on", node.address);
                    return Err(self.broken(Rule::Unanswered, &text));
                }
                Ok(())
            }
        }
    }

    fn deliver(&mut self, to: usize, advert: Advert) -> Result<(), Violation> {
        let node = &mut self.nodes[to];
        if let Some(inbox) = &mut node.stalled {
            inbox.push(advert);
            return Ok(());
        }
        if !node.link_up || node.instance.is_none() {
            return Ok(());
        }
        let lower = (advert.priority, advert.source) < node.rank() && advert.priority > 0;
        let from = (0..ROUTERS).find(|i| self.nodes[*i].address == advert.source);
        if let Some(from) = from
            && lower
            && self.whole
            && self.nodes[to].state() == State::Master
        {
            self.later(self.now + self.delay + 1, Item::GaveWay(to, from));
        }
        self.feed(to, &Event::Advert(advert))
    }

    fn wake(&mut self, node: usize) -> Result<(), Violation> {
        let Some(inbox) = self.nodes[node].stalled.take() else { return Ok(()) };
        if self.nodes[node].state() == State::Backup {
            // Its timer may run out late, which gives the master one more interval.
            self.nodes[node].listens_since = Some(self.now + 2 * self.longest());
        }
        // A kernel reports sockets and timers in any order.
        if self.rng.one_in(2) {
            self.feed(node, &Event::Timer)?;
        }
        for advert in inbox {
            self.deliver(node, advert)?;
        }
        Ok(())
    }

    pub(super) fn disturb(&mut self, disturbance: Disturbance) -> Result<(), Violation> {
        if self.trace {
            eprintln!("{:>14} {disturbance:?}", self.now);
        }
        let alive = |world: &Self, node: usize| {
            world.nodes[node].instance.is_some() && world.nodes[node].stalled.is_none()
        };
        match disturbance {
            Disturbance::Cut(from, to, cut) => self.cut[from][to] = cut,
            Disturbance::Loss(loss) => self.loss = loss,
            Disturbance::Crash(node) => {
                self.nodes[node].crash();
                self.count()?;
            }
            Disturbance::Start(node) if self.nodes[node].instance.is_none() => {
                self.nodes[node].create();
                self.feed(node, &Event::Startup)?;
                if !self.nodes[node].link_up {
                    self.feed(node, &Event::LinkDown)?;
                }
            }
            Disturbance::Shutdown(node) if alive(self, node) => {
                self.feed(node, &Event::Shutdown)?;
                self.nodes[node].crash();
            }
            Disturbance::Resign(node) if alive(self, node) => {
                self.feed(node, &Event::Resign)?;
                let state = self.nodes[node].state();
                self.nodes[node].resigned = state == State::Backup;
            }
            Disturbance::Link(node, up) if alive(self, node) => {
                self.nodes[node].link_up = up;
                self.feed(node, if up { &Event::LinkUp } else { &Event::LinkDown })?;
            }
            Disturbance::Stall(node, nanos) if alive(self, node) => {
                self.nodes[node].stalled = Some(Vec::new());
                self.nodes[node].listens_since = None;
                self.later(self.now + nanos, Item::Wake(node));
            }
            Disturbance::Track(node, priority, standing) if alive(self, node) => {
                self.feed(node, &Event::Track { priority, standing })?;
            }
            Disturbance::Readdress(node) if alive(self, node) => {
                self.feed(node, &Event::AddressesChanged)?;
            }
            _ => {}
        }
        Ok(())
    }

    /// Ends every disturbance.
    pub(super) fn heal(&mut self, delay: u64) -> Result<(), Violation> {
        for node in 0..ROUTERS {
            self.wake(node)?;
            self.cut = [[false; ROUTERS]; ROUTERS];
            self.disturb(Disturbance::Link(node, true))?;
            self.disturb(Disturbance::Start(node))?;
            // A dead router may have died without carrier.
            self.disturb(Disturbance::Link(node, true))?;
            let base = self.nodes[node].base;
            self.disturb(Disturbance::Track(node, base, Standing::Fit))?;
        }
        self.loss = 0;
        self.delay = delay;
        self.last = [[0; ROUTERS]; ROUTERS];
        self.whole = true;
        self.two_since = self.two_since.map(|_| self.now);
        Ok(())
    }

    /// Lets adverts take this long at most.
    pub(super) fn slow(&mut self, delay: u64) {
        self.delay = delay;
        self.oldest_delay = self.oldest_delay.max(delay);
        self.whole = false;
    }

    pub(super) fn feed(&mut self, node: usize, event: &Event) -> Result<(), Violation> {
        let rank = self.nodes[node].rank();
        let outputs = self.nodes[node].feed(self.now, event.clone());
        if self.trace && !outputs.is_empty() {
            eprintln!("{:>14} {} {event:?} -> {outputs:?}", self.now, self.nodes[node].address);
        }
        for output in outputs {
            match output {
                Output::SendAdvert { priority } => self.send(node, priority),
                Output::AcquireVips | Output::ReleaseVips => {
                    let acquire = output == Output::AcquireVips;
                    if std::mem::replace(&mut self.nodes[node].vips, acquire) == acquire {
                        return Err(self.broken(Rule::Balance, &format!("{rank:?} {output:?}")));
                    }
                }
                Output::Entered { state, cause } => self.entered(node, state, cause, rank)?,
                _ => {}
            }
        }
        let state = self.nodes[node].state();
        if self.nodes[node].vips != (state == State::Master) {
            return Err(self.broken(Rule::Balance, &format!("{rank:?} in {state:?}")));
        }
        let takes_part = matches!(state, State::Backup | State::Master);
        let deadline = self.nodes[node].instance.as_ref().and_then(|it| it.next_deadline());
        if deadline.is_some() != takes_part {
            return Err(self.broken(Rule::Deadline, &format!("{rank:?} in {state:?}")));
        }
        self.count()
    }

    fn entered(
        &mut self,
        node: usize,
        state: State,
        cause: Cause,
        rank: (u8, std::net::IpAddr),
    ) -> Result<(), Violation> {
        self.changes += 1;
        self.nodes[node].resigned = false;
        self.nodes[node].listens_since = (state == State::Backup).then_some(self.now);
        match cause {
            Cause::BetterMaster { address, priority } if (priority, address) < rank => {
                Err(self.broken(Rule::GaveWay, &format!("{rank:?} to {cause:?}")))
            }
            _ => Ok(()),
        }
    }

    /// Watches how many masters there are.
    fn count(&mut self) -> Result<(), Violation> {
        let masters = self.nodes.iter().filter(|node| node.vips).count();
        let now = self.now;
        self.none_since = (masters == 0).then(|| self.none_since.unwrap_or(now));
        self.two_since = (masters > 1).then(|| self.two_since.unwrap_or(now));
        if self.clean && masters > 1 {
            return Err(self.broken(Rule::ClaimedTogether, ""));
        }
        Ok(())
    }

    fn send(&mut self, from: usize, priority: u8) {
        let node = &self.nodes[from];
        if !node.link_up {
            return;
        }
        let interval = node.settings.interval;
        let advert = Advert { source: node.address, priority, interval, same_addresses: true };
        for to in (0..ROUTERS).filter(|to| *to != from) {
            if self.cut[from][to] || self.rng.below(100) < self.loss {
                continue;
            }
            let mut at = self.now + self.rng.below(self.delay + 1);
            // One path of a whole network keeps the order.
            if self.whole {
                at = at.max(self.last[from][to]);
            }
            self.last[from][to] = at;
            self.later(at, Item::Deliver(to, advert));
        }
    }

    pub(super) fn broken(&self, rule: Rule, text: &str) -> Violation {
        let states: Vec<_> = self.nodes.iter().map(|node| (node.rank(), node.state())).collect();
        Violation { rule, text: format!("at {} ns: {text} {states:?}", self.now) }
    }
}
