//! The plane on a loopback port, with a controller that answers everything.
//!
//! The whole table of wrong requests runs in the lab, against the real daemon.
//!
//! Must not know: what a change does.

use std::io::{Read as _, Write as _};
use std::net::{Ipv4Addr, TcpStream};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use tokio::sync::oneshot;

use super::auth::tests::user;
use super::*;
use crate::config;
use crate::controller::document::{Reload, Status};
use crate::controller::request::{Document, Refusal, RefusalKind, Verb};
use crate::model::{AdminHttp, Role};

/// A plane with its own runtime, and what its controller was asked to change.
struct Rig {
    plane: Arc<Plane<Request>>,
    asked: Arc<Mutex<Vec<Verb>>>,
    director: Director,
    /// The runtime's thread ends when this is dropped.
    _running: oneshot::Sender<()>,
}

impl Rig {
    /// With an admin, `ada`, and a reader, `bob`, whose passwords are their names.
    fn new() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let (running, stopped) = oneshot::channel();
        let (sender, mut requests) = mpsc::channel::<Request>(4);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        runtime.spawn(async move {
            while let Some(request) = requests.recv().await {
                let reply = match &request.verb {
                    Verb::Status => Ok(Document::Status(Status::default())),
                    Verb::Stats => Ok(Document::Stats(Default::default())),
                    Verb::Reload => Ok(Document::Reload(Reload::default())),
                    _ => Err(Refusal::new(RefusalKind::NotFound, "there is none")),
                };
                seen.lock().expect("not poisoned").push(request.verb.clone());
                request.answer(reply);
            }
        });
        let plane = Plane::new(sender, runtime.handle().clone()).expect("a plane");
        let mut director = config::load("f", "admin: {http: {}}", "lb01").expect("a file").director;
        let users = vec![user("ada", "ada", Role::Admin), user("bob", "bob", Role::ReadOnly)];
        let http = director.admin.http.as_mut().expect("admin.http");
        (http.users, http.bind) = (users, free_port());
        std::thread::spawn(move || drop(runtime.block_on(stopped)));
        let rig = Self { plane: Arc::new(plane), asked, director, _running: running };
        rig.plane.stage(&rig.director).expect("staged");
        rig.plane.commit();
        rig
    }

    fn http(&mut self) -> &mut AdminHttp {
        self.director.admin.http.as_mut().expect("admin.http")
    }

    fn apply(&self) {
        self.plane.stage(&self.director).expect("staged");
        self.plane.commit();
    }

    fn bind(&self) -> SocketAddr {
        self.director.admin.http.as_ref().expect("admin.http").bind
    }

    /// Sends `METHOD PATH`, headers and a body as `user`, and gives status and the whole answer.
    fn ask(&self, user: &str, request: &str, headers: &[&str], body: &str) -> (u16, String) {
        let mut text = format!("{request} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n");
        if !user.is_empty() {
            let encoded = BASE64_STANDARD.encode(format!("{user}:{user}"));
            text.push_str(&format!("Authorization: Basic {encoded}\r\n"));
        }
        for header in headers {
            text.push_str(&format!("{header}\r\n"));
        }
        text.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
        exchange(self.bind(), &text)
    }

    fn changes(&self) -> Vec<Verb> {
        let asked = self.asked.lock().expect("not poisoned");
        let is_change = |verb: &&Verb| crate::admin::audit::change(verb).is_some();
        asked.iter().filter(is_change).cloned().collect()
    }
}

fn free_port() -> SocketAddr {
    let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    free.local_addr().expect("an address")
}

fn exchange(to: SocketAddr, text: &str) -> (u16, String) {
    // Nobody listens there: no status.
    let Ok(mut stream) = TcpStream::connect(to) else { return (0, String::new()) };
    stream.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let _closed = stream.write_all(text.as_bytes());
    let mut answer = Vec::new();
    let _reset = stream.read_to_end(&mut answer);
    let answer = String::from_utf8_lossy(&answer).into_owned();
    let status = answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0);
    (status, answer)
}

/// The value of the page's hidden field.
fn token(page: &str) -> String {
    let (_, rest) = page.split_once("data-token=\"").expect("a token");
    rest.split('"').next().expect("its end").to_owned()
}

const JSON: &str = "Content-Type: application/json";
const FORM: &str = "Content-Type: application/x-www-form-urlencoded";

#[test]
fn users_are_asked_for_and_roles_hold() {
    let rig = Rig::new();
    let (status, answer) = rig.ask("", "GET /stats", &[], "");
    assert_eq!(status, 401);
    assert!(answer.contains("www-authenticate: Basic realm=\"lb\""), "{answer}");
    assert!(!answer.to_lowercase().contains(env!("CARGO_PKG_VERSION")), "{answer}");
    for path in ["/metrics", "/api/v1/status", "/api/v1/openapi.json", "/nothing"] {
        assert_eq!(rig.ask("", &format!("GET {path}"), &[], "").0, 401, "{path}");
    }
    assert_eq!(rig.ask("eve", "HEAD /stats", &[], "").0, 401);
    let (status, page) = rig.ask("bob", "GET /stats", &[], "");
    assert_eq!(status, 200);
    for header in [
        "content-security-policy: default-src 'none'",
        "x-frame-options: DENY",
        "x-content-type-options: nosniff",
        "referrer-policy: same-origin",
        "cache-control: no-store",
    ] {
        assert!(page.contains(header), "{header}: {page}");
    }
    assert_eq!(rig.ask("bob", "GET /stats;csv", &[], "").0, 200);
    assert_eq!(rig.ask("bob", "GET /api/v1/status", &[], "").0, 200);
    assert_eq!(rig.ask("bob", "POST /api/v1/reload", &[JSON], "{}").0, 403);
    assert_eq!(rig.changes(), []);
    assert_eq!(rig.ask("ada", "POST /api/v1/reload", &[JSON], "{}").0, 200);
    assert_eq!(rig.changes(), [Verb::Reload]);
}

#[test]
fn a_change_that_may_be_another_sites_is_refused() {
    let rig = Rig::new();
    let (_, page) = rig.ask("ada", "GET /stats", &[], "");
    let token = format!("X-CSRF-Token: {}", token(&page));
    let reload = |headers: &[&str]| rig.ask("ada", "POST /api/v1/reload", headers, "").0;
    assert_eq!(reload(&[]), 403);
    assert_eq!(reload(&["Content-Type: text/plain"]), 415);
    assert_eq!(reload(&[JSON, "Origin: http://evil.test"]), 403);
    assert_eq!(reload(&[JSON, "Sec-Fetch-Site: cross-site"]), 403);
    assert_eq!(reload(&["X-CSRF-Token: x"]), 403);
    assert_eq!(rig.changes(), []);
    assert_eq!(reload(&[&token, "Origin: http://localhost"]), 200);
    assert_eq!(reload(&[&token]), 403, "a token is good once");
    assert_eq!(rig.changes(), [Verb::Reload]);
}

#[test]
fn the_form_answers_with_the_page_and_its_result() {
    let rig = Rig::new();
    let (_, page) = rig.ask("ada", "GET /stats", &[], "");
    let form = format!("s=10.0.0.1:80&b=web&action=drain&csrf_token={}", token(&page));
    assert_eq!(rig.ask("bob", "POST /stats", &[FORM], &form).0, 403);
    assert_eq!(rig.ask("ada", "POST /stats", &[FORM, "Origin: null"], &form).0, 403);
    assert_eq!(rig.ask("ada", "POST /stats", &[JSON], &form).0, 415);
    let (status, answer) = rig.ask("ada", "POST /stats", &[FORM], &form);
    assert_eq!(status, 303, "{answer}");
    assert!(answer.contains("location: /stats?st="), "{answer}");
    let (_, page) = rig.ask("ada", "GET /stats?st=DENY", &[], "");
    assert!(page.contains("drain web/10.0.0.1:80: refused: "), "{page}");
    let (_, page) = rig.ask("bob", "GET /stats?st=DENY", &[], "");
    assert!(!page.contains("10.0.0.1"), "another's result is shown: {page}");
    let (status, answer) = rig.ask("ada", "POST /stats", &[FORM], &form);
    assert_eq!(status, 403, "{answer}");
    assert!(answer.contains("used before"), "{answer}");
}

#[test]
fn a_reload_changes_users_at_once_and_the_port_by_binding_first() {
    let mut rig = Rig::new();
    assert_eq!(rig.ask("bob", "GET /stats", &[], "").0, 200);
    rig.http().users.retain(|user| user.name != "bob");
    rig.apply();
    assert_eq!(rig.ask("bob", "GET /stats", &[], "").0, 401, "remembered too long");
    let (old, taken) = (rig.bind(), TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port"));
    rig.http().bind = taken.local_addr().expect("an address");
    let errors = rig.plane.stage(&rig.director).expect_err("the port is taken");
    assert!(errors[0].starts_with("admin.http.bind: cannot listen on 127.0.0.1:"), "{errors:?}");
    rig.plane.commit();
    rig.http().bind = old;
    assert_eq!(rig.ask("ada", "GET /stats", &[], "").0, 200, "what was refused changed nothing");
    rig.http().bind = free_port();
    rig.apply();
    assert_eq!(rig.ask("ada", "GET /stats", &[], "").0, 200);
    rig.plane.roll_back();
    rig.http().bind = old;
    // It is bound again once whoever served the other address has closed it.
    let served = || rig.ask("ada", "GET /stats", &[], "").0 == 200;
    assert!(within_ten_seconds(served), "rolled back");
    rig.director.admin.http = None;
    rig.apply();
    let gone = || TcpStream::connect(old).is_err();
    assert!(within_ten_seconds(gone), "the port is still served");
}

/// The old address and the new one cannot be bound at once.
#[test]
fn a_reload_moves_between_one_address_and_all_of_a_port() {
    let mut rig = Rig::new();
    let own = rig.bind();
    for ip in [Ipv4Addr::UNSPECIFIED, Ipv4Addr::LOCALHOST] {
        rig.http().bind = SocketAddr::from((ip, own.port()));
        rig.apply();
        let served = || {
            let asked = "GET /stats HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
            exchange(own, asked).0 == 401
        };
        assert!(within_ten_seconds(served), "{ip}");
    }
}

fn within_ten_seconds(holds: impl Fn() -> bool) -> bool {
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        if holds() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    false
}

#[test]
fn without_users_this_host_may_look_and_nobody_may_change() {
    let mut rig = Rig::new();
    rig.http().users.clear();
    rig.apply();
    assert_eq!(rig.ask("", "GET /stats", &[], "").0, 200);
    assert_eq!(rig.ask("", "POST /api/v1/reload", &[JSON], "{}").0, 403);
    let foreign = "GET /stats HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n";
    assert_eq!(exchange(rig.bind(), foreign).0, 421, "a name that was made to point here");
    let none = "GET /stats HTTP/1.1\r\nConnection: close\r\n\r\n";
    assert_eq!(exchange(rig.bind(), none).0, 400);
    assert_eq!(rig.changes(), []);
}
