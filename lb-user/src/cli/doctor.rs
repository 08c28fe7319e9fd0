//! `lb doctor`: what is wrong with this director, and the command that mends it.
//!
//! Must not know: how findings come about, how text is laid out.

use std::path::PathBuf;

use crate::admin::Client;
use crate::cli::args::Doctor;
use crate::cli::{check, output, render, runtime};
use crate::controller::document::Status;
use crate::controller::request::Verb;
use crate::doctor::facts::Daemon;
use crate::doctor::{Finding, Severity, gather, judge};

/// Where a configuration is without `--config` and without a daemon.
const DEFAULT: &str = "/etc/lb/lb.yaml";

pub(super) fn doctor(arguments: &Doctor) -> anyhow::Result<()> {
    if arguments.real_server.is_some() {
        anyhow::bail!("`lb doctor --real-server` is not supported yet");
    }
    let status = ask(arguments);
    let file = arguments.config.clone().unwrap_or_else(|| config_of(status.as_ref()));
    let loaded = check::load(&file, &check::host_name())?;
    let daemon = status.map(|status| daemon(arguments, status));
    let facts = runtime()?.block_on(gather::gather(&loaded.director, daemon))?;
    let findings = judge(&loaded.director, &facts);
    let errors = findings.iter().filter(|finding| finding.severity == Severity::Error).count();
    if arguments.daemon.wants_json() {
        output::print(&json(&findings)?)?;
    } else {
        output::print(render::doctor(&findings).as_bytes())?;
    }
    match errors {
        0 => Ok(()),
        1 => anyhow::bail!("1 error found"),
        errors => anyhow::bail!("{errors} errors found"),
    }
}

/// A daemon that does not answer is no fault here.
fn ask(arguments: &Doctor) -> Option<Status> {
    let client = Client::new(arguments.daemon.socket());
    runtime().ok()?.block_on(client.ask(&Verb::Status)).ok()
}

fn config_of(status: Option<&Status>) -> PathBuf {
    let told = status.map(|status| status.config_path.as_str()).filter(|path| !path.is_empty());
    PathBuf::from(told.unwrap_or(DEFAULT))
}

fn daemon(arguments: &Doctor, status: Status) -> Daemon {
    let process = gather::process_behind(&arguments.daemon.socket());
    let capacity = status.dataplane.connections;
    Daemon {
        pid: process.map(|(pid, _)| pid),
        version: status.version,
        files: process.and_then(|(_, files)| files),
        warnings: status.dataplane.warnings,
        vrrp: status.vrrp.into_iter().map(|v| (v.name, v.state)).collect(),
        connections: (capacity.used, capacity.capacity),
    }
}

/// `{"findings":[..],"errors":0,"warnings":0}`.
fn json(findings: &[Finding]) -> anyhow::Result<Vec<u8>> {
    let count = |severity| findings.iter().filter(|f| f.severity == severity).count();
    let document = serde_json::json!({
        "findings": findings,
        "errors": count(Severity::Error),
        "warnings": count(Severity::Warn),
    });
    let mut text = serde_json::to_vec(&document)?;
    text.push(b'\n');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_daemon_says_which_file_it_follows() {
        let status = |path: &str| Status { config_path: path.into(), ..Status::default() };
        assert_eq!(config_of(Some(&status("/srv/lb.yaml"))), PathBuf::from("/srv/lb.yaml"));
        assert_eq!(config_of(Some(&status(""))), PathBuf::from(DEFAULT), "an older daemon");
        assert_eq!(config_of(None), PathBuf::from(DEFAULT));
    }
}
