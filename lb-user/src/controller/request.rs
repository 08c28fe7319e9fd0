//! What others ask of the controller, and its answers.
//!
//! `admin` sends a [`Request`] as an event and waits for its reply; the controller answers each
//! one, at once or when the work is done. A requester that went away is no error.
//!
//! Must not know: HTTP, JSON, argv.

use std::time::Duration;

use serde::Serialize;
use tokio::sync::oneshot;

use crate::controller::document::{Bans, Connections, Error, Lifted, Reload, Stats, Status};
use crate::metrics::Snapshot;
use crate::model::Prefix;

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
    /// Read the configuration file again; answered when it serves or is refused.
    Reload,
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
    /// To [`Verb::Connections`].
    Connections(Connections),
    /// To [`Verb::Reload`].
    Reload(Reload),
    /// To [`Verb::Metrics`]; whoever asked writes it in the format that is wanted.
    #[serde(skip)]
    Metrics(Box<Snapshot>),
    /// To [`Verb::Bans`] and [`Verb::Ban`].
    Bans(Bans),
    /// To [`Verb::Unban`].
    Lifted(Lifted),
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
