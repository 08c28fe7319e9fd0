//! What must hold of every change over TCP: the role, and that the user meant it.
//!
//! A browser sends a user's password along with whatever a foreign page makes it send. Such a
//! request names its origin, and cannot have `content-type: application/json` or a header of its
//! own without being asked first, which nothing here allows.
//!
//! Must not know: what is changed.

use hyper::StatusCode;
use hyper::header::{CONTENT_TYPE, HOST, HeaderMap, ORIGIN};

use crate::admin::api::Answer;

/// The header that carries a token.
pub(super) const TOKEN_HEADER: &str = "x-csrf-token";

/// Refuses a change that another site asks for.
pub(super) fn same_origin(headers: &HeaderMap, is_secure: bool) -> Result<(), Answer> {
    let foreign = |text: &str| Err(Answer::error(StatusCode::FORBIDDEN, text));
    if let Some(site) = headers.get("sec-fetch-site")
        && !matches!(site.as_bytes(), b"same-origin" | b"none")
    {
        return foreign("another site asks for this change (sec-fetch-site)");
    }
    let mut origins = headers.get_all(ORIGIN).iter();
    let Some(origin) = origins.next() else { return Ok(()) };
    let scheme = if is_secure { "https://" } else { "http://" };
    let own = headers.get(HOST).and_then(|host| host.to_str().ok());
    let origin = origin.to_str().ok().and_then(|origin| origin.strip_prefix(scheme));
    match (origin, own) {
        (Some(origin), Some(own)) if origin.eq_ignore_ascii_case(own) => match origins.next() {
            None => Ok(()),
            Some(_) => foreign("this request names two origins"),
        },
        _ => foreign("another site asks for this change (origin)"),
    }
}

/// A content type without its parameters.
pub(super) fn content_type(headers: &HeaderMap) -> Option<String> {
    let text = headers.get(CONTENT_TYPE)?.to_str().unwrap_or("?");
    Some(text.split(';').next().unwrap_or("").trim().to_ascii_lowercase())
}

/// Whether this request was sent to this host, and not to a name that somebody else made point
/// here (DNS rebinding). Where a password is asked for, that one is bound to the name.
pub(super) fn is_for_loopback(headers: &HeaderMap) -> bool {
    let host = headers.get(HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let ip = name.parse::<std::net::IpAddr>();
    name.eq_ignore_ascii_case("localhost") || ip.is_ok_and(|ip| ip.to_canonical().is_loopback())
}

#[cfg(test)]
mod tests {
    use hyper::header::{HeaderName, HeaderValue};

    use super::*;

    fn headers(rows: &[(&str, &str)]) -> HeaderMap {
        let header = |(name, value): &(&str, &str)| {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            (name, HeaderValue::from_str(value).expect("a value"))
        };
        let mut headers = HeaderMap::new();
        for (name, value) in rows.iter().map(header) {
            headers.append(name, value);
        }
        headers
    }

    #[test]
    fn a_foreign_origin_is_refused_however_it_is_written() {
        let check = |origin: &str, host: &str, is_secure: bool, expected: bool| {
            let headers = headers(&[("origin", origin), ("host", host)]);
            let is_ours = same_origin(&headers, is_secure).is_ok();
            assert_eq!(is_ours, expected, "{origin} {host} {is_secure}");
        };
        check("http://lb:1080", "lb:1080", false, true);
        check("https://lb:1080", "LB:1080", true, true);
        check("http://lb:1080", "lb:1080", true, false);
        check("https://lb:1080", "lb:1080", false, false);
        check("http://lb", "lb:1080", false, false);
        check("http://lb:1080.evil.test", "lb:1080", false, false);
        check("http://evil.test", "lb:1080", false, false);
        check("null", "lb:1080", false, false);
        check("", "lb:1080", false, false);
        let origin = ("origin", "http://lb");
        assert!(same_origin(&headers(&[origin]), false).is_err(), "no host to compare with");
        let two = headers(&[("host", "lb"), origin, ("origin", "http://evil.test")]);
        assert!(same_origin(&two, false).is_err(), "one of two");
    }

    #[test]
    fn browsers_say_where_a_request_comes_from() {
        for (site, expected) in
            [("same-origin", true), ("none", true), ("same-site", false), ("cross-site", false)]
        {
            assert_eq!(same_origin(&headers(&[("sec-fetch-site", site)]), false).is_ok(), expected);
        }
        assert!(same_origin(&HeaderMap::new(), false).is_ok(), "no browser");
    }

    #[test]
    fn only_names_of_this_host_are_for_loopback() {
        for (host, expected) in [
            ("localhost", true),
            ("localhost:1080", true),
            ("127.0.0.1:1080", true),
            ("127.1.2.3", true),
            ("[::1]:1080", true),
            ("evil.test:1080", false),
            ("127.0.0.1.evil.test", false),
            ("192.0.2.1:1080", false),
            ("", false),
        ] {
            assert_eq!(is_for_loopback(&headers(&[("host", host)])), expected, "{host}");
        }
    }
}
