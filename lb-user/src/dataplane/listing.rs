//! Reading the connection table for people: `lb connections`.
//!
//! Must not know: names of services, how a connection is shown.

use std::collections::BTreeMap;
use std::net::IpAddr;

use lb_common::conn::{ConnEntry, ConnKey, PROVISIONAL, REPLY, State, Word};
use lb_common::pod::Address;
use lb_common::service::RealServer;

use super::bpf::{ConnTable, ConnTables, Dataplane};

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

/// What the rows are read from, for a thread that may block.
#[derive(Debug)]
pub struct Reader {
    tables: ConnTables,
    /// A connection's service is its real server's.
    services: BTreeMap<u32, u32>,
}

impl Reader {
    /// A reader of this data plane, in which these real servers are installed, by index. A server
    /// stays installed as long as any entry names it.
    pub fn new<'a>(
        dataplane: &mut Dataplane,
        servers: impl Iterator<Item = (&'a u32, &'a RealServer)>,
    ) -> Self {
        let services = servers.map(|(index, server)| (*index, server.service)).collect();
        Self { tables: dataplane.tables().connections(), services }
    }

    /// At most `limit` connections of the services that `wanted` says, and how many there are.
    pub fn read(&self, limit: usize, wanted: impl Fn(u32) -> bool) -> (Vec<Row>, u64) {
        let mut found = Found { services: &self.services, rows: Vec::new(), total: 0, limit };
        found.add(&self.tables.0, &wanted);
        found.add(&self.tables.1, &wanted);
        (found.rows, found.total)
    }
}

struct Found<'a> {
    services: &'a BTreeMap<u32, u32>,
    rows: Vec<Row>,
    total: u64,
    limit: usize,
}

impl Found<'_> {
    fn add<K: ConnKey>(&mut self, table: &ConnTable<K>, wanted: &impl Fn(u32) -> bool) {
        table.walk(0..table.buckets(), |entry| {
            let word = Word::from_raw(entry.word);
            let service = self.services.get(&word.real_server());
            let Some(&service) = service.filter(|id| !word.has(REPLY) && wanted(**id)) else {
                return;
            };
            self.total += 1;
            if self.rows.len() < self.limit {
                self.rows.push(row(entry, service));
            }
        });
    }
}

fn row<K: ConnKey>(entry: &ConnEntry<K>, service: u32) -> Row {
    let (key, word) = (&entry.key, Word::from_raw(entry.word));
    let (source_port, destination_port) = key.ports();
    Row {
        service,
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
