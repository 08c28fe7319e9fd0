//! The small languages of `admin.http`: where to listen, paths, realms, password hashes.
//!
//! Must not know: the tree, positions, which key a value belongs to.

use super::super::problem::quoted;
use super::{host, port};
use argon2::password_hash::PasswordHash;
use argon2::{Algorithm, Params, Version};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};

/// `ADDRESS:PORT` of this host, an IPv6 address in brackets, or `*:PORT` for every address of both
/// families.
pub(in crate::config) fn bind(text: &str) -> Result<SocketAddr, String> {
    if let Some(number) = text.strip_prefix("*:") {
        return Ok(SocketAddr::new(Ipv6Addr::UNSPECIFIED.into(), port(number)?));
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Err(format!("{} has no port; write {}:1080", quoted(text), host(ip)));
    }
    match text.parse::<SocketAddr>() {
        Ok(end) if end.port() == 0 => Err(format!("{}: 0 is no port to listen on", quoted(text))),
        Ok(end) if end.ip().is_multicast() => {
            Err(format!("{}: nobody listens on a multicast address", quoted(text)))
        }
        Ok(end) => Ok(end),
        Err(_) => {
            let shape = "write ADDRESS:PORT or *:PORT, such as 127.0.0.1:1080 or [::1]:1080";
            Err(format!("{}: {shape}; names are not looked up", quoted(text)))
        }
    }
}

/// The path of a page: nothing in it that a browser, a proxy or this program would write otherwise.
pub(in crate::config) fn plain_path(text: &str) -> Result<String, String> {
    if !text.starts_with('/') {
        return Err(format!("{} does not begin with `/`", quoted(text)));
    }
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/".contains(&b);
    let mut segments = text.split('/').skip(1);
    let dots = segments.any(|part| matches!(part, "." | ".."));
    if text.len() > 128 || !text.bytes().all(is_plain) || text.contains("//") || dots {
        let rule = "letters, digits, `-._~` and single slashes, at most 128, no `.` or `..` alone";
        return Err(format!("{} is not a plain path: {rule}", quoted(text)));
    }
    if text == "/metrics" || text == "/api" || text.starts_with("/api/") {
        return Err(format!("{} is taken: by /metrics and /api/v1/", quoted(text)));
    }
    Ok(text.to_owned())
}

/// What a browser shows when it asks for a password: a quoted string of HTTP without escapes.
pub(in crate::config) fn realm(text: &str) -> Result<String, String> {
    let is_plain = |b: u8| (b.is_ascii_graphic() || b == b' ') && b != b'"' && b != b'\\';
    if text.is_empty() || text.len() > 128 || !text.bytes().all(is_plain) {
        let rule = "1 to 128 ASCII characters without quotes and backslashes";
        return Err(format!("{} cannot be a realm: {rule}", quoted(text)));
    }
    Ok(text.to_owned())
}

/// An argon2id hash in PHC's form, whose cost this host can bear at every login.
pub(in crate::config) fn password_hash(text: &str) -> Result<String, String> {
    // What it is not is never repeated: it may be a password.
    let how = "make one by `argon2 SALT -id -e`, see docs/admin-api.md";
    let Ok(hash) = PasswordHash::new(text) else {
        return Err(format!("is not an argon2id hash ($argon2id$v=19$...); {how}"));
    };
    if Algorithm::try_from(hash.algorithm) != Ok(Algorithm::Argon2id) {
        return Err(format!("is a hash of {}, not of argon2id; {how}", hash.algorithm));
    }
    if hash.version != Some(Version::V0x13.into()) {
        return Err(format!("is not of argon2's version 19 (v=19); {how}"));
    }
    let (Ok(params), Some(_), Some(_)) = (Params::try_from(&hash), hash.salt, hash.hash) else {
        return Err(format!("is not a whole argon2id hash: salt or result is missing; {how}"));
    };
    if params.m_cost() > MAX_KIB || params.t_cost() > MAX_PASSES || params.p_cost() > MAX_LANES {
        return Err(format!(
            "costs too much at every login: at most m={MAX_KIB} (KiB), t={MAX_PASSES}, p={MAX_LANES}"
        ));
    }
    Ok(text.to_owned())
}

/// 256 MiB: four times what RFC 9106 recommends for little memory.
const MAX_KIB: u32 = 256 * 1024;
const MAX_PASSES: u32 = 10;
const MAX_LANES: u32 = 16;
