//! Decapsulation: where the program has to be, putting it there and taking it off.
//!
//! Must not know: addresses on interfaces, kernel settings.

use std::collections::BTreeSet;
use std::net::IpAddr;

use anyhow::{Context, bail, ensure};
use lb_common::decap::Count;

use super::state::{Attached, Decapsulation, State};
use super::{Host, Wanted, settings};
use crate::dataplane::bpf::Decapsulator;
use crate::netlink::{Address, Link, LinkTable, NetlinkError, XdpMode};

impl Host<'_> {
    /// The interfaces by which tunnelled packets come: those named now, else those of an earlier
    /// setup, else those with an address.
    pub(super) fn ends(
        &self,
        wanted: &Wanted,
        links: &LinkTable,
        addresses: &[Address],
    ) -> anyhow::Result<Vec<Link>> {
        let before = self.state.decapsulation.iter().flat_map(|d| &d.interfaces);
        let mut names: BTreeSet<String> = wanted.interfaces.iter().cloned().collect();
        if names.is_empty() {
            names.extend(before.map(|attached| attached.name.clone()));
            names.retain(|name| links.by_name(name).is_some());
        }
        if names.is_empty() {
            names = settings::interfaces(links, addresses);
        }
        ensure!(
            !names.is_empty(),
            "no Ethernet interface is up and has an address: name the one that the director's \
             packets come by with --interface"
        );
        let named = |name: &String| {
            let present = || links.iter().map(|link| link.name.as_str()).collect::<Vec<_>>();
            let missing =
                || format!("there is no interface {name}: this host has {}", present().join(", "));
            links.by_name(name).cloned().with_context(missing)
        };
        names.iter().map(named).collect()
    }

    /// Puts the decapsulation program on these interfaces, with every address that needs it.
    pub(super) async fn decapsulate(&mut self, ends: &[Link]) -> anyhow::Result<()> {
        let mut program = match self.running(ends).await? {
            Some(program) => program,
            None => Decapsulator::load()?,
        };
        let tunnelled: Vec<IpAddr> = self.state.tunnelled().collect();
        for vip in tunnelled {
            if program.add(vip)? {
                self.tell(&format!("packets tunnelled to {vip} are unpacked"))?;
            }
        }
        let id = program.id();
        if self.state.decapsulation.as_ref().is_none_or(|before| before.program != id) {
            let fresh = Decapsulation { program: id, interfaces: Vec::new() };
            self.state.decapsulation = Some(fresh);
        }
        for end in ends {
            self.attach(end, &program).await?;
        }
        Ok(())
    }

    /// Takes the program off interfaces, and addresses out of it, that `rest` does not have.
    pub(super) async fn stop_unpacking(&mut self, rest: &mut State) -> anyhow::Result<()> {
        let Some(from) = self.state.decapsulation.clone() else { return Ok(()) };
        let Some(mut program) = Decapsulator::find(from.program)? else { return Ok(()) };
        let kept = rest.decapsulation.clone().filter(|to| to.program == from.program);
        if kept.is_some() {
            let tunnelled: Vec<IpAddr> = self.state.tunnelled().collect();
            for vip in tunnelled.iter().filter(|vip| rest.tunnelled().all(|kept| kept != **vip)) {
                program.remove(*vip)?;
                self.tell(&format!("packets tunnelled to {vip} are no longer unpacked"))?;
            }
        }
        let kept = kept.map_or_else(Vec::new, |to| to.interfaces);
        for end in from.interfaces.iter().filter(|end| !kept.contains(end)) {
            let name = &end.name;
            // An interface that is gone has taken the program with it.
            let there = self.netlink.xdp_program(end.ifindex).await.unwrap_or(None);
            if there != Some(from.program) {
                continue;
            }
            let detached = self.netlink.detach_xdp(end.ifindex, program.program(), end.mode).await;
            if let Err(error) = detached {
                rest.decapsulation = Some(from.clone());
                return Err(error).with_context(|| format!("stop decapsulation on {name}"));
            }
            self.tell(&format!("decapsulation ended on {name}"))?;
        }
        if rest.decapsulation.is_none() {
            let (unpacked, dropped) =
                (program.count(Count::Unpacked)?, program.count(Count::Congested)?);
            let dropped = match dropped {
                0 => String::new(),
                dropped => format!(", {dropped} dropped for congestion marks (RFC 6040)"),
            };
            self.tell(&format!("{unpacked} packets were unpacked{dropped}"))?;
        }
        Ok(())
    }

    /// Our program where it runs already: as remembered, or found on an interface.
    async fn running(&self, ends: &[Link]) -> anyhow::Result<Option<Decapsulator>> {
        let remembered = self.state.decapsulation.as_ref().map(|d| d.program);
        let mut ids: Vec<u32> = remembered.into_iter().collect();
        for end in ends {
            ids.extend(self.netlink.xdp_program(end.index).await?);
        }
        for id in ids {
            if let Some(program) = Decapsulator::find(id)? {
                return Ok(Some(program));
            }
        }
        Ok(None)
    }

    async fn attach(&mut self, end: &Link, program: &Decapsulator) -> anyhow::Result<()> {
        let name = &end.name;
        let there = self.netlink.xdp_program(end.index).await?;
        let known = |d: &Decapsulation| d.interfaces.iter().any(|i| i.ifindex == end.index);
        if there == Some(program.id()) && self.state.decapsulation.as_ref().is_some_and(known) {
            return Ok(());
        }
        ensure!(
            there.is_none_or(|id| id == program.id()),
            "{name} has another XDP program (`ip link show {name}` names it), and an interface can \
             have one: take it off, or unpack by a device of the kernel (docs/real-servers.md)"
        );
        for mode in [XdpMode::Native, XdpMode::Generic] {
            self.remember_attached(end, mode)?;
            let result = match there {
                Some(_) => Ok(()),
                None => self.netlink.attach_xdp(end.index, program.program(), mode).await,
            };
            match result {
                Ok(()) => {
                    let mode = mode.name();
                    return self.tell(&format!("decapsulation runs on {name} ({mode} XDP)"));
                }
                Err(error) if mode == XdpMode::Native && is_mode_refused(&error) => {}
                Err(error) => {
                    return Err(error).with_context(|| format!("put decapsulation on {name}"));
                }
            }
        }
        bail!("{name} takes no XDP program")
    }

    fn remember_attached(&mut self, end: &Link, mode: XdpMode) -> anyhow::Result<()> {
        if let Some(decapsulation) = &mut self.state.decapsulation {
            decapsulation.interfaces.retain(|i| i.name != end.name && i.ifindex != end.index);
            let attached = Attached { name: end.name.clone(), ifindex: end.index, mode };
            decapsulation.interfaces.push(attached);
        }
        self.remember()
    }
}

/// Whether the stack may take the program where the driver did not.
fn is_mode_refused(error: &NetlinkError) -> bool {
    matches!(
        error.errno(),
        Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ERANGE | libc::E2BIG | libc::ENOSPC)
    )
}
