//! Keys of connections: a packet's own addresses, ports and protocol.
//!
//! Must not know: frames, states, maps.

use crate::hash::{self, TableSeed};
use crate::pod;
use crate::pod::{Address, mapped, unmapped};

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

pod! {
    /// An IPv4 address with a port.
    #[repr(align(8))]
    pub struct Endpoint4 {
        /// The address.
        pub address: [u8; 4],
        /// The port, host order.
        pub port: u16,
        /// Zero.
        pub pad: [u8; 2],
    }
}

pod! {
    /// An IPv6 address with a port.
    #[repr(align(8))]
    pub struct Endpoint6 {
        /// The address.
        pub address: Address,
        /// The port, host order.
        pub port: u16,
        /// Zero.
        pub pad: [u8; 6],
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

impl ConnKey4 {
    /// The same from both addresses as the one word that they are in an IPv4 header.
    #[inline(always)]
    pub fn of_header(addresses: u64, ports: [u16; 2], protocol: u8) -> Self {
        let [a, b, c, d] = in_memory(ports).to_ne_bytes();
        let rest = u64::from_ne_bytes([a, b, c, d, protocol, 0, 0, 0]);
        let mut key = Self::zeroed();
        *pod::head_mut::<Self, [u64; 2]>(&mut key) = [addresses, rest];
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

/// The destination port alone, from both ports' word in a key, as the word that begins with it.
#[inline(always)]
fn second_port(ports: u32) -> u32 {
    let [_, _, a, b] = ports.to_ne_bytes();
    u32::from_ne_bytes([a, b, 0, 0])
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
    /// An address with a port, as this family stores it.
    type Endpoint: pod::Pod + Eq + core::fmt::Debug;

    /// What fills an entry of this family up to whole cache lines.
    type Room: pod::Pod + Eq + core::fmt::Debug;

    /// Whether this is the IPv4 key.
    const V4: bool;

    /// The key whose bytes are all zero.
    const ZERO: Self;

    /// The endpoint whose bytes are all zero.
    const NOWHERE: Self::Endpoint;

    /// Nothing but zeros.
    const ROOM: Self::Room;

    /// The number by which a connection table places this key.
    fn table_hash(&self, seed: &TableSeed) -> u64;

    /// Destination address and port.
    fn destination_end(&self) -> Self::Endpoint;

    /// For the key of a reply: the key of the requests that are answered, which go to `end`.
    #[must_use]
    fn request_to(&self, end: &Self::Endpoint) -> Self;

    /// An endpoint's address as four words, the last one for IPv4, and its port.
    fn parts_of(end: &Self::Endpoint) -> ([u32; 4], u16);

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
    type Endpoint = Endpoint4;
    type Room = [u64; 0];

    const V4: bool = true;
    const ZERO: Self = Self::zeroed();
    const NOWHERE: Endpoint4 = Endpoint4::zeroed();
    const ROOM: [u64; 0] = [];

    #[inline(always)]
    fn table_hash(&self, seed: &TableSeed) -> u64 {
        let [addresses, rest] = *pod::head::<Self, [u64; 2]>(self);
        hash::table_last(hash::table_step(seed.add, addresses, seed.multiply), rest)
    }

    #[inline(always)]
    fn destination_end(&self) -> Endpoint4 {
        let [_, address, ports, _] = *pod::head::<Self, [u32; 4]>(self);
        let mut end = Endpoint4::zeroed();
        *pod::head_mut::<Endpoint4, [u32; 2]>(&mut end) = [address, second_port(ports)];
        end
    }

    #[inline(always)]
    fn request_to(&self, end: &Endpoint4) -> Self {
        let client = pod::head::<Self, [u32; 2]>(self)[1];
        let address = pod::head::<Endpoint4, [u32; 1]>(end)[0];
        Self::new(client, address, [self.destination_port, end.port], self.protocol)
    }

    #[inline(always)]
    fn parts_of(end: &Endpoint4) -> ([u32; 4], u16) {
        ([0, 0, 0, pod::head::<Endpoint4, [u32; 1]>(end)[0]], end.port)
    }

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
    type Endpoint = Endpoint6;
    type Room = [u64; 3];

    const V4: bool = false;
    const ZERO: Self = Self::zeroed();
    const NOWHERE: Endpoint6 = Endpoint6::zeroed();
    const ROOM: [u64; 3] = [0; 3];

    #[inline(always)]
    fn table_hash(&self, seed: &TableSeed) -> u64 {
        let [s0, s1, d0, d1, rest] = *pod::head::<Self, [u64; 5]>(self);
        let hash = hash::table_step(seed.add, s0, seed.multiply);
        let hash = hash::table_step(hash, s1, seed.multiply);
        // The destination is the operator's choice, not an attacker's.
        let hash = hash::table_step(hash, d1 ^ d0.rotate_left(19), seed.multiply);
        hash::table_last(hash, rest)
    }

    #[inline(always)]
    fn destination_end(&self) -> Endpoint6 {
        let words = *pod::head::<Self, [u64; 5]>(self);
        let ports = pod::head::<Self, [u32; 9]>(self)[8];
        let mut end = Endpoint6::zeroed();
        *pod::head_mut::<Endpoint6, [u64; 2]>(&mut end) = [words[2], words[3]];
        pod::head_mut::<Endpoint6, [u32; 5]>(&mut end)[4] = second_port(ports);
        end
    }

    #[inline(always)]
    fn request_to(&self, end: &Endpoint6) -> Self {
        let client = self.destination_words();
        let address = *pod::head::<Endpoint6, [u32; 4]>(end);
        Self::new(client, address, [self.destination_port, end.port], self.protocol)
    }

    #[inline(always)]
    fn parts_of(end: &Endpoint6) -> ([u32; 4], u16) {
        (*pod::head::<Endpoint6, [u32; 4]>(end), end.port)
    }

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
        let addresses = u64::from_ne_bytes([192, 0, 2, 1, 10, 0, 0, 9]);
        assert_eq!(ConnKey4::of_header(addresses, [40_000, 80], 6), fields);
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
        let (end4, end6) = (v4.destination_end(), v6.destination_end());
        assert_eq!(end4, Endpoint4 { address: [10, 0, 0, 9], port: 80, pad: [0; 2] });
        assert_eq!(end6, Endpoint6 { address: b, port: 2, pad: [0; 6] });
        assert_eq!(v4.reply_from(&mapped([10, 1, 1, 1]), 8080).request_to(&end4), v4);
        assert_eq!(v6.reply_from(&a, 8080).request_to(&end6), v6);
        assert_eq!(ConnKey4::parts_of(&end4), (v4.destination_words(), 80));
        assert_eq!(ConnKey6::parts_of(&end6), (v6.destination_words(), 2));
    }
}
