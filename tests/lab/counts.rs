//! Counters are exact: active is what the real servers' kernels call ESTABLISHED, active and
//! inactive together are the entries of the table, and after the timeouts everything is 0.

use crate::stage::{Method, all_servers};
use anyhow::{Context, Result, ensure};
use harness::config::{Config, Service};
use harness::counters::established;
use harness::daemon::{Daemon, find_real_server, number, used};
use harness::peer::{self, Holder};
use harness::topology::{Family, server_address};
use harness::wait::{eventually, seconds};
use harness::{Lab, Shape, scenario};
use serde_json::Value;

#[test]
fn counters_follow_2000_connections_and_end_at_0() {
    scenario(Shape::Both { servers: 2 }, |lab| {
        let mut servers = Vec::new();
        for (_, port) in SERVICES {
            for ns in &lab.servers {
                servers.push(peer::hold_server(ns, port)?);
            }
        }
        let service = |method: Method, port| {
            let listen = (method.vip(Family::V4), port, "tcp");
            Service::new(method.name(), listen, method.name(), all_servers(lab, Family::V4))
        };
        let mut config = Config::new(&lab.director_interfaces()).timeouts(TIMEOUTS);
        let mut holders = Vec::new();
        for (method, port) in SERVICES {
            config = config
                .vip(method.vip(Family::V4), method.interface())
                .service(service(method, port));
            holders.push(Holder::start(&lab.client, &method.endpoint(Family::V4, port))?);
        }
        let lb = Daemon::start(lab, &config)?;
        for holder in &mut holders {
            holder.open(1000)?.unbroken()?;
        }
        for pause in 1..=20 {
            for holder in &mut holders {
                holder.churn(200)?.unbroken()?;
                holder.echo()?.unbroken()?;
            }
            counters_agree(lab, &lb).with_context(|| format!("pause {pause}"))?;
        }
        for holder in &mut holders {
            let held = holder.close(2000)?.unbroken()?;
            ensure!(held.open == 0, "{held:?}");
        }
        // IPVS's TIME_WAIT lasts two minutes.
        eventually(seconds(180), "every counter is 0", || {
            Ok(Counts::read(&lb)? == Counts::default())
        })?;
        ensure!(lb.connections()?["total"] == 0, "entries without a count: {}", lb.connections()?);
        no_drift(&lb.stats()?)
    });
}

/// Nothing is in flight but the last acknowledgements, so a moment suffices.
fn counters_agree(lab: &Lab, lb: &Daemon) -> Result<()> {
    eventually(seconds(5), "the counters agree", || {
        let status = lb.status()?;
        for (method, port) in SERVICES {
            for (n, ns) in (1..).zip(&lab.servers) {
                let server =
                    find_real_server(&status, method.name(), &server_address(Family::V4, n))?;
                let (active, open) =
                    (number(server, "active_connections")?, established(ns, port)?);
                let name = method.name();
                ensure!(active == open, "{name}/rs{n}: {active} active, {open} ESTABLISHED");
            }
        }
        let counts = Counts::of(&status)?;
        let total = number(&lb.connections()?, "total")?;
        let sum = counts.active + counts.inactive;
        ensure!(sum == counts.used && sum == total, "{counts:?}, lb connections lists {total}");
        Ok(true)
    })?;
    no_drift(&lb.stats()?)
}

/// Sums over every service and real server, and the table's own count.
#[derive(Debug, Default, PartialEq, Eq)]
struct Counts {
    active: u64,
    inactive: u64,
    used: u64,
}

impl Counts {
    fn read(lb: &Daemon) -> Result<Self> {
        Self::of(&lb.status()?)
    }

    fn of(status: &Value) -> Result<Self> {
        let mut counts = Self { used: used(status)?, ..Self::default() };
        let services = status["virtual_services"].as_array().context("no virtual_services")?;
        for server in
            services.iter().filter_map(|service| service["real_servers"].as_array()).flatten()
        {
            counts.active += number(server, "active_connections")?;
            counts.inactive += number(server, "inactive_connections")?;
        }
        Ok(counts)
    }
}

/// `drift` is a number, or numbers by real server: all must be 0.
fn no_drift(stats: &Value) -> Result<()> {
    let drift = stats.get("drift").context("lb stats has no drift")?;
    ensure!(is_zero(drift), "drift {drift}");
    Ok(())
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Array(values) => values.iter().all(is_zero),
        Value::Object(values) => values.values().all(is_zero),
        _ => false,
    }
}

#[test]
fn a_drift_anywhere_is_found() {
    use serde_json::json;
    for clean in [json!({"drift": 0}), json!({"drift": {"a": 0}}), json!({"drift": [0, 0]})] {
        no_drift(&clean).expect("all are 0");
    }
    for bad in [json!({}), json!({"drift": -1}), json!({"drift": {"a": 1}})] {
        assert!(no_drift(&bad).is_err(), "{bad}");
    }
}

const SERVICES: [(Method, u16); 2] = [(Method::Nat, 9000), (Method::Dr, 9001)];
const TIMEOUTS: &str = "tcp: 15m, tcp_syn: 2s, tcp_fin: 2s";
