//! What schedulers make of tables: what a weight costs, what a failure moves, what two directors
//! have in common.
//!
//! Must not know: the kernel.

use lb_common::hash::{self, FLOW_SEED};

use super::*;

fn one(scheduler: Scheduler, servers: &[WantedServer]) -> [WantedService; 1] {
    [WantedService { scheduler, ..service(&[0], servers) }]
}

/// A planner that went through these states of one service.
fn after(scheduler: Scheduler, history: &[Vec<WantedServer>]) -> Planner {
    let mut planner = Planner::new(Installed::default(), Limits::default());
    for servers in history {
        plan(&mut planner, scheduler, servers);
    }
    planner
}

fn plan(planner: &mut Planner, scheduler: Scheduler, servers: &[WantedServer]) -> Vec<MapOp> {
    let wanted = wanted(&one(scheduler, servers));
    let plan = planner.plan(&wanted, &BTreeSet::new()).expect("it fits");
    let ops = plan.ops.clone();
    planner.commit(plan);
    ops
}

/// The service's tables: what the scheduler chooses from, and the Maglev table.
fn tables(planner: &Planner) -> [Vec<u32>; 2] {
    let entry = planner.installed().services[&key(0)];
    let read = |region: Region| match region.len {
        0 => Vec::new(),
        _ => planner.installed().table(region).expect("a whole table").slots.to_vec(),
    };
    [read(entry.slots), read(entry.maglev)]
}

fn ten() -> Vec<WantedServer> {
    (0..10).map(|number| server(number, 1 + u32::from(number % 3))).collect()
}

/// It failed, and `on_failure` is remove.
fn removed(server: &WantedServer) -> WantedServer {
    WantedServer { weight: 0, place: None, expire: true, ..*server }
}

/// It failed, and `on_failure` is quiesce.
fn quiesced(server: &WantedServer) -> WantedServer {
    WantedServer { weight: 0, ..*server }
}

#[test]
fn a_weight_of_lc_and_wlc_is_one_write() {
    for scheduler in [Scheduler::Lc, Scheduler::Wlc] {
        let mut planner = after(scheduler, &[ten()]);
        let before = tables(&planner);
        assert_eq!((before[0].len(), before[1].len()), (10, 1021));
        for weight in [7, 0, 1] {
            let mut servers = ten();
            servers[4] = server(4, weight);
            let ops = plan(&mut planner, scheduler, &servers);
            let [MapOp::SetRealServer { index: 4, value }] = ops.as_slice() else {
                panic!("{scheduler:?} {weight}: {ops:?}");
            };
            assert_eq!(value.weight, weight);
        }
        assert_eq!(tables(&planner), before);
    }
}

#[test]
fn a_quiesced_server_keeps_its_place_where_flows_are_hashed() {
    for scheduler in [Scheduler::Lc, Scheduler::Wlc, Scheduler::Sh, Scheduler::Mh] {
        let mut planner = after(scheduler, &[ten()]);
        let mut servers = ten();
        servers[3] = quiesced(&servers[3]);
        let ops = plan(&mut planner, scheduler, &servers);
        assert!(matches!(ops.as_slice(), [MapOp::SetRealServer { index: 3, .. }]), "{ops:?}");
    }
    // rr and wrr have no turn for it.
    let mut planner = after(Scheduler::Wrr, &[ten()]);
    let mut servers = ten();
    servers[3] = quiesced(&servers[3]);
    plan(&mut planner, Scheduler::Wrr, &servers);
    assert!(!tables(&planner)[0].contains(&3));
}

#[test]
fn a_removed_server_of_ten_moves_few_flows() {
    for scheduler in [Scheduler::Sh, Scheduler::Mh] {
        let equal: Vec<_> = (0..10).map(|number| server(number, 1)).collect();
        let [_, before] = tables(&after(scheduler, std::slice::from_ref(&equal)));
        for gone in 0..10 {
            let (mut failed, mut left) = (equal.clone(), equal.clone());
            failed[gone] = removed(&failed[gone]);
            left.remove(gone);
            for fewer in [failed, left] {
                let [_, then] = tables(&after(scheduler, &[equal.clone(), fewer]));
                assert_eq!(before.len(), then.len());
                let moved = (0..10_000u32).filter(|flow| {
                    let source = mapped(flow.wrapping_mul(0x9e37_79b9).to_be_bytes());
                    let hash = hash::address(FLOW_SEED, &source, 0);
                    let slot = hash::slot(hash, then.len() as u32) as usize;
                    assert_ne!(then[slot], gone as u32);
                    before[slot] != then[slot]
                });
                // A tenth has to move; 12 % is the most that may.
                let moved = moved.count();
                assert!((900..=1200).contains(&moved), "{scheduler:?} {gone}: {moved} of 10,000");
            }
        }
    }
}

#[test]
fn tables_follow_from_the_file_and_from_who_is_up_not_from_what_happened() {
    let all = ten();
    let down = |gone: &[usize]| {
        let mut servers = all.clone();
        gone.iter().for_each(|&gone| servers[gone] = removed(&servers[gone]));
        servers
    };
    for scheduler in [Scheduler::Sh, Scheduler::Mh, Scheduler::Wlc, Scheduler::Wrr] {
        let one = after(scheduler, &[all.clone(), down(&[2]), down(&[2, 7]), down(&[7])]);
        let other = after(scheduler, &[down(&[0, 1, 7]), down(&[7, 9]), all.clone(), down(&[7])]);
        assert_eq!(tables(&one), tables(&other), "{scheduler:?}");
        // Had the removed ones moved others for good, or weights been forgotten, these would be equal.
        assert_ne!(tables(&one), tables(&after(scheduler, std::slice::from_ref(&all))));
    }
    // The order in the file names other indices; the identities in the slots stay.
    let mut turned = all.clone();
    turned.reverse();
    let identities = |planner: &Planner| -> Vec<Address> {
        let [_, maglev] = tables(planner);
        maglev.iter().map(|index| planner.installed().real_servers[index].address).collect()
    };
    let (one, other) = (after(Scheduler::Mh, &[all]), after(Scheduler::Mh, &[turned]));
    assert_eq!(identities(&one), identities(&other));
}
