//! What every topology is made of: bridges, wires, hosts that behave like hosts.
//!
//! The bridges live in a namespace of their own. [`prepare`] comes first, [`Wires`] connects,
//! [`equip`] gives addresses. What veth needs beside a real NIC is done here: transmit checksumming
//! off, GRO on, bridge netfilter off.
//!
//! Must not know: who stands where.

use crate::netns::Netns;
use anyhow::{Context, Result};
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The right to be the one lab of this process; the others wait.
pub(crate) struct Turn(
    #[expect(dead_code, reason = "held, never looked at")] MutexGuard<'static, ()>,
);

impl Turn {
    /// Waits for it.
    pub(crate) fn take() -> Self {
        static TURN: Mutex<()> = Mutex::new(());
        Self(TURN.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Settings of the bridges' namespace and of every host's, before they are connected.
///
/// # Errors
/// When a sysctl cannot be written.
pub(crate) fn prepare<'a>(fabric: &Netns, hosts: impl Iterator<Item = &'a Netns>) -> Result<()> {
    fabric.sysctl(&BRIDGE_SYSCTLS).context("switch bridge netfilter off")?;
    fabric.sysctl(&SYSCTLS)?;
    for host in hosts {
        host.sysctl(&SYSCTLS)?;
    }
    Ok(())
}

/// Addresses on an interface, and what a veth needs to behave like a NIC.
pub(crate) fn equip(ns: &Netns, interface: &str, [v4, v6]: [&str; 2]) -> Result<()> {
    ns.ip(&format!("addr add {v4}/24 dev {interface}\naddr add {v6}/64 dev {interface} nodad\n"))?;
    ns.run(&format!("ethtool -K {interface} tx off gro on"))?;
    Ok(())
}

pub(crate) fn default_route(ns: &Netns, [via4, via6]: [&str; 2]) -> Result<()> {
    ns.ip(&format!("route add default via {via4}\nroute add default via {via6}\n"))
}

/// Collects the links of the fabric, to make them with one `ip -batch`.
pub(crate) struct Wires<'a> {
    fabric: &'a Netns,
    script: String,
    ends: Vec<(&'a Netns, &'static str)>,
}

impl<'a> Wires<'a> {
    pub(crate) fn new(fabric: &'a Netns) -> Self {
        Self { fabric, script: String::new(), ends: Vec::new() }
    }

    pub(crate) fn bridge(&mut self, name: &str) {
        let _ = writeln!(self.script, "link add {name} type bridge mcast_snooping 0");
        let _ = writeln!(self.script, "link set {name} up");
    }

    /// A veth from bridge port `port` to `interface` in `ns`; returns the port's name.
    pub(crate) fn plug(
        &mut self,
        port: &str,
        bridge: &str,
        ns: &'a Netns,
        interface: &'static str,
    ) -> String {
        self.plug_with(port, bridge, ns, interface, "")
    }

    /// The same with an Ethernet address that is known before.
    pub(crate) fn plug_as(
        &mut self,
        port: &str,
        bridge: &str,
        ns: &'a Netns,
        interface: &'static str,
        mac: &str,
    ) -> String {
        self.plug_with(port, bridge, ns, interface, &format!(" address {mac}"))
    }

    fn plug_with(
        &mut self,
        port: &str,
        bridge: &str,
        ns: &'a Netns,
        interface: &'static str,
        more: &str,
    ) -> String {
        let peer = ns.name();
        let _ = writeln!(
            self.script,
            "link add {port} type veth peer name {interface}{more} netns {peer}\n\
             link set {port} master {bridge} up"
        );
        self.ends.push((ns, interface));
        port.to_string()
    }

    pub(crate) fn connect(&self) -> Result<()> {
        self.fabric.ip(&self.script)?;
        for (ns, interface) in &self.ends {
            ns.ip(&format!("link set {interface} up\n"))?;
        }
        Ok(())
    }
}

/// A bridge would hand frames to netfilter, which drops some before the director sees them.
const BRIDGE_SYSCTLS: [(&str, &str); 3] = [
    ("net/bridge/bridge-nf-call-iptables", "0"),
    ("net/bridge/bridge-nf-call-ip6tables", "0"),
    ("net/bridge/bridge-nf-call-arptables", "0"),
];

/// No host may shortcut the director after a redirect, and addresses work at once.
const SYSCTLS: [(&str, &str); 10] = [
    ("net/ipv4/conf/all/rp_filter", "0"),
    ("net/ipv4/conf/default/rp_filter", "0"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("net/ipv4/conf/default/accept_redirects", "0"),
    ("net/ipv4/conf/all/send_redirects", "0"),
    ("net/ipv4/conf/default/send_redirects", "0"),
    ("net/ipv6/conf/all/accept_redirects", "0"),
    ("net/ipv6/conf/default/accept_redirects", "0"),
    ("net/ipv6/conf/default/accept_ra", "0"),
    ("net/ipv6/conf/default/accept_dad", "0"),
];
