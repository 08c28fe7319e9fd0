//! Opening a TCP connection or a UDP socket, and telling what went wrong by whose fault it is.
//!
//! Must not know: what is said over the connection, deadlines.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use tokio::net::{TcpStream, UdpSocket};

use crate::health::probe::deadline::Deadline;
use crate::health::probe::outcome;
use crate::health::report::{CheckStatus, ProbeResult};

/// Connects to `address`. The connection is bound to nothing: the kernel chooses the source.
pub(super) async fn connect(address: SocketAddr) -> Result<TcpStream, ProbeResult> {
    TcpStream::connect(address).await.map_err(|error| failed(&error))
}

/// The same by a deadline.
pub(super) async fn connect_by(
    address: SocketAddr,
    deadline: Deadline,
) -> Result<TcpStream, ProbeResult> {
    deadline.within(CheckStatus::L4Timeout, "no answer", connect(address)).await?
}

/// A UDP socket to `address` alone: only its answers and ICMP errors about it come in.
pub(super) async fn udp(address: SocketAddr) -> io::Result<UdpSocket> {
    let any = match address {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::UNSPECIFIED, 0)),
    };
    let socket = UdpSocket::bind(any).await?;
    socket.connect(address).await?;
    Ok(socket)
}

/// The result of a probe whose socket failed.
pub(super) fn failed(error: &io::Error) -> ProbeResult {
    let (status, detail) = classify(error);
    outcome(status, detail)
}

/// Tells a fault of the server or the way to it from a lack on this host.
pub(super) fn classify(error: &io::Error) -> (CheckStatus, String) {
    match error.raw_os_error() {
        Some(libc::EMFILE | libc::ENFILE) => (
            CheckStatus::SocketError,
            format!("{error}: raise the limit of open files (systemd: LimitNOFILE=)"),
        ),
        Some(libc::ENOBUFS | libc::ENOMEM | libc::EAGAIN) => {
            (CheckStatus::SocketError, error.to_string())
        }
        Some(libc::EADDRNOTAVAIL) => (
            CheckStatus::SocketError,
            format!("{error}: no free local port (net.ipv4.ip_local_port_range)"),
        ),
        Some(libc::ETIMEDOUT) => (CheckStatus::L4Timeout, error.to_string()),
        Some(libc::EPERM | libc::EACCES) => {
            (CheckStatus::L4Con, format!("{error}: a local firewall rule refuses the probe"))
        }
        _ => (CheckStatus::L4Con, error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lack_of_descriptors_says_nothing_about_the_server() {
        let (status, detail) = classify(&io::Error::from_raw_os_error(libc::EMFILE));
        assert_eq!(status, CheckStatus::SocketError);
        assert!(detail.contains("LimitNOFILE"));
        let (status, _) = classify(&io::Error::from_raw_os_error(libc::EHOSTUNREACH));
        assert_eq!(status, CheckStatus::L4Con);
    }
}
