//! The table of the API's operations over HTTP: names, methods, parameters and documents.
//!
//! `http` reads bodies by it, `openapi` describes it, and a test holds it against [`super::api`].
//!
//! Must not know: what an operation does.

/// One operation below `/api/v1/`.
#[derive(Debug)]
pub(super) struct Operation {
    /// The last part of the path.
    pub(super) name: &'static str,
    /// It is a POST, else a GET.
    pub(super) changes: bool,
    /// What it does.
    pub(super) summary: &'static str,
    /// What it takes: in the query, and of a POST in the body instead.
    pub(super) parameters: &'static [Parameter],
    /// Name of the document's schema.
    pub(super) document: &'static str,
}

/// What an operation takes.
#[derive(Debug)]
pub(super) struct Parameter {
    /// Its name.
    pub(super) name: &'static str,
    /// Its type.
    pub(super) kind: Kind,
    /// It cannot be left out.
    pub(super) required: bool,
    /// What it means.
    pub(super) description: &'static str,
    /// One value.
    pub(super) example: &'static str,
}

/// Types of parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Text.
    Text,
    /// A whole number from 0.
    Number,
    /// true or false.
    Flag,
}

/// The operation of this name.
pub(super) fn find(name: &str) -> Option<&'static Operation> {
    OPERATIONS.iter().find(|operation| operation.name == name)
}

const fn get(
    name: &'static str,
    document: &'static str,
    parameters: &'static [Parameter],
    summary: &'static str,
) -> Operation {
    Operation { name, changes: false, summary, parameters, document }
}

const fn post(
    name: &'static str,
    document: &'static str,
    parameters: &'static [Parameter],
    summary: &'static str,
) -> Operation {
    Operation { name, changes: true, summary, parameters, document }
}

const fn parameter(
    name: &'static str,
    kind: Kind,
    required: bool,
    example: &'static str,
    description: &'static str,
) -> Parameter {
    Parameter { name, kind, required, description, example }
}

const PREFIX: Parameter =
    parameter("prefix", Kind::Text, true, "203.0.113.0/24", "Whom: IP or IP/LEN.");

const TARGET: Parameter =
    parameter("target", Kind::Text, true, "web/10.0.0.1:80", "Which: SERVICE/ADDRESS[:PORT].");

const PERSIST: Parameter =
    parameter("persist", Kind::Flag, false, "true", "It holds over reloads and restarts.");

/// Every operation, reading ones first.
pub(super) static OPERATIONS: &[Operation] = &[
    get("status", "Status", &[], "Services, real servers, checks and VRRP, as by `lb status`."),
    get("stats", "Stats", &[], "Counters of services and real servers, and drops by reason."),
    get(
        "connections",
        "Connections",
        &[
            parameter("service", Kind::Text, false, "web", "Only those of this service."),
            parameter("limit", Kind::Number, false, "100", "At most this many; 1000 if not said."),
        ],
        "The connection table.",
    ),
    get("vrrp", "Vrrp", &[], "VRRP instances with priorities, reasons and transitions."),
    get("history", "History", &[], "Rates of the last five minutes."),
    get("events", "Events", &[], "The last things that happened, oldest first."),
    get("bans", "Bans", &[], "Prefixes whose packets are dropped."),
    get(
        "explain",
        "Explanation",
        &[
            parameter("from", Kind::Text, true, "192.0.2.1:4000", "Who sends it: IP or IP:PORT."),
            parameter("to", Kind::Text, true, "192.0.2.9:80/tcp", "Where to: IP:PORT/PROTO."),
        ],
        "What would become of a packet; nothing is changed by it.",
    ),
    post("reload", "Reload", &[], "Reads the configuration file again and applies the difference."),
    post("reopen-logs", "Reopened", &[], "Opens log files anew, after they were moved away."),
    post("drain", "Steered", &[TARGET, PERSIST], "No new connections; open ones may end."),
    post("enable", "Steered", &[TARGET, PERSIST], "Connections again, when it is healthy."),
    post("disable", "Steered", &[TARGET, PERSIST], "Out of service."),
    post(
        "weight",
        "Steered",
        &[
            TARGET,
            parameter("weight", Kind::Number, true, "5", "Its weight, from 0 to 65535."),
            PERSIST,
        ],
        "Gives a server another weight.",
    ),
    post(
        "add",
        "Steered",
        &[
            TARGET,
            parameter("weight", Kind::Number, false, "5", "Its weight, from 0 to 65535."),
            PERSIST,
        ],
        "Adds a server to a service.",
    ),
    post("remove", "Steered", &[TARGET, PERSIST], "Takes a server out; open connections go on."),
    post(
        "ban",
        "Bans",
        &[
            PREFIX,
            parameter("for_ms", Kind::Number, false, "600000", "Milliseconds; for good if absent."),
        ],
        "Drops what a prefix sends.",
    ),
    post("unban", "Lifted", &[PREFIX], "Lifts a ban."),
    post(
        "resign",
        "Resigned",
        &[parameter("name", Kind::Text, true, "VI_1", "The VRRP instance.")],
        "Gives the mastership of a VRRP instance up.",
    ),
];
