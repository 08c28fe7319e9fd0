//! What a priority depends on, and who is told of a transition.
//!
//! Must not know: makes.

use crate::vrrp::handover::is_goodbye;
use crate::vrrp::stage::{VIP, instance, owns, setups, start, stays};
use anyhow::{Context, Result, ensure};
use harness::pair::{Pair, address};
use harness::vrrp::capture::{Capture, now};
use harness::vrrp::instance::{Instance, Script, Setup};
use harness::vrrp::router::{Make, Router};
use harness::wait::{eventually, seconds};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

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
    harness::wait::throughout(instance().down_interval() * 3, "nobody has it", || {
        Ok(!pair.a.holds(VIP)?)
    })?;
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

pub(crate) fn notified(pair: &Pair, makes: [Make; 2]) -> Result<()> {
    let told = pair.dir().path().join("told");
    let any = program(pair, "any", &format!("echo \"$*\" >> {}", told.display()))?;
    let states = pair.dir().path().join("states");
    let each = program(pair, "each", &format!("echo \"$1\" >> {}", states.display()))?;
    let told_of = |instance: Instance| Instance {
        notify: Some(any.clone()),
        notify_states: Some(each.clone()),
        ..instance
    };
    let b = Router::start(makes[1], &pair.b, &Setup::one(told_of(instance())))?;
    eventually(seconds(5), "B is master", || pair.b.holds(VIP))?;
    let a = Router::start(makes[0], &pair.a, &Setup::one(instance().priority(150)))?;
    owns(&pair.a, &pair.b, VIP)?;
    a.stop()?;
    owns(&pair.b, &pair.a, VIP)?;
    b.stop()?;
    let order = ["BACKUP", "MASTER", "BACKUP", "MASTER", "STOP"];
    let expected = order.map(|state| format!("INSTANCE VI_1 {state} 100"));
    exactly(&told, &expected)?;
    exactly(&states, &order.map(str::to_lowercase))
}

pub(crate) fn hanging(pair: &Pair, makes: [Make; 2]) -> Result<()> {
    let capture = Capture::start(pair)?;
    let begun = pair.dir().path().join("begun");
    let body = format!("echo begun >> {}; exec sleep 60", begun.display());
    let hangs = program(pair, "hangs", &body)?;
    let told = setups(&Instance { notify: Some(hangs), ..instance() });
    let _routers = start(pair, makes, &told)?;
    eventually(seconds(5), "the program hangs", || Ok(begun.exists()))?;
    stays(&capture, [&pair.a, &pair.b], VIP, instance().down_interval() * 3)?;
    pair.cut(&pair.a)?;
    eventually(seconds(2), "B takes over", || pair.b.holds(VIP))
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

/// A shell program in the lab's folder.
fn program(pair: &Pair, name: &str, body: &str) -> Result<String> {
    let path = pair.dir().path().join(name);
    fs::write(&path, format!("#!/bin/sh\n{body}\n"))?;
    fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
    Ok(path.to_str().context("the path is text")?.to_string())
}

/// Waits until the file has exactly these lines.
fn exactly(path: &Path, expected: &[String]) -> Result<()> {
    eventually(seconds(3), &format!("{} is complete", path.display()), || {
        let text = fs::read_to_string(path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        ensure!(lines == expected, "it has {lines:?}, not {expected:?}");
        Ok(true)
    })
}
