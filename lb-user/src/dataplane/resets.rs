//! Makes the idle ends of a removed server's connections send, so that the programs can answer with an RST.
//!
//! Nobody here knows what an end expects next; the end itself does. A bare ACK with a number that it
//! cannot accept makes it answer with its own (RFC 9293 3.10.7.4), and the answer meets the
//! program that turns it into an exact RST. Connections that are in use send by themselves. The
//! sweep comes by every entry in any case: it asks here, and leaves the entry for [`PASSES`] passes.
//!
//! Must not know: when a pass is made, why a server was removed.

use std::collections::BTreeMap;

use lb_common::bare::Bare;
use lb_common::conn::{ConnEntry, REPLY, Word};
use lb_common::pod;
use lb_common::service::{GENERATION_MASK, RS_NEXT_HOP, RS_RESET, RealServer};
use lb_common::state::flags;
use lb_common::wire::{ETHERTYPE_IPV4, ETHERTYPE_IPV6, Link, TAGS_PROVIDER, TCP, Tags};

use super::bpf::sys::FrameSocket;

/// Passes over a removed server's entries in which idle ends are made to send: an answer, or what
/// provokes it, may be lost.
const PASSES: u32 = 3;

/// Frames of one pass, so that the end of a busy server is no burst.
const MAX_FRAMES: u32 = 20_000;

/// What is being reset.
pub(super) struct Resets {
    /// Opened with the first frame; `None` also when that failed.
    socket: Option<FrameSocket>,
    /// It could not be opened in this pass.
    is_closed: bool,
    /// Frames of this pass.
    sent: u32,
    /// Passes by index and generation of a removed server, those in which none of its entries was
    /// met left out.
    passes: BTreeMap<(u32, u16), u32>,
    met: BTreeMap<(u32, u16), u32>,
}

impl Resets {
    /// Nothing is being reset.
    pub(super) fn new() -> Self {
        Self {
            socket: None,
            is_closed: false,
            sent: 0,
            passes: BTreeMap::new(),
            met: BTreeMap::new(),
        }
    }

    /// Whether an entry of `server` is left alone in this pass because its ends are still being
    /// told. Makes the end that sends on it do so.
    pub(super) fn keeps<K: Bare>(&mut self, entry: &ConnEntry<K>, server: &RealServer) -> bool {
        let word = Word::from_raw(entry.word);
        if !is_removed(word, server) || entry.key.protocol() != TCP {
            return false;
        }
        let life = (word.real_server(), word.generation());
        let passed = self.passes.get(&life).copied().unwrap_or(0);
        if passed >= PASSES {
            return false;
        }
        if self.sent >= MAX_FRAMES {
            // The rest is for the next pass, and this one does not count.
            self.met.insert(life, passed);
            return true;
        }
        self.met.entry(life).or_insert(passed + 1);
        if !entry.is_told()
            && let Some((frame, ifindex)) = provoking(entry, server, passed)
        {
            self.send(&frame, ifindex);
        }
        true
    }

    /// A pass is over.
    pub(super) fn passed(&mut self) {
        (self.is_closed, self.sent) = (false, 0);
        let met = std::mem::take(&mut self.met);
        // A server all of whose entries were given up is forgotten once they are gone.
        self.passes.retain(|life, passed| met.contains_key(life) || *passed >= PASSES);
        self.passes.extend(met);
    }

    /// The server of this index has this generation now: lives before the last one are no more.
    pub(super) fn forget_before(&mut self, index: u32, generation: u16) {
        let last = before(generation);
        self.passes.retain(|(of, life), _| *of != index || *life == last);
    }

    /// What is not sent is made up for by the next pass.
    fn send(&mut self, frame: &[u8], ifindex: u32) {
        if self.socket.is_none() && !self.is_closed {
            self.socket = FrameSocket::open()
                .inspect_err(|error| tracing::error!(%error, "connections are not reset"))
                .ok();
            self.is_closed = self.socket.is_none();
        }
        self.sent += 1;
        if let Some(socket) = &self.socket
            && let Err(error) = socket.send(frame, ifindex)
        {
            tracing::debug!(%error, ifindex, "a segment that resets a connection was not sent");
        }
    }
}

/// Whether an entry is of a life of its server that ended, and its ends are to be told.
fn is_removed(word: Word, server: &RealServer) -> bool {
    server.flags & RS_RESET != 0 && word.generation() == before(server.generation)
}

/// The generation before this one: none is 0.
fn before(generation: u16) -> u16 {
    match generation.wrapping_sub(1) & GENERATION_MASK {
        0 => GENERATION_MASK,
        before => before,
    }
}

/// The frame that makes the end that sends on this entry answer, and its interface.
fn provoking<K: Bare>(
    entry: &ConnEntry<K>,
    server: &RealServer,
    passed: u32,
) -> Option<(Vec<u8>, u32)> {
    let to_server = Word::from_raw(entry.word).has(REPLY);
    let link = match to_server {
        true if server.flags & RS_NEXT_HOP == 0 => return None,
        true => &server.next_hop,
        false => &entry.last_hop,
    };
    // A number that happens to be acceptable is not the next time: the windows are smaller than
    // half of all numbers.
    let sequence = if passed.is_multiple_of(2) { 0 } else { 0x8000_0000u32.to_be() };
    let headers = entry.key.reversed().bare(sequence, 0, flags::ACK);
    let mut frame = head::<K>(link);
    frame.extend_from_slice(pod::bytes_of(&headers));
    Some((frame, link.ifindex))
}

/// The Ethernet header of a frame that is sent over a link.
fn head<K: Bare>(link: &Link) -> Vec<u8> {
    let mut head = pod::bytes_of(&link.macs()).to_vec();
    let outer: u16 = if link.tag_count & TAGS_PROVIDER != 0 { 0x88a8 } else { 0x8100 };
    let count = Tags::len(link.tag_count) / 4;
    for (tag, ethertype) in link.tags.iter().zip([outer, 0x8100]).take(count) {
        head.extend(ethertype.to_be_bytes());
        head.extend(tag.to_be_bytes());
    }
    let ethertype = if K::V4 { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    head.extend(ethertype.to_be_bytes());
    head
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::conn::State;
    use lb_common::key::{ConnKey4, Endpoint4};

    fn server(flags: u32, generation: u16) -> RealServer {
        let next_hop = Link { peer_mac: [2, 0, 0, 0, 0, 9], ifindex: 4, ..Link::zeroed() };
        RealServer { flags, generation, next_hop, ..RealServer::zeroed() }
    }

    fn entry(generation: u16, reply: bool) -> ConnEntry<ConnKey4> {
        let ip = |bytes| u32::from_ne_bytes(bytes);
        let key = ConnKey4::new(ip([10, 0, 2, 2]), ip([10, 0, 2, 15]), [40_000, 80], TCP);
        let flags = if reply { REPLY } else { 0 };
        let word = Word::new(1, generation, 7, State::ESTABLISHED, flags).raw();
        let mut last_hop = Link { peer_mac: [2, 0, 0, 0, 0, 2], ifindex: 3, ..Link::zeroed() };
        (last_hop.tags, last_hop.tag_count) = ([100, 5], 2 | TAGS_PROVIDER);
        ConnEntry { key, word, last_hop, virtual_end: Endpoint4::zeroed(), ..ConnEntry::ZERO }
    }

    #[test]
    fn an_entry_of_a_removed_server_is_kept_for_some_passes() {
        let mut resets = Resets::new();
        let removed = server(RS_RESET, 6);
        for _ in 0..PASSES {
            assert!(resets.keeps(&entry(5, true), &removed));
            assert!(resets.keeps(&entry(5, false), &removed));
            resets.passed();
        }
        for _ in 0..2 {
            assert!(!resets.keeps(&entry(5, true), &removed), "it is given up");
            resets.passed();
        }
        // Its next life is another matter.
        assert!(resets.keeps(&entry(6, true), &server(RS_RESET, 7)));
        resets.forget_before(7, 7);
        assert_eq!(resets.passes.len(), 0);
    }

    #[test]
    fn others_are_not_kept() {
        let mut resets = Resets::new();
        assert!(!resets.keeps(&entry(5, true), &server(0, 6)));
        assert!(!resets.keeps(&entry(5, true), &server(RS_RESET, 5)));
        assert!(!resets.keeps(&entry(4, true), &server(RS_RESET, 6)));
        assert!(resets.keeps(&entry(GENERATION_MASK, true), &server(RS_RESET, 0)));
    }

    #[test]
    fn an_end_is_asked_over_its_own_link_from_the_other_end() {
        let removed = server(RS_RESET | RS_NEXT_HOP, 6);
        let (frame, ifindex) = provoking(&entry(5, false), &removed, 0).expect("a frame");
        assert_eq!((ifindex, &frame[..6]), (3, &[2, 0, 0, 0, 0, 2][..]));
        assert_eq!(frame[12..22], [0x88, 0xa8, 0, 100, 0x81, 0, 0, 5, 8, 0]);
        assert_eq!(frame[34..42], [10, 0, 2, 15, 10, 0, 2, 2]);
        assert_eq!(frame[42..56], [0, 80, 0x9c, 0x40, 0, 0, 0, 0, 0, 0, 0, 0, 0x50, flags::ACK]);
        let (again, _) = provoking(&entry(5, false), &removed, 1).expect("a frame");
        assert_eq!(again[46..50], [0x80, 0, 0, 0]);
        let (frame, ifindex) = provoking(&entry(5, true), &removed, 0).expect("a frame");
        assert_eq!(
            (ifindex, &frame[..6], &frame[12..14]),
            (4, &[2, 0, 0, 0, 0, 9][..], &[8, 0][..])
        );
        assert_eq!(provoking(&entry(5, true), &server(RS_RESET, 6), 0), None);
    }
}
