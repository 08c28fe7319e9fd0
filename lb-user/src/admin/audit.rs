//! One line in the log for every change that somebody asked for: who, from where, what, and what
//! became of it.
//!
//! Must not know: how requests come in, what a change does.

use std::fmt;

use hyper::StatusCode;

use crate::admin::api::Answer;
use crate::controller::document::Error;
use crate::controller::overrides::Action;
use crate::controller::request::{Steer, Verb};

/// Who asks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Who {
    /// The user's name.
    pub(super) name: String,
    /// An address, or the admin socket and the process behind it.
    pub(super) from: String,
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.name.is_empty() { "nobody" } else { &self.name };
        write!(f, "{} (from {})", name.escape_debug(), self.from)
    }
}

/// Whether the verb changes anything, and then what, for people.
pub(super) fn change(verb: &Verb) -> Option<String> {
    // Names come from whoever asks: nothing in them may end or forge a line.
    let named = |action: &str, name: &str| Some(format!("{action} {}", name.escape_debug()));
    match verb {
        Verb::Reload => Some("reload".to_owned()),
        Verb::ReopenLogs => Some("reopen-logs".to_owned()),
        Verb::Ban { prefix, span: None } => Some(format!("ban {prefix}")),
        Verb::Ban { prefix, span: Some(span) } => {
            Some(format!("ban {prefix} for {}", humantime::format_duration(*span)))
        }
        Verb::Unban { prefix } => Some(format!("unban {prefix}")),
        Verb::Resign { name } => named("resign", name),
        Verb::Steer(steer) => named(&steered(steer), &steer.shown())
            .map(|text| if steer.persist { format!("{text}, for good") } else { text }),
        Verb::Status
        | Verb::Stats
        | Verb::History
        | Verb::Connections { .. }
        | Verb::Metrics
        | Verb::Bans
        | Verb::Explain(_)
        | Verb::Vrrp
        | Verb::Events => None,
    }
}

/// What is to become of a server, in a word.
fn steered(steer: &Steer) -> String {
    match steer.action {
        Action::Enable => "enable".to_owned(),
        Action::Drain => "drain".to_owned(),
        Action::Disable => "disable".to_owned(),
        Action::Weight(weight) => format!("weight {weight} for"),
        Action::Add(None) => "add".to_owned(),
        Action::Add(Some(weight)) => format!("add with weight {weight}"),
        Action::Remove => "remove".to_owned(),
    }
}

/// Tells what became of a change.
pub(super) fn told(who: &Who, change: &str, answer: &Answer) {
    if answer.status.is_success() {
        tracing::info!("admin: {who} {change}: done");
    } else {
        refused(who, change, &reason(answer));
    }
}

/// Tells of a change that was not even tried.
pub(super) fn refused(who: &Who, change: &str, why: &str) {
    tracing::warn!("admin: {who} {change}: refused: {}", why.escape_debug());
}

/// The error of an answer, in one line.
pub(super) fn reason(answer: &Answer) -> String {
    let unknown = |status: StatusCode| status.canonical_reason().unwrap_or("refused").to_owned();
    let document = serde_json::from_slice::<Error>(&answer.body);
    document.map_or_else(
        |_| unknown(answer.status),
        |Error { error, errors }| match errors.first() {
            Some(first) => format!("{error}: {first}"),
            None => error,
        },
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_who_did_what_and_cannot_be_forged() {
        let who = Who { name: "ada".into(), from: "192.0.2.1".into() };
        assert_eq!(who.to_string(), "ada (from 192.0.2.1)");
        let resign = Verb::Resign { name: "VI\nadmin: root reload: done".into() };
        let text = change(&resign).expect("a change");
        assert_eq!(text, "resign VI\\nadmin: root reload: done");
        let answer = Answer::error(StatusCode::NOT_FOUND, "there is no instance VI");
        assert_eq!(reason(&answer), "there is no instance VI");
        assert_eq!(change(&Verb::Status), None);
    }
}
