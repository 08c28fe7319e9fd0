//! Tests of the edits, on slices: what an increment gives is what a full sum gives.
//!
//! Must not know: maps.

use super::*;
use crate::csum;
use crate::wire::UDP;
use proptest::prelude::*;

/// Where the IP header begins, so that offsets are not all zero: an Ethernet header and a tag.
const L3: usize = 18;

/// A packet behind a head of zeros, with right checksums.
#[derive(Clone, Debug)]
struct Sample {
    bytes: Vec<u8>,
    v6: bool,
    l4: usize,
    protocol: u8,
}

impl Sample {
    fn new(v6: bool, options: usize, protocol: u8, random: &[u8], payload: &[u8]) -> Self {
        let header = if v6 { 40 } else { 20 + options * 4 };
        let l4_length = if protocol == TCP { 20 } else { 8 } + payload.len();
        let mut bytes = vec![0; L3 + header];
        bytes[L3..].iter_mut().zip(random.iter().cycle()).for_each(|(to, from)| *to = *from);
        let l4 = L3 + header;
        if v6 {
            bytes[L3] = 0x60;
            bytes[L3 + 4..L3 + 6].copy_from_slice(&(l4_length as u16).to_be_bytes());
            (bytes[L3 + 6], bytes[L3 + 7]) = (protocol, 64);
        } else {
            bytes[L3] = 0x45 + options as u8;
            bytes[L3 + 2..L3 + 4].copy_from_slice(&((header + l4_length) as u16).to_be_bytes());
            (bytes[L3 + 8], bytes[L3 + 9]) = (64, protocol);
        }
        bytes.resize(l4 + l4_length - payload.len(), 0);
        bytes[l4..].iter_mut().zip(random.iter().rev().cycle()).for_each(|(to, from)| *to = *from);
        bytes.extend(payload);
        let mut sample = Self { bytes, v6, l4, protocol };
        sample.sum();
        sample
    }

    /// Where the transport checksum is.
    fn checksum_at(&self) -> usize {
        self.l4 + if self.protocol == TCP { 16 } else { 6 }
    }

    /// Sums everything anew.
    fn sum(&mut self) {
        if !self.v6 {
            self.put(L3 + 10, 0);
            self.put(L3 + 10, csum::full(&self.bytes[L3..self.l4], 0));
        }
        let at = self.checksum_at();
        self.put(at, 0);
        let addresses = if self.v6 { L3 + 8..L3 + 40 } else { L3 + 12..L3 + 20 };
        let length = (self.bytes.len() - self.l4) as u32;
        let mut pseudo = self.bytes[addresses].to_vec();
        pseudo.extend(length.to_be_bytes());
        pseudo.extend([0, 0, 0, self.protocol]);
        pseudo.extend(&self.bytes[self.l4..]);
        let sum = csum::full(&pseudo, 0);
        self.put(at, if self.protocol == UDP && sum == 0 { 0xffff } else { sum });
    }

    /// A sum as it lies in memory.
    fn put(&mut self, at: usize, sum: u16) {
        self.bytes[at..at + 2].copy_from_slice(&sum.to_ne_bytes());
    }

    /// One end, as bytes of its address and its port.
    fn end(&self, end: End) -> (usize, usize) {
        match (end, self.v6) {
            (End::Source, false) => (L3 + 12, self.l4),
            (End::Destination, false) => (L3 + 16, self.l4 + 2),
            (End::Source, true) => (L3 + 8, self.l4),
            (End::Destination, true) => (L3 + 24, self.l4 + 2),
        }
    }

    fn nat(&mut self, end: End, address: [u32; 4], port: u16) -> Result<(), Unfit> {
        let place = (L3, self.l4, self.protocol);
        if self.v6 {
            nat6(&mut self.bytes[..], place, end, &address, port)
        } else {
            nat4(&mut self.bytes[..], place, end, address[0], port)
        }
    }

    /// The same by hand: bytes are written, and everything is summed anew.
    fn nat_by_hand(&mut self, end: End, address: [u32; 4], port: u16) {
        let (address_at, port_at) = self.end(end);
        let width = if self.v6 { 16 } else { 4 };
        let bytes: Vec<u8> = address.iter().flat_map(|word| word.to_ne_bytes()).collect();
        self.bytes[address_at..address_at + width].copy_from_slice(&bytes[..width]);
        self.bytes[port_at..port_at + 2].copy_from_slice(&port.to_be_bytes());
        self.bytes[L3 + if self.v6 { 7 } else { 8 }] -= 1;
        self.sum();
    }
}

fn samples() -> impl Strategy<Value = Sample> {
    let random = proptest::collection::vec(any::<u8>(), 16..64);
    let payload = proptest::collection::vec(any::<u8>(), 0..40);
    let protocol = prop_oneof![Just(TCP), Just(UDP)];
    (any::<bool>(), 0usize..=10, protocol, random, payload)
        .prop_map(|(v6, options, protocol, r, p)| Sample::new(v6, options, protocol, &r, &p))
}

fn ends() -> impl Strategy<Value = End> {
    prop_oneof![Just(End::Source), Just(End::Destination)]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(10_000))]

    #[test]
    fn nat_leaves_what_a_full_sum_gives(sample in samples(), end in ends(),
                                        address in any::<[u32; 4]>(), port in any::<u16>()) {
        let (mut found, mut expected) = (sample.clone(), sample);
        prop_assert_eq!(found.nat(end, address, port), Ok(()));
        expected.nat_by_hand(end, address, port);
        prop_assert_eq!(found.bytes, expected.bytes);
    }

    #[test]
    fn there_and_back_is_the_same_but_for_the_time_to_live(
        sample in samples(), end in ends(), address in any::<[u32; 4]>(), port in any::<u16>(),
    ) {
        let (address_at, port_at) = sample.end(end);
        let word = |n: usize| {
            u32::from_ne_bytes(sample.bytes[address_at + n..][..4].try_into().expect("four"))
        };
        let old = if sample.v6 { [word(0), word(4), word(8), word(12)] } else { [word(0); 4] };
        let old_port = u16::from_be_bytes([sample.bytes[port_at], sample.bytes[port_at + 1]]);
        let mut there = sample.clone();
        prop_assert_eq!(there.nat(end, address, port), Ok(()));
        prop_assert_eq!(there.nat(end, old, old_port), Ok(()));
        let mut expected = sample;
        expected.bytes[L3 + if expected.v6 { 7 } else { 8 }] -= 2;
        expected.sum();
        prop_assert_eq!(there.bytes, expected.bytes);
    }

    #[test]
    fn a_checksum_that_was_wrong_stays_wrong(sample in samples(), end in ends(),
                                            address in any::<[u32; 4]>(), port in any::<u16>(),
                                            fault in 1u16..0xffff) {
        let mut found = sample.clone();
        let at = found.checksum_at();
        let old = u16::from_ne_bytes([found.bytes[at], found.bytes[at + 1]]);
        let wrong = old.wrapping_add(fault);
        // Both zeros are the same number, and a zero means none to UDP.
        prop_assume!(wrong != 0 && wrong != 0xffff && old != 0xffff && old != 0);
        found.put(at, wrong);
        prop_assert_eq!(found.nat(end, address, port), Ok(()));
        let mut right = sample;
        right.nat_by_hand(end, address, port);
        prop_assert_ne!(&found.bytes[at..at + 2], &right.bytes[at..at + 2]);
    }

    #[test]
    fn aging_leaves_what_a_full_sum_gives(sample in samples(), ttl in any::<u8>()) {
        let at = L3 + if sample.v6 { 7 } else { 8 };
        let mut before = sample;
        before.bytes[at] = ttl;
        before.sum();
        let mut found = before.clone();
        let result = if found.v6 {
            age6(&mut found.bytes[..], L3)
        } else {
            age4(&mut found.bytes[..], L3)
        };
        if ttl <= 1 {
            prop_assert_eq!(result, Err(Unfit::TtlExceeded));
            prop_assert_eq!(found.bytes, before.bytes);
        } else {
            prop_assert_eq!(result, Ok(()));
            before.bytes[at] -= 1;
            before.sum();
            prop_assert_eq!(found.bytes, before.bytes);
        }
    }

    #[test]
    fn a_frame_that_ends_too_early_is_short(sample in samples(), end in ends(),
                                           cut in any::<prop::sample::Index>()) {
        let needed = sample.checksum_at() + 2;
        let mut short = sample;
        short.bytes.truncate(cut.index(needed));
        prop_assert_eq!(short.nat(end, [1; 4], 1), Err(Unfit::Short));
    }
}

#[test]
fn udp_without_a_checksum_gets_none() {
    for v6 in [false, true] {
        let mut sample = Sample::new(v6, 0, UDP, &[7; 16], b"data");
        let at = sample.checksum_at();
        sample.put(at, 0);
        assert_eq!(sample.nat(End::Destination, [9; 4], 53), Ok(()));
        assert_eq!(sample.bytes[at..at + 2], [0, 0]);
    }
}

#[test]
fn a_udp_sum_that_becomes_zero_is_sent_as_all_ones() {
    for v6 in [false, true] {
        for port in 0..=0xffff {
            let mut sample = Sample::new(v6, 0, UDP, &[7, 1, 2, 3, 9], &[]);
            let at = sample.checksum_at();
            assert_eq!(sample.nat(End::Destination, [9; 4], port), Ok(()));
            assert_ne!(sample.bytes[at..at + 2], [0, 0], "port {port}");
        }
    }
}

#[test]
fn a_later_fragment_keeps_what_lies_where_a_transport_header_would_be() {
    for v6 in [false, true] {
        for protocol in [TCP, UDP] {
            for end in [End::Source, End::Destination] {
                let mut whole = Sample::new(v6, 0, protocol, &[3, 1, 4, 1, 5, 9, 2], b"payload");
                let mut later = whole.clone();
                let address = [0xdead_beef; 4];
                whole.nat(end, address, 4711).expect("it fits");
                let (l3_offset, l4_offset) = (L3 as u32, later.l4 as u32);
                let frame = &mut Frame(&mut later.bytes);
                let part = Part::Later;
                let nat = Some((end, address, 4711));
                if v6 {
                    let mut key = ConnKey6::ZERO;
                    key.protocol = protocol;
                    let packet = Packet { key, part, l3_offset, l4_offset, ..Packet::empty() };
                    ConnKey6::edit(frame, &packet, nat).expect("it fits");
                } else {
                    let mut key = ConnKey4::ZERO;
                    key.protocol = protocol;
                    let packet = Packet { key, part, l3_offset, l4_offset, ..Packet::empty() };
                    ConnKey4::edit(frame, &packet, nat).expect("it fits");
                }
                let before = Sample::new(v6, 0, protocol, &[3, 1, 4, 1, 5, 9, 2], b"payload");
                assert_eq!(later.bytes[..later.l4], whole.bytes[..whole.l4], "the IP header");
                assert_eq!(later.bytes[later.l4..], before.bytes[before.l4..], "what follows");
            }
        }
    }
}

/// A frame whose length is known, as `Edit` wants it.
struct Frame<'a>(&'a mut Vec<u8>);

impl Buf for Frame<'_> {
    fn load<T: crate::pod::Pod>(&self, offset: usize) -> Option<T> {
        self.0[..].load(offset)
    }

    fn store<T: crate::pod::Pod>(&mut self, offset: usize, value: T) -> Option<()> {
        self.0[..].store(offset, value)
    }
}

#[test]
fn macs_are_written_where_they_belong() {
    let mut frame = [0u8; 14];
    assert_eq!(set_macs(&mut frame[..], [1u32.to_be(), 2u32.to_be(), 3u32.to_be()]), Ok(()));
    assert_eq!(frame, [0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0]);
    assert_eq!(set_macs(&mut frame[..11], [0; 3]), Err(Unfit::Short));
}
