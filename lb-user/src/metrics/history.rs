//! Rates from counters: two readings in, changes per second out, and the last minutes kept.
//!
//! A service's rate is the sum over its real servers of what each counted since the reading before,
//! so a server that came, went or was counted anew between two readings never makes it negative.
//! The services are known by what clients connect to: a name may change, a history goes on.
//!
//! Must not know: clocks, map handles, names, who asks.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use lb_common::pod::Address;
use lb_common::service::{ServiceKey, Traffic};

/// Time between two readings.
pub const INTERVAL: Duration = Duration::from_secs(5);
/// Samples that are kept of a service: five minutes.
pub const SAMPLES: usize = 60;

/// Who a real server's counters belong to. Its index may get another meaning.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// Id of its service.
    pub service: u32,
    /// Its address.
    pub address: Address,
    /// Its port.
    pub port: u16,
}

/// The counters at one time.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// When, since any fixed point.
    pub at: Duration,
    /// Ids of the services by what clients connect to.
    pub services: BTreeMap<ServiceKey, u32>,
    /// Real servers by index.
    pub servers: HashMap<u32, (Owner, Traffic)>,
}

/// Change of the counters per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Rates {
    /// Connections.
    pub connections: f64,
    /// Packets from clients.
    pub packets_in: f64,
    /// Packets to clients.
    pub packets_out: f64,
    /// Bytes from clients.
    pub bytes_in: f64,
    /// Bytes to clients.
    pub bytes_out: f64,
}

/// One sample of a service, per second.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Sample {
    /// Connections.
    pub connections: f32,
    /// Packets from clients.
    pub packets_in: f32,
    /// Bytes from clients.
    pub bytes_in: f32,
    /// Bytes to clients.
    pub bytes_out: f32,
}

/// The rates between the last two readings.
#[derive(Clone, Debug, Default)]
pub struct Latest {
    services: HashMap<ServiceKey, Rates>,
    servers: HashMap<u32, (Owner, Rates)>,
}

impl Latest {
    /// Those of a service; `None` when it was not there at both readings.
    pub fn service(&self, key: &ServiceKey) -> Option<Rates> {
        self.services.get(key).copied()
    }

    /// Those of a real server, if the index still means it.
    pub fn server(&self, index: u32, address: &Address, port: u16) -> Option<Rates> {
        let (owner, rates) = self.servers.get(&index)?;
        (owner.address == *address && owner.port == port).then_some(*rates)
    }
}

/// The last reading, and the samples made of those before.
#[derive(Debug, Default)]
pub struct History {
    previous: Option<Reading>,
    samples: BTreeMap<ServiceKey, VecDeque<Sample>>,
}

impl History {
    /// Takes a reading; gives the rates since the one before. The first one gives none: the
    /// counters may be older than the daemon.
    pub fn take(&mut self, reading: Reading) -> Latest {
        let latest = self.previous.as_ref().and_then(|before| {
            let elapsed = reading.at.checked_sub(before.at)?;
            (!elapsed.is_zero()).then(|| compare(before, &reading, elapsed))
        });
        let latest = latest.unwrap_or_default();
        self.samples.retain(|key, _| reading.services.contains_key(key));
        for (key, rates) in &latest.services {
            let samples = self.samples.entry(*key).or_default();
            if samples.len() == SAMPLES {
                samples.pop_front();
            }
            samples.push_back(Sample::of(rates));
        }
        self.previous = Some(reading);
        latest
    }

    /// The samples of a service, oldest first.
    pub fn samples(&self, key: &ServiceKey) -> impl Iterator<Item = &Sample> {
        self.samples.get(key).into_iter().flatten()
    }
}

/// What happened between two readings.
fn compare(before: &Reading, after: &Reading, elapsed: Duration) -> Latest {
    let mut by_service: HashMap<u32, Traffic> = HashMap::new();
    let mut servers = HashMap::with_capacity(after.servers.len());
    for (&index, (owner, traffic)) in &after.servers {
        let old = before.servers.get(&index).filter(|(old, _)| old == owner);
        // A new server's counters began at zero.
        let grown = grown(old.map_or(&Traffic::zeroed(), |(_, old)| old), traffic);
        let sum = by_service.entry(owner.service).or_insert(Traffic::zeroed());
        *sum = combine(sum, &grown, u64::saturating_add);
        servers.insert(index, (*owner, Rates::over(&grown, elapsed)));
    }
    let services = after.services.iter().filter(|(key, _)| before.services.contains_key(key));
    let rates = |id: &u32| Rates::over(by_service.get(id).unwrap_or(&Traffic::zeroed()), elapsed);
    Latest { services: services.map(|(key, id)| (*key, rates(id))).collect(), servers }
}

/// By how much counters grew; those that were set back have counted from zero since.
fn grown(before: &Traffic, after: &Traffic) -> Traffic {
    let is_anew = after.connections < before.connections
        || after.packets_in < before.packets_in
        || after.packets_out < before.packets_out
        || after.bytes_in < before.bytes_in
        || after.bytes_out < before.bytes_out;
    if is_anew { *after } else { combine(after, before, u64::saturating_sub) }
}

fn combine(a: &Traffic, b: &Traffic, with: impl Fn(u64, u64) -> u64) -> Traffic {
    Traffic {
        connections: with(a.connections, b.connections),
        packets_in: with(a.packets_in, b.packets_in),
        bytes_in: with(a.bytes_in, b.bytes_in),
        packets_out: with(a.packets_out, b.packets_out),
        bytes_out: with(a.bytes_out, b.bytes_out),
    }
}

impl Rates {
    fn over(grown: &Traffic, elapsed: Duration) -> Self {
        Self {
            connections: per_second(grown.connections, elapsed),
            packets_in: per_second(grown.packets_in, elapsed),
            packets_out: per_second(grown.packets_out, elapsed),
            bytes_in: per_second(grown.bytes_in, elapsed),
            bytes_out: per_second(grown.bytes_out, elapsed),
        }
    }
}

/// A change per second, to a thousandth; 0 for no time at all.
#[expect(clippy::cast_precision_loss, reason = "a rate is for people")]
pub fn per_second(change: u64, elapsed: Duration) -> f64 {
    if elapsed.is_zero() {
        return 0.0;
    }
    (change as f64 / elapsed.as_secs_f64() * 1e3).round() / 1e3
}

impl Sample {
    #[expect(clippy::cast_possible_truncation, reason = "a chart has no more than seven digits")]
    fn of(rates: &Rates) -> Self {
        Self {
            connections: rates.connections as f32,
            packets_in: rates.packets_in as f32,
            bytes_in: rates.bytes_in as f32,
            bytes_out: rates.bytes_out as f32,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn key(port: u16) -> ServiceKey {
        ServiceKey { port, ..ServiceKey::zeroed() }
    }

    fn traffic(connections: u64, bytes_in: u64) -> Traffic {
        Traffic { connections, packets_in: 2 * connections, bytes_in, ..Traffic::zeroed() }
    }

    fn owner(service: u32, host: u8) -> Owner {
        Owner { service, address: [host; 16], port: 80 }
    }

    /// Services 80 (id 0) and 81 (id 1), and servers as (index, owner, counters).
    fn reading(at: u64, servers: &[(u32, Owner, Traffic)]) -> Reading {
        Reading {
            at: Duration::from_secs(at),
            services: BTreeMap::from([(key(80), 0), (key(81), 1)]),
            servers: servers.iter().map(|(index, owner, t)| (*index, (*owner, *t))).collect(),
        }
    }

    fn connections(history: &History, port: u16) -> Vec<f32> {
        history.samples(&key(port)).map(|sample| sample.connections).collect()
    }

    #[test]
    fn a_rate_is_the_change_over_the_time_between_two_readings() {
        let mut history = History::default();
        let (a, b) = (owner(0, 1), owner(1, 2));
        let first =
            history.take(reading(100, &[(4, a, traffic(50, 1_000)), (5, b, traffic(9, 9))]));
        assert_eq!(first.service(&key(80)), None, "the counters are older than the daemon");
        assert_eq!(first.server(4, &a.address, 80), None);
        let second =
            history.take(reading(105, &[(4, a, traffic(60, 3_500)), (5, b, traffic(9, 9))]));
        let expected =
            Rates { connections: 2.0, packets_in: 4.0, bytes_in: 500.0, ..Rates::default() };
        assert_eq!(second.service(&key(80)), Some(expected));
        assert_eq!(second.server(4, &a.address, 80), Some(expected));
        assert_eq!(second.service(&key(81)), Some(Rates::default()));
        assert_eq!(second.service(&key(82)), None);
        assert_eq!(second.server(4, &a.address, 81), None, "another server's");
        // A reading that came late counts the longer time.
        let third =
            history.take(reading(125, &[(4, a, traffic(100, 3_500)), (5, b, traffic(9, 9))]));
        assert_eq!(third.service(&key(80)).map(|rates| rates.connections), Some(2.0));
        assert_eq!(connections(&history, 80), [2.0, 2.0]);
    }

    #[test]
    fn a_server_that_is_replaced_gives_no_negative_rate() {
        let mut history = History::default();
        let (old, new) = (owner(0, 1), owner(0, 2));
        history.take(reading(0, &[(4, old, traffic(15, 0)), (5, old, traffic(10, 0))]));
        // The index got another meaning, and what it counted before is not the new one's.
        let latest =
            history.take(reading(5, &[(4, new, traffic(20, 0)), (5, old, traffic(15, 0))]));
        let rate = |index, owner: &Owner| {
            latest.server(index, &owner.address, 80).map(|rates| rates.connections)
        };
        assert_eq!((rate(4, &new), rate(5, &old)), (Some(4.0), Some(1.0)));
        assert_eq!(rate(4, &old), None);
        // The same server, removed and added again, has counted from zero.
        let latest = history.take(reading(10, &[(4, new, traffic(5, 0))]));
        assert_eq!(latest.service(&key(80)).map(|rates| rates.connections), Some(1.0));
        assert_eq!(connections(&history, 80), [5.0, 1.0]);
    }

    #[test]
    fn five_minutes_are_kept_and_a_service_that_left_is_forgotten() {
        let mut history = History::default();
        let a = owner(0, 1);
        for n in 0..=70 {
            history.take(reading(5 * n, &[(4, a, traffic(n * n * 5, 0))]));
        }
        let kept = connections(&history, 80);
        assert_eq!(kept.len(), SAMPLES);
        assert_eq!((kept[0], kept[59]), (21.0, 139.0), "oldest first");
        let mut gone = reading(355, &[]);
        gone.services.remove(&key(80));
        history.take(gone);
        assert_eq!(connections(&history, 80), [0.0; 0]);
        history.take(reading(360, &[(4, a, traffic(0, 0))]));
        assert_eq!(connections(&history, 80), [0.0; 0], "it has no reading before");
        assert_eq!(connections(&history, 81).len(), SAMPLES);
    }

    #[test]
    fn two_readings_at_one_time_give_no_rate() {
        let mut history = History::default();
        let a = owner(0, 1);
        history.take(reading(5, &[(4, a, traffic(1, 0))]));
        let latest = history.take(reading(5, &[(4, a, traffic(9, 0))]));
        assert_eq!(latest.service(&key(80)), None);
        assert_eq!(connections(&history, 80), [0.0; 0]);
    }

    proptest! {
        /// Whatever the counters and the owners do, no rate is negative or infinite.
        #[test]
        fn no_rate_is_negative(
            steps in proptest::collection::vec((0u64..9, 0u32..3, 0u8..3, any::<u64>()), 1..40),
        ) {
            let (mut history, mut at) = (History::default(), 0);
            for (wait, service, host, count) in steps {
                at += wait;
                let now = owner(service, host);
                let latest = history.take(reading(at, &[(4, now, traffic(count / 4, count))]));
                let rates = latest.servers.values().map(|(_, rates)| rates);
                for rates in rates.chain(latest.services.values()) {
                    prop_assert!(rates.connections >= 0.0 && rates.connections.is_finite());
                    prop_assert!(rates.bytes_in >= 0.0 && rates.bytes_in.is_finite());
                }
            }
        }
    }
}
