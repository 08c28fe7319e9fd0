//! Whether somebody else still says that a virtual address is theirs.
//!
//! A master asks for its addresses when it claims them. An answer never stops it: a node whose
//! speaker was killed keeps answering, and would keep everybody else from serving. It makes the
//! address contested: it is asked for and announced again with every advert, until nobody has
//! answered for [`SILENT_ADVERTS`] of them.
//!
//! Must not know: sockets, frames, states of the election.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use crate::vrrp::frame::Mac;

/// Adverts without an answer after which an address is no more contested.
pub const SILENT_ADVERTS: u32 = 3;

/// The contested addresses of one instance.
#[derive(Clone, Debug, Default)]
pub struct Contest {
    addresses: BTreeMap<IpAddr, Rival>,
    /// Until the next advert, who answers may be a master that is just giving way.
    handover: bool,
    suspects: BTreeSet<IpAddr>,
}

#[derive(Clone, Copy, Debug)]
struct Rival {
    mac: Mac,
    /// Adverts since its last answer.
    silent: u32,
}

/// What is to be done with an advert.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// Ask for these.
    pub ask: Vec<IpAddr>,
    /// Announce these.
    pub announce: Vec<IpAddr>,
    /// These are no more contested.
    pub settled: Vec<IpAddr>,
}

impl Contest {
    /// The addresses were claimed; `handover` if a master that can hear it had them until now.
    pub fn begin(&mut self, handover: bool) {
        *self = Self { handover, ..Self::default() };
    }

    /// The addresses were given up.
    pub fn end(&mut self) {
        *self = Self::default();
    }

    /// Somebody says that an address of this master is at `mac`; true when that is news.
    pub fn heard(&mut self, address: IpAddr, mac: Mac) -> bool {
        if self.handover {
            self.suspects.insert(address);
            return false;
        }
        self.addresses.insert(address, Rival { mac, silent: 0 }).is_none()
    }

    /// An advert goes out.
    pub fn advert(&mut self) -> Round {
        let mut round = Round::default();
        if std::mem::take(&mut self.handover) {
            round.ask.extend(std::mem::take(&mut self.suspects));
        }
        self.addresses.retain(|address, rival| {
            rival.silent += 1;
            let contested = rival.silent <= SILENT_ADVERTS;
            if contested {
                round.ask.push(*address);
                round.announce.push(*address);
            } else {
                round.settled.push(*address);
            }
            contested
        });
        round
    }

    /// The contested addresses, and where the other one is.
    pub fn contested(&self) -> impl Iterator<Item = (IpAddr, Mac)> {
        self.addresses.iter().map(|(address, rival)| (*address, rival.mac))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const VIP: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(10, 77, 0, 100));
    const OTHER: Mac = [2, 0, 0, 0, 0, 9];

    fn again() -> Round {
        Round { ask: vec![VIP], announce: vec![VIP], settled: vec![] }
    }

    #[test]
    fn an_answer_is_told_once_and_fought_until_silence() {
        let mut contest = Contest::default();
        contest.begin(false);
        assert_eq!(contest.advert(), Round::default());
        assert!(contest.heard(VIP, OTHER) && !contest.heard(VIP, OTHER));
        assert_eq!(contest.contested().collect::<Vec<_>>(), [(VIP, OTHER)]);
        for _ in 0..10 {
            assert_eq!(contest.advert(), again());
            assert!(!contest.heard(VIP, OTHER));
        }
        for _ in 0..SILENT_ADVERTS {
            assert_eq!(contest.advert(), again());
        }
        assert_eq!(contest.advert(), Round { settled: vec![VIP], ..Round::default() });
        assert_eq!(contest.advert(), Round::default());
    }

    #[test]
    fn a_master_that_gives_way_is_asked_a_second_time() {
        let mut contest = Contest::default();
        contest.begin(true);
        assert!(!contest.heard(VIP, OTHER));
        assert_eq!(contest.contested().count(), 0);
        assert_eq!(contest.advert(), Round { ask: vec![VIP], ..Round::default() });
        assert_eq!(contest.advert(), Round::default());
        assert!(contest.heard(VIP, OTHER), "it has not given way");
    }

    #[test]
    fn what_was_given_up_is_not_contested() {
        let mut contest = Contest::default();
        contest.begin(false);
        assert!(contest.heard(VIP, OTHER));
        contest.end();
        assert_eq!((contest.contested().count(), contest.advert()), (0, Round::default()));
    }
}
