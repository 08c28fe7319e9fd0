//! Bulk transfers over TCP, compared by SHA-256 at both ends.
//!
//! The client sends one line, `PUT N SEED` or `GET N SEED`; the N bytes that follow are made from
//! the seed. The receiving end hashes what arrives, the sending end what it sent. With `--step`
//! the client waits for a line on stdin after every tenth, so that something can be done to the
//! path in the middle of a transfer. `--flip` damages one byte: the hashes must then differ.
//!
//! Must not know: what carries the bytes.

use crate::args::Args;
use crate::noise::{Hash, Noise};
use crate::{say, until_stdin_closes};
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

/// `tcp-sink`: the end that waits; it receives or sends as it is told.
pub(crate) fn serve(args: &Args) -> Result<()> {
    for bind in args.all("bind") {
        let listener = TcpListener::bind(bind).with_context(|| format!("listen on {bind}"))?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                thread::spawn(move || serve_one(&stream));
            }
        });
    }
    until_stdin_closes()
}

fn serve_one(stream: &TcpStream) -> Result<()> {
    limit(stream)?;
    let (mut reader, mut out) = (BufReader::new(stream), stream);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let words: Vec<&str> = line.split_whitespace().collect();
    let [verb, bytes, seed] = words[..] else { bail!("a bad request: {line:?}") };
    let (bytes, seed) = (bytes.parse()?, seed.parse()?);
    let hash = match verb {
        "PUT" => receive(&mut reader, bytes, |_| Ok(()))?,
        _ => transmit(&mut out, bytes, seed, false, |_| Ok(()))?,
    };
    writeln!(out, "{hash}")?;
    Ok(stream.shutdown(Shutdown::Write)?)
}

/// `tcp-send`: the end that opens the connection.
pub(crate) fn send(args: &Args) -> Result<()> {
    let to = args.text("to")?.parse().context("--to")?;
    let bytes: u64 = args.value("bytes", 50_000_000)?;
    let seed: u64 = args.value("seed", 1)?;
    let up = args.value("direction", "up".to_string())? == "up";
    let step = args.is_set("step");
    let gate = |tenth: u64| if step { wait_for_permission(tenth) } else { Ok(()) };
    let start = Instant::now();
    let stream = TcpStream::connect_timeout(&to, Duration::from_secs(5)).context("connect")?;
    limit(&stream)?;
    let (mut reader, mut out) = (BufReader::new(&stream), &stream);
    writeln!(out, "{} {bytes} {seed}", if up { "PUT" } else { "GET" })?;
    let here = if up {
        transmit(&mut out, bytes, seed, args.is_set("flip"), gate)?
    } else {
        receive(&mut reader, bytes, gate)?
    };
    let mut there = String::new();
    reader.read_line(&mut there).context("read the other end's hash")?;
    say(json!({
        "bytes": bytes,
        "here": here,
        "there": there.trim_end(),
        "millis": start.elapsed().as_millis(),
    }))
}

/// Tells how far the transfer is and waits for a line.
fn wait_for_permission(tenth: u64) -> Result<()> {
    say(json!({ "tenth": tenth }))?;
    let mut line = String::new();
    io::stdin().lock().read_line(&mut line)?;
    Ok(())
}

fn transmit(
    out: &mut impl Write,
    bytes: u64,
    seed: u64,
    flip: bool,
    gate: impl Fn(u64) -> Result<()>,
) -> Result<String> {
    let (mut noise, mut hash, mut progress) =
        (Noise::new(seed), Hash::default(), Progress::new(bytes));
    let mut buffer = [0; CHUNK];
    while progress.left() > 0 {
        let part = &mut buffer[..progress.next(CHUNK)];
        noise.fill(part);
        hash.update(part);
        if flip && progress.done == 0 {
            part[0] ^= 1;
        }
        out.write_all(part).context("send")?;
        progress.advance(part.len(), &gate)?;
    }
    Ok(hash.hex())
}

fn receive(reader: &mut impl Read, bytes: u64, gate: impl Fn(u64) -> Result<()>) -> Result<String> {
    let (mut hash, mut progress) = (Hash::default(), Progress::new(bytes));
    let mut buffer = [0; CHUNK];
    while progress.left() > 0 {
        let want = progress.next(CHUNK);
        let got = reader.read(&mut buffer[..want]).context("receive")?;
        if got == 0 {
            bail!("closed after {} of {bytes} bytes", progress.done);
        }
        hash.update(&buffer[..got]);
        progress.advance(got, &gate)?;
    }
    Ok(hash.hex())
}

/// How much of a transfer is done, and when a tenth is complete.
struct Progress {
    done: u64,
    total: u64,
}

impl Progress {
    fn new(total: u64) -> Self {
        Self { done: 0, total }
    }

    fn left(&self) -> u64 {
        self.total - self.done
    }

    fn next(&self, most: usize) -> usize {
        usize::try_from(self.left()).map_or(most, |left| left.min(most))
    }

    fn advance(&mut self, by: usize, gate: impl Fn(u64) -> Result<()>) -> Result<()> {
        let before = self.tenth();
        self.done += by as u64;
        let now = self.tenth();
        if now > before && now < 10 { gate(now) } else { Ok(()) }
    }

    fn tenth(&self) -> u64 {
        (self.done * 10).checked_div(self.total).unwrap_or(10)
    }
}

fn limit(stream: &TcpStream) -> io::Result<()> {
    stream.set_read_timeout(Some(STALL))?;
    stream.set_write_timeout(Some(STALL))
}

const CHUNK: usize = 64 * 1024;
/// A transfer that moves nothing for so long has failed; the daemon may be restarted meanwhile.
const STALL: Duration = Duration::from_secs(30);
