//! `lb explain` with the real daemon: what it says comes true, and asking changes nothing.

use crate::stage::{Method, WEB, file, http_servers, web};
use anyhow::{Context, Result, ensure};
use harness::daemon::{Daemon, number, used};
use harness::peer;
use harness::scenario;
use harness::topology::{Family, address};
use serde_json::Value;

const CLIENT: &str = address::CLIENT_WAN[0];

#[test]
fn the_next_connection_goes_where_explain_says() {
    scenario(Method::Nat.shape(3), |lab| {
        let _servers = http_servers(lab)?;
        let service = web(lab, Method::Nat, Family::V4).scheduler("rr");
        let lb = Daemon::start(lab, &file(lab, Method::Nat, Family::V4, service))?;
        let url = Method::Nat.url(Family::V4, WEB);
        let to = format!("{}/tcp", Method::Nat.endpoint(Family::V4, WEB));
        let ask = || -> Result<Value> {
            let text = lb.text(&["explain", "--from", CLIENT, "--to", &to, "--json"])?;
            serde_json::from_str(&text).with_context(|| text.clone())
        };
        let served = || -> Result<Vec<u64>> {
            let status = lb.status()?;
            let servers = status["virtual_services"][0]["real_servers"].as_array();
            servers.context("no servers")?.iter().map(|s| number(s, "connections")).collect()
        };
        // The client's neighbour entry and the servers' are known after one connection.
        peer::get(&lab.client, &url, 1)?.unbroken()?;
        for _ in 0..5 {
            let before = (served()?, used(&lb.status()?)?, lb.stats()?["drops"].clone());
            let told = ask()?;
            ensure!(told == ask()?, "asking changed the answer: {told}");
            let after = (served()?, used(&lb.status()?)?, lb.stats()?["drops"].clone());
            ensure!(before.0 == after.0 && before.2 == after.2, "asking was counted: {told}");
            ensure!(told["verdict"] == "forward" && told["service"] == "web", "{told}");
            ensure!(told["scheduler"] == "rr", "{told}");
            ensure!(told["packet"].as_str().is_some_and(|hex| hex.len() >= 108), "{told}");
            peer::get(&lab.client, &url, 1)?.unbroken()?;
            let now = served()?;
            let at = now.iter().zip(&before.0).position(|(now, then)| now > then);
            let status = lb.status()?;
            let server = &status["virtual_services"][0]["real_servers"][at.context("nobody")?];
            let name = format!("{}:{WEB}", server["address"].as_str().unwrap_or_default());
            ensure!(told["real_server"] == name.as_str(), "{name} served, told {told}");
        }
        lb.text(&["ban", CLIENT])?;
        let told = ask()?;
        ensure!(told["verdict"] == "drop" && told["packet"] == "", "{told}");
        let bans = lb.text(&["bans", "--json"])?;
        ensure!(bans.contains("\"packets\":0"), "the question was counted: {bans}");
        let text = lb.text(&["explain", "--from", CLIENT, "--to", &to])?;
        ensure!(text.contains("deny list") && text.ends_with("verdict: drop\n"), "{text}");
        Ok(())
    });
}
