//! Virtual routers: two nodes of either make, and what each does when something happens.
//!
//! A scenario is a function of a pair of nodes and the makes of their routers, so that what is
//! asked of `lb` is also asked of keepalived: a scenario that keepalived fails is wrong, or says
//! more than the protocol does. Here a few run with two keepalived; `LB_VRRP=TEXT` runs those whose
//! name has TEXT in it, `LB_VRRP=all` all.
//!
//! Must not know: how a router works.

mod control;
mod crash;
mod election;
mod handover;
mod intruder;
mod lb;
mod logs;
mod preemption;
mod rig;
mod service;
mod split;
mod stage;
mod strain;
mod survival;
mod told;
mod tracking;

use anyhow::{Context, Result};
use harness::pair::{self, Pair};
use harness::vrrp::router::{Fault, Make};

/// What is asked of two routers.
type Scenario = fn(&Pair, [Make; 2]) -> Result<()>;

/// Every scenario with its name.
const SCENARIOS: &[(&str, Scenario)] = &[
    ("the_higher_priority_is_master_v2", election::version2),
    ("the_higher_priority_is_master_v3", election::version3),
    ("the_higher_priority_is_master_ipv6", election::ipv6),
    ("the_higher_priority_is_master_unicast", election::unicast),
    ("the_masters_interval_counts", election::other_interval),
    ("a_stop_hands_over_at_once", handover::stop),
    ("a_stop_hands_over_at_once_v2", handover::stop_version2),
    ("a_silent_death_is_taken_over_in_time", handover::silent_death),
    ("a_silent_death_is_taken_over_in_time_v2", handover::silent_death_version2),
    ("a_lost_carrier_moves_the_address", handover::lost_carrier),
    ("a_frozen_master_is_replaced", handover::frozen),
    ("a_returning_master_preempts", preemption::preempts),
    ("without_preemption_the_backup_stays", preemption::nopreempt),
    ("preemption_waits_for_its_delay", preemption::delay),
    ("of_equal_priorities_the_higher_address_wins", preemption::tie),
    ("two_instances_share_the_nodes", preemption::dual_master),
    ("a_split_brain_heals", split::multicast),
    ("wrong_adverts_change_nothing", intruder::version3),
    ("wrong_adverts_change_nothing_v2", intruder::version2),
    ("a_failing_script_moves_the_address", tracking::weighted),
    ("a_failing_condition_is_a_fault", tracking::fault),
    ("a_group_moves_together", tracking::group),
    ("transitions_are_told_in_order", told::notified),
    ("a_hanging_program_hinders_nothing", told::hanging),
    ("transitions_are_mailed", told::mailed),
    ("a_deaf_mail_server_hinders_nothing", told::deaf_mail_server),
    ("no_false_transition_under_load", strain::busy),
];

/// Those that are worth their time in every run.
const DAILY: [&str; 3] = [
    "the_higher_priority_is_master_v3",
    "a_silent_death_is_taken_over_in_time",
    "wrong_adverts_change_nothing",
];

/// Faults by the scenario that has to find them, at A and at B, and what it has to say of them: one that
/// fails for another reason has found nothing.
const FAULTS: &[(&str, [Make; 2], &str)] = &[
    (
        "the_higher_priority_is_master_v3",
        [Make::Faulty(Fault::OtherPriority), OTHER],
        "priority: 149",
    ),
    (
        "the_higher_priority_is_master_v3",
        [Make::Faulty(Fault::Slow), OTHER],
        "in two down intervals",
    ),
    ("the_higher_priority_is_master_v3", [Make::Faulty(Fault::Quiet), OTHER], "was announced"),
    ("the_higher_priority_is_master_v3", [OTHER, Make::Faulty(Fault::OtherVrid)], "A alone has"),
    ("the_masters_interval_counts", [OTHER, Make::Faulty(Fault::OtherVrid)], "A alone has"),
    ("a_stop_hands_over_at_once", [Make::Faulty(Fault::Rude), OTHER], "a goodbye"),
    ("a_stop_hands_over_at_once", [OTHER, Make::Faulty(Fault::Quiet)], "B does not announce it"),
    (
        "a_silent_death_is_taken_over_in_time",
        [Make::Faulty(Fault::Slow), OTHER],
        "the take-over took",
    ),
    (
        "a_silent_death_is_taken_over_in_time",
        [OTHER, Make::Faulty(Fault::OtherVrid)],
        "B did not wait",
    ),
    ("without_preemption_the_backup_stays", [Make::Faulty(Fault::Preempts), OTHER], "B alone has"),
    (
        "preemption_waits_for_its_delay",
        [Make::Faulty(Fault::Impatient), OTHER],
        "A preempted before",
    ),
    (
        "of_equal_priorities_the_higher_address_wins",
        [OTHER, Make::Faulty(Fault::OtherPriority)],
        "B alone has",
    ),
    ("a_split_brain_heals", [OTHER, Make::Faulty(Fault::OtherVrid)], "A alone has"),
    (
        "wrong_adverts_change_nothing",
        [Make::Faulty(Fault::OtherVrid), OTHER],
        "another VRID was believed",
    ),
    ("a_failing_script_moves_the_address", [Make::Faulty(Fault::Untracked), OTHER], "B alone has"),
    ("a_failing_condition_is_a_fault", [Make::Faulty(Fault::Untracked), OTHER], "a goodbye"),
    ("a_group_moves_together", [Make::Faulty(Fault::Untracked), OTHER], "B alone has"),
    ("transitions_are_told_in_order", [OTHER, Make::Faulty(Fault::Untold)], "told is complete"),
    ("transitions_are_mailed", [OTHER, Make::Faulty(Fault::Untold)], "only these came"),
    ("a_deaf_mail_server_hinders_nothing", [Make::Faulty(Fault::Untold), OTHER], "is tried"),
];
const OTHER: Make = Make::Keepalived;

#[test]
fn planted_faults_are_found_out() {
    for (name, makes, reason) in FAULTS.iter().filter(|(name, ..)| chosen(name)) {
        let scenario = SCENARIOS.iter().find(|(other, _)| other == name);
        let (_, scenario) = scenario.unwrap_or_else(|| panic!("no scenario {name}"));
        let pair = Pair::new(0).unwrap_or_else(|error| panic!("no lab: {error:#}"));
        match found(scenario(&pair, *makes), reason) {
            Ok(said) => eprintln!("{name}, {makes:?}: {said}"),
            Err(why) => panic!("{name}, {makes:?}: {why}"),
        }
    }
}

/// What a scenario said of a fault, if that was its reason to fail.
fn found(outcome: Result<()>, reason: &str) -> Result<String, String> {
    match outcome.map_err(|error| format!("{error:#}")) {
        Ok(()) => Err("the fault was not noticed".into()),
        Err(said) if said.contains(reason) => Ok(said),
        Err(said) => Err(format!("it failed for another reason than {reason:?}: {said}")),
    }
}

#[test]
fn a_failure_for_another_reason_finds_nothing() {
    let failed = || Err(anyhow::anyhow!("keepalived does not start").context("B"));
    assert_eq!(found(failed(), "does not start"), Ok("B: keepalived does not start".into()));
    assert!(found(failed(), "A alone has").is_err_and(|why| why.contains("another reason")));
    assert!(found(Ok(()), "").is_err());
}

#[test]
fn what_is_asked_of_a_router_holds_between_two_keepalived() {
    for (name, scenario) in SCENARIOS.iter().filter(|(name, _)| chosen(name)) {
        eprintln!("{name}");
        run(name, *scenario, [Make::Keepalived; 2]);
    }
}

/// Whether a scenario is to be run between two keepalived.
fn chosen(name: &str) -> bool {
    match std::env::var("LB_VRRP").ok().as_deref() {
        None => DAILY.contains(&name),
        Some("all") => true,
        Some(text) => name.contains(text),
    }
}

/// Runs one scenario in a pair of its own.
fn run(name: &str, scenario: Scenario, makes: [Make; 2]) {
    let [a, b] = makes.map(Make::name);
    pair::scenario(1, |pair| scenario(pair, makes).with_context(|| format!("{name} ({a}, {b})")));
}
