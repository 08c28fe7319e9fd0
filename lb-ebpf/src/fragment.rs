//! Fragments: the first one's decision is kept, the later ones follow it.
//!
//! A first fragment takes the ordinary road, which leaves its decision here. A later one that finds
//! none is held by user space until there is one: it marks the packet as waited for and takes the
//! detour; the first fragment meets the mark and tells user space.
//!
//! Must not know: frames' bytes, how a real server is chosen.

use aya_ebpf::bindings::{BPF_ANY, BPF_NOEXIST, xdp_action, xdp_md};
use lb_common::conn::ConnEntry;
use lb_common::detour::{DETOUR_DECIDED, DETOUR_FRAGMENT};
use lb_common::fragment::{self, FragmentEntry, FragmentKey};
use lb_common::verdict::Counter;
use lb_common::wire::{Packet, Part};

use crate::conntrack::Table;
use crate::frame::Frame;
use crate::stage::{Chosen, Stage};
use crate::{admit, detour, forward, maps, now, station, stats};

/// Keeps the decision to forward a request, if this is a first fragment.
#[inline(always)]
pub fn requested<K: Table>(packet: &Packet<K>, index: u32, generation: u16, now: u64) {
    if is_first(packet) {
        let mut entry = FragmentEntry::bare(fragment::REQUEST, now);
        entry.real_server = index;
        entry.generation = generation;
        remember(packet, &entry);
    }
}

/// Keeps the decision to translate a reply, if this is a first fragment.
#[inline(always)]
pub fn replied<K: Table>(packet: &Packet<K>, index: u32, reply: *const ConnEntry<K>, now: u64) {
    if is_first(packet) {
        let Some(server) = maps::REAL_SERVERS.get(index) else {
            return;
        };
        let mut entry = FragmentEntry::bare(fragment::REPLY, now);
        entry.real_server = index;
        entry.generation = server.generation;
        // SAFETY: a value of the table.
        unsafe {
            entry.address = K::parts_of(&(*reply).virtual_end).0;
            entry.last_hop = (*reply).last_hop;
        }
        remember(packet, &entry);
    }
}

/// Keeps a verdict, if this is a first fragment.
#[inline(always)]
pub fn decided<K: Table>(packet: &Packet<K>, verdict: u32, now: u64) {
    if is_first(packet) {
        let passed = verdict == xdp_action::XDP_PASS;
        let decision = if passed { fragment::PASS } else { fragment::DROP };
        remember(packet, &FragmentEntry::bare(decision, now));
    }
}

#[inline(always)]
fn is_first<K>(packet: &Packet<K>) -> bool {
    matches!(packet.part, Part::First)
}

/// Writes a decision; user space is told when a later fragment waits for it.
#[inline(never)]
fn remember<K: Table>(packet: &Packet<K>, entry: &FragmentEntry) {
    let key = &FragmentKey::of(packet);
    if maps::FRAGMENTS.insert(key, entry, BPF_NOEXIST as u64).is_ok() {
        return;
    }
    let is_awaited = match maps::FRAGMENTS.get_ptr(key) {
        // SAFETY: a value of the table. If it is used anew this moment, user space is told in vain
        // or finds the decision when it looks again.
        Some(before) => unsafe { (*before).decision == fragment::WAITING },
        None => false,
    };
    let _ = maps::FRAGMENTS.insert(key, entry, BPF_ANY as u64);
    if is_awaited {
        detour::tell(DETOUR_DECIDED, key);
    }
}

/// A later fragment: where its first one went, or held until that is known.
#[inline(always)]
pub fn follow<K: Stage>(ctx: *mut xdp_md, packet: &Packet<K>) -> u32 {
    if !admit::is_to_service(&packet.key) && !admit::is_from_server(&packet.key) {
        return xdp_action::XDP_PASS;
    }
    let Some(config) = maps::CONFIG.get(0) else {
        return xdp_action::XDP_PASS;
    };
    if !matches!(packet.part, Part::Later) {
        return if is_ours(ctx, packet) {
            stats::drop(Counter::FragmentShort)
        } else {
            xdp_action::XDP_PASS
        };
    }
    let (key, now) = (&FragmentKey::of(packet), now());
    if let Some(found) = maps::FRAGMENTS.get_ptr_mut(key) {
        // SAFETY: a value of the table, copied at once. An element that is used anew in this moment
        // is that of the least recently used packet of tens of thousands.
        let entry = unsafe { *found };
        if entry.is_fresh(now, config.hz) {
            // SAFETY: as above.
            unsafe { (*found).seen = now };
            if entry.decision != fragment::WAITING {
                return go(ctx, packet, &entry, forward::is_controlled(config, now));
            }
        } else {
            let _ = maps::FRAGMENTS.remove(key);
        }
    }
    hold(ctx, packet, key, now)
}

/// Follows a decision.
#[inline(always)]
fn go<K: Stage>(
    ctx: *mut xdp_md,
    packet: &Packet<K>,
    entry: &FragmentEntry,
    controlled: bool,
) -> u32 {
    match entry.decision {
        fragment::PASS => return xdp_action::XDP_PASS,
        fragment::REQUEST | fragment::REPLY => {}
        _ => return stats::drop(Counter::FragmentRefused),
    }
    let index = entry.real_server;
    let Some(server) = maps::REAL_SERVERS.get_ptr(index) else {
        return stats::drop(Counter::FragmentRefused);
    };
    // SAFETY: an array element.
    if unsafe { (*server).generation } != entry.generation {
        return stats::drop(Counter::FragmentRefused);
    }
    let frame = Frame::new(ctx);
    if entry.decision == fragment::REQUEST {
        let chosen = Chosen { index, is_new: 0 };
        return forward::to_server(ctx, frame, packet, chosen, server, controlled);
    }
    forward::back(ctx, frame, packet, index, (&entry.last_hop, entry.address, 0))
}

/// Hands a fragment that nothing is decided about to user space.
#[inline(always)]
fn hold<K: Table>(ctx: *mut xdp_md, packet: &Packet<K>, key: &FragmentKey, now: u64) -> u32 {
    if !is_ours(ctx, packet) {
        return xdp_action::XDP_PASS;
    }
    if packet.rerun {
        return stats::drop(Counter::FragmentUndecided);
    }
    if !detour::has_room() {
        return stats::drop(Counter::DetourFull);
    }
    // Marked first and handed over then: whoever decides in between finds the mark, or user space
    // finds the decision. One that is there already does as well.
    let waiting = &FragmentEntry::bare(fragment::WAITING, now);
    let _ = maps::FRAGMENTS.insert(key, waiting, BPF_NOEXIST as u64);
    detour::submit(ctx, DETOUR_FRAGMENT, 0, key);
    xdp_action::XDP_DROP
}

/// Whether a later fragment without a decision can be of a connection: it is to a virtual address,
/// in a frame for this node, or comes from a nat server.
#[inline(always)]
fn is_ours<K: Table>(ctx: *mut xdp_md, packet: &Packet<K>) -> bool {
    // SAFETY: the reference is not kept.
    let is_to_vip = unsafe { maps::VIPS.get(packet.key.destination()) }.is_some();
    if !is_to_vip && !admit::is_from_server(&packet.key) {
        return false;
    }
    Frame::new(ctx).macs().is_some_and(|macs| station::is_addressed_to_us(ctx, macs))
}
