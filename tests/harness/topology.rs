//! The lab itself: a client, a director and real servers on two bridges.
//!
//! ```text
//!   client --wan0--+ bridge wan +--wan0-- director --lan0--+ bridge lan +--lan0-- rs1..rsN
//!   client --lan0------------------------------------------+ (Shape::OneLan, Shape::Both)
//! ```
//! [`Shape`] says on which side the client stands. Both families are configured everywhere. The
//! bridges live in a namespace of their own (`fabric`). What veth needs beside a real NIC is done
//! here: transmit checksumming off, GRO on, a stub XDP program on bridge ports that face the
//! director, bridge netfilter off. Forwarding sysctls are left to the product.
//!
//! Must not know: the product's configuration.

use crate::labdir::LabDir;
use crate::netns::Netns;
use crate::real_server;
use crate::stub::Stub;
use anyhow::{Context, Result, anyhow};
use std::fmt::Write;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Where the client stands, and how many real servers there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// One LAN for everybody: dr, and nat with one arm. The director has `lan0` only.
    OneLan {
        /// Number of real servers.
        servers: usize,
    },
    /// The client is behind the director's `wan0`, the servers behind `lan0`: nat.
    TwoArms {
        /// Number of real servers.
        servers: usize,
    },
    /// The client has a leg on either side: nat through `wan0` and dr through `lan0` in one lab.
    Both {
        /// Number of real servers.
        servers: usize,
    },
}

impl Shape {
    fn servers(self) -> usize {
        match self {
            Self::OneLan { servers } | Self::TwoArms { servers } | Self::Both { servers } => {
                servers
            }
        }
    }

    fn has_wan(self) -> bool {
        !matches!(self, Self::OneLan { .. })
    }

    fn client_on_lan(self) -> bool {
        !matches!(self, Self::TwoArms { .. })
    }
}

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// The address of server `n` (from 1) on the LAN.
pub fn server_address(family: Family, n: usize) -> String {
    match family {
        Family::V4 => format!("10.0.1.{}", 10 + n),
        Family::V6 => format!("fd00:1::{}", 10 + n),
    }
}

/// Addresses of the lab.
pub mod address {
    /// The client behind `wan0`.
    pub const CLIENT_WAN: [&str; 2] = ["10.0.2.2", "fd00:2::2"];
    /// The director's own address on `wan0`.
    pub const DIRECTOR_WAN: [&str; 2] = ["10.0.2.1", "fd00:2::1"];
    /// The client's address on the LAN.
    pub const CLIENT_LAN: [&str; 2] = ["10.0.1.2", "fd00:1::2"];
    /// The director's own address on `lan0`.
    pub const DIRECTOR_LAN: [&str; 2] = ["10.0.1.1", "fd00:1::1"];
    /// The VIP that clients behind `wan0` use: nat.
    pub const VIP_WAN: [&str; 2] = ["10.0.2.15", "fd00:2::15"];
    /// The VIP on the LAN: dr. It is on every server's loopback.
    pub const VIP_LAN: [&str; 2] = ["10.0.1.50", "fd00:1::50"];
    /// A VIP on the LAN for tunnels; servers have it after [`super::Lab::end_tunnels_at_servers`].
    pub const VIP_TUNNEL: [&str; 2] = ["10.0.1.70", "fd00:1::70"];
    /// A VIP on the LAN for nat with one arm; no server has it.
    pub const VIP_ONE_ARM: [&str; 2] = ["10.0.1.60", "fd00:1::60"];
}

/// A lab; everything in it is removed when it is dropped.
pub struct Lab {
    /// Where requests come from.
    pub client: Netns,
    /// Where `lb` runs.
    pub director: Netns,
    /// The real servers; `servers[0]` is rs1.
    pub servers: Vec<Netns>,
    /// Its folder.
    pub dir: LabDir,
    /// How it is built.
    pub shape: Shape,
    _stubs: Vec<Stub>,
    fabric: Netns,
    _turn: MutexGuard<'static, ()>,
}

impl Lab {
    /// Builds a lab. One at a time in a process: the others wait.
    ///
    /// # Errors
    /// Without root, or when a part cannot be made.
    pub fn new(shape: Shape) -> Result<Self> {
        static TURN: Mutex<()> = Mutex::new(());
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        let fabric = Netns::create("fabric")?;
        let client = Netns::create("client")?;
        let director = Netns::create("director")?;
        let servers = (1..=shape.servers())
            .map(|n| Netns::create(&format!("rs{n}")))
            .collect::<Result<Vec<_>>>()?;
        fabric.sysctl(&BRIDGE_SYSCTLS).context("switch bridge netfilter off")?;
        for ns in [&fabric, &client, &director].into_iter().chain(&servers) {
            ns.sysctl(&SYSCTLS)?;
        }
        let mut wires = Wires::new(&fabric);
        let mut stubs = Vec::new();
        if shape.has_wan() {
            wires.bridge("wan");
            wires.plug("c-wan", "wan", &client, "wan0");
            stubs.push(wires.plug("d-wan", "wan", &director, "wan0"));
        }
        wires.bridge("lan");
        if shape.client_on_lan() {
            wires.plug("c-lan", "lan", &client, "lan0");
        }
        stubs.push(wires.plug("d-lan", "lan", &director, "lan0"));
        for (n, server) in servers.iter().enumerate() {
            wires.plug(&format!("s{}-lan", n + 1), "lan", server, "lan0");
        }
        wires.connect()?;
        let stubs = fabric.enter(|| stubs.iter().map(|port| Stub::attach(port)).collect())?;
        let dir = LabDir::create()?;
        let lab =
            Self { client, director, servers, dir, shape, _stubs: stubs, fabric, _turn: turn };
        lab.configure()?;
        Ok(lab)
    }

    /// The interfaces of the director, for `dataplane.interfaces`.
    pub fn director_interfaces(&self) -> Vec<&'static str> {
        if self.shape.has_wan() { vec!["wan0", "lan0"] } else { vec!["lan0"] }
    }

    /// Server `n`, counted from 1 as in its name.
    ///
    /// # Errors
    /// When the lab has fewer.
    pub fn server(&self, n: usize) -> Result<&Netns> {
        self.servers.get(n.wrapping_sub(1)).ok_or_else(|| anyhow!("the lab has no rs{n}"))
    }

    /// Lets the director's kernel route, without any product: the floor that nat is measured by.
    ///
    /// # Errors
    /// When a sysctl cannot be written.
    pub fn forward_in_kernel(&self, on: bool) -> Result<()> {
        let value = if on { "1" } else { "0" };
        self.director
            .sysctl(&[("net/ipv4/ip_forward", value), ("net/ipv6/conf/all/forwarding", value)])
    }

    /// Nat with one arm: the servers reach the client, on their own LAN, through the director.
    ///
    /// # Errors
    /// When a route cannot be added.
    pub fn route_replies_through_director(&self) -> Result<()> {
        let [client4, client6] = address::CLIENT_LAN;
        let [director4, director6] = address::DIRECTOR_LAN;
        for server in &self.servers {
            server.ip(&format!(
                "route replace {client4}/32 via {director4} dev lan0\n\
                 route replace {client6}/128 via {director6} dev lan0\n"
            ))?;
        }
        Ok(())
    }

    /// Makes every server unpack what is tunnelled to [`address::VIP_TUNNEL`].
    ///
    /// # Errors
    /// When `lb real-server setup` fails.
    pub fn end_tunnels_at_servers(&self) -> Result<()> {
        for server in &self.servers {
            for vip in address::VIP_TUNNEL {
                real_server::setup(&self.dir, server, vip, "tunnel")?;
            }
        }
        Ok(())
    }

    /// Makes room for an outer header between the director and the servers; the client's own
    /// interface keeps its MTU, so its packets never need more.
    ///
    /// # Errors
    /// When an interface refuses.
    pub fn widen_lan(&self) -> Result<()> {
        let mtu = 1500 + TUNNEL_ROOM;
        self.fabric.ip(&format!("link set d-lan mtu {mtu}\n"))?;
        self.director.ip(&format!("link set lan0 mtu {mtu}\n"))?;
        for (n, server) in (1..).zip(&self.servers) {
            self.fabric.ip(&format!("link set s{n}-lan mtu {mtu}\n"))?;
            server.ip(&format!("link set lan0 mtu {mtu}\n"))?;
        }
        Ok(())
    }

    /// Prints the log of every daemon that ran here, for a scenario that failed.
    pub fn print_logs(&self) {
        for path in self.logs() {
            let text = std::fs::read_to_string(&path).unwrap_or_default();
            let lines: Vec<&str> = text.lines().collect();
            let hidden = lines.len().saturating_sub(SHOWN_LOG_LINES);
            eprintln!("--- {} ({hidden} lines before)", path.display());
            for line in &lines[hidden..] {
                eprintln!("{line}");
            }
        }
    }

    fn logs(&self) -> Vec<PathBuf> {
        let entries = std::fs::read_dir(self.dir.path()).into_iter().flatten().flatten();
        let mut logs: Vec<PathBuf> = entries
            .map(|entry| entry.path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .collect();
        logs.sort();
        logs
    }

    fn configure(&self) -> Result<()> {
        let [client_lan, client_wan] = [address::CLIENT_LAN, address::CLIENT_WAN];
        let [director_lan, director_wan] = [address::DIRECTOR_LAN, address::DIRECTOR_WAN];
        if self.shape.has_wan() {
            equip(&self.client, "wan0", client_wan)?;
            equip(&self.director, "wan0", director_wan)?;
        }
        equip(&self.director, "lan0", director_lan)?;
        if self.shape.client_on_lan() {
            equip(&self.client, "lan0", client_lan)?;
        } else {
            default_route(&self.client, director_wan)?;
        }
        // Short connections in a loop leave many ports in TIME_WAIT.
        self.client.sysctl(&[("net/ipv4/ip_local_port_range", "1024 65000")])?;
        for (n, server) in self.servers.iter().enumerate() {
            let [v4, v6] = [Family::V4, Family::V6].map(|family| server_address(family, n + 1));
            equip(server, "lan0", [&v4, &v6])?;
            default_route(server, director_lan)?;
            for vip in address::VIP_LAN {
                real_server::setup(&self.dir, server, vip, "dr")?;
            }
        }
        Ok(())
    }
}

/// `10.0.0.1:80` or `[fd00::1]:80`.
pub fn endpoint(address: &str, port: u16) -> String {
    match address.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => format!("[{address}]:{port}"),
        _ => format!("{address}:{port}"),
    }
}

/// Addresses on an interface, and what a veth needs to behave like a NIC.
fn equip(ns: &Netns, interface: &str, [v4, v6]: [&str; 2]) -> Result<()> {
    ns.ip(&format!("addr add {v4}/24 dev {interface}\naddr add {v6}/64 dev {interface} nodad\n"))?;
    ns.run(&format!("ethtool -K {interface} tx off gro on"))?;
    Ok(())
}

fn default_route(ns: &Netns, [via4, via6]: [&str; 2]) -> Result<()> {
    ns.ip(&format!("route add default via {via4}\nroute add default via {via6}\n"))
}

/// Collects the links of the fabric, to make them with one `ip -batch`.
struct Wires<'a> {
    fabric: &'a Netns,
    script: String,
    ends: Vec<(&'a Netns, &'static str)>,
}

impl<'a> Wires<'a> {
    fn new(fabric: &'a Netns) -> Self {
        Self { fabric, script: String::new(), ends: Vec::new() }
    }

    fn bridge(&mut self, name: &str) {
        let _ = writeln!(self.script, "link add {name} type bridge mcast_snooping 0");
        let _ = writeln!(self.script, "link set {name} up");
    }

    /// A veth from bridge port `port` to `interface` in `ns`; returns the port's name.
    fn plug(&mut self, port: &str, bridge: &str, ns: &'a Netns, interface: &'static str) -> String {
        let peer = ns.name();
        let _ = writeln!(
            self.script,
            "link add {port} type veth peer name {interface} netns {peer}\n\
             link set {port} master {bridge} up"
        );
        self.ends.push((ns, interface));
        port.to_string()
    }

    fn connect(&self) -> Result<()> {
        self.fabric.ip(&self.script)?;
        for (ns, interface) in &self.ends {
            ns.ip(&format!("link set {interface} up\n"))?;
        }
        Ok(())
    }
}

const SHOWN_LOG_LINES: usize = 80;

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

/// What an outer IPv6 header with its option takes, rounded up.
const TUNNEL_ROOM: u32 = 60;
