//! Running other programs: where they are, how a failure reads, how long a step takes.
//!
//! Commands of other modules go through [`Cmd`], so that every failure names the command line and
//! every command sees the same `PATH` (with the sbin folders) and the same target folder.
//!
//! Must not know: which tools the project needs or why.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

/// A program with its arguments, to be run in the workspace's top folder.
pub(crate) struct Cmd(Command);

impl Cmd {
    /// A command found in `PATH`, in the sbin folders, or by its path.
    pub(crate) fn new(program: impl AsRef<OsStr>) -> Self {
        Self::from(Command::new(program))
    }

    /// The cargo that runs xtask.
    pub(crate) fn cargo() -> Self {
        Self::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
    }

    /// Adds arguments.
    pub(crate) fn args<S: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = S>) -> Self {
        self.0.args(args);
        self
    }

    /// Sets a variable.
    pub(crate) fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.0.env(name, value);
        self
    }

    /// Runs with the terminal's input and output; a failure is an error.
    pub(crate) fn run(mut self) -> Result<()> {
        let status = self.0.status().with_context(|| format!("cannot run `{}`", self.line()))?;
        ensure!(status.success(), "`{}` failed ({status})", self.line());
        Ok(())
    }

    /// Runs and hands each line of standard output to `each`; tells whether the command succeeded.
    pub(crate) fn stream(mut self, mut each: impl FnMut(&str)) -> Result<bool> {
        let context = format!("cannot run `{}`", self.line());
        let mut child = self.0.stdout(Stdio::piped()).spawn().context(context)?;
        if let Some(stdout) = child.stdout.take() {
            let mut reader = BufReader::new(stdout);
            let mut line = Vec::new();
            while reader.read_until(b'\n', &mut line)? > 0 {
                each(String::from_utf8_lossy(&line).trim_end_matches('\n'));
                line.clear();
            }
        }
        Ok(child.wait()?.success())
    }

    /// Runs silently and returns standard output; on failure the error holds what was said.
    pub(crate) fn capture(mut self) -> Result<String> {
        let output = self.0.output().with_context(|| format!("cannot run `{}`", self.line()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("`{}` failed ({}): {}", self.line(), output.status, said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Replaces this process; returns only when that fails.
    pub(crate) fn exec(mut self) -> anyhow::Error {
        let error = self.0.exec();
        anyhow::Error::new(error).context(format!("cannot run `{}`", self.line()))
    }

    fn line(&self) -> String {
        let parts = [self.0.get_program()].into_iter().chain(self.0.get_args());
        parts.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
    }
}

impl From<Command> for Cmd {
    fn from(mut command: Command) -> Self {
        command.env("PATH", path());
        if let Ok(root) = env::current_dir() {
            command.env("CARGO_TARGET_DIR", root.join("target"));
        }
        Self(command)
    }
}

/// Makes the workspace's top folder the current one.
pub(crate) fn enter_workspace() -> Result<()> {
    let own = env::var_os("CARGO_MANIFEST_DIR").map(PathBuf::from);
    let root = own.as_deref().and_then(Path::parent).context("run this as `cargo xtask`")?;
    env::set_current_dir(root).with_context(|| format!("enter {}", root.display()))
}

/// The workspace's top folder.
pub(crate) fn root() -> Result<PathBuf> {
    env::current_dir().context("find the current folder")
}

/// Finds a program in `PATH` and the sbin folders.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    env::split_paths(&path()).map(|folder| folder.join(program)).find(|file| file.is_file())
}

/// `PATH` with the folders of administrators' tools, which users' shells often lack.
fn path() -> OsString {
    let given = env::var_os("PATH").unwrap_or_default();
    let mut folders: Vec<PathBuf> = env::split_paths(&given).collect();
    for sbin in ["/usr/local/sbin", "/usr/sbin", "/sbin"] {
        if !folders.iter().any(|folder| folder == Path::new(sbin)) {
            folders.push(sbin.into());
        }
    }
    env::join_paths(folders).unwrap_or(given)
}

/// Whether this process runs as root.
pub(crate) fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uids = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uids.and_then(|uids| uids.split_whitespace().nth(1)) == Some("0")
}

/// Fails with one line unless this process runs as root.
pub(crate) fn need_root(why: &str) -> Result<()> {
    ensure!(is_root(), "this needs root ({why}): run it again as root");
    Ok(())
}

/// Says what begins, runs it, says how long it took.
pub(crate) fn step<T>(what: &str, run: impl FnOnce() -> Result<T>) -> Result<T> {
    eprintln!("==> {what}");
    let start = Instant::now();
    let result = run();
    let verb = if result.is_ok() { "done" } else { "FAILED" };
    eprintln!("==> {what}: {verb} in {}", seconds(start.elapsed()));
    result
}

/// A duration as the steps print it.
pub(crate) fn seconds(duration: Duration) -> String {
    format!("{:.1} s", duration.as_secs_f64())
}
