//! The speaker logs where the daemon does, and outlives what is meant for the daemon.
//!
//! Must not know: how the speaker is told.

use crate::vrrp::stage::{VIP, instance};
use anyhow::{Context, Result, ensure};
use harness::config::Config;
use harness::pair::{self, INTERFACE, Node};
use harness::process::Tool;
use harness::vrrp::instance::Setup;
use harness::vrrp::router::{Make, Router};
use harness::wait::{eventually, millis, seconds, throughout};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use std::fs;

/// The process id of a node's speaker.
fn speaker(node: &Node) -> Result<u32> {
    let all = node.processes()?;
    let found = all.iter().find(|(_, line)| line.split_whitespace().nth(1) == Some("speaker"));
    found.map(|(pid, _)| *pid).with_context(|| format!("no speaker among {all:?}"))
}

#[test]
fn the_speaker_logs_to_the_daemons_targets_and_opens_files_anew() {
    pair::scenario(0, |pair| {
        let path = pair.dir().path().join("vrrp.log");
        let mut sink = Tool::serve(&pair.a.ns, &["syslog-sink", "--bind", "127.0.0.1:5514"])?;
        let log = [
            "to:".to_owned(),
            "  - stderr".to_owned(),
            format!("  - {{file: {}}}", path.display()),
            "  - {syslog: \"127.0.0.1:5514\", facility: local1}".to_owned(),
        ];
        let config = Config { log: log.to_vec(), ..Config::new(&[INTERFACE]) };
        let a = Router::start_director(Make::Lb, &pair.a, &Setup::one(instance()), config)?;
        eventually(seconds(10), "A is master", || pair.a.holds(VIP))?;
        let told = |part: &str| {
            let text = fs::read_to_string(&path)?;
            Ok(text.lines().any(|line| line.contains("lb_user::speaker") && line.contains(part)))
        };
        eventually(seconds(5), "the file tells of the speaker", || told("-> MASTER: "))?;
        // Facility local1 is 17, information 6; the speaker has a name of its own.
        let pid = speaker(&pair.a)?;
        let (head, began) = (format!(" lab lb-speaker[{pid}]: "), std::time::Instant::now());
        loop {
            let line = sink.json(seconds(10))?;
            let text = line["text"].as_str().unwrap_or_default();
            if text.contains("-> MASTER: ") {
                ensure!(text.starts_with("<142>") && text.contains(&head), "{text}");
                break;
            }
            ensure!(began.elapsed() < seconds(20), "no line of the speaker");
        }
        // As `pkill -USR1 lb` would do, and what else is meant for the daemon.
        let old = pair.dir().path().join("vrrp.log.1");
        fs::rename(&path, &old)?;
        for signal in [Signal::SIGHUP, Signal::SIGUSR2, Signal::SIGUSR1] {
            kill(Pid::from_raw(pid.cast_signed()), signal)?;
        }
        eventually(seconds(5), "it opened a new file", || path.exists())?;
        throughout(millis(500), "A stays master", || pair.a.holds(VIP))?;
        ensure!(speaker(&pair.a)? == pid, "another speaker");
        // By the controller, for both of them.
        fs::rename(&path, &old)?;
        let lb = a.daemon().context("A runs lb")?;
        lb.text(&["reopen-logs"])?;
        lb.text(&["vrrp", "resign", "VI_1"])?;
        eventually(seconds(5), "the new file tells", || told("MASTER -> BACKUP: "))
    });
}
