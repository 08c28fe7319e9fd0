//! The XDP programs of the director, thin over `lb-common`: maps, helpers and the frame cursor are
//! here, everything that can be tested on the host is there.
//!
//! A frame's road through [`lb_forward`]: parse, then `conntrack::follow` for what is known, else
//! `admit::admit` for what is new, then `forward`. Each stage decides the verdict or hands on.
//!
//! Must not know: header offsets, table building, anything of user space.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch, core_intrinsics)]
#![allow(internal_features)] // Atomic compare-exchange and fetch-add have no stable form on BPF.
#![allow(unsafe_code)] // Maps and frames are raw pointers here.

mod admit;
mod atomic;
mod conntrack;
mod expire;
mod forward;
mod frame;
mod maps;
mod route;
mod schedule;
mod stats;

use aya_ebpf::bindings::{xdp_action, xdp_md};
use aya_ebpf::helpers::generated::bpf_jiffies64;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use lb_common::conn::{ConnKey4, ConnKey6};
use lb_common::verdict::Counter;
use lb_common::wire::{self, Packet, Parsed};

use crate::conntrack::{Followed, Table};
use crate::frame::Frame;

/// Forwards what belongs to a service, drops what cannot be forwarded, passes the rest.
#[xdp(frags)]
pub fn lb_forward(ctx: XdpContext) -> u32 {
    let frame = Frame::new(ctx.ctx);
    if let Some(packet) = wire::fast4(&frame) {
        return run(ctx.ctx, frame, &packet);
    }
    if let Some(packet) = wire::fast6(&frame) {
        return run(ctx.ctx, frame, &packet);
    }
    unusual(ctx.ctx)
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

/// Frames with VLAN tags, IPv4 options, IPv6 extension headers, fragments, and what is not ours.
///
/// Reading, and running each family, are sub-programs: the verifier then sees each of them once
/// for each kind of frame, and not once for each way through the parser.
#[inline(never)]
fn unusual(ctx: *mut xdp_md) -> u32 {
    let mut frame = Unusual { v4: Packet::empty(), v6: Packet::empty() };
    match read(ctx, &mut frame) {
        KIND_V4 => run_by_reference(ctx, &frame.v4),
        KIND_V6 => run_by_reference(ctx, &frame.v6),
        _ => xdp_action::XDP_PASS,
    }
}

/// Room for what `read` finds.
struct Unusual {
    v4: Packet<ConnKey4>,
    v6: Packet<ConnKey6>,
}

const KIND_OTHER: u32 = 0;
const KIND_V4: u32 = 1;
const KIND_V6: u32 = 2;

#[inline(never)]
fn read(ctx: *mut xdp_md, out: &mut Unusual) -> u32 {
    match wire::parse(&Frame::new(ctx)) {
        Parsed::V4(packet) => {
            out.v4 = packet;
            KIND_V4
        }
        Parsed::V6(packet) => {
            out.v6 = packet;
            KIND_V6
        }
        Parsed::Other => KIND_OTHER,
    }
}

#[inline(never)]
fn run_by_reference<K: Table>(ctx: *mut xdp_md, packet: &Packet<K>) -> u32 {
    if packet.fragment { fragment(&packet.key) } else { run(ctx, Frame::new(ctx), packet) }
}

/// A fragment: to a virtual address it is dropped, so that the stack does not answer for it.
#[inline(always)]
fn fragment<K: Table>(key: &K) -> u32 {
    // SAFETY: the reference is not kept.
    if unsafe { maps::VIPS.get(key.destination()) }.is_none() {
        return xdp_action::XDP_PASS;
    }
    stats::count(Counter::Fragment);
    xdp_action::XDP_DROP
}

#[inline(always)]
fn run<K: Table>(ctx: *mut xdp_md, frame: Frame, packet: &Packet<K>) -> u32 {
    let now = now();
    let stale = match conntrack::follow(ctx, &frame, packet, now) {
        Followed::Request(index, server) => {
            return forward::to_server(ctx, frame, packet, index, server, now);
        }
        Followed::Reply(entry, index) => {
            return forward::to_client(ctx, frame, packet, index, entry, now);
        }
        Followed::Nothing(stale) => stale,
    };
    if !admit::is_possible(&packet.key) {
        return xdp_action::XDP_PASS;
    }
    let index = admit::admit(ctx, packet, now, stale);
    if index < 0 {
        return (-index) as u32;
    }
    let index = index as u32;
    match maps::REAL_SERVERS.get_ptr(index) {
        Some(server) => forward::to_server(ctx, frame, packet, index, server, now),
        None => xdp_action::XDP_PASS,
    }
}

/// The kernel's time in jiffies: the cheapest clock there is (two instructions).
#[inline(always)]
fn now() -> u64 {
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
