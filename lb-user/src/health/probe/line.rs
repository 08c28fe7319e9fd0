//! The line of one probe: where its packets go, and what their sockets need for that.
//!
//! Must not know: what is said over the line, deadlines.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use socket2::{Domain, Protocol, SockRef, Socket, Type};

use crate::health::probe::outcome;
use crate::health::report::{CheckStatus, ProbeResult, Target};
use crate::health::ways::{Known, Marked, Ways};
use crate::model::Via;

/// How one probe's packets get to its target.
#[derive(Clone, Debug)]
pub(super) struct Line {
    /// What sockets are connected to: always the real server's own address.
    pub(super) address: SocketAddr,
    /// By way of the service.
    way: Option<Marked>,
}

impl Line {
    /// The line of a target by now, or why there is none.
    pub(super) fn of(target: &Target, ways: &Ways) -> Result<Self, ProbeResult> {
        let way = match target.check.via {
            Via::Direct => Ok(None),
            // One that no server uses is not asked about; if it were, it would not be directly.
            Via::Service(None) => Err(Known::NoNextHop),
            Via::Service(Some(way)) => ways.find(&way).map(Some),
        };
        let way = way.map_err(|why| match why {
            Known::Failed(why) => outcome(CheckStatus::SocketError, why),
            Known::Ready(_) | Known::NoNextHop => {
                let what = "the real server's next hop is not known, or does not answer";
                outcome(CheckStatus::L4Con, what)
            }
        })?;
        Ok(Self { address: target.address, way })
    }

    /// A line to an address itself.
    #[cfg(test)]
    pub(super) const fn direct(address: SocketAddr) -> Self {
        Self { address, way: None }
    }

    /// What the probe asks for, as clients know it: with a service between, its virtual address.
    pub(super) fn named(target: &Target) -> SocketAddr {
        let way = target.check.via.way();
        SocketAddr::new(way.map_or(target.address.ip(), |way| way.vip), target.address.port())
    }

    /// A TCP socket for this line that is not connected yet.
    pub(super) fn tcp_socket(&self) -> io::Result<tokio::net::TcpSocket> {
        let socket = Socket::new(
            Domain::for_address(self.address),
            Type::STREAM.nonblocking().cloexec(),
            Some(Protocol::TCP),
        )?;
        self.steer(&socket)?;
        Ok(tokio::net::TcpSocket::from_std_stream(socket.into()))
    }

    /// A UDP socket for this line that is not connected yet.
    pub(super) fn udp_socket(&self) -> io::Result<Socket> {
        let kind = Type::DGRAM.nonblocking().cloexec();
        let socket = Socket::new(Domain::for_address(self.address), kind, Some(Protocol::UDP))?;
        self.steer(&socket)?;
        Ok(socket)
    }

    /// Makes a socket send by this line; to be called before it is bound or connected. Does
    /// nothing when the line is direct.
    pub(super) fn steer<'s>(&self, socket: impl Into<SockRef<'s>>) -> io::Result<()> {
        let Some(way) = &self.way else { return Ok(()) };
        let socket = socket.into();
        socket.set_mark(way.mark)?;
        if socket.r#type()? == Type::STREAM {
            // Ends of earlier connections to other servers hold ports as well.
            socket.set_reuse_address(true)?;
            if way.tunnel {
                // What the server is sent fits, whatever else the way has before it.
                socket.set_tcp_mss(TUNNEL_MSS)?;
            }
        }
        let any = match self.address {
            SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
            SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
        };
        let mut result = Ok(());
        for _ in 0..MAX_PORTS {
            result = socket.bind(&SocketAddr::new(any, way.next_port()).into());
            match &result {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                _ => break,
            }
        }
        result
    }
}

/// The smallest MTU of IPv6 (1280) without the headers of a tunnel over IPv6 and of IPv6 and TCP.
const TUNNEL_MSS: u32 = 1280 - 40 - 60;
/// Ports that are tried: others may be programs' own.
const MAX_PORTS: usize = 64;
