//! A site for health checks: what it answers is changed while it runs, and requests are counted.
//!
//! Commands, one a line: `status N`, `body TEXT`, `hang yes|no` (requests are read and not
//! answered), `count`. Each is answered with one JSON document: connections and requests so far.
//! With `--cert` and `--key` (PEM) it speaks TLS. Every answer closes its connection.
//!
//! Must not know: who asks.

use crate::args::Args;
use crate::say;
use anyhow::{Context, Result, bail};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};
use serde_json::json;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Duration;

/// What it answers now.
#[derive(Clone)]
struct Answer {
    status: u16,
    body: String,
    hang: bool,
}

struct Site {
    answer: Mutex<Answer>,
    connections: AtomicU64,
    requests: AtomicU64,
    tls: Option<Arc<ServerConfig>>,
}

/// `site`: serves until stdin closes.
pub(crate) fn serve(args: &Args) -> Result<()> {
    let site: &'static Site = Box::leak(Box::new(Site {
        answer: Mutex::new(Answer { status: 200, body: "ok".into(), hang: false }),
        connections: AtomicU64::new(0),
        requests: AtomicU64::new(0),
        tls: match args.text("cert") {
            Ok(cert) => Some(Arc::new(tls(cert, args.text("key")?)?)),
            Err(_) => None,
        },
    }));
    for bind in args.all("bind") {
        let listener = TcpListener::bind(bind).with_context(|| format!("listen on {bind}"))?;
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                site.connections.fetch_add(1, Ordering::Relaxed);
                thread::spawn(move || site.connection(stream));
            }
        });
    }
    say("ready")?;
    for line in io::stdin().lock().lines() {
        site.command(&line?)?;
    }
    Ok(())
}

/// Settings of a TLS server with this certificate and key, in PEM files.
pub(crate) fn tls(cert: &str, key: &str) -> Result<ServerConfig> {
    let chain = CertificateDer::pem_file_iter(cert)?.collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_file(key)?;
    let builder = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()));
    let builder = builder.with_safe_default_protocol_versions()?;
    Ok(builder.with_no_client_auth().with_single_cert(chain, key)?)
}

impl Site {
    fn command(&self, line: &str) -> Result<()> {
        let (verb, rest) = line.split_once(' ').unwrap_or((line, ""));
        let mut answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner);
        match verb {
            "status" => answer.status = rest.parse()?,
            "body" => answer.body = rest.into(),
            "hang" => answer.hang = rest == "yes",
            "count" => {}
            _ => bail!("unknown command {line:?}"),
        }
        drop(answer);
        let [connections, requests] =
            [&self.connections, &self.requests].map(|n| n.load(Ordering::Relaxed));
        say(json!({"connections": connections, "requests": requests}))
    }

    /// A client that goes away is none of the site's business.
    fn connection(&self, stream: TcpStream) -> Option<()> {
        stream.set_read_timeout(Some(IDLE)).ok()?;
        stream.set_write_timeout(Some(IDLE)).ok()?;
        stream.set_nodelay(true).ok()?;
        match &self.tls {
            Some(config) => {
                let session = ServerConnection::new(Arc::clone(config)).ok()?;
                let mut stream = StreamOwned::new(session, stream);
                self.request(&mut stream)?;
                stream.conn.send_close_notify();
                stream.flush().ok()
            }
            None => self.request(&mut &stream),
        }
    }

    fn request(&self, stream: &mut (impl Read + Write)) -> Option<()> {
        let mut reader = BufReader::new(&mut *stream);
        let mut line = String::new();
        while line != "\r\n" {
            line.clear();
            if reader.read_line(&mut line).ok()? == 0 {
                return None;
            }
        }
        self.requests.fetch_add(1, Ordering::Relaxed);
        let answer = self.answer.lock().unwrap_or_else(PoisonError::into_inner).clone();
        if answer.hang {
            // Until the client gives up.
            return reader.read_line(&mut line).ok().map(drop);
        }
        let Answer { status, body, .. } = answer;
        let length = body.len();
        let text = format!(
            "HTTP/1.1 {status} Lab\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
        );
        stream.write_all(text.as_bytes()).ok()
    }
}

const IDLE: Duration = Duration::from_secs(60);
