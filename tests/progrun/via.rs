//! The programs of `via: service`: what leaves for a real server, and what its answers become,
//! byte by byte. Frames are built anew from what they must say; nothing of the product's reading or
//! rewriting is used.

use std::net::IpAddr;
use std::os::fd::AsFd;
use std::os::fd::OwnedFd;

use anyhow::{Result, ensure};
use harness::bpf::Run;
use harness::netns::require_root;
use lb_user::dataplane::bpf::ViaService;
use lb_user::model::Way;

use crate::frames::{Frame, L4, checksum, flag, hex, octets};

/// Verdicts of traffic control, as the kernel has them.
const NEXT: u32 = u32::MAX;
const DROP: u32 = 2;
/// The mark of way 0, and the one after it.
const MARK: u32 = 0x4c42_0000;

struct Hooks {
    via: ViaService,
    out: OwnedFd,
    back: OwnedFd,
    output: Vec<u8>,
}

impl Hooks {
    fn new() -> Result<Self> {
        require_root()?;
        let mut via = ViaService::load()?;
        let (out, back) = (via.program("lb_via_out")?, via.program("lb_via_in")?);
        Ok(Self { via, out, back, output: vec![0; 4096] })
    }

    /// What became of a marked packet: nothing when it was dropped.
    fn leave(&mut self, frame: &[u8], mark: u32) -> Result<Option<(Vec<u8>, u32)>> {
        let run = Run::default().on_packet(self.out.as_fd(), (frame, mark), &mut self.output)?;
        let (ran, mark) = run;
        match ran.verdict {
            NEXT => Ok(Some((self.output[..ran.length].to_vec(), mark))),
            DROP => Ok(None),
            other => anyhow::bail!("verdict {other}"),
        }
    }

    fn come(&mut self, frame: &[u8]) -> Result<Vec<u8>> {
        let run = Run::default().on_packet(self.back.as_fd(), (frame, 0), &mut self.output)?;
        ensure!(run.0.verdict == NEXT, "verdict {}", run.0.verdict);
        Ok(self.output[..run.0.length].to_vec())
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

/// The director, a real server and a virtual address of one family.
fn hosts(v6: bool) -> [IpAddr; 3] {
    if v6 {
        ["fd00:1::1", "fd00:1::11", "2001:db8::50"].map(ip)
    } else {
        ["10.0.1.1", "10.0.1.11", "203.0.113.50"].map(ip)
    }
}

fn way(v6: bool, tunnel: bool) -> Way {
    let [_, server, vip] = hosts(v6);
    Way { vip, server, tunnel }
}

/// A probe's packet as its socket sends it.
fn probe(v6: bool, l4: L4) -> Frame {
    let [director, server, _] = hosts(v6);
    let mut frame = Frame::new(l4, (director, 40_000), (server, 80));
    (frame.to, frame.from) = ([2, 0, 0, 0, 1, 11], [2, 0, 0, 0, 1, 1]);
    frame
}

/// The answer as the real server sends it, and as the socket must see it.
fn answer(v6: bool, l4: L4) -> (Frame, Frame) {
    let [director, server, vip] = hosts(v6);
    let mut sent = Frame::new(l4, (vip, 80), (director, 40_000));
    sent.payload = b"an answer".to_vec();
    (sent.clone(), Frame { source: server, ..sent })
}

const TYPES: [L4; 4] = [L4::Tcp(flag::SYN), L4::Tcp(flag::ACK), L4::Udp, L4::UdpUnsummed];

fn equal(got: &[u8], wanted: &[u8], what: &str) -> Result<()> {
    ensure!(got == wanted, "{what}: \n{}not\n{}", hex(got), hex(wanted));
    Ok(())
}

#[test]
fn a_marked_packet_goes_to_the_virtual_address_and_its_answer_comes_from_the_server() -> Result<()>
{
    let mut hooks = Hooks::new()?;
    for v6 in [false, true] {
        hooks.via.set(3, Some(&way(v6, false)))?;
        let [_, _, vip] = hosts(v6);
        for l4 in TYPES.into_iter().filter(|l4| !(v6 && *l4 == L4::UdpUnsummed)) {
            let what = format!("{l4:?}, IPv6 {v6}");
            let (sent, seen) = answer(v6, l4);
            let untold = Frame { ports: (80, 39_999), ..sent.clone() };
            let frame = probe(v6, l4);
            let (got, mark) = hooks.leave(&frame.bytes(), MARK | 3)?.expect("it goes on");
            equal(&got, &Frame { destination: vip, ..frame.clone() }.bytes(), &what)?;
            ensure!(mark == 0, "mark {mark:x}");
            equal(&hooks.come(&sent.bytes())?, &seen.bytes(), &what)?;
            // Another port, or another protocol, is somebody else's.
            equal(&hooks.come(&untold.bytes())?, &untold.bytes(), "another port")?;
            let other =
                Frame { source: ip(if v6 { "2001:db8::51" } else { "203.0.113.51" }), ..sent };
            equal(&hooks.come(&other.bytes())?, &other.bytes(), "another address")?;
        }
    }
    Ok(())
}

#[test]
fn through_a_tunnel_it_gets_an_outer_header_to_the_server() -> Result<()> {
    let mut hooks = Hooks::new()?;
    for v6 in [false, true] {
        hooks.via.set(0, Some(&way(v6, true)))?;
        let [director, server, vip] = hosts(v6);
        for l4 in TYPES.into_iter().filter(|l4| !(v6 && *l4 == L4::UdpUnsummed)) {
            let what = format!("{l4:?}, IPv6 {v6}");
            let frame = probe(v6, l4);
            let (got, mark) = hooks.leave(&frame.bytes(), MARK)?.expect("it goes on");
            let mut outer =
                Frame::new(L4::Raw(if v6 { 41 } else { 4 }), (director, 0), (server, 0));
            (outer.to, outer.from) = (frame.to, frame.from);
            outer.payload = Frame { destination: vip, ..frame.clone() }.bytes()[14..].to_vec();
            let mut wanted = outer.bytes();
            if v6 {
                ensure!(got[15] & 0xf | got[16] | got[17] != 0, "no flow label");
                wanted[15..18].copy_from_slice(&got[15..18]);
                wanted[15] = wanted[15] & 0xf | frame.bytes()[15] & 0xf0;
            } else {
                // Don't Fragment, and so no identification.
                wanted[18..22].copy_from_slice(&[0, 0, 0x40, 0]);
                wanted[24..26].fill(0);
                let sum = checksum(&[&wanted[14..34]]).to_be_bytes();
                wanted[24..26].copy_from_slice(&sum);
            }
            equal(&got, &wanted, &what)?;
            ensure!(mark == 0, "mark {mark:x}");
            let (sent, seen) = answer(v6, l4);
            equal(&hooks.come(&sent.bytes())?, &seen.bytes(), &what)?;
        }
    }
    Ok(())
}

#[test]
fn what_is_not_marked_is_not_touched_and_what_cannot_go_its_way_is_dropped() -> Result<()> {
    let mut hooks = Hooks::new()?;
    for v6 in [false, true] {
        for tunnel in [false, true] {
            hooks.via.set(5, Some(&way(v6, tunnel)))?;
            let frame = probe(v6, L4::Tcp(flag::SYN));
            for mark in [0, 5, 0x4c43_0005, 0x4c41_0005, 0xffff_ffff] {
                let (got, after) = hooks.leave(&frame.bytes(), mark)?.expect("it goes on");
                equal(&got, &frame.bytes(), "not marked")?;
                ensure!(after == mark, "mark {after:x}");
            }
            let elsewhere = Frame { destination: hosts(v6)[0], ..frame.clone() };
            let icmp = Frame { l4: L4::Raw(1), ..frame.clone() };
            let mut odd =
                vec![(elsewhere, 5), (icmp, 5), (frame.clone(), 4), (frame.clone(), 0xffff)];
            if !v6 {
                odd.push((Frame { fragment: 0x2000, ..frame.clone() }, 5));
                odd.push((Frame { fragment: 0x0001, ..frame.clone() }, 5));
            }
            odd.push((Frame { tags: vec![(0x8100, 7)], ..frame.clone() }, 5));
            for (frame, index) in odd {
                let left = hooks.leave(&frame.bytes(), MARK | index)?;
                ensure!(left.is_none(), "way {index} took {frame:?}");
            }
            hooks.via.set(5, None)?;
            ensure!(hooks.leave(&frame.bytes(), MARK | 5)?.is_none(), "a way that was taken back");
        }
    }
    Ok(())
}

/// An ICMP error about `quoted`, with its checksum.
fn complaint(source: IpAddr, director: IpAddr, quoted: &Frame) -> Frame {
    let v6 = source.is_ipv6();
    let mut icmp = vec![if v6 { 1 } else { 3 }, if v6 { 4 } else { 3 }, 0, 0, 0, 0, 0, 0];
    icmp.extend(&quoted.bytes()[14..]);
    let length = (icmp.len() as u32).to_be_bytes();
    let pseudo = [&octets(source)[..], &octets(director), &length, &[0, 0, 0, 58]].concat();
    let sum = if v6 { checksum(&[&pseudo, &icmp]) } else { checksum(&[&icmp]) };
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let protocol = L4::Raw(if v6 { 58 } else { 1 });
    Frame { payload: icmp, ..Frame::new(protocol, (source, 0), (director, 0)) }
}

#[test]
fn errors_about_a_probe_reach_its_socket() -> Result<()> {
    let mut hooks = Hooks::new()?;
    for v6 in [false, true] {
        hooks.via.set(0, Some(&way(v6, false)))?;
        let [director, server, vip] = hosts(v6);
        let router = if v6 { ip("fd00:1::3") } else { ip("10.0.1.3") };
        // An even payload: checksums are summed in parts.
        let frame = Frame { payload: b"question".to_vec(), ..probe(v6, L4::UdpUnsummed) };
        let led = Frame { destination: vip, ..frame.clone() };
        hooks.leave(&Frame { l4: L4::Udp, ..frame.clone() }.bytes(), MARK)?.expect("it goes on");
        for (source, seen) in [(vip, server), (router, router)] {
            let error = complaint(source, director, &led);
            let wanted = complaint(seen, director, &frame);
            equal(&hooks.come(&error.bytes())?, &wanted.bytes(), &format!("from {source}"))?;
        }
        let foreign = complaint(vip, director, &Frame { ports: (1, 2), ..led });
        equal(&hooks.come(&foreign.bytes())?, &foreign.bytes(), "about another packet")?;
    }
    Ok(())
}
