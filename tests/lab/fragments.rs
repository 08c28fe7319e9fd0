//! Datagrams of 8 KB in fragments, in every order, there and back; and a flood of orphans.

use crate::stage::{Method, WEB, all_servers, file, http_servers, no_checksum_errors, web};
use anyhow::{Context, Result, ensure};
use harness::config::{Config, Service};
use harness::daemon::Daemon;
use harness::peer;
use harness::process::Tool;
use harness::topology::{Family, endpoint};
use harness::wait::{eventually, seconds};
use harness::{Lab, scenario};
use std::collections::BTreeMap;

#[test]
fn nat_carries_fragments_in_any_order() {
    scenario(Method::Nat.shape(2), |lab| every_order(lab, Method::Nat, Family::V4));
}

#[test]
fn nat_carries_fragments_in_any_order_over_ipv6() {
    scenario(Method::Nat.shape(2), |lab| every_order(lab, Method::Nat, Family::V6));
}

#[test]
fn dr_carries_fragments_in_any_order() {
    scenario(Method::Dr.shape(2), |lab| every_order(lab, Method::Dr, Family::V4));
}

#[test]
fn dr_carries_fragments_in_any_order_over_ipv6() {
    scenario(Method::Dr.shape(2), |lab| every_order(lab, Method::Dr, Family::V6));
}

/// Fragments of 1,500 bytes, none of which fits the tunnel: each is split.
#[test]
fn tunnels_carry_fragments_in_any_order_and_split_them() {
    scenario(Method::Tunnel.shape(2), |lab| {
        lab.end_tunnels_at_servers()?;
        orders(lab, Method::Tunnel, Family::V4, ("1480", 5))
    });
}

/// IPv6 senders are told what fits, and send that.
#[test]
fn tunnels_carry_fragments_in_any_order_over_ipv6() {
    scenario(Method::Tunnel.shape(2), |lab| {
        lab.end_tunnels_at_servers()?;
        orders(lab, Method::Tunnel, Family::V6, ("1408", 0))
    });
}

fn every_order(lab: &Lab, method: Method, family: Family) -> Result<()> {
    orders(lab, method, family, ("1448", 0))
}

/// Fragments with `room` bytes of a datagram each, of which `split` are too big for their way.
fn orders(lab: &Lab, method: Method, family: Family, (room, split): (&str, u64)) -> Result<()> {
    let _servers = servers(lab, method, family)?;
    let lb = Daemon::start(lab, &config(lab, method, family))?;
    let to = method.endpoint(family, PORT);
    if (method, family) == (Method::Tunnel, Family::V6) {
        // Once it is told, the client's kernel refuses what is too long.
        match peer::fragments(&lab.client, &to, "forward", 2) {
            Ok(lost) => ensure!(lost.answered == 0, "who split them? {lost:?}"),
            Err(error) => ensure!(format!("{error:#}").contains("EMSGSIZE"), "{error:#}"),
        }
        ensure!(counts(&lb)?["path_mtu_told"] > 0, "nobody was told: {:?}", counts(&lb)?);
    }
    let split = 40 * split;
    for order in ["forward", "reversed", "interleaved", "shuffled"] {
        let before = counts(&lb)?;
        let carried = peer::fragments_with(&lab.client, &to, order, 40, &["--room", room])?;
        ensure!(carried.is_perfect(40), "{order}: {carried:?}; {:?}", counts(&lb)?);
        let after = counts(&lb)?;
        let rise = |name: &str| after[name] - before[name];
        let (held, run) = (rise("detoured"), rise("detour_reruns"));
        ensure!(held == run, "{order}: {held} were held, {run} run again");
        // What comes in order needs no user space; what comes last first does, but for one in six.
        let fits = match order {
            "forward" | "interleaved" => held == split,
            // A first one that is split makes the detour as well.
            "reversed" => held == 40 * 5 + split.min(40),
            _ => held > split,
        };
        let found = rise("packets_split");
        ensure!(found == split, "{order}: {found} were split");
        ensure!(fits, "{order}: {held} were held");
        for name in LOSSES {
            ensure!(rise(name) == 0, "{order}: {name} rose by {}", rise(name));
        }
    }
    no_checksum_errors(lab)
}

#[test]
fn fragments_in_order_need_no_daemon() {
    scenario(Method::Nat.shape(1), |lab| {
        let _servers = servers(lab, Method::Nat, Family::V4)?;
        let lb = Daemon::start(lab, &config(lab, Method::Nat, Family::V4))?;
        lb.kill();
        let to = Method::Nat.endpoint(Family::V4, PORT);
        let carried = peer::fragments(&lab.client, &to, "forward", 40)?;
        ensure!(carried.is_perfect(40), "{carried:?}");
        let lost = peer::fragments(&lab.client, &to, "reversed", 2)?;
        ensure!(lost.answered == 0, "who put them in order? {lost:?}");
        // The next daemon does not send what was left from before.
        let lb = Daemon::start_again(lab)?;
        let carried = peer::fragments(&lab.client, &to, "reversed", 40)?;
        ensure!(carried.is_perfect(40), "{carried:?}; {:?}", counts(&lb)?);
        Ok(())
    });
}

#[test]
fn a_flood_of_orphans_costs_bounded_memory_and_is_counted() {
    scenario(Method::Nat.shape(1), |lab| {
        const ORPHANS: u64 = 60_000;
        let _servers = servers(lab, Method::Nat, Family::V4)?;
        let _http = http_servers(lab)?;
        let config =
            config(lab, Method::Nat, Family::V4).service(web(lab, Method::Nat, Family::V4));
        let lb = Daemon::start(lab, &config)?;
        let before = (counts(&lb)?, resident(lb.pid())?);
        let to = Method::Nat.endpoint(Family::V4, PORT);
        let count = ORPHANS.to_string();
        let args = ["fragment-orphans", "--to", &to, "--count", &count];
        let mut flood = Tool::spawn(&lab.client, &args)?;
        let answers = peer::get(&lab.client, &Method::Nat.url(Family::V4, WEB), 100)?;
        answers.exactly(&[("rs1", 100)])?;
        let sent = flood.json(seconds(60))?;
        ensure!(sent["sent"] == ORPHANS, "{sent}");
        flood.finish(seconds(5))?;
        let counted = eventually(seconds(10), "every orphan is counted", || {
            let after = counts(&lb)?;
            let rise = |name: &str| after[name] - before.0[name];
            let lost: u64 = LOSSES.iter().map(|name| rise(name)).sum();
            let held: u64 = LOSSES[1..].iter().map(|name| rise(name)).sum();
            // A veth may lose some before the director sees them.
            let whole = lost > ORPHANS / 2 && rise("detoured") == held;
            Ok(whole.then_some(lost))
        })?;
        let grown = resident(lb.pid())?.saturating_sub(before.1);
        println!("{counted} of {ORPHANS} counted, {} KiB more", grown / 1024);
        ensure!(grown < 32 << 20, "{grown} bytes more than before the flood");
        let carried = peer::fragments(&lab.client, &to, "reversed", 10)?;
        ensure!(carried.is_perfect(10), "after the flood: {carried:?}");
        Ok(())
    });
}

/// One server for fragments on every real server.
fn servers(lab: &Lab, method: Method, family: Family) -> Result<Vec<Tool>> {
    let start = |(n, ns)| peer::fragment_server(ns, &endpoint(&method.target(family, n), PORT));
    (1..).zip(&lab.servers).map(start).collect()
}

fn config(lab: &Lab, method: Method, family: Family) -> Config {
    let listen = (method.vip(family), PORT, "udp");
    file(
        lab,
        method,
        family,
        Service::new("large", listen, method.name(), all_servers(lab, family)),
    )
}

/// Every counter by its reason.
fn counts(lb: &Daemon) -> Result<BTreeMap<String, u64>> {
    let stats = lb.stats()?;
    let mut counts = BTreeMap::new();
    for part in ["drops", "notes"] {
        let part = stats[part].as_object().with_context(|| format!("no {part}: {stats}"))?;
        for (name, count) in part {
            counts.insert(name.clone(), count.as_u64().context("a count")?);
        }
    }
    Ok(counts)
}

/// Memory of a process, in bytes.
fn resident(pid: u32) -> Result<u64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).context("no VmRSS")?;
    let kib = line.split_whitespace().nth(1).context("no number")?;
    Ok(kib.parse::<u64>()? * 1024)
}

/// How a fragment is lost: before it is held, and afterwards.
const LOSSES: [&str; 5] =
    ["detour_full", "fragment_timeout", "fragment_overflow", "detour_failed", "detour_pass_limit"];
const PORT: u16 = 9100;
