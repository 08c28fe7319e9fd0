//! What a probe found and what it is about: the values that health hands to the controller.
//!
//! Must not know: sockets, thresholds, weights.

use std::collections::BTreeMap;
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
                _ => check.port.unwrap_or(server.port),
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
    /// The command said that the server serves (HAProxy's external checks).
    ProcessOk,
    /// The command did not end in time.
    ProcessTimeout,
    /// The command said that the server does not serve, or could not be run.
    ProcessError,
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
            Self::ProcessOk => "PROCOK",
            Self::ProcessTimeout => "PROCTOUT",
            Self::ProcessError => "PROCERR",
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
            Self::ProcessOk => "External check passed",
            Self::ProcessTimeout => "External check timeout",
            Self::ProcessError => "External check error",
            Self::SocketError => "Socket error",
        }
    }

    /// What the status says about the server.
    pub fn outcome(self) -> Outcome {
        match self {
            Self::L4Ok | Self::L7Ok | Self::ProcessOk => Outcome::Success,
            Self::L4Con
            | Self::L4Timeout
            | Self::L6Timeout
            | Self::L6Response
            | Self::L7Timeout
            | Self::L7Response
            | Self::L7Status
            | Self::ProcessTimeout
            | Self::ProcessError => Outcome::Failure,
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
    /// The status code of the protocol (HTTP's 200) or of a command, where there is one.
    pub code: Option<u16>,
    /// The weight that a command gives its server (keepalived `misc_dynamic`); `None` is the
    /// server's own.
    pub weight: Option<u32>,
    /// Why, for people; empty when there is nothing to say.
    pub detail: String,
}

/// The state of a target or its weight changed. It names the target only: the state to act on is the one that
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
    /// A result has borne the state out, or made it. A target that starts down is not known to be
    /// down before that.
    pub is_settled: bool,
    /// Probes that have ended.
    pub probes: u64,
    /// The weight that the last success gave; `None` is the server's own.
    pub weight: Option<u32>,
    /// What they found, in all.
    pub tally: Tally,
}

/// What probes of a target found so far. A check that takes over from one that differs only in its
/// numbers goes on counting.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Times that the state changed.
    pub changes: u64,
    /// Results by the names of their statuses.
    pub results: BTreeMap<&'static str, u64>,
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
            is_settled: false,
            probes: 0,
            tally: Tally::default(),
            weight: None,
        })))
    }

    /// Goes on from what is known of the same target under other numbers.
    pub(in crate::health) fn go_on(&self, known: Observation) {
        let mut seen = self.lock();
        seen.tally = known.tally;
        seen.weight = known.weight;
        seen.is_settled = known.is_settled;
        seen.last_change = known.last_change;
        seen.last = known.last;
    }

    /// The state.
    pub fn state(&self) -> HealthState {
        self.lock().state
    }

    /// Probes that have ended.
    pub fn results(&self) -> u64 {
        self.lock().probes
    }

    /// Everything.
    pub fn get(&self) -> Observation {
        self.lock().clone()
    }

    /// Takes a result and what the machine made of it; says whether the weight is another one now, or
    /// the state borne out for the first time. `now` is the wall clock.
    pub(crate) fn take(&self, machine: &Machine, result: ProbeResult, now: SystemTime) -> bool {
        let mut seen = self.lock();
        if seen.state != machine.state() {
            seen.last_change = Some(now);
            seen.tally.changes += 1;
        }
        *seen.tally.results.entry(result.status.name()).or_default() += 1;
        seen.state = machine.state();
        seen.doubt = machine.doubt();
        seen.held_until = machine.held_until();
        seen.probes += 1;
        let before = (seen.weight, seen.is_settled);
        let outcome = result.status.outcome();
        if outcome == Outcome::Success {
            seen.weight = result.weight;
        }
        let is_plainly_down = outcome == Outcome::Failure && seen.doubt.0 == 0;
        seen.is_settled |= match seen.state {
            HealthState::Up => outcome == Outcome::Success,
            HealthState::Down => is_plainly_down,
        };
        seen.last = Some(result);
        (seen.weight, seen.is_settled) != before
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
        let good = [(L4Ok, "L4OK"), (L7Ok, "L7OK"), (ProcessOk, "PROCOK")];
        let bad = [
            (L4Con, "L4CON"),
            (L4Timeout, "L4TOUT"),
            (L6Timeout, "L6TOUT"),
            (L6Response, "L6RSP"),
            (L7Timeout, "L7TOUT"),
            (L7Response, "L7RSP"),
            (L7Status, "L7STS"),
            (ProcessTimeout, "PROCTOUT"),
            (ProcessError, "PROCERR"),
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
    fn a_state_is_borne_out_by_a_result_that_is_plain() {
        let settles = |state, letters: &str| {
            let start = Instant::now();
            let mut machine = Machine::resume(&check(2, 2), state, start, 1);
            let observed = Observed::new(machine.state(), 2);
            let settled = letters.chars().map(|letter| {
                let result = result(letter);
                machine.on_result(start, &result);
                let is_news = observed.take(&machine, result, SystemTime::UNIX_EPOCH);
                if is_news { '!' } else { '.' }
            });
            settled.collect::<String>()
        };
        assert_eq!(settles(HealthState::Down, "-"), "!");
        assert_eq!(settles(HealthState::Down, "?+-"), "..!", "a lack, and a doubt, say nothing");
        assert_eq!(settles(HealthState::Down, "++"), ".!");
        assert_eq!(settles(HealthState::Up, "-+-"), ".!.");
        assert_eq!(settles(HealthState::Up, "--"), ".!");
    }

    #[test]
    fn the_weight_is_the_one_of_the_last_success() {
        let start = Instant::now();
        let mut machine = Machine::resume(&check(1, 2), HealthState::Up, start, 1);
        let observed = Observed::new(machine.state(), 2);
        let mut take = |letter, weight| {
            let result = ProbeResult { weight, ..result(letter) };
            machine.on_result(start, &result);
            let changed = observed.take(&machine, result, SystemTime::UNIX_EPOCH);
            (changed, observed.get().weight)
        };
        assert_eq!(take('+', None), (true, None), "borne out for the first time");
        assert_eq!(take('+', Some(7)), (true, Some(7)));
        assert_eq!(take('+', Some(7)), (false, Some(7)));
        for letter in ['-', '-', '?'] {
            assert_eq!(take(letter, None), (false, Some(7)), "{letter}");
        }
        assert_eq!(take('+', None), (true, None));
    }

    #[test]
    fn a_server_without_a_check_has_no_target() {
        let unchecked = RealServer { health_checks: Vec::new(), ..server(None) };
        assert_eq!(Target::all(&unchecked).count(), 0);
    }
}
