//! What a priority depends on.
//!
//! Must not know: makes.

use crate::vrrp::handover::is_goodbye;
use crate::vrrp::stage::{VIP, instance, owns, setups, start, stays};
use anyhow::Result;
use harness::pair::{Pair, address};
use harness::vrrp::capture::{Capture, now};
use harness::vrrp::instance::{Instance, Script, Setup};
use harness::vrrp::router::Make;
use harness::wait::{seconds, throughout};
use std::fs;
use std::path::PathBuf;

pub(crate) fn weighted(pair: &Pair, makes: [Make; 2]) -> Result<()> {
    let capture = Capture::start(pair)?;
    let (setups, file) = tracked(pair, -60)?;
    let _routers = start(pair, makes, &setups)?;
    let since = now();
    fs::remove_file(&file)?;
    owns(&pair.b, &pair.a, VIP)?;
    // It says so and stays in the race: 150 - 60.
    capture
        .wait_advert(&pair.a, since, seconds(1), "of priority 90", |said| said.priority == 90)?;
    fs::write(&file, "")?;
    owns(&pair.a, &pair.b, VIP)?;
    stays(&capture, [&pair.a, &pair.b], VIP, instance().down_interval() * 2)
}

pub(crate) fn fault(pair: &Pair, makes: [Make; 2]) -> Result<()> {
    let capture = Capture::start(pair)?;
    let (setups, file) = tracked(pair, 0)?;
    let [_a, b] = start(pair, makes, &setups)?;
    let since = now();
    fs::remove_file(&file)?;
    capture.wait_advert(&pair.a, since, seconds(5), "a goodbye", is_goodbye)?;
    owns(&pair.b, &pair.a, VIP)?;
    // A fault is out of the race, whoever else is there.
    let alone = now();
    b.stop()?;
    capture.wait_advert(&pair.b, alone, seconds(5), "a goodbye", is_goodbye)?;
    throughout(instance().down_interval() * 3, "nobody has it", || Ok(!pair.a.holds(VIP)?))?;
    capture.silent(&pair.a, alone)?;
    fs::write(&file, "")?;
    owns(&pair.a, &pair.b, VIP)
}

pub(crate) fn group(pair: &Pair, makes: [Make; 2]) -> Result<()> {
    let other_vip = address::OTHER_VIP[0];
    let (mut setups, file) = tracked(pair, 0)?;
    for (setup, priority) in setups.iter_mut().zip([150, 100]) {
        setup.instances.push(Instance::new("VI_2", priority, &[other_vip]).named("VI_2", 52));
        setup.groups.push(("VG_1".into(), vec!["VI_1".into(), "VI_2".into()]));
    }
    let _routers = start(pair, makes, &setups)?;
    owns(&pair.a, &pair.b, other_vip)?;
    fs::remove_file(&file)?;
    owns(&pair.b, &pair.a, VIP)?;
    owns(&pair.b, &pair.a, other_vip)?;
    fs::write(&file, "")?;
    owns(&pair.a, &pair.b, VIP)?;
    owns(&pair.a, &pair.b, other_vip)
}

/// Both setups, A's with a script that asks whether the file exists.
fn tracked(pair: &Pair, weight: i16) -> Result<([Setup; 2], PathBuf)> {
    let file = pair.dir().path().join("well");
    fs::write(&file, "")?;
    let command = vec!["/usr/bin/test".into(), "-e".into(), file.display().to_string()];
    let mut setups = setups(&instance());
    setups[0].scripts.push(Script { name: "well".into(), command, weight });
    setups[0].instances[0].track_scripts.push("well".into());
    Ok((setups, file))
}
