//! A real server's effective weight and state: configured weight x health x admin state.
//!
//! The one place where they are combined; maps and documents take its answer.
//!
//! Must not know: probes, BPF, how a server is shown.

use crate::health::HealthState;
use crate::model::{OnFailure, RealServer};

/// What the operator said at run time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum AdminState {
    /// As the file says.
    #[default]
    Ready,
    /// No new connections; open ones go on (`lb drain`).
    Drain,
    /// Out of service (`lb disable`).
    Disabled,
}

/// A real server's state as documents name it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ServerState {
    /// It is healthy and takes connections.
    Up,
    /// Its check failed.
    Down,
    /// It takes no new connections: drained, or of weight 0.
    Drain,
    /// Taken out by the operator.
    Disabled,
    /// It has no check and takes connections.
    Unchecked,
}

impl ServerState {
    /// Its name in documents.
    pub fn name(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::Down => "down",
            Self::Drain => "drain",
            Self::Disabled => "disabled",
            Self::Unchecked => "unchecked",
        }
    }
}

/// What becomes of a real server now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Effective {
    /// Its share of new connections.
    pub weight: u32,
    /// Its state.
    pub state: ServerState,
    /// It keeps its place in tables that do not follow the effective weight (sh, mh): it is in the
    /// pool, though it may take no new connections now.
    pub in_pool: bool,
    /// Its open connections are expired, so that clients are told.
    pub expire_connections: bool,
}

/// What checks say of a real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// Its state.
    pub state: HealthState,
    /// It was up before, so somebody may have to be told.
    pub failed: bool,
}

/// Combines what is known of a real server. `health` is `None` when it is not checked.
pub fn effective(
    server: &RealServer,
    on_failure: OnFailure,
    health: Option<Health>,
    admin: AdminState,
) -> Effective {
    let quiet = |state| Effective { weight: 0, state, in_pool: true, expire_connections: false };
    if server.disabled || admin == AdminState::Disabled {
        return Effective { in_pool: false, ..quiet(ServerState::Disabled) };
    }
    if let Some(Health { state: HealthState::Down, failed }) = health {
        // Whether it was up before does not count for its place: two directors of which one has
        // just started have the same tables.
        let removed = on_failure == OnFailure::Remove;
        let expire_connections = failed && removed;
        return Effective { in_pool: !removed, expire_connections, ..quiet(ServerState::Down) };
    }
    if server.weight == 0 || admin == AdminState::Drain {
        return quiet(ServerState::Drain);
    }
    let state = if health.is_some() { ServerState::Up } else { ServerState::Unchecked };
    Effective { weight: server.weight, state, in_pool: true, expire_connections: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Option<Health> = Some(Health { state: HealthState::Up, failed: false });
    const DOWN: Option<Health> = Some(Health { state: HealthState::Down, failed: true });

    #[track_caller]
    fn check(
        weight: u32,
        disabled: bool,
        health: Option<Health>,
        admin: AdminState,
        expected: (u32, &str),
    ) {
        let address = "10.0.0.1".parse().expect("an address");
        let server = RealServer { address, port: 80, weight, disabled, health_check: None };
        let found = effective(&server, OnFailure::Quiesce, health, admin);
        assert_eq!((found.weight, found.state.name()), expected);
        assert!(!found.expire_connections);
    }

    #[test]
    fn the_strongest_reason_to_be_quiet_wins() {
        use AdminState::{Disabled, Drain, Ready};
        check(3, false, UP, Ready, (3, "up"));
        check(3, false, None, Ready, (3, "unchecked"));
        check(3, false, DOWN, Ready, (0, "down"));
        check(0, false, UP, Ready, (0, "drain"));
        check(3, false, UP, Drain, (0, "drain"));
        check(3, false, None, Drain, (0, "drain"));
        check(3, false, DOWN, Drain, (0, "down"));
        check(3, false, UP, Disabled, (0, "disabled"));
        check(3, true, DOWN, Ready, (0, "disabled"));
    }

    #[test]
    fn a_removed_or_disabled_server_leaves_the_pool_and_a_quiet_one_does_not() {
        use AdminState::{Disabled, Drain, Ready};
        let never_up = Some(Health { state: HealthState::Down, failed: false });
        for (health, on_failure, admin, in_pool) in [
            (UP, OnFailure::Remove, Ready, true),
            (None, OnFailure::Remove, Drain, true),
            (DOWN, OnFailure::Quiesce, Ready, true),
            (DOWN, OnFailure::Remove, Ready, false),
            (never_up, OnFailure::Remove, Ready, false),
            (UP, OnFailure::Quiesce, Disabled, false),
        ] {
            let address = "10.0.0.1".parse().expect("an address");
            let server =
                RealServer { address, port: 80, weight: 1, disabled: false, health_check: None };
            let found = effective(&server, on_failure, health, admin);
            assert_eq!(found.in_pool, in_pool, "{health:?} {on_failure:?} {admin:?}");
        }
    }

    #[test]
    fn only_a_failed_check_with_remove_expires_connections() {
        let address = "10.0.0.1".parse().expect("an address");
        let server =
            RealServer { address, port: 80, weight: 1, disabled: false, health_check: None };
        let expires = |health, on_failure| {
            effective(&server, on_failure, health, AdminState::Ready).expire_connections
        };
        assert!(expires(DOWN, OnFailure::Remove));
        assert!(!expires(DOWN, OnFailure::Quiesce));
        assert!(!expires(UP, OnFailure::Remove));
    }
}
