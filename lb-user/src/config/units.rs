//! The small languages inside values: durations, `listen` and addresses with a prefix.
//!
//! Each function takes the text and returns the value or the message of the fault.
//!
//! Must not know: the tree, positions, which key a value belongs to.

mod admin;

use super::problem::{plain, quoted};
use crate::model::{Listen, Pattern, Protocol};
pub(super) use admin::{bind, password_hash, plain_path, realm};
use http::{Method, Uri};
use lettre::message::Mailbox;
use rustls::pki_types::ServerName;
use std::net::{IpAddr, Ipv4Addr};
use std::ops::RangeInclusive;
use std::time::Duration;

/// `100ms`, `5s`, `15m` or `1h`.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let millis = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" if digits > 0 => return Err(format!("{} has no unit; write {text}s", quoted(text))),
        _ => return Err(not_a_duration(text)),
    };
    if digits == 0 {
        return Err(not_a_duration(text));
    }
    let value = number.parse::<u64>().ok().and_then(|n| n.checked_mul(millis));
    value.map(Duration::from_millis).ok_or_else(|| format!("{} is too long", quoted(text)))
}

fn not_a_duration(text: &str) -> String {
    format!(
        "{} is not a duration; write a whole number and ms, s, m or h, such as 500ms",
        quoted(text)
    )
}

/// An IP address that a service or a real server can have.
pub fn address(text: &str) -> Result<IpAddr, String> {
    let Ok(address) = text.parse::<IpAddr>() else {
        return Err(not_an_address(text));
    };
    let refuse = |kind: &str| Err(format!("{} is {kind}", quoted(text)));
    match address {
        _ if address.is_unspecified() => refuse("the unspecified address, not one of a host"),
        _ if address.is_loopback() => refuse("a loopback address; XDP never sees its packets"),
        _ if address.is_multicast() => refuse("a multicast address"),
        IpAddr::V4(Ipv4Addr::BROADCAST) => refuse("the broadcast address"),
        IpAddr::V4(v4) if v4.octets()[0] == 0 => refuse("in 0.0.0.0/8, which no host can have"),
        IpAddr::V6(v6) => match v6.to_ipv4_mapped() {
            Some(v4) => Err(format!("{} is an IPv4 address; write {v4}", quoted(text))),
            None => Ok(address),
        },
        IpAddr::V4(_) => Ok(address),
    }
}

fn not_an_address(text: &str) -> String {
    let hint = if port_after_address(text) {
        "; the port has its own key"
    } else if text.contains('/') {
        "; a prefix length is not allowed here"
    } else if text.contains('%') {
        "; a zone (%interface) is not allowed"
    } else if text.bytes().any(|b| b.is_ascii_alphabetic()) && !text.contains(':') {
        "; host names are not looked up"
    } else {
        ""
    };
    format!("{} is not an IP address{hint}", quoted(text))
}

fn port_after_address(text: &str) -> bool {
    let parsed = text.rsplit_once(':').map(|(ip, _)| ip.trim_matches(['[', ']']));
    parsed.is_some_and(|ip| ip.parse::<IpAddr>().is_ok())
}

/// `ADDRESS:PORT/PROTOCOL`, an IPv6 address in brackets.
///
/// # Errors
/// In words, with what to write.
pub fn listen(text: &str) -> Result<Listen, String> {
    let shape = "write ADDRESS:PORT/tcp or /udp, such as 192.0.2.1:80/tcp or [2001:db8::1]:80/tcp";
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Err(format!(
            "{} has no port and protocol; write {}:80/tcp",
            quoted(text),
            host(ip)
        ));
    }
    let (rest, protocol) = match text.rsplit_once('/') {
        Some((rest, "tcp")) => (rest, Protocol::Tcp),
        Some((rest, "udp")) => (rest, Protocol::Udp),
        Some((_, "sctp")) => return Err("protocol `sctp` is not supported yet".into()),
        Some((_, word)) if word.bytes().any(|b| b.is_ascii_alphabetic()) && !word.contains(':') => {
            return Err(format!("unknown protocol {}; tcp and udp are known", quoted(word)));
        }
        _ => return Err(format!("{} has no protocol; {shape}", quoted(text))),
    };
    let Some((ip, port)) = rest.rsplit_once(':') else {
        return Err(format!("{} has no port; {shape}", quoted(text)));
    };
    let inner = ip.strip_prefix('[').and_then(|ip| ip.strip_suffix(']'));
    let ip = match inner {
        Some(inner) if inner.contains(':') => inner,
        Some(_) => return Err(format!("{}: only IPv6 addresses are in brackets", quoted(text))),
        None if ip.contains(':') => {
            return Err(format!("{}: put the IPv6 address in brackets; {shape}", quoted(text)));
        }
        None => ip,
    };
    if ip.contains('/') {
        return Err(format!("listening on the prefix {} is not supported yet", quoted(ip)));
    }
    if ip == "*" {
        return Err("listening on any address is not possible; name the address".into());
    }
    if port == "*" || port == "any" {
        return Err("listening on any port is not supported yet".into());
    }
    if port.split_once('-').is_some_and(|(a, b)| self::port(a).is_ok() && self::port(b).is_ok()) {
        return Err(format!("listening on the port range {} is not supported yet", quoted(port)));
    }
    Ok(Listen { address: address(ip)?, port: self::port(port)?, protocol })
}

fn port(text: &str) -> Result<u16, String> {
    let digits = !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    match text.parse::<u16>() {
        Ok(port) if digits && port > 0 && !text.starts_with('0') => Ok(port),
        _ => Err(format!("{} is not a port from 1 to 65535", quoted(text))),
    }
}

/// An address as it stands before `:port`.
fn host(ip: IpAddr) -> String {
    match ip {
        IpAddr::V4(v4) => v4.to_string(),
        IpAddr::V6(v6) => format!("[{v6}]"),
    }
}

/// `ADDRESS[/LEN] [dev NAME]` as `ip address add` takes it; without LEN it is one host.
pub(super) fn owned_address(text: &str) -> Result<(IpAddr, u8, Option<String>), String> {
    let mut words = text.split_whitespace();
    let prefix = words.next().unwrap_or("");
    let device = match (words.next(), words.next(), words.next()) {
        (None, ..) => None,
        (Some("dev"), Some(name), None) => Some(interface(name)?),
        _ => {
            let message = "write ADDRESS/LEN dev INTERFACE, such as 192.0.2.1/32 dev eth0";
            return Err(format!("{} is not understood; {message}", quoted(text)));
        }
    };
    let (ip, len) = match prefix.split_once('/') {
        Some((ip, len)) => (address(ip)?, Some(len)),
        None => (address(prefix)?, None),
    };
    let most = if ip.is_ipv4() { 32 } else { 128 };
    let Some(len) = len else { return Ok((ip, most, device)) };
    let digits = !len.is_empty() && len.bytes().all(|b| b.is_ascii_digit());
    match len.parse::<u8>() {
        Ok(n) if digits && (1..=most).contains(&n) => Ok((ip, n, device)),
        _ => Err(format!("{} is not a prefix length from 1 to {most}", quoted(len))),
    }
}

/// A name that Linux accepts for an interface (net/core/dev.c, dev_valid_name).
pub(super) fn interface(text: &str) -> Result<String, String> {
    let odd = |c: char| c == '/' || c == ':' || c.is_whitespace() || c.is_control();
    if text.is_empty() || text.len() > 15 || text == "." || text == ".." || text.contains(odd) {
        return Err(format!("{} cannot be the name of an interface", quoted(text)));
    }
    Ok(text.to_owned())
}

/// A name of the user's: of the node, a service, a check.
pub(super) fn name(text: &str) -> Result<String, String> {
    // `lb drain` takes SERVICE/ADDRESS:PORT, and names stand in metrics and log lines.
    let odd = |c: char| c == '/' || c.is_whitespace() || c.is_control();
    if text.is_empty() {
        return Err("a name cannot be empty".into());
    }
    if text.contains(odd) || text.len() > 128 {
        return Err(format!("{}: a name has at most 128 bytes, no space and no `/`", quoted(text)));
    }
    Ok(text.to_owned())
}

/// The name of a user of this host, as useradd(8) makes them and some more.
pub(super) fn user(text: &str) -> Result<String, String> {
    let odd = |c: char| c == ':' || c == '/' || c.is_whitespace() || c.is_control();
    if text.is_empty() || text.len() > 32 || text.starts_with('-') || text.contains(odd) {
        return Err(format!("{} cannot be the name of a user", quoted(text)));
    }
    Ok(text.to_owned())
}

/// An address of e-mail without a display name, such that it can be put into a mail and told to every
/// mail server: control characters would end a line of SMTP, and letters beyond ASCII need SMTPUTF8.
pub(super) fn mailbox(text: &str) -> Result<String, String> {
    let odd = |c: char| c.is_whitespace() || c.is_control() || "<>,;\"()[]\\".contains(c);
    let is_plain = text.is_ascii() && text.len() <= 254 && !text.contains(odd);
    // The rules are those of whoever sends it.
    match text.parse::<Mailbox>() {
        Ok(read) if is_plain && read.email.as_ref() as &str == text => Ok(text.to_owned()),
        _ => Err(format!("{} is no address; write such as ops@example.com", quoted(text))),
    }
}

/// `HOST[:PORT]` of a mail server, an IPv6 address in brackets; without a port it is 25.
pub(super) fn mail_server(text: &str) -> Result<(String, u16), String> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => match rest.split_once(']') {
            Some((host, "")) => (host, None),
            Some((host, after)) => (host, Some(after.strip_prefix(':').unwrap_or(""))),
            None => return Err(format!("{} has no closing bracket", quoted(text))),
        },
        None if text.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) => {
            return Err(format!("put the IPv6 address in brackets; write [{text}]:25"));
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    if text.starts_with('[') && !host.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6()) {
        return Err(format!("{}: only IPv6 addresses are in brackets", quoted(text)));
    }
    let odd = |c: char| !(c.is_ascii_alphanumeric() || "-._:".contains(c));
    if host.is_empty() || host.len() > 253 || host.contains(odd) || host.starts_with('-') {
        return Err(format!("{} is no mail server; write such as 127.0.0.1:25", quoted(text)));
    }
    Ok((host.to_owned(), port.map_or(Ok(25), self::port)?))
}

/// A request method; they are case-sensitive (RFC 9110, 9.1).
pub(super) fn method(text: &str) -> Result<Method, String> {
    if text == "CONNECT" {
        return Err("`CONNECT` asks for a tunnel, which is no check".into());
    }
    match Method::from_bytes(text.as_bytes()) {
        Ok(method) if !text.bytes().any(|b| b.is_ascii_lowercase()) => Ok(method),
        _ => Err(format!("{} is not a method; write such as GET or HEAD", quoted(text))),
    }
}

/// Path and query of a request (RFC 9112, 3.2.1: origin-form).
pub(super) fn path(text: &str) -> Result<Uri, String> {
    if !text.starts_with('/') {
        return Err(format!("{} does not begin with `/`", quoted(text)));
    }
    let plain = text.bytes().all(|b| b.is_ascii_graphic() && b != b'#');
    match text.parse::<Uri>() {
        Ok(uri) if plain && uri.path_and_query().is_some_and(|p| p.as_str() == text) => Ok(uri),
        _ => Err(format!("{} is not a path; percent-encode what is special", quoted(text))),
    }
}

/// What stands in a Host header: a name or an address, perhaps with a port.
pub(super) fn host_header(text: &str) -> Result<String, String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:[]".contains(&b);
    if text.is_empty() || text.len() > 255 || !text.bytes().all(allowed) {
        return Err(format!("{} is not a host; write such as www.example.com", quoted(text)));
    }
    Ok(text.to_owned())
}

/// A name that a certificate can be for.
pub(super) fn server_name(text: &str) -> Result<ServerName<'static>, String> {
    ServerName::try_from(text.to_owned())
        .map_err(|_| format!("{} is not a host name that TLS can ask for", quoted(text)))
}

/// `200-399`, or one status code.
pub(super) fn statuses(text: &str) -> Result<RangeInclusive<u16>, String> {
    let code = |text: &str| {
        let digits = text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
        text.parse::<u16>().ok().filter(|code| digits && (100..=599).contains(code))
    };
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    match (code(first), code(last)) {
        (Some(first), Some(last)) if first <= last => Ok(first..=last),
        _ => Err(format!("{} is no range of status codes; write such as 200-399", quoted(text))),
    }
}

/// A regular expression.
pub(super) fn pattern(text: &str) -> Result<Pattern, String> {
    if text.is_empty() {
        return Err("an empty pattern is found in every body".into());
    }
    Pattern::new(text).map_err(|error| {
        // The compiler draws several lines; its last says what is wrong.
        let message = error.to_string();
        let last = message.lines().last().unwrap_or_default();
        let why = last.strip_prefix("error: ").unwrap_or(last);
        format!("{} is not a regular expression: {}", quoted(text), plain(why))
    })
}

/// The word in backticks that `given` was probably meant to be.
pub(super) fn nearest<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    // Long text costs quadratic time and is no slip of the pen.
    if given.len() > 64 {
        return None;
    }
    let given = given.to_lowercase().replace('-', "_");
    let score = |word: &'a str| {
        let plain = word.replace('-', "_");
        let shortened = given.len() >= 4 && plain.starts_with(&given);
        let distance = strsim::damerau_levenshtein(&given, &plain);
        (if shortened { 1 } else { distance }, word)
    };
    let (distance, word) = known.map(score).min_by_key(|&(distance, _)| distance)?;
    // One slip in a short word, one in three letters of a long one; never every letter.
    let allowed = (word.len().max(given.len()) / 3).max(1);
    (distance <= allowed && distance < given.len().min(word.len())).then_some(word)
}

/// A sorted, short list of words for a message.
pub(super) fn list<'a>(words: impl Iterator<Item = &'a str>) -> String {
    words.collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn check_duration(text: &str, expected: Option<u64>) {
        assert_eq!(duration(text).ok(), expected.map(Duration::from_millis), "{text}");
    }

    #[test]
    fn durations_need_a_unit_and_a_whole_number() {
        check_duration("100ms", Some(100));
        check_duration("5s", Some(5_000));
        check_duration("15m", Some(900_000));
        check_duration("1h", Some(3_600_000));
        check_duration("0s", Some(0));
        for bad in
            ["", "5", "s", "-1s", "1.5s", "1h30m", "5 s", "5S", "1d", "99999999999999999h", "٣s"]
        {
            check_duration(bad, None);
        }
        assert_eq!(duration("60").unwrap_err(), "`60` has no unit; write 60s");
    }

    fn check_listen(text: &str, expected: Result<(&str, u16, Protocol), &str>) {
        let got = listen(text).map(|l| (l.address.to_string(), l.port, l.protocol));
        match expected {
            Ok((ip, port, protocol)) => assert_eq!(got, Ok((ip.to_owned(), port, protocol))),
            Err(part) => {
                let message = got.expect_err(text);
                assert!(message.contains(part), "{text}: {message}");
            }
        }
    }

    #[test]
    fn listen_takes_address_port_and_protocol() {
        check_listen("192.168.20.50:80/tcp", Ok(("192.168.20.50", 80, Protocol::Tcp)));
        check_listen("[2001:db8::53]:53/udp", Ok(("2001:db8::53", 53, Protocol::Udp)));
        check_listen("192.0.2.0/28:80/tcp", Err("not supported yet"));
        check_listen("[2001:db8::]/64:80/tcp", Err("brackets"));
        check_listen("192.0.2.1:8000-8100/tcp", Err("port range `8000-8100` is not supported yet"));
        check_listen("192.0.2.1:*/tcp", Err("not supported yet"));
        check_listen("192.0.2.1:80/sctp", Err("not supported yet"));
        check_listen("192.0.2.1:80/tpc", Err("unknown protocol `tpc`"));
        check_listen("192.0.2.1:80", Err("has no protocol"));
        check_listen("192.0.2.0/28:80", Err("has no protocol"));
        check_listen("192.0.2.1", Err("write 192.0.2.1:80/tcp"));
        check_listen("192.0.2.1/tcp", Err("has no port"));
        check_listen("2001:db8::1:80/tcp", Err("in brackets"));
        check_listen("[192.0.2.1]:80/tcp", Err("only IPv6"));
        check_listen("192.0.2.1:0/tcp", Err("`0` is not a port"));
        check_listen("192.0.2.1:080/tcp", Err("`080` is not a port"));
        check_listen("192.0.2.1:+80/tcp", Err("`+80` is not a port"));
        check_listen("192.0.2.1:65536/tcp", Err("`65536` is not a port"));
        check_listen("010.0.0.1:80/tcp", Err("not an IP address"));
        check_listen("www.example.com:80/tcp", Err("host names are not looked up"));
        check_listen("127.0.0.1:80/tcp", Err("loopback"));
        check_listen("[::]:80/tcp", Err("unspecified"));
        check_listen("[::ffff:192.0.2.1]:80/tcp", Err("write 192.0.2.1"));
        check_listen("", Err("has no protocol"));
    }

    #[test]
    fn owned_addresses_may_name_length_and_device() {
        let ip: IpAddr = "192.0.2.1".parse().unwrap();
        assert_eq!(owned_address("192.0.2.1"), Ok((ip, 32, None)));
        assert_eq!(owned_address("192.0.2.1/24 dev eth0"), Ok((ip, 24, Some("eth0".into()))));
        assert_eq!(owned_address("2001:db8::1").map(|a| a.1), Ok(128));
        for bad in [
            "",
            "192.0.2.1/33",
            "192.0.2.1/0",
            "192.0.2.1/+8",
            "192.0.2.1 eth0",
            "192.0.2.1 dev",
            "192.0.2.1 dev a b",
            "192.0.2.1 dev way-too-long-name",
            "224.0.0.1/32",
        ] {
            assert!(owned_address(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_mail_server_is_a_host_with_a_port() {
        let is = |text: &str, host: &str, port| {
            assert_eq!(mail_server(text), Ok((host.to_owned(), port)), "{text}");
        };
        is("127.0.0.1:587", "127.0.0.1", 587);
        is("mail.example.com", "mail.example.com", 25);
        is("[2001:db8::25]:2525", "2001:db8::25", 2525);
        is("[::1]", "::1", 25);
        for bad in [
            "",
            ":25",
            "mail:",
            "mail:0",
            "mail:smtp",
            "::1",
            "[::1",
            "[::1]25",
            "[mail]:25",
            "a b:25",
            "mail:25:25",
            "ä:25",
            "-x:25",
        ] {
            assert!(mail_server(bad).is_err(), "{bad}");
        }
        assert_eq!(
            mail_server("::1").unwrap_err(),
            "put the IPv6 address in brackets; write [::1]:25"
        );
    }

    #[test]
    fn a_mailbox_is_one_line_with_one_address() {
        for good in ["ops@example.com", "root@localhost", "a+b@example.com"] {
            assert_eq!(mailbox(good), Ok(good.to_owned()));
        }
        for bad in
            ["", "ops", "@example.com", "ops@", "Ops <ops@example.com>", "a@b\r\nRCPT", "a b@c"]
        {
            assert!(mailbox(bad).is_err(), "{bad:?}");
        }
        for bad in
            ["ops@example.com.", "john.@example.com", ".john@example.com", "a@b@c", "\u{e4}@b"]
        {
            assert!(mailbox(bad).is_err(), "{bad:?}");
        }
        assert!(mailbox(&format!("{}@example.com", "a".repeat(64))).is_ok());
        assert!(mailbox(&format!("{}@example.com", "a".repeat(65))).is_err());
    }

    proptest::proptest! {
        #[test]
        fn whatever_passes_can_be_mailed(text in r"[aB1.@+_\-\[\]\u{e4}]{0,12}") {
            if let Ok(passed) = mailbox(&text) {
                let read: Mailbox = passed.parse().expect("an address");
                proptest::prop_assert_eq!(read.email.to_string(), text);
            }
        }
    }

    #[test]
    fn a_user_is_a_name_and_no_path() {
        assert!(user("nobody").is_ok() && user("keepalived_script").is_ok());
        for bad in ["", "a b", "-x", "a:b", "../x", "a\0"] {
            assert!(user(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn what_a_check_asks_for_is_read_strictly() {
        assert_eq!(method("GET").unwrap(), Method::GET);
        assert_eq!(method("M-SEARCH").unwrap().as_str(), "M-SEARCH");
        for bad in ["get", "", "CONNECT", "GET /"] {
            assert!(method(bad).is_err(), "{bad}");
        }
        assert_eq!(path("/a?b=c&d").unwrap().to_string(), "/a?b=c&d");
        assert_eq!(path("//a").unwrap().path(), "//a");
        for bad in ["", "a", "http://a/", "/a b", "/a#b", "/ä", "*"] {
            assert!(path(bad).is_err(), "{bad}");
        }
        assert!(host_header("[2001:db8::1]:8080").is_ok());
        for bad in ["", "a b", "a/b", "a\r\nX: y", "ä"] {
            assert!(host_header(bad).is_err(), "{bad}");
        }
        assert!(server_name("www.example.com").is_ok());
        assert!(server_name("a b").is_err());
    }

    #[test]
    fn statuses_are_codes_and_ranges() {
        assert_eq!(statuses("200-399"), Ok(200..=399));
        assert_eq!(statuses("204"), Ok(204..=204));
        for bad in ["", "-", "200-", "399-200", "2xx", "99-200", "200-600", "+200", "200-300-400"] {
            assert!(statuses(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn a_pattern_that_is_none_says_why() {
        assert!(pattern("^ok.*").is_ok());
        let message = pattern("(").unwrap_err();
        assert!(message.contains("unclosed group"), "{message}");
        let message = pattern("(?=x)").unwrap_err();
        assert!(message.contains("look-around"), "{message}");
        let message = pattern(r"(\w{1000}){1000}").unwrap_err();
        assert!(message.contains("size limit"), "{message}");
    }

    #[test]
    fn nearest_word_is_offered_only_when_near() {
        let known = || ["scheduler", "listen", "rr", "wrr"].into_iter();
        assert_eq!(nearest("shceduler", known()), Some("scheduler"));
        assert_eq!(nearest("Listen", known()), Some("listen"));
        assert_eq!(nearest("rrr", known()), Some("rr"));
        assert_eq!(nearest("sched", known()), Some("scheduler"));
        assert_eq!(nearest("x", known()), None);
        assert_eq!(nearest("a", ["b"].into_iter()), None);
        assert_eq!(nearest("something_else", known()), None);
    }
}
