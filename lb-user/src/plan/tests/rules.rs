//! The planner's rules, one by one.
//!
//! Must not know: operations that a rule is not about.

use std::slice;

use lb_common::service::{RS_EXPIRED, RS_MSS_CLAMP, RS_NEXT_HOP, RS_RESET};

use super::*;

/// A planner that has installed these services.
fn installed(services: &[WantedService]) -> Planner {
    let mut planner = Planner::new(Installed::default(), SMALL);
    step(&mut planner, services, &[]);
    planner
}

/// Plans and commits.
fn step(planner: &mut Planner, services: &[WantedService], idle: &[u32]) -> Plan {
    let make =
        |planner: &Planner| planner.plan(&wanted(services), &indices(idle)).expect("it fits");
    let plan = make(planner);
    planner.commit(make(planner));
    plan
}

fn element(planner: &Planner, index: u32) -> RealServer {
    planner.installed().real_servers[&index]
}

#[test]
fn a_server_that_leaves_keeps_its_element_until_it_is_idle() {
    let both = [service(&[0], &[server(1, 1), server(2, 1)])];
    let one = [service(&[0], &[server(1, 1)])];
    let mut planner = installed(&both);
    // Idle as it leaves is not yet proof: a packet may have read the old table.
    let plan = step(&mut planner, &one, &[1]);
    assert_eq!(plan.changes.servers_left.len(), 1);
    assert_eq!((element(&planner, 1).generation, planner.leaving()), (1, &indices(&[1])));
    assert!(step(&mut planner, &one, &[]).ops.is_empty());
    let plan = step(&mut planner, &one, &[1]);
    assert!(matches!(plan.ops[0], MapOp::RetireTraffic { index: 1, service: 0 }));
    assert_eq!(plan.ops.len(), 2);
    assert_eq!(plan.changes.servers_retired.len(), 1);
    assert_eq!(planner.installed().freed, [(1, 2)].into());
    assert!(planner.leaving().is_empty());
    // The element's next user has a generation that neither the last one nor the free one had.
    step(&mut planner, &[service(&[0], &[server(1, 1), server(3, 1)])], &[]);
    assert_eq!((element(&planner, 1).address, element(&planner, 1).generation), (address(3), 3));
}

#[test]
fn a_server_that_comes_back_has_its_old_element() {
    let both = [service(&[0], &[server(1, 1), server(2, 1)])];
    let mut planner = installed(&both);
    let before = element(&planner, 1);
    step(&mut planner, &[service(&[0], &[server(1, 1)])], &[]);
    step(&mut planner, &both, &[1]);
    assert_eq!(element(&planner, 1), before);
    assert_eq!(planner.index_of(&key(0), &address(2), 80), Some(1));
    assert!(planner.leaving().is_empty());
}

#[test]
fn an_adopted_server_is_not_given_back_by_the_plan_that_finds_it_left() {
    let before = installed(&[service(&[0], &[server(1, 1), server(2, 1)])]);
    let mut planner = Planner::new(before.installed().clone(), SMALL);
    let one = [service(&[0], &[server(1, 1)])];
    let plan = step(&mut planner, &one, &[1]);
    assert_eq!((plan.changes.servers_left.len(), planner.leaving()), (1, &indices(&[1])));
    step(&mut planner, &one, &[1]);
    assert_eq!(planner.installed().freed, [(1, 2)].into());
}

#[test]
fn weight_0_keeps_the_element_and_leaves_the_tables() {
    let mut planner = installed(&[service(&[0], &[server(1, 1), server(2, 1)])]);
    let before = element(&planner, 1);
    step(&mut planner, &[service(&[0], &[server(1, 1), server(2, 0)])], &[1]);
    assert_eq!(element(&planner, 1), RealServer { weight: 0, ..before });
    let entry = planner.installed().services[&key(0)];
    assert_eq!((entry.slots.len, entry.maglev.len), (1, 251));
    step(&mut planner, &[service(&[0], &[server(1, 0), server(2, 0)])], &[]);
    let entry = planner.installed().services[&key(0)];
    assert_eq!((entry.slots.len, entry.maglev.len), (0, 0));
}

#[test]
fn expiry_renews_the_generation_once_and_after_the_tables() {
    let expired = WantedServer { expire: true, ..server(1, 0) };
    let mut planner = installed(&[service(&[0], &[server(1, 1), server(2, 1)])]);
    let plan = step(&mut planner, &[service(&[0], &[expired, server(2, 1)])], &[]);
    assert!(matches!(plan.ops.last(), Some(MapOp::SetRealServer { index: 0, .. })));
    assert_eq!((element(&planner, 0).generation, element(&planner, 0).flags), (2, 5));
    step(&mut planner, &[service(&[0], &[expired, server(2, 2)])], &[]);
    assert_eq!(element(&planner, 0).generation, 2);
    step(&mut planner, &[service(&[0], &[server(1, 1), server(2, 2)])], &[]);
    assert_eq!((element(&planner, 0).generation, element(&planner, 0).flags), (2, RS_VALID));
    step(&mut planner, &[service(&[0], &[expired, server(2, 2)])], &[]);
    assert_eq!(element(&planner, 0).flags & RS_EXPIRED, RS_EXPIRED);
    assert_eq!(element(&planner, 0).generation, 3);
}

#[test]
fn a_server_whose_connections_are_reset_is_expired_when_it_leaves() {
    let (old, hop) = (server(1, 1), WantedServer { next_hop: Some(link(1)), ..server(1, 1) });
    for (method, reset, generation, flags) in [
        (METHOD_NAT, true, 2, RS_VALID | RS_NEXT_HOP | RS_RESET | RS_EXPIRED),
        (METHOD_NAT, false, 1, RS_VALID | RS_NEXT_HOP),
        (METHOD_DR, true, 1, RS_VALID | RS_NEXT_HOP),
    ] {
        let with =
            |servers: &[WantedServer]| WantedService { method, reset, ..service(&[0], servers) };
        let mut planner = installed(&[with(&[hop, server(2, 1)])]);
        step(&mut planner, &[with(&[server(2, 1)])], &[]);
        assert_eq!(planner.leaving(), &indices(&[0]));
        let left = element(&planner, 0);
        assert_eq!((left.generation, left.flags), (generation, flags), "{method} {reset}");
        // It comes back, and its new connections are of its new life.
        step(&mut planner, &[with(&[old, server(2, 1)])], &[]);
        assert_eq!(element(&planner, 0).generation, generation);
        assert_eq!(element(&planner, 0).flags & RS_EXPIRED, 0);
    }
}

#[test]
fn another_method_is_another_server() {
    let nat = WantedService { method: METHOD_NAT, ..service(&[0], &[server(1, 1)]) };
    let mut planner = installed(&[service(&[0], &[server(1, 1)])]);
    step(&mut planner, &[nat], &[]);
    assert_eq!((element(&planner, 0).method, element(&planner, 1).method), (METHOD_DR, METHOD_NAT));
    assert_eq!(planner.leaving(), &indices(&[0]));
    assert_eq!(planner.index_of(&key(0), &address(1), 80), Some(1));
}

#[test]
fn a_changed_next_hop_is_one_write() {
    let hop = WantedServer { next_hop: Some(link(1)), ..server(1, 1) };
    let mut planner = installed(&[service(&[0], &[server(1, 1)])]);
    let plan = step(&mut planner, &[service(&[0], &[hop])], &[]);
    assert_eq!(plan.ops.len(), 1);
    assert_eq!(element(&planner, 0).flags, RS_VALID | RS_NEXT_HOP);
    let plan = step(&mut planner, &[service(&[0], &[server(1, 1)])], &[]);
    assert_eq!(plan.ops.len(), 1);
    assert_eq!(element(&planner, 0).next_hop, Link::zeroed());
}

#[test]
fn a_changed_path_is_one_write_and_a_tunnels_header_is_taken_off_it() {
    let on = |method, mtu, n| WantedService {
        method,
        mss_clamp: true,
        ..service(&[0], &[WantedServer { path: Path { mtu, source: address(n) }, ..server(1, 1) }])
    };
    let mut planner = installed(&[on(METHOD_TUNNEL, 1500, 1)]);
    assert_eq!(element(&planner, 0).mtu, 1480);
    assert_eq!(element(&planner, 0).tunnel_source, address(1));
    assert_eq!(element(&planner, 0).flags, RS_VALID | RS_MSS_CLAMP);
    assert_eq!(step(&mut planner, &[on(METHOD_TUNNEL, 1400, 1)], &[]).ops.len(), 1);
    assert_eq!(step(&mut planner, &[on(METHOD_TUNNEL, 1400, 2)], &[]).ops.len(), 1);
    assert_eq!((element(&planner, 0).mtu, element(&planner, 0).tunnel_source), (1380, address(2)));
    // Unknown stays unknown, and what 16 bits cannot say bounds no packet.
    step(&mut planner, &[on(METHOD_TUNNEL, 0, 2)], &[]);
    assert_eq!(element(&planner, 0).mtu, 0);
    let dr = installed(&[on(METHOD_DR, 70_000, 1)]);
    assert_eq!((element(&dr, 0).mtu, element(&dr, 0).tunnel_source), (u16::MAX, [0; 16]));
    assert_eq!(element(&dr, 0).flags, RS_VALID);
}

#[test]
fn leaving_servers_get_new_next_hops() {
    let mut planner = installed(&[service(&[0], &[server(1, 1)])]);
    let mut gone = wanted(&[]);
    gone.leaving_hops =
        [(0, (Some(link(1)), Path::default())), (5, (None, Path::default()))].into();
    let plan = planner.plan(&gone, &BTreeSet::new()).expect("it fits");
    planner.commit(plan);
    assert_eq!(element(&planner, 0).next_hop, link(1));
}

#[test]
fn a_removed_server_touches_its_own_service_only() {
    let one = service(&[0, 1], &[server(1, 1), server(2, 1)]);
    let other = service(&[2], &[server(1, 1), server(2, 1)]);
    let mut planner = installed(&[one, other.clone()]);
    let plan = step(&mut planner, &[service(&[0, 1], &[server(1, 1)]), other], &[]);
    let kinds = plan.ops.iter().map(|op| match op {
        MapOp::WriteSlots { .. } => "slots".to_owned(),
        MapOp::SetService { key, .. } => listen_name(key),
        op => format!("{op:?}"),
    });
    let kinds = kinds.collect::<Vec<_>>();
    assert_eq!(kinds, ["slots", "slots", "192.0.2.0:80/tcp", "192.0.2.0:81/tcp"]);
}

#[test]
fn a_service_keeps_its_id_by_any_of_its_keys() {
    let mut planner = installed(&[service(&[0], &[]), service(&[1, 2], &[server(1, 1)])]);
    let plan = step(&mut planner, &[service(&[4, 2], &[server(1, 1)])], &[]);
    assert_eq!(planner.installed().services[&key(4)].id, 1);
    assert_eq!(plan.changes.services_removed, [key(0)]);
    assert_eq!(plan.changes.services_changed, [key(4)]);
    // Its id is free at once for the next plan; that of a service with connections is not.
    let plan = step(&mut planner, &[service(&[5], &[])], &[]);
    assert_eq!(planner.installed().services[&key(5)].id, 0);
    assert_eq!(plan.changes.services_added, [key(5)]);
    step(&mut planner, &[service(&[5], &[]), service(&[4], &[])], &[]);
    assert_eq!(planner.installed().services[&key(4)].id, 2);
}

#[test]
fn an_address_stays_reachable_while_any_service_has_it() {
    let mut planner = installed(&[service(&[0], &[]), service(&[1], &[])]);
    assert_eq!(planner.installed().vips.len(), 1);
    step(&mut planner, &[service(&[1], &[])], &[]);
    assert_eq!((planner.installed().vips.len(), planner.installed().filter.len()), (1, 1));
    step(&mut planner, &[], &[]);
    // The filter's bit stays: connections of the service may still be open.
    assert_eq!((planner.installed().vips.len(), planner.installed().filter.len()), (0, 1));
}

#[test]
fn refusals_name_the_service_and_the_way_out() {
    let check = |limits: Limits, services: &[WantedService], expected: &[&str]| {
        let planner = Planner::new(Installed::default(), limits);
        let error = planner.plan(&wanted(services), &BTreeSet::new()).expect_err("too much");
        let said = error.to_string();
        assert!(expected.iter().all(|part| said.contains(part)), "{said}");
    };
    let two = service(&[0], &[server(1, 1), server(2, 1)]);
    check(
        Limits { slots: 100, ..SMALL },
        slice::from_ref(&two),
        &["192.0.2.0:80/tcp", "251", "fewer"],
    );
    check(
        Limits { real_servers: 1, ..SMALL },
        slice::from_ref(&two),
        &["192.0.2.0:80/tcp", "remove"],
    );
    check(Limits { services: 1, ..SMALL }, &[service(&[0, 4], &[])], &["2 listen", "remove"]);
    check(SMALL, &[two.clone(), two], &["192.0.2.0:80/tcp is listened on twice"]);
    check(SMALL, &[service(&[4], &[server(1, 1), server(1, 2)])], &["[2020:", "10.0.0.1:80 twice"]);
}

#[test]
fn generations_wrap_past_0() {
    assert_eq!([0, 1, 4094, 4095].map(next_generation), [1, 2, 4095, 1]);
}
