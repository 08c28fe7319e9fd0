//! Connections as the tables hold them: entries, and the word that is a connection's state.
//!
//! The state, the real server and the use of the table element are one 64-bit [`Word`] that is only
//! ever changed by compare-exchange: whoever wins the exchange moves the active and inactive counts,
//! so the counts are exact whatever races (see ARCHITECTURE.md, "Exact counts").
//!
//! Must not know: clocks, maps.

pub use crate::key::{ConnKey, ConnKey4, ConnKey6};
use crate::pod;
pub use crate::state::{Direction, State, flags, next_state};
use crate::wire::Link;

/// One half of a connection, and a slot of the table. Dr needs one; nat has a forward and a reply
/// half under two keys.
///
/// Neither half holds the other's key, which follows from what each has: a reply half knows the
/// virtual end that its requests went to, and a forward half's server is in the server's element.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnEntry<K: ConnKey> {
    /// The packets' addresses, ports and protocol.
    pub key: K,
    /// The [`Word`]. A reply half carries the sequence and the real server of its forward half.
    pub word: u64,
    /// When a packet last used this half, in jiffies.
    pub seen: u64,
    /// Where replies go: back to the neighbour that the request came from (nat).
    pub last_hop: Link,
    /// Virtual address and port that the client wants (nat).
    pub virtual_end: K::Endpoint,
    /// Zero.
    pub room: K::Room,
}

impl<K: ConnKey> ConnEntry<K> {
    /// The entry whose bytes are all zero.
    pub const ZERO: Self = Self {
        key: K::ZERO,
        word: 0,
        seen: 0,
        last_hop: Link::zeroed(),
        virtual_end: K::NOWHERE,
        room: K::ROOM,
    };

    /// For a reply half: the key of its forward half.
    #[inline(always)]
    pub fn forward_key(&self) -> K {
        self.key.request_to(&self.virtual_end)
    }

    /// Whether the end that sends on this half was told by an RST that the connection is over.
    #[inline(always)]
    pub const fn is_told(&self) -> bool {
        self.last_hop.pad[0] != 0
    }

    /// Remembers that it was. The link is not sent over any more.
    #[inline(always)]
    pub const fn set_told(&mut self) {
        self.last_hop.pad[0] = 1;
    }
}

/// An IPv4 entry.
pub type ConnEntry4 = ConnEntry<ConnKey4>;
/// An IPv6 entry.
pub type ConnEntry6 = ConnEntry<ConnKey6>;

const _: () = assert!(size_of::<ConnEntry4>() == 64 && size_of::<ConnEntry6>() == 128);
const _: () = assert!(size_of::<ConnKey4>() + 16 + size_of::<Link>() + 8 == 64);
const _: () = assert!(size_of::<ConnKey6>() + 16 + size_of::<Link>() + 24 + 24 == 128);
// SAFETY: repr(C); every field is Pod, and the assertions above leave no room for padding.
#[allow(unsafe_code)]
unsafe impl<K: ConnKey> pod::Pod for ConnEntry<K> {}
#[cfg(feature = "user")]
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl<K: ConnKey> aya::Pod for ConnEntry<K> {}

pod! {
    /// Connections of one real server. A cache line, so that servers do not share one.
    pub struct ConnectionCounts {
        /// Those in an active state (two's complement: never below 0 unless something is wrong).
        pub active: u64,
        /// All others, and every UDP connection.
        pub inactive: u64,
        /// Zero.
        pub pad: [u64; 6],
    }
}

pod! {
    /// Idle times by [`State`], in jiffies.
    pub struct Timeouts {
        /// Indexed by `State::raw()`.
        pub by_state: [u64; 16],
    }
}

/// The word of a connection: everything that a transition may change, in one atomic unit. It also
/// says what a slot is when it is no connection's.
///
/// Bits of a live word, low to high: 4 flags, 4 state, 20 real-server index, 12 generation, 24
/// sequence. The other words have state 0, which no connection is ever in: all zero is a slot that
/// was never used, [`DEAD`] one that was (with the time since when from bit 8 on), [`BUSY`] one that
/// is being filled (with the hash of its key from bit 8 on).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word(u64);

/// The reply half of a nat pair.
pub const REPLY: u64 = 1;
/// Picked up in its middle and not confirmed by a second packet: lives as long as SYN_RECV.
pub const PROVISIONAL: u64 = 2;
/// Closed by whoever set this flag. With [`BUSY`]: a claim that lost against another one.
pub const DEAD: u64 = 4;
/// Claimed, and being filled.
pub const BUSY: u64 = 8;

/// The four bits of the state: not all zero in a live word.
const STATE_MASK: u64 = 0xf0;

/// Jiffies that a closed slot is left alone, so that whoever found it before has done with it: at
/// least one whole jiffy. A program that is held up for longer (a virtual CPU that is not run) may
/// read or stamp another connection's entry; no count, no key and no word depends on it.
pub const GRACE: u64 = 2;

impl Word {
    /// A word of these parts; each is cut to its width.
    #[inline(always)]
    pub const fn new(
        sequence: u32,
        generation: u16,
        real_server: u32,
        state: State,
        flags: u64,
    ) -> Self {
        Self(
            (sequence as u64) << 40
                | (generation as u64 & 0xfff) << 28
                | (real_server as u64 & 0xf_ffff) << 8
                | (state.raw() as u64) << 4
                | flags & 0xf,
        )
    }

    /// The word as it lies in an entry.
    #[inline(always)]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// See [`Word::from_raw`].
    #[inline(always)]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Which use of the table element this is, 24 bits.
    #[inline(always)]
    pub const fn sequence(self) -> u32 {
        (self.0 >> 40) as u32
    }

    /// Generation of the real server that the connection belongs to, 12 bits.
    #[inline(always)]
    pub const fn generation(self) -> u16 {
        (self.0 >> 28 & 0xfff) as u16
    }

    /// Index of the real server, 20 bits.
    #[inline(always)]
    pub const fn real_server(self) -> u32 {
        (self.0 >> 8 & 0xf_ffff) as u32
    }

    /// The state.
    #[inline(always)]
    pub const fn state(self) -> State {
        State::from_raw((self.0 >> 4 & 0xf) as u8)
    }

    /// Whether any of these flags is set.
    #[inline(always)]
    pub const fn has(self, flags: u64) -> bool {
        self.0 & flags != 0
    }

    /// The word of a slot that was closed at `now`, in jiffies.
    #[inline(always)]
    pub const fn dead(now: u64) -> Self {
        Self(now << 8 | DEAD)
    }

    /// The word of a slot that is being filled with a key of this hash.
    #[inline(always)]
    pub const fn claim(hash: u64) -> Self {
        Self(hash & !0xff | BUSY)
    }

    /// This claim, lost.
    #[inline(always)]
    #[must_use]
    pub const fn lost(self) -> Self {
        Self(self.0 | DEAD)
    }

    /// Whether this is a connection.
    #[inline(always)]
    pub const fn is_live(self) -> bool {
        self.0 & STATE_MASK != 0
    }

    /// Whether a slot with this word may be claimed at `now`, in jiffies.
    #[inline(always)]
    pub const fn is_free(self, now: u64) -> bool {
        if self.0 & (STATE_MASK | BUSY) != 0 {
            return false;
        }
        // Another CPU may have closed it a tick after `now` was read.
        self.0 == 0 || now.wrapping_sub(self.0 >> 8) as i64 >= GRACE as i64
    }

    /// This word in another state; confirmed, if it was provisional.
    #[inline(always)]
    #[must_use]
    pub const fn in_state(self, state: State) -> Self {
        Self(self.0 & !(0xf0 | PROVISIONAL) | (state.raw() as u64) << 4)
    }

    /// This word with exactly these flags.
    #[inline(always)]
    #[must_use]
    pub const fn with_flags(self, flags: u64) -> Self {
        Self(self.0 & !0xf | flags & 0xf)
    }

    /// Whether `other` is the other half of the same pair: same use, same server, same generation.
    #[inline(always)]
    pub const fn pairs_with(self, other: Self) -> bool {
        self.0 >> 8 == other.0 >> 8
    }

    /// Index into [`Timeouts`]: the state's, or SYN_RECV's for a provisional connection.
    #[inline(always)]
    pub const fn timeout_index(self) -> usize {
        if self.has(PROVISIONAL) {
            State::SYN_RECV.raw() as usize
        } else {
            (self.0 >> 4 & 0xf) as usize
        }
    }
}

impl Timeouts {
    /// Whether a connection with this word, last seen at `seen`, is past its deadline at `now`.
    #[inline(always)]
    pub const fn is_expired(&self, word: Word, seen: u64, now: u64) -> bool {
        let idle = now.wrapping_sub(seen);
        // Another CPU may have stamped the entry a tick after `now` was read.
        (idle as i64) > 0 && idle > self.by_state[word.timeout_index() & 0xf]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const ES: State = State::ESTABLISHED;

    #[test]
    fn a_provisional_connection_lives_as_long_as_syn_recv() {
        let mut t = Timeouts { by_state: [1000; 16] };
        t.by_state[State::SYN_RECV.raw() as usize] = 10;
        let provisional = Word::new(1, 1, 1, ES, PROVISIONAL);
        assert!(t.is_expired(provisional, 0, 11));
        assert!(!t.is_expired(provisional, 0, 10));
        assert!(!t.is_expired(provisional.in_state(ES), 0, 1000));
        // A stamp from a CPU that is one tick ahead is not an age of 2^64 ticks.
        assert!(!t.is_expired(provisional, 12, 11));
    }

    proptest! {
        #[test]
        fn a_word_keeps_its_parts(seq in 0u32..1 << 24, gen_ in 0u16..1 << 12,
                                  rs in 0u32..1 << 20, state in 1u8..12, flags in 0u64..4) {
            let w = Word::new(seq, gen_, rs, State::from_raw(state), flags);
            prop_assert_eq!(w.sequence(), seq);
            prop_assert_eq!(w.generation(), gen_);
            prop_assert_eq!(w.real_server(), rs);
            prop_assert_eq!(w.state().raw(), state);
            prop_assert_eq!(w.raw() & 0xf, flags);
            let moved = w.in_state(State::CLOSE);
            prop_assert!(moved.pairs_with(w) && !moved.has(PROVISIONAL));
            prop_assert_eq!(moved.state(), State::CLOSE);
            prop_assert!(w.is_live() && !w.is_free(u64::MAX));
        }

        #[test]
        fn a_slot_is_free_or_dead_for_long_or_neither(now in 0u64..1 << 56, hash in 0..u64::MAX) {
            let claim = Word::claim(hash);
            for other in [claim, claim.lost(), Word::dead(now), Word::from_raw(0)] {
                prop_assert!(!other.is_live());
                prop_assert_eq!(other.has(BUSY), other == claim || other == claim.lost());
            }
            prop_assert!(!claim.is_free(now) && !claim.lost().is_free(now));
            prop_assert!(Word::from_raw(0).is_free(now));
            for (later, free) in [(0, false), (GRACE - 1, false), (GRACE, true), (1 << 30, true)] {
                prop_assert_eq!(Word::dead(now).is_free(now + later), free);
            }
            // Closed by a CPU whose clock is ahead.
            prop_assert!(!Word::dead(now + 1).is_free(now));
        }
    }
}
