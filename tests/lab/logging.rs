//! Where log lines arrive, and that nobody who reads them, or does not, holds the daemon up.
//!
//! Must not know: how lines are written.

use crate::stage::{Method, file, web};
use anyhow::{Context, Result, ensure};
use harness::config::Config;
use harness::daemon::{Daemon, Paths, lb, refused, run_command, write};
use harness::process::Tool;
use harness::topology::Family;
use harness::wait::{eventually, seconds};
use harness::{Lab, scenario};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A checked service without servers that answer, and this `log` section.
fn logging(lab: &Lab, log: &[&str]) -> Config {
    let service = web(lab, Method::Nat, Family::V4)
        .check("type: tcp, interval: 100ms, retry_interval: 20ms, timeout: 100ms, start: up");
    let config = file(lab, Method::Nat, Family::V4, service);
    Config { log: log.iter().map(ToString::to_string).collect(), ..config }
}

fn text(path: &Path) -> Result<String> {
    path.to_str().map(str::to_owned).context("the path is text")
}

/// Waits for a datagram with this in it.
fn hears(sink: &mut Tool, part: &str) -> Result<String> {
    let began = Instant::now();
    loop {
        let line = sink.json(seconds(10)).with_context(|| format!("nothing about {part:?}"))?;
        let text = line["text"].as_str().context("a datagram of text")?.to_owned();
        if text.contains(part) {
            return Ok(text);
        }
        ensure!(began.elapsed() < seconds(20), "nothing about {part:?}");
    }
}

#[test]
fn syslog_lines_have_their_severity_facility_tag_and_host() {
    scenario(Method::Nat.shape(1), |lab| {
        let path = text(&lab.dir.path().join("log.sock"))?;
        let serve =
            |args: [&str; 2]| Tool::serve(&lab.director, &[&["syslog-sink"], &args[..]].concat());
        let (mut udp, mut unix) = (serve(["--bind", "127.0.0.1:5514"])?, serve(["--unix", &path])?);
        let config = logging(
            lab,
            &[
                "to:",
                "  - stderr",
                "  - {syslog: \"127.0.0.1:5514\", facility: local3, max_level: warning, min_level: warning}",
                &format!("  - {{syslog: {path}}}"),
            ],
        );
        let lb = Daemon::start(lab, &config)?;
        let pid = lb.pid();
        // Facility daemon is 3, level info 6; who listens on a socket of this host knows the host.
        let ready = hears(&mut unix, "ready")?;
        ensure!(
            ready.starts_with("<30>") && ready.ends_with(&format!(" lb[{pid}]: ready")),
            "{ready}"
        );
        let time = ready.strip_prefix("<30>").and_then(|rest| rest.get(..16)).unwrap_or_default();
        let now = lab.director.run("date +%b")?;
        ensure!(time.starts_with(now.trim()) && time.ends_with(' '), "{time:?}");
        // The same as HAProxy has it: an alert, and an emergency.
        let down = hears(&mut unix, "is DOWN, reason: ")?;
        ensure!(down.starts_with("<25>"), "{down}");
        let none = hears(&mut unix, "virtual service web has no server available!")?;
        ensure!(none.starts_with("<24>"), "{none}");
        // local3 is 19; a warning is sent as it is, what is worse as one, and what is less is not.
        let down = hears(&mut udp, "10.0.1.11:80 is DOWN, reason: ")?;
        ensure!(down.starts_with("<156>") && down.contains(&format!(" lab lb[{pid}]: ")), "{down}");
        lb.reload_refused("nonsense: 1\n")?;
        let refused = hears(&mut udp, "reload refused")?;
        ensure!(refused.starts_with("<156>"), "{refused}");
        ensure!(hears(&mut unix, "reload refused")?.starts_with("<27>"), "as it is");
        lb.reload(&config)?;
        hears(&mut unix, "configuration reloaded")?;
        lb.reload_refused("more: nonsense\n")?;
        // Nothing that comes before it is the information.
        let refused = loop {
            let next = udp.json(seconds(10))?["text"].as_str().unwrap_or_default().to_owned();
            ensure!(!next.contains("configuration reloaded"), "{next}");
            if next.contains("]: reload refused") {
                break next;
            }
        };
        ensure!(refused.starts_with("<156>"), "{refused}");
        ensure!(lost(lab)?.values().all(|lost| *lost == 0), "{:?}", lost(lab)?);
        Ok(())
    });
}

#[test]
fn a_dead_syslog_socket_hinders_nothing_and_gets_its_lines_later() {
    scenario(Method::Nat.shape(1), |lab| {
        let path = text(&lab.dir.path().join("log.sock"))?;
        let lb = Daemon::start(
            lab,
            &logging(lab, &["to:", &format!("  - {{syslog: {path}}}"), "  - stderr"]),
        )?;
        let warned = || {
            let warnings = lb.status()?["dataplane"]["warnings"].to_string();
            Ok(warnings.contains("lines cannot be written"))
        };
        eventually(seconds(5), "the status tells of it", warned)?;
        for _ in 0..20 {
            let began = Instant::now();
            lb.reload_refused("nonsense: 1\n")?;
            ensure!(began.elapsed() < seconds(2), "{:?}", began.elapsed());
        }
        let mut sink = Tool::serve(&lab.director, &["syslog-sink", "--unix", &path])?;
        hears(&mut sink, "ready")?;
        hears(&mut sink, "reload refused")?;
        eventually(seconds(10), "the status tells no more", || Ok(!warned()?))?;
        ensure!(lost(lab)?.values().all(|lost| *lost == 0), "{:?}", lost(lab)?);
        Ok(())
    });
}

/// Lines of all files together, and those of standard error, each in order of their text.
fn same_lines(files: &[PathBuf], stderr: &str) -> Result<()> {
    let mut written = Vec::new();
    for path in files {
        let text = fs::read_to_string(path).with_context(|| path.display().to_string())?;
        ensure!(text.ends_with('\n'), "{} ends within a line", path.display());
        written.extend(text.lines().map(str::to_owned));
    }
    let mut told: Vec<String> = stderr.lines().map(str::to_owned).collect();
    written.sort();
    told.sort();
    let differ = written.iter().zip(&told).find(|(a, b)| a != b);
    ensure!(
        written == told,
        "{} lines in files, {} on stderr; the first that differs: {differ:?}",
        written.len(),
        told.len()
    );
    Ok(())
}

#[test]
fn renamed_files_are_opened_anew_without_losing_a_line() {
    scenario(Method::Nat.shape(2), |lab| {
        let folder = lab.dir.path().join("log");
        fs::create_dir(&folder)?;
        let path = folder.join("lb.log");
        let target = format!("  - {{file: {}}}", text(&path)?);
        let lb =
            Daemon::start(lab, &logging(lab, &["level: debug", "to:", "  - stderr", &target]))?;
        let mode = fs::metadata(&path)?.permissions().mode();
        ensure!(mode & 0o777 == 0o640, "{mode:o}");
        let mut files = vec![path.clone()];
        for n in 1..=6 {
            let old = folder.join(format!("lb.log.{n}"));
            let grows = || Ok(fs::metadata(&path)?.len() > 500);
            eventually(seconds(10), "lines come", grows)?;
            fs::rename(&path, &old)?;
            files.push(old);
            if n % 2 == 0 {
                kill(Pid::from_raw(lb.pid().cast_signed()), Signal::SIGUSR1)?;
            } else {
                let said = lb.text(&["reopen-logs"])?;
                ensure!(said.contains(&format!("file {}", path.display())), "{said}");
            }
            eventually(seconds(5), "there is a new file", || path.exists())?;
        }
        fs::rename(&folder, lab.dir.path().join("moved"))?;
        let output = lb_reopen(lab)?;
        ensure!(output.contains("No such file"), "{output}");
        fs::rename(lab.dir.path().join("moved"), &folder)?;
        ensure!(lost(lab)?.values().all(|lost| *lost == 0), "{:?}", lost(lab)?);
        let log = lb.log_path().to_owned();
        lb.terminate()?;
        let stderr = fs::read_to_string(&log)?;
        same_lines(&files, &stderr)?;
        // The comparison can fail.
        ensure!(same_lines(&files[1..], &stderr).is_err(), "a lost file is found");
        Ok(())
    });
}

/// `lb reopen-logs` that must fail; what it said.
fn lb_reopen(lab: &Lab) -> Result<String> {
    let output = lb(lab, &["reopen-logs"])?;
    ensure!(output.status.code() == Some(1), "{}", output.status);
    Ok(String::from_utf8_lossy(&output.stderr).into_owned())
}

#[test]
fn format_level_and_targets_follow_a_reload() {
    scenario(Method::Nat.shape(1), |lab| {
        let path = lab.dir.path().join("json.log");
        let lb = Daemon::start(lab, &logging(lab, &["to: [stderr]"]))?;
        let to = format!("to: [{{file: {}, max_level: info}}]", text(&path)?);
        lb.reload(&logging(lab, &["level: debug", "format: json", &to]))?;
        let before = lb.log();
        lb.reload(&logging(lab, &["level: debug", "format: json", &to]))?;
        eventually(seconds(5), "the file tells of a reload", || {
            Ok(fs::read_to_string(&path)?.matches("configuration reloaded").count() == 2)
        })?;
        let text = fs::read_to_string(&path)?;
        for line in text.lines() {
            let value: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
            for key in ["timestamp", "level", "severity", "node", "message", "target"] {
                ensure!(value[key].is_string(), "no {key} in {line}");
            }
            ensure!(value["severity"] != "debug", "max_level is info: {line}");
        }
        ensure!(lb.log() == before, "standard error is no target any more");
        // A target that cannot be written changes nothing.
        let config = logging(lab, &["to: [{file: /nowhere/lb.log}]"]);
        let yaml = config.yaml(&Paths::of(lab).pins, &Paths::of(lab).socket);
        let said = lb.reload_refused(&yaml)?;
        ensure!(said.contains("log.to: file /nowhere/lb.log: No such file"), "{said}");
        lb.terminate()?;
        ensure!(fs::read_to_string(&path)?.contains("\"stopped\""), "lines go on, to the end");
        write(lab, &config)?;
        let (status, said) = refused(lab, &mut run_command(lab, &Paths::of(lab).config)?)?;
        ensure!(status.code() == Some(1), "{status}");
        ensure!(said.contains("install -d -m 0750 /nowhere"), "{said}");
        Ok(())
    });
}

/// Lines that each target lost, by its series.
fn lost(lab: &Lab) -> Result<std::collections::BTreeMap<String, u64>> {
    let series = crate::metrics::scrape(lab)?.0.into_iter();
    Ok(series.filter(|(name, _)| name.starts_with("lb_log_lines_lost_total")).collect())
}
