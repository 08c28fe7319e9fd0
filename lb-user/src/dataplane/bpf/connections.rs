//! The connection tables as memory of this process: what the kernel's programs write, read without
//! a system call.
//!
//! The memory is mapped for reading only. A program may change any slot at any time, so every word
//! is read atomically, and what is read of a slot is a connection only if its word was live before
//! and the same afterwards.
//!
//! Must not know: what becomes of a connection.

use std::marker::PhantomData;
use std::ops::Range;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU64, Ordering, fence};

use anyhow::{Context, ensure};
use lb_common::conn::{ConnEntry, ConnKey, Word};
use lb_common::hash::TableSeed;
use lb_common::table::{self, REGION, SLOTS};

/// A connection table of one family.
#[derive(Debug)]
pub struct ConnTable<K> {
    slots: Memory,
    inserts: Memory,
    buckets: u32,
    seed: TableSeed,
    key: PhantomData<K>,
}

impl<K: ConnKey> ConnTable<K> {
    /// Words of a slot, and which of them says its state.
    const WORDS: usize = size_of::<ConnEntry<K>>() / 8;
    const WORD: usize = size_of::<K>() / 8;

    /// Maps a table of this many buckets, and the counts of its regions.
    ///
    /// # Errors
    /// When a map is not of the size that this version gives it, or memory is short.
    pub(super) fn open(
        (slots, inserts): (BorrowedFd<'_>, BorrowedFd<'_>),
        (buckets, regions): (u32, u32),
        seed: TableSeed,
    ) -> anyhow::Result<Self> {
        ensure!(
            buckets >= table::MIN_BUCKETS && regions == table::regions_of(buckets),
            "a connection table has {buckets} buckets and {regions} regions, which do not fit"
        );
        Ok(Self {
            slots: Memory::map(slots, buckets as usize * SLOTS * Self::WORDS * 8)?,
            inserts: Memory::map(inserts, regions as usize * 8)?,
            buckets,
            seed,
            key: PhantomData,
        })
    }

    /// Number of buckets.
    pub fn buckets(&self) -> u32 {
        self.buckets
    }

    /// Number of regions: runs of [`REGION`] buckets, the last one of what is left.
    pub fn regions(&self) -> u32 {
        table::regions_of(self.buckets)
    }

    /// The buckets of a region.
    pub fn region(&self, region: u32) -> Range<u32> {
        region * REGION..self.buckets.min((region + 1) * REGION)
    }

    /// How often something was put into a region. Whatever is not found in the region
    /// after this was read, and is put in later, raises the count after it was.
    pub fn inserts(&self, region: u32) -> u64 {
        self.inserts.word(region as usize).load(Ordering::Acquire)
    }

    /// The word of a slot.
    pub fn word(&self, slot: u64) -> Word {
        let at = slot as usize * Self::WORDS + Self::WORD;
        Word::from_raw(self.slots.word(at).load(Ordering::Acquire))
    }

    /// The connection in a slot, if there is one.
    pub fn entry(&self, slot: u64) -> Option<ConnEntry<K>> {
        let mut word = self.word(slot);
        // A state may change while the rest is read; a connection that ends stays as it is for a
        // while.
        for _ in 0..4 {
            if !word.is_live() {
                return None;
            }
            let entry = self.copy(slot, word);
            fence(Ordering::Acquire);
            let after = self.word(slot);
            if after == word {
                return Some(entry);
            }
            word = after;
        }
        None
    }

    fn copy(&self, slot: u64, word: Word) -> ConnEntry<K> {
        let mut entry = ConnEntry::<K>::ZERO;
        let target = (&raw mut entry).cast::<u64>();
        for n in 0..Self::WORDS {
            let value = self.slots.word(slot as usize * Self::WORDS + n).load(Ordering::Relaxed);
            // SAFETY: an entry is made of this many words, which may have any value.
            unsafe { target.add(n).write(value) };
        }
        entry.word = word.raw();
        entry
    }

    /// Gives every connection in some buckets to `each`; says how many there were.
    pub fn walk(&self, buckets: Range<u32>, mut each: impl FnMut(&ConnEntry<K>)) -> usize {
        let mut count = 0;
        let slots = u64::from(buckets.start) * SLOTS as u64..u64::from(buckets.end) * SLOTS as u64;
        for entry in slots.filter_map(|slot| self.entry(slot)) {
            each(&entry);
            count += 1;
        }
        count
    }

    /// The connection under a key, with the number of its slot.
    pub fn find(&self, key: &K) -> Option<(u64, ConnEntry<K>)> {
        let hash = key.table_hash(&self.seed);
        let first = table::first_bucket(hash, self.buckets);
        let second = table::second_bucket(hash, self.buckets, first);
        [first, second].into_iter().find_map(|bucket| {
            (0..SLOTS as u64).find_map(|n| {
                let slot = u64::from(bucket) * SLOTS as u64 + n;
                Some((slot, self.entry(slot).filter(|entry| entry.key.is_same(key))?))
            })
        })
    }
}

/// Memory of a map, mapped for reading.
#[derive(Debug)]
struct Memory {
    base: NonNull<u64>,
    words: usize,
}

// SAFETY: the memory belongs to the value until it is dropped, and is read by atomics only.
unsafe impl Send for Memory {}
// SAFETY: as above.
unsafe impl Sync for Memory {}

impl Memory {
    /// Maps the first `bytes` of an array map that was made to be mapped.
    fn map(fd: BorrowedFd<'_>, bytes: usize) -> anyhow::Result<Self> {
        // SAFETY: a new mapping wherever the kernel likes, of a descriptor that is open.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                bytes,
                libc::PROT_READ,
                libc::MAP_SHARED,
                fd.as_raw_fd(),
                0,
            )
        };
        if base == libc::MAP_FAILED {
            return Err(std::io::Error::last_os_error())
                .with_context(|| format!("map {bytes} bytes of a connection table"));
        }
        let base = NonNull::new(base.cast()).context("a connection table is mapped at 0")?;
        Ok(Self { base, words: bytes / 8 })
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        assert!(at < self.words, "word {at} of {}", self.words);
        // SAFETY: within the mapping (checked), aligned as a page is, and never written here.
        unsafe { AtomicU64::from_ptr(self.base.as_ptr().add(at)) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: this very mapping, which nobody refers to any more. It cannot fail for it.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.words * 8) };
    }
}
