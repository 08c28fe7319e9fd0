//! Network namespaces that vanish with their owner.
//!
//! Names are `lb-PID-N-ROLE`, so runs never meet. Commands run inside by `nsenter --net`, which
//! keeps the mounts (`ip netns exec` hides bpffs); [`Netns::enter`] runs a closure inside.
//! Before the first one is made, what dead runs left is removed.
//!
//! Must not know: topologies, peers.

use crate::labdir;
use crate::process::run;
use anyhow::{Context, Result, anyhow, bail};
use nix::sched::{CloneFlags, setns};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::ffi::OsStr;
use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Once;
use std::sync::atomic::{AtomicU32, Ordering};

/// A network namespace; deleted when dropped.
#[derive(Debug)]
pub struct Netns {
    name: String,
}

impl Netns {
    /// Makes a namespace for `role`, with its loopback up.
    ///
    /// # Errors
    /// Without root, or when `ip netns add` fails.
    pub fn create(role: &str) -> Result<Self> {
        static SWEPT: Once = Once::new();
        static NEXT: AtomicU32 = AtomicU32::new(1);
        require_root()?;
        SWEPT.call_once(sweep);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("{PREFIX}{}-{n}-{role}", std::process::id());
        run(Command::new("ip").args(["netns", "add", &name]))?;
        let ns = Self { name };
        ns.ip("link set lo up")?;
        Ok(ns)
    }

    /// Its name in `ip netns`.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Where it is bound in the file system.
    pub fn path(&self) -> PathBuf {
        Path::new(NETNS_DIR).join(&self.name)
    }

    /// A command that will run inside; it keeps the caller's mounts, and the child's pid is the
    /// program's own.
    pub fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", self.path().display())).arg("--").arg(program);
        command
    }

    /// Runs a line of words inside and returns what it printed.
    ///
    /// # Errors
    /// When it does not exit with 0.
    pub fn run(&self, line: &str) -> Result<String> {
        let mut words = line.split_whitespace();
        let program = words.next().context("an empty command")?;
        run(self.command(program).args(words))
    }

    /// Runs `ip` commands inside, one a line.
    ///
    /// # Errors
    /// At the first line that `ip` refuses.
    pub fn ip(&self, lines: &str) -> Result<()> {
        let mut child = self
            .command("ip")
            .args(["-batch", "-"])
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .context("start ip")?;
        child.stdin.take().context("ip has no stdin")?.write_all(lines.as_bytes())?;
        let output = child.wait_with_output()?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("ip -batch in {}: {}\n{lines}", self.name, said.trim());
        }
        Ok(())
    }

    /// Sets sysctls inside; keys with slashes, as below `/proc/sys`.
    ///
    /// # Errors
    /// When a key cannot be written.
    pub fn sysctl(&self, settings: &[(&str, &str)]) -> Result<()> {
        self.enter(|| {
            for (key, value) in settings {
                fs::write(Path::new("/proc/sys").join(key), value)
                    .with_context(|| format!("set {key} to {value}"))?;
            }
            Ok(())
        })
    }

    /// Runs `body` on a thread inside the namespace.
    ///
    /// # Errors
    /// When the namespace cannot be entered, or as `body`.
    pub fn enter<T: Send>(&self, body: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let file = File::open(self.path()).with_context(|| format!("open {}", self.name))?;
        std::thread::scope(|scope| {
            let thread = scope.spawn(move || {
                setns(file, CloneFlags::CLONE_NEWNET).context("enter the namespace")?;
                body()
            });
            thread.join().map_err(|_| anyhow!("the thread in {} panicked", self.name))?
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("ip").args(["netns", "del", &self.name])) {
            eprintln!("lab: {error:#}");
        }
    }
}

/// Fails with a clear line unless the process is root.
///
/// # Errors
/// Without root.
pub fn require_root() -> Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the lab makes network namespaces and loads BPF programs: run it as root");
    }
    Ok(())
}

/// The pid in a name that the harness gives (`lb-PID-...`).
pub(crate) fn owner(name: &str) -> Option<u32> {
    name.strip_prefix(PREFIX)?.split('-').next()?.parse().ok()
}

/// Whether the run that gave this name is over. Before the first lab of a process its own pid
/// counts as gone too: pids are used again.
pub(crate) fn is_stale(name: &str) -> bool {
    owner(name).is_some_and(|pid| {
        pid == std::process::id() || !Path::new("/proc").join(pid.to_string()).exists()
    })
}

/// Removes the namespaces and folders of runs that were killed before they could do it.
fn sweep() {
    for entry in fs::read_dir(NETNS_DIR).into_iter().flatten().flatten() {
        let Ok(name) = entry.file_name().into_string() else { continue };
        if is_stale(&name) {
            eprintln!("lab: removing {name}, left by a run that is gone");
            end_processes_in(&name);
            let _ = run(Command::new("ip").args(["netns", "del", &name]));
        }
    }
    labdir::sweep();
}

/// Only a harness starts processes in a namespace of this name, and it has no use for them.
pub(crate) fn end_processes_in(name: &str) {
    let pids = run(Command::new("ip").args(["netns", "pids", name])).unwrap_or_default();
    for pid in pids.lines().filter_map(|line| line.trim().parse().ok()) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

pub(crate) const PREFIX: &str = "lb-";
const NETNS_DIR: &str = "/run/netns";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_owner_is_read_from_the_name() {
        assert_eq!(owner("lb-123-4-client"), Some(123));
        assert_eq!(owner("lb-web"), None);
        assert_eq!(owner("other-123-4"), None);
    }

    #[test]
    fn a_living_run_is_not_stale() {
        assert!(!is_stale("lb-1-1-client"));
        assert!(is_stale("lb-4194305-1-client"), "that pid is above the kernel's limit");
    }
}
