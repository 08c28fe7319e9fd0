//! Least connections as IPVS documents them, from counts that are made by adding up connections.
//!
//! Written from ipvsadm(8), `ip_vs_lc.c` and `ip_vs_wlc.c` of Linux 6.12 in words: an active
//! connection counts as 256 inactive ones, wlc divides by the weight, weight 0 is left out. Any server
//! with the least load is allowed. States and timeouts are those of [`crate::ipvs`]. That this is
//! what IPVS does is shown by [`crate::ipvs_traces`]; nothing here comes from the product.

use std::collections::BTreeMap;

use crate::frames::flag;
use crate::ipvs::{self, Half};

/// Which of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Lc,
    Wlc,
}

/// A wrong belief, to show that a comparison would find it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Belief {
    True,
    /// Inactive connections cost nothing.
    InactiveIsFree,
    /// An active connection costs as much as an inactive one.
    AllAreAlike,
    /// wlc is lc.
    WeightsDoNotCount,
    /// The quotient is rounded.
    Rounded,
    /// Weight 0 is weight 1.
    QuietIsChosen,
    /// Connections never end by themselves.
    NothingExpires,
}

/// Every wrong belief.
pub(crate) const WRONG: [Belief; 6] = [
    Belief::InactiveIsFree,
    Belief::AllAreAlike,
    Belief::WeightsDoNotCount,
    Belief::Rounded,
    Belief::QuietIsChosen,
    Belief::NothingExpires,
];

/// What a packet does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    /// It belongs to a connection of this server.
    Stays(usize),
    /// It opens a connection: one of [`Oracle::allowed`] gets it.
    Opens,
    /// It belongs to nothing.
    Nothing,
}

/// A connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Flow {
    pub(crate) server: usize,
    pub(crate) state: &'static str,
    idle_s: u64,
}

/// A service in dr, and what its servers have to do.
#[derive(Clone, Debug)]
pub(crate) struct Oracle {
    kind: Kind,
    belief: Belief,
    pub(crate) weights: Vec<u64>,
    pub(crate) flows: BTreeMap<u16, Flow>,
}

impl Oracle {
    pub(crate) fn new(kind: Kind, belief: Belief, weights: &[u64]) -> Self {
        Self { kind, belief, weights: weights.to_vec(), flows: BTreeMap::new() }
    }

    /// A client's packet. A SYN on a connection that ended closes it first.
    pub(crate) fn packet(&mut self, client: u16, flags: u8) -> Step {
        let opens = flags & (flag::SYN | flag::ACK | flag::RST) == flag::SYN;
        if let Some(flow) = self.flows.get_mut(&client) {
            let ended = ["FIN_WAIT", "TIME_WAIT", "CLOSE"].contains(&flow.state);
            if !(opens && ended) {
                flow.state = ipvs::next(flow.state, Half::InputOnly, flags);
                flow.idle_s = 0;
                return Step::Stays(flow.server);
            }
            self.flows.remove(&client);
        }
        if opens { Step::Opens } else { Step::Nothing }
    }

    /// The connection that a SYN opened was given to `server`.
    pub(crate) fn open(&mut self, client: u16, server: usize) {
        let state = ipvs::next("NONE", Half::InputOnly, flag::SYN);
        self.flows.insert(client, Flow { server, state, idle_s: 0 });
    }

    /// Time passes; connections that were idle for too long are gone.
    pub(crate) fn advance(&mut self, seconds: u64) {
        self.flows.values_mut().for_each(|flow| flow.idle_s += seconds);
        if self.belief != Belief::NothingExpires {
            self.flows.retain(|_, flow| flow.idle_s < ipvs::timeout(flow.state));
        }
    }

    /// Active and inactive connections of a server.
    pub(crate) fn counts(&self, server: usize) -> (u64, u64) {
        let own = self.flows.values().filter(|flow| flow.server == server);
        let (active, inactive): (Vec<&Flow>, _) = own.partition(|f| ipvs::is_active(f.state));
        (active.len() as u64, inactive.len() as u64)
    }

    /// Who may get the next connection: no server that takes connections has a smaller load.
    pub(crate) fn allowed(&self) -> Vec<usize> {
        let takes = |server: &usize| self.weight(*server) > 0;
        let all = || (0..self.weights.len()).filter(takes);
        // Load a / v is at most b / w, without a division.
        let at_most = |a: usize, b: usize| {
            let (v, w) = (self.weight(a), self.weight(b));
            if self.belief == Belief::Rounded {
                return self.load(a) / v <= self.load(b) / w;
            }
            self.load(a) * w <= self.load(b) * v
        };
        all().filter(|a| all().all(|b| at_most(*a, b))).collect()
    }

    fn load(&self, server: usize) -> u64 {
        let (active, inactive) = self.counts(server);
        match self.belief {
            Belief::InactiveIsFree => 256 * active,
            Belief::AllAreAlike => active + inactive,
            _ => 256 * active + inactive,
        }
    }

    fn weight(&self, server: usize) -> u64 {
        match (self.weights[server], self.kind, self.belief) {
            (0, _, Belief::QuietIsChosen) => 1,
            (0, ..) => 0,
            (_, Kind::Lc, _) | (_, _, Belief::WeightsDoNotCount) => 1,
            (weight, ..) => weight,
        }
    }
}
