//! The ways of probes that go by their service (`via: service`), and the marks that name them.
//!
//! The controller sets the data plane up and tells it here; a probe asks here before it begins. A
//! way that is not there is a server that cannot be reached, never one that is asked directly.
//!
//! Must not know: BPF, thresholds, who uses a way.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lb_common::via;

use crate::model::Way;

/// What is known of a way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// The data plane leads packets with the mark of this index.
    Ready(u16),
    /// The real server's next hop is not known, or does not answer.
    NoNextHop,
    /// This host cannot send so, for this reason.
    Failed(String),
}

/// The ways of all probes; clones share them.
#[derive(Clone, Debug, Default)]
pub struct Ways(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    known: Mutex<HashMap<Way, Known>>,
    last_port: AtomicU16,
}

/// What a socket needs to send by a way.
#[derive(Clone, Debug)]
pub struct Marked {
    /// `SO_MARK`.
    pub mark: u32,
    /// Its packets get another header.
    pub tunnel: bool,
    ways: Ways,
}

impl Marked {
    /// A local port for the next socket. Ports are given out in a circle, so that no two probes that
    /// run at a time have the same: answers of one virtual address from several real servers are told
    /// apart by it.
    pub fn next_port(&self) -> u16 {
        let last = &self.ways.0.last_port;
        let next = |port: u16| {
            Some(if (FIRST_PORT..LAST_PORT).contains(&port) { port + 1 } else { FIRST_PORT })
        };
        let before = last.fetch_update(Ordering::Relaxed, Ordering::Relaxed, next);
        let (Ok(before) | Err(before)) = before;
        next(before).unwrap_or(FIRST_PORT)
    }
}

impl Ways {
    /// Replaces what is known.
    pub fn set(&self, known: HashMap<Way, Known>) {
        *self.known() = known;
    }

    /// What sockets need for a way.
    ///
    /// # Errors
    /// Why it cannot be gone; a failure of this host is [`Known::Failed`].
    pub fn find(&self, way: &Way) -> Result<Marked, Known> {
        match self.known().get(way) {
            Some(Known::Ready(index)) => Ok(Marked {
                mark: via::MARK | u32::from(*index),
                tunnel: way.tunnel,
                ways: self.clone(),
            }),
            Some(why) => Err(why.clone()),
            None => Err(Known::NoNextHop),
        }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<Way, Known>> {
        self.0.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The dynamic ports that Linux, too, gives out (`net.ipv4.ip_local_port_range`).
const FIRST_PORT: u16 = 32768;
const LAST_PORT: u16 = 60999;

#[cfg(test)]
mod tests {
    use super::*;

    fn way() -> Way {
        let ip = |text: &str| text.parse().expect("an address");
        Way { vip: ip("192.0.2.1"), server: ip("10.0.0.1"), tunnel: false }
    }

    #[test]
    fn a_way_that_nobody_set_up_is_no_way() {
        let ways = Ways::default();
        assert_eq!(ways.find(&way()).map(|_| ()), Err(Known::NoNextHop));
        ways.set(HashMap::from([(way(), Known::Ready(7))]));
        let marked = ways.find(&way()).expect("a way");
        assert_eq!((marked.mark, via::way_of(marked.mark)), (0x4c42_0007, Some(7)));
        let other = Way { tunnel: true, ..way() };
        assert!(ways.find(&other).is_err());
    }

    #[test]
    fn ports_go_round() {
        let ways = Ways::default();
        ways.set(HashMap::from([(way(), Known::Ready(0))]));
        let marked = ways.find(&way()).expect("a way");
        let count = usize::from(LAST_PORT - FIRST_PORT) + 1;
        let ports: std::collections::BTreeSet<u16> =
            (0..count).map(|_| marked.next_port()).collect();
        assert_eq!(ports.len(), count);
        assert_eq!(ports.first().zip(ports.last()), Some((&FIRST_PORT, &LAST_PORT)));
        assert!(ports.contains(&marked.next_port()));
    }
}
