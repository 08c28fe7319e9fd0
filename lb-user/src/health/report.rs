//! What a probe found and what it is about: the values that health hands to the controller.
//!
//! Must not know: sockets, thresholds, weights.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use crate::health::fsm::{HealthState, Machine};
use crate::model::{CheckKind, HealthCheck, RealServer};

/// One thing that is probed: an address and how. Equal targets share one probe.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Where the probe goes; the check's own port is applied. The port of a ping is 0.
    pub address: SocketAddr,
    /// How it is probed. `port` is always `None` here, since `address` already holds it.
    pub check: HealthCheck,
}

impl Target {
    /// The targets of a real server, one for each of its checks.
    pub fn all(server: &RealServer) -> impl Iterator<Item = Self> {
        server.health_checks.iter().map(|check| {
            let mut check = check.clone();
            let port = match check.kind {
                CheckKind::Ping => 0,
                CheckKind::Tcp | CheckKind::Http(_) => check.port.unwrap_or(server.port),
            };
            check.port = None;
            Self { address: SocketAddr::new(server.address, port), check }
        })
    }
}

/// Status of a probe, named as in HAProxy's statistics (management guide 9.1, field 36).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CheckStatus {
    /// No probe has ended yet.
    Initializing,
    /// The TCP connection was made, or the ping was answered.
    L4Ok,
    /// The connection was refused or the host or network cannot be reached.
    L4Con,
    /// Nobody answered in time.
    L4Timeout,
    /// The TLS handshake did not end in time.
    L6Timeout,
    /// The TLS handshake failed, or the certificate was not accepted.
    L6Response,
    /// The answer was as expected.
    L7Ok,
    /// Connected, but the answer was not complete in time.
    L7Timeout,
    /// The answer was not understood, or its body is not the expected one.
    L7Response,
    /// The answer has another status code than expected.
    L7Status,
    /// The probe could not be sent because of a lack on this host.
    SocketError,
}

impl CheckStatus {
    /// HAProxy's name of the status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Initializing => "INI",
            Self::L4Ok => "L4OK",
            Self::L4Con => "L4CON",
            Self::L4Timeout => "L4TOUT",
            Self::L6Timeout => "L6TOUT",
            Self::L6Response => "L6RSP",
            Self::L7Ok => "L7OK",
            Self::L7Timeout => "L7TOUT",
            Self::L7Response => "L7RSP",
            Self::L7Status => "L7STS",
            Self::SocketError => "SOCKERR",
        }
    }

    /// What it means, in HAProxy's words.
    pub fn words(self) -> &'static str {
        match self {
            Self::Initializing => "Initializing",
            Self::L4Ok => "Layer4 check passed",
            Self::L4Con => "Layer4 connection problem",
            Self::L4Timeout => "Layer4 timeout",
            Self::L6Timeout => "Layer6 timeout",
            Self::L6Response => "Layer6 invalid response",
            Self::L7Ok => "Layer7 check passed",
            Self::L7Timeout => "Layer7 timeout",
            Self::L7Response => "Layer7 invalid response",
            Self::L7Status => "Layer7 wrong status",
            Self::SocketError => "Socket error",
        }
    }

    /// What the status says about the server.
    pub fn outcome(self) -> Outcome {
        match self {
            Self::L4Ok | Self::L7Ok => Outcome::Success,
            Self::L4Con
            | Self::L4Timeout
            | Self::L6Timeout
            | Self::L6Response
            | Self::L7Timeout
            | Self::L7Response
            | Self::L7Status => Outcome::Failure,
            Self::Initializing | Self::SocketError => Outcome::Unknown,
        }
    }
}

/// What one probe says about its server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It serves.
    Success,
    /// It does not serve.
    Failure,
    /// Nothing: this host could not ask. Neither a success nor a failure, so that a director that
    /// runs out of file descriptors does not take every server down.
    Unknown,
}

/// The result of one probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeResult {
    /// What was found.
    pub status: CheckStatus,
    /// How long it took.
    pub duration: Duration,
    /// The status code of the protocol (HTTP's 200), where it has one.
    pub code: Option<u16>,
    /// Why, for people; empty when there is nothing to say.
    pub detail: String,
}

/// The state of a target changed. It names the target only: the state to act on is the one that
/// [`Observed`] has when the change is handled, so that a late one does no harm.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Whose.
    pub target: Arc<Target>,
}

/// What is known of one target: written by its probe, read by whoever shows or uses it. Results
/// come here without waking anybody.
#[derive(Clone, Debug)]
pub struct Observed(Arc<Mutex<Observation>>);

/// What is known of one target at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Observation {
    /// Its state.
    pub state: HealthState,
    /// When the state last changed; `None` when it has not since probing began.
    pub last_change: Option<SystemTime>,
    /// The last result.
    pub last: Option<ProbeResult>,
    /// Results in a row that contradict the state, and how many change it.
    pub doubt: (u32, u32),
    /// Until when it is held down because its state changed too often.
    pub held_until: Option<Instant>,
    /// Probes that have ended.
    pub probes: u64,
}

impl Observed {
    /// Of a target in `state`, not probed yet.
    pub fn new(state: HealthState, threshold: u32) -> Self {
        Self(Arc::new(Mutex::new(Observation {
            state,
            last_change: None,
            last: None,
            doubt: (0, threshold),
            held_until: None,
            probes: 0,
        })))
    }

    /// The state.
    pub fn state(&self) -> HealthState {
        self.lock().state
    }

    /// Everything.
    pub fn get(&self) -> Observation {
        self.lock().clone()
    }

    /// Takes a result and what the machine made of it. `now` is the wall clock.
    pub(crate) fn take(&self, machine: &Machine, result: ProbeResult, now: SystemTime) {
        let mut seen = self.lock();
        if seen.state != machine.state() {
            seen.last_change = Some(now);
        }
        seen.state = machine.state();
        seen.doubt = machine.doubt();
        seen.held_until = machine.held_until();
        seen.probes += 1;
        seen.last = Some(result);
    }

    fn lock(&self) -> MutexGuard<'_, Observation> {
        // Nothing panics while it is held.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::fsm::tests::{check, result};
    use crate::model::AdminState;

    fn server(check_port: Option<u16>) -> RealServer {
        RealServer {
            address: "10.0.0.1".parse().expect("an address"),
            port: 80,
            weight: 1,
            admin: AdminState::Ready,
            health_checks: vec![HealthCheck { port: check_port, ..check(2, 3) }],
        }
    }

    #[test]
    fn a_check_on_the_servers_own_port_is_the_same_target_as_one_without_a_port() {
        let targets = |port| Target::all(&server(port)).collect::<Vec<_>>();
        assert_eq!(targets(None), targets(Some(80)));
        assert_eq!(targets(Some(8080))[0].address.port(), 8080);
    }

    #[test]
    fn pings_of_one_host_are_one_target_whatever_the_servers_ports() {
        let ping = |port| {
            let check = HealthCheck { kind: CheckKind::Ping, ..check(2, 3) };
            let server = RealServer { port, health_checks: vec![check], ..server(None) };
            Target::all(&server).collect::<Vec<_>>()
        };
        assert_eq!(ping(80), ping(443));
    }

    #[test]
    fn names_are_haproxys_and_outcomes_are_complete() {
        use CheckStatus::*;
        let good = [(L4Ok, "L4OK"), (L7Ok, "L7OK")];
        let bad = [
            (L4Con, "L4CON"),
            (L4Timeout, "L4TOUT"),
            (L6Timeout, "L6TOUT"),
            (L6Response, "L6RSP"),
            (L7Timeout, "L7TOUT"),
            (L7Response, "L7RSP"),
            (L7Status, "L7STS"),
        ];
        let unknown = [(Initializing, "INI"), (SocketError, "SOCKERR")];
        for (rows, outcome) in [
            (&good[..], Outcome::Success),
            (&bad[..], Outcome::Failure),
            (&unknown[..], Outcome::Unknown),
        ] {
            for (status, name) in rows {
                assert_eq!((status.name(), status.outcome()), (*name, outcome));
            }
        }
    }

    #[test]
    fn a_change_is_dated_and_a_result_that_changes_nothing_is_not() {
        let check = check(1, 1);
        let start = Instant::now();
        let mut machine = Machine::resume(&check, HealthState::Down, start, 1);
        let observed = Observed::new(machine.state(), 1);
        let at = |n| SystemTime::UNIX_EPOCH + Duration::from_secs(n);
        for (n, letter, changed) in [(1, '-', None), (2, '+', Some(2)), (3, '+', Some(2))] {
            let result = result(letter);
            machine.on_result(start, &result);
            observed.take(&machine, result.clone(), at(n));
            let seen = observed.get();
            assert_eq!((seen.last_change, seen.probes), (changed.map(at), n));
            assert_eq!(seen.last, Some(result));
        }
    }

    #[test]
    fn a_server_without_a_check_has_no_target() {
        let unchecked = RealServer { health_checks: Vec::new(), ..server(None) };
        assert_eq!(Target::all(&unchecked).count(), 0);
    }
}
