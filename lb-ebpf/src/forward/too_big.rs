//! Packets that do not fit the way to their real server: the sender is told the MTU that does, or
//! user space splits them where the sender leaves that to routers.
//!
//! The frame itself becomes the message: cut to what is quoted, with new headers in front, and sent
//! back the way it came.
//!
//! Must not know: how a path MTU is found out.

use aya_ebpf::bindings::{xdp_action, xdp_md};
use aya_ebpf::helpers::generated::{bpf_xdp_adjust_tail, bpf_xdp_get_buff_len};
use aya_ebpf::programs::XdpContext;
use lb_common::detour::DETOUR_SPLIT;
use lb_common::fragment::FragmentKey;
use lb_common::icmp::TooBig;
use lb_common::verdict::Counter;
use lb_common::wire::{Buf, ETHERNET_LEN, Link, Packet, Tags};

use crate::admit::may_send_icmp;
use crate::forward::{Room, is_controlled, move_head};
use crate::frame::{Frame, ingress};
use crate::stage::{Stage, handed_server};
use crate::station::as_sent_to_us;
use crate::{detour, maps, now, stats};

/// Decides what becomes of the packet that was handed over.
#[inline(always)]
pub fn judge<K: Stage>(ctx: &XdpContext) -> u32 {
    let Some((packet, chosen)) = handed_server::<K>() else {
        return xdp_action::XDP_PASS;
    };
    let Some(server) = maps::REAL_SERVERS.get(chosen.index) else {
        return xdp_action::XDP_PASS;
    };
    if chosen.is_new != 0 {
        stats::connection(chosen.index);
    }
    match K::too_big(&Frame::new(ctx.ctx), packet, u32::from(server.mtu)) {
        TooBig::Tell(mtu) => tell(ctx.ctx, packet, mtu, Counter::PathMtuTold, Counter::TooBig),
        TooBig::Split(told) => split(ctx.ctx, packet, u32::from(server.mtu), told),
        TooBig::Stuck => stats::drop(Counter::TooBigUnfragmented),
        TooBig::Silent => stats::drop(Counter::TooBig),
    }
}

/// The one place that decides on packets that a router would fragment: user space does it. Where it
/// is behind, or not there, the sender is told `told`, as if it had set Don't Fragment.
#[inline(always)]
fn split<K: Stage>(ctx: *mut xdp_md, packet: &Packet<K>, mtu: u32, told: u32) -> u32 {
    if packet.rerun {
        // User space has the frame and waits for the verdict. A fragment that it made and that does
        // not fit any more is lost: the path has narrowed meanwhile.
        if !detour::ask_split(ctx, mtu) {
            stats::count(Counter::TooBigUnfragmented);
        }
        return xdp_action::XDP_DROP;
    }
    if maps::CONFIG.get(0).is_some_and(|config| is_controlled(config, now())) && detour::has_room()
    {
        detour::submit(ctx, DETOUR_SPLIT, mtu, &FragmentKey::zeroed());
        return xdp_action::XDP_DROP;
    }
    if told == 0 {
        return stats::drop(Counter::DetourFull);
    }
    tell(ctx, packet, told, Counter::PathMtuToldUnfragmented, Counter::TooBigUnfragmented)
}

/// Makes the frame into the message and sends it back; `told` or `untold` is counted.
#[inline(always)]
fn tell<K: Stage>(
    ctx: *mut xdp_md,
    packet: &Packet<K>,
    mtu: u32,
    told: Counter,
    untold: Counter,
) -> u32 {
    if !may_send_icmp(now()) {
        return stats::drop(untold);
    }
    let Some(()) = answer(ctx, packet, mtu) else {
        return stats::drop(Counter::NotRewritable);
    };
    stats::count(told);
    xdp_action::XDP_TX
}

#[inline(always)]
fn answer<K: Stage>(ctx: *mut xdp_md, packet: &Packet<K>, mtu: u32) -> Option<()> {
    let frame = Frame::new(ctx);
    let [large, small] = K::QUOTES;
    let quote = match frame.load::<u8>(packet.l3() + large - 1) {
        Some(_) => large,
        None => small,
    };
    // SAFETY: the context is valid.
    let length = unsafe { bpf_xdp_get_buff_len(ctx) };
    let macs = frame.macs()?;
    let ifindex = ingress(ctx);
    let link = Link::answering(as_sent_to_us(macs, ifindex), ifindex, &packet.tags);
    let cut = (packet.l3() + quote) as i64 - length as i64;
    // SAFETY: the context is valid; pointers are made anew below.
    if cut > 0 || unsafe { bpf_xdp_adjust_tail(ctx, cut as i32) } != 0 {
        return None;
    }
    if move_head(ctx, packet.tags.count, &link, Room::new(K::HEADERS, K::ETHERTYPE)) != 0 {
        return None;
    }
    let at = ETHERNET_LEN + Tags::len(packet.tags.count);
    let key = packet.key;
    K::tell(&mut Frame::new(ctx), at, &key, mtu, quote)
}
