//! Rounds of measurements, their medians, and how they are printed.
//!
//! Must not know: what a case is made of.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Result, ensure};
use harness::bpf::{Run, pin_to_cpu};
use lb_common::verdict::Counter;
use lb_user::dataplane::sweep::Sweeper;
use serde_json::json;

use crate::Options;
use crate::cases::{self, Case, Group};
use crate::rig::{self, Rig};

/// Nanoseconds a packet in one round.
struct Times {
    swap: f64,
    lookup: Option<f64>,
    own: f64,
}

/// A ratio over the rounds: median, smallest and largest.
#[derive(Clone, Copy)]
struct Ratio {
    median: f64,
    low: f64,
    high: f64,
    target: Option<f64>,
}

/// What came out for one case.
struct Measured {
    name: String,
    swap: f64,
    lookup: Option<f64>,
    own: f64,
    by_swap: Ratio,
    by_lookup: Option<Ratio>,
}

/// Measures every case whose name has what is asked for, and prints the result. False when there is
/// none.
///
/// # Panics
/// When the data plane cannot be loaded, or a frame is not what it must be.
pub(crate) fn packets(options: &Options) -> bool {
    let mut results = Vec::new();
    for mut group in cases::groups() {
        group.specs.retain(|spec| spec.name().contains(&options.only));
        if !group.specs.is_empty() {
            // One data plane at a time, so that memory is that of the largest.
            rig::with(group.connections, |rig| {
                results.extend(measured(rig, &group, options)?);
                Ok(())
            });
        }
    }
    if options.json {
        print_json(&results, options);
    } else {
        print_table(&results, options);
    }
    !results.is_empty()
}

/// Measures the cases of one data plane, in turns.
fn measured(rig: &mut Rig, group: &Group, options: &Options) -> Result<Vec<Measured>> {
    pin_to_cpu(0)?;
    let mut cases = Vec::new();
    for (number, spec) in (0..).zip(&group.specs) {
        cases.push(Case::new(rig, *spec, number)?);
    }
    let mut sweeper = Sweeper::new(&mut rig.dataplane)?;
    let mut times: Vec<Vec<Times>> = cases.iter().map(|_| Vec::new()).collect();
    // The first round only warms up.
    for round in 0..=options.rounds {
        for (case, times) in cases.iter_mut().zip(&mut times) {
            let taken = once(case, round % 2 == 0, options.runs)?;
            if round > 0 {
                times.push(taken);
            }
            if case.spec.what.is_new() {
                forget(rig, case, &mut sweeper)?;
            }
        }
    }
    healthy(rig, &cases)?;
    Ok(cases.iter().zip(&times).map(|(case, times)| Measured::of(case, times)).collect())
}

/// One round of a case and of its floors, in either order.
fn once(case: &Case, floors_first: bool, runs: u32) -> Result<Times> {
    let packet = case.packet();
    let time = |program: &OwnedFd| -> Result<f64> {
        let mut output = vec![0; 4096];
        let run = Run { ingress: 0, repeat: runs };
        Ok(f64::from(run.on(program.as_fd(), &packet, &mut output)?.nanoseconds))
    };
    let floors = || -> Result<(f64, Option<f64>)> {
        Ok((time(&case.swap)?, case.lookup.as_ref().map(time).transpose()?))
    };
    let ((swap, lookup), own) = if floors_first {
        let floors = floors()?;
        (floors, time(&case.director)?)
    } else {
        let own = time(&case.director)?;
        (floors()?, own)
    };
    Ok(Times { swap, lookup, own })
}

/// Closes what a round of new connections has opened.
fn forget(rig: &mut Rig, case: &mut Case, sweeper: &mut Sweeper) -> Result<()> {
    for server in 0..case.service.index.len() {
        rig.bump(&mut case.service, server)?;
    }
    sweeper.pass(|_| {})?;
    for &index in &case.service.index {
        ensure!(rig.counts(index)? == (0, 0), "{}: connections are left", case.spec.name());
    }
    Ok(())
}

/// What was measured was the usual road: nothing was dropped but what had to be, and the flows that
/// were to be known were, but for the few that a table refuses.
fn healthy(rig: &mut Rig, cases: &[Case]) -> Result<()> {
    let mut counters = rig.counters()?;
    for wanted in cases.iter().filter_map(|case| case.spec.what.drop()) {
        let count = counters.insert(wanted.name(), 0);
        ensure!(count > Some(0), "nothing was dropped as {}", wanted.name());
    }
    // A flow that was refused at its SYN may be picked up later.
    let usual = [Counter::Expired, Counter::TableFull, Counter::PickedUp].map(Counter::name);
    counters.retain(|name, count| *count != 0 && !usual.contains(name));
    ensure!(counters.is_empty(), "not the usual road: {counters:?}");
    cases.iter().try_for_each(|case| case.intact(rig))
}

impl Measured {
    fn of(case: &Case, times: &[Times]) -> Self {
        let by_lookup: Option<Vec<f64>> =
            times.iter().map(|t| t.lookup.map(|lookup| t.own / lookup)).collect();
        let lookups: Option<Vec<f64>> = times.iter().map(|t| t.lookup).collect();
        let by_swap = times.iter().map(|t| t.own / t.swap).collect();
        Self {
            name: case.spec.name(),
            swap: median(times.iter().map(|t| t.swap).collect()),
            lookup: lookups.map(median),
            own: median(times.iter().map(|t| t.own).collect()),
            by_swap: Ratio::of(by_swap, case.spec.target()),
            by_lookup: by_lookup.map(|ratios| Ratio::of(ratios, case.spec.lookup_target())),
        }
    }
}

impl Ratio {
    fn of(ratios: Vec<f64>, target: Option<f64>) -> Self {
        let low = ratios.iter().copied().fold(f64::MAX, f64::min);
        let high = ratios.iter().copied().fold(0.0, f64::max);
        Self { median: median(ratios), low, high, target }
    }

    fn is_missed(&self) -> bool {
        self.target.is_some_and(|target| self.median > target)
    }

    /// Median, range and target.
    fn columns(&self) -> String {
        let range = format!("{:.2}..{:.2}", self.low, self.high);
        let target = self.target.map_or("-".to_owned(), |target| format!("{target:.1}"));
        format!("{:>6.2} {range:>12} {target:>6}", self.median)
    }

    fn json(&self) -> serde_json::Value {
        json!({ "ratio": self.median, "min": self.low, "max": self.high, "target": self.target })
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn print_table(results: &[Measured], options: &Options) {
    let Options { rounds, runs, .. } = options;
    println!("{rounds} rounds of {runs} packets; medians; one CPU; test run and wrapper included");
    println!("swap: exchange of the addresses; lookup: one in a hash table of as many flows");
    println!(
        "{:<42} {:>7} {:>7} {:>7}  {:>6} {:>12} {:>6}  {:>6} {:>12} {:>6}",
        "", "swap ns", "look ns", "own ns", "/swap", "range", "target", "/look", "range", "target"
    );
    for m in results {
        let lookup = m.lookup.map_or("-".to_owned(), |ns| format!("{ns:.0}"));
        let none = format!("{:>6} {:>12} {:>6}", "-", "-", "-");
        let by_lookup = m.by_lookup.map_or(none, |ratio| ratio.columns());
        let missed = m.by_swap.is_missed() || m.by_lookup.is_some_and(|ratio| ratio.is_missed());
        println!(
            "{:<42} {:>7.0} {lookup:>7} {:>7.0}  {}  {by_lookup}{}",
            m.name,
            m.swap,
            m.own,
            m.by_swap.columns(),
            if missed { "  missed" } else { "" }
        );
    }
}

fn print_json(results: &[Measured], options: &Options) {
    let rows: Vec<_> = results
        .iter()
        .map(|m| {
            json!({
                "case": m.name,
                "swap_ns": m.swap,
                "lookup_ns": m.lookup,
                "ns": m.own,
                "by_swap": m.by_swap.json(),
                "by_lookup": m.by_lookup.map(|ratio| ratio.json()),
            })
        })
        .collect();
    let Options { rounds, runs, .. } = options;
    println!("{:#}", json!({ "rounds": rounds, "runs": runs, "cases": rows }));
}
