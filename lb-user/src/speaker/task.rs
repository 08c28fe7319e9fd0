//! The speaker's loop: one thread that waits for frames, the kernel, the controller and timers.
//!
//! Whatever has arrived is taken before a timer that is due: an advert that waited in the socket
//! while this process did not run shows that its master lives.
//!
//! Must not know: the election, how anything is sent.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsFd;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::signal::Signal;
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::sys::time::TimeSpec;

use crate::logging::Logger;
use crate::speaker::hands::Hands;
use crate::speaker::kernel::{Events, Place};
use crate::speaker::line::Line;
use crate::speaker::log::Keeper;
use crate::speaker::process;
use crate::speaker::protocol::{Report, Request};
use crate::speaker::seats::Seats;
use crate::speaker::station::Change;
use crate::vrrp::frame::{self, Heard};
use crate::vrrp::packet;
use crate::vrrp::receive::Facts;

/// The speaker's state.
struct Speaker {
    hands: Hands,
    events: Events,
    line: Line,
    signals: SignalFd,
    log: Keeper,
    seats: Seats,
    grace: Duration,
    /// Identifiers that nobody here has, and when they were logged.
    strangers: BTreeMap<(u32, u8), Instant>,
    next_second: Instant,
    is_over: bool,
    changed: bool,
}

/// Speaks VRRP for the controller that connects to this socket, until it says stop or stays away
/// for too long. [`super::settle`] comes before.
///
/// # Errors
/// When this host does not let it: no privileges, or no sockets.
pub fn run(socket: &Path, logger: Logger) -> anyhow::Result<()> {
    let (hands, removed) =
        Hands::open().context("VRRP needs root or CAP_NET_ADMIN and CAP_NET_RAW")?;
    for what in removed {
        tracing::info!("left by an earlier life and removed: {what}");
    }
    let events = Events::open().context("listen to the kernel's links and addresses")?;
    let line = Line::bind(socket)?;
    let flags = SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC;
    let signals = SignalFd::with_flags(&process::signals(), flags).context("be told of signals")?;
    let log = Keeper::start(logger).context("start a thread for the log")?;
    let now = Instant::now();
    let mut speaker = Speaker {
        hands,
        events,
        line,
        signals,
        log,
        seats: Seats::default(),
        grace: FIRST_GRACE,
        strangers: BTreeMap::new(),
        next_second: now,
        is_over: false,
        changed: false,
    };
    // What changed since the tables were read.
    speaker.hands.look_again();
    // Whatever happens, no address stays on a node that does not speak for it.
    let ended = catch_unwind(AssertUnwindSafe(|| {
        while !speaker.is_over {
            speaker.wait().context("wait for something to happen")?;
            speaker.turn(Instant::now());
        }
        Ok(())
    }));
    speaker.end();
    ended.unwrap_or_else(|cause| resume_unwind(cause))
}

impl Speaker {
    /// Waits until something can be read or a timer is due.
    fn wait(&self) -> io::Result<()> {
        let now = Instant::now();
        let deadline = self
            .seats
            .next_deadline()
            .into_iter()
            .chain([self.next_second, self.patience_ends()])
            .min();
        let patience =
            deadline.map(|at| TimeSpec::from_duration(at.saturating_duration_since(now)));
        let mut waited = vec![
            PollFd::new(self.events.as_fd(), PollFlags::POLLIN),
            PollFd::new(self.signals.as_fd(), PollFlags::POLLIN),
        ];
        for listening in self.hands.ears.values() {
            waited.push(PollFd::new(listening.ear.as_fd(), PollFlags::POLLIN));
        }
        self.line.wait_for(&mut waited);
        match ppoll(&mut waited, patience, None) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// When a controller that is not heard has been away for too long. One that is connected may
    /// be slow for a while even if no grace is given to one that is gone.
    fn patience_ends(&self) -> Instant {
        let connected = self.line.is_connected();
        let grace = if connected { self.grace.max(SLOW) } else { self.grace };
        self.line.last_heard() + grace
    }

    fn turn(&mut self, now: Instant) {
        self.follow_kernel(now);
        self.listen(now);
        for request in self.line.take(now) {
            self.obey(now, request);
        }
        if let Ok(Some(signal)) = self.signals.read_signal() {
            self.signalled(signal.ssi_signo);
        }
        if now >= self.patience_ends() {
            let away = now.saturating_duration_since(self.line.last_heard());
            tracing::warn!(
                "the controller has not been heard for {} ms: this node resigns",
                away.as_millis()
            );
            self.is_over = true;
            return;
        }
        self.seats.timers(now, &mut self.hands);
        if now >= self.next_second {
            self.next_second = now + Duration::from_secs(1);
            self.every_second(now);
        }
        self.report();
    }

    /// What is meant for the daemon may reach its speaker too, which has the same name.
    fn signalled(&mut self, signal: u32) {
        match Signal::try_from(signal.cast_signed()) {
            Ok(Signal::SIGUSR1) => self.log.reopen(),
            Ok(Signal::SIGHUP | Signal::SIGUSR2) => {}
            _ => {
                tracing::info!(signal, "asked to end by a signal: this node resigns");
                self.is_over = true;
            }
        }
    }

    /// Links and addresses as the kernel tells them.
    fn follow_kernel(&mut self, now: Instant) {
        let Some(messages) = self.events.take() else {
            self.hands.look_again();
            for router in self.seats.routers() {
                router.look_after_everything(&mut self.hands);
            }
            self.seats.look_around(now, &mut self.hands);
            return;
        };
        for message in &messages {
            if let RouteNetlinkMessage::DelLink(link) = message
                && link.header.interface_family == AddressFamily::Unspec
            {
                // One of the same index may be there again in a moment: with new sockets.
                self.hands.ears.remove(&link.header.index);
            }
        }
        let changes: Vec<Change> =
            messages.iter().filter_map(|message| self.hands.station.follow(message)).collect();
        for change in &changes {
            if let Change::Removed(place) = change {
                for router in self.seats.routers() {
                    router.put_back(*place, &mut self.hands);
                }
            }
        }
        if !changes.is_empty() {
            self.hands.forget_lost_links();
            self.seats.look_around(now, &mut self.hands);
        }
    }

    /// Frames that came in.
    fn listen(&mut self, now: Instant) {
        let mut buffer = [0; FRAME];
        let interfaces: Vec<u32> = self.hands.ears.keys().copied().collect();
        for ifindex in interfaces {
            for _ in 0..MAX_FRAMES {
                let Some(listening) = self.hands.ears.get(&ifindex) else { break };
                let Ok(Some(bytes)) = listening.ear.hear(&mut buffer) else { break };
                match frame::read(bytes) {
                    Some(Heard::Vrrp { source, destination, ttl, message }) => {
                        let facts = Facts { ttl, source, destination, interface: ifindex };
                        self.hear(now, &facts, message);
                    }
                    Some(Heard::Claim { address, mac }) => {
                        self.seats.hear_claim(ifindex, address, mac, &self.hands);
                    }
                    None => {}
                }
            }
        }
    }

    fn hear(&mut self, now: Instant, facts: &Facts, message: &[u8]) {
        let Some(vrid) = packet::vrid(message) else { return };
        if self.seats.hear(now, vrid, facts, message, &mut self.hands) {
            return;
        }
        let known = self.strangers.get(&(facts.interface, vrid));
        if known.is_none_or(|at| now >= *at + STRANGERS_EVERY) {
            self.strangers.insert((facts.interface, vrid), now);
            tracing::info!(
                source = %facts.source, vrid, ifindex = facts.interface,
                "adverts of a virtual router that no instance here has are ignored"
            );
        }
    }

    fn obey(&mut self, now: Instant, request: Request) {
        match request {
            Request::Alive => {}
            Request::Track(tracked) => self.seats.track(now, tracked, &mut self.hands),
            Request::Configure(configuration, tracked) => {
                self.grace = configuration.grace;
                self.seats.configure(now, &configuration, tracked, &mut self.hands);
                self.hands.reports.push(Report::Done(String::new(), Ok(())));
            }
            Request::Resign(name) => {
                let known = self.seats.resign(now, &name, &mut self.hands);
                let result = known.then_some(()).ok_or_else(|| format!("no instance {name}"));
                self.hands.reports.push(Report::Done(name, result));
            }
            Request::Log(settings) => self.log.set(settings),
            Request::ReopenLogs => self.log.reopen(),
            Request::Stop => self.is_over = true,
        }
        self.changed = true;
    }

    fn every_second(&mut self, now: Instant) {
        let through: BTreeMap<(u32, bool), u64> = self
            .hands
            .ears
            .keys()
            .flat_map(|ifindex| [(*ifindex, true), (*ifindex, false)])
            .map(|(ifindex, v4)| ((ifindex, v4), self.hands.drain(ifindex, v4)))
            .collect();
        for router in self.seats.routers() {
            if let Some(group) = router.group() {
                router.look_for_filters(through.get(&group).copied().unwrap_or_default());
            }
        }
        if self.strangers.len() > MAX_STRANGERS {
            self.strangers.retain(|_, at| now < *at + STRANGERS_EVERY);
        }
        self.seats.look_at_planes(now, &mut self.hands);
        if self.seats.routers().any(|router| router.group().is_none()) {
            // Not everything that an interface may lack comes as an event.
            self.seats.look_around(now, &mut self.hands);
        }
        self.remove_strays();
        self.changed = true;
    }

    /// Takes away what no router holds: what the kernel did not remove when it was asked to.
    fn remove_strays(&mut self) {
        let held: BTreeSet<Place> = self.seats.routers().flat_map(|router| router.held()).collect();
        let mut strays = self.hands.station.virtual_places();
        strays.retain(|place| !held.contains(place));
        if !strays.is_empty() {
            tracing::warn!(?strays, "addresses that are nobody's are removed");
            self.hands.remove(&strays);
        }
    }

    /// Tells the controller what there is to tell.
    fn report(&mut self) {
        if !self.line.is_connected() {
            // Transitions are told to the next controller, so that commands and mails go out.
            let entered = |report: &Report| matches!(report, Report::Entered(_));
            self.hands.reports.retain(entered);
            let surplus = self.hands.reports.len().saturating_sub(MAX_UNTOLD);
            self.hands.reports.drain(..surplus);
            return;
        }
        let reports = std::mem::take(&mut self.hands.reports);
        if reports.is_empty() && !self.changed {
            return;
        }
        self.changed = false;
        // First the state, so that whoever hears of a transition finds it there.
        self.line.tell(&Report::Status(self.seats.status()));
        for report in reports {
            self.line.tell(&report);
        }
    }

    /// Resigns, takes the addresses away, and says so.
    fn end(&mut self) {
        self.seats.stop(Instant::now(), &mut self.hands);
        self.changed = true;
        self.report();
    }
}

/// How long the first configuration is waited for.
const FIRST_GRACE: Duration = Duration::from_secs(10);
/// How long a controller that is connected may say nothing, at least.
const SLOW: Duration = Duration::from_secs(2);
/// From one log line about the same stranger to the next.
const STRANGERS_EVERY: Duration = Duration::from_secs(600);
/// Transitions that wait for a controller.
const MAX_UNTOLD: usize = 256;
/// Strangers that are remembered without looking which are old.
const MAX_STRANGERS: usize = 1024;
/// Longer than any frame of interest: 255 IPv6 addresses are 4 KiB.
const FRAME: usize = 9216;
/// Frames of one interface that are taken in one turn, so that a flood does not keep timers away.
const MAX_FRAMES: usize = 256;
