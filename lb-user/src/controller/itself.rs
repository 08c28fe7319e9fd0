//! What the daemon knows of itself: its parts that are stuck, probes that do not end, and the
//! process as the kernel sees it.
//!
//! Must not know: who asks, what a probe does.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::controller::task::Controller;
use crate::health::Target;
use crate::metrics::{LogTarget, Part, Process};
use crate::watchdog::{self, Pulse, Weight};

/// Looks after the probes: each target is to have a result now and then.
#[derive(Debug)]
pub(super) struct Probes {
    pulse: Pulse,
    /// The results that a target has had, since when, and whether their lack was told.
    seen: HashMap<Target, Seen>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    results: u64,
    since: Instant,
    looked: Instant,
    is_told: bool,
}

impl Probes {
    pub(super) fn new() -> Self {
        Self {
            // How late is too late depends on the check, hence no limit of its own.
            pulse: watchdog::part("probes", Duration::ZERO, Weight::Useful),
            seen: HashMap::new(),
        }
    }

    /// Looks at all targets; those that are overdue for the first time are given back.
    fn look<'a>(
        &mut self,
        now: Instant,
        targets: impl Iterator<Item = (&'a Target, u64)>,
    ) -> Vec<(Target, Duration)> {
        let (mut overdue, mut longest, mut count) = (Vec::new(), None, 0);
        for (target, results) in targets {
            count += 1;
            let new = Seen { results, since: now, looked: now, is_told: false };
            if !self.seen.contains_key(target) {
                self.seen.insert(target.clone(), new);
            }
            let Some(seen) = self.seen.get_mut(target) else { continue };
            if seen.results != results {
                *seen = new;
            }
            seen.looked = now;
            let late = now.saturating_duration_since(seen.since);
            if late > patience(target) {
                longest = longest.max(Some(late));
                if !std::mem::replace(&mut seen.is_told, true) {
                    overdue.push((target.clone(), late));
                }
            }
        }
        if self.seen.len() > count {
            self.seen.retain(|_, seen| seen.looked == now);
        }
        match longest {
            Some(late) => self.pulse.begun(late),
            None => self.pulse.rest(),
        }
        overdue
    }
}

/// How long a target may be without a result.
fn patience(target: &Target) -> Duration {
    let check = &target.check;
    3 * (check.interval.max(check.retry_interval) + check.timeout)
}

impl Controller {
    /// Once a second: whether probes end.
    pub(super) fn look_after_probes(&mut self) {
        let targets = self.health.iter();
        let targets = targets.map(|(target, checked)| (target, checked.observed.results()));
        for (target, late) in self.probes.look(Instant::now(), targets) {
            tracing::error!(
                address = %target.address,
                seconds = late.as_secs(),
                "no probe of this target has ended lately"
            );
        }
    }

    /// What is wrong with the daemon itself, for `lb status`.
    pub(super) fn own_warnings(&self) -> Vec<String> {
        let mut warnings = self.start.logger.troubles();
        for part in watchdog::parts().iter().filter(|part| part.is_stuck()) {
            let seconds = part.stuck().as_secs();
            warnings.push(format!("stuck: {} has not moved for {seconds} s", part.name));
        }
        warnings
    }

    /// The targets of the log, for metrics.
    pub(super) fn measured_log(&self) -> Vec<LogTarget> {
        let lost = self.start.logger.lost().into_iter();
        lost.map(|(name, lost)| LogTarget { name, lost }).collect()
    }
}

/// The watched parts, for metrics.
pub(super) fn parts() -> Vec<Part> {
    let part = |seen: watchdog::Seen| Part { stuck: seen.stuck(), name: seen.name };
    watchdog::parts().into_iter().map(part).collect()
}

/// This process as the kernel sees it; nothing without /proc.
pub(super) fn process() -> Option<Process> {
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let stat = read("/proc/self/stat")?;
    // proc(5): the name, field 2, may have spaces; what follows its bracket begins with field 3.
    let (_, fields) = stat.rsplit_once(')')?;
    let fields: Vec<&str> = fields.split_whitespace().collect();
    let field = |n: usize| fields.get(n - 3)?.parse::<u64>().ok();
    let sysconf = |name| nix::unistd::sysconf(name).ok().flatten();
    let hz = sysconf(nix::unistd::SysconfVar::CLK_TCK)? as f64;
    let page = u64::try_from(sysconf(nix::unistd::SysconfVar::PAGE_SIZE)?).ok()?;
    let kernel = read("/proc/stat")?;
    let booted = kernel.lines().find_map(|line| line.strip_prefix("btime "))?;
    let limit = nix::sys::resource::getrlimit(nix::sys::resource::Resource::RLIMIT_NOFILE);
    // The folder that counts is open itself while it is read.
    let open_fds = std::fs::read_dir("/proc/self/fd").ok()?.count().saturating_sub(1);
    Some(Process {
        start: booted.trim().parse::<f64>().ok()? + field(22)? as f64 / hz,
        cpu: (field(14)? + field(15)?) as f64 / hz,
        open_fds: open_fds as u64,
        max_fds: limit.ok()?.0,
        virtual_bytes: field(23)?,
        resident_bytes: field(24)? * page,
        threads: field(20)?,
    })
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::model::{CheckKind, HealthCheck};

    fn target(seconds: u64) -> Target {
        let check = HealthCheck {
            kind: CheckKind::Tcp,
            interval: Duration::from_secs(seconds),
            retry_interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            rise: 1,
            fall: 1,
            port: None,
            starts_up: false,
            flap: None,
            via: crate::model::Via::Direct,
        };
        Target { address: SocketAddr::from(([10, 0, 0, 1], 80)), check }
    }

    #[test]
    fn a_target_without_results_is_told_once_and_counts_until_it_has_one() {
        let (quick, slow) = (target(1), target(100));
        let mut probes = Probes::new();
        let now = Instant::now();
        let mut look = |seconds, results: u64| {
            let targets = [(&quick, results), (&slow, 0)];
            let told = probes.look(now + Duration::from_secs(seconds), targets.into_iter());
            let busy = probes.pulse.is_busy();
            (told.into_iter().map(|(target, late)| (target, late.as_secs())).collect(), busy)
        };
        let none = (Vec::new(), false);
        assert_eq!(look(0, 5), none);
        assert_eq!(look(6, 5), none, "three times a second and its timeout");
        assert_eq!(look(7, 5), (vec![(quick.clone(), 7)], true));
        assert_eq!(look(8, 5), (Vec::new(), true), "told once");
        assert_eq!(look(9, 6), none);
        assert_eq!(look(16, 6), (vec![(quick.clone(), 7)], true), "the next time");
        assert_eq!(probes.look(now, std::iter::empty()), []);
        assert!(probes.seen.is_empty() && !probes.pulse.is_busy(), "nothing is probed any more");
    }

    #[test]
    fn the_process_is_seen_as_the_kernel_sees_it() {
        let process = process().expect("/proc");
        let age = std::time::SystemTime::now()
            .duration_since(std::time::SystemTime::UNIX_EPOCH)
            .expect("after 1970")
            .as_secs_f64()
            - process.start;
        assert!((0.0..86400.0).contains(&age), "{age}");
        assert!(process.resident_bytes > 1 << 20 && process.virtual_bytes > process.resident_bytes);
        assert!(process.open_fds >= 3 && process.max_fds >= process.open_fds);
        assert!(process.threads >= 1);
    }
}
