//! Who is told of a transition, in which order, and what happens when nobody listens.
//!
//! Must not know: makes.

use crate::vrrp::stage::{VIP, instance, owns, setups, start, stays};
use anyhow::{Context, Result, bail, ensure};
use harness::pair::Pair;
use harness::process::Tool;
use harness::vrrp::capture::Capture;
use harness::vrrp::instance::{Instance, Setup};
use harness::vrrp::router::{Make, Router};
use harness::wait::{eventually, seconds};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

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

/// Mail about the states of one node goes to a sink in its own namespace.
pub(crate) fn mailed(pair: &Pair, makes: [Make; 2]) -> Result<()> {
    let mut sink = Tool::serve(&pair.b.ns, &["smtp-sink", "--bind", MAIL])?;
    let mut setup = Setup::one(Instance { mail: true, ..instance() });
    setup.mail = Some(MAIL.into());
    let _b = Router::start(makes[1], &pair.b, &setup)?;
    eventually(seconds(5), "B is master", || pair.b.holds(VIP))?;
    mail_about(&mut sink, "master")?;
    let _a = Router::start(makes[0], &pair.a, &Setup::one(instance().priority(150)))?;
    owns(&pair.a, &pair.b, VIP)?;
    mail_about(&mut sink, "backup")
}

/// A mail server that accepts and says nothing.
pub(crate) fn deaf_mail_server(pair: &Pair, makes: [Make; 2]) -> Result<()> {
    let capture = Capture::start(pair)?;
    let _sink = Tool::serve(&pair.a.ns, &["smtp-sink", "--bind", MAIL, "--hang", "1000"])?;
    let mut told = setups(&Instance { mail: true, ..instance() });
    told[0].mail = Some(MAIL.into());
    told[1].instances[0].mail = false;
    let _routers = start(pair, makes, &told)?;
    eventually(seconds(5), "the mail server is tried", || {
        let port = MAIL.rsplit(':').next().context("a port")?;
        let connections = pair.a.ns.run(&format!("ss -Htn state established sport = :{port}"))?;
        Ok(!connections.trim().is_empty())
    })?;
    stays(&capture, [&pair.a, &pair.b], VIP, instance().down_interval() * 4)
}

/// Waits for a mail whose subject names the instance and the state; others may come before.
fn mail_about(sink: &mut Tool, state: &str) -> Result<()> {
    let mut seen = Vec::new();
    while seen.len() < 5 {
        let mail = sink.json(seconds(5)).with_context(|| format!("only these came: {seen:?}"))?;
        ensure!(mail["from"] == "lb@lab" && mail["to"][0] == "ops@lab", "{mail}");
        let subject = mail["subject"].as_str().unwrap_or_default().to_lowercase();
        if subject.contains("vi_1") && subject.contains(state) {
            return Ok(());
        }
        seen.push(subject);
    }
    bail!("no mail about {state} in {seen:?}")
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

/// Where the mail server of a node listens.
const MAIL: &str = "127.0.0.1:2525";
