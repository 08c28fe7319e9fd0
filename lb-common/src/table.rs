//! The connection table: where a key's slots are, and how one of them is taken, without a lock.
//!
//! A table is an array of buckets of four slots. A key has two buckets and lies in either; nothing
//! is ever moved. A slot's [`Word`] says what it is: never used, closed, being filled, or a live
//! connection. Words change by compare-exchange only, so that whoever wins owns what follows.
//!
//! [`insert`] claims a slot before it looks for another one with the same key: of two that insert
//! the same key at the same time at least one sees the other, and the order of the slots says who
//! gives way. So no key is ever live twice; the tests below try every interleaving.
//!
//! Must not know: maps, clocks, what an entry is for.

use crate::conn::{ConnEntry, ConnKey, Word};
use crate::hash::TableSeed;
use crate::pod;

/// Slots of a bucket.
pub const SLOTS: usize = 4;

/// Buckets whose inserts are counted together, so that the sweep need not read those that nobody
/// has put anything into: a power of two, and a page of IPv4 slots.
pub const REGION: u32 = 16;

/// A table has at least this many buckets: two different ones for every key.
pub const MIN_BUCKETS: u32 = 2;

/// Slots that lie side by side.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket<K: ConnKey> {
    /// Filled from the first one on.
    pub slots: [ConnEntry<K>; SLOTS],
}

// SAFETY: repr(C), an array of Pod values.
#[allow(unsafe_code)]
unsafe impl<K: ConnKey> pod::Pod for Bucket<K> {}
#[cfg(feature = "user")]
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl<K: ConnKey> aya::Pod for Bucket<K> {}

pod! {
    /// What a program knows of both connection tables when it is loaded.
    pub struct TableShape {
        /// The tables' seed.
        pub seed: TableSeed,
        /// Buckets of each.
        pub buckets: u32,
        /// Zero.
        pub pad: u32,
    }
}

/// Buckets of a table for this many connections. Each connection may take two slots (nat), and then
/// half of them are taken: at that load, as connections come and go, some 5 of 1000 inserts find no
/// slot, at half of it 5 of a million.
pub const fn buckets_for(connections: u32) -> u32 {
    if connections < MIN_BUCKETS { MIN_BUCKETS } else { connections }
}

/// Connections for which a table of this many buckets is made.
pub const fn connections_in(buckets: u32) -> u32 {
    buckets
}

/// Regions of a table.
pub const fn regions_of(buckets: u32) -> u32 {
    buckets.div_ceil(REGION)
}

/// The bucket that a key of this hash is looked for in first. By multiplication, so that a table
/// may have any number of buckets.
#[inline(always)]
pub const fn first_bucket(hash: u64, buckets: u32) -> u32 {
    (((hash >> 32) * buckets as u64) >> 32) as u32
}

/// The other bucket, which is never the first one.
#[inline(always)]
pub const fn second_bucket(hash: u64, buckets: u32, first: u32) -> u32 {
    let of_the_others = ((hash & 0xffff_ffff) * (buckets as u64 - 1)) >> 32;
    // One more from the first one on; without a branch, which a verifier would follow twice.
    (of_the_others + ((first as u64).wrapping_sub(of_the_others + 1) >> 63)) as u32
}

/// The slots of both buckets of one key, the first bucket's before the second's, as [`insert`] sees
/// them. All operations are ordered as they are called, on every CPU.
pub trait Slots {
    /// Slots of one of the buckets.
    const SLOTS: usize = SLOTS;

    /// The word of a slot.
    fn word(&self, at: usize) -> u64;

    /// Replaces a slot's word if it is `old`; whether it was.
    fn exchange(&self, at: usize, old: u64, new: u64) -> bool;

    /// Whether the key that is inserted lies in this slot.
    fn has_key(&self, at: usize) -> bool;

    /// Writes the key, and everything else but the word, to a slot that was claimed.
    fn fill(&self, at: usize);

    /// The same number, of which a verifier that follows every path forgets what it was, so that
    /// it does not follow what comes next once for each value.
    #[inline(always)]
    fn any(number: usize) -> usize {
        number
    }
}

/// Why there is no new entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// An entry with this key is in the table already.
    Exists,
    /// Somebody else is inserting this key at the moment.
    Busy,
    /// Every slot is taken.
    Full,
}

/// Puts a live word and what [`Slots::fill`] writes into one of a key's slots, and says which.
///
/// The slot is claimed first, by a word that says the hash of its key. Then every other slot is
/// looked at. A live one with the same key is what was to be made: the claim is given back. A claim
/// of the same hash is another insert of the same key: the one in the lower slot takes the other's
/// claim away from it, and the one in the higher slot gives its own back. At last the word is
/// exchanged for the live one, which fails when the claim was taken away.
///
/// Two inserts of one key that both got this far would both have missed the other; but each looked
/// after it had claimed, so the one that claimed later has seen the other's claim, or the live word
/// that it became. A claim that was taken away stays taken until its owner gives it back: nobody
/// else writes to a slot while its owner may still be filling it.
#[inline(always)]
pub fn insert<S: Slots>(slots: &S, hash: u64, word: Word, now: u64) -> Result<usize, Refusal> {
    let claim = Word::claim(hash).raw();
    let Some(at) = take(slots, claim, now) else {
        return Err(Refusal::Full);
    };
    let at = S::any(at) % (2 * S::SLOTS);
    slots.fill(at);
    for other in 0..2 * S::SLOTS {
        if other != at
            && let Err(refusal) = look(slots, at, other, claim)
        {
            give_back(slots, at, claim);
            return Err(refusal);
        }
    }
    if slots.exchange(at, claim, word.raw()) {
        return Ok(at);
    }
    give_back(slots, at, claim);
    Err(Refusal::Busy)
}

/// Claims the first free slot in the order of [`candidate`].
#[inline(always)]
fn take<S: Slots>(slots: &S, claim: u64, now: u64) -> Option<usize> {
    for step in 0..2 * S::SLOTS {
        let at = candidate(step, S::SLOTS);
        let found = slots.word(at);
        if Word::from_raw(found).is_free(now) && slots.exchange(at, found, claim) {
            return Some(at);
        }
    }
    None
}

/// The slots in the order in which they are taken: all but the last one of the first bucket, the
/// same of the second, then the last ones. So most keys are found in the first bucket, and a
/// bucket is only filled up when the other is as full.
#[inline(always)]
const fn candidate(step: usize, slots: usize) -> usize {
    let but_one = slots - 1;
    if step < but_one {
        step
    } else if step < 2 * but_one {
        step + 1
    } else {
        (step - 2 * but_one + 1) * slots - 1
    }
}

/// Looks at another slot than the one that was claimed.
#[inline(always)]
fn look<S: Slots>(slots: &S, at: usize, other: usize, claim: u64) -> Result<(), Refusal> {
    let mut found = slots.word(other);
    if found == claim {
        if other < at {
            return Err(Refusal::Busy);
        }
        if slots.exchange(other, claim, Word::from_raw(claim).lost().raw()) {
            return Ok(());
        }
        found = slots.word(other);
    }
    if Word::from_raw(found).is_live() && slots.has_key(other) {
        return Err(Refusal::Exists);
    }
    Ok(())
}

/// Frees a slot that was claimed, whether or not the claim was taken away meanwhile.
#[inline(always)]
fn give_back<S: Slots>(slots: &S, at: usize, claim: u64) {
    if !slots.exchange(at, claim, 0) {
        slots.exchange(at, Word::from_raw(claim).lost().raw(), 0);
    }
}

#[cfg(test)]
mod tests;
