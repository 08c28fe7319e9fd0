//! Questions at a steady rate, and when nobody answered them.
//!
//! `probe` sends a numbered datagram every `--every-us` and writes down who answered which. A line
//! `mark` on stdin begins a new window, `report` tells of it. A gap is the time between the sending
//! of two questions in a row that were answered, so an answer that is late counts for the time of
//! its question. `probe-server` answers with its name.
//!
//! Must not know: what happens meanwhile.

use crate::args::Args;
use crate::{say, until_stdin_closes};
use anyhow::{Context, Result, bail};
use nix::poll::{PollFd, PollFlags, ppoll};
use nix::sys::time::TimeSpec;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::BufRead;
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsFd;
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;
use std::time::{Duration, Instant};

/// `probe-server`.
pub(crate) fn serve(args: &Args) -> Result<()> {
    let name: &'static str = args.text("name")?.to_string().leak();
    let bind = args.text("bind")?;
    let socket = UdpSocket::bind(bind).with_context(|| format!("listen on {bind}"))?;
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((length, from)) = socket.recv_from(&mut buffer) {
            let answer = [&buffer[..length.min(NUMBER)], name.as_bytes()].concat();
            let _ = socket.send_to(&answer, from);
        }
    });
    until_stdin_closes()
}

/// `probe`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let to: SocketAddr = args.text("to")?.parse().context("--to")?;
    let every = Duration::from_micros(args.value("every-us", 1000)?);
    let any = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    // Not connected: a host that answers for an address may do so from another of its own.
    let socket = UdpSocket::bind(any)?;
    socket.set_nonblocking(true)?;
    let (sender, commands) = channel();
    thread::spawn(move || {
        for line in std::io::stdin().lock().lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    say("ready")?;
    Probe { socket, to, every, asked: Vec::new(), mark: Instant::now() }.run(&commands)
}

struct Probe {
    socket: UdpSocket,
    to: SocketAddr,
    every: Duration,
    asked: Vec<Question>,
    mark: Instant,
}

struct Question {
    sent: Instant,
    by: Option<String>,
}

impl Probe {
    fn run(&mut self, commands: &Receiver<String>) -> Result<()> {
        let mut next = Instant::now();
        loop {
            match commands.try_recv() {
                Ok(command) => self.obey(&command)?,
                Err(TryRecvError::Empty) => {}
                Err(TryRecvError::Disconnected) => return Ok(()),
            }
            let now = Instant::now();
            if now >= next {
                let number = u32::try_from(self.asked.len()).context("too many questions")?;
                self.asked.push(Question { sent: now, by: None });
                // Without a route or a neighbour a question is lost like any other.
                let _ = self.socket.send_to(&number.to_be_bytes(), self.to);
                // One that is late does not make the next ones early.
                next = (next + self.every).max(now);
            }
            self.wait_until(next)?;
            self.receive();
        }
    }

    fn wait_until(&self, next: Instant) -> Result<()> {
        let left = next.saturating_duration_since(Instant::now());
        let mut polled = [PollFd::new(self.socket.as_fd(), PollFlags::POLLIN)];
        ppoll(&mut polled, Some(TimeSpec::from(left)), None)?;
        Ok(())
    }

    fn receive(&mut self) {
        let mut buffer = [0; 64];
        while let Ok(length) = self.socket.recv(&mut buffer) {
            let Some((number, name)) = buffer[..length].split_first_chunk::<NUMBER>() else {
                continue;
            };
            let index = u32::from_be_bytes(*number) as usize;
            if let Some(question) = self.asked.get_mut(index) {
                question.by.get_or_insert_with(|| String::from_utf8_lossy(name).into_owned());
            }
        }
    }

    fn obey(&mut self, command: &str) -> Result<()> {
        match command {
            "mark" => {
                self.mark = Instant::now();
                say(json!({}))
            }
            "report" => say(self.report()),
            _ => bail!("{command:?} is no command"),
        }
    }

    /// The window from the mark on, with the gap that the mark lies in.
    fn report(&self) -> Value {
        let micros = |span: Duration| u64::try_from(span.as_micros()).unwrap_or(u64::MAX);
        let since = |at: Instant| micros(at.saturating_duration_since(self.mark));
        let answered: Vec<&Question> =
            self.asked.iter().filter(|question| question.by.is_some()).collect();
        let before = answered.partition_point(|question| question.sent < self.mark);
        let window = &answered[before.saturating_sub(1)..];
        let gaps = window.windows(2).map(|pair| (pair[1].sent - pair[0].sent, pair[0].sent));
        let (gap, from) = gaps.max_by_key(|(gap, _)| *gap).unwrap_or((Duration::ZERO, self.mark));
        let open = window.last().map_or(self.mark, |last| last.sent).elapsed();
        let mut first: BTreeMap<&str, u64> = BTreeMap::new();
        let mut count: BTreeMap<&str, u64> = BTreeMap::new();
        for question in &answered[before..] {
            let name = question.by.as_deref().unwrap_or_default();
            first.entry(name).or_insert_with(|| since(question.sent));
            *count.entry(name).or_default() += 1;
        }
        json!({
            "sent": self.asked.iter().filter(|question| question.sent >= self.mark).count(),
            "answered": count,
            "first_us": first,
            "longest_gap_us": micros(gap),
            "gap_from_us": since(from),
            "open_gap_us": micros(open),
        })
    }
}

/// Bytes of a question's number.
const NUMBER: usize = 4;
