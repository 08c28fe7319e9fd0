//! The SMTP probe: greeting, EHLO (or HELO), QUIT, as keepalived's `SMTP_CHECK` and HAProxy's
//! `option smtpchk`.
//!
//! The server has to greet with 220 and to answer 250. A server that does not know EHLO is asked
//! with HELO (RFC 5321, 3.2). QUIT keeps its log quiet; the answer to it decides nothing.
//!
//! Must not know: thresholds, states, weights, who asked.

use std::io;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::health::probe::connect::connect_by;
use crate::health::probe::deadline::Deadline;
use crate::health::probe::line::Line;
use crate::health::probe::outcome;
use crate::health::report::{CheckStatus, ProbeResult};
use crate::model::SmtpCheck;

/// Asks `address` within `timeout`.
pub(super) async fn smtp(line: &Line, check: &SmtpCheck, timeout: Duration) -> ProbeResult {
    let (started, deadline) = (Instant::now(), Deadline::after(timeout));
    let stream = match connect_by(line, deadline).await {
        Ok(stream) => stream,
        Err(result) => return ProbeResult { duration: started.elapsed(), ..result },
    };
    let mut client = Client { stream, seen: Vec::new(), deadline };
    let result = client.introduce(check).await.unwrap_or_else(|result| result);
    let result = ProbeResult { duration: started.elapsed(), ..result };
    if result.status == CheckStatus::L7Ok {
        // In vain is all the same; it has its share of the time that is left.
        let _ = client.ask("QUIT\r\n").await;
    }
    result
}

/// One connection.
struct Client {
    stream: TcpStream,
    /// Read, and not yet part of a reply.
    seen: Vec<u8>,
    deadline: Deadline,
}

impl Client {
    async fn introduce(&mut self, check: &SmtpCheck) -> Result<ProbeResult, ProbeResult> {
        let greeting = self.reply("connected, but no greeting").await?;
        expect(&greeting, 220, "the greeting")?;
        let name = match &check.helo {
            Some(name) => name.clone(),
            None => literal(self.stream.local_addr().map_err(|error| broken(&error))?.ip()),
        };
        let mut reply = self.ask(&format!("EHLO {name}\r\n")).await?;
        let mut asked = "EHLO";
        if matches!(reply.code, 500 | 501 | 502 | 504) {
            asked = "HELO";
            reply = self.ask(&format!("HELO {name}\r\n")).await?;
        }
        expect(&reply, 250, asked)?;
        let result = outcome(CheckStatus::L7Ok, String::new());
        Ok(ProbeResult { code: Some(reply.code), ..result })
    }

    async fn ask(&mut self, command: &str) -> Result<Reply, ProbeResult> {
        let sent = self.stream.write_all(command.as_bytes());
        let sent = self.deadline.within(CheckStatus::L7Timeout, "no room for a command", sent);
        sent.await?.map_err(|error| broken(&error))?;
        let verb = command.split_whitespace().next().unwrap_or_default();
        self.reply(&format!("no answer to {verb}")).await
    }

    async fn reply(&mut self, without: &str) -> Result<Reply, ProbeResult> {
        loop {
            if let Some((reply, length)) = Reply::parse(&self.seen).map_err(not_smtp)? {
                self.seen.drain(..length);
                return Ok(reply);
            }
            let mut buffer = [0; 1024];
            let read = self.stream.read(&mut buffer);
            let read = self.deadline.within(CheckStatus::L7Timeout, without, read).await?;
            match read.map_err(|error| broken(&error))? {
                0 => return Err(broken(&io::ErrorKind::UnexpectedEof.into())),
                length => self.seen.extend_from_slice(&buffer[..length]),
            }
        }
    }
}

/// A reply of any number of lines (RFC 5321, 4.2).
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reply {
    code: u16,
    /// Text of its first line.
    text: String,
}

impl Reply {
    /// A reply at the beginning of `bytes` and how many of them it has; `None` while it is not
    /// complete. What cannot become one is an error in words.
    fn parse(bytes: &[u8]) -> Result<Option<(Self, usize)>, String> {
        let mut first: Option<Self> = None;
        let mut at = 0;
        while let Some(length) = bytes[at..].iter().position(|byte| *byte == b'\n') {
            let line = &bytes[at..at + length];
            at += length + 1;
            let line = line.strip_suffix(b"\r").unwrap_or(line);
            let (code, more, text) =
                line_of(line).ok_or_else(|| format!("not an SMTP reply: {}", shown(line)))?;
            let reply = match first.take() {
                Some(reply) if reply.code != code => {
                    return Err(format!("a reply with two codes: {} and {code}", reply.code));
                }
                Some(reply) => reply,
                None => Self { code, text: shown(text) },
            };
            if at > LONGEST {
                break;
            }
            if !more {
                return Ok(Some((reply, at)));
            }
            first = Some(reply);
        }
        let rest = &bytes[at.min(bytes.len())..];
        if bytes.len() > LONGEST {
            return Err(format!("a reply of more than {LONGEST} bytes"));
        }
        // Three digits are known before the line ends: an SSH server is not waited for.
        let digits = &rest[..rest.len().min(3)];
        if !digits.iter().all(u8::is_ascii_digit) {
            return Err(format!("not an SMTP reply: {}", shown(rest)));
        }
        Ok(None)
    }
}

/// Code, whether more lines follow, and text.
fn line_of(line: &[u8]) -> Option<(u16, bool, &[u8])> {
    let (digits, rest) = line.split_first_chunk::<3>()?;
    let code = std::str::from_utf8(digits).ok()?.parse().ok()?;
    let (more, text) = match rest.split_first() {
        None | Some((b' ', _)) => (false, rest.get(1..).unwrap_or_default()),
        Some((b'-', text)) => (true, text),
        Some(_) => return None,
    };
    // Also refuses `+25`, which parses as a number.
    ((200..=599).contains(&code) && digits.iter().all(u8::is_ascii_digit))
        .then_some((code, more, text))
}

fn expect(reply: &Reply, code: u16, what: &str) -> Result<(), ProbeResult> {
    if reply.code == code {
        return Ok(());
    }
    let detail = format!("{what}: {} instead of {code}: {}", reply.code, reply.text);
    Err(ProbeResult { code: Some(reply.code), ..outcome(CheckStatus::L7Status, detail) })
}

fn not_smtp(why: String) -> ProbeResult {
    outcome(CheckStatus::L7Response, why)
}

fn broken(error: &io::Error) -> ProbeResult {
    let detail = if error.kind() == io::ErrorKind::UnexpectedEof {
        "the connection was closed before the answer was complete".to_owned()
    } else {
        format!("the connection broke: {error}")
    };
    outcome(CheckStatus::L7Response, detail)
}

/// An address literal (RFC 5321, 4.1.3).
fn literal(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => format!("[{address}]"),
        IpAddr::V6(address) => format!("[IPv6:{address}]"),
    }
}

/// The beginning of a line, in quotes.
fn shown(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(&line[..line.len().min(LONGEST_EXCERPT)]);
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    format!("\"{}\"", text.trim())
}

/// Bytes of a reply; RFC 5321 lets a line have 512.
const LONGEST: usize = 16 * 1024;
/// Bytes of a line that are shown.
const LONGEST_EXCERPT: usize = 64;

#[cfg(test)]
mod tests {
    use std::io::{BufRead, BufReader, Write};
    use std::net::TcpListener;
    use std::thread;

    use proptest::prelude::*;

    use super::*;
    use crate::health::probe::block_on;

    const LONG: Duration = Duration::from_secs(10);

    /// Greets, then gives one answer to each line; says what it was asked.
    fn served(greeting: &str, answers: &[&str]) -> (ProbeResult, Vec<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let greeting = greeting.to_owned();
        let answers: Vec<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().expect("a connection");
            let _ = stream.write_all(greeting.as_bytes());
            let mut lines = BufReader::new(stream.try_clone().expect("a clone")).lines();
            let mut asked = Vec::new();
            for answer in answers {
                let Some(Ok(line)) = lines.next() else { break };
                asked.push(line);
                let _ = stream.write_all(answer.as_bytes());
            }
            asked
        });
        let check = SmtpCheck { helo: Some("lb.test".to_owned()) };
        let result = block_on(smtp(&Line::direct(address), &check, LONG));
        (result, server.join().expect("it ended"))
    }

    #[test]
    fn a_server_that_greets_and_answers_is_l7ok() {
        let ehlo = "250-here\r\n250-SIZE 1000\r\n250 8BITMIME\r\n";
        let (result, asked) = served("220 ready\r\n", &[ehlo, "221 bye\r\n"]);
        assert_eq!((result.status.name(), result.code), ("L7OK", Some(250)), "{result:?}");
        assert_eq!(asked, ["EHLO lb.test", "QUIT"]);
        let old = ["502 what?\r\n", "250 here\r\n", "221 bye\r\n"];
        let (result, asked) = served("220-two\r\n220 lines\r\n", &old);
        assert_eq!((result.status.name(), result.code), ("L7OK", Some(250)), "{result:?}");
        assert_eq!(asked, ["EHLO lb.test", "HELO lb.test", "QUIT"]);
    }

    #[test]
    fn other_codes_are_l7sts_and_other_protocols_l7rsp() {
        for (greeting, answers, status, code, part) in [
            ("554 no\r\n", &[][..], "L7STS", Some(554), "the greeting: 554 instead of 220: \"no\""),
            ("220 x\r\n", &["550 no\r\n"][..], "L7STS", Some(550), "EHLO: 550 instead of 250"),
            ("220 x\r\n", &["500 no\r\n", "421 no\r\n"][..], "L7STS", Some(421), "HELO: 421"),
            ("SSH-2.0-x\r\n", &[][..], "L7RSP", None, "not an SMTP reply: \"SSH-2.0-x\""),
            ("SSH", &[][..], "L7RSP", None, "not an SMTP reply"),
            ("220", &[][..], "L7RSP", None, "closed before"),
            ("220-a\r\n221 b\r\n", &[][..], "L7RSP", None, "two codes: 220 and 221"),
        ] {
            let (result, _) = served(greeting, answers);
            assert_eq!((result.status.name(), result.code), (status, code), "{result:?}");
            assert!(result.detail.contains(part), "{result:?}");
        }
    }

    #[test]
    fn a_server_that_never_ends_its_reply_is_l7rsp() {
        let (result, _) = served(&"220-more\r\n".repeat(2000), &[]);
        assert_eq!(result.status.name(), "L7RSP", "{result:?}");
        assert!(result.detail.contains("more than"), "{result:?}");
    }

    #[test]
    fn silence_after_connecting_is_l7tout() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let short = Duration::from_millis(100);
        let result = block_on(smtp(&Line::direct(address), &SmtpCheck { helo: None }, short));
        assert_eq!(result.status.name(), "L7TOUT");
        assert_eq!(result.detail, "connected, but no greeting within 100ms");
        assert!(result.duration >= short && result.code.is_none(), "{result:?}");
    }

    #[test]
    fn addresses_are_literals() {
        assert_eq!(literal("192.0.2.1".parse().expect("one")), "[192.0.2.1]");
        assert_eq!(literal("2001:db8::1".parse().expect("one")), "[IPv6:2001:db8::1]");
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_reply_or_none(bytes: Vec<u8>, reply in "(2[0-9]{2}[ -][a-z]{0,5}\r?\n){0,4}") {
            for bytes in [&bytes[..], &[reply.as_bytes(), &bytes].concat()] {
                // Whole and in parts it is the same, and never more than there is.
                let whole = Reply::parse(bytes);
                for end in 0..bytes.len() {
                    match (Reply::parse(&bytes[..end]), &whole) {
                        (Ok(Some(part)), Ok(Some(whole))) => prop_assert_eq!(&part, whole),
                        (Ok(Some(_)), _) => prop_assert!(false, "a part is one, the whole is not"),
                        _ => {}
                    }
                }
                if let Ok(Some((reply, length))) = whole {
                    prop_assert!(length <= bytes.len() && (200..=599).contains(&reply.code));
                }
            }
        }
    }
}
