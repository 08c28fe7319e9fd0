//! Lets real-time processes go on while the kernel verifies programs.
//!
//! The verifier works for a second without a break where the kernel does not preempt itself, and a
//! real-time process that wakes on its CPU is kept waiting: it looks for another CPU only if what
//! runs there is as important as itself. So the thread that loads becomes just that for as long.
//! Measured on two CPUs: a process that wakes every 5 ms was up to 800 ms late beside an ordinary
//! loader, and never 10 ms beside this one. The speaker of VRRP is such a process, and a backup may
//! claim its addresses after 30 ms.
//!
//! Must not know: what is loaded, VRRP.

/// While it lives, this thread runs with the lowest real-time priority.
pub(super) struct Yielding {
    /// Whether it was an ordinary thread and is to be one again.
    restore: bool,
}

impl Yielding {
    /// Without the privilege, or in a thread that is no ordinary one, nothing changes.
    pub(super) fn begin() -> Self {
        // SAFETY: no pointers are passed; 0 is this thread.
        let is_ordinary = unsafe { libc::sched_getscheduler(0) } == libc::SCHED_OTHER;
        Self { restore: is_ordinary && schedule(libc::SCHED_RR, 1) }
    }
}

impl Drop for Yielding {
    fn drop(&mut self) {
        if self.restore && !schedule(libc::SCHED_OTHER, 0) {
            tracing::error!("a thread that loaded programs keeps its real-time priority");
        }
    }
}

fn schedule(policy: libc::c_int, priority: libc::c_int) -> bool {
    let parameters = libc::sched_param { sched_priority: priority };
    // SAFETY: the parameters are live for the call, and 0 is this thread.
    unsafe { libc::sched_setscheduler(0, policy, &raw const parameters) == 0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy() -> libc::c_int {
        // SAFETY: no pointers are passed; 0 is this thread.
        unsafe { libc::sched_getscheduler(0) }
    }

    #[test]
    fn the_thread_is_an_ordinary_one_again_afterwards() {
        // Without the privilege nothing changes, and then this holds as well.
        assert_eq!(policy(), libc::SCHED_OTHER);
        let outer = Yielding::begin();
        let during = policy();
        drop(Yielding::begin());
        assert_eq!(policy(), during, "an inner one changes nothing");
        drop(outer);
        assert_eq!(policy(), libc::SCHED_OTHER);
    }
}
