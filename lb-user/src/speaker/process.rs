//! Makes this process one that is neither delayed nor killed for others, and that can do little.
//!
//! Each step is an advantage and none a condition: in a container some are refused.
//!
//! Must not know: VRRP.
#![allow(unsafe_code)]

use std::fs;
use std::io;

use caps::{CapSet, Capability, CapsHashSet};
use nix::sys::mman::{MlockAllFlags, mlockall};
use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
use nix::sys::signal::{SigSet, Signal};

/// Locks memory, asks for the processor before others, and gives up every privilege but those
/// that VRRP needs; gives the steps that were refused. To be called before there is a second
/// thread.
///
/// # Errors
/// When signals cannot be held back: then none would be answered with a resignation.
pub fn settle() -> anyhow::Result<Vec<String>> {
    signals().thread_block()?;
    let steps: [(&str, Step); 6] = [
        ("leave the terminal's session", || match nix::unistd::setsid() {
            // It leads a session already.
            Ok(_) | Err(nix::errno::Errno::EPERM) => Ok(()),
            Err(error) => Err(error.into()),
        }),
        ("survive a lack of memory", || fs::write("/proc/self/oom_score_adj", "-1000")),
        ("lock its memory", lock_memory),
        ("run before others", run_first),
        ("take no new privileges", || Ok(nix::sys::prctl::set_no_new_privs()?)),
        ("give up privileges", give_up_privileges),
    ];
    let refused = steps.into_iter().filter_map(|(what, step)| {
        let error = step().err()?;
        Some(format!("the speaker cannot {what}: {error}"))
    });
    Ok(refused.collect())
}

/// Signals that are read instead of killing: a resignation comes first, and what is meant for the
/// daemon (`pkill -HUP lb`) must not cost an address.
pub(super) fn signals() -> SigSet {
    use Signal::{SIGHUP, SIGINT, SIGTERM, SIGUSR1, SIGUSR2};
    [SIGTERM, SIGINT, SIGHUP, SIGUSR1, SIGUSR2].into_iter().collect()
}

/// One of the steps.
type Step = fn() -> io::Result<()>;

fn lock_memory() -> io::Result<()> {
    let mut flags = MlockAllFlags::MCL_CURRENT;
    // With a limit, what is allocated later would fail once the privilege is given up.
    if setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY).is_ok() {
        flags |= MlockAllFlags::MCL_FUTURE;
    }
    Ok(mlockall(flags)?)
}

/// The lowest real-time priority: it runs before every ordinary process, and after a watchdog.
fn run_first() -> io::Result<()> {
    let parameters = libc::sched_param { sched_priority: 1 };
    // Children would not inherit it; there are none.
    let policy = libc::SCHED_RR | libc::SCHED_RESET_ON_FORK;
    // SAFETY: the parameters are live for the call, and 0 is this thread.
    match unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

fn give_up_privileges() -> io::Result<()> {
    let keep = CapsHashSet::from([Capability::CAP_NET_ADMIN, Capability::CAP_NET_RAW]);
    let had = caps::read(None, CapSet::Permitted).map_err(io::Error::other)?;
    let left: CapsHashSet = had.intersection(&keep).copied().collect();
    for set in [CapSet::Effective, CapSet::Permitted] {
        caps::set(None, set, &left).map_err(io::Error::other)?;
    }
    caps::clear(None, CapSet::Inheritable).map_err(io::Error::other)
}
