//! Rates and the last minutes: a thread samples the counters, requests read what it found.
//!
//! The controller's task never waits for the maps here: it takes the last rates as they are, and
//! long documents are made on a blocking thread.
//!
//! Must not know: HTTP, map layouts.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use anyhow::Context as _;
use lb_common::service::ServiceKey;

use crate::controller::document::{self, ServiceHistory};
use crate::controller::engine::Engine;
use crate::controller::request::{Document, Request};
use crate::controller::task::Controller;
use crate::controller::wanted;
use crate::dataplane::sampling::Sampler;
use crate::metrics::history::{History, INTERVAL, Latest, Sample};
use crate::model::VirtualService;

/// The thread and what it found; dropped to end it.
#[derive(Debug)]
pub struct Sampling {
    _running: mpsc::Sender<()>,
    found: Found,
}

/// What was found, for any thread.
#[derive(Clone, Debug, Default)]
pub struct Found {
    latest: Arc<Mutex<Arc<Latest>>>,
    history: Arc<Mutex<History>>,
}

impl Sampling {
    /// Begins to sample the maps that are pinned in `directory`.
    ///
    /// # Errors
    /// When they cannot be opened or no thread can be made.
    pub fn start(directory: &Path) -> anyhow::Result<Self> {
        let sampler = Sampler::open(directory)?;
        let (sender, stop) = mpsc::channel::<()>();
        let found = Found::default();
        let kept = found.clone();
        let sample = move || {
            loop {
                match sampler.read() {
                    Ok(reading) => {
                        let latest = lock(&kept.history).take(reading);
                        *lock(&kept.latest) = Arc::new(latest);
                    }
                    Err(error) => tracing::error!("no rates: {error:#}"),
                }
                if stop.recv_timeout(INTERVAL) != Err(mpsc::RecvTimeoutError::Timeout) {
                    return;
                }
            }
        };
        std::thread::Builder::new()
            .name("sampling".to_owned())
            .spawn(sample)
            .context("start the thread that samples the counters")?;
        Ok(Self { _running: sender, found })
    }

    /// What it has found.
    pub fn found(&self) -> Found {
        self.found.clone()
    }
}

impl Found {
    /// The last rates.
    pub fn latest(&self) -> Arc<Latest> {
        Arc::clone(&lock(&self.latest))
    }

    /// `GET /api/v1/history` of these services, in their order; for a thread that may wait.
    pub fn document(&self, services: Vec<(String, ServiceKey)>) -> document::History {
        let history = lock(&self.history);
        let of_service = |(name, key): (String, ServiceKey)| {
            let values = |of: fn(&Sample) -> f32| history.samples(&key).map(of).collect();
            ServiceHistory {
                name,
                connections: values(|sample| sample.connections),
                packets_in: values(|sample| sample.packets_in),
                bytes_in: values(|sample| sample.bytes_in),
                bytes_out: values(|sample| sample.bytes_out),
            }
        };
        document::History {
            interval_s: INTERVAL.as_secs(),
            services: services.into_iter().map(of_service).collect(),
        }
    }
}

impl Controller {
    /// Made on a blocking thread: it is long when there are many services.
    pub(super) fn history(&self, request: Request) {
        let found = self.engine.as_ref().map(Engine::sampled).unwrap_or_default();
        let services = self.start.director.virtual_services.iter();
        let keyed = |service: &VirtualService| {
            Some((service.name.clone(), wanted::key(service.listen.first()?)))
        };
        let services = services.filter_map(keyed).collect();
        tokio::task::spawn_blocking(move || {
            request.answer(Ok(Document::History(found.document(services))));
        });
    }
}

/// Whoever panicked had changed nothing halfway that the next reading does not replace.
fn lock<T>(held: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    held.lock().unwrap_or_else(PoisonError::into_inner)
}
