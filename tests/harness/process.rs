//! Child processes that end with their owner.
//!
//! [`run`] runs a command to its end and returns its output; [`Tool`] is a long-running child that
//! is spoken to by lines and killed, by its own pid, when dropped.
//!
//! Must not know: what the programs do.

use crate::interrupt;
use crate::netns::Netns;
use crate::programs;
use crate::wait::{eventually, millis};
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

/// Runs `command` to its end and returns what it printed.
///
/// # Errors
/// When it cannot be started or does not exit with 0; the error carries its stderr.
pub fn run(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("start {command:?}"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("{command:?}: {}: {}", output.status, said.trim());
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// A child that is neither spoken to nor listened to; killed when dropped.
pub struct Background(Child);

impl Background {
    /// Starts a line of words in a namespace, in its own process group.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(ns: &Netns, line: &str) -> Result<Self> {
        let mut words = line.split_whitespace();
        let child = ns
            .command(words.next().context("an empty command")?)
            .args(words)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {line}"))?;
        Ok(Self(child))
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Background {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

/// A running labtool: lines in, lines out.
pub struct Tool {
    child: Child,
    stdin: Option<ChildStdin>,
    lines: Receiver<String>,
    what: String,
}

impl Tool {
    /// Starts `lb-labtool ARGS` in a namespace, in its own process group.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(ns: &Netns, args: &[&str]) -> Result<Self> {
        let what = format!("{} in {}", args.join(" "), ns.name());
        let mut command = ns.command(programs::labtool()?);
        command.args(args);
        Self::start(command, what)
    }

    /// Starts a program of the host that speaks by lines as the labtool does, and waits until it
    /// says `ready`.
    ///
    /// # Errors
    /// As [`Self::serve`].
    pub fn serve_program(ns: &Netns, program: &str, args: &[&str]) -> Result<Self> {
        let what = format!("{program} {} in {}", args.join(" "), ns.name());
        let mut command = ns.command(program);
        command.args(args);
        Self::start(command, what)?.ready(Duration::from_secs(15))
    }

    fn start(mut command: Command, what: String) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .process_group(0)
            .spawn()
            .with_context(|| format!("start {what}"))?;
        let stdin = child.stdin.take();
        let stdout = child.stdout.take().context("the child has no stdout")?;
        let (sender, lines) = channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stdout).lines().map_while(Result::ok) {
                if sender.send(line).is_err() {
                    break;
                }
            }
        });
        Ok(Self { child, stdin, lines, what })
    }

    /// Starts a server and waits until it says `ready`.
    ///
    /// # Errors
    /// When it ends or is silent for five seconds.
    pub fn serve(ns: &Netns, args: &[&str]) -> Result<Self> {
        Self::spawn(ns, args)?.ready(Duration::from_secs(5))
    }

    fn ready(mut self, limit: Duration) -> Result<Self> {
        let line = self.line(limit)?;
        if line != "ready" {
            bail!("{} said {line:?} instead of ready", self.what);
        }
        Ok(self)
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line that it prints.
    ///
    /// # Errors
    /// When it ends, is silent for `limit`, or the run is interrupted.
    pub fn line(&mut self, limit: Duration) -> Result<String> {
        let start = Instant::now();
        loop {
            match self.lines.recv_timeout(millis(50)) {
                Ok(line) => return Ok(line),
                Err(RecvTimeoutError::Disconnected) => bail!("{} ended without a word", self.what),
                Err(RecvTimeoutError::Timeout) => {}
            }
            interrupt::check()?;
            if start.elapsed() > limit {
                bail!("{} was silent for {:.1} s", self.what, limit.as_secs_f64());
            }
        }
    }

    /// Writes one line to it.
    ///
    /// # Errors
    /// When it has ended.
    pub fn tell(&mut self, line: &str) -> Result<()> {
        let stdin = self.stdin.as_mut().context("stdin is closed")?;
        writeln!(stdin, "{line}").with_context(|| format!("tell {} {line:?}", self.what))
    }

    /// Writes one line and reads the answer, one JSON document.
    ///
    /// # Errors
    /// As [`Self::tell`] and [`Self::line`]; when the answer is not JSON.
    pub fn ask(&mut self, line: &str, limit: Duration) -> Result<Value> {
        self.tell(line)?;
        self.json(limit)
    }

    /// The next line, as JSON.
    ///
    /// # Errors
    /// As [`Self::line`]; when it is not JSON.
    pub fn json(&mut self, limit: Duration) -> Result<Value> {
        let line = self.line(limit)?;
        serde_json::from_str(&line).with_context(|| format!("{} printed {line:?}", self.what))
    }

    /// Closes its stdin and waits for its end.
    ///
    /// # Errors
    /// When it does not end in time.
    pub fn finish(mut self, limit: Duration) -> Result<ExitStatus> {
        self.stdin = None;
        let what = format!("{} ends", self.what);
        eventually(limit, &what, || Ok(self.child.try_wait()?))
    }
}

impl Drop for Tool {
    fn drop(&mut self) {
        end(&mut self.child);
    }
}

/// A process and all that it has started, parents first.
pub fn tree(pid: u32) -> Vec<u32> {
    let mut found = vec![pid];
    let mut next = 0;
    while let Some(pid) = found.get(next) {
        let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        let children = tasks.map(|task| fs::read_to_string(task.path().join("children")));
        let words: Vec<String> = children.map(Result::unwrap_or_default).collect();
        let pids = words.iter().flat_map(|line| line.split_whitespace());
        found.extend(pids.filter_map(|word| word.parse::<u32>().ok()));
        next += 1;
    }
    found
}

/// SIGSTOP to all of them.
///
/// # Errors
/// When one cannot be stopped.
pub fn freeze(pids: &[u32]) -> Result<()> {
    for pid in pids {
        let signal = Signal::SIGSTOP;
        kill(Pid::from_raw(pid.cast_signed()), signal).with_context(|| format!("stop {pid}"))?;
    }
    Ok(())
}

/// SIGKILL to all of them, none of which gets to see another's end.
pub fn kill_all(pids: &[u32]) {
    for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
        for pid in pids.iter().rev() {
            // Those that have ended already are no fault.
            let _ = kill(Pid::from_raw(pid.cast_signed()), signal);
        }
    }
}

/// Kills a child with all that it has started, if it still runs, and reaps it.
pub fn end_tree(child: &mut Child) {
    // The pid of a child that was reaped may be another's by now.
    if matches!(child.try_wait(), Ok(None)) {
        kill_all(&tree(child.id()));
    }
    end(child);
}

/// Kills a child, if it still runs, and reaps it.
pub fn end(child: &mut Child) {
    // Both fail only for a child that has ended already.
    let _ = child.kill();
    let _ = child.wait();
}
