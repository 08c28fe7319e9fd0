//! This node as a station of its links: the MAC addresses that frames for it are sent to, and the
//! one that its answers come from.
//!
//! Must not know: services, what becomes of a frame.

use aya_ebpf::bindings::xdp_md;
use lb_common::pod;
use lb_common::service::Interface;
use lb_common::wire::{Link, Macs, sent_to, swapped, vrrp};

use crate::frame::ingress;
use crate::maps;

/// Whether a frame is for this node: a switch that floods, or a capture that makes an interface
/// promiscuous, must not make a standby director forward copies.
#[inline(always)]
pub fn is_addressed_to_us(ctx: *mut xdp_md, macs: Macs) -> bool {
    let Some(interface) = maps::INTERFACES.get(ingress(ctx)) else {
        return true;
    };
    let own = own_mac(interface);
    let [first, second, _] = macs;
    own == [0, 0] || own == [first, second & FIRST_HALF] || is_virtual_mac_served(macs)
}

/// Whether a frame is sent to the MAC address of a virtual router that this node is master of.
#[inline(always)]
fn is_virtual_mac_served(macs: Macs) -> bool {
    let Some(router) = vrrp::router_of_mac(macs) else {
        return false;
    };
    maps::VIRTUAL_MACS.get(router).is_some_and(|served| *served != 0)
}

/// The addresses of a frame as if one that was sent to a virtual router had been sent to the
/// interface's own address, which is where its answer is to come from. A node that is no longer master
/// may have connections left, and a switch that sees the virtual address behind it would send it what
/// the master is to get.
#[inline(always)]
pub fn as_sent_to_us(macs: Macs, ifindex: u32) -> Macs {
    if vrrp::router_of_mac(macs).is_none() {
        return macs;
    }
    match maps::INTERFACES.get(ifindex).map(own_mac) {
        None | Some([0, 0]) => macs,
        Some(own) => sent_to(macs, own),
    }
}

/// The same for a link that answers to such a frame.
#[inline(always)]
pub fn from_us(link: &Link) -> Link {
    let mut link = *link;
    let macs = as_sent_to_us(swapped(link.macs()), link.ifindex);
    *pod::head_mut::<Link, Macs>(&mut link) = swapped(macs);
    link
}

/// The last two bytes of an address, in the half of a word that comes first in memory.
const FIRST_HALF: u32 = u32::from_ne_bytes([0xff, 0xff, 0, 0]);

/// An interface's own address, as two words of which the second has nothing but its last two bytes;
/// all zero while it is not known.
#[inline(always)]
fn own_mac(interface: &Interface) -> [u32; 2] {
    let [head, tail] = *pod::head::<Interface, [u32; 2]>(interface);
    [head, tail & FIRST_HALF]
}
