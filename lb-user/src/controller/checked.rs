//! What the controller has heard of a probed target: the one truth that weights, expiry and
//! documents are made from.
//!
//! Must not know: probes, maps.

use std::collections::HashMap;

use crate::health::{HealthEvent, HealthState, Report, Target};

/// A probed target.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Its state as of the last report; before the first one, what it was assumed to be.
    pub state: HealthState,
    /// It was up and failed. A server that was never up has no connections that somebody must be
    /// told of.
    pub failed: bool,
    /// The last report.
    pub last: Option<Report>,
}

impl Checked {
    /// A target that nothing was heard of yet. `assumed` is what an earlier daemon, or the maps
    /// before it was checked, took it for.
    pub fn new(state: HealthState, assumed: Option<HealthState>) -> Self {
        Self { state, failed: assumed == Some(HealthState::Down), last: None }
    }

    /// Takes a report; true when the maps may have to follow.
    pub fn hear(&mut self, report: Report) -> bool {
        let changed = self.state != report.state;
        match report.event {
            Some(HealthEvent::Up) => self.failed = false,
            Some(HealthEvent::Down) => self.failed = true,
            None => {}
        }
        self.state = report.state;
        let event = report.event.is_some();
        self.last = Some(report);
        changed || event
    }
}

/// All probed targets.
pub type Health = HashMap<Target, Checked>;

/// Of two assumptions about one target, the one that disturbs less.
pub fn milder(a: Option<HealthState>, b: Option<HealthState>) -> Option<HealthState> {
    match (a, b) {
        (Some(HealthState::Up), _) | (_, Some(HealthState::Up)) => Some(HealthState::Up),
        (Some(HealthState::Down), _) | (_, Some(HealthState::Down)) => Some(HealthState::Down),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::health::{CheckStatus, ProbeResult};
    use crate::model::{CheckKind, HealthCheck};

    fn report(state: HealthState, event: Option<HealthEvent>) -> Report {
        let second = Duration::from_secs(1);
        let check = HealthCheck {
            kind: CheckKind::Tcp,
            interval: second,
            retry_interval: second,
            timeout: second,
            rise: 2,
            fall: 2,
            port: None,
            starts_up: false,
        };
        let address = "10.0.0.1:80".parse().expect("an address");
        let result = ProbeResult {
            status: CheckStatus::L4Ok,
            duration: second,
            code: None,
            detail: String::new(),
        };
        Report { target: Arc::new(Target { address, check }), result, state, event }
    }

    #[test]
    fn only_a_server_that_was_up_has_failed() {
        let mut checked = Checked::new(HealthState::Down, None);
        assert!(!checked.hear(report(HealthState::Down, None)), "the first of two successes");
        assert!(!checked.failed);
        assert!(checked.hear(report(HealthState::Up, Some(HealthEvent::Up))));
        assert!(checked.hear(report(HealthState::Down, Some(HealthEvent::Down))));
        assert!(checked.failed);
        assert!(checked.hear(report(HealthState::Up, Some(HealthEvent::Up))));
        assert!(!checked.failed);
        assert!(Checked::new(HealthState::Down, Some(HealthState::Down)).failed);
    }

    #[test]
    fn a_server_in_use_anywhere_is_assumed_up() {
        let (up, down) = (Some(HealthState::Up), Some(HealthState::Down));
        assert_eq!(milder(down, up), up);
        assert_eq!(milder(None, down), down);
        assert_eq!(milder(None, None), None);
    }
}
