//! What a service says of its life: notifications, quorum, sorry server, slow start.
//!
//! Must not know: default values, how keys depend on each other.

use super::super::units;
use super::cursor::{Cursor, Fields};
use super::vrrp::command;
use super::{Command, Written, port};
use std::net::IpAddr;
use std::time::Duration;

/// The keys of a service's life; each is inherited on its own.
#[derive(Debug)]
pub(in crate::config) struct Life {
    pub(in crate::config) slow_start: Written<Duration>,
    pub(in crate::config) notify: Written<Notify>,
    pub(in crate::config) quorum: Written<Quorum>,
    /// `None` is `off`.
    pub(in crate::config) sorry_server: Written<Option<SorryServer>>,
}

/// `notify` of a service.
#[derive(Clone, Debug)]
pub(in crate::config) struct Notify {
    pub(in crate::config) up: Written<Command>,
    pub(in crate::config) down: Written<Command>,
    pub(in crate::config) email: Written<bool>,
}

/// `quorum`.
#[derive(Clone, Debug)]
pub(in crate::config) struct Quorum {
    pub(in crate::config) up: Written<u32>,
    pub(in crate::config) hysteresis: Written<u32>,
    pub(in crate::config) on_up: Written<Command>,
    pub(in crate::config) on_down: Written<Command>,
}

/// `sorry_server`.
#[derive(Clone, Debug)]
pub(in crate::config) struct SorryServer {
    pub(in crate::config) address: Written<IpAddr>,
    pub(in crate::config) port: Written<u16>,
}

impl Life {
    pub(super) fn read(fields: &Fields<'_>) -> Self {
        Self {
            slow_start: fields.read("slow_start", Cursor::span_or_off),
            notify: fields.read("notify", Notify::read),
            quorum: fields.read("quorum", Quorum::read),
            sorry_server: fields.read("sorry_server", SorryServer::read),
        }
    }
}

impl Notify {
    fn read(cursor: &Cursor<'_>) -> Option<Self> {
        let fields = cursor.fields()?;
        Some(Self {
            up: fields.read("up", command),
            down: fields.read("down", command),
            email: fields.read("email", Cursor::flag),
        })
    }
}

impl Quorum {
    fn read(cursor: &Cursor<'_>) -> Option<Self> {
        let fields = cursor.fields()?;
        Some(Self {
            up: fields.read("up", |c| c.number(1..=MAX_QUORUM)),
            hysteresis: fields.read("hysteresis", |c| c.number(0..=MAX_QUORUM)),
            on_up: fields.read("on_up", command),
            on_down: fields.read("on_down", command),
        })
    }
}

impl SorryServer {
    fn read(cursor: &Cursor<'_>) -> Option<Option<Self>> {
        if cursor.is_off() {
            return Some(None);
        }
        let fields = cursor.fields()?;
        Some(Some(Self {
            address: fields.read("address", |c| c.parsed("an IP address", units::address)),
            port: fields.read("port", port),
        }))
    }
}

/// Far above the sum of any service's weights: 1,000 servers of the largest.
const MAX_QUORUM: u32 = 65_535_000;
