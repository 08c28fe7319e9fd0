//! The connection table: finding, following, making and closing entries.
//!
//! The only module that knows how entries are stored. Whoever wins a compare-exchange on an entry's
//! word moves the real server's counts; whoever sets `DEAD` deletes the entry. Nothing else changes
//! counts or deletes, so both are exact whatever runs at the same time.
//!
//! Must not know: schedulers, forwarding.

use aya_ebpf::bindings::{BPF_NOEXIST, xdp_md};
use aya_ebpf::helpers::generated::bpf_get_smp_processor_id;
use lb_common::conn::{
    ABANDONED, ConnEntry, ConnEntry4, ConnEntry6, ConnKey, ConnKey4, ConnKey6, DEAD, Direction,
    PROVISIONAL, REPLY, State, Word, flags, next_state,
};
use lb_common::rewrite::Edit;
use lb_common::service::{METHOD_NAT, RealServer};
use lb_common::verdict::Counter;
use lb_common::wire::{Link, Macs, Packet, TCP, Tags};

use crate::frame::{Frame, ingress};
use crate::{atomic, maps, stats};

/// A key together with the table that it is a key of.
pub trait Table: Edit {
    /// The entry under this key.
    fn find(&self) -> Option<*mut ConnEntry<Self>>;

    /// Makes an entry; fails with a negative errno, EEXIST when there is one.
    fn insert_new(&self, entry: &ConnEntry<Self>) -> Result<(), i32>;

    /// Deletes the entry under this key.
    fn delete(&self) -> Result<(), i32>;
}

macro_rules! table {
    ($key:ty, $entry:ty, $map:ident) => {
        impl Table for $key {
            #[inline(always)]
            fn find(&self) -> Option<*mut $entry> {
                maps::$map.get_ptr_mut(self)
            }

            #[inline(always)]
            fn insert_new(&self, entry: &$entry) -> Result<(), i32> {
                maps::$map.insert(self, entry, BPF_NOEXIST as u64)
            }

            #[inline(always)]
            fn delete(&self) -> Result<(), i32> {
                maps::$map.remove(self)
            }
        }
    };
}

table!(ConnKey4, ConnEntry4, CONN4);
table!(ConnKey6, ConnEntry6, CONN6);

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
    let Some(entry) = key.find() else {
        return Followed::Nothing(0);
    };
    // SAFETY: a value of the table. The word is read once; it decides everything below.
    let word = Word::from_raw(unsafe { core::ptr::read_volatile(&raw const (*entry).word) });
    if word.has(REPLY) && word.is_closed() {
        return Followed::Orphan;
    }
    if word.is_closed() {
        return Followed::Nothing(if word.has(ABANDONED) { word.raw() } else { 0 });
    }
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
        learn(ctx, frame, packet, entry, word);
    }
    Followed::Request(index, server)
}

/// Whether a connection of this server is past its deadline.
#[inline(always)]
pub fn is_expired(server: &RealServer, word: Word, seen: u64, now: u64) -> bool {
    match maps::TIMEOUTS.get(server.timeouts) {
        Some(timeouts) => timeouts.is_expired(word, seen, now),
        None => false,
    }
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
                if found.is_closed() || !found.pairs_with(word) {
                    return;
                }
                word = found;
            }
        }
    }
}

/// Adds `by` to a server's active or inactive connections.
#[inline(always)]
fn count(index: u32, active: bool, by: u64) {
    if let Some(counts) = maps::CONN_COUNTS.get_ptr_mut(index) {
        // SAFETY: an array element.
        let field =
            unsafe { if active { &raw mut (*counts).active } else { &raw mut (*counts).inactive } };
        atomic::add(field, by);
    }
}

/// A reply: the forward half is asked only when the state may change or a second has passed.
#[inline(always)]
fn follow_reply<K: Table>(entry: *mut ConnEntry<K>, word: Word, tcp_flags: u8, now: u64) -> bool {
    // SAFETY: a value of the table.
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
    // SAFETY: a value of the table.
    let other = unsafe { &(*entry).other };
    let Some(forward) = other.find() else {
        return false;
    };
    // SAFETY: a value of the table.
    let forward_word =
        Word::from_raw(unsafe { core::ptr::read_volatile(&raw const (*forward).word) });
    if forward_word.is_closed() || !forward_word.pairs_with(Word::from_raw(word)) {
        return false;
    }
    let Some(server) = maps::REAL_SERVERS.get(forward_word.real_server()) else {
        return false;
    };
    // SAFETY: values of the table.
    unsafe {
        if is_expired(server, forward_word, (*forward).seen, now) {
            return false;
        }
        (*forward).seen = now;
        (*entry).seen = now;
        if other.protocol() == TCP {
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
    word: Word,
) {
    let Some(macs) = frame.macs() else {
        return;
    };
    // SAFETY: a value of the table.
    if !unsafe { (*entry).last_hop.is_source_of(macs, ingress(ctx), &packet.tags) } {
        let link = Link::answering(macs, ingress(ctx), &packet.tags);
        move_last_hop(entry, word.raw(), &link);
    }
}

/// Writes a new last hop into both halves. A reply that is sent meanwhile may carry half of each
/// address; it is lost, and sent again by its server.
#[inline(never)]
fn move_last_hop<K: Table>(entry: *mut ConnEntry<K>, word: u64, link: &Link) {
    // SAFETY: values of the table.
    unsafe {
        (*entry).last_hop = *link;
        if let Some(reply) = (*entry).other.find()
            && Word::from_raw((*reply).word).pairs_with(Word::from_raw(word))
        {
            (*reply).last_hop = *link;
        }
    }
}

/// Closes the entry under `key` if its word still is `word`: moves the counts, deletes the reply
/// half and the entry. True for whoever did it.
#[inline(never)]
pub fn close<K: Table>(key: &K, word: u64) -> bool {
    let Some(entry) = key.find() else {
        return false;
    };
    let word = Word::from_raw(word);
    // SAFETY: a value of the table.
    let target = unsafe { &raw mut (*entry).word };
    let dead = word.with_flags(word.raw() & REPLY | DEAD);
    if atomic::compare_exchange(target, word.raw(), dead.raw()).is_err() {
        return false;
    }
    // An abandoned entry was counted out when it was closed.
    if !word.has(REPLY | ABANDONED) {
        count(word.real_server(), word.state().is_active(), u64::MAX);
        // SAFETY: a value of the table; it is ours until it is deleted.
        close_reply(unsafe { &(*entry).other }, word);
    }
    bury(key, target, word);
    true
}

/// Deletes the reply half of a pair that was closed.
#[inline(always)]
fn close_reply<K: Table>(key: &K, forward: Word) {
    if key.protocol() == 0 {
        return;
    }
    let Some(entry) = key.find() else {
        return;
    };
    // SAFETY: a value of the table.
    let target = unsafe { &raw mut (*entry).word };
    // SAFETY: as above.
    let word = Word::from_raw(unsafe { core::ptr::read_volatile(target) });
    if !word.has(REPLY) || word.is_closed() || !word.pairs_with(forward) {
        // A state never changes in a reply half, so a mismatch is another connection's entry.
        return;
    }
    if atomic::compare_exchange(target, word.raw(), word.with_flags(REPLY | DEAD).raw()).is_ok() {
        bury(key, target, word);
    }
}

/// Deletes a dead entry, or leaves it to be claimed when its bucket is locked right now.
#[inline(always)]
fn bury<K: Table>(key: &K, target: *mut u64, word: Word) {
    if key.delete().is_err() {
        let flags = word.raw() & REPLY;
        let dead = word.with_flags(flags | DEAD);
        let _ =
            atomic::compare_exchange(target, dead.raw(), word.with_flags(flags | ABANDONED).raw());
        stats::count(Counter::DeleteRetries);
    }
}

/// What a new connection is made of.
pub struct New<'a, K> {
    /// The request's key.
    pub key: &'a K,
    /// Index of the real server.
    pub index: u32,
    /// The real server.
    pub server: &'a RealServer,
    /// Service id.
    pub service: u32,
    /// State after this packet.
    pub state: State,
    /// Picked up in its middle.
    pub provisional: bool,
    /// The request frame: its addresses, the interface that it came in by, its tags.
    pub from: (Macs, u32, Tags),
    /// Now, in jiffies.
    pub now: u64,
}

/// What [`create`] says when a live connection of another flow holds the reply half's key; a
/// refusal of the table is a negative errno. Numbers and not an enum, because what a sub-program
/// leaves undefined in an enum's payload the verifier does not let pass.
pub const TUPLE_IN_USE: i32 = 1;

/// Makes a connection, counted first and uncounted again when the table refuses it. 0 when done.
#[inline(always)]
pub fn create<K: Table>(new: &New<'_, K>) -> i32 {
    let flags = if new.provisional { PROVISIONAL } else { 0 };
    let word = Word::new(next_sequence(), new.server.generation, new.index, new.state, flags);
    let mut entry = ConnEntry {
        word: word.with_flags(REPLY).raw(),
        seen: new.now,
        last_hop: Link::zeroed(),
        service: new.service,
        pad: 0,
        other: K::ZERO,
    };
    let nat = new.server.method == METHOD_NAT;
    let reply_key = new.key.reply_from(&new.server.address, new.server.port);
    if nat {
        let (macs, ifindex, tags) = new.from;
        entry.last_hop = Link::answering(macs, ifindex, &tags);
        entry.other = *new.key;
        let refused = insert_reply(&reply_key, &entry, new.now);
        if refused != 0 {
            return refused;
        }
        entry.other = reply_key;
    }
    entry.word = word.raw();
    count(new.index, new.state.is_active(), 1);
    if let Err(errno) = new.key.insert_new(&entry) {
        count(new.index, new.state.is_active(), u64::MAX);
        if nat {
            close_reply(&reply_key, word);
        }
        return errno;
    }
    0
}

/// Inserts a reply half; one that is left from a connection that is no more makes room.
#[inline(always)]
fn insert_reply<K: Table>(key: &K, entry: &ConnEntry<K>, now: u64) -> i32 {
    match key.insert_new(entry) {
        Ok(()) => return 0,
        Err(errno) if errno != -EEXIST => return errno,
        Err(_) => {}
    }
    match reclaim_reply(key, &entry.other, now) {
        FREE => key.insert_new(entry).map_or_else(|errno| errno, |()| 0),
        // Another CPU was faster with a packet of the same flow.
        OWN => -EEXIST,
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
    // SAFETY: values of the table.
    let (word, forward_key, seen) = unsafe {
        let word = core::ptr::read_volatile(&raw const (*entry).word);
        (Word::from_raw(word), &(*entry).other, (*entry).seen)
    };
    let holder = if forward_key.is_same(own) { OWN } else { OTHER };
    if word.has(ABANDONED) {
        return closed(key, word, holder);
    }
    if !word.has(REPLY) || word.has(DEAD) {
        return holder;
    }
    let forward = forward_key.find();
    let forward_word = match forward {
        // SAFETY: a value of the table.
        Some(forward) => unsafe { core::ptr::read_volatile(&raw const (*forward).word) },
        None => 0,
    };
    let forward_word = Word::from_raw(forward_word);
    let Some(forward) = forward.filter(|_| forward_word.pairs_with(word)) else {
        // Its forward half is made just after it, perhaps by another CPU in this moment.
        let second = maps::CONFIG.get(0).map_or(1, |config| config.hz);
        let young = now.wrapping_sub(seen) as i64 <= second as i64;
        return if young { holder } else { closed(key, word, holder) };
    };
    if forward_word.is_closed() {
        return holder;
    }
    let over = match maps::REAL_SERVERS.get(forward_word.real_server()) {
        Some(server) => {
            server.generation != forward_word.generation()
                // SAFETY: a value of the table.
                || is_expired(server, forward_word, unsafe { (*forward).seen }, now)
        }
        None => true,
    };
    // Closing the forward half deletes this one with it.
    if over { closed(forward_key, forward_word, holder) } else { holder }
}

/// Closes an entry so that a place becomes free; whoever else does it holds the place meanwhile.
#[inline(always)]
fn closed<K: Table>(key: &K, word: Word, holder: u32) -> u32 {
    if close(key, word.raw()) { FREE } else { holder }
}

/// Closes an entry that the sweep proposes, if it is over. True when it was closed.
#[inline(always)]
pub fn expire<K: Table>(key: &K, now: u64, second: u64) -> bool {
    let Some(entry) = key.find() else {
        return false;
    };
    // SAFETY: a value of the table.
    let (word, seen) = unsafe {
        (Word::from_raw(core::ptr::read_volatile(&raw const (*entry).word)), (*entry).seen)
    };
    if word.has(ABANDONED) {
        return close(key, word.raw());
    }
    if word.has(DEAD) {
        return false;
    }
    if word.has(REPLY) {
        // Its forward half is made just after it; only an old one without it is an orphan.
        let idle = now.wrapping_sub(seen) as i64;
        // SAFETY: a value of the table.
        return idle > second as i64
            && !is_paired(unsafe { &(*entry).other }, word)
            && close(key, word.raw());
    }
    let over = match maps::REAL_SERVERS.get(word.real_server()) {
        Some(server) => {
            server.generation != word.generation() || is_expired(server, word, seen, now)
        }
        None => true,
    };
    over && close(key, word.raw())
}

/// Whether the forward half of a reply half is there.
#[inline(always)]
fn is_paired<K: Table>(forward_key: &K, reply: Word) -> bool {
    match forward_key.find() {
        // SAFETY: a value of the table.
        Some(forward) => Word::from_raw(unsafe { (*forward).word }).pairs_with(reply),
        None => false,
    }
}

/// A number for this use of a table element: this CPU's count of uses, and the CPU.
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

const EEXIST: i32 = 17;
