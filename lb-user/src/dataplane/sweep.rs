//! The sweep: walks the connection tables, proposes what is over, and recounts.
//!
//! It only reads, and passes over the regions that were empty and had no insert since. Keys whose time is up go to the kernel's expire program in batches; that program
//! looks again and closes. The recount is compared with the kernel's counts: a real server whose
//! counts stood still during two passes and differ from both recounts has drifted.
//!
//! Must not know: services by name, why a server is gone.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use lb_common::bare::Bare;
use lb_common::conn::{ConnEntry, ConnKey, ConnKey4, ConnKey6, REPLY, Word};
use lb_common::expire::{BATCH, BatchHead};
use lb_common::pod;
use lb_common::service::{GENERATION_MASK, RealServer};

use super::bpf::{Clock, ConnTable, Dataplane, sys};
use super::resets::Resets;
use crate::plan::sweep::{Counted, Recount, Verdict, judge};

/// Regions that are read at once: 4096 slots, a fraction of a millisecond.
const SLICE: usize = 64;

/// What a sweep works on.
pub struct Sweeper {
    conn4: Walked<ConnKey4>,
    conn6: Walked<ConnKey6>,
    expire: OwnedFd,
    view: View,
    clock: Clock,
    recount: Recount,
    resets: Resets,
    /// Real servers that earlier passes met: one without entries is to be compared as well.
    met: BTreeSet<u32>,
}

/// A table, and what the last pass knew of its regions.
struct Walked<K> {
    table: Arc<ConnTable<K>>,
    /// For a region in which nothing was found: the inserts into it before it was looked at. As
    /// long as that stays, nothing is there.
    empty: Vec<Option<u64>>,
}

/// The small maps that decide whether an entry is over, by their pins.
struct View {
    real_servers: aya::maps::Array<aya::maps::MapData, RealServer>,
    timeouts: aya::maps::Array<aya::maps::MapData, lb_common::conn::Timeouts>,
    counts: aya::maps::Array<aya::maps::MapData, lb_common::conn::ConnectionCounts>,
}

/// What one pass found.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// Connections in the tables, closed ones left out.
    pub connections: u64,
    /// Real servers that any entry names.
    pub seen: BTreeSet<u32>,
    /// Entries that were proposed to the expire program.
    pub proposed: u64,
    /// Connections by which counts have drifted.
    pub drift: u64,
    /// When the pass began.
    pub started: Option<Instant>,
    /// CPU time that it took.
    pub cpu: Duration,
}

impl Sweeper {
    /// A sweeper of this data plane, for a thread of its own.
    ///
    /// # Errors
    /// When maps cannot be opened.
    pub fn new(dataplane: &mut Dataplane) -> anyhow::Result<Self> {
        let (conn4, conn6) = dataplane.tables().connections();
        Ok(Self {
            conn4: Walked::new(conn4),
            conn6: Walked::new(conn6),
            expire: dataplane.program(lb_common::abi::PROGRAM_EXPIRE)?,
            view: View::open(dataplane.directory())?,
            clock: dataplane.clock(),
            recount: Recount::default(),
            resets: Resets::new(),
            met: BTreeSet::new(),
        })
    }

    /// One pass over both tables. `pause` is called between chunks with the time the last one took,
    /// so that a large table is walked in slices.
    ///
    /// # Errors
    /// When a table cannot be read.
    pub fn pass(&mut self, mut pause: impl FnMut(Duration)) -> anyhow::Result<Report> {
        let started = Instant::now();
        let mut pass = Pass {
            view: &self.view,
            clock: self.clock,
            expire: self.expire.as_fd(),
            servers: BTreeMap::new(),
            resets: &mut self.resets,
            report: Report { started: Some(started), ..Report::default() },
        };
        let cpu = thread_cpu_time();
        for &index in &self.met {
            pass.servers.insert(index, self.view.server(index)?);
        }
        pass.table(&mut self.conn4, 4, &mut pause)?;
        pass.table(&mut self.conn6, 6, &mut pause)?;
        let mut counted = BTreeMap::new();
        for (&index, server) in &pass.servers {
            let after = self.view.counts(index)?;
            if after == (0, 0) && !pass.report.seen.contains(&index) {
                self.met.remove(&index);
            } else {
                self.met.insert(index);
            }
            counted.insert(index, Counted { after, ..server.counted });
        }
        let mut report = pass.report;
        self.resets.passed();
        report.drift = self.recount.compare(counted);
        report.cpu = thread_cpu_time().saturating_sub(cpu);
        Ok(report)
    }
}

/// What a pass knows of a real server.
struct Server {
    element: RealServer,
    timeouts: lb_common::conn::Timeouts,
    counted: Counted,
}

struct Pass<'a> {
    view: &'a View,
    clock: Clock,
    expire: BorrowedFd<'a>,
    servers: BTreeMap<u32, Server>,
    resets: &'a mut Resets,
    report: Report,
}

impl<K: ConnKey> Walked<K> {
    fn new(table: Arc<ConnTable<K>>) -> Self {
        let empty = vec![None; table.regions() as usize];
        Self { table, empty }
    }
}

impl Pass<'_> {
    fn table<K: Bare>(
        &mut self,
        walked: &mut Walked<K>,
        family: u32,
        pause: &mut impl FnMut(Duration),
    ) -> anyhow::Result<()> {
        let table = &walked.table;
        let mut over = Vec::new();
        for (slice, known) in (0u32..).step_by(SLICE).zip(walked.empty.chunks_mut(SLICE)) {
            let began = Instant::now();
            let now = self.clock.now();
            let mut met = false;
            for (region, known) in (slice..).zip(known) {
                let inserts = table.inserts(region);
                if *known == Some(inserts) {
                    continue;
                }
                let mut failed = Ok(());
                let found =
                    table.walk(table.region(region), |entry| match self.is_over(entry, now) {
                        Ok(true) => over.push(entry.key),
                        Ok(false) => {}
                        Err(error) => failed = Err(error),
                    });
                failed?;
                *known = (found == 0).then_some(inserts);
                met = true;
            }
            for batch in over.chunks(BATCH as usize) {
                propose(self.expire, family, batch)?;
            }
            self.report.proposed += over.len() as u64;
            over.clear();
            if met {
                pause(began.elapsed());
            }
        }
        Ok(())
    }

    /// Counts an entry and says whether it is to be proposed.
    fn is_over<K: Bare>(&mut self, entry: &ConnEntry<K>, now: u64) -> anyhow::Result<bool> {
        let word = Word::from_raw(entry.word);
        let index = word.real_server();
        if !self.servers.contains_key(&index) {
            let server = self.view.server(index)?;
            self.resets.forget_before(index, server.element.generation);
            self.servers.insert(index, server);
        }
        let server = self.servers.get_mut(&index).context("a server that was just put in")?;
        self.report.seen.insert(index);
        let generation = server.element.generation & GENERATION_MASK;
        let verdict = match self.resets.keeps(entry, &server.element) {
            true => Verdict::Keep,
            false => judge(word, entry.seen, now, generation, &server.timeouts, self.clock.hz()),
        };
        if !word.has(REPLY) {
            self.report.connections += 1;
            server.counted.add(word.state().is_active(), verdict);
        }
        Ok(verdict == Verdict::Propose)
    }
}

impl View {
    fn open(directory: &std::path::Path) -> anyhow::Result<Self> {
        use aya::maps::{Array, Map, MapData};
        use lb_common::abi;
        let open = |name: &str| -> anyhow::Result<Map> {
            Ok(Map::Array(
                MapData::from_pin(directory.join(name)).with_context(|| format!("open {name}"))?,
            ))
        };
        Ok(Self {
            real_servers: Array::try_from(open(abi::MAP_REAL_SERVERS)?)?,
            timeouts: Array::try_from(open(abi::MAP_TIMEOUTS)?)?,
            counts: Array::try_from(open(abi::MAP_CONNECTION_COUNTS)?)?,
        })
    }

    fn counts(&self, index: u32) -> anyhow::Result<(u64, u64)> {
        let counts = self.counts.get(&index, 0).context("read connection counts")?;
        Ok((counts.active, counts.inactive))
    }

    fn server(&self, index: u32) -> anyhow::Result<Server> {
        let element = self.real_servers.get(&index, 0).context("read a real server")?;
        Ok(Server {
            element,
            timeouts: self.timeouts.get(&element.timeouts, 0).context("read timeouts")?,
            counted: Counted { before: self.counts(index)?, ..Counted::default() },
        })
    }
}

/// Hands keys to the expire program.
fn propose<K: ConnKey>(program: BorrowedFd<'_>, family: u32, keys: &[K]) -> anyhow::Result<()> {
    let head = BatchHead { count: keys.len() as u32, family, pad: [0; 2] };
    let mut data = pod::bytes_of(&head).to_vec();
    for key in keys {
        data.extend_from_slice(pod::bytes_of(key));
    }
    sys::test_run(program, &data).context("run the expire program")?;
    Ok(())
}

fn thread_cpu_time() -> Duration {
    use nix::time::{ClockId, clock_gettime};
    clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).map_or(Duration::ZERO, Duration::from)
}
