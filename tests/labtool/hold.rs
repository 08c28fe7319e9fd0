//! Thousands of open connections, opened and closed on command.
//!
//! The server echoes; the client obeys lines on stdin (`open N`, `close N`, `churn N`, `echo`,
//! `count`) and answers each with one JSON line. Every open and close is confirmed by a round
//! trip: an opened connection has echoed, a closed one (the client closes first) has seen the
//! server's FIN, so that afterwards nothing is in flight.
//!
//! Must not know: what is counted meanwhile.

use crate::args::Args;
use crate::noise::Noise;
use crate::{say, until_stdin_closes};
use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{self, AddressFamily, SockFlag, SockType, SockaddrStorage, sockopt};
use serde_json::json;
use std::io::{self, BufRead, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::thread;
use std::time::Duration;

/// `hold-server`: one thread and poll(2) for all connections of an address.
pub(crate) fn serve(args: &Args) -> Result<()> {
    for bind in args.all("bind") {
        let listener = TcpListener::bind(bind).with_context(|| format!("listen on {bind}"))?;
        listener.set_nonblocking(true)?;
        thread::spawn(move || echo_all(&listener));
    }
    until_stdin_closes()
}

fn echo_all(listener: &TcpListener) -> Result<()> {
    let mut open: Vec<TcpStream> = Vec::new();
    loop {
        let mut polled = vec![PollFd::new(listener.as_fd(), PollFlags::POLLIN)];
        polled.extend(open.iter().map(|stream| PollFd::new(stream.as_fd(), PollFlags::POLLIN)));
        poll(&mut polled, PollTimeout::NONE)?;
        let mut ready = polled.iter().map(|fd| fd.any().unwrap_or(true)).collect::<Vec<_>>();
        drop(polled);
        let mut turn = ready.drain(1..);
        open.retain(|stream| !turn.next().unwrap_or(false) || echo(stream));
        while let Ok((stream, _)) = listener.accept() {
            stream.set_nonblocking(true)?;
            open.push(stream);
        }
    }
}

/// Echoes what there is; `false` when the connection is over.
fn echo(mut stream: &TcpStream) -> bool {
    let mut buffer = [0; 256];
    match stream.read(&mut buffer) {
        Ok(0) => false,
        Ok(length) => stream.write_all(&buffer[..length]).is_ok(),
        Err(error) => error.kind() == io::ErrorKind::WouldBlock,
    }
}

/// `hold`: the client.
pub(crate) fn hold(args: &Args) -> Result<()> {
    let mut holder = Holder {
        to: args.text("to")?.parse().context("--to")?,
        sources: args
            .all("from")
            .map(|from| from.parse().context("--from"))
            .collect::<Result<_>>()?,
        opened: 0,
        noise: Noise::new(args.value("seed", 1)?),
        open: Vec::new(),
        failed: 0,
        reasons: Vec::new(),
    };
    say("ready")?;
    for line in io::stdin().lock().lines() {
        let line = line?;
        let (verb, number) = line.split_once(' ').unwrap_or((&line, "0"));
        let number: usize = number.parse().with_context(|| format!("{line:?}"))?;
        match verb {
            "open" => (0..number).for_each(|_| holder.open()),
            "close" => (0..number).for_each(|_| holder.close()),
            "churn" => (0..number).for_each(|_| holder.churn()),
            "echo" => holder.echo(),
            "count" => {}
            _ => bail!("{line:?} is no command"),
        }
        say(holder.report())?;
    }
    Ok(())
}

struct Holder {
    to: SocketAddr,
    /// Connections come from these by turns; from wherever the kernel likes when there is none.
    sources: Vec<IpAddr>,
    opened: usize,
    noise: Noise,
    open: Vec<TcpStream>,
    failed: u64,
    reasons: Vec<String>,
}

impl Holder {
    fn open(&mut self) {
        if self.open.len() >= MOST {
            return;
        }
        let source = self.sources.get(self.opened % self.sources.len().max(1)).copied();
        self.opened += 1;
        let opened = connect(self.to, source).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_nodelay(true)?;
            round_trip(&stream)?;
            Ok(stream)
        });
        match opened {
            Ok(stream) => self.open.push(stream),
            Err(error) => self.fail("open", &error),
        }
    }

    /// Closes one at random and waits for the server's FIN.
    fn close(&mut self) {
        if self.open.is_empty() {
            return;
        }
        let stream = self.open.swap_remove(self.noise.below(self.open.len()));
        let closed =
            stream.shutdown(Shutdown::Write).and_then(|()| io::copy(&mut &stream, &mut io::sink()));
        if let Err(error) = closed {
            self.fail("close", &error);
        }
    }

    fn churn(&mut self) {
        // At 1,000 open connections either is as likely.
        if self.noise.below(MOST) < self.open.len() { self.close() } else { self.open() }
    }

    /// A round trip on every connection; those that fail are given up.
    fn echo(&mut self) {
        for stream in std::mem::take(&mut self.open) {
            match round_trip(&stream) {
                Ok(()) => self.open.push(stream),
                Err(error) => self.fail("echo", &error),
            }
        }
    }

    fn fail(&mut self, what: &str, error: &io::Error) {
        self.failed += 1;
        self.reasons.push(format!("{what}: {:?}", error.kind()));
    }

    /// What is open, and what has failed since the last report.
    fn report(&mut self) -> serde_json::Value {
        let failed = std::mem::take(&mut self.failed);
        let reasons = std::mem::take(&mut self.reasons);
        json!({"open": self.open.len(), "failed": failed, "reasons": reasons})
    }
}

/// Connects, from an address of choice; with one, the kernel's own patience holds.
fn connect(to: SocketAddr, source: Option<IpAddr>) -> io::Result<TcpStream> {
    let Some(source) = source else { return TcpStream::connect_timeout(&to, PATIENCE) };
    let family = if to.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 };
    let flags = SockFlag::SOCK_CLOEXEC;
    let fd = socket::socket(family, SockType::Stream, flags, None)?;
    socket::setsockopt(&fd, sockopt::IpBindAddressNoPort, &true)?;
    socket::bind(fd.as_raw_fd(), &SockaddrStorage::from(SocketAddr::new(source, 0)))?;
    socket::connect(fd.as_raw_fd(), &SockaddrStorage::from(to))?;
    Ok(TcpStream::from(fd))
}

fn round_trip(mut stream: &TcpStream) -> io::Result<()> {
    stream.write_all(b"ping")?;
    let mut answer = [0; 4];
    stream.read_exact(&mut answer)
}

const MOST: usize = 2000;
const PATIENCE: Duration = Duration::from_secs(3);
