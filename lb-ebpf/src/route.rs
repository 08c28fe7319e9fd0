//! The routing table, asked by the program itself: when the controller does not know a next hop,
//! when it has not been heard of for a while, and for replies where the operator wants it.
//!
//! Must not know: services.

use aya_ebpf::bindings::{bpf_fib_lookup as FibLookup, xdp_action, xdp_md};
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use lb_common::conn::ConnKey;
use lb_common::pod::{Address, unmapped};
use lb_common::service::NeighbourWanted;
use lb_common::verdict::Counter;
use lb_common::wire::Link;

use crate::frame::ingress;
use crate::{maps, stats};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `BPF_FIB_LKUP_RET_NO_NEIGH`.
const NO_NEIGHBOUR: i64 = 7;

/// Finds the link towards `destination`. 0 when `link` was filled, else the verdict.
#[inline(never)]
pub fn ask<K: ConnKey>(ctx: *mut xdp_md, key: &K, destination: &Address, link: &mut Link) -> u32 {
    stats::count(Counter::RouteLookups);
    // SAFETY: the kernel's own struct; all zero is a valid value of it.
    let mut params: FibLookup = unsafe { core::mem::zeroed() };
    params.ifindex = ingress(ctx);
    params.l4_protocol = key.protocol();
    let source = key.source();
    if size_of::<K>() == size_of::<lb_common::conn::ConnKey4>() {
        params.family = AF_INET;
        params.__bindgen_anon_3.ipv4_src = u32::from_ne_bytes(unmapped(&source));
        params.__bindgen_anon_4.ipv4_dst = u32::from_ne_bytes(unmapped(destination));
    } else {
        params.family = AF_INET6;
        params.__bindgen_anon_3.ipv6_src = words(&source);
        params.__bindgen_anon_4.ipv6_dst = words(destination);
    }
    // SAFETY: context and parameters are valid for the call.
    let found =
        unsafe { bpf_fib_lookup(ctx.cast(), &raw mut params, size_of::<FibLookup>() as i32, 0) };
    if found == 0 {
        link.peer_mac = params.dmac;
        link.our_mac = params.smac;
        link.ifindex = params.ifindex;
        return 0;
    }
    if found == NO_NEIGHBOUR {
        let wanted = NeighbourWanted { address: *destination, ifindex: params.ifindex, pad: 0 };
        // A full ring loses the event; the next packet makes another.
        let _ = maps::EVENTS.output_untyped::<NeighbourWanted>(wanted, 0);
        stats::count(Counter::NeighbourUnresolved);
    } else {
        stats::count(Counter::NoRoute);
    }
    xdp_action::XDP_DROP
}

#[inline(always)]
fn words(a: &Address) -> [u32; 4] {
    [
        u32::from_ne_bytes([a[0], a[1], a[2], a[3]]),
        u32::from_ne_bytes([a[4], a[5], a[6], a[7]]),
        u32::from_ne_bytes([a[8], a[9], a[10], a[11]]),
        u32::from_ne_bytes([a[12], a[13], a[14], a[15]]),
    ]
}
