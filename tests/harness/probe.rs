//! A client that asks all the time, and so knows for how long nobody answered.
//!
//! Must not know: who should answer.

use crate::netns::Netns;
use crate::process::Tool;
use crate::wait::{eventually, seconds};
use anyhow::{Context, Result};
use serde_json::Value;
use std::time::Duration;

/// Starts what answers [`Probe`] with `name` at every address of a namespace.
///
/// # Errors
/// When it does not come up.
pub fn server(ns: &Netns, name: &str, port: u16) -> Result<Tool> {
    Tool::serve(ns, &["probe-server", "--name", name, "--bind", &format!("[::]:{port}")])
}

/// Questions at a steady rate.
pub struct Probe(Tool);

/// What became of the questions since the mark.
#[derive(Clone, Debug)]
pub struct Window(Value);

impl Probe {
    /// Begins to ask `endpoint` every `every`.
    ///
    /// # Errors
    /// When the client cannot run.
    pub fn start(ns: &Netns, endpoint: &str, every: Duration) -> Result<Self> {
        let every = every.as_micros().to_string();
        Ok(Self(Tool::serve(ns, &["probe", "--to", endpoint, "--every-us", &every])?))
    }

    /// Begins a new window.
    ///
    /// # Errors
    /// When the client has ended.
    pub fn mark(&mut self) -> Result<()> {
        self.0.ask("mark", seconds(5)).map(drop)
    }

    /// The window so far.
    ///
    /// # Errors
    /// When the client has ended.
    pub fn window(&mut self) -> Result<Window> {
        Ok(Window(self.0.ask("report", seconds(5))?))
    }

    /// Waits until `name` alone has answered `count` questions of a window of its own.
    ///
    /// # Errors
    /// At the deadline.
    pub fn settled(&mut self, name: &str, count: u64, limit: Duration) -> Result<()> {
        self.mark()?;
        eventually(limit, &format!("{name} alone answers"), || {
            let window = self.window()?;
            let others = window.answered_by_all() - window.answered(name);
            if others > 0 {
                self.mark()?;
            }
            Ok(others == 0 && window.answered(name) >= count)
        })
    }
}

impl Window {
    /// How many questions `name` has answered.
    pub fn answered(&self, name: &str) -> u64 {
        self.0["answered"][name].as_u64().unwrap_or(0)
    }

    /// How many anybody has.
    pub fn answered_by_all(&self) -> u64 {
        let all = self.0["answered"].as_object().into_iter().flatten();
        all.filter_map(|(_, count)| count.as_u64()).sum()
    }

    /// From the mark to the first question that `name` answered.
    pub fn first(&self, name: &str) -> Option<Duration> {
        self.0["first_us"][name].as_u64().map(Duration::from_micros)
    }

    /// The longest time between the sending of two answered questions in a row, the last one before
    /// the mark included.
    ///
    /// # Errors
    /// When the client did not say.
    pub fn longest_gap(&self) -> Result<Duration> {
        self.span("longest_gap_us")
    }

    /// How long ago the last question was sent that was answered.
    ///
    /// # Errors
    /// When the client did not say.
    pub fn open_gap(&self) -> Result<Duration> {
        self.span("open_gap_us")
    }

    fn span(&self, key: &str) -> Result<Duration> {
        let micros = self.0[key].as_u64();
        Ok(Duration::from_micros(micros.with_context(|| format!("no {key} in {}", self.0))?))
    }
}
