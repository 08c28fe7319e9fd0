//! The TCP probe: a connection is opened and closed again.
//!
//! It closes normally (FIN), as keepalived's TCP_CHECK does; the server sees a client that said
//! nothing.
//!
//! Must not know: thresholds, states, weights, who asked.

use std::time::{Duration, Instant};

use crate::health::probe::connect::connect_by;
use crate::health::probe::deadline::Deadline;
use crate::health::probe::line::Line;
use crate::health::probe::outcome;
use crate::health::report::{CheckStatus, ProbeResult};

/// Connects over `line` within `timeout`.
pub(super) async fn tcp(line: &Line, timeout: Duration) -> ProbeResult {
    let started = Instant::now();
    let result = match connect_by(line, Deadline::after(timeout)).await {
        Ok(_closed_by_drop) => outcome(CheckStatus::L4Ok, String::new()),
        Err(result) => result,
    };
    ProbeResult { duration: started.elapsed(), ..result }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::health::probe::block_on;

    #[test]
    fn a_listening_server_is_l4ok() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let result = block_on(tcp(&Line::direct(address), Duration::from_secs(5)));
        assert_eq!(result.status, CheckStatus::L4Ok, "{result:?}");
    }

    #[test]
    fn a_closed_port_is_l4con_with_the_reason() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        drop(listener);
        let result = block_on(tcp(&Line::direct(address), Duration::from_secs(5)));
        assert_eq!(result.status, CheckStatus::L4Con);
        assert!(result.detail.contains("refused"), "{result:?}");
    }

    #[test]
    fn a_deadline_of_zero_is_l4tout() {
        let address = "192.0.2.1:80".parse().expect("an address");
        let result = block_on(tcp(&Line::direct(address), Duration::ZERO));
        assert!(matches!(result.status, CheckStatus::L4Timeout | CheckStatus::L4Con), "{result:?}");
    }
}
