//! The received frame as `lb_common::wire::Buf`: every access is checked against its end.
//!
//! Must not know: headers.

use aya_ebpf::bindings::xdp_md;
use lb_common::pod::Pod;
use lb_common::wire::{Buf, Macs};

/// Start and end of the frame's linear part. Made anew after the head was moved.
#[derive(Clone, Copy)]
pub struct Frame {
    data: usize,
    end: usize,
}

impl Frame {
    /// The frame of this context as it is now.
    #[inline(always)]
    pub fn new(ctx: *mut xdp_md) -> Self {
        let (data, end): (usize, usize);
        // SAFETY: two loads from the context, which is valid for the whole run of the program. In
        // assembly because a compiler that narrows them to 32 bits and widens them again makes
        // numbers out of what the verifier must see as pointers.
        unsafe {
            core::arch::asm!(
                "{data} = *(u32 *)({ctx} + 0)",
                "{end} = *(u32 *)({ctx} + 4)",
                ctx = in(reg) ctx,
                data = out(reg) data,
                end = lateout(reg) end,
                options(nostack),
            );
        }
        Self { data, end }
    }

    /// Destination and source address.
    #[inline(always)]
    pub fn macs(&self) -> Option<Macs> {
        self.load(0)
    }
}

impl Buf for Frame {
    #[inline(always)]
    fn load<T: Pod>(&self, offset: usize) -> Option<T> {
        let at = self.data + offset;
        if at + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: within the frame (checked); T is Pod. BPF loads need no alignment on this target.
        Some(unsafe { core::ptr::read(at as *const T) })
    }

    #[inline(always)]
    fn store<T: Pod>(&mut self, offset: usize, value: T) -> Option<()> {
        let at = self.data + offset;
        if at + size_of::<T>() > self.end {
            return None;
        }
        // SAFETY: as in `load`.
        unsafe { core::ptr::write(at as *mut T, value) };
        Some(())
    }
}

/// The interface that the frame came in by.
#[inline(always)]
pub fn ingress(ctx: *mut xdp_md) -> u32 {
    // SAFETY: the context is valid for the whole run of the program.
    unsafe { (*ctx).ingress_ifindex }
}
