//! `lb doctor`: what on this director is not as it should be, and the command that mends it.
//!
//! [`gather::gather`] looks at the host, the pure [`judge`] says what that means for the configuration.
//! What `lb run` refuses to start with comes from `controller::preflight`, which is asked as well.
//!
//! Must not know: how findings are shown, YAML.

pub mod facts;
pub mod gather;
mod host;
mod interfaces;
mod settings;
#[cfg(test)]
mod tests;
mod traffic;

use serde::{Deserialize, Serialize};

use crate::controller::preflight;
use crate::doctor::facts::Facts;
use crate::model::Director;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// It was looked at and is right.
    Ok,
    /// It works, but not as well as it could, or not for everything.
    Warn,
    /// It does not work.
    Error,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What was looked at, for scripts: `rp_filter`, `tunnel_mtu`.
    pub check: String,
    /// Where: an interface, an address, a file; `host` for the host as a whole.
    pub place: String,
    /// What was found, and what comes of it.
    pub message: String,
    /// The command that mends it, for a root shell; empty when none does.
    pub command: String,
}

impl Finding {
    fn new(severity: Severity, check: &str, place: &str, message: impl Into<String>) -> Self {
        let (check, place) = (check.to_owned(), place.to_owned());
        Self { severity, check, place, message: message.into(), command: String::new() }
    }

    fn ok(check: &str, place: &str, message: impl Into<String>) -> Self {
        Self::new(Severity::Ok, check, place, message)
    }

    fn warn(check: &str, place: &str, message: impl Into<String>) -> Self {
        Self::new(Severity::Warn, check, place, message)
    }

    fn error(check: &str, place: &str, message: impl Into<String>) -> Self {
        Self::new(Severity::Error, check, place, message)
    }

    fn mended_by(self, command: impl Into<String>) -> Self {
        Self { command: command.into(), ..self }
    }
}

/// Everything that was looked at; the worst first, and otherwise in a fixed order.
pub fn judge(director: &Director, facts: &Facts) -> Vec<Finding> {
    let mut findings: Vec<Finding> = facts.preflight.iter().map(of_preflight).collect();
    if findings.is_empty() {
        let all = "capabilities, BPF, the pin path, interfaces and commands are as the start needs";
        findings.push(Finding::ok("preflight", "host", all));
    }
    findings.extend(host::judge(director, facts));
    findings.extend(interfaces::judge(director, facts));
    findings.extend(settings::judge(director, facts));
    findings.extend(traffic::judge(director, facts));
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.severity));
    findings
}

/// A finding of the preflight: its remedy stands in its text, commands between backticks.
fn of_preflight(finding: &preflight::Finding) -> Finding {
    let severity = match finding.severity {
        preflight::Severity::Refuse => Severity::Error,
        preflight::Severity::Warn => Severity::Warn,
    };
    let quoted = finding.message.split('`').skip(1).step_by(2);
    let command = quoted.into_iter().find(|quoted| {
        ["ip ", "mount ", "sysctl ", "chown ", "chmod "].iter().any(|word| quoted.starts_with(word))
    });
    let found = Finding::new(severity, "preflight", "host", finding.message.clone());
    found.mended_by(command.unwrap_or_default())
}
