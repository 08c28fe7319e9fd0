//! The oracle of lc and wlc against what the kernel's IPVS really did: recorded traces.
//!
//! `tests/rigs/ipvs-traces` recorded them; the file's head says where and how. Of the servers that
//! the oracle allows, with counts of its own, IPVS takes the one that was added last: it stands first
//! in its list. So each choice must be exactly that one, and the counts that IPVS told must be equal.

use anyhow::{Context, Result, bail, ensure};

use crate::frames::flag;
use crate::least_oracle::{Belief, Kind, Oracle, Step, WRONG};

const TRACES: &str = include_str!("../vectors/ipvs/least.txt");

fn traces() -> impl Iterator<Item = &'static str> {
    TRACES.lines().filter(|line| !line.starts_with('#'))
}

#[test]
fn the_oracle_agrees_with_ipvs_on_every_recorded_trace() {
    let (mut choices, mut ties, mut none) = (0, 0, 0);
    for trace in traces() {
        match replay(trace, Belief::True) {
            Ok(seen) => {
                choices += seen.choices;
                ties += seen.ties;
                none += seen.none;
            }
            Err(error) => panic!("{error:#}\n{trace}"),
        }
    }
    println!("{choices} choices, {ties} of them among equals, {none} SYNs without a server");
    assert!(traces().count() >= 1000 && choices > 8_000 && ties < choices / 2 && none > 50);
}

#[test]
fn ipvs_contradicts_every_wrong_belief() {
    for belief in WRONG {
        let wrong = traces().filter(|trace| replay(trace, belief).is_err()).count();
        println!("{belief:?}: {wrong} traces");
        assert!(wrong > 10, "{belief:?} is contradicted by {wrong} traces only");
    }
}

#[test]
fn a_changed_choice_or_count_is_found() {
    let good = "lc 1,1 s1>1 s2>0 =1/0,1/0";
    replay(good, Belief::True).expect("it is right");
    for bad in [
        // The only server allowed is 0: the other one has a connection.
        "lc 1,1 s1>1 s2>1",
        "lc 1,1 s1>1 s2>0 =1/0,0/1",
        "lc 1,1 s1>-",
        // Both are allowed; 1 stands first.
        "lc 1,1 s1>0",
    ] {
        assert!(replay(bad, Belief::True).is_err(), "{bad}");
    }
}

/// What a trace held.
#[derive(Default)]
struct Seen {
    choices: usize,
    /// Choices that left a choice.
    ties: usize,
    /// SYNs that nobody could get.
    none: usize,
}

fn replay(trace: &str, belief: Belief) -> Result<Seen> {
    let mut words = trace.split(' ');
    let kind = match words.next() {
        Some("lc") => Kind::Lc,
        Some("wlc") => Kind::Wlc,
        other => bail!("no scheduler: {other:?}"),
    };
    let weights = words.next().context("no weights")?;
    let weights: Vec<u64> = weights.split(',').map(str::parse).collect::<Result<_, _>>()?;
    let mut oracle = Oracle::new(kind, belief, &weights);
    let mut seen = Seen::default();
    for word in words {
        event(&mut oracle, word, &mut seen).with_context(|| word.to_owned())?;
    }
    Ok(seen)
}

fn event(oracle: &mut Oracle, word: &str, seen: &mut Seen) -> Result<()> {
    let (what, rest) = word.split_at(1);
    match what {
        "s" => {
            let (client, got) = rest.split_once('>').context("no choice")?;
            syn(oracle, client.parse()?, got, seen)?;
        }
        "a" => drop(oracle.packet(rest.parse()?, flag::ACK)),
        "f" => drop(oracle.packet(rest.parse()?, flag::FIN | flag::ACK)),
        "r" => drop(oracle.packet(rest.parse()?, flag::RST)),
        "w" => {
            let (server, weight) = rest.split_once('=').context("no weight")?;
            oracle.weights[server.parse::<usize>()?] = weight.parse()?;
        }
        "t" => {
            let (seconds, counts) = rest.split_once('=').context("no counts")?;
            oracle.advance(seconds.parse()?);
            compare(oracle, counts)?;
        }
        "=" => compare(oracle, rest)?,
        _ => bail!("no event"),
    }
    Ok(())
}

fn syn(oracle: &mut Oracle, client: u16, got: &str, seen: &mut Seen) -> Result<()> {
    match (oracle.packet(client, flag::SYN), got) {
        (Step::Stays(_), "-") => Ok(()),
        (Step::Opens, "-") => {
            seen.none += 1;
            ensure!(oracle.allowed().is_empty(), "nobody got it; allowed {:?}", oracle.allowed());
            Ok(())
        }
        (Step::Opens, got) => {
            let (got, allowed) = (got.parse()?, oracle.allowed());
            ensure!(allowed.last() == Some(&got), "allowed are {allowed:?}");
            seen.choices += 1;
            seen.ties += usize::from(allowed.len() > 1);
            oracle.open(client, got);
            Ok(())
        }
        (step, _) => bail!("the oracle says {step:?}"),
    }
}

fn compare(oracle: &Oracle, recorded: &str) -> Result<()> {
    let counts = |server| {
        let (active, inactive) = oracle.counts(server);
        format!("{active}/{inactive}")
    };
    let own: Vec<String> = (0..oracle.weights.len()).map(counts).collect();
    ensure!(own.join(",") == recorded, "the oracle counts {}", own.join(","));
    Ok(())
}
