//! The real servers' program: what is unpacked, byte by byte, and what is left alone.
//!
//! An oracle of its own reads each frame in the plainest way; nothing of the product's reading or
//! rewriting is used.

use std::net::IpAddr;

use anyhow::{Context, Result, ensure};
use harness::bpf::Run;
use harness::netns::require_root;
use lb_common::decap::Count;
use lb_user::dataplane::bpf::Decapsulator;

use crate::dice::{Dice, seed};
use crate::frames::{Frame, L4, checksum, hex, octets};
use crate::rig::{DROP, PASS};

/// What must become of a frame.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Fate {
    Untouched,
    Dropped,
    Unpacked(Vec<u8>),
}

/// The loaded program with its addresses, and the oracle that knows them.
struct Unpacker {
    program: Decapsulator,
    vips: Vec<Vec<u8>>,
    output: Vec<u8>,
}

impl Unpacker {
    fn new() -> Result<Self> {
        require_root()?;
        let mut program = Decapsulator::load()?;
        for vip in [VIP4, VIP6] {
            ensure!(program.add(ip(vip))?, "{vip} was there");
            ensure!(!program.add(ip(vip))?, "{vip} was not there");
        }
        let vips = [VIP4, VIP6].map(|vip| octets(ip(vip))).to_vec();
        Ok(Self { program, vips, output: vec![0; 8192] })
    }

    fn run(&mut self, frame: &[u8]) -> Result<Fate> {
        let ran = Run::default().on(self.program.program(), frame, &mut self.output)?;
        let output = &self.output[..ran.length];
        Ok(match ran.verdict {
            DROP => Fate::Dropped,
            PASS if output == frame => Fate::Untouched,
            PASS => Fate::Unpacked(output.to_vec()),
            other => anyhow::bail!("verdict {other}"),
        })
    }

    /// Runs a frame and compares with the oracle, and with what the test expects.
    fn check(&mut self, frame: &[u8], expected: &Fate, what: &str) -> Result<()> {
        let fate = self.run(frame)?;
        ensure!(fate == *expected, "{what}: {fate:?}, not {expected:?}, of\n{}", hex(frame));
        let said = oracle(frame, &self.vips);
        ensure!(said == *expected, "the oracle is wrong on {what}: {said:?}");
        Ok(())
    }
}

/// Reads a frame and says its fate.
fn oracle(frame: &[u8], vips: &[Vec<u8>]) -> Fate {
    unpacked(frame, vips).unwrap_or(Fate::Untouched)
}

fn unpacked(frame: &[u8], vips: &[Vec<u8>]) -> Option<Fate> {
    let word = |at: usize| Some(u16::from_be_bytes([*frame.get(at)?, *frame.get(at + 1)?]));
    let mut l3 = 14;
    while l3 < 22 && (word(l3 - 2)? == 0x8100 || l3 == 14 && word(l3 - 2)? == 0x88a8) {
        l3 += 4;
    }
    let outer = frame.get(l3..)?;
    let (protocol, length, end, mark) = match (word(l3 - 2)?, outer.first()? >> 4) {
        (0x0800, 4) => {
            let length = usize::from(outer[0] & 15) * 4;
            let head = outer.get(..length.max(20))?;
            if length < 20 || head[6] & 0x3f != 0 || head[7] != 0 || checksum(&[head]) != 0 {
                return None;
            }
            (head[9], length, usize::from(word(l3 + 2)?), head[1] & 3)
        }
        (0x86dd, 6) => {
            let head = outer.get(..40)?;
            let end = 40 + usize::from(word(l3 + 4)?);
            let mark = head[1] >> 4 & 3;
            match head[6] {
                60 => {
                    let options = outer.get(40..48)?;
                    if options[1] != 0 || !is_only_limit(&options[2..]) {
                        return None;
                    }
                    (options[0], 48, end, mark)
                }
                next => (next, 40, end, mark),
            }
        }
        _ => return None,
    };
    let inner = outer.get(length..)?;
    let (ethertype, head, destination) = match (protocol, inner.first()? >> 4) {
        (4, 4) if inner[0] & 15 >= 5 => ([8, 0], inner.get(..20)?, inner.get(16..20)?),
        (41, 6) => ([0x86, 0xdd], inner.get(..40)?, inner.get(24..40)?),
        _ => return None,
    };
    if length + head.len() > end || !vips.iter().any(|vip| vip == destination) {
        return None;
    }
    let mut packet = inner.to_vec();
    let own = if protocol == 4 { packet[1] & 3 } else { packet[1] >> 4 & 3 };
    // RFC 6040, figure 4.
    let new = match (mark, own) {
        (3, 0) => return Some(Fate::Dropped),
        (3, _) => 3,
        (1, 2) => 1,
        _ => own,
    };
    if new != own && protocol == 4 {
        // One's complement: the sum moves with the field, whatever it was (RFC 1624).
        let sum = u32::from(!u16::from_be_bytes([packet[10], packet[11]]));
        let mut sum = sum + u32::from(new) + 0xffff - u32::from(own);
        sum = (sum & 0xffff) + (sum >> 16);
        sum = (sum & 0xffff) + (sum >> 16);
        packet[1] = packet[1] & !3 | new;
        packet[10..12].copy_from_slice(&(!(sum as u16)).to_be_bytes());
    } else if new != own {
        packet[1] = packet[1] & 0xcf | new << 4;
    }
    Some(Fate::Unpacked([&frame[..l3 - 2], &ethertype, &packet].concat()))
}

/// Six bytes of options: the tunnel encapsulation limit and padding on one side of it.
fn is_only_limit(options: &[u8]) -> bool {
    matches!(
        options,
        [4, 1, _, 1, 1, _] | [4, 1, _, 0, 0, 0] | [1, 1, _, 4, 1, _] | [0, 0, 0, 4, 1, _]
    )
}

/// A request to a virtual address, tunnelled over the other family or the same.
fn tunnelled(outer6: bool, inner6: bool, l4: L4) -> (Frame, Frame) {
    let (client, vip) = if inner6 { (CLIENT6, VIP6) } else { (CLIENT4, VIP4) };
    let inner = Frame::new(l4, (ip(client), 40_000), (ip(vip), 443));
    let (director, server) = if outer6 { (DIRECTOR6, SERVER6) } else { (DIRECTOR4, SERVER4) };
    let protocol = L4::Raw(if inner6 { 41 } else { 4 });
    let mut outer = Frame::new(protocol, (ip(director), 0), (ip(server), 0));
    outer.payload = packet(&inner);
    (outer, inner)
}

/// A frame without its Ethernet header.
fn packet(frame: &Frame) -> Vec<u8> {
    frame.bytes()[14 + 4 * frame.tags.len()..].to_vec()
}

/// Gives a packet another congestion field, and its header the checksum that belongs to it.
fn mark(packet: &mut [u8], value: u8) {
    if packet[0] >> 4 == 6 {
        packet[1] = packet[1] & 0xcf | value << 4;
        return;
    }
    packet[1] = packet[1] & !3 | value;
    packet[10..12].fill(0);
    let length = usize::from(packet[0] & 15) * 4;
    let sum = checksum(&[&packet[..length]]).to_be_bytes();
    packet[10..12].copy_from_slice(&sum);
}

/// The frame that the stack must see: the inner packet under the outer frame's link header.
fn bare(outer: &Frame, inner: &Frame) -> Vec<u8> {
    let (to, from, tags) = (outer.to, outer.from, outer.tags.clone());
    Frame { to, from, tags, ..inner.clone() }.bytes()
}

#[test]
fn all_pairs_of_families_are_unpacked_with_tags_options_and_padding() {
    check(|unpacker| {
        let limit = |rest: [u8; 6]| vec![(60, [&[0, 0][..], &rest].concat())];
        let mut count = 0;
        for (outer6, inner6) in PAIRS {
            for l4 in [L4::Tcp(2), L4::Udp] {
                for tags in [&[][..], &[(0x8100, 5)], &[(0x88a8, 7)], &[(0x88a8, 7), (0x8100, 9)]] {
                    for options in [&[][..], &[1; 4], &[1; 20], &[1; 40]] {
                        let (mut outer, inner) = tunnelled(outer6, inner6, l4);
                        (outer.to, outer.from) = ([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
                        outer.tags = tags.to_vec();
                        match (outer6, options.len()) {
                            (false, _) => outer.options = options.to_vec(),
                            (true, 4) => outer.extensions = limit([4, 1, 4, 1, 1, 0]),
                            (true, 20) => outer.extensions = limit([0, 0, 0, 4, 1, 4]),
                            (true, _) => outer.padding = 3,
                        }
                        let mut wanted = bare(&outer, &inner);
                        wanted.extend(&outer.bytes()[outer.bytes().len() - outer.padding..]);
                        let what = format!("{outer:?}");
                        unpacker.check(&outer.bytes(), &Fate::Unpacked(wanted), &what)?;
                        count += 1;
                    }
                }
            }
        }
        ensure!(unpacker.program.count(Count::Unpacked)? == count, "not {count} counted");
        Ok(())
    });
}

#[test]
fn congestion_marks_are_carried_over_as_rfc_6040_says() {
    check(|unpacker| {
        // Figure 4, by codepoint: the rows are inner Not-ECT, ECT(1), ECT(0), CE; 9 is the drop.
        let table = [[0, 0, 0, 9], [1, 1, 1, 3], [2, 1, 2, 3], [3, 3, 3, 3]];
        for (outer6, inner6) in PAIRS {
            for (own, row) in (0..).zip(table) {
                for (outer_mark, new) in (0..).zip(row) {
                    let (mut outer, mut inner) = tunnelled(outer6, inner6, L4::Udp);
                    let mut marked = packet(&inner);
                    mark(&mut marked, own);
                    outer.payload.clone_from(&marked);
                    let mut bytes = outer.bytes();
                    mark(&mut bytes[14..], outer_mark);
                    inner.payload.clear();
                    mark(&mut marked, new & 3);
                    let ethertype = if inner6 { [0x86, 0xdd] } else { [8, 0] };
                    let wanted = match new {
                        9 => Fate::Dropped,
                        _ => Fate::Unpacked([&[0; 12][..], &ethertype, &marked].concat()),
                    };
                    let what = format!("{outer6} {inner6}: {outer_mark} over {own}");
                    unpacker.check(&bytes, &wanted, &what)?;
                }
            }
        }
        ensure!(unpacker.program.count(Count::Congested)? == 4, "not four drops counted");
        Ok(())
    });
}

#[test]
fn what_is_not_tunnelled_to_a_virtual_address_passes_untouched() {
    check(|unpacker| {
        for (outer6, inner6) in PAIRS {
            let (outer, inner) = tunnelled(outer6, inner6, L4::Tcp(2));
            let mut untouched = vec![inner.clone()];
            let mut foreign = inner.clone();
            foreign.destination = ip(if inner6 { "2001:db8::51" } else { "203.0.113.51" });
            untouched.push(Frame { payload: packet(&foreign), ..outer.clone() });
            if outer6 {
                let with = |extensions| Frame { extensions, ..outer.clone() };
                untouched.push(with(vec![(44, vec![0, 0, 0, 1, 0, 0, 0, 1])]));
                untouched.push(with(vec![(0, vec![0; 8])]));
                untouched.push(with(vec![(60, vec![0, 0, 0xc2, 4, 0, 0, 1, 0])]));
            } else {
                for fragment in [0x2000, 0x0001, 0x2001, 0x1fff] {
                    untouched.push(Frame { fragment, ..outer.clone() });
                }
            }
            let wrong = L4::Raw(if inner6 { 4 } else { 41 });
            for l4 in [wrong, L4::Raw(47), L4::Raw(1), L4::Udp] {
                untouched.push(Frame { l4, ..outer.clone() });
            }
            for frame in untouched {
                let what = format!("{frame:?}");
                unpacker.check(&frame.bytes(), &Fate::Untouched, &what)?;
            }
        }
        ensure!(unpacker.program.count(Count::Unpacked)? == 0, "something was counted");
        Ok(())
    });
}

#[test]
fn truncated_frames_are_unpacked_only_when_both_headers_are_whole() {
    check(|unpacker| {
        for (outer6, inner6) in PAIRS {
            let (outer, _) = tunnelled(outer6, inner6, L4::Tcp(2));
            let whole = outer.bytes();
            let headers = if outer6 { 54 } else { 34 } + if inner6 { 40 } else { 20 };
            for length in 14..whole.len() {
                let cut = &whole[..length];
                let fate = unpacker.run(cut)?;
                ensure!(matches!(fate, Fate::Unpacked(_)) == (length >= headers), "{length}");
                ensure!(oracle(cut, &unpacker.vips) == fate, "{length}: {fate:?}");
            }
        }
        Ok(())
    });
}

#[test]
fn an_address_that_was_removed_is_no_longer_unpacked_to() {
    check(|unpacker| {
        let (outer, inner) = tunnelled(false, false, L4::Udp);
        unpacker.check(&outer.bytes(), &Fate::Unpacked(bare(&outer, &inner)), "present")?;
        let mut found = Decapsulator::find(unpacker.program.id())?.context("it is loaded")?;
        found.remove(ip(VIP4))?;
        found.remove(ip(VIP4))?;
        unpacker.vips.remove(0);
        unpacker.check(&outer.bytes(), &Fate::Untouched, "removed")
    });
}

#[test]
fn mutated_frames_meet_the_fate_that_the_oracle_says() {
    check(|unpacker| {
        let seen = fuzz(unpacker, FRAMES)?;
        println!("untouched, dropped, unpacked: {seen:?}");
        ensure!(seen.iter().all(|&count| count > FRAMES / 200), "{seen:?}");
        Ok(())
    });
}

#[test]
fn the_oracle_sees_an_address_that_it_was_not_told_of() {
    check(|unpacker| {
        unpacker.vips.pop();
        let said = fuzz(unpacker, 10_000).err().context("nobody noticed")?.to_string();
        ensure!(said.contains("not Untouched"), "{said}");
        Ok(())
    });
}

/// Good frames, each mutated none to three times; how often each fate was met.
fn fuzz(unpacker: &mut Unpacker, frames: u64) -> Result<[u64; 3]> {
    let seed = seed(0x64_6563_6170);
    let mut dice = Dice::new(seed);
    let mut good = Vec::new();
    for (outer6, inner6) in PAIRS {
        for tags in [&[][..], &[(0x8100, 5)], &[(0x88a8, 7), (0x8100, 9)]] {
            let (mut outer, _) = tunnelled(outer6, inner6, L4::Udp);
            outer.tags = tags.to_vec();
            good.push(outer.bytes());
            if outer6 {
                outer.extensions = vec![(60, vec![0, 0, 4, 1, 4, 1, 1, 0])];
            } else {
                outer.options = vec![1; 8];
            }
            good.push(outer.bytes());
        }
    }
    let mut seen = [0; 3];
    for n in 0..frames {
        let mut frame = dice.pick(&good).clone();
        let l3 = 14
            + 4 * frame[12..22].chunks(4).take_while(|tag| matches!(tag[0], 0x81 | 0x88)).count();
        if dice.one_in(2) {
            mark(&mut frame[l3..], *dice.pick(&[0, 1, 2, 3]));
        }
        for _ in 0..dice.below(4) {
            let near = 12 + dice.below(90);
            let near = near.min(frame.len() - 1);
            match dice.below(5) {
                0 => frame[near] ^= 1 << dice.below(8),
                1 => frame[near] = *dice.pick(&[0, 1, 4, 6, 8, 41, 44, 60, 0x45, 0x60, 0x81]),
                2 => frame.truncate(near.max(14)),
                3 => frame.insert(near, dice.next() as u8),
                _ => {
                    // What was changed in the outer header so far is not betrayed by its sum.
                    let first = frame.get(l3).copied().unwrap_or(0);
                    let length = usize::from(first & 15) * 4;
                    let head = frame.get_mut(l3..l3 + length).filter(|head| head.len() >= 20);
                    if let Some(head) = head.filter(|_| first >> 4 == 4) {
                        let own = head[1] & 3;
                        mark(head, own);
                    }
                }
            }
        }
        let fate = unpacker.run(&frame).with_context(|| format!("frame {n}, seed {seed:#x}"))?;
        let expected = oracle(&frame, &unpacker.vips);
        ensure!(
            fate == expected,
            "frame {n}, LB_SIM_SEED={seed:#x}: {fate:?}, not {expected:?}, of\n{}",
            hex(&frame)
        );
        seen[match fate {
            Fate::Untouched => 0,
            Fate::Dropped => 1,
            Fate::Unpacked(_) => 2,
        }] += 1;
    }
    Ok(seen)
}

#[track_caller]
fn check(body: impl FnOnce(&mut Unpacker) -> Result<()>) {
    if let Err(error) = Unpacker::new().and_then(|mut unpacker| body(&mut unpacker)) {
        panic!("{error:#}");
    }
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

const PAIRS: [(bool, bool); 4] = [(false, false), (false, true), (true, false), (true, true)];
const VIP4: &str = "203.0.113.50";
const VIP6: &str = "2001:db8::50";
const CLIENT4: &str = "198.51.100.7";
const CLIENT6: &str = "2001:db8:1::7";
const DIRECTOR4: &str = "10.0.0.1";
const DIRECTOR6: &str = "fd00::1";
const SERVER4: &str = "10.0.0.11";
const SERVER6: &str = "fd00::11";
const FRAMES: u64 = 100_000;
