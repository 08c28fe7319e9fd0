//! ICMP errors: to the real server or the client that the packet they quote belongs to.
//!
//! Connections are looked up without a trace: an error neither keeps one alive nor changes its
//! state, because anybody can send one.
//!
//! Must not know: what an error means, but for the path MTU of our own tunnels.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::programs::XdpContext;
use lb_common::conn::{ConnEntry, REPLY, Word};
use lb_common::icmp::Quoted;
use lb_common::pod::mapped_words;
use lb_common::rewrite::End;
use lb_common::service::{EVENT_PATH_MTU, Event, METHOD_NAT, ServiceKey};
use lb_common::verdict::Counter;
use lb_common::wire::{ETHERTYPE_IPV4, Link, Packet};

use crate::admit::{is_from_server, is_to_service, may_send_icmp};
use crate::conntrack::{Table, is_expired, word_of};
use crate::forward::{drop, is_controlled, last_hop, next_hop, send, to_server, way};
use crate::frame::Frame;
use crate::route::Query;
use crate::stage::{Chosen, Stage, handed};
use crate::station::is_addressed_to_us;
use crate::{maps, now, schedule, stats};

/// Brings the error that was handed over to whom it is for.
#[inline(always)]
pub fn follow<K: Stage>(ctx: &XdpContext) -> u32 {
    let Some((packet, _)) = handed::<K>() else {
        return xdp_action::XDP_PASS;
    };
    let frame = Frame::new(ctx.ctx);
    let Some(quoted) = K::quoted(&frame, packet) else {
        return xdp_action::XDP_PASS;
    };
    // An error goes back to the source of what it quotes; else it was forged or garbled.
    if packet.key.destination_words() != quoted.key.source_words() {
        return xdp_action::XDP_PASS;
    }
    if quoted.is_tunnel() {
        hear_path_mtu(&frame, packet, &quoted);
        return xdp_action::XDP_PASS;
    }
    let key = quoted.key.reversed();
    let to_service = is_to_service(&key);
    if !to_service && !is_from_server(&key) {
        return xdp_action::XDP_PASS;
    }
    let now = now();
    if let Some(entry) = key.find() {
        let word = word_of(entry);
        if word.has(REPLY) {
            return match is_alive(entry, word, now, true) {
                true => client(ctx, packet, &quoted, entry, word),
                false => stats::drop(Counter::ReplyWithoutConnection),
            };
        }
        if is_alive(entry, word, now, false) {
            return server(ctx, packet, &quoted, word.real_server(), now);
        }
    }
    if to_service { stateless(ctx, packet, &quoted, &key, now) } else { xdp_action::XDP_PASS }
}

/// Whether an entry is of a connection that goes on.
#[inline(always)]
fn is_alive<K: Table>(entry: *mut ConnEntry<K>, word: Word, now: u64, reply: bool) -> bool {
    let Some(server) = maps::REAL_SERVERS.get(word.real_server()) else {
        return false;
    };
    if !word.is_live() || server.generation != word.generation() {
        return false;
    }
    // SAFETY: a value of the table. A reply half has no deadline of its own.
    reply || !is_expired(server, word, unsafe { (*entry).seen }, now)
}

/// No entry: the Maglev table's choice, if there is a service.
#[inline(always)]
fn stateless<K: Stage>(
    ctx: &XdpContext,
    packet: &Packet<K>,
    quoted: &Quoted<K>,
    key: &K,
    now: u64,
) -> u32 {
    // SAFETY: a value of the table; it is replaced as a whole and freed after a grace period.
    let Some(service) = (unsafe { maps::SERVICES.get(ServiceKey::of(key)) }) else {
        return xdp_action::XDP_PASS;
    };
    let macs = Frame::new(ctx.ctx).macs();
    if !macs.is_some_and(|macs| is_addressed_to_us(ctx.ctx, macs)) {
        return xdp_action::XDP_PASS;
    }
    match schedule::for_known(service, key, &schedule::UNTRIED) {
        schedule::NONE => stats::drop(Counter::NoRealServer),
        index => server(ctx, packet, quoted, index, now),
    }
}

/// To a real server, by its method.
#[inline(always)]
fn server<K: Stage>(
    ctx: &XdpContext,
    packet: &Packet<K>,
    quoted: &Quoted<K>,
    index: u32,
    now: u64,
) -> u32 {
    let Some(server) = maps::REAL_SERVERS.get(index) else {
        return xdp_action::XDP_PASS;
    };
    stats::count(Counter::IcmpForwarded);
    let mut frame = Frame::new(ctx.ctx);
    let controlled = maps::CONFIG.get(0).is_some_and(|c| is_controlled(c, now));
    if server.method != METHOD_NAT {
        let chosen = Chosen { index, is_new: 0 };
        return to_server(ctx.ctx, frame, packet, chosen, server, controlled);
    }
    let mut asked = Link::zeroed();
    let query = || Query::of(&packet.key, server.address_words());
    let link = match way(ctx.ctx, next_hop(server, controlled), query, &mut asked) {
        Ok(link) => link,
        Err(verdict) => return verdict,
    };
    let to = (server.address_words(), server.port);
    if let Err(unfit) = K::translate(&mut frame, packet, quoted, End::Destination, to) {
        return drop(unfit);
    }
    stats::packet_in(index, packet.bytes, false);
    send(ctx.ctx, frame, packet, link)
}

/// To the client of a nat connection. Whoever reports it, the client sees its virtual address: the
/// reporter's may mean nothing to it, and the client trusts only whom it talks to.
#[inline(always)]
fn client<K: Stage>(
    ctx: &XdpContext,
    packet: &Packet<K>,
    quoted: &Quoted<K>,
    entry: *mut ConnEntry<K>,
    word: Word,
) -> u32 {
    stats::count(Counter::IcmpForwarded);
    // SAFETY: a value of the table. If it is used anew this moment, the packet's connection had
    // ended and the packet is lost either way.
    let entry = unsafe { &*entry };
    let mut asked = Link::zeroed();
    let query = || Query::of(&packet.key, packet.key.destination_words());
    let link = match way(ctx.ctx, last_hop(&entry.last_hop), query, &mut asked) {
        Ok(link) => link,
        Err(verdict) => return verdict,
    };
    let mut frame = Frame::new(ctx.ctx);
    let to = K::parts_of(&entry.virtual_end);
    if let Err(unfit) = K::translate(&mut frame, packet, quoted, End::Source, to) {
        return drop(unfit);
    }
    stats::packet_out(word.real_server(), packet.bytes);
    send(ctx.ctx, frame, packet, link)
}

/// Tells the controller of an error that says how big packets of a tunnel may be. Whether the
/// tunnel is ours is for it to know.
#[inline(always)]
fn hear_path_mtu<K: Stage>(frame: &Frame, packet: &Packet<K>, quoted: &Quoted<K>) {
    let Some(mtu) = K::path_mtu(frame, packet) else {
        return;
    };
    if !may_send_icmp(now()) {
        return;
    }
    let (mut address, mut source) = (quoted.key.destination_words(), quoted.key.source_words());
    if K::ETHERTYPE == ETHERTYPE_IPV4 {
        (address, source) = (mapped_words(address[3]), mapped_words(source[3]));
    }
    let event = Event::new(EVENT_PATH_MTU, mtu, address, source);
    stats::count(Counter::PathMtuHeard);
    // A full ring loses the event; the next packet makes another.
    let _ = maps::EVENTS.output_untyped::<Event>(event, 0);
}
