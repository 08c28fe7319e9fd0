//! What `lb real-server setup` changed, so that `undo` can put it back.
//!
//! One file for each network namespace, named by the namespace's cookie, which the kernel gives
//! out once; a file of another boot is of no use any more. Whoever holds a [`Store`] is alone.
//!
//! Must not know: how anything is changed.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::dataplane::bpf::network_namespace;
use crate::netlink::XdpMode;
use crate::netlink::sysctl::Change;

/// How the director forwards to this real server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Method {
    /// Direct routing: the packet as it is, to this host's MAC address.
    Dr,
    /// IP in IP.
    Tunnel,
}

impl Method {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Dr => "dr",
            Self::Tunnel => "tunnel",
        }
    }
}

/// Everything that was changed in this network namespace and is still so.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// The boot in which this holds.
    pub(super) boot: String,
    /// Virtual addresses that are set up.
    pub(super) vips: BTreeMap<IpAddr, Vip>,
    /// Kernel settings, in the order in which they were changed.
    pub(super) sysctls: Vec<Change>,
    /// Where tunnelled packets are unpacked.
    pub(super) decapsulation: Option<Decapsulation>,
}

/// A virtual address that is set up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Vip {
    /// What for.
    pub(super) method: Method,
    /// Whether the address was added; else it was on lo before.
    pub(super) added: bool,
}

/// The decapsulation program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Decapsulation {
    /// The kernel's id of it.
    pub(super) program: u32,
    /// Interfaces that it was put on.
    pub(super) interfaces: Vec<Attached>,
}

/// An interface with the program on it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Attached {
    /// Its name at that time.
    pub(super) name: String,
    /// Its index.
    pub(super) ifindex: u32,
    /// Where the program runs.
    pub(super) mode: XdpMode,
}

impl State {
    /// What is left when one address goes.
    pub(super) fn without(&self, vip: IpAddr) -> Self {
        let mut rest = self.clone();
        rest.vips.remove(&vip);
        rest.settled()
    }

    /// Without what no address needs: the settings are for IPv4 addresses, the program is for
    /// tunnels.
    pub(super) fn settled(mut self) -> Self {
        if !self.vips.keys().any(IpAddr::is_ipv4) {
            self.sysctls.clear();
        }
        if self.tunnelled().next().is_none() {
            self.decapsulation = None;
        }
        self
    }

    /// Addresses whose packets arrive tunnelled.
    pub(super) fn tunnelled(&self) -> impl Iterator<Item = IpAddr> {
        let tunnels = self.vips.iter().filter(|(_, vip)| vip.method == Method::Tunnel);
        tunnels.map(|(address, _)| *address)
    }

    /// Whether there is nothing to remember.
    fn is_empty(&self) -> bool {
        self.vips.is_empty() && self.sysctls.is_empty() && self.decapsulation.is_none()
    }
}

/// The state's file, locked.
#[derive(Debug)]
pub(super) struct Store {
    path: PathBuf,
    boot: String,
    _lock: Flock<File>,
}

impl Store {
    /// Makes the directory if need be and waits until no other command uses it.
    pub(super) fn open(directory: &Path) -> anyhow::Result<Self> {
        fs::create_dir_all(directory)
            .with_context(|| format!("make the state directory {}", directory.display()))?;
        let file = File::open(directory)
            .with_context(|| format!("open the state directory {}", directory.display()))?;
        let lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, error)| error)
            .with_context(|| format!("lock {}", directory.display()))?;
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .context("read the id of this boot")?;
        let namespace =
            network_namespace().context("tell this network namespace (Linux 5.14 or newer)")?;
        let path = directory.join(format!("netns-{namespace}.json"));
        Ok(Self { path, boot: boot.trim().to_owned(), _lock: lock })
    }

    /// What is remembered.
    pub(super) fn load(&self) -> anyhow::Result<State> {
        let fresh = State { boot: self.boot.clone(), ..State::default() };
        let text = match fs::read(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(fresh),
            Err(error) => {
                return Err(error).with_context(|| format!("read {}", self.path.display()));
            }
        };
        match serde_json::from_slice::<State>(&text) {
            Ok(state) if state.boot == self.boot => Ok(state),
            Ok(_) => Ok(fresh),
            Err(error) => bail!(
                "{} is not what this version of lb writes ({error}): undo with the version that \
                 wrote it, or remove the file and put things back by hand; it lists them",
                self.path.display()
            ),
        }
    }

    /// Remembers this, in one piece; nothing to remember is no file.
    pub(super) fn save(&self, state: &State) -> anyhow::Result<()> {
        let write = || -> io::Result<()> {
            if state.is_empty() {
                return match fs::remove_file(&self.path) {
                    Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
                    _ => Ok(()),
                };
            }
            let new = self.path.with_extension("new");
            fs::write(&new, serde_json::to_vec_pretty(state)?)?;
            fs::rename(&new, &self.path)
        };
        write().with_context(|| format!("write {}", self.path.display()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state() -> State {
        let change = Change { key: "k".into(), before: "0".into(), set: "1".into() };
        let vip = |method| Vip { method, added: true };
        State {
            boot: "b".into(),
            vips: [
                ("192.0.2.1".parse().expect("an address"), vip(Method::Dr)),
                ("192.0.2.2".parse().expect("an address"), vip(Method::Tunnel)),
                ("2001:db8::1".parse().expect("an address"), vip(Method::Tunnel)),
            ]
            .into(),
            sysctls: vec![change],
            decapsulation: Some(Decapsulation {
                program: 7,
                interfaces: vec![Attached {
                    name: "eth0".into(),
                    ifindex: 2,
                    mode: XdpMode::Native,
                }],
            }),
        }
    }

    fn without(state: &State, vips: &[&str]) -> State {
        let gone = |state: State, vip: &&str| state.without(vip.parse().expect("an address"));
        vips.iter().fold(state.clone(), gone)
    }

    #[test]
    fn settings_go_with_the_last_ipv4_address_and_the_program_with_the_last_tunnel() {
        let all = state();
        for (gone, sysctls, program) in [
            (&["192.0.2.1"][..], true, true),
            (&["192.0.2.1", "192.0.2.2"], false, true),
            (&["192.0.2.2", "2001:db8::1"], true, false),
            (&["192.0.2.1", "192.0.2.2", "2001:db8::1"], false, false),
            (&["192.0.2.9"], true, true),
        ] {
            let rest = without(&all, gone);
            assert_eq!(!rest.sysctls.is_empty(), sysctls, "{gone:?}");
            assert_eq!(rest.decapsulation.is_some(), program, "{gone:?}");
        }
        assert!(without(&all, &["192.0.2.1", "192.0.2.2", "2001:db8::1"]).is_empty());
        // What an undo could not put back is of no address any more.
        let left = State { vips: BTreeMap::new(), ..all };
        assert!(without(&left, &["192.0.2.1"]).is_empty());
    }

    #[test]
    fn what_is_saved_is_loaded_and_another_boots_file_is_not_believed() {
        let directory = std::env::temp_dir().join(format!("lb-rs-state-{}", std::process::id()));
        let store = Store::open(&directory).expect("a store");
        let fresh = store.load().expect("nothing yet");
        assert!(fresh.is_empty());
        let saved = State { boot: fresh.boot.clone(), ..state() };
        store.save(&saved).expect("saved");
        assert_eq!(store.load().expect("loaded"), saved);
        store.save(&state()).expect("saved");
        assert_eq!(store.load().expect("another boot's"), fresh);
        fs::write(&store.path, "{}").expect("written");
        let error = store.load().expect_err("not ours").to_string();
        assert!(error.contains("put things back by hand"), "{error}");
        store.save(&fresh).expect("removed");
        assert!(!store.path.exists());
        fs::remove_dir_all(&directory).expect("removed");
    }
}
