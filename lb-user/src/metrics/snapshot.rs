//! What metrics are made from: plain numbers and names.
//!
//! Must not know: how they are shown, where they come from.

use std::time::Duration;

use lb_common::service::Traffic;
use lb_common::verdict::Counter;

/// Everything that is told.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Snapshot {
    /// Version of the daemon.
    pub version: String,
    /// Name of this node.
    pub node: String,
    /// The XDP plane, if there is one.
    pub dataplane: Option<Dataplane>,
    /// Services in file order.
    pub services: Vec<Service>,
    /// VRRP instances in file order.
    pub vrrp: Vec<VrrpInstance>,
    /// What was told of transitions.
    pub notifications: Notifications,
    /// What became of reloads.
    pub reloads: Reloads,
    /// Targets of the log.
    pub log: Vec<LogTarget>,
    /// The parts of the daemon that are watched.
    pub parts: Vec<Part>,
    /// The daemon's process, as far as the kernel tells.
    pub process: Option<Process>,
}

impl Snapshot {
    /// This, with what somebody else measured: all but the data plane and its services.
    #[must_use]
    pub fn with(self, other: Self) -> Self {
        let Self { version, node, dataplane, services, reloads, .. } = self;
        Self { version, node, dataplane, services, reloads, ..other }
    }
}

/// A target of the log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LogTarget {
    /// Its name.
    pub name: String,
    /// Lines that did not reach it.
    pub lost: u64,
}

/// A part of the daemon that is watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Part {
    /// Its name.
    pub name: String,
    /// For how long it has not moved although it should.
    pub stuck: Duration,
}

/// A process.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Process {
    /// When it started, in seconds since 1970.
    pub start: f64,
    /// Seconds that it had a CPU.
    pub cpu: f64,
    /// Open file descriptors.
    pub open_fds: u64,
    /// How many it may have.
    pub max_fds: u64,
    /// Address space in bytes.
    pub virtual_bytes: u64,
    /// What of it is in memory, in bytes.
    pub resident_bytes: u64,
    /// Its threads.
    pub threads: u64,
}

/// A health check of a real server.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Check {
    /// What tells it from other checks of the server.
    pub name: String,
    /// It takes the server to be up.
    pub up: bool,
    /// Status of the last result, in HAProxy's words.
    pub status: String,
    /// How long the last probe took.
    pub duration: Duration,
    /// When its state last changed, in seconds since 1970.
    pub last_change: Option<f64>,
    /// Times that its state changed.
    pub changes: u64,
    /// Probes by what they found.
    pub results: Vec<(&'static str, u64)>,
}

/// A VRRP instance; its counters begin with the speaker.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct VrrpInstance {
    /// Its name.
    pub name: String,
    /// `init`, `backup`, `master` or `fault`.
    pub state: String,
    /// The configured priority.
    pub priority: u8,
    /// The priority by now.
    pub effective_priority: u8,
    /// Addresses that somebody else claims too.
    pub contested: u64,
    /// A packet filter of this host drops VRRP.
    pub filtered: bool,
    /// Adverts sent.
    pub sent: u64,
    /// Adverts that could not be sent.
    pub send_errors: u64,
    /// Adverts accepted.
    pub received: u64,
    /// Adverts refused, by reason.
    pub refused: Vec<(String, u64)>,
    /// Times that it became master.
    pub masters: u64,
    /// Times that a second master was heard.
    pub duplicate_masters: u64,
    /// Times that an address began to be contested.
    pub contests: u64,
    /// Times that an address was put back.
    pub put_back: u64,
    /// Times that a deadline was missed.
    pub late: u64,
}

/// What was told of transitions since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Notifications {
    /// Commands that have ended.
    pub commands_run: u64,
    /// Of them, those that failed or were killed at their timeout.
    pub commands_failed: u64,
    /// Notifications whose commands were left out.
    pub dropped: u64,
    /// Mails that the server took.
    pub mails_sent: u64,
    /// Attempts that failed.
    pub mails_failed: u64,
    /// Mails given up.
    pub mails_dropped: u64,
}

/// The XDP plane.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Dataplane {
    /// `native` or `generic`.
    pub mode: String,
    /// Counters of the program over all CPUs.
    pub counters: Vec<(Counter, u64)>,
    /// Connections in the tables.
    pub connections: u64,
    /// Connections that fit.
    pub capacity: u64,
    /// Differences that recounting the table found.
    pub drift: u64,
    /// Length of the access lists.
    pub prefixes: Prefixes,
    /// VRRP frames that came in, before every filter of the host.
    pub vrrp_frames: Vec<VrrpFrames>,
}

/// VRRP frames of one virtual router.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VrrpFrames {
    /// `ipv4` or `ipv6`.
    pub family: &'static str,
    /// Virtual router identifier.
    pub vrid: u8,
    /// How many.
    pub count: u64,
}

/// Prefixes in the access lists.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Prefixes {
    /// Denied by the file.
    pub configured: u64,
    /// Banned at run time and not in the file.
    pub banned: u64,
    /// On the allow list.
    pub allowed: u64,
}

/// What became of reloads since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reloads {
    /// Files that were taken over.
    pub applied: u64,
    /// Files that were refused, or did not fit the maps.
    pub refused: u64,
    /// The last one was refused.
    pub last_refused: bool,
}

impl Reloads {
    /// Counts one that ended.
    pub fn end(&mut self, is_applied: bool) {
        *if is_applied { &mut self.applied } else { &mut self.refused } += 1;
        self.last_refused = !is_applied;
    }
}

/// A virtual service.
#[derive(Clone, Debug, PartialEq)]
pub struct Service {
    /// Its name.
    pub name: String,
    /// It has its quorum.
    pub up: bool,
    /// Weights of the real servers that could take new connections.
    pub live_weight: u64,
    /// The sorry server gets the new connections.
    pub sorry: bool,
    /// Over all real servers that it ever had.
    pub traffic: Traffic,
    /// In file order.
    pub real_servers: Vec<RealServer>,
}

/// A real server of a service.
#[derive(Clone, Debug, PartialEq)]
pub struct RealServer {
    /// `ip:port`.
    pub endpoint: String,
    /// No check says that it is down, and nobody took it out.
    pub up: bool,
    /// Configured weight.
    pub weight: u64,
    /// Weight after health and admin state.
    pub effective_weight: u64,
    /// Connections that IPVS counts as active.
    pub active: u64,
    /// The others.
    pub inactive: u64,
    /// Since it was added.
    pub traffic: Traffic,
    /// How it is checked.
    pub checks: Vec<Check>,
}
