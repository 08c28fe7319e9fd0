//! Connections of a nat server that was removed: who still sends on one is told by an RST.
//!
//! The frame itself becomes the RST: cut to headers and sent back the way it came, from the address
//! that it was sent to, so a client hears it from the virtual address and the server from the client.
//! Its sequence number is the one that the sender expects (RFC 9293 3.10.7.1). The entries stay for
//! the other end, until the sweep proposes them.
//!
//! Must not know: why the server was removed, who makes idle ends send.

use aya_ebpf::bindings::{xdp_action, xdp_md};
use aya_ebpf::helpers::generated::{bpf_xdp_adjust_tail, bpf_xdp_get_buff_len};
use aya_ebpf::programs::XdpContext;
use lb_common::conn::{ConnEntry, REPLY, Word};
use lb_common::rewrite;
use lb_common::service::{RS_RESET, RealServer};
use lb_common::state::flags;
use lb_common::verdict::Counter;
use lb_common::wire::{Buf, Link, Packet, Part, TCP};

use crate::conntrack::word_of;
use crate::frame::{Frame, ingress};
use crate::stage::{Stage, handed};
use crate::station::as_sent_to_us;
use crate::{fragment, maps, now, stats};

/// Whether a packet of the connection with this word, which is over, is answered with an RST: 1 or 0.
/// There is none for the word 0. A sub-program, so that the verifier forgets which case it was.
#[inline(never)]
pub fn is_wanted<K: Stage>(packet: &Packet<K>, word: u64) -> u32 {
    u32::from(word != 0 && server_of(packet, Word::from_raw(word)).is_some())
}

/// The removed server whose connection a packet belongs to, if it is to be answered.
#[inline(always)]
fn server_of<K: Stage>(packet: &Packet<K>, word: Word) -> Option<&'static RealServer> {
    // What does not acknowledge tells no number to answer with; a SYN begins something new.
    if packet.key.protocol() != TCP
        || packet.tcp_flags & (flags::ACK | flags::RST) != flags::ACK
        || packet.tcp_flags & flags::SYN != 0 && !word.has(REPLY)
        || !matches!(packet.part, Part::Whole)
    {
        return None;
    }
    let server = maps::REAL_SERVERS.get(word.real_server())?;
    (server.flags & RS_RESET != 0 && server.generation != word.generation()).then_some(server)
}

/// Decides about the packet that was handed over, whose connection is over.
#[inline(always)]
pub fn judge<K: Stage>(ctx: &XdpContext) -> u32 {
    let Some((packet, _)) = handed::<K>() else {
        return xdp_action::XDP_PASS;
    };
    let now = now();
    if let Some(entry) = packet.key.find() {
        let word = word_of(entry);
        if word.is_live()
            && let Some(server) = server_of(packet, word)
        {
            if answer(ctx.ctx, packet).is_none() {
                return stats::drop(Counter::NotRewritable);
            }
            note(&packet.key, entry, word, server);
            return xdp_action::XDP_TX;
        }
    }
    fragment::decided(packet, xdp_action::XDP_DROP, now);
    stats::drop(Counter::ReplyWithoutConnection)
}

/// Marks the half that was answered, so that nobody makes its end send again, and counts the
/// connection with the first of its halves.
#[inline(always)]
fn note<K: Stage>(key: &K, entry: *mut ConnEntry<K>, word: Word, server: &RealServer) {
    let other = if word.has(REPLY) {
        // SAFETY: a slot of the table.
        unsafe { (*entry).forward_key() }.find()
    } else {
        key.reply_from(&server.address, server.port).find()
    };
    // SAFETY: slots of the table.
    let is_told = unsafe { (*entry).is_told() || other.is_some_and(|other| (*other).is_told()) };
    if !is_told {
        stats::count(Counter::Reset);
    }
    // SAFETY: as above.
    unsafe { (*entry).set_told() };
}

/// Makes the frame into the RST.
#[inline(always)]
fn answer<K: Stage>(ctx: *mut xdp_md, packet: &Packet<K>) -> Option<()> {
    let frame = Frame::new(ctx);
    let macs = frame.macs()?;
    let ifindex = ingress(ctx);
    let link = Link::answering(as_sent_to_us(macs, ifindex), ifindex, &packet.tags);
    let expected: u32 = frame.load(packet.l4() + 8)?;
    // SAFETY: the context is valid.
    let length = unsafe { bpf_xdp_get_buff_len(ctx) };
    let cut = (packet.l3() + size_of::<K::Headers>()) as i64 - length as i64;
    // SAFETY: the context is valid; pointers are made anew below.
    if cut > 0 || cut < 0 && unsafe { bpf_xdp_adjust_tail(ctx, cut as i32) } != 0 {
        return None;
    }
    let mut frame = Frame::new(ctx);
    rewrite::set_macs(&mut frame, link.macs()).ok()?;
    let key = packet.key.reversed();
    frame.store(packet.l3(), key.bare(expected, 0, flags::RST))
}
