//! The lab itself: a client, a director and real servers on two bridges.
//!
//! ```text
//!   client --wan0--+ bridge wan +--wan0-- director --lan0--+ bridge lan +--lan0-- rs1..rsN
//!   client --lan0------------------------------------------+ (Shape::OneLan, Shape::Both)
//! ```
//! [`Shape`] says on which side the client stands, or that a router stands between it and both. Both families are configured everywhere. The
//! bridges live in a namespace of their own (`fabric`). What veth needs beside a real NIC is done
//! here: transmit checksumming off, GRO on, a stub XDP program on bridge ports that face the
//! director, bridge netfilter off. Forwarding sysctls are left to the product.
//!
//! Must not know: the product's configuration.

use crate::daemon::Director;
use crate::fabric::{Turn, Wires, default_route, equip, prepare};
use crate::labdir::LabDir;
use crate::netns::Netns;
use crate::real_server;
use crate::stub::Stub;
use anyhow::{Result, anyhow};
use std::net::IpAddr;

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
    /// The client is behind a router, which has a leg on either side (see [`Lab::router`]).
    Routed {
        /// Number of real servers.
        servers: usize,
    },
}

impl Shape {
    fn servers(self) -> usize {
        match self {
            Self::OneLan { servers }
            | Self::TwoArms { servers }
            | Self::Both { servers }
            | Self::Routed { servers } => servers,
        }
    }

    fn has_wan(self) -> bool {
        !matches!(self, Self::OneLan { .. })
    }

    fn client_on_lan(self) -> bool {
        matches!(self, Self::OneLan { .. } | Self::Both { .. })
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
    /// The client behind the router.
    pub const CLIENT_FAR: [&str; 2] = ["10.0.3.2", "fd00:3::2"];
    /// The router's address towards that client.
    pub const ROUTER_FAR: [&str; 2] = ["10.0.3.1", "fd00:3::1"];
    /// The router's address towards `wan0`.
    pub const ROUTER_WAN: [&str; 2] = ["10.0.2.3", "fd00:2::3"];
    /// The router's address on the LAN.
    pub const ROUTER_LAN: [&str; 2] = ["10.0.1.3", "fd00:1::3"];
    /// Networks that the client behind the router is in.
    pub const FAR: [&str; 2] = ["10.0.3.0/24", "fd00:3::/64"];
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
    /// Between the client and all others, with the legs `far0`, `wan0` and `lan0`
    /// ([`Shape::Routed`]).
    pub router: Option<Netns>,
    /// The real servers; `servers[0]` is rs1.
    pub servers: Vec<Netns>,
    /// Its folder.
    pub dir: LabDir,
    /// How it is built.
    pub shape: Shape,
    _stubs: Vec<Stub>,
    fabric: Netns,
    _turn: Turn,
}

impl Lab {
    /// Builds a lab. One at a time in a process: the others wait.
    ///
    /// # Errors
    /// Without root, or when a part cannot be made.
    pub fn new(shape: Shape) -> Result<Self> {
        let turn = Turn::take();
        let fabric = Netns::create("fabric")?;
        let client = Netns::create("client")?;
        let director = Netns::create("director")?;
        let router = match shape {
            Shape::Routed { .. } => Some(Netns::create("router")?),
            _ => None,
        };
        let servers = (1..=shape.servers())
            .map(|n| Netns::create(&format!("rs{n}")))
            .collect::<Result<Vec<_>>>()?;
        prepare(&fabric, [&client, &director].into_iter().chain(&router).chain(&servers))?;
        let mut wires = Wires::new(&fabric);
        let mut stubs = Vec::new();
        if shape.has_wan() {
            wires.bridge("wan");
            match &router {
                Some(router) => wires.plug("r-wan", "wan", router, "wan0"),
                None => wires.plug("c-wan", "wan", &client, "wan0"),
            };
            stubs.push(wires.plug("d-wan", "wan", &director, "wan0"));
        }
        wires.bridge("lan");
        if shape.client_on_lan() {
            wires.plug("c-lan", "lan", &client, "lan0");
        }
        if let Some(router) = &router {
            wires.bridge("far");
            wires.plug("c-far", "far", &client, "far0");
            wires.plug("r-far", "far", router, "far0");
            wires.plug("r-lan", "lan", router, "lan0");
        }
        stubs.push(wires.plug("d-lan", "lan", &director, "lan0"));
        for (n, server) in servers.iter().enumerate() {
            wires.plug(&format!("s{}-lan", n + 1), "lan", server, "lan0");
        }
        wires.connect()?;
        let stubs = fabric.enter(|| stubs.iter().map(|port| Stub::attach(port)).collect())?;
        let dir = LabDir::create()?;
        let lab = Self {
            client,
            director,
            router,
            servers,
            dir,
            shape,
            _stubs: stubs,
            fabric,
            _turn: turn,
        };
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

    /// A router that knows everybody; the director and the servers reach the client through it.
    fn configure_router(&self, router: &Netns) -> Result<()> {
        use address::{CLIENT_FAR, FAR, ROUTER_FAR, ROUTER_LAN, ROUTER_WAN};
        equip(&self.client, "far0", CLIENT_FAR)?;
        default_route(&self.client, ROUTER_FAR)?;
        equip(router, "far0", ROUTER_FAR)?;
        equip(router, "wan0", ROUTER_WAN)?;
        equip(router, "lan0", ROUTER_LAN)?;
        router.sysctl(&[("net/ipv4/ip_forward", "1"), ("net/ipv6/conf/all/forwarding", "1")])?;
        let [far4, far6] = FAR;
        let [wan4, wan6] = ROUTER_WAN;
        self.director.ip(&format!("route add {far4} via {wan4}\nroute add {far6} via {wan6}\n"))
    }

    /// Dr behind the router: the servers reach the client by it and not by the director.
    ///
    /// # Errors
    /// When a route cannot be added.
    pub fn route_replies_through_router(&self) -> Result<()> {
        let ([far4, far6], [via4, via6]) = (address::FAR, address::ROUTER_LAN);
        for server in &self.servers {
            server.ip(&format!(
                "route replace {far4} via {via4} dev lan0\n\
                 route replace {far6} via {via6} dev lan0\n"
            ))?;
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

    /// Makes the router's way to the client as narrow as `mtu`, without a link whose ends would
    /// tell of it: packets that do not fit are answered as RFC 1191 and 8201 have it.
    ///
    /// # Errors
    /// When there is no router, or a route cannot be added.
    pub fn narrow_the_way_to_the_client(&self, mtu: u32) -> Result<()> {
        let router = self.router.as_ref().ok_or_else(|| anyhow!("the lab has no router"))?;
        let [client4, client6] = address::CLIENT_FAR;
        router.ip(&format!(
            "route replace {client4}/32 dev far0 mtu lock {mtu}\n\
             route replace {client6}/128 dev far0 mtu lock {mtu}\n"
        ))
    }

    /// Prints the log of every daemon that ran here, for a scenario that failed.
    pub fn print_logs(&self) {
        self.dir.print_logs();
    }

    fn configure(&self) -> Result<()> {
        let [client_lan, client_wan] = [address::CLIENT_LAN, address::CLIENT_WAN];
        let [director_lan, director_wan] = [address::DIRECTOR_LAN, address::DIRECTOR_WAN];
        if self.shape.has_wan() {
            if self.router.is_none() {
                equip(&self.client, "wan0", client_wan)?;
            }
            equip(&self.director, "wan0", director_wan)?;
        }
        equip(&self.director, "lan0", director_lan)?;
        if let Some(router) = &self.router {
            self.configure_router(router)?;
        }
        if self.shape.client_on_lan() {
            equip(&self.client, "lan0", client_lan)?;
        } else if self.router.is_none() {
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

impl Director for Lab {
    fn ns(&self) -> &Netns {
        &self.director
    }

    fn dir(&self) -> &LabDir {
        &self.dir
    }
}

/// `10.0.0.1:80` or `[fd00::1]:80`.
pub fn endpoint(address: &str, port: u16) -> String {
    match address.parse::<IpAddr>() {
        Ok(IpAddr::V6(_)) => format!("[{address}]:{port}"),
        _ => format!("{address}:{port}"),
    }
}

/// What an outer IPv6 header with its option takes, rounded up.
const TUNNEL_ROOM: u32 = 60;
