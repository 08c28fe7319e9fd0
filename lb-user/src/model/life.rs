//! The life of a service's servers: who is told, when a service is up, and what the operator said.
//!
//! Must not know: health checks, maps, YAML.

use std::net::IpAddr;

/// What the operator wants of a server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum AdminState {
    /// It takes connections when it is healthy.
    #[default]
    Ready,
    /// It takes no new connections; open ones go on (`lb drain`).
    Drain,
    /// It is out of service (`disabled: true`, `lb disable`).
    Disabled,
}

impl AdminState {
    /// Its name in the state file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Drain => "drain",
            Self::Disabled => "disabled",
        }
    }

    /// The state of a name.
    pub fn of_name(name: &str) -> Option<Self> {
        [Self::Ready, Self::Drain, Self::Disabled].into_iter().find(|state| state.name() == name)
    }
}

/// `quorum`: the weight that makes a service worth announcing (keepalived's).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Quorum {
    /// The weight of live servers that is wanted.
    pub up: u32,
    /// By how much it is missed before the service is down, and passed before it is up again.
    pub hysteresis: u32,
    /// Run when it is reached; empty is none.
    pub on_up: Vec<String>,
    /// Run when it is lost; empty is none.
    pub on_down: Vec<String>,
}

impl Default for Quorum {
    /// One server of any weight.
    fn default() -> Self {
        Self { up: 1, hysteresis: 0, on_up: Vec::new(), on_down: Vec::new() }
    }
}

/// `notify` of a service: who is told when one of its servers, or its quorum, changes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceNotify {
    /// Run when something comes up; empty is none.
    pub up: Vec<String>,
    /// Run when something goes down; empty is none.
    pub down: Vec<String>,
    /// A mail is written as well.
    pub email: bool,
}

/// Where new connections go while the quorum is missing. It is not checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SorryServer {
    /// Its address.
    pub address: IpAddr,
    /// Its port.
    pub port: u16,
}
