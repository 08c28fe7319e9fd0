//! Per-CPU counts: by reason, and by real server.
//!
//! Must not know: names, rates.

use aya_ebpf::bindings::xdp_action;
use lb_common::verdict::Counter;

use crate::maps;

/// Counts one.
#[inline(always)]
pub fn count(counter: Counter) {
    if let Some(value) = maps::COUNTERS.get_ptr_mut(counter as u32) {
        // SAFETY: this CPU's own element.
        unsafe { *value += 1 };
    }
}

/// Counts the reason and gives the verdict.
#[inline(always)]
pub fn drop(reason: Counter) -> u32 {
    count(reason);
    xdp_action::XDP_DROP
}

/// Counts a packet to a real server, and the connection if it began one.
#[inline(always)]
pub fn packet_in(index: u32, bytes: u32, is_new: bool) {
    if let Some(traffic) = maps::TRAFFIC.get_ptr_mut(index) {
        // SAFETY: this CPU's own element.
        unsafe {
            if is_new {
                (*traffic).connections += 1;
            }
            (*traffic).packets_in += 1;
            (*traffic).bytes_in += u64::from(bytes);
        }
    }
}

/// Counts a connection whose first packet went nowhere.
#[inline(always)]
pub fn connection(index: u32) {
    if let Some(traffic) = maps::TRAFFIC.get_ptr_mut(index) {
        // SAFETY: this CPU's own element.
        unsafe { (*traffic).connections += 1 };
    }
}

/// Counts a packet from a real server.
#[inline(always)]
pub fn packet_out(index: u32, bytes: u32) {
    if let Some(traffic) = maps::TRAFFIC.get_ptr_mut(index) {
        // SAFETY: this CPU's own element.
        unsafe {
            (*traffic).packets_out += 1;
            (*traffic).bytes_out += u64::from(bytes);
        }
    }
}
