//! What others ask of the controller, and its answers.
//!
//! `admin` sends a [`Request`] as an event and waits for its reply; the controller answers each
//! one, at once or when the work is done. A requester that went away is no error.
//!
//! Must not know: HTTP, JSON, argv.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use serde::Serialize;
use tokio::sync::oneshot;

use crate::config;
use crate::controller::document::{
    Bans, Connections, Error, Events, Explanation, History, Lifted, Reload, Reopened, Resigned,
    Stats, Status, Steered, Vrrp,
};
use crate::controller::overrides::Action;
use crate::metrics::Snapshot;
use crate::model::{Listen, Prefix};

/// One question or command.
#[derive(Debug)]
pub struct Request {
    /// What is asked.
    pub verb: Verb,
    /// Where the answer goes.
    pub reply: oneshot::Sender<Reply>,
}

impl Request {
    /// A request and where its answer will come.
    pub fn new(verb: Verb) -> (Self, oneshot::Receiver<Reply>) {
        let (reply, answer) = oneshot::channel();
        (Self { verb, reply }, answer)
    }

    /// Answers it.
    pub fn answer(self, reply: Reply) {
        // The requester may have gone: nobody to tell.
        let _gone = self.reply.send(reply);
    }
}

/// What can be asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verb {
    /// [`Status`].
    Status,
    /// [`Stats`].
    Stats,
    /// [`Connections`].
    Connections {
        /// Only those of this service.
        service: Option<String>,
        /// At most this many.
        limit: usize,
    },
    /// [`History`].
    History,
    /// [`Snapshot`], for metrics.
    Metrics,
    /// [`Bans`].
    Bans,
    /// Drop what this prefix sends; answered with the ban when it is in force.
    Ban {
        /// Who.
        prefix: Prefix,
        /// For how long; for good when there is none.
        span: Option<Duration>,
    },
    /// Lift a ban; answered with [`Lifted`].
    Unban {
        /// Who.
        prefix: Prefix,
    },
    /// What would become of a packet; answered with [`Explanation`].
    Explain(Asked),
    /// [`Vrrp`].
    Vrrp,
    /// Give the mastership of an instance up; answered with [`Resigned`] when it is.
    Resign {
        /// The instance.
        name: String,
    },
    /// Open log files anew; answered with [`Reopened`].
    ReopenLogs,
    /// Change a server; answered with [`Steered`] when the maps follow.
    Steer(Steer),
    /// [`Events`].
    Events,
    /// Read the configuration file again; answered when it serves or is refused.
    Reload,
}

/// A change of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Steer {
    /// The virtual service.
    pub service: String,
    /// The server's address.
    pub address: IpAddr,
    /// The server's port; may be left out where there is no doubt.
    pub port: Option<u16>,
    /// What is to become of it.
    pub action: Action,
    /// It holds over reloads and restarts.
    pub persist: bool,
}

impl Steer {
    /// Reads `service/address[:port]`.
    ///
    /// # Errors
    /// In words, with what to write.
    pub fn target(text: &str) -> Result<(String, IpAddr, Option<u16>), String> {
        let wrong = || {
            format!(
                "{text:?} is not SERVICE/ADDRESS[:PORT], such as web/10.0.0.1:80 or web/[::1]:80"
            )
        };
        let (service, end) = text.rsplit_once('/').ok_or_else(wrong)?;
        let (address, port) = match end.trim_matches(['[', ']']).parse::<IpAddr>() {
            Ok(address) => (address, None),
            Err(_) => {
                let end: SocketAddr = end.parse().map_err(|_| wrong())?;
                (end.ip(), Some(end.port()))
            }
        };
        if service.is_empty() || port == Some(0) {
            return Err(wrong());
        }
        Ok((service.to_owned(), address.to_canonical(), port))
    }

    /// `service/address[:port]`.
    pub fn shown(&self) -> String {
        let Self { service, address, port, .. } = self;
        match port {
            Some(port) => format!("{service}/{}", SocketAddr::new(*address, *port)),
            None => format!("{service}/{address}"),
        }
    }
}

/// A packet that is asked about: its ends are of one family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked {
    /// Who sends it.
    pub from: IpAddr,
    /// From which port; any will do when there is none.
    pub port: Option<u16>,
    /// Where it goes, and by which protocol.
    pub to: Listen,
}

impl Asked {
    /// Reads `IP[:PORT]` and `IP:PORT/PROTO`.
    ///
    /// # Errors
    /// In words, with what to write.
    pub fn parse(from: &str, to: &str) -> Result<Self, String> {
        let (ip, port) = match from.parse::<IpAddr>() {
            Ok(ip) => (ip, None),
            Err(_) => {
                let end = from.parse::<SocketAddr>().map_err(|_| {
                    format!("{from:?} is not IP or IP:PORT, such as 192.0.2.1:4000 or [::1]:4000")
                })?;
                (end.ip(), Some(end.port()))
            }
        };
        let to = config::listen(to)?;
        let to = Listen { address: to.address.to_canonical(), ..to };
        let from = ip.to_canonical();
        if from.is_ipv4() != to.address.is_ipv4() {
            return Err(format!("{from} and {} are not of one family", to.address));
        }
        if port == Some(0) {
            return Err("no packet comes from port 0".to_owned());
        }
        Ok(Self { from, port, to })
    }
}

/// The answer to a [`Request`].
pub type Reply = Result<Document, Refusal>;

/// The document that a verb is answered with.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Document {
    /// To [`Verb::Status`].
    Status(Status),
    /// To [`Verb::Stats`].
    Stats(Stats),
    /// To [`Verb::History`].
    History(History),
    /// To [`Verb::Connections`].
    Connections(Connections),
    /// To [`Verb::Reload`].
    Reload(Reload),
    /// To [`Verb::ReopenLogs`].
    Reopened(Reopened),
    /// To [`Verb::Metrics`]; whoever asked writes it in the format that is wanted.
    #[serde(skip)]
    Metrics(Box<Snapshot>),
    /// To [`Verb::Bans`] and [`Verb::Ban`].
    Bans(Bans),
    /// To [`Verb::Unban`].
    Lifted(Lifted),
    /// To [`Verb::Explain`].
    Explanation(Explanation),
    /// To [`Verb::Vrrp`].
    Vrrp(Vrrp),
    /// To [`Verb::Resign`].
    Resigned(Resigned),
    /// To [`Verb::Steer`].
    Steered(Steered),
    /// To [`Verb::Events`].
    Events(Events),
}

/// A request that was not done.
#[derive(Clone, Debug, PartialEq)]
pub struct Refusal {
    /// Whose fault it is.
    pub kind: RefusalKind,
    /// Why.
    pub document: Error,
}

/// Reasons to refuse a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// The request or the configuration file is wrong.
    Invalid,
    /// What it names does not exist.
    NotFound,
    /// Another change is under way, or the daemon is stopping.
    Busy,
    /// The daemon or its host failed.
    Failed,
    /// The answer did not come in time.
    Late,
}

impl Refusal {
    /// A refusal in one line.
    pub fn new(kind: RefusalKind, error: impl Into<String>) -> Self {
        Self { kind, document: Error { error: error.into(), errors: Vec::new() } }
    }

    /// A configuration that was refused, with its errors one by one.
    pub fn invalid_config(error: impl Into<String>, errors: Vec<String>) -> Self {
        let document = Error { error: error.into(), errors };
        Self { kind: RefusalKind::Invalid, document }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_asked_about_in_words_of_one_family() {
        let check = |from: &str, to: &str, expected: Result<(&str, Option<u16>), &str>| match (
            Asked::parse(from, to),
            expected,
        ) {
            (Ok(asked), Ok((ip, port))) => {
                assert_eq!((asked.from.to_string().as_str(), asked.port), (ip, port));
            }
            (Err(error), Err(part)) => assert!(error.contains(part), "{error}"),
            (found, expected) => panic!("{from} {to}: {found:?}, expected {expected:?}"),
        };
        check("192.0.2.1", "192.0.2.9:80/tcp", Ok(("192.0.2.1", None)));
        check("192.0.2.1:4000", "192.0.2.9:80/udp", Ok(("192.0.2.1", Some(4000))));
        check("2001:db8::1", "[2001:db8::9]:80/tcp", Ok(("2001:db8::1", None)));
        check("[2001:db8::1]:5", "[2001:db8::9]:80/tcp", Ok(("2001:db8::1", Some(5))));
        check("web", "192.0.2.9:80/tcp", Err("is not IP or IP:PORT"));
        check("192.0.2.1:0", "192.0.2.9:80/tcp", Err("port 0"));
        check("192.0.2.1", "192.0.2.9:80", Err("has no protocol"));
        check("192.0.2.1", "[2001:db8::9]:80/tcp", Err("not of one family"));
    }
}
