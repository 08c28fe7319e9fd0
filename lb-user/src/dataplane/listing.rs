//! Reading the connection table for people: `lb connections`.
//!
//! Must not know: names of services, how a connection is shown.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use lb_common::conn::{ConnEntry, ConnKey, ConnKey4, ConnKey6, PROVISIONAL, REPLY, State, Word};
use lb_common::pod::Address;

use super::bpf::Dataplane;
use super::sweep::walk;

/// One connection.
#[derive(Clone, Debug)]
pub struct Row {
    /// Id of its service.
    pub service: u32,
    /// IP protocol number.
    pub protocol: u8,
    /// Client's address and port.
    pub client: (IpAddr, u16),
    /// Virtual address and port.
    pub virtual_end: (IpAddr, u16),
    /// Index of its real server.
    pub real_server: u32,
    /// Generation of the real server that it belongs to.
    pub generation: u16,
    /// Its state.
    pub state: State,
    /// Picked up in its middle and not confirmed yet.
    pub provisional: bool,
    /// When it was last used, in jiffies.
    pub seen: u64,
    /// Index into the timeouts of its service.
    pub timeout_index: usize,
}

/// Descriptors to read from, for a thread that may block.
#[derive(Debug)]
pub struct Reader {
    conn4: OwnedFd,
    conn6: OwnedFd,
}

impl Reader {
    /// A reader of this data plane.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn new(dataplane: &mut Dataplane) -> anyhow::Result<Self> {
        let (conn4, conn6) = dataplane.tables().connection_maps()?;
        Ok(Self { conn4, conn6 })
    }

    /// At most `limit` connections of the services that `wanted` says, and how many there are.
    ///
    /// # Errors
    /// When a table cannot be read.
    pub fn read(
        &self,
        limit: usize,
        wanted: impl Fn(u32) -> bool,
    ) -> anyhow::Result<(Vec<Row>, u64)> {
        let mut found = Found { rows: Vec::new(), total: 0, limit };
        found.add::<ConnKey4>(self.conn4.as_fd(), &wanted)?;
        found.add::<ConnKey6>(self.conn6.as_fd(), &wanted)?;
        Ok((found.rows, found.total))
    }
}

struct Found {
    rows: Vec<Row>,
    total: u64,
    limit: usize,
}

impl Found {
    fn add<K: ConnKey>(
        &mut self,
        map: BorrowedFd<'_>,
        wanted: &impl Fn(u32) -> bool,
    ) -> anyhow::Result<()> {
        walk::<K>(map, |keys, entries| {
            for (key, entry) in keys.iter().zip(entries) {
                let word = Word::from_raw(entry.word);
                if word.has(REPLY) || word.is_closed() || !wanted(entry.service) {
                    continue;
                }
                self.total += 1;
                if self.rows.len() < self.limit {
                    self.rows.push(row(key, entry, word));
                }
            }
            Ok(true)
        })
    }
}

fn row<K: ConnKey>(key: &K, entry: &ConnEntry<K>, word: Word) -> Row {
    let (source_port, destination_port) = key.ports();
    Row {
        service: entry.service,
        protocol: key.protocol(),
        client: (ip(&key.source()), source_port),
        virtual_end: (ip(&key.destination()), destination_port),
        real_server: word.real_server(),
        generation: word.generation(),
        state: word.state(),
        provisional: word.has(PROVISIONAL),
        seen: entry.seen,
        timeout_index: word.timeout_index(),
    }
}

/// An address of the tables as the standard library has it.
pub fn ip(address: &Address) -> IpAddr {
    std::net::Ipv6Addr::from(*address).to_canonical()
}
