//! Unpacking on slices: the same code runs on frames in the kernel.
//!
//! Must not know: BPF.

use super::*;
use crate::pod::{Address, mapped};
use proptest::prelude::*;

const VIP4: [u8; 4] = [203, 0, 113, 50];
const VIP6: Address = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x50];
const MACS: [u8; 12] = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
const LIMIT_OPTION: [u8; 8] = [0, 0, 4, 1, 4, 1, 1, 0];

fn key(address: Address) -> Key {
    crate::pod::from_bytes(&address).expect("sixteen bytes")
}

/// An IPv4 packet with a right header checksum.
fn ipv4(tos: u8, options: &[u8], protocol: u8, destination: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let head = 20 + options.len();
    let mut packet = vec![0x40 | (head / 4) as u8, tos];
    packet.extend(((head + payload.len()) as u16).to_be_bytes());
    packet.extend([0, 1, 0x40, 0, 64, protocol, 0, 0, 10, 0, 0, 1]);
    packet.extend(destination);
    packet.extend(options);
    let sum = csum::full(&packet, 0).to_ne_bytes();
    packet[10..12].copy_from_slice(&sum);
    packet.extend(payload);
    packet
}

fn ipv6(class: u8, next: u8, destination: Address, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60 | class >> 4, class << 4 | 0xa, 0xbc, 0xde];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 64]);
    packet.extend([0xfd; 16]);
    packet.extend(destination);
    packet.extend(payload);
    packet
}

/// A small packet to the virtual address with this congestion field.
fn inner(v6: bool, mark: u8) -> Vec<u8> {
    let payload = b"\x9c\x40\x01\xbb\x00\x0c\x00\x00data";
    if v6 { ipv6(mark, 17, VIP6, payload) } else { ipv4(mark, &[], 17, VIP4, payload) }
}

/// An outer packet around it.
fn outer(v6: bool, mark: u8, options: &[u8], around: (bool, &[u8])) -> Vec<u8> {
    let protocol = if around.0 { 41 } else { 4 };
    if !v6 {
        return ipv4(mark, options, protocol, [10, 0, 0, 9], around.1);
    }
    if options.is_empty() {
        return ipv6(mark, protocol, [0xfe; 16], around.1);
    }
    let header = [&[protocol], &options[1..]].concat();
    ipv6(mark, 60, [0xfe; 16], &[&header, around.1].concat())
}

fn frame(tags: &[[u8; 4]], packet: &[u8]) -> Vec<u8> {
    let ethertype = if packet[0] >> 4 == 4 { [8, 0] } else { [0x86, 0xdd] };
    [&MACS[..], &tags.concat(), &ethertype, packet].concat()
}

/// What the program does: `None` when the frame is left alone.
fn unpack(frame: &[u8]) -> Option<Result<Vec<u8>, &'static str>> {
    let found = find(frame)?;
    if found.is_congested() {
        return Some(Err("dropped"));
    }
    let mut rest = frame[found.outer() as usize..].to_vec();
    found.finish(&mut rest[..]).expect("the frame was read whole");
    Some(Ok(rest))
}

#[test]
fn all_pairs_of_families_are_unpacked_with_tags_and_options() {
    let tag_sets: [&[[u8; 4]]; 4] = [
        &[],
        &[[0x81, 0, 0x20, 5]],
        &[[0x88, 0xa8, 0, 7]],
        &[[0x88, 0xa8, 0, 7], [0x81, 0, 0xe0, 9]],
    ];
    for (outer6, inner6) in [(false, false), (false, true), (true, false), (true, true)] {
        let packet = inner(inner6, 0);
        let all: [&[u8]; 3] = [&[], &[1; 8], &[1; 40]];
        let options: &[&[u8]] = if outer6 { &[&[], &LIMIT_OPTION] } else { &all };
        for (tags, options) in tag_sets.iter().flat_map(|t| options.iter().map(move |o| (t, o))) {
            let whole = frame(tags, &outer(outer6, 0, options, (inner6, &packet)));
            let found = find(&whole[..]).expect("a tunnel");
            let vip = if inner6 { VIP6 } else { mapped(VIP4) };
            assert_eq!(found.destination, key(vip));
            assert_eq!(unpack(&whole), Some(Ok(frame(tags, &packet))), "{tags:?} {options:?}");
        }
    }
}

#[test]
fn the_limit_may_be_padded_on_either_side_and_other_options_are_not_ours() {
    let packet = inner(false, 0);
    for (options, expected) in [
        ([0, 0, 4, 1, 4, 1, 1, 0], true),
        ([0, 0, 4, 1, 4, 0, 0, 0], true),
        ([0, 0, 1, 1, 0, 4, 1, 4], true),
        ([0, 0, 0, 0, 0, 4, 1, 4], true),
        ([0, 0, 0xc2, 4, 0, 1, 0, 0], false),
        ([0, 0, 1, 4, 0, 0, 0, 0], false),
        ([0, 1, 4, 1, 4, 1, 1, 0], false),
    ] {
        let whole = frame(&[], &outer(true, 0, &options, (false, &packet)));
        assert_eq!(find(&whole[..]).is_some(), expected, "{options:?}");
    }
}

#[test]
fn congestion_marks_follow_rfc_6040() {
    // Figure 4: a row for each inner field, a column for each outer one: Not-ECT, ECT(0), ECT(1),
    // CE. The numbers are the codepoints; `None` is the drop.
    let (not, zero, one, ce) = (0u8, 2u8, 1u8, 3u8);
    let table = [
        (not, [Some(not), Some(not), Some(not), None]),
        (zero, [Some(zero), Some(zero), Some(one), Some(ce)]),
        (one, [Some(one), Some(one), Some(one), Some(ce)]),
        (ce, [Some(ce), Some(ce), Some(ce), Some(ce)]),
    ];
    for (outer6, inner6) in [(false, false), (false, true), (true, false), (true, true)] {
        for (inner_mark, row) in table {
            for (outer_mark, expected) in [not, zero, one, ce].into_iter().zip(row) {
                // The upper six bits belong to the inner packet alone.
                let packet = inner(inner6, 0xb8 | inner_mark);
                let whole = frame(&[], &outer(outer6, 0x28 | outer_mark, &[], (inner6, &packet)));
                let wanted = match expected {
                    Some(mark) => Ok(frame(&[], &inner(inner6, 0xb8 | mark))),
                    None => Err("dropped"),
                };
                let what = format!("{outer6} {inner6}: {outer_mark} over {inner_mark}");
                assert_eq!(unpack(&whole), Some(wanted), "{what}");
            }
        }
    }
}

#[test]
fn what_is_not_a_whole_packet_in_a_whole_packet_is_left_alone() {
    let (packet4, packet6) = (inner(false, 0), inner(true, 0));
    let plain = outer(false, 0, &[], (false, &packet4));
    // Changes a good packet and mends the checksum, so that only the change is wrong.
    let with = |packet: &[u8], at: usize, value: u8| {
        let mut packet = packet.to_vec();
        packet[at] = value;
        packet[10..12].fill(0);
        let sum = csum::full(&packet[..20], 0).to_ne_bytes();
        packet[10..12].copy_from_slice(&sum);
        frame(&[], &packet)
    };
    assert!(find(&with(&plain, 1, 0)[..]).is_some(), "the control");
    for (what, whole) in [
        ("a plain packet", frame(&[], &packet4)),
        ("a plain packet", frame(&[], &packet6)),
        ("more fragments", with(&plain, 6, 0x20)),
        ("a later fragment", with(&plain, 7, 1)),
        ("another protocol", with(&plain, 9, 47)),
        ("IPv6 said, IPv4 inside", with(&plain, 9, 41)),
        ("a header of 16 bytes", with(&plain, 0, 0x44)),
        ("another version", with(&plain, 0, 0x65)),
        ("a length that ends before the inner header", with(&plain, 3, 39)),
        ("inner: a header of 16 bytes", with(&plain, 20, 0x44)),
        ("IPv6 fragment", frame(&[], &ipv6(0, 44, [0xfe; 16], &packet6))),
        ("IPv4 said, IPv6 inside", frame(&[], &ipv6(0, 4, [0xfe; 16], &packet6))),
        ("ARP", [&MACS[..], &[8, 6], &plain].concat()),
        ("three tags", frame(&[[0x81, 0, 0, 1]; 3], &plain)),
    ] {
        assert_eq!(unpack(&whole), None, "{what}");
    }
    let mut wrong = frame(&[], &plain);
    wrong[14 + 8] ^= 1;
    assert_eq!(unpack(&wrong), None, "a wrong outer checksum");
}

#[test]
fn every_truncation_is_read_without_reaching_beyond_the_end() {
    for (outer6, inner6) in [(false, false), (false, true), (true, false), (true, true)] {
        let packet = inner(inner6, 1);
        let options: &[u8] = if outer6 { &LIMIT_OPTION } else { &[1; 12] };
        let whole = frame(&[[0x81, 0, 0, 5]], &outer(outer6, 3, options, (inner6, &packet)));
        let headers = whole.len() - packet.len() + if inner6 { 40 } else { 20 };
        for length in 0..=whole.len() {
            assert_eq!(unpack(&whole[..length]).is_some(), length >= headers, "{length}");
        }
    }
}

proptest! {
    #[test]
    fn any_bytes_are_survived_and_only_the_head_changes(
        mut bytes in proptest::collection::vec(any::<u8>(), 0..160),
        shape in 0usize..8, at in 0usize..80, value in any::<u8>(),
    ) {
        if shape < 4 {
            let packet = inner(shape & 1 == 1, value & 3);
            bytes = frame(&[], &outer(shape & 2 == 2, value >> 6, &[], (shape & 1 == 1, &packet)));
            if at < bytes.len() {
                bytes[at] = value;
            }
        }
        if let Some(Ok(rest)) = unpack(&bytes) {
            let outer = bytes.len() - rest.len();
            prop_assert_eq!(&rest[..12], &bytes[..12]);
            // Behind the inner header nothing changes, wherever it began.
            prop_assert_eq!(&rest[34..], &bytes[outer + 34..]);
        }
    }
}
