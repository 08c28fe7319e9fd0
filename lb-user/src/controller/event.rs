//! Everything that can happen to the controller, in one queue.
//!
//! Sources hold a clone of one bounded `mpsc::Sender<Event>`: `health::Runner` and
//! `netlink::events` send through the `From` implementations here, `admin::Server` sends requests,
//! [`crate::controller::signals`] the signals, and the sweep its reports. A full queue makes the
//! sources wait.
//!
//! Must not know: what is done about an event.

use crate::controller::request::Request;
use crate::health::Report;
use crate::netlink::NetlinkEvent;

/// One thing that happened.
#[derive(Debug)]
pub enum Event {
    /// A probe ended.
    Probe(Report),
    /// The kernel's links, neighbours or routes changed.
    Netlink(NetlinkEvent),
    /// Somebody asks.
    Request(Request),
    /// The process was signalled.
    Signal(Signal),
    /// A sweep over the connection table ended.
    Sweep(SweepReport),
    /// Time for what is done regularly: heartbeat, rates, the watchdog.
    Tick,
}

/// Signals by what they ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGHUP: read the configuration file again.
    Reload,
    /// SIGTERM or SIGINT: drain, clean up and end.
    Stop,
}

/// What one sweep over the whole connection table found.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SweepReport {
    /// Entries seen.
    pub seen: u64,
    /// Entries deleted past their deadline.
    pub expired: u64,
    /// Counters that differed from the recount.
    pub drift: u64,
}

impl From<Report> for Event {
    fn from(report: Report) -> Self {
        Self::Probe(report)
    }
}

impl From<NetlinkEvent> for Event {
    fn from(event: NetlinkEvent) -> Self {
        Self::Netlink(event)
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

impl From<SweepReport> for Event {
    fn from(report: SweepReport) -> Self {
        Self::Sweep(report)
    }
}
