//! Runs a simulator with more seeds than the tests do, or one seed with its trace.
//!
//! Must not know: what is simulated, or which rules are checked.

use anyhow::{Result, bail};

use crate::setup::{self, Install};
use crate::sys::{Cmd, step};
use crate::test::Counts;

/// `cargo xtask sim vrrp [--seeds N | --seed S]`, optimised.
pub(crate) fn vrrp(install: Install, args: &[&str]) -> Result<()> {
    let (variable, number) = read(args)?;
    setup::run(&[setup::BUILD], install)?;
    let filter = "vrrp::tests::sim";
    let command = Cmd::cargo()
        .args(["test", "--release", "--package", "lb-user", "--lib", filter, "--", "--nocapture"])
        .env(variable, number.to_string());
    let mut counts = Counts::default();
    let success = step("simulate", || {
        command.stream(|line| {
            println!("{line}");
            counts.read(line);
        })
    })?;
    if !success {
        bail!("a rule was broken, or a planted fault was not found; see above");
    }
    if counts.passed == 0 {
        bail!("nothing was simulated: lb-user has no test whose name has `{filter}` in it");
    }
    Ok(())
}

/// The variable that the simulator reads, and its value.
fn read(args: &[&str]) -> Result<(&'static str, u64)> {
    match args {
        [] => Ok(("LB_SIM_SEEDS", 4096)),
        ["--seeds", number] => match number.parse() {
            Ok(0) => bail!("--seeds 0 simulates nothing: give it 1 or more"),
            Ok(seeds) => Ok(("LB_SIM_SEEDS", seeds)),
            Err(_) => bail!("--seeds takes a number of seeds such as 4096, not `{number}`"),
        },
        ["--seed", seed] => match seed.parse() {
            Ok(seed) => Ok(("LB_SIM_SEED", seed)),
            Err(_) => bail!("--seed takes one seed as it was printed, a number, not `{seed}`"),
        },
        other => bail!("`sim vrrp` takes --seeds N or --seed S, not `{}`", other.join(" ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_simulates_nothing_is_refused() {
        assert_eq!(read(&[]).expect("the default"), ("LB_SIM_SEEDS", 4096));
        assert_eq!(read(&["--seeds", "1"]).expect("one"), ("LB_SIM_SEEDS", 1));
        assert_eq!(read(&["--seed", "0"]).expect("the first"), ("LB_SIM_SEED", 0));
        for (args, said) in [
            (&["--seeds", "0"][..], "simulates nothing"),
            (&["--seeds", "x"], "a number of seeds"),
            (&["--seed", "x"], "one seed"),
            (&["--seeds"], "takes --seeds N or --seed S"),
        ] {
            let error = read(args).expect_err("no seeds").to_string();
            assert!(error.contains(said), "{args:?}: {error}");
        }
    }
}
