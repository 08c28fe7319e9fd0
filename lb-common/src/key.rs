//! Keys of connections: a packet's own addresses, ports and protocol.
//!
//! Must not know: frames, states, maps.

use crate::pod::{Address, mapped, unmapped};
use crate::{hash, pod};

pod! {
    /// Key of an IPv4 connection half: the packet's own addresses and ports.
    #[repr(align(8))]
    pub struct ConnKey4 {
        /// Source address.
        pub source: [u8; 4],
        /// Destination address.
        pub destination: [u8; 4],
        /// Source port, host order.
        pub source_port: u16,
        /// Destination port, host order.
        pub destination_port: u16,
        /// IP protocol number.
        pub protocol: u8,
        /// Zero.
        pub pad: [u8; 3],
    }
}

pod! {
    /// Key of an IPv6 connection half.
    #[repr(align(8))]
    pub struct ConnKey6 {
        /// Source address.
        pub source: [u8; 16],
        /// Destination address.
        pub destination: [u8; 16],
        /// Source port, host order.
        pub source_port: u16,
        /// Destination port, host order.
        pub destination_port: u16,
        /// IP protocol number.
        pub protocol: u8,
        /// Zero.
        pub pad: [u8; 3],
    }
}

/// A key of either family.
pub trait ConnKey: pod::Pod {
    /// The key whose bytes are all zero.
    const ZERO: Self;

    /// Source address, IPv4 mapped.
    fn source(&self) -> Address;

    /// Destination address, IPv4 mapped.
    fn destination(&self) -> Address;

    /// Source and destination port.
    fn ports(&self) -> (u16, u16);

    /// IP protocol number.
    fn protocol(&self) -> u8;

    /// Four bytes that stand for the destination in the address filter.
    fn filter_word(&self) -> u32;

    /// The key of what a server at this address and port answers to this packet.
    #[must_use]
    fn reply_from(&self, server: &Address, port: u16) -> Self;

    /// The destination's address as four words, the last one for IPv4.
    fn destination_words(&self) -> [u32; 4];
}

impl ConnKey for ConnKey4 {
    const ZERO: Self = Self::zeroed();

    #[inline(always)]
    fn source(&self) -> Address {
        mapped(self.source)
    }

    #[inline(always)]
    fn destination(&self) -> Address {
        mapped(self.destination)
    }

    #[inline(always)]
    fn ports(&self) -> (u16, u16) {
        (self.source_port, self.destination_port)
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        self.protocol
    }

    #[inline(always)]
    fn filter_word(&self) -> u32 {
        pod::head::<Self, [u32; 2]>(self)[1]
    }

    #[inline(always)]
    fn reply_from(&self, server: &Address, port: u16) -> Self {
        Self {
            source: unmapped(server),
            destination: self.source,
            source_port: port,
            destination_port: self.source_port,
            protocol: self.protocol,
            pad: [0; 3],
        }
    }

    #[inline(always)]
    fn destination_words(&self) -> [u32; 4] {
        [0, 0, 0, pod::head::<Self, [u32; 2]>(self)[1]]
    }
}

impl ConnKey for ConnKey6 {
    const ZERO: Self = Self::zeroed();

    #[inline(always)]
    fn source(&self) -> Address {
        self.source
    }

    #[inline(always)]
    fn destination(&self) -> Address {
        self.destination
    }

    #[inline(always)]
    fn ports(&self) -> (u16, u16) {
        (self.source_port, self.destination_port)
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        self.protocol
    }

    #[inline(always)]
    fn filter_word(&self) -> u32 {
        hash::filter_fold(&self.destination_words())
    }

    #[inline(always)]
    fn reply_from(&self, server: &Address, port: u16) -> Self {
        Self {
            source: *server,
            destination: self.source,
            source_port: port,
            destination_port: self.source_port,
            protocol: self.protocol,
            pad: [0; 3],
        }
    }

    #[inline(always)]
    fn destination_words(&self) -> [u32; 4] {
        let words = pod::head::<Self, [u32; 8]>(self);
        [words[4], words[5], words[6], words[7]]
    }
}
