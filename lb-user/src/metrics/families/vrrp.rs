//! Families about VRRP and about telling of transitions.
//!
//! Must not know: the text format.

use super::super::{Family, Kind, Samples, Snapshot, VrrpInstance};
use Kind::{Counter as Count, Gauge};

/// Every family, in the order of the text.
pub(in crate::metrics) static FAMILIES: &[Family] = &[
    Family {
        name: "lb_vrrp_state",
        kind: Gauge,
        labels: &["vrrp_instance", "state"],
        help: "1 for the state that the instance is in.",
        samples: |s, out| {
            for instance in &s.vrrp {
                for state in ["init", "backup", "master", "fault"] {
                    let is_own = u64::from(instance.state == state);
                    out.add(&[&instance.name, state], is_own);
                }
            }
        },
    },
    Family {
        name: "lb_vrrp_priority",
        kind: Gauge,
        labels: &["vrrp_instance"],
        help: "Priority in the file.",
        samples: |s, out| of_instances(s, out, |instance| instance.priority.into()),
    },
    Family {
        name: "lb_vrrp_effective_priority",
        kind: Gauge,
        labels: &["vrrp_instance"],
        help: "Priority with the weights of what is tracked.",
        samples: |s, out| of_instances(s, out, |instance| instance.effective_priority.into()),
    },
    Family {
        name: "lb_vrrp_contested_addresses",
        kind: Gauge,
        labels: &["vrrp_instance"],
        help: "Addresses of this master that somebody else claims too.",
        samples: |s, out| of_instances(s, out, |instance| instance.contested),
    },
    Family {
        name: "lb_vrrp_filtered",
        kind: Gauge,
        labels: &["vrrp_instance"],
        help: "1 while a packet filter of this host drops VRRP.",
        samples: |s, out| of_instances(s, out, |instance| instance.filtered.into()),
    },
    Family {
        name: "lb_vrrp_adverts_sent_total",
        kind: Count,
        labels: &["vrrp_instance"],
        help: "Adverts sent.",
        samples: |s, out| of_instances(s, out, |instance| instance.sent),
    },
    Family {
        name: "lb_vrrp_send_errors_total",
        kind: Count,
        labels: &["vrrp_instance"],
        help: "Adverts that could not be sent.",
        samples: |s, out| of_instances(s, out, |instance| instance.send_errors),
    },
    Family {
        name: "lb_vrrp_adverts_received_total",
        kind: Count,
        labels: &["vrrp_instance"],
        help: "Adverts that were accepted.",
        samples: |s, out| of_instances(s, out, |instance| instance.received),
    },
    Family {
        name: "lb_vrrp_adverts_refused_total",
        kind: Count,
        labels: &["vrrp_instance", "reason"],
        help: "Adverts that were ignored.",
        samples: |s, out| {
            for instance in &s.vrrp {
                for (reason, count) in &instance.refused {
                    out.add(&[&instance.name, reason], *count);
                }
            }
        },
    },
    Family {
        name: "lb_vrrp_masters_total",
        kind: Count,
        labels: &["vrrp_instance"],
        help: "Times that this node became master.",
        samples: |s, out| of_instances(s, out, |instance| instance.masters),
    },
    Family {
        name: "lb_vrrp_duplicate_masters_total",
        kind: Count,
        labels: &["vrrp_instance"],
        help: "Times that a second master was heard.",
        samples: |s, out| of_instances(s, out, |instance| instance.duplicate_masters),
    },
    Family {
        name: "lb_vrrp_contests_total",
        kind: Count,
        labels: &["vrrp_instance"],
        help: "Times that an address of this master began to be claimed by somebody else too.",
        samples: |s, out| of_instances(s, out, |instance| instance.contests),
    },
    Family {
        name: "lb_vrrp_put_back_total",
        kind: Count,
        labels: &["vrrp_instance"],
        help: "Times that an address was put back because something had removed it.",
        samples: |s, out| of_instances(s, out, |instance| instance.put_back),
    },
    Family {
        name: "lb_vrrp_late_total",
        kind: Count,
        labels: &["vrrp_instance"],
        help: "Times that the speaker came to a deadline too late to be sure of its state.",
        samples: |s, out| of_instances(s, out, |instance| instance.late),
    },
    Family {
        name: "lb_vrrp_frames_total",
        kind: Count,
        labels: &["family", "vrid"],
        help: "VRRP frames that came in by the interfaces of the data plane, before every filter of the host.",
        samples: |s, out| {
            for frames in s.dataplane.iter().flat_map(|plane| &plane.vrrp_frames) {
                out.add(&[frames.family, &frames.vrid.to_string()], frames.count);
            }
        },
    },
    Family {
        name: "lb_notify_commands_total",
        kind: Count,
        labels: &["result"],
        help: "Notify commands that have ended; a killed one has failed too.",
        samples: |s, out| {
            let counts = &s.notifications;
            out.add(&["ok"], counts.commands_run.saturating_sub(counts.commands_failed));
            out.add(&["failed"], counts.commands_failed);
        },
    },
    Family {
        name: "lb_notify_dropped_total",
        kind: Count,
        labels: &[],
        help: "Notifications whose commands were left out because too many of their subject waited.",
        samples: |s, out| out.add(&[], s.notifications.dropped),
    },
    Family {
        name: "lb_notify_mails_total",
        kind: Count,
        labels: &["result"],
        help: "Mails that the server took, attempts that failed, and mails that were given up.",
        samples: |s, out| {
            let counts = &s.notifications;
            out.add(&["sent"], counts.mails_sent);
            out.add(&["failed"], counts.mails_failed);
            out.add(&["dropped"], counts.mails_dropped);
        },
    },
];

fn of_instances(s: &Snapshot, out: &mut Samples<'_>, value: fn(&VrrpInstance) -> u64) {
    for instance in &s.vrrp {
        out.add(&[&instance.name], value(instance));
    }
}
