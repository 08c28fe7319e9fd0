//! The tasks behind the queues: one for each command that runs, one for mail.
//!
//! Must not know: how a mail is handed over, how a process runs.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use rustls::RootCertStore;
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio::task::{AbortHandle, JoinHandle};

use crate::exec::{Command, End, RunAs};
use crate::model::Email;

use super::message::{Kind, Mail, Notification};
use super::outbox::{Letter, MAX_MAILS, Next, Outbox};
use super::queue::{MAX_WAITING, Queue};
use super::smtp::{self, Failure};

/// What holds for all notifications.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The node's name, in the subjects of mails and the greeting of the mail server.
    pub node: String,
    /// How mail goes out; `None` sends none.
    pub email: Option<Email>,
    /// For each command.
    pub command_timeout: Duration,
    /// Authorities that a mail server's certificate is checked against instead of the host's.
    pub trusted: Option<RootCertStore>,
}

impl Settings {
    /// A timeout of 30 s for commands, and the host's authorities.
    pub fn new(node: &str, email: Option<Email>) -> Self {
        let command_timeout = Duration::from_secs(30);
        Self { node: node.to_owned(), email, command_timeout, trusted: None }
    }
}

/// What was done since the start, and what waits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Commands that have ended, however they did.
    pub commands_run: u64,
    /// Of them, those that failed: a code other than 0, a signal, the timeout, or not started.
    pub commands_failed: u64,
    /// Of those, the ones that were killed at the timeout.
    pub commands_timed_out: u64,
    /// Notifications whose commands were left out because too many of their subject waited.
    pub notifications_dropped: u64,
    /// Notifications whose commands run or wait to run.
    pub notifications_waiting: u64,
    /// Mails that the server took.
    pub mails_sent: u64,
    /// Attempts that failed.
    pub mails_failed: u64,
    /// Mails given up: too many waited, the server refused them for good, or mail was turned off.
    pub mails_dropped: u64,
    /// Mails that wait to be sent.
    pub mails_waiting: u64,
}

/// What was left when a [`Notifier`] stopped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unfinished {
    /// Notifications whose commands were killed or never ran.
    pub notifications: usize,
    /// Mails that were not sent.
    pub mails: usize,
}

/// Tells people and programs of transitions. Dropping it kills what runs.
#[derive(Debug)]
pub struct Notifier {
    shared: Arc<Shared>,
    mail: JoinHandle<()>,
}

type Subject = (Kind, String);

#[derive(Debug)]
struct Shared {
    runtime: Handle,
    state: Mutex<State>,
    /// There is mail, or other settings, or little time.
    mail: Notify,
    /// No command runs or waits, or no mail will go out any more.
    idle: Notify,
}

#[derive(Debug)]
struct State {
    settings: Arc<Settings>,
    queue: Queue<Subject, Notification>,
    outbox: Outbox,
    counts: Counts,
    running: HashMap<Subject, AbortHandle>,
    /// Nothing is taken any more.
    stopping: bool,
    /// The mail task has ended.
    mail_ended: bool,
}

impl Notifier {
    /// Starts on the runtime around it, whose tasks do the work whatever thread sends.
    pub fn spawn(settings: Settings) -> Self {
        let state = State {
            settings: Arc::new(settings),
            queue: Queue::default(),
            outbox: Outbox::default(),
            counts: Counts::default(),
            running: HashMap::new(),
            stopping: false,
            mail_ended: false,
        };
        let shared = Arc::new(Shared {
            runtime: Handle::current(),
            state: Mutex::new(state),
            mail: Notify::new(),
            idle: Notify::new(),
        });
        let mail = tokio::spawn(send_mails(Arc::clone(&shared)));
        Self { shared, mail }
    }

    /// Takes a notification; never waits. After [`Self::stop`] nothing is taken.
    pub fn send(&self, notification: Notification) {
        let mut state = self.shared.lock();
        if state.stopping {
            tracing::warn!(name = notification.name, "a notification came too late to be sent");
            return;
        }
        if notification.email && state.settings.email.is_some() {
            let mail = Mail::new(&notification, &state.settings.node, SystemTime::now());
            if notification.kind.is_gathered() {
                state.outbox.gather(Instant::now(), mail);
            } else {
                post(&mut state, mail);
            }
            self.shared.mail.notify_one();
        }
        if notification.commands.iter().all(Vec::is_empty) {
            return;
        }
        let subject = (notification.kind, notification.name.clone());
        if let Some(lost) = state.queue.push(&subject, notification) {
            state.counts.notifications_dropped += 1;
            tracing::error!(
                name = lost.name,
                state = lost.state.word(),
                "commands left out: {MAX_WAITING} notifications wait for those before them"
            );
        }
        start(&self.shared, &mut state);
    }

    /// Other settings from now on. Mails that wait go by the new ones at once, and are given up
    /// when those send none.
    pub fn set(&self, settings: Settings) {
        let mut state = self.shared.lock();
        let same = (&state.settings.email, &state.settings.node, state.settings.command_timeout)
            == (&settings.email, &settings.node, settings.command_timeout);
        if same && settings.trusted.is_none() {
            // A mail server that is away is not asked anew because something else changed.
            return;
        }
        if settings.email.is_none() {
            let lost = state.outbox.clear();
            state.counts.mails_dropped += lost as u64;
            if lost > 0 {
                tracing::warn!(mails = lost, "mails given up: mail was turned off");
            }
        }
        state.outbox.hurry();
        state.settings = Arc::new(settings);
        drop(state);
        self.shared.mail.notify_one();
    }

    /// What was done so far.
    pub fn counts(&self) -> Counts {
        let state = self.shared.lock();
        Counts {
            notifications_waiting: state.queue.len() as u64,
            mails_waiting: state.outbox.len() as u64,
            ..state.counts
        }
    }

    /// Stops: waits for commands and tries each waiting mail once more, in order until one fails,
    /// all within `patience`. What is left then is killed or given up, and returned.
    pub async fn stop(&self, patience: Duration) -> Unfinished {
        {
            let mut state = self.shared.lock();
            state.stopping = true;
            state.outbox.hurry();
            state.outbox.hurry_digest(Instant::now());
        }
        self.shared.mail.notify_one();
        let _ = tokio::time::timeout(patience, self.idle()).await;
        self.mail.abort();
        let mut state = self.shared.lock();
        state.running.drain().for_each(|(_, task)| task.abort());
        let left = Unfinished { notifications: state.queue.len(), mails: state.outbox.len() };
        state.queue = Queue::default();
        state.counts.mails_dropped += state.outbox.clear() as u64;
        left
    }

    async fn idle(&self) {
        loop {
            let mut idle = std::pin::pin!(self.shared.idle.notified());
            idle.as_mut().enable();
            {
                let state = self.shared.lock();
                if state.queue.is_empty() && state.mail_ended {
                    return;
                }
            }
            idle.await;
        }
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        self.mail.abort();
        self.shared.lock().running.drain().for_each(|(_, task)| task.abort());
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Has a mail sent.
fn post(state: &mut State, mail: Mail) {
    let lost = state.outbox.post(mail);
    count_lost(state, lost);
}

fn count_lost(state: &mut State, lost: Option<Mail>) {
    if let Some(lost) = lost {
        state.counts.mails_dropped += 1;
        tracing::error!(subject = lost.subject, "mail given up: {MAX_MAILS} wait");
    }
}

/// Makes a mail of what was gathered, when it is time.
fn post_digest(state: &mut State) {
    if let Some((mails, left_out)) = state.outbox.digest(Instant::now()) {
        let node = state.settings.node.clone();
        let digest = Mail::digest(mails, left_out, &node, SystemTime::now());
        let lost = state.outbox.post_digest(digest);
        count_lost(state, lost);
    }
}

/// Starts every job that may run now.
fn start(shared: &Arc<Shared>, state: &mut State) {
    while let Some((subject, notification)) = state.queue.start() {
        let timeout = state.settings.command_timeout;
        let job = run(Arc::clone(shared), subject.clone(), notification, timeout);
        let task = shared.runtime.spawn(job).abort_handle();
        state.running.insert(subject, task);
    }
}

/// Runs a notification's commands, then lets the next one of its subject begin.
async fn run(shared: Arc<Shared>, subject: Subject, notification: Notification, timeout: Duration) {
    for words in notification.commands.iter().filter(|words| !words.is_empty()) {
        let end = run_one(&notification, words, timeout).await;
        let counts = &mut shared.lock().counts;
        counts.commands_run += 1;
        counts.commands_failed += u64::from(!end.is_success());
        counts.commands_timed_out += u64::from(end == End::TimedOut);
    }
    let mut state = shared.lock();
    if state.running.remove(&subject).is_none() {
        // Stopped in between.
        return;
    }
    state.queue.finished(&subject);
    start(&shared, &mut state);
    shared.idle.notify_waiters();
}

async fn run_one(notification: &Notification, words: &[String], timeout: Duration) -> End {
    let words = notification.arguments(words);
    let (program, name) = (words[0].clone(), &notification.name);
    let state = notification.state.word();
    let user = script_user();
    let command = Command { words, user, environment: Vec::new(), timeout, alone: false };
    let ran = command.run().await;
    let (end, output) = (&ran.end, ran.output.trim_end());
    if ran.end.is_success() {
        let duration = ran.duration;
        tracing::info!(program, name, state, ?duration, output, "notification command ran");
    } else {
        let user = &command.user;
        tracing::error!(program, %user, name, state, %end, output, "notification command failed");
    }
    ran.end
}

/// The user that keepalived's scripts run as where there is one.
const SCRIPT_USER: &str = "keepalived_script";

/// As whom notification commands run: keepalived's choice.
pub fn script_user() -> RunAs {
    RunAs::UserOrRoot(SCRIPT_USER.to_owned())
}

/// Sends what is in the outbox, until the notifier stops.
async fn send_mails(shared: Arc<Shared>) {
    loop {
        let (next, settings, stopping) = {
            let mut state = shared.lock();
            post_digest(&mut state);
            let next = state.outbox.next(Instant::now());
            (next, Arc::clone(&state.settings), state.stopping)
        };
        match (next, &settings.email) {
            (Next::Send(letter), Some(email)) => {
                let trusted = settings.trusted.as_ref();
                let sent = smtp::deliver(email, &settings.node, trusted, &letter).await;
                take(&mut shared.lock(), &letter, sent);
            }
            _ if stopping => break,
            (Next::Wait(until), Some(_)) => {
                let _ = tokio::time::timeout_at(until.into(), shared.mail.notified()).await;
            }
            _ => shared.mail.notified().await,
        }
    }
    shared.lock().mail_ended = true;
    shared.idle.notify_waiters();
}

/// Writes down what became of a delivery.
fn take(state: &mut State, letter: &Letter, sent: Result<Vec<String>, Failure>) {
    let subject = &letter.mail.subject;
    match sent {
        Ok(refused) => {
            tracing::info!(subject, "mail sent");
            log_refused(subject, &refused);
            state.counts.mails_sent += 1;
            state.outbox.done(letter.number);
        }
        Err(Failure::Never(why)) => {
            tracing::error!(subject, why, "mail given up: the server refuses it");
            state.counts.mails_failed += 1;
            state.counts.mails_dropped += 1;
            state.outbox.done(letter.number);
        }
        Err(Failure::Later { why, left, refused }) => {
            log_refused(subject, &refused);
            state.counts.mails_failed += 1;
            let again_in = state.outbox.failed(Instant::now(), letter.number, left);
            tracing::warn!(subject, why, ?again_in, "mail not sent yet");
        }
    }
}

/// Tells of receivers that do not get the mail, whatever becomes of the others.
fn log_refused(subject: &str, refused: &[String]) {
    for why in refused {
        tracing::error!(subject, why, "a receiver of the mail was refused");
    }
}
