//! Handing a whole frame to user space, and telling it where a frame that it sends in again goes.
//!
//! The ring is asked for room first, so that a flood that user space cannot follow costs little
//! here. See `lb_common::detour`.
//!
//! Must not know: whether a frame has to be held, what becomes of it.

use aya_ebpf::bindings::{BPF_RB_AVAIL_DATA, xdp_md};
use aya_ebpf::helpers::generated::{
    bpf_ringbuf_output, bpf_ringbuf_query, bpf_xdp_get_buff_len, bpf_xdp_load_bytes,
};
use lb_common::abi;
use lb_common::detour::{DetourHead, FRAME_ROOM, RECORD_ROOM, RerunNote};
use lb_common::fragment::FragmentKey;
use lb_common::verdict::Counter;

use crate::frame::ingress;
use crate::{maps, stats};

/// A record as it is built: the head and the frame.
#[repr(C)]
pub struct Record {
    head: DetourHead,
    frame: [u8; FRAME_ROOM as usize],
}

/// Whether the ring has room for any frame.
#[inline(always)]
pub fn has_room() -> bool {
    // SAFETY: the ring is a map.
    let used = unsafe { bpf_ringbuf_query(ring(), u64::from(BPF_RB_AVAIL_DATA)) };
    used + u64::from(RECORD_ROOM) <= u64::from(abi::DETOUR_BYTES)
}

/// Hands this frame to user space; what becomes of it is user space's to count. 0 when done.
#[inline(never)]
pub fn submit(ctx: *mut xdp_md, reason: u32, mtu: u32, key: &FragmentKey) -> u32 {
    let Some(record) = maps::DETOUR_FRAME.get_ptr_mut(0) else {
        return 1;
    };
    // SAFETY: the context is valid for the whole run of the program.
    let length = unsafe { bpf_xdp_get_buff_len(ctx) };
    if length < ETHERNET_LEN || length >= u64::from(FRAME_ROOM) {
        stats::count(Counter::DetourFailed);
        return 1;
    }
    let length = bounded(length);
    // SAFETY: this CPU's own element; both helpers stay within it, as the verifier checks.
    let error = unsafe {
        (*record).head =
            DetourHead { reason, ingress: ingress(ctx), length: length as u32, mtu, key: *key };
        let frame = &raw mut (*record).frame;
        if bpf_xdp_load_bytes(ctx, 0, frame.cast(), length as u32) != 0 {
            stats::count(Counter::DetourFailed);
            return 1;
        }
        bpf_ringbuf_output(ring(), record.cast(), size_of::<DetourHead>() as u64 + length, 0)
    };
    if error != 0 {
        stats::count(Counter::DetourFull);
        return 1;
    }
    stats::count(Counter::Detoured);
    0
}

/// Tells user space something about a packet. A full ring loses it: whoever waits looks now and
/// then by itself.
#[inline(always)]
pub fn tell(reason: u32, key: &FragmentKey) {
    let head = DetourHead { reason, ingress: 0, length: 0, mtu: 0, key: *key };
    let _ = maps::DETOURS.output_untyped::<DetourHead>(head, 0);
}

/// Whether user space sent this frame in again: a frame from a wire has no metadata.
#[inline(always)]
pub fn is_rerun(ctx: *mut xdp_md) -> bool {
    note(ctx).is_some()
}

/// Writes down the interface that a frame from user space is sent by.
#[inline(always)]
pub fn tell_egress(ctx: *mut xdp_md, ifindex: u32) {
    if let Some(note) = note(ctx) {
        // SAFETY: within the metadata (checked).
        unsafe { (*note).egress = ifindex };
    }
}

/// Asks user space to split the frame that it sent in again. Whether it may: what comes from
/// splitting is never split again.
#[inline(always)]
pub fn ask_split(ctx: *mut xdp_md, mtu: u32) -> bool {
    let Some(note) = note(ctx) else {
        return false;
    };
    // SAFETY: within the metadata (checked).
    unsafe {
        if (*note).mtu != 0 {
            return false;
        }
        (*note).mtu = mtu;
    }
    true
}

#[inline(always)]
fn note(ctx: *mut xdp_md) -> Option<*mut RerunNote> {
    let (meta, data): (usize, usize);
    // SAFETY: two loads from the context; see `Frame::new`.
    unsafe {
        core::arch::asm!(
            "{meta} = *(u32 *)({ctx} + 8)",
            "{data} = *(u32 *)({ctx} + 0)",
            ctx = in(reg) ctx,
            meta = out(reg) meta,
            data = lateout(reg) data,
            options(nostack),
        );
    }
    (meta + size_of::<RerunNote>() <= data).then_some(meta as *mut RerunNote)
}

/// A length below [`FRAME_ROOM`] as one that the verifier sees to be so, and not to be 0. In
/// assembly because the compiler knows it already and would leave the bound out.
#[inline(always)]
fn bounded(mut length: u64) -> u64 {
    // SAFETY: arithmetic on a register.
    unsafe {
        core::arch::asm!(
            "{length} -= 1",
            "{length} &= {mask}",
            "{length} += 1",
            length = inout(reg) length,
            mask = const FRAME_ROOM - 1,
            options(nomem, nostack, pure),
        );
    }
    length
}

#[inline(always)]
fn ring() -> *mut core::ffi::c_void {
    (&raw const maps::DETOURS).cast_mut().cast()
}

const ETHERNET_LEN: u64 = 14;
