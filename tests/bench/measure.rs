//! Rounds of measurements, their medians, and how they are printed.

use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Result, ensure};
use harness::bpf::{Run, pin_to_cpu};
use lb_user::dataplane::sweep::Sweeper;
use serde_json::json;

use crate::cases::{self, Case, What};
use crate::rig::{self, Rig};

/// What came out for one case.
struct Measured {
    name: String,
    target: f64,
    floor: f64,
    nanoseconds: f64,
    ratio: f64,
    /// Smallest and largest ratio of a round.
    range: (f64, f64),
}

/// Measures every case and prints the result.
///
/// # Panics
/// When the data plane cannot be loaded, or a frame is not what it must be.
pub(crate) fn packets(rounds: usize, runs: u32, json: bool) {
    rig::with(250_000, |rig| {
        pin_to_cpu(0)?;
        let mut cases = cases::all(rig)?;
        let mut sweeper = Sweeper::new(&mut rig.dataplane)?;
        let mut times = vec![Vec::new(); cases.len()];
        // The first round only warms up.
        for round in 0..=rounds {
            for (case, times) in cases.iter_mut().zip(&mut times) {
                let (floor, own) = once(case, round % 2 == 0, runs)?;
                if round > 0 {
                    times.push((floor, own));
                }
                if matches!(case.what, What::Syn | What::Least(_)) {
                    forget(rig, case, &mut sweeper)?;
                }
            }
        }
        healthy(rig)?;
        let results: Vec<Measured> =
            cases.iter().zip(&times).map(|(case, times)| Measured::of(case, times)).collect();
        if json {
            print_json(&results, rounds, runs);
        } else {
            print_table(&results, rounds, runs);
        }
        Ok(())
    });
}

/// One round of a case and of the floor, in either order: nanoseconds a packet.
fn once(case: &Case, floor_first: bool, runs: u32) -> Result<(f64, f64)> {
    let packet = case.packet();
    let time = |program: &OwnedFd| -> Result<f64> {
        let mut output = vec![0; 4096];
        let run = Run { ingress: 0, repeat: runs };
        Ok(f64::from(run.on(program.as_fd(), &packet, &mut output)?.nanoseconds))
    };
    if floor_first {
        let floor = time(&case.floor)?;
        return Ok((floor, time(&case.director)?));
    }
    let own = time(&case.director)?;
    Ok((time(&case.floor)?, own))
}

/// Closes what a round of new connections has opened.
fn forget(rig: &mut Rig, case: &mut Case, sweeper: &mut Sweeper) -> Result<()> {
    for server in 0..case.service.index.len() {
        rig.bump(&mut case.service, server)?;
    }
    sweeper.pass(|_| {})?;
    for &index in &case.service.index {
        ensure!(rig.counts(index)? == (0, 0), "{}: connections are left", case.name());
    }
    Ok(())
}

/// What was measured was the usual road: nothing was dropped, and the table was never full.
fn healthy(rig: &Rig) -> Result<()> {
    let mut counters = rig.counters()?;
    counters.retain(|name, count| *count != 0 && *name != "connections_expired");
    ensure!(counters.is_empty(), "not the usual road: {counters:?}");
    Ok(())
}

impl Measured {
    fn of(case: &Case, times: &[(f64, f64)]) -> Self {
        let ratios: Vec<f64> = times.iter().map(|(floor, own)| own / floor).collect();
        let range =
            ratios.iter().fold((f64::MAX, 0f64), |(low, high), r| (low.min(*r), high.max(*r)));
        Self {
            name: case.name(),
            target: case.target(),
            floor: median(times.iter().map(|(floor, _)| *floor)),
            nanoseconds: median(times.iter().map(|(_, own)| *own)),
            ratio: median(ratios.into_iter()),
            range,
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn print_table(results: &[Measured], rounds: usize, runs: u32) {
    println!("{rounds} rounds of {runs} packets; medians; one CPU; test run and wrapper included");
    println!(
        "{:<40} {:>8} {:>8} {:>7} {:>13} {:>7}",
        "", "floor ns", "ns", "ratio", "range", "target"
    );
    for m in results {
        let range = format!("{:.2}..{:.2}", m.range.0, m.range.1);
        let verdict = if m.ratio <= m.target { "" } else { "  missed" };
        println!(
            "{:<40} {:>8.0} {:>8.0} {:>7.2} {:>13} {:>7.1}{verdict}",
            m.name, m.floor, m.nanoseconds, m.ratio, range, m.target
        );
    }
}

fn print_json(results: &[Measured], rounds: usize, runs: u32) {
    let rows: Vec<_> = results
        .iter()
        .map(|m| {
            json!({
                "case": m.name,
                "floor_ns": m.floor,
                "ns": m.nanoseconds,
                "ratio": m.ratio,
                "ratio_min": m.range.0,
                "ratio_max": m.range.1,
                "target": m.target,
            })
        })
        .collect();
    println!("{:#}", json!({ "rounds": rounds, "runs": runs, "cases": rows }));
}
