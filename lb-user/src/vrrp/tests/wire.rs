//! Bytes as keepalived sends them, the checks on receipt, and their reasons.
//!
//! Must not know: states.

use std::net::Ipv6Addr;

use proptest::prelude::*;

use super::*;
use crate::vrrp::packet::{
    Auth, Checksum, DecodeError, EncodeError, GROUP_V4, GROUP_V6, Packet, decode, encode, vrid,
};
use crate::vrrp::receive::{Expected, Facts, Refused, accept};

/// Version 2, PASS `1111`, captured.
pub(super) const GOLDEN_V2: &str = "213396010101dab60a4d00643131313100000000";
/// Version 3 over IPv4, captured: its checksum has the pseudo header.
pub(super) const GOLDEN_V3: &str = "31339601006442d90a4d0064";
/// Version 3 over IPv6, captured.
pub(super) const GOLDEN_V6: &str =
    "313396020064e967fe800000000000000000000000770100fd770000000000000000000000000100";

const SOURCE_V6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0x989a, 0xb1ff, 0xfec1, 0x0904);

pub(super) fn hex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text.chars().map(|c| c.to_digit(16).expect("hex") as u8).collect();
    digits.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect()
}

fn v6_addresses() -> Vec<IpAddr> {
    ["fe80::77:100", "fd77::100"].map(|it| it.parse().expect("an address")).to_vec()
}

fn packet_v3() -> Packet {
    Packet {
        version: Version::V3,
        vrid: 51,
        priority: 150,
        interval: millis(Version::V3, 1000),
        auth: Auth::None,
        checksum: Checksum::PseudoHeader,
        addresses: vec![host(100)],
    }
}

fn packet_v2() -> Packet {
    Packet {
        version: Version::V2,
        interval: millis(Version::V2, 1000),
        auth: Auth::pass(b"1111").expect("short"),
        checksum: Checksum::Message,
        ..packet_v3()
    }
}

pub(super) fn facts() -> Facts {
    Facts { ttl: 255, source: host(1), destination: GROUP_V4.into(), interface: 7 }
}

pub(super) fn facts_v6() -> Facts {
    Facts { source: SOURCE_V6.into(), destination: GROUP_V6.into(), ..facts() }
}

/// What the router of a golden packet's peer expects.
pub(super) fn expected(packet: &str) -> Expected {
    let (version, auth) = match &packet[..1] {
        "2" => (Version::V2, Auth::pass(b"1111").expect("short")),
        _ => (Version::V3, Auth::None),
    };
    Expected {
        interface: 7,
        vrid: 51,
        version,
        interval: millis(version, 1000),
        auth,
        addresses: if packet == GOLDEN_V6 { v6_addresses() } else { vec![host(100)] },
        own: vec![host(5)],
        peers: vec![],
    }
}

#[track_caller]
fn golden(text: &str, facts: &Facts, packet: &Packet) {
    let bytes = hex(text);
    assert_eq!(decode(&bytes, facts.source, facts.destination).as_ref(), Ok(packet));
    assert_eq!(encode(packet, facts.source, facts.destination).as_ref(), Ok(&bytes));
    let accepted = accept(&bytes, facts, &expected(text)).expect("a valid advert");
    let advert = Advert { source: facts.source, ..advert(1, 150) };
    assert_eq!(accepted.advert, advert);
    assert_eq!((accepted.checksum, accepted.first_not_link_local), (packet.checksum, false));
    assert_eq!(vrid(&bytes), Some(51));
}

#[test]
fn keepaliveds_packets_are_read_and_written_byte_for_byte() {
    golden(GOLDEN_V2, &facts(), &packet_v2());
    golden(GOLDEN_V3, &facts(), &packet_v3());
    golden(GOLDEN_V6, &facts_v6(), &Packet { addresses: v6_addresses(), ..packet_v3() });
}

#[test]
fn version_3_over_ipv4_is_read_with_both_checksums() {
    // RFC 9568 section 5.2.8 has no pseudo header over IPv4; its speakers are understood too.
    let plain = Packet { checksum: Checksum::Message, ..packet_v3() };
    let bytes = encode(&plain, host(1), GROUP_V4.into()).expect("it can be said");
    assert_ne!(bytes, hex(GOLDEN_V3));
    assert_eq!(decode(&bytes, host(1), GROUP_V4.into()), Ok(plain));
    let accepted = accept(&bytes, &facts(), &expected(GOLDEN_V3)).expect("valid");
    assert_eq!(accepted.checksum, Checksum::Message);
    // Over IPv6 only the pseudo header is right.
    let addresses = v6_addresses();
    let v6 = Packet { checksum: Checksum::Message, addresses, ..packet_v3() };
    let bytes = encode(&v6, SOURCE_V6.into(), GROUP_V6.into()).expect("it can be said");
    assert_eq!(bytes, hex(GOLDEN_V6));
}

/// Changes bytes of a golden packet and makes its checksum right again, with pseudo header.
fn forged(text: &str, facts: &Facts, changes: &[(usize, u8)]) -> Vec<u8> {
    let mut bytes = hex(text);
    for (at, value) in changes {
        bytes[*at] = *value;
    }
    let version_3 = bytes[0] >> 4 == 3;
    bytes[6..8].fill(0);
    let length = (bytes.len() as u16).to_be_bytes();
    let mut summed = bytes.clone();
    if version_3 {
        for address in [facts.source, facts.destination] {
            match address {
                IpAddr::V4(address) => summed.extend(address.octets()),
                IpAddr::V6(address) => summed.extend(address.octets()),
            }
        }
        summed.extend([0, 112, length[0], length[1]]);
    }
    let words = summed.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1]));
    let mut sum: u32 = words.sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    bytes[6..8].copy_from_slice(&(!sum as u16).to_be_bytes());
    bytes
}

#[track_caller]
fn refused(bytes: &[u8], facts: &Facts, expected: &Expected, wanted: Refused, reason: &str) {
    assert_eq!(accept(bytes, facts, expected), Err(wanted));
    assert_eq!(wanted.reason(), reason);
}

#[test]
fn what_is_wrong_in_itself_is_refused_by_its_reason() {
    let ours = expected(GOLDEN_V2);
    let row = |changes: &[(usize, u8)], error: DecodeError, reason| {
        let bytes = forged(GOLDEN_V2, &facts(), changes);
        refused(&bytes, &facts(), &ours, Refused::Packet(error), reason);
    };
    row(&[(0, 0x11)], DecodeError::Version(1), "version");
    row(&[(0, 0x41)], DecodeError::Version(4), "version");
    row(&[(0, 0x22)], DecodeError::Type(2), "type");
    row(&[(3, 2)], DecodeError::Length { got: 20, wanted: 24 }, "length");
    row(&[(3, 0)], DecodeError::Length { got: 20, wanted: 16 }, "length");
    row(&[(5, 0)], DecodeError::NoInterval, "interval_zero");
    let bytes = hex(GOLDEN_V2);
    for length in 0..bytes.len() {
        let wanted = if length < 8 { 8 } else { 20 };
        let error = DecodeError::Length { got: length, wanted };
        refused(&bytes[..length], &facts(), &ours, Refused::Packet(error), "length");
    }
    // Padding is the caller's to cut off: nobody knows whether it is part of the message.
    let mut long = bytes.clone();
    long.push(0);
    let error = DecodeError::Length { got: 21, wanted: 20 };
    refused(&long, &facts(), &ours, Refused::Packet(error), "length");
    let mut wrong = bytes;
    wrong[2] = 151;
    refused(&wrong, &facts(), &ours, Refused::Packet(DecodeError::Checksum), "checksum");
    // The checksum covers the authentication data.
    let mut wrong = hex(GOLDEN_V2);
    wrong[19] = 1;
    refused(&wrong, &facts(), &ours, Refused::Packet(DecodeError::Checksum), "checksum");
    let empty = forged("3133960000640000", &facts(), &[]);
    let error = Refused::Packet(DecodeError::NoAddress);
    refused(&empty, &facts(), &expected(GOLDEN_V3), error, "address_count");
    // Version 2 is IPv4's.
    let v6 = forged(GOLDEN_V2, &facts_v6(), &[]);
    let error = Refused::Packet(DecodeError::Version(2));
    refused(&v6, &facts_v6(), &expected(GOLDEN_V6), error, "version");
}

#[test]
fn what_does_not_fit_the_datagram_is_refused_by_its_reason() {
    let (bytes, ours) = (hex(GOLDEN_V3), expected(GOLDEN_V3));
    let row = |facts: Facts, wanted, reason| refused(&bytes, &facts, &ours, wanted, reason);
    // RFC 9568 section 5.1.1.3: MUST be 255.
    row(Facts { ttl: 254, ..facts() }, Refused::Ttl(254), "ttl");
    row(Facts { interface: 8, ..facts() }, Refused::Interface, "interface");
    row(Facts { destination: host(5), ..facts() }, Refused::Destination, "destination");
    row(Facts { source: host(5), ..facts() }, Refused::OwnAddress, "own_address");
    row(facts_v6(), Refused::Family, "family");
}

#[test]
fn unicast_is_between_peers_and_says_nothing_by_its_ttl() {
    let facts = Facts { ttl: 17, destination: host(5), ..facts() };
    let bytes = encode(&packet_v3(), host(1), host(5)).expect("it can be said");
    let unicast = |peers| Expected { peers, ..expected(GOLDEN_V3) };
    assert!(accept(&bytes, &facts, &unicast(vec![host(1), host(2)])).is_ok());
    refused(&bytes, &facts, &unicast(vec![host(2)]), Refused::Peer, "peer");
    let multicast = Facts { destination: GROUP_V4.into(), ..facts };
    refused(&bytes, &multicast, &unicast(vec![host(1)]), Refused::Destination, "destination");
}

#[test]
fn what_does_not_fit_the_configuration_is_refused_by_its_reason() {
    let (bytes, ours) = (hex(GOLDEN_V2), expected(GOLDEN_V2));
    let row = |changes: &[(usize, u8)], wanted, reason| {
        refused(&forged(GOLDEN_V2, &facts(), changes), &facts(), &ours, wanted, reason);
    };
    row(&[(1, 52)], Refused::Vrid(52), "vrid");
    row(&[(4, 0)], Refused::AuthType, "auth_type");
    row(&[(4, 2)], Refused::AuthType, "auth_type");
    row(&[(12, 0x32)], Refused::Password, "auth_password");
    row(&[(19, 1)], Refused::Password, "auth_password");
    // RFC 3768 section 7.1: MUST discard.
    row(&[(5, 2)], Refused::Interval(millis(Version::V2, 2000)), "interval");
    let open = Expected { auth: Auth::None, ..ours };
    refused(&bytes, &facts(), &open, Refused::AuthType, "auth_type");
    refused(&bytes, &facts(), &expected(GOLDEN_V3), Refused::Version, "version");
}

#[test]
fn another_interval_in_version_3_and_another_list_are_accepted_and_reported() {
    let bytes = forged(GOLDEN_V3, &facts(), &[(4, 0xf0), (5, 0x02)]);
    let accepted = accept(&bytes, &facts(), &expected(GOLDEN_V3)).expect("accepted");
    // 20 ms; the reserved bits are ignored.
    assert_eq!(accepted.advert.interval, millis(Version::V3, 20));
    let bytes = forged(GOLDEN_V3, &facts(), &[(11, 101)]);
    let accepted = accept(&bytes, &facts(), &expected(GOLDEN_V3)).expect("accepted");
    assert!(!accepted.advert.same_addresses);
    // The order of the list is nobody's business, except that section 5.2.9 wants a link-local
    // address first.
    let mut addresses = v6_addresses();
    addresses.reverse();
    let packet = Packet { addresses, ..packet_v3() };
    let bytes = encode(&packet, SOURCE_V6.into(), GROUP_V6.into()).expect("it can be said");
    let accepted = accept(&bytes, &facts_v6(), &expected(GOLDEN_V6)).expect("accepted");
    assert!(accepted.advert.same_addresses && accepted.first_not_link_local);
}

#[test]
fn what_a_version_cannot_say_is_not_encoded() {
    let row = |packet: Packet, wanted| {
        assert_eq!(encode(&packet, host(1), GROUP_V4.into()), Err(wanted), "{packet:?}");
    };
    let addresses = |count: usize| vec![host(1); count];
    row(Packet { addresses: vec![], ..packet_v3() }, EncodeError::AddressCount(0));
    row(Packet { addresses: addresses(256), ..packet_v3() }, EncodeError::AddressCount(256));
    row(Packet { addresses: v6_addresses(), ..packet_v3() }, EncodeError::Family);
    row(Packet { interval: millis(Version::V3, 100), ..packet_v2() }, EncodeError::Interval);
    row(Packet { interval: millis(Version::V2, 60_000), ..packet_v3() }, EncodeError::Interval);
    row(Packet { auth: packet_v2().auth, ..packet_v3() }, EncodeError::Auth);
    row(Packet { auth: Auth::Other(2), ..packet_v2() }, EncodeError::Auth);
    assert_eq!(Auth::pass(b"123456789"), None);
    assert_eq!(format!("{:?}", packet_v2().auth), "Pass(..)");
}

proptest! {
    #[test]
    fn what_is_encoded_is_decoded(
        v6: bool, v2: bool, pseudo: bool, vrid: u8, priority: u8, interval in 1_u16..256,
        password: Option<[u8; 8]>, addresses in prop::collection::vec(any::<u128>(), 1..256),
        ends: (u128, u128),
    ) {
        let v2 = v2 && !v6;
        let address = |bits: u128| match v6 {
            true => IpAddr::V6(bits.into()),
            false => IpAddr::V4((bits as u32).into()),
        };
        let seconds = Interval::from_seconds(interval as u8).unwrap_or(millis(Version::V2, 1000));
        let centiseconds = Interval::from_centiseconds(interval).expect("not 0");
        let plain = v2 || !(v6 || pseudo);
        let packet = Packet {
            version: if v2 { Version::V2 } else { Version::V3 },
            vrid,
            priority,
            interval: if v2 { seconds } else { centiseconds },
            auth: password.filter(|_| v2).map_or(Auth::None, Auth::Pass),
            checksum: if plain { Checksum::Message } else { Checksum::PseudoHeader },
            addresses: addresses.into_iter().map(address).collect(),
        };
        let (source, destination) = (address(ends.0), address(ends.1));
        let bytes = encode(&packet, source, destination).expect("it can be said");
        prop_assert_eq!(decode(&bytes, source, destination), Ok(packet));
    }
}
