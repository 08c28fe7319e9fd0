//! The programs of probes that go by way of a service: one on the way out, one on the way in.
//!
//! An object of its own on the traffic control hooks, loaded only while a check asks for it, so
//! that the forwarding programs know nothing of it. What a packet is, is `lb_common::via`'s to say;
//! here it is changed, with the kernel's helpers, because they alone know which checksums are
//! still to be made by the network card.
//!
//! Must not know: header offsets, who probes, anything of user space.
#![no_std]
#![no_main]

use core::mem::MaybeUninit;

use aya_ebpf::bindings::{
    __sk_buff, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, BPF_F_MARK_MANGLED_0,
    BPF_F_PSEUDO_HDR, BPF_F_RECOMPUTE_CSUM, TC_ACT_SHOT, TC_ACT_UNSPEC,
    bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
};
use aya_ebpf::btf_maps::{Array, LruHashMap};
use aya_ebpf::helpers::generated::{
    bpf_csum_diff, bpf_l3_csum_replace, bpf_l4_csum_replace, bpf_skb_adjust_room,
    bpf_skb_load_bytes, bpf_skb_store_bytes,
};
use aya_ebpf::macros::{btf_map, classifier};
use aya_ebpf::programs::TcContext;
use lb_common::pod::Pod;
use lb_common::via::{self, Error, Probe, Seen, Way, Words};
use lb_common::wire::{Buf, ETHERNET_LEN, IPV4_LEN, IPV6_LEN, UDP};

#[btf_map(name = "via_ways")]
static WAYS: Array<Way, { via::MAX_WAYS as usize }> = Array::new();

#[btf_map(name = "via_probes")]
static PROBES: LruHashMap<Probe, Words, { via::MAX_PROBES as usize }> = LruHashMap::new();

/// Sends a marked packet as a client's would come: to the virtual address, by way of the service.
/// What cannot be sent so is dropped, so that nothing is taken for healthy that was not asked.
#[classifier]
pub fn lb_via_out(ctx: TcContext) -> i32 {
    // SAFETY: the context is valid for the whole run of the program.
    let mark = unsafe { (*ctx.skb.skb).mark };
    let Some(index) = via::way_of(mark) else {
        return TC_ACT_UNSPEC;
    };
    match send(ctx.skb.skb, index) {
        Some(()) => {
            // Nobody after this has a use for the mark, and a device below this one must not
            // send the packet on its way again.
            // SAFETY: as above.
            unsafe { (*ctx.skb.skb).mark = 0 };
            TC_ACT_UNSPEC
        }
        None => TC_ACT_SHOT,
    }
}

/// Gives the answer to a probe the source that its socket knows.
#[classifier]
pub fn lb_via_in(ctx: TcContext) -> i32 {
    let skb = Skb(ctx.skb.skb);
    if let Some(seen) = via::read(&skb) {
        // SAFETY: copied at once.
        if let Some(server) = unsafe { PROBES.get(seen.answering()) } {
            let _whole = skb.replace(&seen, seen.source_at(), &seen.source, &{ *server });
        }
    } else if let Some(error) = via::read_error(&skb) {
        let probe = error.quoted.asking(error.quoted.destination);
        // SAFETY: copied at once.
        if let Some(server) = unsafe { PROBES.get(probe) } {
            let _whole = skb.replace_quoted(&error, &{ *server });
        }
    }
    TC_ACT_UNSPEC
}

#[inline(always)]
fn send(ctx: *mut __sk_buff, index: u32) -> Option<()> {
    let skb = Skb(ctx);
    let way = WAYS.get(index)?;
    let seen = via::read(&skb)?;
    if !via::is_for(&seen, way) {
        return None;
    }
    remember(&seen.asking(way.vip), &way.server)?;
    skb.replace(&seen, seen.destination_at(), &way.server, &way.vip)?;
    if way.tunnel == 0 {
        return Some(());
    }
    if seen.v4 {
        let header = via::outer4(&seen, &way.server);
        skb.wrap(IPV4_LEN, BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, &header)
    } else {
        let header = via::outer6(&seen, &way.server);
        skb.wrap(IPV6_LEN, BPF_F_ADJ_ROOM_ENCAP_L3_IPV6, &header)
    }
}

/// Sees to it that the answer is known. Most packets are not their probe's first.
#[inline(always)]
fn remember(probe: &Probe, server: &Words) -> Option<()> {
    // SAFETY: only read, before anything is written.
    if unsafe { PROBES.get(probe) }.is_some_and(|known| via::same(known, server)) {
        return Some(());
    }
    PROBES.insert(probe, server, 0).ok()
}

/// A packet of the stack. Its helpers reach the parts that are not in one piece as well.
struct Skb(*mut __sk_buff);

impl Skb {
    /// Exchanges an address of the packet, and makes its checksums those of the new one.
    #[inline(always)]
    fn replace(&self, seen: &Seen, at: usize, old: &Words, new: &Words) -> Option<()> {
        let flags = BPF_F_PSEUDO_HDR | if seen.protocol == UDP { BPF_F_MARK_MANGLED_0 } else { 0 };
        if seen.v4 {
            let (old, new) = (u64::from(old[3]), u64::from(new[3]));
            self.checksum4(seen.l3 + via::IPV4_CHECKSUM, old, new)?;
            self.checksum(seen.checksum_at(), old, new, flags | 4)?;
            return self.put(at, &(new as u32), 0);
        }
        self.checksum(seen.checksum_at(), 0, difference(old, new)?, flags)?;
        // The sum that a network card made of the whole packet: the address and the checksum change
        // it by opposite amounts, and the helper above counted only the checksum.
        self.put(at, new, BPF_F_RECOMPUTE_CSUM)
    }

    /// The same in an ICMP error: in the packet that it quotes, and, where the virtual address
    /// itself complains, its own source.
    #[inline(always)]
    fn replace_quoted(&self, error: &Error, server: &Words) -> Option<()> {
        let quoted = &error.quoted;
        let (vip, at) = (&quoted.destination, quoted.destination_at());
        let own = via::same(&error.source, vip);
        if quoted.v4 {
            let (old, new) = (u64::from(vip[3]), u64::from(server[3]));
            // The quoted header's checksum makes up for its address: ICMP's own stays.
            self.checksum4(quoted.l3 + via::IPV4_CHECKSUM, old, new)?;
            self.put(at, &server[3], 0)?;
            if own {
                self.checksum4(error.l3 + via::IPV4_CHECKSUM, old, new)?;
                self.put(error.l3 + 12, &server[3], 0)?;
            }
            return Some(());
        }
        let changed = difference(vip, server)?;
        self.checksum(error.icmp + via::ICMP_CHECKSUM, 0, changed, 0)?;
        self.put(at, server, 0)?;
        if own {
            self.checksum(error.icmp + via::ICMP_CHECKSUM, 0, changed, BPF_F_PSEUDO_HDR)?;
            self.put(error.l3 + 8, server, BPF_F_RECOMPUTE_CSUM)?;
        }
        Some(())
    }

    /// Puts an outer header between the Ethernet header and the packet.
    #[inline(always)]
    fn wrap<H: Pod>(&self, length: usize, family: u32, header: &H) -> Option<()> {
        // SAFETY: a helper that checks what it is given.
        let done = unsafe {
            bpf_skb_adjust_room(self.0, length as i32, BPF_ADJ_ROOM_MAC, u64::from(family))
        };
        if done == 0 { self.put(ETHERNET_LEN, header, 0) } else { None }
    }

    #[inline(always)]
    fn checksum4(&self, at: usize, old: u64, new: u64) -> Option<()> {
        // SAFETY: a helper that checks the offset.
        (unsafe { bpf_l3_csum_replace(self.0, at as u32, old, new, 4) } == 0).then_some(())
    }

    #[inline(always)]
    fn checksum(&self, at: usize, old: u64, new: u64, flags: u32) -> Option<()> {
        // SAFETY: a helper that checks the offset.
        let done = unsafe { bpf_l4_csum_replace(self.0, at as u32, old, new, u64::from(flags)) };
        (done == 0).then_some(())
    }

    #[inline(always)]
    fn put<T: Pod>(&self, at: usize, value: &T, flags: u32) -> Option<()> {
        // SAFETY: `value` has as many bytes as are said; the helper checks the offset.
        let done = unsafe {
            bpf_skb_store_bytes(
                self.0,
                at as u32,
                core::ptr::from_ref(value).cast(),
                size_of::<T>() as u32,
                u64::from(flags),
            )
        };
        (done == 0).then_some(())
    }
}

/// The change of a checksum when an IPv6 address changes.
#[inline(always)]
fn difference(old: &Words, new: &Words) -> Option<u64> {
    const BYTES: u32 = size_of::<Words>() as u32;
    let (old, new) = (core::ptr::from_ref(old), core::ptr::from_ref(new));
    // SAFETY: both have as many bytes as are said, and are only read.
    let sum =
        unsafe { bpf_csum_diff(old.cast_mut().cast(), BYTES, new.cast_mut().cast(), BYTES, 0) };
    u64::try_from(sum).ok()
}

impl Buf for Skb {
    #[inline(always)]
    fn load<T: Pod>(&self, offset: usize) -> Option<T> {
        let mut value = MaybeUninit::<T>::uninit();
        // SAFETY: there is room for as many bytes as are said; the helper checks the offset.
        let done = unsafe {
            bpf_skb_load_bytes(
                self.0.cast(),
                offset as u32,
                value.as_mut_ptr().cast(),
                size_of::<T>() as u32,
            )
        };
        // SAFETY: the helper filled it (checked), and T is Pod.
        if done == 0 { Some(unsafe { value.assume_init() }) } else { None }
    }

    #[inline(always)]
    fn store<T: Pod>(&mut self, offset: usize, value: T) -> Option<()> {
        self.put(offset, &value, 0)
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
