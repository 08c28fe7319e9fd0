//! What is measured: packets of known and of new connections, of what is dropped, and packets that
//! are not ours.
//!
//! Must not know: how time is taken and printed.

use std::net::IpAddr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use harness::bpf::{Kind, Map, Run};
use lb_common::abi;
use lb_common::service::{METHOD_DR, METHOD_NAT, METHOD_TUNNEL, SCHEDULER_RING, SCHEDULER_WLC};
use lb_common::verdict::Counter;
use lb_user::model::Prefix;
use lb_user::plan::{List, MapOp};

use crate::asm::{self, FRAME_AT, FRESH, KeyOf, MISSES_AT, Rotation, STATE};
use crate::frames::{Frame, L4, flag};
use crate::rig::{DROP, PASS, Rig, TCP, TX, UDP};
use crate::services::{End, Installed, Wanted, client, end, servers, vip};

/// What a packet is to the director.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    /// A TCP packet of this many established connections in turn.
    Ack(u32),
    /// A UDP packet of this many known flows in turn.
    Datagram(u32),
    /// The first packet of a TCP connection, each time of another.
    Syn,
    /// The same, by wlc among this many servers.
    Least(u16),
    /// The first packet of a UDP flow, each time of another.
    NewDatagram,
    /// A reset without a connection, which is dropped.
    Reset,
    /// A SYN to a service without real servers, which is dropped.
    NoServer,
    /// A SYN of a client on the deny list, which the guard drops.
    Denied,
    /// A packet that no service listens to.
    Foreign,
}

impl What {
    /// Known flows, if it is about such.
    pub(crate) fn hits(self) -> Option<u32> {
        match self {
            Self::Ack(flows) | Self::Datagram(flows) => Some(flows),
            _ => None,
        }
    }

    /// Whether every packet makes a connection.
    pub(crate) fn is_new(self) -> bool {
        matches!(self, Self::Syn | Self::Least(_) | Self::NewDatagram)
    }

    /// The counter of its drops.
    pub(crate) fn drop(self) -> Option<Counter> {
        match self {
            Self::Reset => Some(Counter::RstWithoutConnection),
            Self::NoServer => Some(Counter::NoRealServer),
            Self::Denied => Some(Counter::Denied),
            _ => None,
        }
    }
}

/// One thing to measure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Spec {
    pub(crate) method: u8,
    pub(crate) v6: bool,
    pub(crate) what: What,
}

/// Flows of the cases with some, with many and with very many: powers of two, so that the wrapper
/// needs no division.
const SOME: u32 = 1 << 10;
const MANY: u32 = 1 << 17;
const MILLION: u32 = 1 << 20;

/// Flows that are new each time: as many as the wrapper tells apart.
const ENDLESS: u32 = 1 << 30;

/// Steps from one flow to the next, when they are read and when they are inserted.
const READ: i32 = 0x0012_d687;
const INSERT: i32 = 0x0005_e2d5;

/// Of so many flows the table may refuse one: at the load here some 5 of a million find both their
/// buckets full.
const REFUSED_OF: u32 = 50_000;

/// The loopback, by which test runs come unless told otherwise, and by which the answers leave.
const LOOPBACK: u32 = 1;

/// Cases that share a data plane.
pub(crate) struct Group {
    /// Connections that the data plane has room for.
    pub(crate) connections: u32,
    pub(crate) specs: Vec<Spec>,
}

/// Everything that is measured, in the order in which it is printed.
pub(crate) fn groups() -> Vec<Group> {
    let mut groups = Vec::new();
    for method in [METHOD_DR, METHOD_NAT, METHOD_TUNNEL] {
        for v6 in [false, true] {
            let group = |connections: u32, whats: Vec<What>| Group {
                // A nat connection has two entries.
                connections: if method == METHOD_NAT { 2 * connections } else { connections },
                specs: whats.into_iter().map(|what| Spec { method, v6, what }).collect(),
            };
            groups.push(group(500_000, few(method, v6)));
            groups.push(group(1_100_000, vec![What::Ack(MILLION)]));
        }
    }
    groups
}

fn few(method: u8, v6: bool) -> Vec<What> {
    let mut whats = vec![What::Ack(1), What::Ack(SOME), What::Ack(MANY)];
    whats.extend([What::Datagram(1), What::Datagram(SOME), What::Datagram(MANY)]);
    whats.extend([What::Syn, What::NewDatagram]);
    if method == METHOD_DR {
        // Where the method makes no difference.
        whats.extend([What::Reset, What::NoServer, What::Denied, What::Foreign]);
        if !v6 {
            whats.extend([What::Least(10), What::Least(256)]);
        }
    }
    whats
}

impl Spec {
    /// What the case is called.
    pub(crate) fn name(&self) -> String {
        let method = match self.method {
            METHOD_NAT => "nat",
            METHOD_TUNNEL => "tunnel",
            _ => "dr",
        };
        let family = if self.v6 { "IPv6" } else { "IPv4" };
        let plural = |flows| if flows == 1 { "" } else { "s" };
        match self.what {
            What::Ack(n) => format!("{method} {family} established TCP, {n} flow{}", plural(n)),
            What::Datagram(n) => format!("{method} {family} known UDP, {n} flow{}", plural(n)),
            What::Syn => format!("{method} {family} new TCP connection"),
            What::Least(servers) => {
                format!("{method} {family} new TCP connection, wlc of {servers}")
            }
            What::NewDatagram => format!("{method} {family} new UDP flow"),
            What::Reset => format!("{family} dropped: RST without connection"),
            What::NoServer => format!("{family} dropped: no real server"),
            What::Denied => format!("{family} dropped: denied"),
            What::Foreign => format!("{family} not ours"),
        }
    }

    /// The ratio to the exchange of addresses that is aimed at; none where memory decides, of which
    /// the exchange needs none.
    pub(crate) fn target(&self) -> Option<f64> {
        Some(match (self.what, self.method) {
            _ if self.is_in_memory() => return None,
            (What::Foreign, _) => 2.0,
            (What::Reset | What::NoServer | What::Denied, _) => 4.0,
            (What::Syn | What::NewDatagram, _) => 8.0,
            (What::Least(servers), _) => 8.0 + f64::from(servers) / 2.0,
            (_, METHOD_NAT | METHOD_TUNNEL) => 4.0,
            _ => 3.5,
        })
    }

    /// The ratio to the lookup of a hash table that is aimed at, where memory decides.
    pub(crate) fn lookup_target(&self) -> Option<f64> {
        self.is_in_memory().then_some(1.3)
    }

    /// Whether the flows are more than the caches hold.
    fn is_in_memory(&self) -> bool {
        self.what.hits() >= Some(MANY)
    }

    /// The service that its packets are to, under an address or port that no other case has.
    fn wanted(&self, listen: End) -> Wanted {
        let protocol = match self.what {
            What::Datagram(_) | What::NewDatagram => UDP,
            _ => TCP,
        };
        let (count, scheduler) = match self.what {
            What::Least(servers) => (servers, SCHEDULER_WLC),
            What::NoServer => (0, SCHEDULER_RING),
            _ => (4, SCHEDULER_RING),
        };
        let ends = servers(self.v6, count, listen.1);
        let mut wanted = Wanted::new(self.method, protocol, listen, &ends);
        wanted.scheduler = scheduler;
        wanted.egress = LOOPBACK;
        let tunnel: IpAddr =
            if self.v6 { "2001:db8:5::fe" } else { "10.5.255.254" }.parse().expect("an address");
        wanted.tunnel_source = (self.method == METHOD_TUNNEL).then_some(tunnel);
        wanted
    }
}

/// A spec, ready to run.
pub(crate) struct Case {
    pub(crate) spec: Spec,
    pub(crate) service: Installed,
    /// The wrapper around the programs of the director.
    pub(crate) director: OwnedFd,
    /// The wrapper around the exchange of addresses.
    pub(crate) swap: OwnedFd,
    /// The wrapper around the lookup among as many flows as the case has, if it has any.
    pub(crate) lookup: Option<OwnedFd>,
    state: Map,
    // What the wrappers leave for, which lives as long as these do.
    _programs: Vec<(OwnedFd, Map)>,
}

impl Case {
    /// Installs a service for the case, opens its connections and looks at what comes out.
    pub(crate) fn new(rig: &mut Rig, spec: Spec, number: u16) -> Result<Self> {
        let service = rig.install(&spec.wanted(vip(spec.v6, 1000 + number)))?;
        let state = Map::create(Kind::Array, STATE, 1)?;
        let entry = if spec.what == What::Denied {
            deny(rig, spec.v6)?;
            rig.dataplane.program(abi::PROGRAM_GUARD)?
        } else {
            rig.program().try_clone()?
        };
        let mut case = Self {
            spec,
            service,
            director: entry.try_clone()?,
            swap: asm::load("bench_swap", &asm::swap())?,
            lookup: None,
            state,
            _programs: Vec::new(),
        };
        let swap = case.swap.try_clone()?;
        let insert = case.wrap(&entry, INSERT)?;
        (case.director, case.swap) = (case.wrap(&entry, READ)?, case.wrap(&swap, READ)?);
        case.check(rig)?;
        case.load(&case.frame())?;
        if let Some(flows) = spec.what.hits() {
            case.warm(&insert, flows)?;
            case.remember(flows)?;
            case.intact(rig)?;
        }
        Ok(case)
    }

    /// A wrapper that leaves for `program`.
    fn wrap(&mut self, program: &OwnedFd, step: i32) -> Result<OwnedFd> {
        let (port, address) = if self.spec.v6 { (14 + 40, 14 + 22) } else { (14 + 20, 14 + 14) };
        let flows = match self.spec.what {
            what if what.is_new() => ENDLESS,
            what => what.hits().unwrap_or(SOME),
        };
        let rotation = Rotation { port, address, flows, step };
        let table = Map::create(Kind::Programs, 4, 1)?;
        table.write(&0u32.to_ne_bytes(), &program.as_raw_fd().to_ne_bytes())?;
        let code = asm::wrapper(&self.state, &table, rotation, self.packet().len());
        let wrapper = asm::load("bench_wrapper", &code)?;
        self._programs.push((program.try_clone()?, table));
        Ok(wrapper)
    }

    /// The packet that is measured.
    fn frame(&self) -> Frame {
        let who = client(self.spec.v6, 0);
        match self.spec.what {
            What::Ack(_) => self.service.request(L4::Tcp(flag::ACK), who),
            What::Datagram(_) | What::NewDatagram => self.service.request(L4::Udp, who),
            What::Reset => self.service.request(L4::Tcp(flag::RST), who),
            What::Foreign => {
                let elsewhere =
                    if self.spec.v6 { "[2001:db8:99::1]:443" } else { "192.0.2.99:443" };
                let mut frame = self.service.request(L4::Tcp(flag::ACK), who);
                (frame.destination, frame.ports.1) = end(elsewhere);
                frame
            }
            _ => self.service.request(L4::Tcp(flag::SYN), who),
        }
    }

    /// The first packet of a connection, or the packet itself where there is none.
    fn first(&self) -> Frame {
        match self.spec.what {
            What::Ack(_) => Frame { l4: L4::Tcp(flag::SYN), ..self.frame() },
            _ => self.frame(),
        }
    }

    /// One packet without the wrapper and two behind it: what comes out is what it must be.
    fn check(&self, rig: &mut Rig) -> Result<()> {
        let first = self.first();
        if self.spec.what != What::Denied {
            let out = rig.run(&padded(&first), 0)?;
            self.is_right((out.verdict, &out.frame), &first, 0).context("a packet alone")?;
        }
        self.load(&first)?;
        let mut output = vec![0; 4096];
        for server in [1, 2] {
            let ran = Run::default().on(self.director.as_fd(), &self.packet(), &mut output)?;
            let again = match self.spec.what.hits() {
                // The same flow again, with the same server.
                Some(1) => 1,
                _ => server,
            };
            self.is_right((ran.verdict, &output[..ran.length]), &first, again)
                .context("a packet behind the wrapper")?;
        }
        let ran = Run::default().on(self.swap.as_fd(), &self.packet(), &mut output)?;
        let swapped = [&first.from[..], &first.to[..]].concat();
        ensure!(ran.verdict == TX && output[..12] == swapped, "the floor does not swap");
        Ok(())
    }

    /// Whether this came out of the director for `first`, of which the wrapper has changed the
    /// client's address and port.
    fn is_right(&self, (verdict, found): (u32, &[u8]), first: &Frame, server: usize) -> Result<()> {
        let name = self.spec.name();
        let what = self.spec.what;
        if what.drop().is_some() || what == What::Foreign {
            let expected = if what == What::Foreign { PASS } else { DROP };
            ensure!(verdict == expected, "{name}: verdict {verdict}");
            return Ok(());
        }
        ensure!(verdict == TX, "{name}: verdict {verdict}");
        let server = match what {
            // Which one has the least is not the benchmark's business.
            What::Least(_) => (0..self.service.index.len())
                .find(|&n| found[..6] == self.service.sent(first, n).to)
                .with_context(|| format!("{name}: to nobody"))?,
            _ => server,
        };
        let sent = padded(&self.service.sent(first, server));
        let outer = match (self.spec.method, self.spec.v6) {
            (METHOD_TUNNEL, false) => 20,
            (METHOD_TUNNEL, true) => 40,
            _ => 0,
        };
        ensure!(found.len() == sent.len() + outer, "{name}: length {}", found.len());
        ensure!(found[..12] == sent[..12], "{name}: wrong addresses of the frame");
        if outer != 0 {
            let end = crate::frames::octets(self.service.wanted.servers[server].0);
            ensure!(found[14..14 + outer].ends_with(&end), "{name}: the tunnel's end");
        }
        let (to, length, ttl) = if self.spec.v6 { (24, 16, 7) } else { (16, 4, 8) };
        let (inner, sent) = (&found[14 + outer..], &sent[14..]);
        ensure!(inner[to..to + length] == sent[to..to + length], "{name}: destination");
        ensure!(inner[ttl] == first.ttl - 1, "{name}: time to live");
        Ok(())
    }

    /// Opens the connections that are to be known.
    fn warm(&self, insert: &OwnedFd, flows: u32) -> Result<()> {
        for frame in [self.first(), self.frame()] {
            self.load(&frame)?;
            let run = Run { ingress: 0, repeat: flows };
            run.on(insert.as_fd(), &self.packet(), &mut vec![0; 4096])?;
        }
        Ok(())
    }

    /// Puts the same flows into a hash table of the kernel.
    fn remember(&mut self, flows: u32) -> Result<()> {
        let key = KeyOf { v6: self.spec.v6 };
        let table = Map::hash(key.length() as u32, 8, flows)?;
        let remember = asm::load("bench_remember", &asm::remember(&self.state, &table, key))?;
        let lookup = asm::load("bench_lookup", &asm::lookup(&self.state, &table, key))?;
        let lookup = self.wrap(&lookup, READ)?;
        let mut output = vec![0; 4096];
        let one = Run::default().on(lookup.as_fd(), &self.packet(), &mut output)?;
        ensure!(one.verdict != TX && self.misses()? == 1, "an empty table knows a flow");
        let insert = self.wrap(&remember, INSERT)?;
        let run = Run { ingress: 0, repeat: flows };
        run.on(insert.as_fd(), &self.packet(), &mut output)?;
        self.lookup = Some(lookup);
        Ok(())
    }

    /// Whether the known flows are still all there are, here and in the hash table.
    pub(crate) fn intact(&self, rig: &mut Rig) -> Result<()> {
        let Some(flows) = self.spec.what.hits() else {
            return Ok(());
        };
        let mut open = 0;
        for &index in &self.service.index {
            let (active, inactive) = rig.counts(index)?;
            open += active + inactive;
        }
        // One more was opened without the wrapper.
        let missing = i64::from(flows) + 1 - open;
        let allowed = 0..=i64::from(flows / REFUSED_OF);
        ensure!(allowed.contains(&missing), "{}: {open} connections", self.spec.name());
        // One packet was counted before the table was filled.
        let misses = self.misses()?;
        ensure!(misses == 1, "{}: the hash table missed {misses} packets", self.spec.name());
        Ok(())
    }

    fn misses(&self) -> Result<u64> {
        let mut value = vec![0; STATE as usize];
        self.state.read(&0u32.to_ne_bytes(), &mut value)?;
        let bytes = value[MISSES_AT..].first_chunk().context("a short value")?;
        Ok(u64::from_ne_bytes(*bytes))
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
}

/// Puts the clients of a family on the deny list.
fn deny(rig: &mut Rig, v6: bool) -> Result<()> {
    let len = if v6 { 64 } else { 16 };
    let prefix = Prefix::new(client(v6, 0).0, len).context("a prefix")?;
    rig.apply(&MapOp::AddPrefixes { list: List::Deny, prefixes: [prefix].into() })
}

/// A frame with enough behind it for the head that is written anew.
fn padded(frame: &Frame) -> Vec<u8> {
    let mut bytes = frame.bytes();
    bytes.resize(bytes.len().max(FRESH), 0);
    bytes
}

#[test]
fn what_is_read_in_a_row_was_not_inserted_in_a_row() {
    for flows in [SOME, MANY, MILLION] {
        let turn = |step: i32, n: u32| n.wrapping_mul(step.cast_unsigned()) % flows;
        let mut inserted = vec![u32::MAX; flows as usize];
        for n in 0..flows {
            inserted[turn(INSERT, n) as usize] = n;
        }
        for n in 0..flows {
            let [a, b] = [n, n + 1].map(|n| inserted[turn(READ, n) as usize]);
            let apart = a.abs_diff(b);
            assert!(apart.min(flows - apart) >= flows / 16, "{a} and {b} of {flows}");
        }
    }
}
