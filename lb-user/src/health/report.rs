//! What a probe found and what it is about: the values that health hands to the controller.
//!
//! Must not know: sockets, thresholds, weights.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::health::fsm::{HealthEvent, HealthState};
use crate::model::{HealthCheck, RealServer};

/// One thing that is probed: an address and how. Equal targets share one probe.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// Where the probe goes; the check's own port is applied.
    pub address: SocketAddr,
    /// How it is probed. `port` is always `None` here, since `address` already holds it.
    pub check: HealthCheck,
}

impl Target {
    /// The target of a real server, or `None` when it is not checked.
    pub fn of(server: &RealServer) -> Option<Self> {
        let mut check = server.health_check.clone()?;
        let port = check.port.take().unwrap_or(server.port);
        Some(Self { address: SocketAddr::new(server.address, port), check })
    }
}

/// Status of the last probe, named as in HAProxy's statistics (management guide 9.1, field 36).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CheckStatus {
    /// No probe has ended yet.
    Initializing,
    /// The TCP connection was made.
    L4Ok,
    /// The connection was refused or the host or network cannot be reached.
    L4Con,
    /// Nobody answered in time.
    L4Timeout,
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
            Self::SocketError => "SOCKERR",
        }
    }

    /// What the status says about the server.
    pub fn outcome(self) -> Outcome {
        match self {
            Self::L4Ok => Outcome::Success,
            Self::L4Con | Self::L4Timeout => Outcome::Failure,
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

/// One probe's result and what became of the target's state.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What was probed.
    pub target: Arc<Target>,
    /// What was found.
    pub result: ProbeResult,
    /// The state after this result.
    pub state: HealthState,
    /// The change, when this result changed the state.
    pub event: Option<HealthEvent>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::fsm::tests::check;

    fn server(check_port: Option<u16>) -> RealServer {
        RealServer {
            address: "10.0.0.1".parse().expect("an address"),
            port: 80,
            weight: 1,
            disabled: false,
            health_check: Some(HealthCheck { port: check_port, ..check(2, 3) }),
        }
    }

    #[test]
    fn a_check_on_the_servers_own_port_is_the_same_target_as_one_without_a_port() {
        assert_eq!(Target::of(&server(None)), Target::of(&server(Some(80))));
        let other = Target::of(&server(Some(8080))).expect("a target");
        assert_eq!(other.address.port(), 8080);
    }

    #[test]
    fn a_server_without_a_check_has_no_target() {
        let unchecked = RealServer { health_check: None, ..server(None) };
        assert_eq!(Target::of(&unchecked), None);
    }
}
