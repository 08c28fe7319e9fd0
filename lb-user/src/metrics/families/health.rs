//! Families about health checks.
//!
//! Must not know: the text format.

use super::super::{Check, Family, Kind, Snapshot};
use Kind::{Counter as Count, Gauge};

/// Every family, in the order of the text.
pub(in crate::metrics) static FAMILIES: &[Family] = &[
    Family {
        name: "lb_check_up",
        kind: Gauge,
        labels: CHECK,
        help: "1 while the check takes the real server to be up.",
        samples: |s, out| of_checks(s, |labels, check| out.add(labels, u64::from(check.up))),
    },
    Family {
        name: "lb_check_status",
        kind: Gauge,
        labels: CHECK_STATUS,
        help: "1 for the status of the last result, in HAProxy's words.",
        samples: |s, out| {
            of_checks(s, |labels, check| {
                out.add(&[labels[0], labels[1], labels[2], &check.status], 1);
            });
        },
    },
    Family {
        name: "lb_check_duration_seconds",
        kind: Gauge,
        labels: CHECK,
        help: "How long the last probe took.",
        samples: |s, out| {
            of_checks(s, |labels, check| out.add_real(labels, check.duration.as_secs_f64()));
        },
    },
    Family {
        name: "lb_check_last_change_timestamp_seconds",
        kind: Gauge,
        labels: CHECK,
        help: "When the check last changed its mind, since 1970; absent when it has not.",
        samples: |s, out| {
            of_checks(s, |labels, check| {
                if let Some(changed) = check.last_change {
                    out.add_real(labels, changed);
                }
            });
        },
    },
    Family {
        name: "lb_check_state_changes_total",
        kind: Count,
        labels: CHECK,
        help: "Times that the check took the real server for up or down anew.",
        samples: |s, out| of_checks(s, |labels, check| out.add(labels, check.changes)),
    },
    Family {
        name: "lb_check_probes_total",
        kind: Count,
        labels: CHECK_STATUS,
        help: "Probes that have ended, by what was found. Targets that services share are probed once.",
        samples: |s, out| {
            of_checks(s, |labels, check| {
                for (status, count) in &check.results {
                    out.add(&[labels[0], labels[1], labels[2], status], *count);
                }
            });
        },
    },
];

const CHECK: &[&str] = &["service", "real_server", "check"];
const CHECK_STATUS: &[&str] = &["service", "real_server", "check", "status"];

fn of_checks(snapshot: &Snapshot, mut each: impl FnMut(&[&str; 3], &Check)) {
    for service in &snapshot.services {
        for server in &service.real_servers {
            for check in &server.checks {
                each(&[&service.name, &server.endpoint, &check.name], check);
            }
        }
    }
}
