//! Sections of the contract of which nothing is built: their keys, for the contract test.
//!
//! The parent table names them; a file that uses one is refused at the section's key.
//!
//! Must not know: types of values, positions, the model.

use super::Inside::{Free, Map, Named, Value};
use super::{HEALTH_CHECK, Key, later};

pub(super) static CONNECTION_SYNC: &[Key] =
    &[later("listen", Value), later("peers", Value), later("key_file", Value)];

pub(super) static WORKERS: &[Key] = &[
    later("threads", Value),
    later("user", Value),
    later("group", Value),
    later("chroot", Value),
    later("max_connections", Value),
];

pub(super) static FRONTEND: &[Key] = &[
    later("name", Value),
    later("mode", Value),
    later("bind", Map(BIND)),
    later("max_connections", Value),
    later("max_connections_per_source", Value),
    later(
        "connection_rate",
        Map(&[later("per", Value), later("connections", Value), later("action", Value)]),
    ),
    later("disabled", Value),
    later(
        "timeouts",
        Map(&[
            later("client", Value),
            later("http_request", Value),
            later("http_keep_alive", Value),
            later("tunnel", Value),
        ]),
    ),
    later("connection", Value),
    later("forwarded_for", Map(&[later("mode", Value), later("except", Value)])),
    later(
        "limits",
        Map(&[later("header_size", Value), later("headers", Value), later("body", Value)]),
    ),
    later("underscore_headers", Value),
    later("bare_lf", Value),
    later("access_log", Map(&[later("format", Value), later("ignore_empty", Value)])),
    later("rules", Map(RULE)),
    later("request_headers", Map(HEADERS)),
    later("response_headers", Map(HEADERS)),
    later(
        "rate_limit",
        Map(&[
            later("key", Value),
            later("requests", Value),
            later("per", Value),
            later("burst", Value),
            later("action", Value),
            later("ban_for", Value),
        ]),
    ),
    later("compression", Map(&[later("types", Value), later("algorithms", Value)])),
    later("error_pages", Free),
    later("default_backend", Value),
];
static BIND: &[Key] = &[
    later("address", Value),
    later(
        "tls",
        Map(&[later("certificates", Value), later("alpn", Value), later("client_ca", Value)]),
    ),
    later("proxy_protocol", Value),
];
static HEADERS: &[Key] = &[
    later("set", Free),
    later("add", Free),
    later("remove", Value),
    later("replace", Named(REPLACE)),
];
static REPLACE: &[Key] = &[later("regex", Value), later("with", Value)];
static RULE: &[Key] = &[
    later("when", Map(WHEN)),
    later("backend", Value),
    later("auth", Map(&[later("realm", Value), later("users", Value)])),
    later("continue", Value),
    later(
        "redirect",
        Map(&[
            later("scheme", Value),
            later("status", Value),
            later("host", Value),
            later("port", Value),
            later("path", Value),
            later("prefix", Value),
        ]),
    ),
    later("respond", Map(&[later("status", Value), later("body", Value)])),
    later("request_headers", Map(HEADERS)),
    later("response_headers", Map(HEADERS)),
];
static WHEN: &[Key] = &[
    later("path_prefix", Value),
    later("ignore_case", Value),
    later("host", Value),
    later("host_suffix", Value),
    later("host_regex", Value),
    later("path", Value),
    later("path_regex", Value),
    later("header", Free),
    later("header_regex", Free),
    later("query", Free),
    later("status", Value),
    later("method", Value),
    later("source", Value),
    later("tls", Value),
    // The same keys again, without end.
    later("not", Free),
];

pub(super) static BACKEND: &[Key] = &[
    later("name", Value),
    later("mode", Value),
    later("balance", Value),
    later(
        "cookie",
        Map(&[
            later("name", Value),
            later("mode", Value),
            later("indirect", Value),
            later("nocache", Value),
            later("secure", Value),
            later("httponly", Value),
            later("max_age", Value),
        ]),
    ),
    later("health_check", Map(HEALTH_CHECK)),
    later("retries", Value),
    later("redispatch", Value),
    later("abort_on_close", Value),
    later("reuse", Value),
    later(
        "timeouts",
        Map(&[later("connect", Value), later("server", Value), later("queue", Value)]),
    ),
    later("slow_start", Value),
    later("disabled", Value),
    later(
        "outlier",
        Map(&[later("failures", Value), later("eject", Value), later("max_ejected", Value)]),
    ),
    later("hash", Value),
    later("request_headers", Map(HEADERS)),
    later("response_headers", Map(HEADERS)),
    later("send_proxy", Value),
    later("tls", Map(&[later("verify", Value), later("ca", Value), later("sni", Value)])),
    later("http2", Value),
    later("servers", Map(SERVER)),
];
pub(super) static SERVER: &[Key] = &[
    later("name", Value),
    later("address", Value),
    later("weight", Value),
    later("cookie", Value),
    later("max_connections", Value),
    later("max_queue", Value),
    later("backup", Value),
    later("disabled", Value),
    later("health_check", Map(HEALTH_CHECK)),
];
