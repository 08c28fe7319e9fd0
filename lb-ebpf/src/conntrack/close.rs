//! Closing connections: at once for a packet that finds one over, or for the sweep.
//!
//! Must not know: how entries are stored.

use lb_common::conn::{ConnEntry, REPLY, Word};
use lb_common::service::METHOD_NAT;

use super::{Table, count, is_expired, word_of};
use crate::{atomic, maps, now};

/// Closes the entry under `key` if its word still is `word`: moves the counts, closes the reply
/// half. True for whoever did it.
#[inline(never)]
pub fn close<K: Table>(key: &K, word: u64) -> bool {
    match key.find() {
        Some(entry) => close_found(key, entry, Word::from_raw(word)),
        None => false,
    }
}

/// [`close`] for an entry that was found.
#[inline(always)]
fn close_found<K: Table>(key: &K, entry: *mut ConnEntry<K>, word: Word) -> bool {
    if !bury(entry, word) {
        return false;
    }
    if !word.has(REPLY) {
        count(word.real_server(), word.state().is_active(), u64::MAX);
        close_reply(key, word);
    }
    true
}

/// Closes the reply half of a connection that was closed, or was not made. Its key follows from
/// the real server; if that is another one by now, the half is left to the sweep.
#[inline(always)]
pub(super) fn close_reply<K: Table>(key: &K, forward: Word) {
    let Some(server) = maps::REAL_SERVERS.get(forward.real_server()) else {
        return;
    };
    if server.method != METHOD_NAT {
        return;
    }
    if let Some(entry) = key.reply_from(&server.address, server.port).find() {
        let word = word_of(entry);
        // A state never changes in a reply half, so a mismatch is another connection's entry.
        if word.has(REPLY) && word.is_live() && word.pairs_with(forward) {
            bury(entry, word);
        }
    }
}

/// Closes a slot; true for whoever did it.
#[inline(always)]
fn bury<K: Table>(entry: *mut ConnEntry<K>, word: Word) -> bool {
    // SAFETY: a slot of the table.
    let target = unsafe { &raw mut (*entry).word };
    atomic::compare_exchange(target, word.raw(), Word::dead(now()).raw()).is_ok()
}

/// Closes an entry that the sweep proposes, if it is over. True when it was closed.
#[inline(always)]
pub fn expire<K: Table>(key: &K, now: u64, second: u64) -> bool {
    let Some(entry) = key.find() else {
        return false;
    };
    let word = word_of(entry);
    if !word.is_live() {
        return false;
    }
    // SAFETY: a slot of the table.
    let seen = unsafe { (*entry).seen };
    if word.has(REPLY) {
        // Its forward half is made just after it; only an old one without it is an orphan.
        let idle = now.wrapping_sub(seen) as i64;
        return idle > second as i64 && !is_paired(entry, word) && bury(entry, word);
    }
    let over = match maps::REAL_SERVERS.get(word.real_server()) {
        Some(server) => {
            server.generation != word.generation() || is_expired(server, word, seen, now)
        }
        None => true,
    };
    over && close_found(key, entry, word)
}

/// Whether the forward half of a reply half is there.
#[inline(always)]
fn is_paired<K: Table>(reply: *const ConnEntry<K>, word: Word) -> bool {
    // SAFETY: a slot of the table.
    let forward_key = unsafe { (*reply).forward_key() };
    forward_key.find().is_some_and(|forward| word_of(forward).pairs_with(word))
}
