//! The tasks that run scripts: one for each, added, changed and removed by difference.
//!
//! Must not know: rise and fall, how a process runs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::exec::{Command, End, Ran, RunAs};
use crate::health::fsm::Pace;
use crate::model::Script;

use super::judge::{Judge, outcome};

/// What a script is taken to say has changed, or is known for the first time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ScriptChanged {
    /// The script's name.
    pub name: String,
    /// Whether it says that all is well.
    pub well: bool,
    /// The run that decided it, for people: how it ended, and its output's last line.
    pub detail: String,
}

/// One run of a script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Run {
    /// How it ended.
    pub end: End,
    /// How long it took.
    pub duration: Duration,
    /// When it ended.
    pub at: SystemTime,
    /// The last line that it wrote; empty if it wrote nothing.
    pub last_line: String,
}

/// What is known of one script.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observation {
    /// What is taken to be so; `None` before the first result.
    pub well: Option<bool>,
    /// When that last changed or was first known.
    pub last_change: Option<SystemTime>,
    /// The last run.
    pub last: Option<Run>,
    /// Results in a row that contradict `well`, and how many change it.
    pub doubt: (u32, u32),
    /// Runs that have ended.
    pub runs: u64,
}

/// What [`Tracker::set_scripts`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Scripts that were not tracked before.
    pub added: usize,
    /// Scripts that are run in another way from now on.
    pub changed: usize,
    /// Scripts that are no longer run. An event of one of them may still be in the channel.
    pub removed: usize,
}

/// Runs scripts and tells changes to a channel of `E`. Needs a tokio runtime around it; a full
/// channel delays the next run of that script, and no change is lost. Dropping it kills what runs.
#[derive(Debug)]
pub struct Tracker<E> {
    events: mpsc::Sender<E>,
    scripts: HashMap<String, Tracked>,
}

#[derive(Debug)]
struct Tracked {
    script: Script,
    observed: Observed,
    task: JoinHandle<()>,
}

impl Drop for Tracked {
    fn drop(&mut self) {
        // The run's future is dropped with it, which kills the run.
        self.task.abort();
    }
}

#[derive(Clone, Debug, Default)]
struct Observed(Arc<Mutex<Observation>>);

impl Observed {
    fn lock(&self) -> MutexGuard<'_, Observation> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<E: From<ScriptChanged> + Send + 'static> Tracker<E> {
    /// A tracker without scripts.
    pub fn new(events: mpsc::Sender<E>) -> Self {
        Self { events, scripts: HashMap::new() }
    }

    /// Runs exactly these scripts from now on, known by their names. One that stays as it was is
    /// not disturbed, and its weight is none of this module's business. One with other numbers
    /// (interval, timeout, rise, fall) begins anew with what was known of it. So does one with
    /// another command or user, but the first result of that counts at once: what was known before
    /// holds until then, so that a reload never takes an instance out of its state.
    pub fn set_scripts(&mut self, wanted: &[Script]) -> Changes {
        let before = self.scripts.len();
        self.scripts.retain(|name, _| wanted.iter().any(|script| script.name == *name));
        let mut changes = Changes { removed: before - self.scripts.len(), ..Changes::default() };
        for script in wanted {
            match self.scripts.get_mut(&script.name) {
                Some(tracked) if same_run(&tracked.script, script) => {
                    tracked.script.clone_from(script);
                }
                Some(tracked) => {
                    changes.changed += 1;
                    let same_question = tracked.script.command == script.command
                        && tracked.script.user == script.user;
                    let well = tracked.observed.lock().well.filter(|_| same_question);
                    let observed = tracked.observed.clone();
                    self.start(script, well, observed);
                }
                None => {
                    changes.added += 1;
                    self.start(script, None, Observed::default());
                }
            }
        }
        changes
    }

    /// What is known of the script of this name.
    pub fn observed(&self, name: &str) -> Option<Observation> {
        self.scripts.get(name).map(|tracked| tracked.observed.lock().clone())
    }

    fn start(&mut self, script: &Script, well: Option<bool>, observed: Observed) {
        let pace = Pace { interval: script.interval, rise: script.rise, fall: script.fall };
        let judge = Judge::new(pace, well, Instant::now());
        let command = Command {
            words: script.command.clone(),
            user: RunAs::User(script.user.clone()),
            environment: Vec::new(),
            timeout: script.timeout,
            // A check has no business leaving processes behind, one more at every interval.
            alone: true,
        };
        let (name, events) = (script.name.clone(), self.events.clone());
        let task = tokio::spawn(run_for_ever(name, command, judge, observed.clone(), events));
        let tracked = Tracked { script: script.clone(), observed, task };
        self.scripts.insert(script.name.clone(), tracked);
    }
}

fn same_run(old: &Script, new: &Script) -> bool {
    *old == Script { weight: old.weight, ..new.clone() }
}

/// Ends when the receiver is gone or the task is aborted.
async fn run_for_ever<E: From<ScriptChanged>>(
    name: String,
    command: Command,
    mut judge: Judge,
    observed: Observed,
    events: mpsc::Sender<E>,
) {
    loop {
        tokio::time::sleep_until(judge.due().into()).await;
        let ran = command.run().await;
        judge.take(Instant::now(), outcome(&ran.end));
        let Some(changed) = take(&name, &observed, &judge, &ran) else { continue };
        if events.send(E::from(changed)).await.is_err() {
            return;
        }
    }
}

/// Writes a run down.
fn take(name: &str, observed: &Observed, judge: &Judge, ran: &Ran) -> Option<ScriptChanged> {
    let (at, last_line) = (SystemTime::now(), ran.last_line());
    let detail = if last_line.is_empty() {
        ran.end.to_string()
    } else {
        format!("{}: {last_line}", ran.end)
    };
    tracing::debug!(script = name, detail, duration = ?ran.duration, "script ran");
    let mut known = observed.lock();
    known.runs += 1;
    known.doubt = judge.doubt();
    if begins_to_lack(known.last.as_ref().map(|run| &run.end), &ran.end) {
        tracing::warn!(
            script = name,
            detail,
            "script cannot be run now, and counts as it did: see to what this host lacks"
        );
    }
    known.last = Some(Run { end: ran.end.clone(), duration: ran.duration, at, last_line });
    let well = judge.well().filter(|well| known.well != Some(*well))?;
    known.well = Some(well);
    known.last_change = Some(at);
    Some(ScriptChanged { name: name.to_owned(), well, detail })
}

/// Whether this is the first of several runs in a row that say nothing.
fn begins_to_lack(before: Option<&End>, now: &End) -> bool {
    let says_nothing = |end: &End| matches!(end, End::NotStarted(_));
    says_nothing(now) && !before.is_some_and(says_nothing)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::exec::tests::{Folder, eventually, exists};

    fn script(name: &str, program: &str) -> Script {
        Script {
            name: name.to_owned(),
            command: vec![program.to_owned()],
            interval: Duration::from_millis(20),
            timeout: Duration::from_secs(10),
            rise: 2,
            fall: 2,
            weight: 0,
            user: "root".to_owned(),
        }
    }

    fn tracker() -> (Tracker<ScriptChanged>, mpsc::Receiver<ScriptChanged>) {
        let (sender, events) = mpsc::channel(16);
        (Tracker::new(sender), events)
    }

    async fn next(events: &mut mpsc::Receiver<ScriptChanged>) -> ScriptChanged {
        let event = tokio::time::timeout(Duration::from_secs(10), events.recv()).await;
        event.expect("within 10 s").expect("the tracker lives")
    }

    fn runs(tracker: &Tracker<ScriptChanged>, name: &str) -> u64 {
        tracker.observed(name).expect("it is tracked").runs
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_script_says_what_is_so_and_what_changes() {
        let folder = Folder::new("says");
        let fault = folder.path("fault");
        let program = folder
            .script("s", &format!("test ! -e {} || {{ echo broken; exit 4; }}", fault.display()));
        let (mut tracker, mut events) = tracker();
        let changes = tracker.set_scripts(&[script("a", &program)]);
        assert_eq!(changes, Changes { added: 1, ..Changes::default() });
        assert_eq!(tracker.observed("a"), Some(Observation::default()));
        let expected = |well, detail: &str| ScriptChanged {
            name: "a".to_owned(),
            well,
            detail: detail.to_owned(),
        };
        assert_eq!(next(&mut events).await, expected(true, "exit code 0"));
        let more = runs(&tracker, "a") + 3;
        eventually("it runs again and again", || runs(&tracker, "a") >= more).await;
        assert!(events.try_recv().is_err(), "more of the same is no event");
        fs::write(&fault, "").expect("a file");
        assert_eq!(next(&mut events).await, expected(false, "exit code 4: broken"));
        let known = tracker.observed("a").expect("it is tracked");
        let last = known.last.expect("a run");
        assert_eq!(
            (known.well, last.end, last.last_line.as_str()),
            (Some(false), End::Exited(4), "broken")
        );
        fs::remove_file(&fault).expect("the file");
        assert_eq!(next(&mut events).await, expected(true, "exit code 0"));
    }

    #[test]
    fn a_lack_is_told_when_it_begins() {
        let lack = |why: &str| End::NotStarted(why.to_owned());
        let ends = [lack("a"), lack("b"), End::Exited(0), lack("a"), End::TimedOut, End::Exited(1)];
        let mut before = None;
        let told = ends.iter().map(|end| begins_to_lack(before.replace(end), end));
        assert_eq!(told.collect::<Vec<_>>(), [true, false, false, true, false, false]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn one_that_may_not_run_is_not_well() {
        let (mut tracker, mut events) = tracker();
        tracker.set_scripts(&[script("a", "/nowhere/x")]);
        let event = next(&mut events).await;
        assert!(!event.well && event.detail.starts_with("not started: /nowhere"), "{event:?}");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_reload_disturbs_only_what_changed_and_stops_what_is_gone() {
        let folder = Folder::new("reload");
        let pid = folder.path("pid");
        let hang = folder.script(
            "hang",
            &format!("echo $$ > {0}.new; mv {0}.new {0}; sleep 600", pid.display()),
        );
        let (mut tracker, mut events) = tracker();
        let slow = Script { timeout: Duration::from_secs(600), ..script("hang", &hang) };
        let good = script("good", "/bin/true");
        tracker.set_scripts(&[slow.clone(), good.clone()]);
        assert_eq!(next(&mut events).await.name, "good");
        eventually("it hangs", || pid.exists()).await;
        let first = fs::read_to_string(&pid).expect("pid");
        // Another weight is nothing to this module: the run goes on.
        let changes = tracker.set_scripts(&[Script { weight: 7, ..slow }, good.clone()]);
        assert_eq!(changes, Changes::default());
        // Other numbers, with what is known kept; the other one is killed.
        let slower = Script { interval: Duration::from_millis(30), ..good.clone() };
        let changes = tracker.set_scripts(&[slower]);
        assert_eq!(changes, Changes { changed: 1, removed: 1, added: 0 });
        assert!(exists(&first), "it was not killed before: a weight is no change");
        eventually("it is killed", || !exists(&first)).await;
        assert_eq!(tracker.observed("hang"), None);
        // Another command: what is known holds until its first result, which counts at once.
        tracker.set_scripts(&[Script { command: vec!["/bin/false".to_owned()], ..good }]);
        assert_eq!(tracker.observed("good").expect("tracked").well, Some(true));
        let before = runs(&tracker, "good");
        let event = next(&mut events).await;
        assert_eq!((event.name.as_str(), event.well), ("good", false));
        assert_eq!(runs(&tracker, "good"), before + 1);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn runs_of_one_script_never_overlap() {
        let folder = Folder::new("overlap");
        // A directory can be made once: the second of two runs at a time would fail.
        let lock = folder.path("lock");
        let body = format!("mkdir {0} || exit 1\nsleep 0.05\nrmdir {0}", lock.display());
        let program = folder.script("s", &body);
        let (mut tracker, mut events) = tracker();
        let quick = Script { interval: Duration::from_millis(1), ..script("a", &program) };
        tracker.set_scripts(&[Script { fall: 1, ..quick }]);
        assert!(next(&mut events).await.well);
        eventually("it ran", || runs(&tracker, "a") >= 5).await;
        assert!(events.try_recv().is_err(), "{:?}", tracker.observed("a"));
    }
}
