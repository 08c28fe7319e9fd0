//! The UDP probe: one datagram, and what comes back.
//!
//! With a pattern the answer has to begin with it. Without, the check asks as much as UDP tells:
//! any answer is a success, an ICMP error (port unreachable) a failure, and silence until the
//! timeout a success, as with keepalived's `UDP_CHECK`. Hosts limit how many ICMP errors they
//! send, so such a check must not ask often.
//!
//! Must not know: thresholds, states, weights, who asked.

use std::io;
use std::time::{Duration, Instant};

use crate::health::probe::connect::{failed, udp as open};
use crate::health::probe::line::Line;
use crate::health::probe::outcome;
use crate::health::report::{CheckStatus, ProbeResult};
use crate::model::{UdpCheck, hex};

/// Asks `address` within `timeout`.
pub(super) async fn udp(line: &Line, check: &UdpCheck, timeout: Duration) -> ProbeResult {
    let started = Instant::now();
    let result = match tokio::time::timeout(timeout, ask(line, check)).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => failed(&error),
        Err(_elapsed) if check.reply.is_some() => {
            outcome(CheckStatus::L7Timeout, format!("no answer within {timeout:?}"))
        }
        Err(_elapsed) => outcome(
            CheckStatus::L4Ok,
            format!("neither an answer nor an ICMP error within {timeout:?}"),
        ),
    };
    ProbeResult { duration: started.elapsed(), ..result }
}

async fn ask(line: &Line, check: &UdpCheck) -> io::Result<ProbeResult> {
    let socket = open(line).await?;
    socket.send(&check.payload).await?;
    // What is longer is cut off: no pattern reaches further.
    let mut answer = [0; LONGEST];
    let length = socket.recv(&mut answer).await?;
    Ok(judge(&answer[..length], check))
}

fn judge(answer: &[u8], check: &UdpCheck) -> ProbeResult {
    let Some(pattern) = &check.reply else {
        return outcome(CheckStatus::L7Ok, String::new());
    };
    let Some(at) = pattern.mismatch(answer) else {
        return outcome(CheckStatus::L7Ok, String::new());
    };
    let shown = hex(&answer[..answer.len().min(LONGEST_EXCERPT)]);
    let more = if answer.len() > LONGEST_EXCERPT { "..." } else { "" };
    let what = if at < answer.len() { "differs" } else { "ends" };
    let detail = format!(
        "the answer {what} at byte {at} ({} bytes): {shown}{more}, expected {}",
        answer.len(),
        excerpt(&pattern.to_string())
    );
    outcome(CheckStatus::L7Response, detail)
}

/// The beginning of hexadecimal digits.
fn excerpt(digits: &str) -> String {
    match digits.get(..2 * LONGEST_EXCERPT) {
        Some(first) if first.len() < digits.len() => format!("{first}..."),
        _ => digits.to_owned(),
    }
}

/// Bytes of an answer that are looked at.
const LONGEST: usize = 2048;
/// Bytes of an answer that are shown.
const LONGEST_EXCERPT: usize = 32;

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use std::net::UdpSocket;
    use std::thread;

    use proptest::prelude::*;

    use super::*;
    use crate::health::probe::block_on;
    use crate::model::HexPattern;

    const LONG: Duration = Duration::from_secs(10);

    fn check(reply: Option<&str>) -> UdpCheck {
        let reply = reply.map(|text| HexPattern::new(text).expect("a pattern"));
        UdpCheck { payload: b"ping".to_vec(), reply }
    }

    /// Answers one datagram with its bytes turned around; `None` stays silent.
    fn server(answers: bool) -> (SocketAddr, UdpSocket) {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = socket.local_addr().expect("its address");
        let own = socket.try_clone().expect("a clone");
        thread::spawn(move || {
            let mut buffer = [0; 64];
            if let (true, Ok((length, from))) = (answers, own.recv_from(&mut buffer)) {
                buffer[..length].reverse();
                let _ = own.send_to(&buffer[..length], from);
            }
        });
        (address, socket)
    }

    #[test]
    fn an_answer_is_l7ok_and_another_one_l7rsp() {
        for (reply, status, part) in [
            (None, "L7OK", ""),
            (Some("676e6970"), "L7OK", ""),
            (Some("67?e"), "L7OK", ""),
            (Some("676e70"), "L7RSP", "differs at byte 2 (4 bytes): 676e6970, expected 676e70"),
            (Some("676e697000"), "L7RSP", "ends at byte 4 (4 bytes)"),
        ] {
            let (address, _socket) = server(true);
            let result = block_on(udp(&Line::direct(address), &check(reply), LONG));
            assert_eq!(result.status.name(), status, "{result:?}");
            assert!(result.detail.contains(part), "{result:?}");
        }
    }

    #[test]
    fn silence_is_a_failure_only_where_an_answer_is_expected() {
        let short = Duration::from_millis(50);
        for (reply, status) in [(None, "L4OK"), (Some("67"), "L7TOUT")] {
            let (address, _socket) = server(false);
            let result = block_on(udp(&Line::direct(address), &check(reply), short));
            assert_eq!(result.status.name(), status, "{result:?}");
            assert!(result.duration >= short, "{result:?}");
        }
    }

    #[test]
    fn a_closed_port_is_l4con() {
        let (address, socket) = server(true);
        // Frees the port: the thread's clone goes with its answer.
        block_on(udp(&Line::direct(address), &check(None), LONG));
        drop(socket);
        let ended = Instant::now() + LONG;
        let refused = loop {
            let result =
                block_on(udp(&Line::direct(address), &check(None), Duration::from_secs(1)));
            if result.status == CheckStatus::L4Con || Instant::now() > ended {
                break result;
            }
        };
        assert_eq!(refused.status.name(), "L4CON", "{refused:?}");
        assert!(refused.detail.contains("refused"), "{refused:?}");
    }

    proptest! {
        #[test]
        fn any_answer_is_judged(answer: Vec<u8>, pattern in "([0-9a-f?]{2}){1,40}") {
            let result = judge(&answer, &check(Some(&pattern)));
            let fits = HexPattern::new(&pattern).expect("a pattern").mismatch(&answer).is_none();
            prop_assert_eq!(result.status == CheckStatus::L7Ok, fits);
            prop_assert!(result.detail.len() < 400);
        }
    }
}
