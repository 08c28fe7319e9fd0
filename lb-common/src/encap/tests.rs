//! Golden bytes of the four encapsulations, and the MSS of any SYN.
//!
//! Must not know: frames' heads.

use super::*;
use crate::pod::{self, mapped};
use crate::wire::{TCP, UDP};
use proptest::prelude::*;

/// An address in words.
fn words(address: [u8; 16]) -> [u32; 4] {
    pod::from_bytes(&address).expect("16 bytes")
}

fn v4(last: u8) -> [u32; 4] {
    words(mapped([10, 1, 0, last]))
}

fn v6(last: u8) -> [u32; 4] {
    words([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, last])
}

fn key4() -> ConnKey4 {
    let [source, destination] = [[192, 0, 2, 1], [203, 0, 113, 9]].map(u32::from_ne_bytes);
    ConnKey4::new(source, destination, [40_000, 80], TCP)
}

fn key6() -> ConnKey6 {
    ConnKey6::new(v6(1), v6(2), [40_000, 53], UDP)
}

/// The outer header before an inner packet of 0x0123 bytes with traffic class 0xb9, at offset 3.
fn wrapped<K: Inner>(tunnel: &Tunnel, key: &K) -> Vec<u8> {
    let mut buf = vec![0xee; 3 + tunnel.overhead() + 2];
    wrap(&mut buf[..], 3, tunnel, (key, 0x123, 0xb9)).expect("room");
    assert_eq!((&buf[..3], &buf[3 + tunnel.overhead()..]), (&[0xee; 3][..], &[0xee; 2][..]));
    buf[3..3 + tunnel.overhead()].to_vec()
}

#[test]
fn ipv4_outside_has_these_bytes() {
    let tunnel = Tunnel { source: v4(1), destination: v4(5) };
    let expected = |protocol, sum: [u8; 2]| {
        // 0x123 and 20 bytes; id 0, Don't Fragment, TTL 64.
        let mut bytes = vec![0x45, 0xb9, 0x01, 0x37, 0, 0, 0x40, 0, 64, protocol];
        bytes.extend(sum);
        bytes.extend([10, 1, 0, 1, 10, 1, 0, 5]);
        bytes
    };
    let header = wrapped(&tunnel, &key4());
    assert_eq!(csum::full(&header, 0), 0, "a header with its sum sums to nothing");
    assert_eq!(header, expected(4, [0x25, 0x03]));
    let header = wrapped(&tunnel, &key6());
    assert_eq!(csum::full(&header, 0), 0);
    assert_eq!(header, expected(41, [0x24, 0xde]));
}

#[test]
fn ipv6_outside_has_these_bytes() {
    let tunnel = Tunnel { source: v6(7), destination: v6(8) };
    for (header, protocol, label) in [
        (wrapped(&tunnel, &key4()), 4, key4().flow_label()),
        (wrapped(&tunnel, &key6()), 41, key6().flow_label()),
    ] {
        let [_, high, middle, low] = label.to_be_bytes();
        let mut expected = vec![0x6b, 0x90 | high, middle, low, 0x01, 0x23, protocol, 64];
        expected.extend([v6(7), v6(8)].iter().flat_map(|a| pod::bytes_of(a).to_vec()));
        assert_eq!(header, expected);
    }
}

#[test]
fn a_flow_keeps_its_label_and_others_have_others() {
    assert_eq!(key4().flow_label(), key4().flow_label());
    let labels: std::collections::BTreeSet<u32> = (0..1000)
        .flat_map(|port| {
            let a = ConnKey4 { source_port: port, ..key4() };
            let b = ConnKey6 { source_port: port, ..key6() };
            [a.flow_label(), b.flow_label()]
        })
        .collect();
    assert!(labels.len() > 1990, "{}", labels.len());
    assert!(labels.iter().all(|label| (1..1 << 20).contains(label)));
}

#[test]
fn families_are_told_apart_by_the_mapped_form() {
    assert!(pod::is_mapped(&v4(1)) && !pod::is_mapped(&v6(1)) && !pod::is_mapped(&[0; 4]));
    assert_eq!((overhead(&v4(1)), overhead(&v6(1))), (20, 40));
    assert!(!Tunnel { source: [0; 4], destination: v4(1) }.is_known());
    assert!(Tunnel { source: v4(1), destination: v4(1) }.is_known());
}

#[test]
fn the_class_is_where_each_family_has_it() {
    assert_eq!(ConnKey4::class(&[0x45, 0xb9][..], 0), Some(0xb9));
    assert_eq!(ConnKey6::class(&[0x6b, 0x91, 2, 3][..], 0), Some(0xb9));
    assert_eq!(ConnKey6::class(&[0x6b][..], 0), None);
}

/// A TCP header with these options, padded, and its sum over itself (the pseudo header is constant).
fn syn(options: &[u8]) -> Vec<u8> {
    let padded = options.len().next_multiple_of(4);
    let mut bytes = vec![0x9c, 0x40, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 0, 2, 0x20, 0, 0, 0, 0, 0];
    bytes[12] = ((20 + padded) / 4 * 16) as u8;
    bytes.extend(options);
    bytes.resize(20 + padded, 0);
    summed(bytes)
}

fn summed(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[16..18].fill(0);
    let sum = csum::full(&bytes, 0).to_ne_bytes();
    bytes[16..18].copy_from_slice(&sum);
    bytes
}

#[track_caller]
fn clamps(options: &[u8], expected: Option<&[u8]>) {
    let mut buf = [&[0xee; 5][..], &syn(options)].concat();
    let changed = clamp_mss(&mut buf[..], 5, 1360);
    assert_eq!(changed, expected.is_some());
    assert_eq!(buf[5..], syn(expected.unwrap_or(options)));
}

#[test]
fn an_mss_is_lowered_wherever_it_stands_and_never_raised() {
    clamps(&[2, 4, 5, 0xb4], Some(&[2, 4, 5, 0x50]));
    clamps(&[2, 4, 5, 0x51], Some(&[2, 4, 5, 0x50]));
    clamps(&[2, 4, 5, 0x50], None);
    clamps(&[2, 4, 2, 0x18], None);
    // After others, at an odd offset, where its bytes count the other way round.
    clamps(&[1, 2, 4, 5, 0xb4], Some(&[1, 2, 4, 5, 0x50]));
    clamps(&[4, 2, 3, 3, 7, 2, 4, 5, 0xb4, 0], Some(&[4, 2, 3, 3, 7, 2, 4, 5, 0x50, 0]));
    let timestamps = [8, 10, 0, 0, 0, 1, 0, 0, 0, 0];
    clamps(
        &[&timestamps[..], &[2, 4, 5, 0xb4]].concat(),
        Some(&[&timestamps[..], &[2, 4, 5, 0x50]].concat()),
    );
}

#[test]
fn options_without_an_mss_or_against_all_rules_stay() {
    clamps(&[], None);
    clamps(&[1, 1, 1, 1], None);
    // After the end of options, behind a length of nothing, cut off, of a wrong length, too far.
    clamps(&[0, 2, 4, 5, 0xb4], None);
    clamps(&[3, 0, 2, 4, 5, 0xb4], None);
    clamps(&[3, 1, 2, 4, 5, 0xb4], None);
    clamps(&[1, 1, 2, 4], None);
    clamps(&[2, 3, 5, 0xb4], None);
    clamps(&[&[1; 11][..], &[2, 4, 5, 0xb4]].concat(), None);
}

proptest! {
    #[test]
    fn any_options_keep_the_sum_right(options in prop::collection::vec(0u8..12, 0..40),
                                      mss: u16, most: u16, at in 0usize..36, cut in 0usize..60) {
        let mut options = options;
        if at + 4 <= options.len() {
            options[at..at + 2].copy_from_slice(&MSS_OPTION);
            options[at + 2..at + 4].copy_from_slice(&mss.to_be_bytes());
        }
        let before = syn(&options);
        let mut after = before.clone();
        let changed = clamp_mss(&mut after[..], 0, most);
        prop_assert_eq!(changed, before != after);
        // Zero and minus zero are the same sum.
        let (found, full) = (csum::full(&after, 0), csum::full(&summed(after.clone()), 0));
        prop_assert!(found == full || found == !0, "{found:x} {full:x}");
        let mut short = before[..cut.min(before.len())].to_vec();
        clamp_mss(&mut short[..], 0, most);
    }
}
