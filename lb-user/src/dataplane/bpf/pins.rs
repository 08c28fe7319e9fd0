//! The pin path: a directory on a bpffs, one version directory in it, one daemon at a time.
//!
//! Must not know: what is pinned.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use lb_common::abi::ABI_VERSION;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::statfs;

/// `BPF_FS_MAGIC`.
const BPF_FS_MAGIC: i64 = 0xcafe_4a11;

/// Held while a daemon uses a pin path; released by the kernel, however the daemon ends.
#[derive(Debug)]
pub struct Lock {
    _directory: Flock<File>,
}

/// Makes the pin path if need be and locks it.
///
/// # Errors
/// When it is not on a bpffs, or another daemon uses it.
pub(super) fn lock(pin_path: &Path) -> anyhow::Result<Lock> {
    let existing = pin_path.ancestors().find(|p| p.exists()).unwrap_or(Path::new("/"));
    let kind = statfs(existing).with_context(|| format!("stat {}", existing.display()))?;
    if kind.filesystem_type().0 as i64 != BPF_FS_MAGIC {
        bail!(
            "pin path {} is not on a BPF file system: mount one (`mount -t bpf bpf /sys/fs/bpf`) \
             or set dataplane.pin_path",
            pin_path.display()
        );
    }
    fs::create_dir_all(pin_path)
        .with_context(|| format!("make the pin path {}", pin_path.display()))?;
    let directory = File::open(pin_path)
        .with_context(|| format!("open the pin path {}", pin_path.display()))?;
    match Flock::lock(directory, FlockArg::LockExclusiveNonblock) {
        Ok(directory) => Ok(Lock { _directory: directory }),
        Err((_, nix::errno::Errno::EWOULDBLOCK)) => bail!(
            "pin path {} is in use: another lb is running with it; stop it, or give this one \
             another dataplane.pin_path",
            pin_path.display()
        ),
        Err((_, error)) => Err(error).with_context(|| format!("lock {}", pin_path.display())),
    }
}

/// The directory of this version's pins. Pins of another version are refused, not misread.
///
/// # Errors
/// When another version's pins are there.
pub(super) fn version_directory(pin_path: &Path) -> anyhow::Result<PathBuf> {
    let own = format!("v{ABI_VERSION}");
    for entry in fs::read_dir(pin_path).with_context(|| format!("read {}", pin_path.display()))? {
        let name = entry?.file_name();
        let name = name.to_string_lossy();
        if name.starts_with('v') && name != own {
            bail!(
                "{} holds maps of another version of lb ({name}, this one uses {own}): \
                 `lb detach` removes them, and with them the connections they know",
                pin_path.display()
            );
        }
    }
    let directory = pin_path.join(own);
    match fs::create_dir(&directory) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(error).with_context(|| format!("make {}", directory.display()))
        }
        _ => Ok(directory),
    }
}

/// Removes everything that is pinned below `pin_path`, links first, so that no program meets maps
/// that are half gone. Gives the names of what was removed.
///
/// # Errors
/// When a daemon is running with this path, or a pin cannot be removed.
pub fn remove(pin_path: &Path) -> anyhow::Result<Vec<String>> {
    if !pin_path.exists() {
        return Ok(Vec::new());
    }
    let _lock = lock(pin_path)?;
    remove_locked(pin_path)
}

/// [`remove`] by whoever holds the lock.
pub(super) fn remove_locked(pin_path: &Path) -> anyhow::Result<Vec<String>> {
    let mut removed = Vec::new();
    for entry in fs::read_dir(pin_path).with_context(|| format!("read {}", pin_path.display()))? {
        let version = entry?.path();
        if !version.is_dir() {
            continue;
        }
        let mut pins: Vec<PathBuf> =
            fs::read_dir(&version)?.map(|e| e.map(|e| e.path())).collect::<io::Result<_>>()?;
        pins.sort_by_key(|p| (!is_link(p), p.clone()));
        for pin in pins {
            fs::remove_file(&pin).with_context(|| format!("remove {}", pin.display()))?;
            removed.extend(pin.file_name().map(|n| n.to_string_lossy().into_owned()));
        }
        fs::remove_dir(&version).with_context(|| format!("remove {}", version.display()))?;
    }
    fs::remove_dir(pin_path).with_context(|| format!("remove {}", pin_path.display()))?;
    Ok(removed)
}

/// Whether a pin is an attachment.
pub(super) fn is_link(pin: &Path) -> bool {
    pin.file_name().is_some_and(|n| n.to_string_lossy().starts_with(LINK_PREFIX))
}

/// What the names of pinned links begin with.
pub(super) const LINK_PREFIX: &str = "link-";
