//! Links, addresses, neighbours and routes of the kernel, as commands and events.
//!
//! [`Netlink::open`] starts a request connection; its methods ask and change one thing each, and
//! say what they were about when they fail. [`events::spawn`] starts a second connection (a burst
//! of events that overruns its socket must not lose an answer) and sends coalesced
//! [`NetlinkEvent`]s. [`next_hop`] is the pure step from link table, route and neighbour to the
//! MAC addresses of a frame; [`Netlink::resolve`] feeds it. [`sysctl`] sets what forwarding needs
//! and restores it.
//!
//! Managed neighbours go with their link: the kernel flushes them when it goes down or loses its
//! carrier. Whoever wants one asks for it again when an event says that it is gone.
//!
//! What this module adds carries the protocol number [`OWNER`] (`ip -d address`,
//! `ip neigh show` print it as `proto 108`), so that a later daemon or `lb detach` finds it.
//! Everything acts in the network namespace of the thread that opened it.
//!
//! Must not know: why an address or a neighbour is wanted, services, BPF.

mod address;
pub mod events;
mod link;
mod neighbour;
pub mod next_hop;
mod route;
pub mod sysctl;
#[cfg(test)]
mod tests;
mod xdp;

use std::io;
use std::time::Duration;

pub use address::Address;
pub use events::NetlinkEvent;
pub use link::{Link, LinkKind, LinkTable};
pub use neighbour::{Neighbour, NeighbourState};
pub use next_hop::{NextHop, Unresolved};
pub use route::{Resolution, Route};
pub use xdp::XdpMode;

/// Protocol number that marks addresses and neighbours as added by this program.
pub const OWNER: u8 = 108;

/// Whether something that is now present was put there by this program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ownership {
    /// Added now or by a daemon before this one; remove it at stop.
    Ours,
    /// It was there already; it stays.
    Foreign,
}

/// A connection to the kernel for requests. Clones share it.
#[derive(Clone, Debug)]
pub struct Netlink {
    handle: rtnetlink::Handle,
}

impl Netlink {
    /// Opens the connection in this thread's network namespace and runs it on this runtime.
    pub fn open() -> Result<Self, NetlinkError> {
        let (connection, handle, _unsolicited) =
            rtnetlink::new_connection().map_err(NetlinkError::Open)?;
        tokio::spawn(connection);
        Ok(Self { handle })
    }
}

/// A request that failed, in words.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket.
    #[error("netlink: no socket to the kernel: {0}")]
    Open(#[source] io::Error),
    /// The kernel refused.
    #[error("netlink: {what}: {source}{}", hint(source))]
    Kernel {
        /// What was asked.
        what: String,
        /// Its answer.
        source: io::Error,
    },
    /// The kernel did not answer.
    #[error("netlink: {what}: no answer from the kernel within {DEADLINE:?}")]
    NoAnswer {
        /// What was asked.
        what: String,
    },
    /// The answer was not understood.
    #[error("netlink: {what}: {detail}")]
    Unexpected {
        /// What was asked.
        what: String,
        /// What came instead.
        detail: String,
    },
}

impl NetlinkError {
    fn new(what: String, error: &rtnetlink::Error) -> Self {
        match error {
            rtnetlink::Error::NetlinkError(message) => {
                Self::Kernel { what, source: message.to_io() }
            }
            other => Self::Unexpected { what, detail: other.to_string() },
        }
    }

    /// The kernel's error number, if it was the kernel who refused.
    pub fn errno(&self) -> Option<i32> {
        match self {
            Self::Kernel { source, .. } | Self::Open(source) => source.raw_os_error(),
            Self::NoAnswer { .. } | Self::Unexpected { .. } => None,
        }
    }
}

fn hint(error: &io::Error) -> &'static str {
    if error.kind() == io::ErrorKind::PermissionDenied {
        " (needs root or CAP_NET_ADMIN)"
    } else {
        ""
    }
}

/// Waits for an answer with a deadline and names the request in its error.
async fn answer<T>(
    what: impl Fn() -> String,
    request: impl Future<Output = Result<T, rtnetlink::Error>>,
) -> Result<T, NetlinkError> {
    match tokio::time::timeout(DEADLINE, request).await {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(NetlinkError::new(what(), &error)),
        Err(_elapsed) => Err(NetlinkError::NoAnswer { what: what() }),
    }
}

const DEADLINE: Duration = Duration::from_secs(5);
