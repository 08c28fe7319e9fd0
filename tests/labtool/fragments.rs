//! UDP datagrams of 8 KB as IP fragments in any order, and the server that counts them.
//!
//! The client cuts its datagrams itself and sends the pieces through a raw socket, which leaves the
//! headers as they are; answers come through an ordinary one. A datagram is a number and noise; the
//! server answers with the number, how often it came, the datagram's hash, and 8 KB of noise, which
//! its kernel cuts.
//!
//! Must not know: what carries the fragments.

use crate::args::Args;
use crate::noise::{Hash, Noise};
use crate::{say, until_stdin_closes};
use anyhow::{Context, Result, bail, ensure};
use nix::sys::socket::{self, AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType};
use nix::sys::socket::{SockaddrIn, SockaddrIn6};
use serde_json::json;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::thread;
use std::time::{Duration, Instant};

/// `fragment-server`.
pub(crate) fn serve(args: &Args) -> Result<()> {
    for bind in args.all("bind") {
        let socket = UdpSocket::bind(bind).with_context(|| format!("listen on {bind}"))?;
        thread::spawn(move || answer(&socket));
    }
    until_stdin_closes()
}

fn answer(socket: &UdpSocket) -> Result<()> {
    let mut seen: HashMap<(SocketAddr, u64), u64> = HashMap::new();
    let mut buffer = vec![0; 65_536];
    loop {
        let (length, from) = socket.recv_from(&mut buffer)?;
        let Some(number) = number_of(&buffer[..length]) else { continue };
        let times = seen.entry((from, number)).or_default();
        *times += 1;
        // An address that is not there any more is not worth the server.
        let _ = socket.send_to(&reply(number, *times, &buffer[..length]), from);
    }
}

fn number_of(datagram: &[u8]) -> Option<u64> {
    Some(u64::from_be_bytes(*datagram.first_chunk::<8>()?))
}

fn reply(number: u64, times: u64, datagram: &[u8]) -> Vec<u8> {
    let mut hash = Hash::default();
    hash.update(datagram);
    let head = [&number.to_be_bytes()[..], &times.to_be_bytes(), hash.hex().as_bytes()].concat();
    let mut reply = noise(number ^ 0x5555, PAYLOAD);
    reply[..head.len()].copy_from_slice(&head);
    reply
}

fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    Noise::new(seed).fill(&mut bytes);
    bytes
}

fn datagram(number: u64) -> Vec<u8> {
    let mut bytes = noise(number, PAYLOAD);
    bytes[..8].copy_from_slice(&number.to_be_bytes());
    bytes
}

/// What became of the datagrams of one run.
#[derive(Default)]
struct Outcome {
    sent: u64,
    answered: u64,
    wrong: u64,
    repeated: u64,
}

/// `fragment-send`.
pub(crate) fn send(args: &Args) -> Result<()> {
    let to: SocketAddr = args.text("to")?.parse().context("--to")?;
    let count: u64 = args.value("count", 20)?;
    let order = Order::parse(args.text("order")?)?;
    let answers = UdpSocket::bind(if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" })?;
    answers.connect(to)?;
    answers.set_read_timeout(Some(Duration::from_millis(100)))?;
    let mut raw = Raw::open(answers.local_addr()?, to)?;
    raw.room = args.value("room", raw.room)?;
    // Numbers are identifications too: a run has its own, as no sender repeats them within seconds.
    let first: u64 = args.value("first", 1)?;
    let mut dice = Noise::new(first);
    let mut outcome = Outcome::default();
    for number in (first..first + count).step_by(2) {
        let pieces = |id: u64| {
            [number, number + 1].map(|n| {
                let mut sent = datagram(n);
                sent[PAYLOAD / 2] ^= u8::from(args.is_set("flip"));
                raw.cut(&sent, (n ^ id) as u32)
            })
        };
        for piece in order.arrange(pieces(0), &mut dice) {
            raw.send(&piece)?;
        }
        if args.is_set("twice") {
            pieces(1 << 15).iter().flatten().try_for_each(|piece| raw.send(piece))?;
        }
        outcome.sent += 2;
        collect(&answers, number..number + 2, &mut outcome)?;
    }
    // Whatever comes now comes again.
    while answers.recv(&mut [0; 16]).is_ok() {
        outcome.repeated += 1;
    }
    let Outcome { sent, answered, wrong, repeated } = outcome;
    say(json!({ "sent": sent, "answered": answered, "wrong": wrong, "repeated": repeated }))
}

/// Waits for the answers to these datagrams, and for none to come twice.
fn collect(
    answers: &UdpSocket,
    numbers: std::ops::Range<u64>,
    outcome: &mut Outcome,
) -> Result<()> {
    let mut missing: Vec<u64> = numbers.collect();
    let mut buffer = vec![0; 65_536];
    let deadline = Instant::now() + PATIENCE;
    while !missing.is_empty() && Instant::now() < deadline {
        let Ok(length) = answers.recv(&mut buffer) else { continue };
        let found = &buffer[..length];
        let Some(number) = number_of(found) else { bail!("an answer of {length} bytes") };
        match missing.iter().position(|n| *n == number) {
            Some(at) => _ = missing.swap_remove(at),
            None => outcome.repeated += 1,
        }
        if found == reply(number, 1, &datagram(number)) {
            outcome.answered += 1;
        } else {
            outcome.wrong += 1;
        }
    }
    Ok(())
}

/// `fragment-orphans`: later fragments whose first ones are never sent.
pub(crate) fn orphans(args: &Args) -> Result<()> {
    let to: SocketAddr = args.text("to")?.parse().context("--to")?;
    let count: u32 = args.value("count", 1000)?;
    let own = UdpSocket::bind(if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" })?;
    own.connect(to)?;
    let raw = Raw::open(own.local_addr()?, to)?;
    let whole = datagram(1);
    for identification in 0..count {
        raw.send(&raw.cut(&whole, identification).swap_remove(1))?;
    }
    say(json!({ "sent": count }))
}

/// In which order the fragments of two datagrams are sent.
#[derive(Clone, Copy)]
enum Order {
    Forward,
    Reversed,
    Interleaved,
    Shuffled,
}

impl Order {
    fn parse(text: &str) -> Result<Self> {
        Ok(match text {
            "forward" => Self::Forward,
            "reversed" => Self::Reversed,
            "interleaved" => Self::Interleaved,
            "shuffled" => Self::Shuffled,
            _ => bail!("--order {text:?} is none"),
        })
    }

    fn arrange(self, [a, b]: [Vec<Vec<u8>>; 2], dice: &mut Noise) -> Vec<Vec<u8>> {
        let mut all: Vec<Vec<u8>> = match self {
            Self::Interleaved => a.into_iter().zip(b).flat_map(|(a, b)| [a, b]).collect(),
            _ => a.into_iter().chain(b).collect(),
        };
        match self {
            Self::Reversed => all.reverse(),
            Self::Shuffled => {
                for at in (1..all.len()).rev() {
                    all.swap(at, dice.below(at + 1));
                }
            }
            Self::Forward | Self::Interleaved => {}
        }
        all
    }
}

/// A raw socket between two ends.
struct Raw {
    socket: OwnedFd,
    from: SocketAddr,
    to: SocketAddr,
    /// Bytes of a datagram in one fragment.
    room: usize,
}

impl Raw {
    fn open(from: SocketAddr, to: SocketAddr) -> Result<Self> {
        let family = if to.is_ipv6() { AddressFamily::Inet6 } else { AddressFamily::Inet };
        // This protocol means that the headers come with the packet.
        let socket =
            socket::socket(family, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::Raw)
                .context("open a raw socket")?;
        Ok(Self { socket, from, to, room: ROOM })
    }

    fn send(&self, packet: &[u8]) -> Result<()> {
        let fd = self.socket.as_raw_fd();
        let sent = loop {
            let sent = match self.to {
                SocketAddr::V4(to) => {
                    socket::sendto(fd, packet, &SockaddrIn::from(to), MsgFlags::empty())
                }
                SocketAddr::V6(mut to) => {
                    // A raw socket has no port.
                    to.set_port(0);
                    socket::sendto(fd, packet, &SockaddrIn6::from(to), MsgFlags::empty())
                }
            };
            match sent {
                Err(nix::errno::Errno::ENOBUFS) => thread::yield_now(),
                sent => break sent.context("send a fragment")?,
            }
        };
        ensure!(sent == packet.len(), "only {sent} bytes were sent");
        Ok(())
    }

    /// The packets that carry a datagram, in order.
    fn cut(&self, payload: &[u8], identification: u32) -> Vec<Vec<u8>> {
        let udp = self.udp(payload);
        let count = udp.len().div_ceil(self.room);
        let piece = |(n, part): (usize, &[u8])| {
            let (offset, more) = ((n * self.room / 8) as u16, n + 1 < count);
            let head = match (self.from.ip(), self.to.ip()) {
                (IpAddr::V4(from), IpAddr::V4(to)) => {
                    let mut head = vec![0x45, 0];
                    head.extend((20 + part.len() as u16).to_be_bytes());
                    head.extend((identification as u16).max(1).to_be_bytes());
                    head.extend((offset | if more { 0x2000 } else { 0 }).to_be_bytes());
                    head.extend([64, 17, 0, 0]);
                    [&head[..], &from.octets(), &to.octets()].concat()
                }
                _ => {
                    let mut head = vec![0x60, 0, 0, 0];
                    head.extend((8 + part.len() as u16).to_be_bytes());
                    head.extend([44, 64]);
                    head.extend(octets(self.from.ip()));
                    head.extend(octets(self.to.ip()));
                    head.extend([17, 0]);
                    head.extend((offset << 3 | u16::from(more)).to_be_bytes());
                    head.extend(identification.to_be_bytes());
                    head
                }
            };
            [&head[..], part].concat()
        };
        udp.chunks(self.room).enumerate().map(piece).collect()
    }

    fn udp(&self, payload: &[u8]) -> Vec<u8> {
        let length = 8 + payload.len() as u16;
        let mut udp = Vec::new();
        udp.extend(self.from.port().to_be_bytes());
        udp.extend(self.to.port().to_be_bytes());
        udp.extend(length.to_be_bytes());
        udp.extend([0, 0]);
        udp.extend(payload);
        let pseudo = [octets(self.from.ip()), octets(self.to.ip())].concat();
        let tail = [&u32::from(length).to_be_bytes()[..], &[0, 0, 0, 17]].concat();
        let sum = match checksum(&[&pseudo, &tail, &udp]) {
            0 => 0xffff,
            sum => sum,
        };
        udp[6..8].copy_from_slice(&sum.to_be_bytes());
        udp
    }
}

fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// RFC 1071 over parts of even length.
fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

/// Bytes of a datagram's payload, and of an answer's.
const PAYLOAD: usize = 8192;
/// Bytes of a datagram in one fragment: with the headers of IPv6 still within 1500.
const ROOM: usize = 1448;
const PATIENCE: Duration = Duration::from_secs(3);
