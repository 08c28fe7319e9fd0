//! Counting VRRP where it comes in, before any firewall of this host: what is counted here and does
//! not reach a socket was dropped on this host.
//!
//! Must not know: what an advertisement says, who is master.

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::bpf_xdp_get_buff_len;
use lb_common::wire::vrrp;

use crate::frame::Frame;
use crate::maps;

/// Counts the frame for its virtual router, if it is VRRP.
#[inline(always)]
pub fn count(ctx: *mut xdp_md) {
    // SAFETY: the context is valid for the whole run of the program.
    let length = unsafe { bpf_xdp_get_buff_len(ctx) };
    let Some(router) = vrrp::router_of(&Frame::new(ctx), length as usize) else {
        return;
    };
    if let Some(count) = maps::VRRP_FRAMES.get_ptr_mut(router) {
        // SAFETY: this CPU's own element.
        unsafe { *count += 1 };
    }
}
