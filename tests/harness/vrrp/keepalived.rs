//! Debian's keepalived on a node: the other make, and the floor.
//!
//! keepalived is a parent with a VRRP child. A parent that is killed makes its child say goodbye,
//! so a crash is of both: [`crate::process::kill_all`] stops all before it kills the first.
//!
//! Must not know: the product.

use crate::daemon::Director;
use crate::pair::Node;
use crate::process::end_tree;
use crate::wait::{eventually, seconds};
use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs::{self, File};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

/// A running keepalived; killed, without a goodbye, when dropped.
pub struct Keepalived {
    child: Child,
    log: PathBuf,
}

impl Keepalived {
    /// Writes `text` as its file, starts it on `node` and waits until it has started its VRRP part.
    ///
    /// # Errors
    /// When it ends, or is not there within ten seconds.
    pub fn start(node: &Node, text: &str) -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let file =
            |extension: &str| node.dir().path().join(format!("keepalived-{n:03}{extension}"));
        fs::write(file(".conf"), text).context("write keepalived's file")?;
        let log = file(".log");
        let output = File::create(&log)?;
        // -n: in the foreground; -l -D: all to the console; -P: only VRRP.
        let child = node
            .ns
            .command("keepalived")
            .args(["-n", "-l", "-D", "-P", "-f"])
            .arg(file(".conf"))
            .arg("-p")
            .arg(file(".pid"))
            .arg("-r")
            .arg(file("-vrrp.pid"))
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .process_group(0)
            .spawn()
            .context("start keepalived: is the package installed? (cargo xtask setup)")?;
        let mut keepalived = Self { child, log };
        keepalived.wait_started()?;
        Ok(keepalived)
    }

    /// The parent's pid.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has logged so far.
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Errors
    /// When it takes more than ten seconds.
    pub fn terminate(mut self) -> Result<()> {
        kill(Pid::from_raw(self.child.id().cast_signed()), Signal::SIGTERM)?;
        eventually(seconds(10), "keepalived ends after SIGTERM", || Ok(self.child.try_wait()?))?;
        Ok(())
    }

    fn wait_started(&mut self) -> Result<()> {
        let (child, log) = (&mut self.child, &self.log);
        let ended = eventually(seconds(10), "keepalived starts its VRRP part", || {
            // The last thing that it does before it waits for adverts.
            if fs::read_to_string(log).unwrap_or_default().contains("Startup complete") {
                return Ok(Some(None));
            }
            Ok(child.try_wait()?.map(Some))
        })?;
        match ended {
            None => Ok(()),
            Some(status) => bail!("keepalived ended ({status}):\n{}", self.log()),
        }
    }
}

impl Drop for Keepalived {
    fn drop(&mut self) {
        end_tree(&mut self.child);
    }
}
