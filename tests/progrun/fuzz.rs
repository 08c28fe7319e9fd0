//! Random and mutated frames through the loaded program, judged by a classifier of its own.
//!
//! `LB_FUZZ_FRAMES` is their number, `LB_SIM_SEED` the seed.

use std::os::fd::AsFd;
use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use harness::bpf::Run;
use lb_common::service::METHOD_NAT;

use lb_common::verdict::{Counter, CounterKind};

use crate::census::Census;
use crate::classify::{Class, Served};
use crate::cut::cut;
use crate::dice::{Dice, seed};
use crate::frames::{Frame, L4, flag, hex, octets};
use crate::rig::*;
use crate::services::*;
use crate::{errors, tunnels};

/// Frames of a run, unless `LB_FUZZ_FRAMES` says otherwise.
const FRAMES: u64 = 1_000_000;

/// Frames between two looks at the counters, when nothing is dropped.
const CHUNK: u64 = 4096;

#[test]
fn frames_that_are_not_ours_pass_untouched_and_every_drop_has_one_reason() {
    with(4096, |rig| {
        let frames = match std::env::var("LB_FUZZ_FRAMES") {
            Ok(text) => text.parse().context("LB_FUZZ_FRAMES")?,
            Err(_) => FRAMES,
        };
        let seed = seed(0x6c62_6675_7a7a);
        let mut fuzzer = Fuzzer::new(rig, seed)?;
        let start = Instant::now();
        fuzzer.run(rig, frames).with_context(|| format!("LB_SIM_SEED={seed:#x}"))?;
        let seconds = start.elapsed().as_secs_f64();
        println!("{frames} frames in {seconds:.1} s, seed {seed:#x}: {:?}", fuzzer.seen);
        // A short run need not meet everything.
        let full = frames >= FRAMES / 10;
        if full {
            fuzzer.seen.is_varied(frames)?;
        }
        let census = Census::take(rig)?;
        let drift = census.drift(rig, &fuzzer.servers)?;
        ensure!(drift == 0, "the counts are off by {drift}: {census:?}");
        ensure!(census.orphans + census.widows + census.busy + census.twice == 0, "{census:?}");
        ensure!(!full || census.forward > 1000, "hardly any connections: {census:?}");
        Ok(())
    });
}

#[test]
fn the_oracle_sees_a_service_that_it_was_not_told_of() {
    with(4096, |rig| {
        let mut fuzzer = Fuzzer::new(rig, 1)?;
        let forgotten = fuzzer.served.services.pop_first().context("no service")?;
        let found = fuzzer.run(rig, 50_000);
        let said = format!("{:#}", found.err().context("nobody missed the service")?);
        ensure!(said.contains("Foreign"), "{forgotten:?}: {said}");
        Ok(())
    });
}

#[test]
fn the_oracle_sees_a_service_that_is_not_there() {
    with(4096, |rig| {
        let mut fuzzer = Fuzzer::new(rig, 1)?;
        fuzzer.served.services.insert((octets(vip(false, 0).0), 22, TCP));
        let found = fuzzer.run(rig, 50_000);
        let said = format!("{:#}", found.err().context("nobody missed the service")?);
        ensure!(said.contains("Ours"), "{said}");
        Ok(())
    });
}

/// How often what was seen.
#[derive(Clone, Debug, Default)]
struct Seen {
    passed: u64,
    forwarded: u64,
    dropped: u64,
    foreign: u64,
    ours: u64,
    fragments: u64,
    reasons: Counted,
}

impl Seen {
    /// A run that hardly tests anything fails.
    fn is_varied(&self, frames: u64) -> Result<()> {
        for (what, count) in [
            ("passed", self.passed),
            ("forwarded", self.forwarded),
            ("foreign", self.foreign),
            ("ours", self.ours),
        ] {
            ensure!(count > frames / 20, "only {count} of {frames} {what}: {self:?}");
        }
        for reason in [
            "rst_without_connection",
            "fragment_short",
            "detoured",
            "ttl_exceeded",
            "no_real_server",
        ] {
            ensure!(self.reasons.contains_key(reason), "never {reason}: {self:?}");
        }
        Ok(())
    }
}

struct Fuzzer {
    dice: Dice,
    served: Served,
    servers: Vec<u32>,
    /// Good frames: bytes and the interface that they come by.
    seeds: Vec<(Vec<u8>, u32)>,
    seen: Seen,
    frame: Vec<u8>,
    output: Vec<u8>,
}

impl Fuzzer {
    fn new(rig: &mut Rig, seed: u64) -> Result<Self> {
        let mut fuzzer = Self {
            dice: Dice::new(seed),
            served: Served { mac: CLIENT_SIDE_MAC, ..Served::default() },
            servers: Vec::new(),
            seeds: Vec::new(),
            seen: Seen::default(),
            frame: Vec::new(),
            output: vec![0; 8192],
        };
        // One interface has one address: what comes by either is for the same station.
        rig.interface(SERVER_SIDE, CLIENT_SIDE_MAC, 0)?;
        for (method, v6) in KINDS {
            for (protocol, tags) in [(TCP, &[][..]), (UDP, &[(0x8100, 5)][..])] {
                for empty in [false, true] {
                    let port = 80 + u16::from(method) * 2 + u16::from(empty);
                    let mut wanted =
                        Wanted::new(method, protocol, vip(v6, port), &servers(v6, 2, 8000 + port));
                    wanted.tags = tags.to_vec();
                    wanted.mtu = 1400;
                    if empty {
                        (wanted.ring, wanted.maglev) = (Vec::new(), Vec::new());
                    }
                    let service = rig.install(&wanted)?;
                    fuzzer.know(&service);
                }
            }
        }
        for (inner6, outer6) in tunnels::FAMILIES {
            for protocol in [TCP, UDP] {
                let mut wanted = tunnels::wanted(protocol, inner6, outer6, 2);
                (wanted.mtu, wanted.mss_clamp) = (1400, true);
                let service = rig.install(&wanted)?;
                fuzzer.know(&service);
            }
        }
        fuzzer.served.filter = rig.filter().to_vec();
        Ok(fuzzer)
    }

    /// Tells the oracle of a service, and adds frames of it to the good ones.
    fn know(&mut self, service: &Installed) {
        let wanted = &service.wanted;
        let place = |end: &End| (octets(end.0), end.1, wanted.protocol);
        self.served.services.insert(place(&wanted.listen));
        self.served.vips.insert(octets(wanted.listen.0));
        self.servers.extend(&service.index);
        let v6 = wanted.listen.0.is_ipv6();
        let flags = [flag::SYN, flag::ACK, flag::FIN | flag::ACK, flag::RST, 0];
        let l4s: Vec<L4> = match wanted.protocol {
            TCP => flags.map(L4::Tcp).to_vec(),
            _ => vec![L4::Udp, L4::UdpUnsummed],
        };
        for (n, l4) in (0..).zip(l4s) {
            let mut request = service.request(l4, client(v6, n % 3));
            request.payload.clear();
            self.seeds.push((request.bytes(), CLIENT_SIDE));
            let tagged = Frame { tags: vec![(0x88a8, 1), (0x8100, 2)], ..request.clone() };
            self.seeds.push((tagged.bytes(), CLIENT_SIDE));
            for error in errors::seeds(service, client(v6, n % 3)) {
                self.seeds.push((error, CLIENT_SIDE));
            }
            let mut syn = Frame { tcp_options: vec![2, 4, 5, 0xb4], ..request.clone() };
            syn.payload.resize(if n == 0 { 1500 } else { 4 }, 7);
            self.seeds.push((syn.bytes(), CLIENT_SIDE));
            let mut odd = Frame { payload: vec![1; 9], ttl: 1, padding: 3, ..request.clone() };
            if v6 {
                odd.extensions = vec![(0, vec![0; 8]), (60, vec![0; 8]), (43, vec![0; 8])];
            } else {
                odd.options = vec![1; 8];
            }
            self.seeds.push((odd.bytes(), CLIENT_SIDE));
            // Fragments, of which most runs meet the later ones before, after and without a first.
            let long = Frame { payload: vec![7; 80], ..request.clone() };
            for room in [8, 24, 64] {
                for piece in cut(&long, 1, room).into_iter().take(4) {
                    self.seeds.push((piece, CLIENT_SIDE));
                }
            }
            if wanted.method == METHOD_NAT {
                for (server, end) in wanted.servers.iter().enumerate() {
                    self.served.nat_servers.insert(place(end));
                    let mut reply = service.reply(l4, server, client(v6, n % 3));
                    reply.to = CLIENT_SIDE_MAC;
                    self.seeds.push((reply.bytes(), SERVER_SIDE));
                    reply.payload = vec![7; 80];
                    self.seeds.extend(cut(&reply, 2, 64).into_iter().map(|p| (p, SERVER_SIDE)));
                }
            }
        }
        let echo = L4::Raw(if v6 { 58 } else { 1 });
        self.seeds.push((service.request(echo, client(v6, 0)).bytes(), CLIENT_SIDE));
        let ssh = Frame { ports: (40_000, 22), ..service.request(L4::Tcp(2), client(v6, 0)) };
        self.seeds.push((ssh.bytes(), CLIENT_SIDE));
    }

    /// Runs this many frames; stops at the first that is not treated as it must be.
    fn run(&mut self, rig: &mut Rig, frames: u64) -> Result<()> {
        let program = rig.program().try_clone()?;
        let mut before = rig.counter_values()?;
        let mut dropped = 0;
        for n in 0..frames {
            let ingress = self.roll();
            let class = self.served.class(&self.frame);
            let run = Run { ingress, repeat: 1 };
            let ran = run.on(program.as_fd(), &self.frame, &mut self.output)?;
            let same = self.output[..ran.length] == self.frame[..];
            self.judge(class, ran.verdict, same)
                .with_context(|| format!("frame {n} by {ingress}:\n{}", hex(&self.frame)))?;
            if ran.verdict == DROP {
                dropped += 1;
            }
            if ran.verdict == DROP || n % CHUNK == 0 || n + 1 == frames {
                let after = rig.counter_values()?;
                let mut total = 0;
                for counter in Counter::ALL.iter().filter(|c| is_end(c.kind())) {
                    let rise = after[*counter as usize] - before[*counter as usize];
                    if rise != 0 {
                        *self.seen.reasons.entry(counter.name()).or_default() += rise;
                        total += rise;
                    }
                }
                ensure!(
                    total == dropped,
                    "frame {n}: {dropped} dropped, {total} counted:\n{}",
                    hex(&self.frame)
                );
                (before, dropped) = (after, 0);
            }
        }
        Ok(())
    }

    fn judge(&mut self, class: Class, verdict: u32, same: bool) -> Result<()> {
        match verdict {
            PASS => self.seen.passed += 1,
            DROP => self.seen.dropped += 1,
            TX | REDIRECT => self.seen.forwarded += 1,
            ABORTED => bail!("aborted, though {class:?}"),
            other => bail!("verdict {other}"),
        }
        match class {
            Class::Foreign => self.seen.foreign += 1,
            Class::Ours => self.seen.ours += 1,
            Class::Later | Class::Short => self.seen.fragments += 1,
            Class::Depends => {}
        }
        let fits = match class {
            Class::Foreign => verdict == PASS,
            Class::Short => verdict == DROP,
            // A first one of the same packet may have gone to a port without a service.
            Class::Later | Class::Depends => true,
            Class::Ours => verdict != PASS,
        };
        ensure!(fits, "{class:?}, and the verdict is {verdict}");
        ensure!(same || verdict != PASS, "passed, and changed");
        Ok(())
    }

    /// Makes the next frame: a good one, mutated none to four times, or noise.
    fn roll(&mut self) -> u32 {
        let dice = &mut self.dice;
        self.frame.clear();
        if dice.one_in(50) {
            self.frame.resize(14 + dice.below(120), 0);
            dice.fill(&mut self.frame);
            let kinds = [[8, 0], [0x86, 0xdd], [0x81, 0], [0x88, 0xa8]];
            let kind = *dice.pick(&kinds);
            self.frame[12..14].copy_from_slice(&kind);
            return CLIENT_SIDE;
        }
        let (good, ingress) = dice.pick(&self.seeds);
        let ingress = *ingress;
        self.frame.extend(good);
        if dice.one_in(8) {
            // Another client: the low byte of the source port, where the plain frames have it.
            let at = if self.frame[12] == 8 { 35 } else { 55 };
            if let Some(byte) = self.frame.get_mut(at) {
                *byte = dice.next() as u8;
            }
        }
        for _ in 0..dice.below(5) {
            mutate(dice, &mut self.frame);
        }
        ingress
    }
}

/// Whether a frame that is counted so does not go on by itself.
fn is_end(kind: CounterKind) -> bool {
    matches!(kind, CounterKind::Drop | CounterKind::Detour)
}

/// Changes one thing.
fn mutate(dice: &mut Dice, frame: &mut Vec<u8>) {
    let at = dice.below(frame.len());
    // Headers are where it hurts.
    let near = 12 + dice.below(60);
    let near = near.min(frame.len() - 1);
    match dice.below(10) {
        0 => frame[at] ^= 1 << dice.below(8),
        1..=3 => frame[near] ^= 1 << dice.below(8),
        4 => frame[near] = dice.next() as u8,
        5 => frame[near] = *dice.pick(&[0, 1, 4, 6, 17, 0x45, 0x46, 0x4f, 0x60, 0x81, 0xff]),
        6 => frame.truncate((14 + dice.below(frame.len())).min(frame.len())),
        7 => {
            frame.insert(near, dice.next() as u8);
        }
        8 => {
            // A tag that was not there.
            let tag = [0x81, 0, 0, dice.next() as u8];
            frame.splice(12..12, tag);
        }
        _ => {
            let extra = dice.below(64);
            frame.extend((0..extra).map(|i| i as u8));
        }
    }
    if frame.len() < 14 {
        frame.resize(14, 0);
    }
}
