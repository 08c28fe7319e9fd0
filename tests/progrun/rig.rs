//! A loaded data plane with filled tables, in a namespace of its own, and test runs of it.
//!
//! [`with`] makes it: two veth pairs stand for the director's interfaces, a private bpffs for its
//! pins. A test installs services as the controller would, runs frames through the first stage and
//! compares whole frames, counters and entries.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, Result, ensure};
use harness::bpf::{Map, Run};
use harness::labdir::LabDir;
use harness::netns::Netns;
use harness::stub::Stub;
use lb_common::abi;
use lb_common::conn::{ConnEntry, ConnKey, ConnKey4, ConnKey6, State, Timeouts, Word};
use lb_common::pod::{Address, bytes_of, from_bytes, mapped};
use lb_common::service::{Config, Interface, PerCpu, Traffic};
use lb_common::table::SLOTS;
use lb_common::verdict::{COUNTERS, Counter, CounterKind};
use lb_common::wire::Link;
use lb_user::dataplane::bpf::{ConnTable, ConnTables, Dataplane, Options};
use lb_user::plan::{MapOp, Settings};

use crate::frames::{Frame, L4, Mac, hex};

/// The interface that clients are behind.
pub(crate) const CLIENT_SIDE: u32 = 10;
/// The interface that real servers are behind.
pub(crate) const SERVER_SIDE: u32 = 12;
/// The director's address on the clients' side.
pub(crate) const CLIENT_SIDE_MAC: Mac = [0x02, 0, 0, 0, 0x0d, 0];
/// The director's address on the servers' side.
pub(crate) const SERVER_SIDE_MAC: Mac = [0x02, 0, 0, 0, 0x0d, 1];
/// The router that clients' packets come from.
pub(crate) const CLIENT_MAC: Mac = [0x02, 0, 0, 0, 0x0c, 0];

/// Verdicts of XDP.
pub(crate) const ABORTED: u32 = 0;
pub(crate) const DROP: u32 = 1;
pub(crate) const PASS: u32 = 2;
pub(crate) const TX: u32 = 3;
pub(crate) const REDIRECT: u32 = 4;

pub(crate) const TCP: u8 = 6;
pub(crate) const UDP: u8 = 17;

/// A loaded data plane.
pub(crate) struct Rig {
    pub(crate) dataplane: Dataplane,
    stubs: Vec<Stub>,
    forward: OwnedFd,
    expire: OwnedFd,
    conn4: Map,
    conn6: Map,
    tables: ConnTables,
    counters: Map,
    config_map: Map,
    config: Config,
    filter: Vec<u64>,
    next_server: u32,
    next_slot: u32,
    next_service: u32,
    next_profile: u32,
    output: Vec<u8>,
}

/// What came out of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Out {
    pub(crate) verdict: u32,
    pub(crate) frame: Vec<u8>,
}

/// Counters that changed, by name.
pub(crate) type Counted = BTreeMap<&'static str, u64>;

/// Makes a rig with room for `connections` and runs `body` with it.
///
/// # Panics
/// When it cannot be made, or `body` fails.
pub(crate) fn with(connections: u32, body: impl FnOnce(&mut Rig) -> Result<()> + Send) {
    let run = || -> Result<()> {
        let ns = Netns::create("progrun")?;
        let dir = LabDir::create()?;
        ns.ip("link add name d0 index 10 address 02:00:00:00:0d:00 type veth peer name c0 index 11 address 02:00:00:00:0c:00
               link add name d1 index 12 address 02:00:00:00:0d:01 type veth peer name s1 index 13 address 02:00:00:00:05:fe
               link set d0 up
               link set c0 up
               link set d1 up
               link set s1 up")?;
        ns.enter(|| {
            let mut rig = Rig::open(&dir, connections)?;
            body(&mut rig)
        })
    };
    if let Err(error) = run() {
        panic!("{error:#}");
    }
}

impl Rig {
    fn open(dir: &LabDir, connections: u32) -> Result<Self> {
        let pin_path = dir.bpffs().join("lb");
        let mut dataplane = Dataplane::open(&Options { pin_path, connections })?;
        let open = |name: &str| {
            Map::open(&dataplane.directory().join(name)).with_context(|| format!("open {name}"))
        };
        let (conn4, conn6) = (open(abi::MAP_CONN4)?, open(abi::MAP_CONN6)?);
        let (counters, config_map) = (open(abi::MAP_COUNTERS)?, open(abi::MAP_CONFIG)?);
        let tables = dataplane.tables().connections();
        let hz = dataplane.clock().hz();
        let config = Config { heartbeat_max: hz * 3600, hz, ..Config::zeroed() };
        let (forward, expire) =
            (dataplane.program(abi::PROGRAM_FORWARD)?, dataplane.program(abi::PROGRAM_EXPIRE)?);
        let timeouts = MapOp::SetTimeouts { profile: 0, value: default_timeouts(hz) };
        dataplane.tables().apply(&timeouts)?;
        let mut rig = Self {
            dataplane,
            stubs: Vec::new(),
            forward,
            expire,
            conn4,
            conn6,
            tables,
            counters,
            config_map,
            config,
            filter: vec![0; abi::FILTER_WORDS as usize],
            next_server: 0,
            next_slot: 0,
            next_service: 0,
            next_profile: 1,
            output: vec![0; 20_000],
        };
        rig.configure(|_| {})?;
        rig.interface(CLIENT_SIDE, CLIENT_SIDE_MAC, 0)?;
        rig.interface(SERVER_SIDE, SERVER_SIDE_MAC, 0)?;
        rig.dataplane.beat()?;
        Ok(rig)
    }

    /// Changes the program's configuration.
    pub(crate) fn configure(&mut self, change: impl FnOnce(&mut Config)) -> Result<()> {
        change(&mut self.config);
        let config = self.config;
        self.apply(&MapOp::SetConfig(Settings {
            flags: config.flags,
            flood_limit: config.flood_limit,
            hz: config.hz,
            heartbeat_max: config.heartbeat_max,
        }))
    }

    /// Tells the program of an interface.
    pub(crate) fn interface(&mut self, ifindex: u32, mac: Mac, flags: u32) -> Result<()> {
        let value = Interface { mac, pad: [0; 2], flags };
        self.apply(&MapOp::SetInterface { ifindex, value })
    }

    /// Carries out one operation on the maps.
    pub(crate) fn apply(&mut self, op: &MapOp) -> Result<()> {
        self.dataplane.tables().apply(op)
    }

    /// A timeout profile of its own.
    pub(crate) fn timeouts(&mut self, value: Timeouts) -> Result<u32> {
        let profile = self.next_profile;
        self.next_profile += 1;
        self.apply(&MapOp::SetTimeouts { profile, value })?;
        Ok(profile)
    }

    /// Jiffies a second.
    pub(crate) fn hz(&self) -> u64 {
        self.dataplane.clock().hz()
    }

    /// The kernel's time, by its own program, which is also a heartbeat.
    pub(crate) fn jiffies(&self) -> Result<u64> {
        self.dataplane.beat()?;
        Ok(self.config()?.heartbeat)
    }

    /// The program's configuration as it is in its map.
    fn config(&self) -> Result<Config> {
        let mut bytes = vec![0; size_of::<Config>()];
        ensure!(self.config_map.read(&0u32.to_ne_bytes(), &mut bytes)?, "no configuration");
        from_bytes(&bytes).context("a short value")
    }

    /// Makes the last heartbeat `age` jiffies old.
    pub(crate) fn age_heartbeat(&self, age: u64) -> Result<()> {
        let seed = self.config()?.seed;
        let config = Config { heartbeat: self.jiffies()? - age, seed, ..self.config };
        Ok(self.config_map.write(&0u32.to_ne_bytes(), bytes_of(&config))?)
    }

    /// Runs a frame that came by `ingress` through the first stage.
    pub(crate) fn run(&mut self, frame: &[u8], ingress: u32) -> Result<Out> {
        let run = Run { ingress, repeat: 1 };
        let ran = run.on(self.forward.as_fd(), frame, &mut self.output).context("a test run")?;
        Ok(Out { verdict: ran.verdict, frame: self.output[..ran.length].to_vec() })
    }

    /// Runs frames through the guard from now on, as they enter while an access list has entries.
    pub(crate) fn enter_by_guard(&mut self) -> Result<()> {
        self.forward = self.dataplane.program(abi::PROGRAM_GUARD)?;
        Ok(())
    }

    /// The first stage, for threads and measurements of their own.
    pub(crate) fn program(&self) -> &OwnedFd {
        &self.forward
    }

    /// Gives packet data to the expire program.
    pub(crate) fn run_expire(&mut self, data: &[u8]) -> Result<u32> {
        let ran = Run::default().on(self.expire.as_fd(), data, &mut self.output)?;
        Ok(ran.verdict)
    }

    /// Runs `body` and gives the counters that it changed.
    pub(crate) fn counted<T>(
        &mut self,
        body: impl FnOnce(&mut Self) -> Result<T>,
    ) -> Result<(T, Counted)> {
        let before = self.counters()?;
        let result = body(self)?;
        let mut changed = self.counters()?;
        for (name, count) in &mut changed {
            *count -= before[name];
        }
        changed.retain(|_, count| *count != 0);
        Ok((result, changed))
    }

    /// Every counter over all CPUs.
    pub(crate) fn counters(&self) -> Result<Counted> {
        let values = self.counter_values()?;
        Ok(Counter::ALL.iter().map(|&c| (c.name(), values[c as usize])).collect())
    }

    /// The values of all counters over all CPUs, in one call.
    pub(crate) fn counter_values(&self) -> Result<[u64; COUNTERS as usize]> {
        let size = self.counters.value_size();
        let mut bytes = vec![0; size * COUNTERS as usize];
        self.counters.read_array(COUNTERS, &mut bytes)?;
        Ok(std::array::from_fn(|counter| {
            let per_cpu = bytes[counter * size..][..size].chunks_exact(8);
            per_cpu.filter_map(from_bytes::<u64>).sum()
        }))
    }

    /// Lets the peers of both interfaces take frames, so that what is sent arrives.
    pub(crate) fn passive_peers(&mut self) -> Result<()> {
        for peer in ["c0", "s1", "d0", "d1"] {
            self.stubs.push(Stub::attach(peer)?);
        }
        Ok(())
    }

    /// New flows that this CPU has counted in this second.
    pub(crate) fn new_flows(&self) -> Result<u64> {
        let map = Map::open(&self.dataplane.directory().join(abi::MAP_PER_CPU))?;
        let mut bytes = vec![0; map.value_size()];
        map.read(&0u32.to_ne_bytes(), &mut bytes)?;
        let own: PerCpu = from_bytes(&bytes).context("a short value")?;
        Ok(own.new_flows.count)
    }

    /// Active and inactive connections of a real server.
    pub(crate) fn counts(&mut self, index: u32) -> Result<(i64, i64)> {
        let counts = self.dataplane.tables().counts(index)?;
        Ok((counts.active.cast_signed(), counts.inactive.cast_signed()))
    }

    /// Traffic of a real server over all CPUs.
    pub(crate) fn traffic(&mut self, index: u32) -> Result<Traffic> {
        self.dataplane.tables().traffic(index)
    }
}

/// Reading and changing entries of the connection tables.
impl Rig {
    /// The entry of the connection that a frame belongs to, as the family-independent part of it.
    pub(crate) fn entry(&self, frame: &Frame) -> Result<Option<Entry>> {
        Ok(match conn_key(frame) {
            Key::V4(key) => self.tables.0.find(&key).map(|(_, entry)| entry.into()),
            Key::V6(key) => self.tables.1.find(&key).map(|(_, entry)| entry.into()),
        })
    }

    /// Frees the slot of the connection that a frame belongs to, past all counting.
    pub(crate) fn remove(&self, frame: &Frame) -> Result<bool> {
        let is_there = self.entry(frame)?.is_some();
        if is_there {
            self.change(frame, |entry| entry.word = 0)?;
        }
        Ok(is_there)
    }

    /// Rewrites when the connection of a frame was last used; the word stays.
    pub(crate) fn set_seen(&self, frame: &Frame, seen: u64) -> Result<()> {
        self.change(frame, |entry| entry.seen = seen)
    }

    /// Rewrites the entry of a frame's connection. Nothing else may run meanwhile.
    fn change(&self, frame: &Frame, change: impl FnOnce(&mut Change)) -> Result<()> {
        match conn_key(frame) {
            Key::V4(key) => change_in(&self.conn4, &self.tables.0, &key, change),
            Key::V6(key) => change_in(&self.conn6, &self.tables.1, &key, change),
        }
    }

    /// Makes the connection of a frame `jiffies` older than it is now.
    pub(crate) fn age(&self, frame: &Frame, jiffies: u64) -> Result<()> {
        let entry = self.entry(frame)?.context("no entry to age")?;
        self.set_seen(frame, entry.seen - jiffies)
    }

    /// The connection tables, IPv4 and IPv6.
    pub(crate) fn tables(&self) -> &ConnTables {
        &self.tables
    }
}

/// What a test may change of an entry.
struct Change {
    word: u64,
    seen: u64,
}

/// Rewrites a part of an entry by its bucket, the element of the map.
fn change_in<K: ConnKey>(
    map: &Map,
    table: &ConnTable<K>,
    key: &K,
    change: impl FnOnce(&mut Change),
) -> Result<()> {
    let (slot, entry) = table.find(key).context("no entry to change")?;
    let bucket = (slot / SLOTS as u64) as u32;
    let mut bytes = vec![0; map.value_size()];
    ensure!(map.read(&bucket.to_ne_bytes(), &mut bytes)?, "no such bucket");
    let mut part = Change { word: entry.word, seen: entry.seen };
    change(&mut part);
    let at = slot as usize % SLOTS * size_of::<ConnEntry<K>>() + size_of::<K>();
    bytes[at..at + 8].copy_from_slice(&part.word.to_ne_bytes());
    bytes[at + 8..at + 16].copy_from_slice(&part.seen.to_ne_bytes());
    Ok(map.write(&bucket.to_ne_bytes(), &bytes)?)
}

/// Checks of one frame.
impl Rig {
    /// `frame` becomes `expected`, byte for byte, under `verdict`, and nothing is dropped.
    #[track_caller]
    pub(crate) fn becomes(&mut self, frame: &Frame, ingress: u32, expected: &Frame, verdict: u32) {
        let (out, counted) = self.observe(&frame.bytes(), ingress);
        assert_eq!(out.verdict, verdict, "verdict of {frame:?}; counted {counted:?}");
        assert_same(&out.frame, &expected.bytes());
        assert_eq!(drops_in(&counted), 0, "{counted:?}");
    }

    /// The frame goes to the stack as it came, and nothing is counted.
    #[track_caller]
    pub(crate) fn passes(&mut self, frame: &[u8], ingress: u32) {
        let (out, counted) = self.observe(frame, ingress);
        assert_eq!(out.verdict, PASS, "verdict; counted {counted:?}\n{}", hex(frame));
        assert_same(&out.frame, frame);
        assert_eq!(counted, Counted::new());
    }

    /// The frame is dropped, and exactly one drop counter rises by one: `reason`.
    #[track_caller]
    pub(crate) fn drops(&mut self, frame: &Frame, ingress: u32, reason: Counter) {
        let (out, counted) = self.observe(&frame.bytes(), ingress);
        assert_eq!(out.verdict, DROP, "verdict; counted {counted:?}");
        assert_eq!(drops_in(&counted), 1, "{counted:?}");
        assert_eq!(counted.get(reason.name()), Some(&1), "{counted:?}");
    }

    #[track_caller]
    pub(crate) fn observe(&mut self, frame: &[u8], ingress: u32) -> (Out, Counted) {
        match self.counted(|rig| rig.run(frame, ingress)) {
            Ok(observed) => observed,
            Err(error) => panic!("{error:#}\n{}", hex(frame)),
        }
    }
}

/// Fails with a dump of both when two frames differ.
#[track_caller]
pub(crate) fn assert_same(found: &[u8], expected: &[u8]) {
    if found != expected {
        let at = found.iter().zip(expected).position(|(a, b)| a != b);
        let at = at.unwrap_or(found.len().min(expected.len()));
        panic!("frames differ at {at}; found\n{}expected\n{}", hex(found), hex(expected));
    }
}

/// How often anything was dropped.
pub(crate) fn drops_in(counted: &Counted) -> u64 {
    counted.iter().filter(|(name, _)| is_drop(name)).map(|(_, count)| count).sum()
}

/// Whether a counter of this name counts drops.
pub(crate) fn is_drop(name: &str) -> bool {
    Counter::ALL.iter().any(|c| c.name() == name && c.kind() == CounterKind::Drop)
}

/// An entry, without its family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) word: Word,
    pub(crate) seen: u64,
    pub(crate) last_hop: Link,
}

impl Entry {
    pub(crate) fn state(&self) -> State {
        self.word.state()
    }
}

impl<K: ConnKey> From<ConnEntry<K>> for Entry {
    fn from(e: ConnEntry<K>) -> Self {
        Self { word: Word::from_raw(e.word), seen: e.seen, last_hop: e.last_hop }
    }
}

/// A key of either family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Key {
    V4(ConnKey4),
    V6(ConnKey6),
}

/// The key that a frame's connection has.
pub(crate) fn conn_key(frame: &Frame) -> Key {
    let protocol = if matches!(frame.l4, L4::Tcp(_)) { TCP } else { UDP };
    let (source_port, destination_port) = frame.ports;
    match (frame.source, frame.destination) {
        (IpAddr::V4(source), IpAddr::V4(destination)) => Key::V4(ConnKey4 {
            source: source.octets(),
            destination: destination.octets(),
            source_port,
            destination_port,
            protocol,
            pad: [0; 3],
        }),
        (IpAddr::V6(source), IpAddr::V6(destination)) => Key::V6(ConnKey6 {
            source: source.octets(),
            destination: destination.octets(),
            source_port,
            destination_port,
            protocol,
            pad: [0; 3],
        }),
        ends => panic!("a frame of two families: {ends:?}"),
    }
}

/// An address as the tables have it.
pub(crate) fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(a) => mapped(a.octets()),
        IpAddr::V6(a) => a.octets(),
    }
}

/// IPVS's timeouts.
pub(crate) fn default_timeouts(hz: u64) -> Timeouts {
    let mut timeouts = Timeouts { by_state: [10 * hz; 16] };
    for state in State::ALL {
        timeouts.by_state[state.raw() as usize] = u64::from(state.default_timeout_seconds()) * hz;
    }
    timeouts
}

/// Free places in the tables.
impl Rig {
    pub(crate) fn next_server(&mut self) -> u32 {
        self.next_server += 1;
        self.next_server - 1
    }

    pub(crate) fn next_service(&mut self) -> u32 {
        self.next_service += 1;
        self.next_service - 1
    }

    pub(crate) fn next_slots(&mut self, count: u32) -> u32 {
        self.next_slot += count;
        self.next_slot - count
    }

    /// The address filter as it is.
    pub(crate) fn filter(&self) -> &[u64] {
        &self.filter
    }

    pub(crate) fn set_filter(&mut self, word: u32, bit: u64) -> Result<()> {
        self.filter[word as usize] |= bit;
        let bits = self.filter[word as usize];
        self.apply(&MapOp::SetFilter { word, bits })
    }
}
