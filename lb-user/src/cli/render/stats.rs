//! `lb stats`, listed like `ipvsadm -Ln --stats` and `--rate`.
//!
//! Must not know: sockets, where a document came from.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::cli::render::endpoint;
use crate::cli::render::table::{Align, table};
use crate::controller::document::{Counters, Rates, Stats};
use crate::metrics;

/// The whole text: in total, or per second.
pub fn stats(stats: &Stats, rate: bool) -> String {
    let names = if rate {
        ["CPS", "InPPS", "OutPPS", "InBPS", "OutBPS"]
    } else {
        ["Conns", "InPkts", "OutPkts", "InBytes", "OutBytes"]
    };
    let row = |name: String, counters: &Counters, rates: &Rates| {
        let numbers =
            values(counters).into_iter().zip(per_second(rates)).map(|(value, rate_of)| {
                if !rate {
                    return value.to_string();
                }
                rate_of.map_or_else(|| "-".to_owned(), |rate| format!("{rate:.0}"))
            });
        std::iter::once(name).chain(numbers).collect::<Vec<String>>()
    };
    let mut rows = vec![
        ["Service"].into_iter().chain(names).map(str::to_owned).collect(),
        vec!["  -> RemoteAddress:Port".to_owned()],
    ];
    for service in &stats.services {
        rows.push(row(service.name.clone(), &service.counters, &service.rates));
        for server in &service.real_servers {
            let name = format!("  -> {}", endpoint(&server.address, server.port));
            rows.push(row(name, &server.counters, &server.rates));
        }
    }
    let aligns =
        [Align::Left, Align::Right, Align::Right, Align::Right, Align::Right, Align::Right];
    let mut text = table(&aligns, &rows);
    text.push_str(&reasons("Drops", &stats.drops));
    text.push_str(&reasons("Forwarded without an entry", &stats.without_entry));
    if stats.drift != 0 {
        text.push_str(&format!("Drift of the connection counts: {}\n", stats.drift));
    }
    text
}

/// Fills the rates of the later reading from the earlier one, `elapsed` before it. What is not in
/// both, or counts less than before because it was made anew, gets no rate.
pub fn fill_rates(before: &Stats, after: &mut Stats, elapsed: Duration) {
    for service in &mut after.services {
        let Some(old) = before.services.iter().find(|old| old.name == service.name) else {
            continue;
        };
        service.rates = rates(&old.counters, &service.counters, elapsed);
        for server in &mut service.real_servers {
            let same = old
                .real_servers
                .iter()
                .find(|old| old.address == server.address && old.port == server.port);
            if let Some(old) = same {
                server.rates = rates(&old.counters, &server.counters, elapsed);
            }
        }
    }
}

fn rates(before: &Counters, after: &Counters, elapsed: Duration) -> Rates {
    let rate = |old: u64, new: u64| {
        new.checked_sub(old).map(|grown| metrics::history::per_second(grown, elapsed))
    };
    Rates {
        connections: rate(before.connections, after.connections),
        packets_in: rate(before.packets_in, after.packets_in),
        packets_out: rate(before.packets_out, after.packets_out),
        bytes_in: rate(before.bytes_in, after.bytes_in),
        bytes_out: rate(before.bytes_out, after.bytes_out),
    }
}

/// The counters in the order of the columns.
fn values(counters: &Counters) -> [u64; 5] {
    let Counters { connections, packets_in, packets_out, bytes_in, bytes_out } = *counters;
    [connections, packets_in, packets_out, bytes_in, bytes_out]
}

/// The rates in the order of the columns.
fn per_second(rates: &Rates) -> [Option<f64>; 5] {
    let Rates { connections, packets_in, packets_out, bytes_in, bytes_out } = *rates;
    [connections, packets_in, packets_out, bytes_in, bytes_out]
}

fn reasons(title: &str, counts: &BTreeMap<String, u64>) -> String {
    let rows: Vec<Vec<String>> = counts
        .iter()
        .filter(|(_, count)| **count > 0)
        .map(|(reason, count)| vec![format!("  {reason}"), count.to_string()])
        .collect();
    if rows.is_empty() {
        return String::new();
    }
    format!("{title}:\n{}", table(&[Align::Left, Align::Right], &rows))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::document::{RealServerStats, ServiceStats};

    fn document(connections: u64, packets_in: u64) -> Stats {
        let counters =
            Counters { connections, packets_in, bytes_in: 1_234_567, ..Counters::default() };
        let server = RealServerStats {
            address: "10.0.0.1".into(),
            port: 80,
            counters,
            ..RealServerStats::default()
        };
        let service = ServiceStats {
            name: "web".into(),
            counters,
            real_servers: vec![server],
            ..ServiceStats::default()
        };
        let drops = BTreeMap::from([("no_server".to_owned(), 4), ("malformed".to_owned(), 0)]);
        Stats { services: vec![service], drops, ..Stats::default() }
    }

    #[test]
    fn totals_are_listed_with_drops_by_reason() {
        let expected = "\
Service                 Conns InPkts OutPkts InBytes OutBytes
  -> RemoteAddress:Port
web                        12    100       0 1234567        0
  -> 10.0.0.1:80           12    100       0 1234567        0
Drops:
  no_server 4
";
        assert_eq!(stats(&document(12, 100), false), expected);
    }

    #[test]
    fn rates_are_the_difference_of_two_readings() {
        let mut after = document(32, 50);
        fill_rates(&document(12, 100), &mut after, Duration::from_secs(2));
        assert_eq!(after.services[0].rates.connections, Some(10.0));
        assert_eq!(after.services[0].rates.packets_in, None, "it was made anew");
        let expected = "\
Service                 CPS InPPS OutPPS InBPS OutBPS
  -> RemoteAddress:Port
web                      10     -      0     0      0
  -> 10.0.0.1:80         10     -      0     0      0
Drops:
  no_server 4
";
        assert_eq!(stats(&after, true), expected);
    }
}
