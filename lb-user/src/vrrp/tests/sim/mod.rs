//! The simulator: three routers and a network that loses, delays, splits and stalls, by seeds.
//!
//! `LB_SIM_SEED=N` replays one seed with its trace, `LB_SIM_SEEDS=N` says how many are run.
//! Each router has its own monotonic clock; the wall clock is no input of the core, so its steps
//! cannot be simulated. The same run with a planted fault must fail for the right reason.
//!
//! Must not know: how the state machine works.

mod node;
mod rounds;
mod world;

use super::{Rng, number};
use node::Planted;

/// What must never happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rule {
    /// A deadline without taking part, or the other way round.
    Deadline,
    /// An acquire without its release, a release without its acquire, or a state without either.
    Balance,
    /// Two masters for too long in a whole network.
    TwoMasters,
    /// No master for longer than the protocol allows.
    NoMaster,
    /// A master gave way to one that comes after it.
    GaveWay,
    /// A router that heard the answer of a better master goes on being one.
    Unanswered,
    /// Two routers claimed after one master's clean death.
    ClaimedTogether,
    /// Not one master, or not the right one, long after the network is whole.
    Unsettled,
    /// A settled network moves by itself.
    Restless,
}

/// A broken rule, at its time.
#[derive(Debug)]
struct Violation {
    rule: Rule,
    text: String,
}

fn run(seed: u64, planted: Option<Planted>, trace: bool) -> Result<(), Violation> {
    rounds::play(Rng(seed), planted, trace)
}

#[test]
fn three_routers_keep_the_rules_for_every_seed() {
    if let Some(seed) = number("LB_SIM_SEED") {
        return run(seed, None, true).unwrap_or_else(|found| panic!("seed {seed}: {found:?}"));
    }
    let seeds = number("LB_SIM_SEEDS").unwrap_or(4096);
    for seed in 0..seeds {
        if let Err(found) = run(seed, None, false) {
            panic!("{:?}: {}; replay with LB_SIM_SEED={seed}", found.rule, found.text);
        }
    }
}

/// The planted fault is found within some seeds, by a rule that it breaks.
#[track_caller]
fn finds(planted: Planted, rules: &[Rule]) {
    let found = (0..64).find_map(|seed| Some((seed, run(seed, Some(planted), false).err()?)));
    let (seed, violation) = found.unwrap_or_else(|| panic!("{planted:?} is not found"));
    assert!(rules.contains(&violation.rule), "seed {seed} finds {planted:?} as {violation:?}");
}

#[test]
fn a_skew_of_zero_is_found() {
    finds(Planted::NoSkew, &[Rule::ClaimedTogether]);
}

#[test]
fn an_advert_of_lower_priority_without_an_answer_is_found() {
    finds(Planted::NoAnswer, &[Rule::Unanswered]);
}

#[test]
fn a_reversed_tie_is_found() {
    finds(Planted::TieReversed, &[Rule::GaveWay]);
}

#[test]
fn a_forgotten_release_is_found() {
    finds(Planted::NoRelease, &[Rule::Balance]);
}

#[test]
fn an_interval_that_is_not_adopted_is_found() {
    let rules = [Rule::Restless, Rule::Unsettled, Rule::ClaimedTogether, Rule::TwoMasters];
    finds(Planted::NotAdopted, &rules);
}
