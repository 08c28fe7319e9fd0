//! The choice of a real server for a flow: from the service's ring, or from its Maglev table.
//!
//! Must not know: packet bytes, the connection table.

use lb_common::conn::ConnKey;
use lb_common::hash;
use lb_common::service::{Region, SERVICE_HASH_PORT, ServiceEntry};

use crate::{atomic, maps};

/// The next real server in turn (rr, wrr). One atomic step a new connection keeps the ratios exact
/// over all CPUs together.
#[inline(always)]
pub fn next_in_ring(service: &ServiceEntry) -> Option<u32> {
    let Region { base, len } = service.slots;
    if len == 0 {
        return None;
    }
    let cursor = maps::CURSORS.get_ptr_mut(service.id)?;
    let turn = atomic::fetch_add(cursor, 1) % u64::from(len);
    maps::SLOTS.get(base + turn as u32).copied()
}

/// The real server that the Maglev table names for this flow: the same on every director.
/// `attempt` walks on to other slots.
#[inline(always)]
pub fn by_hash<K: ConnKey>(service: &ServiceEntry, key: &K, attempt: u32) -> Option<u32> {
    let Region { base, len } = service.maglev;
    if len == 0 {
        return None;
    }
    let port = if service.flags & SERVICE_HASH_PORT != 0 { key.ports().0 } else { 0 };
    let seed = hash::FLOW_SEED.wrapping_add(u64::from(attempt));
    let slot = hash::slot(hash::address(seed, &key.source(), port), len);
    maps::SLOTS.get(base + slot).copied()
}
