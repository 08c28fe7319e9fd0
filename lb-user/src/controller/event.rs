//! Everything that can happen to the controller, in one queue.
//!
//! Sources hold a clone of one bounded `mpsc::Sender<Event>`: `health::Runner` sends through the
//! `From` implementation here, `admin::Server` sends requests, [`crate::controller::signals`] the
//! signals, [`crate::controller::routes`] the next hops, and the sweep its reports. A full queue
//! makes the sources wait.
//!
//! Must not know: what is done about an event.

use std::collections::BTreeSet;

use crate::config::Loaded;
use crate::controller::request::Request;
use crate::controller::routes::Routes;
use crate::controller::vrrp::FiltersFound;
use crate::dataplane::sweep;
use crate::health::Change;
use crate::netlink::Address;
use crate::speaker::client;
use crate::track::ScriptChanged;

/// One thing that happened.
#[derive(Debug)]
pub enum Event {
    /// The state of a probed target changed.
    Health(Change),
    /// Links or next hops changed.
    Routes(Routes),
    /// Somebody asks.
    Request(Request),
    /// The configuration file was read again.
    Loaded(LoadResult, Option<Request>),
    /// Addresses were brought in line with the configuration.
    Addresses(AddressResult),
    /// The process was signalled.
    Signal(Signal),
    /// The speaker said something, came or went.
    Speaker(client::Event),
    /// A tracked script says something else.
    Script(ScriptChanged),
    /// It was looked for what drops adverts.
    Filters(FiltersFound),
    /// A sweep over the connection table ended.
    Sweep(sweep::Report),
}

/// A configuration, or its errors line by line.
pub type LoadResult = Result<Box<Loaded>, Vec<String>>;

/// The addresses that this daemon owns now, and whether they are what was asked for.
pub type AddressResult = (BTreeSet<Address>, anyhow::Result<()>);

/// Signals by what they ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP: read the configuration file again.
    Reload,
    /// SIGUSR1: open log files anew.
    ReopenLogs,
    /// SIGTERM or SIGINT: drain, clean up and end.
    Stop,
}

impl From<Change> for Event {
    fn from(change: Change) -> Self {
        Self::Health(change)
    }
}

impl From<Request> for Event {
    fn from(request: Request) -> Self {
        Self::Request(request)
    }
}

impl From<Signal> for Event {
    fn from(signal: Signal) -> Self {
        Self::Signal(signal)
    }
}

impl From<client::Event> for Event {
    fn from(event: client::Event) -> Self {
        Self::Speaker(event)
    }
}

impl From<ScriptChanged> for Event {
    fn from(changed: ScriptChanged) -> Self {
        Self::Script(changed)
    }
}
