//! `lb vrrp`, and the speaker process itself (`lb speaker`).
//!
//! Must not know: HTTP, how text is laid out, VRRP.

use anyhow::Context as _;

use crate::admin::Client;
use crate::cli::args::{Daemon, Speaker, Vrrp, VrrpCommand};
use crate::cli::{output, render, runtime};
use crate::controller::document;
use crate::controller::request::Verb;
use crate::logging;
use crate::model::Log;
use crate::speaker;

pub(super) fn run(arguments: &Vrrp) -> anyhow::Result<()> {
    match &arguments.command {
        Some(VrrpCommand::Resign { name, daemon }) => resign(name, daemon),
        None => show(arguments.name.as_deref(), &arguments.daemon),
    }
}

fn show(name: Option<&str>, daemon: &Daemon) -> anyhow::Result<()> {
    let client = Client::new(daemon.socket());
    let body = runtime()?.block_on(client.ask_raw(&Verb::Vrrp))?;
    let mut vrrp: document::Vrrp = serde_json::from_slice(&body).context("the daemon's answer")?;
    if let Some(name) = name {
        vrrp.instances.retain(|instance| instance.name == name);
        anyhow::ensure!(!vrrp.instances.is_empty(), "there is no VRRP instance {name}");
        vrrp.scripts.clear();
    }
    if !daemon.wants_json() {
        return output::print(render::vrrp(&vrrp, name.is_some()).as_bytes());
    }
    if name.is_none() {
        // As the daemon wrote it, with the keys that this version does not know.
        return output::print(&body);
    }
    let mut text = serde_json::to_vec(&vrrp)?;
    text.push(b'\n');
    output::print(&text)
}

fn resign(name: &str, daemon: &Daemon) -> anyhow::Result<()> {
    let client = Client::new(daemon.socket());
    let body = runtime()?.block_on(client.ask_raw(&Verb::Resign { name: name.to_owned() }))?;
    if daemon.wants_json() {
        return output::print(&body);
    }
    let done: document::Resigned = serde_json::from_slice(&body).context("the daemon's answer")?;
    let line = format!(
        "{} is not master any more here, and does not preempt until it has been master again\n",
        done.resigned
    );
    output::print(line.as_bytes())
}

/// Runs until the controller says stop, or stays away for too long.
pub(super) fn speak(arguments: &Speaker) -> anyhow::Result<()> {
    let (level, format) = (arguments.log_level.into(), arguments.log_format.into());
    let log = Log { level, format, ..Log::default() };
    // First, so that threads that write the log have no more rights than this one.
    let refused = speaker::settle()?;
    let (logger, _log) = logging::start(&log, &super::check::host_name(), speaker::log::TAG)?;
    for refused in refused {
        tracing::warn!("{refused}");
    }
    speaker::run(&arguments.socket, logger)
}
