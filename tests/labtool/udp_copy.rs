//! A stop-and-wait copier over UDP, compared by SHA-256 at both ends.
//!
//! A datagram is an 8-byte sequence number and a payload; an empty payload ends the transfer. The
//! server acknowledges each with its number, and the last with the hash too. The client sends a
//! datagram again when no acknowledgement comes, and counts how often it had to.
//!
//! Must not know: what carries the datagrams.

use crate::args::Args;
use crate::noise::{Hash, Noise};
use crate::{say, until_stdin_closes};
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::collections::HashMap;
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

/// `udp-copy-server`.
pub(crate) fn serve(args: &Args) -> Result<()> {
    for bind in args.all("bind") {
        let socket = UdpSocket::bind(bind).with_context(|| format!("listen on {bind}"))?;
        thread::spawn(move || acknowledge(&socket));
    }
    until_stdin_closes()
}

/// What one client has sent so far.
#[derive(Default)]
struct Copy {
    next: u64,
    hash: Hash,
}

fn acknowledge(socket: &UdpSocket) -> Result<()> {
    let mut clients: HashMap<SocketAddr, Copy> = HashMap::new();
    let mut buffer = [0; 2048];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        let Some((number, payload)) = buffer[..length].split_first_chunk::<8>() else { continue };
        let sequence = u64::from_be_bytes(*number);
        let copy = clients.entry(from).or_default();
        if sequence == copy.next {
            copy.next += 1;
            copy.hash.update(payload);
        }
        let mut answer = number.to_vec();
        if payload.is_empty() {
            answer.extend(copy.hash.clone().hex().bytes());
        }
        socket.send_to(&answer, from)?;
    }
}

/// `udp-copy`.
pub(crate) fn send(args: &Args) -> Result<()> {
    let to: SocketAddr = args.text("to")?.parse().context("--to")?;
    let bytes: usize = args.value("bytes", 5_000_000)?;
    let flip = args.is_set("flip");
    let any = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(PATIENCE))?;
    let (mut noise, mut hash) = (Noise::new(args.value("seed", 1)?), Hash::default());
    let (mut resent, mut sequence, mut left) = (0, 0, bytes);
    let start = Instant::now();
    loop {
        let mut datagram = vec![0; 8 + left.min(PAYLOAD)];
        datagram[..8].copy_from_slice(&u64::to_be_bytes(sequence));
        noise.fill(&mut datagram[8..]);
        hash.update(&datagram[8..]);
        if flip && sequence == 0 && left > 0 {
            datagram[8] ^= 1;
        }
        let answer = exchange(&socket, &datagram, &mut resent)?;
        if left == 0 {
            return say(json!({
                "bytes": bytes,
                "here": hash.hex(),
                "there": String::from_utf8_lossy(&answer),
                "resent": resent,
                "millis": start.elapsed().as_millis(),
            }));
        }
        left -= left.min(PAYLOAD);
        sequence += 1;
    }
}

/// Sends until the acknowledgement of this datagram comes; returns what follows its number.
fn exchange(socket: &UdpSocket, datagram: &[u8], resent: &mut u64) -> Result<Vec<u8>> {
    let mut buffer = [0; 256];
    for attempt in 0..ATTEMPTS {
        *resent += u64::from(attempt > 0);
        // An ICMP error of an earlier datagram is reported here; the attempts decide.
        if socket.send(datagram).is_err() {
            thread::sleep(PATIENCE);
            continue;
        }
        while let Ok(length) = socket.recv(&mut buffer) {
            if buffer[..length].starts_with(&datagram[..8]) {
                return Ok(buffer[8..length].to_vec());
            }
        }
    }
    bail!("no acknowledgement after {ATTEMPTS} attempts")
}

const PAYLOAD: usize = 1200;
const PATIENCE: Duration = Duration::from_millis(200);
const ATTEMPTS: u64 = 50;
