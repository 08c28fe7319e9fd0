//! Deny and allow lists: they cut what is open, end by their time, and outlive daemons and reloads.

use crate::stage::{Method, WEB, all_servers, file, http_servers, web};
use anyhow::{Context, Result, ensure};
use harness::bpf::Map;
use harness::config::{Config, Service};
use harness::daemon::{self, Daemon, lb, number};
use harness::peer;
use harness::process::{Tool, run};
use harness::topology::{Family, address};
use harness::wait::{eventually, millis, seconds};
use harness::{Lab, scenario};
use serde_json::Value;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

const CLIENT: &str = address::CLIENT_WAN[0];
const BULK: u16 = 9000;

#[test]
fn a_ban_cuts_open_and_new_connections_within_100_ms_and_ends_by_its_time() {
    scenario(Method::Nat.shape(1), |lab| {
        let _servers = http_servers(lab)?;
        let _sink = peer::tcp_sink(lab.server(1)?, BULK)?;
        // Before the web service, so that its server is index 0.
        let listen = (Method::Nat.vip(Family::V4), BULK, "tcp");
        let bulk = Service::new("bulk", listen, "nat", all_servers(lab, Family::V4));
        let config =
            file(lab, Method::Nat, Family::V4, bulk).service(web(lab, Method::Nat, Family::V4));
        let lb = Daemon::start(lab, &config)?;
        let traffic = Map::open(&daemon::pinned(lab, "traffic")?)?;
        let to = Method::Nat.endpoint(Family::V4, BULK);
        let _upload =
            Tool::spawn(&lab.client, &["tcp-send", "--to", &to, "--bytes", "100000000000"])?;
        eventually(seconds(5), "the upload flows", || Ok(packets_in(&traffic)? > 1000))?;

        lb.text(&["ban", CLIENT, "--for", "4s"])?;
        let banned = Instant::now();
        let (mut count, mut last) = (packets_in(&traffic)?, Duration::ZERO);
        while banned.elapsed() < seconds(1) {
            let now = packets_in(&traffic)?;
            if now != count {
                (count, last) = (now, banned.elapsed());
            }
        }
        println!("the last packet passed {last:?} after `lb ban` had returned");
        ensure!(last < millis(100), "packets passed until {last:?} after the command's return");
        let url = Method::Nat.url(Family::V4, WEB);
        let refused = peer::get_within(&lab.client, &url, 1, millis(500))?;
        ensure!(refused.failed == 1, "a new connection was made: {refused}");

        let ban = bans(&lb)?.pop().context("lb bans lists none")?;
        ensure!(ban["prefix"] == format!("{CLIENT}/32") && ban["reason"] == "manual", "{ban}");
        ensure!((1..=4).contains(&number(&ban, "expires_s")?), "{ban}");
        ensure!(number(&ban, "packets")? > 0, "{ban}");
        ensure!(lb.text(&["bans"])?.contains(&format!("{CLIENT}/32")), "{}", lb.text(&["bans"])?);
        let stats = lb.stats()?;
        ensure!(number(&stats["drops"], "denied")? > 0, "{stats}");

        eventually(seconds(10), "the ban ends", || {
            Ok(peer::get_within(&lab.client, &url, 1, millis(500))?.failed == 0)
        })?;
        let after = banned.elapsed();
        println!("the ban of 4 s had ended {after:?} after its command");
        ensure!(after > millis(3900), "it ended after {after:?}");
        eventually(seconds(10), "the upload goes on", || Ok(packets_in(&traffic)? > count))?;
        eventually(seconds(5), "the entry is removed", || Ok(bans(&lb)?.is_empty()))?;
        eventually(seconds(5), "the guard is gone", || enters_by(lab, "lb_forward").map(|()| true))
    });
}

#[test]
fn bans_outlive_reloads_and_daemons_and_the_guard_goes_with_the_last() {
    scenario(Method::Nat.shape(2), |lab| {
        let _servers = http_servers(lab)?;
        let url = Method::Nat.url(Family::V4, WEB);
        let plain = file(lab, Method::Nat, Family::V4, web(lab, Method::Nat, Family::V4));
        let listed = with_lines(&plain, &["deny: [198.51.100.0/24, \"2001:db8::/32\"]"]);
        let lb = Daemon::start(lab, &plain)?;
        enters_by(lab, "lb_forward")?;
        let said = lb.text(&["ban", "203.0.113.7/24"])?;
        ensure!(said.contains("203.0.113.0/24 is banned"), "{said}");
        enters_by(lab, "lb_guard")?;
        let [manual, config] = ["manual", "config"];
        let three =
            [("198.51.100.0/24", config), ("203.0.113.0/24", manual), ("2001:db8::/32", config)];
        lb.reload(&listed)?;
        has_bans(&lb, &three)?;
        // What the file has as well, and a second file without it.
        lb.text(&["ban", "198.51.100.0/24", "--for", "1h"])?;
        has_bans(&lb, &three)?;
        says(lab, &["unban", "2001:db8::/32"], 1, "dataplane.deny of the file")?;
        says(lab, &["unban", "198.51.100.9"], 1, "198.51.100.0/24 is denied")?;
        lb.reload(&plain)?;
        let two = [("198.51.100.0/24", manual), ("203.0.113.0/24", manual)];
        has_bans(&lb, &two)?;

        lb.kill();
        enters_by(lab, "lb_guard")?;
        let lb = Daemon::start_again(lab)?;
        enters_by(lab, "lb_guard")?;
        has_bans(&lb, &two)?;
        peer::get(&lab.client, &url, 20)?.unbroken()?;
        says(lab, &["unban", "198.51.100.0/24"], 0, "is lifted")?;
        says(lab, &["unban", "203.0.113.0/24"], 0, "is lifted")?;
        has_bans(&lb, &[])?;
        enters_by(lab, "lb_forward")?;
        says(lab, &["unban", "203.0.113.0/24"], 1, "is not banned")?;
        ensure!(
            lb.reload_refused(&daemon::write(lab, &with_lines(&plain, &["deny: [eth0]"]))?)?
                .contains("dataplane.deny[0]"),
            "the refusal does not say where"
        );

        // Without a daemon a ban still ends, and the next one takes the guard away.
        lb.text(&["ban", CLIENT, "--for", "3s"])?;
        lb.kill();
        let refused = peer::get_within(&lab.client, &url, 1, millis(500))?;
        ensure!(refused.failed == 1, "a banned client was served: {refused}");
        eventually(seconds(10), "the ban ends without a daemon", || {
            Ok(peer::get_within(&lab.client, &url, 1, millis(500))?.failed == 0)
        })?;
        enters_by(lab, "lb_guard")?;
        daemon::write(lab, &plain)?;
        let _lb = Daemon::start_again(lab)?;
        eventually(seconds(5), "the guard is gone", || enters_by(lab, "lb_forward").map(|()| true))
    });
}

#[test]
fn a_hundred_thousand_prefixes_are_loaded_while_the_daemon_answers() {
    scenario(Method::Nat.shape(1), |lab| {
        let _servers = http_servers(lab)?;
        let plain = file(lab, Method::Nat, Family::V4, web(lab, Method::Nat, Family::V4));
        let many = |from: u32| {
            let host = |n: u32| format!("{}/32", std::net::Ipv4Addr::from(0x6440_0000 + n));
            let list: Vec<String> = (from..from + 100_000).map(host).collect();
            with_lines(&plain, &[&format!("deny: [{}]", list.join(", "))])
        };
        let lb = Daemon::start(lab, &plain)?;
        let slowest = |what: &str, config: &Config| -> Result<()> {
            let done = AtomicBool::new(false);
            let (took, waited) = std::thread::scope(|scope| {
                let watcher = scope.spawn(|| -> Result<Duration> {
                    let mut slowest = Duration::ZERO;
                    while !done.load(Ordering::Relaxed) {
                        let asked = Instant::now();
                        lb.status()?;
                        slowest = slowest.max(asked.elapsed());
                    }
                    Ok(slowest)
                });
                let start = Instant::now();
                let result = lb.reload(config);
                let took = start.elapsed();
                done.store(true, Ordering::Relaxed);
                let waited =
                    watcher.join().map_err(|_| anyhow::anyhow!("the watcher failed"))??;
                result.map(|()| (took, waited))
            })?;
            println!("{what}: {took:?}; `lb status` took at most {waited:?} meanwhile");
            ensure!(took < seconds(10), "{what} took {took:?}");
            ensure!(waited < seconds(2), "lb status took {waited:?} while {what}");
            Ok(())
        };
        slowest("a reload without lists", &plain)?;
        slowest("100,000 prefixes", &many(0))?;
        let asked = Instant::now();
        let listed = bans(&lb)?.len();
        println!("`lb bans` of {listed}: {:?}", asked.elapsed());
        ensure!(listed == 100_000, "{listed} prefixes are listed");
        slowest("10 of them others", &many(10))?;
        enters_by(lab, "lb_guard")?;
        let url = Method::Nat.url(Family::V4, WEB);
        peer::get(&lab.client, &url, 100)?.unbroken()?;
        let start = Instant::now();
        lb.kill();
        let lb = Daemon::start_again(lab)?;
        println!("a start over 100,000 adopted prefixes: {:?}", start.elapsed());
        ensure!(bans(&lb)?.len() == 100_000, "prefixes were lost");
        lb.reload(&plain)?;
        enters_by(lab, "lb_forward")?;
        has_bans(&lb, &[])
    });
}

#[test]
fn an_allow_list_keeps_others_from_services_only() {
    scenario(Method::Nat.shape(1), |lab| {
        let _servers = http_servers(lab)?;
        let url = Method::Nat.url(Family::V4, WEB);
        let plain = file(lab, Method::Nat, Family::V4, web(lab, Method::Nat, Family::V4));
        let lb = Daemon::start(lab, &with_lines(&plain, &["allow: [10.0.2.0/24]"]))?;
        peer::get(&lab.client, &url, 20)?.unbroken()?;
        lb.reload(&with_lines(&plain, &["allow: [203.0.113.0/24]"]))?;
        let refused = peer::get_within(&lab.client, &url, 1, millis(500))?;
        ensure!(refused.failed == 1, "a stranger was served: {refused}");
        ensure!(number(&lb.stats()?["drops"], "not_allowed")? > 0, "{}", lb.stats()?);
        // The director itself is no service.
        lab.client.run(&format!("ping -c 1 -W 2 {}", address::DIRECTOR_WAN[0]))?;
        lb.reload(&plain)?;
        enters_by(lab, "lb_forward")?;
        peer::get(&lab.client, &url, 20)?.unbroken()
    });
}

fn with_lines(config: &Config, lines: &[&str]) -> Config {
    let mut config = config.clone();
    config.dataplane.extend(lines.iter().map(ToString::to_string));
    config
}

/// Packets from clients to the first real server, over all CPUs.
fn packets_in(traffic: &Map) -> Result<u64> {
    let mut value = vec![0; traffic.value_size()];
    traffic.read(&0u32.to_ne_bytes(), &mut value)?;
    let field = |cpu: &[u8]| cpu[8..16].try_into().map(u64::from_ne_bytes);
    Ok(value.chunks_exact(40).map(field).collect::<Result<Vec<_>, _>>()?.iter().sum())
}

fn bans(lb: &Daemon) -> Result<Vec<Value>> {
    let document: Value = serde_json::from_str(&lb.text(&["bans", "--json"])?)?;
    Ok(document["bans"].as_array().context("no bans")?.clone())
}

/// `lb bans` lists exactly these, with these reasons.
fn has_bans(lb: &Daemon, expected: &[(&str, &str)]) -> Result<()> {
    let found = bans(lb)?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let found: Vec<_> =
        found.iter().map(|ban| (text(&ban["prefix"]), text(&ban["reason"]))).collect();
    let same = found.iter().map(|(prefix, reason)| (prefix.as_str(), reason.as_str()));
    ensure!(same.eq(expected.iter().copied()), "lb bans lists {found:?}");
    Ok(())
}

/// `lb ARGS` ends with this code and says this.
fn says(lab: &Lab, args: &[&str], code: i32, part: &str) -> Result<()> {
    let output = lb(lab, args)?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    let is_so = output.status.code() == Some(code) && said.contains(part);
    ensure!(is_so, "lb {}: {}: {said}", args.join(" "), output.status);
    Ok(())
}

/// The program that frames enter by on both interfaces, asked from the kernel.
fn enters_by(lab: &Lab, program: &str) -> Result<()> {
    for interface in lab.director_interfaces() {
        let pin = daemon::pinned(lab, &format!("link-native-{interface}"))?;
        let link = bpftool(&["link", "show", "pinned", &pin.to_string_lossy()])?;
        let id = number(&link, "prog_id")?.to_string();
        let found = bpftool(&["prog", "show", "id", &id])?;
        ensure!(found["name"] == program, "{interface} runs {found}");
    }
    Ok(())
}

fn bpftool(args: &[&str]) -> Result<Value> {
    let text = run(Command::new("bpftool").arg("--json").args(args))?;
    let value: Value = serde_json::from_str(&text)?;
    Ok(value.as_array().and_then(|all| all.first().cloned()).unwrap_or(value))
}
