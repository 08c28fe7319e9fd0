//! What Prometheus's own tool says of the metrics, the alert rules and the dashboard.
//!
//! Must not know: how metrics are made.

use crate::metrics::scraped;
use crate::stage::{Method, file, http_servers, web};
use anyhow::{Context, Result, ensure};
use harness::daemon::Daemon;
use harness::process::run;
use harness::topology::Family;
use harness::wait::{eventually, seconds};
use harness::{programs, scenario};
use serde_json::Value;
use std::collections::BTreeSet;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// What `promtool check metrics` says of a text; nothing when all is well.
fn lint(text: &str) -> Result<String> {
    let mut child = Command::new(programs::promtool()?)
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("its stdin")?.write_all(text.as_bytes())?;
    let output = child.wait_with_output()?;
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    ensure!(output.status.success() == said.is_empty(), "{}: {said}", output.status);
    Ok(said)
}

fn deploy(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("deploy").join(name)
}

#[test]
fn promtool_finds_nothing_in_what_is_told() {
    scenario(Method::Nat.shape(2), |lab| {
        let _servers = http_servers(lab)?;
        let service = web(lab, Method::Nat, Family::V4).check("type: http, interval: 200ms");
        let lb = Daemon::start(lab, &file(lab, Method::Nat, Family::V4, service))?;
        let checked = || {
            let text = scraped(lab)?;
            let told = text.lines().filter(|line| line.starts_with("lb_check_last_change_"));
            Ok((told.count() == 2).then_some(text))
        };
        let text = eventually(seconds(10), "both servers came up", checked)?;
        ensure!(lint(&text)?.is_empty(), "{}", lint(&text)?);
        let server = "service=\"web\",real_server=\"10.0.1.11:80\",check=\"http\"";
        for part in [
            format!("lb_check_up{{{server}}} 1\n"),
            format!("lb_check_status{{{server},status=\"L7OK\"}} 1\n"),
            format!("lb_check_state_changes_total{{{server}}} 1\n"),
            "lb_stuck_seconds{part=\"controller\"} 0\n".to_owned(),
            "lb_stuck_seconds{part=\"probes\"} 0\n".to_owned(),
            "lb_stuck_seconds{part=\"sweep\"} 0\n".to_owned(),
            "lb_log_lines_lost_total{target=\"stderr\"} 0\n".to_owned(),
        ] {
            ensure!(text.contains(&part), "no {part} in {text}");
        }
        ensure!(text.contains(&format!("lb_check_probes_total{{{server},status=\"L7OK\"}} ")));
        // It does find what is wrong.
        ensure!(!lint("# TYPE lb_x counter\nlb_x 1\n")?.is_empty(), "a bad name");
        ensure!(!lint(&text.replace("# HELP lb_check_up ", "# HELP lb_other "))?.is_empty());
        drop(lb);
        Ok(())
    });
}

#[test]
fn alert_rules_do_what_their_tests_say() -> Result<()> {
    let promtool = |args: &[&str]| {
        let mut command = Command::new(programs::promtool()?);
        run(command.current_dir(deploy("prometheus")).args(args))
    };
    promtool(&["check", "rules", "lb.rules.yml"])?;
    promtool(&["test", "rules", "lb.rules.test.yml"])?;
    Ok(())
}

/// Every expression of the dashboard.
fn expressions(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(map) => {
            found.extend(map.get("expr").and_then(Value::as_str).map(str::to_owned));
            map.values().for_each(|value| expressions(value, found));
        }
        Value::Array(items) => items.iter().for_each(|value| expressions(value, found)),
        _ => {}
    }
}

#[test]
fn every_panel_of_the_dashboard_asks_something_that_prometheus_understands() -> Result<()> {
    let text = std::fs::read_to_string(deploy("grafana/lb.json"))?;
    let mut found = Vec::new();
    expressions(&serde_json::from_str(&text)?, &mut found);
    ensure!(found.len() >= 15, "{} expressions", found.len());
    let rules = |expressions: &[String]| {
        let rules = expressions.iter().enumerate().map(|(n, expression)| {
            // Grafana's own variables are texts by the time Prometheus sees them.
            let expression = expression.replace("$__rate_interval", "5m");
            serde_json::json!({ "record": format!("panel:{n}"), "expr": expression })
        });
        let rules: Vec<Value> = rules.collect();
        serde_json::json!({ "groups": [{ "name": "panels", "rules": rules }] }).to_string()
    };
    let check = |text: &str| {
        let path = std::env::temp_dir().join(format!("lb-panels-{}.json", std::process::id()));
        std::fs::write(&path, text)?;
        let checked = run(Command::new(programs::promtool()?).args(["check", "rules"]).arg(&path));
        std::fs::remove_file(&path)?;
        checked
    };
    check(&rules(&found))?;
    ensure!(check(&rules(&["sum(rate(lb_drops_total)".to_owned()])).is_err(), "it does look");
    let titles: BTreeSet<_> = text.lines().filter(|line| line.contains("\"title\"")).collect();
    ensure!(titles.len() >= 15, "{} titles", titles.len());
    Ok(())
}
