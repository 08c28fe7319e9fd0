//! Runs a simulator with more seeds than the tests do, or one seed with its trace.
//!
//! Must not know: what is simulated, or which rules are checked.

use anyhow::{Result, bail};

use crate::setup::{self, Install};
use crate::sys::{Cmd, step};

/// `cargo xtask sim vrrp [--seeds N | --seed S]`, optimised.
pub(crate) fn vrrp(install: Install, args: &[&str]) -> Result<()> {
    let (variable, number) = match args {
        [] => ("LB_SIM_SEEDS", "4096"),
        ["--seeds", number] => ("LB_SIM_SEEDS", *number),
        ["--seed", number] => ("LB_SIM_SEED", *number),
        other => bail!("`sim vrrp` takes --seeds N or --seed S, not `{}`", other.join(" ")),
    };
    if number.parse::<u64>().is_err() {
        bail!("`{number}` is no number of seeds");
    }
    setup::run(&[setup::BUILD], install)?;
    let filter = "vrrp::tests::sim";
    let command = Cmd::cargo()
        .args(["test", "--release", "--package", "lb-user", "--lib", filter, "--", "--nocapture"])
        .env(variable, number);
    let success = step("simulate", || command.stream(|line| println!("{line}")))?;
    if !success {
        bail!("a rule was broken, or a planted fault was not found; see above");
    }
    Ok(())
}
