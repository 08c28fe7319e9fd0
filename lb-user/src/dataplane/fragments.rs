//! Later fragments that came before their first one: how many are held, how long, and when they are
//! run again.
//!
//! [`Fragments`] is told what came through the ring and what time it is, and asks a [`Plane`] about
//! decisions. Every fragment ends in exactly one of two ways: it is run again, or counted as dropped.
//!
//! Must not know: rings, sockets, clocks.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use lb_common::fragment::FragmentKey;

/// What this module needs of the kernel side.
pub trait Plane {
    /// Whether the packet's first fragment was seen.
    fn is_decided(&mut self, key: &FragmentKey) -> bool;

    /// Runs a fragment again.
    fn rerun(&mut self, held: Held);
}

/// A frame, and the interface that it came in by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Interface index.
    pub ingress: u32,
    /// Its bytes.
    pub frame: Vec<u8>,
}

/// How much is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Packets of which fragments are held.
    pub packets: usize,
    /// Bytes of all held frames.
    pub bytes: usize,
    /// Held fragments of one packet.
    pub fragments_of_one: usize,
    /// Held bytes of one packet.
    pub bytes_of_one: usize,
    /// How long the first that came of a packet is held, and all others with it.
    pub lifetime: Duration,
    /// Time between two looks at decisions that nobody told of.
    pub look: Duration,
}

/// Enough for a thousand of the largest packets out of order within a second; beyond it is a flood.
pub const LIMITS: Limits = Limits {
    packets: 1024,
    bytes: 8 * 1024 * 1024,
    // 64 KiB in fragments of the smallest MTU that IPv4 hosts use (576).
    fragments_of_one: 128,
    bytes_of_one: 96 * 1024,
    lifetime: Duration::from_secs(1),
    look: Duration::from_millis(50),
};

/// Fragments that were dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Lost {
    /// Their time was up.
    pub timeout: u64,
    /// They made room for newer ones, or were too much of one packet.
    pub overflow: u64,
}

/// Held fragments.
#[derive(Debug)]
pub struct Fragments {
    limits: Limits,
    packets: HashMap<FragmentKey, Packet>,
    /// Keys by age: the number that a packet got when its first fragment came.
    ages: BTreeMap<u64, FragmentKey>,
    next_age: u64,
    bytes: usize,
    look_at: Option<Instant>,
    lost: Lost,
}

#[derive(Debug)]
struct Packet {
    age: u64,
    until: Instant,
    held: Vec<Held>,
    bytes: usize,
}

impl Fragments {
    /// Holds nothing yet.
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            packets: HashMap::new(),
            ages: BTreeMap::new(),
            next_age: 0,
            bytes: 0,
            look_at: None,
            lost: Lost::default(),
        }
    }

    /// A fragment came through the ring. The decision may have been made since the kernel handed it
    /// over, by one who found nobody waiting: so it is looked up before the fragment is held.
    pub fn receive(&mut self, now: Instant, key: FragmentKey, held: Held, plane: &mut impl Plane) {
        if plane.is_decided(&key) {
            self.release(&key, plane);
            plane.rerun(held);
            return;
        }
        self.hold(now, key, held);
        self.check();
    }

    /// What a packet's fragments waited for was decided.
    pub fn decided(&mut self, key: &FragmentKey, plane: &mut impl Plane) {
        self.release(key, plane);
        self.check();
    }

    /// Drops what waited too long, and looks for decisions whose news was lost.
    pub fn wake(&mut self, now: Instant, plane: &mut impl Plane) {
        if self.look_at.is_some_and(|at| at <= now) {
            let decided: Vec<FragmentKey> =
                self.ages.values().filter(|key| plane.is_decided(key)).copied().collect();
            for key in decided {
                self.release(&key, plane);
            }
            self.look_at = Some(now + self.limits.look);
        }
        while let Some(oldest) = self.oldest()
            && self.packets.get(&oldest).is_none_or(|packet| packet.until <= now)
        {
            self.lost.timeout += self.remove(&oldest).len() as u64;
        }
        if self.packets.is_empty() {
            self.look_at = None;
        }
        self.check();
    }

    /// When [`Fragments::wake`] is to be called next.
    pub fn wake_at(&self) -> Option<Instant> {
        let until = self.oldest().and_then(|key| Some(self.packets.get(&key)?.until));
        until.into_iter().chain(self.look_at).min()
    }

    /// What was dropped since the last call.
    pub fn take_lost(&mut self) -> Lost {
        std::mem::take(&mut self.lost)
    }

    /// Packets and bytes that are held.
    pub fn size(&self) -> (usize, usize) {
        (self.packets.len(), self.bytes)
    }

    fn hold(&mut self, now: Instant, key: FragmentKey, held: Held) {
        let Limits { fragments_of_one, bytes_of_one, .. } = self.limits;
        let (count, bytes) =
            self.packets.get(&key).map_or((0, 0), |packet| (packet.held.len(), packet.bytes));
        let length = held.frame.len();
        if count + 1 > fragments_of_one || bytes + length > bytes_of_one {
            self.lost.overflow += 1;
            return;
        }
        let until = now + self.limits.lifetime;
        let ages = &mut self.ages;
        let next_age = &mut self.next_age;
        let packet = self.packets.entry(key).or_insert_with(|| {
            let age = *next_age;
            *next_age += 1;
            ages.insert(age, key);
            Packet { age, until, held: Vec::new(), bytes: 0 }
        });
        packet.bytes += length;
        packet.held.push(held);
        self.bytes += length;
        self.look_at.get_or_insert(now + self.limits.look);
        while self.packets.len() > self.limits.packets || self.bytes > self.limits.bytes {
            let Some(oldest) = self.oldest() else { return };
            self.lost.overflow += self.remove(&oldest).len() as u64;
        }
    }

    fn release(&mut self, key: &FragmentKey, plane: &mut impl Plane) {
        for held in self.remove(key) {
            plane.rerun(held);
        }
    }

    fn oldest(&self) -> Option<FragmentKey> {
        self.ages.first_key_value().map(|(_, key)| *key)
    }

    fn remove(&mut self, key: &FragmentKey) -> Vec<Held> {
        let Some(packet) = self.packets.remove(key) else {
            return Vec::new();
        };
        self.ages.remove(&packet.age);
        self.bytes -= packet.bytes;
        packet.held
    }

    /// What always holds.
    fn check(&self) {
        debug_assert_eq!(self.ages.len(), self.packets.len());
        debug_assert!(self.packets.len() <= self.limits.packets);
        debug_assert!(self.bytes <= self.limits.bytes);
        debug_assert!(self.packets.is_empty() || self.wake_at().is_some());
    }
}

#[cfg(test)]
mod tests;
