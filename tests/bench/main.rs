//! `lb-bench packet`: what a packet costs in the loaded programs, beside the least that it could.
//!
//! Every case is measured in turns with two floors, the exchange of the frame's addresses and, for
//! known flows, one lookup in a hash table of the kernel that holds as many. All stand behind the
//! same wrapper, which makes a fresh frame for each run; the ratio of a round is the case's time by
//! a floor's, the call of a test run and the wrapper included on both sides. Where a tunnel's header
//! was put before the frame, the wrapper has to take it off again, which counts as the case's. What
//! is printed are medians over the rounds.
//!
//! `lb-bench failover` is told in [`failover`].
//!
//! Must not know: how the data plane is made.

mod asm;
mod cases;
mod failover;
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

use harness::vrrp::router::Make;

const USAGE: &str = "\
Usage: lb-bench packet [--only TEXT] [--json] [--rounds N] [--runs N]
       lb-bench failover [--only MAKE] [--case TEXT] [--json] [--rounds N]

packet: cost per packet of the XDP program beside two floors
  --only TEXT only cases whose name has this in it, such as \"nat IPv6\"
  --json      a JSON document instead of a table
  --rounds N  rounds of every case, at least 9 (default 11)
  --runs N    packets of a round (default 40000, at most 100000)

failover: how long a client is without an answer when a master goes
  --only MAKE keepalived or lb (default: both by turns)
  --case TEXT only cases whose name has this in it, such as \"100 ms\" or \"stop\"
  --json      a JSON document instead of a table
  --rounds N  rounds of every case (default 5)
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
    if let Some(options) = parse(&args) {
        // A failure panics in there, with its reason.
        return found(measure::packets(&options), &options.only);
    }
    if let Some(options) = parse_failover(&args) {
        return match failover::run(&options) {
            Ok(any) => found(any, &options.case),
            Err(error) => {
                eprintln!("error: {error:#}");
                ExitCode::FAILURE
            }
        };
    }
    eprint!("{USAGE}");
    ExitCode::from(2)
}

fn found(any: bool, name: &str) -> ExitCode {
    if any {
        return ExitCode::SUCCESS;
    }
    eprintln!("no case has \"{name}\" in its name");
    ExitCode::FAILURE
}

fn parse_failover(args: &[String]) -> Option<failover::Options> {
    let both = vec![Make::Keepalived, Make::Lb];
    let mut options =
        failover::Options { makes: both, rounds: 5, case: String::new(), json: false };
    let mut words = args.iter().map(String::as_str);
    if words.next() != Some("failover") {
        return None;
    }
    while let Some(word) = words.next() {
        match word {
            "--only" => {
                let name = words.next()?;
                options.makes.retain(|make| make.name() == name);
            }
            "--case" => options.case = words.next()?.to_owned(),
            "--json" => options.json = true,
            "--rounds" => options.rounds = words.next()?.parse().ok().filter(|n| *n > 0)?,
            _ => return None,
        }
    }
    (!options.makes.is_empty()).then_some(options)
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
