//! `lb check FILE [--peer FILE]`, and the loading that `lb run` shares with it.
//!
//! Must not know: how a configuration is validated, how the host is examined.

use std::path::Path;
use std::time::Instant;

use anyhow::Context as _;

use crate::admin;
use crate::cli::args::Check;
use crate::cli::{output, render, runtime};
use crate::config::{self, Loaded};
use crate::controller::overrides::Overrides;
use crate::controller::preflight::{self, Finding, Host};
use crate::controller::state_file;
use crate::failover::{self, Node};
use crate::model::Director;

pub(super) fn check(arguments: &Check) -> anyhow::Result<()> {
    let file = &arguments.file;
    let host_name = host_name();
    let loaded = load(file, &host_name);
    // Both files' errors are told in one go.
    let peer = arguments.peer.as_ref().map(|peer| (peer, load(peer, &host_name)));
    let loaded = loaded?;
    complain_of(&loaded);
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
    tell_kept(&arguments.state, &loaded.director)?;
    for fault in admin::examine(&loaded.director) {
        output::complain(&format!("warning: {fault}"));
    }
    match peer {
        None => output::print(summary(file, &loaded.director).as_bytes()),
        Some((peer, other)) => {
            let other = other?;
            complain_of(&other);
            compare([(file, &loaded.director), (peer, &other.director)], arguments.wants_json())
        }
    }
}

/// What was changed with `--persist` and holds over the file.
fn tell_kept(path: &Path, director: &Director) -> anyhow::Result<()> {
    let kept = Overrides { kept: state_file::read(path)?, ..Overrides::default() };
    let (_, ignored) = kept.apply(director);
    let ignored = ignored.iter().map(ToString::to_string);
    let told = kept.describe().into_iter().chain(ignored);
    told.for_each(|line| output::complain(&format!("kept in {}: {line}", path.display())));
    Ok(())
}

fn complain_of(loaded: &Loaded) {
    for warning in &loaded.warnings {
        output::complain(&format!("warning: {warning}"));
    }
}

/// What becomes of the virtual addresses after each single failure of two directors.
fn compare(files: [(&Path, &Director); 2], json: bool) -> anyhow::Result<()> {
    let (text, errors) = compared(files, json)?;
    output::print(text.as_bytes())?;
    match errors {
        0 => Ok(()),
        1 => anyhow::bail!("1 error in how these directors take over from each other"),
        errors => anyhow::bail!("{errors} errors in how these directors take over from each other"),
    }
}

/// The report as it is printed, and how many errors are in it.
fn compared(files: [(&Path, &Director); 2], json: bool) -> anyhow::Result<(String, usize)> {
    let [one, other] = node_names(files);
    let nodes =
        [Node { name: one, director: files[0].1 }, Node { name: other, director: files[1].1 }];
    let report = failover::analyse(&nodes, Instant::now());
    let text = if json {
        serde_json::to_string(&report)? + "\n"
    } else {
        let summaries = files.map(|(file, director)| summary(file, director)).concat();
        summaries + &render::failover(&report)
    };
    Ok((text, report.errors()))
}

/// The nodes' names; those of the files where the nodes' are equal.
fn node_names(files: [(&Path, &Director); 2]) -> [String; 2] {
    let [one, other] = files.map(|(_, director)| director.node.clone());
    if one != other {
        return [one, other];
    }
    let [one, other] = files.map(|(file, _)| file.display().to_string());
    let other = if one == other { format!("{other} (peer)") } else { other };
    [one, other]
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

#[cfg(test)]
mod tests {
    use super::*;

    fn director(text: &str) -> Director {
        config::load("f", text, "host").expect("a good file").director
    }

    #[test]
    fn nodes_of_one_name_are_called_by_their_files() {
        let names = |one: &str, other: &str, files: [&str; 2]| {
            let [one, other] = [one, other].map(director);
            node_names([(Path::new(files[0]), &one), (Path::new(files[1]), &other)])
        };
        assert_eq!(names("node: a", "node: b", ["x", "x"]), ["a", "b"]);
        assert_eq!(names("node: a", "", ["x", "y"]), ["a", "host"]);
        assert_eq!(names("", "", ["x.yaml", "y.yaml"]), ["x.yaml", "y.yaml"]);
        assert_eq!(names("node: a", "node: a", ["x", "x"]), ["x", "x (peer)"]);
    }

    #[test]
    fn errors_are_counted_in_both_forms() {
        let file = |node: &str, priority: u8| {
            director(&format!(
                "node: {node}\nvrrp: {{instances: [{{name: a, interface: eth0, virtual_router_id: 1,\n\
                 addresses: [192.0.2.1], priority: {priority}}}]}}\n"
            ))
        };
        for (priority, errors) in [(110, 0), (100, 1)] {
            let (one, other) = (file("a", priority), file("b", 100));
            let files = [(Path::new("x"), &one), (Path::new("y"), &other)];
            let (text, counted) = compared(files, false).expect("text");
            assert_eq!(counted, errors);
            assert!(text.starts_with("x: ok: 0 virtual services"), "{text}");
            let (text, counted) = compared(files, true).expect("a document");
            assert_eq!(counted, errors);
            let document: serde_json::Value = serde_json::from_str(&text).expect("JSON");
            assert_eq!(document["findings"].as_array().map(Vec::len), Some(errors));
        }
    }
}
