//! The stages of a packet's road as programs, and how a packet is handed from one to the next.
//!
//! The hand-over is per-CPU memory: XDP runs to its end on one CPU, so nobody else writes it
//! meanwhile, and the next program sees a packet of which the verifier assumes nothing.
//!
//! Must not know: what a stage does.

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::programs::XdpContext;
use lb_common::abi::Stage as Index;
use lb_common::bare::Bare;
use lb_common::conn::{ConnKey4, ConnKey6};
use lb_common::encap::Inner;
use lb_common::icmp::Icmp;
use lb_common::wire::Packet;

use crate::conntrack::Table;
use crate::maps;

/// Where a packet of each family is kept between two stages.
pub struct Handover {
    v4: Packet<ConnKey4>,
    v6: Packet<ConnKey6>,
    stale: u64,
    server: Chosen,
}

/// The real server that was chosen for a packet.
#[derive(Clone, Copy)]
pub struct Chosen {
    /// Its index.
    pub index: u32,
    /// 1: the packet began a connection that has an entry.
    pub is_new: u32,
}

/// A family: its stages and its place in the hand-over.
pub trait Stage: Table + Inner + Icmp + Bare {
    /// The stage for packets that were read.
    const KNOWN: Index;
    /// The stage for packets without a connection.
    const ADMIT: Index;
    /// The stage for packets to a real server behind a tunnel.
    const TUNNEL: Index;
    /// The stage for packets that do not fit.
    const TOO_BIG: Index;
    /// The stage for ICMP errors.
    const ICMP: Index;
    /// The stage for later fragments.
    const FRAGMENT: Index;
    /// The stage for connections that are over.
    const RESET: Index;

    /// The family's packet in the hand-over.
    fn slot(handover: *mut Handover) -> *mut Packet<Self>;
}

impl Stage for ConnKey4 {
    const KNOWN: Index = Index::Known4;
    const ADMIT: Index = Index::Admit4;
    const TUNNEL: Index = Index::Tunnel4;
    const TOO_BIG: Index = Index::TooBig4;
    const ICMP: Index = Index::Icmp4;
    const FRAGMENT: Index = Index::Fragment4;
    const RESET: Index = Index::Reset4;

    #[inline(always)]
    fn slot(handover: *mut Handover) -> *mut Packet<Self> {
        // SAFETY: a field of a map value.
        unsafe { &raw mut (*handover).v4 }
    }
}

impl Stage for ConnKey6 {
    const KNOWN: Index = Index::Known6;
    const ADMIT: Index = Index::Admit6;
    const TUNNEL: Index = Index::Tunnel6;
    const TOO_BIG: Index = Index::TooBig6;
    const ICMP: Index = Index::Icmp6;
    const FRAGMENT: Index = Index::Fragment6;
    const RESET: Index = Index::Reset6;

    #[inline(always)]
    fn slot(handover: *mut Handover) -> *mut Packet<Self> {
        // SAFETY: a field of a map value.
        unsafe { &raw mut (*handover).v6 }
    }
}

/// On to the first stage, from the guard before it.
#[inline(always)]
pub fn forward(ctx: &XdpContext) -> u32 {
    go(ctx, Index::Forward)
}

/// On to the parser that reads everything.
#[inline(always)]
pub fn unusual(ctx: &XdpContext) -> u32 {
    go(ctx, Index::Unusual)
}

/// On to the connection table, with a packet that was read.
#[inline(always)]
pub fn known<K: Stage>(ctx: &XdpContext, packet: &Packet<K>) -> u32 {
    hand(packet, 0);
    go(ctx, K::KNOWN)
}

/// On to the services, with a packet that has no connection.
#[inline(always)]
pub fn admit<K: Stage>(ctx: &XdpContext, packet: &Packet<K>, stale: u64) -> u32 {
    hand(packet, stale);
    go(ctx, K::ADMIT)
}

/// On to the tunnel of the real server that was chosen.
#[inline(always)]
pub fn tunnel<K: Stage>(ctx: &XdpContext, packet: &Packet<K>, server: Chosen) -> u32 {
    hand_with_server(packet, server);
    go(ctx, K::TUNNEL)
}

/// On to what becomes of a packet that does not fit.
#[inline(always)]
pub fn too_big<K: Stage>(ctx: &XdpContext, packet: &Packet<K>, server: Chosen) -> u32 {
    hand_with_server(packet, server);
    go(ctx, K::TOO_BIG)
}

/// On to the connection that an ICMP error is about.
#[inline(always)]
pub fn icmp<K: Stage>(ctx: &XdpContext, packet: &Packet<K>) -> u32 {
    hand(packet, 0);
    go(ctx, K::ICMP)
}

/// The packet that the stage before handed over, and its real server.
#[inline(always)]
pub fn handed_server<K: Stage>() -> Option<(&'static Packet<K>, Chosen)> {
    let handover = maps::HANDOVER.get_ptr_mut(0)?;
    // SAFETY: this CPU's own element; the stage before wrote it.
    unsafe { Some((&*K::slot(handover), (*handover).server)) }
}

#[inline(always)]
fn hand_with_server<K: Stage>(packet: &Packet<K>, server: Chosen) {
    if let Some(handover) = maps::HANDOVER.get_ptr_mut(0) {
        // SAFETY: this CPU's own element.
        unsafe {
            core::ptr::write(K::slot(handover), *packet);
            (*handover).server = server;
        }
    }
}

/// On to the decisions of first fragments, with the later fragment that is in the hand-over.
#[inline(always)]
pub fn later<K: Stage>(ctx: &XdpContext) -> u32 {
    go(ctx, K::FRAGMENT)
}

/// On to what becomes of a packet whose connection is over.
#[inline(always)]
pub fn over<K: Stage>(ctx: &XdpContext, packet: &Packet<K>) -> u32 {
    hand(packet, 0);
    go(ctx, K::RESET)
}

/// The same with the packet that is in the hand-over.
#[inline(always)]
pub fn reset<K: Stage>(ctx: &XdpContext) -> u32 {
    go(ctx, K::RESET)
}

/// The packet that the stage before handed over, and the word of its stale entry or 0.
#[inline(always)]
pub fn handed<K: Stage>() -> Option<(&'static Packet<K>, u64)> {
    let handover = maps::HANDOVER.get_ptr_mut(0)?;
    // SAFETY: this CPU's own element; the stage before wrote it.
    unsafe { Some((&*K::slot(handover), (*handover).stale)) }
}

#[inline(always)]
fn hand<K: Stage>(packet: &Packet<K>, stale: u64) {
    if let Some(handover) = maps::HANDOVER.get_ptr_mut(0) {
        // SAFETY: this CPU's own element.
        unsafe {
            core::ptr::write(K::slot(handover), *packet);
            (*handover).stale = stale;
        }
    }
}

/// Leaves for another program; only a program that is not in the table lets this return.
#[inline(always)]
fn go(ctx: &XdpContext, stage: Index) -> u32 {
    // SAFETY: nothing that would have to be dropped is alive.
    unsafe { maps::STAGES.tail_call(ctx, stage as u32) };
    xdp_action::XDP_PASS
}
