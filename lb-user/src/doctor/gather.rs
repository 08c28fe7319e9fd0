//! Looks at this host. Changes nothing.
//!
//! What cannot be read is left out rather than guessed: a finding needs a fact.
//!
//! Must not know: what the facts mean, how they are shown.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::controller::preflight::{self, Host};
use crate::dataplane::bpf;
use crate::doctor::facts::{Clock, Daemon, Facts, Interface, Kernel, Offload, Pins, Way};
use crate::exec::{Command, RunAs};
use crate::firewall::{self, Packet};
use crate::model::{Director, Protocol, VirtualService, VrrpInstance};
use crate::netlink::{Netlink, NetlinkError, sysctl};

/// Everything about this host that matters to this configuration. Needs a tokio runtime, and root
/// for most of it.
///
/// # Errors
/// When the kernel cannot be asked by netlink.
pub async fn gather(director: &Director, daemon: Option<Daemon>) -> Result<Facts, NetlinkError> {
    let host = Host::examine(director).await?;
    let preflight = preflight::check(director, &host);
    let netlink = Netlink::open()?;
    let mut facts = Facts {
        preflight,
        daemon,
        kernel: kernel(),
        links: host.links,
        addresses: host.addresses,
        neighbours: netlink.neighbours().await?,
        clock: clock().await,
        listeners: listeners(),
        ..Facts::default()
    };
    if let Some(plane) = &director.dataplane {
        let (versions, in_use) = bpf::survey(&plane.pin_path);
        facts.pins = Pins { versions, in_use };
        for name in &plane.interfaces {
            let Some(link) = facts.links.by_name(name) else { continue };
            let xdp = netlink.xdp_mode(link.index).await?;
            let interface = Interface { xdp, ..by_ethtool(name).await };
            facts.interfaces.insert(name.clone(), interface);
        }
    }
    facts.settings = settings(facts.links.iter().map(|link| link.name.as_str()));
    for address in director.virtual_services.iter().flat_map(destinations) {
        if !facts.ways.contains_key(&address) {
            let way = way(&netlink, &facts, address).await?;
            facts.ways.insert(address, way);
        }
    }
    let packets: Vec<Packet> = director.vrrp.instances.iter().flat_map(adverts).collect();
    if !packets.is_empty() {
        facts.filters = firewall::rules(&packets).await;
    }
    Ok(facts)
}

/// Where packets of a service go: its real servers and its sorry server.
pub(super) fn destinations(service: &VirtualService) -> impl Iterator<Item = IpAddr> {
    let servers = service.real_servers.iter().map(|server| server.address);
    servers.chain(service.sorry_server.as_ref().map(|sorry| sorry.address))
}

async fn way(netlink: &Netlink, facts: &Facts, server: IpAddr) -> Result<Way, NetlinkError> {
    let found = netlink.resolve(&facts.links, server).await?;
    let next_hop = found.route.map_or(server, |route| route.neighbour(server));
    let link = found.route.and_then(|route| facts.links.get(route.ifindex));
    let is_known = facts.neighbours.iter().any(|neighbour| {
        neighbour.address == next_hop && link.is_some_and(|link| link.index == neighbour.ifindex)
    });
    let trouble = match found.next_hop {
        // Nobody has asked for it yet: nothing is known against it.
        Err(crate::netlink::Unresolved::NeighbourUnresolved) if !is_known => None,
        other => other.err().map(|why| why.to_string()),
    };
    let mtu = found.route.and_then(|route| route.mtu).or(link.map(|link| link.mtu));
    Ok(Way { interface: link.map(|link| link.name.clone()), next_hop, mtu, trouble })
}

/// The adverts that an instance should hear, as far as they are known without its speaker.
fn adverts(instance: &VrrpInstance) -> Vec<Packet> {
    let interface = &instance.interface;
    let packet = |source, destination| Packet { interface: interface.clone(), source, destination };
    if let Some(unicast) = &instance.unicast {
        return unicast.peers.iter().map(|peer| packet(Some(*peer), unicast.source)).collect();
    }
    let is_v4 = instance.addresses.first().is_some_and(|owned| owned.address.is_ipv4());
    let group = if is_v4 {
        IpAddr::V4(Ipv4Addr::new(224, 0, 0, 18))
    } else {
        IpAddr::V6(Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12))
    };
    vec![packet(None, group)]
}

fn kernel() -> Kernel {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    Kernel {
        release: release.trim().to_owned(),
        btf: Path::new("/sys/kernel/btf/vmlinux").exists(),
        cpus: std::thread::available_parallelism().map_or(1, |cpus| cpus.get() as u64),
    }
}

async fn clock() -> Clock {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let asked = output("timedatectl", &["show", "--property=NTPSynchronized", "--value"]).await;
    let synchronised = match asked.as_deref().map(str::trim) {
        Some("yes") => Some(true),
        Some("no") => Some(false),
        _ => None,
    };
    Clock { now, synchronised }
}

async fn by_ethtool(name: &str) -> Interface {
    let driver = output("ethtool", &["-i", name]).await.unwrap_or_default();
    let offloads = output("ethtool", &["-k", name]).await.unwrap_or_default();
    let channels = output("ethtool", &["-l", name]).await.unwrap_or_default();
    Interface {
        xdp: None,
        driver: driver.lines().find_map(|l| l.strip_prefix("driver: ")).unwrap_or("").to_owned(),
        offloads: parse_offloads(&offloads),
        queues: parse_channels(&channels),
    }
}

/// `name: on [fixed]` lines.
pub(super) fn parse_offloads(text: &str) -> BTreeMap<String, Offload> {
    let pairs = text.lines().filter_map(|line| line.trim().split_once(": "));
    pairs
        .filter_map(|(name, value)| {
            let on = match value.split(' ').next() {
                Some("on") => true,
                Some("off") => false,
                _ => return None,
            };
            Some((name.to_owned(), Offload { on, fixed: value.contains("[fixed]") }))
        })
        .collect()
}

/// Receive queues now and at most: the driver's `RX` and `Combined`, first the most, then now.
pub(super) fn parse_channels(text: &str) -> Option<(u64, u64)> {
    let value = |line: &str| line.split_once(':')?.1.trim().parse::<u64>().ok();
    let lines = |part: &str| -> u64 {
        let of_rx = part.lines().filter(|l| l.starts_with("RX:") || l.starts_with("Combined:"));
        of_rx.filter_map(value).sum()
    };
    let (most, now) = text.split_once("Current hardware settings:")?;
    let (most, now) = (lines(most), lines(now));
    (now > 0).then_some((now, most))
}

/// What a program of the system prints; `None` when it is not there or fails.
async fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let places =
        ["/usr/sbin", "/usr/bin", "/sbin", "/bin"].map(|place| format!("{place}/{program}"));
    let found = places.into_iter().find(|place| Path::new(place).exists())?;
    let words = std::iter::once(found).chain(arguments.iter().map(|word| (*word).to_owned()));
    let command = Command {
        words: words.collect(),
        user: RunAs::User("root".to_owned()),
        environment: Vec::new(),
        timeout: TIMEOUT,
        alone: true,
    };
    let ran = command.run_keeping(MAX_OUTPUT).await;
    ran.end.is_success().then_some(ran.output)
}

const TIMEOUT: Duration = Duration::from_secs(5);
const MAX_OUTPUT: usize = 64 << 10;

/// The settings that are judged, of the host and of these interfaces.
fn settings<'a>(interfaces: impl Iterator<Item = &'a str>) -> BTreeMap<String, String> {
    let host = [
        "kernel.unprivileged_bpf_disabled",
        "net.core.bpf_jit_enable",
        "net.ipv4.neigh.default.gc_thresh2",
        "net.netfilter.nf_conntrack_count",
        "net.netfilter.nf_conntrack_max",
    ];
    let mut keys: Vec<String> = host.map(str::to_owned).to_vec();
    for interface in interfaces.chain(["all"]) {
        let names = ["rp_filter", "arp_ignore", "send_redirects", "forwarding"];
        keys.extend(names.map(|name| sysctl::key("ipv4", interface, name)));
    }
    let read = |key: String| Some((key.clone(), sysctl::read(&key).ok()?));
    keys.into_iter().filter_map(read).collect()
}

/// Local sockets that wait, of this network namespace.
fn listeners() -> Vec<(Protocol, SocketAddr)> {
    let files = [
        ("tcp", Protocol::Tcp, "0A"),
        ("tcp6", Protocol::Tcp, "0A"),
        ("udp", Protocol::Udp, "07"),
        ("udp6", Protocol::Udp, "07"),
    ];
    let mut found = Vec::new();
    for (file, protocol, state) in files {
        let path = format!("/proc/thread-self/net/{file}");
        let text = std::fs::read_to_string(path).unwrap_or_default();
        found.extend(text.lines().skip(1).filter_map(|line| Some((protocol, waits(line, state)?))));
    }
    found
}

/// The local end of a line of /proc/net/tcp if it is in this state. Addresses are words in the
/// host's order, ports are not.
pub(super) fn waits(line: &str, state: &str) -> Option<SocketAddr> {
    let mut words = line.split_whitespace().skip(1);
    let (address, port) = words.next()?.split_once(':')?;
    if words.nth(1)? != state {
        return None;
    }
    let word = |at: usize| u32::from_str_radix(address.get(at * 8..at * 8 + 8)?, 16).ok();
    let octets: Vec<u8> =
        (0..address.len() / 8).filter_map(word).flat_map(u32::to_ne_bytes).collect();
    let ip = match <[u8; 4]>::try_from(octets.as_slice()) {
        Ok(v4) => IpAddr::from(v4),
        Err(_) => IpAddr::from(<[u8; 16]>::try_from(octets.as_slice()).ok()?),
    };
    Some(SocketAddr::new(ip, u16::from_str_radix(port, 16).ok()?))
}

/// The process behind a Unix socket, and how many files it may have.
pub fn process_behind(socket: &Path) -> Option<(i32, Option<u64>)> {
    use nix::sys::socket::{getsockopt, sockopt::PeerCredentials};
    let stream = std::os::unix::net::UnixStream::connect(socket).ok()?;
    let pid = getsockopt(&stream, PeerCredentials).ok()?.pid();
    let limits = std::fs::read_to_string(format!("/proc/{pid}/limits")).unwrap_or_default();
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"));
    Some((pid, line.and_then(|line| line.split_whitespace().next()?.parse().ok())))
}
