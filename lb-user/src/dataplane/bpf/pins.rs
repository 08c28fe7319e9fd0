//! The pin path: a directory on a bpffs, one version directory in it, one daemon at a time.
//!
//! Must not know: what is pinned.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use lb_common::abi::ABI_VERSION;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::statfs::{BPF_FS_MAGIC, statfs};

/// Held while a daemon uses a pin path; released by the kernel, however the daemon ends.
#[derive(Debug)]
pub struct Lock {
    _directory: Flock<File>,
}

/// Whether a path, or its nearest parent that exists, is on a bpffs.
pub fn is_on_bpffs(path: &Path) -> bool {
    let nearest = path.ancestors().find(|parent| parent.exists());
    nearest.and_then(|p| statfs(p).ok()).is_some_and(|s| s.filesystem_type() == BPF_FS_MAGIC)
}

/// The version directories of a pin path, and whether a daemon uses it. Changes nothing.
pub fn survey(pin_path: &Path) -> (Vec<String>, bool) {
    let entries = fs::read_dir(pin_path).into_iter().flatten().flatten();
    let versions = entries.map(|entry| entry.path()).filter(|path| is_version(path));
    let names = versions.filter_map(|path| Some(path.file_name()?.to_str()?.to_owned())).collect();
    // Not by trying the lock: that would be in the way of a daemon that starts just then.
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let inode = fs::metadata(pin_path).map(|found| found.ino());
    (names, inode.is_ok_and(|inode| is_locked(&locks, inode)))
}

/// Whether a line of /proc/locks (`1: FLOCK ADVISORY WRITE PID MAJOR:MINOR:INODE 0 EOF`) is about
/// this inode. Two file systems may have one number, but not two of bpf with a lock.
fn is_locked(locks: &str, inode: u64) -> bool {
    let flocks = locks.lines().filter(|line| line.contains(" FLOCK ") && line.contains(" WRITE "));
    let mut inodes = flocks.filter_map(|line| line.split_whitespace().nth(5)?.rsplit_once(':'));
    inodes.any(|(_, found)| found.parse() == Ok(inode))
}

/// Makes the pin path if need be and locks it.
///
/// # Errors
/// When it is not on a bpffs, or another daemon uses it.
pub(super) fn lock(pin_path: &Path) -> anyhow::Result<Lock> {
    if !is_on_bpffs(pin_path) {
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
            "pin path {} is in use: another lb is running with it; stop it first",
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
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if is_version(&path) && name != own {
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

/// [`remove`] by whoever holds the lock. Only directories named like a version are ours.
pub(super) fn remove_locked(pin_path: &Path) -> anyhow::Result<Vec<String>> {
    let mut removed = Vec::new();
    for entry in fs::read_dir(pin_path).with_context(|| format!("read {}", pin_path.display()))? {
        let version = entry?.path();
        if !is_version(&version) {
            continue;
        }
        let mut pins: Vec<PathBuf> =
            fs::read_dir(&version)?.map(|e| e.map(|e| e.path())).collect::<io::Result<_>>()?;
        pins.sort_by_key(|p| (!is_link(p), p.clone()));
        for pin in pins {
            fs::remove_file(&pin).with_context(|| format!("remove {}", pin.display()))?;
        }
        fs::remove_dir(&version).with_context(|| format!("remove {}", version.display()))?;
        removed.push(format!("pins {}", version.display()));
    }
    // Stays when it is not empty or is the mount point itself.
    let _stays = fs::remove_dir(pin_path);
    Ok(removed)
}

/// Whether this is the directory of a table layout's version.
fn is_version(path: &Path) -> bool {
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let digits = name.strip_prefix('v').unwrap_or_default();
    !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit())
}

/// Whether a pin is an attachment.
pub(super) fn is_link(pin: &Path) -> bool {
    pin.file_name().is_some_and(|n| n.to_string_lossy().starts_with(LINK_PREFIX))
}

/// What the names of pinned links begin with.
pub(super) const LINK_PREFIX: &str = "link-";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_version_directories_are_ours() {
        assert!(is_version(Path::new("/sys/fs/bpf/lb/v1")));
        for other in ["v", "v1x", "1", "tc", "vault"] {
            assert!(!is_version(&Path::new("/sys/fs/bpf/lb").join(other)), "{other}");
        }
    }

    #[test]
    fn a_lock_is_found_by_its_inode() {
        let locks = "\
1: POSIX  ADVISORY  WRITE 812 00:1a:77 0 EOF
2: FLOCK  ADVISORY  WRITE 1017 00:23:4242 0 EOF
3: FLOCK  ADVISORY  READ 1018 00:23:55 0 EOF
";
        assert!(is_locked(locks, 4242));
        for inode in [77, 55, 42, 424_200] {
            assert!(!is_locked(locks, inode), "{inode}");
        }
    }

    #[test]
    fn a_directory_that_is_no_bpffs_is_not_touched() {
        let path = std::env::temp_dir().join(format!("lb-detach-{}", std::process::id()));
        fs::create_dir_all(path.join("v1")).expect("a directory");
        let error = remove(&path).expect_err("refused").to_string();
        assert!(path.join("v1").exists());
        fs::remove_dir_all(&path).expect("removed");
        assert!(error.contains("not on a BPF file system"), "{error}");
        assert!(remove(&path).expect("nothing there").is_empty());
    }
}
