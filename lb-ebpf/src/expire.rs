//! The sweep's other half: user space proposes keys, this program decides and closes.
//!
//! Run by BPF_PROG_TEST_RUN on the live maps, with a batch of keys as packet data, so that counts
//! change in one place only.
//!
//! Must not know: when a sweep runs.

use core::ffi::c_void;

use aya_ebpf::bindings::xdp_md;
use aya_ebpf::helpers::generated::bpf_loop;
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

/// What the keys of a batch are looked at with.
struct Batch {
    ctx: *mut xdp_md,
    now: u64,
    second: u64,
}

/// Goes through a batch by the kernel's own loop, so that the verifier reads the body once and not
/// once for each key.
#[inline(always)]
fn batch<K: Table>(ctx: *mut xdp_md, count: u32) {
    let second = maps::CONFIG.get(0).map_or(1, |config| config.hz);
    let mut batch = Batch { ctx, now: now(), second };
    let each = one::<K> as unsafe extern "C" fn(u64, *mut Batch) -> i64;
    // SAFETY: the function is called with a number below `count` and the batch, which outlives it.
    unsafe { bpf_loop(count.min(BATCH), each as *mut c_void, (&raw mut batch).cast(), 0) };
}

/// Looks at one key; anything but 0 ends the loop.
///
/// # Safety
/// `batch` is valid.
#[inline(never)]
unsafe extern "C" fn one<K: Table>(index: u64, batch: *mut Batch) -> i64 {
    // SAFETY: the caller's promise.
    let Batch { ctx, now, second } = unsafe { batch.read() };
    if index >= u64::from(BATCH) {
        return 1;
    }
    let offset = size_of::<BatchHead>() + index as usize * size_of::<K>();
    let Some(key) = Frame::new(ctx).load::<K>(offset) else {
        return 1;
    };
    if conntrack::expire(&key, now, second) {
        stats::count(Counter::Expired);
    }
    0
}
