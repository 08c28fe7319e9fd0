//! A real server's effective weight and state: weight x health x admin state.
//!
//! The one place where they are combined; maps and documents take its answer.
//!
//! Must not know: probes, BPF, how a server is shown.

use crate::health::HealthState;
use crate::model::{AdminState, OnFailure, RealServer};

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
    /// Its share of new connections once it has its whole share.
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
    /// The weight that a check gave it instead of the configured one.
    pub weight: Option<u32>,
}

/// Combines what is known of a real server. `health` is `None` when it is not checked.
pub fn effective(server: &RealServer, on_failure: OnFailure, health: Option<Health>) -> Effective {
    let admin = server.admin;
    let quiet = |state| Effective { weight: 0, state, in_pool: true, expire_connections: false };
    if admin == AdminState::Disabled {
        return Effective { in_pool: false, ..quiet(ServerState::Disabled) };
    }
    if let Some(Health { state: HealthState::Down, failed, .. }) = health {
        // Whether it was up before does not count for its place: two directors of which one has
        // just started have the same tables.
        let removed = on_failure == OnFailure::Remove;
        let expire_connections = failed && removed;
        return Effective { in_pool: !removed, expire_connections, ..quiet(ServerState::Down) };
    }
    // Weight 0 of the file is the operator's word, whatever a check says.
    let given = health.and_then(|health| health.weight).filter(|_| server.weight > 0);
    let weight = given.unwrap_or(server.weight);
    if weight == 0 || admin == AdminState::Drain {
        return quiet(ServerState::Drain);
    }
    let state = if health.is_some() { ServerState::Up } else { ServerState::Unchecked };
    Effective { weight, state, in_pool: true, expire_connections: false }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UP: Option<Health> = Some(Health { state: HealthState::Up, failed: false, weight: None });
    const DOWN: Option<Health> =
        Some(Health { state: HealthState::Down, failed: true, weight: None });

    fn server(weight: u32, admin: AdminState) -> RealServer {
        let address = "10.0.0.1".parse().expect("an address");
        RealServer { address, port: 80, weight, admin, health_checks: Vec::new() }
    }

    #[track_caller]
    fn check(weight: u32, health: Option<Health>, admin: AdminState, expected: (u32, &str)) {
        let found = effective(&server(weight, admin), OnFailure::Quiesce, health);
        assert_eq!((found.weight, found.state.name()), expected);
        assert!(!found.expire_connections);
    }

    #[test]
    fn the_strongest_reason_to_be_quiet_wins() {
        use AdminState::{Disabled, Drain, Ready};
        check(3, UP, Ready, (3, "up"));
        check(3, None, Ready, (3, "unchecked"));
        check(3, DOWN, Ready, (0, "down"));
        check(0, UP, Ready, (0, "drain"));
        check(3, UP, Drain, (0, "drain"));
        check(3, None, Drain, (0, "drain"));
        check(3, DOWN, Drain, (0, "down"));
        check(3, UP, Disabled, (0, "disabled"));
        check(3, DOWN, Disabled, (0, "disabled"));
    }

    #[test]
    fn a_check_may_give_the_weight_but_not_against_the_operator() {
        use AdminState::{Drain, Ready};
        let gives = |weight| UP.map(|health| Health { weight: Some(weight), ..health });
        check(3, gives(7), Ready, (7, "up"));
        check(3, gives(0), Ready, (0, "drain"));
        check(0, gives(7), Ready, (0, "drain"));
        check(3, gives(7), Drain, (0, "drain"));
    }

    #[test]
    fn a_removed_or_disabled_server_leaves_the_pool_and_a_quiet_one_does_not() {
        use AdminState::{Disabled, Drain, Ready};
        let never_up = DOWN.map(|health| Health { failed: false, ..health });
        for (health, on_failure, admin, in_pool) in [
            (UP, OnFailure::Remove, Ready, true),
            (None, OnFailure::Remove, Drain, true),
            (DOWN, OnFailure::Quiesce, Ready, true),
            (DOWN, OnFailure::Remove, Ready, false),
            (never_up, OnFailure::Remove, Ready, false),
            (UP, OnFailure::Quiesce, Disabled, false),
        ] {
            let found = effective(&server(1, admin), on_failure, health);
            assert_eq!(found.in_pool, in_pool, "{health:?} {on_failure:?} {admin:?}");
        }
    }
}
