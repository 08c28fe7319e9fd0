//! What this host lacks for a configuration, before anything on it is changed.
//!
//! [`Host::examine`] looks, the pure [`check`] compares with what the configuration asks for.
//! `lb check` prints every finding as a warning; `lb run` refuses to start with one that is
//! [`Severity::Refuse`]. Each finding ends with what to do.
//!
//! Must not know: how findings are shown, YAML.

mod commands;
mod vrrp;

use crate::dataplane::bpf::is_on_bpffs;
use crate::logging;
use crate::model::{AttachMode, Dataplane, Director, LogSink, LogTarget, SyslogAddress};
use crate::netlink::{Address, LinkTable, Netlink, NetlinkError};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Severity {
    /// It cannot work.
    Refuse,
    /// It works, but perhaps not as expected.
    Warn,
}

/// One thing that this host lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What, where and what to do.
    pub message: String,
}

/// What was found on this host.
#[derive(Clone, Debug)]
pub struct Host {
    /// Effective capabilities of this process, one bit each.
    pub capabilities: u64,
    /// The kernel loads XDP programs; `None` when this process may not try.
    pub xdp: Option<bool>,
    /// The pin path, or its nearest parent that exists, is on a bpffs.
    pub bpffs: bool,
    /// Interfaces of this network namespace.
    pub links: LinkTable,
    /// Addresses of this network namespace.
    pub addresses: Vec<Address>,
    /// Commands that would not be run, with the reason.
    pub commands: Vec<String>,
    /// Targets of the log that cannot be written.
    pub logs: Vec<Finding>,
}

impl Host {
    /// Looks at the host. Changes nothing. Needs a tokio runtime around it.
    pub async fn examine(director: &Director) -> Result<Self, NetlinkError> {
        let capabilities = effective_capabilities();
        let may_try = lacking(capabilities).is_empty();
        let xdp = may_try
            .then(|| aya::sys::is_program_supported(aya::programs::ProgramType::Xdp).ok())
            .flatten();
        let bpffs = director.dataplane.as_ref().is_none_or(|plane| is_on_bpffs(&plane.pin_path));
        let netlink = Netlink::open()?;
        let (links, addresses) = (netlink.links().await?, netlink.addresses().await?);
        let commands = commands::examine(director);
        let logs = log_targets(director);
        Ok(Self { capabilities, xdp, bpffs, links, addresses, commands, logs })
    }
}

/// Everything that this host lacks for this configuration.
pub fn check(director: &Director, host: &Host) -> Vec<Finding> {
    // A node without services for XDP needs nothing of its plane.
    let plane = director.dataplane.as_ref().map(|plane| check_dataplane(plane, host));
    let mut findings = plane.unwrap_or_default();
    findings.extend(vrrp::check(&director.vrrp.instances, host));
    findings.extend(host.logs.iter().cloned());
    findings.extend(host.commands.iter().map(|refused| Finding {
        severity: Severity::Warn,
        message: format!("{refused} (it will not be run)"),
    }));
    findings
}

/// Targets of the log that cannot be written as things are.
fn log_targets(director: &Director) -> Vec<Finding> {
    let examine = |target: &LogTarget| match &target.sink {
        LogSink::File(path) => {
            let message = format!("log.to: {}", logging::examine(path).err()?);
            Some(Finding { severity: Severity::Refuse, message })
        }
        LogSink::Syslog { address: SyslogAddress::Unix(path), .. } if !path.exists() => {
            let message = format!(
                "log.to: {} is not there: start the syslog daemon, or name another target (lines \
                 wait for it, as far as there is room)",
                path.display()
            );
            Some(Finding { severity: Severity::Warn, message })
        }
        LogSink::Stderr | LogSink::Syslog { .. } => None,
    };
    director.log.targets.iter().filter_map(examine).collect()
}

fn check_dataplane(plane: &Dataplane, host: &Host) -> Vec<Finding> {
    let mut findings = Vec::new();
    let mut refuse =
        |message: String| findings.push(Finding { severity: Severity::Refuse, message });
    let lacking = lacking(host.capabilities);
    if !lacking.is_empty() {
        refuse(format!(
            "this process lacks {}: run it as root, or grant them (systemd: AmbientCapabilities=)",
            lacking.join(", ")
        ));
    }
    if host.xdp == Some(false) {
        refuse(
            "the kernel does not load XDP programs: it needs CONFIG_BPF_SYSCALL=y and a lockdown \
             mode that allows BPF (/sys/kernel/security/lockdown)"
                .to_owned(),
        );
    }
    if !host.bpffs {
        let path = plane.pin_path.display();
        refuse(format!(
            "dataplane.pin_path: {path} is not on a BPF file system: `mount -t bpf bpf \
             /sys/fs/bpf`, or choose a path below a mounted one"
        ));
    }
    let mut named: Vec<(&str, &str)> = Vec::new();
    named.extend(plane.interfaces.iter().map(|name| ("dataplane.interfaces", name.as_str())));
    let of_addresses = plane.addresses.iter().map(|address| address.interface.as_str());
    named.extend(of_addresses.map(|name| ("dataplane.addresses", name)));
    named.dedup();
    for (key, name) in named {
        if host.links.by_name(name).is_none() {
            let present: Vec<&str> = host.links.iter().map(|link| link.name.as_str()).collect();
            refuse(format!(
                "{key}: there is no interface {name}: this host has {}",
                present.join(", ")
            ));
        }
    }
    findings.extend(plane.interfaces.iter().filter_map(|name| check_link(plane, host, name)));
    findings
}

fn check_link(plane: &Dataplane, host: &Host, name: &str) -> Option<Finding> {
    let link = host.links.by_name(name)?;
    let message = if !link.up {
        format!("dataplane.interfaces: {name} is down: `ip link set {name} up`")
    } else if !link.running {
        format!("dataplane.interfaces: {name} has no carrier: check its cable and its peer")
    } else if link.mtu > LARGE_MTU && plane.mode != AttachMode::Generic {
        format!(
            "dataplane.interfaces: {name} has MTU {}: many drivers take native XDP only up to \
             about {LARGE_MTU}: `ip link set {name} mtu 1500`, or `mode: generic`",
            link.mtu
        )
    } else {
        return None;
    };
    Some(Finding { severity: Severity::Warn, message })
}

fn effective_capabilities() -> u64 {
    let status = std::fs::read_to_string("/proc/thread-self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    line.and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok()).unwrap_or(0)
}

/// Names of needed capabilities that are not there. CAP_SYS_ADMIN contains BPF and PERFMON.
fn lacking(capabilities: u64) -> Vec<&'static str> {
    let has = |bit: u32| capabilities & (1 << bit) != 0;
    NEEDED
        .iter()
        .filter(|(bit, _)| !(has(*bit) || *bit >= CAP_PERFMON && has(CAP_SYS_ADMIN)))
        .map(|(_, name)| *name)
        .collect()
}

const CAP_SYS_ADMIN: u32 = 21;
const CAP_PERFMON: u32 = 38;
/// Bits of linux/capability.h.
const NEEDED: [(u32, &str); 4] =
    [(12, "CAP_NET_ADMIN"), (13, "CAP_NET_RAW"), (CAP_PERFMON, "CAP_PERFMON"), (39, "CAP_BPF")];
/// One page less XDP's headroom and the skb's tail room, as veth and many drivers have it.
const LARGE_MTU: u32 = 3_498;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Admin, Log, Replies, Timeouts};
    use crate::netlink::{Link, LinkKind};

    fn director() -> Director {
        let dataplane = Dataplane {
            interfaces: vec!["eth0".into()],
            mode: AttachMode::Auto,
            pin_path: "/sys/fs/bpf/lb".into(),
            connections: 1000,
            timeouts: Timeouts::default(),
            new_connections_per_second: 0,
            deny: Default::default(),
            allow: Default::default(),
            replies: Replies::LastHop,
            addresses: Vec::new(),
        };
        Director {
            node: "lb01".into(),
            dataplane: Some(dataplane),
            virtual_services: Vec::new(),
            vrrp: crate::model::Vrrp::default(),
            notifications: crate::model::Notifications::default(),
            admin: Admin::default(),
            log: Log::default(),
        }
    }

    fn host() -> Host {
        let eth0 = Link {
            index: 2,
            name: "eth0".into(),
            mac: Some([2, 0, 0, 0, 0, 1]),
            up: true,
            running: true,
            mtu: 1500,
            kind: LinkKind::Plain,
        };
        let links = [eth0].into_iter().collect();
        Host {
            capabilities: u64::MAX,
            xdp: Some(true),
            bpffs: true,
            links,
            addresses: Vec::new(),
            commands: Vec::new(),
            logs: Vec::new(),
        }
    }

    #[track_caller]
    fn finds(director: &Director, host: &Host, severity: Severity, text: &str) {
        let findings = check(director, host);
        assert_eq!(findings.len(), 1, "{findings:?}");
        assert_eq!(findings[0].severity, severity, "{findings:?}");
        assert!(findings[0].message.contains(text), "{findings:?}");
    }

    #[test]
    fn a_host_that_has_everything_is_silent() {
        assert_eq!(check(&director(), &host()), []);
    }

    #[test]
    fn what_cannot_work_is_refused_with_the_remedy() {
        let refuse = Severity::Refuse;
        let user = Host { capabilities: 0, xdp: None, ..host() };
        finds(
            &director(),
            &user,
            refuse,
            "lacks CAP_NET_ADMIN, CAP_NET_RAW, CAP_PERFMON, CAP_BPF: run",
        );
        let admin = Host { capabilities: 1 << CAP_SYS_ADMIN, ..host() };
        finds(&director(), &admin, refuse, "lacks CAP_NET_ADMIN, CAP_NET_RAW: run");
        let unmounted = Host { bpffs: false, ..host() };
        finds(&director(), &unmounted, refuse, "mount -t bpf");
        let old = Host { xdp: Some(false), ..host() };
        finds(&director(), &old, refuse, "CONFIG_BPF_SYSCALL");
        let bare = Host { links: LinkTable::default(), ..host() };
        finds(&director(), &bare, refuse, "there is no interface eth0");
    }

    #[test]
    fn what_works_badly_is_a_warning() {
        let with = |change: fn(&mut Link)| {
            let mut link = host().links.by_name("eth0").expect("eth0").clone();
            change(&mut link);
            Host { links: [link].into_iter().collect(), ..host() }
        };
        let warn = Severity::Warn;
        finds(&director(), &with(|link| link.mtu = 9000), warn, "MTU 9000");
        finds(&director(), &with(|link| link.up = false), warn, "ip link set eth0 up");
        finds(&director(), &with(|link| link.running = false), warn, "no carrier");
    }

    #[test]
    fn a_log_that_cannot_be_written_is_told_with_the_remedy() {
        let with = |sink: LogSink| {
            let target = LogTarget { sink, max_level: crate::model::Severity::Debug };
            let log = Log { targets: vec![target], ..Log::default() };
            log_targets(&Director { log, ..director() })
        };
        let check = |path: &str, expected: &str| {
            let found = with(LogSink::File(path.into()));
            assert_eq!(found.len(), 1, "{path}");
            assert_eq!(found[0].severity, Severity::Refuse);
            assert!(found[0].message.contains(expected), "{found:?}");
        };
        check("/nowhere/lb/lb.log", "there is no directory /nowhere/lb: `install -d");
        check("/proc", "is a directory: name a file in it");
        assert_eq!(with(LogSink::File(std::env::temp_dir().join("lb.log"))), []);
        assert_eq!(with(LogSink::Stderr), []);
        let syslog = |path: &str| LogSink::Syslog {
            address: SyslogAddress::Unix(path.into()),
            facility: crate::model::Facility::DAEMON,
            min_level: crate::model::Severity::Emerg,
        };
        let found = with(syslog("/nowhere/log"));
        assert_eq!(found[0].severity, Severity::Warn);
        assert!(found[0].message.contains("start the syslog daemon"), "{found:?}");
    }

    #[test]
    fn a_node_without_a_dataplane_needs_nothing() {
        let director = Director { dataplane: None, ..director() };
        let bare = Host {
            capabilities: 0,
            xdp: None,
            bpffs: false,
            links: LinkTable::default(),
            addresses: Vec::new(),
            commands: Vec::new(),
            logs: Vec::new(),
        };
        assert_eq!(check(&director, &bare), []);
    }
}
