//! The sweep's other half: user space proposes keys, this program decides and closes.
//!
//! Run by BPF_PROG_TEST_RUN on the live maps, with a batch of keys as packet data, so that counts
//! change in one place only.
//!
//! Must not know: when a sweep runs.

use aya_ebpf::bindings::xdp_md;
use lb_common::conn::{ConnKey4, ConnKey6};
use lb_common::expire::{BATCH, BatchHead};
use lb_common::verdict::Counter;
use lb_common::wire::Buf;

use crate::conntrack::{self, Table};
use crate::frame::Frame;
use crate::{maps, now, stats};

/// Closes those of the proposed connections that are over.
#[inline(always)]
pub fn run(ctx: *mut xdp_md) {
    let frame = Frame::new(ctx);
    let Some(head) = frame.load::<BatchHead>(0) else {
        return;
    };
    match head.family {
        4 => batch::<ConnKey4>(ctx, head.count),
        6 => batch::<ConnKey6>(ctx, head.count),
        _ => {}
    }
}

#[inline(always)]
fn batch<K: Table>(ctx: *mut xdp_md, count: u32) {
    let frame = Frame::new(ctx);
    let now = now();
    let second = maps::CONFIG.get(0).map_or(1, |config| config.hz);
    for i in 0..BATCH {
        if i >= count {
            return;
        }
        let Some(key) = frame.load::<K>(size_of::<BatchHead>() + i as usize * size_of::<K>())
        else {
            return;
        };
        if one(&key, now, second) != 0 {
            stats::count(Counter::Expired);
        }
    }
}

/// One key, as a sub-program, so that the loop stays small.
#[inline(never)]
fn one<K: Table>(key: &K, now: u64, second: u64) -> u32 {
    u32::from(conntrack::expire(key, now, second))
}
