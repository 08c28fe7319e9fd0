//! Kernel settings that forwarding needs: set at start, restored at stop, logged each time.
//!
//! `bpf_fib_lookup` answers only for an ingress interface that forwards, so the fallback needs
//! `forwarding` on each interface of the data plane. A host that forwards also sends ICMP
//! redirects, which would lead real servers around a nat director: `send_redirects` is switched
//! off. IPv6 has no such setting; the data plane must see to it that no IPv6 packet of a service
//! reaches the stack, and real servers should set `accept_redirects=0`.
//!
//! An IPv6 interface that forwards ignores router advertisements, and the first that begins to
//! forward makes the kernel drop every route learnt from one, on all interfaces, unless
//! `accept_ra` is 2 there. So `accept_ra=1` becomes 2 on the interface itself, and on the others
//! for the moment of the change.
//!
//! Must not know: why an interface forwards, services, BPF.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The settings that were changed, with the values to restore. `restore` is explicit: a daemon
/// that leaves its data plane running leaves these too.
#[derive(Debug)]
pub struct Sysctls {
    root: PathBuf,
    changed: Vec<Change>,
}

/// A setting that gets, or got, another value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The setting in sysctl's notation.
    pub key: String,
    /// Its value before.
    pub before: String,
    /// Its value from then on.
    pub set: String,
}

/// What became of a setting that was to be put back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutBack {
    /// It has its old value again.
    Done,
    /// Somebody else gave it this value since; it stays.
    Changed(String),
    /// It does not exist any more.
    Gone,
}

/// A setting that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("set {key}={value}: {source} (try `sysctl -w {key}={value}` as root)")]
pub struct SysctlError {
    /// The setting in sysctl's notation.
    pub key: String,
    /// What it was to become.
    pub value: String,
    /// Why not.
    #[source]
    pub source: io::Error,
}

impl Default for Sysctls {
    fn default() -> Self {
        Self::new()
    }
}

impl Sysctls {
    /// Nothing changed yet. Acts in the network namespace of the calling thread.
    pub fn new() -> Self {
        Self::under("/proc/sys")
    }

    fn under(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into(), changed: Vec::new() }
    }

    /// Sets what forwarding between these interfaces needs. All are tried; the errors are of those
    /// that failed. A family that the kernel does not have is skipped.
    pub fn prepare<'a>(
        &mut self,
        interfaces: impl IntoIterator<Item = &'a str>,
    ) -> Vec<SysctlError> {
        let mut errors = Vec::new();
        let mut note = |result: Result<(), SysctlError>| errors.extend(result.err());
        note(self.set("ipv4", "all", "send_redirects", "0"));
        for interface in interfaces {
            note(self.set("ipv4", interface, "send_redirects", "0"));
            note(self.set("ipv4", interface, "forwarding", "1"));
            note(self.forward_ipv6(interface));
        }
        errors
    }

    /// Puts back what [`Self::prepare`] changed, newest first, except what somebody else has
    /// changed since.
    pub fn restore(&mut self) -> Vec<SysctlError> {
        let mut errors = Vec::new();
        while let Some(change) = self.changed.pop() {
            let Change { key, before, set } = &change;
            match self.put_back(&change) {
                Ok(PutBack::Done) => {
                    tracing::info!(key, from = set, to = before, "sysctl restored");
                }
                Ok(PutBack::Changed(now)) => {
                    tracing::info!(key, now, "sysctl was changed by others; left as it is");
                }
                Ok(PutBack::Gone) => tracing::debug!(key, "sysctl is gone"),
                Err(error) => errors.push(error),
            }
        }
        errors
    }

    /// What giving `key` this value changes: nothing when it has it already.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn look(&self, key: &str, value: &str) -> Result<Option<Change>, SysctlError> {
        let before = self.read(key).map_err(|source| SysctlError {
            key: key.into(),
            value: value.into(),
            source,
        })?;
        let change = Change { key: key.into(), before, set: value.into() };
        Ok((change.before != change.set).then_some(change))
    }

    /// Carries out a change, which is then for the caller to remember.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn make(&self, change: &Change) -> Result<(), SysctlError> {
        self.write(&change.key, &change.set)
    }

    /// Gives a setting its old value, unless somebody else has changed it since.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn put_back(&self, change: &Change) -> Result<PutBack, SysctlError> {
        match self.read(&change.key) {
            Ok(now) if now == change.set => {
                self.write(&change.key, &change.before).map(|()| PutBack::Done)
            }
            Ok(now) => Ok(PutBack::Changed(now)),
            Err(_) => Ok(PutBack::Gone),
        }
    }

    /// The value of one setting of every interface, `all` and `default` included.
    ///
    /// # Errors
    /// When they cannot be listed. An interface that goes meanwhile is left out.
    pub fn of_interfaces(&self, family: &str, name: &str) -> io::Result<BTreeMap<String, String>> {
        let mut values = BTreeMap::new();
        for entry in std::fs::read_dir(self.root.join("net").join(family).join("conf"))? {
            let Ok(interface) = entry?.file_name().into_string() else { continue };
            if let Ok(value) = self.read(&key(family, &interface, name)) {
                values.insert(interface, value);
            }
        }
        Ok(values)
    }

    fn forward_ipv6(&mut self, interface: &str) -> Result<(), SysctlError> {
        let key = key("ipv6", interface, "forwarding");
        match self.read(&key) {
            Ok(now) if now == "0" => {}
            _ => return Ok(()),
        }
        if self.read(&self::key("ipv6", interface, "accept_ra")).is_ok_and(|value| value == "1") {
            self.set("ipv6", interface, "accept_ra", "2")?;
        }
        let guarded = self.guard_learnt_routes(interface);
        let result = self.set("ipv6", interface, "forwarding", "1");
        for key in guarded {
            self.write(&key, "1")?;
        }
        result
    }

    /// Raises `accept_ra` from 1 to 2 on all other interfaces and names the keys to lower again.
    fn guard_learnt_routes(&self, except: &str) -> Vec<String> {
        let directory = self.root.join("net/ipv6/conf");
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
        names
            .filter(|name| !["all", "default", except].contains(&name.as_str()))
            .map(|name| key("ipv6", &name, "accept_ra"))
            .filter(|key| self.read(key).is_ok_and(|value| value == "1"))
            .filter(|key| self.write(key, "2").is_ok())
            .collect()
    }

    fn set(
        &mut self,
        family: &str,
        interface: &str,
        name: &str,
        value: &str,
    ) -> Result<(), SysctlError> {
        let key = key(family, interface, name);
        let failed = |source| SysctlError { key: key.clone(), value: value.into(), source };
        let before = match self.read(&key) {
            Ok(before) => before,
            Err(error) if error.kind() == io::ErrorKind::NotFound && !self.has(family) => {
                return Ok(());
            }
            Err(error) => return Err(failed(error)),
        };
        if before == value {
            return Ok(());
        }
        let change = Change { key, before, set: value.into() };
        self.make(&change)?;
        let Change { key, before, .. } = &change;
        tracing::info!(key, from = before, to = value, "sysctl set");
        self.changed.push(change);
        Ok(())
    }

    fn has(&self, family: &str) -> bool {
        self.root.join("net").join(family).exists()
    }

    fn read(&self, key: &str) -> io::Result<String> {
        Ok(std::fs::read_to_string(path(&self.root, key))?.trim().to_owned())
    }

    fn write(&self, key: &str, value: &str) -> Result<(), SysctlError> {
        std::fs::write(path(&self.root, key), value).map_err(|source| SysctlError {
            key: key.into(),
            value: value.into(),
            source,
        })
    }
}

/// The key in sysctl's own notation, where a dot in an interface's name is written as a slash.
pub fn key(family: &str, interface: &str, name: &str) -> String {
    format!("net.{family}.conf.{}.{name}", interface.replace('.', "/"))
}

/// The value of a setting by its key, in the calling thread's network namespace.
///
/// # Errors
/// When there is no such setting.
pub fn read(key: &str) -> io::Result<String> {
    Sysctls::new().read(key)
}

/// sysctl(8)'s rule: dots separate, slashes stand for dots.
fn path(root: &Path, key: &str) -> PathBuf {
    let swapped: String = key
        .chars()
        .map(|letter| match letter {
            '.' => '/',
            '/' => '.',
            other => other,
        })
        .collect();
    root.join(swapped)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A copy of the settings of two interfaces in a directory of its own.
    struct Fake(PathBuf);

    impl Fake {
        fn new(name: &str) -> Self {
            let root =
                std::env::temp_dir().join(format!("lb-sysctl-{}-{name}", std::process::id()));
            let fake = Self(root);
            for interface in ["all", "eth0", "eth0.100", "eth1"] {
                fake.put("ipv4", interface, "send_redirects", "1");
                fake.put("ipv4", interface, "forwarding", "0");
                fake.put("ipv6", interface, "forwarding", "0");
                fake.put("ipv6", interface, "accept_ra", "1");
            }
            fake
        }

        fn path(&self, family: &str, interface: &str, name: &str) -> PathBuf {
            self.0.join("net").join(family).join("conf").join(interface).join(name)
        }

        fn put(&self, family: &str, interface: &str, name: &str, value: &str) {
            let path = self.path(family, interface, name);
            std::fs::create_dir_all(path.parent().expect("a parent")).expect("a directory");
            std::fs::write(path, format!("{value}\n")).expect("written");
        }

        fn get(&self, family: &str, interface: &str, name: &str) -> String {
            let text = std::fs::read_to_string(self.path(family, interface, name));
            text.expect("it exists").trim().to_owned()
        }
    }

    impl Drop for Fake {
        fn drop(&mut self) {
            let _gone = std::fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn forwarding_is_set_and_everything_is_restored() {
        let host = Fake::new("restore");
        let mut sysctls = Sysctls::under(&host.0);
        assert!(sysctls.prepare(["eth0", "eth0.100"]).is_empty());
        for interface in ["eth0", "eth0.100"] {
            assert_eq!(host.get("ipv4", interface, "forwarding"), "1");
            assert_eq!(host.get("ipv4", interface, "send_redirects"), "0");
            assert_eq!(host.get("ipv6", interface, "forwarding"), "1");
            assert_eq!(host.get("ipv6", interface, "accept_ra"), "2");
        }
        assert_eq!(host.get("ipv4", "all", "send_redirects"), "0");
        assert_eq!(host.get("ipv6", "eth1", "accept_ra"), "1");
        assert!(sysctls.restore().is_empty());
        for interface in ["eth0", "eth0.100"] {
            assert_eq!(host.get("ipv4", interface, "forwarding"), "0");
            assert_eq!(host.get("ipv4", interface, "send_redirects"), "1");
            assert_eq!(host.get("ipv6", interface, "forwarding"), "0");
            assert_eq!(host.get("ipv6", interface, "accept_ra"), "1");
        }
    }

    #[test]
    fn what_others_changed_since_stays() {
        let host = Fake::new("others");
        host.put("ipv4", "all", "send_redirects", "0");
        let mut sysctls = Sysctls::under(&host.0);
        assert!(sysctls.prepare(["eth0"]).is_empty());
        host.put("ipv4", "eth0", "forwarding", "2");
        assert!(sysctls.restore().is_empty());
        assert_eq!(host.get("ipv4", "eth0", "forwarding"), "2");
        assert_eq!(host.get("ipv4", "all", "send_redirects"), "0");
    }

    #[test]
    fn a_missing_interface_is_named_with_the_command_to_try() {
        let host = Fake::new("missing");
        let errors = Sysctls::under(&host.0).prepare(["eth7"]);
        let text = errors.first().expect("an error").to_string();
        assert!(text.contains("sysctl -w net.ipv4.conf.eth7."), "{text}");
    }

    #[test]
    fn a_host_without_ipv6_is_served() {
        let host = Fake::new("v4only");
        std::fs::remove_dir_all(host.0.join("net/ipv6")).expect("removed");
        assert!(Sysctls::under(&host.0).prepare(["eth0"]).is_empty());
    }
}
