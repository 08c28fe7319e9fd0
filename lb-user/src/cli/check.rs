//! `lb check FILE`, and the loading that `lb run` shares with it.
//!
//! Must not know: how a configuration is validated, how the host is examined.

use std::path::Path;

use anyhow::Context as _;

use crate::cli::{output, runtime};
use crate::config::{self, Loaded};
use crate::controller::preflight::{self, Finding, Host};
use crate::model::Director;

pub(super) fn check(file: &Path) -> anyhow::Result<()> {
    let loaded = load(file, &host_name())?;
    for warning in &loaded.warnings {
        output::complain(&format!("warning: {warning}"));
    }
    match examine(&loaded.director) {
        Ok(findings) => {
            for finding in findings {
                output::complain(&format!("warning: {}", finding.message));
            }
        }
        Err(error) => {
            let why = output::describe(&error);
            output::complain(&format!("warning: this host was not examined: {why}"));
        }
    }
    output::print(summary(file, &loaded.director).as_bytes())
}

/// Reads and validates a file; the error holds one line for each fault.
pub(super) fn load(file: &Path, host_name: &str) -> anyhow::Result<Loaded> {
    let name = file.display().to_string();
    let text = std::fs::read_to_string(file).with_context(|| format!("read {name}"))?;
    config::load(&name, &text, host_name).map_err(|errors| {
        for error in &errors {
            output::complain(&error.to_string());
        }
        let plural = if errors.len() == 1 { "" } else { "s" };
        anyhow::anyhow!("{name}: {} error{plural}", errors.len())
    })
}

/// What this host lacks.
pub(super) fn examine(director: &Director) -> anyhow::Result<Vec<Finding>> {
    let host = runtime()?.block_on(Host::examine(director))?;
    Ok(preflight::check(director, &host))
}

/// The name that the kernel knows this host by.
pub(super) fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    if name.is_empty() { "localhost".to_owned() } else { name.to_owned() }
}

fn summary(file: &Path, director: &Director) -> String {
    let services = &director.virtual_services;
    let servers: usize = services.iter().map(|service| service.real_servers.len()).sum();
    let plural = |number: usize| if number == 1 { "" } else { "s" };
    format!(
        "{}: ok: {} virtual service{}, {servers} real server{}\n",
        file.display(),
        services.len(),
        plural(services.len()),
        plural(servers),
    )
}
