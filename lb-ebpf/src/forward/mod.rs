//! Changing a frame's headers and sending it: to a real server, or back to the client.
//!
//! The next hop is settled before anything is changed, so that a packet without one is dropped
//! whole.
//!
//! Must not know: why this server was chosen.

pub mod icmp;
pub mod reset;
pub mod too_big;
pub mod tunnel;

use aya_ebpf::bindings::{xdp_action, xdp_md};
use aya_ebpf::helpers::generated::{bpf_redirect, bpf_xdp_adjust_head};
use aya_ebpf::programs::XdpContext;
use lb_common::conn::ConnEntry;
use lb_common::rewrite::{self, End, Unfit};
use lb_common::service::{
    CONFIG_REPLY_ROUTE, Config, INTERFACE_DOWN, METHOD_NAT, METHOD_TUNNEL, RS_NEXT_HOP, RealServer,
};
use lb_common::verdict::Counter;
use lb_common::wire::{Be16, Buf, Link, Macs, Packet, TAGS_PROVIDER, Tags};

use crate::conntrack::Table;
use crate::frame::{Frame, ingress};
use crate::route::Query;
use crate::stage::{Chosen, Stage};
use crate::{detour, maps, route, stage, stats};

/// Forwards a request by its real server's method. `controlled`: see [`is_controlled`].
#[inline(always)]
pub fn to_server<K: Stage>(
    ctx: *mut xdp_md,
    mut frame: Frame,
    packet: &Packet<K>,
    chosen: Chosen,
    server: *const RealServer,
    controlled: bool,
) -> u32 {
    // SAFETY: an array element.
    let server = unsafe { &*server };
    if server.mtu != 0 && packet.bytes > u32::from(server.mtu) {
        return stage::too_big(&XdpContext::new(ctx), packet, chosen);
    }
    if server.method == METHOD_TUNNEL {
        return stage::tunnel(&XdpContext::new(ctx), packet, chosen);
    }
    let mut asked = Link::zeroed();
    // Not `way`, which costs every established packet some twenty instructions.
    let link = if controlled && server.flags & RS_NEXT_HOP != 0 {
        &server.next_hop
    } else {
        let query = Query::of(&packet.key, server.address_words());
        let verdict = route::ask(ctx, &query, &mut asked);
        if verdict != 0 {
            return verdict;
        }
        &asked
    };
    let nat = if server.method == METHOD_NAT {
        Some((End::Destination, server.address_words(), server.port))
    } else {
        None
    };
    if let Err(unfit) = K::edit(&mut frame, packet, nat) {
        return drop(unfit);
    }
    stats::packet_in(chosen.index, packet.bytes, chosen.is_new != 0);
    send(ctx, frame, packet, link)
}

/// Sends a nat reply back to its client, from the virtual address.
#[inline(always)]
pub fn to_client<K: Table>(
    ctx: *mut xdp_md,
    frame: Frame,
    packet: &Packet<K>,
    index: u32,
    entry: *const ConnEntry<K>,
) -> u32 {
    // SAFETY: a value of the table. If it is used anew this moment, the packet's connection had
    // ended and the packet is lost either way.
    let entry = unsafe { &*entry };
    let (address, port) = K::parts_of(&entry.virtual_end);
    let from = (&entry.last_hop, address, port);
    back(ctx, frame, packet, index, from)
}

/// Sends a packet of a nat server over the last hop, from a virtual address and port.
#[inline(always)]
pub fn back<K: Table>(
    ctx: *mut xdp_md,
    mut frame: Frame,
    packet: &Packet<K>,
    index: u32,
    (learnt, address, port): (&Link, [u32; 4], u16),
) -> u32 {
    let mut asked = Link::zeroed();
    let query = || Query::of(&packet.key, packet.key.destination_words());
    let link = match way(ctx, last_hop(learnt), query, &mut asked) {
        Ok(link) => link,
        Err(verdict) => return verdict,
    };
    if let Err(unfit) = K::edit(&mut frame, packet, Some((End::Source, address, port))) {
        return drop(unfit);
    }
    stats::packet_out(index, packet.bytes);
    send(ctx, frame, packet, link)
}

/// The link that is known, or else the routing table's answer to `query`, which is put into `asked`;
/// or the verdict.
#[inline(always)]
pub fn way<'a>(
    ctx: *mut xdp_md,
    known: Option<&'a Link>,
    query: impl FnOnce() -> Query,
    asked: &'a mut Link,
) -> Result<&'a Link, u32> {
    if let Some(link) = known {
        return Ok(link);
    }
    match route::ask(ctx, &query(), asked) {
        0 => Ok(asked),
        verdict => Err(verdict),
    }
}

/// The next hop that the controller keeps for a real server, if it can be trusted.
#[inline(always)]
pub fn next_hop(server: &RealServer, controlled: bool) -> Option<&Link> {
    (controlled && server.flags & RS_NEXT_HOP != 0).then_some(&server.next_hop)
}

/// Whether the controller was heard of lately, so that what it computed can be trusted.
#[inline(always)]
pub fn is_controlled(config: &Config, now: u64) -> bool {
    now.wrapping_sub(config.heartbeat) as i64 <= config.heartbeat_max as i64
}

/// The last hop that was learnt, unless the routing table is wanted for replies, or the link is down.
#[inline(always)]
pub fn last_hop(learnt: &Link) -> Option<&Link> {
    let by_route = maps::CONFIG.get(0).is_some_and(|c| c.flags & CONFIG_REPLY_ROUTE != 0);
    let down = maps::INTERFACES.get(learnt.ifindex).is_some_and(|i| i.flags & INTERFACE_DOWN != 0);
    (!by_route && !down).then_some(learnt)
}

/// Drops a packet that could not be changed.
#[inline(always)]
pub fn drop(unfit: Unfit) -> u32 {
    stats::drop(match unfit {
        Unfit::Short => Counter::NotRewritable,
        Unfit::TtlExceeded => Counter::TtlExceeded,
    })
}

/// Gives the frame its new addresses and tags, and sends it.
#[inline(always)]
pub fn send<K>(ctx: *mut xdp_md, mut frame: Frame, packet: &Packet<K>, link: &Link) -> u32 {
    let tags = &packet.tags;
    if link.tag_count | tags.count == 0 {
        if rewrite::set_macs(&mut frame, link.macs()).is_err() {
            return drop(Unfit::Short);
        }
    } else if move_head(ctx, tags.count, link, Room::NONE) != 0 {
        return drop(Unfit::Short);
    }
    leave(ctx, packet, link.ifindex)
}

/// Sends the frame through an interface.
#[inline(always)]
pub fn leave<K>(ctx: *mut xdp_md, packet: &Packet<K>, ifindex: u32) -> u32 {
    if packet.rerun {
        detour::tell_egress(ctx, ifindex);
    }
    if ifindex == ingress(ctx) {
        return xdp_action::XDP_TX;
    }
    // SAFETY: plain arguments. A failed redirect comes back as XDP_ABORTED.
    unsafe { bpf_redirect(ifindex, 0) as u32 }
}

/// Room to make between a frame's head and its packet, as one number for a sub-program.
#[derive(Clone, Copy)]
pub struct Room(u64);

impl Room {
    /// None: only the head changes.
    pub const NONE: Self = Self(0);

    /// This many bytes, for a header that is announced by `ethertype`.
    #[inline(always)]
    pub const fn new(bytes: usize, ethertype: u16) -> Self {
        Self((ethertype as u64) << 8 | bytes as u64 & 0xff)
    }
}

/// Replaces a frame's head, which had the tags of `had`: addresses, and as many tags as the link
/// has, and room for a header behind. 0 when done; then the frame has to be looked at anew.
#[inline(always)]
pub fn move_head(ctx: *mut xdp_md, had: u8, link: &Link, room: Room) -> u32 {
    rehead(ctx, u64::from(had), link, room.0)
}

#[inline(never)]
fn rehead(ctx: *mut xdp_md, had: u64, link: &Link, room: u64) -> u32 {
    let has = link.tag_count & 3;
    let ethertype = if room == 0 {
        let Some(ethertype) = Frame::new(ctx).load::<Be16>(12 + Tags::len(had as u8)) else {
            return 1;
        };
        ethertype
    } else {
        Be16::new((room >> 8) as u16)
    };
    let delta = Tags::len(had as u8) as i32 - Tags::len(has) as i32 - (room & 0xff) as i32;
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
