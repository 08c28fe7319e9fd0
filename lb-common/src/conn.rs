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

/// One half of a connection. Dr needs one; nat has a forward and a reply half under two keys.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnEntry<K: ConnKey> {
    /// The [`Word`]. A reply half carries the sequence and the real server of its forward half.
    pub word: u64,
    /// When a packet last used this half, in jiffies.
    pub seen: u64,
    /// Where replies go: back to the neighbour that the request came from (nat).
    pub last_hop: Link,
    /// Id of the virtual service.
    pub service: u32,
    /// Zero.
    pub pad: u32,
    /// Key of the other half (nat); all zero without one.
    pub other: K,
}

impl<K: ConnKey> ConnEntry<K> {
    /// The entry whose bytes are all zero.
    pub const ZERO: Self =
        Self { word: 0, seen: 0, last_hop: Link::zeroed(), service: 0, pad: 0, other: K::ZERO };
}

/// An IPv4 entry.
pub type ConnEntry4 = ConnEntry<ConnKey4>;
/// An IPv6 entry.
pub type ConnEntry6 = ConnEntry<ConnKey6>;

const _: () = assert!(size_of::<ConnEntry4>() == 64 && size_of::<ConnEntry6>() == 88);
// SAFETY: repr(C); every field is Pod, and the assertion above leaves no room for padding.
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

/// The word of a connection: everything that a transition may change, in one atomic unit.
///
/// Bits, low to high: 4 flags, 4 state, 20 real-server index, 12 generation, 24 sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word(u64);

/// The reply half of a nat pair.
pub const REPLY: u64 = 1;
/// Picked up in its middle and not confirmed by a second packet: lives as long as SYN_RECV.
pub const PROVISIONAL: u64 = 2;
/// Closed by whoever set this flag, who also deletes the entry. Nobody else touches it.
pub const DEAD: u64 = 4;
/// Closed, but the deletion failed: anybody may claim it by turning this flag into `DEAD`.
pub const ABANDONED: u64 = 8;

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

    /// Whether the entry is closed and only waits for its deletion.
    #[inline(always)]
    pub const fn is_closed(self) -> bool {
        self.has(DEAD | ABANDONED)
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
                                  rs in 0u32..1 << 20, state in 0u8..12, flags in 0u64..16) {
            let w = Word::new(seq, gen_, rs, State::from_raw(state), flags);
            prop_assert_eq!(w.sequence(), seq);
            prop_assert_eq!(w.generation(), gen_);
            prop_assert_eq!(w.real_server(), rs);
            prop_assert_eq!(w.state().raw(), state);
            prop_assert_eq!(w.raw() & 0xf, flags);
            let moved = w.in_state(State::CLOSE);
            prop_assert!(moved.pairs_with(w) && !moved.has(PROVISIONAL));
            prop_assert_eq!(moved.state(), State::CLOSE);
            prop_assert!(w.with_flags(DEAD).is_closed() && w.with_flags(DEAD).pairs_with(w));
        }
    }
}
