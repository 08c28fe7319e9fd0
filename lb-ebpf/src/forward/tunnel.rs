//! Tunnels: a packet gets another IP header in front and goes to its real server's address.
//!
//! A program of its own, so that the other methods pay nothing for it.
//!
//! Must not know: why this server was chosen.

use aya_ebpf::bindings::{xdp_action, xdp_md};
use aya_ebpf::programs::XdpContext;
use lb_common::encap::{self, Tunnel};
use lb_common::rewrite::Unfit;
use lb_common::service::{RS_MSS_CLAMP, RealServer};
use lb_common::state::flags;
use lb_common::verdict::Counter;
use lb_common::wire::{
    ETHERNET_LEN, ETHERTYPE_IPV4, ETHERTYPE_IPV6, IPIP, IPV6, Link, Packet, Tags,
};

use crate::forward::{Room, drop, is_controlled, leave, move_head, next_hop, way};
use crate::frame::Frame;
use crate::route::Query;
use crate::stage::{Stage, handed_server};
use crate::{maps, now, stats};

/// Sends the packet that was handed over through the tunnel of its real server.
#[inline(always)]
pub fn send<K: Stage>(ctx: &XdpContext) -> u32 {
    let Some((packet, chosen)) = handed_server::<K>() else {
        return xdp_action::XDP_PASS;
    };
    let Some(server) = maps::REAL_SERVERS.get(chosen.index) else {
        return xdp_action::XDP_PASS;
    };
    let tunnel =
        Tunnel { source: server.tunnel_source_words(), destination: server.address_words() };
    if !tunnel.is_known() {
        return stats::drop(Counter::NoTunnelSource);
    }
    let mut asked = Link::zeroed();
    let controlled = maps::CONFIG.get(0).is_some_and(|c| is_controlled(c, now()));
    let query = || outer(&tunnel, K::PAYLOAD);
    let link = match way(ctx.ctx, next_hop(server, controlled), query, &mut asked) {
        Ok(link) => link,
        Err(verdict) => return verdict,
    };
    match wrap(ctx.ctx, packet, server, (&tunnel, link)) {
        Ok(()) => {
            stats::packet_in(chosen.index, packet.bytes, chosen.is_new != 0);
            leave(ctx.ctx, packet, link.ifindex)
        }
        Err(unfit) => drop(unfit),
    }
}

/// The outer packet, as the routing table is asked for its way.
#[inline(always)]
fn outer(tunnel: &Tunnel, payload: u8) -> Query {
    let protocol = if payload == IPIP { IPIP } else { IPV6 };
    let (source, destination) = (tunnel.source, tunnel.destination);
    Query { source, destination, protocol, v4: u8::from(tunnel.is_v4()) }
}

/// Ages the packet, lowers a SYN's MSS, and puts the outer header and the new head before it.
#[inline(always)]
fn wrap<K: Stage>(
    ctx: *mut xdp_md,
    packet: &Packet<K>,
    server: &RealServer,
    (tunnel, link): (&Tunnel, &Link),
) -> Result<(), Unfit> {
    let mut frame = Frame::new(ctx);
    K::edit(&mut frame, packet, None)?;
    let class = K::class(&frame, packet.l3()).ok_or(Unfit::Short)?;
    if packet.tcp_flags & flags::SYN != 0
        && server.flags & RS_MSS_CLAMP != 0
        && server.mtu > K::TCP_HEADERS
        && encap::clamp_mss(&mut frame, packet.l4(), server.mtu - K::TCP_HEADERS)
    {
        stats::count(Counter::MssClamped);
    }
    let ethertype = if tunnel.is_v4() { ETHERTYPE_IPV4 } else { ETHERTYPE_IPV6 };
    let room = Room::new(tunnel.overhead(), ethertype);
    if move_head(ctx, packet.tags.count, link, room) != 0 {
        return Err(Unfit::Short);
    }
    let mut frame = Frame::new(ctx);
    let at = ETHERNET_LEN + Tags::len(link.tag_count);
    let key = packet.key;
    encap::wrap(&mut frame, at, tunnel, (&key, packet.bytes, class)).ok_or(Unfit::Short)
}
