//! `lb bans`, `lb ban` and `lb unban`.
//!
//! Must not know: HTTP, how text is laid out.

use anyhow::Context as _;
use serde::de::DeserializeOwned;

use crate::admin::Client;
use crate::cli::args::{Ban, Daemon, Unban};
use crate::cli::{output, render, runtime};
use crate::controller::request::Verb;

pub(super) fn bans(daemon: &Daemon) -> anyhow::Result<()> {
    ask(daemon, &Verb::Bans, render::bans)
}

pub(super) fn ban(arguments: &Ban) -> anyhow::Result<()> {
    let verb = Verb::Ban { prefix: arguments.prefix, span: arguments.span };
    ask(&arguments.daemon, &verb, render::banned)
}

pub(super) fn unban(arguments: &Unban) -> anyhow::Result<()> {
    let verb = Verb::Unban { prefix: arguments.prefix };
    ask(&arguments.daemon, &verb, render::lifted)
}

fn ask<T: DeserializeOwned>(
    daemon: &Daemon,
    verb: &Verb,
    render: fn(&T) -> String,
) -> anyhow::Result<()> {
    let client = Client::new(daemon.socket());
    let body = runtime()?.block_on(client.ask_raw(verb))?;
    if daemon.wants_json() {
        return output::print(&body);
    }
    let document: T = serde_json::from_slice(&body).context("the daemon's answer")?;
    output::print(render(&document).as_bytes())
}
