//! HAProxy's states of a server, with its words and the colours of its legend.
//!
//! Must not know: HTML, CSV.

use crate::controller::document::RealServer;

/// The state of a server as HAProxy tells it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::admin) enum State {
    /// Takes connections.
    Up,
    /// Some checks failed: this many more and it is down.
    GoingDown(u32, u32),
    /// Some checks succeeded: so many of so many.
    GoingUp(u32, u32),
    /// Does not answer its check.
    Down,
    /// Is not checked.
    NoCheck,
    /// Open connections may end.
    Drain,
    /// Taken out by the operator.
    Maint,
}

/// The state of a real server.
pub(in crate::admin) fn state(server: &RealServer) -> State {
    let doubt = server.check.as_ref().map(|check| (check.count, check.of));
    match (server.state.as_str(), doubt) {
        ("disabled", _) => State::Maint,
        ("drain", _) => State::Drain,
        ("unchecked", _) => State::NoCheck,
        ("down", Some((count, of))) if count > 0 && count < of => State::GoingUp(count, of),
        ("down", _) => State::Down,
        (_, Some((count, of))) if count < of => State::GoingDown(count, of),
        _ => State::Up,
    }
}

impl State {
    /// HAProxy's words.
    pub(in crate::admin) fn words(self) -> String {
        match self {
            Self::Up => "UP".to_owned(),
            Self::GoingDown(count, of) => format!("UP {count}/{of}"),
            Self::GoingUp(count, of) => format!("DOWN {count}/{of}"),
            Self::Down => "DOWN".to_owned(),
            Self::NoCheck => "no check".to_owned(),
            Self::Drain => "DRAIN".to_owned(),
            Self::Maint => "MAINT".to_owned(),
        }
    }

    /// The class of its colour.
    pub(super) fn class(self) -> &'static str {
        match self {
            Self::Up => "up",
            Self::GoingDown(..) => "going-down",
            Self::GoingUp(..) => "going-up",
            Self::Down => "down",
            Self::NoCheck => "no-check",
            Self::Drain => "drain",
            Self::Maint => "maint",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::document::Check;

    #[test]
    fn states_are_haproxys() {
        for (name, doubt, expected) in [
            ("up", Some((3, 3)), "UP"),
            ("up", Some((2, 3)), "UP 2/3"),
            ("up", None, "UP"),
            ("down", Some((0, 2)), "DOWN"),
            ("down", Some((1, 2)), "DOWN 1/2"),
            ("drain", Some((3, 3)), "DRAIN"),
            ("disabled", None, "MAINT"),
            ("unchecked", None, "no check"),
        ] {
            let check = doubt.map(|(count, of)| Check { count, of, ..Check::default() });
            let server = RealServer { state: name.into(), check, ..RealServer::default() };
            assert_eq!(state(&server).words(), expected);
        }
    }
}
