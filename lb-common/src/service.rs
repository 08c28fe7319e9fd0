//! Virtual services and real servers as the data plane sees them.
//!
//! A service is found by [`ServiceKey`]; several keys may carry the same id (IPVS's fwmark use).
//! Its entry points at regions of the slot array, which hold real-server indices. A real server's
//! element holds all that forwarding needs, so a changed next hop is one write.
//!
//! Must not know: YAML, health, names.

use crate::hash::TableSeed;
use crate::key::ConnKey;
use crate::pod;
use crate::pod::Address;
use crate::wire::Link;

pod! {
    /// What a client connects to.
    #[repr(align(8))]
    pub struct ServiceKey {
        /// Virtual address.
        pub address: Address,
        /// Port, host order.
        pub port: u16,
        /// IP protocol number.
        pub protocol: u8,
        /// Zero.
        pub pad: [u8; 5],
    }
}

impl ServiceKey {
    /// What a packet with this connection key asks for.
    #[inline(always)]
    pub fn of<K: ConnKey>(key: &K) -> Self {
        let [high, low] = key.destination_pair();
        let [a, b] = key.ports().1.to_ne_bytes();
        let mut service = Self::zeroed();
        *pod::head_mut::<Self, [u64; 3]>(&mut service) =
            [high, low, u64::from_ne_bytes([a, b, key.protocol(), 0, 0, 0, 0, 0])];
        service
    }
}

pod! {
    /// A run of entries in the slot array.
    pub struct Region {
        /// First entry.
        pub base: u32,
        /// Number of entries; 0 is an empty table.
        pub len: u32,
    }
}

pod! {
    /// A virtual service. Replaced as a whole, so its regions always belong together.
    pub struct ServiceEntry {
        /// Index of the cursor and of the retired traffic; equal in all keys of one service.
        pub id: u32,
        /// `SERVICE_*` flags.
        pub flags: u32,
        /// `SCHEDULER_*`.
        pub scheduler: u32,
        /// Timeout profile.
        pub timeouts: u32,
        /// What the scheduler chooses from: the ring of rr and wrr, the members of lc and wlc;
        /// empty for sh and mh.
        pub slots: Region,
        /// The Maglev table: the stateless fallback, and the whole of sh and mh.
        pub maglev: Region,
    }
}

/// The flow hash counts the client's port, not its address alone.
pub const SERVICE_HASH_PORT: u32 = 1;
/// A flow whose hashed server takes no new connections goes to another one (IPVS's `sh-fallback`
/// and `mh-fallback`). Set for every scheduler that does not hash by itself.
pub const SERVICE_HASH_FALLBACK: u32 = 2;

/// The next slot in turn: rr and wrr differ only in how their tables are filled.
pub const SCHEDULER_RING: u32 = 0;
/// The member with the fewest connections (lc).
pub const SCHEDULER_LC: u32 = 1;
/// The member with the fewest connections for its weight (wlc).
pub const SCHEDULER_WLC: u32 = 2;
/// By the flow's hash in the Maglev table: sh and mh.
pub const SCHEDULER_HASH: u32 = 3;

pod! {
    /// A real server of one service, by index.
    #[repr(align(8))]
    pub struct RealServer {
        /// Its address.
        pub address: Address,
        /// Its port, host order.
        pub port: u16,
        /// Use of this index, 12 bits; entries of an earlier use are dead.
        pub generation: u16,
        /// `RS_*` flags.
        pub flags: u32,
        /// Id of its service.
        pub service: u32,
        /// Timeout profile of its service.
        pub timeouts: u32,
        /// Next hop, when `RS_NEXT_HOP` is set.
        pub next_hop: Link,
        /// `METHOD_*`.
        pub method: u8,
        /// Zero.
        pub pad: u8,
        /// Largest packet that reaches it, from its IP header on, a tunnel's header already taken
        /// off; 0 is unknown.
        pub mtu: u16,
        /// Effective weight; 0 takes no new connections.
        pub weight: u32,
        /// Our end of its tunnel; all zero while it is not known.
        pub tunnel_source: Address,
        /// Zero: the rest of the second cache line.
        pub reserved: [u64; 6],
    }
}

const _: () = assert!(size_of::<RealServer>() == 128);

impl RealServer {
    /// Its address as four words, the last one for IPv4. Words, because bytes would be loaded one
    /// by one.
    #[inline(always)]
    pub fn address_words(&self) -> [u32; 4] {
        *pod::head::<Self, [u32; 4]>(self)
    }

    /// Our end of its tunnel as four words.
    #[inline(always)]
    pub fn tunnel_source_words(&self) -> [u32; 4] {
        let words = pod::head::<Self, [u32; 20]>(self);
        [words[16], words[17], words[18], words[19]]
    }
}

const _: () = assert!(core::mem::offset_of!(RealServer, tunnel_source) == 64);

/// The element is in use; entries of its generation are alive.
pub const RS_VALID: u32 = 1;
/// The next hop is known.
pub const RS_NEXT_HOP: u32 = 2;
/// Its connections were expired and it has none of them any more.
pub const RS_EXPIRED: u32 = 4;
/// Its tunnel lowers the MSS of connections to what fits.
pub const RS_MSS_CLAMP: u32 = 8;
/// Both ends of its connections get an RST when it is removed (nat).
pub const RS_RESET: u32 = 16;

/// Direct routing.
pub const METHOD_DR: u8 = 0;
/// Destination rewritten, replies rewritten back.
pub const METHOD_NAT: u8 = 1;
/// Packets are wrapped in another IP header; the real server unwraps them and answers itself.
pub const METHOD_TUNNEL: u8 = 2;

/// Bits of [`RealServer::generation`].
pub const GENERATION_MASK: u16 = 0xfff;

pod! {
    /// What one CPU has forwarded for one real server.
    pub struct Traffic {
        /// Connections.
        pub connections: u64,
        /// Packets from clients.
        pub packets_in: u64,
        /// Their bytes, from the IP header on.
        pub bytes_in: u64,
        /// Packets from the real server (nat).
        pub packets_out: u64,
        /// Their bytes.
        pub bytes_out: u64,
    }
}

pod! {
    /// What the program has to know beyond services; one element.
    pub struct Config {
        /// When the controller was last heard of, in jiffies; written by `lb_clock` only.
        pub heartbeat: u64,
        /// Age of the heartbeat in jiffies above which precomputed next hops are not trusted.
        pub heartbeat_max: u64,
        /// Jiffies a second.
        pub hz: u64,
        /// New flows per second and CPU above which flows get no entry; 0 is never.
        pub flood_limit: u64,
        /// `CONFIG_*` flags.
        pub flags: u64,
        /// Seed of the connection tables; all zero while nothing was put into them. The programs
        /// have their own copy since they were loaded.
        pub seed: TableSeed,
    }
}

/// Nat replies go where the routing table says, not to the last hop.
pub const CONFIG_REPLY_ROUTE: u64 = 1;
/// Only sources on the allow list reach virtual addresses.
pub const CONFIG_ALLOW_ONLY: u64 = 1 << 16;

pod! {
    /// What the program knows of an interface.
    pub struct Interface {
        /// Frames to another unicast address are not for this node; all zero means unknown.
        pub mac: [u8; 6],
        /// Zero.
        pub pad: [u8; 2],
        /// `INTERFACE_*` flags.
        pub flags: u32,
    }
}

/// The link is down; a learnt last hop over it is not used.
pub const INTERFACE_DOWN: u32 = 1;

pod! {
    /// What one CPU keeps between packets.
    pub struct PerCpu {
        /// Uses of table elements made so far.
        pub sequence: u64,
        /// New flows.
        pub new_flows: Meter,
        /// ICMP errors and path MTU events that were made.
        pub icmp: Meter,
    }
}

pod! {
    /// How often something happened on one CPU in a second.
    pub struct Meter {
        /// When the second began, in jiffies.
        pub began: u64,
        /// How often it happened since.
        pub count: u64,
    }
}

impl Meter {
    /// Counts once more at `now`; whether that is more than `limit` in the second. A second is
    /// `hz` jiffies long and begins with what comes first after the one before.
    #[inline(always)]
    pub fn exceeds(&mut self, limit: u64, now: u64, hz: u64) -> bool {
        if now.wrapping_sub(self.began) >= hz {
            self.began = now;
            self.count = 0;
        }
        self.count += 1;
        self.count > limit
    }
}

pod! {
    /// What the program tells the controller.
    pub struct Event {
        /// The address that it is about.
        pub address: Address,
        /// Our end of the tunnel (`EVENT_PATH_MTU`); else all zero.
        pub source: Address,
        /// `EVENT_*`.
        pub kind: u32,
        /// As the kind says.
        pub value: u32,
    }
}

impl Event {
    /// An event of this kind about an address, IPv4 mapped; addresses as words, because bytes
    /// would be stored one by one.
    #[inline(always)]
    pub fn new(kind: u32, value: u32, address: [u32; 4], source: [u32; 4]) -> Self {
        let ([a, b, c, d], [e, f, g, h]) = (address, source);
        let mut event = Self::zeroed();
        *pod::head_mut::<Self, [u32; 10]>(&mut event) = [a, b, c, d, e, f, g, h, kind, value];
        event
    }
}

/// Frames for this address were dropped because its neighbour on interface `value` is not known.
pub const EVENT_NEIGHBOUR: u32 = 1;
/// A router said that packets of at most `value` bytes reach this address: 0 when it did not say
/// how many.
pub const EVENT_PATH_MTU: u32 = 2;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::mapped_words;

    #[test]
    fn a_meter_counts_anew_when_its_second_is_over() {
        let mut meter = Meter::zeroed();
        let mut at = |now| meter.exceeds(2, now, 100);
        assert_eq!([at(1000), at(1000), at(1099), at(1099)], [false, false, true, true]);
        assert_eq!([at(1100), at(1150), at(1199), at(1200)], [false, false, true, false]);
        assert_eq!(meter, Meter { began: 1200, count: 1 });
    }

    #[test]
    fn an_event_has_each_part_in_its_field() {
        let (peer, own) = ([10, 0, 0, 1], [10, 0, 0, 2]);
        let words = |address| mapped_words(u32::from_ne_bytes(address));
        let event = Event::new(EVENT_PATH_MTU, 1400, words(peer), words(own));
        let (address, source) = (pod::mapped(peer), pod::mapped(own));
        assert_eq!(event, Event { address, source, kind: EVENT_PATH_MTU, value: 1400 });
    }
}
