//! Probes: each asks one target once and says what it found, within a deadline.
//!
//! [`Prober::new`] prepares what is the same for every probe of a target; [`Prober::probe`] asks.
//! A probe never fails: what goes wrong is its result. What probes share (ping's sockets, TLS
//! settings, the number of open connections) is one [`Kit`].
//!
//! Must not know: thresholds, states, weights, who asked.

mod connect;
mod http;
mod insecure;
mod line;
mod ping;
mod tcp;
mod tls;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;

use crate::health::probe::http::HttpProbe;
use crate::health::probe::line::Line;
use crate::health::probe::ping::Pinger;
use crate::health::probe::tls::Trust;
use crate::health::report::{CheckStatus, ProbeResult, Target};
use crate::health::ways::Ways;
use crate::model::CheckKind;

/// What all probes of a process share.
#[derive(Debug)]
pub struct Kit {
    pinger: Pinger,
    trust: Trust,
    connections: Semaphore,
    ways: Ways,
}

impl Kit {
    /// A kit in which nothing is open yet. `seed` makes pings hard to guess.
    pub fn new(seed: u64) -> Self {
        Self {
            pinger: Pinger::new(seed),
            trust: Trust::new(),
            connections: Semaphore::new(MAX_CONNECTIONS),
            ways: Ways::default(),
        }
    }

    /// The ways of probes that go by their service.
    pub fn ways(&self) -> &Ways {
        &self.ways
    }

    /// Reads the system's trusted certificates anew before they are next used.
    pub fn forget_trusted(&self) {
        self.trust.forget();
    }
}

/// Asks one target.
#[derive(Debug)]
pub struct Prober {
    target: Arc<Target>,
    kit: Arc<Kit>,
    /// Of checks of type `http` and `https`.
    http: Option<HttpProbe>,
}

impl Prober {
    /// A prober; nothing is sent yet.
    pub fn new(target: Arc<Target>, kit: Arc<Kit>) -> Self {
        let http = match &target.check.kind {
            CheckKind::Http(check) => Some(HttpProbe::new(Line::named(&target), check)),
            CheckKind::Ping | CheckKind::Tcp => None,
        };
        Self { target, kit, http }
    }

    /// Asks once. At most `MAX_CONNECTIONS` probes that need a connection run at once; the
    /// others wait, which does not count for their timeout.
    pub async fn probe(&self) -> ProbeResult {
        let (address, timeout) = (self.target.address, self.target.check.timeout);
        if self.target.check.kind == CheckKind::Ping {
            return self.kit.pinger.ping(address.ip(), timeout).await;
        }
        let Ok(_permit) = self.kit.connections.acquire().await else {
            return outcome(CheckStatus::SocketError, "the daemon is stopping");
        };
        let line = match Line::of(&self.target, &self.kit.ways) {
            Ok(line) => line,
            Err(result) => return result,
        };
        match &self.http {
            Some(http) => http.probe(&line, timeout, &self.kit.trust).await,
            None => tcp::tcp(&line, timeout).await,
        }
    }
}

/// A result of which only status and detail are known so far.
fn outcome(status: CheckStatus, detail: impl Into<String>) -> ProbeResult {
    ProbeResult { status, duration: Duration::ZERO, code: None, detail: detail.into() }
}

/// Open at once: well below the default limit of 1,024 open files.
const MAX_CONNECTIONS: usize = 512;

/// A runtime for tests of probes.
#[cfg(test)]
fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}
