//! Comparing real servers by their connections, in IPVS's integers (`ip_vs_lc.c`, `ip_vs_wlc.c`).
//!
//! The program goes through a service's members and keeps the one with the least [`Load`]; where it
//! begins follows from the service's cursor by [`start`], so that equal servers take turns.
//!
//! Must not know: maps, where counts and weights come from.

use crate::conn::ConnectionCounts;
use crate::hash;

/// Members that one choice compares at most. All of them in a service that has no more; of a larger
/// one a run of this many, from a place that changes with each choice (see [`start`]): the least of
/// 256 is among the best hundredth of all with a probability of 92 %, and the work stays bounded.
pub const CANDIDATES: u32 = 256;

/// Slots of a Maglev table that are looked at for a server that takes new connections, as many as
/// IPVS's fallback does.
pub const FALLBACK_SLOTS: u32 = 256;

/// How busy a server is for its weight.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// See [`overhead`].
    pub overhead: i64,
    /// Its weight; 1 for lc.
    pub weight: u32,
}

impl Load {
    /// Whether this server is less busy than `other`: overhead divided by weight, compared across
    /// the product as IPVS does. Counts and weights are far below what would overflow.
    #[inline(always)]
    pub const fn is_less(self, other: Self) -> bool {
        self.overhead.wrapping_mul(other.weight as i64)
            < other.overhead.wrapping_mul(self.weight as i64)
    }
}

/// What a server's connections cost: an active one as much as 256 inactive ones.
#[inline(always)]
pub const fn overhead(counts: &ConnectionCounts) -> i64 {
    counts.active.cast_signed().wrapping_shl(8).wrapping_add(counts.inactive.cast_signed())
}

/// The member that choice number `turn` begins with, of `len` (above 0).
///
/// One after the other, so that idle servers are chosen in turn; among more than [`CANDIDATES`]
/// at random, so that over time every server is a candidate equally often, whatever the number.
#[inline(always)]
pub const fn start(turn: u64, len: u32) -> u32 {
    if len <= CANDIDATES { (turn % len as u64) as u32 } else { hash::slot(hash::mix(turn), len) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(active: u64, inactive: u64, weight: u32) -> Load {
        let counts = ConnectionCounts { active, inactive, pad: [0; 6] };
        Load { overhead: overhead(&counts), weight }
    }

    #[test]
    fn loads_compare_as_in_ipvs() {
        for (less, more) in [
            // An active connection is 256 inactive ones.
            (load(0, 255, 1), load(1, 0, 1)),
            (load(1, 0, 1), load(0, 257, 1)),
            // Twice the weight carries twice the load.
            (load(3, 0, 2), load(2, 0, 1)),
            (load(1, 0, 1), load(3, 0, 2)),
            // Where a division would round: 100/3 and 67/2.
            (load(100, 0, 3), load(67, 0, 2)),
            (load(0, 0, 1), load(0, 1, 65_535)),
            // The greatest there can be.
            (load(1 << 22, 0, 65_535), load(1 << 22, 1, 65_535)),
        ] {
            assert!(less.is_less(more) && !more.is_less(less), "{less:?} {more:?}");
        }
        for (a, b) in [
            (load(1, 0, 1), load(0, 256, 1)),
            (load(2, 0, 2), load(1, 0, 1)),
            (load(0, 0, 1), load(0, 0, 9)),
        ] {
            assert!(!a.is_less(b) && !b.is_less(a), "{a:?} {b:?}");
        }
    }

    #[test]
    fn every_member_begins_equally_often() {
        for len in [1, 10, 256, 257, 512, 1000] {
            let mut begins = vec![0u32; len as usize];
            (0..u64::from(len) * 100).for_each(|turn| begins[start(turn, len) as usize] += 1);
            let fair = if len <= CANDIDATES { 100..=100 } else { 50..=150 };
            assert!(begins.iter().all(|count| fair.contains(count)), "{len}: {begins:?}");
        }
    }
}
