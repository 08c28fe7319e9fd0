//! `lb explain`.
//!
//! Must not know: HTTP, how text is laid out.

use anyhow::Context as _;

use crate::admin::Client;
use crate::cli::args::Explain;
use crate::cli::{output, render, runtime};
use crate::controller::document::Explanation;
use crate::controller::request::{Asked, Verb};

pub(super) fn explain(arguments: &Explain) -> anyhow::Result<()> {
    let (None, Some(from), Some(to)) = (&arguments.http, &arguments.from, &arguments.to) else {
        anyhow::bail!("`lb explain --http` is not supported yet");
    };
    let asked = Asked::parse(from, to).map_err(anyhow::Error::msg)?;
    let client = Client::new(arguments.daemon.socket());
    let body = runtime()?.block_on(client.ask_raw(&Verb::Explain(asked)))?;
    if arguments.daemon.wants_json() {
        return output::print(&body);
    }
    let document: Explanation = serde_json::from_slice(&body).context("the daemon's answer")?;
    output::print(render::explanation(&document).as_bytes())
}
