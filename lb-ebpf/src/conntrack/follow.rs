//! Following a packet in its connection: state, last use, last hop.
//!
//! Must not know: how entries are stored, made and closed.

use aya_ebpf::bindings::xdp_md;
use lb_common::conn::{ConnEntry, ConnKey, Direction, REPLY, State, Word, flags, next_state};
use lb_common::service::{METHOD_NAT, RealServer};
use lb_common::wire::{Link, Packet, TCP};

use super::table::lookup;
use super::{Table, count, is_expired, word_of};
use crate::frame::{Frame, ingress};
use crate::station::from_us;
use crate::{atomic, maps};

/// What the table says of a packet.
pub enum Followed<K: ConnKey> {
    /// A request of a known connection: index and element of its real server.
    Request(u32, *const RealServer),
    /// A reply of a known connection: its entry and the index of its real server.
    Reply(*mut ConnEntry<K>, u32),
    /// A reply of a connection that is over: the stack would send it on untranslated.
    Orphan,
    /// No connection; the word of an entry that has to be closed first, or 0.
    Nothing(u64),
}

/// Idle jiffies up to which no timeout can have passed, so that it is not looked up: timeouts are
/// at least one second, and no kernel has fewer than 100 jiffies in one.
const CERTAINLY_ALIVE: u64 = 64;

/// The low byte of a word that says ESTABLISHED and nothing else.
const PLAIN_ESTABLISHED: u64 = (State::ESTABLISHED.raw() as u64) << 4;

/// Finds the packet's connection and takes its state on.
#[inline(always)]
pub fn follow<K: Table>(
    ctx: *mut xdp_md,
    frame: &Frame,
    packet: &Packet<K>,
    now: u64,
) -> Followed<K> {
    // A copy, so that only the key has to lie in memory and the rest of the packet in registers.
    let key = packet.key;
    // The word is read once; it decides everything below.
    let Some((entry, word)) = lookup(&key) else {
        return Followed::Nothing(0);
    };
    let index = word.real_server();
    let Some(server) = maps::REAL_SERVERS.get_ptr(index) else {
        return Followed::Nothing(0);
    };
    // SAFETY: array elements live as long as the program.
    let server_ref = unsafe { &*server };
    let is_current = server_ref.generation == word.generation();
    if word.has(REPLY) {
        return match is_current && follow_reply(entry, word, packet.tcp_flags, now) {
            true => Followed::Reply(entry, index),
            false => Followed::Orphan,
        };
    }
    if !is_current {
        return Followed::Nothing(word.raw());
    }
    // SAFETY: as above; a torn or stale time is at worst a tick off.
    let seen = unsafe { (*entry).seen };
    if now.wrapping_sub(seen) > CERTAINLY_ALIVE && is_expired(server_ref, word, seen, now) {
        return Followed::Nothing(word.raw());
    }
    if packet.key.protocol() == TCP {
        let plain = packet.tcp_flags & (flags::SYN | flags::FIN | flags::RST | flags::ACK)
            == flags::ACK
            && word.raw() & 0xff == PLAIN_ESTABLISHED;
        if !plain {
            let opens = packet.tcp_flags & (flags::SYN | flags::ACK | flags::RST) == flags::SYN;
            if opens && word.state().is_reopened_by_syn() {
                return Followed::Nothing(word.raw());
            }
            let input = server_ref.method == METHOD_NAT;
            // SAFETY: a field of the entry.
            step(unsafe { &raw mut (*entry).word }, word.raw(), packet.tcp_flags, input);
        }
    }
    if seen != now {
        // SAFETY: as above. Written only when it changes, so that a busy entry's line stays shared.
        unsafe { (*entry).seen = now };
    }
    if server_ref.method == METHOD_NAT {
        learn(ctx, frame, packet, entry, (word, server_ref));
    }
    Followed::Request(index, server)
}

/// Takes a request's flags into the state. `input`: replies are seen too.
#[inline(never)]
fn step(target: *mut u64, word: u64, tcp_flags: u8, input: bool) {
    let direction = if input { Direction::Input } else { Direction::InputOnly };
    advance(target, Word::from_raw(word), direction, tcp_flags);
}

/// Moves a word on; the winner of the exchange moves the counts.
#[inline(always)]
fn advance(target: *mut u64, mut word: Word, direction: Direction, tcp_flags: u8) {
    for _ in 0..4 {
        let next = word.in_state(next_state(word.state(), direction, tcp_flags));
        if next == word {
            return;
        }
        match atomic::compare_exchange(target, word.raw(), next.raw()) {
            Ok(()) => {
                let (was, is) = (word.state().is_active(), next.state().is_active());
                if was != is {
                    count(word.real_server(), was, u64::MAX);
                    count(word.real_server(), is, 1);
                }
                return;
            }
            Err(found) => {
                let found = Word::from_raw(found);
                if !found.is_live() || !found.pairs_with(word) {
                    return;
                }
                word = found;
            }
        }
    }
}

/// A reply: the forward half is asked only when the state may change or a second has passed.
#[inline(always)]
fn follow_reply<K: Table>(entry: *mut ConnEntry<K>, word: Word, tcp_flags: u8, now: u64) -> bool {
    // SAFETY: a slot of the table.
    let age = now.wrapping_sub(unsafe { (*entry).seen });
    let second = maps::CONFIG.get(0).map_or(1, |config| config.hz);
    if tcp_flags & (flags::SYN | flags::FIN | flags::RST) == 0 && age < second {
        return true;
    }
    sync_reply(entry, word.raw(), tcp_flags, now)
}

/// Follows a reply in its forward half; false when that half is gone.
#[inline(never)]
fn sync_reply<K: Table>(entry: *mut ConnEntry<K>, word: u64, tcp_flags: u8, now: u64) -> bool {
    // SAFETY: a slot of the table.
    let forward_key = unsafe { (*entry).forward_key() };
    let Some(forward) = forward_key.find() else {
        return false;
    };
    let forward_word = word_of(forward);
    if !forward_word.is_live() || !forward_word.pairs_with(Word::from_raw(word)) {
        return false;
    }
    let Some(server) = maps::REAL_SERVERS.get(forward_word.real_server()) else {
        return false;
    };
    // SAFETY: slots of the table.
    unsafe {
        if is_expired(server, forward_word, (*forward).seen, now) {
            return false;
        }
        (*forward).seen = now;
        (*entry).seen = now;
        if forward_key.protocol() == TCP {
            advance(&raw mut (*forward).word, forward_word, Direction::Output, tcp_flags);
        }
    }
    true
}

/// Keeps a nat connection's last hop that of its latest request.
#[inline(always)]
fn learn<K: Table>(
    ctx: *mut xdp_md,
    frame: &Frame,
    packet: &Packet<K>,
    entry: *mut ConnEntry<K>,
    (word, server): (Word, &RealServer),
) {
    let Some(macs) = frame.macs() else {
        return;
    };
    // SAFETY: a slot of the table.
    if !unsafe { (*entry).last_hop.is_source_of(macs, ingress(ctx), &packet.tags) } {
        let link = Link::answering(macs, ingress(ctx), &packet.tags);
        let key = packet.key;
        let reply_key = key.reply_from(&server.address, server.port);
        move_last_hop(entry, &reply_key, word.raw(), &link);
    }
}

/// Writes the last hop that a packet has shown into both halves. A reply that is sent meanwhile may
/// carry half of each address; it is lost, and sent again by its server.
#[inline(never)]
fn move_last_hop<K: Table>(entry: *mut ConnEntry<K>, reply_key: &K, word: u64, shown: &Link) {
    let link = from_us(shown);
    // So it is with every frame to a virtual router: another address of ours answers.
    // SAFETY: a slot of the table.
    if unsafe { (*entry).last_hop == link } {
        return;
    }
    // SAFETY: as above.
    unsafe { (*entry).last_hop = link };
    if let Some(reply) = reply_key.find()
        && word_of(reply).pairs_with(Word::from_raw(word))
    {
        // SAFETY: a slot of the table.
        unsafe { (*reply).last_hop = link };
    }
}
