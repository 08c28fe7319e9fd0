//! `lb top`: services and real servers, live.
//!
//! [`state`] is what is shown and how keys change it, [`view`] draws it; both are pure. Here is what
//! has effects: the terminal, the keys, the daemon, signals. When the output is no terminal, one page
//! is printed instead.
//!
//! Must not know: HTTP, how a rate is computed.

mod state;
#[cfg(test)]
mod tests;
mod view;

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use ratatui::DefaultTerminal;
use ratatui::crossterm::event;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::admin::{Client, ClientError};
use crate::cli::args::Top;
use crate::cli::{output, render, runtime};
use crate::controller::document::Stats;
use crate::controller::request::Verb;
use state::{Event, Reading, State};

/// Columns of a page that goes to no terminal, unless `COLUMNS` says otherwise.
const PAGE_WIDTH: u16 = 120;

pub(super) fn top(arguments: &Top) -> anyhow::Result<()> {
    let client = Client::new(arguments.daemon().socket());
    let runtime = runtime()?;
    let mut reader = Reader { client, before: None };
    if arguments.once || !std::io::stdout().is_terminal() {
        let reading = runtime.block_on(async {
            reader.read().await?;
            tokio::time::sleep(arguments.refresh).await;
            reader.read().await
        })?;
        let columns = std::env::var("COLUMNS").ok().and_then(|columns| columns.parse().ok());
        let page = view::page(reading, columns.unwrap_or(PAGE_WIDTH));
        return output::print(page.as_bytes());
    }
    // A daemon that is not there is told on the screen as it was.
    let first = runtime.block_on(reader.read())?;
    let color = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    let state = State::new(first, color);
    // From here on a panic puts the terminal back as well.
    let mut terminal = ratatui::try_init().context("prepare the terminal")?;
    let result = runtime.block_on(run(&mut terminal, state, reader, arguments.refresh));
    ratatui::restore();
    // A key that is being waited for must not hold the end up.
    runtime.shutdown_background();
    result
}

/// Shows the state until it is told to end.
async fn run(
    terminal: &mut DefaultTerminal,
    mut state: State,
    reader: Reader,
    refresh: Duration,
) -> anyhow::Result<()> {
    let (events, mut queue) = mpsc::channel(64);
    let mut ends = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()]
        .map(signal)
        .into_iter()
        .collect::<std::io::Result<Vec<_>>>()?;
    let ended = async {
        let waiting = ends.iter_mut().map(|end| Box::pin(end.recv()));
        futures::future::select_all(waiting).await;
    };
    tokio::pin!(ended);
    tokio::spawn(keep_reading(reader, refresh, events.clone()));
    std::thread::Builder::new().name("keys".to_owned()).spawn(move || read_keys(&events))?;
    while !state.is_over() {
        terminal.draw(|frame| view::draw(&mut state, frame)).context("draw")?;
        tokio::select! {
            event = queue.recv() => {
                let Some(event) = event else { break };
                state.update(event);
            }
            () = &mut ended => break,
        }
    }
    Ok(())
}

/// Sends what the daemon says, until nobody listens.
async fn keep_reading(mut reader: Reader, refresh: Duration, events: mpsc::Sender<Event>) {
    loop {
        tokio::time::sleep(refresh).await;
        let event = match reader.read().await {
            Ok(reading) => Event::Reading(Box::new(reading)),
            Err(error) => Event::Failed(error.to_string()),
        };
        if events.send(event).await.is_err() {
            return;
        }
    }
}

/// Sends keys and changes of size, until nobody listens or the terminal is gone.
fn read_keys(events: &mpsc::Sender<Event>) {
    loop {
        let event = match event::read() {
            Ok(event::Event::Key(key)) if key.kind != event::KeyEventKind::Release => {
                Event::Key(key)
            }
            Ok(event::Event::Resize(..)) => Event::Resized,
            Ok(_) => continue,
            Err(_) => Event::TerminalGone,
        };
        let is_last = matches!(event, Event::TerminalGone);
        if events.blocking_send(event).is_err() || is_last {
            return;
        }
    }
}

/// Asks the daemon; rates are those since the last time.
struct Reader {
    client: Client,
    before: Option<(Instant, Stats)>,
}

impl Reader {
    async fn read(&mut self) -> Result<Reading, ClientError> {
        let status = self.client.ask(&Verb::Status).await?;
        let mut stats: Stats = self.client.ask(&Verb::Stats).await?;
        let now = Instant::now();
        let counted = stats.clone();
        if let Some((then, before)) = &self.before {
            render::fill_rates(before, &mut stats, now - *then);
        }
        self.before = Some((now, counted));
        Ok(Reading { status, stats })
    }
}
