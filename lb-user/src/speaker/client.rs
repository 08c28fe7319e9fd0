//! The controller's end of the line to the speaker, and the speaker's life.
//!
//! [`Client::start`] adopts a speaker that an earlier controller left, or starts one. When it dies
//! its virtual addresses are taken away at once, since nobody speaks for them any more, and
//! another one is started.
//!
//! Must not know: what is said, what follows from it.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use anyhow::Context as _;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::{Instant, MissedTickBehavior, interval, sleep, timeout};

use crate::model::{LogFormat, LogLevel};
use crate::netlink::Netlink;
use crate::speaker::OWNER;
use crate::speaker::protocol::{self, PROTOCOL, Report, Request};
use crate::watchdog::{self, Pulse, Weight};

/// What happens to the speaker.
#[derive(Debug)]
pub enum Event {
    /// One is there and waits for its configuration.
    Up,
    /// It said something.
    Said(Report),
    /// It is gone; another one is being started.
    Lost,
}

/// The line to the speaker. When it is dropped, the speaker is left alone.
#[derive(Debug)]
pub struct Client {
    requests: mpsc::Sender<Request>,
    task: JoinHandle<()>,
}

impl Client {
    /// Finds or starts a speaker at `socket`, and goes on doing so.
    pub fn start<E>(
        socket: PathBuf,
        log: (LogLevel, LogFormat),
        netlink: Netlink,
        events: mpsc::Sender<E>,
    ) -> Self
    where
        E: From<Event> + Send + 'static,
    {
        let (requests, queue) = mpsc::channel(QUEUE);
        let task = tokio::spawn(keep(socket, log, netlink, queue, events));
        Self { requests, task }
    }

    /// Says something; what is said while no speaker is there is lost, since the next one hears
    /// everything after [`Event::Up`]. False when the speaker does not listen.
    pub fn say(&self, request: Request) -> bool {
        self.requests.try_send(request).is_ok()
    }

    /// Has the speaker resign and end, and waits until it has.
    pub async fn stop(self) {
        let _gone = self.requests.send(Request::Stop).await;
        if timeout(STOPPING, self.task).await.is_err() {
            tracing::error!("the speaker does not stop");
        }
    }
}

/// Where a daemon's speaker listens.
#[must_use]
pub fn socket_beside(admin: &Path) -> PathBuf {
    admin.with_extension("speaker")
}

async fn keep<E>(
    socket: PathBuf,
    log: (LogLevel, LogFormat),
    netlink: Netlink,
    mut queue: mpsc::Receiver<Request>,
    events: mpsc::Sender<E>,
) where
    E: From<Event> + Send + 'static,
{
    let mut pause = Duration::ZERO;
    let pulse = watchdog::part("speaker", STUCK, Weight::Useful);
    pulse.begin();
    loop {
        let began = Instant::now();
        match reach(&socket, log).await {
            Ok((mut stream, child)) => {
                // What was said before was meant for another one, but for the end.
                let mut is_over = false;
                while let Ok(request) = queue.try_recv() {
                    is_over |= request == Request::Stop;
                }
                if events.send(E::from(Event::Up)).await.is_err() {
                    return;
                }
                let over = talk(&mut stream, &mut queue, &events, (&pulse, is_over)).await;
                match over {
                    Over::NobodyAsks => return,
                    Over::Asked => {
                        end(stream, child, STOPPING, true).await;
                        return;
                    }
                    Over::Foreign => continue,
                    Over::Silent => {
                        tracing::error!("the speaker has said nothing for {SILENT:?}");
                        end(stream, child, Duration::ZERO, true).await;
                    }
                    Over::Lost(why) if end(stream, child, ENDING, false).await => {
                        tracing::error!("the speaker is gone: {why}");
                    }
                    Over::Lost(why) => {
                        // It lives, and has its addresses.
                        tracing::warn!("the line to the speaker is lost: {why}");
                        sleep(PAUSE).await;
                        continue;
                    }
                }
                clear(&netlink).await;
                if events.send(E::from(Event::Lost)).await.is_err() {
                    return;
                }
            }
            Err(error) => tracing::error!("there is no speaker: {error:#}"),
        }
        // The first one after a long life is started at once.
        pause = if began.elapsed() > LONG_LIFE { Duration::ZERO } else { (pause * 2).max(PAUSE) };
        pause = pause.min(LONGEST_PAUSE);
        let until = sleep(pause);
        tokio::pin!(until);
        loop {
            tokio::select! {
                () = &mut until => break,
                request = queue.recv() => match request {
                    None | Some(Request::Stop) => return,
                    Some(_) => {}
                },
            }
        }
    }
}

/// Whether the process behind a line that is over is gone within `patience`. One that does not
/// speak must not keep addresses, nor take them again: if it `must` go, it is killed then.
async fn end(stream: UnixStream, child: Option<Child>, patience: Duration, must: bool) -> bool {
    let pid = stream.peer_cred().ok().and_then(|peer| peer.pid());
    drop(stream);
    let is_gone = match child {
        Some(mut child) => timeout(patience, child.wait()).await.is_ok(),
        None => timeout(patience, vanish(pid)).await.is_ok(),
    };
    let Some(pid) = pid.filter(|_| must && !is_gone) else { return is_gone };
    tracing::error!(pid, "the speaker does not end by itself: it is killed");
    let _gone = kill(Pid::from_raw(pid), Signal::SIGKILL);
    timeout(ENDING, vanish(Some(pid))).await.is_ok()
}

/// Waits until there is no process of this id, or only its remains.
async fn vanish(pid: Option<i32>) {
    let Some(pid) = pid else { return };
    let is_there = || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
        state.is_some_and(|state| state != 'Z')
    };
    while is_there() {
        sleep(POLL).await;
    }
}

/// Takes away what a speaker that is gone left on interfaces.
async fn clear(netlink: &Netlink) {
    match netlink.remove_marked(OWNER).await {
        Ok(removed) => {
            for address in removed {
                tracing::warn!(address = %address.address, "taken away: nobody speaks for it");
            }
        }
        Err(error) => tracing::error!("virtual addresses may have stayed: {error}"),
    }
}

/// Why a conversation is over.
enum Over {
    /// The speaker was asked to stop.
    Asked,
    /// The controller asks no more; the speaker goes on.
    NobodyAsks,
    /// It closed the line, or is not understood.
    Lost(String),
    /// It says nothing.
    Silent,
    /// It spoke another version and was asked to stop.
    Foreign,
}

async fn talk<E>(
    stream: &mut UnixStream,
    queue: &mut mpsc::Receiver<Request>,
    events: &mpsc::Sender<E>,
    (pulse, mut stopping): (&Pulse, bool),
) -> Over
where
    E: From<Event> + Send + 'static,
{
    let (mut reader, mut writer) = stream.split();
    let mut received = Vec::with_capacity(BUFFER);
    if stopping && say(&mut writer, &Request::Stop).await.is_err() {
        return Over::Asked;
    }
    let mut heard = Instant::now();
    let mut alive = interval(ALIVE);
    alive.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            read = reader.read_buf(&mut received) => match read {
                // However it ends: it may not have read everything before it closed the line.
                Ok(0) | Err(_) if stopping => return Over::Asked,
                Ok(0) => return Over::Lost("it closed the line".to_owned()),
                Ok(_) => {
                    heard = Instant::now();
                    pulse.begin();
                }
                Err(error) => return Over::Lost(error.to_string()),
            },
            request = queue.recv() => {
                let Some(request) = request else { return Over::NobodyAsks };
                stopping |= request == Request::Stop;
                if let Err(error) = say(&mut writer, &request).await
                    && !stopping
                {
                    return Over::Lost(error.to_string());
                }
            }
            _ = alive.tick() => {
                if heard.elapsed() > SILENT {
                    return Over::Silent;
                }
                if let Err(error) = say(&mut writer, &Request::Alive).await
                    && !stopping
                {
                    return Over::Lost(error.to_string());
                }
            }
        }
        loop {
            let report = match protocol::decode(&mut received) {
                Ok(Some(report)) => report,
                Ok(None) => break,
                Err(error) => return Over::Lost(error.to_string()),
            };
            if let Report::Hello { protocol } = report {
                if protocol != PROTOCOL {
                    tracing::warn!(protocol, "the speaker is of another version: it is replaced");
                    let _gone = say(&mut writer, &Request::Stop).await;
                    // Its end shows that its addresses are gone.
                    let _ended = timeout(STOPPING, reader.read_to_end(&mut received)).await;
                    return Over::Foreign;
                }
                continue;
            }
            if events.send(E::from(Event::Said(report))).await.is_err() {
                return Over::NobodyAsks;
            }
        }
    }
}

async fn say(writer: &mut (impl AsyncWriteExt + Unpin), request: &Request) -> anyhow::Result<()> {
    let bytes = protocol::encode(request)?;
    timeout(STOPPING, writer.write_all(&bytes)).await.context("it does not read")??;
    Ok(())
}

/// Connects to the speaker that is there, or to a new one.
async fn reach(
    socket: &Path,
    log: (LogLevel, LogFormat),
) -> anyhow::Result<(UnixStream, Option<Child>)> {
    match UnixStream::connect(socket).await {
        Ok(stream) => {
            tracing::info!("the speaker of an earlier run is taken over");
            return Ok((stream, None));
        }
        Err(error) if is_nobody(&error) => {}
        Err(error) => return Err(error).context(socket.display().to_string()),
    }
    let mut child = spawn(socket, log)?;
    let until = Instant::now() + STARTING;
    loop {
        match UnixStream::connect(socket).await {
            Ok(stream) => return Ok((stream, Some(child))),
            Err(error) if !is_nobody(&error) => return Err(error.into()),
            Err(_) => {}
        }
        if let Some(status) = child.try_wait()? {
            anyhow::bail!("it ended at once ({status}); its own words are in the log above");
        }
        anyhow::ensure!(Instant::now() < until, "it did not open {}", socket.display());
        sleep(POLL).await;
    }
}

fn is_nobody(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused)
}

fn spawn(socket: &Path, (level, format): (LogLevel, LogFormat)) -> anyhow::Result<Child> {
    let mut command = Command::new("/proc/self/exe");
    command.arg0("lb");
    command.arg("speaker").arg("--socket").arg(socket);
    command.args(["--log-level", level.name(), "--log-format", format.name()]);
    command.stdin(Stdio::null()).stdout(Stdio::null());
    // It outlives this process, in a session of its own.
    command.kill_on_drop(false);
    command.spawn().context("start `lb speaker`")
}

/// Requests that wait for a speaker.
const QUEUE: usize = 64;
const BUFFER: usize = 1 << 16;
/// How often the speaker hears that its controller lives, far below every `controller_grace`.
const ALIVE: Duration = Duration::from_millis(200);
/// How long a new speaker may take to listen.
const STARTING: Duration = Duration::from_secs(5);
/// How long one may say nothing that tells of itself every second; a process that is stopped, or
/// stuck, still has its addresses.
const SILENT: Duration = Duration::from_secs(5);
/// How long there may be none, or one that says nothing.
const STUCK: Duration = Duration::from_secs(10);
/// How long one may live on after its line was closed.
const ENDING: Duration = Duration::from_millis(50);
/// How long one may take to resign and end.
const STOPPING: Duration = Duration::from_secs(3);
const POLL: Duration = Duration::from_millis(2);
/// A speaker that lived so long did not fail at its start.
const LONG_LIFE: Duration = Duration::from_secs(5);
const PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
