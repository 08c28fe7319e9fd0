//! Frames by hand, read and decided on: what a packet is, where its parts lie, whose answer it is.
//!
//! Must not know: how a packet is changed.

use super::*;
use crate::wire::Buf;

/// A slice as a frame.
struct Bytes(Vec<u8>);

impl Buf for Bytes {
    fn load<T: pod::Pod>(&self, offset: usize) -> Option<T> {
        self.0.get(offset..).and_then(pod::from_bytes)
    }

    fn store<T: pod::Pod>(&mut self, offset: usize, value: T) -> Option<()> {
        let bytes = pod::bytes_of(&value);
        self.0.get_mut(offset..offset + bytes.len())?.copy_from_slice(bytes);
        Some(())
    }
}

const A4: [u8; 4] = [10, 0, 0, 1];
const B4: [u8; 4] = [192, 0, 2, 1];

fn words4(a: [u8; 4]) -> Words {
    mapped_words(u32::from_ne_bytes(a))
}

fn v6(last: u8) -> [u8; 16] {
    [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last]
}

fn words6(last: u8) -> Words {
    pod::from_bytes(&v6(last)).expect("16 bytes")
}

/// An IPv4 packet from A4 to B4, port 1000 to 80, with `options` bytes of options.
fn packet4(protocol: u8, fragment: u16, options: usize) -> Vec<u8> {
    let words = (20 + options) / 4;
    let mut out = vec![0x40 | words as u8, 0xb9, 0, (20 + options + 20) as u8, 0, 1];
    out.extend(fragment.to_be_bytes());
    out.extend([64, protocol, 0, 0]);
    out.extend(A4);
    out.extend(B4);
    out.extend(vec![1; options]);
    out.extend([0x03, 0xe8, 0, 80]);
    out.extend([0; 16]);
    out
}

/// An IPv6 packet from ::1 to ::2, port 1000 to 80.
fn packet6(next: u8) -> Vec<u8> {
    let mut out = vec![0x6b, 0x90, 0, 0, 0, 20, next, 64];
    out.extend(v6(1));
    out.extend(v6(2));
    out.extend([0x03, 0xe8, 0, 80]);
    out.extend([0; 16]);
    out
}

fn frame(ethertype: u16, packet: &[u8]) -> Bytes {
    Bytes([&[0; 12][..], &ethertype.to_be_bytes(), packet].concat())
}

#[test]
fn a_packet_is_read_with_the_places_of_its_parts() {
    for options in [0, 4, 40] {
        let seen = read(&frame(0x0800, &packet4(TCP, 0x4000, options))).expect("a packet");
        assert_eq!((seen.source, seen.destination), (words4(A4), words4(B4)));
        assert_eq!(seen.ports, [1000u16.to_be(), 80u16.to_be()]);
        assert_eq!((seen.l3, seen.l4, seen.class), (14, 34 + options, 0xb9));
        assert_eq!((seen.source_at(), seen.destination_at()), (26, 30));
        assert_eq!(seen.checksum_at(), 34 + options + 16);
        assert_eq!(usize::from(seen.bytes), 40 + options);
    }
    let seen = read(&frame(0x86dd, &packet6(UDP))).expect("a packet");
    assert_eq!((seen.source, seen.destination), (words6(1), words6(2)));
    assert_eq!((seen.l4, seen.class, seen.bytes), (54, 0xb9, 60));
    assert_eq!((seen.source_at(), seen.destination_at(), seen.checksum_at()), (22, 38, 60));
}

#[test]
fn what_is_no_whole_packet_is_not_read() {
    let mut short = packet4(TCP, 0, 0);
    short.truncate(22);
    let not = [
        (0x0800, packet4(TCP, 0x2000, 0)),
        (0x0800, packet4(TCP, 0x0001, 0)),
        (0x0800, packet4(TCP, 0x1f00, 0)),
        (0x0800, packet4(ICMP, 0, 0)),
        (0x0800, packet6(TCP)),
        (0x0800, short),
        (0x0800, vec![0x44; 60]),
        (0x86dd, packet4(TCP, 0, 0)),
        (0x86dd, packet6(44)),
        (0x86dd, packet6(ICMP6)),
        (0x8100, packet4(TCP, 0, 0)),
        (0x0806, packet4(TCP, 0, 0)),
    ];
    for (ethertype, packet) in not {
        assert_eq!(read(&frame(ethertype, &packet)), None, "{ethertype:x} {packet:x?}");
    }
}

#[test]
fn an_answer_is_known_by_what_was_asked() {
    let asked = read(&frame(0x0800, &packet4(UDP, 0, 0))).expect("a packet");
    let vip = words4([203, 0, 113, 5]);
    let mut answer = Seen { source: vip, destination: asked.source, ..asked };
    answer.ports = [asked.ports[1], asked.ports[0]];
    assert_eq!(asked.asking(vip), answer.answering());
    for wrong in [
        Seen { protocol: TCP, ..answer },
        Seen { ports: asked.ports, ..answer },
        Seen { source: asked.destination, ..answer },
        Seen { destination: vip, ..answer },
    ] {
        assert_ne!(asked.asking(vip), wrong.answering());
    }
}

#[test]
fn errors_are_read_with_what_they_quote() {
    let error4 = |kind: u8, quoted: Vec<u8>| {
        let mut packet = packet4(ICMP, 0, 0);
        packet.truncate(20);
        packet.extend([kind, 3, 0, 0, 0, 0, 0, 0]);
        packet.extend(quoted);
        frame(0x0800, &packet)
    };
    let error = read_error(&error4(3, packet4(UDP, 0x4000, 0))).expect("an error");
    assert_eq!((error.source, error.l3, error.icmp), (words4(A4), 14, 34));
    assert_eq!((error.quoted.l3, error.quoted.l4), (42, 62));
    assert_eq!(error.quoted.destination, words4(B4));
    // Eight bytes of what was quoted are enough (RFC 792).
    let mut least = packet4(UDP, 0, 0);
    least.truncate(28);
    assert!(read_error(&error4(11, least)).is_some());
    for kind in [0, 5, 8, 13] {
        assert_eq!(read_error(&error4(kind, packet4(UDP, 0, 0))), None, "type {kind}");
    }
    assert_eq!(read_error(&error4(3, packet4(ICMP, 0, 0))), None);

    let error6 = |kind: u8| {
        let mut packet = packet6(ICMP6);
        packet.truncate(40);
        packet.extend([kind, 4, 0, 0, 0, 0, 0, 0]);
        packet.extend(packet6(TCP));
        frame(0x86dd, &packet)
    };
    let error = read_error(&error6(1)).expect("an error");
    assert_eq!((error.icmp, error.quoted.l3, error.quoted.l4), (54, 62, 102));
    for kind in [0, 5, 128, 134] {
        assert_eq!(read_error(&error6(kind)), None, "type {kind}");
    }
}

#[test]
fn a_marked_packet_goes_only_to_the_server_of_its_way() {
    let seen = read(&frame(0x0800, &packet4(TCP, 0, 0))).expect("a packet");
    let way = Way { vip: words4([203, 0, 113, 5]), server: words4(B4), tunnel: 0 };
    assert!(is_for(&seen, &way));
    assert!(!is_for(&seen, &Way { server: words4(A4), ..way }));
    assert!(!is_for(&seen, &Way::zeroed()));
    assert!(!is_for(&seen, &Way { vip: [0; 4], ..way }));
}

#[test]
fn marks_of_others_are_no_ways() {
    assert_eq!(way_of(MARK), Some(0));
    assert_eq!(way_of(MARK | 0xffff), Some(0xffff));
    for mark in [0, 1, 0x4c43_0000, 0x4c41_ffff, 0x0000_4c42, u32::MAX] {
        assert_eq!(way_of(mark), None, "{mark:x}");
    }
}

#[test]
fn outer_headers_have_the_inner_ones_class_and_ends() {
    let seen = read(&frame(0x0800, &packet4(TCP, 0, 0))).expect("a packet");
    let outer = outer4(&seen, &words4([10, 9, 9, 9]));
    let bytes = pod::bytes_of(&outer);
    assert_eq!(bytes[..4], [0x45, 0xb9, 0, 60]);
    assert_eq!((bytes[9], &bytes[12..16], &bytes[16..]), (IPIP, &A4[..], &[10, 9, 9, 9][..]));
    assert_eq!(crate::csum::full(bytes, 0), 0);

    let seen = read(&frame(0x86dd, &packet6(TCP))).expect("a packet");
    let outer = outer6(&seen, &words6(9));
    let bytes = pod::bytes_of(&outer);
    assert_eq!((bytes[0], bytes[1] & 0xf0), (0x6b, 0x90));
    assert_ne!([bytes[1] & 0xf, bytes[2], bytes[3]], [0; 3], "a flow label");
    assert_eq!((&bytes[4..8], &bytes[8..24]), (&[0, 60, IPV6, 64][..], &v6(1)[..]));
    assert_eq!(bytes[24..], v6(9));
}
