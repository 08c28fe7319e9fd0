//! Plain HTTP requests, right and wrong, as bytes from inside a namespace.
//!
//! Nothing is added to a request but what the caller writes, so that it can be as wrong as wanted.
//!
//! Must not know: what is asked, what the right answer is.

use crate::netns::Netns;
use anyhow::{Context, Result};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// What a server answered.
#[derive(Clone, Debug)]
pub struct Reply {
    /// The status; 0 when the connection was closed without an answer.
    pub status: u16,
    /// Status line and headers.
    pub head: String,
    /// The rest.
    pub body: String,
}

/// Sends bytes, and reads an answer, or until the other side closes.
///
/// # Errors
/// When nobody listens, or the other side neither answers nor closes within 30 seconds.
pub fn exchange(ns: &Netns, to: SocketAddr, bytes: &[u8]) -> Result<Reply> {
    ns.enter(|| {
        let mut stream = TcpStream::connect(to).with_context(|| format!("connect to {to}"))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // The server may answer and close before all of a bad request is written.
        let _refused = stream.write_all(bytes);
        let mut answer = Vec::new();
        let mut piece = [0; 16 * 1024];
        while !is_whole(&answer) {
            match stream.read(&mut piece) {
                Ok(0) => break,
                Ok(count) => answer.extend_from_slice(&piece[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => break,
                Err(error) => return Err(error).context("no answer"),
            }
        }
        let text = String::from_utf8_lossy(&answer).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Ok(Reply { status, head: head.to_owned(), body: body.to_owned() })
    })
}

/// Whether as much has come as `content-length` announces.
fn is_whole(answer: &[u8]) -> bool {
    let Some(at) = answer.windows(4).position(|four| four == b"\r\n\r\n") else { return false };
    let head = String::from_utf8_lossy(&answer[..at]).to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
    let length = length.and_then(|length| length.trim().parse::<usize>().ok());
    length.is_some_and(|length| answer.len() >= at + 4 + length)
}

/// A request with a host, a length and `Connection: close`.
pub fn request(line: &str, headers: &[&str], body: &str) -> String {
    let mut text = format!("{line} HTTP/1.1\r\nHost: 127.0.0.1:1080\r\nConnection: close\r\n");
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    if !body.is_empty() {
        text.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    text + "\r\n" + body
}

/// `Authorization: Basic ...`.
pub fn basic(user: &str, password: &str) -> String {
    let encoded = BASE64_STANDARD.encode(format!("{user}:{password}"));
    format!("Authorization: Basic {encoded}")
}

/// Decodes base64, such as a browser's screenshot.
///
/// # Errors
/// When it is none.
pub fn decode(text: &str) -> Result<Vec<u8>> {
    BASE64_STANDARD.decode(text).context("not base64")
}

/// Percent-encodes what stands before `@` in a URL.
pub fn escape(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric();
    let one = |byte| if plain(byte) { char::from(byte).into() } else { format!("%{byte:02X}") };
    text.bytes().map(one).collect()
}

const PATIENCE: Duration = Duration::from_secs(30);
