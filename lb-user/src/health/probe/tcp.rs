//! The TCP probe: a connection is opened and closed again.
//!
//! It closes normally (FIN), as keepalived's TCP_CHECK does; the server sees a client that said
//! nothing.
//!
//! Must not know: thresholds, states, weights, who asked.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::TcpStream;

use crate::health::report::{CheckStatus, ProbeResult};

/// Connects to `address` within `timeout`.
pub async fn tcp(address: SocketAddr, timeout: Duration) -> ProbeResult {
    let started = Instant::now();
    let answer = tokio::time::timeout(timeout, TcpStream::connect(address)).await;
    let duration = started.elapsed();
    let (status, detail) = match answer {
        Ok(Ok(_closed_by_drop)) => (CheckStatus::L4Ok, String::new()),
        Ok(Err(error)) => classify(&error),
        Err(_elapsed) => (CheckStatus::L4Timeout, format!("no answer within {timeout:?}")),
    };
    ProbeResult { status, duration, code: None, detail }
}

/// Tells a fault of the server or the way to it from a lack on this host.
fn classify(error: &io::Error) -> (CheckStatus, String) {
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
    use std::net::TcpListener;

    use super::*;

    fn block_on<F: Future>(future: F) -> F::Output {
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime")
            .block_on(future)
    }

    #[test]
    fn a_listening_server_is_l4ok() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let result = block_on(tcp(address, Duration::from_secs(5)));
        assert_eq!(result.status, CheckStatus::L4Ok, "{result:?}");
    }

    #[test]
    fn a_closed_port_is_l4con_with_the_reason() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        drop(listener);
        let result = block_on(tcp(address, Duration::from_secs(5)));
        assert_eq!(result.status, CheckStatus::L4Con);
        assert!(result.detail.contains("refused"), "{result:?}");
    }

    #[test]
    fn a_deadline_of_zero_is_l4tout() {
        let address = "192.0.2.1:80".parse().expect("an address");
        let result = block_on(tcp(address, Duration::ZERO));
        assert!(matches!(result.status, CheckStatus::L4Timeout | CheckStatus::L4Con), "{result:?}");
    }

    #[test]
    fn a_lack_of_descriptors_says_nothing_about_the_server() {
        let (status, detail) = classify(&io::Error::from_raw_os_error(libc::EMFILE));
        assert_eq!(status, CheckStatus::SocketError);
        assert!(detail.contains("LimitNOFILE"));
        let (status, _) = classify(&io::Error::from_raw_os_error(libc::EHOSTUNREACH));
        assert_eq!(status, CheckStatus::L4Con);
    }
}
