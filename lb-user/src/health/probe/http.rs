//! The HTTP probe: one request over a connection of its own, in the clear or over TLS.
//!
//! The status decides unless the check wants something in the body; then at most
//! [`MAX_BODY`] bytes of it are read and searched once they are there or the body has ended. The
//! rest of an answer is never waited for, except for a digest, which is of the whole body. Redirects are answers, not followed. One deadline covers
//! connecting, the handshake and the answer; how far the probe came names its timeout.
//!
//! Must not know: thresholds, states, weights, who asked.

use std::error::Error as _;
use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU16, Ordering};
use std::task::Poll;
use std::time::{Duration, Instant};

use http::header::{ACCEPT, CONNECTION, CONTENT_LENGTH, HOST, USER_AGENT};
use http::{HeaderMap, HeaderValue, Method, Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use md5::{Digest as _, Md5};
use sha2::Sha256;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::health::probe::connect::connect;
use crate::health::probe::line::Line;
use crate::health::probe::tls::{Tls, Trust};
use crate::health::probe::{AGENT, outcome};
use crate::health::report::{CheckStatus, ProbeResult};
use crate::model::{Digest, HttpCheck, Pattern};

/// Bytes of a body that are searched; also the longest head that is taken.
pub(super) const MAX_BODY: usize = 64 * 1024;

/// Bytes of a body that has to have a digest.
const MAX_DIGESTED: usize = 1 << 20;

/// Asks one target, again and again.
#[derive(Debug)]
pub(super) struct HttpProbe {
    check: Arc<HttpCheck>,
    headers: HeaderMap,
    tls: Option<Tls>,
}

/// How far a probe came: read when its time is over.
#[derive(Debug, Default)]
struct Progress {
    stage: AtomicU8,
    /// 0 is no status yet.
    code: AtomicU16,
}

const CONNECT: u8 = 0;
const HANDSHAKE: u8 = 1;
const HEAD: u8 = 2;
const BODY: u8 = 3;

impl Progress {
    fn reach(&self, stage: u8) {
        self.stage.store(stage, Ordering::Relaxed);
    }

    fn code(&self) -> Option<u16> {
        Some(self.code.load(Ordering::Relaxed)).filter(|code| *code != 0)
    }

    fn timed_out(&self, timeout: Duration) -> ProbeResult {
        let (status, what) = match self.stage.load(Ordering::Relaxed) {
            CONNECT => (CheckStatus::L4Timeout, "no answer"),
            HANDSHAKE => (CheckStatus::L6Timeout, "no end of the TLS handshake"),
            HEAD => (CheckStatus::L7Timeout, "connected, but no answer"),
            _ => (CheckStatus::L7Timeout, "no end of the body"),
        };
        outcome(status, format!("{what} within {timeout:?}"))
    }
}

impl HttpProbe {
    /// Prepares what every request has in common. `address` is what is asked for, where the check
    /// names no host.
    pub(super) fn new(address: SocketAddr, check: &Arc<HttpCheck>) -> Self {
        let mut headers = HeaderMap::new();
        headers.insert(HOST, check.host.clone().unwrap_or_else(|| own_host(address, check)));
        headers.insert(USER_AGENT, HeaderValue::from_static(AGENT));
        headers.insert(ACCEPT, HeaderValue::from_static("*/*"));
        let given = check.headers.iter();
        // A field that the check sets replaces the default; one that it sets twice is sent twice.
        for (name, _) in given.clone() {
            headers.remove(name);
        }
        for (name, value) in given {
            headers.append(name, value.clone());
        }
        headers.insert(CONNECTION, HeaderValue::from_static("close"));
        if [Method::POST, Method::PUT, Method::PATCH].contains(&check.method) {
            // RFC 9110, 8.6: these are expected to have a body, even if it is empty.
            headers.insert(CONTENT_LENGTH, HeaderValue::from_static("0"));
        }
        let tls = check.tls.as_ref().map(|tls| Tls::new(address.ip(), tls));
        Self { check: Arc::clone(check), headers, tls }
    }

    /// Asks once.
    pub(super) async fn probe(&self, line: &Line, timeout: Duration, trust: &Trust) -> ProbeResult {
        let started = Instant::now();
        let progress = Progress::default();
        let asked = tokio::time::timeout(timeout, self.ask(line, trust, &progress)).await;
        let result = asked.unwrap_or_else(|_elapsed| progress.timed_out(timeout));
        ProbeResult { duration: started.elapsed(), code: progress.code(), ..result }
    }

    async fn ask(&self, line: &Line, trust: &Trust, progress: &Progress) -> ProbeResult {
        let tls = match &self.tls {
            // What this host has to read for it must not look like a slow server.
            Some(tls) => match tls.connector(trust).await {
                Ok(connector) => Some((tls, connector)),
                Err(result) => return result,
            },
            None => None,
        };
        let stream = match connect(line).await {
            Ok(stream) => stream,
            Err(result) => return result,
        };
        let Some((tls, connector)) = tls else {
            return self.exchange(stream, progress).await;
        };
        progress.reach(HANDSHAKE);
        match tls.handshake(connector, stream).await {
            Ok(stream) => self.exchange(stream, progress).await,
            Err(result) => result,
        }
    }

    async fn exchange<S: AsyncRead + AsyncWrite + Unpin>(
        &self,
        stream: S,
        progress: &Progress,
    ) -> ProbeResult {
        progress.reach(HEAD);
        let mut builder = http1::Builder::new();
        builder.max_buf_size(MAX_BODY);
        let (mut sender, connection) =
            match builder.handshake::<_, Empty<Bytes>>(TokioIo::new(stream)).await {
                Ok(both) => both,
                Err(error) => return broken(&error),
            };
        let mut request = Request::new(Empty::new());
        *request.method_mut() = self.check.method.clone();
        *request.uri_mut() = self.check.path.clone();
        *request.headers_mut() = self.headers.clone();
        let mut answer = pin!(async {
            match sender.send_request(request).await {
                Ok(response) => self.judge(response, progress).await,
                Err(error) => broken(&error),
            }
        });
        let mut connection = Some(pin!(connection));
        // Both are driven here, without a task. What the connection ends with reaches the answer.
        poll_fn(|context| {
            if let Poll::Ready(result) = answer.as_mut().poll(context) {
                return Poll::Ready(result);
            }
            if let Some(driver) = &mut connection
                && driver.as_mut().poll(context).is_ready()
            {
                connection = None;
            }
            answer.as_mut().poll(context)
        })
        .await
    }

    async fn judge(&self, response: Response<Incoming>, progress: &Progress) -> ProbeResult {
        let status = response.status();
        progress.code.store(status.as_u16(), Ordering::Relaxed);
        if !self.check.accepts(status.as_u16()) {
            let reason = status.canonical_reason().unwrap_or("no standard status");
            return outcome(
                CheckStatus::L7Status,
                format!("unexpected status {} {reason}", status.as_u16()),
            );
        }
        if self.check.body.is_none() && self.check.digest.is_none() {
            return outcome(CheckStatus::L7Ok, String::new());
        }
        progress.reach(BODY);
        let mut body = response.into_body();
        let mut seen = Vec::new();
        let mut sum = self.check.digest.map(Sum::new);
        let mut length = 0;
        while sum.is_some() || seen.len() < MAX_BODY {
            match body.frame().await {
                Some(Ok(frame)) => {
                    let data = frame.data_ref().map_or(&[][..], |data| &data[..]);
                    seen.extend_from_slice(&data[..data.len().min(MAX_BODY - seen.len())]);
                    length += data.len();
                    if let Some(sum) = &mut sum {
                        if length > MAX_DIGESTED {
                            let detail = "the body has more than 1 MiB, which is too much for a \
                                          digest";
                            return outcome(CheckStatus::L7Response, detail);
                        }
                        sum.add(data);
                    }
                }
                Some(Err(error)) => return broken(&error),
                None => break,
            }
        }
        if let Some(pattern) = &self.check.body
            && !pattern.is_match(&seen)
        {
            return outcome(CheckStatus::L7Response, not_found(pattern, &seen));
        }
        if let (Some(wanted), Some(sum)) = (self.check.digest, sum) {
            let found = sum.finish();
            if found != wanted {
                let detail = format!("the body ({length} bytes) is {found}, not {wanted}");
                return outcome(CheckStatus::L7Response, detail);
            }
        }
        outcome(CheckStatus::L7Ok, String::new())
    }
}

fn not_found(pattern: &Pattern, seen: &[u8]) -> String {
    let where_ = if seen.len() < MAX_BODY { "the body" } else { "its first 64 KiB" };
    format!(
        "`{}` was not found in {where_} ({} bytes): {}",
        pattern.as_str(),
        seen.len(),
        excerpt(seen)
    )
}

/// A digest in the making.
enum Sum {
    Sha256(Sha256),
    Md5(Md5),
}

impl Sum {
    /// Of the same algorithm.
    fn new(digest: Digest) -> Self {
        match digest {
            Digest::Sha256(_) => Self::Sha256(Sha256::new()),
            Digest::Md5(_) => Self::Md5(Md5::new()),
        }
    }

    fn add(&mut self, data: &[u8]) {
        match self {
            Self::Sha256(sum) => sum.update(data),
            Self::Md5(sum) => sum.update(data),
        }
    }

    fn finish(self) -> Digest {
        match self {
            Self::Sha256(sum) => Digest::Sha256(sum.finalize().into()),
            Self::Md5(sum) => Digest::Md5(sum.finalize().into()),
        }
    }
}

/// The address as a Host header has it, without the scheme's own port.
fn own_host(address: SocketAddr, check: &HttpCheck) -> HeaderValue {
    let usual = if check.tls.is_some() { 443 } else { 80 };
    let text = if address.port() != usual {
        address.to_string()
    } else if address.is_ipv6() {
        format!("[{}]", address.ip())
    } else {
        address.ip().to_string()
    };
    // Addresses are ASCII.
    HeaderValue::from_str(&text).unwrap_or(HeaderValue::from_static("localhost"))
}

/// Connected, but no answer that could be understood.
fn broken(error: &hyper::Error) -> ProbeResult {
    let cause = error.source();
    let io = cause.and_then(|cause| cause.downcast_ref::<io::Error>());
    let ended = io.is_some_and(|io| io.kind() == io::ErrorKind::UnexpectedEof);
    let detail = if ended || error.is_incomplete_message() || error.is_canceled() {
        "the connection was closed before the answer was complete".to_owned()
    } else if let Some(io) = io {
        format!("the connection broke: {io}")
    } else if let (true, Some(cause)) = (error.is_parse(), cause) {
        format!("not an HTTP/1.1 answer: {error}: {cause}")
    } else if error.is_parse() {
        format!("not an HTTP/1.1 answer: {error}")
    } else {
        error.to_string()
    };
    outcome(CheckStatus::L7Response, detail)
}

/// The beginning of a body, on one line.
fn excerpt(body: &[u8]) -> String {
    let text = String::from_utf8_lossy(&body[..body.len().min(LONGEST_EXCERPT)]);
    let shown: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("\"{}\"", shown.trim())
}

/// Bytes of a body that are shown.
const LONGEST_EXCERPT: usize = 64;

#[cfg(test)]
mod tests;
