//! What a real server needs for `dr` and `tunnel`, done and undone: the virtual address on lo, ARP
//! and reverse-path settings, decapsulation.
//!
//! [`setup`] remembers each step before it takes it, so that a failure, or the next [`undo`], finds
//! everything that may have been done; both say each thing that they change in one line. What was
//! there before stays, and what others have changed since is left alone.
//!
//! Must not know: the director, its configuration, arguments.

mod settings;
mod state;
mod unpacking;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;

use anyhow::{Context, anyhow, ensure};

use crate::netlink::sysctl::{PutBack, Sysctls};
use crate::netlink::{Address, Link, Netlink, Ownership};

pub use state::Method;
use state::{State, Store, Vip};

/// What to set up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// The virtual address.
    pub vip: IpAddr,
    /// How its packets come.
    pub method: Method,
    /// Interfaces by which tunnelled packets come; none means those that have an address.
    pub interfaces: Vec<String>,
}

/// Where lines for the operator go.
pub type Say<'a> = &'a mut dyn FnMut(&str) -> anyhow::Result<()>;

/// Makes this host a real server of a virtual address. Done twice it mends what is missing.
///
/// # Errors
/// When a step fails; those before it are taken back.
pub async fn setup(directory: &Path, wanted: &Wanted, say: Say<'_>) -> anyhow::Result<()> {
    settings::check_vip(wanted.vip)?;
    let mut host = Host::open(directory, say)?;
    let before = host.state.clone();
    let Err(error) = host.build(wanted).await else { return Ok(()) };
    match host.retreat(&before).await {
        Ok(()) => Err(error.context("nothing is changed")),
        Err(second) => Err(error.context(format!("not all could be taken back ({second:#})"))),
    }
}

/// Puts back what [`setup`] changed for a virtual address and no other needs.
///
/// # Errors
/// When something cannot be put back; it is remembered for the next try.
pub async fn undo(directory: &Path, vip: IpAddr, say: Say<'_>) -> anyhow::Result<()> {
    let mut host = Host::open(directory, say)?;
    let rest = host.state.without(vip);
    // Also what an undo before could not put back.
    if rest != host.state {
        host.retreat(&rest).await?;
        return (host.say)(&format!("{vip}: undone"));
    }
    (host.say)(&format!(
        "{vip}: nothing is remembered of a setup here, so no address, setting or program is changed"
    ))?;
    let links = host.netlink.links().await?;
    let addresses = host.netlink.addresses().await?;
    for at in addresses.iter().filter(|at| at.address == vip) {
        let name = links.get(at.ifindex).map_or("lo", |link| &link.name);
        let prefix = format!("{vip}/{}", at.prefix_len);
        (host.say)(&format!("{prefix} is on {name}: `ip address del {prefix} dev {name}`"))?;
    }
    Ok(())
}

/// This host's network namespace, and what is remembered of it.
struct Host<'a> {
    netlink: Netlink,
    sysctls: Sysctls,
    store: Store,
    state: State,
    changed: bool,
    say: Say<'a>,
}

impl<'a> Host<'a> {
    fn open(directory: &Path, say: Say<'a>) -> anyhow::Result<Self> {
        ensure!(
            nix::unistd::geteuid().is_root(),
            "addresses, kernel settings and programs of this host are changed: run it as root"
        );
        let store = Store::open(directory)?;
        let state = store.load()?;
        let (netlink, sysctls) = (Netlink::open()?, Sysctls::new());
        Ok(Self { netlink, sysctls, store, state, changed: false, say })
    }

    /// Remembers the state as it is now; to be called before the step that it tells of.
    fn remember(&mut self) -> anyhow::Result<()> {
        self.store.save(&self.state)
    }

    fn tell(&mut self, line: &str) -> anyhow::Result<()> {
        self.changed = true;
        (self.say)(line)
    }

    async fn build(&mut self, wanted: &Wanted) -> anyhow::Result<()> {
        let vip = wanted.vip;
        let links = self.netlink.links().await?;
        let addresses = self.netlink.addresses().await?;
        let lo = links.by_name("lo").context("this host has no lo")?;
        ensure!(lo.up, "lo is down: `ip link set lo up` first");
        let present = settings::is_on_loopback(vip, lo.index, &links, &addresses)?;
        let tunnels = match wanted.method {
            Method::Dr => Vec::new(),
            Method::Tunnel => self.ends(wanted, &links, &addresses)?,
        };
        let before = self.state.vips.get(&vip).copied();
        let added = before.is_some_and(|vip| vip.added);
        // A tunnel that becomes dr is a tunnel until it has been taken down.
        let method = before.map_or(wanted.method, |vip| match vip.method {
            Method::Tunnel => Method::Tunnel,
            Method::Dr => wanted.method,
        });
        self.state.vips.insert(vip, Vip { method, added });
        // Settings first: the address must not be spoken for even for a moment.
        if vip.is_ipv4() {
            let addressed = |link: &Link| {
                addresses.iter().any(|at| at.ifindex == link.index && at.address.is_ipv4())
            };
            let bare = tunnels.iter().filter(|link| !addressed(link));
            self.settle(&bare.map(|link| link.name.clone()).collect())?;
        }
        if !tunnels.is_empty() {
            self.decapsulate(&tunnels).await?;
        }
        self.add_address(vip, lo.index, present).await?;
        let mut wanted_state = self.state.clone();
        if let Some(vip) = wanted_state.vips.get_mut(&vip) {
            vip.method = wanted.method;
        }
        self.retreat(&wanted_state.settled()).await?;
        let method = wanted.method.name();
        let known = before.is_some_and(|vip| vip.method == wanted.method);
        let line = match known && !self.changed {
            true => format!("{vip}: was set up for {method} already"),
            false => format!("{vip}: set up for {method}"),
        };
        (self.say)(&line)
    }

    async fn add_address(&mut self, vip: IpAddr, lo: u32, present: bool) -> anyhow::Result<()> {
        let prefix_len = settings::full_length(vip);
        let own = self.state.vips.get(&vip).is_some_and(|vip| vip.added);
        if present {
            if !own {
                (self.say)(&format!("{vip}/{prefix_len} is on lo already; it will stay"))?;
            }
            return self.remember();
        }
        if let Some(vip) = self.state.vips.get_mut(&vip) {
            vip.added = true;
        }
        self.remember()?;
        let address = Address { ifindex: lo, address: vip, prefix_len };
        let ownership = self.netlink.add_silent_address(address).await?;
        ensure!(ownership == Ownership::Ours, "somebody else has just put {vip} on lo");
        self.tell(&format!("{vip}/{prefix_len} added to lo"))
    }

    /// Kernel settings for IPv4; `bare` interfaces have no IPv4 address.
    fn settle(&mut self, bare: &BTreeSet<String>) -> anyhow::Result<()> {
        for (key, value, as_good) in settings::arp() {
            let change = self.sysctls.look(&key, value)?;
            if change.is_some_and(|change| !as_good.contains(&change.before.as_str())) {
                self.set(&key, value)?;
            }
        }
        let filters = self.sysctls.of_interfaces("ipv4", "rp_filter");
        for (key, value) in settings::relaxed(&filters.context("read rp_filter")?, bare) {
            self.set(&key, &value)?;
        }
        Ok(())
    }

    fn set(&mut self, key: &str, value: &str) -> anyhow::Result<()> {
        let Some(change) = self.sysctls.look(key, value)? else { return Ok(()) };
        let line = format!("{key} = {value} (was {})", change.before);
        self.state.sysctls.push(change.clone());
        self.remember()?;
        self.sysctls.make(&change)?;
        self.tell(&line)
    }

    /// Goes from the present state to an earlier or smaller one. All is tried; what fails stays
    /// remembered.
    async fn retreat(&mut self, to: &State) -> anyhow::Result<()> {
        let mut rest = to.clone();
        let mut errors = Vec::new();
        errors.extend(self.stop_unpacking(&mut rest).await.err());
        for (address, vip) in self.state.vips.clone() {
            if !vip.added || to.vips.get(&address).is_some_and(|kept| kept.added) {
                continue;
            }
            if let Err(error) = self.remove_address(address).await {
                rest.vips.insert(address, vip);
                errors.push(error);
            }
        }
        for change in self.state.sysctls.clone().iter().rev() {
            if to.sysctls.contains(change) {
                continue;
            }
            let key = &change.key;
            let line = match self.sysctls.put_back(change) {
                Ok(PutBack::Done) => format!("{key} = {} again", change.before),
                Ok(PutBack::Changed(now)) => {
                    format!("{key} is {now} by somebody else's doing; left as it is")
                }
                Ok(PutBack::Gone) => format!("{key} does not exist any more"),
                Err(error) => {
                    rest.sysctls.insert(0, change.clone());
                    errors.push(error.into());
                    continue;
                }
            };
            self.tell(&line)?;
        }
        self.state = rest;
        self.remember()?;
        match errors.into_iter().reduce(|all, error| anyhow!("{all:#}; {error:#}")) {
            Some(error) => Err(error),
            None => Ok(()),
        }
    }

    async fn remove_address(&mut self, vip: IpAddr) -> anyhow::Result<()> {
        let links = self.netlink.links().await?;
        let lo = links.by_name("lo").context("this host has no lo")?.index;
        let prefix_len = settings::full_length(vip);
        self.netlink.remove_address(Address { ifindex: lo, address: vip, prefix_len }).await?;
        self.tell(&format!("{vip}/{prefix_len} removed from lo"))
    }
}
