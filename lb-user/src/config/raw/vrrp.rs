//! The section `vrrp` as it is written: every value typed, nothing judged across keys.
//!
//! Must not know: default values, how keys depend on each other.

use super::super::contract;
use super::super::problem::Place;
use super::super::units;
use super::cursor::{Cursor, Fields};
use super::{At, Written, good};
use crate::model::InitialState;
use std::net::IpAddr;
use std::time::Duration;

/// A list: what is good in it, and whether that is all.
#[derive(Debug)]
pub(in crate::config) struct Items<T> {
    /// The list as a whole; bad if one of its items is.
    pub(in crate::config) written: Written<()>,
    /// Its good items.
    pub(in crate::config) good: Vec<At<T>>,
}

/// `ADDRESS[/LEN] [dev NAME]`.
pub(in crate::config) type Address = (IpAddr, u8, Option<String>);

/// A program and its arguments; `None` is an empty list.
pub(in crate::config) type Command = Option<Vec<String>>;

/// The `vrrp` section.
#[derive(Debug)]
pub(in crate::config) struct Vrrp {
    pub(in crate::config) controller_grace: Written<Duration>,
    /// Named scripts; a faulty one has `None`.
    pub(in crate::config) scripts: Vec<(At<String>, Option<Script>)>,
    pub(in crate::config) instances: Items<Instance>,
    pub(in crate::config) sync_groups: Items<SyncGroup>,
}

/// One entry of `vrrp.scripts`.
#[derive(Debug)]
pub(in crate::config) struct Script {
    pub(in crate::config) place: Place,
    pub(in crate::config) command: Written<Command>,
    pub(in crate::config) interval: Written<Duration>,
    pub(in crate::config) timeout: Written<Duration>,
    pub(in crate::config) rise: Written<u32>,
    pub(in crate::config) fall: Written<u32>,
    pub(in crate::config) weight: Written<i16>,
    pub(in crate::config) user: Written<String>,
}

/// One entry of `vrrp.instances`.
#[derive(Debug)]
pub(in crate::config) struct Instance {
    pub(in crate::config) place: Place,
    pub(in crate::config) name: Written<String>,
    pub(in crate::config) interface: Written<String>,
    pub(in crate::config) virtual_router_id: Written<u8>,
    pub(in crate::config) version: Written<u32>,
    pub(in crate::config) priority: Written<u8>,
    pub(in crate::config) advertisement_interval: Written<Duration>,
    pub(in crate::config) initial_state: Written<InitialState>,
    pub(in crate::config) preempt: Written<bool>,
    pub(in crate::config) preempt_delay: Written<Duration>,
    /// `None` is `off`.
    pub(in crate::config) authentication: Written<Option<Authentication>>,
    pub(in crate::config) addresses: Items<Address>,
    pub(in crate::config) addresses_excluded: Items<Address>,
    /// Read for its faults: only `true` works.
    pub(in crate::config) accept: Written<()>,
    /// `None` is `off`.
    pub(in crate::config) unicast: Written<Option<Unicast>>,
    pub(in crate::config) virtual_mac: Written<bool>,
    pub(in crate::config) garp: Garp,
    pub(in crate::config) track: Track,
    pub(in crate::config) notify: Notify,
}

/// `authentication`.
#[derive(Debug)]
pub(in crate::config) struct Authentication {
    pub(in crate::config) kind: Written<()>,
    pub(in crate::config) password: Written<String>,
}

/// `unicast`.
#[derive(Debug)]
pub(in crate::config) struct Unicast {
    pub(in crate::config) source: Written<IpAddr>,
    pub(in crate::config) peers: Items<IpAddr>,
}

/// `garp`.
#[derive(Debug)]
pub(in crate::config) struct Garp {
    pub(in crate::config) count: Written<u32>,
    pub(in crate::config) delay: Written<Duration>,
    pub(in crate::config) refresh: Written<Duration>,
}

/// `track`.
#[derive(Debug)]
pub(in crate::config) struct Track {
    pub(in crate::config) scripts: Items<String>,
    pub(in crate::config) interfaces: Items<Weighted>,
    pub(in crate::config) virtual_services: Items<Weighted>,
}

/// A tracked object: a name, or a mapping with a weight.
#[derive(Debug)]
pub(in crate::config) struct Weighted {
    pub(in crate::config) name: String,
    pub(in crate::config) weight: Written<i16>,
}

/// `notify`; a sync group has the first three keys only.
#[derive(Debug)]
pub(in crate::config) struct Notify {
    pub(in crate::config) master: Written<Command>,
    pub(in crate::config) backup: Written<Command>,
    pub(in crate::config) fault: Written<Command>,
    pub(in crate::config) stop: Written<Command>,
    pub(in crate::config) any: Written<Command>,
    pub(in crate::config) email: Written<bool>,
}

/// One entry of `vrrp.sync_groups`.
#[derive(Debug)]
pub(in crate::config) struct SyncGroup {
    pub(in crate::config) place: Place,
    pub(in crate::config) name: Written<String>,
    pub(in crate::config) instances: Items<String>,
    pub(in crate::config) notify: Notify,
}

impl<T> Items<T> {
    pub(super) fn read<'a>(
        fields: &Fields<'a>,
        key: &str,
        read: impl Fn(&Cursor<'a>) -> Option<T>,
    ) -> Self {
        let mut items = Vec::new();
        let written = fields.read(key, |cursor| {
            let list = cursor.items()?;
            items = good(&list, read);
            (items.len() == list.len()).then_some(())
        });
        Self { written, good: items }
    }
}

impl Vrrp {
    pub(super) fn read(cursor: &Cursor<'_>) -> Option<Self> {
        let fields = cursor.fields()?;
        let scripts = fields.get("scripts").and_then(Cursor::named).unwrap_or_default();
        Some(Self {
            controller_grace: fields.read("controller_grace", Cursor::span_or_off),
            scripts: scripts.iter().map(|(name, c)| (name.clone(), Script::read(c))).collect(),
            instances: Items::read(&fields, "instances", Instance::read),
            sync_groups: Items::read(&fields, "sync_groups", SyncGroup::read),
        })
    }
}

impl Script {
    fn read(cursor: &Cursor<'_>) -> Option<Self> {
        let fields = cursor.fields()?;
        let count = |key| fields.read(key, |c| c.number(1..=MAX_COUNT));
        Some(Self {
            place: cursor.place(),
            command: fields.read("command", command),
            interval: fields.read("interval", Cursor::duration),
            timeout: fields.read("timeout", Cursor::duration),
            rise: count("rise"),
            fall: count("fall"),
            weight: fields.read("weight", weight),
            user: fields.read("user", |c| c.parsed("the name of a user", units::user)),
        })
    }
}

impl Instance {
    fn read(cursor: &Cursor<'_>) -> Option<Self> {
        let fields = cursor.item_fields()?;
        let part = |key| {
            let fields = fields.get(key).and_then(Cursor::fields);
            fields.unwrap_or_else(|| Fields::none(cursor.place()))
        };
        let octet =
            |key| fields.read(key, |c| c.number(1..=255).and_then(|n| u8::try_from(n).ok()));
        Some(Self {
            place: cursor.place(),
            name: fields.read("name", |c| c.parsed("a name", units::name)),
            interface: fields
                .read("interface", |c| c.parsed("the name of an interface", units::interface)),
            virtual_router_id: octet("virtual_router_id"),
            version: fields.read("version", |c| c.number(2..=3)),
            priority: octet("priority"),
            advertisement_interval: fields.read("advertisement_interval", Cursor::duration),
            initial_state: fields.read("initial_state", |c| c.word(&contract::INITIAL_STATES)),
            preempt: fields.read("preempt", Cursor::flag),
            preempt_delay: fields.read("preempt_delay", preempt_delay),
            authentication: fields.read("authentication", |c| unless_off(c, Authentication::read)),
            addresses: Items::read(&fields, "addresses", address),
            addresses_excluded: Items::read(&fields, "addresses_excluded", address),
            accept: fields.read("accept", |c| match c.flag()? {
                true => Some(()),
                false => c.error("`accept: false` is not supported yet"),
            }),
            unicast: fields.read("unicast", |c| unless_off(c, Unicast::read)),
            virtual_mac: fields.read("virtual_mac", Cursor::flag),
            garp: Garp::read(&part("garp")),
            track: Track::read(&part("track")),
            notify: Notify::read(&part("notify"), &EVERY_EVENT),
        })
    }
}

impl Authentication {
    fn read(cursor: &Cursor<'_>) -> Option<Self> {
        let fields = cursor.fields()?;
        Some(Self {
            kind: fields.read("type", |c| c.word(&contract::AUTHENTICATION_TYPES)),
            password: fields.read("password", password),
        })
    }
}

impl Unicast {
    fn read(cursor: &Cursor<'_>) -> Option<Self> {
        let fields = cursor.fields()?;
        let address = |c: &Cursor<'_>| c.parsed("an IP address", units::address);
        Some(Self {
            source: fields.read("source", address),
            peers: Items::read(&fields, "peers", address),
        })
    }
}

impl Garp {
    fn read(fields: &Fields<'_>) -> Self {
        Self {
            count: fields.read("count", |c| c.number(1..=MAX_GARP)),
            delay: fields.read("delay", Cursor::span_or_off),
            refresh: fields.read("refresh", Cursor::span_or_off),
        }
    }
}

impl Track {
    fn read(fields: &Fields<'_>) -> Self {
        Self {
            scripts: Items::read(fields, "scripts", |c| c.parsed("a name", units::name)),
            interfaces: Items::read(fields, "interfaces", |c| {
                weighted(c, "the name of an interface", units::interface)
            }),
            virtual_services: Items::read(fields, "virtual_services", |c| {
                weighted(c, "the name of a virtual service", units::name)
            }),
        }
    }
}

impl Notify {
    /// Reads those of `keys`; the mapping has no others.
    fn read(fields: &Fields<'_>, keys: &[&str]) -> Self {
        let on = |key: &str| {
            if keys.contains(&key) { fields.read(key, command) } else { Written::Absent }
        };
        Self {
            master: on("master"),
            backup: on("backup"),
            fault: on("fault"),
            stop: on("stop"),
            any: on("any"),
            email: if keys.contains(&"email") {
                fields.read("email", Cursor::flag)
            } else {
                Written::Absent
            },
        }
    }
}

impl SyncGroup {
    fn read(cursor: &Cursor<'_>) -> Option<Self> {
        let fields = cursor.item_fields()?;
        let notify = fields.get("notify").and_then(Cursor::fields);
        let notify = notify.unwrap_or_else(|| Fields::none(cursor.place()));
        Some(Self {
            place: cursor.place(),
            name: fields.read("name", |c| c.parsed("a name", units::name)),
            instances: Items::read(&fields, "instances", |c| c.parsed("a name", units::name)),
            notify: Notify::read(&notify, &EVENTS_OF_GROUPS),
        })
    }
}

pub(super) fn unless_off<'a, T>(
    cursor: &Cursor<'a>,
    read: impl FnOnce(&Cursor<'a>) -> Option<T>,
) -> Option<Option<T>> {
    if cursor.is_off() { Some(None) } else { read(cursor).map(Some) }
}

fn address(cursor: &Cursor<'_>) -> Option<Address> {
    cursor.parsed("ADDRESS/LEN dev INTERFACE", units::owned_address)
}

fn weight(cursor: &Cursor<'_>) -> Option<i16> {
    cursor.whole(-MAX_WEIGHT..=MAX_WEIGHT).and_then(|n| i16::try_from(n).ok())
}

fn weighted(
    cursor: &Cursor<'_>,
    what: &str,
    name: fn(&str) -> Result<String, String>,
) -> Option<Weighted> {
    if !cursor.is_map() {
        return Some(Weighted { name: cursor.parsed(what, name)?, weight: Written::Absent });
    }
    let fields = cursor.fields()?;
    let weight = fields.read("weight", weight);
    match fields.read("name", |c| c.parsed(what, name)) {
        Written::Is(at) => Some(Weighted { name: at.value, weight }),
        Written::Bad => None,
        Written::Absent => cursor.error("what is tracked needs a `name`"),
    }
}

/// At most what keepalived takes.
fn preempt_delay(cursor: &Cursor<'_>) -> Option<Duration> {
    let delay = cursor.span_or_off()?;
    if delay > MAX_PREEMPT_DELAY {
        return cursor.error("is longer than 1000s");
    }
    Some(delay)
}

/// The message never holds what was written.
fn password(cursor: &Cursor<'_>) -> Option<String> {
    if !cursor.is_text() {
        return cursor.error("a password is text: write it in quotes");
    }
    let text = cursor.text("a password")?;
    if !(1..=MAX_PASSWORD).contains(&text.len()) {
        let message = format!(
            "has {} bytes: version 2 has room for 1 to {MAX_PASSWORD}, and a peer may cut off the rest or refuse it",
            text.len()
        );
        return cursor.error(message);
    }
    if text.chars().any(char::is_control) {
        return cursor.error("a password has no control characters");
    }
    Some(text.to_owned())
}

/// A list of words; the first is a program by its absolute path.
pub(super) fn command(cursor: &Cursor<'_>) -> Option<Command> {
    if cursor.is_off() {
        return Some(None);
    }
    let items = cursor.items()?;
    let words = good(&items, |item| {
        let word = item.text("a word of the command")?;
        if word.contains('\0') {
            return item.error("a word of a command has no zero byte");
        }
        Some(word.to_owned())
    });
    if words.len() < items.len() {
        return None;
    }
    let Some((first, word)) = items.first().zip(words.first()) else { return Some(None) };
    if !word.value.starts_with('/') {
        return first
            .error("write the program by its absolute path, such as /usr/libexec/lb/check");
    }
    Some(Some(words.into_iter().map(|at| at.value).collect()))
}

const EVERY_EVENT: [&str; 6] = ["master", "backup", "fault", "stop", "any", "email"];
const EVENTS_OF_GROUPS: [&str; 3] = ["master", "backup", "fault"];
/// Rise and fall, as for health checks.
const MAX_COUNT: u32 = 65535;
/// Announcements of one address in a block; more only burden the network.
const MAX_GARP: u32 = 100;
/// keepalived's bound.
const MAX_WEIGHT: i64 = 253;
/// keepalived's bound.
const MAX_PREEMPT_DELAY: Duration = Duration::from_secs(1000);
/// Bytes of version 2's authentication data.
const MAX_PASSWORD: usize = 8;
