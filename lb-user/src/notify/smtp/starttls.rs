//! From a fresh connection to an encrypted one (RFC 3207).
//!
//! The dialogue up to the handshake is held here, since what an attacker puts behind the server's
//! answer to STARTTLS must not be read as if it had come encrypted (CVE-2011-0411).
//!
//! Must not know: mails, passwords.

use std::io::{self, Cursor, Read};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use lettre::transport::smtp::client::AsyncTokioStream;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::{Fault, within};
use crate::model::Email;
use crate::trusted::trusted_roots;

/// Turns a fresh connection to TLS.
pub(super) async fn secure(
    email: &Email,
    name: &str,
    trusted: Option<&RootCertStore>,
    mut stream: TcpStream,
) -> Result<Secured, Fault> {
    let limit = email.timeout;
    let greeting = within("the greeting", limit, answer(&mut stream)).await??;
    greeting.expect("the greeting", "220")?;
    let hello = within("EHLO", limit, ask(&mut stream, &format!("EHLO {name}"))).await??;
    hello.expect("EHLO", "250")?;
    if !hello.offers("STARTTLS") {
        return Err(Fault::new(
            "the server does not offer STARTTLS and nothing was sent: let it, or set starttls: \
             false if the way to it is safe",
        ));
    }
    let ready = within("STARTTLS", limit, ask(&mut stream, "STARTTLS")).await??;
    ready.expect("STARTTLS", "220")?;
    let connector = connector(trusted).await?;
    let server = ServerName::try_from(email.host.clone())
        .map_err(|error| Fault::new(format!("{:?}: {error}", email.host)))?;
    let shaken = within("the TLS handshake", limit, connector.connect(server, stream)).await?;
    let tls = shaken.map_err(|error| Fault::new(format!("the TLS handshake: {error}")))?;
    Ok(Secured { greeting: Cursor::new(b"220 over TLS\r\n".to_vec()), tls })
}

/// Reads the host's authorities anew for each delivery, which are few.
async fn connector(trusted: Option<&RootCertStore>) -> Result<TlsConnector, Fault> {
    let roots = match trusted {
        Some(roots) => roots.clone(),
        None => tokio::task::spawn_blocking(trusted_roots)
            .await
            .map_err(|_| Fault::new("the daemon is stopping"))?
            .map_err(Fault::new)?,
    };
    let config = ClientConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|error| Fault::new(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

/// A server's answer: all of its lines.
#[derive(Debug)]
struct Answer(String);

impl Answer {
    fn expect(&self, what: &str, code: &str) -> Result<(), Fault> {
        if self.0.starts_with(code) {
            return Ok(());
        }
        Err(Fault::new(format!("{what}: the server says {:?}", self.0.trim_end())))
    }

    fn offers(&self, keyword: &str) -> bool {
        self.0.lines().skip(1).any(|line| {
            line.get(4..).is_some_and(|said| said.trim_end().eq_ignore_ascii_case(keyword))
        })
    }
}

async fn ask(stream: &mut TcpStream, command: &str) -> Result<Answer, Fault> {
    let written = stream.write_all(format!("{command}\r\n").as_bytes()).await;
    written.map_err(|error| Fault::new(format!("{command}: {error}")))?;
    answer(stream).await
}

/// An answer in clear is not longer than this.
const MAX_ANSWER: usize = 16 * 1024;

/// Reads one answer; anything behind it is not the server's to say yet.
async fn answer(stream: &mut TcpStream) -> Result<Answer, Fault> {
    let (mut said, mut buffer) = (Vec::new(), [0; 1024]);
    loop {
        match stream.read(&mut buffer).await {
            Ok(0) => return Err(Fault::new("the server closed the connection")),
            Ok(length) => said.extend_from_slice(&buffer[..length]),
            Err(error) => return Err(Fault::new(error.to_string())),
        }
        match end_of_answer(&said) {
            Some(end) if end == said.len() => {
                return Ok(Answer(String::from_utf8_lossy(&said).into_owned()));
            }
            Some(_) => {
                return Err(Fault::new(
                    "the server says more than it was asked before TLS: somebody may be in between",
                ));
            }
            None if said.len() > MAX_ANSWER => {
                return Err(Fault::new("the server's answer does not end"));
            }
            None => {}
        }
    }
}

/// Where the first answer ends: behind the first line without a hyphen after its code.
fn end_of_answer(said: &[u8]) -> Option<usize> {
    let mut begin = 0;
    while let Some(length) = said[begin..].iter().position(|byte| *byte == b'\n') {
        let line = &said[begin..begin + length];
        begin += length + 1;
        if line.get(3) != Some(&b'-') {
            return Some(begin);
        }
    }
    None
}

/// An encrypted connection as lettre expects a fresh one: it begins with a greeting, which the
/// server does not repeat.
#[derive(Debug)]
pub(super) struct Secured {
    greeting: Cursor<Vec<u8>>,
    tls: TlsStream<TcpStream>,
}

impl AsyncRead for Secured {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let length = Read::read(&mut self.greeting, buffer.initialize_unfilled())?;
        if length > 0 {
            buffer.advance(length);
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.tls).poll_read(context, buffer)
    }
}

impl AsyncWrite for Secured {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tls).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tls).poll_shutdown(context)
    }
}

impl AsyncTokioStream for Secured {
    fn peer_addr(&self) -> io::Result<SocketAddr> {
        self.tls.get_ref().0.peer_addr()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_ends_with_the_line_that_says_so() {
        assert_eq!(end_of_answer(b"220 ready\r\n"), Some(11));
        assert_eq!(end_of_answer(b"250-one\r\n250 two\r\n220 x\r\n"), Some(18));
        assert_eq!(end_of_answer(b"250-one\r\n250 tw"), None);
        assert_eq!(end_of_answer(b"250\r\n"), Some(5));
        assert_eq!(end_of_answer(b"\n"), Some(1));
        assert_eq!(end_of_answer(b""), None);
    }

    #[test]
    fn a_keyword_is_offered_as_a_line_of_its_own() {
        let answer = |text: &str| Answer(text.to_owned());
        assert!(answer("250-me\r\n250-starttls\r\n250 SIZE 1\r\n").offers("STARTTLS"));
        assert!(!answer("250-STARTTLS.example.com\r\n250 SIZE\r\n").offers("STARTTLS"));
        assert!(!answer("250 STARTTLS\r\n").offers("STARTTLS"), "the first line is a name");
        assert!(!answer("250-me\r\n25\u{e9}\r\n").offers("STARTTLS"));
    }
}
