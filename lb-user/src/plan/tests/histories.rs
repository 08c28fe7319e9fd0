//! Random sequences of wanted states, idle servers, refusals, failed writes and restarts.
//!
//! Must not know: single rules.

use super::checker::{Checker, fulfils};
use super::*;

/// One step of a history.
#[derive(Clone, Debug)]
struct Step {
    wanted: Wanted,
    /// Which of the leaving servers are idle, by bit.
    idle: u32,
    /// Which part of the plan is written, in hundredths; more than 100 is all of it.
    written: usize,
    restart: bool,
    /// Whether leaving servers get this next hop.
    hop: Option<u8>,
}

fn any_step() -> impl Strategy<Value = Step> {
    let parts = (any_wanted(), any::<u32>(), 0usize..500, prop::bool::weighted(0.1));
    (parts, prop::option::weighted(0.2, 0u8..3)).prop_map(
        |((wanted, idle, written, restart), hop)| Step { wanted, idle, written, restart, hop },
    )
}

fn run(steps: &[Step], limits: Limits) -> Result<(), String> {
    let mut planner = Planner::new(Installed::default(), limits);
    let mut checker = Checker::default();
    for step in steps {
        if step.restart {
            let (installed, defects) = Installed::adopt(adoption::export(planner.installed()));
            if !defects.is_empty() || installed != *planner.installed() {
                return Err(format!("adoption found {defects:?}"));
            }
            planner = Planner::new(installed, limits);
        }
        let mut wanted = step.wanted.clone();
        let hop = step.hop.map(link);
        let leaving = planner.leaving().clone();
        if hop.is_some() {
            wanted.leaving_hops = leaving.iter().map(|index| (*index, hop)).collect();
        }
        let idle = leaving.iter().filter(|index| step.idle >> (**index % 32) & 1 != 0);
        let idle: BTreeSet<u32> = idle.copied().collect();
        let before = planner.installed().clone();
        let Ok(plan) = planner.plan(&wanted, &idle) else {
            if *planner.installed() != before {
                return Err("a refused plan changed something".to_owned());
            }
            continue;
        };
        if step.written < 100 {
            let written = plan.ops.len() * step.written / 100;
            checker.follow(&before, &plan.ops[..written], limits)?;
            planner.commit_part(&plan, written);
            checker.holds(planner.installed(), limits)?;
            has_every_slot(&planner)?;
            continue;
        }
        let next = checker.follow(&before, &plan.ops, limits)?;
        planner.commit(plan);
        if next != *planner.installed() {
            return Err("the operations lead elsewhere".to_owned());
        }
        has_every_slot(&planner)?;
        fulfils(&next, &wanted)?;
        is_settled(&planner, &wanted)?;
        let (installed, defects) = Installed::adopt(adoption::export(&next));
        if installed != next || !defects.is_empty() {
            return Err(format!("adoption found {defects:?}"));
        }
        is_settled(&Planner::new(installed, limits), &wanted)?;
    }
    Ok(())
}

/// Each slot is in a table or free: none leaks.
fn has_every_slot(planner: &Planner) -> Result<(), String> {
    let mut regions = planner.regions.clone();
    regions.release();
    let tables = planner.installed.slots.values().map(|table| table.slots.len() as u64);
    match regions.available() + tables.sum::<u64>() {
        all if all == u64::from(planner.limits.slots) => Ok(()),
        other => Err(format!("{other} slots of {}", planner.limits.slots)),
    }
}

fn is_settled(planner: &Planner, wanted: &Wanted) -> Result<(), String> {
    let again = planner.plan(wanted, &BTreeSet::new()).map_err(|error| error.to_string())?;
    match again.ops.first() {
        None => Ok(()),
        Some(op) => Err(format!("the same once more is not nothing: {op:?}")),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    #[test]
    fn every_history_is_safe_at_every_operation(
        steps in prop::collection::vec(any_step(), 1..10),
    ) {
        run(&steps, SMALL).map_err(TestCaseError::fail)?;
    }

    #[test]
    fn limits_refuse_and_never_break(
        steps in prop::collection::vec(any_step(), 1..8),
        services in 1u32..6,
        real_servers in 1u32..10,
        slots in 0u32..1500,
    ) {
        run(&steps, Limits { services, real_servers, slots, ..SMALL }).map_err(TestCaseError::fail)?;
    }
}

#[test]
fn broken_plans_are_caught() {
    let mut planner = Planner::new(Installed::default(), SMALL);
    let commit = |planner: &mut Planner, services: &[WantedService], idle: &[u32]| {
        let plan = planner.plan(&wanted(services), &indices(idle)).expect("it fits");
        let (before, ops) = (planner.installed().clone(), plan.ops.clone());
        planner.commit(plan);
        (before, ops)
    };
    let one = service(&[0, 1], &[server(1, 1), server(2, 2)]);
    let other = service(&[2], &[server(3, 1)]);
    let (empty, install) = commit(&mut planner, &[one, other], &[]);
    let fewer = service(&[0, 1], &[server(1, 1)]);
    let (full, shrink) = commit(&mut planner, std::slice::from_ref(&fewer), &[]);
    let (rest, retire) = commit(&mut planner, &[fewer], &[1, 2]);
    let check = |before: &Installed, ops: &[MapOp]| {
        Checker::default().follow(before, ops, SMALL).map(|_| ()).map_err(|_| ())
    };
    for (before, ops) in [(&empty, &install), (&full, &shrink), (&rest, &retire)] {
        assert_eq!(check(before, ops), Ok(()));
    }
    // Last first; without any one of what services stand on; the retirement at once.
    let reversed: Vec<_> = install.iter().rev().cloned().collect();
    assert_eq!(check(&empty, &reversed), Err(()));
    for (place, op) in install.iter().enumerate() {
        let mut ops = install.clone();
        ops.remove(place);
        let needed = !matches!(
            op,
            MapOp::SetService { .. } | MapOp::ClearCounts { .. } | MapOp::ClearService { .. }
        );
        assert_eq!(check(&empty, &ops).is_err(), needed, "without {op:?}");
    }
    assert_eq!(check(&full, &retire), Err(()));
    // A table written over one that is being read.
    let over = shrink.iter().cloned().map(|op| match op {
        MapOp::WriteSlots { slots, .. } => MapOp::WriteSlots { base: 0, slots },
        op => op,
    });
    assert_eq!(check(&full, &over.collect::<Vec<_>>()), Err(()));
    // An element given to another server without a new generation.
    let same = retire.iter().cloned().map(|op| match op {
        MapOp::SetRealServer { index, mut value } => {
            value = RealServer { address: address(9), flags: RS_VALID, generation: 1, ..value };
            MapOp::SetRealServer { index, value }
        }
        op => op,
    });
    assert_eq!(check(&rest, &same.collect::<Vec<_>>()), Err(()));
}
