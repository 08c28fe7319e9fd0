//! The controller: the one owner of the daemon's state.
//!
//! Its task takes [`event::Event`]s from one queue and nothing else. The parts here are its frame:
//!
//! - [`event`] is everything that can happen; [`signals`] and the sources below send it;
//! - [`request`] is what `admin` asks, answered with [`document`]s;
//! - [`effective`](mod@effective) is the one place where configured weight, health and admin state meet;
//! - [`preflight`] says before the start what the host lacks;
//! - [`notify`] tells systemd.
//!
//! Must not know: HTTP, argv, YAML's shape, map layouts.

pub mod document;
pub mod effective;
pub mod event;
pub mod notify;
pub mod preflight;
pub mod request;
pub mod signals;

use std::path::PathBuf;
use std::time::Duration;

use crate::model::{Director, LogLevel};

/// What `lb run` starts the controller with.
pub struct Start {
    /// The configuration file, to be read again by a reload.
    pub config_path: PathBuf,
    /// Name of this host, the node's default name.
    pub host_name: String,
    /// What the file asks for.
    pub director: Director,
    /// What the file asks for that deserves attention, for `lb status`.
    pub warnings: Vec<String>,
    /// At stop, leave maps, XDP and addresses in place.
    pub keep_dataplane: bool,
    /// How long a stop waits for open connections.
    pub drain_timeout: Duration,
    /// Changes the log level when a reload does.
    pub set_log_level: Box<dyn Fn(LogLevel)>,
}

/// Runs the director until it is told to stop.
pub async fn run(start: Start) -> anyhow::Result<()> {
    anyhow::bail!("{}: the controller task is not built yet", start.config_path.display())
}
