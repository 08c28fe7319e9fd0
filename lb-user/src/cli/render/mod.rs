//! From documents to text for people, in ipvsadm's layout.
//!
//! Pure: every function takes a document and gives the whole text.
//!
//! Must not know: sockets, terminals, where a document came from.

mod bans;
mod connections;
mod doctor;
mod failover;
mod stats;
mod status;
mod table;
mod vrrp;

pub use bans::{banned, bans, lifted};
pub use connections::connections;
pub use doctor::doctor;
pub use failover::failover;
pub use stats::{fill_rates, stats};
pub use status::status;
pub use vrrp::vrrp;

pub(in crate::cli) use crate::controller::document::endpoint;
use crate::controller::document::{Explanation, Reload};

/// `lb explain`: the steps, then the verdict.
pub fn explanation(document: &Explanation) -> String {
    let mut text: String = document.steps.iter().map(|step| format!("{step}\n")).collect();
    text.push_str(&format!("verdict: {}\n", document.verdict));
    text
}

/// `lb reload`.
pub fn reload(done: &Reload) -> String {
    let mut text: String =
        done.warnings.iter().map(|warning| format!("warning: {warning}\n")).collect();
    let line = match done.changes {
        0 => "reloaded: nothing changed\n".to_owned(),
        1 => "reloaded: 1 change\n".to_owned(),
        changes => format!("reloaded: {changes} changes\n"),
    };
    text.push_str(&line);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reload_tells_its_warnings_first() {
        let done = Reload { changes: 2, warnings: vec!["eth0 is down".into()] };
        assert_eq!(reload(&done), "warning: eth0 is down\nreloaded: 2 changes\n");
        assert_eq!(reload(&Reload::default()), "reloaded: nothing changed\n");
    }
}
