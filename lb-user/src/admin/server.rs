//! The server's side of the admin API.
//!
//! Bounded in every direction: head 8 KiB, body 64 KiB, 16 connections, 5 s for a client to send
//! or to take its answer. One request a connection: the command line needs no more, and an idle
//! client holds no slot.
//!
//! Must not know: what a verb does, maps, netlink.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CACHE_CONTROL, CONTENT_TYPE};
use hyper::service::service_fn;
use hyper::{Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use nix::unistd::User;
use tokio::net::UnixStream;
use tokio::net::unix::UCred;
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::admin::api::{self, Answer};
use crate::admin::audit::{self, Who};
use crate::admin::socket::{Socket, SocketError};
use crate::admin::{http, operations};
use crate::controller::request::{Refusal, RefusalKind, Reply, Request, Verb};
use crate::watchdog::{self, Weight};

/// The admin socket, listening.
#[derive(Debug)]
pub struct Server {
    socket: Socket,
}

impl Server {
    /// Makes the socket: its directory with mode 0755, itself with 0660. A socket that nobody
    /// listens on is replaced. Needs a tokio runtime around it.
    pub fn bind(path: &Path) -> Result<Self, SocketError> {
        Ok(Self { socket: Socket::bind(path)? })
    }

    /// Serves until the future is dropped, which also removes the socket's file. Connections that
    /// are being served then end on their own.
    pub async fn run<E>(self, requests: mpsc::Sender<E>)
    where
        E: From<Request> + Send + 'static,
    {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let pulse = watchdog::part("admin socket", STUCK, Weight::Useful);
        loop {
            // Stuck is a server whose clients leave no room for others.
            pulse.begin();
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            pulse.rest();
            match self.socket.listener.accept().await {
                Ok((stream, _)) => {
                    let requests = requests.clone();
                    tokio::spawn(async move {
                        serve(stream, requests).await;
                        drop(slot);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "admin socket: accept failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn serve<E>(stream: UnixStream, requests: mpsc::Sender<E>)
where
    E: From<Request> + Send + 'static,
{
    let peer = stream.peer_cred().ok();
    let answered = Arc::new(Notify::new());
    let service = service_fn(|request: hyper::Request<Incoming>| {
        let requests = requests.clone();
        let answered = Arc::clone(&answered);
        async move {
            let answer = handle(request, &requests, peer).await;
            answered.notify_one();
            Ok::<_, Infallible>(response(answer))
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(CLIENT_TIMEOUT)
        .max_buf_size(MAX_HEAD)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = &mut connection => ended,
        () = answered.notified() => {
            match tokio::time::timeout(CLIENT_TIMEOUT, connection).await {
                Ok(ended) => ended,
                Err(_elapsed) => return tracing::debug!("admin client did not take its answer"),
            }
        }
    };
    if let Err(error) = ended {
        tracing::debug!(%error, "admin connection");
    }
}

async fn handle<E: From<Request> + Send + 'static>(
    request: hyper::Request<Incoming>,
    requests: &mpsc::Sender<E>,
    peer: Option<UCred>,
) -> Answer {
    let (head, body) = request.into_parts();
    let body = match http::body::read(body).await {
        Ok(body) => body,
        Err(answer) => return answer,
    };
    let path = head.uri.path();
    let query = match asked_in(path, head.uri.query(), &body) {
        Ok(query) => query,
        Err(answer) => return answer,
    };
    let verb = match api::route(&head.method, path, query.as_deref()) {
        Ok(verb) => verb,
        Err(answer) => return answer,
    };
    match audit::change(&verb) {
        None => ask(verb, requests).await,
        Some(said) => change(verb, said, who(peer), requests.clone()).await,
    }
}

/// Has a change made and logged, also when whoever asked hangs up meanwhile.
pub(super) async fn change<E: From<Request> + Send + 'static>(
    verb: Verb,
    said: String,
    who: impl Future<Output = Who> + Send + 'static,
    requests: mpsc::Sender<E>,
) -> Answer {
    let made = tokio::spawn(async move {
        let answer = ask(verb, &requests).await;
        audit::told(&who.await, &said, &answer);
        answer
    });
    made.await.unwrap_or_else(|_| {
        let text = "what became of it is in the daemon's log";
        Answer::error(StatusCode::INTERNAL_SERVER_ERROR, text)
    })
}

/// The query, with what the body of a change adds to it.
fn asked_in(path: &str, query: Option<&str>, body: &[u8]) -> Result<Option<String>, Answer> {
    if body.is_empty() {
        return Ok(query.map(str::to_owned));
    }
    let operation = path.strip_prefix(api::PREFIX).and_then(operations::find);
    match operation.filter(|operation| operation.changes) {
        Some(operation) => http::body::query(operation, query, body).map(Some),
        None => {
            let text = format!("{path} takes no body");
            Err(Answer::error(StatusCode::BAD_REQUEST, text))
        }
    }
}

/// The user behind a connection. The user database may be slow, or not there.
async fn who(peer: Option<UCred>) -> Who {
    let Some(peer) = peer else {
        return Who { name: "somebody".to_owned(), from: "the admin socket".to_owned() };
    };
    let uid = peer.uid();
    let named = tokio::task::spawn_blocking(move || User::from_uid(uid.into()).ok().flatten());
    let named = tokio::time::timeout(CLIENT_TIMEOUT, named).await;
    let name = match named {
        Ok(Ok(Some(user))) => user.name,
        _ => format!("uid {uid}"),
    };
    let process = peer.pid().map_or(String::new(), |pid| format!(", pid {pid}"));
    Who { name, from: format!("the admin socket{process}") }
}

async fn ask<E: From<Request>>(verb: Verb, requests: &mpsc::Sender<E>) -> Answer {
    api::respond(&reply(verb, requests).await)
}

/// Asks the controller.
pub(super) async fn reply<E: From<Request>>(verb: Verb, requests: &mpsc::Sender<E>) -> Reply {
    let limit = match verb {
        Verb::Reload | Verb::ReopenLogs | Verb::Bans => LONG_TIMEOUT,
        _ => CLIENT_TIMEOUT,
    };
    let (request, reply) = Request::new(verb);
    let stopping = || Refusal::new(RefusalKind::Busy, "the daemon is stopping");
    let answer = async {
        if requests.send(E::from(request)).await.is_err() {
            return Err(stopping());
        }
        reply.await.unwrap_or_else(|_dropped| Err(stopping()))
    };
    tokio::time::timeout(limit, answer).await.unwrap_or_else(|_elapsed| {
        let text = format!("the controller did not answer within {limit:?}; see the daemon's log");
        Err(Refusal::new(RefusalKind::Late, text))
    })
}

fn response(answer: Answer) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(answer.body)));
    *response.status_mut() = answer.status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, hyper::header::HeaderValue::from_static(answer.content_type));
    headers.insert(CACHE_CONTROL, hyper::header::HeaderValue::from_static("no-store"));
    if let Some(allow) = answer.allow {
        headers.insert(ALLOW, hyper::header::HeaderValue::from_static(allow));
    }
    response
}

const MAX_CONNECTIONS: usize = 16;
/// hyper's smallest.
const MAX_HEAD: usize = 8 * 1024;
const CLIENT_TIMEOUT: Duration = Duration::from_secs(5);
/// A reload is answered when the new file serves, and a list of bans may be long.
const LONG_TIMEOUT: Duration = Duration::from_secs(60);
const STUCK: Duration = Duration::from_secs(10);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;
    use std::path::PathBuf;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::admin::client::Client;
    use crate::controller::document::{Reload, Status};
    use crate::controller::request::{Document, Refusal};

    /// A directory of its own for a socket, removed at the end.
    struct Directory(PathBuf);

    impl Directory {
        fn new(name: &str) -> Self {
            let path = std::env::temp_dir().join(format!("lb-admin-{}-{name}", std::process::id()));
            Self(path)
        }

        fn socket(&self) -> PathBuf {
            self.0.join("deep/admin.sock")
        }
    }

    impl Drop for Directory {
        fn drop(&mut self) {
            let _gone = std::fs::remove_dir_all(&self.0);
        }
    }

    /// Serves with a controller that knows its name and refuses every reload.
    fn start(path: &Path) -> tokio::task::JoinHandle<()> {
        let server = Server::bind(path).expect("the socket");
        let (sender, mut requests) = mpsc::channel::<Request>(4);
        tokio::spawn(async move {
            while let Some(request) = requests.recv().await {
                let reply = match request.verb {
                    Verb::Reload => Err(Refusal::invalid_config(
                        "lb.yaml: 1 error",
                        vec!["lb.yaml:1:1: node: wrong".into()],
                    )),
                    Verb::Metrics => Ok(Document::Metrics(Box::default())),
                    _ => Ok(Document::Status(Status { node: "lb01".into(), ..Status::default() })),
                };
                request.answer(reply);
            }
        });
        tokio::spawn(server.run(sender))
    }

    async fn raw(path: &Path, request: &[u8]) -> String {
        let mut stream = UnixStream::connect(path).await.expect("connected");
        // The server may answer and close before all of a bad request is written.
        let _refused = stream.write_all(request).await;
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer).await;
        String::from_utf8_lossy(&answer).into_owned()
    }

    #[tokio::test(flavor = "current_thread")]
    async fn the_client_gets_documents_and_refusals() {
        let directory = Directory::new("round");
        let server = start(&directory.socket());
        let mode = std::fs::metadata(directory.socket()).expect("the socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o660);
        let client = Client::new(directory.socket());
        let status: Status = client.ask(&Verb::Status).await.expect("a status");
        assert_eq!(status.node, "lb01");
        let refused = client.ask::<Reload>(&Verb::Reload).await.expect_err("refused");
        let text = refused.to_string();
        assert_eq!(text, "lb.yaml: 1 error\nlb.yaml:1:1: node: wrong");
        server.abort();
        let _aborted = server.await;
        assert!(!directory.socket().exists(), "the file goes with the server");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn metrics_are_text_of_their_own_type() {
        let directory = Directory::new("metrics");
        let server = start(&directory.socket());
        let answer = raw(&directory.socket(), b"GET /metrics HTTP/1.1\r\nHost: lb\r\n\r\n").await;
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head and a body");
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert!(head.contains("content-type: text/plain; version=0.0.4"), "{head}");
        assert_eq!(body, crate::metrics::render(&crate::metrics::Snapshot::default()));
        server.abort();
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let directory = Directory::new("stale");
        let path = directory.socket();
        std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
        drop(std::os::unix::net::UnixListener::bind(&path).expect("a stale socket"));
        let server = start(&path);
        let error = Server::bind(&path).expect_err("in use").to_string();
        assert!(error.contains(&format!("pid {}", std::process::id())), "{error}");
        server.abort();
        let _aborted = server.await;
        std::fs::write(&path, "notes").expect("a file");
        let error = Server::bind(&path).expect_err("a file").to_string();
        assert!(error.contains("is not a socket"), "{error}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn malformed_and_excessive_requests_are_answered_or_closed() {
        let directory = Directory::new("bad");
        let path = directory.socket();
        let server = start(&path);
        let long_head = format!("GET /api/v1/status HTTP/1.1\r\nX: {}\r\n\r\n", "x".repeat(9000));
        let long_body = format!(
            "POST /api/v1/reload HTTP/1.1\r\nHost: lb\r\nContent-Length: 70000\r\n\r\n{}",
            "x".repeat(70000)
        );
        for (request, expected) in [
            ("\0\u{1}\u{2}\r\n\r\n", "HTTP/1.1 400"),
            ("GET\r\n\r\n", "HTTP/1.1 400"),
            ("GET /api/v1/nothing HTTP/1.1\r\nHost: lb\r\n\r\n", "HTTP/1.1 404"),
            ("PUT /api/v1/status HTTP/1.1\r\nHost: lb\r\n\r\n", "HTTP/1.1 405"),
            (long_head.as_str(), "HTTP/1.1 431"),
            (long_body.as_str(), "HTTP/1.1 413"),
        ] {
            let answer = raw(&path, request.as_bytes()).await;
            assert!(answer.starts_with(expected), "{answer:?}, expected {expected}");
        }
        let client = Client::new(path);
        let status: Status = client.ask(&Verb::Status).await.expect("it still serves");
        assert_eq!(status.node, "lb01");
        server.abort();
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_missing_daemon_is_named_with_what_to_do() {
        let directory = Directory::new("none");
        let client = Client::new(directory.socket());
        let error = client.ask::<Status>(&Verb::Status).await.expect_err("nobody").to_string();
        assert!(error.contains("no daemon listens on"), "{error}");
        assert!(error.contains("lb run"), "{error}");
    }
}
