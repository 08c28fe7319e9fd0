//! Header edits: addresses of a frame, time to live, nat. Checksums change by increments only.
//!
//! Must not know: redirects, next-hop choice, MTU.

use crate::csum::Delta;
use crate::key::{ConnKey, ConnKey4, ConnKey6};
use crate::wire::{Be16, Buf, Macs, Packet, Part, TCP};

/// Why a packet could not be edited.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unfit {
    /// The frame ends before the header does.
    Short,
    /// Its time to live or hop limit is used up.
    TtlExceeded,
}

/// Which end of a packet nat rewrites.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The source: replies.
    Source,
    /// The destination: requests.
    Destination,
}

/// A family whose packets can be edited.
pub trait Edit: ConnKey {
    /// Ages the packet, and with an end, an address (as four words, the last one for IPv4) and a
    /// port, rewrites that end of it. A later fragment has only an address to rewrite: its packet's
    /// port and checksum are in the first.
    ///
    /// # Errors
    /// When the packet does not fit; it is to be dropped.
    fn edit<B: Buf>(
        buf: &mut B,
        packet: &Packet<Self>,
        nat: Option<(End, [u32; 4], u16)>,
    ) -> Result<(), Unfit>;
}

impl Edit for ConnKey4 {
    #[inline(always)]
    fn edit<B: Buf>(
        buf: &mut B,
        packet: &Packet<Self>,
        nat: Option<(End, [u32; 4], u16)>,
    ) -> Result<(), Unfit> {
        let at = (packet.l3(), packet.l4(), packet.key.protocol);
        match nat {
            None => age4(buf, at.0),
            Some((end, address, _)) if matches!(packet.part, Part::Later) => {
                readdress4(buf, at.0, end, address[3]).map(|_| ())
            }
            Some((end, address, port)) => nat4(buf, at, end, address[3], port),
        }
    }
}

impl Edit for ConnKey6 {
    #[inline(always)]
    fn edit<B: Buf>(
        buf: &mut B,
        packet: &Packet<Self>,
        nat: Option<(End, [u32; 4], u16)>,
    ) -> Result<(), Unfit> {
        let at = (packet.l3(), packet.l4(), packet.key.protocol);
        match nat {
            None => age6(buf, at.0),
            Some((end, address, _)) if matches!(packet.part, Part::Later) => {
                readdress6(buf, at.0, end, &address).map(|_| ())
            }
            Some((end, address, port)) => nat6(buf, at, end, &address, port),
        }
    }
}

/// Writes destination and source of a frame.
#[inline(always)]
pub fn set_macs<B: Buf + ?Sized>(buf: &mut B, macs: Macs) -> Result<(), Unfit> {
    buf.store(0, macs).ok_or(Unfit::Short)
}

/// Takes one from an IPv4 packet's time to live, as a router does.
#[inline(always)]
pub fn age4<B: Buf + ?Sized>(buf: &mut B, l3: usize) -> Result<(), Unfit> {
    let [ttl_protocol, checksum]: [u16; 2] = buf.load(l3 + 8).ok_or(Unfit::Short)?;
    let [ttl, protocol] = ttl_protocol.to_ne_bytes();
    if ttl <= 1 {
        return Err(Unfit::TtlExceeded);
    }
    let aged = u16::from_ne_bytes([ttl - 1, protocol]);
    // RFC 1141, with RFC 1624's mending of the zero: one less there is one more here.
    let sum = u32::from(checksum) + u32::from(u16::from_ne_bytes([1, 0]));
    let checksum = (sum + u32::from(sum >= 0xffff)) as u16;
    buf.store(l3 + 8, [aged, checksum]).ok_or(Unfit::Short)
}

/// The same, together with other changes of the header.
#[inline(always)]
pub(crate) fn age4_with<B: Buf + ?Sized>(
    buf: &mut B,
    l3: usize,
    other: Delta,
) -> Result<(), Unfit> {
    let [ttl_protocol, checksum]: [u16; 2] = buf.load(l3 + 8).ok_or(Unfit::Short)?;
    let [ttl, protocol] = ttl_protocol.to_ne_bytes();
    if ttl <= 1 {
        return Err(Unfit::TtlExceeded);
    }
    let aged = u16::from_ne_bytes([ttl - 1, protocol]);
    let checksum = other.word(ttl_protocol, aged).apply(checksum);
    buf.store(l3 + 8, [aged, checksum]).ok_or(Unfit::Short)
}

/// Takes one from an IPv6 packet's hop limit.
#[inline(always)]
pub fn age6<B: Buf + ?Sized>(buf: &mut B, l3: usize) -> Result<(), Unfit> {
    let hops: u8 = buf.load(l3 + 7).ok_or(Unfit::Short)?;
    if hops <= 1 {
        return Err(Unfit::TtlExceeded);
    }
    buf.store(l3 + 7, hops - 1).ok_or(Unfit::Short)
}

/// Rewrites one end of an IPv4 packet to `address` (as it lies in memory) and `port`, and ages it.
#[inline(always)]
pub fn nat4<B: Buf + ?Sized>(
    buf: &mut B,
    (l3, l4, protocol): (usize, usize, u8),
    end: End,
    address: u32,
    port: u16,
) -> Result<(), Unfit> {
    let changed = readdress4(buf, l3, end, address)?;
    set_port(buf, l4, protocol, (end, port), changed)
}

/// Rewrites the address at one end of an IPv4 packet and ages it; gives what has changed.
#[inline(always)]
fn readdress4<B: Buf + ?Sized>(
    buf: &mut B,
    l3: usize,
    end: End,
    address: u32,
) -> Result<Delta, Unfit> {
    let address_at = match end {
        End::Source => l3 + 12,
        End::Destination => l3 + 16,
    };
    let old: u32 = buf.load(address_at).ok_or(Unfit::Short)?;
    let changed = Delta::ZERO.quad(old, address);
    age4_with(buf, l3, changed)?;
    buf.store(address_at, address).ok_or(Unfit::Short)?;
    Ok(changed)
}

/// Rewrites one end of an IPv6 packet to `address` (as it lies in memory) and `port`, and ages it.
#[inline(always)]
pub fn nat6<B: Buf + ?Sized>(
    buf: &mut B,
    (l3, l4, protocol): (usize, usize, u8),
    end: End,
    address: &[u32; 4],
    port: u16,
) -> Result<(), Unfit> {
    let changed = readdress6(buf, l3, end, address)?;
    set_port(buf, l4, protocol, (end, port), changed)
}

/// Rewrites the address at one end of an IPv6 packet and ages it; gives what has changed.
#[inline(always)]
fn readdress6<B: Buf + ?Sized>(
    buf: &mut B,
    l3: usize,
    end: End,
    address: &[u32; 4],
) -> Result<Delta, Unfit> {
    let address_at = match end {
        End::Source => l3 + 8,
        End::Destination => l3 + 24,
    };
    age6(buf, l3)?;
    let old: [u32; 4] = buf.load(address_at).ok_or(Unfit::Short)?;
    buf.store(address_at, *address).ok_or(Unfit::Short)?;
    Ok(Delta::ZERO.address(&old, address))
}

/// Writes a port, and a transport checksum that knows of it and of what changed in the pseudo header.
#[inline(always)]
fn set_port<B: Buf + ?Sized>(
    buf: &mut B,
    l4: usize,
    protocol: u8,
    (end, port): (End, u16),
    changed: Delta,
) -> Result<(), Unfit> {
    let port_at = match end {
        End::Source => l4,
        End::Destination => l4 + 2,
    };
    let old: Be16 = buf.load(port_at).ok_or(Unfit::Short)?;
    let new = Be16::new(port);
    let changed = changed.word(old.0, new.0);
    buf.store(port_at, new).ok_or(Unfit::Short)?;
    if protocol == TCP {
        let checksum: u16 = buf.load(l4 + 16).ok_or(Unfit::Short)?;
        return buf.store(l4 + 16, changed.apply(checksum)).ok_or(Unfit::Short);
    }
    let checksum: u16 = buf.load(l4 + 6).ok_or(Unfit::Short)?;
    if checksum == 0 {
        // RFC 768: the sender computed none.
        return Ok(());
    }
    let sum = changed.apply(checksum);
    // RFC 768: a computed zero is sent as all ones, which is the same number.
    buf.store(l4 + 6, if sum == 0 { 0xffff } else { sum }).ok_or(Unfit::Short)
}

#[cfg(test)]
mod tests;
