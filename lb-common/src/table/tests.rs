//! Places and loads of a table, and every interleaving of inserts.
//!
//! Must not know: maps and programs.

use std::collections::HashSet;
use std::vec::Vec;

use proptest::prelude::*;

use super::*;
use crate::conn::{BUSY, ConnKey4, ConnKey6, State};

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
fn a_hash_that_does_not_spread_is_noticed() {
    // The same measurement with keys that fall into few buckets.
    let same = (0..1000).map(|n| key4(n / 500, 0));
    assert!(filled(1000, same).0 > 0.9);
}

/// What one actor of the model does.
#[derive(Clone, Copy, Debug)]
enum Actor {
    /// Inserts the key.
    Insert,
    /// Inserts another key with the same two buckets.
    InsertOther,
    /// Finds the key and closes what it found.
    Close,
}

/// What can be wrong with the table that the model runs on.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    /// Whoever has filled its slot sees nothing in the others.
    NobodyLooksAgain,
    /// A claim that is taken away frees the slot.
    LostClaimsAreFree,
    /// A claim becomes live although it was taken away.
    LostClaimsGoOn,
    /// A slot is claimed whatever its word has become.
    ClaimsOverwrite,
}

/// One operation on a slot.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Op {
    Word(usize),
    Exchange(usize, u64, u64),
    HasKey(usize),
    Fill(usize),
}

const NOW: u64 = 100;
const OURS: u64 = 1 << 40;
const OTHERS: u64 = 2 << 40;

impl Actor {
    fn hash(self) -> u64 {
        if matches!(self, Self::InsertOther) { OTHERS } else { OURS }
    }
}

/// Feeds an actor the results of its operations so far, and notes the one that comes next. What
/// comes after that one is not done, so its results do not matter.
struct Replay<'a, const N: usize> {
    results: &'a [u64],
    done: core::cell::Cell<usize>,
    next: core::cell::Cell<Option<Op>>,
}

impl<const N: usize> Replay<'_, N> {
    fn step(&self, op: Op) -> u64 {
        let at = self.done.get();
        self.done.set(at + 1);
        if at == self.results.len() {
            self.next.set(Some(op));
        }
        self.results.get(at).copied().unwrap_or(0)
    }
}

impl<const N: usize> Slots for Replay<'_, N> {
    const SLOTS: usize = N;
    fn word(&self, at: usize) -> u64 {
        self.step(Op::Word(at))
    }
    fn exchange(&self, at: usize, old: u64, new: u64) -> bool {
        self.step(Op::Exchange(at, old, new)) != 0
    }
    fn has_key(&self, at: usize) -> bool {
        self.step(Op::HasKey(at)) != 0
    }
    fn fill(&self, at: usize) {
        self.step(Op::Fill(at));
    }
}

/// One moment: the slots as words and keys, and what each actor has been told.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Moment {
    slots: Vec<(u64, u64)>,
    told: Vec<Vec<u64>>,
}

/// Explores every interleaving; an error says what went wrong.
struct Model<'a, const N: usize> {
    actors: &'a [Actor],
    fault: Fault,
    seen: HashSet<Moment>,
    ends: HashSet<Vec<Option<u32>>>,
}

impl<const N: usize> Model<'_, N> {
    fn explore(&mut self, moment: Moment) -> Result<(), &'static str> {
        let mut open = vec![moment];
        while let Some(moment) = open.pop() {
            if !self.seen.insert(moment.clone()) {
                continue;
            }
            for key in [OURS, OTHERS] {
                let live = |s: &&(u64, u64)| s.1 == key && Word::from_raw(s.0).is_live();
                if moment.slots.iter().filter(live).count() > 1 {
                    return Err("one key is live twice");
                }
            }
            let mut results = Vec::new();
            for n in 0..self.actors.len() {
                let (next, result) = self.replay(n, &moment);
                results.push(result);
                if let Some(op) = next {
                    let mut after = moment.clone();
                    let told = self.apply(n, op, &mut after)?;
                    after.told[n].push(told);
                    open.push(after);
                }
            }
            if results.iter().all(Option::is_some) {
                if moment.slots.iter().any(|s| Word::from_raw(s.0).has(BUSY)) {
                    return Err("a claim is left");
                }
                self.ends.insert(results);
            }
        }
        Ok(())
    }

    /// An actor's next operation, or its result.
    fn replay(&self, n: usize, moment: &Moment) -> (Option<Op>, Option<u32>) {
        let (done, next) = (core::cell::Cell::new(0), core::cell::Cell::new(None));
        let replay = Replay::<N> { results: &moment.told[n], done, next };
        let actor = self.actors[n];
        let result = match actor {
            Actor::Close => close(&replay),
            _ => {
                let word = Word::new(n as u32 + 1, 1, 1, State::ESTABLISHED, 0);
                u32::from(insert(&replay, actor.hash(), word, NOW).is_ok())
            }
        };
        match replay.next.get() {
            Some(op) => (Some(op), None),
            None => (None, Some(result)),
        }
    }

    /// Does one operation of an actor on the slots.
    fn apply(&self, n: usize, op: Op, moment: &mut Moment) -> Result<u64, &'static str> {
        let hash = self.actors[n].hash();
        let claim = Word::claim(hash);
        match op {
            Op::Word(at) => {
                let filled = moment.slots.iter().any(|s| s.1 == hash);
                let blind = self.fault == Fault::NobodyLooksAgain && filled;
                let claims = !matches!(self.actors[n], Actor::Close);
                Ok(if blind && claims { 0 } else { moment.slots[at].0 })
            }
            Op::HasKey(at) => Ok(u64::from(moment.slots[at].1 == hash)),
            Op::Fill(at) => {
                let word = Word::from_raw(moment.slots[at].0);
                if word != claim && word != claim.lost() {
                    return Err("a slot is written to that is not claimed");
                }
                moment.slots[at].1 = hash;
                Ok(0)
            }
            Op::Exchange(at, old, new) => {
                let slot = &mut moment.slots[at];
                let (from, to) = (Word::from_raw(old), Word::from_raw(new));
                let forced = match self.fault {
                    Fault::LostClaimsGoOn => to.is_live() && slot.0 == from.lost().raw(),
                    Fault::ClaimsOverwrite => to == claim && !from.is_live(),
                    _ => false,
                };
                if slot.0 != old && !forced {
                    return Ok(0);
                }
                if to.is_live() && slot.1 != hash {
                    return Err("a live entry has the wrong key");
                }
                let frees = self.fault == Fault::LostClaimsAreFree && to == from.lost();
                slot.0 = if frees { 0 } else { new };
                Ok(1)
            }
        }
    }
}

/// Finds the key, as the program does, and closes it. 1 when it was there.
fn close<S: Slots>(slots: &S) -> u32 {
    for at in 0..2 * S::SLOTS {
        let word = slots.word(at);
        if Word::from_raw(word).is_live() && slots.has_key(at) {
            return u32::from(slots.exchange(at, word, Word::dead(NOW).raw()));
        }
    }
    0
}

/// Explores what these actors can do to a table whose slots are as given.
fn explore<const N: usize>(
    actors: &[Actor],
    slots: &[(u64, u64)],
    fault: Fault,
) -> Result<HashSet<Vec<Option<u32>>>, &'static str> {
    let told = vec![Vec::new(); actors.len()];
    let mut model = Model::<N> { actors, fault, seen: HashSet::new(), ends: HashSet::new() };
    model.explore(Moment { slots: slots.to_vec(), told })?;
    Ok(model.ends)
}

const FREE: (u64, u64) = (0, 0);

/// A slot that was closed long ago, with a key.
fn dead(key: u64) -> (u64, u64) {
    (Word::dead(NOW - 50).raw(), key)
}

/// A slot with a living connection.
fn live(key: u64) -> (u64, u64) {
    (Word::new(9, 1, 1, State::ESTABLISHED, 0).raw(), key)
}

/// The first to come takes a slot of the second bucket, the next one a lower slot.
const HIGHER_FIRST: [(u64, u64); 4] =
    [(Word::new(9, 1, 1, State::ESTABLISHED, 0).raw(), OTHERS), FREE, FREE, FREE];

#[test]
fn whatever_the_order_a_key_is_live_once() {
    use Actor::{Close, Insert, InsertOther};
    let done = |end: &Vec<Option<u32>>| end.iter().filter(|r| **r == Some(1)).count();
    for slots in [[FREE; 2], [dead(OURS), FREE], [FREE, dead(OURS)], [dead(OURS), dead(OTHERS)]] {
        for actors in [&[Insert; 2][..], &[Insert; 3], &[Insert, InsertOther, Insert]] {
            let ends = explore::<1>(actors, &slots, Fault::None).expect("safe");
            // Nobody gives way to nobody: one of them always gets through.
            assert!(ends.iter().all(|end| done(end) >= 1), "{actors:?} {ends:?}");
            assert!(ends.len() > 1, "nothing ever met: {ends:?}");
        }
        explore::<1>(&[Insert, Close, Insert], &slots, Fault::None).expect("safe");
    }
    for slots in [[live(OURS), FREE], [FREE, live(OURS)], [dead(OURS), live(OURS)]] {
        let ends = explore::<1>(&[Insert; 2], &slots, Fault::None).expect("safe");
        assert!(ends.iter().all(|end| done(end) == 0), "{ends:?}");
        explore::<1>(&[Insert, Close, Insert], &slots, Fault::None).expect("safe");
    }
    for slots in [[FREE, dead(OURS), live(OTHERS), FREE], HIGHER_FIRST] {
        explore::<2>(&[Insert, Insert], &slots, Fault::None).expect("safe");
    }
    explore::<2>(&[Insert, Close], &[live(OURS), FREE, FREE, FREE], Fault::None).expect("safe");
}

#[test]
fn every_fault_of_the_protocol_is_found() {
    use Actor::Insert;
    for fault in [
        Fault::NobodyLooksAgain,
        Fault::LostClaimsAreFree,
        Fault::LostClaimsGoOn,
        Fault::ClaimsOverwrite,
    ] {
        let found = explore::<1>(&[Insert; 2], &[FREE; 2], fault).is_err()
            || explore::<1>(&[Insert; 3], &[FREE; 2], fault).is_err()
            || explore::<2>(&[Insert; 2], &HIGHER_FIRST, fault).is_err();
        assert!(found, "nobody saw {fault:?}");
    }
}
