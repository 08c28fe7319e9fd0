//! What the file says, typed but without defaults and without a look from one key to another.
//!
//! [`File::read`] goes through the whole tree and notes every fault of a single value. A key that
//! is there but faulty is [`Written::Bad`], so that `validate` does not call it missing as well.
//!
//! Must not know: default values, how keys depend on each other.

mod admin;
mod check;
mod check_kind;
mod cursor;
mod life;
mod log;
mod notifications;
mod vrrp;

use super::contract;
use super::problem::{Place, Problems};
use super::units;
use super::yaml::Node;
use crate::model;
pub(super) use admin::{AdminHttp, Tls};
pub(super) use check::{Flap, HealthCheck, Http};
pub(super) use check_kind::Kinds;
pub(super) use cursor::{Cursor, Fields};
pub(super) use life::{Life, Notify as ServiceNotify, Quorum, SorryServer};
pub(super) use log::LogTarget;
pub(super) use notifications::Email;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;
pub(super) use vrrp::{Command, Instance, Items, Notify, Script, SyncGroup, Track, Vrrp, Weighted};

/// A value and where it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct At<T> {
    /// The value.
    pub(super) value: T,
    /// Its place.
    pub(super) place: Place,
}

/// What became of a key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Written<T> {
    /// It is not in the file.
    Absent,
    /// It is, and its fault has been noted.
    Bad,
    /// It is.
    Is(At<T>),
}

impl<T> Written<T> {
    /// The value and its place, if there is a good one.
    pub(super) fn at(&self) -> Option<&At<T>> {
        if let Self::Is(at) = self { Some(at) } else { None }
    }

    /// Where it stands, if there is a good one.
    pub(super) fn place(&self) -> Option<&Place> {
        self.at().map(|at| &at.place)
    }

    /// True if the key is not in the file.
    pub(super) fn is_absent(&self) -> bool {
        matches!(self, Self::Absent)
    }

    /// This, or what `other` says if this is absent.
    pub(super) fn or<'a>(&'a self, other: &'a Self) -> &'a Self {
        if self.is_absent() { other } else { self }
    }
}

impl<T: Clone> Written<T> {
    /// The value, or `default` if it is absent or faulty (then nothing is made of it anyway).
    pub(super) fn value_or(&self, default: T) -> T {
        self.at().map_or(default, |at| at.value.clone())
    }
}

/// The whole file.
#[derive(Debug)]
pub(super) struct File {
    pub(super) node: Written<String>,
    pub(super) default_service: VirtualService,
    pub(super) default_server: RealServer,
    pub(super) dataplane: Written<Dataplane>,
    /// Named checks; a faulty one has `None`.
    pub(super) health_checks: Vec<(At<String>, Option<HealthCheck>)>,
    /// Services that are mappings at all.
    pub(super) virtual_services: Written<Vec<VirtualService>>,
    pub(super) vrrp: Written<Vrrp>,
    /// `notifications.email`; `None` inside is `off`.
    pub(super) email: Written<Option<Email>>,
    pub(super) socket: Written<PathBuf>,
    /// `admin.http`; `None` inside is `off`.
    pub(super) http: Written<Option<AdminHttp>>,
    pub(super) tls: Written<Tls>,
    pub(super) log_level: Written<model::LogLevel>,
    pub(super) log_format: Written<model::LogFormat>,
    pub(super) log_to: Written<Vec<LogTarget>>,
}

/// The `dataplane` section.
#[derive(Debug)]
pub(super) struct Dataplane {
    pub(super) place: Place,
    /// Nothing is written in it.
    pub(super) empty: bool,
    pub(super) interfaces: Written<Vec<At<String>>>,
    pub(super) mode: Written<model::AttachMode>,
    pub(super) pin_path: Written<PathBuf>,
    pub(super) connections: Written<u32>,
    pub(super) timeouts: Timeouts,
    pub(super) new_connections_per_second: Written<u32>,
    /// Prefixes, and whether bits beyond their length were dropped.
    pub(super) deny: Vec<At<(model::Prefix, bool)>>,
    pub(super) allow: Vec<At<(model::Prefix, bool)>>,
    pub(super) replies: Written<model::Replies>,
    pub(super) addresses: Vec<At<(IpAddr, u8, Option<String>)>>,
}

/// `dataplane.timeouts`.
#[derive(Debug)]
pub(super) struct Timeouts {
    pub(super) tcp: Written<Duration>,
    pub(super) tcp_syn: Written<Duration>,
    pub(super) tcp_fin: Written<Duration>,
    pub(super) udp: Written<Duration>,
}

/// What a service or a real server says about its check.
#[derive(Clone, Debug)]
pub(super) enum CheckUse {
    /// `off` in one of its forms.
    Off,
    /// A name under `health_checks`.
    Named(String),
    /// A mapping of its own.
    Inline(Box<HealthCheck>),
    /// A list: all of them.
    All(Vec<At<CheckUse>>),
}

/// One entry of `virtual_services`, or the defaults of all.
#[derive(Debug)]
pub(super) struct VirtualService {
    pub(super) place: Place,
    pub(super) name: Written<String>,
    pub(super) listen: Written<Vec<At<model::Listen>>>,
    pub(super) scheduler: Written<model::Scheduler>,
    pub(super) hash: Written<model::Hash>,
    pub(super) forwarding: Written<model::ForwardingMethod>,
    pub(super) tunnel: Written<Tunnel>,
    pub(super) health_check: Written<CheckUse>,
    pub(super) on_failure: Written<model::OnFailure>,
    pub(super) reset_on_removal: Written<bool>,
    pub(super) life: Life,
    pub(super) real_servers: Vec<RealServer>,
}

/// `tunnel`.
#[derive(Debug)]
pub(super) struct Tunnel {
    pub(super) kind: Written<model::TunnelKind>,
    pub(super) mss_clamp: Written<bool>,
}

/// One entry of `real_servers`, or the defaults of all.
#[derive(Debug)]
pub(super) struct RealServer {
    pub(super) place: Place,
    pub(super) address: Written<IpAddr>,
    pub(super) port: Written<u16>,
    pub(super) weight: Written<u32>,
    pub(super) disabled: Written<bool>,
    pub(super) health_check: Written<CheckUse>,
}

impl File {
    /// Reads the whole tree. Faults go to `problems`; what they leave out is absent or bad.
    pub(super) fn read(root: &Node, problems: &Problems) -> Self {
        let root = Cursor::root(root, problems);
        let fields = root.fields().unwrap_or_else(|| Fields::none(root.place()));
        let defaults = fields.get("defaults").and_then(Cursor::fields);
        let default = |key: &str| defaults.as_ref().and_then(|d| d.get(key).cloned());
        let notifications = fields.get("notifications").and_then(Cursor::fields);
        let admin = fields.get("admin").and_then(Cursor::fields);
        let log = fields.get("log").and_then(Cursor::fields);
        let log = log.unwrap_or_else(|| Fields::none(root.place()));
        let checks = fields.get("health_checks").and_then(Cursor::named).unwrap_or_default();
        Self {
            node: fields.read("node", |c| c.parsed("a name", units::name)),
            default_service: VirtualService::defaults(default("virtual_service"), &root),
            default_server: RealServer::defaults(default("real_server"), &root),
            dataplane: fields.read("dataplane", Dataplane::read),
            health_checks: checks.iter().map(|(n, c)| (n.clone(), HealthCheck::read(c))).collect(),
            virtual_services: fields.read("virtual_services", |c| {
                Some(c.items()?.iter().filter_map(VirtualService::read).collect())
            }),
            vrrp: fields.read("vrrp", Vrrp::read),
            email: notifications.map_or(Written::Absent, |n| n.read("email", Email::read)),
            socket: admin.as_ref().map_or(Written::Absent, |a| a.read("socket", socket_path)),
            http: admin.as_ref().map_or(Written::Absent, |a| a.read("http", AdminHttp::read)),
            tls: fields.read("tls", Tls::read),
            log_level: log.read("level", |c| c.word(&contract::LEVELS)),
            log_format: log.read("format", |c| c.word(&contract::FORMATS)),
            log_to: log.read("to", log::targets),
        }
    }
}

impl Dataplane {
    fn read(cursor: &Cursor<'_>) -> Option<Self> {
        let fields = cursor.fields()?;
        let timeouts = fields.get("timeouts").and_then(Cursor::fields);
        let timeouts = timeouts.unwrap_or_else(|| Fields::none(cursor.place()));
        let timeout = |key| timeouts.read(key, Cursor::long_duration);
        let prefixes = |key| {
            let list = fields.get(key).filter(|cursor| !cursor.is_off());
            let items = list.and_then(Cursor::items).unwrap_or_default();
            good(&items, |item| item.parsed("IP or IP/LEN", model::Prefix::parse))
        };
        Some(Self {
            place: cursor.place(),
            empty: fields.is_empty(),
            interfaces: fields.read("interfaces", |c| {
                each(&c.items()?, |item| item.parsed("the name of an interface", units::interface))
            }),
            mode: fields.read("mode", |c| c.word(&contract::MODES)),
            pin_path: fields.read("pin_path", absolute_path),
            connections: fields.read("connections", |c| c.number(1..=MAX_CONNECTIONS)),
            timeouts: Timeouts {
                tcp: timeout("tcp"),
                tcp_syn: timeout("tcp_syn"),
                tcp_fin: timeout("tcp_fin"),
                udp: timeout("udp"),
            },
            new_connections_per_second: fields.read("new_connections_per_second", |c| {
                if c.is_off() { Some(0) } else { c.number(0..=u32::MAX) }
            }),
            deny: prefixes("deny"),
            allow: prefixes("allow"),
            replies: fields.read("replies", |c| c.word(&contract::REPLIES)),
            addresses: fields
                .get("addresses")
                .and_then(Cursor::items)
                .map(|items| {
                    good(&items, |item| {
                        item.parsed("ADDRESS/LEN dev INTERFACE", units::owned_address)
                    })
                })
                .unwrap_or_default(),
        })
    }
}

impl CheckUse {
    fn read(cursor: &Cursor<'_>) -> Option<Self> {
        if cursor.is_off() {
            return Some(Self::Off);
        }
        if cursor.is_list() {
            let items = cursor.items()?;
            if items.iter().any(Cursor::is_list) {
                return cursor.error("a list of health checks has no list in it");
            }
            return each(&items, Self::read).map(Self::All);
        }
        if cursor.is_map() {
            return Some(Self::Inline(Box::new(HealthCheck::read(cursor)?)));
        }
        Some(Self::Named(
            cursor.text("the name of a health check, a mapping, a list of them or off")?.to_owned(),
        ))
    }
}

impl VirtualService {
    fn read(cursor: &Cursor<'_>) -> Option<Self> {
        Some(Self::from_fields(&cursor.item_fields()?))
    }

    fn defaults(cursor: Option<Cursor<'_>>, root: &Cursor<'_>) -> Self {
        let fields = cursor.and_then(|c| c.fields());
        let fields = fields.unwrap_or_else(|| Fields::none(root.place()));
        fields.refuse_defaults(&["name", "listen", "real_servers"]);
        Self::from_fields(&fields)
    }

    fn from_fields(fields: &Fields<'_>) -> Self {
        let servers = fields.get("real_servers").and_then(Cursor::items).unwrap_or_default();
        Self {
            place: fields.place.clone(),
            name: fields.read("name", |c| c.parsed("a name", units::name)),
            listen: fields.read("listen", |c| {
                let items = if c.is_list() { c.items()? } else { vec![c.clone()] };
                each(&items, |item| item.parsed("ADDRESS:PORT/tcp or /udp", units::listen))
            }),
            scheduler: fields.read("scheduler", |c| c.word(&contract::SCHEDULERS)),
            hash: fields.read("hash", hash),
            forwarding: fields.read("forwarding", |c| c.word(&contract::FORWARDING)),
            tunnel: fields.read("tunnel", Tunnel::read),
            health_check: fields.read("health_check", CheckUse::read),
            on_failure: fields.read("on_failure", |c| c.word(&contract::ON_FAILURE)),
            reset_on_removal: fields.read("reset_on_removal", Cursor::flag),
            life: Life::read(fields),
            real_servers: servers.iter().filter_map(RealServer::read).collect(),
        }
    }
}

impl Tunnel {
    fn read(cursor: &Cursor<'_>) -> Option<Self> {
        let fields = cursor.fields()?;
        Some(Self {
            kind: fields.read("type", |c| c.word(&contract::TUNNEL_TYPES)),
            mss_clamp: fields.read("mss_clamp", Cursor::flag),
        })
    }
}

impl RealServer {
    fn read(cursor: &Cursor<'_>) -> Option<Self> {
        Some(Self::from_fields(&cursor.item_fields()?))
    }

    fn defaults(cursor: Option<Cursor<'_>>, root: &Cursor<'_>) -> Self {
        let fields = cursor.and_then(|c| c.fields());
        let fields = fields.unwrap_or_else(|| Fields::none(root.place()));
        fields.refuse_defaults(&["address"]);
        Self::from_fields(&fields)
    }

    fn from_fields(fields: &Fields<'_>) -> Self {
        Self {
            place: fields.place.clone(),
            address: fields.read("address", |c| c.parsed("an IP address", units::address)),
            port: fields.read("port", port),
            weight: fields.read("weight", |c| c.number(0..=MAX_WEIGHT)),
            disabled: fields.read("disabled", Cursor::flag),
            health_check: fields.read("health_check", CheckUse::read),
        }
    }
}

fn hash(cursor: &Cursor<'_>) -> Option<model::Hash> {
    let fields = cursor.fields()?;
    let (port, fallback) =
        (fields.read("port", Cursor::flag), fields.read("fallback", Cursor::flag));
    Some(model::Hash { port: port.value_or(false), fallback: fallback.value_or(false) })
}

fn port(cursor: &Cursor<'_>) -> Option<u16> {
    cursor.number(1..=65535).and_then(|n| u16::try_from(n).ok())
}

fn absolute_path(cursor: &Cursor<'_>) -> Option<PathBuf> {
    let text = cursor.text("an absolute path")?;
    if !text.starts_with('/') || text.contains('\0') || text.split('/').any(|part| part == "..") {
        return cursor.error("must be an absolute path without `..`");
    }
    Some(PathBuf::from(text))
}

fn socket_path(cursor: &Cursor<'_>) -> Option<PathBuf> {
    let path = absolute_path(cursor)?;
    // sun_path of sockaddr_un (unix(7)) holds 108 bytes with the final zero.
    if path.as_os_str().len() > 107 {
        return cursor.error("a socket's path has at most 107 bytes");
    }
    Some(path)
}

/// Every item read by `read`, or `None` if one of them is faulty.
fn each<'a, T>(
    items: &[Cursor<'a>],
    read: impl Fn(&Cursor<'a>) -> Option<T>,
) -> Option<Vec<At<T>>> {
    let good = good(items, read);
    (good.len() == items.len()).then_some(good)
}

/// The items that `read` could read.
fn good<'a, T>(items: &[Cursor<'a>], read: impl Fn(&Cursor<'a>) -> Option<T>) -> Vec<At<T>> {
    let at = |item: &Cursor<'a>| Some(At { value: read(item)?, place: item.place() });
    items.iter().filter_map(at).collect()
}

/// Table entries beyond this are a slip: 2^26 connections take some 50 GB.
const MAX_CONNECTIONS: u32 = 1 << 26;
/// As ipvsadm.
const MAX_WEIGHT: u32 = 65535;
