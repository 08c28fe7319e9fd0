//! `log.to` as it is written: every value typed, nothing judged across keys.
//!
//! Must not know: default values, how keys depend on each other.

use super::super::contract;
use super::super::problem::Place;
use super::cursor::Cursor;
use super::{Written, absolute_path, socket_path};
use crate::config::problem::quoted;
use crate::model::{Facility, Severity, SyslogAddress};
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

/// One entry of `log.to`.
#[derive(Debug)]
pub(in crate::config) struct LogTarget {
    pub(in crate::config) place: Place,
    /// The word `stderr` instead of a mapping.
    pub(in crate::config) is_stderr: bool,
    pub(in crate::config) syslog: Written<SyslogAddress>,
    pub(in crate::config) file: Written<PathBuf>,
    pub(in crate::config) facility: Written<Facility>,
    pub(in crate::config) max_level: Written<Severity>,
    pub(in crate::config) min_level: Written<Severity>,
}

/// Entries that are of the right kind.
pub(super) fn targets(cursor: &Cursor<'_>) -> Option<Vec<LogTarget>> {
    let items = cursor.items()?;
    if items.is_empty() {
        return cursor.error("names no target; write such as [stderr]");
    }
    let read: Vec<LogTarget> = items.iter().filter_map(LogTarget::read).collect();
    (read.len() == items.len()).then_some(read)
}

impl LogTarget {
    fn read(cursor: &Cursor<'_>) -> Option<Self> {
        let place = cursor.place();
        if !cursor.is_map() {
            cursor.word(&contract::LOG_TARGETS)?;
            return Some(Self {
                place,
                is_stderr: true,
                syslog: Written::Absent,
                file: Written::Absent,
                facility: Written::Absent,
                max_level: Written::Absent,
                min_level: Written::Absent,
            });
        }
        let fields = cursor.fields()?;
        let severity = |key| fields.read(key, |c| c.word(&contract::SEVERITIES));
        Some(Self {
            place,
            is_stderr: false,
            syslog: fields.read("syslog", syslog),
            file: fields.read("file", absolute_path),
            facility: fields.read("facility", |c| c.word(&contract::FACILITIES)),
            max_level: severity("max_level"),
            min_level: severity("min_level"),
        })
    }
}

/// `IP:PORT`, an IP with the usual port, or the path of a socket.
fn syslog(cursor: &Cursor<'_>) -> Option<SyslogAddress> {
    let what = "IP:PORT of a syslog server or the path of its socket";
    if cursor.text(what)?.starts_with('/') {
        return socket_path(cursor).map(SyslogAddress::Unix);
    }
    cursor.parsed(what, server).map(SyslogAddress::Udp)
}

fn server(text: &str) -> Result<SocketAddr, String> {
    let bare = text.strip_prefix('[').and_then(|ip| ip.strip_suffix(']')).unwrap_or(text);
    if let Ok(ip) = bare.parse::<IpAddr>() {
        return Ok(SocketAddr::new(ip, SYSLOG_PORT));
    }
    let address = text.parse::<SocketAddr>().ok().filter(|address| address.port() != 0);
    address.ok_or_else(|| {
        format!(
            "{} is no syslog server; write such as 127.0.0.1:514, [::1]:514 or /dev/log \
             (host names are not looked up)",
            quoted(text)
        )
    })
}

/// Where syslog servers listen (RFC 3164 section 2).
const SYSLOG_PORT: u16 = 514;
