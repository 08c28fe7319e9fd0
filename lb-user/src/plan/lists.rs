//! The access lists: the file's, and what is banned beside it at run time.
//!
//! An entry of the deny list may be there for both reasons. Each side changes its own only, so a
//! reload lifts no ban, and a ban that ends leaves the file's entry.
//!
//! Must not know: map layouts, clocks.

use std::fmt;
use std::sync::Arc;

use super::installed::Installed;
use super::op::{MapOp, Phases};
use super::{PlanError, Wanted};
use crate::model::{Prefix, Prefixes};

/// Prefixes that one operation adds or removes.
pub(super) const BATCH: usize = 4096;

/// An access list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum List {
    /// Sources that are dropped.
    Deny,
    /// Sources that alone reach services.
    Allow,
}

impl fmt::Display for List {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Deny => "deny",
            Self::Allow => "allow",
        })
    }
}

/// Why a prefix is denied.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Denial {
    /// The file says so.
    pub configured: bool,
    /// It was banned at run time, until this time in jiffies; 0 is until it is lifted.
    pub banned: Option<u64>,
}

/// The file's lists, as one plan has them.
#[derive(Clone, Debug)]
pub(super) struct Lists {
    deny: Prefixes,
    allow: Prefixes,
}

impl Lists {
    pub(super) fn of(wanted: &Wanted) -> Self {
        Self { deny: Arc::clone(&wanted.deny), allow: Arc::clone(&wanted.allow) }
    }

    /// Whether these are the very same lists: then nothing need be compared.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.deny, &other.deny) && Arc::ptr_eq(&self.allow, &other.allow)
    }

    /// Adds the operations that make the installed lists these; gives how many prefixes come and go.
    pub(super) fn diff(
        &self,
        installed: &Installed,
        capacity: u32,
        phases: &mut Phases,
    ) -> Result<(usize, usize), PlanError> {
        let is_listed = |prefix: &Prefix| installed.deny.contains_key(prefix);
        let (known, new): (Vec<&Prefix>, Vec<&Prefix>) =
            self.deny.iter().partition(|p| is_listed(p));
        fits(List::Deny, installed.deny.keys().chain(new.iter().copied()), capacity)?;
        let mut set = |prefix: &Prefix, denial| {
            phases.listed.push(MapOp::SetDenial { prefix: *prefix, denial });
        };
        let mut added = new.len();
        for prefix in known {
            let denial = installed.deny.get(prefix).copied().unwrap_or_default();
            if !denial.configured {
                set(prefix, Denial { configured: true, ..denial });
                added += 1;
            }
        }
        let mut gone = Vec::new();
        let mut removed = 0;
        for (prefix, denial) in &installed.deny {
            // One without a reason was left by nobody that is known.
            let is_stale = denial.configured || denial.banned.is_none();
            if !is_stale || self.deny.contains(prefix) {
                continue;
            }
            removed += 1;
            match denial.banned {
                Some(_) => set(prefix, Denial { configured: false, ..*denial }),
                None => gone.push(*prefix),
            }
        }
        in_batches(&new.into_iter().copied().collect::<Vec<_>>(), |prefixes| {
            phases.listed.push(MapOp::AddPrefixes { list: List::Deny, prefixes });
        });
        in_batches(&gone, |prefixes| {
            phases.unlisted.push(MapOp::RemovePrefixes { list: List::Deny, prefixes });
        });

        fits(List::Allow, installed.allow.union(&self.allow), capacity)?;
        let new: Vec<Prefix> = self.allow.difference(&installed.allow).copied().collect();
        let gone: Vec<Prefix> = installed.allow.difference(&self.allow).copied().collect();
        in_batches(&new, |prefixes| {
            phases.listed.push(MapOp::AddPrefixes { list: List::Allow, prefixes });
        });
        in_batches(&gone, |prefixes| {
            phases.unlisted.push(MapOp::RemovePrefixes { list: List::Allow, prefixes });
        });
        Ok((added + new.len(), removed + gone.len()))
    }
}

fn in_batches(prefixes: &[Prefix], mut each: impl FnMut(Arc<[Prefix]>)) {
    prefixes.chunks(BATCH).for_each(|batch| each(batch.into()));
}

/// Whether these prefixes fit into a list, each family into its own.
fn fits<'a>(
    list: List,
    prefixes: impl Iterator<Item = &'a Prefix>,
    capacity: u32,
) -> Result<(), PlanError> {
    let (mut v4, mut v6) = (0, 0);
    for prefix in prefixes {
        *if prefix.address().is_ipv4() { &mut v4 } else { &mut v6 } += 1;
    }
    let needed: usize = v4.max(v6);
    if needed > capacity as usize {
        return Err(PlanError::PrefixesExhausted { list, needed, capacity });
    }
    Ok(())
}

/// What bans a prefix. One that is banned already gets the new end.
pub(super) fn ban(
    installed: &Installed,
    prefix: Prefix,
    until: u64,
    capacity: u32,
) -> Result<MapOp, PlanError> {
    let old = installed.deny.get(&prefix).copied();
    if old.is_none() && installed.deny.len() >= capacity as usize {
        fits(List::Deny, installed.deny.keys().chain([&prefix]), capacity)?;
    }
    let denial = Denial { banned: Some(until), ..old.unwrap_or_default() };
    Ok(MapOp::SetDenial { prefix, denial })
}

/// What lifts a ban, if there is one.
pub(super) fn unban(installed: &Installed, prefix: Prefix) -> Option<MapOp> {
    let denial = installed.deny.get(&prefix).filter(|denial| denial.banned.is_some())?;
    Some(match denial.configured {
        true => MapOp::SetDenial { prefix, denial: Denial { banned: None, ..*denial } },
        false => MapOp::RemovePrefixes { list: List::Deny, prefixes: [prefix].into() },
    })
}

/// What removes the bans that were over before `now`.
pub(super) fn expired(installed: &Installed, now: u64) -> Vec<MapOp> {
    let is_over = |denial: &Denial| denial.banned.is_some_and(|until| until != 0 && until < now);
    let over = installed.deny.iter().filter(|(_, denial)| is_over(denial));
    over.filter_map(|(prefix, _)| unban(installed, *prefix)).collect()
}

impl Installed {
    /// Whether an access list has an entry, so that somebody has to ask them.
    pub fn has_lists(&self) -> bool {
        !self.deny.is_empty() || !self.allow.is_empty()
    }

    /// The nearest prefix around this one, other than itself, that is denied.
    pub fn denied_around(&self, prefix: Prefix) -> Option<Prefix> {
        let mut around = std::iter::successors(prefix.parent(), Prefix::parent);
        around.find(|prefix| self.deny.contains_key(prefix))
    }

    pub(super) fn list(&mut self, list: List, prefixes: &[Prefix]) {
        match list {
            List::Deny => {
                let denial = Denial { configured: true, banned: None };
                self.deny.extend(prefixes.iter().map(|prefix| (*prefix, denial)));
            }
            List::Allow => self.allow.extend(prefixes),
        }
    }

    pub(super) fn unlist(&mut self, list: List, prefixes: &[Prefix]) {
        for prefix in prefixes {
            match list {
                List::Deny => drop(self.deny.remove(prefix)),
                List::Allow => drop(self.allow.remove(prefix)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::plan::{Limits, Planner};
    use proptest::prelude::*;

    fn prefix(text: &str) -> Prefix {
        text.parse().expect("a prefix")
    }

    fn set(list: &[&str]) -> Prefixes {
        Arc::new(list.iter().map(|text| prefix(text)).collect())
    }

    fn wanted(deny: &[&str], allow: &[&str]) -> Wanted {
        Wanted { deny: set(deny), allow: set(allow), ..Wanted::default() }
    }

    fn planner(capacity: u32) -> Planner {
        Planner::new(Installed::default(), Limits { prefixes: capacity, ..Limits::default() })
    }

    /// Plans and commits; the number of operations.
    fn reach(planner: &mut Planner, wanted: &Wanted) -> usize {
        let plan = planner.plan(wanted, &BTreeSet::new()).expect("it fits");
        let count = plan.ops.len();
        planner.commit(plan);
        count
    }

    fn carry(planner: &mut Planner, ops: impl IntoIterator<Item = MapOp>) {
        ops.into_iter().for_each(|op| planner.carried(&op));
    }

    #[test]
    fn a_reload_is_a_difference_and_lifts_no_ban() {
        let mut planner = planner(100);
        let [a, b, c] = ["198.51.100.0/24", "203.0.113.9", "2001:db8::/32"];
        reach(&mut planner, &wanted(&[a, b], &[]));
        let op = planner.ban(prefix(b), 500).expect("room");
        carry(&mut planner, [op]);
        let op = planner.ban(prefix(c), 0).expect("room");
        carry(&mut planner, [op]);
        let both = Denial { configured: true, banned: Some(500) };
        assert_eq!(planner.installed().deny[&prefix(b)], both);
        assert_eq!(reach(&mut planner, &wanted(&[a], &[])), 1, "only b changes");
        let deny = &planner.installed().deny;
        assert_eq!(deny[&prefix(b)], Denial { configured: false, banned: Some(500) });
        assert_eq!(deny.len(), 3);
        assert_eq!(reach(&mut planner, &wanted(&[a], &[])), 0, "an equal list of another file");
        assert_eq!(reach(&mut planner, &wanted(&[], &[])), 1);
        assert_eq!(planner.installed().deny.len(), 2, "both bans are left");
        assert_eq!(planner.expired_bans(500), [], "not before its end");
        let over = planner.expired_bans(501);
        carry(&mut planner, over);
        assert_eq!(planner.installed().deny.keys().collect::<Vec<_>>(), [&prefix(c)]);
        let lifted = planner.unban(prefix(c));
        carry(&mut planner, lifted);
        assert!(!planner.installed().has_lists());
        assert_eq!(planner.unban(prefix(c)), None);
    }

    #[test]
    fn the_files_entry_outlives_the_ban_beside_it() {
        let mut planner = planner(100);
        reach(&mut planner, &wanted(&["10.0.0.0/8"], &[]));
        assert_eq!(planner.unban(prefix("10.0.0.0/8")), None, "it was not banned");
        let op = planner.ban(prefix("10.0.0.0/8"), 7).expect("room");
        carry(&mut planner, [op]);
        let over = planner.expired_bans(8);
        carry(&mut planner, over);
        let denial = planner.installed().deny[&prefix("10.0.0.0/8")];
        assert_eq!(denial, Denial { configured: true, banned: None });
        let around = planner.installed().denied_around(prefix("10.1.2.3"));
        assert_eq!(around, Some(prefix("10.0.0.0/8")));
        assert_eq!(planner.installed().denied_around(prefix("10.0.0.0/8")), None);
        assert_eq!(planner.installed().denied_around(prefix("::10.1.2.3")), None);
    }

    #[test]
    fn the_allow_list_counts_only_while_it_is_whole() {
        let position = |ops: &[MapOp], wanted: fn(&MapOp) -> bool| ops.iter().position(wanted);
        let is_setting = |op: &MapOp| matches!(op, MapOp::SetConfig(_));
        let is_listed = |op: &MapOp| matches!(op, MapOp::AddPrefixes { .. });
        let is_unlisted = |op: &MapOp| matches!(op, MapOp::RemovePrefixes { .. });
        let mut planner = planner(100);
        let mut on = wanted(&[], &["198.51.100.0/24"]);
        on.settings.flags = lb_common::service::CONFIG_ALLOW_ONLY;
        let plan = planner.plan(&on, &BTreeSet::new()).expect("it fits");
        assert!(position(&plan.ops, is_listed) < position(&plan.ops, is_setting));
        planner.commit(plan);
        let plan = planner.plan(&wanted(&[], &[]), &BTreeSet::new()).expect("it fits");
        assert!(position(&plan.ops, is_setting) < position(&plan.ops, is_unlisted));
        assert!(position(&plan.ops, is_setting).is_some());
    }

    #[test]
    fn each_family_has_its_own_room_which_old_and_new_share() {
        let mut planner = planner(2);
        reach(&mut planner, &wanted(&["10.0.0.0/8", "11.0.0.0/8", "fd00::/8", "fe00::/8"], &[]));
        let error = planner.ban(prefix("12.0.0.0/8"), 0).expect_err("full").to_string();
        assert!(error.contains("the 2 of the deny list"), "{error}");
        planner.ban(prefix("10.0.0.0/8"), 0).expect("it is there already");
        let plan = planner.plan(&wanted(&["12.0.0.0/8"], &[]), &BTreeSet::new());
        assert!(plan.is_err(), "the old ones are there until the new one is");
        let plan =
            planner.plan(&wanted(&[], &["1.0.0.0/8", "2.0.0.0/8", "3.0.0.0/8"]), &BTreeSet::new());
        assert!(plan.expect_err("too many").to_string().contains("allow list"));
    }

    #[test]
    fn long_lists_go_in_batches() {
        let mut planner = planner(1 << 18);
        let many = |count: u32| -> Prefixes {
            let host = |n: u32| Prefix::new(std::net::Ipv4Addr::from_bits(n).into(), 32);
            Arc::new((0..count).filter_map(host).collect())
        };
        let wanted = Wanted { deny: many(100_000), ..Wanted::default() };
        assert_eq!(reach(&mut planner, &wanted), 100_000usize.div_ceil(BATCH));
        assert_eq!(planner.installed().deny.len(), 100_000);
        let fewer = Wanted { deny: many(99_990), ..Wanted::default() };
        assert_eq!(reach(&mut planner, &fewer), 1);
        assert_eq!(planner.installed().deny.len(), 99_990);
    }

    fn any_list() -> impl Strategy<Value = Prefixes> {
        let item = (0u32..6, 28u8..=32);
        let prefix = item.prop_filter_map("a prefix", |(n, len)| {
            Prefix::new(std::net::Ipv4Addr::from_bits(n << 1).into(), len)
        });
        prop::collection::btree_set(prefix, 0..8).prop_map(Arc::new)
    }

    proptest! {
        /// Whatever is banned and whatever files come: the file's part is the file's, the bans stay,
        /// and no prefix that is denied before and after is missing in between.
        #[test]
        fn files_and_bans_do_not_disturb_each_other(
            files in prop::collection::vec((any_list(), any_list()), 1..6),
            bans in prop::collection::vec((any_list(), 0u64..3), 1..6),
        ) {
            let mut planner = planner(100);
            let mut banned = std::collections::BTreeMap::new();
            for ((deny, allow), (list, until)) in files.iter().zip(&bans) {
                for prefix in list.iter() {
                    let op = planner.ban(*prefix, *until).expect("room");
                    planner.carried(&op);
                    banned.insert(*prefix, *until);
                }
                let before: BTreeSet<Prefix> = planner.installed().deny.keys().copied().collect();
                let wanted =
                    Wanted { deny: Arc::clone(deny), allow: Arc::clone(allow), ..Wanted::default() };
                let plan = planner.plan(&wanted, &BTreeSet::new()).expect("room");
                let mut model = planner.installed().clone();
                for op in &plan.ops {
                    model.apply(op, &mut Vec::new());
                    for prefix in before.intersection(deny).chain(banned.keys()) {
                        prop_assert!(model.deny.contains_key(prefix));
                    }
                }
                planner.commit(plan);
                let now = planner.installed();
                prop_assert_eq!(&now.allow, &**allow);
                let mut expected: std::collections::BTreeMap<Prefix, Denial> = banned
                    .iter()
                    .map(|(p, until)| (*p, Denial { configured: false, banned: Some(*until) }))
                    .collect();
                for prefix in deny.iter() {
                    expected.entry(*prefix).or_default().configured = true;
                }
                prop_assert_eq!(&now.deny, &expected);
            }
        }
    }
}
