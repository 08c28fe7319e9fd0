//! A part of the daemon that is stuck is named: in the log, in the status and in metrics, and systemd
//! is told by silence.
//!
//! Must not know: how a part is watched.

use crate::stage::{Method, file, web};
use anyhow::{Context, Result, ensure};
use harness::config::Config;
use harness::daemon::{Paths, lb, run_command, write};
use harness::topology::Family;
use harness::wait::{eventually, millis, seconds, throughout};
use harness::{Lab, process, scenario};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::{self, File};
use std::io::{ErrorKind, PipeReader, Read};
use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Stdio};

/// A daemon of its own, with these lines as `log` section; killed when dropped.
struct Watched<'a> {
    lab: &'a Lab,
    child: Child,
}

impl Drop for Watched<'_> {
    fn drop(&mut self) {
        process::end_tree(&mut self.child);
    }
}

impl<'a> Watched<'a> {
    fn start(lab: &'a Lab, log: &[&str], stderr: Stdio, notify: Option<&PathBuf>) -> Result<Self> {
        let service = web(lab, Method::Nat, Family::V4)
            .check("type: tcp, interval: 20ms, retry_interval: 20ms, timeout: 100ms, start: up");
        let config = file(lab, Method::Nat, Family::V4, service);
        write(lab, &Config { log: log.iter().map(ToString::to_string).collect(), ..config })?;
        let mut command = run_command(lab, &Paths::of(lab).config)?;
        if let Some(path) = notify {
            command.env("NOTIFY_SOCKET", path);
        }
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(stderr).spawn()?;
        let watched = Self { lab, child };
        eventually(seconds(15), "lb answers", || watched.status().map(drop).map(|()| true))?;
        Ok(watched)
    }

    fn status(&self) -> Result<Value> {
        let output = lb(self.lab, &["status", "--json"])?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Ok(serde_json::from_slice(&output.stdout)?)
    }

    /// Whether the status and the metrics say that this part is stuck.
    fn shows(&self, part: &str) -> Result<bool> {
        let warnings = self.status()?["dataplane"]["warnings"].to_string();
        let told = warnings.contains(&format!("stuck: {part} has not moved for "));
        let series = format!("lb_stuck_seconds{{part=\"{part}\"}}");
        let seconds = crate::metrics::scrape(self.lab)?.value(&series)?;
        ensure!(told == (seconds > 0), "{warnings}, but {series} is {seconds}");
        Ok(told)
    }
}

/// Fills and then empties a pipe that is the daemon's standard error.
fn drain(mut pipe: PipeReader) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut text = String::new();
        let _cut_off = pipe.read_to_string(&mut text);
        text
    })
}

#[test]
fn a_log_that_nobody_reads_is_named_and_holds_nobody_up() {
    scenario(Method::Nat.shape(2), |lab| {
        let path = lab.dir.path().join("lb.log");
        let to = format!("to: [stderr, {{file: {}, max_level: info}}]", path.display());
        let (reader, writer) = std::io::pipe()?;
        nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096))?;
        let watched = Watched::start(lab, &["level: debug", &to], writer.into(), None)?;
        eventually(seconds(40), "the writer is stuck", || watched.shows("log to stderr"))?;
        let told = "stuck: log to stderr has not moved for ";
        eventually(
            seconds(5),
            "the log says so",
            || Ok(fs::read_to_string(&path)?.contains(told)),
        )?;
        // Everything else goes on, and more lines than there is room for are counted.
        for _ in 0..5 {
            watched.status()?;
        }
        ensure!(!watched.shows("controller")? && !watched.shows("runtime")?, "the rest is well");
        let reading = drain(reader);
        eventually(seconds(20), "it moves again", || Ok(!watched.shows("log to stderr")?))?;
        eventually(seconds(5), "the log says so", || {
            Ok(fs::read_to_string(&path)?.contains("log to stderr moves again after "))
        })?;
        drop(watched);
        let read = reading.join().ok().context("the reader ended")?;
        ensure!(read.contains("ready"), "the lines came after all");
        Ok(())
    });
}

/// A thread of a process that does not run until this is dropped, by the thread that made it.
struct Frozen(Pid);

impl Frozen {
    fn new(thread: u32) -> Result<Self> {
        let thread = Pid::from_raw(thread.cast_signed());
        ptrace::seize(thread, ptrace::Options::empty()).context("seize a thread")?;
        let frozen = Self(thread);
        ptrace::interrupt(thread).context("stop a thread")?;
        waitpid(thread, Some(WaitPidFlag::__WALL)).context("wait until it has stopped")?;
        Ok(frozen)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        let _gone = ptrace::detach(self.0, None);
    }
}

/// Whether systemd would hear within two and a half seconds that the daemon is well.
fn is_well(socket: &UnixDatagram) -> Result<bool> {
    socket.set_read_timeout(Some(millis(2500)))?;
    let mut buffer = [0; 512];
    loop {
        match socket.recv(&mut buffer) {
            Ok(length) if buffer[..length].starts_with(b"WATCHDOG=1") => return Ok(true),
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(false),
            Err(error) => return Err(error.into()),
        }
    }
}

#[test]
fn a_stuck_controller_is_named_and_systemd_hears_nothing() {
    scenario(Method::Nat.shape(1), |lab| {
        let path = lab.dir.path().join("notify");
        let socket = UnixDatagram::bind(&path)?;
        let log = lab.dir.path().join("lb-watched.log");
        let stderr = File::create(&log)?;
        let watched = Watched::start(lab, &["to: [stderr]"], stderr.into(), Some(&path))?;
        let says = |part: &str| Ok(fs::read_to_string(&log)?.contains(part));
        ensure!(is_well(&socket)?, "it is well");
        // The controller and the runtime are the main thread's.
        let frozen = Frozen::new(watched.child.id())?;
        eventually(seconds(15), "it is told", || says("stuck: controller has not moved for "))?;
        ensure!(says("stuck: runtime has not moved for ")?, "the runtime is stuck too");
        ensure!(says("without it this daemon is of no use")?, "what it means is told");
        eventually(seconds(5), "systemd hears nothing", || Ok(!is_well(&socket)?))?;
        drop(frozen);
        eventually(seconds(5), "it moves again", || says("controller moves again after "))?;
        ensure!(is_well(&socket)?, "it is well again");
        throughout(seconds(1), "the status is clean", || Ok(!watched.shows("controller")?))
    });
}
