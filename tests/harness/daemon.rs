//! `lb run` on a director of the lab, and the command line that speaks to it.
//!
//! [`Daemon::start`] writes the file, starts the binary and waits for `ready`. Every daemon of a
//! host uses the same pin path, admin socket and file, as the same host would, so one that was
//! killed can be started again. Logs go to a file that a failed scenario prints.
//!
//! Must not know: the product's internals.

use crate::config::Config;
use crate::labdir::LabDir;
use crate::netns::Netns;
use crate::process::{end, end_tree, run};
use crate::programs;
use crate::wait::{eventually, seconds};
use anyhow::{Context, Result, anyhow, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

/// A host that `lb` runs on.
pub trait Director: Sync {
    /// Its namespace.
    fn ns(&self) -> &Netns;
    /// Its folder: file, admin socket, logs and pins.
    fn dir(&self) -> &LabDir;
}

/// A running `lb run`; killed when dropped.
pub struct Daemon<'a> {
    host: &'a dyn Director,
    child: Child,
    log: PathBuf,
}

/// Where a lab keeps what its daemon uses.
#[derive(Clone, Debug)]
pub struct Paths {
    /// The configuration file.
    pub config: PathBuf,
    /// `admin.socket`.
    pub socket: PathBuf,
    /// `dataplane.pin_path`.
    pub pins: PathBuf,
    /// The state file.
    pub state: PathBuf,
    /// The authorities that `lb` trusts, if a scenario writes them (`SSL_CERT_FILE`).
    pub trusted: PathBuf,
}

impl Paths {
    /// The paths of `host`.
    pub fn of(host: &dyn Director) -> Self {
        let dir = host.dir().path();
        Self {
            config: dir.join("lb.yaml"),
            socket: dir.join("admin.sock"),
            pins: host.dir().bpffs().join("lb"),
            state: dir.join("state.json"),
            trusted: dir.join("trusted.pem"),
        }
    }
}

/// Writes `config` as the lab's file.
///
/// # Errors
/// When it cannot be written.
pub fn write(host: &dyn Director, config: &Config) -> Result<String> {
    let paths = Paths::of(host);
    let text = config.yaml(&paths.pins, &paths.socket);
    fs::write(&paths.config, &text).context("write the configuration")?;
    Ok(text)
}

/// Runs `lb ARGS` to its end in the director, with the lab's socket in the environment.
///
/// # Errors
/// When the binary is missing or cannot be started. A bad exit code is for the caller.
pub fn lb(host: &dyn Director, args: &[&str]) -> Result<Output> {
    let mut command = command(host, args)?;
    command.output().with_context(|| format!("start lb {}", args.join(" ")))
}

/// `lb ARGS` in the director, with the lab's socket in the environment.
///
/// # Errors
/// When the binary is missing.
pub fn command(host: &dyn Director, args: &[&str]) -> Result<Command> {
    let mut command = host.ns().command(programs::lb()?);
    command.env("LB_SOCKET", Paths::of(host).socket).args(args);
    Ok(command)
}

/// Writes `config` under another name, with other paths: for a second daemon, or a refused one.
///
/// # Errors
/// When it cannot be written.
pub fn write_as(host: &dyn Director, name: &str, config: &Config, pins: &Path) -> Result<PathBuf> {
    let path = host.dir().path().join(name);
    fs::write(&path, config.yaml(pins, &path.with_extension("sock"))).context("write a file")?;
    Ok(path)
}

/// `lb detach`: removes what a daemon that is gone has left.
///
/// # Errors
/// When it does not exit with 0.
pub fn detach(host: &dyn Director) -> Result<()> {
    let pins = Paths::of(host).pins;
    let output = lb(host, &["detach", "--pin-path", pins.to_str().context("the path is text")?])?;
    if !output.status.success() {
        bail!("lb detach: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

/// Starts `lb run` with a file that it must refuse, and returns what it said.
///
/// # Errors
/// When it still runs after ten seconds.
pub fn refused(host: &dyn Director, command: &mut Command) -> Result<(ExitStatus, String)> {
    let log = next_log(host);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&log)?);
    let mut child = command.spawn().context("start lb")?;
    let ended = eventually(seconds(10), "lb refuses to run", || Ok(child.try_wait()?));
    end(&mut child);
    Ok((ended?, fs::read_to_string(&log)?))
}

/// The command `lb run --config FILE` in the director.
///
/// # Errors
/// When the binary is missing.
pub fn run_command(host: &dyn Director, config: &Path) -> Result<Command> {
    let mut command = host.ns().command(programs::lb()?);
    command.env("SSL_CERT_FILE", Paths::of(host).trusted);
    command.arg("run").arg("--config").arg(config);
    command.arg("--state").arg(Paths::of(host).state).process_group(0);
    Ok(command)
}

impl<'a> Daemon<'a> {
    /// Writes the file, starts the daemon and waits until it is ready.
    ///
    /// # Errors
    /// When it ends, or is not ready within fifteen seconds.
    pub fn start(host: &'a dyn Director, config: &Config) -> Result<Self> {
        write(host, config)?;
        Self::start_again(host)
    }

    /// Starts a daemon with the file as it is.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub fn start_again(host: &'a dyn Director) -> Result<Self> {
        let log = next_log(host);
        // The kernel verifies programs without a break: two at once would hold both processors, and
        // nobody could speak VRRP in time. A test that failed meanwhile is no reason not to go on.
        let _alone = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
        let child = run_command(host, &Paths::of(host).config)?
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(File::create(&log)?)
            .spawn()
            .context("start lb run")?;
        let mut daemon = Self { host, child, log };
        daemon.wait_ready()?;
        Ok(daemon)
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The file that its standard error goes to.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// `lb status --json`.
    ///
    /// # Errors
    /// When the command fails or prints no JSON.
    pub fn status(&self) -> Result<Value> {
        self.json(&["status"])
    }

    /// `lb stats --json`.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn stats(&self) -> Result<Value> {
        self.json(&["stats"])
    }

    /// What the admin API answers to GET `/api/v1/NAME` on its socket.
    ///
    /// # Errors
    /// When curl fails, or prints no JSON.
    pub fn api(&self, name: &str) -> Result<Value> {
        let mut command = self.host.ns().command("curl");
        command.args(["--silent", "--fail", "--max-time", "10", "--unix-socket"]);
        command.arg(Paths::of(self.host).socket).arg(format!("http://lb/api/v1/{name}"));
        serde_json::from_str(&run(&mut command)?).context("read the answer")
    }

    /// What has happened so far, oldest first.
    ///
    /// # Errors
    /// As [`Self::api`].
    pub fn events(&self) -> Result<Vec<Value>> {
        let document = self.api("events")?;
        Ok(document["events"].as_array().context("no events")?.clone())
    }

    /// `lb connections --json`.
    ///
    /// # Errors
    /// As [`Self::status`].
    pub fn connections(&self) -> Result<Value> {
        self.json(&["connections"])
    }

    /// What `lb ARGS` prints for people.
    ///
    /// # Errors
    /// When it does not exit with 0.
    pub fn text(&self, args: &[&str]) -> Result<String> {
        let output = lb(self.host, args)?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            bail!("lb {}: {}: {}", args.join(" "), output.status, said.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Writes another file and applies it by `lb reload`.
    ///
    /// # Errors
    /// When the reload is refused.
    pub fn reload(&self, config: &Config) -> Result<()> {
        write(self.host, config)?;
        self.text(&["reload"]).map(drop)
    }

    /// `lb reload` with a file that must be refused; returns what it said.
    ///
    /// # Errors
    /// When the file is accepted, or the exit code is not 1.
    pub fn reload_refused(&self, text: &str) -> Result<String> {
        fs::write(Paths::of(self.host).config, text)?;
        let output = lb(self.host, &["reload"])?;
        ensure!(output.status.code() == Some(1), "lb reload: {}", output.status);
        Ok(String::from_utf8_lossy(&output.stderr).into_owned())
    }

    /// The state of one real server in `lb status`.
    ///
    /// # Errors
    /// When the status does not list it.
    pub fn real_server(&self, service: &str, address: &str) -> Result<Value> {
        find_real_server(&self.status()?, service, address).cloned()
    }

    /// Waits until `lb status` shows a real server in `state`.
    ///
    /// # Errors
    /// At the deadline.
    pub fn wait_state(
        &self,
        service: &str,
        address: &str,
        state: &str,
        limit: Duration,
    ) -> Result<()> {
        eventually(limit, &format!("{service}/{address} is {state}"), || {
            let server = self.real_server(service, address)?;
            Ok(server["state"] == state)
        })
    }

    /// Seconds of CPU that it has used so far, in user space and in the kernel.
    ///
    /// # Errors
    /// When /proc cannot be read.
    pub fn cpu_seconds(&self) -> Result<f64> {
        let text = fs::read_to_string(format!("/proc/{}/stat", self.pid()))?;
        let (_, after_name) = text.rsplit_once(')').context("no name in /proc/PID/stat")?;
        // proc(5): utime and stime are fields 14 and 15, the name is field 2.
        let ticks = |n: usize| after_name.split_whitespace().nth(n)?.parse::<f64>().ok();
        let (user, system) = ticks(11).zip(ticks(12)).context("no times in /proc/PID/stat")?;
        let hz = nix::unistd::sysconf(nix::unistd::SysconfVar::CLK_TCK)?.context("no HZ")?;
        Ok((user + system) / hz as f64)
    }

    /// SIGKILL: the data plane has to go on alone.
    pub fn kill(mut self) {
        end(&mut self.child);
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// When it takes more than fifteen seconds.
    pub fn terminate(mut self) -> Result<ExitStatus> {
        let pid = Pid::from_raw(self.child.id().cast_signed());
        kill(pid, Signal::SIGTERM).context("send SIGTERM")?;
        eventually(seconds(15), "lb ends after SIGTERM", || Ok(self.child.try_wait()?))
    }

    fn json(&self, args: &[&str]) -> Result<Value> {
        let text = self.text(&[args, &["--json"]].concat())?;
        serde_json::from_str(&text).with_context(|| format!("lb {} printed {text}", args[0]))
    }

    fn wait_ready(&mut self) -> Result<()> {
        let (child, log) = (&mut self.child, &self.log);
        let ended = eventually(seconds(15), "lb logs ready", || {
            if fs::read_to_string(log).unwrap_or_default().lines().any(says_ready) {
                return Ok(Some(None));
            }
            Ok(child.try_wait()?.map(Some))
        })?;
        match ended {
            None => Ok(()),
            Some(status) => {
                bail!("lb run ended before it was ready ({status}):\n{}", self.log())
            }
        }
    }
}

impl Drop for Daemon<'_> {
    fn drop(&mut self) {
        end_tree(&mut self.child);
    }
}

/// One real server in the document of `lb status --json`.
///
/// # Errors
/// When it is not listed.
pub fn find_real_server<'v>(status: &'v Value, service: &str, address: &str) -> Result<&'v Value> {
    let services = status["virtual_services"].as_array();
    let entry = services.into_iter().flatten().find(|entry| entry["name"] == service);
    let servers = entry.and_then(|entry| entry["real_servers"].as_array());
    servers
        .into_iter()
        .flatten()
        .find(|server| server["address"] == address)
        .ok_or_else(|| anyhow!("lb status does not list {service}/{address}: {status}"))
}

/// One number of `lb status`: `dataplane.connections.used`.
///
/// # Errors
/// When it is missing.
pub fn used(status: &Value) -> Result<u64> {
    let used = status["dataplane"]["connections"]["used"].as_u64();
    used.with_context(|| format!("lb status has no dataplane.connections.used: {status}"))
}

/// One number of an object, such as a real server's `active_connections`.
///
/// # Errors
/// When it is missing.
pub fn number(object: &Value, key: &str) -> Result<u64> {
    object[key].as_u64().with_context(|| format!("no number {key} in {object}"))
}

/// `bpftool map dump pinned` of the map `name` below the lab's pin path.
///
/// # Errors
/// When there is no such pin, or bpftool fails.
pub fn dump_map(host: &dyn Director, name: &str) -> Result<String> {
    let path = pinned(host, name)?;
    run(Command::new("bpftool").args(["map", "dump", "pinned"]).arg(path))
}

/// The pin of the map `name`: `<pin_path>/v*/NAME`.
///
/// # Errors
/// When there is none.
pub fn pinned(host: &dyn Director, name: &str) -> Result<PathBuf> {
    let pins = Paths::of(host).pins;
    let versions = fs::read_dir(&pins).with_context(|| format!("read {}", pins.display()))?;
    versions
        .flatten()
        .filter(|entry| entry.file_name().to_string_lossy().starts_with('v'))
        .map(|entry| entry.path().join(name))
        .find(|path| path.exists())
        .with_context(|| format!("no map {name} is pinned below {}", pins.display()))
}

/// Held while a daemon starts.
static STARTING: Mutex<()> = Mutex::new(());

fn says_ready(line: &str) -> bool {
    line.trim_end().ends_with("ready") || line.contains("\"ready\"") || line.contains(" ready ")
}

fn next_log(host: &dyn Director) -> PathBuf {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let n = NEXT.fetch_add(1, Ordering::Relaxed);
    host.dir().path().join(format!("lb-{n:03}.log"))
}
