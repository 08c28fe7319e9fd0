//! What a director does, in a few plain maps: written from the design and IPVS's text tables,
//! without the product's state machine, words or tables.
//!
//! Time is counted in units of the simulation; an entry knows for how many it has been idle.

use std::collections::BTreeMap;

use lb_common::hash;
use lb_common::service::METHOD_NAT;

use crate::frames::flag;
use crate::ipvs::{self, Half};
use crate::rig::{TCP, address};
use crate::services::{End, Installed};

/// Idle units after which an entry is over, by state. Half a unit more in the program's tables,
/// so that the time that the test itself takes does not matter.
pub(crate) fn lifetime(state: &str) -> u64 {
    match state {
        "ESTABLISHED" => 6,
        "FIN_WAIT" | "TIME_WAIT" => 3,
        "UDP" => 4,
        "CLOSE" | "LAST_ACK" => 1,
        _ => 2,
    }
}

/// A wrong belief, to show that the comparison would find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    None,
    /// A SYN stays with a connection that ended.
    SynNeverReopens,
    /// What is over is still used.
    NothingExpires,
    /// Connections of a server's earlier use go on.
    GenerationsDoNotMatter,
    /// A server's FIN and RST say nothing.
    RepliesDoNotCount,
    /// A second packet leaves a provisional connection provisional.
    NothingIsConfirmed,
    /// FIN_WAIT is counted as active.
    FinWaitIsActive,
    /// Two services may know the same client on one server.
    TuplesAreFree,
    /// A closed connection keeps its place in the counts.
    CountsAreNotMoved,
}

/// Every wrong belief.
pub(crate) const FAULTS: [Fault; 8] = [
    Fault::SynNeverReopens,
    Fault::NothingExpires,
    Fault::GenerationsDoNotMatter,
    Fault::RepliesDoNotCount,
    Fault::NothingIsConfirmed,
    Fault::FinWaitIsActive,
    Fault::TuplesAreFree,
    Fault::CountsAreNotMoved,
];

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fate {
    /// To this server of the service.
    ToServer(usize),
    /// To the client, from this service.
    ToClient(usize),
    Pass,
    Drop(&'static str),
}

/// What becomes of a reply whose connection is over.
const OVER: Fate = Fate::Drop("reply_without_connection");

/// Number of the service, and the client.
pub(crate) type FlowKey = (usize, End);
/// The server's end, the client, the protocol.
type Tuple = (End, End, u8);

/// A connection.
#[derive(Clone, Debug)]
pub(crate) struct Connection {
    id: u64,
    pub(crate) server: usize,
    generation: u64,
    pub(crate) state: &'static str,
    pub(crate) provisional: bool,
    idle: u64,
}

/// Where replies of a connection are known.
#[derive(Clone, Debug)]
struct Reply {
    owner: FlowKey,
    id: u64,
    idle: u64,
}

/// A director.
pub(crate) struct Model {
    pub(crate) services: Vec<Installed>,
    pub(crate) flows: BTreeMap<FlowKey, Connection>,
    replies: BTreeMap<Tuple, Reply>,
    /// Uses of every server, by service.
    generations: Vec<Vec<u64>>,
    turns: Vec<u64>,
    /// Connections that are counted though they are gone; a fault only.
    ghosts: BTreeMap<(usize, usize), (i64, i64)>,
    ids: u64,
    fault: Fault,
}

impl Model {
    pub(crate) fn new(services: Vec<Installed>, fault: Fault) -> Self {
        Self {
            flows: BTreeMap::new(),
            replies: BTreeMap::new(),
            generations: services.iter().map(|s| vec![0; s.index.len()]).collect(),
            turns: vec![0; services.len()],
            ghosts: BTreeMap::new(),
            ids: 0,
            services,
            fault,
        }
    }

    /// A client's packet.
    pub(crate) fn request(&mut self, flow: FlowKey, flags: u8) -> Fate {
        let (service, _) = flow;
        let tcp = self.services[service].wanted.protocol == TCP;
        let opens = tcp && flags & (flag::SYN | flag::ACK | flag::RST) == flag::SYN;
        if let Some(known) = self.flows.get(&flow) {
            let ended = ["FIN_WAIT", "TIME_WAIT", "CLOSE"].contains(&known.state)
                && self.fault != Fault::SynNeverReopens;
            if self.is_over(service, known) || opens && ended {
                self.close(flow);
            } else {
                let half = self.half(service);
                let confirmed = self.fault != Fault::NothingIsConfirmed;
                let known = self.flows.get_mut(&flow).expect("just seen");
                known.idle = 0;
                if tcp {
                    known.state = ipvs::next(known.state, half, flags);
                    known.provisional &= !confirmed;
                }
                return Fate::ToServer(known.server);
            }
        }
        self.admit(flow, flags, tcp)
    }

    fn admit(&mut self, flow: FlowKey, flags: u8, tcp: bool) -> Fate {
        let (service, client) = flow;
        if tcp && flags & flag::RST != 0 {
            return Fate::Drop("rst_without_connection");
        }
        let scheduled = !tcp || flags & (flag::SYN | flag::ACK) == flag::SYN;
        let mut tried = Vec::new();
        for _ in 0..4 {
            let next = if scheduled {
                Some(self.turn(service))
            } else {
                self.by_hash(service, client, &tried)
            };
            let Some(server) = next else {
                break;
            };
            let tuple = self.tuple(service, server, client);
            if self.is_nat(service) && !self.make_room(tuple) {
                tried.push(server);
                continue;
            }
            self.ids += 1;
            let state = match (tcp, scheduled) {
                (false, _) => "UDP",
                (true, true) => ipvs::next("NONE", self.half(service), flags),
                (true, false) => ipvs::next("ESTABLISHED", self.half(service), flags),
            };
            let generation = self.generations[service][server];
            let (id, provisional) = (self.ids, !scheduled);
            let new = Connection { id, server, generation, state, provisional, idle: 0 };
            self.flows.insert(flow, new);
            if self.is_nat(service) {
                self.replies.insert(tuple, Reply { owner: flow, id, idle: 0 });
            }
            return Fate::ToServer(server);
        }
        Fate::Drop("nat_tuple_in_use")
    }

    /// A server's packet.
    pub(crate) fn reply(&mut self, flow: FlowKey, server: usize, flags: u8) -> Fate {
        let (service, client) = flow;
        let tuple = self.tuple(service, server, client);
        let Some(half) = self.replies.get(&tuple).cloned() else {
            return Fate::Pass;
        };
        let (owner, _) = half.owner;
        let Some(known) = self.flows.get(&half.owner).filter(|known| known.id == half.id) else {
            return OVER;
        };
        if !self.is_current(owner, known) {
            return OVER;
        }
        // The forward half is asked on flags that matter, and when a second has passed.
        let matters = flags & (flag::SYN | flag::FIN | flag::RST) != 0;
        if !matters && half.idle == 0 {
            return Fate::ToClient(owner);
        }
        if self.is_over(owner, known) {
            return OVER;
        }
        let tcp = self.services[owner].wanted.protocol == TCP;
        let known = self.flows.get_mut(&half.owner).expect("just seen");
        known.idle = 0;
        if tcp && self.fault != Fault::RepliesDoNotCount {
            known.state = ipvs::next(known.state, Half::Output, flags);
            known.provisional = false;
        }
        self.replies.get_mut(&tuple).expect("just seen").idle = 0;
        Fate::ToClient(owner)
    }

    /// Time passes.
    pub(crate) fn advance(&mut self, units: u64) {
        self.flows.values_mut().for_each(|known| known.idle += units);
        self.replies.values_mut().for_each(|half| half.idle += units);
    }

    /// A server's index gets another use.
    pub(crate) fn bump(&mut self, service: usize, server: usize) {
        self.generations[service][server] += 1;
    }

    /// A connection is proposed to the expire program.
    pub(crate) fn expire(&mut self, flow: FlowKey) {
        if self.flows.get(&flow).is_some_and(|known| self.is_over(flow.0, known)) {
            self.close(flow);
        }
    }

    /// Active and inactive connections of a server.
    pub(crate) fn counts(&self, service: usize, server: usize) -> (i64, i64) {
        let mut counts = self.ghosts.get(&(service, server)).copied().unwrap_or_default();
        for ((of, _), known) in &self.flows {
            if *of == service && known.server == server {
                self.add(&mut counts, known);
            }
        }
        counts
    }

    /// Connections, and reply halves.
    pub(crate) fn sizes(&self) -> (usize, usize) {
        (self.flows.len(), self.replies.len())
    }

    fn add(&self, counts: &mut (i64, i64), known: &Connection) {
        let fooled = self.fault == Fault::FinWaitIsActive && known.state == "FIN_WAIT";
        if ipvs::is_active(known.state) || fooled {
            counts.0 += 1;
        } else {
            counts.1 += 1;
        }
    }

    fn close(&mut self, flow: FlowKey) {
        let Some(known) = self.flows.remove(&flow) else {
            return;
        };
        self.replies.retain(|_, half| half.id != known.id);
        if self.fault == Fault::CountsAreNotMoved {
            let key = (flow.0, known.server);
            let mut counts = self.ghosts.get(&key).copied().unwrap_or_default();
            self.add(&mut counts, &known);
            self.ghosts.insert(key, counts);
        }
    }

    /// Whether a reply's place is free, or held by a connection that is over, which then goes.
    fn make_room(&mut self, tuple: Tuple) -> bool {
        let Some(half) = self.replies.get(&tuple) else {
            return true;
        };
        let owner = half.owner;
        if self.flows.get(&owner).is_some_and(|known| self.is_over(owner.0, known)) {
            self.close(owner);
            return true;
        }
        self.fault == Fault::TuplesAreFree
    }

    fn is_over(&self, service: usize, known: &Connection) -> bool {
        let state = if known.provisional { "SYN_RECV" } else { known.state };
        let late = known.idle > lifetime(state) && self.fault != Fault::NothingExpires;
        late || !self.is_current(service, known)
    }

    fn is_current(&self, service: usize, known: &Connection) -> bool {
        known.generation == self.generations[service][known.server]
            || self.fault == Fault::GenerationsDoNotMatter
    }

    fn is_nat(&self, service: usize) -> bool {
        self.services[service].wanted.method == METHOD_NAT
    }

    fn half(&self, service: usize) -> Half {
        if self.is_nat(service) { Half::Input } else { Half::InputOnly }
    }

    fn tuple(&self, service: usize, server: usize, client: End) -> Tuple {
        let wanted = &self.services[service].wanted;
        (wanted.servers[server], client, wanted.protocol)
    }

    fn turn(&mut self, service: usize) -> usize {
        let ring = &self.services[service].wanted.ring;
        self.turns[service] += 1;
        ring[(self.turns[service] - 1) as usize % ring.len()]
    }

    /// The client's slot, and those after it while a server was tried.
    fn by_hash(&self, service: usize, (ip, port): End, tried: &[usize]) -> Option<usize> {
        let maglev = &self.services[service].wanted.maglev;
        let first =
            hash::slot(hash::address(hash::FLOW_SEED, &address(ip), port), maglev.len() as u32);
        let from = maglev.iter().cycle().skip(first as usize).take(maglev.len());
        from.copied().find(|server| !tried.contains(server))
    }
}
