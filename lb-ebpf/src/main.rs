//! The XDP programs of the director, thin over `lb-common`: maps, helpers and the frame cursor are
//! here, everything that can be tested on the host is there.
//!
//! A frame's road from [`lb_forward`]: parse, then `conntrack::follow` for what is known, else
//! `admit::admit` for what is new, then `forward`. Each stage decides the verdict or hands on.
//!
//! Must not know: header offsets, table building, anything of user space.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![allow(internal_features)] // Atomic compare-exchange and fetch-add have no stable form on BPF.

mod admit;
mod atomic;
mod conntrack;
mod detour;
mod expire;
mod forward;
mod fragment;
mod frame;
mod guard;
mod maps;
mod route;
mod schedule;
mod stage;
mod station;
mod stats;
mod vrrp;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::helpers::generated::bpf_jiffies64;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::conn::{ConnKey4, ConnKey6};
use lb_common::wire::{self, Packet, Parsed, Part};

use crate::admit::Admitted;
use crate::conntrack::Followed;
use crate::forward::{icmp, reset, too_big, tunnel};
use crate::frame::Frame;
use crate::stage::{Chosen, Stage};

/// The plain frames of known connections; everything else goes on to the programs below.
///
/// Each stage is a program of its own, reached by a tail call, with the packet handed over in
/// per-CPU memory: so each is verified alone, and the established flow pays for none of the rest.
#[xdp(frags)]
pub fn lb_forward(ctx: XdpContext) -> u32 {
    let frame = Frame::new(ctx.ctx);
    if let Some(packet) = wire::fast4(&frame) {
        return run(&ctx, frame, &packet);
    }
    if let Some(packet) = wire::fast6(&frame) {
        return run(&ctx, frame, &packet);
    }
    stage::unusual(&ctx)
}

/// Asks the access lists before the first stage. Attached in its place while they have entries, so
/// that an empty list costs nothing.
#[xdp(frags)]
pub fn lb_guard(ctx: XdpContext) -> u32 {
    guard::run(&ctx)
}

/// Frames with VLAN tags, IPv4 options or IPv6 extension headers, fragments, ICMP errors, and what
/// is not ours.
#[xdp(frags)]
pub fn lb_unusual(ctx: XdpContext) -> u32 {
    let rerun = detour::is_rerun(ctx.ctx);
    match wire::parse(&Frame::new(ctx.ctx)) {
        Parsed::V4(packet) => stage::known(&ctx, &Packet { rerun, ..packet }),
        Parsed::V6(packet) => stage::known(&ctx, &Packet { rerun, ..packet }),
        Parsed::Icmp4(packet) => stage::icmp(&ctx, &packet),
        Parsed::Icmp6(packet) => stage::icmp(&ctx, &packet),
        Parsed::Other => {
            vrrp::count(ctx.ctx);
            xdp_action::XDP_PASS
        }
    }
}

/// An unusual IPv4 frame that was read.
#[xdp(frags)]
pub fn lb_known4(ctx: XdpContext) -> u32 {
    read_before::<ConnKey4>(&ctx)
}

/// An unusual IPv6 frame that was read.
#[xdp(frags)]
pub fn lb_known6(ctx: XdpContext) -> u32 {
    read_before::<ConnKey6>(&ctx)
}

/// An IPv4 packet without a connection.
#[xdp(frags)]
pub fn lb_admit4(ctx: XdpContext) -> u32 {
    admit_new::<ConnKey4>(&ctx)
}

/// An IPv6 packet without a connection.
#[xdp(frags)]
pub fn lb_admit6(ctx: XdpContext) -> u32 {
    admit_new::<ConnKey6>(&ctx)
}

/// An IPv4 packet to a real server behind a tunnel.
#[xdp(frags)]
pub fn lb_tunnel4(ctx: XdpContext) -> u32 {
    tunnel::send::<ConnKey4>(&ctx)
}

/// An IPv6 packet to a real server behind a tunnel.
#[xdp(frags)]
pub fn lb_tunnel6(ctx: XdpContext) -> u32 {
    tunnel::send::<ConnKey6>(&ctx)
}

/// An IPv4 packet that is too big for the way to its real server.
#[xdp(frags)]
pub fn lb_too_big4(ctx: XdpContext) -> u32 {
    too_big::judge::<ConnKey4>(&ctx)
}

/// An IPv6 packet that is too big for the way to its real server.
#[xdp(frags)]
pub fn lb_too_big6(ctx: XdpContext) -> u32 {
    too_big::judge::<ConnKey6>(&ctx)
}

/// An ICMP error.
#[xdp(frags)]
pub fn lb_icmp4(ctx: XdpContext) -> u32 {
    icmp::follow::<ConnKey4>(&ctx)
}

/// An ICMPv6 error.
#[xdp(frags)]
pub fn lb_icmp6(ctx: XdpContext) -> u32 {
    icmp::follow::<ConnKey6>(&ctx)
}

/// A later IPv4 fragment.
#[xdp(frags)]
pub fn lb_fragment4(ctx: XdpContext) -> u32 {
    follow_first::<ConnKey4>(&ctx)
}

/// A later IPv6 fragment.
#[xdp(frags)]
pub fn lb_fragment6(ctx: XdpContext) -> u32 {
    follow_first::<ConnKey6>(&ctx)
}

/// An IPv4 packet whose connection is over.
#[xdp(frags)]
pub fn lb_reset4(ctx: XdpContext) -> u32 {
    reset::judge::<ConnKey4>(&ctx)
}

/// An IPv6 packet whose connection is over.
#[xdp(frags)]
pub fn lb_reset6(ctx: XdpContext) -> u32 {
    reset::judge::<ConnKey6>(&ctx)
}

/// Closes expired connections among the keys in the packet. See `expire`.
#[xdp]
pub fn lb_expire(ctx: XdpContext) -> u32 {
    expire::run(ctx.ctx);
    xdp_action::XDP_PASS
}

/// Stamps the heartbeat with the kernel's time.
#[xdp]
pub fn lb_clock(_ctx: XdpContext) -> u32 {
    if let Some(config) = maps::CONFIG.get_ptr_mut(0) {
        // SAFETY: a map value; nobody but this program writes the field while it runs.
        unsafe { (*config).heartbeat = now() };
    }
    xdp_action::XDP_PASS
}

/// Follows a packet's connection and forwards it, or hands it on to be admitted.
#[inline(always)]
fn run<K: Stage>(ctx: &XdpContext, frame: Frame, packet: &Packet<K>) -> u32 {
    let to_service = admit::is_to_service(&packet.key);
    if !to_service && !admit::is_from_server(&packet.key) {
        return xdp_action::XDP_PASS;
    }
    let now = now();
    match conntrack::follow(ctx.ctx, &frame, packet, now) {
        Followed::Request(index, server) => {
            // SAFETY: an array element.
            fragment::requested(packet, index, unsafe { (*server).generation }, now);
            let controlled = maps::CONFIG.get(0).is_some_and(|c| forward::is_controlled(c, now));
            let chosen = Chosen { index, is_new: 0 };
            forward::to_server(ctx.ctx, frame, packet, chosen, server, controlled)
        }
        Followed::Reply(entry, index) => {
            fragment::replied(packet, index, entry, now);
            forward::to_client(ctx.ctx, frame, packet, index, entry)
        }
        Followed::Orphan => stage::over(ctx, packet),
        Followed::Nothing(stale) if to_service => stage::admit(ctx, packet, stale),
        Followed::Nothing(_) => {
            fragment::decided(packet, xdp_action::XDP_PASS, now);
            xdp_action::XDP_PASS
        }
    }
}

#[inline(always)]
fn read_before<K: Stage>(ctx: &XdpContext) -> u32 {
    let Some((packet, _)) = stage::handed::<K>() else {
        return xdp_action::XDP_PASS;
    };
    if matches!(packet.part, Part::Later | Part::Short) {
        return stage::later::<K>(ctx);
    }
    run(ctx, Frame::new(ctx.ctx), packet)
}

#[inline(always)]
fn follow_first<K: Stage>(ctx: &XdpContext) -> u32 {
    match stage::handed::<K>() {
        Some((packet, _)) => fragment::follow(ctx.ctx, packet),
        None => xdp_action::XDP_PASS,
    }
}

#[inline(always)]
fn admit_new<K: Stage>(ctx: &XdpContext) -> u32 {
    let Some((packet, stale)) = stage::handed::<K>() else {
        return xdp_action::XDP_PASS;
    };
    let Some(config) = maps::CONFIG.get(0) else {
        return xdp_action::XDP_PASS;
    };
    if reset::is_wanted(packet, stale) != 0 {
        return stage::reset::<K>(ctx);
    }
    let now = now();
    let Admitted { index, is_new } = match admit::admit(ctx.ctx, packet, config, now, stale) {
        Ok(admitted) => admitted,
        Err(verdict) => {
            fragment::decided(packet, verdict, now);
            return verdict;
        }
    };
    match maps::REAL_SERVERS.get_ptr(index) {
        Some(server) => {
            // SAFETY: an array element.
            fragment::requested(packet, index, unsafe { (*server).generation }, now);
            let frame = Frame::new(ctx.ctx);
            let controlled = forward::is_controlled(config, now);
            let chosen = Chosen { index, is_new: u32::from(is_new) };
            forward::to_server(ctx.ctx, frame, packet, chosen, server, controlled)
        }
        None => xdp_action::XDP_PASS,
    }
}

/// The kernel's time in jiffies: the cheapest clock there is (two instructions).
#[inline(always)]
pub(crate) fn now() -> u64 {
    // SAFETY: no arguments.
    unsafe { bpf_jiffies64() }
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Never reached: the verifier refuses a program in which a panic survives.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
