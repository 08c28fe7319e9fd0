//! The routing table, asked by the program itself: when the controller does not know a next hop,
//! when it has not been heard of for a while, and for replies where the operator wants it.
//!
//! Must not know: services.

use aya_ebpf::bindings::{bpf_fib_lookup as FibLookup, xdp_action, xdp_md};
use aya_ebpf::helpers::generated::bpf_fib_lookup;
use lb_common::conn::ConnKey;
use lb_common::pod::mapped_words;
use lb_common::service::{EVENT_NEIGHBOUR, Event};
use lb_common::verdict::Counter;
use lb_common::wire::Link;

use crate::frame::ingress;
use crate::{maps, stats};

const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
/// `BPF_FIB_LKUP_RET_NO_NEIGH`.
const NO_NEIGHBOUR: i64 = 7;

/// Where a packet goes, as the routing table is asked: addresses as four words, the last one for
/// IPv4.
pub struct Query {
    /// Its source.
    pub source: [u32; 4],
    /// Its destination, or the real server that it is for.
    pub destination: [u32; 4],
    /// IP protocol number.
    pub protocol: u8,
    /// 1 for IPv4.
    pub v4: u8,
}

impl Query {
    /// A packet with this key, on its way to `destination`.
    #[inline(always)]
    pub fn of<K: ConnKey>(key: &K, destination: [u32; 4]) -> Self {
        let v4 = u8::from(K::V4);
        Self { source: key.source_words(), destination, protocol: key.protocol(), v4 }
    }
}

/// Finds the link of a packet. 0 when `link` was filled, else the verdict.
#[inline(never)]
pub fn ask(ctx: *mut xdp_md, query: &Query, link: &mut Link) -> u32 {
    stats::count(Counter::RouteLookups);
    // SAFETY: the kernel's own struct; all zero is a valid value of it.
    let mut params: FibLookup = unsafe { core::mem::zeroed() };
    params.ifindex = ingress(ctx);
    params.l4_protocol = query.protocol;
    if query.v4 != 0 {
        params.family = AF_INET;
        params.__bindgen_anon_3.ipv4_src = query.source[3];
        params.__bindgen_anon_4.ipv4_dst = query.destination[3];
    } else {
        params.family = AF_INET6;
        params.__bindgen_anon_3.ipv6_src = query.source;
        params.__bindgen_anon_4.ipv6_dst = query.destination;
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
        let address = match query.v4 {
            0 => query.destination,
            _ => mapped_words(query.destination[3]),
        };
        let event = Event::new(EVENT_NEIGHBOUR, params.ifindex, address, [0; 4]);
        // A full ring loses the event; the next packet makes another.
        let _ = maps::EVENTS.output_untyped::<Event>(event, 0);
        stats::count(Counter::NeighbourUnresolved);
    } else {
        stats::count(Counter::NoRoute);
    }
    xdp_action::XDP_DROP
}
