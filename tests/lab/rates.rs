//! Rates and history: what `lb stats --rate` and the API say of real traffic.

use crate::stage::{Method, WEB, file, http_servers, web};
use anyhow::{Context, Result, ensure};
use harness::daemon::{Daemon, Paths};
use harness::peer::Load;
use harness::process::run;
use harness::topology::Family;
use harness::wait::{eventually, seconds};
use harness::{Lab, scenario};
use serde_json::Value;
use std::process::Command;

#[test]
fn a_rate_is_what_the_client_sent() {
    scenario(Method::Nat.shape(2), |lab| {
        let _servers = http_servers(lab)?;
        let config = file(lab, Method::Nat, Family::V4, web(lab, Method::Nat, Family::V4));
        let lb = Daemon::start(lab, &config)?;
        ensure!(lb.stats()?["services"][0]["rates"] == serde_json::json!({}), "a rate of nothing");
        let mut load = Load::start(&lab.client, &Method::Nat.url(Family::V4, WEB))?;

        // One whole interval between two samples, seen from both sides.
        let loaded = samples(lab)?.len() + 1;
        wait_for(lab, loaded)?;
        let before = load.count()?.total();
        wait_for(lab, loaded + 1)?;
        let sent = load.count()?.total() - before;
        let history = samples(lab)?;
        let stats = lb.stats()?;
        load.stop()?.iter().try_for_each(|phase| phase.unbroken())?;

        let expected = sent as f64 / 5.0;
        near("the history", history[loaded], expected)?;
        let service = &stats["services"][0];
        near("the service", rate(service, "connections")?, expected)?;
        for server in service["real_servers"].as_array().context("no servers")? {
            near("a real server", rate(server, "connections")?, expected / 2.0)?;
            for key in ["packets_in", "packets_out", "bytes_in", "bytes_out"] {
                let per_connection = rate(server, key)? / rate(server, "connections")?;
                let counted = |key: &str| server[key].as_f64().context("no counter");
                near(key, per_connection, counted(key)? / counted("connections")?)?;
            }
        }
        let text = lb.text(&["stats", "--rate"])?;
        ensure!(text.contains("CPS") && !text.contains(" - "), "{text}");

        // Nothing is sent any more, and a reload that replaces a server counts nothing.
        let mut one = config.clone();
        one.services[0].real_servers.swap(0, 1);
        one.services[0].real_servers.pop();
        lb.reload(&one)?;
        let quiet = samples(lab)?.len() + 2;
        wait_for(lab, quiet)?;
        let rates = samples(lab)?;
        ensure!(rates.iter().all(|rate| *rate >= 0.0), "{rates:?}");
        ensure!(rates[quiet - 1] == 0.0, "{rates:?} although nothing is sent");
        Ok(())
    });
}

fn rate(object: &Value, key: &str) -> Result<f64> {
    object["rates"][key].as_f64().with_context(|| format!("no rate of {key} in {object}"))
}

fn near(what: &str, found: f64, expected: f64) -> Result<()> {
    let is_near = (found - expected).abs() <= 0.1 * expected && expected > 0.0;
    ensure!(is_near, "{what}: {found} per second, {expected} were sent");
    Ok(())
}

/// Connections per second of the only service, oldest first.
fn samples(lab: &Lab) -> Result<Vec<f64>> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--fail", "--unix-socket"]).arg(Paths::of(lab).socket);
    let history: Value = serde_json::from_str(&run(curl.arg("http://lb/api/v1/history"))?)?;
    ensure!(history["interval_s"] == 5, "{history}");
    let service = &history["services"][0];
    ensure!(service["name"] == "web", "{history}");
    for key in ["packets_in", "bytes_in", "bytes_out"] {
        let count = service[key].as_array().map(Vec::len);
        ensure!(count == service["connections"].as_array().map(Vec::len), "{history}");
    }
    let values = service["connections"].as_array().context("no samples")?;
    values.iter().map(|value| value.as_f64().context("no number")).collect()
}

/// Waits until there are so many samples.
fn wait_for(lab: &Lab, count: usize) -> Result<()> {
    eventually(seconds(15), "another sample", || Ok(samples(lab)?.len() >= count))
}
