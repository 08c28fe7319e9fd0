//! The controller: the one owner of the daemon's state.
//!
//! Its task takes [`event::Event`]s from one queue and nothing else. The parts here are its frame:
//!
//! - [`event`] is everything that can happen; [`signals`] and the sources below send it;
//! - [`request`] is what `admin` asks, answered with [`document`]s;
//! - `task` is the owner; `reload` starts it and follows the file; `wanted` says what the maps
//!   should hold, `engine` makes them so, `routes` keeps next hops and paths current, with
//!   `path_mtu` for what routers report, `report` makes documents, `snapshot` metrics;
//! - `vrrp` tells the speaker what to be, and keeps what it says;
//! - `history` has the counters sampled, for rates and the last minutes;
//! - `itself` is what the daemon knows of itself: stuck parts, probes, its process;
//! - `logs` has the log follow the file, here and in the speaker;
//! - `via` sets up the ways of probes that go by their service;
//! - `bans` keeps what is denied at run time, beside the file's list;
//! - `explain` says what would become of a packet;
//! - [`effective`](mod@effective) is the one place where configured weight, health and admin state meet;
//! - [`preflight`] says before the start what the host lacks;
//! - [`systemd`] tells systemd.
//!
//! Must not know: HTTP, argv, YAML's shape, map layouts.

mod bans;
pub mod checked;
pub mod chronicle;
pub mod document;
pub mod effective;
pub mod engine;
pub mod event;
mod explain;
mod follow;
pub mod history;
mod itself;
mod logs;
pub mod overrides;
pub mod path_mtu;
pub mod preflight;
pub mod quorum;
mod reload;
pub mod report;
pub mod request;
pub mod routes;
pub mod signals;
mod snapshot;
pub mod standing;
pub mod state_file;
mod steer;
pub mod systemd;
mod task;
mod transitions;
mod via;
mod vrrp;
pub mod wanted;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::controller::event::Event;
use crate::controller::overrides::Layer;
use crate::logging::Logger;
use crate::model::Director;

/// What `lb run` starts the controller with.
pub struct Start {
    /// The configuration file, to be read again by a reload.
    pub config_path: PathBuf,
    /// Where what `--persist` keeps is written.
    pub state_path: PathBuf,
    /// What it keeps.
    pub kept: Layer,
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
    /// The log, which follows the file.
    pub logger: Logger,
    /// Follows what a reload says of `admin.http`.
    pub admin: Arc<dyn AdminPlane>,
}

/// The part of the admin plane that follows the configuration.
pub trait AdminPlane: Send + Sync {
    /// Gets ready for a configuration: reads its files, takes its port. Nothing is served by it
    /// yet. May wait: for a blocking thread.
    ///
    /// # Errors
    /// What cannot work, line by line.
    fn stage(&self, director: &Director) -> Result<(), Vec<String>>;

    /// Serves by what was staged last.
    fn commit(&self);

    /// Gives up what was staged last.
    fn discard(&self);

    /// Serves again by what was in force before the last commit.
    fn roll_back(&self);
}

/// Room in the controller's queue; a full queue makes its sources wait.
pub const QUEUE: usize = 1024;

/// Runs the director until it is told to stop. `events` is the sending end of `queue`.
///
/// # Errors
/// When the host refuses what the configuration asks for; what was done by then is undone.
pub async fn run(
    start: Start,
    events: mpsc::Sender<Event>,
    queue: mpsc::Receiver<Event>,
) -> anyhow::Result<()> {
    signals::spawn(events.clone())?;
    task::Controller::begin(start, events).await?.run(queue).await
}
