//! The admin plane over TCP: dashboard, HAProxy's CSV, metrics and the API, behind users.
//!
//! [`Plane`] is what the daemon holds: a configuration is first staged (files read, port bound),
//! which may fail and changes nothing, and then committed, which cannot. Open connections serve by
//! the settings in force at each request, so a user who left the file is out at once.
//!
//! - `listener` takes connections and bounds them; `settings` is the configuration with its files;
//! - `auth`, `throttle` and `csrf` say who asks and whether it is meant;
//! - `handle` is the way from a request to an answer, `form` the page's changes, `body` the API's
//!   bodies, `guard` what must hold of every change.
//!
//! Must not know: maps, netlink, how a page looks.

mod auth;
pub(super) mod body;
mod csrf;
mod form;
mod guard;
mod handle;
mod listener;
mod settings;
#[cfg(test)]
mod tests;
mod throttle;

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::runtime::Handle;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;

use crate::admin::http::csrf::Tokens;
use crate::admin::http::form::Results;
use crate::admin::http::settings::Settings;
use crate::admin::http::throttle::Throttle;
use crate::controller::AdminPlane;
use crate::controller::request::Request;
use crate::model::Director;

/// The HTTP side of the admin plane.
pub struct Plane<E> {
    shared: Arc<Shared<E>>,
    settings: watch::Sender<Option<Arc<Settings>>>,
    runtime: Handle,
    state: Mutex<State>,
}

/// What every request needs.
struct Shared<E> {
    requests: mpsc::Sender<E>,
    settings: watch::Receiver<Option<Arc<Settings>>>,
    tokens: Tokens,
    throttle: Throttle,
    results: Results,
    started: Instant,
}

#[derive(Default)]
struct State {
    staged: Option<Staged>,
    /// What was in force before the last commit.
    before: Option<Option<Arc<Settings>>>,
    accepting: Option<(SocketAddr, JoinHandle<()>)>,
}

struct Staged {
    settings: Option<Arc<Settings>>,
    /// A new one, where the address changes. One that is in the way of our own is bound when that is
    /// closed.
    listener: Option<TcpListener>,
}

impl<E: From<Request> + Send + 'static> Plane<E> {
    /// Serves nothing yet. Requests go to `requests`, connections run on `runtime`.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn new(requests: mpsc::Sender<E>, runtime: Handle) -> anyhow::Result<Self> {
        let (settings, receiver) = watch::channel(None);
        let shared = Arc::new(Shared {
            requests,
            settings: receiver,
            tokens: Tokens::new()?,
            throttle: Throttle::default(),
            results: Results::default(),
            started: Instant::now(),
        });
        Ok(Self { shared, settings, runtime, state: Mutex::default() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts settings in force; a listener only where the address is another.
    fn serve(&self, state: &mut State, staged: Staged) {
        let Staged { settings, listener } = staged;
        let bind = settings.as_ref().map(|settings| settings.http.bind);
        let other = state.accepting.take_if(|(served, _)| Some(*served) != bind);
        let before = other.map(|(_, accepting)| accepting);
        if let Some(accepting) = &before {
            accepting.abort();
        }
        if let (Some(bind), None) = (bind, &state.accepting) {
            let serving = accept(before, bind, listener, Arc::clone(&self.shared));
            state.accepting = Some((bind, self.runtime.spawn(serving)));
            let tls = settings.as_ref().is_some_and(|settings| settings.tls.is_some());
            let scheme = if tls { "https" } else { "http" };
            let path = settings.as_ref().map_or("", |settings| settings.http.stats_path.as_str());
            tracing::info!("admin: serving {scheme}://{bind}{path}");
        }
        self.settings.send_replace(settings);
    }
}

impl<E: From<Request> + Send + 'static> AdminPlane for Plane<E> {
    fn stage(&self, director: &Director) -> Result<(), Vec<String>> {
        let mut state = self.state();
        state.staged = None;
        let Some(http) = &director.admin.http else {
            state.staged = Some(Staged { settings: None, listener: None });
            return Ok(());
        };
        let settings = Arc::new(Settings::read(http)?);
        let is_bound = state.accepting.as_ref().is_some_and(|(bound, _)| *bound == http.bind);
        let own = state.accepting.as_ref().map(|(bound, _)| *bound);
        let listener = match listener::bind(http.bind) {
            _ if is_bound => None,
            Ok(listener) => Some(listener),
            Err(_) if own.is_some_and(|own| is_in_the_way(own, http.bind)) => None,
            Err(error) => return Err(vec![bind_fault(http.bind, &error)]),
        };
        state.staged = Some(Staged { settings: Some(settings), listener });
        Ok(())
    }

    fn commit(&self) {
        let mut state = self.state();
        if let Some(staged) = state.staged.take() {
            state.before = Some(self.settings.borrow().clone());
            self.serve(&mut state, staged);
        }
    }

    fn discard(&self) {
        self.state().staged = None;
    }

    fn roll_back(&self) {
        let mut state = self.state();
        let Some(settings) = state.before.take() else { return };
        let bind = settings.as_ref().map(|settings| settings.http.bind);
        let served = state.accepting.as_ref().map(|(bound, _)| *bound);
        // At once where that is possible, so that nobody is refused in between.
        let listener = bind.filter(|_| served != bind).and_then(|bind| listener::bind(bind).ok());
        self.serve(&mut state, Staged { settings, listener });
    }
}

impl<E> Drop for Plane<E> {
    fn drop(&mut self) {
        let state = self.state.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, accepting)) = &state.accepting {
            accepting.abort();
        }
    }
}

/// Serves on an address, once whoever served before has closed his socket.
async fn accept<E: From<Request> + Send + 'static>(
    before: Option<JoinHandle<()>>,
    bind: SocketAddr,
    listener: Option<TcpListener>,
    shared: Arc<Shared<E>>,
) {
    if let Some(before) = before {
        // It was told to end.
        let _ended = before.await;
    }
    match listener.map_or_else(|| listener::bind(bind), Ok) {
        Ok(listener) => listener::run(listener, shared).await,
        Err(error) => tracing::error!("{}", bind_fault(bind, &error)),
    }
}

/// Whether our own socket keeps another of ours from its address: one of them is for every address.
fn is_in_the_way(own: SocketAddr, wanted: SocketAddr) -> bool {
    own.port() == wanted.port() && (own.ip().is_unspecified() || wanted.ip().is_unspecified())
}

/// What keeps `admin.http` from working on this host, line by line. Reads files, and tries the port.
pub fn examine(director: &Director) -> Vec<String> {
    let Some(http) = &director.admin.http else { return Vec::new() };
    let mut faults = Settings::read(http).err().unwrap_or_default();
    if let Err(error) = listener::bind(http.bind) {
        let fault = bind_fault(http.bind, &error);
        faults.push(format!("{fault} (a daemon that runs with this file holds it)"));
    }
    faults
}

fn bind_fault(bind: SocketAddr, error: &std::io::Error) -> String {
    format!(
        "admin.http.bind: cannot listen on {bind}: {error}: stop who does, or name another port"
    )
}
