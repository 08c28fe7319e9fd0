//! `/metrics` on the admin socket: what a scraper sees of real traffic, over reloads and restarts.

use crate::stage::{Method, WEB, file, http_servers, web};
use anyhow::{Context, Result, ensure};
use harness::daemon::{Daemon, Paths};
use harness::peer;
use harness::process::run;
use harness::topology::{Family, server_address};
use harness::{Lab, scenario};
use std::collections::BTreeMap;
use std::process::Command;

#[test]
fn counters_grow_over_reloads_and_restarts() {
    scenario(Method::Nat.shape(2), |lab| {
        let _servers = http_servers(lab)?;
        let url = Method::Nat.url(Family::V4, WEB);
        let both = file(lab, Method::Nat, Family::V4, web(lab, Method::Nat, Family::V4));
        let mut one = both.clone();
        one.services[0].real_servers.pop();
        let lb = Daemon::start(lab, &both)?;
        peer::get(&lab.client, &url, 40)?.unbroken()?;

        let first = scrape(lab)?;
        let connections = "lb_service_connections_total{service=\"web\"}";
        let server =
            |n| format!("{{service=\"web\",real_server=\"{}:80\"", server_address(Family::V4, n));
        first.is(connections, 40)?;
        for n in [1, 2] {
            first.is(&format!("lb_real_server_connections_total{}}}", server(n)), 20)?;
            first.is(&format!("lb_real_server_up{}}}", server(n)), 1)?;
            let out = format!("lb_real_server_packets_total{},direction=\"out\"}}", server(n));
            ensure!(first.value(&out)? >= 60, "too few replies are counted");
        }
        first.is("lb_dataplane_mode{mode=\"native\"}", 1)?;
        first.is("lb_last_reload_successful", 1)?;
        first.is("lb_drops_total{reason=\"denied\"}", 0)?;
        ensure!(first.value("lb_connections")? > 0, "no connection is counted");

        lb.reload(&one)?;
        lb.reload_refused("nonsense: 1\n")?;
        lb.text(&["ban", "203.0.113.0/24"])?;
        let second = scrape(lab)?;
        second.has_grown_from(&first)?;
        second.is(connections, 40)?;
        second.is("lb_reloads_total{result=\"applied\"}", 1)?;
        second.is("lb_reloads_total{result=\"refused\"}", 1)?;
        second.is("lb_last_reload_successful", 0)?;
        second.is("lb_deny_prefixes{reason=\"manual\"}", 1)?;
        let gone = format!("lb_real_server_connections_total{}}}", server(2));
        ensure!(second.value(&gone).is_err(), "a server that left is still told");

        lb.kill();
        harness::daemon::write(lab, &one)?;
        let _lb = Daemon::start_again(lab)?;
        peer::get(&lab.client, &url, 10)?.unbroken()?;
        let third = scrape(lab)?;
        third.is(connections, 50)?;
        third.is("lb_reloads_total{result=\"applied\"}", 0)?;
        // What the data plane counts goes on, the daemon's own begins anew.
        let of_plane =
            Scraped(second.0.into_iter().filter(|(name, _)| is_of_plane(name)).collect());
        ensure!(of_plane.0.len() > 30, "{} counters", of_plane.0.len());
        third.has_grown_from(&of_plane)?;
        ensure!(of_plane.has_grown_from(&third).is_err(), "the comparison can fail");
        Ok(())
    });
}

/// Whether a series lives in the maps.
fn is_of_plane(series: &str) -> bool {
    let families =
        ["lb_service_", "lb_real_server_", "lb_drops_", "lb_without_entry_", "lb_notes_"];
    series.contains("_total") && families.iter().any(|family| series.starts_with(family))
}

/// Values by series, as written.
pub(crate) struct Scraped(pub(crate) BTreeMap<String, u64>);

pub(crate) fn scrape(lab: &Lab) -> Result<Scraped> {
    let mut values = BTreeMap::new();
    for line in scraped(lab)?.lines().filter(|line| !line.starts_with('#')) {
        let (series, value) = line.rsplit_once(' ').context("a line without a value")?;
        // Times need not be whole; here their fraction does not matter.
        let value = value.split_once('.').map_or(value, |(whole, _)| whole);
        values.insert(series.to_owned(), value.parse().with_context(|| line.to_owned())?);
    }
    Ok(Scraped(values))
}

/// The text as it comes.
pub(crate) fn scraped(lab: &Lab) -> Result<String> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--fail", "--unix-socket"]).arg(Paths::of(lab).socket);
    run(curl.arg("http://lb/metrics"))
}

impl Scraped {
    pub(crate) fn value(&self, series: &str) -> Result<u64> {
        self.0.get(series).copied().with_context(|| format!("no {series} in {:#?}", self.0))
    }

    fn is(&self, series: &str, expected: u64) -> Result<()> {
        let found = self.value(series)?;
        ensure!(found == expected, "{series} is {found}, not {expected}");
        Ok(())
    }

    fn has_grown_from(&self, before: &Self) -> Result<()> {
        let totals = before.0.iter().filter(|(series, _)| series.contains("_total"));
        for (series, old) in totals {
            if let Some(new) = self.0.get(series) {
                ensure!(new >= old, "{series} fell from {old} to {new}");
            }
        }
        Ok(())
    }
}
