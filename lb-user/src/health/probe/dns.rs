//! The DNS probe: one question over UDP, and over TCP again when the answer was cut off.
//!
//! A success is an answer to this very question with NOERROR, whatever records it holds, as with
//! keepalived's `DNS_CHECK`. Records are not read: how odd they are is no matter of health. A
//! datagram with another id or question answers somebody else and is passed over.
//!
//! Must not know: thresholds, states, weights, who asked.

use std::time::{Duration, Instant};

use hickory_proto::op::{Header, Message, MessageType, Query, ResponseCode};
use hickory_proto::serialize::binary::{BinDecodable, BinDecoder};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::health::probe::connect::{connect_by, failed, udp};
use crate::health::probe::deadline::Deadline;
use crate::health::probe::line::Line;
use crate::health::probe::outcome;
use crate::health::report::{CheckStatus, ProbeResult};
use crate::model::DnsCheck;

/// Asks `address` within `timeout`.
pub(super) async fn dns(line: &Line, check: &DnsCheck, timeout: Duration) -> ProbeResult {
    let started = Instant::now();
    let question = Question::new(check);
    let result = match question.message.to_vec() {
        Ok(bytes) => question.ask(line, &bytes, Deadline::after(timeout)).await,
        Err(error) => Err(outcome(CheckStatus::SocketError, error.to_string())),
    };
    let result = result.unwrap_or_else(|result| result);
    ProbeResult { duration: started.elapsed(), ..result }
}

/// A question with an id of its own.
struct Question {
    message: Message,
    query: Query,
}

/// What a datagram is.
#[derive(Debug, PartialEq)]
enum Answer {
    /// Not for this question; why.
    Foreign(&'static str),
    /// Cut off: TCP has the rest.
    Truncated,
    /// It decides.
    Decides(ProbeResult),
}

impl Question {
    fn new(check: &DnsCheck) -> Self {
        let query = Query::query(check.name.clone(), check.record);
        let mut message = Message::query();
        message.metadata.recursion_desired = true;
        message.add_query(query.clone());
        Self { message, query }
    }

    async fn ask(
        &self,
        line: &Line,
        bytes: &[u8],
        deadline: Deadline,
    ) -> Result<ProbeResult, ProbeResult> {
        let mut passed_over = None;
        let asked = async {
            let socket = udp(line).await?;
            socket.send(bytes).await?;
            let mut buffer = [0; LONGEST];
            loop {
                let length = socket.recv(&mut buffer).await?;
                match self.judge(&buffer[..length]) {
                    Answer::Foreign(why) => passed_over = Some(why),
                    Answer::Truncated => return Ok(None),
                    Answer::Decides(result) => return Ok(Some(result)),
                }
            }
        };
        let asked = deadline.within(CheckStatus::L7Timeout, "no answer", asked).await;
        let asked = asked.map_err(|silent| match passed_over {
            Some(why) => {
                ProbeResult { detail: format!("{}; what came {why}", silent.detail), ..silent }
            }
            None => silent,
        });
        match asked?.map_err(|error| failed(&error))? {
            Some(result) => Ok(result),
            None => self.ask_over_tcp(line, bytes, deadline).await.map_err(|result| {
                let detail = format!("over TCP, since the answer was truncated: {}", result.detail);
                ProbeResult { detail, ..result }
            }),
        }
    }

    async fn ask_over_tcp(
        &self,
        line: &Line,
        bytes: &[u8],
        deadline: Deadline,
    ) -> Result<ProbeResult, ProbeResult> {
        let mut stream = connect_by(line, deadline).await?;
        let asked = async {
            let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
            stream.write_all(&[&length.to_be_bytes(), bytes].concat()).await?;
            let length = stream.read_u16().await?;
            let mut answer = vec![0; length.into()];
            stream.read_exact(&mut answer).await.map(|_| answer)
        };
        let asked = deadline.within(CheckStatus::L7Timeout, "no answer", asked).await?;
        let answer = asked.map_err(|error| {
            outcome(CheckStatus::L7Response, format!("the connection broke: {error}"))
        })?;
        match self.judge(&answer) {
            Answer::Decides(result) => Ok(result),
            // Even over TCP a server may say so; its code is there all the same.
            Answer::Truncated => Err(outcome(CheckStatus::L7Response, "truncated again")),
            Answer::Foreign(why) => {
                Err(outcome(CheckStatus::L7Response, format!("what came {why}")))
            }
        }
    }

    fn judge(&self, bytes: &[u8]) -> Answer {
        let malformed = |why: &dyn std::fmt::Display| {
            let detail = format!("not a DNS answer ({} bytes): {why}", bytes.len());
            Answer::Decides(outcome(CheckStatus::L7Response, detail))
        };
        let mut decoder = BinDecoder::new(bytes);
        let header = match Header::read(&mut decoder) {
            Ok(header) => header,
            Err(error) => return malformed(&error),
        };
        if header.metadata.id != self.message.metadata.id {
            return Answer::Foreign("has another id");
        }
        if header.metadata.message_type != MessageType::Response {
            return Answer::Foreign("was a question");
        }
        let code = header.metadata.response_code;
        // A server that did not understand the question need not repeat it.
        if code != ResponseCode::NoError && header.counts.queries == 0 {
            return Answer::Decides(refused(code));
        }
        if header.counts.queries != 1 {
            return malformed(&"it does not repeat the question");
        }
        match Query::read(&mut decoder) {
            Err(error) => malformed(&error),
            Ok(query) if query != self.query => Answer::Foreign("answers another question"),
            Ok(_) if code != ResponseCode::NoError => Answer::Decides(refused(code)),
            Ok(_) if header.metadata.truncation => Answer::Truncated,
            Ok(_) => {
                let result = outcome(CheckStatus::L7Ok, String::new());
                Answer::Decides(ProbeResult { code: Some(code.into()), ..result })
            }
        }
    }
}

fn refused(code: ResponseCode) -> ProbeResult {
    let number = u16::from(code);
    let detail = format!("response code {number} ({code})");
    ProbeResult { code: Some(number), ..outcome(CheckStatus::L7Status, detail) }
}

/// Bytes of a datagram that are looked at; without EDNS an answer has at most 512.
const LONGEST: usize = 2048;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::{TcpListener, UdpSocket};
    use std::thread;

    use hickory_proto::rr::{Name, RecordType};
    use proptest::prelude::*;

    use super::*;
    use crate::health::probe::block_on;

    const LONG: Duration = Duration::from_secs(10);

    fn check() -> DnsCheck {
        let name = Name::from_ascii("www.example.com.").expect("a name");
        DnsCheck { name, record: RecordType::A }
    }

    /// Header bytes after the id: flags (with the code), and how many questions.
    fn answer(question: &[u8], flags: u16, questions: u16) -> Vec<u8> {
        let mut bytes = question[..2].to_vec();
        bytes.extend(flags.to_be_bytes());
        bytes.extend(questions.to_be_bytes());
        bytes.extend([0; 6]);
        if questions > 0 {
            bytes.extend(&question[12..]);
        }
        bytes
    }

    fn judged(flags: u16, questions: u16) -> Answer {
        let question = Question::new(&check());
        let bytes = question.message.to_vec().expect("bytes");
        question.judge(&answer(&bytes, flags, questions))
    }

    #[test]
    fn the_code_decides_and_is_told() {
        let decided = |answer| match answer {
            Answer::Decides(result) => (result.status.name(), result.code, result.detail),
            other => panic!("{other:?}"),
        };
        assert_eq!(decided(judged(0x8180, 1)), ("L7OK", Some(0), String::new()));
        let refused = "response code 5 (Query Refused)".to_owned();
        assert_eq!(decided(judged(0x8185, 1)), ("L7STS", Some(5), refused));
        let form_error = "response code 1 (Form Error)".to_owned();
        assert_eq!(decided(judged(0x8181, 0)), ("L7STS", Some(1), form_error));
        // Truncated or not, an error is one.
        assert_eq!(decided(judged(0x8382, 1)).1, Some(2));
        let (status, code, detail) = decided(judged(0x8180, 0));
        assert_eq!((status, code), ("L7RSP", None));
        assert!(detail.contains("does not repeat the question"), "{detail}");
    }

    #[test]
    fn what_answers_somebody_else_is_passed_over() {
        assert_eq!(judged(0x8380, 1), Answer::Truncated);
        assert_eq!(judged(0x0100, 1), Answer::Foreign("was a question"));
        let question = Question::new(&check());
        let bytes = question.message.to_vec().expect("bytes");
        let mut other = answer(&bytes, 0x8180, 1);
        other[0] ^= 1;
        assert_eq!(question.judge(&other), Answer::Foreign("has another id"));
        let mut other = answer(&bytes, 0x8180, 1);
        other[13] = b'x';
        assert_eq!(question.judge(&other), Answer::Foreign("answers another question"));
        // Names are compared without regard to case.
        other[13] = b'W';
        assert!(matches!(question.judge(&other), Answer::Decides(_)));
    }

    /// Answers over UDP truncated, over TCP with `flags`, or not at all over TCP.
    fn truncating(flags: Option<u16>) -> ProbeResult {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = socket.local_addr().expect("its address");
        let listener = flags.map(|flags| (TcpListener::bind(address).expect("it"), flags));
        thread::spawn(move || {
            let mut buffer = [0; 512];
            let (length, from) = socket.recv_from(&mut buffer).expect("a question");
            socket.send_to(&answer(&buffer[..length], 0x8380, 1), from).expect("sent");
            let Some((listener, flags)) = listener else { return };
            let (mut stream, _) = listener.accept().expect("a connection");
            let mut length = [0; 2];
            stream.read_exact(&mut length).expect("a length");
            let mut question = vec![0; u16::from_be_bytes(length).into()];
            stream.read_exact(&mut question).expect("a question");
            let answer = answer(&question, flags, 1);
            let length = u16::try_from(answer.len()).expect("short").to_be_bytes();
            stream.write_all(&[&length[..], &answer].concat()).expect("sent");
        });
        block_on(dns(&Line::direct(address), &check(), LONG))
    }

    #[test]
    fn a_truncated_answer_is_asked_for_over_tcp() {
        let result = truncating(Some(0x8180));
        assert_eq!((result.status.name(), result.code), ("L7OK", Some(0)), "{result:?}");
        assert_eq!(truncating(Some(0x8183)).code, Some(3));
        let result = truncating(None);
        assert_eq!(result.status.name(), "L4CON", "{result:?}");
        assert!(result.detail.starts_with("over TCP, since the answer was truncated: "));
    }

    #[test]
    fn silence_is_l7tout_and_says_what_was_passed_over() {
        let socket = UdpSocket::bind("127.0.0.1:0").expect("a port");
        let address = socket.local_addr().expect("its address");
        let short = Duration::from_millis(100);
        let result = block_on(dns(&Line::direct(address), &check(), short));
        assert_eq!(result.status.name(), "L7TOUT", "{result:?}");
        assert_eq!(result.detail, "no answer within 100ms");
        // Sends every question back under another id.
        thread::spawn(move || {
            let mut buffer = [0; 512];
            loop {
                let (length, from) = socket.recv_from(&mut buffer).expect("a question");
                buffer[0] ^= 1;
                socket.send_to(&buffer[..length], from).expect("sent");
            }
        });
        let result = block_on(dns(&Line::direct(address), &check(), short));
        assert_eq!(result.status.name(), "L7TOUT", "{result:?}");
        assert_eq!(result.detail, "no answer within 100ms; what came has another id");
    }

    proptest! {
        #[test]
        fn any_bytes_are_judged(bytes: Vec<u8>, mine: bool) {
            let question = Question::new(&check());
            let mut bytes = bytes;
            if mine && bytes.len() > 1 {
                bytes[..2].copy_from_slice(&question.message.metadata.id.to_be_bytes());
            }
            let success = match question.judge(&bytes) {
                Answer::Decides(result) => result.status == CheckStatus::L7Ok,
                _ => false,
            };
            prop_assert!(!success);
        }
    }
}
