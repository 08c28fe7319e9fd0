//! The moment by which a probe has to have ended, whatever step it is at.
//!
//! Must not know: what the steps are.

use std::time::Duration;

use tokio::time::Instant;

use crate::health::probe::outcome;
use crate::health::report::{CheckStatus, ProbeResult};

/// When a probe's time is over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Deadline {
    at: Instant,
    timeout: Duration,
}

impl Deadline {
    /// From now on.
    pub(super) fn after(timeout: Duration) -> Self {
        Self { at: Instant::now() + timeout, timeout }
    }

    /// What `step` comes to; when its time is over first, a result with this status that says
    /// `what` there was not.
    pub(super) async fn within<T>(
        self,
        status: CheckStatus,
        what: &str,
        step: impl Future<Output = T>,
    ) -> Result<T, ProbeResult> {
        let ended = tokio::time::timeout_at(self.at, step).await;
        ended.map_err(|_elapsed| outcome(status, format!("{what} within {:?}", self.timeout)))
    }
}
