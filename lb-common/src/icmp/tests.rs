//! ICMP errors over slices: what is read, and that increments give what full sums give.
//!
//! Must not know: connections.

use super::*;
use crate::wire::{Parsed, Tags, parse};
use proptest::prelude::*;

/// Where the IP header of samples begins.
const L3: usize = 14;

/// An error and what it quotes, from addresses, ports and bytes; every sum computed anew.
#[derive(Clone, Debug)]
struct Sample {
    v6: bool,
    /// Outer source and destination, quoted source and destination.
    addresses: [[u8; 16]; 4],
    ports: [u16; 2],
    protocol: u8,
    kind: [u8; 2],
    rest: u32,
    /// Options of the quoted header, in words (IPv4), or extension headers (IPv6).
    options: usize,
    /// What is quoted beyond the ports.
    payload: Vec<u8>,
    /// Whether the quoted UDP sender computed a sum.
    summed: bool,
}

impl Sample {
    fn new(v6: bool, protocol: u8, quoted: usize) -> Self {
        let address = |n: u8| {
            let mut a = [n; 16];
            a[0] = 10 + n;
            a
        };
        Self {
            v6,
            addresses: [address(1), address(2), address(2), address(3)],
            ports: [80, 40_001],
            protocol,
            kind: if v6 { [2, 0] } else { [3, 4] },
            rest: 1400,
            options: 0,
            payload: (0..quoted as u8).collect(),
            summed: true,
        }
    }

    fn address(&self, n: usize) -> &[u8] {
        &self.addresses[n][..if self.v6 { 16 } else { 4 }]
    }

    /// The whole quoted packet as its sender sent it, 64 bytes of payload, sums right.
    fn original(&self) -> Vec<u8> {
        let mut l4 = [self.ports[0].to_be_bytes(), self.ports[1].to_be_bytes()].concat();
        l4.extend(&self.payload);
        l4.resize(84, 0x5a);
        let at = if self.protocol == TCP { 16 } else { 6 };
        l4[at..at + 2].fill(0);
        if self.protocol == TCP || self.summed {
            let pseudo = [
                self.address(2),
                self.address(3),
                &84u32.to_be_bytes(),
                &[0, 0, 0, self.protocol],
                &l4,
            ]
            .concat();
            let sum = csum::full(&pseudo, 0);
            let sum = if self.protocol == UDP && sum == 0 { 0xffff } else { sum };
            l4[at..at + 2].copy_from_slice(&sum.to_ne_bytes());
        }
        [self.ip(&[self.address(2), self.address(3)], self.protocol, 84, self.options), l4].concat()
    }

    fn ip(&self, ends: &[&[u8]], protocol: u8, length: usize, options: usize) -> Vec<u8> {
        let mut ip = if self.v6 {
            let next = if options == 0 { protocol } else { 60 };
            let length = ((length + options * 8) as u16).to_be_bytes();
            vec![0x60, 0, 0, 0, length[0], length[1], next, 63]
        } else {
            let length = ((length + 20 + options * 4) as u16).to_be_bytes();
            let first = 0x45 + options as u8;
            vec![first, 0, length[0], length[1], 7, 7, 0x40, 0, 63, protocol, 0, 0]
        };
        ip.extend(ends.concat());
        if self.v6 {
            for n in 0..options {
                let next = if n + 1 == options { protocol } else { 60 };
                ip.extend([next, 0, 1, 4, 0, 0, 0, 0]);
            }
        } else {
            ip.resize(20 + options * 4, 1);
            let sum = csum::full(&ip, 0).to_ne_bytes();
            ip[10..12].copy_from_slice(&sum);
        }
        ip
    }

    /// The frame; of the original as much as its header, the ports and `payload`.
    fn frame(&self) -> Vec<u8> {
        let mut original = self.original();
        original.truncate(original.len() - 80 + self.payload.len().max(4));
        self.around(original)
    }

    fn around(&self, quote: Vec<u8>) -> Vec<u8> {
        let mut icmp = vec![self.kind[0], self.kind[1], 0, 0];
        icmp.extend(self.rest.to_be_bytes());
        icmp.extend(quote);
        let mut summed = Vec::new();
        if self.v6 {
            summed.extend([self.address(0), self.address(1)].concat());
            summed.extend((icmp.len() as u32).to_be_bytes());
            summed.extend([0, 0, 0, ICMP6]);
        }
        summed.extend(&icmp);
        let sum = csum::full(&summed, 0).to_ne_bytes();
        icmp[2..4].copy_from_slice(&sum);
        let protocol = if self.v6 { ICMP6 } else { ICMP };
        let mut frame = vec![0; 12];
        frame.extend(if self.v6 { [0x86, 0xdd] } else { [8, 0] });
        frame.extend(self.ip(&[self.address(0), self.address(1)], protocol, icmp.len(), 0));
        frame.extend(icmp);
        frame
    }

    /// Translated the slow way: described anew.
    fn translated(&self, end: End, to: ([u8; 16], u16)) -> Vec<u8> {
        let (outer, quoted, port) = match end {
            End::Source => (0, 3, 1),
            End::Destination => (1, 2, 0),
        };
        let mut other = self.clone();
        (other.addresses[outer], other.addresses[quoted]) = (to.0, to.0);
        other.ports[port] = to.1;
        let mut frame = other.frame();
        // Aged, with the outer sum anew.
        if self.v6 {
            frame[L3 + 7] -= 1;
        } else {
            frame[L3 + 8] -= 1;
            frame[L3 + 10..L3 + 12].fill(0);
            let sum = csum::full(&frame[L3..L3 + 20], 0).to_ne_bytes();
            frame[L3 + 10..L3 + 12].copy_from_slice(&sum);
        }
        frame
    }
}

fn words(a: &[u8; 16], v6: bool) -> [u32; 4] {
    let all: [u32; 4] = crate::pod::from_bytes(a).expect("16 bytes");
    if v6 { all } else { [0, 0, 0, all[0]] }
}

/// Reads, translates and compares; gives the key of what was quoted.
fn translate<K: Icmp>(
    sample: &Sample,
    packet: &Packet<K>,
    end: End,
    to: ([u8; 16], u16),
) -> Quoted<K> {
    let mut frame = sample.frame();
    let quoted = K::quoted(&frame[..], packet).expect("a quoted packet");
    let words = (words(&to.0, sample.v6), to.1);
    K::translate(&mut frame[..], packet, &quoted, end, words).expect("it fits");
    assert_eq!(frame, sample.translated(end, to), "{sample:?} {end:?}");
    quoted
}

#[test]
fn a_sample_is_read_and_translated() {
    for (protocol, payload) in [(TCP, 4), (TCP, 16), (TCP, 60), (UDP, 4), (UDP, 30)] {
        for end in [End::Source, End::Destination] {
            let v4 = Sample::new(false, protocol, payload);
            let Parsed::Icmp4(packet) = parse(&v4.frame()[..]) else { panic!("{v4:?}") };
            let quoted = translate(&v4, &packet, end, ([99; 16], 8080));
            assert_eq!(quoted.key.ports(), (80, 40_001));
            assert_eq!(quoted.key.source_words(), packet.key.destination_words());
            assert_eq!(ConnKey4::path_mtu(&v4.frame()[..], &packet), Some(1400));
            let v6 = Sample::new(true, protocol, payload);
            let Parsed::Icmp6(packet) = parse(&v6.frame()[..]) else { panic!("{v6:?}") };
            let quoted = translate(&v6, &packet, end, ([99; 16], 8080));
            assert_eq!(quoted.key.ports(), (80, 40_001));
            assert_eq!(ConnKey6::path_mtu(&v6.frame()[..], &packet), Some(1400));
        }
    }
}

#[test]
fn only_errors_are_read() {
    for (v6, errors) in [(false, &[3, 11, 12][..]), (true, &[1, 2, 3, 4])] {
        for kind in 0..=255 {
            let sample = Sample { kind: [kind, 0], ..Sample::new(v6, TCP, 4) };
            let is_error = !matches!(parse(&sample.frame()[..]), Parsed::Other);
            assert_eq!(is_error, errors.contains(&kind), "type {kind}");
        }
    }
}

#[test]
fn a_tunnels_packet_is_known_by_its_protocol() {
    for (v6, protocol) in [(false, IPIP), (false, IPV6), (true, IPIP), (true, IPV6)] {
        let sample = Sample::new(v6, protocol, 4);
        let (is_tunnel, ports) = match parse(&sample.frame()[..]) {
            Parsed::Icmp4(packet) => {
                let quoted = ConnKey4::quoted(&sample.frame()[..], &packet).expect("quoted");
                (quoted.is_tunnel(), quoted.key.ports())
            }
            Parsed::Icmp6(packet) => {
                let quoted = ConnKey6::quoted(&sample.frame()[..], &packet).expect("quoted");
                (quoted.is_tunnel(), quoted.key.ports())
            }
            other => panic!("{other:?}"),
        };
        assert!(is_tunnel && ports == (0, 0));
    }
}

#[test]
fn later_fragments_and_other_protocols_are_not_followed() {
    for (at, value) in [(L3 + 28 + 6, 0x01), (L3 + 28 + 9, ICMP), (L3 + 28, 0x65), (L3 + 28, 0x44)]
    {
        let mut frame = Sample::new(false, TCP, 4).frame();
        frame[at] = value;
        let Parsed::Icmp4(packet) = parse(&frame[..]) else { panic!("at {at}") };
        assert_eq!(ConnKey4::quoted(&frame[..], &packet), None, "{value:#x} at {at}");
    }
    // A later fragment; a first one has ports and is followed.
    for (offset, followed) in [(1u16, true), (8, false)] {
        let sample = Sample { protocol: 44, ..Sample::new(true, TCP, 4) };
        let mut quote = sample.ip(&[sample.address(2), sample.address(3)], 44, 92, 0);
        quote.extend([TCP, 0, 0, offset as u8, 0, 0, 0, 1]);
        quote.extend([0, 80, 0x9c, 0x41, 0, 0, 0, 0]);
        let frame = sample.around(quote);
        let Parsed::Icmp6(packet) = parse(&frame[..]) else { panic!("{offset}") };
        assert_eq!(ConnKey6::quoted(&frame[..], &packet).is_some(), followed);
    }
}

#[test]
fn too_big_is_told_to_single_hosts_about_whole_packets_only() {
    let ask = |change: &dyn Fn(&mut Packet<ConnKey4>, &mut Vec<u8>)| {
        let mut frame = vec![0u8; 60];
        frame[L3 + 6] = 0x40;
        let key = ConnKey4 { source: [192, 0, 2, 1], protocol: TCP, ..ConnKey4::zeroed() };
        let mut packet = Packet { key, l3_offset: 14, bytes: 1500, ..Packet::empty() };
        change(&mut packet, &mut frame);
        ConnKey4::too_big(&frame[..], &packet, 1400)
    };
    assert_eq!(ask(&|_, _| {}), TooBig::Tell(1400));
    assert_eq!(ask(&|_, f| f[L3 + 6] = 0), TooBig::Split(1400));
    assert_eq!(ask(&|_, f| f[L3 + 6] = 0x20), TooBig::Split(1400), "a first fragment");
    assert_eq!(ask(&|_, f| f[L3 + 6] = 0x60), TooBig::Tell(1400), "a first fragment");
    assert_eq!(ask(&|_, f| f[L3 + 7] = 1), TooBig::Silent, "a later one");
    // Split all the same, but nobody is told where that cannot be.
    assert_eq!(ask(&|_, f| (f[L3 + 6], f[L3 + 7]) = (0x20, 1)), TooBig::Split(0));
    for flags in [0x40, 0] {
        let icmp = ask(&|p, f| (p.key.protocol, f[L3 + 6]) = (ICMP, flags));
        assert_eq!(icmp, TooBig::Silent, "{flags:#x}");
    }
    for source in [[0, 0, 0, 0], [127, 0, 0, 1], [224, 0, 0, 1], [255; 4]] {
        assert_eq!(ask(&|p, _| p.key.source = source), TooBig::Silent, "{source:?}");
    }
    let ask6 = |bytes: u32, mtu: u32, source: [u8; 16], protocol: u8| {
        let key = ConnKey6 { source, protocol, ..ConnKey6::zeroed() };
        let packet = Packet { key, bytes, ..Packet::empty() };
        ConnKey6::too_big(&[][..] as &[u8], &packet, mtu)
    };
    assert_eq!(ask6(1500, 1400, [0x20; 16], TCP), TooBig::Tell(1400));
    assert_eq!(ask6(1281, 1240, [0x20; 16], TCP), TooBig::Tell(1280));
    assert_eq!(ask6(1280, 1240, [0x20; 16], TCP), TooBig::Stuck);
    assert_eq!(ask6(1500, 1400, [0; 16], TCP), TooBig::Silent);
    assert_eq!(ask6(1500, 1400, [0xff; 16], TCP), TooBig::Silent);
    assert_eq!(ask6(1500, 1400, [0x20; 16], ICMP6), TooBig::Silent);
}

#[test]
fn too_big_has_these_bytes_and_right_sums() {
    for quote in ConnKey4::QUOTES {
        let [source, destination] = [[192, 0, 2, 1], [203, 0, 113, 9]].map(u32::from_ne_bytes);
        let key = ConnKey4::new(source, destination, [1, 2], TCP);
        let payload: Vec<u8> = (0..quote).map(|n| (n * 7) as u8).collect();
        let mut buf = [vec![0xee; 28], payload.clone()].concat();
        ConnKey4::tell(&mut buf[..], 0, &key, 1480, quote).expect("room");
        let length = (28 + quote as u16).to_be_bytes();
        assert_eq!(buf[..10], [0x45, 0xc0, length[0], length[1], 0, 0, 0x40, 0, 64, 1]);
        assert_eq!(buf[12..20], [203, 0, 113, 9, 192, 0, 2, 1]);
        assert_eq!((buf[20], buf[21], &buf[24..28]), (3, 4, &[0, 0, 0x05, 0xc8][..]));
        assert_eq!((csum::full(&buf[..20], 0), csum::full(&buf[20..], 0)), (0, 0));
        assert_eq!(buf[28..], payload);
        assert!(ConnKey4::tell(&mut buf[..27 + quote], 0, &key, 1480, quote).is_none());
    }
    for quote in ConnKey6::QUOTES {
        let key = ConnKey6 { source: [0x20; 16], destination: [0xfd; 16], ..ConnKey6::zeroed() };
        let payload: Vec<u8> = (0..quote).map(|n| (n * 7) as u8).collect();
        let mut buf = [vec![0xee; 48], payload.clone()].concat();
        ConnKey6::tell(&mut buf[..], 0, &key, 1480, quote).expect("room");
        let length = (8 + quote as u16).to_be_bytes();
        assert_eq!(buf[..8], [0x6c, 0, 0, 0, length[0], length[1], 58, 64]);
        assert_eq!((&buf[8..24], &buf[24..40]), (&[0xfd; 16][..], &[0x20; 16][..]));
        assert_eq!((buf[40], buf[41], &buf[44..48]), (2, 0, &[0, 0, 0x05, 0xc8][..]));
        let pseudo = [&buf[8..40], &[0, 0][..], &length, &[0, 0, 0, 58], &buf[40..]].concat();
        assert_eq!(csum::full(&pseudo, 0), 0);
        assert_eq!(buf[48..], payload);
    }
}

fn any_sample() -> impl Strategy<Value = Sample> {
    (
        (any::<bool>(), prop::sample::select(vec![TCP, UDP]), any::<[[u8; 16]; 3]>()),
        (any::<[u16; 2]>(), any::<u32>(), 0usize..3),
        (prop::collection::vec(any::<u8>(), 4..80), any::<bool>()),
    )
        .prop_map(|((v6, protocol, a), (ports, rest, options), (payload, summed))| {
            let addresses = [a[0], a[1], a[1], a[2]];
            // Half a checksum cannot be mended; it stays as it was sent.
            let payload = payload[..payload.len() & !1].to_vec();
            let sample = Sample::new(v6, protocol, 4);
            // A quoted UDP length that is odd or absent makes no difference.
            Sample { addresses, ports, rest, options, payload, summed, ..sample }
        })
}

proptest! {
    #[test]
    fn translation_gives_what_full_sums_give(sample in any_sample(), to: ([u8; 16], u16),
                                             source: bool) {
        let end = if source { End::Source } else { End::Destination };
        match parse(&sample.frame()[..]) {
            Parsed::Icmp4(packet) => { translate(&sample, &packet, end, to); }
            Parsed::Icmp6(packet) => { translate(&sample, &packet, end, to); }
            other => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn broken_messages_do_no_harm(sample in any_sample(), at in 0usize..200, value: u8,
                                  cut in 0usize..200, to: ([u32; 4], u16)) {
        let mut frame = sample.frame();
        frame.truncate(cut.max(34));
        let length = frame.len();
        frame[at % length] = value;
        let tags = Tags::NONE;
        match parse(&frame[..]) {
            Parsed::Icmp4(packet) => {
                prop_assert_eq!(packet.tags, tags);
                ConnKey4::path_mtu(&frame[..], &packet);
                if let Some(quoted) = ConnKey4::quoted(&frame[..], &packet) {
                    let _unfit = ConnKey4::translate(&mut frame[..], &packet, &quoted, End::Source, to);
                }
            }
            Parsed::Icmp6(packet) => {
                ConnKey6::path_mtu(&frame[..], &packet);
                if let Some(quoted) = ConnKey6::quoted(&frame[..], &packet) {
                    let _unfit = ConnKey6::translate(&mut frame[..], &packet, &quoted, End::Source, to);
                }
            }
            _ => {}
        }
    }
}
