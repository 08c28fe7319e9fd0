//! What was decided about a packet by its first fragment, kept for the later ones.
//!
//! Only a first fragment has ports, so it alone can be led to a connection. The decision is kept
//! under what all fragments of the packet have in common, and followed by the later ones. One that
//! comes before its first fragment leaves a [`WAITING`] entry and goes to user space (`detour`).
//!
//! Must not know: maps, clocks.

use crate::key::ConnKey;
use crate::pod;
use crate::pod::Address;
use crate::wire::{Link, Packet};

pod! {
    /// What the fragments of one packet have in common (RFC 791 3.2, RFC 8200 4.5).
    #[repr(align(8))]
    pub struct FragmentKey {
        /// Source address, IPv4 mapped.
        pub source: Address,
        /// Destination address, IPv4 mapped.
        pub destination: Address,
        /// IP's identification, host order.
        pub identification: u32,
        /// IP protocol number for IPv4; 0 for IPv6, whose fragments need not agree in it.
        pub protocol: u8,
        /// Zero.
        pub pad: [u8; 3],
    }
}

pod! {
    /// What becomes of the fragments of one packet.
    #[repr(align(8))]
    pub struct FragmentEntry {
        /// When a fragment last used this entry, in jiffies.
        pub seen: u64,
        /// Index of the real server (requests and replies).
        pub real_server: u32,
        /// Its generation; another one makes the entry worthless.
        pub generation: u16,
        /// [`WAITING`] or the decision.
        pub decision: u8,
        /// Zero.
        pub pad: u8,
        /// Replies: the virtual address, as `Edit::edit` takes it.
        pub address: [u32; 4],
        /// Replies: the last hop of the connection.
        pub last_hop: Link,
    }
}

/// Nothing is decided: a later fragment came before the first and is held by user space.
pub const WAITING: u8 = 0;
/// To the real server, by its method.
pub const REQUEST: u8 = 1;
/// From the real server back to the client (nat).
pub const REPLY: u8 = 2;
/// Not of a connection: to the stack.
pub const PASS: u8 = 3;
/// The first fragment was dropped.
pub const DROP: u8 = 4;

impl FragmentKey {
    /// The key of the packet that this is a fragment of.
    #[inline(always)]
    pub fn of<K: ConnKey>(packet: &Packet<K>) -> Self {
        let key = &packet.key;
        let ([s0, s1], [d0, d1]) = (key.source_pair(), key.destination_pair());
        let protocol = if K::V4 { u32::from(key.protocol()).to_le() } else { 0 };
        // Identification in the first half of the word as it lies in memory, then the protocol.
        let [a, b, c, d] = packet.identification.to_ne_bytes();
        let [e, f, g, h] = protocol.to_ne_bytes();
        let last = u64::from_ne_bytes([a, b, c, d, e, f, g, h]);
        let mut fragment = Self::zeroed();
        *pod::head_mut::<Self, [u64; 5]>(&mut fragment) = [s0, s1, d0, d1, last];
        fragment
    }
}

impl FragmentEntry {
    /// An entry without a real server.
    #[inline(always)]
    pub const fn bare(decision: u8, now: u64) -> Self {
        let mut entry = Self::zeroed();
        entry.seen = now;
        entry.decision = decision;
        entry
    }

    /// Whether the entry still says something: for a second after its last use.
    #[inline(always)]
    pub const fn is_fresh(&self, now: u64, second: u64) -> bool {
        // Another CPU may have stamped the entry a tick after `now` was read.
        now.wrapping_sub(self.seen) as i64 <= second as i64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::ConnKey4;
    use crate::key::ConnKey6;
    use crate::pod::mapped;

    #[test]
    fn keys_have_all_that_fragments_share_and_nothing_else() {
        let mut packet = Packet::<ConnKey4>::empty();
        packet.key.source = [192, 0, 2, 1];
        packet.key.destination = [203, 0, 113, 9];
        packet.key.protocol = 17;
        packet.identification = 0x1234;
        let key = FragmentKey::of(&packet);
        let expected = FragmentKey {
            source: mapped([192, 0, 2, 1]),
            destination: mapped([203, 0, 113, 9]),
            identification: 0x1234,
            protocol: 17,
            pad: [0; 3],
        };
        assert_eq!(key, expected);
        // The first fragment has ports, the later ones have none.
        packet.key.source_port = 40_000;
        packet.l4_offset = 34;
        assert_eq!(FragmentKey::of(&packet), expected);
        packet.key.protocol = 6;
        assert_ne!(FragmentKey::of(&packet), expected);

        let mut packet = Packet::<ConnKey6>::empty();
        packet.key.source = [0x20; 16];
        packet.key.destination = [0xfd; 16];
        packet.key.protocol = 17;
        packet.identification = 0x8765_4321;
        let key = FragmentKey::of(&packet);
        assert_eq!((key.source, key.destination), ([0x20; 16], [0xfd; 16]));
        assert_eq!((key.identification, key.protocol), (0x8765_4321, 0));
        packet.key.protocol = 60;
        assert_eq!(FragmentKey::of(&packet), key);
    }

    #[test]
    fn an_entry_is_fresh_for_a_second() {
        let entry = FragmentEntry::bare(PASS, 1000);
        assert!(entry.is_fresh(1250, 250) && !entry.is_fresh(1251, 250));
        assert!(entry.is_fresh(999, 250));
    }
}
