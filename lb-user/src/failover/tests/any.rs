//! Whatever two files say, one node is enough to own the addresses, and two are not too many.
//!
//! Pairs of files with several instances, weights and sync groups at random; `PROPTEST_CASES=N`
//! runs N of them instead of the few that keep the tests quick.
//!
//! Must not know: rules of priority.

use super::report;
use crate::failover::Kind;
use proptest::prelude::*;

#[derive(Clone, Debug)]
struct Member {
    priorities: [u8; 2],
    weights: [i16; 2],
    preempt: [bool; 2],
    grouped: bool,
}

fn member() -> impl Strategy<Value = Member> {
    let priority = || prop_oneof![Just(1u8), Just(100), Just(101), Just(254), Just(255), 1..=255u8];
    let weight = || prop_oneof![Just(0i16), Just(-2), Just(20), -253..=253i16];
    ([priority(), priority()], [weight(), weight()], [any::<bool>(), any::<bool>()], any::<bool>())
        .prop_map(|(priorities, weights, preempt, grouped)| Member {
            priorities,
            weights,
            preempt,
            grouped,
        })
}

/// One node's file. `with_groups` says whether it has the group at all.
fn file(members: &[Member], node: usize, with_groups: bool) -> String {
    let mut scripts = String::new();
    let mut instances = String::new();
    for (n, member) in members.iter().enumerate() {
        let (weight, priority) = (member.weights[node], member.priorities[node]);
        let preempt = member.preempt[node];
        scripts.push_str(&format!("s{n}: {{command: [/bin/check], weight: {weight}}}, "));
        instances.push_str(&format!(
            "{{name: i{n}, interface: eth{n}, virtual_router_id: {}, addresses: [192.0.2.{}], priority: \
             {priority}, preempt: {preempt}, track: {{scripts: [s{n}]}}}}, ",
            n + 1,
            n + 1
        ));
    }
    let grouped = members.iter().enumerate().filter(|(_, member)| member.grouped);
    let grouped: Vec<_> = grouped.map(|(n, _)| format!("i{n}")).collect();
    let groups = if with_groups && !grouped.is_empty() {
        format!("sync_groups: [{{name: G, instances: [{}]}}]", grouped.join(", "))
    } else {
        String::new()
    };
    format!("vrrp: {{scripts: {{{scripts}}}, instances: [{instances}], {groups}}}\n")
}

fn cases() -> ProptestConfig {
    let default = ProptestConfig { failure_persistence: None, ..ProptestConfig::default() };
    if std::env::var_os("PROPTEST_CASES").is_some() {
        return default;
    }
    ProptestConfig { cases: 24, ..default }
}

proptest! {
    #![proptest_config(cases())]

    #[test]
    fn a_single_failure_leaves_one_owner(
        members in prop::collection::vec(member(), 1..4),
        alike in any::<bool>(),
    ) {
        let report = report([&file(&members, 0, true), &file(&members, 1, alike)]);
        prop_assert_eq!(report.instances.len(), members.len());
        for instance in &report.instances {
            for case in &instance.cases {
                let owners = [&case.owner_before, &case.owner, &case.owner_after_repair];
                // A group of one node only can keep that node from what the other one cannot own.
                let allowed: &[&str] = if alike { &["a", "b", "tie"] } else { &["a", "b", "tie", "nobody"] };
                prop_assert!(owners.iter().all(|owner| allowed.contains(&owner.as_str())), "{:?}", case);
                if let (Some(node), "node") = (&case.node, case.kind) {
                    prop_assert!(case.owner != *node && case.owner != "tie", "{:?}", case);
                }
                for (at, name) in ["a", "b"].into_iter().enumerate() {
                    prop_assert!(case.owner != name || case.standings[at] == "fit", "{:?}", case);
                }
            }
        }
        // What no rule explains is never said where each node hears the other one.
        let odd = report.findings.iter().find(|f| f.kind == Kind::Error && f.message.contains(": then "));
        prop_assert!(!alike || odd.is_none(), "{:?}", odd);
    }
}
