//! The one seeded hash: flows to slots here, server identities to Maglev permutations in user space.
//!
//! Two directors with the same file must choose alike, so the seeds are constants of the product
//! and the vectors below are fixed for good.
//!
//! Must not know: maps, how a table is built.

use crate::pod;
use crate::pod::Address;

/// Seed of flow hashes.
pub const FLOW_SEED: u64 = 0x9e37_79b9_7f4a_7c15;
/// Seed of a Maglev server's offset.
pub const OFFSET_SEED: u64 = 0xd6e8_feb8_6659_fd93;
/// Seed of a Maglev server's skip.
pub const SKIP_SEED: u64 = 0xa076_1d64_78bd_642f;

/// Mixes one 64-bit word: the finaliser of splitmix64 (Steele, Lea, Flood 2014).
#[inline(always)]
pub const fn mix(mut x: u64) -> u64 {
    x ^= x >> 30;
    x = x.wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x ^= x >> 27;
    x = x.wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

/// Hash of an address and a port under `seed`. The port is 0 where only the address counts.
#[inline(always)]
pub const fn address(seed: u64, a: &Address, port: u16) -> u64 {
    let hi = u64::from_be_bytes([a[0], a[1], a[2], a[3], a[4], a[5], a[6], a[7]]);
    let lo = u64::from_be_bytes([a[8], a[9], a[10], a[11], a[12], a[13], a[14], a[15]]);
    let first = mix(seed ^ hi ^ ((port as u64) << 48));
    mix(first.wrapping_add(seed) ^ lo)
}

/// Maps a hash onto `0..len` without a division; `len` 0 gives 0.
#[inline(always)]
pub const fn slot(hash: u64, len: u32) -> u32 {
    (((hash >> 32) * len as u64) >> 32) as u32
}

pod! {
    /// What makes a connection table's hash its own: random for every table that is made, so that
    /// nobody outside can choose addresses and ports that all fall into one bucket.
    pub struct TableSeed {
        /// Goes into the first word.
        pub add: u64,
        /// Multiplies, and so is odd; all zero is no seed.
        pub multiply: u64,
    }
}

/// Takes one more word of a key into its hash. The high half of what is multiplied is folded into
/// the low one first, because a product's low bits know nothing of the high bits of its factors.
#[inline(always)]
pub const fn table_step(hash: u64, word: u64, multiply: u64) -> u64 {
    let sum = hash ^ word;
    (sum ^ (sum >> 32)).wrapping_mul(multiply)
}

/// Takes the last word in: both halves of the result are good for an index.
#[inline(always)]
pub const fn table_last(hash: u64, word: u64) -> u64 {
    table_step(hash, word, 0x9e37_79b9_7f4a_7c15)
}

/// Place of an address in the filter: word index and bit.
#[inline(always)]
pub const fn filter_place(a: u32) -> (u32, u64) {
    let h = (a as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((h >> 54) as u32, 1 << ((h >> 48) & 63))
}

/// Four bytes that stand for an IPv6 address in the filter.
#[inline(always)]
pub const fn filter_fold(a: &[u32; 4]) -> u32 {
    a[0] ^ a[1].rotate_left(7) ^ a[2].rotate_left(13) ^ a[3]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::mapped;

    #[test]
    fn vectors_are_fixed() {
        // A change here moves every client of every mh service: it is a new ABI.
        assert_eq!(address(FLOW_SEED, &mapped([192, 0, 2, 1]), 0), 0xd2f1_9aba_8bb7_8916);
        assert_eq!(address(FLOW_SEED, &mapped([192, 0, 2, 1]), 40000), 0xd339_ed15_187e_505f);
        assert_eq!(address(OFFSET_SEED, &[0x20; 16], 80), 0xdb34_2aac_93db_d6e6);
    }

    #[test]
    fn slots_are_spread_evenly() {
        let mut counts = [0u32; 7];
        for i in 0..70_000u32 {
            let h = address(FLOW_SEED, &mapped(i.to_be_bytes()), 0);
            counts[slot(h, 7) as usize] += 1;
        }
        assert!(counts.iter().all(|&c| (9_500..10_500).contains(&c)), "{counts:?}");
        assert_eq!(slot(u64::MAX, 0), 0);
        assert_eq!(slot(u64::MAX, 5), 4);
    }

    #[test]
    fn filter_places_are_in_range_and_differ() {
        let mut seen = std::collections::BTreeSet::new();
        for i in 0..256u32 {
            let (word, bit) = filter_place(u32::from_ne_bytes([10, 0, 0, i as u8]));
            assert!(word < crate::abi::FILTER_WORDS && bit.count_ones() == 1);
            seen.insert((word, bit));
        }
        assert!(seen.len() > 240, "256 neighbours share only {} places", seen.len());
    }
}
