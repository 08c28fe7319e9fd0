//! The program of a real server: unpacks what a director tunnels to its virtual addresses.
//!
//! An object of its own, so that a real server has none of the director's maps. All it knows is in
//! `lb_common::decap`; everything that is not for one of its addresses passes untouched.
//!
//! Must not know: header offsets, who sends, anything of user space.
#![no_std]
#![no_main]
#![feature(asm_experimental_arch)]

#[expect(dead_code, reason = "the director's programs use all of it")]
mod frame;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::{HashMap, PerCpuArray};
use aya_ebpf::helpers::generated::bpf_xdp_adjust_head;
use aya_ebpf::macros::{btf_map, xdp};
use aya_ebpf::programs::XdpContext;
use lb_common::decap::{self, Count};

use crate::frame::Frame;

#[btf_map(name = "decap_vips")]
static VIPS: HashMap<decap::Key, u32, { decap::MAX_VIPS as usize }> = HashMap::new();

#[btf_map(name = "decap_counts")]
static COUNTS: PerCpuArray<u64, { Count::COUNT as usize }> = PerCpuArray::new();

/// Unpacks IP in IP to a virtual address of this host.
#[xdp(frags)]
pub fn lb_decap(ctx: XdpContext) -> u32 {
    let Some(found) = decap::find(&Frame::new(ctx.ctx)) else {
        return xdp_action::XDP_PASS;
    };
    let destination = &found.destination;
    // SAFETY: the reference is not kept.
    if unsafe { VIPS.get(destination) }.is_none() {
        return xdp_action::XDP_PASS;
    }
    if found.is_congested() {
        count(Count::Congested);
        return xdp_action::XDP_DROP;
    }
    // SAFETY: the context is valid for the whole run; what was read before is not used again.
    if unsafe { bpf_xdp_adjust_head(ctx.ctx, found.outer() as i32) } != 0 {
        count(Count::Stuck);
        return xdp_action::XDP_PASS;
    }
    match found.finish(&mut Frame::new(ctx.ctx)) {
        Some(()) => {
            count(Count::Unpacked);
            xdp_action::XDP_PASS
        }
        // The head is gone: what is left is no frame.
        None => xdp_action::XDP_ABORTED,
    }
}

#[inline(always)]
fn count(what: Count) {
    if let Some(value) = COUNTS.get_ptr_mut(what as u32) {
        // SAFETY: this CPU's own element.
        unsafe { *value += 1 };
    }
}

#[unsafe(no_mangle)]
#[unsafe(link_section = "license")]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

/// Never reached: the verifier refuses a program in which a panic survives.
#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
