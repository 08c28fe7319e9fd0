//! Slots of the connection tables: finding a key's, and filling a new one.
//!
//! Where a key's slots are and how one is taken is `lb_common::table`'s; here are the maps and the
//! loads and stores. A found slot may be closed by another CPU at any time, but is not filled anew
//! for a jiffy at least (`GRACE`), in which the program that found it has long ended.
//!
//! Must not know: what an entry is for.

use lb_common::conn::{ConnEntry, ConnKey4, ConnKey6, Word};
use lb_common::rewrite::Edit;
use lb_common::table::{self, Bucket, REGION, Refusal, SLOTS, Slots};

use crate::{atomic, maps};

/// A key together with the table that it is a key of.
pub trait Table: Edit {
    /// One bucket of the table.
    fn bucket(index: u32) -> Option<*mut Bucket<Self>>;

    /// How often something was put into a region.
    fn inserts(region: u32) -> Option<*mut u64>;

    /// The live entry under this key. For the roads on which instructions do not count.
    #[inline(always)]
    fn find(&self) -> Option<*mut ConnEntry<Self>> {
        at(seek(self))
    }
}

macro_rules! table {
    ($key:ty, $buckets:ident, $inserts:ident) => {
        impl Table for $key {
            #[inline(always)]
            fn bucket(index: u32) -> Option<*mut Bucket<Self>> {
                maps::$buckets.get_ptr_mut(index)
            }

            #[inline(always)]
            fn inserts(region: u32) -> Option<*mut u64> {
                maps::$inserts.get_ptr_mut(region)
            }
        }
    };
}

table!(ConnKey4, CONN4, INSERTS4);
table!(ConnKey6, CONN6, INSERTS6);

/// The live entry under `key` and its word, read once.
#[inline(always)]
pub fn lookup<K: Table>(key: &K) -> Option<(*mut ConnEntry<K>, Word)> {
    let hash = key.table_hash(&maps::table_seed());
    let first = table::first_bucket(hash, maps::table_buckets());
    if let Some(found) = probe(K::bucket(first)?, key) {
        return Some(found);
    }
    let second = table::second_bucket(hash, maps::table_buckets(), first);
    probe(K::bucket(second)?, key)
}

/// The live entry under `key` in one bucket.
#[inline(always)]
fn probe<K: Table>(bucket: *mut Bucket<K>, key: &K) -> Option<(*mut ConnEntry<K>, Word)> {
    for n in 0..SLOTS {
        let slot = slot_of(bucket, n);
        // The word first: if it is live, the key is that of this life or, at worst and a jiffy
        // later, of the next one.
        // SAFETY: a slot of the table.
        let word = Word::from_raw(atomic::load(unsafe { &raw const (*slot).word }));
        if word.is_live() && has_key(slot, key) {
            return Some((slot, word));
        }
    }
    None
}

/// The number of the slot under `key`, plus one; 0 when there is none. A number of which nothing is
/// known and not a pointer, so that the verifier goes on from one state and not from one for each
/// slot.
#[inline(never)]
fn seek<K: Table>(key: &K) -> u64 {
    let hash = key.table_hash(&maps::table_seed());
    let first = table::first_bucket(hash, maps::table_buckets());
    let second = table::second_bucket(hash, maps::table_buckets(), first);
    for index in [first, second] {
        let Some(bucket) = K::bucket(index) else {
            return 0;
        };
        for n in 0..SLOTS {
            let slot = slot_of(bucket, n);
            // SAFETY: as in `probe`.
            let word = Word::from_raw(atomic::load(unsafe { &raw const (*slot).word }));
            if word.is_live() && has_key(slot, key) {
                return forget(u64::from(index) * SLOTS as u64 + n as u64 + 1);
            }
        }
    }
    0
}

/// The slot with this number, counted from one.
#[inline(always)]
fn at<K: Table>(number: u64) -> Option<*mut ConnEntry<K>> {
    if number == 0 {
        return None;
    }
    let number = number - 1;
    let bucket = K::bucket((number / SLOTS as u64) as u32)?;
    Some(slot_of(bucket, number as usize))
}

/// The same number, of which the verifier knows nothing any more: it does not look through a
/// change of byte order.
#[inline(always)]
fn forget(mut number: u64) -> u64 {
    // SAFETY: two swaps of one register.
    unsafe {
        core::arch::asm!(
            "{number} = be64 {number}",
            "{number} = be64 {number}",
            number = inout(reg) number,
            options(pure, nomem, nostack, preserves_flags),
        );
    }
    number
}

/// A slot of a bucket.
#[inline(always)]
fn slot_of<K: Table>(bucket: *mut Bucket<K>, n: usize) -> *mut ConnEntry<K> {
    // SAFETY: the mask keeps it within the bucket's slots.
    unsafe { bucket.cast::<ConnEntry<K>>().add(n & (SLOTS - 1)) }
}

/// Whether this slot's key is `key`.
#[inline(always)]
fn has_key<K: Table>(slot: *const ConnEntry<K>, key: &K) -> bool {
    let (theirs, ours) = (slot.cast::<u64>(), core::ptr::from_ref(key).cast::<u64>());
    for n in 0..size_of::<K>() / 8 {
        // SAFETY: a key begins a slot, is made of words and as aligned as they are. Volatile,
        // because the order among the loads of a slot matters.
        if unsafe { core::ptr::read_volatile(theirs.add(n)) != *ours.add(n) } {
            return false;
        }
    }
    true
}

/// The slots of one key while `entry` is put into one of them.
struct Places<'a, K: Table> {
    first: *mut Bucket<K>,
    second: *mut Bucket<K>,
    entry: &'a ConnEntry<K>,
}

impl<K: Table> Places<'_, K> {
    #[inline(always)]
    fn slot(&self, at: usize) -> *mut ConnEntry<K> {
        slot_of(if at < SLOTS { self.first } else { self.second }, at)
    }
}

impl<K: Table> Slots for Places<'_, K> {
    #[inline(always)]
    fn word(&self, at: usize) -> u64 {
        // SAFETY: a slot of the table.
        atomic::load(unsafe { &raw const (*self.slot(at)).word })
    }

    #[inline(always)]
    fn exchange(&self, at: usize, old: u64, new: u64) -> bool {
        // SAFETY: as above.
        atomic::compare_exchange(unsafe { &raw mut (*self.slot(at)).word }, old, new).is_ok()
    }

    #[inline(always)]
    fn has_key(&self, at: usize) -> bool {
        has_key(self.slot(at), &self.entry.key)
    }

    #[inline(always)]
    fn fill(&self, at: usize) {
        let slot = self.slot(at);
        // SAFETY: a slot that was claimed: nobody else writes it, and nobody reads more than its
        // key before its word is live. What fills it up is zero from the beginning.
        unsafe {
            (*slot).key = self.entry.key;
            (*slot).seen = self.entry.seen;
            (*slot).last_hop = self.entry.last_hop;
            (*slot).virtual_end = self.entry.virtual_end;
        }
    }

    #[inline(always)]
    fn any(number: usize) -> usize {
        forget(number as u64) as usize
    }
}

/// What [`insert`] says when it made the entry.
pub const MADE: i32 = 0;
/// What it says when there is an entry with this key already.
pub const EXISTS: i32 = 1;
/// What it says when another CPU is inserting this key at the moment.
pub const BUSY: i32 = 2;
/// What it says when both buckets are full.
pub const FULL: i32 = 3;

/// Puts an entry into the table. Gives one of the numbers above, and not an enum, because what a
/// sub-program leaves undefined in an enum's payload the verifier does not let pass.
#[inline(never)]
pub fn insert<K: Table>(entry: &ConnEntry<K>, now: u64) -> i32 {
    let hash = entry.key.table_hash(&maps::table_seed());
    let index = table::first_bucket(hash, maps::table_buckets());
    let other = table::second_bucket(hash, maps::table_buckets(), index);
    let (Some(first), Some(second)) = (K::bucket(index), K::bucket(other)) else {
        return FULL;
    };
    let places = Places { first, second, entry };
    match table::insert(&places, hash, Word::from_raw(entry.word), now) {
        Ok(at) => {
            // After the word: whoever reads a count before a slot misses nothing for good.
            let index = if at < SLOTS { index } else { other };
            if let Some(inserts) = K::inserts(index / REGION) {
                atomic::add(inserts, 1);
            }
            MADE
        }
        Err(Refusal::Exists) => EXISTS,
        Err(Refusal::Busy) => BUSY,
        Err(Refusal::Full) => FULL,
    }
}
