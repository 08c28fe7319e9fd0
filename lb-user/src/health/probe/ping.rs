//! The ping probe: an ICMP echo request to an IPv4 or IPv6 host, and its reply.
//!
//! One raw socket for each family serves every target: a request carries an identifier of this
//! process, a sequence number that no other open request has, and a token that makes a reply hard
//! to guess. A socket filter keeps what belongs to others out of the process. A host that is
//! unreachable is told by the ICMP error that embeds our request, or by the kernel's refusal to
//! send. The sockets are opened when first needed; they need CAP_NET_RAW.
//!
//! Must not know: thresholds, states, weights, who asked.

mod packet;

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use socket2::{Domain, Protocol, SockFilter, Socket, Type};
use tokio::net::UdpSocket;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::health::probe::connect::classify;
use crate::health::probe::outcome;
use crate::health::probe::ping::packet::{Echo, Family, Message};
use crate::health::report::{CheckStatus, ProbeResult};

/// Pings any number of hosts.
#[derive(Debug)]
pub(super) struct Pinger {
    v4: Line,
    v6: Line,
}

impl Pinger {
    /// Nothing is opened yet. `seed` chooses identifier and tokens.
    pub(super) fn new(seed: u64) -> Self {
        Self { v4: Line::new(Family::V4, seed), v6: Line::new(Family::V6, seed) }
    }

    /// Asks `host` once.
    pub(super) async fn ping(&self, host: IpAddr, timeout: Duration) -> ProbeResult {
        let line = if host.is_ipv4() { &self.v4 } else { &self.v6 };
        let started = Instant::now();
        let result = match tokio::time::timeout(timeout, line.ping(host)).await {
            Ok(result) => result,
            Err(_elapsed) => {
                outcome(CheckStatus::L4Timeout, format!("no echo reply within {timeout:?}"))
            }
        };
        ProbeResult { duration: started.elapsed(), ..result }
    }
}

/// The socket of one family and who waits at it.
#[derive(Debug)]
struct Line {
    family: Family,
    ident: u16,
    open: Mutex<Option<Open>>,
    waiting: Arc<Mutex<Waiting>>,
}

#[derive(Debug)]
struct Open {
    socket: Arc<UdpSocket>,
    receiver: JoinHandle<()>,
}

impl Drop for Open {
    fn drop(&mut self) {
        self.receiver.abort();
    }
}

/// Requests without an answer, by sequence number.
#[derive(Debug)]
struct Waiting {
    next: u16,
    token: u64,
    requests: HashMap<u16, Waiter>,
}

#[derive(Debug)]
struct Waiter {
    host: IpAddr,
    token: u64,
    answer: oneshot::Sender<Answer>,
}

/// What comes of a request.
#[derive(Debug)]
enum Answer {
    Reply,
    Unreachable(&'static str),
}

impl Line {
    fn new(family: Family, seed: u64) -> Self {
        let token = mix(seed ^ u64::from(family == Family::V6));
        let waiting = Waiting { next: 1, token, requests: HashMap::new() };
        Self {
            family,
            ident: (token >> 48) as u16,
            open: Mutex::new(None),
            waiting: Arc::new(Mutex::new(waiting)),
        }
    }

    async fn ping(&self, host: IpAddr) -> ProbeResult {
        let socket = match self.socket() {
            Ok(socket) => socket,
            Err(error) => {
                let detail = format!("a ping needs CAP_NET_RAW: {error}");
                return outcome(CheckStatus::SocketError, detail);
            }
        };
        let Some((request, answer)) = Request::register(&self.waiting, host) else {
            return outcome(CheckStatus::SocketError, "65536 pings are under way");
        };
        let echo = Echo { ident: self.ident, sequence: request.sequence, token: request.token };
        let packet = echo.request(self.family);
        if let Err(error) = socket.send_to(&packet, SocketAddr::new(host, 0)).await {
            let (status, detail) = classify(&error);
            return outcome(status, detail);
        }
        match answer.await {
            Ok(Answer::Reply) => outcome(CheckStatus::L4Ok, String::new()),
            Ok(Answer::Unreachable(why)) => outcome(CheckStatus::L4Con, why),
            Err(_gone) => outcome(CheckStatus::SocketError, "the ping socket was closed"),
        }
    }

    /// The socket, opened when it is not, or when its receiver has ended.
    fn socket(&self) -> io::Result<Arc<UdpSocket>> {
        let mut open = lock(&self.open);
        if let Some(Open { socket, receiver }) = &*open
            && !receiver.is_finished()
        {
            return Ok(Arc::clone(socket));
        }
        let socket = Arc::new(raw_socket(self.family, self.ident)?);
        let receiver = tokio::spawn(receive(
            Arc::clone(&socket),
            self.family,
            self.ident,
            Arc::clone(&self.waiting),
        ));
        *open = Some(Open { socket: Arc::clone(&socket), receiver });
        Ok(socket)
    }
}

/// A registered request; dropping it gives its sequence number back.
struct Request<'a> {
    waiting: &'a Mutex<Waiting>,
    sequence: u16,
    token: u64,
}

impl<'a> Request<'a> {
    fn register(
        waiting: &'a Mutex<Waiting>,
        host: IpAddr,
    ) -> Option<(Self, oneshot::Receiver<Answer>)> {
        let mut table = lock(waiting);
        if table.requests.len() > usize::from(u16::MAX) {
            return None;
        }
        while table.requests.contains_key(&table.next) {
            table.next = table.next.wrapping_add(1);
        }
        let sequence = table.next;
        table.next = sequence.wrapping_add(1);
        table.token = mix(table.token);
        let token = table.token;
        let (sender, answer) = oneshot::channel();
        table.requests.insert(sequence, Waiter { host, token, answer: sender });
        Some((Self { waiting, sequence, token }, answer))
    }
}

impl Drop for Request<'_> {
    fn drop(&mut self) {
        lock(self.waiting).requests.remove(&self.sequence);
    }
}

impl Waiting {
    /// Gives a message to the request that it belongs to, if there is one.
    fn take(&mut self, from: IpAddr, ident: u16, message: &Message) {
        let (sequence, answer) = match message {
            Message::Reply(echo) if echo.ident == ident => {
                let known = self.requests.get(&echo.sequence);
                if known.is_none_or(|waiter| (waiter.host, waiter.token) != (from, echo.token)) {
                    return;
                }
                (echo.sequence, Answer::Reply)
            }
            // An error comes from any router on the way; what it embeds says about whom.
            Message::Unreachable { ident: of, sequence, to, why } if *of == ident => {
                if self.requests.get(sequence).is_none_or(|waiter| waiter.host != *to) {
                    return;
                }
                (*sequence, Answer::Unreachable(why))
            }
            _ => return,
        };
        if let Some(waiter) = self.requests.remove(&sequence) {
            // Somebody who has given up does not wait for it.
            let _gone = waiter.answer.send(answer);
        }
    }
}

async fn receive(socket: Arc<UdpSocket>, family: Family, ident: u16, waiting: Arc<Mutex<Waiting>>) {
    let mut buffer = [0; 1500];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((length, from)) => {
                if let Some(message) = packet::parse(family, &buffer[..length]) {
                    lock(&waiting).take(from.ip(), ident, &message);
                }
            }
            // Errors of single packets are queued on the socket too.
            Err(error) if error.raw_os_error() != Some(libc::EBADF) => {
                tracing::debug!(%error, "ping socket");
            }
            Err(_) => return,
        }
    }
}

/// A raw ICMP socket that lets only our messages in. It is handled as a UDP socket, which it is
/// not: sending to an address and receiving with the sender's are the same calls.
fn raw_socket(family: Family, ident: u16) -> io::Result<UdpSocket> {
    let (domain, protocol) = match family {
        Family::V4 => (Domain::IPV4, Protocol::ICMPV4),
        Family::V6 => (Domain::IPV6, Protocol::ICMPV6),
    };
    let socket = Socket::new(domain, Type::RAW, Some(protocol))?;
    let program: Vec<SockFilter> = packet::filter(family, ident)
        .into_iter()
        .map(|[code, jt, jf, k]| SockFilter::new(code as u16, jt as u8, jf as u8, k))
        .collect();
    socket.attach_filter(&program)?;
    socket.set_recv_buffer_size(RECEIVE_BUFFER)?;
    socket.set_nonblocking(true)?;
    UdpSocket::from_std(socket.into())
}

/// splitmix64's step.
fn mix(value: u64) -> u64 {
    let mut mixed = value.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For hundreds of replies at once.
const RECEIVE_BUFFER: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use super::*;
    use crate::health::probe::block_on;

    const PATIENCE: Duration = Duration::from_secs(5);

    #[test]
    fn this_host_answers_in_both_families() {
        let results = block_on(async {
            let pinger = Pinger::new(1);
            let mut results = Vec::new();
            for host in ["127.0.0.1", "::1"] {
                results.push(pinger.ping(host.parse().expect("an address"), PATIENCE).await);
            }
            results
        });
        for result in results {
            assert_eq!(result.status, CheckStatus::L4Ok, "{result:?}");
            assert!(result.duration < PATIENCE);
        }
    }

    #[test]
    fn five_hundred_hosts_share_a_socket() {
        let answered = block_on(async {
            let pinger = Pinger::new(2);
            let hosts = (0..500_u16).map(|n| {
                let [high, low] = n.to_be_bytes();
                IpAddr::from([127, 1, high, low])
            });
            let pings = hosts.map(|host| pinger.ping(host, PATIENCE));
            let results = futures::future::join_all(pings).await;
            assert!(lock(&pinger.v4.waiting).requests.is_empty());
            results.iter().filter(|result| result.status == CheckStatus::L4Ok).count()
        });
        assert_eq!(answered, 500);
    }

    #[test]
    fn a_request_that_is_given_up_gives_its_number_back() {
        block_on(async {
            let pinger = Pinger::new(3);
            let host = "127.0.0.1".parse().expect("an address");
            let mut ping = Box::pin(pinger.ping(host, PATIENCE));
            let first = poll_fn(|context| Poll::Ready(ping.as_mut().poll(context))).await;
            assert!(first.is_pending());
            assert_eq!(lock(&pinger.v4.waiting).requests.len(), 1);
            drop(ping);
            assert!(lock(&pinger.v4.waiting).requests.is_empty());
        });
    }

    fn waiting() -> (Mutex<Waiting>, IpAddr) {
        let waiting = Waiting { next: u16::MAX, token: 7, requests: HashMap::new() };
        (Mutex::new(waiting), "192.0.2.1".parse().expect("an address"))
    }

    #[test]
    fn only_the_asked_hosts_own_reply_counts() {
        let (waiting, host) = waiting();
        let (request, mut answer) = Request::register(&waiting, host).expect("room");
        let right = Echo { ident: 5, sequence: request.sequence, token: request.token };
        let other: IpAddr = "192.0.2.2".parse().expect("an address");
        let take = |from, echo| lock(&waiting).take(from, 5, &Message::Reply(echo));
        take(other, right);
        take(host, Echo { ident: 6, ..right });
        take(host, Echo { token: right.token ^ 1, ..right });
        take(host, Echo { sequence: right.sequence ^ 1, ..right });
        assert!(answer.try_recv().is_err(), "a foreign reply was taken");
        take(host, right);
        assert!(matches!(answer.try_recv(), Ok(Answer::Reply)));
    }

    #[test]
    fn an_error_counts_for_the_host_that_it_is_about() {
        let (waiting, host) = waiting();
        let (request, mut answer) = Request::register(&waiting, host).expect("room");
        let router: IpAddr = "192.0.2.254".parse().expect("an address");
        let about =
            |to| Message::Unreachable { ident: 5, sequence: request.sequence, to, why: "x" };
        lock(&waiting).take(router, 5, &about(router));
        assert!(answer.try_recv().is_err());
        lock(&waiting).take(router, 5, &about(host));
        assert!(matches!(answer.try_recv(), Ok(Answer::Unreachable("x"))));
    }

    #[test]
    fn sequence_numbers_in_use_are_skipped() {
        let (waiting, host) = waiting();
        let (first, _a) = Request::register(&waiting, host).expect("room");
        assert_eq!(first.sequence, u16::MAX);
        let (second, _b) = Request::register(&waiting, host).expect("room");
        assert_eq!(second.sequence, 0);
        lock(&waiting).next = u16::MAX;
        let (third, _c) = Request::register(&waiting, host).expect("room");
        assert_eq!(third.sequence, 1);
    }
}
