//! The tasks that probe: one for each distinct target, added and removed by difference.
//!
//! What a probe finds goes into its target's [`Observed`]; a change of state, or of the weight that
//! a command gives, also goes into the channel that the runner was made with, as whatever event
//! type its owner uses. A full channel delays the next probe of that target instead of growing; no
//! change is lost.
//!
//! Must not know: services, what weights do, what a state means for traffic.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::health::fsm::{HealthEvent, HealthState, Machine};
use crate::health::probe::{Kit, Prober};
use crate::health::report::{Change, Observation, Observed, ProbeResult, Target};
use crate::health::ways::Ways;

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
    /// Targets that no longer are. A change of one of them may still be in the channel.
    pub removed: usize,
}

/// Probes targets and tells changes to a channel of `E`. Needs a tokio runtime around it.
#[derive(Debug)]
pub struct Runner<E> {
    changes: mpsc::Sender<E>,
    probes: HashMap<Arc<Target>, Probe>,
    kit: Arc<Kit>,
    seed: u64,
}

#[derive(Debug)]
struct Probe {
    task: JoinHandle<()>,
    observed: Observed,
}

impl Drop for Probe {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl<E: From<Change> + Send + 'static> Runner<E> {
    /// A runner without targets. `seed` spreads the first probes; any value that differs from one
    /// start to the next will do.
    pub fn new(changes: mpsc::Sender<E>, seed: u64) -> Self {
        Self { changes, probes: HashMap::new(), kit: Arc::new(Kit::new(seed)), seed }
    }

    /// Probes exactly these targets from now on. Those that stay are not disturbed. A new one that
    /// differs from a removed or remaining one only in its numbers (interval, rise, ...) takes
    /// over its state, so that a reload never takes a healthy server down. The system's trusted
    /// certificates are read anew.
    pub fn set_targets(&mut self, wanted: impl IntoIterator<Item = Wanted>) -> Changes {
        self.kit.forget_trusted();
        let mut changes = Changes::default();
        let mut keep = HashSet::new();
        let mut added = Vec::new();
        for Wanted { target, assume } in wanted {
            let target = Arc::new(target);
            if keep.insert(Arc::clone(&target)) && !self.probes.contains_key(&target) {
                let known = self.known(&target);
                added.push((target, assume, known));
            }
        }
        let before = self.probes.len();
        self.probes.retain(|target, _| keep.contains(target));
        changes.removed = before - self.probes.len();
        changes.added = added.len();
        for (target, assume, known) in added {
            let state = known.as_ref().map(|known| known.state).or(assume);
            let probe = self.start(Arc::clone(&target), state);
            if let Some(known) = known {
                probe.observed.go_on(known);
            }
            self.probes.insert(target, probe);
        }
        changes
    }

    /// How many targets are probed.
    pub fn len(&self) -> usize {
        self.probes.len()
    }

    /// True if nothing is probed.
    pub fn is_empty(&self) -> bool {
        self.probes.is_empty()
    }

    /// The ways of probes that go by their service, to be kept current.
    pub fn ways(&self) -> &Ways {
        self.kit.ways()
    }

    /// What is known of a target that is being probed.
    pub fn observed(&self, target: &Target) -> Option<Observed> {
        self.probes.get(target).map(|probe| probe.observed.clone())
    }

    fn known(&self, wanted: &Target) -> Option<Observation> {
        let asked = |target: &Target| (target.address, target.check.via);
        let same = |target: &Target| {
            asked(target) == asked(wanted) && target.check.kind == wanted.check.kind
        };
        let (_, probe) = self.probes.iter().find(|(target, _)| same(target))?;
        Some(probe.observed.get())
    }

    fn start(&mut self, target: Arc<Target>, state: Option<HealthState>) -> Probe {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let now = Instant::now();
        let machine = match state {
            Some(state) => Machine::resume(&target.check, state, now, self.seed),
            None => Machine::new(&target.check, now, self.seed),
        };
        let observed = Observed::new(machine.state(), machine.doubt().1);
        let prober = Prober::new(Arc::clone(&target), Arc::clone(&self.kit));
        let changes = self.changes.clone();
        let task = tokio::spawn(probe_for_ever(target, machine, prober, observed.clone(), changes));
        Probe { task, observed }
    }
}

/// Ends when the receiver is gone or the task is aborted.
async fn probe_for_ever<E: From<Change>>(
    target: Arc<Target>,
    mut machine: Machine,
    prober: Prober,
    observed: Observed,
    changes: mpsc::Sender<E>,
) {
    loop {
        tokio::time::sleep_until(machine.poll_timeout().into()).await;
        let result = prober.probe().await;
        let was_held = machine.held_until();
        let event = machine.on_result(Instant::now(), &result);
        log(&target, &result, event);
        if let (None, Some(_)) = (was_held, machine.held_until()) {
            tracing::warn!(address = %target.address, "target is held down: it changes too often");
        }
        let is_news = observed.take(&machine, result, SystemTime::now());
        if event.is_none() && !is_news {
            continue;
        }
        let change = Change { target: Arc::clone(&target) };
        if changes.send(E::from(change)).await.is_err() {
            return;
        }
    }
}

/// What follows for services is told by whoever hears of the change.
fn log(target: &Target, result: &ProbeResult, event: Option<HealthEvent>) {
    let status = result.status.name();
    tracing::debug!(address = %target.address, status, detail = result.detail, "probe");
    match event {
        Some(HealthEvent::Up) => tracing::debug!(address = %target.address, status, "target is up"),
        Some(HealthEvent::Down) => {
            tracing::debug!(address = %target.address, status, detail = result.detail, "target is down");
        }
        None => {}
    }
}

#[cfg(test)]
mod tests {
    use std::net::{SocketAddr, TcpListener};
    use std::time::Duration;

    use super::*;
    use crate::exec::tests::{Folder, eventually};
    use crate::health::fsm::tests::check;
    use crate::model::{CheckKind, ExecCheck, HealthCheck};

    fn fast(port: u16) -> Target {
        let check = HealthCheck {
            interval: Duration::from_millis(10),
            retry_interval: Duration::from_millis(5),
            timeout: Duration::from_secs(2),
            ..check(2, 2)
        };
        Target { address: SocketAddr::from(([127, 0, 0, 1], port)), check }
    }

    async fn next(changes: &mut mpsc::Receiver<Change>) -> Change {
        let change = tokio::time::timeout(Duration::from_secs(10), changes.recv()).await;
        change.expect("within 10 s").expect("the runner runs")
    }

    fn state(runner: &Runner<Change>, target: &Target) -> Option<HealthState> {
        runner.observed(target).map(|observed| observed.state())
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_server_comes_up_and_goes_down_with_its_listener() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let target = fast(listener.local_addr().expect("its address").port());
        let (sender, mut changes) = mpsc::channel(16);
        let mut runner = Runner::<Change>::new(sender, 1);
        runner.set_targets([target.clone().into()]);
        assert_eq!(state(&runner, &target), Some(HealthState::Down));
        assert_eq!(*next(&mut changes).await.target, target);
        assert_eq!(state(&runner, &target), Some(HealthState::Up));
        let observed = runner.observed(&target).expect("it is probed");
        // Results that change nothing are kept, and tell nobody.
        let wanted = observed.get().probes + 5;
        let more = async {
            while observed.get().probes < wanted {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), more).await.expect("probes go on");
        assert!(changes.try_recv().is_err());
        drop(listener);
        assert_eq!(*next(&mut changes).await.target, target);
        assert_eq!(state(&runner, &target), Some(HealthState::Down));
        let last = observed.get().last.expect("a result");
        assert_eq!(last.status.name(), "L4CON");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_weight_that_a_command_gives_is_told_when_it_changes() {
        let folder = Folder::new("weight");
        let answer = folder.script("answer", "exit 7");
        let command = vec![folder.script("check", &format!("exec {answer}"))];
        let exec = ExecCheck { command, user: "nobody".to_owned(), dynamic_weight: true };
        let mut target = fast(1);
        target.check.kind = CheckKind::Exec(Arc::new(exec));
        target.check.timeout = Duration::from_secs(20);
        let (sender, mut changes) = mpsc::channel(16);
        let mut runner = Runner::<Change>::new(sender, 1);
        runner.set_targets([Wanted { target: target.clone(), assume: Some(HealthState::Up) }]);
        let observed = runner.observed(&target).expect("it is probed");
        for (body, weight) in [("exit 7", Some(5)), ("exit 2", Some(0)), ("exit 0", None)] {
            folder.script("answer", body);
            while observed.get().weight != weight {
                next(&mut changes).await;
            }
            assert_eq!(observed.state(), HealthState::Up);
        }
        let more = async || {
            let wanted = observed.get().probes + 2;
            eventually("two more probes", || observed.get().probes >= wanted).await;
        };
        // The last change is told by now, and a result that changes nothing tells nobody.
        more().await;
        while changes.try_recv().is_ok() {}
        more().await;
        assert!(changes.try_recv().is_err());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn equal_targets_are_probed_once_and_those_that_stay_are_not_disturbed() {
        let (sender, _changes) = mpsc::channel::<Change>(16);
        let mut runner = Runner::new(sender, 1);
        let changes = runner.set_targets([fast(1).into(), fast(1).into(), fast(2).into()]);
        assert_eq!(changes, Changes { added: 2, removed: 0 });
        assert_eq!(runner.len(), 2);
        let changes = runner.set_targets([fast(2).into(), fast(3).into()]);
        assert_eq!(changes, Changes { added: 1, removed: 1 });
        assert_eq!(state(&runner, &fast(1)), None);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_check_with_other_numbers_takes_over_the_state() {
        let (sender, _changes) = mpsc::channel::<Change>(16);
        let mut runner = Runner::new(sender, 1);
        let up = Wanted { target: fast(1), assume: Some(HealthState::Up) };
        runner.set_targets([up]);
        let mut known = runner.observed(&fast(1)).expect("it is probed").get();
        known.tally.changes = 4;
        runner.observed(&fast(1)).expect("it is probed").go_on(known);
        let mut slower = fast(1);
        slower.check.interval = Duration::from_secs(60);
        runner.set_targets([slower.clone().into()]);
        assert_eq!(state(&runner, &slower), Some(HealthState::Up));
        let seen = runner.observed(&slower).expect("it is probed").get();
        assert_eq!(seen.tally.changes, 4, "counters never go backwards");
    }
}
