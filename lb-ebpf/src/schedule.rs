//! The choice of a real server for a flow: from the service's ring, among its members by their
//! connections, or from its Maglev table.
//!
//! Ring and hash are a slot each. A choice that has to look at many, the least of the members or a
//! slot further on, is a `bpf_loop`: the verifier sees its body once, not once for each turn.
//!
//! Must not know: packet bytes, the connection table.

use core::ffi::c_void;

use aya_ebpf::helpers::generated::bpf_loop;
use lb_common::conn::ConnKey;
use lb_common::hash;
use lb_common::sched::{self, CANDIDATES, FALLBACK_SLOTS, Load};
use lb_common::service::{
    Region, SCHEDULER_HASH, SCHEDULER_LC, SCHEDULER_RING, SERVICE_HASH_FALLBACK, SERVICE_HASH_PORT,
    ServiceEntry,
};

use crate::{atomic, maps};

/// No real server: indices are below 2^20.
pub const NONE: u32 = u32::MAX;

/// Real servers that were chosen and could not take the connection.
pub type Tried = [u32; 3];

/// None yet.
pub const UNTRIED: Tried = [NONE; 3];

/// The real server for a flow that begins: the scheduler's, and not one of `tried` as far as the
/// scheduler can tell. [`NONE`] when there is none.
#[inline(always)]
pub fn for_new<K: ConnKey>(service: &ServiceEntry, key: &K, tried: &Tried) -> u32 {
    match service.scheduler {
        SCHEDULER_RING => next_in_ring(service),
        SCHEDULER_HASH => by_hash(service, key, tried),
        _ => least(service, tried),
    }
}

/// The real server for a flow that is under way and of which nothing is known: the one that the
/// Maglev table names. Under sh and mh this is where it began, so a server that takes no new
/// connections keeps those it has.
#[inline(always)]
pub fn for_known<K: ConnKey>(service: &ServiceEntry, key: &K, tried: &Tried) -> u32 {
    if service.scheduler != SCHEDULER_HASH || tried[0] != NONE {
        return by_hash(service, key, tried);
    }
    let Region { base, len } = service.maglev;
    if len == 0 {
        return NONE;
    }
    maps::SLOTS.get(base + flow_slot(service, key)).copied().unwrap_or(NONE)
}

/// The next real server in turn (rr, wrr). One atomic step a new connection keeps the ratios exact
/// over all CPUs together.
#[inline(always)]
fn next_in_ring(service: &ServiceEntry) -> u32 {
    let Region { base, len } = service.slots;
    if len == 0 {
        return NONE;
    }
    let Some(cursor) = maps::CURSORS.get_ptr_mut(service.id) else {
        return NONE;
    };
    let turn = atomic::fetch_add(cursor, 1) % u64::from(len);
    maps::SLOTS.get(base + turn as u32).copied().unwrap_or(NONE)
}

/// The real server that the Maglev table names for this flow: the same on every director. One that
/// takes no new connections is passed over if the service says so, or if it was tried.
#[inline(always)]
pub fn by_hash<K: ConnKey>(service: &ServiceEntry, key: &K, tried: &Tried) -> u32 {
    let Region { base, len } = service.maglev;
    if len == 0 {
        return NONE;
    }
    let slot = flow_slot(service, key);
    let named = maps::SLOTS.get(base + slot).copied().unwrap_or(NONE);
    if tried[0] == NONE {
        if weight(named) > 0 {
            return named;
        }
        if service.flags & SERVICE_HASH_FALLBACK == 0 {
            return NONE;
        }
    }
    let mut search = Search {
        base,
        len,
        place: slot,
        best: NONE,
        load: Load { overhead: 0, weight: 0 },
        by_load: 0,
        by_weight: 0,
        tried: *tried,
    };
    search.run(FALLBACK_SLOTS);
    search.best
}

/// The least busy of the members (lc, wlc).
#[inline(always)]
fn least(service: &ServiceEntry, tried: &Tried) -> u32 {
    let Region { base, len } = service.slots;
    if len == 0 {
        return NONE;
    }
    let Some(cursor) = maps::CURSORS.get_ptr_mut(service.id) else {
        return NONE;
    };
    let mut search = Search {
        base,
        len,
        place: sched::start(atomic::fetch_add(cursor, 1), len),
        best: NONE,
        load: Load { overhead: 0, weight: 0 },
        by_load: 1,
        by_weight: u32::from(service.scheduler != SCHEDULER_LC),
        tried: *tried,
    };
    search.run(CANDIDATES);
    search.best
}

/// A walk over real-server indices in a region, round its end.
#[repr(C)]
struct Search {
    base: u32,
    len: u32,
    /// Where the walk is.
    place: u32,
    /// The best so far.
    best: u32,
    /// Its load.
    load: Load,
    /// Not 0: the least busy is wanted; 0: the first that takes connections.
    by_load: u32,
    /// Not 0: weights count.
    by_weight: u32,
    tried: Tried,
}

impl Search {
    /// Walks over at most `limit` entries, and over none twice.
    #[inline(always)]
    fn run(&mut self, limit: u32) {
        let turns = if self.len < limit { self.len } else { limit };
        // SAFETY: the callback has the type that the helper wants and gets this walk.
        unsafe {
            bpf_loop(turns, visit as *mut c_void, (&raw mut *self).cast::<c_void>(), 0);
        }
    }
}

/// One entry of a walk; 1 ends it.
extern "C" fn visit(_turn: u64, search: *mut Search) -> u64 {
    // SAFETY: `Search::run` passes its own, which nobody else uses meanwhile.
    let search = unsafe { &mut *search };
    let index = maps::SLOTS.get(search.base.wrapping_add(search.place)).copied().unwrap_or(NONE);
    search.place += 1;
    if search.place >= search.len {
        search.place = 0;
    }
    let weight = weight(index);
    let [a, b, c] = search.tried;
    if weight == 0 || index == a || index == b || index == c {
        return 0;
    }
    if search.by_load == 0 {
        search.best = index;
        return 1;
    }
    let Some(counts) = maps::CONN_COUNTS.get(index) else {
        return 0;
    };
    let load = Load {
        overhead: sched::overhead(counts),
        weight: if search.by_weight != 0 { weight } else { 1 },
    };
    if search.best == NONE || load.is_less(search.load) {
        search.best = index;
        search.load = load;
    }
    0
}

/// The weight of a real server; 0 for an index that is none.
#[inline(always)]
fn weight(index: u32) -> u32 {
    maps::REAL_SERVERS.get(index).map_or(0, |server| server.weight)
}

/// A flow's slot in the service's Maglev table.
#[inline(always)]
fn flow_slot<K: ConnKey>(service: &ServiceEntry, key: &K) -> u32 {
    let port = if service.flags & SERVICE_HASH_PORT != 0 { key.ports().0 } else { 0 };
    hash::slot(hash::address(hash::FLOW_SEED, &key.source(), port), service.maglev.len)
}
