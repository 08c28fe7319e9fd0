//! Probes: each asks one target once and says what it found, within a deadline.
//!
//! [`Prober::new`] prepares what is the same for every probe of a target; [`Prober::probe`] asks.
//! A probe never fails: what goes wrong is its result. What probes share (ping's sockets, TLS
//! settings, the number of open connections) is one [`Kit`].
//!
//! Must not know: thresholds, states, weights, who asked.

mod connect;
mod deadline;
mod dns;
mod exec;
mod grpc;
mod http;
mod insecure;
mod line;
mod ping;
mod smtp;
mod tcp;
mod tls;
mod udp;

use std::sync::Arc;
use std::time::Duration;

use nix::sys::resource::{Resource, getrlimit};
use tokio::sync::Semaphore;

use crate::health::probe::exec::ExecProbe;
use crate::health::probe::http::HttpProbe;
use crate::health::probe::line::Line;
use crate::health::probe::ping::Pinger;
use crate::health::probe::tls::Trust;
use crate::health::report::{CheckStatus, ProbeResult, Target};
use crate::health::ways::Ways;
use crate::model::{CheckKind, DnsCheck, GrpcCheck, SmtpCheck, UdpCheck};

/// What all probes of a process share.
#[derive(Debug)]
pub struct Kit {
    pinger: Pinger,
    trust: Trust,
    connections: Semaphore,
    processes: Semaphore,
    ways: Ways,
}

impl Kit {
    /// A kit in which nothing is open yet. `seed` makes pings hard to guess.
    pub fn new(seed: u64) -> Self {
        Self {
            pinger: Pinger::new(seed),
            trust: Trust::new(),
            connections: Semaphore::new(connections_of(open_files())),
            processes: Semaphore::new(MAX_PROCESSES),
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
    how: How,
}

/// A kind of check with what its probes have in common.
#[derive(Debug)]
enum How {
    Ping,
    Tcp,
    Http(Box<HttpProbe>),
    Udp(Arc<UdpCheck>),
    Dns(Arc<DnsCheck>),
    Smtp(Arc<SmtpCheck>),
    Grpc(Arc<GrpcCheck>),
    Exec(Box<ExecProbe>),
}

impl Prober {
    /// A prober; nothing is sent yet.
    pub fn new(target: Arc<Target>, kit: Arc<Kit>) -> Self {
        let (address, timeout) = (target.address, target.check.timeout);
        let how = match &target.check.kind {
            CheckKind::Ping => How::Ping,
            CheckKind::Tcp => How::Tcp,
            CheckKind::Http(check) => {
                How::Http(Box::new(HttpProbe::new(Line::named(&target), check)))
            }
            CheckKind::Udp(check) => How::Udp(Arc::clone(check)),
            CheckKind::Dns(check) => How::Dns(Arc::clone(check)),
            CheckKind::Smtp(check) => How::Smtp(Arc::clone(check)),
            CheckKind::Grpc(check) => How::Grpc(Arc::clone(check)),
            CheckKind::Exec(check) => How::Exec(Box::new(ExecProbe::new(address, check, timeout))),
        };
        Self { target, kit, how }
    }

    /// Asks once. At most `MAX_CONNECTIONS` probes that need a socket and `MAX_PROCESSES`
    /// commands run at once; the others wait, which does not count for their timeout.
    pub async fn probe(&self) -> ProbeResult {
        let (address, timeout) = (self.target.address, self.target.check.timeout);
        let room = match &self.how {
            How::Ping => return self.kit.pinger.ping(address.ip(), timeout).await,
            How::Exec(_) => &self.kit.processes,
            _ => &self.kit.connections,
        };
        let Ok(_permit) = room.acquire().await else {
            return outcome(CheckStatus::SocketError, "the daemon is stopping");
        };
        let line = match Line::of(&self.target, &self.kit.ways) {
            Ok(line) => line,
            Err(result) => return result,
        };
        match &self.how {
            How::Ping | How::Tcp => tcp::tcp(&line, timeout).await,
            How::Http(http) => http.probe(&line, timeout, &self.kit.trust).await,
            How::Udp(check) => udp::udp(&line, check, timeout).await,
            How::Dns(check) => dns::dns(&line, check, timeout).await,
            How::Smtp(check) => smtp::smtp(&line, check, timeout).await,
            How::Grpc(check) => {
                let named = Line::named(&self.target);
                grpc::grpc(&line, named, check, timeout).await
            }
            How::Exec(command) => command.probe().await,
        }
    }
}

/// A result of which only status and detail are known so far.
fn outcome(status: CheckStatus, detail: impl Into<String>) -> ProbeResult {
    ProbeResult {
        status,
        duration: Duration::ZERO,
        code: None,
        weight: None,
        detail: detail.into(),
    }
}

/// How many sockets of probes may be open at once when the daemon may have `files` open.
fn connections_of(files: u64) -> usize {
    let left = usize::try_from(files).unwrap_or(usize::MAX).saturating_sub(OTHER_FILES);
    left.clamp(FEWEST_CONNECTIONS, MAX_CONNECTIONS)
}

/// The daemon's limit of open files.
fn open_files() -> u64 {
    getrlimit(Resource::RLIMIT_NOFILE).map_or(DEFAULT_FILES, |(soft, _hard)| soft)
}

/// Sockets of probes that are open at once: a thousand targets that do not answer get their result
/// within interval and timeout, and the daemon stays below a thousand open sockets.
const MAX_CONNECTIONS: usize = 960;
/// Even then something has to be checked.
const FEWEST_CONNECTIONS: usize = 64;
/// Left to the rest of the daemon: maps, netlink, the admin socket, commands.
const OTHER_FILES: usize = 256;
/// The usual limit of open files.
const DEFAULT_FILES: u64 = 1024;
/// Commands that run at once.
const MAX_PROCESSES: usize = 64;
/// What a server's log shows.
const AGENT: &str = concat!("lb/", env!("CARGO_PKG_VERSION"), " health check");

/// A runtime for tests of probes.
#[cfg(test)]
fn block_on<F: Future>(future: F) -> F::Output {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime")
        .block_on(future)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_leave_descriptors_to_the_rest_of_the_daemon() {
        for (files, connections) in [(0, 64), (256, 64), (1024, 768), (4096, 960), (u64::MAX, 960)]
        {
            assert_eq!(connections_of(files), connections);
        }
    }
}
