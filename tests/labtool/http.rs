//! A tiny HTTP/1.1 server that answers with its name, and a client that counts the names.
//!
//! `GET /bytes/N` streams N bytes instead. Connections are kept alive unless the request says
//! `Connection: close`. The server logs nothing and runs one thread per connection.
//!
//! Must not know: how often it is asked, and by whom.

use crate::args::Args;
use crate::{say, until_stdin_closes};
use anyhow::{Context, Result, bail};
use nix::sched::{CpuSet, sched_setaffinity};
use nix::unistd::Pid;
use serde_json::json;
use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

/// `http`: serves until stdin closes.
pub(crate) fn serve(args: &Args) -> Result<()> {
    let name: &'static str = args.text("name")?.to_string().leak();
    for bind in args.all("bind") {
        let listener = TcpListener::bind(bind).with_context(|| format!("listen on {bind}"))?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || answer_all(name, &stream));
            }
        });
    }
    until_stdin_closes()
}

fn answer_all(name: &str, stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_write_timeout(Some(IDLE))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream);
    while let Some(request) = Request::read(&mut reader)? {
        let mut out = stream;
        match request.path.strip_prefix("/bytes/").and_then(|n| n.parse::<u64>().ok()) {
            Some(length) => {
                write!(out, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n")?;
                io::copy(&mut io::repeat(b'x').take(length), &mut out)?;
            }
            None => {
                let body = format!("{name}\n");
                let length = body.len();
                out.write_all(
                    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{body}").as_bytes(),
                )?;
            }
        }
        if request.close {
            break;
        }
    }
    Ok(())
}

struct Request {
    path: String,
    close: bool,
}

impl Request {
    /// The next request of a connection; `None` when the client has closed it.
    fn read(reader: &mut impl BufRead) -> io::Result<Option<Self>> {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let path = line.split(' ').nth(1).unwrap_or("/").to_string();
        let mut close = false;
        loop {
            line.clear();
            if reader.read_line(&mut line)? == 0 {
                return Ok(None);
            }
            let header = line.trim_end().to_ascii_lowercase();
            if header.is_empty() {
                return Ok(Some(Self { path, close }));
            }
            close |= header == "connection: close";
        }
    }
}

/// `get`: `--count` requests, each on a connection of its own.
pub(crate) fn get(args: &Args) -> Result<()> {
    let target = Target::parse(args.text("url")?)?;
    let count: u64 = args.value("count", 1)?;
    let timeout = args.millis("timeout-ms", 3000)?;
    let both_cpus = args.text("cpus").is_ok_and(|cpus| cpus == "both");
    let (next, tally) = (AtomicU64::new(0), Mutex::new(Tally::default()));
    thread::scope(|scope| {
        for _ in 0..args.value("concurrency", 4)? {
            scope.spawn(|| {
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= count {
                        break;
                    }
                    let answer = if both_cpus { pin(n) } else { Ok(()) }
                        .and_then(|()| Connection::open(target.address, timeout))
                        .and_then(|mut connection| connection.ask(&target, false));
                    if let Ok(mut tally) = tally.lock() {
                        tally.add(answer);
                    }
                }
            });
        }
        anyhow::Ok(())
    })?;
    let tally = tally.into_inner().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
    say(tally.json())
}

/// Puts the calling thread on CPU 0 or 1 by turns, where there are two.
fn pin(turn: u64) -> io::Result<()> {
    let cpus = thread::available_parallelism().map_or(1, usize::from).min(2);
    let mut set = CpuSet::new();
    set.set(usize::try_from(turn).unwrap_or(0) % cpus)?;
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// What is asked for, and where.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) address: SocketAddr,
    path: String,
}

impl Target {
    /// Reads `http://ADDRESS:PORT/PATH`; names are not resolved.
    pub(crate) fn parse(url: &str) -> Result<Self> {
        let rest = url.strip_prefix("http://").with_context(|| format!("{url:?}: no http://"))?;
        let (address, path) = rest.split_once('/').unwrap_or((rest, ""));
        let Ok(address) = address.parse() else { bail!("{url:?}: no ADDRESS:PORT") };
        Ok(Self { address, path: format!("/{path}") })
    }
}

/// A client's connection.
pub(crate) struct Connection {
    reader: BufReader<TcpStream>,
    timeout: Duration,
}

impl Connection {
    pub(crate) fn open(address: SocketAddr, timeout: Duration) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, timeout)
            .map_err(|error| named("connect", &error))?;
        stream.set_nodelay(true)?;
        Ok(Self { reader: BufReader::new(stream), timeout })
    }

    /// One request; returns the body, which has to be complete.
    pub(crate) fn ask(&mut self, target: &Target, keep_alive: bool) -> io::Result<String> {
        let Target { address, path } = target;
        let connection = if keep_alive { "keep-alive" } else { "close" };
        let deadline = Instant::now() + self.timeout;
        self.limit(deadline)?;
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: {connection}\r\n\r\n");
        self.reader.get_mut().write_all(request.as_bytes()).map_err(|e| named("send", &e))?;
        let mut line = String::new();
        let mut length = 0;
        while line != "\r\n" {
            line.clear();
            self.limit(deadline)?;
            if self.reader.read_line(&mut line).map_err(|e| named("read", &e))? == 0 {
                return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed before the end"));
            }
            if line.starts_with("HTTP/") && !line.contains(" 200 ") {
                return Err(io::Error::other(line.trim_end().to_string()));
            }
            if let Some(value) = line.strip_prefix("Content-Length: ") {
                length = value.trim_end().parse().map_err(io::Error::other)?;
            }
        }
        let mut body = vec![0; length];
        self.limit(deadline)?;
        self.reader.read_exact(&mut body).map_err(|error| named("read", &error))?;
        Ok(String::from_utf8_lossy(&body).trim_end().to_string())
    }

    fn limit(&self, deadline: Instant) -> io::Result<()> {
        let left = deadline.saturating_duration_since(Instant::now()).max(MIN_TIMEOUT);
        self.reader.get_ref().set_read_timeout(Some(left))?;
        self.reader.get_ref().set_write_timeout(Some(left))
    }
}

fn named(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}

/// Answers by name, failures, and their first few distinct reasons.
#[derive(Default)]
pub(crate) struct Tally {
    answers: BTreeMap<String, u64>,
    failed: u64,
    reasons: Vec<String>,
}

impl Tally {
    pub(crate) fn add(&mut self, answer: io::Result<String>) {
        match answer {
            Ok(name) => *self.answers.entry(name).or_default() += 1,
            Err(error) => {
                self.failed += 1;
                let reason = error.to_string();
                if self.reasons.len() < SHOWN_REASONS && !self.reasons.contains(&reason) {
                    self.reasons.push(reason);
                }
            }
        }
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        json!({"answers": self.answers, "failed": self.failed, "reasons": self.reasons})
    }
}

const IDLE: Duration = Duration::from_secs(300);
const MIN_TIMEOUT: Duration = Duration::from_millis(1);
const SHOWN_REASONS: usize = 8;
