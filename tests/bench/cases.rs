//! What is measured: packets of known and of new connections, and packets that are not ours.

use anyhow::{Result, ensure};
use harness::bpf::Kind;
use harness::bpf::{Map, Run};
use lb_common::service::{METHOD_DR, METHOD_NAT, SCHEDULER_RING, SCHEDULER_WLC};
use std::os::fd::{AsFd, OwnedFd};

use crate::asm::{self, FRAME_AT, FRESH, Rotation, STATE};
use crate::frames::{Frame, L4, flag};
use crate::rig::{PASS, REDIRECT, Rig, TCP, TX, UDP};
use crate::services::{Installed, Wanted, client, end, servers, vip};

/// What a packet is to the director.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A TCP packet of this many established connections in turn.
    Ack(u32),
    /// A UDP packet of this many known flows in turn.
    Datagram(u32),
    /// The first packet of a connection, each time of another.
    Syn,
    /// The same, by wlc among this many servers.
    Least(u16),
    /// A packet that no service listens to.
    Foreign,
}

/// One measurement.
pub(crate) struct Case {
    pub(crate) method: u8,
    pub(crate) v6: bool,
    pub(crate) what: What,
    pub(crate) service: Installed,
    /// The wrapper around the programs of the director, and around the floor.
    pub(crate) director: OwnedFd,
    pub(crate) floor: OwnedFd,
    state: Map,
    // What the wrappers leave for, which lives as long as these do.
    _programs: [Map; 2],
    _floor: OwnedFd,
}

/// Flows of the cases with many.
const MANY: u32 = 4096;

/// The loopback, by which test runs come unless told otherwise, and by which the answers leave.
const LOOPBACK: u32 = 1;

/// Every case, ready to run.
pub(crate) fn all(rig: &mut Rig) -> Result<Vec<Case>> {
    let mut cases = Vec::new();
    for method in [METHOD_DR, METHOD_NAT] {
        for v6 in [false, true] {
            let whats = [What::Ack(1), What::Ack(MANY), What::Datagram(1), What::Datagram(MANY)];
            for (n, what) in (0..).zip(whats.into_iter().chain([What::Syn, What::Foreign])) {
                if what == What::Foreign && method == METHOD_NAT {
                    continue;
                }
                let listen = vip(v6, 1000 + u16::from(method) * 10 + n);
                cases.push(Case::new(rig, method, v6, what, listen)?);
            }
        }
        for servers in [10, 256].into_iter().filter(|_| method == METHOD_DR) {
            let listen = vip(false, 2000 + servers);
            cases.push(Case::new(rig, method, false, What::Least(servers), listen)?);
        }
    }
    Ok(cases)
}

impl Case {
    fn new(
        rig: &mut Rig,
        method: u8,
        v6: bool,
        what: What,
        listen: (std::net::IpAddr, u16),
    ) -> Result<Self> {
        let protocol = if matches!(what, What::Datagram(_)) { UDP } else { TCP };
        let (count, scheduler) = match what {
            What::Least(servers) => (servers, SCHEDULER_WLC),
            _ => (4, SCHEDULER_RING),
        };
        let mut wanted = Wanted::new(method, protocol, listen, &servers(v6, count, listen.1));
        wanted.scheduler = scheduler;
        wanted.egress = LOOPBACK;
        let service = rig.install(&wanted)?;
        let (port, address) = if v6 { (14 + 40, 14 + 22) } else { (14 + 20, 14 + 14) };
        let flows = match what {
            What::Ack(flows) | What::Datagram(flows) => flows,
            What::Syn | What::Least(_) => 1 << 30,
            What::Foreign => MANY,
        };
        let rotation = Rotation { port, address, flows };
        let state = Map::create(Kind::Array, STATE, 1)?;
        let floor = asm::load("bench_floor", &asm::floor())?;
        let programs = [program_table(rig.program())?, program_table(&floor)?];
        let [director, wrapped] = [("bench_lb", &programs[0]), ("bench_least", &programs[1])]
            .map(|(name, table)| asm::load(name, &asm::wrapper(&state, table, Some(rotation))));
        let case = Self {
            method,
            v6,
            what,
            service,
            director: director?,
            floor: wrapped?,
            state,
            _programs: programs,
            _floor: floor,
        };
        case.check(rig)?;
        case.warm(flows)?;
        Ok(case)
    }

    /// The packet that is measured.
    fn frame(&self) -> Frame {
        let who = client(self.v6, 0);
        match self.what {
            What::Ack(_) => self.service.request(L4::Tcp(flag::ACK), who),
            What::Datagram(_) => self.service.request(L4::Udp, who),
            What::Syn | What::Least(_) => self.service.request(L4::Tcp(flag::SYN), who),
            What::Foreign => {
                let elsewhere = if self.v6 { "[2001:db8:99::1]:443" } else { "192.0.2.99:443" };
                let mut frame = self.service.request(L4::Tcp(flag::ACK), who);
                (frame.destination, frame.ports.1) = end(elsewhere);
                frame
            }
        }
    }

    /// Whole frames once, without the wrapper; then what the wrapper and the floor make of one.
    fn check(&self, rig: &mut Rig) -> Result<()> {
        let first = match self.what {
            What::Ack(_) => Frame { l4: L4::Tcp(flag::SYN), ..self.frame() },
            _ => self.frame(),
        };
        let expected = if self.what == What::Foreign {
            (PASS, first.bytes())
        } else {
            (TX, self.service.sent(&first, 0).bytes())
        };
        let out = rig.run(&first.bytes(), 0)?;
        ensure!((out.verdict, out.frame) == expected, "{}: a wrong frame", self.name());
        self.load(&first)?;
        let frame = self.packet();
        let mut output = vec![0; 4096];
        let ran = Run::default().on(self.floor.as_fd(), &frame, &mut output)?;
        let swapped = [&first.from[..], &first.to[..]].concat();
        ensure!(ran.verdict == TX && output[..12] == swapped, "the floor does not swap");
        let ran = Run::default().on(self.director.as_fd(), &frame, &mut output)?;
        ensure!(ran.verdict == expected.0 && ran.verdict != REDIRECT, "{}: verdict", self.name());
        if self.what != What::Foreign {
            let l3 = 14;
            let (to, ttl) = if self.v6 { (l3 + 24, l3 + 7) } else { (l3 + 16, l3 + 8) };
            let sent = self.service.sent(&first, 1).bytes();
            ensure!(output[..12] == sent[..12], "{}: wrong addresses of the frame", self.name());
            ensure!(output[to..to + 4] == sent[to..to + 4], "{}: destination", self.name());
            ensure!(output[ttl] == first.ttl - 1, "{}: time to live", self.name());
        }
        Ok(())
    }

    /// Opens the connections that are to be known, and fills the wrapper with what is measured.
    fn warm(&self, flows: u32) -> Result<()> {
        let mut output = vec![0; 4096];
        let run = Run { ingress: 0, repeat: flows * 2 };
        match self.what {
            What::Ack(_) => {
                self.load(&Frame { l4: L4::Tcp(flag::SYN), ..self.frame() })?;
                run.on(self.director.as_fd(), &self.packet(), &mut output)?;
                self.load(&self.frame())?;
                run.on(self.director.as_fd(), &self.packet(), &mut output)?;
            }
            What::Datagram(_) => {
                self.load(&self.frame())?;
                run.on(self.director.as_fd(), &self.packet(), &mut output)?;
            }
            What::Syn | What::Least(_) | What::Foreign => self.load(&self.frame())?,
        }
        Ok(())
    }

    /// Writes a frame into the wrappers' map.
    fn load(&self, frame: &Frame) -> Result<()> {
        let mut value = vec![0; STATE as usize];
        self.state.read(&0u32.to_ne_bytes(), &mut value)?;
        value[FRAME_AT..].copy_from_slice(&padded(frame)[..FRESH]);
        Ok(self.state.write(&0u32.to_ne_bytes(), &value)?)
    }

    /// The packet to run, of which the wrapper writes the head.
    pub(crate) fn packet(&self) -> Vec<u8> {
        padded(&self.frame())
    }

    /// What the case is called.
    pub(crate) fn name(&self) -> String {
        let method = if self.method == METHOD_NAT { "nat" } else { "dr" };
        let family = if self.v6 { "IPv6" } else { "IPv4" };
        match self.what {
            What::Ack(flows) => format!(
                "{method} {family} established TCP, {flows} flow{}",
                if flows == 1 { "" } else { "s" }
            ),
            What::Datagram(flows) => format!(
                "{method} {family} established UDP, {flows} flow{}",
                if flows == 1 { "" } else { "s" }
            ),
            What::Syn => format!("{method} {family} new connection"),
            What::Least(servers) => {
                format!("{method} {family} new connection, wlc of {servers}")
            }
            What::Foreign => format!("{family} not ours"),
        }
    }

    /// The ratio that is aimed at.
    pub(crate) fn target(&self) -> f64 {
        match (self.what, self.method) {
            (What::Foreign, _) => 2.0,
            (What::Syn, _) => 8.0,
            (What::Least(servers), _) => 8.0 + f64::from(servers) / 2.0,
            (_, METHOD_NAT) => 4.0,
            _ => 3.5,
        }
    }
}

/// A frame with enough behind it for the head that is written anew.
fn padded(frame: &Frame) -> Vec<u8> {
    let mut bytes = frame.bytes();
    bytes.resize(bytes.len().max(FRESH), 0);
    bytes
}

/// A table that leads to one program.
fn program_table(program: &OwnedFd) -> Result<Map> {
    use std::os::fd::AsRawFd;
    let table = Map::create(Kind::Programs, 4, 1)?;
    table.write(&0u32.to_ne_bytes(), &program.as_raw_fd().to_ne_bytes())?;
    Ok(table)
}
