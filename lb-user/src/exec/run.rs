//! One run: starting, reading, the timeout, and the end of the whole process group.
//!
//! The group is signalled only while its leader has not been reaped, so its number cannot have
//! become another's by then.
//!
//! Must not know: who asked.

use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::{ExitStatus, Stdio};
use std::time::Instant;

use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use nix::unistd::{Pid, Uid};
use tokio::io::AsyncReadExt;
use tokio::net::unix::pipe::Receiver;
use tokio::process::{Child, Command as Process};
use tokio::signal::unix::{Signal as ChildEnds, SignalKind, signal};

use super::{Command, End, GRACE, MAX_OUTPUT, PATH, Ran, Refused, Whom, check};

impl Command {
    /// Runs the command to its end. Never fails: what goes wrong is how it ended. Dropping the
    /// future kills the command's process group.
    pub async fn run(&self) -> Ran {
        self.run_keeping(MAX_OUTPUT).await
    }

    /// The same with the first `limit` bytes of its output, for a command whose output is wanted.
    pub async fn run_keeping(&self, limit: usize) -> Ran {
        let began = Instant::now();
        let mut output = Output { kept: Vec::new(), limit };
        let end = self.to_the_end(began, &mut output).await.unwrap_or_else(|end| end);
        let output = String::from_utf8_lossy(&output.kept).into_owned();
        Ran { end, duration: began.elapsed(), output }
    }

    async fn to_the_end(&self, began: Instant, output: &mut Output) -> Result<End, End> {
        let whom = self.checked().await?;
        let mut group = self.start(&whom)?;
        let left = self.timeout.saturating_sub(began.elapsed());
        let timed_out = tokio::time::timeout(left, group.ended(output)).await.is_err();
        if timed_out {
            group.signal(Signal::SIGTERM);
            let _ = tokio::time::timeout(GRACE, group.ended(output)).await;
        }
        let status = group.reap(timed_out || self.alone).await.map_err(|error| lack(&error))?;
        group.take_rest(output);
        Ok(if timed_out { End::TimedOut } else { end_of(status) })
    }

    fn start(&self, whom: &Whom) -> Result<Group, End> {
        // Before the start, so that an end right after it is not missed.
        let ends = signal(SignalKind::child()).map_err(|error| lack(&error))?;
        let (reader, writer) = io::pipe().map_err(|error| lack(&error))?;
        let pipe = Receiver::from_owned_fd(reader.into()).map_err(|error| lack(&error))?;
        let child = self
            .process(whom)
            .stdout(writer.try_clone().map_err(|error| lack(&error))?)
            .stderr(writer)
            .spawn()
            .map_err(|error| not_started(&self.words[0], &error))?;
        let leader = child.id().and_then(|id| i32::try_from(id).ok()).map(Pid::from_raw);
        let group = Group { child, leader, ends, pipe: Some(pipe) };
        if leader.is_some_and(is_real_time) {
            // It is killed with the group.
            return Err(End::NotStarted(
                "it would run with the real-time policy of the daemon's thread, and could keep \
                 everybody else from running: set CPUSchedulingResetOnFork=yes in the unit"
                    .to_owned(),
            ));
        }
        Ok(group)
    }

    /// The check on a blocking thread, for the user database may take its time.
    async fn checked(&self) -> Result<Whom, End> {
        let (words, user) = (self.words.clone(), self.user.clone());
        let checked = tokio::task::spawn_blocking(move || check(&words, &user));
        match tokio::time::timeout(self.timeout, checked).await {
            Ok(Ok(Err(lookup @ Refused::Lookup { .. }))) => {
                Err(End::NotStarted(lookup.to_string()))
            }
            Ok(Ok(checked)) => checked.map_err(End::Refused),
            Ok(Err(_)) => Err(End::NotStarted("the daemon is stopping".to_owned())),
            Err(_) => {
                let user = &self.user;
                Err(End::NotStarted(format!("looking up the user {user} takes too long")))
            }
        }
    }

    fn process(&self, whom: &Whom) -> Process {
        let mut process = Process::new(&self.words[0]);
        process
            .args(&self.words[1..])
            .env_clear()
            .env("PATH", PATH)
            .envs(self.environment.iter().map(|(name, value)| (name, value)))
            .current_dir("/")
            .stdin(Stdio::null())
            .process_group(0);
        if Uid::effective().is_root() {
            // As root this also drops every supplementary group.
            process.gid(whom.gid.as_raw()).uid(whom.uid.as_raw());
        }
        process
    }
}

/// What a group writes.
struct Output {
    kept: Vec<u8>,
    /// Bytes that are kept.
    limit: usize,
}

impl Output {
    fn keep(&mut self, read: &[u8]) {
        let room = self.limit.saturating_sub(self.kept.len());
        self.kept.extend_from_slice(&read[..read.len().min(room)]);
    }
}

/// A child that leads its process group.
struct Group {
    child: Child,
    /// `None` once it is reaped.
    leader: Option<Pid>,
    /// Some child of this process has ended.
    ends: ChildEnds,
    /// What the group writes; `None` once nobody can write any more.
    pipe: Option<Receiver>,
}

impl Group {
    fn signal(&self, signal: Signal) {
        if let Some(leader) = self.leader
            && let Err(error) = killpg(leader, signal)
            && error != Errno::ESRCH
        {
            tracing::warn!(group = %leader, %signal, %error, "a process group cannot be signalled");
        }
    }

    /// Until the leader has ended, which is not reaped by this. Reads what the group writes.
    async fn ended(&mut self, output: &mut Output) {
        let mut buffer = [0; 1024];
        while !self.is_over() {
            tokio::select! {
                read = some(&mut self.pipe, &mut buffer) => match read {
                    Ok(length @ 1..) => output.keep(&buffer[..length]),
                    Ok(0) | Err(_) => self.pipe = None,
                },
                _ = self.ends.recv() => {}
            }
        }
    }

    /// Looks without reaping.
    fn is_over(&self) -> bool {
        let flags = WaitPidFlag::WEXITED | WaitPidFlag::WNOHANG | WaitPidFlag::WNOWAIT;
        self.leader.is_none_or(|leader| {
            !matches!(
                waitid(Id::Pid(leader), flags),
                Ok(WaitStatus::StillAlive) | Err(Errno::EINTR)
            )
        })
    }

    /// Reaps the leader; `all` kills the group first.
    async fn reap(&mut self, all: bool) -> io::Result<ExitStatus> {
        if all {
            self.signal(Signal::SIGKILL);
        }
        let status = self.child.wait().await;
        self.leader = None;
        status
    }

    /// What the leader wrote before its end is in the pipe; what others still write is not waited
    /// for.
    fn take_rest(&mut self, output: &mut Output) {
        let mut buffer = [0; 1024];
        while output.kept.len() < output.limit
            && let Some(pipe) = &self.pipe
            && let Ok(length @ 1..) = pipe.try_read(&mut buffer)
        {
            output.keep(&buffer[..length]);
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // After this the runtime reaps the child.
        self.signal(Signal::SIGKILL);
    }
}

/// Reads, or waits for ever when there is nothing to read from.
async fn some(pipe: &mut Option<Receiver>, buffer: &mut [u8]) -> io::Result<usize> {
    match pipe {
        Some(pipe) => pipe.read(buffer).await,
        None => std::future::pending().await,
    }
}

fn end_of(status: ExitStatus) -> End {
    match (status.code(), status.signal()) {
        (Some(code), _) => End::Exited(code),
        (None, signal) => End::Signalled(signal.unwrap_or_default()),
    }
}

fn lack(error: &io::Error) -> End {
    End::NotStarted(error.to_string())
}

/// Whether a process runs as SCHED_FIFO (1) or SCHED_RR (2): proc_pid_stat(5), field 41.
fn is_real_time(pid: Pid) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field is the name in brackets, which may hold anything.
    let policy = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(38));
    matches!(policy, Some("1" | "2"))
}

/// What may pass is a lack of this host; all else that the kernel says holds until somebody
/// changes the program or the daemon's rights.
fn not_started(program: &str, error: &io::Error) -> End {
    let why = match error.raw_os_error().map(Errno::from_raw) {
        Some(
            Errno::ENOMEM
            | Errno::EAGAIN
            | Errno::EMFILE
            | Errno::ENFILE
            | Errno::ETXTBSY
            | Errno::EIO,
        ) => return lack(error),
        Some(Errno::ENOEXEC) => {
            "neither a program nor a script with #! in its first line".to_owned()
        }
        Some(Errno::ENOENT) => "the interpreter in its first line is not there".to_owned(),
        Some(Errno::EACCES) => "it, its interpreter or a directory above it is closed to the \
                                user, or the file system is mounted noexec"
            .to_owned(),
        Some(Errno::EPERM) => {
            format!("{error}: becoming another user needs CAP_SETUID, CAP_SETGID and CAP_KILL")
        }
        _ => error.to_string(),
    };
    End::Refused(Refused::Unreachable { path: program.into(), why })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_may_pass_says_nothing_about_the_program() {
        let end = |errno: Errno| not_started("/x", &io::Error::from(errno));
        let passing = [
            Errno::ENOMEM,
            Errno::EAGAIN,
            Errno::EMFILE,
            Errno::ENFILE,
            Errno::ETXTBSY,
            Errno::EIO,
        ];
        for errno in passing {
            assert!(matches!(end(errno), End::NotStarted(_)), "{errno}");
        }
        let lasting =
            [Errno::ENOENT, Errno::EACCES, Errno::EPERM, Errno::E2BIG, Errno::ELOOP, Errno::EINVAL];
        for errno in lasting {
            let end = end(errno);
            assert!(matches!(end, End::Refused(Refused::Unreachable { .. })), "{errno}: {end}");
        }
    }
}
