//! The state file: what `--persist` keeps over restarts and reloads.
//!
//! A JSON document that is written as a whole beside the old one and then put in its place, so a
//! crash leaves the one or the other. A file that cannot be read is an error that names it: what was
//! drained must not come back unasked.
//!
//! Must not know: what a change means.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::net::IpAddr;
use std::path::Path;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::controller::overrides::{Layer, Override, ServerName};
use crate::model::AdminState;

/// Where it is unless the command line says otherwise.
pub const DEFAULT: &str = "/var/lib/lb/state.json";

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Document {
    version: u32,
    servers: Vec<Row>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    service: String,
    address: IpAddr,
    port: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    state: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    weight: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    present: Option<bool>,
}

/// Reads it; one that is not there is empty.
///
/// # Errors
/// When it cannot be read or is not what this program writes.
pub fn read(path: &Path) -> anyhow::Result<Layer> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(Layer::new()),
        Err(error) => return Err(error).with_context(|| format!("read {}", path.display())),
    };
    parse(&text).with_context(|| {
        format!("{}: mend it, or remove it to forget what was kept", path.display())
    })
}

fn parse(text: &str) -> anyhow::Result<Layer> {
    let document: Document = serde_json::from_str(text)?;
    anyhow::ensure!(document.version == VERSION, "version {} is not known", document.version);
    let mut layer = Layer::new();
    for Row { service, address, port, state, weight, present } in document.servers {
        let admin = match state {
            None => None,
            Some(name) => {
                let state = AdminState::of_name(&name);
                Some(state.with_context(|| format!("{name:?} is no state of a server"))?)
            }
        };
        anyhow::ensure!(weight.is_none_or(|w| w <= MAX_WEIGHT), "weight {weight:?} is too large");
        layer.insert(ServerName { service, address, port }, Override { admin, weight, present });
    }
    Ok(layer)
}

/// Writes it; its directory is made if there is none.
///
/// # Errors
/// When it cannot be written; the old one is then still there.
pub fn write(path: &Path, layer: &Layer) -> anyhow::Result<()> {
    let servers = layer.iter().map(|(server, change)| Row {
        service: server.service.clone(),
        address: server.address,
        port: server.port,
        state: change.admin.map(|admin| admin.name().to_owned()),
        weight: change.weight,
        present: change.present,
    });
    let document = Document { version: VERSION, servers: servers.collect() };
    let mut text = serde_json::to_vec_pretty(&document)?;
    text.push(b'\n');
    let directory = path.parent().context("the state file has no directory")?;
    fs::create_dir_all(directory).with_context(|| format!("make {}", directory.display()))?;
    let beside = path.with_extension("new");
    let written = (|| {
        let mut file = File::create(&beside)?;
        file.write_all(&text)?;
        file.sync_all()?;
        fs::rename(&beside, path)
    })();
    written.with_context(|| format!("write {}", path.display()))
}

/// As ipvsadm.
pub const MAX_WEIGHT: u32 = 65535;
const VERSION: u32 = 1;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_again() {
        let directory = std::env::temp_dir().join(format!("lb-state-{}", std::process::id()));
        let path = directory.join("below/state.json");
        assert_eq!(read(&path).expect("none is empty"), Layer::new());
        let server = |ip: &str| ServerName {
            service: "a service".into(),
            address: ip.parse().expect("an address"),
            port: 80,
        };
        let mut layer = Layer::new();
        let drained = Override { admin: Some(AdminState::Drain), weight: Some(7), present: None };
        layer.insert(server("10.0.0.1"), drained);
        layer.insert(
            server("2001:db8::1"),
            Override { present: Some(false), ..Override::default() },
        );
        write(&path, &layer).expect("it can be written");
        assert_eq!(read(&path).expect("it can be read"), layer);
        write(&path, &Layer::new()).expect("it can be written again");
        assert_eq!(read(&path).expect("it can be read"), Layer::new());
        fs::remove_dir_all(&directory).expect("it was made here");
    }

    #[test]
    fn what_is_not_ours_is_an_error() {
        for text in [
            "",
            "{}",
            r#"{"version":2,"servers":[]}"#,
            r#"{"version":1,"servers":[{"service":"a","address":"x","port":1}]}"#,
            r#"{"version":1,"servers":[{"service":"a","address":"10.0.0.1","port":1,"state":"up"}]}"#,
            r#"{"version":1,"servers":[{"service":"a","address":"10.0.0.1","port":1,"weight":65536}]}"#,
            r#"{"version":1,"servers":[{"service":"a","address":"10.0.0.1","port":1,"else":1}]}"#,
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }
}
