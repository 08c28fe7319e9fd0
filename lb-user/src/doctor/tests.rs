//! Each finding from a fault planted in the facts of a healthy host.
//!
//! Must not know: the host that the tests run on.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use lb_common::abi::ABI_VERSION;

use crate::config;
use crate::controller::preflight;
use crate::doctor::facts::{Clock, Daemon, Facts, Interface, Kernel, Offload, Pins, Way};
use crate::doctor::gather::{parse_channels, parse_offloads, waits};
use crate::doctor::{Finding, Severity, judge};
use crate::model::{Director, Protocol};
use crate::netlink::{Address, Link, LinkKind, XdpMode};

const FILE: &str = "
dataplane: {interfaces: [eth0]}
virtual_services:
  - name: web
    listen: 192.0.2.10:80/tcp
    scheduler: rr
    forwarding: nat
    real_servers: [{address: 10.0.0.1}]
  - name: dns
    listen: 192.0.2.10:53/udp
    scheduler: rr
    forwarding: tunnel
    real_servers: [{address: 10.0.0.2}]
vrrp:
  instances:
    - {name: VI_1, interface: eth0, virtual_router_id: 51, addresses: [192.0.2.10/24]}
";

fn director() -> Director {
    config::load("f", FILE, "host").expect("a good file").director
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn link(index: u32, name: &str, kind: LinkKind) -> Link {
    let mac = Some([2, 0, 0, 0, 0, 1]);
    Link { index, name: name.into(), mac, up: true, running: true, mtu: 1520, kind }
}

fn way() -> Way {
    let next_hop = ip("10.0.0.254");
    Way { interface: Some("eth1".into()), next_hop, mtu: Some(1520), trouble: None }
}

/// A host on which all is well.
fn facts() -> Facts {
    let settings = [
        ("net.ipv4.conf.all.rp_filter", "0"),
        ("net.ipv4.conf.eth0.rp_filter", "2"),
        ("net.ipv4.conf.all.send_redirects", "0"),
        ("net.ipv4.conf.eth0.send_redirects", "0"),
        ("net.ipv4.conf.eth0.forwarding", "1"),
        ("net.ipv4.conf.all.arp_ignore", "0"),
        ("net.ipv4.conf.eth0.arp_ignore", "0"),
        ("net.core.bpf_jit_enable", "1"),
        ("kernel.unprivileged_bpf_disabled", "2"),
        ("net.ipv4.neigh.default.gc_thresh2", "512"),
        ("net.netfilter.nf_conntrack_count", "10"),
        ("net.netfilter.nf_conntrack_max", "100"),
    ];
    let offload = |on| Offload { on, fixed: false };
    let eth0 = Interface {
        xdp: Some(XdpMode::Native),
        driver: "ixgbe".into(),
        offloads: [("large-receive-offload", false), ("rx-vlan-offload", true)]
            .map(|(name, on)| (name.to_owned(), offload(on)))
            .into(),
        queues: Some((4, 64)),
    };
    Facts {
        daemon: Some(Daemon {
            pid: Some(77),
            version: "0.1.0".into(),
            files: Some(1024),
            vrrp: [("VI_1".to_owned(), "master".to_owned())].into(),
            connections: (10, 1000),
            ..Daemon::default()
        }),
        kernel: Kernel { release: "6.12.0-1-amd64".into(), btf: true, cpus: 4 },
        interfaces: [("eth0".to_owned(), eth0)].into(),
        links: [link(2, "eth0", LinkKind::Plain), link(3, "eth1", LinkKind::Plain)]
            .into_iter()
            .collect(),
        addresses: vec![Address { ifindex: 2, address: ip("192.0.2.10"), prefix_len: 24 }],
        settings: settings.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        ways: [(ip("10.0.0.1"), way()), (ip("10.0.0.2"), way())].into(),
        clock: Clock { now: Duration::from_secs(1_800_000_000), synchronised: Some(true) },
        pins: Pins { versions: vec![format!("v{ABI_VERSION}")], in_use: true },
        listeners: vec![(Protocol::Tcp, "0.0.0.0:22".parse().expect("a socket"))],
        ..Facts::default()
    }
}

/// Judges a host with one fault: exactly one finding is not right, and it is this one.
#[track_caller]
fn finds(plant: impl FnOnce(&mut Facts), severity: Severity, check: &str, command: &str) {
    finds_with(&director(), plant, severity, check, command);
}

#[track_caller]
fn finds_with(
    director: &Director,
    plant: impl FnOnce(&mut Facts),
    severity: Severity,
    check: &str,
    command: &str,
) {
    let mut facts = facts();
    plant(&mut facts);
    let mut findings = judge(director, &facts);
    findings.retain(|finding| finding.severity > Severity::Ok);
    let [Finding { severity: found, check: what, command: mends, .. }] = findings.as_slice() else {
        panic!("{findings:#?}");
    };
    assert_eq!((*found, what.as_str(), mends.as_str()), (severity, check, command));
}

fn set<'a>(key: &'a str, value: &'a str) -> impl FnOnce(&mut Facts) + 'a {
    move |facts| drop(facts.settings.insert(key.to_owned(), value.to_owned()))
}

#[test]
fn a_healthy_director_has_nothing_to_mend() {
    let findings = judge(&director(), &facts());
    assert!(findings.iter().all(|finding| finding.severity == Severity::Ok), "{findings:#?}");
    let checks: std::collections::BTreeSet<_> = findings.iter().map(|f| f.check.as_str()).collect();
    let expected = [
        "bpf_jit",
        "clock",
        "connections",
        "conntrack",
        "daemon",
        "firewall",
        "gc_thresh",
        "kernel",
        "local_traffic",
        "next_hop",
        "nofile",
        "offload",
        "pins",
        "preflight",
        "queues",
        "rp_filter",
        "tunnel_mtu",
        "xdp",
    ];
    assert!(checks.iter().copied().eq(expected), "{checks:?}");
}

#[test]
fn the_host_is_judged() {
    let (warn, error) = (Severity::Warn, Severity::Error);
    let refuse = preflight::Finding {
        severity: preflight::Severity::Refuse,
        message: "eth0 is down: `ip link set eth0 up`, or else".into(),
    };
    finds(|f| f.preflight.push(refuse), error, "preflight", "ip link set eth0 up");
    finds(|f| f.kernel.release = "5.10.0-8".into(), warn, "kernel", "");
    let daemon =
        |change: fn(&mut Daemon)| move |f: &mut Facts| change(f.daemon.as_mut().expect("it"));
    finds(daemon(|d| d.warnings.push("the maps are not current".into())), warn, "daemon", "");
    let more = "prlimit --pid 77 --nofile=256:256";
    finds(daemon(|d| d.files = Some(255)), error, "nofile", more);
    finds(daemon(|d| d.connections.0 = 800), warn, "connections", "");
    let ntp = "timedatectl set-ntp true";
    finds(|f| f.clock.synchronised = Some(false), warn, "clock", ntp);
    finds(|f| f.clock.now = Duration::from_secs(60), error, "clock", ntp);
    let detach = "lb detach --pin-path /sys/fs/bpf/lb";
    finds(|f| f.pins.in_use = false, warn, "pins", detach);
    finds(|f| f.pins.versions.push("v0".into()), error, "pins", detach);
}

#[test]
fn interfaces_are_judged() {
    let (warn, error) = (Severity::Warn, Severity::Error);
    let eth0 = |change: fn(&mut Interface)| {
        move |f: &mut Facts| change(f.interfaces.get_mut("eth0").expect("eth0"))
    };
    finds(eth0(|i| i.xdp = None), error, "xdp", "lb reload");
    let smaller = "ip link set dev eth0 mtu 1500";
    finds(eth0(|i| i.xdp = Some(XdpMode::Generic)), warn, "xdp", smaller);
    let foreign = |f: &mut Facts| {
        f.pins = Pins::default();
        f.daemon = None;
        f.addresses.clear();
    };
    finds(foreign, error, "xdp", "ip link set dev eth0 xdp off");
    finds(eth0(|i| i.queues = Some((1, 2))), warn, "queues", "ethtool -L eth0 combined 2");
    let on = |name: &'static str, fixed| {
        move |f: &mut Facts| {
            let eth0 = f.interfaces.get_mut("eth0").expect("eth0");
            eth0.offloads.insert(name.to_owned(), Offload { on: true, fixed });
        }
    };
    let lro = "ethtool -K eth0 lro off";
    finds(on("large-receive-offload", false), warn, "offload", lro);
    finds(on("large-receive-offload", true), warn, "offload", "");
    finds(on("rx-gro-hw", false), warn, "offload", "ethtool -K eth0 rx-gro-hw off");
    // Tags that are taken off matter only where there are VLANs.
    let vlan = |f: &mut Facts| {
        let vlan = link(4, "eth0.7", LinkKind::Vlan { parent: Some(2), id: 7 });
        f.links = f.links.iter().cloned().chain([vlan]).collect();
    };
    finds(vlan, warn, "offload", "ethtool -K eth0 rxvlan off");
}

#[test]
fn settings_are_judged() {
    let (warn, error) = (Severity::Warn, Severity::Error);
    let loose = "sysctl -w net.ipv4.conf.eth0.rp_filter=2";
    let strict = |f: &mut Facts| {
        set("net.ipv4.conf.eth0.rp_filter", "0")(f);
        set("net.ipv4.conf.all.rp_filter", "1")(f);
    };
    finds(strict, warn, "rp_filter", loose);
    finds(set("net.ipv4.conf.eth0.rp_filter", "1"), warn, "rp_filter", loose);
    let forward = "sysctl -w net.ipv4.conf.eth0.forwarding=1";
    finds(set("net.ipv4.conf.eth0.forwarding", "0"), error, "forwarding", forward);
    let redirects =
        "sysctl -w net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.eth0.send_redirects=0";
    finds(set("net.ipv4.conf.eth0.send_redirects", "1"), warn, "send_redirects", redirects);
    let jit = "sysctl -w net.core.bpf_jit_enable=1";
    finds(set("net.core.bpf_jit_enable", "0"), error, "bpf_jit", jit);
    let users = "sysctl -w kernel.unprivileged_bpf_disabled=2";
    finds(set("kernel.unprivileged_bpf_disabled", "0"), warn, "unprivileged_bpf", users);
    let tracked = "sysctl -w net.netfilter.nf_conntrack_max=200";
    finds(set("net.netfilter.nf_conntrack_count", "80"), warn, "conntrack", tracked);
    let neighbours = "sysctl -w net.ipv4.neigh.default.gc_thresh2=2 \
                      net.ipv4.neigh.default.gc_thresh3=4";
    finds(set("net.ipv4.neigh.default.gc_thresh2", "1"), warn, "gc_thresh", neighbours);
}

#[test]
fn two_interfaces_in_one_network_are_found() {
    let text = FILE.replace("[eth0]}", "[eth0, eth1]}");
    let director = config::load("f", &text, "host").expect("a good file").director;
    let both = |f: &mut Facts| {
        f.addresses.push(Address { ifindex: 3, address: ip("192.0.2.11"), prefix_len: 24 });
        set("net.ipv4.conf.eth1.arp_ignore", "0")(f);
    };
    let command = "sysctl -w net.ipv4.conf.all.arp_ignore=1 net.ipv4.conf.all.arp_announce=2";
    finds_with(&director, both, Severity::Warn, "arp", command);
}

#[test]
fn the_ways_of_packets_are_judged() {
    let (warn, error) = (Severity::Warn, Severity::Error);
    let trouble = |f: &mut Facts| {
        f.ways.get_mut(&ip("10.0.0.1")).expect("it").trouble = Some("no answer".into());
    };
    finds(trouble, error, "next_hop", "ip neigh del 10.0.0.254 dev eth1");
    let mtu =
        |mtu| move |f: &mut Facts| f.ways.get_mut(&ip("10.0.0.2")).expect("it").mtu = Some(mtu);
    let larger = "ip link set dev eth1 mtu 1520";
    finds(mtu(1519), warn, "tunnel_mtu", larger);
    finds(mtu(595), error, "tunnel_mtu", larger);
    // TCP alone is helped by its MSS.
    let text = FILE.replace("192.0.2.10:53/udp", "192.0.2.10:53/tcp");
    let tcp = config::load("f", &text, "host").expect("a good file").director;
    let mut lowered = facts();
    mtu(1500)(&mut lowered);
    assert!(judge(&tcp, &lowered).iter().all(|f| f.severity == Severity::Ok));
    let elsewhere = |f: &mut Facts| {
        f.daemon.as_mut().expect("it").vrrp.insert("VI_1".into(), "backup".into());
    };
    finds(elsewhere, error, "virtual_address", "ip addr del 192.0.2.10/24 dev eth0");
    let twice = |f: &mut Facts| {
        f.addresses.push(Address { ifindex: 3, address: ip("192.0.2.10"), prefix_len: 24 });
    };
    let text = FILE.replace("interfaces: [eth0]}", "interfaces: [eth0], mode: auto}");
    let director = config::load("f", &text, "host").expect("a good file").director;
    finds_with(&director, twice, warn, "virtual_address", "");
    let socket = |text: &str| -> SocketAddr { text.parse().expect("a socket") };
    let own = socket("192.0.2.10:80");
    finds(move |f| f.listeners.push((Protocol::Tcp, own)), warn, "shadowed_socket", "");
    let mapped = socket("[::ffff:192.0.2.10]:53");
    finds(move |f| f.listeners.push((Protocol::Udp, mapped)), warn, "shadowed_socket", "");
    let rule = |line: &str| {
        let line = line.to_owned();
        move |f: &mut Facts| f.filters.push(line)
    };
    finds(rule("rule 7 of chain input drops it"), error, "firewall", "");
    finds(rule("perhaps rule 7 of chain input"), warn, "firewall", "");
}

#[test]
fn the_worst_comes_first() {
    let mut facts = facts();
    facts.clock.synchronised = Some(false);
    set("net.core.bpf_jit_enable", "0")(&mut facts);
    let found: Vec<_> = judge(&director(), &facts).into_iter().map(|f| f.severity).collect();
    assert_eq!(found[..3], [Severity::Error, Severity::Warn, Severity::Ok]);
}

#[test]
fn what_ethtool_prints_is_read() {
    let offloads = parse_offloads(
        "Features for eth0:\nlarge-receive-offload: off [fixed]\n\ttx-scatter-gather: on\n\
         rx-vlan-offload: on [fixed]\nrx-gro-hw: off [requested on]\n",
    );
    let is = |name: &str| offloads.get(name).map(|o| (o.on, o.fixed));
    assert_eq!(is("large-receive-offload"), Some((false, true)));
    assert_eq!(is("tx-scatter-gather"), Some((true, false)));
    assert_eq!(is("rx-vlan-offload"), Some((true, true)));
    assert_eq!(is("rx-gro-hw"), Some((false, false)));
    assert_eq!(is("Features for eth0"), None);
    let channels = |most: &str, now: &str| {
        format!(
            "Channel parameters for eth0:\nPre-set maximums:\n{most}\
             Current hardware settings:\n{now}"
        )
    };
    let combined = channels("RX:\t\tn/a\nTX:\tn/a\nCombined:\t8\n", "RX:\t\tn/a\nCombined:\t2\n");
    assert_eq!(parse_channels(&combined), Some((2, 8)));
    let apart =
        channels("RX:\t\t4\nTX:\t\t4\nCombined:\t0\n", "RX:\t\t1\nTX:\t\t1\nCombined:\t0\n");
    assert_eq!(parse_channels(&apart), Some((1, 4)));
    assert_eq!(parse_channels("netlink error: Operation not supported\n"), None);
}

#[test]
fn waiting_sockets_are_read() {
    let line = "   0: 0100007F:1F90 00000000:0000 0A 00000000:00000000 00:00000000 00000000 0";
    assert_eq!(waits(line, "0A"), Some("127.0.0.1:8080".parse().expect("a socket")));
    assert_eq!(waits(line, "07"), None);
    let line = "   1: 00000000000000000000000001000000:0035 0:0 07 0:0 00:0 0 0 0";
    assert_eq!(waits(line, "07"), Some("[::1]:53".parse().expect("a socket")));
    assert_eq!(waits("   1: zz", "07"), None);
    assert_eq!(waits("", "07"), None);
}
