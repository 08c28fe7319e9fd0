//! What is asked of `lb`: every scenario against keepalived in both roles, and against itself.
//!
//! Must not know: how a router works.

use crate::vrrp::stage::{VIP, instance, owns, stays};
use crate::vrrp::{SCENARIOS, run};
use harness::pair::{self, address};
use harness::vrrp::capture::Capture;
use harness::vrrp::forge::Forged;
use harness::vrrp::instance::{Instance, Setup};
use harness::vrrp::router::Make::{self, Keepalived, Lb};
use harness::vrrp::router::Router;
use harness::wait::{eventually, seconds};

/// One test for each scenario and each of the pairs.
macro_rules! asked {
    ($($module:ident: $makes:expr => [$($name:ident),* $(,)?];)*) => {
        $(mod $module {
            use super::*;
            $(#[test]
            fn $name() {
                super::named(stringify!($name), $makes);
            })*
        })*
        /// What is asked in some role.
        const ASKED: &[&str] = &[$($(stringify!($name)),*),*];
    };
}

asked! {
    against_keepalived: [Lb, Keepalived] => [
        the_higher_priority_is_master_v2,
        the_higher_priority_is_master_v3,
        the_higher_priority_is_master_ipv6,
        the_higher_priority_is_master_unicast,
        the_masters_interval_counts,
        a_stop_hands_over_at_once,
        a_stop_hands_over_at_once_v2,
        a_silent_death_is_taken_over_in_time,
        a_silent_death_is_taken_over_in_time_v2,
        a_lost_carrier_moves_the_address,
        a_frozen_master_is_replaced,
        a_returning_master_preempts,
        without_preemption_the_backup_stays,
        preemption_waits_for_its_delay,
        of_equal_priorities_the_higher_address_wins,
        two_instances_share_the_nodes,
        a_split_brain_heals,
        wrong_adverts_change_nothing,
        wrong_adverts_change_nothing_v2,
        a_failing_script_moves_the_address,
        a_failing_condition_is_a_fault,
        a_group_moves_together,
        a_hanging_program_hinders_nothing,
        a_deaf_mail_server_hinders_nothing,
    ];
    under_keepalived: [Keepalived, Lb] => [
        the_higher_priority_is_master_v2,
        the_higher_priority_is_master_v3,
        the_higher_priority_is_master_ipv6,
        the_higher_priority_is_master_unicast,
        the_masters_interval_counts,
        a_stop_hands_over_at_once,
        a_stop_hands_over_at_once_v2,
        a_silent_death_is_taken_over_in_time,
        a_silent_death_is_taken_over_in_time_v2,
        a_lost_carrier_moves_the_address,
        a_frozen_master_is_replaced,
        a_returning_master_preempts,
        without_preemption_the_backup_stays,
        preemption_waits_for_its_delay,
        of_equal_priorities_the_higher_address_wins,
        two_instances_share_the_nodes,
        a_split_brain_heals,
        a_group_moves_together,
        transitions_are_told_in_order,
        transitions_are_mailed,
    ];
    beside_itself: [Lb, Lb] => [
        the_higher_priority_is_master_v3,
        the_higher_priority_is_master_ipv6,
        a_stop_hands_over_at_once,
        a_silent_death_is_taken_over_in_time,
        two_instances_share_the_nodes,
        a_split_brain_heals,
        no_false_transition_under_load,
    ];
}

fn named(name: &str, makes: [Make; 2]) {
    let scenario = SCENARIOS.iter().find(|(other, _)| *other == name);
    let (_, scenario) = scenario.unwrap_or_else(|| panic!("no scenario {name}"));
    run(name, *scenario, makes);
}

/// keepalived 2.2.7 drops an advert with another list, and becomes a second master.
#[test]
fn another_list_of_addresses_makes_no_second_master() {
    pair::scenario(0, |pair| {
        let capture = Capture::start(pair)?;
        let more = Instance::new("VI_1", 150, &[VIP, address::OTHER_VIP[0]]);
        let _a = Router::start(Keepalived, &pair.a, &Setup::one(more))?;
        let _b = Router::start(Lb, &pair.b, &Setup::one(instance()))?;
        owns(&pair.a, &pair.b, VIP)?;
        stays(&capture, [&pair.a, &pair.b], VIP, instance().down_interval() * 4)
    });
}

/// RFC 9568 section 5.2.8 has no pseudo-header in IPv4; keepalived puts one in. Both are believed.
#[test]
fn a_checksum_without_a_pseudo_header_is_right_too() {
    pair::scenario(0, |pair| {
        let _a = Router::start(Lb, &pair.a, &Setup::one(instance()))?;
        eventually(seconds(5), "A is master", || pair.a.holds(VIP))?;
        let advert = Forged::version3("10.0.1.9".parse()?, 200, &[VIP.parse()?]);
        Forged { pseudo_header: false, ..advert }.send(&pair.client)?;
        eventually(seconds(2), "A gives way", || Ok(!pair.a.holds(VIP)?))
    });
}

#[test]
fn every_scenario_is_asked() {
    let forgotten = SCENARIOS.iter().map(|(name, _)| name).find(|name| !ASKED.contains(name));
    assert_eq!(forgotten, None);
}
