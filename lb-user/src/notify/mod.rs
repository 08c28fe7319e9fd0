//! Who is told of transitions: commands and mail.
//!
//! [`Notifier::send`] takes a [`Notification`] and never waits. Commands of one subject (an
//! instance, a group) run one after the other in the order of its transitions, those of different
//! subjects at the same time ([`queue`]); each is bounded in time and killed with its children when
//! it hangs. Mails go out in order, and are kept and tried again while the mail server does not
//! take them ([`outbox`], `smtp`).
//!
//! Commands get what keepalived gives: after their own words the type (`INSTANCE`, `GROUP`), the
//! name, the state (`MASTER`, `BACKUP`, `FAULT`, `STOP`) and the priority. They run as the user
//! `keepalived_script` if the host has one and else as root, and in either case only if
//! [`crate::exec::check`] says that nobody else can have changed them.
//!
//! Must not know: VRRP, configuration files, what a transition means.

pub mod message;
mod notifier;
pub mod outbox;
pub mod queue;
mod smtp;
#[cfg(test)]
mod tests;

pub use message::{Kind, Notification, State};
pub use notifier::{Counts, Notifier, Settings, Unfinished, script_user};
