//! Two directors beside each other: the lab for what one takes over from the other.
//!
//! ```text
//!   node A --lan0--+        +--lan0-- node B
//!                  + bridge +
//!   client --lan0--+  lan   +--lan0-- rs1..rsN
//! ```
//! Both families everywhere, multicast flooded as by a plain switch. [`Pair::cut`] and its siblings
//! are the accidents: each is done to the bridge, not to a host, so a host sees what it would see.
//!
//! Must not know: who decides which node has an address.

use crate::daemon::Director;
use crate::fabric::{Turn, Wires, equip, prepare};
use crate::frame::{Mac, mac_of};
use crate::labdir::LabDir;
use crate::netns::{Netns, end_processes_in};
use crate::process::run;
use crate::real_server;
use crate::stub::Stub;
use crate::topology::{Family, server_address};
use crate::wait::{eventually, seconds};
use anyhow::{Context, Result, anyhow};
use nix::ifaddrs::getifaddrs;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::Path;
use std::process::Command;

/// Addresses of this lab.
pub mod address {
    /// Node A's own.
    pub const A: [&str; 2] = ["10.0.1.1", "fd00:1::1"];
    /// Node B's own; the higher ones.
    pub const B: [&str; 2] = ["10.0.1.4", "fd00:1::4"];
    /// The client's.
    pub const CLIENT: [&str; 2] = ["10.0.1.2", "fd00:1::2"];
    /// The virtual address that both nodes may have; it is on every server's loopback too.
    pub const VIP: [&str; 2] = ["10.0.1.50", "fd00:1::50"];
    /// A second one.
    pub const OTHER_VIP: [&str; 2] = ["10.0.1.51", "fd00:1::51"];
    /// Ethernet addresses of A, B and the client; link-local addresses follow from them.
    pub const MACS: [&str; 3] = ["02:00:00:00:00:0a", "02:00:00:00:00:0b", "02:00:00:00:00:0c"];
}

/// One of the two directors.
#[derive(Debug)]
pub struct Node {
    /// `A` or `B`.
    pub name: &'static str,
    /// Its namespace.
    pub ns: Netns,
    /// Its folder.
    pub dir: LabDir,
    /// Its own addresses, IPv4 and IPv6.
    pub addresses: [&'static str; 2],
    /// The bridge port that it is plugged into.
    pub port: &'static str,
}

impl Director for Node {
    fn ns(&self) -> &Netns {
        &self.ns
    }

    fn dir(&self) -> &LabDir {
        &self.dir
    }
}

impl Node {
    /// Whether an interface of the node has this address.
    ///
    /// # Errors
    /// When the interfaces cannot be listed.
    pub fn holds(&self, address: &str) -> Result<bool> {
        let wanted: IpAddr = address.parse().with_context(|| format!("{address:?}"))?;
        Ok(self.all_addresses()?.contains(&wanted))
    }

    /// Every address of its interfaces.
    ///
    /// # Errors
    /// When they cannot be listed.
    pub fn all_addresses(&self) -> Result<Vec<IpAddr>> {
        self.ns.enter(|| {
            let found = getifaddrs().context("list the addresses")?.filter_map(|interface| {
                let address = interface.address?;
                let v4 = address.as_sockaddr_in().map(|address| IpAddr::V4(address.ip()));
                v4.or_else(|| Some(IpAddr::V6(address.as_sockaddr_in6()?.ip())))
            });
            Ok(found.collect())
        })
    }

    /// The address that its adverts come from: its own in IPv4, link-local in IPv6.
    ///
    /// # Errors
    /// When its Ethernet address cannot be read.
    pub fn advert_source(&self, family: Family) -> Result<IpAddr> {
        Ok(match family {
            Family::V4 => self.addresses[0].parse()?,
            Family::V6 => link_local(mac_of(&self.ns, INTERFACE)?).into(),
        })
    }

    /// Every process in its namespace with its command line.
    ///
    /// # Errors
    /// When the namespace cannot be asked.
    pub fn processes(&self) -> Result<Vec<(u32, String)>> {
        let pids = run(Command::new("ip").args(["netns", "pids", self.ns.name()]))?;
        let pids = pids.lines().filter_map(|line| line.trim().parse().ok());
        let line = |pid: u32| {
            let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            (pid, String::from_utf8_lossy(&bytes).replace('\0', " "))
        };
        Ok(pids.map(line).collect())
    }

    /// Those of its processes that run the program at `path`.
    ///
    /// # Errors
    /// As [`Self::processes`].
    pub fn pids_of(&self, path: &Path) -> Result<Vec<u32>> {
        let pids = self.processes()?.into_iter().map(|(pid, _)| pid);
        let runs =
            |pid: &u32| fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == path);
        Ok(pids.filter(runs).collect())
    }

    /// Takes an address away, whoever gave it; nothing happens when it is not there.
    ///
    /// # Errors
    /// When it is there and cannot be removed.
    pub fn remove(&self, address: &str) -> Result<()> {
        self.ns.run(&format!("ip address flush dev {INTERFACE} to {address}")).map(drop)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // What outlives its parent on purpose, such as a speaker, is nobody's child.
        end_processes_in(self.ns.name());
    }
}

/// The lab; everything in it is removed when it is dropped.
pub struct Pair {
    /// The director with the lower addresses.
    pub a: Node,
    /// The other.
    pub b: Node,
    /// Who asks for the virtual addresses.
    pub client: Netns,
    /// The real servers; `servers[0]` is rs1.
    pub servers: Vec<Netns>,
    dir: LabDir,
    _stubs: Vec<Stub>,
    pub(crate) fabric: Netns,
    _turn: Turn,
}

impl Pair {
    /// Builds a pair with real servers of the virtual addresses (dr). One lab at a time in a
    /// process: the others wait.
    ///
    /// # Errors
    /// Without root, or when a part cannot be made.
    pub fn new(servers: usize) -> Result<Self> {
        let turn = Turn::take();
        let fabric = Netns::create("fabric")?;
        let client = Netns::create("client")?;
        let (a, b) = (node("A", address::A, A_PORT)?, node("B", address::B, B_PORT)?);
        let servers =
            (1..=servers).map(|n| Netns::create(&format!("rs{n}"))).collect::<Result<Vec<_>>>()?;
        prepare(&fabric, [&client, &a.ns, &b.ns].into_iter().chain(&servers))?;
        let [a_mac, b_mac, client_mac] = address::MACS;
        let mut wires = Wires::new(&fabric);
        wires.bridge("lan");
        wires.plug_as(A_PORT, "lan", &a.ns, INTERFACE, a_mac);
        wires.plug_as(B_PORT, "lan", &b.ns, INTERFACE, b_mac);
        wires.plug_as(CLIENT_PORT, "lan", &client, INTERFACE, client_mac);
        for (n, server) in (1..).zip(&servers) {
            wires.plug(&format!("s{n}-lan"), "lan", server, INTERFACE);
        }
        wires.connect()?;
        let stubs = fabric.enter(|| [A_PORT, B_PORT].map(Stub::attach).into_iter().collect())?;
        let dir = LabDir::create()?;
        let pair = Self { a, b, client, servers, dir, _stubs: stubs, fabric, _turn: turn };
        pair.configure()?;
        Ok(pair)
    }

    /// Both nodes.
    pub fn nodes(&self) -> [&Node; 2] {
        [&self.a, &self.b]
    }

    /// The lab's own folder, beside those of the nodes.
    pub fn dir(&self) -> &LabDir {
        &self.dir
    }

    /// Server `n`, counted from 1 as in its name.
    ///
    /// # Errors
    /// When the lab has fewer.
    pub fn server(&self, n: usize) -> Result<&Netns> {
        self.servers.get(n.wrapping_sub(1)).ok_or_else(|| anyhow!("the lab has no rs{n}"))
    }

    /// The switch carries nothing to or from the node any more, and its link stays up: a silent
    /// death, or a switch that lost its mind.
    ///
    /// # Errors
    /// When the bridge refuses.
    pub fn cut(&self, node: &Node) -> Result<()> {
        self.bridge_port(node, "state 0")
    }

    /// The cable is pulled: the node loses its carrier.
    ///
    /// # Errors
    /// When the port refuses.
    pub fn unplug(&self, node: &Node) -> Result<()> {
        self.fabric.ip(&format!("link set {} down\n", node.port))
    }

    /// Undoes [`Self::cut`] and [`Self::unplug`].
    ///
    /// # Errors
    /// When the port or the bridge refuses.
    pub fn mend(&self, node: &Node) -> Result<()> {
        self.fabric.ip(&format!("link set {} up\n", node.port))?;
        // The bridge has no use for a port until its carrier is back.
        eventually(seconds(2), &format!("the port of {} forwards", node.name), || {
            self.bridge_port(node, "state 3").map(|()| true)
        })
    }

    /// The switch forgets how to flood multicast between the nodes; all else passes. ARP is
    /// broadcast and goes on, neighbour discovery does not.
    ///
    /// # Errors
    /// When the bridge refuses.
    pub fn drop_multicast(&self) -> Result<()> {
        self.nodes().into_iter().try_for_each(|node| self.bridge_port(node, "mcast_flood off"))
    }

    /// Undoes [`Self::drop_multicast`].
    ///
    /// # Errors
    /// When the bridge refuses.
    pub fn pass_multicast(&self) -> Result<()> {
        self.nodes().into_iter().try_for_each(|node| self.bridge_port(node, "mcast_flood on"))
    }

    /// Gives the client `count` addresses of its own more, from 10.0.1.100 on.
    ///
    /// # Errors
    /// When there are too many, or one is refused.
    pub fn give_client_addresses(&self, count: u8) -> Result<Vec<IpAddr>> {
        let last = FIRST_SOURCE.checked_add(count).context("too many addresses")?;
        let addresses = (FIRST_SOURCE..last).map(|n| IpAddr::V4(Ipv4Addr::new(10, 0, 1, n)));
        let addresses: Vec<IpAddr> = addresses.collect();
        let lines = addresses.iter().map(|address| format!("addr add {address}/24 dev lan0\n"));
        self.client.ip(&lines.collect::<String>())?;
        Ok(addresses)
    }

    /// Prints the logs of both nodes, for a scenario that failed.
    pub fn print_logs(&self) {
        for node in self.nodes() {
            eprintln!("=== node {}", node.name);
            node.dir.print_logs();
        }
    }

    fn bridge_port(&self, node: &Node, setting: &str) -> Result<()> {
        self.fabric.run(&format!("bridge link set dev {} {setting}", node.port)).map(drop)
    }

    fn configure(&self) -> Result<()> {
        for node in self.nodes() {
            equip(&node.ns, INTERFACE, node.addresses)?;
        }
        equip(&self.client, INTERFACE, address::CLIENT)?;
        self.client.sysctl(&[("net/ipv4/ip_local_port_range", "1024 65000")])?;
        for (n, server) in (1..).zip(&self.servers) {
            let [v4, v6] = [Family::V4, Family::V6].map(|family| server_address(family, n));
            equip(server, INTERFACE, [&v4, &v6])?;
            for vip in address::VIP {
                real_server::setup(&self.dir, server, vip, "dr")?;
            }
        }
        Ok(())
    }
}

/// Runs `body` in a fresh pair and removes it, whatever happens.
///
/// # Panics
/// When the pair cannot be built or `body` fails; the logs are printed before.
pub fn scenario(servers: usize, body: impl FnOnce(&Pair) -> Result<()>) {
    let pair = match Pair::new(servers) {
        Ok(pair) => pair,
        Err(error) => panic!("the lab could not be built: {error:#}"),
    };
    let outcome = catch_unwind(AssertUnwindSafe(|| body(&pair)));
    if !matches!(outcome, Ok(Ok(()))) {
        pair.print_logs();
    }
    drop(pair);
    match outcome {
        Ok(Ok(())) => {}
        Ok(Err(error)) => panic!("{error:#}"),
        Err(cause) => resume_unwind(cause),
    }
}

fn node(name: &'static str, addresses: [&'static str; 2], port: &'static str) -> Result<Node> {
    let ns = Netns::create(&format!("node{name}"))?;
    Ok(Node { name, ns, dir: LabDir::create()?, addresses, port })
}

/// The link-local address that an interface with this Ethernet address gives itself (RFC 4291).
pub fn link_local(mac: Mac) -> Ipv6Addr {
    let word = |high: u8, low: u8| u16::from_be_bytes([high, low]);
    let [m0, m1, m2, m3, m4, m5] = mac;
    Ipv6Addr::new(0xfe80, 0, 0, 0, word(m0 ^ 2, m1), word(m2, 0xff), word(0xfe, m3), word(m4, m5))
}

/// The interface of every host.
pub const INTERFACE: &str = "lan0";
const A_PORT: &str = "a-lan";
const B_PORT: &str = "b-lan";
pub(crate) const CLIENT_PORT: &str = "c-lan";
const FIRST_SOURCE: u8 = 100;
