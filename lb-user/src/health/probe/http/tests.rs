//! The HTTP probe against servers on loopback, well-behaved and not.
//!
//! Must not know: how the probe is made.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc;
use std::thread;

use http::{HeaderName, Uri};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair};
use rustls::pki_types::{PrivateKeyDer, ServerName};
use rustls::{RootCertStore, ServerConfig, ServerConnection, StreamOwned};

use super::*;
use crate::health::probe::block_on;
use crate::model::{HexPattern, Pattern, TlsCheck};

const LONG: Duration = Duration::from_secs(10);
const SHORT: Duration = Duration::from_millis(200);

fn check() -> HttpCheck {
    HttpCheck {
        method: Method::GET,
        path: Uri::from_static("/"),
        host: None,
        headers: Vec::new(),
        status: vec![200..=399],
        body: None,
        digest: None,
        tls: None,
    }
}

fn with_body(pattern: &str) -> HttpCheck {
    HttpCheck { body: Some(Pattern::new(pattern).expect("a pattern")), ..check() }
}

/// Serves one connection with `answer`, on a thread of its own.
fn serve(answer: impl FnOnce(TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    thread::spawn(move || {
        if let Ok((stream, _)) = listener.accept() {
            answer(stream);
        }
    });
    address
}

/// Reads a request's head.
fn head(stream: &mut impl Read) -> String {
    let mut seen = Vec::new();
    let mut byte = [0];
    while !seen.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
        seen.push(byte[0]);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

fn probe_with(
    address: SocketAddr,
    check: HttpCheck,
    timeout: Duration,
    trust: &Trust,
) -> ProbeResult {
    let probe = HttpProbe::new(address, &Arc::new(check));
    block_on(probe.probe(&Line::direct(address), timeout, trust))
}

fn probe(address: SocketAddr, check: HttpCheck, timeout: Duration) -> ProbeResult {
    probe_with(address, check, timeout, &Trust::new())
}

/// Probes a server that answers every request with these bytes and closes.
fn answered(answer: &str, check: HttpCheck) -> (&'static str, Option<u16>, String) {
    let answer = answer.to_owned();
    let address = serve(move |mut stream| {
        head(&mut stream);
        let _ = stream.write_all(answer.as_bytes());
    });
    let result = probe(address, check, LONG);
    (result.status.name(), result.code, result.detail)
}

fn is(answer: &str, check: HttpCheck, expected: (&str, Option<u16>, &str)) {
    let (status, code, detail) = answered(answer, check);
    assert_eq!((status, code), (expected.0, expected.1), "{answer:?}: {detail}");
    assert!(detail.contains(expected.2), "{answer:?}: {detail}");
}

#[test]
fn the_status_decides() {
    is("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", check(), ("L7OK", Some(200), ""));
    is("HTTP/1.0 204 No Content\r\n\r\n", check(), ("L7OK", Some(204), ""));
    is("HTTP/1.1 302 Found\r\nLocation: /x\r\n\r\n", check(), ("L7OK", Some(302), ""));
    let said = "unexpected status 503 Service Unavailable";
    is("HTTP/1.1 503 Oops\r\n\r\n", check(), ("L7STS", Some(503), said));
    is(
        "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 404 No\r\n\r\n",
        check(),
        ("L7STS", Some(404), "404"),
    );
    let only = HttpCheck { status: vec![200..=200, 301..=301], ..check() };
    is("HTTP/1.1 301 Moved\r\n\r\n", only.clone(), ("L7OK", Some(301), ""));
    is("HTTP/1.1 302 Found\r\n\r\n", only, ("L7STS", Some(302), "302"));
}

#[test]
fn the_body_has_to_contain_the_pattern() {
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nall good";
    is(answer, with_body("good$"), ("L7OK", Some(200), ""));
    is(
        answer,
        with_body("^good"),
        ("L7RSP", Some(200), "`^good` was not found in the body (8 bytes): \"all good\""),
    );
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nall\r\n5\r\n good\r\n0\r\n\r\n";
    is(chunked, with_body("^all good$"), ("L7OK", Some(200), ""));
    let cut = "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nall good";
    is(cut, with_body("good"), ("L7RSP", Some(200), "closed before"));
    // The status comes first.
    is("HTTP/1.1 500 No\r\n\r\nok", with_body("ok"), ("L7STS", Some(500), "500"));
}

/// `all good` by sha256sum(1) and md5sum(1).
const GOOD: [&str; 2] = [
    "sha256:1c5f0dacdc174bb9457784fa8d5a067c73b97e0689cef49ba625b18924766fec",
    "md5:7bc22c8cd42ff8a897538a6fd9851958",
];

#[test]
fn the_whole_body_has_to_have_the_digest() {
    let digest = |text: &str| {
        let (algorithm, digits) = text.split_once(':').expect("two parts");
        let bytes = HexPattern::new(digits).expect("digits").exactly().expect("digits");
        let digest = match algorithm {
            "md5" => Digest::Md5(bytes.try_into().expect("16 bytes")),
            _ => Digest::Sha256(bytes.try_into().expect("32 bytes")),
        };
        HttpCheck { digest: Some(digest), ..check() }
    };
    let answer = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nall good";
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nall\r\n5\r\n good\r\n0\r\n\r\n";
    for good in GOOD {
        is(answer, digest(good), ("L7OK", Some(200), ""));
        is(chunked, digest(good), ("L7OK", Some(200), ""));
        let other = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nall gone";
        is(other, digest(good), ("L7RSP", Some(200), &format!(", not {good}")));
    }
    // Both found and wanted are told.
    let other = digest("md5:00000000000000000000000000000000");
    let said = format!("the body (8 bytes) is {}, not md5:0000", GOOD[1]);
    is(answer, other, ("L7RSP", Some(200), &said));
    // The pattern has to be there too.
    let both = HttpCheck { body: with_body("bad").body, ..digest(GOOD[0]) };
    is(answer, both, ("L7RSP", Some(200), "was not found"));
    // Up to 1 MiB is digested.
    let long = |length: usize| {
        format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{}", "x".repeat(length))
    };
    is(&long(1 << 20), digest(GOOD[0]), ("L7RSP", Some(200), "(1048576 bytes) is sha256:"));
    is(&long((1 << 20) + 1), digest(GOOD[0]), ("L7RSP", Some(200), "more than 1 MiB"));
}

#[test]
fn what_is_no_answer_is_l7rsp() {
    is("SSH-2.0-OpenSSH_9.2\r\n", check(), ("L7RSP", None, "not an HTTP/1.1 answer"));
    is("", check(), ("L7RSP", None, "closed before the answer"));
    is("HTTP/1.1 20", check(), ("L7RSP", None, "closed before the answer"));
    is(
        "HTTP/1.1 200 OK\r\nBad Header: 1\r\n\r\n",
        check(),
        ("L7RSP", None, "not an HTTP/1.1 answer"),
    );
    let endless = format!("HTTP/1.1 200 OK\r\nX: {}\r\n\r\n", "x".repeat(4 * MAX_BODY));
    is(&endless, check(), ("L7RSP", None, "not an HTTP/1.1 answer"));
}

#[test]
fn a_server_that_says_nothing_is_l7tout() {
    let (done, wait) = mpsc::channel::<()>();
    let address = serve(move |mut stream| {
        head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nX-Slow: ");
        let _ = wait.recv();
    });
    let result = probe(address, check(), SHORT);
    assert_eq!((result.status, result.code), (CheckStatus::L7Timeout, None), "{result:?}");
    assert!(result.duration >= SHORT && result.duration < LONG, "{result:?}");
    drop(done);
}

#[test]
fn a_body_without_end_is_bounded_in_bytes_and_in_time() {
    let address = serve(|mut stream| {
        head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        while stream.write_all(&[b'x'; 4096]).is_ok() {}
    });
    let result = probe(address, with_body("y"), LONG);
    assert_eq!(result.status, CheckStatus::L7Response, "{result:?}");
    assert!(result.detail.contains("first 64 KiB (65536 bytes)"), "{result:?}");

    let (done, wait) = mpsc::channel::<()>();
    let address = serve(move |mut stream| {
        head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nsome");
        let _ = wait.recv();
    });
    let result = probe(address, with_body("some"), SHORT);
    assert_eq!((result.status, result.code), (CheckStatus::L7Timeout, Some(200)), "{result:?}");
    drop(done);
}

#[test]
fn without_a_pattern_the_body_is_not_waited_for() {
    let (done, wait) = mpsc::channel::<()>();
    let address = serve(move |mut stream| {
        head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\n");
        let _ = wait.recv();
    });
    assert_eq!(probe(address, check(), LONG).status, CheckStatus::L7Ok);
    drop(done);
}

#[test]
fn the_request_is_what_the_check_says() {
    let (sender, seen) = mpsc::channel();
    let address = serve(move |mut stream| {
        let _ = sender.send(head(&mut stream));
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
    });
    let asked = HttpCheck {
        method: Method::POST,
        path: Uri::from_static("/health?deep=1"),
        host: Some(HeaderValue::from_static("www.example.com")),
        headers: vec![
            (HeaderName::from_static("x-probe"), HeaderValue::from_static("lb")),
            (HeaderName::from_static("user-agent"), HeaderValue::from_static("me")),
        ],
        ..check()
    };
    assert_eq!(probe(address, asked, LONG).status, CheckStatus::L7Ok);
    let request = seen.recv().expect("a request").to_ascii_lowercase();
    let lines: Vec<&str> = request.lines().collect();
    assert_eq!(lines[0], "post /health?deep=1 http/1.1");
    for line in [
        "host: www.example.com",
        "x-probe: lb",
        "user-agent: me",
        "connection: close",
        "content-length: 0",
    ] {
        assert_eq!(lines.iter().filter(|l| **l == line).count(), 1, "{line} in {lines:?}");
    }
}

#[test]
fn the_host_header_is_the_address_where_none_is_said() {
    let host = |address: &str, check: &HttpCheck| {
        own_host(address.parse().expect("an address"), check).to_str().expect("text").to_owned()
    };
    let tls = HttpCheck { tls: Some(TlsCheck { name: None, verify: true }), ..check() };
    assert_eq!(host("192.0.2.1:80", &check()), "192.0.2.1");
    assert_eq!(host("192.0.2.1:8080", &check()), "192.0.2.1:8080");
    assert_eq!(host("[2001:db8::1]:443", &tls), "[2001:db8::1]");
    assert_eq!(host("[2001:db8::1]:443", &check()), "[2001:db8::1]:443");
}

#[test]
fn a_refused_connection_is_l4con() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    drop(listener);
    let result = probe(address, check(), LONG);
    assert_eq!(result.status, CheckStatus::L4Con);
    assert!(result.detail.contains("refused"), "{result:?}");
}

/// A CA and what it signs.
struct Ca(CertifiedIssuer<'static, KeyPair>);

impl Ca {
    fn new() -> Self {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        let name = format!("CA {}", NEXT.fetch_add(1, Ordering::Relaxed));
        let mut params = CertificateParams::default();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        Self(CertifiedIssuer::self_signed(params, key).expect("a certificate"))
    }

    /// A trust store with this CA only.
    fn trust(&self) -> Trust {
        let mut roots = RootCertStore::empty();
        roots.add(self.0.der().clone()).expect("a CA");
        Trust::of(roots)
    }

    fn server(&self, params: &CertificateParams) -> Arc<ServerConfig> {
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.0).expect("a certificate");
        let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
        let builder = ServerConfig::builder_with_provider(Arc::new(
            rustls::crypto::aws_lc_rs::default_provider(),
        ));
        let builder = builder.with_safe_default_protocol_versions().expect("versions");
        let chain = vec![certificate.der().clone()];
        Arc::new(builder.with_no_client_auth().with_single_cert(chain, key).expect("a pair"))
    }
}

fn leaf(names: &[&str]) -> CertificateParams {
    CertificateParams::new(names.iter().map(ToString::to_string).collect::<Vec<_>>())
        .expect("names")
}

fn serve_tls(config: Arc<ServerConfig>) -> SocketAddr {
    serve(move |stream| {
        let session = ServerConnection::new(config).expect("a session");
        let mut stream = StreamOwned::new(session, stream);
        head(&mut stream);
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        stream.conn.send_close_notify();
        let _ = stream.flush();
    })
}

fn https(name: &str, verify: bool) -> HttpCheck {
    let name = Some(ServerName::try_from(name.to_owned()).expect("a name"));
    HttpCheck { tls: Some(TlsCheck { name, verify }), ..with_body("^ok$") }
}

#[track_caller]
fn tls_is(params: &CertificateParams, check: HttpCheck, status: &str, detail: &str) {
    let ca = Ca::new();
    let address = serve_tls(ca.server(params));
    let result = probe_with(address, check, LONG, &ca.trust());
    assert_eq!(result.status.name(), status, "{result:?}");
    assert!(result.detail.contains(detail), "{result:?}");
}

#[test]
fn a_verified_certificate_is_for_the_name_and_of_a_trusted_authority() {
    let right = leaf(&["www.lab.test"]);
    tls_is(&right, https("www.lab.test", true), "L7OK", "");
    let said = "the certificate is for www.lab.test, not for other.lab.test";
    tls_is(&right, https("other.lab.test", true), "L6RSP", said);
    let mut old = right.clone();
    old.not_before = rcgen::date_time_ymd(2001, 1, 1);
    old.not_after = rcgen::date_time_ymd(2002, 1, 1);
    tls_is(&old, https("www.lab.test", true), "L6RSP", "the certificate has expired");
    let mut early = right.clone();
    early.not_before = rcgen::date_time_ymd(3000, 1, 1);
    early.not_after = rcgen::date_time_ymd(3001, 1, 1);
    tls_is(&early, https("www.lab.test", true), "L6RSP", "not valid yet");

    let (ours, theirs) = (Ca::new(), Ca::new());
    let address = serve_tls(theirs.server(&right));
    let result = probe_with(address, https("www.lab.test", true), LONG, &ours.trust());
    assert_eq!(result.status, CheckStatus::L6Response);
    assert!(result.detail.contains("no trusted authority"), "{result:?}");
}

#[test]
fn verify_false_accepts_any_certificate() {
    let mut old = leaf(&["somebody.else"]);
    old.not_after = rcgen::date_time_ymd(2002, 1, 1);
    old.not_before = rcgen::date_time_ymd(2001, 1, 1);
    tls_is(&old, https("www.lab.test", false), "L7OK", "");
}

#[test]
fn without_a_name_the_certificate_has_to_be_for_the_address() {
    let nameless = || HttpCheck { tls: Some(TlsCheck { name: None, verify: true }), ..check() };
    tls_is(&leaf(&["127.0.0.1"]), nameless(), "L7OK", "");
    tls_is(&leaf(&["www.lab.test"]), nameless(), "L6RSP", "not for 127.0.0.1");
}

#[test]
fn a_server_without_tls_is_l6rsp() {
    let address = serve(|mut stream| {
        let _ = stream.read(&mut [0; 512]);
        let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n");
    });
    let result = probe(address, https("www.lab.test", false), LONG);
    assert_eq!(result.status, CheckStatus::L6Response);
    assert_eq!(result.detail, "the server does not speak TLS");
    let address = serve(|mut stream| {
        let _ = stream.read(&mut [0; 4096]);
    });
    let result = probe(address, https("www.lab.test", false), LONG);
    assert_eq!(result.status, CheckStatus::L6Response);
    assert!(result.detail.contains("in the TLS handshake"), "{result:?}");
}

#[test]
fn a_handshake_that_does_not_end_is_l6tout() {
    let (done, wait) = mpsc::channel::<()>();
    let address = serve(move |_stream| {
        let _ = wait.recv();
    });
    let result = probe(address, https("www.lab.test", false), SHORT);
    assert_eq!(result.status, CheckStatus::L6Timeout, "{result:?}");
    drop(done);
}
