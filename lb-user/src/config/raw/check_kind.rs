//! The keys of checks of types `udp`, `dns`, `smtp`, `grpc` and `exec` as they are written, and
//! the small languages inside their values.
//!
//! Must not know: default values, which keys belong to which type of check.

use super::super::problem::{Place, quoted};
use super::super::units;
use super::Written;
use super::cursor::{Cursor, Fields};
use super::vrrp::{Command, command};
use crate::model::{Digest, HexPattern};
use hickory_proto::rr::{Name, RecordType};

/// Keys of types of check that have sections or keys of their own.
#[derive(Clone, Debug)]
pub(in crate::config) struct Kinds {
    /// The sections `udp`, `dns`, `smtp` and `grpc`, whatever is in them.
    pub(in crate::config) sections: [(&'static str, Written<()>); 4],
    pub(in crate::config) payload: Written<Vec<u8>>,
    pub(in crate::config) reply: Written<HexPattern>,
    pub(in crate::config) name: Written<Name>,
    pub(in crate::config) record: Written<RecordType>,
    pub(in crate::config) helo: Written<String>,
    pub(in crate::config) service: Written<String>,
    pub(in crate::config) command: Written<Command>,
    pub(in crate::config) user: Written<String>,
    pub(in crate::config) dynamic_weight: Written<bool>,
}

impl Kinds {
    pub(super) fn read(fields: &Fields<'_>, place: &Place) -> Self {
        let section = |key| {
            let below = fields.get(key).and_then(Cursor::fields);
            below.unwrap_or_else(|| Fields::none(place.clone()))
        };
        let (udp, dns) = (section("udp"), section("dns"));
        let named = |key| (key, fields.read(key, |_| Some(())));
        Self {
            sections: ["udp", "dns", "smtp", "grpc"].map(named),
            payload: udp.read("payload", |c| c.parsed(HEX, payload)),
            reply: udp.read("reply", |c| c.parsed(HEX, reply)),
            name: dns.read("name", |c| c.parsed("a name such as www.example.com", dns_name)),
            record: dns.read("record", |c| c.parsed("a type such as A or SOA", record)),
            helo: section("smtp").read("helo", |c| c.parsed("a host name", helo)),
            service: section("grpc").read("service", |c| c.parsed("a service", service)),
            command: fields.read("command", command),
            user: fields.read("user", |c| c.parsed("the name of a user", units::user)),
            dynamic_weight: fields.read("dynamic_weight", Cursor::flag),
        }
    }
}

/// What is sent: hexadecimal digits.
fn payload(text: &str) -> Result<Vec<u8>, String> {
    let pattern = hex(text)?;
    let bytes = pattern.exactly();
    bytes.ok_or_else(|| format!("{} has a `?`, and nothing is open in what is sent", quoted(text)))
}

/// What has to come back: hexadecimal digits and `?`.
fn reply(text: &str) -> Result<HexPattern, String> {
    let pattern = hex(text)?;
    if pattern.is_empty() {
        return Err("an empty pattern fits every answer; leave it out to take silence too".into());
    }
    Ok(pattern)
}

fn hex(text: &str) -> Result<HexPattern, String> {
    let pattern = HexPattern::new(text).map_err(|why| format!("{} {why}", quoted(text)))?;
    if pattern.len() > MAX_DATAGRAM {
        return Err(format!("has {} bytes; at most {MAX_DATAGRAM} are taken", pattern.len()));
    }
    Ok(pattern)
}

/// A name in the DNS; it is always taken from the root.
fn dns_name(text: &str) -> Result<Name, String> {
    let not_a_name = |_| format!("{} is no name in the DNS", quoted(text));
    let mut name = Name::from_ascii(text).map_err(not_a_name)?;
    name.set_fqdn(true);
    Ok(name)
}

/// The name of a type of record, in either case.
fn record(text: &str) -> Result<RecordType, String> {
    use RecordType as R;
    let unknown = |_| format!("{} is no type of record; write such as A or SOA", quoted(text));
    let record: RecordType = text.to_ascii_uppercase().parse().map_err(unknown)?;
    match record {
        R::AXFR | R::IXFR | R::OPT | R::TSIG | R::SIG | R::ZERO | R::Unknown(_) => {
            Err(format!("{} cannot be asked for by a check", quoted(text)))
        }
        record => Ok(record),
    }
}

/// What a client of SMTP calls itself: a name or an address literal (RFC 5321, 4.1.1.1).
fn helo(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    if text.is_empty() || text.len() > 255 || !text.bytes().all(allowed) {
        return Err(format!("{} is no host name; write such as lb01.example.com", quoted(text)));
    }
    Ok(text.to_owned())
}

/// A service of gRPC: `package.Service`, or nothing for the whole server.
fn service(text: &str) -> Result<String, String> {
    if text.len() > MAX_SERVICE || text.chars().any(char::is_control) {
        return Err(format!("{} is no name of a gRPC service", quoted(text)));
    }
    Ok(text.to_owned())
}

/// `ALGORITHM:HEX`.
pub(super) fn digest(text: &str) -> Result<Digest, String> {
    let shape = "write sha256: or md5: and the digest in hexadecimal";
    let Some((algorithm, digits)) = text.split_once(':') else {
        return Err(format!("{} has no algorithm; {shape}", quoted(text)));
    };
    let bytes = HexPattern::new(digits).ok().and_then(|pattern| pattern.exactly());
    let bytes = bytes.ok_or_else(|| format!("{} is not hexadecimal", quoted(digits)))?;
    let wrong = |needed: usize| format!("has {} bytes; {algorithm} has {needed}", digits.len() / 2);
    match algorithm {
        "sha256" => Ok(Digest::Sha256(bytes.try_into().map_err(|_| wrong(32))?)),
        "md5" => Ok(Digest::Md5(bytes.try_into().map_err(|_| wrong(16))?)),
        _ => Err(format!("unknown digest {}; {shape}", quoted(algorithm))),
    }
}

const HEX: &str = "hexadecimal digits";
/// Bytes that fit into one packet everywhere, IPv6's smallest MTU included.
const MAX_DATAGRAM: usize = 1024;
/// Bytes of a service's name.
const MAX_SERVICE: usize = 255;
