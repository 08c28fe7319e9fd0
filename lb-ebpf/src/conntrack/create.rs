//! Making connections.
//!
//! Must not know: why this real server was chosen, how entries are stored.

use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use lb_common::conn::{ConnEntry, PROVISIONAL, REPLY, State, Word};
use lb_common::service::{METHOD_NAT, RealServer};
use lb_common::wire::{Link, Macs, Tags};

use super::table::{EXISTS, MADE, insert};
use super::{Table, close, close_reply, count, is_expired, word_of};
use crate::maps;

/// What a new connection is made of.
pub struct New<'a, K> {
    /// The request's key.
    pub key: &'a K,
    /// Index of the real server.
    pub index: u32,
    /// The real server.
    pub server: &'a RealServer,
    /// State after this packet.
    pub state: State,
    /// Picked up in its middle.
    pub provisional: bool,
    /// The request frame: its addresses, with the one of ours that its answers come from; the
    /// interface that it came in by; its tags.
    pub from: (Macs, u32, Tags),
    /// Now, in jiffies.
    pub now: u64,
}

/// What [`create`] says when a live connection of another flow holds the reply half's key.
pub const TUPLE_IN_USE: i32 = 4;

/// Makes a connection, counted first and uncounted again when the table refuses it. Gives a number
/// of `insert`, or [`TUPLE_IN_USE`].
#[inline(always)]
pub fn create<K: Table>(new: &New<'_, K>) -> i32 {
    let flags = if new.provisional { PROVISIONAL } else { 0 };
    let word = Word::new(next_sequence(), new.server.generation, new.index, new.state, flags);
    let mut entry = ConnEntry::ZERO;
    entry.seen = new.now;
    let nat = new.server.method == METHOD_NAT;
    if nat {
        let (macs, ifindex, tags) = new.from;
        entry.last_hop = Link::answering(macs, ifindex, &tags);
        entry.virtual_end = new.key.destination_end();
        entry.key = new.key.reply_from(&new.server.address, new.server.port);
        entry.word = word.with_flags(REPLY).raw();
        let refused = insert_reply(&entry, new.key, new.now);
        if refused != MADE {
            return refused;
        }
    }
    entry.key = *new.key;
    entry.word = word.raw();
    count(new.index, new.state.is_active(), 1);
    let refused = insert(&entry, new.now);
    if refused != MADE {
        count(new.index, new.state.is_active(), u64::MAX);
        if nat {
            close_reply(new.key, word);
        }
    }
    refused
}

/// Inserts a reply half; one that is left from a connection that is no more makes room.
#[inline(always)]
fn insert_reply<K: Table>(entry: &ConnEntry<K>, own: &K, now: u64) -> i32 {
    let refused = insert(entry, now);
    if refused != EXISTS {
        return refused;
    }
    match reclaim_reply(&entry.key, own, now) {
        FREE => insert(entry, now),
        // Another CPU was faster with a packet of the same flow.
        OWN => EXISTS,
        _ => TUPLE_IN_USE,
    }
}

/// The place of a reply half is free.
const FREE: u32 = 0;
/// It is taken by the very flow that wants it.
const OWN: u32 = 1;
/// It is taken by another flow.
const OTHER: u32 = 2;

/// Removes the reply half under `key` if its connection is over. Says who holds the place; `own`
/// is the forward key of whoever asks.
#[inline(never)]
fn reclaim_reply<K: Table>(key: &K, own: &K, now: u64) -> u32 {
    let Some(entry) = key.find() else {
        return FREE;
    };
    let word = word_of(entry);
    if !word.is_live() {
        return FREE;
    }
    if !word.has(REPLY) {
        return OTHER;
    }
    // SAFETY: a slot of the table.
    let (forward_key, seen) = unsafe { ((*entry).forward_key(), (*entry).seen) };
    let holder = if forward_key.is_same(own) { OWN } else { OTHER };
    let server =
        maps::REAL_SERVERS.get(word.real_server()).filter(|s| s.generation == word.generation());
    let forward = forward_key.find();
    let forward_word = forward.map_or(Word::from_raw(0), word_of);
    let Some(forward) = forward.filter(|_| forward_word.pairs_with(word)) else {
        // Its forward half is made just after it, perhaps by another CPU in this moment.
        let second = maps::CONFIG.get(0).map_or(1, |config| config.hz);
        let young = now.wrapping_sub(seen) as i64 <= second as i64;
        return if young && server.is_some() { holder } else { closed(key, word, holder) };
    };
    let over = match server {
        // SAFETY: a slot of the table.
        Some(server) => is_expired(server, forward_word, unsafe { (*forward).seen }, now),
        None => true,
    };
    // Closing the forward half closes this one with it.
    if over { closed(&forward_key, forward_word, holder) } else { holder }
}

/// Closes an entry so that a place becomes free; whoever else does it holds the place meanwhile.
#[inline(always)]
fn closed<K: Table>(key: &K, word: Word, holder: u32) -> u32 {
    if close(key, word.raw()) { FREE } else { holder }
}

/// A number for this use of a slot: this CPU's count of uses, and the CPU.
#[inline(always)]
fn next_sequence() -> u32 {
    let Some(own) = maps::PER_CPU.get_ptr_mut(0) else {
        return 0;
    };
    // SAFETY: this CPU's own element; the helper takes no arguments.
    unsafe {
        (*own).sequence += 1;
        ((*own).sequence as u32) << 8 | bpf_get_smp_processor_id() & 0xff
    }
}
