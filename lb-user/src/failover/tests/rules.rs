//! Who owns the addresses, by rules of a few lines: what an operator would say, against what the
//! state machines do, for many small configurations.
//!
//! Must not know: timers, adverts.

use super::super::{Owner, either};
use super::{file, report};

/// One node: its priority while well, and while its script fails; `None` is a fault.
#[derive(Clone, Copy, Debug)]
struct Rules {
    well: u8,
    failing: Option<u8>,
    preempt: bool,
}

/// Rules that are wrong on purpose, to see that the comparison finds them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    None,
    /// A backup of equal priority takes over.
    EqualTakesOver,
    /// Everybody preempts.
    PreemptIgnored,
    /// A failing condition only lowers the priority.
    ConditionIsAWeight,
    /// Sums go beyond 254.
    NoClamp,
}

/// The next master. `before` is the one until now, `higher` the node of the higher address.
fn next(
    before: Option<usize>,
    priorities: [Option<u8>; 2],
    preempt: [bool; 2],
    higher: usize,
    fault: Fault,
) -> Option<usize> {
    let [Some(one), Some(other)] = priorities else {
        return (0..2).find(|&node| priorities[node].is_some());
    };
    let Some(master) = before.filter(|&node| priorities[node].is_some()) else {
        return Some(match one.cmp(&other) {
            std::cmp::Ordering::Greater => 0,
            std::cmp::Ordering::Less => 1,
            std::cmp::Ordering::Equal => higher,
        });
    };
    let (own, rival) = if master == 0 { (one, other) } else { (other, one) };
    let preempts = preempt[1 - master] || rival == 255 || fault == Fault::PreemptIgnored;
    let better = rival > own || (fault == Fault::EqualTakesOver && rival == own);
    Some(if better && preempts { 1 - master } else { master })
}

/// The owner after the script of `node` fails, and after it is well again.
fn course(rules: [Rules; 2], node: usize, fault: Fault) -> (Owner, Owner, Owner) {
    let run = |higher: usize| {
        let preempt = rules.map(|rules| rules.preempt);
        let well = rules.map(|rules| Some(rules.well));
        let mut failing = well;
        failing[node] = rules[node].failing;
        let start = next(None, well, preempt, higher, fault);
        let after = next(start, failing, preempt, higher, fault);
        // One that was in fault comes back as a backup of whoever is master.
        let repaired = next(after, well, preempt, higher, fault);
        [start, after, repaired].map(|owner| owner.map_or(Owner::Nobody, Owner::Node))
    };
    let [start, after, repaired] = std::array::from_fn(|at| either(run(0)[at], run(1)[at]));
    (start, after, repaired)
}

fn rules(priority: u8, weight: i16, preempt: bool, fault: Fault) -> Rules {
    let most = if fault == Fault::NoClamp { 255 } else { 254 };
    let sum = |part: i16| (i16::from(priority) + part).clamp(1, most) as u8;
    let (well, failing) = match (priority, weight) {
        (_, 0) if fault == Fault::ConditionIsAWeight => (priority, Some(1)),
        (_, 0) => (priority, None),
        (255, _) => (255, Some(255)),
        (_, weight) if weight > 0 => (sum(weight), Some(priority)),
        (_, weight) => (priority, Some(sum(weight))),
    };
    Rules { well, failing, preempt }
}

fn shown(owner: Owner) -> &'static str {
    match owner {
        Owner::Node(0) => "a",
        Owner::Node(_) => "b",
        Owner::Nobody => "nobody",
        Owner::Both => "both",
        Owner::Tie => "tie",
    }
}

/// Configurations in which rules and machines disagree, at most `most` of them.
fn disagreements(fault: Fault, most: usize) -> Vec<String> {
    let mut found = Vec::new();
    for (one, other) in
        [(100, 100), (105, 100), (100, 150), (254, 253), (255, 100), (250, 245), (2, 1), (100, 255)]
    {
        for weight in [0, -2, -10, -60, 5, 60] {
            if found.len() >= most {
                return found;
            }
            for (preempt, delay) in [
                ([true, true], ""),
                ([false, true], ""),
                ([true, false], ""),
                ([false; 2], ""),
                ([true, true], ", preempt_delay: 30s"),
            ] {
                let more = |preempt: bool| format!(", preempt: {preempt}{delay}");
                let files =
                    [file(one, weight, &more(preempt[0])), file(other, weight, &more(preempt[1]))];
                let report = report(files.each_ref().map(String::as_str));
                let rules = [(one, preempt[0]), (other, preempt[1])]
                    .map(|(priority, preempt)| rules(priority, weight, preempt, fault));
                for (node, name) in ["a", "b"].into_iter().enumerate() {
                    let (start, after, repaired) = course(rules, node, fault);
                    let failure = format!("{name}: script chk fails");
                    let cases = &report.instances[0].cases;
                    let case = cases.iter().find(|case| case.failure == failure).unwrap();
                    let machines = [&case.owner_before, &case.owner, &case.owner_after_repair];
                    let expected = [start, after, repaired].map(shown);
                    if machines != expected {
                        found.push(format!(
                            "{one} {other} {weight} {preempt:?}{delay}: {failure}: {machines:?}, by the rules {expected:?}"
                        ));
                    }
                }
            }
        }
    }
    found
}

#[test]
fn the_machines_do_what_the_rules_say() {
    let found = disagreements(Fault::None, 20);
    assert!(found.is_empty(), "{}", found.join("\n"));
}

#[test]
fn a_wrong_rule_is_found() {
    for fault in
        [Fault::EqualTakesOver, Fault::PreemptIgnored, Fault::ConditionIsAWeight, Fault::NoClamp]
    {
        assert!(!disagreements(fault, 1).is_empty(), "{fault:?}");
    }
}
