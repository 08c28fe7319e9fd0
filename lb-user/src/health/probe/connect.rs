//! Opening a TCP connection or a UDP socket, and telling what went wrong by whose fault it is.
//!
//! Must not know: what is said over the connection, deadlines.

use std::io;

use tokio::net::{TcpStream, UdpSocket};

use crate::health::probe::deadline::Deadline;
use crate::health::probe::line::Line;
use crate::health::probe::outcome;
use crate::health::report::{CheckStatus, ProbeResult};

/// Connects over `line`. The connection is bound to no address: the kernel chooses the source.
pub(super) async fn connect(line: &Line) -> Result<TcpStream, ProbeResult> {
    let mut tries = MAX_TRIES;
    loop {
        tries -= 1;
        let error = match line.tcp_socket() {
            Ok(socket) => match socket.connect(line.address).await {
                Ok(stream) => return Ok(stream),
                // The line chose a port with which this server was asked a moment ago.
                Err(error) if tries > 0 && error.raw_os_error() == Some(libc::EADDRNOTAVAIL) => {
                    continue;
                }
                Err(error) => error,
            },
            Err(error) => error,
        };
        return Err(failed(&error));
    }
}

/// The same by a deadline.
pub(super) async fn connect_by(line: &Line, deadline: Deadline) -> Result<TcpStream, ProbeResult> {
    deadline.within(CheckStatus::L4Timeout, "no answer", connect(line)).await?
}

/// A UDP socket over `line` alone: only its answers and ICMP errors about it come in.
pub(super) async fn udp(line: &Line) -> io::Result<UdpSocket> {
    let socket = UdpSocket::from_std(line.udp_socket()?.into())?;
    socket.connect(line.address).await?;
    Ok(socket)
}

/// The result of a probe whose socket failed.
pub(super) fn failed(error: &io::Error) -> ProbeResult {
    let (status, detail) = classify(error);
    outcome(status, detail)
}

/// Ports that are tried.
const MAX_TRIES: usize = 8;

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
