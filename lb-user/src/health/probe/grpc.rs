//! The gRPC probe: `grpc.health.v1.Health/Check` over HTTP/2 in the clear (gRPC's standard health
//! protocol), on a connection of its own.
//!
//! SERVING is a success. The two messages have one field each and are written and read here; their
//! format is Protocol Buffers', and fields that are not known are passed over.
//!
//! Must not know: thresholds, states, weights, who asked.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use h2::client::SendRequest;
use h2::{Reason, RecvStream};
use http::header::{CONTENT_TYPE, TE, USER_AGENT};
use http::{HeaderMap, Method, Request, StatusCode, Version};
use hyper::body::Bytes;

use crate::health::probe::connect::connect_by;
use crate::health::probe::deadline::Deadline;
use crate::health::probe::line::Line;
use crate::health::probe::{AGENT, outcome};
use crate::health::report::{CheckStatus, ProbeResult};
use crate::model::GrpcCheck;

/// Asks `address` within `timeout`.
pub(super) async fn grpc(
    line: &Line,
    named: SocketAddr,
    check: &GrpcCheck,
    timeout: Duration,
) -> ProbeResult {
    let (started, deadline) = (Instant::now(), Deadline::after(timeout));
    let asked = ask(line, named, check, timeout, deadline).await;
    let result = asked.unwrap_or_else(|result| result);
    ProbeResult { duration: started.elapsed(), ..result }
}

async fn ask(
    line: &Line,
    named: SocketAddr,
    check: &GrpcCheck,
    timeout: Duration,
    deadline: Deadline,
) -> Result<ProbeResult, ProbeResult> {
    let stream = connect_by(line, deadline).await?;
    let request = request(named, timeout)
        .map_err(|error| outcome(CheckStatus::SocketError, error.to_string()))?;
    let exchange = async {
        let mut builder = h2::client::Builder::new();
        builder.enable_push(false).max_header_list_size(LONGEST_HEAD);
        let (sender, connection) = builder.handshake(stream).await?;
        let mut call = pin!(call(sender, request, question(&check.service)));
        let mut connection = Some(pin!(connection));
        // Both are driven here, without a task. What the connection ends with reaches the call.
        poll_fn(|context| {
            if let Poll::Ready(answer) = call.as_mut().poll(context) {
                return Poll::Ready(answer);
            }
            if let Some(driver) = &mut connection
                && driver.as_mut().poll(context).is_ready()
            {
                connection = None;
            }
            call.as_mut().poll(context)
        })
        .await
    };
    let what = "connected, but no answer";
    let answer = deadline.within(CheckStatus::L7Timeout, what, exchange).await?;
    let answer = answer.map_err(|error| broken(&error))?;
    Ok(answer.judge())
}

fn request(address: SocketAddr, timeout: Duration) -> http::Result<Request<()>> {
    // At most eight digits.
    let millis = timeout.as_millis().min(99_999_999);
    Request::builder()
        .method(Method::POST)
        .version(Version::HTTP_2)
        .uri(format!("http://{address}/grpc.health.v1.Health/Check"))
        .header(TE, "trailers")
        .header(CONTENT_TYPE, "application/grpc")
        .header(USER_AGENT, AGENT)
        .header("grpc-timeout", format!("{millis}m"))
        .body(())
}

/// What came back.
#[derive(Clone, Debug)]
struct Answer {
    http: StatusCode,
    head: HeaderMap,
    /// At most [`LONGEST_ANSWER`] bytes and one frame more.
    body: Vec<u8>,
    trailers: Option<HeaderMap>,
}

async fn call(
    sender: SendRequest<Bytes>,
    request: Request<()>,
    question: Bytes,
) -> Result<Answer, h2::Error> {
    let mut sender = sender.ready().await?;
    let (response, mut stream) = sender.send_request(request, false)?;
    stream.send_data(question, true)?;
    let (head, mut body) = response.await?.into_parts();
    let seen = read(&mut body).await?;
    let trailers = if seen.len() > LONGEST_ANSWER { None } else { body.trailers().await? };
    Ok(Answer { http: head.status, head: head.headers, body: seen, trailers })
}

async fn read(body: &mut RecvStream) -> Result<Vec<u8>, h2::Error> {
    let mut seen = Vec::new();
    while let Some(chunk) = body.data().await {
        let chunk = chunk?;
        body.flow_control().release_capacity(chunk.len())?;
        seen.extend_from_slice(&chunk);
        if seen.len() > LONGEST_ANSWER {
            break;
        }
    }
    Ok(seen)
}

impl Answer {
    fn judge(&self) -> ProbeResult {
        let coded = |status, code, detail: String| ProbeResult {
            code: Some(code),
            ..outcome(status, detail)
        };
        if self.http != StatusCode::OK {
            let detail = format!("HTTP status {} instead of 200", self.http);
            return coded(CheckStatus::L7Status, self.http.as_u16(), detail);
        }
        if self.body.len() > LONGEST_ANSWER {
            return outcome(
                CheckStatus::L7Response,
                format!("an answer of more than {LONGEST_ANSWER} bytes"),
            );
        }
        // An error without a message has its status in the head.
        let field = |name| {
            let trailer = self.trailers.as_ref().and_then(|trailers| trailers.get(name));
            trailer.or_else(|| self.head.get(name)).map(|value| value.as_bytes())
        };
        let Some(status) = field("grpc-status") else {
            return outcome(CheckStatus::L7Response, "not a gRPC answer: it has no grpc-status");
        };
        let number = std::str::from_utf8(status).ok().and_then(|text| text.parse().ok());
        match number {
            Some(0) => match decode(&self.body) {
                Ok(SERVING) => coded(CheckStatus::L7Ok, SERVING, String::new()),
                Ok(status) => {
                    let detail = format!("health status {status} ({})", serving_name(status));
                    coded(CheckStatus::L7Status, status, detail)
                }
                Err(why) => outcome(CheckStatus::L7Response, format!("not a health answer: {why}")),
            },
            Some(status) => {
                let message = field("grpc-message").map_or(String::new(), said);
                let detail = format!("gRPC status {status} ({}){message}", status_name(status));
                coded(CheckStatus::L7Status, status, detail)
            }
            None => outcome(CheckStatus::L7Response, "not a gRPC answer: grpc-status is no number"),
        }
    }
}

fn broken(error: &h2::Error) -> ProbeResult {
    let detail = match (error.get_io(), error.reason()) {
        (Some(io), _) if io.kind() == std::io::ErrorKind::UnexpectedEof => {
            "the connection was closed before the answer was complete".to_owned()
        }
        (Some(io), _) => format!("the connection broke: {io}"),
        (None, Some(Reason::FRAME_SIZE_ERROR | Reason::PROTOCOL_ERROR)) if !error.is_remote() => {
            format!("not an HTTP/2 answer: {error}")
        }
        (None, _) => error.to_string(),
    };
    outcome(CheckStatus::L7Response, detail)
}

/// `HealthCheckRequest { string service = 1; }` in a frame of gRPC.
fn question(service: &str) -> Bytes {
    let mut message = Vec::new();
    if !service.is_empty() {
        message.push(1 << 3 | LENGTH_DELIMITED);
        put_varint(&mut message, service.len());
        message.extend_from_slice(service.as_bytes());
    }
    let length = u32::try_from(message.len()).unwrap_or(u32::MAX);
    [&[0][..], &length.to_be_bytes(), &message].concat().into()
}

/// The status of `HealthCheckResponse { ServingStatus status = 1; }` in a frame of gRPC.
fn decode(frame: &[u8]) -> Result<u16, &'static str> {
    let (head, message) = frame.split_first_chunk::<5>().ok_or("it has no message")?;
    let [compressed, length @ ..] = head;
    if *compressed != 0 {
        return Err("it is compressed");
    }
    if usize::try_from(u32::from_be_bytes(*length)) != Ok(message.len()) {
        return Err("it is not one message");
    }
    let mut rest = message;
    // What is not said is 0.
    let mut status = 0;
    while !rest.is_empty() {
        let tag = take_varint(&mut rest)?;
        match (tag >> 3, (tag & 7) as u8) {
            (1, VARINT) => status = take_varint(&mut rest)?,
            (0, _) => return Err("it has a field 0"),
            (_, VARINT) => drop(take_varint(&mut rest)?),
            (_, FIXED64) => skip(&mut rest, 8)?,
            (_, FIXED32) => skip(&mut rest, 4)?,
            (_, LENGTH_DELIMITED) => {
                let length = take_varint(&mut rest)?;
                skip(&mut rest, usize::try_from(length).map_err(|_| SHORT)?)?;
            }
            _ => return Err("it has a field of an unknown kind"),
        }
    }
    u16::try_from(status).map_err(|_| "its status is none that there is")
}

fn put_varint(bytes: &mut Vec<u8>, mut value: usize) {
    while value >= 0x80 {
        bytes.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

fn take_varint(rest: &mut &[u8]) -> Result<u64, &'static str> {
    let mut value = 0;
    for shift in (0..64).step_by(7) {
        let (byte, after) = rest.split_first().ok_or(SHORT)?;
        *rest = after;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err("it has a number that does not end")
}

fn skip(rest: &mut &[u8], length: usize) -> Result<(), &'static str> {
    *rest = rest.get(length..).ok_or(SHORT)?;
    Ok(())
}

/// `grpc-message` for people: it is percent-encoded, which is left as it is.
fn said(message: &[u8]) -> String {
    let text = String::from_utf8_lossy(&message[..message.len().min(LONGEST_EXCERPT)]);
    let text: String = text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.trim().is_empty() { String::new() } else { format!(": {}", text.trim()) }
}

/// `HealthCheckResponse.ServingStatus`.
fn serving_name(status: u16) -> &'static str {
    match status {
        0 => "UNKNOWN",
        SERVING => "SERVING",
        2 => "NOT_SERVING",
        3 => "SERVICE_UNKNOWN",
        _ => "not a standard one",
    }
}

/// The codes of gRPC.
fn status_name(status: u16) -> &'static str {
    const NAMES: [&str; 17] = [
        "OK",
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    ];
    NAMES.get(usize::from(status)).copied().unwrap_or("not a standard one")
}

const SERVING: u16 = 1;
const SHORT: &str = "it ends too early";
/// Kinds of field.
const VARINT: u8 = 0;
const FIXED64: u8 = 1;
const LENGTH_DELIMITED: u8 = 2;
const FIXED32: u8 = 5;
/// Bytes of a body; the answer has seven.
const LONGEST_ANSWER: usize = 4096;
/// Bytes of a head or of trailers.
const LONGEST_HEAD: u32 = 16 * 1024;
/// Bytes of a message that are shown.
const LONGEST_EXCERPT: usize = 128;

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread;

    use proptest::prelude::*;

    use super::*;
    use crate::health::probe::block_on;

    const LONG: Duration = Duration::from_secs(10);

    fn frame(message: &[u8]) -> Vec<u8> {
        let length = u32::try_from(message.len()).expect("short");
        [&[0][..], &length.to_be_bytes(), message].concat()
    }

    fn answer(http: u16, fields: &[(&'static str, &str)], body: &[u8]) -> Answer {
        let trailers = fields.iter().map(|(name, value)| {
            (http::HeaderName::from_static(name), value.parse().expect("a value"))
        });
        Answer {
            http: StatusCode::from_u16(http).expect("a status"),
            head: HeaderMap::new(),
            body: body.to_vec(),
            trailers: Some(trailers.collect()),
        }
    }

    #[test]
    fn statuses_are_told_by_number_and_name() {
        let ok = [("grpc-status", "0")];
        let missing = [("grpc-status", "5"), ("grpc-message", "unknown service")];
        for (answer, status, code, detail) in [
            (answer(200, &ok, &frame(&[8, 1])), "L7OK", Some(1), ""),
            (answer(200, &ok, &frame(&[8, 2])), "L7STS", Some(2), "health status 2 (NOT_SERVING)"),
            (answer(200, &ok, &frame(&[])), "L7STS", Some(0), "health status 0 (UNKNOWN)"),
            (
                answer(200, &ok, &frame(&[8, 3])),
                "L7STS",
                Some(3),
                "health status 3 (SERVICE_UNKNOWN)",
            ),
            (
                answer(200, &missing, &[]),
                "L7STS",
                Some(5),
                "gRPC status 5 (NOT_FOUND): unknown service",
            ),
            (
                answer(503, &[], &[]),
                "L7STS",
                Some(503),
                "HTTP status 503 Service Unavailable instead of 200",
            ),
            (answer(200, &[], &frame(&[8, 1])), "L7RSP", None, "not a gRPC answer"),
            (answer(200, &[("grpc-status", "x")], &[]), "L7RSP", None, "no number"),
            (answer(200, &ok, &[]), "L7RSP", None, "not a health answer: it has no message"),
            (answer(200, &ok, &[0; 5000]), "L7RSP", None, "more than 4096 bytes"),
        ] {
            let result = answer.judge();
            assert_eq!((result.status.name(), result.code), (status, code), "{result:?}");
            assert!(result.detail.contains(detail), "{result:?}");
        }
        // Without a body the status may be in the head.
        let mut head_only = answer(200, &[], &[]);
        head_only.head.insert("grpc-status", "12".parse().expect("a value"));
        assert_eq!(head_only.judge().detail, "gRPC status 12 (UNIMPLEMENTED)");
    }

    #[test]
    fn messages_are_those_of_the_protocol() {
        assert_eq!(&question("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&question("a.B")[..], [0, 0, 0, 0, 5, 0x0a, 3, b'a', b'.', b'B']);
        assert_eq!(question(&"x".repeat(200))[5..8], [0x0a, 0xc8, 0x01]);
        // Fields that are not known are passed over, of every kind.
        let odd =
            [0x10, 0x96, 1, 0x19, 1, 2, 3, 4, 5, 6, 7, 8, 0x22, 2, 9, 9, 0x2d, 1, 2, 3, 4, 8, 1];
        assert_eq!(decode(&frame(&odd)), Ok(1));
        for (bytes, why) in [
            (&[0, 0, 0, 0][..], "no message"),
            (&[1, 0, 0, 0, 2, 8, 1], "compressed"),
            (&[0, 0, 0, 0, 3, 8, 1], "not one message"),
            (&frame(&[8]), "too early"),
            (&frame(&[0x22, 5, 1]), "too early"),
            (&frame(&[8, 255, 255, 255, 255, 15]), "none that there is"),
            (&frame(&[255; 11]), "does not end"),
            (&frame(&[0, 1]), "field 0"),
            (&frame(&[0x0b]), "unknown kind"),
        ] {
            assert!(decode(bytes).is_err_and(|said| said.contains(why)), "{bytes:?}");
        }
    }

    #[test]
    fn a_server_that_speaks_something_else_is_l7rsp() {
        for says in ["HTTP/1.1 400 Bad Request\r\n\r\n", "SSH-2.0-OpenSSH_9.2p1 Debian\r\n", ""] {
            let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
            let address = listener.local_addr().expect("its address");
            thread::spawn(move || {
                let (mut stream, _) = listener.accept().expect("a connection");
                let _ = stream.read(&mut [0; 24]);
                let _ = stream.write_all(says.as_bytes());
            });
            let check = GrpcCheck { service: String::new() };
            let result = block_on(grpc(&Line::direct(address), address, &check, LONG));
            assert_eq!(result.status.name(), "L7RSP", "{says:?}: {result:?}");
        }
    }

    #[test]
    fn silence_after_connecting_is_l7tout() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("its address");
        let short = Duration::from_millis(100);
        let result = block_on(grpc(
            &Line::direct(address),
            address,
            &GrpcCheck { service: String::new() },
            short,
        ));
        assert_eq!(result.detail, "connected, but no answer within 100ms");
        assert_eq!(result.status.name(), "L7TOUT");
    }

    proptest! {
        #[test]
        fn any_body_is_judged(bytes: Vec<u8>, status in "[0-9]{0,3}") {
            let fields = [("grpc-status", status.as_str())];
            for body in [bytes.clone(), frame(&bytes)] {
                let result = answer(200, &fields, &body).judge();
                let serves = decode(&body) == Ok(SERVING) && status.parse() == Ok(0);
                prop_assert_eq!(result.status == CheckStatus::L7Ok, serves);
            }
        }

        #[test]
        fn any_bytes_from_a_server_are_an_answer_or_none(bytes: Vec<u8>) {
            let (near, mut far) = tokio::io::duplex(64 * 1024);
            block_on(async {
                use tokio::io::AsyncWriteExt;
                let _ = far.write_all(&bytes).await;
                let (sender, connection) =
                    h2::client::Builder::new().handshake(near).await.expect("nothing is read yet");
                drop(far);
                let address = SocketAddr::from(([127, 0, 0, 1], 1));
                let request = request(address, LONG).expect("a request");
                let (answer, _) =
                    tokio::join!(call(sender, request, question("")), connection);
                assert!(answer.is_err());
            });
        }
    }
}
