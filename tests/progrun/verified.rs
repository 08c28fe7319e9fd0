//! What the verifier had to walk for each program, against what is on record.
//!
//! The verifier gives up at a million instructions, and a program can come near that by a change
//! that looks small. So growth is noticed when it happens, not when a program no longer loads.
//! `UPDATE_EXPECT=1` writes the record anew.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use anyhow::{Context, Result, ensure};

use lb_user::dataplane::bpf::ViaService;

use crate::rig::with;

/// Growth that is accepted without a new record, in percent.
const TOLERATED: u64 = 20;

const HEAD: &str = "\
# Instructions that the verifier walked for each BPF program (limit: 1,000,000). A program that has
# grown by more than 20 % fails the test `verified`; UPDATE_EXPECT=1 writes this file anew.
";

type Counts = BTreeMap<String, u32>;

#[test]
fn no_program_has_grown_by_more_than_a_fifth() {
    with(1024, |rig| {
        let mut counts = rig.dataplane.verified_instructions()?;
        counts.extend(ViaService::load()?.verified_instructions()?);
        ensure!(!counts.is_empty(), "this kernel does not tell verified instructions");
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors/verified-instructions.txt");
        if std::env::var_os("UPDATE_EXPECT").is_some() {
            std::fs::write(&path, written(&counts))?;
        }
        let text = std::fs::read_to_string(&path)?;
        println!("{}", written(&counts));
        let complaints = compare(&read(&text)?, &counts);
        ensure!(complaints.is_empty(), "{}", complaints.join("\n"));
        Ok(())
    });
}

#[test]
fn growth_and_programs_without_a_record_are_noticed() {
    let record = read(&format!("{HEAD}grown 1000\ngone 5\nequal 10\n")).expect("a record");
    let now = Counts::from([("grown".into(), 1201), ("equal".into(), 12), ("new".into(), 1)]);
    let complaints = compare(&record, &now);
    assert_eq!(complaints.len(), 3, "{complaints:?}");
    for (complaint, name) in complaints.iter().zip(["gone", "grown", "new"]) {
        assert!(complaint.starts_with(name), "{complaint}");
    }
    assert!(compare(&record, &record).is_empty());
    assert_eq!(read(&written(&record)).expect("a record"), record);
}

/// What is wrong, in order of the programs' names.
fn compare(record: &Counts, now: &Counts) -> Vec<String> {
    let names: std::collections::BTreeSet<_> = record.keys().chain(now.keys()).collect();
    let complaint = |name: &String| match (record.get(name), now.get(name)) {
        (Some(before), Some(after)) => (u64::from(*after) * 100
            > u64::from(*before) * (100 + TOLERATED))
            .then(|| format!("{name} has grown from {before} to {after} verified instructions")),
        (Some(_), None) => Some(format!("{name} is on record but not in the object")),
        (None, _) => Some(format!("{name} is not on record: run with UPDATE_EXPECT=1")),
    };
    names.into_iter().filter_map(complaint).collect()
}

fn written(counts: &Counts) -> String {
    counts.iter().fold(HEAD.to_owned(), |mut text, (name, count)| {
        let _ = writeln!(text, "{name} {count}");
        text
    })
}

fn read(text: &str) -> Result<Counts> {
    text.lines()
        .filter(|line| !line.starts_with('#'))
        .map(|line| {
            let (name, count) = line.split_once(' ').with_context(|| format!("line {line:?}"))?;
            Ok((name.to_owned(), count.parse()?))
        })
        .collect()
}
