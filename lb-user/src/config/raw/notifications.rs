//! The section `notifications` as it is written: every value typed, nothing judged across keys.
//!
//! Must not know: default values, how keys depend on each other.

use super::super::problem::Place;
use super::super::units;
use super::cursor::Cursor;
use super::vrrp::{Items, unless_off};
use super::{Written, absolute_path};
use std::path::PathBuf;
use std::time::Duration;

/// `notifications.email`.
#[derive(Debug)]
pub(in crate::config) struct Email {
    pub(in crate::config) place: Place,
    pub(in crate::config) smtp: Written<(String, u16)>,
    pub(in crate::config) from: Written<String>,
    pub(in crate::config) to: Items<String>,
    pub(in crate::config) starttls: Written<bool>,
    pub(in crate::config) username: Written<String>,
    pub(in crate::config) password_file: Written<PathBuf>,
    pub(in crate::config) timeout: Written<Duration>,
}

impl Email {
    /// `None` inside is `off`.
    pub(super) fn read(cursor: &Cursor<'_>) -> Option<Option<Self>> {
        unless_off(cursor, |cursor| {
            let fields = cursor.item_fields()?;
            let mailbox = |c: &Cursor<'_>| c.parsed("an address of e-mail", units::mailbox);
            Some(Self {
                place: cursor.place(),
                smtp: fields.read("smtp", |c| c.parsed("HOST:PORT", units::mail_server)),
                from: fields.read("from", mailbox),
                to: Items::read(&fields, "to", mailbox),
                starttls: fields.read("starttls", Cursor::flag),
                username: fields.read("username", |c| Some(c.text("a user's name")?.to_owned())),
                password_file: fields.read("password_file", absolute_path),
                timeout: fields.read("timeout", Cursor::duration),
            })
        })
    }
}
