//! A lab's folder: configuration files, sockets, logs, and a bpffs of its own for pins.
//!
//! The bpffs is mounted below the folder, so a lab never meets pins of others and needs none at
//! `/sys/fs/bpf`; unmounting it drops every pin that a failed scenario left.
//!
//! Must not know: what is stored in it.

use crate::netns::{PREFIX, is_stale};
use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// The folder; removed with everything in it when dropped.
#[derive(Debug)]
pub struct LabDir {
    path: PathBuf,
}

impl LabDir {
    /// Makes the folder and mounts its bpffs.
    ///
    /// # Errors
    /// When either fails.
    pub fn create() -> Result<Self> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("{PREFIX}{}-{n}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("make {}", path.display()))?;
        let dir = Self { path };
        let bpffs = dir.bpffs();
        fs::create_dir(&bpffs)?;
        let nothing: Option<&str> = None;
        mount(Some("bpf"), &bpffs, Some("bpf"), MsFlags::empty(), nothing)
            .with_context(|| format!("mount a bpffs at {}", bpffs.display()))?;
        Ok(dir)
    }

    /// The folder itself.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Prints the end of every log in it, for a scenario that failed.
    pub fn print_logs(&self) {
        let entries = fs::read_dir(&self.path).into_iter().flatten().flatten();
        let mut logs: Vec<PathBuf> = entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .collect();
        logs.sort();
        for path in logs {
            let text = fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let hidden = lines.len().saturating_sub(SHOWN_LOG_LINES);
            eprintln!("--- {} ({hidden} lines before)", path.display());
            for line in &lines[hidden..] {
                eprintln!("{line}");
            }
        }
    }

    /// Where its bpffs is mounted.
    pub fn bpffs(&self) -> PathBuf {
        self.path.join(BPFFS)
    }
}

impl Drop for LabDir {
    fn drop(&mut self) {
        remove(&self.path);
    }
}

/// Removes the folders of runs that are gone.
pub(crate) fn sweep() {
    for entry in fs::read_dir(std::env::temp_dir()).into_iter().flatten().flatten() {
        if entry.file_name().to_str().is_some_and(is_stale) {
            remove(&entry.path());
        }
    }
}

fn remove(path: &Path) {
    let _ = umount2(&path.join(BPFFS), MntFlags::MNT_DETACH);
    if let Err(error) = fs::remove_dir_all(path) {
        eprintln!("lab: remove {}: {error}", path.display());
    }
}

const SHOWN_LOG_LINES: usize = 80;
const BPFFS: &str = "bpf";
