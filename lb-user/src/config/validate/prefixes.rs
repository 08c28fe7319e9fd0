//! The access lists: `dataplane.deny` and `dataplane.allow`.
//!
//! Must not know: how packets are compared with them.

use super::super::problem::Problems;
use super::super::raw::{At, Dataplane};
use crate::model::{Prefix, Prefixes};
use std::sync::Arc;

/// Sources that are dropped.
pub(super) fn deny(raw: &Dataplane, problems: &Problems) -> Option<Prefixes> {
    for At { value: (prefix, _), place } in &raw.deny {
        if prefix.is_everything() {
            let family = if prefix.address().is_ipv4() { "IPv4" } else { "IPv6" };
            let message = format!(
                "{prefix} drops every {family} packet on these interfaces, yours to this host included"
            );
            problems.warning(place, message);
        }
    }
    list(&raw.deny, problems)
}

/// Sources that alone reach services.
pub(super) fn allow(raw: &Dataplane, problems: &Problems) -> Option<Prefixes> {
    list(&raw.allow, problems)
}

/// The list as a set: who merges lists has some prefixes twice.
fn list(written: &[At<(Prefix, bool)>], problems: &Problems) -> Option<Prefixes> {
    for At { value: (prefix, is_cut), place } in written {
        if *is_cut {
            problems.warning(place, format!("bits beyond the length are set: taken as {prefix}"));
        }
    }
    let prefixes: Prefixes = Arc::new(written.iter().map(|at| at.value.0).collect());
    let v4 = prefixes.iter().filter(|prefix| prefix.address().is_ipv4()).count();
    let most = v4.max(prefixes.len() - v4);
    if let (Some(first), true) = (written.first(), most > MAX_LISTED) {
        let message = format!("{most} prefixes of one family: at most {MAX_LISTED} fit");
        problems.error(&first.place, message);
        return None;
    }
    Some(prefixes)
}

/// Half of what fits, so that a reload can put a new list beside the old one.
const MAX_LISTED: usize = lb_common::abi::MAX_PREFIXES as usize / 2;
