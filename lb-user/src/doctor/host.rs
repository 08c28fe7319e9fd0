//! The host as a whole: daemon, kernel, clock, descriptors, pins.
//!
//! Must not know: how facts are gathered, how findings are shown.

use lb_common::abi::ABI_VERSION;

use crate::doctor::Finding;
use crate::doctor::facts::Facts;
use crate::model::Director;

/// Descriptors of the daemon beyond those of probes.
const OWN_FILES: u64 = 256;
/// A clock before this was never set: 2026-01-01.
const BUILT: u64 = 1_767_225_600;

pub(super) fn judge(director: &Director, facts: &Facts) -> Vec<Finding> {
    let mut findings = vec![daemon(facts), kernel(facts), clock(facts)];
    findings.extend(files(director, facts));
    if let Some(plane) = &director.dataplane {
        findings.push(pins(&plane.pin_path.display().to_string(), facts));
        findings.extend(table(facts));
    }
    findings
}

fn daemon(facts: &Facts) -> Finding {
    let Some(daemon) = &facts.daemon else {
        let text = "no daemon answers: what it would set at its start is not looked for";
        return Finding::ok("daemon", "host", text);
    };
    if !daemon.warnings.is_empty() {
        return Finding::warn("daemon", "host", daemon.warnings.join("; "));
    }
    let pid = daemon.pid.map_or(String::new(), |pid| format!(", process {pid}"));
    Finding::ok("daemon", "host", format!("lb {} answers{pid}", daemon.version))
}

fn kernel(facts: &Facts) -> Finding {
    let kernel = &facts.kernel;
    let mut numbers = kernel.release.split(|c: char| !c.is_ascii_digit());
    let mut number = || numbers.next().and_then(|n| n.parse().ok()).unwrap_or(0u32);
    let version = (number(), number());
    if version < OLDEST {
        let text = format!(
            "Linux {} is older than {}.{}, the oldest that is tested: batched reads and XDP links \
             may be missing",
            kernel.release, OLDEST.0, OLDEST.1
        );
        return Finding::warn("kernel", "host", text);
    }
    let btf = if kernel.btf { "" } else { "; without BTF, which lb does not need" };
    Finding::ok("kernel", "host", format!("Linux {}{btf}", kernel.release))
}

/// Managed neighbours and XDP frames with metadata came with it.
const OLDEST: (u32, u32) = (5, 18);

fn clock(facts: &Facts) -> Finding {
    let clock = &facts.clock;
    if clock.now.as_secs() < BUILT {
        let text = "the clock is years behind: certificates will not be accepted and logs mislead";
        return Finding::error("clock", "host", text).mended_by("timedatectl set-ntp true");
    }
    match clock.synchronised {
        Some(true) => Finding::ok("clock", "host", "the clock is synchronised"),
        None => Finding::ok("clock", "host", "nobody here could say whether it is synchronised"),
        Some(false) => Finding::warn(
            "clock",
            "host",
            "the clock is not synchronised: logs of two directors cannot be compared, and \
             certificates may be judged by a wrong time (forwarding and VRRP do not use it)",
        )
        .mended_by("timedatectl set-ntp true"),
    }
}

/// Every probe that is under way has a descriptor.
fn files(director: &Director, facts: &Facts) -> Option<Finding> {
    let daemon = facts.daemon.as_ref()?;
    let (limit, pid) = (daemon.files?, daemon.pid?);
    let servers = director.virtual_services.iter().flat_map(|service| &service.real_servers);
    let checks: usize = servers.map(|server| server.health_checks.len()).sum();
    let needed = checks as u64 + OWN_FILES;
    Some(if limit < needed {
        let text = format!(
            "the daemon may have {limit} file descriptors; {checks} checks that run at one time \
             need up to {needed}. For good: LimitNOFILE={} in its unit",
            needed.next_power_of_two()
        );
        let wanted = needed.next_power_of_two();
        Finding::error("nofile", "host", text)
            .mended_by(format!("prlimit --pid {pid} --nofile={wanted}:{wanted}"))
    } else {
        Finding::ok("nofile", "host", format!("{limit} file descriptors, up to {needed} needed"))
    })
}

fn pins(path: &str, facts: &Facts) -> Finding {
    let own = format!("v{ABI_VERSION}");
    let pins = &facts.pins;
    let detach = format!("lb detach --pin-path {path}");
    if let Some(other) = pins.versions.iter().find(|version| **version != own) {
        let text = format!(
            "maps of another version of lb ({other}, this one uses {own}) are pinned: `lb run` \
             refuses to start, and what they hold is lost when they are removed"
        );
        return Finding::error("pins", path, text).mended_by(detach);
    }
    if !pins.versions.is_empty() && !pins.in_use {
        let text = "a daemon that is gone left its data plane: packets are forwarded, and nobody \
                    checks real servers or follows next hops. `lb run` takes it over";
        return Finding::warn("pins", path, text).mended_by(detach);
    }
    let what = if pins.in_use { "a daemon uses it" } else { "nothing is pinned" };
    Finding::ok("pins", path, what)
}

/// How full the connection table is.
fn table(facts: &Facts) -> Option<Finding> {
    let (used, capacity) = facts.daemon.as_ref()?.connections;
    let percent = used * 100 / capacity.max(1);
    let text = format!("{used} of {capacity} connections ({percent} %)");
    Some(if percent >= 80 {
        let more = format!(
            "{text}: when it is full, new connections are forwarded without an entry or dropped; \
             set dataplane.connections higher and restart without --keep-dataplane"
        );
        Finding::warn("connections", "host", more)
    } else {
        Finding::ok("connections", "host", text)
    })
}
