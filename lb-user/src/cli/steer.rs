//! `lb drain`, `enable`, `disable`, `weight`, `add` and `remove`.
//!
//! `lb drain` goes on until no connection is open any more, telling how many are left.
//!
//! Must not know: HTTP, how a change is made.

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::time::sleep;

use crate::admin::{Client, ClientError};
use crate::cli::args::{Add, Daemon, Drain, Target, Weight};
use crate::cli::{output, runtime};
use crate::controller::document::{Status, Steered};
use crate::controller::overrides::Action;
use crate::controller::request::{Steer, Verb};

pub(super) fn change(arguments: &Target, action: Action) -> anyhow::Result<()> {
    let steer = steer(&arguments.target, action, arguments.persist)?;
    once(&arguments.daemon, steer)
}

pub(super) fn weight(arguments: &Weight) -> anyhow::Result<()> {
    change(&arguments.target, Action::Weight(arguments.weight))
}

pub(super) fn add(arguments: &Add) -> anyhow::Result<()> {
    let target = format!("{}/{}", arguments.service, arguments.address);
    let steer = steer(&target, Action::Add(arguments.weight), arguments.persist)?;
    once(&arguments.daemon, steer)
}

pub(super) fn drain(arguments: &Drain) -> anyhow::Result<()> {
    let Target { target, persist, daemon } = &arguments.target;
    let steer = steer(target, Action::Drain, *persist)?;
    let client = Client::new(daemon.socket());
    let (done, is_over) = runtime()?.block_on(async {
        let begun: Steered = client.ask(&Verb::Steer(steer)).await?;
        wait(&client, begun, arguments.timeout, daemon.wants_json()).await
    })?;
    if daemon.wants_json() {
        let mut text = serde_json::to_vec(&done)?;
        text.push(b'\n');
        output::print(&text)?;
    }
    let left = open(&done);
    anyhow::ensure!(
        is_over,
        "{} is drained, but {left} connection{} still open after {:?}: `lb connections` shows them, \
         `lb remove {}` takes the server away",
        done.target,
        if left == 1 { " is" } else { "s are" },
        arguments.timeout.unwrap_or_default(),
        done.target
    );
    if !daemon.wants_json() {
        output::print(format!("{} is drained: no connection is open\n", done.target).as_bytes())?;
    }
    Ok(())
}

/// Until nothing is open, or the time is over; gives the server as it is then.
async fn wait(
    client: &Client,
    mut server: Steered,
    timeout: Option<Duration>,
    is_quiet: bool,
) -> anyhow::Result<(Steered, bool)> {
    let begun = Instant::now();
    let mut told = None;
    loop {
        let left = open(&server);
        if !is_quiet && told != Some(left) && left > 0 {
            let plural = if left == 1 { "" } else { "s" };
            output::print(
                format!("{}: {left} connection{plural} open\n", server.target).as_bytes(),
            )?;
            std::io::stdout().flush()?;
            told = Some(left);
        }
        if left == 0 {
            return Ok((server, true));
        }
        let rest = timeout.map(|timeout| timeout.saturating_sub(begun.elapsed()));
        if rest.is_some_and(|rest| rest.is_zero()) {
            return Ok((server, false));
        }
        sleep(rest.unwrap_or(LOOK).min(LOOK)).await;
        if !look(client, &mut server).await? {
            return Ok((server, true));
        }
    }
}

/// Reads the server anew; false when it is not there any more, or was enabled again.
async fn look(client: &Client, server: &mut Steered) -> anyhow::Result<bool> {
    let status: Status = match client.ask(&Verb::Status).await {
        Ok(status) => status,
        Err(error @ ClientError::Refused(_)) => return Err(error.into()),
        Err(error) => return Err(error).context("the drain goes on, but nobody tells how"),
    };
    let (name, end) = server.target.rsplit_once('/').context("a target has a server")?;
    let service = status.virtual_services.into_iter().find(|service| service.name == name);
    let found = service.and_then(|service| {
        let is = |address: &str, port: u16| {
            let ip = address.parse().ok();
            ip.is_some_and(|ip| std::net::SocketAddr::new(ip, port).to_string() == end)
        };
        service.real_servers.into_iter().find(|rs| is(&rs.address, rs.port))
    });
    let Some(found) = found else {
        server.state = "removed".to_owned();
        (server.active_connections, server.inactive_connections) = (0, 0);
        return Ok(false);
    };
    let is_drained = found.effective_weight == 0;
    anyhow::ensure!(is_drained, "{} takes new connections again: it was enabled", server.target);
    server.state = found.state;
    server.active_connections = found.active_connections;
    server.inactive_connections = found.inactive_connections;
    Ok(true)
}

/// Connections that a drain waits for: those of UDP are all inactive, and end when they are idle.
fn open(server: &Steered) -> u64 {
    let flows = if server.protocol == "udp" { server.inactive_connections } else { 0 };
    server.active_connections + flows
}

fn once(daemon: &Daemon, steer: Steer) -> anyhow::Result<()> {
    let client = Client::new(daemon.socket());
    let body = runtime()?.block_on(client.ask_raw(&Verb::Steer(steer)))?;
    if daemon.wants_json() {
        return output::print(&body);
    }
    let done: Steered = serde_json::from_slice(&body).context("the daemon's answer")?;
    output::print(line(&done).as_bytes())
}

/// What became of it, in a line.
fn line(done: &Steered) -> String {
    let kept = if done.kept { ", kept over reloads" } else { ", until the next reload" };
    let Steered { target, state, weight, effective_weight, active_connections, .. } = done;
    if state == "removed" {
        return format!("{target} is removed{kept}; open connections go on\n");
    }
    format!(
        "{target} is {state}, weight {weight} (now {effective_weight}), {active_connections} active{kept}\n"
    )
}

fn steer(target: &str, action: Action, persist: bool) -> anyhow::Result<Steer> {
    let (service, address, port) = Steer::target(target).map_err(anyhow::Error::msg)?;
    Ok(Steer { service, address, port, action, persist })
}

/// Between two looks at what is left.
const LOOK: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_told_in_a_line() {
        let done = Steered {
            target: "web/10.0.0.1:80".into(),
            state: "drain".into(),
            weight: 3,
            active_connections: 7,
            ..Steered::default()
        };
        assert_eq!(
            line(&done),
            "web/10.0.0.1:80 is drain, weight 3 (now 0), 7 active, until the next reload\n"
        );
        let removed = Steered { state: "removed".into(), kept: true, ..done };
        assert_eq!(
            line(&removed),
            "web/10.0.0.1:80 is removed, kept over reloads; open connections go on\n"
        );
    }
}
