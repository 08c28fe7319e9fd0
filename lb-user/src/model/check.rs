//! Health checks: what is asked, what has to be answered, and how often.
//!
//! Values are compared and hashed whole: equal checks of one address are one probe.
//!
//! Must not know: sockets, thresholds' meaning, YAML.

use std::hash::{Hash, Hasher};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, Uri};
use regex::bytes::{Regex, RegexBuilder};
use rustls::pki_types::ServerName;

use super::check_kind::{Digest, DnsCheck, ExecCheck, GrpcCheck, SmtpCheck, UdpCheck};
use crate::model::ForwardingMethod;

/// A health check with every default applied.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HealthCheck {
    /// What is done.
    pub kind: CheckKind,
    /// Time from one probe's start to the next while the state is certain.
    pub interval: Duration,
    /// The same while the state is in doubt (keepalived delay_before_retry, haproxy fastinter).
    pub retry_interval: Duration,
    /// Time after which a probe without an answer has failed; it covers the whole probe.
    pub timeout: Duration,
    /// Successes in a row that bring a server up.
    pub rise: u32,
    /// Failures in a row that take it down.
    pub fall: u32,
    /// Port to probe; `None` is the real server's own.
    pub port: Option<u16>,
    /// State before the first result.
    pub starts_up: bool,
    /// When changes of state are damped; `None` is never.
    pub flap: Option<Flap>,
    /// How probes get to the server.
    pub via: Via,
}

/// How a probe gets to its server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Via {
    /// To its own address.
    #[default]
    Direct,
    /// As a client's packets do: to the service's virtual address, by its forwarding method.
    /// `None` in a check that no server uses yet.
    Service(Option<Way>),
}

impl Via {
    /// The way by a service.
    pub fn way(&self) -> Option<Way> {
        match self {
            Self::Direct => None,
            Self::Service(way) => *way,
        }
    }

    /// The same for a real server of a service with these virtual addresses.
    ///
    /// # Errors
    /// What does not fit, for people.
    pub fn for_server(
        self,
        vips: &[IpAddr],
        forwarding: ForwardingMethod,
        server: IpAddr,
    ) -> Result<Self, &'static str> {
        if self == Self::Direct {
            return Ok(self);
        }
        let tunnel = match forwarding {
            ForwardingMethod::Dr => false,
            ForwardingMethod::Tunnel => true,
            ForwardingMethod::Nat => {
                return Err(
                    "this check is `via: service`, which is for dr and tunnel: with nat the \
                            real server never sees the virtual address; use one with `via: direct`",
                );
            }
        };
        let vip = vips.iter().find(|vip| vip.is_ipv4() == server.is_ipv4()).ok_or(
            "its check is `via: service`, which needs a `listen` address of the real server's \
             family; add one, or use a check with `via: direct`",
        )?;
        Ok(Self::Service(Some(Way { vip: *vip, server, tunnel })))
    }
}

/// The way of a probe by a service that forwards by dr or tunnel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Way {
    /// The virtual address.
    pub vip: IpAddr,
    /// The real server's own address, of the same family.
    pub server: IpAddr,
    /// Through a tunnel (IP in IP); otherwise by its MAC address.
    pub tunnel: bool,
}

/// Kinds of health check.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum CheckKind {
    /// An ICMP echo request is answered.
    Ping,
    /// A TCP connection is opened and closed.
    Tcp,
    /// A request over HTTP/1.1, or over HTTPS, gets the expected answer.
    Http(Arc<HttpCheck>),
    /// A datagram over UDP is answered as expected, or at least not refused.
    Udp(Arc<UdpCheck>),
    /// A DNS question is answered.
    Dns(Arc<DnsCheck>),
    /// A mail server greets.
    Smtp(Arc<SmtpCheck>),
    /// A gRPC server says that it serves.
    Grpc(Arc<GrpcCheck>),
    /// A command of this host says so.
    Exec(Arc<ExecCheck>),
}

/// A check of type `http` or `https`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HttpCheck {
    /// The method.
    pub method: Method,
    /// Path and query.
    pub path: Uri,
    /// The `Host` header; `None` is the probed address and port.
    pub host: Option<HeaderValue>,
    /// More headers, as they are written.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// Status codes that pass.
    pub status: Vec<RangeInclusive<u16>>,
    /// What the body has to contain.
    pub body: Option<Pattern>,
    /// The digest that the whole body has to have.
    pub digest: Option<Digest>,
    /// How TLS is spoken; `None` is `http`.
    pub tls: Option<TlsCheck>,
}

impl HttpCheck {
    /// Whether a status code passes.
    pub fn accepts(&self, code: u16) -> bool {
        self.status.iter().any(|range| range.contains(&code))
    }
}

/// The TLS part of a check of type `https`.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsCheck {
    /// The name that is asked for (SNI) and that the certificate has to be for; `None` is the
    /// probed address.
    pub name: Option<ServerName<'static>>,
    /// The certificate is verified: chain, dates and name. False accepts any certificate.
    pub verify: bool,
}

/// When changes of state are damped: more than `changes` within `per` hold the target down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flap {
    /// Changes that are still taken.
    pub changes: u32,
    /// Within this time.
    pub per: Duration,
    /// For how long the target is held down.
    pub hold: Duration,
}

/// A compiled regular expression; equal to another of the same text. Clones share the program.
#[derive(Clone, Debug)]
pub struct Pattern(Regex);

impl Pattern {
    /// Compiles a pattern (syntax of the `regex` crate: no look-around, no back-references).
    ///
    /// # Errors
    /// The compiler's message, when it is none or too large.
    pub fn new(text: &str) -> Result<Self, regex::Error> {
        RegexBuilder::new(text).size_limit(MAX_PROGRAM).build().map(Self)
    }

    /// As it is written.
    pub fn as_str(&self) -> &str {
        self.0.as_str()
    }

    /// Whether it is found in `bytes`, in time linear to their number.
    pub fn is_match(&self, bytes: &[u8]) -> bool {
        self.0.is_match(bytes)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.as_str() == other.as_str()
    }
}

impl Eq for Pattern {}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.as_str().hash(state);
    }
}

/// Bytes of a compiled pattern: far more than a check needs.
const MAX_PROGRAM: usize = 1 << 20;
