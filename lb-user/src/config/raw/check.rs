//! A health check as it is written: every value typed, nothing judged across keys.
//!
//! Must not know: default values, which keys belong to which type of check.

use super::super::contract::{self, CheckType};
use super::super::problem::Place;
use super::super::units;
use super::check_kind::{self, Kinds};
use super::cursor::{Cursor, Fields};
use super::{Written, each, port};
use crate::model::{Digest, Pattern, Via};
use http::{HeaderName, HeaderValue, Method, Uri};
use rustls::pki_types::ServerName;
use std::ops::RangeInclusive;
use std::time::Duration;

/// One health check, named or inline.
#[derive(Clone, Debug)]
pub(in crate::config) struct HealthCheck {
    pub(in crate::config) place: Place,
    pub(in crate::config) kind: Written<CheckType>,
    pub(in crate::config) interval: Written<Duration>,
    pub(in crate::config) retry_interval: Written<Duration>,
    pub(in crate::config) timeout: Written<Duration>,
    pub(in crate::config) rise: Written<u32>,
    pub(in crate::config) fall: Written<u32>,
    pub(in crate::config) port: Written<u16>,
    pub(in crate::config) starts_up: Written<bool>,
    /// `None` is `off`.
    pub(in crate::config) flap: Written<Option<Flap>>,
    pub(in crate::config) via: Written<Via>,
    pub(in crate::config) http: Http,
    /// Keys of the types that have no other.
    pub(in crate::config) kinds: Kinds,
}

/// The keys of checks of type `http` and `https`.
#[derive(Clone, Debug)]
pub(in crate::config) struct Http {
    pub(in crate::config) method: Written<Method>,
    pub(in crate::config) path: Written<Uri>,
    pub(in crate::config) host: Written<String>,
    pub(in crate::config) headers: Written<Vec<(HeaderName, HeaderValue)>>,
    pub(in crate::config) status: Written<Vec<RangeInclusive<u16>>>,
    pub(in crate::config) body: Written<Pattern>,
    pub(in crate::config) digest: Written<Digest>,
    pub(in crate::config) sni: Written<ServerName<'static>>,
    pub(in crate::config) verify: Written<bool>,
}

/// `flap`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::config) struct Flap {
    pub(in crate::config) changes: Written<u32>,
    pub(in crate::config) per: Written<Duration>,
    pub(in crate::config) hold: Written<Duration>,
}

impl HealthCheck {
    pub(super) fn read(cursor: &Cursor<'_>) -> Option<Self> {
        let fields = cursor.fields()?;
        let count = |key| fields.read(key, |c| c.number(1..=MAX_COUNT));
        Some(Self {
            place: cursor.place(),
            kind: fields.read("type", |c| c.word(&contract::CHECK_TYPES)),
            interval: fields.read("interval", Cursor::duration),
            retry_interval: fields.read("retry_interval", Cursor::duration),
            timeout: fields.read("timeout", Cursor::duration),
            rise: count("rise"),
            fall: count("fall"),
            port: fields.read("port", port),
            starts_up: fields.read("start", |c| c.word(&contract::START)),
            flap: fields.read("flap", Flap::read),
            via: fields.read("via", |c| c.word(&contract::VIA)),
            http: Http::read(&fields, &cursor.place()),
            kinds: Kinds::read(&fields, &cursor.place()),
        })
    }
}

impl Http {
    fn read(fields: &Fields<'_>, place: &Place) -> Self {
        let expect = fields.get("expect").and_then(Cursor::fields);
        let expect = expect.unwrap_or_else(|| Fields::none(place.clone()));
        Self {
            method: fields.read("method", |c| c.parsed("a method such as GET", units::method)),
            path: fields.read("path", |c| c.parsed("a path such as /health", units::path)),
            host: fields.read("host", |c| c.parsed("a host name", units::host_header)),
            headers: fields.read("headers", headers),
            status: expect.read("status", statuses),
            body: expect.read("body", |c| c.parsed("a regular expression", units::pattern)),
            digest: expect.read("digest", |c| {
                c.parsed("a digest such as \"sha256:...\"", check_kind::digest)
            }),
            sni: fields.read("sni", |c| c.parsed("a host name", units::server_name)),
            verify: fields.read("verify", Cursor::flag),
        }
    }
}

impl Flap {
    fn read(cursor: &Cursor<'_>) -> Option<Option<Self>> {
        if cursor.is_off() {
            return Some(None);
        }
        let fields = cursor.fields()?;
        if fields.is_empty() {
            return Some(None);
        }
        Some(Some(Self {
            changes: fields.read("changes", |c| c.number(1..=MAX_CHANGES)),
            per: fields.read("per", Cursor::duration),
            hold: fields.read("hold", Cursor::duration),
        }))
    }
}

/// A status code, a range, or a list of them.
fn statuses(cursor: &Cursor<'_>) -> Option<Vec<RangeInclusive<u16>>> {
    let items = if cursor.is_list() { cursor.items()? } else { vec![cursor.clone()] };
    if items.is_empty() {
        return cursor.error("no status would pass; write such as [200-399]");
    }
    let ranges = each(&items, |item| {
        if item.is_text() {
            return item.parsed("a status code or a range such as 200-399", units::statuses);
        }
        let code = u16::try_from(item.number(100..=599)?).ok()?;
        Some(code..=code)
    })?;
    Some(ranges.into_iter().map(|at| at.value).collect())
}

/// Header fields that the check sends beside its own.
fn headers(cursor: &Cursor<'_>) -> Option<Vec<(HeaderName, HeaderValue)>> {
    let entries = cursor.pairs("a mapping of header names")?;
    let read: Vec<_> = entries.iter().filter_map(|(name, c)| header(name, c)).collect();
    (read.len() == entries.len()).then_some(read)
}

fn header(name: &str, cursor: &Cursor<'_>) -> Option<(HeaderName, HeaderValue)> {
    let Ok(parsed) = HeaderName::from_bytes(name.as_bytes()) else {
        return cursor.error("is not the name of a header field");
    };
    if let Some((_, why)) = OWN_HEADERS.iter().find(|(own, _)| *own == parsed) {
        return cursor.error(format!("the check sets `{parsed}` itself{why}"));
    }
    let value = cursor.text("the value of a header field")?;
    match HeaderValue::from_str(value) {
        Ok(value) => Some((parsed, value)),
        Err(_) => cursor.error("cannot be the value of a header field: a line of ASCII text"),
    }
}

/// Fields that frame the request, or that have a key of their own.
const OWN_HEADERS: [(HeaderName, &str); 6] = [
    (http::header::HOST, "; use `host`"),
    (http::header::CONNECTION, ""),
    (http::header::CONTENT_LENGTH, ""),
    (http::header::TRANSFER_ENCODING, ""),
    (http::header::EXPECT, ""),
    (http::header::UPGRADE, ""),
];
/// Rise and fall; keeps counters far from their limits.
const MAX_COUNT: u32 = 65535;
/// Moments that are remembered for `flap`.
const MAX_CHANGES: u32 = 1000;
