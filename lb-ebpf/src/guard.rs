//! The access lists: who is dropped, and who alone reaches virtual addresses.
//!
//! Must not know: services, connections, who wrote the lists.

use aya_ebpf::helpers::generated::bpf_map_lookup_elem;
use aya_ebpf::programs::XdpContext;
use lb_common::access::AccessEntry;
use lb_common::pod::{self, Address};
use lb_common::service::CONFIG_ALLOW_ONLY;
use lb_common::verdict::Counter;
use lb_common::wire::{self, Ends4, Ends6, FAMILY_IPV4, FAMILY_IPV6};

use crate::frame::Frame;
use crate::{atomic, maps, now, stage, stats};

/// The verdict on a frame, or on to the first stage.
#[inline(always)]
pub fn run(ctx: &XdpContext) -> u32 {
    let frame = Frame::new(ctx.ctx);
    let refused = match wire::network(&frame) {
        (FAMILY_IPV4, l3) => judge4(&frame, l3),
        (FAMILY_IPV6, l3) => judge6(&frame, l3),
        _ => None,
    };
    match refused {
        Some(reason) => stats::drop(reason),
        None => stage::forward(ctx),
    }
}

#[inline(always)]
fn judge4(frame: &Frame, l3: usize) -> Option<Counter> {
    let (Ends4 { source, destination }, about) = wire::ends4(frame, l3)?;
    if is_denied4(source) {
        return Some(Counter::Denied);
    }
    let is_refused = is_allow_only()
        && is_virtual(&pod::mapped_words(destination))
        && !is_allowed4(source)
        // An error about a packet to a client belongs to that client's connection: without it the
        // path MTU is not found.
        && !about.is_some_and(|about| is_allowed4(about.destination));
    is_refused.then_some(Counter::NotAllowed)
}

#[inline(always)]
fn judge6(frame: &Frame, l3: usize) -> Option<Counter> {
    let (ends, about) = wire::ends6(frame, l3)?;
    let is_denied = match ends.mapped_source() {
        Some(source) => is_denied4(source),
        None => is_denied6(ends.source),
    };
    if is_denied {
        return Some(Counter::Denied);
    }
    let is_refused = is_allow_only()
        && is_virtual(&ends.destination)
        && !is_allowed6(&ends)
        && !about.is_some_and(|about: Ends6| is_in6(about.destination));
    is_refused.then_some(Counter::NotAllowed)
}

#[inline(always)]
fn is_allow_only() -> bool {
    maps::CONFIG.get(0).is_some_and(|config| config.flags & CONFIG_ALLOW_ONLY != 0)
}

#[inline(always)]
fn is_virtual(address: &[u32; 4]) -> bool {
    // SAFETY: the reference is not kept.
    unsafe { maps::VIPS.get(pod::head::<[u32; 4], Address>(address)) }.is_some()
}

#[inline(always)]
fn is_denied4(source: u32) -> bool {
    is_denied(&maps::DENY4, [32, source, 0])
}

#[inline(always)]
fn is_denied6([a, b, c, d]: [u32; 4]) -> bool {
    is_denied(&maps::DENY6, [128, a, b, c, d])
}

/// Whether an entry that is in force covers a key. `key` begins with the length of its address.
#[inline(always)]
fn is_denied<T: Trie<N>, const N: usize>(trie: &'static T, mut key: [u32; N]) -> bool {
    let now = now();
    for _ in 0..=key[0] {
        let Some(entry) = find(trie, &key) else {
            return false;
        };
        match judge(entry, now) {
            Ok(()) => return true,
            Err(0) => return false,
            Err(len) => key[0] = len - 1,
        }
    }
    false
}

/// Counts a packet against an entry that is in force; else gives its length, to ask for a shorter
/// one that it hides.
#[inline(always)]
fn judge(entry: *mut AccessEntry, now: u64) -> Result<(), u32> {
    // SAFETY: a value of a trie, freed after a grace period; user space replaces it as a whole.
    unsafe {
        if (*entry).is_in_force(now) {
            atomic::add(&raw mut (*entry).packets, 1);
            Ok(())
        } else {
            Err((*entry).len)
        }
    }
}

#[inline(always)]
fn is_allowed4(source: u32) -> bool {
    find(&maps::ALLOW4, &[32, source, 0]).is_some()
}

#[inline(always)]
fn is_allowed6(ends: &Ends6) -> bool {
    match ends.mapped_source() {
        Some(source) => is_allowed4(source),
        None => is_in6(ends.source),
    }
}

#[inline(always)]
fn is_in6([a, b, c, d]: [u32; 4]) -> bool {
    find(&maps::ALLOW6, &[128, a, b, c, d]).is_some()
}

/// A trie whose key is this many words: `Prefix4` or `Prefix6`.
trait Trie<const WORDS: usize> {}

impl Trie<3> for maps::Trie4 {}

impl Trie<5> for maps::Trie6 {}

/// The entry of the longest prefix that is no longer than the key's and matches.
#[inline(always)]
fn find<T: Trie<N>, const N: usize>(trie: &'static T, key: &[u32; N]) -> Option<*mut AccessEntry> {
    // SAFETY: a map of the object and a key of its size. Not aya's own way in, whose packed keys
    // are stored byte by byte and whose values cannot be counted in.
    let entry = unsafe {
        bpf_map_lookup_elem(
            core::ptr::from_ref(trie).cast_mut().cast(),
            core::ptr::from_ref(key).cast(),
        )
    };
    (!entry.is_null()).then_some(entry.cast())
}
