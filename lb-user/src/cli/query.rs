//! The commands that ask the running daemon: reload, reopen-logs, status, stats, connections.
//!
//! Must not know: HTTP, how text is laid out.

use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::admin::Client;
use crate::cli::args::{Connections, Daemon, Stats, Status};
use crate::cli::{output, render, runtime};
use crate::controller::document;
use crate::controller::request::Verb;

pub(super) fn reload(daemon: &Daemon) -> anyhow::Result<()> {
    let client = Client::new(daemon.socket());
    let body = runtime()?.block_on(client.ask_raw(&Verb::Reload))?;
    if daemon.wants_json() {
        return output::print(&body);
    }
    let done: document::Reload = serde_json::from_slice(&body).context("the daemon's answer")?;
    output::print(render::reload(&done).as_bytes())
}

pub(super) fn reopen_logs(daemon: &Daemon) -> anyhow::Result<()> {
    let client = Client::new(daemon.socket());
    let body = runtime()?.block_on(client.ask_raw(&Verb::ReopenLogs))?;
    if daemon.wants_json() {
        return output::print(&body);
    }
    let done: document::Reopened = serde_json::from_slice(&body).context("the daemon's answer")?;
    output::print(format!("opened anew: {}\n", done.targets.join(", ")).as_bytes())
}

pub(super) fn status(arguments: &Status) -> anyhow::Result<()> {
    let client = Client::new(arguments.daemon.socket());
    let body = runtime()?.block_on(client.ask_raw(&Verb::Status))?;
    if arguments.daemon.wants_json() && arguments.name.is_none() {
        return output::print(&body);
    }
    let mut status: document::Status =
        serde_json::from_slice(&body).context("the daemon's answer")?;
    if let Some(name) = &arguments.name {
        select(&mut status, name)?;
    }
    if arguments.daemon.wants_json() {
        return output::print(&json(&status)?);
    }
    output::print(render::status(&status).as_bytes())
}

pub(super) fn stats(arguments: &Stats) -> anyhow::Result<()> {
    let client = Client::new(arguments.daemon.socket());
    if !arguments.rate && arguments.daemon.wants_json() {
        let body = runtime()?.block_on(client.ask_raw(&Verb::Stats))?;
        return output::print(&body);
    }
    let stats = runtime()?.block_on(read_stats(&client, arguments.rate))?;
    if arguments.daemon.wants_json() {
        return output::print(&json(&stats)?);
    }
    output::print(render::stats(&stats, arguments.rate).as_bytes())
}

pub(super) fn connections(arguments: &Connections) -> anyhow::Result<()> {
    let client = Client::new(arguments.daemon.socket());
    let verb = Verb::Connections { service: arguments.service.clone(), limit: arguments.limit };
    let body = runtime()?.block_on(client.ask_raw(&verb))?;
    if arguments.daemon.wants_json() {
        return output::print(&body);
    }
    let connections: document::Connections =
        serde_json::from_slice(&body).context("the daemon's answer")?;
    output::print(render::connections(&connections).as_bytes())
}

/// With rates: the daemon's own, or the difference of two readings.
async fn read_stats(client: &Client, with_rates: bool) -> anyhow::Result<document::Stats> {
    let first: document::Stats = client.ask(&Verb::Stats).await?;
    let known = first.services.iter().all(|service| !service.rates.is_empty());
    if !with_rates || known {
        return Ok(first);
    }
    let read = Instant::now();
    tokio::time::sleep(RATE_WINDOW).await;
    let mut second: document::Stats = client.ask(&Verb::Stats).await?;
    render::fill_rates(&first, &mut second, read.elapsed());
    Ok(second)
}

fn select(status: &mut document::Status, name: &str) -> anyhow::Result<()> {
    let mut names: Vec<String> = Vec::new();
    status.virtual_services.retain(|service| {
        names.push(service.name.clone());
        service.name == name
    });
    anyhow::ensure!(
        !status.virtual_services.is_empty(),
        "there is no virtual service {name:?}: the daemon has {}",
        if names.is_empty() { "none".to_owned() } else { names.join(", ") }
    );
    Ok(())
}

fn json(document: &impl serde::Serialize) -> anyhow::Result<Vec<u8>> {
    let mut text = serde_json::to_vec(document)?;
    text.push(b'\n');
    Ok(text)
}

const RATE_WINDOW: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_unknown_service_is_told_with_those_that_exist() {
        let named =
            |name: &str| document::VirtualService { name: name.into(), ..Default::default() };
        let mut status = document::Status {
            virtual_services: vec![named("web"), named("dns")],
            ..Default::default()
        };
        let error = select(&mut status.clone(), "wbe").expect_err("unknown").to_string();
        assert_eq!(error, "there is no virtual service \"wbe\": the daemon has web, dns");
        select(&mut status, "dns").expect("known");
        assert_eq!(status.virtual_services, [named("dns")]);
    }
}
