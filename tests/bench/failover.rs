//! `lb-bench failover`: for how long a client is without an answer when a master goes.
//!
//! Two nodes, A with priority 150 and B with 100, and a client that asks the virtual address all
//! the time. Every round does the same to each make in turn, in a lab of its own. *Outage* is the
//! longest time between two answered questions; *takeover* is from the event to the first question
//! that B answers. After a freeze they differ: A's kernel answers on until B's announcement is heard.
//!
//! Must not know: how routers work.

use anyhow::{Context, Result, ensure};
use harness::pair::{Pair, address};
use harness::probe::{self, Probe};
use harness::topology::endpoint;
use harness::vrrp::capture::{Capture, now};
use harness::vrrp::instance::{Instance, Setup};
use harness::vrrp::router::{Make, Router};
use harness::wait::{eventually, idle, millis, seconds};
use harness::{interrupt, netns};
use serde_json::{Value, json};
use std::time::Duration;

/// What the command line asks for.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    /// The makes that are measured.
    pub(crate) makes: Vec<Make>,
    /// Rounds of every case.
    pub(crate) rounds: u32,
    /// Only cases whose name has this in it.
    pub(crate) case: String,
    /// A JSON document instead of a table.
    pub(crate) json: bool,
}

/// How a master goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Event {
    /// The switch carries nothing any more.
    Cut,
    /// Its link goes down.
    Carrier,
    /// It is asked to end.
    Stop,
    /// It is frozen, and killed when the other has taken over.
    Freeze,
}

impl Event {
    const ALL: [Self; 4] = [Self::Cut, Self::Carrier, Self::Stop, Self::Freeze];

    fn name(self) -> &'static str {
        match self {
            Self::Cut => "cut link",
            Self::Carrier => "lost carrier",
            Self::Stop => "stop",
            Self::Freeze => "freeze, kill",
        }
    }
}

/// What one round gave.
#[derive(Clone, Copy, Debug)]
struct Sample {
    outage: Duration,
    takeover: Duration,
}

/// Measures and prints; `false` when no case has that name.
///
/// # Errors
/// When a lab cannot be built, or an address does not move.
pub(crate) fn run(options: &Options) -> Result<bool> {
    netns::require_root()?;
    interrupt::catch()?;
    let (mut document, mut found) = (Vec::new(), false);
    if !options.json {
        println!("{}", heading(options));
    }
    for (timing, instance) in timings() {
        for event in Event::ALL {
            let name = format!("{timing}, {}", event.name());
            if !name.contains(&options.case) {
                continue;
            }
            found = true;
            let mut samples: Vec<(Make, Vec<Sample>)> =
                options.makes.iter().map(|make| (*make, Vec::new())).collect();
            for round in 0..options.rounds {
                for (make, samples) in &mut samples {
                    let sample = measure(*make, &instance, event, round);
                    let what = || format!("{name}, {}, round {}", make.name(), round + 1);
                    samples.push(sample.with_context(what)?);
                }
            }
            if options.json {
                document.push(as_json(&name, &instance, &samples));
            } else {
                println!("{}", as_line(&name, &samples));
            }
        }
    }
    if options.json {
        println!("{}", serde_json::to_string_pretty(&json!({ "failover": document }))?);
    }
    Ok(found)
}

/// The versions and intervals that are compared.
fn timings() -> [(&'static str, Instance); 3] {
    let instance = Instance::new("VI_1", 100, &[address::VIP[0]]);
    [
        ("v2 1 s", instance.clone().version2("1111")),
        ("v3 100 ms", instance.clone()),
        ("v3 10 ms", instance.every(millis(10))),
    ]
}

/// One round of one make.
fn measure(make: Make, instance: &Instance, event: Event, round: u32) -> Result<Sample> {
    let pair = Pair::new(0)?;
    let outcome = in_pair(&pair, make, instance, event, round);
    if outcome.is_err() {
        pair.print_logs();
    }
    outcome
}

fn in_pair(
    pair: &Pair,
    make: Make,
    instance: &Instance,
    event: Event,
    round: u32,
) -> Result<Sample> {
    let setups = [150, 100].map(|priority| Setup {
        is_ordinary: true,
        ..Setup::one(instance.clone().priority(priority))
    });
    let capture = Capture::start(pair)?;
    let _servers = [probe::server(&pair.a.ns, "A", PORT)?, probe::server(&pair.b.ns, "B", PORT)?];
    let a = Router::start(make, &pair.a, &setups[0])?;
    let _b = Router::start(make, &pair.b, &setups[1])?;
    let to = endpoint(address::VIP[0], PORT);
    let mut probe = Probe::start(&pair.client, &to, millis(1))?;
    probe.settled("A", 300, seconds(20))?;
    // B has to have heard A, and the event comes at another phase of A's interval in each round.
    let since = now();
    eventually(seconds(10), "A has sent two adverts", || {
        Ok(capture.adverts(&pair.a, since)?.len() >= 2)
    })?;
    idle(instance.interval * (round * 37 % 100) / 100)?;
    probe.mark()?;
    let mut a = Some(a);
    match event {
        Event::Cut => pair.cut(&pair.a)?,
        Event::Carrier => pair.unplug(&pair.a)?,
        Event::Stop => a.take().context("A runs")?.stop()?,
        Event::Freeze => a.as_ref().context("A runs")?.freeze()?,
    }
    eventually(instance.down_interval() + seconds(8), "B answers", || {
        Ok(probe.window()?.answered("B") >= 50)
    })?;
    if event == Event::Freeze {
        a.take().context("A runs")?.kill()?;
        idle(millis(200))?;
    }
    let window = probe.window()?;
    // A goes on answering nobody: what is open at the end is none of an outage that is over.
    ensure!(window.open_gap()? < millis(500), "nobody answers any more: {window:?}");
    Ok(Sample {
        outage: window.longest_gap()?,
        takeover: window.first("B").context("B has answered nothing")?,
    })
}

fn heading(options: &Options) -> String {
    let mut text = format!("{:<26}", "milliseconds, median (range)");
    for make in &options.makes {
        text.push_str(&format!("{:>26}{:>26}", format!("{} outage", make.name()), "takeover"));
    }
    if options.makes.len() == 2 {
        text.push_str(&format!("{:>10}", "outage x"));
    }
    text
}

fn as_line(name: &str, samples: &[(Make, Vec<Sample>)]) -> String {
    let mut text = format!("{name:<26}");
    for (_, samples) in samples {
        let [outage, takeover] = both(samples)
            .map(|spread| format!("{:.1} ({:.1}-{:.1})", spread.median, spread.least, spread.most));
        text.push_str(&format!("{outage:>26}{takeover:>26}"));
    }
    if let Some(ratio) = ratio(samples) {
        text.push_str(&format!("{ratio:>10.2}"));
    }
    text
}

fn as_json(name: &str, instance: &Instance, samples: &[(Make, Vec<Sample>)]) -> Value {
    let makes: serde_json::Map<String, Value> = samples
        .iter()
        .map(|(make, samples)| {
            let [outage, takeover] = both(samples).map(
                |spread| json!({"median": spread.median, "min": spread.least, "max": spread.most}),
            );
            let raw: Vec<Value> = samples
                .iter()
                .map(|sample| json!([millis_of(sample.outage), millis_of(sample.takeover)]))
                .collect();
            let value = json!({"outage_ms": outage, "takeover_ms": takeover, "samples_ms": raw});
            (make.name().to_string(), value)
        })
        .collect();
    json!({
        "case": name,
        "version": instance.version,
        "interval_ms": millis_of(instance.interval),
        "makes": makes,
        "outage_ratio": ratio(samples),
    })
}

/// The second make's median outage by the first's.
fn ratio(samples: &[(Make, Vec<Sample>)]) -> Option<f64> {
    let [(_, first), (_, second)] = samples else { return None };
    let [first, second] = [first, second].map(|samples| both(samples)[0].median);
    (first > 0.0).then(|| second / first)
}

/// Median and range in milliseconds.
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

fn both(samples: &[Sample]) -> [Spread; 2] {
    [spread(samples, |sample| sample.outage), spread(samples, |sample| sample.takeover)]
}

fn spread(samples: &[Sample], of: impl Fn(&Sample) -> Duration) -> Spread {
    let mut all: Vec<f64> = samples.iter().map(|sample| millis_of(of(sample))).collect();
    all.sort_by(f64::total_cmp);
    let at = |index: usize| all.get(index).copied().unwrap_or(f64::NAN);
    let (low, high) = (at(all.len().saturating_sub(1) / 2), at(all.len() / 2));
    Spread { median: f64::midpoint(low, high), least: at(0), most: at(all.len().saturating_sub(1)) }
}

fn millis_of(span: Duration) -> f64 {
    span.as_secs_f64() * 1e3
}

const PORT: u16 = 7777;

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(outage: u64) -> Sample {
        Sample { outage: millis(outage), takeover: millis(outage * 2) }
    }

    #[test]
    fn medians_and_ratios_are_those_of_the_outage() {
        let first = (Make::Keepalived, vec![sample(300), sample(100), sample(200)]);
        let second = (Make::Lb, vec![sample(40), sample(60)]);
        assert_eq!(both(&first.1)[0].median, 200.0);
        assert_eq!((both(&second.1)[1].least, both(&second.1)[1].most), (80.0, 120.0));
        assert_eq!(ratio(&[first, second]), Some(0.25));
    }
}
