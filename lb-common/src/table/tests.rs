//! Where keys lie, and how full a table may be.
//!
//! Must not know: maps, interleavings.

use std::collections::HashSet;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::conn::{ConnKey4, ConnKey6, State};

const SEED: TableSeed = TableSeed { add: 0x243f_6a88_85a3_08d3, multiply: 0x1319_8a2e_0370_7345 };

fn key4(client: u32, port: u16) -> ConnKey4 {
    ConnKey4::new(client, 0x0100_000a, [port, 443], 6)
}

proptest! {
    #[test]
    fn both_buckets_are_in_the_table_and_are_two(hash: u64, buckets in MIN_BUCKETS..u32::MAX) {
        let first = first_bucket(hash, buckets);
        let second = second_bucket(hash, buckets, first);
        prop_assert!(first < buckets && second < buckets && first != second);
        let second = second_bucket(hash, MIN_BUCKETS, first_bucket(hash, MIN_BUCKETS));
        prop_assert_eq!(second, 1 - first_bucket(hash, MIN_BUCKETS));
    }

    #[test]
    fn every_word_of_a_key_counts(key in any::<[u8; 40]>(), byte in 0usize..37, bit in 0u8..8) {
        let of = |bytes: &[u8]| pod::from_bytes::<ConnKey6>(bytes).map(|k| k.table_hash(&SEED));
        let mut other = key;
        other[byte] ^= 1 << bit;
        prop_assert_ne!(of(&key), of(&other));
        let of = |bytes: &[u8]| pod::from_bytes::<ConnKey4>(bytes).map(|k| k.table_hash(&SEED));
        let mut other = key;
        other[byte % 13] ^= 1 << bit;
        prop_assert_ne!(of(&key), of(&other));
    }
}

#[test]
fn no_capacity_makes_a_table_without_two_buckets() {
    assert_eq!((buckets_for(0), buckets_for(1), buckets_for(7)), (2, 2, 7));
    assert_eq!((regions_of(1), regions_of(16), regions_of(17)), (1, 1, 2));
    for connections in [2, 1000, 1_000_000, 1 << 26] {
        assert_eq!(connections_in(buckets_for(connections)), connections);
    }
}

#[test]
fn every_slot_has_its_turn() {
    let order: Vec<usize> = (0..2 * SLOTS).map(|step| candidate(step, SLOTS)).collect();
    assert_eq!(order, [0, 1, 2, 4, 5, 6, 3, 7]);
    assert_eq!([0, 1].map(|step| candidate(step, 1)), [0, 1]);
}

/// A table that one thread uses.
struct Small {
    words: Vec<core::cell::Cell<u64>>,
}

struct Pair<'a>(&'a Small, [u32; 2]);

impl Pair<'_> {
    fn cell(&self, at: usize) -> &core::cell::Cell<u64> {
        &self.0.words[self.1[at / SLOTS] as usize * SLOTS + at % SLOTS]
    }
}

impl Slots for Pair<'_> {
    fn word(&self, at: usize) -> u64 {
        self.cell(at).get()
    }
    fn exchange(&self, at: usize, old: u64, new: u64) -> bool {
        let is_old = self.word(at) == old;
        if is_old {
            self.cell(at).set(new);
        }
        is_old
    }
    fn has_key(&self, _: usize) -> bool {
        false
    }
    fn fill(&self, _: usize) {}
}

/// Fills a table for `connections` with keys and gives the share of inserts that failed, and of
/// entries that lie in their first bucket.
fn filled<K: ConnKey>(connections: u32, keys: impl Iterator<Item = K>) -> (f64, f64) {
    let buckets = buckets_for(connections);
    let words = vec![core::cell::Cell::new(0); buckets as usize * SLOTS];
    let small = Small { words };
    let (mut full, mut all, mut first_ones) = (0, 0, 0);
    let live = Word::new(1, 1, 1, State::ESTABLISHED, 0);
    for key in keys {
        let hash = key.table_hash(&SEED);
        let first = first_bucket(hash, buckets);
        let pair = Pair(&small, [first, second_bucket(hash, buckets, first)]);
        let before: u64 = (0..SLOTS).map(|at| pair.word(at)).sum();
        full += u32::from(insert(&pair, hash, live, 0) == Err(Refusal::Full));
        first_ones += u32::from((0..SLOTS).map(|at| pair.word(at)).sum::<u64>() != before);
        all += 1;
    }
    (f64::from(full) / f64::from(all), f64::from(first_ones) / f64::from(all))
}

/// Connections of some clients each with its ports in turn, as one service meets them.
fn clients(count: u32) -> impl Iterator<Item = ConnKey4> {
    (0..count).map(|n| key4((0xc633_0000 + n / 2000).to_be(), (n % 2000) as u16 + 40_000))
}

#[test]
fn a_table_at_its_nominal_load_refuses_hardly_anything() {
    const CONNECTIONS: u32 = 1_000_000;
    // Dr: one slot each.
    let (failed, first) = filled(CONNECTIONS, clients(CONNECTIONS));
    assert!(failed < 0.000_01 && first > 0.9, "dr: {failed} {first}");
    // Nat: both halves.
    let halves = clients(CONNECTIONS).flat_map(|key| {
        let server = pod::mapped([10, 5, 0, (key.source_port % 20) as u8]);
        [key, key.reply_from(&server, 8080)]
    });
    let (failed, first) = filled(CONNECTIONS, halves);
    assert!(failed < 0.001 && first > 0.75, "nat: {failed} {first}");
    let v6 = (0..2 * CONNECTIONS / 10).map(|n| {
        let client = [0x2001_0db8u32.to_be(), 0, (n >> 16).to_be(), (n % 5).to_be()];
        ConnKey6::new(client, [1, 2, 3, 4], [n as u16, 443], 6)
    });
    let (failed, first) = filled(CONNECTIONS / 10, v6);
    assert!(failed < 0.001 && first > 0.75, "IPv6: {failed} {first}");
}

#[test]
fn replies_to_many_clients_spread_over_all_second_buckets() {
    // Clients differ in their address's last bytes, the highest bits of a key's words.
    const BUCKETS: u32 = 1 << 20;
    let second = |hash: u64| second_bucket(hash, BUCKETS, first_bucket(hash, BUCKETS));
    let spread = |hashes: &mut dyn Iterator<Item = u64>| hashes.map(second).collect::<HashSet<_>>();
    let (n, mut expected) = (1 << 18, f64::from(BUCKETS));
    expected *= 1.0 - (-f64::from(n) / expected).exp();
    let clients = (0..n).map(|n: u32| (n & 0xffff, 30_000 + (n >> 16) as u16));
    let v4 = clients.clone().map(|(client, port)| {
        ConnKey4::new(1, 0x0000_33c6 | client << 16, [80, port], 6).table_hash(&SEED)
    });
    let v6 = clients.map(|(client, port)| {
        ConnKey6::new([1; 4], [1, 2, 3, client << 16], [80, port], 6).table_hash(&SEED)
    });
    for mut hashes in [Box::new(v4) as Box<dyn Iterator<Item = u64>>, Box::new(v6)] {
        let found = spread(&mut hashes).len() as f64;
        assert!(found > 0.95 * expected, "{found} of {expected}");
    }
}

#[test]
fn a_hash_that_does_not_spread_is_noticed() {
    // The same measurement with keys that fall into few buckets.
    let same = (0..1000).map(|n| key4(n / 500, 0));
    assert!(filled(1000, same).0 > 0.9);
}
