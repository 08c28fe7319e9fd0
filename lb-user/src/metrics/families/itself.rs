//! Families about the daemon itself: its parts, its log, its process.
//!
//! Those of the process have the names that Prometheus's own clients give them.
//!
//! Must not know: the text format.

use super::super::{Family, Kind, Process, Samples, Snapshot};
use Kind::{Counter as Count, Gauge};

/// Every family, in the order of the text.
pub(in crate::metrics) static FAMILIES: &[Family] = &[
    Family {
        name: "lb_stuck_seconds",
        kind: Gauge,
        labels: &["part"],
        help: "For how long a part of the daemon has not moved although it should; 0 is well.",
        samples: |s, out| {
            for part in &s.parts {
                out.add_real(&[&part.name], part.stuck.as_secs_f64());
            }
        },
    },
    Family {
        name: "lb_log_lines_lost_total",
        kind: Count,
        labels: &["target"],
        help: "Log lines that did not reach their target.",
        samples: |s, out| {
            for target in &s.log {
                out.add(&[&target.name], target.lost);
            }
        },
    },
    Family {
        name: "process_start_time_seconds",
        kind: Gauge,
        labels: &[],
        help: "When the daemon started, since 1970.",
        samples: |s, out| of_process_real(s, out, |process| process.start),
    },
    Family {
        name: "process_cpu_seconds_total",
        kind: Count,
        labels: &[],
        help: "Time that it had a CPU, in user space and in the kernel.",
        samples: |s, out| of_process_real(s, out, |process| process.cpu),
    },
    Family {
        name: "process_open_fds",
        kind: Gauge,
        labels: &[],
        help: "Its open file descriptors.",
        samples: |s, out| of_process(s, out, |process| process.open_fds),
    },
    Family {
        name: "process_max_fds",
        kind: Gauge,
        labels: &[],
        help: "How many it may have.",
        samples: |s, out| of_process(s, out, |process| process.max_fds),
    },
    Family {
        name: "process_virtual_memory_bytes",
        kind: Gauge,
        labels: &[],
        help: "Its address space.",
        samples: |s, out| of_process(s, out, |process| process.virtual_bytes),
    },
    Family {
        name: "process_resident_memory_bytes",
        kind: Gauge,
        labels: &[],
        help: "What of it is in memory.",
        samples: |s, out| of_process(s, out, |process| process.resident_bytes),
    },
    Family {
        name: "process_threads",
        kind: Gauge,
        labels: &[],
        help: "Its threads.",
        samples: |s, out| of_process(s, out, |process| process.threads),
    },
];

fn of_process(snapshot: &Snapshot, out: &mut Samples<'_>, value: fn(&Process) -> u64) {
    if let Some(process) = &snapshot.process {
        out.add(&[], value(process));
    }
}

fn of_process_real(snapshot: &Snapshot, out: &mut Samples<'_>, value: fn(&Process) -> f64) {
    if let Some(process) = &snapshot.process {
        out.add_real(&[], value(process));
    }
}
