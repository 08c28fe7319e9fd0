//! Takes connections, with TLS if it is configured, and bounds them.
//!
//! Bounded are connections in total and per source, the time for a handshake, for a head and for an
//! answer to be taken, the size of heads, and how long a connection may be without an answer.
//!
//! Must not know: routes, users.

use std::collections::HashMap;
use std::convert::Infallible;
use std::io;
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

use crate::admin::http::Shared;
use crate::admin::http::handle::handle;
use crate::admin::http::throttle::network;
use crate::controller::request::Request;
use crate::watchdog::{self, Weight};

/// A listening socket; `[::]` takes IPv4 as well, and is `0.0.0.0` on a host without IPv6.
pub(super) fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    let bind = |address: SocketAddr| -> io::Result<TcpListener> {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
        if address.is_ipv6() {
            socket.set_only_v6(!address.ip().is_unspecified())?;
        }
        // Connections of an earlier daemon that are on their way out are no reason to wait.
        socket.set_reuse_address(true)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(TcpListener::from(socket))
    };
    match bind(address) {
        Err(error)
            if address.ip() == IpAddr::from(std::net::Ipv6Addr::UNSPECIFIED)
                && matches!(
                    error.raw_os_error(),
                    Some(libc::EAFNOSUPPORT | libc::EADDRNOTAVAIL)
                ) =>
        {
            bind(SocketAddr::from(([0, 0, 0, 0], address.port())))
        }
        bound => bound,
    }
}

/// Serves until the future is dropped. Connections that are being served then end on their own.
pub(super) async fn run<E>(listener: TcpListener, shared: Arc<Shared<E>>)
where
    E: From<Request> + Send + 'static,
{
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "admin.http: cannot listen"),
    };
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let sources = Arc::new(Sources::default());
    let pulse = watchdog::part("admin.http", STUCK, Weight::Useful);
    loop {
        // Stuck is a server whose clients leave no room for others.
        pulse.begin();
        let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
        pulse.rest();
        match listener.accept().await {
            Ok((stream, peer)) => {
                let peer = SocketAddr::new(peer.ip().to_canonical(), peer.port());
                let Some(place) = Sources::enter(&sources, peer.ip()) else {
                    tracing::debug!(%peer, "admin.http: too many connections from there");
                    continue;
                };
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    connection(stream, peer, shared).await;
                    drop((slot, place));
                });
            }
            Err(error) => {
                tracing::warn!(%error, "admin.http: accept failed");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection<E>(stream: TcpStream, peer: SocketAddr, shared: Arc<Shared<E>>)
where
    E: From<Request> + Send + 'static,
{
    let _slower = stream.set_nodelay(true);
    let tls = shared.settings.borrow().as_ref().and_then(|settings| settings.tls.clone());
    let Some(acceptor) = tls else {
        return serve(stream, peer, false, shared).await;
    };
    match tokio::time::timeout(HANDSHAKE, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => serve(stream, peer, true, shared).await,
        Ok(Err(error)) => tracing::debug!(%peer, %error, "admin.http: no TLS handshake"),
        Err(_elapsed) => tracing::debug!(%peer, "admin.http: no TLS handshake in time"),
    }
}

async fn serve<E, S>(stream: S, peer: SocketAddr, is_secure: bool, shared: Arc<Shared<E>>)
where
    E: From<Request> + Send + 'static,
    S: AsyncRead + AsyncWrite + Unpin,
{
    let activity = Arc::new(Activity::default());
    let service = service_fn(|request| {
        let (shared, activity) = (Arc::clone(&shared), Arc::clone(&activity));
        async move {
            activity.begin();
            let response = handle(request, peer, is_secure, &shared).await;
            activity.end();
            Ok::<_, Infallible>(response)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD)
        .max_buf_size(MAX_HEAD)
        .serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    loop {
        tokio::select! {
            ended = &mut connection => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "admin.http: connection");
                }
                return;
            }
            () = tokio::time::sleep(LOOK) => {
                // Neither a next request nor the end: the answer is not taken, or it is idle.
                if activity.idle(Instant::now()) > IDLE {
                    return tracing::debug!(%peer, "admin.http: a connection was idle too long");
                }
            }
        }
    }
}

/// When something was last answered.
struct Activity(Mutex<(bool, Instant)>);

impl Default for Activity {
    fn default() -> Self {
        Self(Mutex::new((false, Instant::now())))
    }
}

impl Activity {
    fn begin(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (true, Instant::now());
    }

    fn end(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = (false, Instant::now());
    }

    fn idle(&self, now: Instant) -> Duration {
        let (working, since) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if working { Duration::ZERO } else { now.saturating_duration_since(since) }
    }
}

/// Connections by source.
#[derive(Default)]
struct Sources(Mutex<HashMap<IpAddr, usize>>);

/// A connection's place among those of its source.
struct Place {
    sources: Arc<Sources>,
    source: IpAddr,
}

impl Sources {
    fn enter(sources: &Arc<Self>, source: IpAddr) -> Option<Place> {
        let mut open = sources.0.lock().unwrap_or_else(PoisonError::into_inner);
        // A host of IPv6 has many addresses.
        let source = network(source);
        let count = open.entry(source).or_default();
        if *count >= MAX_PER_SOURCE {
            return None;
        }
        *count += 1;
        Some(Place { sources: Arc::clone(sources), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut open = self.sources.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = open.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.source);
            }
        }
    }
}

const MAX_CONNECTIONS: usize = 256;
const MAX_PER_SOURCE: usize = 64;
const BACKLOG: i32 = 128;
const MAX_HEAD: usize = 16 * 1024;
const HANDSHAKE: Duration = Duration::from_secs(5);
/// For the whole of a head, so that byte after byte holds nothing; also between two requests.
const HEAD: Duration = Duration::from_secs(10);
const IDLE: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_secs(5);
const STUCK: Duration = Duration::from_secs(60);
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_source_has_its_places_and_gives_them_back() {
        let sources = Arc::new(Sources::default());
        let source: IpAddr = "192.0.2.1".parse().expect("an address");
        let enter = |source| Sources::enter(&sources, source);
        let mut places: Vec<Place> = (0..MAX_PER_SOURCE).filter_map(|_| enter(source)).collect();
        assert_eq!(places.len(), MAX_PER_SOURCE);
        assert!(enter(source).is_none());
        assert!(enter("192.0.2.2".parse().expect("an address")).is_some());
        places.pop();
        assert!(enter(source).is_some());
        places.clear();
        assert!(sources.0.lock().expect("not poisoned").is_empty());
    }
}
