//! The tasks that probe: one for each distinct target, added and removed by difference.
//!
//! Every report goes into the channel that the runner was made with, as whatever event type its
//! owner uses; a full channel delays the next probe of that target instead of growing. At most
//! [`MAX_PROBES`] probes are in flight; the others wait their turn.
//!
//! Must not know: weights, services, what a state means for traffic.

use std::collections::{HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Instant;

use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::health::fsm::{HealthEvent, HealthState, Machine};
use crate::health::probe;
use crate::health::report::{Report, Target};
use crate::model::CheckKind;

/// A target that is to be probed from now on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// What and how.
    pub target: Target,
    /// The state to begin with when nothing here knows the target: what the data plane of the
    /// daemon before this one was doing. `None` begins with the check's `starts_up`.
    pub assume: Option<HealthState>,
}

impl From<Target> for Wanted {
    fn from(target: Target) -> Self {
        Self { target, assume: None }
    }
}

/// What [`Runner::set_targets`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Targets that are probed from now on.
    pub added: usize,
    /// Targets that no longer are. A report of one of them may still be in the channel.
    pub removed: usize,
}

/// Probes targets and reports to a channel of `E`. Needs a tokio runtime around it.
#[derive(Debug)]
pub struct Runner<E> {
    reports: mpsc::Sender<E>,
    probes: HashMap<Arc<Target>, Probe>,
    in_flight: Arc<Semaphore>,
    seed: u64,
}

#[derive(Debug)]
struct Probe {
    task: JoinHandle<()>,
    state: Arc<AtomicU8>,
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<E: From<Report> + Send + 'static> Runner<E> {
    /// A runner without targets. `seed` spreads the first probes; any value that differs from one
    /// start to the next will do.
    pub fn new(reports: mpsc::Sender<E>, seed: u64) -> Self {
        let in_flight = Arc::new(Semaphore::new(MAX_PROBES));
        Self { reports, probes: HashMap::new(), in_flight, seed }
    }

    /// Probes exactly these targets from now on. Those that stay are not disturbed. A new one that
    /// differs from a removed or remaining one only in its numbers (interval, rise, ...) takes
    /// over its state, so that a reload never takes a healthy server down.
    pub fn set_targets(&mut self, wanted: impl IntoIterator<Item = Wanted>) -> Changes {
        let mut changes = Changes::default();
        let mut keep = HashSet::new();
        let mut added = Vec::new();
        for Wanted { target, assume } in wanted {
            let target = Arc::new(target);
            if keep.insert(Arc::clone(&target)) && !self.probes.contains_key(&target) {
                let state = self.known(target.address, &target.check.kind).or(assume);
                added.push((target, state));
            }
        }
        let before = self.probes.len();
        self.probes.retain(|target, _| keep.contains(target));
        changes.removed = before - self.probes.len();
        changes.added = added.len();
        for (target, state) in added {
            let probe = self.start(Arc::clone(&target), state);
            self.probes.insert(target, probe);
        }
        changes
    }

    /// The state of a target that is being probed.
    pub fn state(&self, target: &Target) -> Option<HealthState> {
        self.probes.get(target).map(|probe| decode(&probe.state))
    }

    fn known(&self, address: SocketAddr, kind: &CheckKind) -> Option<HealthState> {
        let same = |target: &&Arc<Target>| target.address == address && target.check.kind == *kind;
        let target = self.probes.keys().find(same)?;
        self.state(target)
    }

    fn start(&mut self, target: Arc<Target>, state: Option<HealthState>) -> Probe {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let now = Instant::now();
        let machine = match state {
            Some(state) => Machine::resume(&target.check, state, now, self.seed),
            None => Machine::new(&target.check, now, self.seed),
        };
        let state = Arc::new(AtomicU8::new(encode(machine.state())));
        let task = tokio::spawn(probe_for_ever(
            target,
            machine,
            Arc::clone(&state),
            Arc::clone(&self.in_flight),
            self.reports.clone(),
        ));
        Probe { task, state }
    }
}

/// Ends when the receiver is gone or the task is aborted.
async fn probe_for_ever<E: From<Report>>(
    target: Arc<Target>,
    mut machine: Machine,
    shared: Arc<AtomicU8>,
    in_flight: Arc<Semaphore>,
    reports: mpsc::Sender<E>,
) {
    loop {
        tokio::time::sleep_until(machine.poll_timeout().into()).await;
        let Ok(permit) = in_flight.acquire().await else { return };
        let result = probe::run(&target).await;
        drop(permit);
        let event = machine.on_result(Instant::now(), &result);
        let state = machine.state();
        shared.store(encode(state), Ordering::Relaxed);
        log(&target, &result, event);
        let report = Report { target: Arc::clone(&target), result, state, event };
        if reports.send(E::from(report)).await.is_err() {
            return;
        }
    }
}

fn log(target: &Target, result: &crate::health::ProbeResult, event: Option<HealthEvent>) {
    let status = result.status.name();
    tracing::debug!(address = %target.address, status, detail = result.detail, "probe");
    match event {
        Some(HealthEvent::Up) => tracing::info!(address = %target.address, status, "target is up"),
        Some(HealthEvent::Down) => {
            tracing::warn!(address = %target.address, status, detail = result.detail, "target is down");
        }
        None => {}
    }
}

fn encode(state: HealthState) -> u8 {
    u8::from(state == HealthState::Up)
}

fn decode(state: &AtomicU8) -> HealthState {
    if state.load(Ordering::Relaxed) == 1 { HealthState::Up } else { HealthState::Down }
}

/// Probes in flight at once: well below the default limit of 1,024 open files.
const MAX_PROBES: usize = 512;

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::time::Duration;

    use super::*;
    use crate::health::fsm::tests::check;
    use crate::model::HealthCheck;

    fn fast(port: u16) -> Target {
        let check = HealthCheck {
            interval: Duration::from_millis(10),
            retry_interval: Duration::from_millis(5),
            timeout: Duration::from_secs(2),
            ..check(2, 2)
        };
        Target { address: SocketAddr::from(([127, 0, 0, 1], port)), check }
    }

    async fn until(reports: &mut mpsc::Receiver<Report>, event: HealthEvent) -> Report {
        let found = async {
            loop {
                let report = reports.recv().await.expect("the runner runs");
                if report.event == Some(event) {
                    return report;
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(10), found).await.expect("within 10 s")
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_server_comes_up_and_goes_down_with_its_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let target = fast(listener.local_addr().expect("its address").port());
        let (sender, mut reports) = mpsc::channel(16);
        let mut runner = Runner::<Report>::new(sender, 1);
        runner.set_targets([target.clone().into()]);
        assert_eq!(runner.state(&target), Some(HealthState::Down));
        until(&mut reports, HealthEvent::Up).await;
        assert_eq!(runner.state(&target), Some(HealthState::Up));
        drop(listener);
        let report = until(&mut reports, HealthEvent::Down).await;
        assert_eq!(report.state, HealthState::Down);
        assert_eq!(*report.target, target);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn equal_targets_are_probed_once_and_those_that_stay_are_not_disturbed() {
        let (sender, _reports) = mpsc::channel::<Report>(16);
        let mut runner = Runner::new(sender, 1);
        let changes = runner.set_targets([fast(1).into(), fast(1).into(), fast(2).into()]);
        assert_eq!(changes, Changes { added: 2, removed: 0 });
        let changes = runner.set_targets([fast(2).into(), fast(3).into()]);
        assert_eq!(changes, Changes { added: 1, removed: 1 });
        assert_eq!(runner.state(&fast(1)), None);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_check_with_other_numbers_takes_over_the_state() {
        let (sender, _reports) = mpsc::channel::<Report>(16);
        let mut runner = Runner::new(sender, 1);
        let up = Wanted { target: fast(1), assume: Some(HealthState::Up) };
        runner.set_targets([up]);
        let mut slower = fast(1);
        slower.check.interval = Duration::from_secs(60);
        runner.set_targets([slower.clone().into()]);
        assert_eq!(runner.state(&slower), Some(HealthState::Up));
    }
}
