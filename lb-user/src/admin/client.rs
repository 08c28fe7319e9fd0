//! The client's side of the admin API, for the command line.
//!
//! Must not know: how documents are shown, argv.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use http_body_util::{BodyExt, Empty};
use hyper::StatusCode;
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use serde::de::DeserializeOwned;
use tokio::net::UnixStream;

use crate::admin::api;
use crate::controller::document::Error;
use crate::controller::request::Verb;

/// Speaks to the daemon behind one socket.
#[derive(Clone, Debug)]
pub struct Client {
    socket: PathBuf,
}

/// Why there is no document.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// Nobody is there.
    #[error(
        "no daemon listens on {} ({source}): start one with `lb run --config FILE`, or name its \
         socket with --socket",
        socket.display()
    )]
    NoDaemon {
        /// The socket.
        socket: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The user may not ask.
    #[error("{}: permission denied: run as root or as a member of the socket's group", socket.display())]
    Permission {
        /// The socket.
        socket: PathBuf,
    },
    /// The daemon refused, in its own words.
    #[error("{}", words(.0))]
    Refused(Error),
    /// The connection or the answer broke.
    #[error("the daemon behind {}: {detail}", socket.display())]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// How.
        detail: String,
    },
}

/// The line and, below it, the errors one by one.
fn words(document: &Error) -> String {
    let lines = [&document.error].into_iter().chain(&document.errors);
    lines.map(String::as_str).collect::<Vec<_>>().join("\n")
}

impl Client {
    /// A client; nothing is connected yet.
    pub fn new(socket: impl Into<PathBuf>) -> Self {
        Self { socket: socket.into() }
    }

    /// Asks and reads the document.
    pub async fn ask<T: DeserializeOwned>(&self, verb: &Verb) -> Result<T, ClientError> {
        let body = self.ask_raw(verb).await?;
        serde_json::from_slice(&body)
            .map_err(|error| self.broken(format!("its answer was not understood: {error}")))
    }

    /// Asks and gives the document's JSON as the daemon wrote it, with the keys that this version
    /// does not know.
    pub async fn ask_raw(&self, verb: &Verb) -> Result<Vec<u8>, ClientError> {
        let answer = tokio::time::timeout(TIMEOUT, self.exchange(verb)).await;
        let (status, body) = answer
            .unwrap_or_else(|_elapsed| Err(self.broken(format!("no answer within {TIMEOUT:?}"))))?;
        if status.is_success() {
            return Ok(body.to_vec());
        }
        let document = serde_json::from_slice(&body).unwrap_or_else(|_| Error {
            error: format!("the daemon answered {status}"),
            errors: Vec::new(),
        });
        Err(ClientError::Refused(document))
    }

    async fn exchange(&self, verb: &Verb) -> Result<(StatusCode, Bytes), ClientError> {
        let broken = |error: hyper::Error| self.broken(error.to_string());
        let stream = UnixStream::connect(&self.socket).await.map_err(|error| self.absent(error))?;
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(broken)?;
        let (method, path) = api::path_of(verb);
        let request = hyper::Request::builder()
            .method(method)
            .uri(path)
            .header(hyper::header::HOST, "lb")
            .body(Empty::<Bytes>::new())
            .map_err(|error| self.broken(error.to_string()))?;
        let exchange = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            Ok((status, response.into_body().collect().await?.to_bytes()))
        };
        tokio::pin!(exchange);
        tokio::select! {
            answer = &mut exchange => answer.map_err(broken),
            ended = connection => {
                ended.map_err(broken)?;
                exchange.await.map_err(broken)
            }
        }
    }

    fn absent(&self, source: io::Error) -> ClientError {
        let socket = self.socket.clone();
        if source.kind() == io::ErrorKind::PermissionDenied {
            ClientError::Permission { socket }
        } else {
            ClientError::NoDaemon { socket, source }
        }
    }

    fn broken(&self, detail: String) -> ClientError {
        ClientError::Broken { socket: self.socket.clone(), detail }
    }
}

/// Longer than any of the server's own.
const TIMEOUT: Duration = Duration::from_secs(70);
