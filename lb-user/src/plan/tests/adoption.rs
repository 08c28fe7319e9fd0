//! A restart: maps that fit cost nothing, maps that contradict themselves are repaired.
//!
//! Must not know: how maps are read.

use lb_common::service::Region;

use super::checker::{Checker, fulfils};
use super::*;

/// The maps' content as a daemon would read it.
pub(super) fn export(installed: &Installed) -> Parts {
    let mut slots = Vec::new();
    for (base, table) in &installed.slots {
        slots.resize((*base as usize + table.slots.len()).max(slots.len()), 0);
        slots[*base as usize..][..table.slots.len()].copy_from_slice(&table.slots);
    }
    let free = installed.freed.iter().map(|(index, generation)| {
        (*index, RealServer { generation: *generation, ..RealServer::zeroed() })
    });
    Parts {
        services: installed.services.iter().map(|(key, entry)| (*key, *entry)).collect(),
        real_servers: installed.real_servers.iter().map(|(i, v)| (*i, *v)).chain(free).collect(),
        slots,
        filter: installed.filter.iter().map(|(word, bits)| (*word, *bits)).collect(),
        vips: installed.vips.iter().copied().collect(),
        timeouts: installed.timeouts.iter().map(|(i, v)| (*i, *v)).collect(),
        interfaces: installed.interfaces.iter().map(|(i, v)| (*i, *v)).collect(),
        virtual_macs: installed.virtual_macs.iter().copied().collect(),
        settings: installed.settings,
        deny: installed.deny.iter().map(|(prefix, denial)| (*prefix, *denial)).collect(),
        allow: installed.allow.iter().copied().collect(),
    }
}

/// Damage to one place: which, and by what.
fn damage(parts: &mut Parts, (kind, place, value): (u8, usize, u32)) {
    fn at<T>(list: &mut [T], place: usize) -> Option<&mut T> {
        let len = list.len();
        list.get_mut(place.checked_rem(len)?)
    }
    if let Some((_, entry)) = at(&mut parts.services, place) {
        match kind {
            0 => entry.id = value,
            1 => entry.maglev = Region { base: value % 2000, len: 300 },
            2 => entry.slots = Region { base: value, len: u32::MAX },
            3 => entry.scheduler = value,
            _ => {}
        }
    }
    if let Some((index, server)) = at(&mut parts.real_servers, place) {
        match kind {
            4 => *index = value,
            5 => server.generation = value as u16,
            6 => server.flags = value,
            7 => server.service = value,
            _ => {}
        }
    }
    match kind {
        8 => parts.slots.iter_mut().skip(place).take(3).for_each(|slot| *slot = value),
        9 => parts.slots.truncate(place),
        10 => parts.vips.truncate(place % 3),
        // Any router, and one that does not exist.
        12 => parts.virtual_macs = [value, 0].map(VirtualMac::of_index).to_vec(),
        11 => parts.filter = vec![(value % 1024, u64::from(value))],
        _ => {}
    }
}

proptest! {
    #[test]
    fn damaged_maps_are_repaired(
        first in any_wanted(),
        then in any_wanted(),
        damages in prop::collection::vec(
            (0u8..13, 0usize..3000, prop_oneof![0u32..20, any::<u32>()]), 1..4),
    ) {
        let limits = Limits::default();
        let mut planner = Planner::new(Installed::default(), limits);
        planner.commit(planner.plan(&first, &BTreeSet::new()).expect("it fits"));
        let mut parts = export(planner.installed());
        damages.into_iter().for_each(|what| damage(&mut parts, what));
        let (installed, _) = Installed::adopt(parts);
        let mut planner = Planner::new(installed, limits);
        for wanted in [&first, &then] {
            planner.commit(planner.plan(wanted, &BTreeSet::new()).expect("it fits"));
            fulfils(planner.installed(), wanted).map_err(TestCaseError::fail)?;
            let again = planner.plan(wanted, &BTreeSet::new()).expect("it fits");
            prop_assert!(again.ops.is_empty(), "{:?}", again.ops);
        }
        let mut checker = Checker::default();
        checker.holds(planner.installed(), limits).map_err(TestCaseError::fail).or_else(|fault| {
            // Elements that nobody wants keep a generation that is none until they are retired.
            if format!("{fault}").contains("generation") { Ok(()) } else { Err(fault) }
        })?;
    }
}

#[test]
fn defects_are_told() {
    let mut planner = Planner::new(Installed::default(), SMALL);
    let services = [service(&[0], &[server(1, 1)]), service(&[2], &[server(2, 1)])];
    planner.commit(planner.plan(&wanted(&services), &BTreeSet::new()).expect("it fits"));
    let check = |change: &dyn Fn(&mut Parts), expected: &str| {
        let mut parts = export(planner.installed());
        change(&mut parts);
        let (_, defects) = Installed::adopt(parts);
        let told: Vec<_> = defects.iter().map(ToString::to_string).collect();
        assert!(told.iter().any(|told| told.contains(expected)), "{told:?}");
    };
    check(&|parts| parts.services[0].1.id = MAX_SERVICES, "out of range");
    check(&|parts| parts.services[0].1.slots.base = u32::MAX, "beyond the slot array");
    check(&|parts| parts.services[1].1.slots.len = 2, "another table shares");
    check(&|parts| parts.slots[0] = 7, "names real server 7, which is not in use");
    check(&|parts| parts.real_servers[0].1.generation = 0, "has generation 0");
    check(&|parts| parts.real_servers[0].0 = 1 << 20, "real server 1048576 is out of range");
}
