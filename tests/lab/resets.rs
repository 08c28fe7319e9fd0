//! `reset_on_removal`: idle connections of a nat server that is removed are reset at both ends.

use crate::stage::{Method, WEB, file, web};
use anyhow::{Context, Result, ensure};
use harness::config::Config;
use harness::daemon::{Daemon, number};
use harness::netns::Netns;
use harness::peer::{Holder, Site, hold_server};
use harness::process::Tool;
use harness::topology::{Family, server_address};
use harness::wait::{eventually, seconds, throughout};
use harness::{Lab, scenario};
use std::time::Instant;

/// Connections that are held.
const HELD: u64 = 20;
/// The port of the site that the check asks.
const CHECK: u16 = 8081;
/// Time in which both ends have to hear of it.
const TOLD_WITHIN: u64 = 2;

/// What a scenario has: the open connections, and who can make the check fail.
struct Stage<'a> {
    lb: Daemon<'a>,
    site: Site,
    holder: Holder,
    config: Config,
    resets: (u64, u64),
    _server: Tool,
}

impl<'a> Stage<'a> {
    fn set(lab: &'a Lab, family: Family, reset_on_removal: bool) -> Result<Self> {
        let server = lab.server(1)?;
        let hold = hold_server(server, WEB)?;
        let site = Site::start(server, CHECK)?;
        let check =
            format!("type: http, port: {CHECK}, interval: 200ms, timeout: 200ms, rise: 1, fall: 1");
        let mut service = web(lab, Method::Nat, family).check(&check);
        if reset_on_removal {
            service.more.push("reset_on_removal: true".into());
        }
        let mut config = file(lab, Method::Nat, family, service);
        // A table that a build without optimisation, too, passes over in no time.
        config.dataplane.push("connections: 4096".into());
        let lb = Daemon::start(lab, &config)?;
        lb.wait_state("web", &server_address(family, 1), "up", seconds(10))?;
        let mut holder = Holder::start(&lab.client, &Method::Nat.endpoint(family, WEB))?;
        holder.open(HELD as usize)?.unbroken()?;
        let open = (established(&lab.client)?, established(server)?);
        ensure!(open == (HELD, HELD), "{open:?} open");
        let resets = (reset(&lab.client)?, reset(server)?);
        Ok(Self { lb, site, holder, config, resets, _server: hold })
    }

    /// Waits until both ends of every connection were reset, while neither sends anything.
    fn both_ends_are_reset(&self, lab: &Lab, since: Instant) -> Result<()> {
        let server = lab.server(1)?;
        eventually(seconds(TOLD_WITHIN), "both ends are reset", || {
            let told = (reset(&lab.client)? - self.resets.0, reset(server)? - self.resets.1);
            let open = (established(&lab.client)?, established(server)?);
            ensure!(told == (HELD, HELD) && open == (0, 0), "{told:?} reset, {open:?} open");
            Ok(true)
        })?;
        println!("both ends of {HELD} connections were reset within {:?}", since.elapsed());
        let counters = self.lb.stats()?;
        let counted = number(&counters["notes"], "connections_reset")?;
        ensure!(counted == HELD, "{counted} counted");
        Ok(())
    }
}

/// TCP connections to or from the service's port that are established here.
fn established(ns: &Netns) -> Result<u64> {
    let all = ns.run(&format!("ss -Htn state established ( sport = :{WEB} or dport = :{WEB} )"))?;
    Ok(all.lines().count() as u64)
}

/// Connections that went from established to closed at once, as by an RST (RFC 4022).
fn reset(ns: &Netns) -> Result<u64> {
    let all = ns.run("cat /proc/net/snmp")?;
    let mut lines = all.lines().filter(|line| line.starts_with("Tcp:"));
    let (names, values) = (lines.next().context("no names")?, lines.next().context("no values")?);
    let mut pairs = names.split(' ').zip(values.split(' '));
    let (_, value) = pairs.find(|(name, _)| *name == "EstabResets").context("no EstabResets")?;
    Ok(value.parse()?)
}

#[test]
fn both_ends_of_a_failed_servers_connections_are_reset_over_ipv4() {
    failed(Family::V4);
}

#[test]
fn both_ends_of_a_failed_servers_connections_are_reset_over_ipv6() {
    failed(Family::V6);
}

fn failed(family: Family) {
    scenario(Method::Nat.shape(1), |lab| {
        let mut stage = Stage::set(lab, family, true)?;
        stage.site.tell("status 503")?;
        stage.lb.wait_state("web", &server_address(family, 1), "down", seconds(5))?;
        stage.both_ends_are_reset(lab, Instant::now())?;
        let held = stage.holder.echo()?;
        let reset = held.reasons.iter().filter(|why| why.contains("ConnectionReset")).count();
        ensure!(reset as u64 == HELD, "the client was not told by an RST: {held:?}");
        // It comes back, serves, and fails once more: its new connections are told as well.
        stage.site.tell("status 200")?;
        stage.lb.wait_state("web", &server_address(family, 1), "up", seconds(5))?;
        stage.holder = Holder::start(&lab.client, &Method::Nat.endpoint(family, WEB))?;
        stage.holder.open(1)?.unbroken()?;
        stage.site.tell("status 503")?;
        eventually(seconds(5), "the new one is reset", || Ok(established(&lab.client)? == 0))?;
        // The counts are those of connections that are there: none.
        eventually(seconds(10), "the entries are closed", || {
            let server = stage.lb.real_server("web", &server_address(family, 1))?;
            let open =
                (number(&server, "active_connections")?, number(&server, "inactive_connections")?);
            Ok(open == (0, 0))
        })
    });
}

#[test]
fn both_ends_are_reset_when_the_server_leaves_the_file() {
    scenario(Method::Nat.shape(2), |lab| {
        let mut stage = Stage::set(lab, Family::V4, true)?;
        // Only the first server has connections: the other one's check fails.
        let left = stage.config.services[0].real_servers.remove(0);
        ensure!(left.address == server_address(Family::V4, 1), "{left:?}");
        stage.lb.reload(&stage.config)?;
        stage.both_ends_are_reset(lab, Instant::now())?;
        stage.site.tell("status 200")
    });
}

#[test]
fn without_the_option_the_servers_end_stays_as_it_is() {
    scenario(Method::Nat.shape(1), |lab| {
        let mut stage = Stage::set(lab, Family::V4, false)?;
        stage.site.tell("status 503")?;
        stage.lb.wait_state("web", &server_address(Family::V4, 1), "down", seconds(5))?;
        let server = lab.server(1)?;
        throughout(seconds(TOLD_WITHIN + 2), "both ends stay", || {
            let open = (established(&lab.client)?, established(server)?);
            Ok(open == (HELD, HELD))
        })?;
        // The client hears of it when it sends; the server never does.
        ensure!(stage.holder.echo()?.failed == HELD, "connections went on");
        ensure!(established(server)? == HELD, "the server was told");
        Ok(())
    });
}
