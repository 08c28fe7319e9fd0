//! Tests of the parser, on slices: the same code runs on frames in the kernel.
//!
//! Must not know: rewriting, maps.

use super::*;
use crate::pod::Address;
use proptest::prelude::*;

const SOURCE4: [u8; 4] = [198, 51, 100, 7];
const DESTINATION4: [u8; 4] = [203, 0, 113, 1];
const SOURCE6: Address = [0x20, 1, 0xd, 0xb8, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 7];
const DESTINATION6: Address = [0x20, 1, 0xd, 0xb8, 0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

/// The head of a frame: addresses, tags, EtherType. The outer tag is 802.1ad when `provider`.
fn ethernet(tags: &[u16], provider: bool, ethertype: u16) -> Vec<u8> {
    let mut frame = vec![2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2];
    for (n, tag) in tags.iter().enumerate() {
        frame.extend(if provider && n == 0 { [0x88, 0xa8] } else { [0x81, 0x00] });
        frame.extend(tag.to_be_bytes());
    }
    frame.extend(ethertype.to_be_bytes());
    frame
}

/// A TCP or UDP header from port 40000 to 443; the flags are SYN and ACK.
fn transport(protocol: u8) -> Vec<u8> {
    let mut header = vec![0x9c, 0x40, 0x01, 0xbb];
    if protocol == TCP {
        header.extend([0, 0, 0, 1, 0, 0, 0, 2, 0x50, 0x12, 1, 0, 0, 0, 0, 0]);
    } else {
        header.extend([0, 8, 0, 0]);
    }
    header
}

fn ipv4(ihl: u8, protocol: u8, fragment: u16) -> Vec<u8> {
    let l4 = transport(protocol);
    let total = u16::from(ihl) * 4 + l4.len() as u16;
    let mut packet = vec![0x40 | ihl, 0];
    packet.extend(total.to_be_bytes());
    packet.extend([0, 0]);
    packet.extend(fragment.to_be_bytes());
    packet.extend([64, protocol, 0, 0]);
    packet.extend(SOURCE4);
    packet.extend(DESTINATION4);
    packet.resize(usize::from(ihl) * 4, 1);
    packet.extend(l4);
    packet
}

/// `chain`: number and bytes of every extension header; the first byte of each is filled in.
fn ipv6(chain: &[(u8, &[u8])], protocol: u8) -> Vec<u8> {
    let l4 = transport(protocol);
    let numbers: Vec<u8> = chain.iter().map(|(number, _)| *number).chain([protocol]).collect();
    let length = chain.iter().map(|(_, bytes)| bytes.len()).sum::<usize>() + l4.len();
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((length as u16).to_be_bytes());
    packet.extend([numbers[0], 64]);
    packet.extend(SOURCE6);
    packet.extend(DESTINATION6);
    for ((_, bytes), next) in chain.iter().zip(&numbers[1..]) {
        packet.push(*next);
        packet.extend(&bytes[1..]);
    }
    packet.extend(l4);
    packet
}

fn key4(protocol: u8) -> ConnKey4 {
    ConnKey4 {
        source: SOURCE4,
        destination: DESTINATION4,
        source_port: 40_000,
        destination_port: 443,
        protocol,
        pad: [0; 3],
    }
}

fn key6(protocol: u8) -> ConnKey6 {
    ConnKey6 {
        source: SOURCE6,
        destination: DESTINATION6,
        source_port: 40_000,
        destination_port: 443,
        protocol,
        pad: [0; 3],
    }
}

/// Every tagging: none, one and two tags, with either type of the outer one.
fn taggings() -> impl Iterator<Item = (Vec<u16>, bool)> {
    let tags = [vec![], vec![0x2005], vec![0x2005, 0x0fff]];
    tags.into_iter().flat_map(|tags| [(tags.clone(), false), (tags, true)])
}

#[test]
fn every_ipv4_header_length_and_tagging_is_read_and_no_shorter_frame_is() {
    for (tags, provider) in taggings() {
        for ihl in 5..=15 {
            for protocol in [TCP, UDP] {
                let mut frame = ethernet(&tags, provider, ETHERTYPE_IPV4);
                let l3 = frame.len();
                frame.extend(ipv4(ihl, protocol, 0x4000));
                let l4 = l3 + usize::from(ihl) * 4;
                let Parsed::V4(packet) = parse(&frame[..]) else {
                    panic!("ihl {ihl}, protocol {protocol}, tags {tags:x?}");
                };
                assert_eq!(packet.key, key4(protocol));
                assert_eq!((packet.l3(), packet.l4()), (l3, l4));
                assert_eq!(packet.bytes as usize, frame.len() - l3);
                assert_eq!(packet.tcp_flags, if protocol == TCP { 0x12 } else { 0 });
                assert_eq!((packet.part, packet.identification), (Part::Whole, 0));
                check_tags(packet.tags, &tags, provider);
                check_truncated(&frame);
            }
        }
    }
}

#[test]
fn every_ipv6_chain_and_tagging_is_read_and_no_shorter_frame_is() {
    let hops: (u8, &[u8]) = (0, &[0; 8]);
    let options: (u8, &[u8]) = (60, &[0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let routing: (u8, &[u8]) = (43, &[0, 0, 2, 0, 0, 0, 0, 0]);
    let atomic: (u8, &[u8]) = (44, &[0, 0, 0, 0, 1, 2, 3, 4]);
    let authentication: (u8, &[u8]) = (51, &[0, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let chains: [&[(u8, &[u8])]; 7] = [
        &[],
        &[hops],
        &[options],
        &[routing],
        &[atomic],
        &[authentication],
        &[hops, options, routing, atomic, authentication, options],
    ];
    for (tags, provider) in taggings() {
        for chain in chains {
            for protocol in [TCP, UDP] {
                let mut frame = ethernet(&tags, provider, ETHERTYPE_IPV6);
                let l3 = frame.len();
                frame.extend(ipv6(chain, protocol));
                let Parsed::V6(packet) = parse(&frame[..]) else {
                    panic!("chain {chain:?}, protocol {protocol}, tags {tags:x?}");
                };
                assert_eq!(packet.key, key6(protocol));
                assert_eq!(packet.l3(), l3);
                assert_eq!(packet.l4(), frame.len() - transport(protocol).len());
                assert_eq!(packet.bytes as usize, frame.len() - l3);
                assert_eq!((packet.part, packet.identification), (Part::Whole, 0));
                check_tags(packet.tags, &tags, provider);
                check_truncated(&frame);
            }
        }
    }
}

#[track_caller]
fn check_tags(found: Tags, tags: &[u16], provider: bool) {
    let first = |n: usize| tags.get(n).copied().unwrap_or(0);
    assert_eq!(found.tci, [first(0), first(1)]);
    let mark = if provider && !tags.is_empty() { TAGS_PROVIDER } else { 0 };
    assert_eq!(found.count, tags.len() as u8 | mark);
    assert_eq!(Tags::len(found.count), tags.len() * 4);
}

/// A frame that ends before its transport header does is nothing, at any length.
#[track_caller]
fn check_truncated(frame: &[u8]) {
    for length in 0..frame.len() {
        let short = &frame[..length];
        assert_eq!(parse(short), Parsed::Other, "at {length} of {}", frame.len());
        assert!(fast4(short).is_none() && fast6(short).is_none());
    }
}

/// A frame of this fragment: the packet's transport header follows, whatever the offset says.
fn fragment4(protocol: u8, word: u16, id: u16) -> Vec<u8> {
    let mut packet = ipv4(5, protocol, word);
    packet[4..6].copy_from_slice(&id.to_be_bytes());
    [ethernet(&[], false, ETHERTYPE_IPV4), packet].concat()
}

/// The same for IPv6, with other extension headers before and after the fragment header.
fn fragment6(
    before: &[(u8, &[u8])],
    after: &[(u8, &[u8])],
    protocol: u8,
    word: u16,
    id: u32,
) -> Vec<u8> {
    let mut header = [0; 8];
    header[2..4].copy_from_slice(&word.to_be_bytes());
    header[4..].copy_from_slice(&id.to_be_bytes());
    let chain: Vec<(u8, &[u8])> =
        before.iter().copied().chain([(44, &header[..])]).chain(after.iter().copied()).collect();
    [ethernet(&[], false, ETHERTYPE_IPV6), ipv6(&chain, protocol)].concat()
}

#[test]
fn ipv4_fragments_are_first_later_or_short_and_only_the_first_have_ports() {
    for protocol in [TCP, UDP] {
        let check = |word: u16, expected: Part| {
            let frame = fragment4(protocol, word, 0xbeef);
            let Parsed::V4(packet) = parse(&frame[..]) else { panic!("{word:#x}") };
            let id = if expected == Part::Whole { 0 } else { 0xbeef };
            assert_eq!((packet.part, packet.identification), (expected, id), "{word:#x}");
            let has_ports = matches!(expected, Part::Whole | Part::First);
            let ports = if has_ports { (40_000, 443) } else { (0, 0) };
            assert_eq!(packet.key.ports(), ports, "{word:#x}");
            let flags = if has_ports && protocol == TCP { 0x12 } else { 0 };
            assert_eq!(packet.tcp_flags, flags, "{word:#x}");
            assert_eq!(fast4(&frame[..]).is_none(), expected != Part::Whole);
            assert_eq!(packet.key.protocol(), protocol);
        };
        check(0, Part::Whole);
        // Do not fragment, and the reserved bit.
        check(0x4000, Part::Whole);
        check(0x8000, Part::Whole);
        check(0x2000, Part::First);
        check(0x6000, Part::First);
        // RFC 3128: within the TCP header. UDP's ends where a second fragment can begin.
        let early = if protocol == TCP { Part::Short } else { Part::Later };
        for offset in [1, 2] {
            check(offset, early);
            check(0x2000 | offset, early);
        }
        check(3, Part::Later);
        check(0x3fff, Part::Later);
        check(0x1fff, Part::Later);
    }
}

#[test]
fn ipv6_fragments_are_found_anywhere_in_the_chain() {
    let options: (u8, &[u8]) = (60, &[0; 8]);
    let hops: (u8, &[u8]) = (0, &[0; 8]);
    for before in [&[][..], &[hops], &[hops, options]] {
        for after in [&[][..], &[options]] {
            for protocol in [TCP, UDP] {
                let check = |word: u16, expected: Part| {
                    let frame = fragment6(before, after, protocol, word, 0x8765_4321);
                    let Parsed::V6(packet) = parse(&frame[..]) else { panic!("{word:#x}") };
                    let id = if expected == Part::Whole { 0 } else { 0x8765_4321 };
                    assert_eq!((packet.part, packet.identification), (expected, id), "{word:#x}");
                    let has_ports = matches!(expected, Part::Whole | Part::First);
                    let ports = if has_ports { (40_000, 443) } else { (0, 0) };
                    assert_eq!(packet.key.ports(), ports, "{word:#x}");
                };
                check(0, Part::Whole);
                // The two reserved bits say nothing (RFC 6946: an atomic fragment).
                check(0b110, Part::Whole);
                check(1, Part::First);
                let early = protocol == TCP && after.is_empty();
                check(8, if early { Part::Short } else { Part::Later });
                check(17, if early { Part::Short } else { Part::Later });
                check(24, Part::Later);
                check(0xfff8, Part::Later);
                check(0xfff9, Part::Later);
            }
        }
    }
    // A fragment in a fragment, and later fragments of what is neither TCP nor UDP.
    let inner: (u8, &[u8]) = (44, &[0, 0, 0, 1, 0, 0, 0, 9]);
    for (after, protocol, word) in
        [(&[inner][..], UDP, 1), (&[inner], UDP, 8), (&[], 58, 8), (&[], 59, 9), (&[], 58, 1)]
    {
        let frame = fragment6(&[], after, protocol, word, 1);
        assert_eq!(parse(&frame[..]), Parsed::Other, "{after:?} {protocol} {word}");
    }
}

#[test]
fn a_first_fragment_that_ends_in_its_transport_header_is_short() {
    for (protocol, header) in [(TCP, 20u16), (UDP, 8)] {
        for length in 0..=header {
            let mut frame = fragment4(protocol, 0x2000, 1);
            frame[16..18].copy_from_slice(&(20 + length).to_be_bytes());
            let Parsed::V4(packet) = parse(&frame[..]) else { panic!("{length}") };
            let expected = if length < header { Part::Short } else { Part::First };
            assert_eq!(packet.part, expected, "IPv4, {length} bytes of {protocol}");
            assert_eq!(packet.key.ports() == (0, 0), expected == Part::Short);
            let mut frame = fragment6(&[], &[], protocol, 1, 1);
            frame[18..20].copy_from_slice(&(8 + length).to_be_bytes());
            let Parsed::V6(packet) = parse(&frame[..]) else { panic!("{length}") };
            assert_eq!(packet.part, expected, "IPv6, {length} bytes of {protocol}");
        }
    }
}

#[test]
fn truncated_fragments_are_read_as_far_as_they_go_and_never_with_ports() {
    let (v4, v6) = (fragment4(TCP, 0x2000, 1), fragment6(&[(60, &[0; 8])], &[], TCP, 1, 1));
    for frame in [&v4, &v6] {
        check_truncated(frame);
    }
    // Of a later one, all that is needed ends with the IP header or the fragment header.
    let (v4, v6) = (fragment4(TCP, 0x0004, 1), fragment6(&[(60, &[0; 8])], &[], TCP, 0x20, 1));
    for (frame, whole) in [(&v4, 34), (&v6, 14 + 40 + 8 + 8)] {
        for length in 0..frame.len() {
            match parse(&frame[..length]) {
                Parsed::V4(Packet { part, tcp_flags: 0, .. })
                | Parsed::V6(Packet { part, tcp_flags: 0, .. }) => {
                    assert_eq!((part, length >= whole), (Part::Later, true), "at {length}");
                }
                other => assert_eq!((other, length < whole), (Parsed::Other, true), "{length}"),
            }
        }
    }
}

#[test]
fn what_cannot_be_judged_is_other() {
    let frame4 = |change: &[(usize, u8)]| {
        let mut frame = [ethernet(&[], false, ETHERTYPE_IPV4), ipv4(5, TCP, 0)].concat();
        for &(at, value) in change {
            frame[at] = value;
        }
        parse(&frame[..])
    };
    assert!(matches!(frame4(&[]), Parsed::V4(_)));
    for (what, change) in [
        ("a version", (14, 0x65)),
        ("a short header", (14, 0x44)),
        ("a length that ends in the TCP header", (17, 39)),
        ("another protocol", (23, 1)),
        ("another EtherType", (13, 6)),
    ] {
        assert_eq!(frame4(&[change]), Parsed::Other, "{what}");
    }
    let routing = [0, 0, 2, 1, 0, 0, 0, 0];
    let many: Vec<(u8, &[u8])> = vec![(60, &[0; 8]); 7];
    let chains: [&[(u8, &[u8])]; 3] = [&[(43, &routing)], &many, &[(59, &[0; 8])]];
    for chain in chains {
        let frame = [ethernet(&[], false, ETHERTYPE_IPV6), ipv6(chain, TCP)].concat();
        assert_eq!(parse(&frame[..]), Parsed::Other, "{chain:?}");
    }
    let three = [ethernet(&[1, 2, 3], false, ETHERTYPE_IPV4), ipv4(5, TCP, 0)].concat();
    assert_eq!(parse(&three[..]), Parsed::Other);
}

#[test]
fn a_transport_header_beyond_reach_is_other() {
    for (units, read) in [(56u8, true), (57, false)] {
        let mut header = vec![0; 8 + usize::from(units) * 8];
        header[1] = units;
        let frame = [ethernet(&[], false, ETHERTYPE_IPV6), ipv6(&[(60, &header)], UDP)].concat();
        assert_eq!(matches!(parse(&frame[..]), Parsed::V6(_)), read, "{units} units");
    }
}

#[test]
fn links_answer_and_know_their_frames() {
    let received = [0x0201_0000, 0x0403_0605, 0x0807_0a09];
    assert_eq!(swapped(swapped(received)), received);
    let frame: [u8; 12] = pod::from_bytes(pod::bytes_of(&received)).expect("twelve bytes");
    let back: [u8; 12] = pod::from_bytes(pod::bytes_of(&swapped(received))).expect("twelve");
    assert_eq!((&back[..6], &back[6..]), (&frame[6..], &frame[..6]));
    let tags = Tags { tci: [5, 6], count: 2 | TAGS_PROVIDER };
    let link = Link::answering(received, 7, &tags);
    assert_eq!((&link.peer_mac[..], &link.our_mac[..]), (&frame[6..], &frame[..6]));
    assert!(link.is_source_of(received, 7, &tags));
    assert!(!link.is_source_of(received, 8, &tags));
    assert!(!link.is_source_of(received, 7, &Tags { count: 2, ..tags }));
    assert!(!link.is_source_of(received, 7, &Tags { tci: [5, 7], ..tags }));
    for byte in 0..12 {
        let mut other = frame;
        other[byte] ^= 1;
        let macs: Macs = pod::from_bytes(&other).expect("three words");
        assert!(!link.is_source_of(macs, 7, &tags), "byte {byte}");
    }
}

#[test]
fn another_destination_takes_the_place_of_a_frames_own() {
    let received = [0x0201_0000, 0x0403_0605, 0x0807_0a09];
    let frame: [u8; 12] = pod::from_bytes(pod::bytes_of(&received)).expect("twelve bytes");
    let own: [u32; 2] = pod::from_bytes(&[6, 7, 8, 9, 10, 11, 0, 0]).expect("two words");
    let sent: [u8; 12] = pod::from_bytes(pod::bytes_of(&sent_to(received, own))).expect("twelve");
    assert_eq!((&sent[..6], &sent[6..]), (&[6, 7, 8, 9, 10, 11][..], &frame[6..]));
}

/// Bytes that often look like a frame: noise under a plausible head, or a good frame with noise.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let good = prop_oneof![
        (5u8..=15, prop_oneof![Just(TCP), Just(UDP)]).prop_map(|(ihl, p)| [
            ethernet(&[], false, ETHERTYPE_IPV4),
            ipv4(ihl, p, 0)
        ]
        .concat()),
        prop_oneof![Just(TCP), Just(UDP)].prop_map(|p| {
            [ethernet(&[], false, ETHERTYPE_IPV6), ipv6(&[(0, &[0; 8]), (60, &[0; 8])], p)].concat()
        }),
        prop_oneof![Just(TCP), Just(UDP)].prop_map(|p| [
            ethernet(&[], false, ETHERTYPE_IPV6),
            ipv6(&[], p)
        ]
        .concat()),
        proptest::collection::vec(any::<u8>(), 0..120),
        (0usize..5, proptest::collection::vec(any::<u8>(), 14..700)).prop_map(|(kind, mut f)| {
            let kinds = [[8, 0], [0x86, 0xdd], [0x81, 0], [0x88, 0xa8], [0, 0]];
            f[12..14].copy_from_slice(&kinds[kind]);
            f
        }),
    ];
    let changes = proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..4);
    (good, changes).prop_map(|(mut frame, changes)| {
        for (at, value) in changes {
            if !frame.is_empty() {
                let at = at.index(frame.len());
                frame[at] = value;
            }
        }
        frame
    })
}

fn has_ports(part: Part) -> bool {
    matches!(part, Part::Whole | Part::First)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]

    #[test]
    fn parsing_any_bytes_stays_within_them(frame in frames()) {
        let (fast4, fast6) = (fast4(&frame[..]), fast6(&frame[..]));
        match parse(&frame[..]) {
            Parsed::V4(p) => {
                prop_assert!(p.l3() + IPV4_LEN <= p.l4());
                prop_assert!(!has_ports(p.part) || p.l4() + UDP_LEN <= frame.len());
                prop_assert!(has_ports(p.part) || (p.key.ports() == (0, 0) && p.tcp_flags == 0));
                // What the short road reads is what the long one does.
                prop_assert!(fast6.is_none() && fast4.is_none_or(|fast| fast == p));
                let plain = p.l4() == ETHERNET_LEN + IPV4_LEN && p.part == Part::Whole;
                prop_assert_eq!(fast4.is_some(), plain);
            }
            Parsed::V6(p) => {
                prop_assert!(p.l3() + IPV6_LEN <= p.l4());
                prop_assert!(!has_ports(p.part) || p.l4() + UDP_LEN <= frame.len());
                prop_assert!(has_ports(p.part) || (p.key.ports() == (0, 0) && p.tcp_flags == 0));
                prop_assert!(fast4.is_none() && fast6.is_none_or(|fast| fast == p));
                let plain = p.l4() == ETHERNET_LEN + IPV6_LEN && p.part == Part::Whole;
                prop_assert_eq!(fast6.is_some(), plain);
            }
            Parsed::Icmp4(_) | Parsed::Icmp6(_) | Parsed::Other => {
                prop_assert!(fast4.is_none() && fast6.is_none());
            }
        }
    }
}
