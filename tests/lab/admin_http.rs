//! The admin plane over TCP under attack: every wrong request gets its status and changes nothing.

use crate::dashboard::{ADAS, BOBS};
use crate::stage::{Method, WEB, file, web};
use anyhow::{Context, Result, ensure};
use harness::config::Config;
use harness::daemon::Daemon;
use harness::process::run;
use harness::topology::{Family, server_address};
use harness::wait::{eventually, seconds};
use harness::web::{basic, exchange, request};
use harness::{Lab, scenario};
use serde_json::Value;
use std::io::{Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// A wrong request, whole, and the status that it gets.
struct Wrong {
    what: String,
    bytes: Vec<u8>,
    status: u16,
}

/// Rows of the table. `ada` and `eve` are admins, `bob` is a reader.
#[derive(Default)]
struct Table(Vec<Wrong>);

impl Table {
    fn row(&mut self, status: u16, who: &str, line: &str, headers: &[&str], body: &str) {
        let password = match who {
            "ada" => "correct horse",
            "bob" => "just looking",
            _ => "second admin",
        };
        let credentials = basic(who, password);
        let mut all: Vec<&str> = headers.to_vec();
        if !who.is_empty() {
            all.push(&credentials);
        }
        let start: String = body.chars().take(60).collect();
        let what = format!("{who} {line} {headers:.80?} {start}");
        self.raw(status, &what, request(line, &all, body).as_bytes());
    }

    /// A change by the API with a JSON body, by an admin.
    fn json(&mut self, status: u16, name: &str, body: &str) {
        self.row(status, "ada", &format!("POST /api/v1/{name}"), &[JSON], body);
    }

    /// The page's form, by an admin.
    fn form(&mut self, status: u16, body: &str) {
        self.row(status, "ada", "POST /stats", &[FORM], body);
    }

    fn raw(&mut self, status: u16, what: &str, bytes: &[u8]) {
        self.0.push(Wrong { what: what.to_owned(), bytes: bytes.to_vec(), status });
    }

    /// Sends all of them.
    fn run(self, lab: &Lab) -> Result<usize> {
        let count = self.0.len();
        let mut faults = Vec::new();
        for Wrong { what, bytes, status } in self.0 {
            let reply = exchange(&lab.director, ADDRESS, &bytes).context(what.clone())?;
            if reply.status != status {
                faults.push(format!("{what}: {} {}, not {status}", reply.status, reply.body));
            }
        }
        ensure!(faults.is_empty(), "{}", faults.join("\n"));
        Ok(count)
    }
}

#[test]
fn wrong_requests_get_their_status_and_change_nothing() {
    scenario(Method::Nat.shape(2), |lab| {
        let lb = Daemon::start(lab, &config(lab))?;
        let before = still(lb.status()?);
        let bans = lb.text(&["bans", "--json"])?;
        let mut table = Table::default();
        strangers(&mut table);
        roles_and_forgery(&mut table);
        parameters(&mut table);
        paths_and_methods(&mut table);
        sizes_and_shapes(&mut table);
        forms(&mut table, lab)?;
        let count = table.run(lab)?;
        ensure!(count >= 60, "only {count} requests");
        let after = still(lb.status()?);
        ensure!(after == before, "{after}\nis not\n{before}");
        ensure!(lb.text(&["bans", "--json"])? == bans, "the bans have changed");
        let log = lb.log();
        let done: Vec<&str> = log.lines().filter(|line| line.ends_with(": done")).collect();
        ensure!(done.is_empty(), "{done:?}");
        ensure!(
            log.contains("admin: bob (from 127.0.0.1) reload: refused: "),
            "bob is not told of"
        );
        ensure!(
            log.contains("wrong password for \"ada\" from 127.0.0.1"),
            "a guess is not told of"
        );

        // The table notices another status.
        let mut planted = Table::default();
        planted.row(200, "bob", "POST /api/v1/reload", &[JSON], "{}");
        ensure!(planted.run(lab).is_err(), "a wrong status goes unnoticed");
        // The same requests, right, do what they say: what was refused above was the difference.
        let drain = format!("{{\"target\":\"web/{}:{WEB}\"}}", server_address(Family::V4, 1));
        let mut right = Table::default();
        right.json(200, "drain", &drain);
        right.run(lab)?;
        let server = lb.real_server("web", &server_address(Family::V4, 1))?;
        ensure!(server["state"] == "drain", "{server}");
        ensure!(still(lb.status()?) != before, "the comparison sees no change");
        Ok(())
    });
}

/// Nobody in particular, and wrong passwords: few, because the sixth would have to wait.
fn strangers(table: &mut Table) {
    for line in ["GET /stats", "GET /stats;csv", "GET /metrics", "GET /api/v1/status", "GET /x"] {
        table.row(401, "", line, &[], "");
    }
    table.row(401, "", "GET /api/v1/openapi.json", &[], "");
    table.row(401, "", "POST /api/v1/reload", &[JSON], "{}");
    table.row(401, "", "POST /stats", &[FORM], "s=x");
    table.row(401, "", "GET /stats", &[&basic("ada", "wrong horse")], "");
    table.row(401, "", "GET /stats", &[&basic("mallory", "correct horse")], "");
    table.row(401, "", "GET /stats", &["Authorization: Bearer YWRh"], "");
    table.row(401, "", "GET /stats", &["Authorization: Basic !!!!"], "");
    table.row(401, "", "GET /stats", &["Authorization: Basic"], "");
}

fn roles_and_forgery(table: &mut Table) {
    let drain = format!("{{\"target\":\"web/{}:{WEB}\"}}", server_address(Family::V4, 1));
    table.row(403, "bob", "POST /api/v1/reload", &[JSON], "{}");
    table.row(403, "bob", "POST /api/v1/drain", &[JSON], &drain);
    table.row(403, "bob", "POST /api/v1/ban?prefix=192.0.2.1", &[JSON], "");
    table.row(403, "bob", "POST /stats", &[FORM], "s=x&b=web&action=drain");
    table.row(403, "ada", "POST /api/v1/reload", &[], "");
    table.row(403, "ada", "POST /api/v1/reload", &["X-CSRF-Token: AAAAAAAAAAAAAAAAAAAAAAAA"], "");
    table.row(403, "ada", "POST /api/v1/drain", &[JSON, "Origin: http://evil.test"], &drain);
    table.row(403, "ada", "POST /api/v1/drain", &[JSON, "Origin: null"], &drain);
    table.row(403, "ada", "POST /api/v1/drain", &[JSON, "Origin: https://127.0.0.1:1080"], &drain);
    table.row(403, "ada", "POST /api/v1/drain", &[JSON, "Sec-Fetch-Site: cross-site"], &drain);
    table.row(403, "ada", "POST /api/v1/drain", &[JSON, "Sec-Fetch-Site: same-site"], &drain);
    table.row(415, "ada", "POST /api/v1/drain", &["Content-Type: text/plain"], &drain);
    table.row(415, "ada", "POST /api/v1/drain", &[FORM], &drain);
}

fn parameters(table: &mut Table) {
    let rs1 = format!("web/{}:{WEB}", server_address(Family::V4, 1));
    table.json(400, "drain", "");
    table.json(400, "drain", "{");
    table.json(400, "drain", "not json");
    table.json(400, "drain", "[]");
    table.json(400, "drain", "null");
    table.json(400, "drain", &format!("{{\"target\":\"{rs1}\",\"force\":true}}"));
    table.json(400, "drain", "{\"target\":7}");
    table.json(400, "drain", "{\"target\":[\"web\"]}");
    table.json(400, "drain", "{\"target\":\"web\"}");
    table.json(400, "drain", "{\"target\":\"web/10.0.0.256:80\"}");
    table.json(400, "drain", &format!("{{\"target\":\"{rs1}\",\"persist\":\"yes\"}}"));
    table.json(400, "weight", &format!("{{\"target\":\"{rs1}\"}}"));
    table.json(400, "weight", &format!("{{\"target\":\"{rs1}\",\"weight\":65536}}"));
    table.json(400, "weight", &format!("{{\"target\":\"{rs1}\",\"weight\":-1}}"));
    table.json(400, "weight", &format!("{{\"target\":\"{rs1}\",\"weight\":\"3\"}}"));
    table.json(400, &format!("drain?target={rs1}"), &format!("{{\"target\":\"{rs1}\"}}"));
    table.json(400, "drain?target=%zz", "");
    table.json(400, "ban", "{\"prefix\":\"everybody\"}");
    table.json(400, "ban", "{\"prefix\":\"192.0.2.1\",\"for_ms\":0}");
    table.json(404, "drain", "{\"target\":\"nothing/10.0.0.1:80\"}");
    table.json(404, "drain", "{\"target\":\"web/192.0.2.77:80\"}");
    table.json(404, "resign", "{\"name\":\"VI_9\"}");
    table.json(404, "unban", "{\"prefix\":\"192.0.2.1\"}");
    table.row(400, "ada", "GET /api/v1/status?x=1", &[], "");
    table.row(400, "ada", "GET /api/v1/connections?limit=many", &[], "");
    table.row(404, "ada", "GET /api/v1/connections?service=nothing", &[], "");
}

fn paths_and_methods(table: &mut Table) {
    for path in [
        "/",
        "/nothing",
        "/stats/",
        "/statsx",
        "/stats;exec",
        "/stats/../metrics",
        "/stats/..%2f..%2fetc/passwd",
        "/api/v1/",
        "/api/v1/../v1/status",
        "/api/v1//status",
        "/api/v1/%73tatus",
        "/api/v1/status/",
        "/api/v2/status",
        "/api/v1/metrics",
        "//api/v1/status",
    ] {
        table.row(404, "ada", &format!("GET {path}"), &[], "");
    }
    table.row(404, "ada", "POST /api/v1/shutdown", &[JSON], "{}");
    for line in [
        "PUT /api/v1/status",
        "POST /api/v1/status",
        "DELETE /stats",
        "POST /stats;csv",
        "POST /metrics",
        "POST /api/v1/openapi.json",
        "GET /api/v1/drain",
        "OPTIONS /api/v1/reload",
        "TRACE /stats",
    ] {
        table.row(405, "ada", line, &[], "");
    }
}

fn sizes_and_shapes(table: &mut Table) {
    let ada = basic("ada", "correct horse");
    table.json(413, "drain", &"x".repeat(70_000));
    table.form(413, &"s=x&".repeat(20_000));
    let chunk = format!("2000\r\n{}\r\n", "x".repeat(0x2000));
    let chunked = format!("{}0\r\n\r\n", chunk.repeat(10));
    let head = format!(
        "POST /api/v1/drain HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{ada}\r\n{JSON}\r\n\
         Transfer-Encoding: chunked\r\n\r\n"
    );
    table.raw(413, "a large body in chunks", (head + &chunked).as_bytes());
    let long = format!("X-Long: {}", "x".repeat(20_000));
    table.row(431, "ada", "GET /stats", &[&long], "");
    let many: Vec<String> = (0..200).map(|n| format!("X-{n}: y")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    table.row(431, "ada", "GET /stats", &many, "");
    let get = |headers: &str| {
        format!("GET /stats HTTP/1.1\r\n{headers}Connection: close\r\n{ada}\r\n\r\n")
    };
    table.raw(400, "no host", get("").as_bytes());
    table.raw(400, "two hosts", get("Host: a\r\nHost: b\r\n").as_bytes());
    table.raw(400, "no HTTP", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n");
    table.raw(400, "no request line", b"GET\r\n\r\n");
    table.raw(400, "a name with a space", get("Host : a\r\n").as_bytes());
    let length = get("Host: a\r\nContent-Length: 5\r\nContent-Length: 6\r\n");
    table.raw(400, "two lengths", length.as_bytes());
}

/// Tokens: missing, made up, another user's, used before. And what else a form can lack.
fn forms(table: &mut Table, lab: &Lab) -> Result<()> {
    let server = format!("{}:{WEB}", server_address(Family::V4, 1));
    let form = |token: &str, rest: &str| format!("s={server}&b=web&csrf_token={token}&{rest}");
    let take = |who: &str, password: &str| -> Result<String> {
        let page = request("GET /stats", &[&basic(who, password)], "");
        let page = exchange(&lab.director, ADDRESS, page.as_bytes())?.body;
        let (_, rest) = page.split_once("data-token=\"").context("the page has no token")?;
        Ok(rest.split('"').next().unwrap_or_default().to_owned())
    };
    let mine = || take("ada", "correct horse");
    let token = mine()?;
    ensure!(token.len() >= 16, "the token is short: {token}");
    table.form(403, &format!("s={server}&b=web&action=drain"));
    table.form(403, &form("", "action=drain"));
    table.form(403, &form("AAAAAAAAAAAAAAAAAAAAAAAA", "action=drain"));
    table.form(403, &form(&token[..token.len() - 4], "action=drain"));
    table.form(403, &form(&take("eve", "second admin")?, "action=drain"));
    table.row(403, "bob", "POST /stats", &[FORM], &form(&token, "action=drain"));
    let foreign = [FORM, "Origin: http://evil.test"];
    table.row(403, "ada", "POST /stats", &foreign, &form(&token, "action=drain"));
    table.row(415, "ada", "POST /stats", &[JSON], &form(&token, "action=drain"));
    // Used: for a server that is not there, so that nothing comes of it. Then played again.
    let none = format!("s=192.0.2.77:80&b=web&csrf_token={token}&action=drain");
    table.form(303, &none);
    table.form(403, &form(&token, "action=drain"));
    table.row(403, "ada", "POST /api/v1/reload", &[&format!("X-CSRF-Token: {token}")], "");
    table.form(400, &form(&mine()?, "action=halt"));
    table.form(400, &form(&mine()?, "x=1&action=drain"));
    table.form(400, &form(&mine()?, "action=drain&b=dns"));
    table.form(400, &form(&mine()?, "action=weight&weight=-1"));
    table.form(400, &form(&mine()?, ""));
    table.form(400, "s=%zz");
    Ok(())
}

#[test]
fn slow_and_many_connections_are_bounded() {
    scenario(Method::Nat.shape(2), |lab| {
        let _lb = Daemon::start(lab, &config(lab))?;
        lab.director.enter(|| {
            let begin = Instant::now();
            let mut slow = TcpStream::connect(ADDRESS)?;
            slow.set_read_timeout(Some(Duration::from_millis(500)))?;
            slow.write_all(b"GET /stats HTTP/1.1\r\nHost: x\r\n")?;
            // A byte of a header now and then holds the connection no longer than the limit.
            eventually(seconds(20), "a slow head is cut off", || {
                let _gone = slow.write_all(b"X");
                match slow.read(&mut [0; 1024]) {
                    Ok(_) => Ok(true),
                    Err(error) => Ok(error.kind() != std::io::ErrorKind::WouldBlock),
                }
            })?;
            let held = begin.elapsed();
            ensure!(held > seconds(5) && held < seconds(16), "cut off after {held:?}");

            let open = || -> Result<TcpStream> {
                let stream = TcpStream::connect(ADDRESS)?;
                stream.set_read_timeout(Some(seconds(5)))?;
                Ok(stream)
            };
            let crowd: Vec<TcpStream> = (0..64).map(|_| open()).collect::<Result<_>>()?;
            let mut one_more = open()?;
            let end = one_more.read(&mut [0; 16]);
            ensure!(matches!(end, Ok(0)), "the 65th connection of one source is {end:?}");
            drop(crowd);
            eventually(seconds(5), "there is room again", || {
                let mut stream = open()?;
                stream.write_all(request("GET /x", &[], "").as_bytes())?;
                let mut start = [0; 12];
                stream.read_exact(&mut start)?;
                Ok(&start == b"HTTP/1.1 401")
            })
        })
    });
}

#[test]
fn guesses_must_wait_and_those_who_are_logged_in_need_not() {
    scenario(Method::Nat.shape(2), |lab| {
        let _lb = Daemon::start(lab, &config(lab))?;
        let ask = |user: &str, password: &str| {
            let page = request("GET /stats", &[&basic(user, password)], "");
            exchange(&lab.director, ADDRESS, page.as_bytes())
        };
        ensure!(ask("ada", "correct horse")?.status == 200, "ada is not let in");
        for _ in 0..6 {
            ensure!(ask("bob", "a guess")?.status == 401, "a guess is not refused");
        }
        let waits = ask("bob", "just looking")?;
        ensure!(waits.status == 429 && waits.head.contains("retry-after: "), "{waits:?}");
        ensure!(ask("ada", "correct horse")?.status == 200, "ada is kept out by guesses");
        eventually(
            seconds(20),
            "the wait is over",
            || Ok(ask("bob", "just looking")?.status == 200),
        )
    });
}

#[test]
fn a_reload_takes_over_users_port_and_certificates_or_refuses_with_a_reason() {
    scenario(Method::Nat.shape(2), |lab| {
        let mut config = config(lab);
        let lb = Daemon::start(lab, &config)?;
        let ask = |to: SocketAddr| {
            let page = request("GET /stats", &[&basic("bob", "just looking")], "");
            exchange(&lab.director, to, page.as_bytes()).map(|reply| reply.status)
        };
        ensure!(ask(ADDRESS)? == 200, "bob is not let in");
        config.admin.retain(|line| !line.contains("bob"));
        lb.reload(&config)?;
        ensure!(ask(ADDRESS)? == 401, "bob is still let in");

        let other = SocketAddr::from((Ipv4Addr::LOCALHOST, 1081));
        config.admin.retain(|line| !line.contains("bind"));
        config.admin.insert(1, "  bind: 127.0.0.1:1081".to_owned());
        lb.reload(&config)?;
        ensure!(ask(other)? == 401, "the new port does not answer");
        ensure!(ask(ADDRESS).is_err(), "the old port still answers");

        config.admin.push("  tls: {certificates: [www]}".to_owned());
        let paths = harness::daemon::Paths::of(lab);
        let text = config.yaml(&paths.pins, &paths.socket)
            + "tls: {certificates: [{name: www, cert: /nowhere/www.pem, key: /nowhere/www.key}]}\n";
        let said = lb.reload_refused(&text)?;
        ensure!(said.contains("tls.certificates, www: /nowhere/www.pem: No such file"), "{said}");
        ensure!(ask(other)? == 401, "a refused file took the page away");

        let made = rcgen::generate_simple_self_signed(vec!["localhost".to_owned()])?;
        let (cert, key) = (lab_path(lab, "www.pem"), lab_path(lab, "www.key"));
        std::fs::write(&cert, made.cert.pem())?;
        std::fs::write(&key, made.signing_key.serialize_pem())?;
        std::fs::write(&paths.config, text.replace("/nowhere/www", cert.trim_end_matches(".pem")))?;
        lb.text(&["reload"])?;
        let mut curl = lab.director.command("curl");
        curl.args(["--silent", "--cacert", &cert, "--resolve", "localhost:1081:127.0.0.1"]);
        curl.args(["--user", "eve:second admin", "https://localhost:1081/stats;csv"]);
        let csv = run(&mut curl)?;
        ensure!(csv.starts_with("# pxname,svname,") && csv.contains("\nweb,BACKEND,"), "{csv}");
        Ok(())
    });
}

/// The status without what moves by itself.
fn still(mut status: Value) -> Value {
    let services = status["virtual_services"].as_array_mut();
    for service in services.into_iter().flatten() {
        for server in service["real_servers"].as_array_mut().into_iter().flatten() {
            if let Some(check) = server["check"].as_object_mut() {
                check.retain(|key, _| !matches!(key.as_str(), "duration_ms" | "probes"));
            }
        }
    }
    status
}

fn config(lab: &Lab) -> Config {
    let service = web(lab, Method::Nat, Family::V4);
    let mut config = file(lab, Method::Nat, Family::V4, service);
    config.admin = vec![
        "http:".to_owned(),
        format!("  bind: {ADDRESS}"),
        "  users:".to_owned(),
        format!("    - {{name: ada, role: admin, password_hash: \"{ADAS}\"}}"),
        format!("    - {{name: bob, role: read-only, password_hash: \"{BOBS}\"}}"),
        format!("    - {{name: eve, role: admin, password_hash: \"{EVES}\"}}"),
    ];
    config
}

fn lab_path(lab: &Lab, name: &str) -> String {
    harness::daemon::Director::dir(lab).path().join(name).display().to_string()
}

const ADDRESS: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 1080);
const JSON: &str = "Content-Type: application/json";
const FORM: &str = "Content-Type: application/x-www-form-urlencoded";
/// Of `second admin`.
const EVES: &str = "$argon2id$v=19$m=1024,t=1,p=1$dGhpcmRzYWx0dGhpcmRzYWx0$hray//RDJw+CnrKJCiPCLPpTf8JqoiQ7nbr1lUxl2Q0";
