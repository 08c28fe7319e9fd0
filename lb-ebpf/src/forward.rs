//! Changing a frame's headers and sending it: to a real server, or back to the client.
//!
//! The next hop is settled before anything is changed, so that a packet without one is dropped
//! whole.
//!
//! Must not know: why this server was chosen.

use aya_ebpf::bindings::{xdp_action, xdp_md};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_xdp_adjust_head};
use lb_common::conn::ConnEntry;
use lb_common::pod;
use lb_common::rewrite::{self, End, Unfit};
use lb_common::service::{
    CONFIG_REPLY_ROUTE, Config, INTERFACE_DOWN, METHOD_NAT, RS_NEXT_HOP, RealServer,
};
use lb_common::verdict::Counter;
use lb_common::wire::{Be16, Buf, Link, Macs, Packet, TAGS_PROVIDER, Tags};

use crate::conntrack::Table;
use crate::frame::{Frame, ingress};
use crate::{maps, route, stats};

/// Forwards a request by its real server's method. `controlled`: see [`is_controlled`].
#[inline(always)]
pub fn to_server<K: Table>(
    ctx: *mut xdp_md,
    mut frame: Frame,
    packet: &Packet<K>,
    (index, is_new): (u32, bool),
    server: *const RealServer,
    controlled: bool,
) -> u32 {
    // SAFETY: an array element.
    let server = unsafe { &*server };
    let mut asked = Link::zeroed();
    let link = if controlled && server.flags & RS_NEXT_HOP != 0 {
        &server.next_hop
    } else {
        let key = packet.key;
        let verdict = route::ask(ctx, &key, &server.address, &mut asked);
        if verdict != 0 {
            return verdict;
        }
        &asked
    };
    let nat = if server.method == METHOD_NAT {
        Some((End::Destination, *pod::head::<RealServer, [u32; 4]>(server), server.port))
    } else {
        None
    };
    if let Err(unfit) = K::edit(&mut frame, packet, nat) {
        return drop(unfit);
    }
    stats::packet_in(index, packet.bytes, is_new);
    send(ctx, frame, &packet.tags, link)
}

/// Sends a nat reply back to its client, from the virtual address.
#[inline(always)]
pub fn to_client<K: Table>(
    ctx: *mut xdp_md,
    mut frame: Frame,
    packet: &Packet<K>,
    index: u32,
    entry: *const ConnEntry<K>,
) -> u32 {
    // SAFETY: a value of the table. If it is used anew this moment, the packet's connection had
    // ended and the packet is lost either way.
    let entry = unsafe { &*entry };
    let mut asked = Link::zeroed();
    let link = if is_last_hop_usable(&entry.last_hop) {
        &entry.last_hop
    } else {
        let key = packet.key;
        let verdict = route::ask(ctx, &key, &key.destination(), &mut asked);
        if verdict != 0 {
            return verdict;
        }
        &asked
    };
    let (address, port) = K::parts_of(&entry.virtual_end);
    let nat = Some((End::Source, address, port));
    if let Err(unfit) = K::edit(&mut frame, packet, nat) {
        return drop(unfit);
    }
    stats::packet_out(index, packet.bytes);
    send(ctx, frame, &packet.tags, link)
}

/// Whether the controller was heard of lately, so that what it computed can be trusted.
#[inline(always)]
pub fn is_controlled(config: &Config, now: u64) -> bool {
    now.wrapping_sub(config.heartbeat) as i64 <= config.heartbeat_max as i64
}

/// Whether replies go to the last hop: unless the routing table is wanted, or the link is down.
#[inline(always)]
fn is_last_hop_usable(link: &Link) -> bool {
    let by_route = maps::CONFIG.get(0).is_some_and(|c| c.flags & CONFIG_REPLY_ROUTE != 0);
    let down = maps::INTERFACES.get(link.ifindex).is_some_and(|i| i.flags & INTERFACE_DOWN != 0);
    !by_route && !down
}

#[inline(always)]
fn drop(unfit: Unfit) -> u32 {
    stats::count(match unfit {
        Unfit::Short => Counter::NotRewritable,
        Unfit::TtlExceeded => Counter::TtlExceeded,
    });
    xdp_action::XDP_DROP
}

/// Gives the frame its new addresses and tags, and sends it.
#[inline(always)]
fn send(ctx: *mut xdp_md, mut frame: Frame, tags: &Tags, link: &Link) -> u32 {
    if link.tag_count | tags.count == 0 {
        if rewrite::set_macs(&mut frame, link.macs()).is_err() {
            return drop(Unfit::Short);
        }
    } else if retag(ctx, u64::from(tags.count), link) != 0 {
        return drop(Unfit::Short);
    }
    if link.ifindex == ingress(ctx) {
        return xdp_action::XDP_TX;
    }
    // SAFETY: plain arguments. A failed redirect comes back as XDP_ABORTED.
    unsafe { bpf_redirect(link.ifindex, 0) as u32 }
}

/// Replaces a frame's head: addresses, and as many tags as the link has. 0 when done.
#[inline(never)]
fn retag(ctx: *mut xdp_md, had: u64, link: &Link) -> u32 {
    let has = link.tag_count & 3;
    let Some(ethertype) = Frame::new(ctx).load::<Be16>(12 + Tags::len(had as u8)) else {
        return 1;
    };
    let delta = Tags::len(had as u8) as i32 - Tags::len(has) as i32;
    // SAFETY: the context is valid; pointers are made anew below.
    if delta != 0 && unsafe { bpf_xdp_adjust_head(ctx, delta) } != 0 {
        return 1;
    }
    let mut frame = Frame::new(ctx);
    let outer = if link.tag_count & TAGS_PROVIDER != 0 { 0x88a8 } else { 0x8100 };
    let done = write_head(&mut frame, link.macs(), ethertype, has, outer, link.tags);
    u32::from(done.is_none())
}

#[inline(always)]
fn write_head(
    frame: &mut Frame,
    macs: Macs,
    ethertype: Be16,
    has: u8,
    outer: u16,
    tags: [u16; 2],
) -> Option<()> {
    frame.store(0, macs)?;
    if has == 0 {
        return frame.store(12, ethertype);
    }
    frame.store(12, Be16::new(outer))?;
    frame.store(14, Be16::new(tags[0]))?;
    if has == 1 {
        return frame.store(16, ethertype);
    }
    frame.store(16, Be16::new(0x8100))?;
    frame.store(18, Be16::new(tags[1]))?;
    frame.store(20, ethertype)
}
