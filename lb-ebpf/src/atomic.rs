//! The atomic operations that the tables need, with the orderings that compile right.
//!
//! Must not know: what the words mean.

use core::intrinsics::{AtomicOrdering, atomic_cxchg, atomic_xadd};

/// Adds without reading the old value.
#[inline(always)]
pub fn add(target: *mut u64, value: u64) {
    // SAFETY: callers pass pointers into map values, aligned to 8.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::Relaxed }>(target, value) };
}

/// Adds and returns the old value. Relaxed would be emitted as an add that does not fetch and
/// would return the addend (LLVM 22), so the ordering is AcqRel.
#[inline(always)]
pub fn fetch_add(target: *mut u64, value: u64) -> u64 {
    // SAFETY: as in `add`.
    unsafe { atomic_xadd::<u64, u64, { AtomicOrdering::AcqRel }>(target, value) }
}

/// Replaces `old` by `new`; `Err` holds what was there instead.
#[inline(always)]
pub fn compare_exchange(target: *mut u64, old: u64, new: u64) -> Result<(), u64> {
    // SAFETY: as in `add`.
    let (found, done) = unsafe {
        atomic_cxchg::<u64, { AtomicOrdering::AcqRel }, { AtomicOrdering::Acquire }>(
            target, old, new,
        )
    };
    if done { Ok(()) } else { Err(found) }
}

/// Whether this CPU keeps loads in order, so that a plain one acquires.
const LOADS_IN_ORDER: bool = cfg!(bpf_target_arch = "x86_64");

/// Reads a word so that whatever is read after it is at least as new.
#[inline(always)]
pub fn load(target: *const u64) -> u64 {
    if LOADS_IN_ORDER {
        // SAFETY: as in `add`. Volatile, so that the compiler keeps the order as well.
        unsafe { core::ptr::read_volatile(target) }
    } else {
        // There is no load with an ordering for BPF before version 4; this is a full barrier.
        fetch_add(target.cast_mut(), 0)
    }
}
