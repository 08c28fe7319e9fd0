//! The one table of every key of the reference, `docs/lb.yaml`, and of the words some keys take.
//!
//! `raw` asks it which keys a mapping may have and which of them work already; a test walks
//! `docs/lb.yaml` and this table against each other. Building a feature begins with turning its
//! `later` into `built` here.
//!
//! Must not know: types of values, positions, the model.

// Sections of which nothing is built are in a file of their own, to keep this one readable.
mod later_sections;
mod vrrp;

use crate::model;
use Inside::{Free, Map, Named, Value};
use later_sections::{BACKEND, CONNECTION_SYNC, FRONTEND, SERVER, WORKERS};
pub(super) use vrrp::{AUTHENTICATION_TYPES, INITIAL_STATES};
use vrrp::{NOTIFICATIONS, VRRP};

/// One key of a mapping.
#[derive(Debug)]
pub(super) struct Key {
    /// As it is written.
    pub(super) name: &'static str,
    /// False: part of the contract, refused as not supported yet.
    pub(super) built: bool,
    /// What its value is made of.
    pub(super) inside: Inside,
}

/// The keys below a key. A list stands for its items.
#[derive(Clone, Copy, Debug)]
pub(super) enum Inside {
    /// Nothing: the value is no mapping.
    Value,
    /// A mapping with these keys (or, where the reference says so, a plain value instead).
    Map(&'static [Key]),
    /// A mapping whose keys are names of the user's, each with these keys.
    Named(&'static [Key]),
    /// A mapping that is the user's own.
    Free,
}

impl Inside {
    /// Keys of the mapping, or of each of the named mappings.
    pub(super) fn keys(self) -> &'static [Key] {
        match self {
            Self::Map(keys) | Self::Named(keys) => keys,
            Self::Value | Self::Free => &[],
        }
    }
}

/// Words that a key takes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Words<T: 'static> {
    /// What the words are, for messages: "scheduler".
    pub(super) what: &'static str,
    /// Words that work, and what they mean.
    pub(super) built: &'static [(&'static str, T)],
    /// Words of the contract that are not supported yet.
    pub(super) later: &'static [&'static str],
}

/// Types of health check.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CheckType {
    /// ICMP echo.
    Ping,
    /// A TCP connection.
    Tcp,
    /// HTTP/1.1 in the clear.
    Http,
    /// HTTP/1.1 over TLS.
    Https,
    /// A datagram.
    Udp,
    /// A DNS question.
    Dns,
    /// A mail server's greeting.
    Smtp,
    /// A command.
    Exec,
    /// gRPC's health protocol.
    Grpc,
}

const fn built(name: &'static str, inside: Inside) -> Key {
    Key { name, built: true, inside }
}

const fn later(name: &'static str, inside: Inside) -> Key {
    Key { name, built: false, inside }
}

pub(super) static SCHEDULERS: Words<model::Scheduler> = Words {
    what: "scheduler",
    built: &[
        ("rr", model::Scheduler::Rr),
        ("wrr", model::Scheduler::Wrr),
        ("lc", model::Scheduler::Lc),
        ("wlc", model::Scheduler::Wlc),
        ("sh", model::Scheduler::Sh),
        ("mh", model::Scheduler::Mh),
    ],
    later: &["lblc", "lblcr", "dh", "sed", "nq", "fo", "ovf", "twos"],
};
pub(super) static FORWARDING: Words<model::ForwardingMethod> = Words {
    what: "forwarding method",
    built: &[
        ("dr", model::ForwardingMethod::Dr),
        ("nat", model::ForwardingMethod::Nat),
        ("tunnel", model::ForwardingMethod::Tunnel),
    ],
    later: &["fullnat"],
};
pub(super) static TUNNEL_TYPES: Words<model::TunnelKind> = Words {
    what: "tunnel type",
    built: &[("ipip", model::TunnelKind::Ipip)],
    later: &["gue", "gre"],
};
pub(super) static ON_FAILURE: Words<model::OnFailure> = Words {
    what: "on_failure",
    built: &[("remove", model::OnFailure::Remove), ("quiesce", model::OnFailure::Quiesce)],
    later: &[],
};
pub(super) static CHECK_TYPES: Words<CheckType> = Words {
    what: "health check type",
    built: &[
        ("ping", CheckType::Ping),
        ("tcp", CheckType::Tcp),
        ("http", CheckType::Http),
        ("https", CheckType::Https),
        ("udp", CheckType::Udp),
        ("dns", CheckType::Dns),
        ("smtp", CheckType::Smtp),
        ("exec", CheckType::Exec),
        ("grpc", CheckType::Grpc),
    ],
    later: &[],
};
pub(super) static VIA: Words<model::Via> = Words {
    what: "via",
    built: &[("direct", model::Via::Direct), ("service", model::Via::Service(None))],
    later: &[],
};
pub(super) static START: Words<bool> =
    Words { what: "start", built: &[("up", true), ("down", false)], later: &[] };
pub(super) static MODES: Words<model::AttachMode> = Words {
    what: "mode",
    built: &[
        ("native", model::AttachMode::Native),
        ("generic", model::AttachMode::Generic),
        ("auto", model::AttachMode::Auto),
    ],
    later: &[],
};
pub(super) static REPLIES: Words<model::Replies> = Words {
    what: "replies",
    built: &[("last_hop", model::Replies::LastHop), ("route", model::Replies::Route)],
    later: &[],
};
pub(super) static LEVELS: Words<model::LogLevel> = Words {
    what: "level",
    built: &[
        ("error", model::LogLevel::Error),
        ("warn", model::LogLevel::Warn),
        ("info", model::LogLevel::Info),
        ("debug", model::LogLevel::Debug),
        ("trace", model::LogLevel::Trace),
    ],
    later: &[],
};
pub(super) static FORMATS: Words<model::LogFormat> = Words {
    what: "format",
    built: &[("text", model::LogFormat::Text), ("json", model::LogFormat::Json)],
    later: &[],
};
pub(super) static ROLES: Words<model::Role> = Words {
    what: "role",
    built: &[("admin", model::Role::Admin), ("read-only", model::Role::ReadOnly)],
    later: &[],
};
pub(super) static TLS_VERSIONS: Words<model::TlsVersion> = Words {
    what: "version of TLS",
    built: &[("1.2", model::TlsVersion::Tls12), ("1.3", model::TlsVersion::Tls13)],
    later: &[],
};
pub(super) static LOG_TARGETS: Words<()> =
    Words { what: "log target", built: &[("stderr", ())], later: &[] };
pub(super) static SEVERITIES: Words<model::Severity> = Words {
    what: "syslog level",
    built: &[
        ("emerg", model::Severity::Emerg),
        ("alert", model::Severity::Alert),
        ("crit", model::Severity::Crit),
        ("err", model::Severity::Err),
        ("warning", model::Severity::Warning),
        ("notice", model::Severity::Notice),
        ("info", model::Severity::Info),
        ("debug", model::Severity::Debug),
    ],
    later: &[],
};
pub(super) static FACILITIES: Words<model::Facility> = Words {
    what: "syslog facility",
    built: &[
        ("kern", model::Facility::new(0)),
        ("user", model::Facility::new(1)),
        ("mail", model::Facility::new(2)),
        ("daemon", model::Facility::new(3)),
        ("auth", model::Facility::new(4)),
        ("syslog", model::Facility::new(5)),
        ("lpr", model::Facility::new(6)),
        ("news", model::Facility::new(7)),
        ("uucp", model::Facility::new(8)),
        ("cron", model::Facility::new(9)),
        ("auth2", model::Facility::new(10)),
        ("ftp", model::Facility::new(11)),
        ("ntp", model::Facility::new(12)),
        ("audit", model::Facility::new(13)),
        ("alert", model::Facility::new(14)),
        ("cron2", model::Facility::new(15)),
        ("local0", model::Facility::new(16)),
        ("local1", model::Facility::new(17)),
        ("local2", model::Facility::new(18)),
        ("local3", model::Facility::new(19)),
        ("local4", model::Facility::new(20)),
        ("local5", model::Facility::new(21)),
        ("local6", model::Facility::new(22)),
        ("local7", model::Facility::new(23)),
    ],
    later: &[],
};

/// Keys of the whole file.
pub(super) static ROOT: &[Key] = &[
    built("node", Value),
    later("include", Value),
    built("defaults", Map(DEFAULTS)),
    built("dataplane", Map(DATAPLANE)),
    built("health_checks", Named(HEALTH_CHECK)),
    built("virtual_services", Map(VIRTUAL_SERVICE)),
    built("vrrp", Map(VRRP)),
    later("connection_sync", Map(CONNECTION_SYNC)),
    built("notifications", Map(NOTIFICATIONS)),
    built("tls", Map(TLS)),
    later("workers", Map(WORKERS)),
    later("frontends", Map(FRONTEND)),
    later("backends", Map(BACKEND)),
    built("admin", Map(ADMIN)),
    built("log", Map(LOG)),
];

static DEFAULTS: &[Key] = &[
    built("virtual_service", Map(VIRTUAL_SERVICE)),
    built("real_server", Map(REAL_SERVER)),
    later("frontend", Map(FRONTEND)),
    later("backend", Map(BACKEND)),
    later("server", Map(SERVER)),
];

static DATAPLANE: &[Key] = &[
    built("interfaces", Value),
    built("mode", Value),
    built("pin_path", Value),
    built("connections", Value),
    built("timeouts", Map(TIMEOUTS)),
    built("new_connections_per_second", Value),
    built("deny", Value),
    built("allow", Value),
    built("replies", Value),
    built("addresses", Value),
    later("fullnat_sources", Map(FULLNAT_SOURCES)),
];
static TIMEOUTS: &[Key] =
    &[built("tcp", Value), built("tcp_syn", Value), built("tcp_fin", Value), built("udp", Value)];
static FULLNAT_SOURCES: &[Key] =
    &[later("interface", Value), later("addresses", Value), later("ports", Value)];

pub(super) static HEALTH_CHECK: &[Key] = &[
    built("type", Value),
    built("method", Value),
    built("path", Value),
    built("host", Value),
    built("expect", Map(&[built("status", Value), built("body", Value), built("digest", Value)])),
    built("interval", Value),
    built("retry_interval", Value),
    built("timeout", Value),
    built("rise", Value),
    built("fall", Value),
    built("port", Value),
    built("headers", Free),
    built("sni", Value),
    built("verify", Value),
    built("via", Value),
    built("start", Value),
    built("flap", Map(&[built("changes", Value), built("per", Value), built("hold", Value)])),
    built("dns", Map(&[built("name", Value), built("record", Value)])),
    built("udp", Map(&[built("payload", Value), built("reply", Value)])),
    built("smtp", Map(&[built("helo", Value)])),
    built("grpc", Map(&[built("service", Value)])),
    built("command", Value),
    built("user", Value),
    built("dynamic_weight", Value),
];

static VIRTUAL_SERVICE: &[Key] = &[
    built("name", Value),
    built("listen", Value),
    built("scheduler", Value),
    built("forwarding", Value),
    later("persistence", Map(PERSISTENCE)),
    built("health_check", Map(HEALTH_CHECK)),
    built("on_failure", Value),
    built("reset_on_removal", Value),
    built("hash", Map(&[built("port", Value), built("fallback", Value)])),
    later("timeouts", Map(&[later("tcp", Value)])),
    built("slow_start", Value),
    built("notify", Map(&[built("up", Value), built("down", Value), built("email", Value)])),
    built("quorum", Map(QUORUM)),
    built("sorry_server", Map(&[built("address", Value), built("port", Value)])),
    built("real_servers", Map(REAL_SERVER)),
    later("one_packet", Value),
    built("tunnel", Map(&[built("type", Value), built("mss_clamp", Value)])),
];
static PERSISTENCE: &[Key] =
    &[later("timeout", Value), later("netmask", Value), later("netmask6", Value)];
static QUORUM: &[Key] = &[
    built("up", Value),
    built("hysteresis", Value),
    built("on_up", Value),
    built("on_down", Value),
];
static REAL_SERVER: &[Key] = &[
    built("address", Value),
    built("port", Value),
    built("weight", Value),
    later("max_connections", Value),
    later("min_connections", Value),
    built("disabled", Value),
    later("forwarding", Value),
    built("health_check", Map(HEALTH_CHECK)),
];

static ADMIN: &[Key] = &[built("socket", Value), built("http", Map(ADMIN_HTTP))];
static ADMIN_HTTP: &[Key] = &[
    built("bind", Value),
    built("stats_path", Value),
    built("refresh", Value),
    built("realm", Value),
    built("hide_version", Value),
    built("users", Map(ADMIN_USER)),
    built("tls", Map(&[built("certificates", Value)])),
];
static ADMIN_USER: &[Key] =
    &[built("name", Value), built("password_hash", Value), built("role", Value)];
static TLS: &[Key] = &[
    built("certificates", Map(&[built("name", Value), built("cert", Value), built("key", Value)])),
    built("min_version", Value),
];

static LOG: &[Key] = &[built("level", Value), built("format", Value), built("to", Map(LOG_TARGET))];
static LOG_TARGET: &[Key] = &[
    built("syslog", Value),
    built("facility", Value),
    built("max_level", Value),
    built("min_level", Value),
    built("file", Value),
];
