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

impl ConnKey4 {
    /// The key of a packet with these addresses (as they lie in memory), ports and protocol. Made
    /// of words: bytes would be stored one by one.
    #[inline(always)]
    pub fn new(source: u32, destination: u32, ports: [u16; 2], protocol: u8) -> Self {
        let mut key = Self::zeroed();
        *pod::head_mut::<Self, [u32; 4]>(&mut key) =
            [source, destination, in_memory(ports), u32::from_ne_bytes([protocol, 0, 0, 0])];
        key
    }
}

impl ConnKey6 {
    /// See [`ConnKey4::new`].
    #[inline(always)]
    pub fn new(source: [u32; 4], destination: [u32; 4], ports: [u16; 2], protocol: u8) -> Self {
        let [s0, s1, s2, s3] = source;
        let [d0, d1, d2, d3] = destination;
        let last = u32::from_ne_bytes([protocol, 0, 0, 0]);
        let mut key = Self::zeroed();
        *pod::head_mut::<Self, [u32; 10]>(&mut key) =
            [s0, s1, s2, s3, d0, d1, d2, d3, in_memory(ports), last];
        key
    }
}

/// Two ports in host order as the word that they are in a key.
#[inline(always)]
fn in_memory(ports: [u16; 2]) -> u32 {
    let [a, b] = ports[0].to_ne_bytes();
    let [c, d] = ports[1].to_ne_bytes();
    u32::from_ne_bytes([a, b, c, d])
}

/// An address as four words, as they lie in memory.
#[inline(always)]
fn words_of(a: &Address) -> [u32; 4] {
    [
        u32::from_ne_bytes([a[0], a[1], a[2], a[3]]),
        u32::from_ne_bytes([a[4], a[5], a[6], a[7]]),
        u32::from_ne_bytes([a[8], a[9], a[10], a[11]]),
        u32::from_ne_bytes([a[12], a[13], a[14], a[15]]),
    ]
}

/// An IPv4 address, mapped, as the two words that it is in memory.
#[inline(always)]
fn mapped_pair(address: u32) -> [u64; 2] {
    let mapped = u64::from_ne_bytes([0, 0, 0xff, 0xff, 0, 0, 0, 0]);
    // The address fills the second half of the word: the high one on a little-endian machine.
    let address = u64::from(address);
    [0, if cfg!(target_endian = "little") { mapped | address << 32 } else { mapped | address }]
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

    /// Whether both are the same key.
    fn is_same(&self, other: &Self) -> bool;

    /// Destination address, IPv4 mapped, as the two words that it is in memory.
    fn destination_pair(&self) -> [u64; 2];

    /// The same for the source.
    fn source_pair(&self) -> [u64; 2];

    /// Four bytes that stand for the destination in the address filter.
    fn filter_word(&self) -> u32;

    /// The same for the source.
    fn source_filter_word(&self) -> u32;

    /// The key of what a server at this address and port answers to this packet.
    #[must_use]
    fn reply_from(&self, server: &Address, port: u16) -> Self;

    /// The destination's address as four words, the last one for IPv4.
    fn destination_words(&self) -> [u32; 4];

    /// The same for the source.
    fn source_words(&self) -> [u32; 4];

    /// The key of a packet the other way.
    #[must_use]
    fn reversed(&self) -> Self;
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
    fn is_same(&self, other: &Self) -> bool {
        let [a, b] = [self, other].map(pod::head::<Self, [u64; 2]>);
        (a[0] ^ b[0]) | (a[1] ^ b[1]) == 0
    }

    #[inline(always)]
    fn destination_pair(&self) -> [u64; 2] {
        mapped_pair(pod::head::<Self, [u32; 2]>(self)[1])
    }

    #[inline(always)]
    fn source_pair(&self) -> [u64; 2] {
        mapped_pair(pod::head::<Self, [u32; 2]>(self)[0])
    }

    #[inline(always)]
    fn filter_word(&self) -> u32 {
        pod::head::<Self, [u32; 2]>(self)[1]
    }

    #[inline(always)]
    fn source_filter_word(&self) -> u32 {
        pod::head::<Self, [u32; 2]>(self)[0]
    }

    #[inline(always)]
    fn reply_from(&self, server: &Address, port: u16) -> Self {
        let client = pod::head::<Self, [u32; 1]>(self)[0];
        let ports = [port, self.source_port];
        Self::new(u32::from_ne_bytes(unmapped(server)), client, ports, self.protocol)
    }

    #[inline(always)]
    fn destination_words(&self) -> [u32; 4] {
        [0, 0, 0, pod::head::<Self, [u32; 2]>(self)[1]]
    }

    #[inline(always)]
    fn source_words(&self) -> [u32; 4] {
        [0, 0, 0, pod::head::<Self, [u32; 2]>(self)[0]]
    }

    #[inline(always)]
    fn reversed(&self) -> Self {
        let [source, destination, ..] = *pod::head::<Self, [u32; 4]>(self);
        let ports = [self.destination_port, self.source_port];
        Self::new(destination, source, ports, self.protocol)
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
    fn is_same(&self, other: &Self) -> bool {
        let [a, b] = [self, other].map(pod::head::<Self, [u64; 5]>);
        let first = (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]);
        first | (a[3] ^ b[3]) | (a[4] ^ b[4]) == 0
    }

    #[inline(always)]
    fn destination_pair(&self) -> [u64; 2] {
        let words = pod::head::<Self, [u64; 4]>(self);
        [words[2], words[3]]
    }

    #[inline(always)]
    fn source_pair(&self) -> [u64; 2] {
        *pod::head::<Self, [u64; 2]>(self)
    }

    #[inline(always)]
    fn filter_word(&self) -> u32 {
        hash::filter_fold(&self.destination_words())
    }

    #[inline(always)]
    fn source_filter_word(&self) -> u32 {
        hash::filter_fold(pod::head::<Self, [u32; 4]>(self))
    }

    #[inline(always)]
    fn reply_from(&self, server: &Address, port: u16) -> Self {
        let client = *pod::head::<Self, [u32; 4]>(self);
        let ports = [port, self.source_port];
        Self::new(words_of(server), client, ports, self.protocol)
    }

    #[inline(always)]
    fn destination_words(&self) -> [u32; 4] {
        let words = pod::head::<Self, [u32; 8]>(self);
        [words[4], words[5], words[6], words[7]]
    }

    #[inline(always)]
    fn source_words(&self) -> [u32; 4] {
        *pod::head::<Self, [u32; 4]>(self)
    }

    #[inline(always)]
    fn reversed(&self) -> Self {
        let ports = [self.destination_port, self.source_port];
        Self::new(self.destination_words(), self.source_words(), ports, self.protocol)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_make_the_same_keys_as_fields() {
        let v4 = ConnKey4::new(
            u32::from_ne_bytes([192, 0, 2, 1]),
            u32::from_ne_bytes([10, 0, 0, 9]),
            [40_000, 80],
            6,
        );
        let fields = ConnKey4 {
            source: [192, 0, 2, 1],
            destination: [10, 0, 0, 9],
            source_port: 40_000,
            destination_port: 80,
            protocol: 6,
            pad: [0; 3],
        };
        assert_eq!(v4, fields);
        let (a, b): ([u8; 16], [u8; 16]) =
            ([0x20; 16], [0xfd, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15]);
        let v6 = ConnKey6::new(words_of(&a), words_of(&b), [1, 2], 17);
        let fields = ConnKey6 {
            source: a,
            destination: b,
            source_port: 1,
            destination_port: 2,
            protocol: 17,
            pad: [0; 3],
        };
        assert_eq!(v6, fields);
        let in_pair = |key: &dyn Fn() -> [u64; 2]| *pod::head::<[u64; 2], Address>(&key());
        assert_eq!(in_pair(&|| v4.destination_pair()), v4.destination());
        assert_eq!(in_pair(&|| v6.destination_pair()), v6.destination());
        assert_eq!(in_pair(&|| v4.source_pair()), v4.source());
        assert_eq!(in_pair(&|| v6.source_pair()), v6.source());
        assert_eq!(v4.reply_from(&mapped([10, 1, 1, 1]), 8080).source, [10, 1, 1, 1]);
        assert_eq!(v6.reply_from(&b, 8080).source, b);
        assert_eq!(v6.reply_from(&b, 8080).ports(), (8080, 1));
        assert_eq!(v4.reversed().source, v4.destination);
        assert_eq!((v4.reversed().ports(), v4.reversed().reversed()), ((80, 40_000), v4));
        assert_eq!((v6.reversed().source, v6.reversed().destination), (b, a));
        assert_eq!((v6.reversed().ports(), v6.reversed().reversed()), ((2, 1), v6));
    }
}
