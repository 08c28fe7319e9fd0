//! `lb-bench packet`: what a packet costs in the loaded programs, beside the least that it could.
//!
//! Every case is measured with the floor in turns, both behind the same wrapper, which makes a
//! fresh frame for each run; the ratio of a round is the case's time by the floor's, the call of a
//! test run and the wrapper included on both sides. What is printed are medians over the rounds.

mod asm;
mod cases;
mod measure;

// The data plane, services and frames of the packet tables, of which a part is used here.
#[allow(dead_code)]
#[path = "../progrun/frames.rs"]
mod frames;
#[allow(dead_code)]
#[path = "../progrun/rig.rs"]
mod rig;
#[allow(dead_code)]
#[path = "../progrun/services.rs"]
mod services;

use std::process::ExitCode;

const USAGE: &str = "\
Usage: lb-bench packet [--json] [--rounds N] [--runs N]

  --json      a JSON document instead of a table
  --rounds N  rounds of every case, at least 9 (default 11)
  --runs N    packets of a round (default 40000, at most 100000)
";

/// What the command line asks for.
#[derive(Clone, Copy, Debug)]
struct Options {
    json: bool,
    rounds: usize,
    runs: u32,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match parse(&args) {
        Some(options) => {
            // A failure panics in there, with its reason.
            measure::packets(options.rounds, options.runs, options.json);
            ExitCode::SUCCESS
        }
        None => {
            eprint!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn parse(args: &[String]) -> Option<Options> {
    let mut options = Options { json: false, rounds: 11, runs: 40_000 };
    let mut words = args.iter().map(String::as_str);
    if words.next() != Some("packet") {
        return None;
    }
    while let Some(word) = words.next() {
        match word {
            "--json" => options.json = true,
            "--rounds" => options.rounds = words.next()?.parse().ok().filter(|n| *n >= 9)?,
            "--runs" => {
                let runs = words.next()?.parse().ok();
                options.runs = runs.filter(|n| (1000..=100_000).contains(n))?;
            }
            _ => return None,
        }
    }
    Some(options)
}
