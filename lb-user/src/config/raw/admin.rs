//! `admin.http` and `tls` as they are written: every value typed, nothing judged across keys.
//!
//! Must not know: default values, how keys depend on each other.

use super::super::contract;
use super::super::problem::Place;
use super::super::units;
use super::cursor::Cursor;
use super::vrrp::{Items, unless_off};
use super::{Written, absolute_path};
use crate::model;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

/// `admin.http`.
#[derive(Debug)]
pub(in crate::config) struct AdminHttp {
    pub(in crate::config) place: Place,
    pub(in crate::config) bind: Written<SocketAddr>,
    pub(in crate::config) stats_path: Written<String>,
    pub(in crate::config) refresh: Written<Duration>,
    pub(in crate::config) realm: Written<String>,
    pub(in crate::config) hide_version: Written<bool>,
    pub(in crate::config) users: Items<User>,
    /// Names under `tls.certificates`; `None` inside is `off`.
    pub(in crate::config) tls: Written<Option<Items<String>>>,
}

/// One of `admin.http.users`.
#[derive(Clone, Debug)]
pub(in crate::config) struct User {
    pub(in crate::config) place: Place,
    pub(in crate::config) name: Written<String>,
    pub(in crate::config) password_hash: Written<String>,
    pub(in crate::config) role: Written<model::Role>,
}

/// The `tls` section.
#[derive(Debug)]
pub(in crate::config) struct Tls {
    pub(in crate::config) certificates: Items<Certificate>,
    pub(in crate::config) min_version: Written<model::TlsVersion>,
}

/// One of `tls.certificates`.
#[derive(Clone, Debug)]
pub(in crate::config) struct Certificate {
    pub(in crate::config) place: Place,
    pub(in crate::config) name: Written<String>,
    pub(in crate::config) cert: Written<PathBuf>,
    pub(in crate::config) key: Written<PathBuf>,
}

impl AdminHttp {
    /// `None` inside is `off`.
    pub(super) fn read(cursor: &Cursor<'_>) -> Option<Option<Self>> {
        unless_off(cursor, |cursor| {
            let fields = cursor.fields()?;
            Some(Self {
                place: cursor.place(),
                bind: fields.read("bind", |c| c.parsed("ADDRESS:PORT or *:PORT", units::bind)),
                stats_path: fields.read("stats_path", |c| c.parsed("a path", units::plain_path)),
                refresh: fields.read("refresh", Cursor::span_or_off),
                realm: fields.read("realm", |c| c.parsed("a text", units::realm)),
                hide_version: fields.read("hide_version", Cursor::flag),
                users: Items::read(&fields, "users", User::read),
                tls: fields.read("tls", |c| {
                    unless_off(c, |c| {
                        let fields = c.item_fields()?;
                        let name = |c: &Cursor<'_>| c.parsed("a certificate's name", units::name);
                        Some(Items::read(&fields, "certificates", name))
                    })
                }),
            })
        })
    }
}

impl User {
    fn read(cursor: &Cursor<'_>) -> Option<Self> {
        let fields = cursor.item_fields()?;
        Some(Self {
            place: cursor.place(),
            name: fields.read("name", |c| c.parsed("a user's name", units::user)),
            password_hash: fields
                .read("password_hash", |c| c.parsed("an argon2id hash", units::password_hash)),
            role: fields.read("role", |c| c.word(&contract::ROLES)),
        })
    }
}

impl Tls {
    pub(super) fn read(cursor: &Cursor<'_>) -> Option<Self> {
        let fields = cursor.fields()?;
        Some(Self {
            certificates: Items::read(&fields, "certificates", Certificate::read),
            min_version: fields.read("min_version", |c| c.word(&contract::TLS_VERSIONS)),
        })
    }
}

impl Certificate {
    fn read(cursor: &Cursor<'_>) -> Option<Self> {
        let fields = cursor.item_fields()?;
        Some(Self {
            place: cursor.place(),
            name: fields.read("name", |c| c.parsed("a certificate's name", units::name)),
            cert: fields.read("cert", absolute_path),
            key: fields.read("key", absolute_path),
        })
    }
}
