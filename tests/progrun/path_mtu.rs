//! Packets that do not fit the way to their server: what their senders are told, byte for byte.

use anyhow::{Result, ensure};
use lb_common::service::{METHOD_DR, METHOD_NAT, METHOD_TUNNEL};
use lb_common::verdict::Counter;

use crate::frames::{Frame, L4, checksum, flag, octets};
use crate::rig::*;
use crate::services::*;
use crate::tunnels;

/// A service of a method and family, with a server behind a narrow path.
pub(crate) fn narrow(rig: &mut Rig, method: u8, v6: bool, mtu: u16) -> Result<Installed> {
    let mut wanted = match method {
        METHOD_TUNNEL => tunnels::wanted(TCP, v6, v6, 1),
        _ => Wanted::new(method, TCP, vip(v6, 80 + u16::from(method)), &servers(v6, 1, 80)),
    };
    wanted.mtu = mtu;
    rig.install(&wanted)
}

/// A packet of exactly this many bytes, Don't Fragment set.
pub(crate) fn sized(service: &Installed, client: End, bytes: u64) -> Frame {
    let mut frame = service.request(L4::Tcp(flag::SYN), client);
    frame.fragment = 0x4000;
    frame.payload.clear();
    let head = frame.ip_length();
    frame.payload = (0..bytes - head).map(|n| n as u8).collect();
    assert_eq!(frame.ip_length(), bytes);
    frame
}

/// What the sender of `request` is told: `quote` bytes of it back.
pub(crate) fn told(request: &Frame, mtu: u16, quote: usize) -> Vec<u8> {
    let bytes = request.bytes();
    let head = 14 + 4 * request.tags.len();
    let mut out = [request.from, request.to].concat();
    out.extend(&bytes[12..head]);
    let ends = [octets(request.destination), octets(request.source)].concat();
    let mtu = u32::from(mtu).to_be_bytes();
    let v6 = request.source.is_ipv6();
    let mut icmp = vec![if v6 { 2 } else { 3 }, if v6 { 0 } else { 4 }, 0, 0];
    icmp.extend(mtu);
    icmp.extend(&bytes[head..head + quote]);
    let length = icmp.len() as u16;
    if v6 {
        out.extend([0x6c, 0, 0, 0]);
        out.extend(length.to_be_bytes());
        out.extend([58, 64]);
        let sum = checksum(&[&ends, &u32::from(length).to_be_bytes(), &[0, 0, 0, 58], &icmp]);
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    } else {
        let mut ip = vec![0x45, 0xc0];
        ip.extend((length + 20).to_be_bytes());
        ip.extend([0, 0, 0x40, 0, 64, 1]);
        let sum = checksum(&[&ip, &ends]);
        out.extend(ip);
        out.extend(sum.to_be_bytes());
        let sum = checksum(&[&icmp]);
        icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    }
    out.extend(ends);
    out.extend(icmp);
    out
}

#[track_caller]
fn tells(rig: &mut Rig, request: &Frame, expected: &[u8], counter: Counter) {
    let (out, counted) = rig.observe(&request.bytes(), CLIENT_SIDE);
    assert_eq!(out.verdict, TX, "{counted:?}");
    assert_same(&out.frame, expected);
    assert_eq!(drops_in(&counted), 0, "{counted:?}");
    assert_eq!(counted.get(counter.name()), Some(&1), "{counted:?}");
}

const METHODS: [u8; 3] = [METHOD_DR, METHOD_NAT, METHOD_TUNNEL];
/// Bytes that are quoted of a packet that has them.
const fn quote(v6: bool) -> usize {
    if v6 { 1232 } else { 528 }
}

#[test]
fn what_just_fits_goes_on_and_one_byte_more_is_told() {
    with(1000, |rig| {
        for method in METHODS {
            for v6 in [false, true] {
                let service = narrow(rig, method, v6, 1400)?;
                for tags in [&[][..], &[(0x8100, 5)], &[(0x88a8, 1), (0x8100, 2)]] {
                    let fits =
                        Frame { tags: tags.to_vec(), ..sized(&service, client(v6, 0), 1400) };
                    if method == METHOD_TUNNEL {
                        tunnels::tunnels(rig, &service, &fits, 0);
                    } else {
                        rig.becomes(&fits, CLIENT_SIDE, &service.sent(&fits, 0), REDIRECT);
                    }
                    // Established, and as the first packet of another client.
                    for n in [0, 1] {
                        let over =
                            Frame { tags: tags.to_vec(), ..sized(&service, client(v6, n), 1401) };
                        let expected = told(&over, 1400, quote(v6));
                        tells(rig, &over, &expected, Counter::PathMtuTold);
                    }
                }
            }
        }
        Ok(())
    });
}

#[test]
fn an_unknown_mtu_stops_nothing() {
    with(1000, |rig| {
        for v6 in [false, true] {
            let service = narrow(rig, METHOD_DR, v6, 0)?;
            let big = sized(&service, client(v6, 0), 3000);
            rig.becomes(&big, CLIENT_SIDE, &service.sent(&big, 0), REDIRECT);
        }
        Ok(())
    });
}

#[test]
fn over_a_very_small_mtu_little_is_quoted_and_ipv6_is_never_told_less_than_its_minimum() {
    with(1000, |rig| {
        let service = narrow(rig, METHOD_NAT, false, 100)?;
        let over = sized(&service, client(false, 0), 101);
        tells(rig, &over, &told(&over, 100, 68), Counter::PathMtuTold);
        let service = narrow(rig, METHOD_TUNNEL, true, 1240)?;
        let over = sized(&service, client(true, 0), 1281);
        tells(rig, &over, &told(&over, 1280, 1232), Counter::PathMtuTold);
        // It would have to be fragmented behind the outer header.
        let within = sized(&service, client(true, 0), 1280);
        rig.drops(&within, CLIENT_SIDE, Counter::TooBigUnfragmented);
        Ok(())
    });
}

#[test]
fn who_is_no_single_host_is_not_answered() {
    with(1000, |rig| {
        for (v6, from) in [(false, "224.0.0.9"), (false, "127.0.0.1"), (true, "ff02::1")] {
            let service = narrow(rig, METHOD_DR, v6, 1400)?;
            let over = sized(&service, (from.parse()?, 1), 1401);
            rig.drops(&over, CLIENT_SIDE, Counter::TooBig);
        }
        Ok(())
    });
}

#[test]
fn a_frame_that_is_shorter_than_it_says_is_dropped() {
    with(1000, |rig| {
        for v6 in [false, true] {
            let service = narrow(rig, METHOD_DR, v6, 1400)?;
            let over = sized(&service, client(v6, 0), 1401).bytes();
            for length in [14 + 60, 14 + 511] {
                let (out, counted) = rig.observe(&over[..length], CLIENT_SIDE);
                if out.verdict == TX {
                    // The smaller quote is there.
                    ensure!(!v6 && length == 14 + 511, "{counted:?}");
                } else {
                    assert_eq!(counted.get("not_rewritable"), Some(&1), "{length}: {counted:?}");
                }
            }
        }
        Ok(())
    });
}

#[test]
fn a_flood_of_too_big_packets_is_not_answered_with_a_flood() {
    with(1000, |rig| {
        let service = narrow(rig, METHOD_DR, false, 1400)?;
        let over = sized(&service, client(false, 0), 1401).bytes();
        let start = std::time::Instant::now();
        let ((), counted) =
            rig.counted(|rig| (0..5000).try_for_each(|_| rig.run(&over, CLIENT_SIDE).map(|_| ())))?;
        let seconds = start.elapsed().as_secs() + 1;
        let (told, dropped) = (counted["path_mtu_told"], counted["too_big"]);
        assert_eq!(told + dropped, 5000, "{counted:?}");
        // At most 1,000 in each second of one CPU; the rig may have moved between two.
        ensure!((1000..=2000 * (seconds + 1)).contains(&told), "{told} in {seconds} s");
        ensure!(seconds > 1 || dropped > 0, "{counted:?}");
        Ok(())
    });
}
