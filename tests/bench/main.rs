//! `lb-bench packet`: what a packet costs in the loaded programs, beside the least that it could.
//!
//! Every case is measured in turns with two floors, the exchange of the frame's addresses and, for
//! known flows, one lookup in a hash table of the kernel that holds as many. All stand behind the
//! same wrapper, which makes a fresh frame for each run; the ratio of a round is the case's time by
//! a floor's, the call of a test run and the wrapper included on both sides. Where a tunnel's header
//! was put before the frame, the wrapper has to take it off again, which counts as the case's. What
//! is printed are medians over the rounds.
//!
//! Must not know: how the data plane is made.

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
Usage: lb-bench packet [--only TEXT] [--json] [--rounds N] [--runs N]

  --only TEXT only cases whose name has this in it, such as \"nat IPv6\"
  --json      a JSON document instead of a table
  --rounds N  rounds of every case, at least 9 (default 11)
  --runs N    packets of a round (default 40000, at most 100000)
";

/// What the command line asks for.
#[derive(Clone, Debug)]
struct Options {
    only: String,
    json: bool,
    rounds: usize,
    runs: u32,
}

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match parse(&args) {
        Some(options) => {
            // A failure panics in there, with its reason.
            if measure::packets(&options) {
                return ExitCode::SUCCESS;
            }
            eprintln!("no case has \"{}\" in its name", options.only);
            ExitCode::FAILURE
        }
        None => {
            eprint!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn parse(args: &[String]) -> Option<Options> {
    let mut options = Options { only: String::new(), json: false, rounds: 11, runs: 40_000 };
    let mut words = args.iter().map(String::as_str);
    if words.next() != Some("packet") {
        return None;
    }
    while let Some(word) = words.next() {
        match word {
            "--only" => options.only = words.next()?.to_owned(),
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
