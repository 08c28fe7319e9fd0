//! Several interfaces, generic mode, readable maps, and starts that must be refused.

use crate::stage::{Method, WEB, file, http_servers, web};
use anyhow::{Context, Result, bail, ensure};
use harness::config::Config;
use harness::daemon::{self, Daemon, Paths};
use harness::peer;
use harness::snapshot::Snapshot;
use harness::topology::Family;
use harness::{Lab, Shape, programs, scenario};
use serde_json::Value;
use std::process::Command;

#[test]
fn nat_and_dr_work_side_by_side_on_two_interfaces() {
    scenario(Shape::Both { servers: 2 }, |lab| side_by_side(lab, "native"));
}

#[test]
fn generic_mode_forwards_and_says_so() {
    scenario(Shape::Both { servers: 2 }, |lab| side_by_side(lab, "generic"));
}

fn side_by_side(lab: &Lab, mode: &str) -> Result<()> {
    let _servers = http_servers(lab)?;
    let lb = Daemon::start(lab, &both_methods(lab).mode(mode))?;
    let status = lb.status()?;
    ensure!(status["dataplane"]["mode"] == mode, "lb status shows {}", status["dataplane"]);
    let interfaces = status["dataplane"]["interfaces"].to_string();
    ensure!(interfaces == r#"["wan0","lan0"]"#, "lb status shows {interfaces}");
    let flag = if mode == "generic" { "xdpgeneric" } else { "xdp" };
    for interface in ["wan0", "lan0"] {
        let said = lab.director.run(&format!("ip link show dev {interface}"))?;
        ensure!(said.contains(&format!(" {flag} ")), "{interface} has no {flag}: {said}");
    }
    for method in [Method::Nat, Method::Dr] {
        for family in [Family::V4, Family::V6] {
            let answers = peer::get(&lab.client, &method.url(family, WEB), 100)?;
            answers
                .exactly(&[("rs1", 50), ("rs2", 50)])
                .with_context(|| format!("{} {family:?} in {mode} mode", method.name()))?;
        }
    }
    Ok(())
}

#[test]
fn maps_are_readable_with_bpftool() {
    scenario(Shape::Both { servers: 2 }, |lab| {
        let _servers = http_servers(lab)?;
        let mut config = both_methods(lab);
        // A dump shows empty slots as well: that of a small table is short.
        config.dataplane.push("connections: 100".into());
        let _lb = Daemon::start(lab, &config)?;
        for method in [Method::Nat, Method::Dr] {
            for family in [Family::V4, Family::V6] {
                peer::get(&lab.client, &method.url(family, WEB), 4)?.unbroken()?;
            }
        }
        for map in ["services", "real_servers"] {
            named_fields(map, &dump(lab, map)?[0]["formatted"]["value"])?;
        }
        for (map, client) in [("conn4", 4), ("conn6", 16)] {
            let dump = dump(lab, map)?;
            let slots: Vec<&Value> = dump
                .iter()
                .filter_map(|bucket| bucket["formatted"]["value"]["slots"].as_array())
                .flatten()
                .collect();
            ensure!(slots.len() == 400, "{map} shows {} slots", slots.len());
            let used: Vec<_> = slots.iter().filter(|slot| slot["word"] != 0).collect();
            ensure!(used.len() >= 12, "{map} shows {} connections", used.len());
            named_fields(map, used[0])?;
            let address = used[0]["key"]["source"].as_array().map_or(0, Vec::len);
            ensure!(address == client, "{map} has no address of a client: {}", used[0]);
        }
        for map in ["virtual_macs", "vrrp_frames"] {
            let dump = dump(lab, map)?;
            ensure!(dump.len() == 512, "{map} shows {} virtual routers", dump.len());
            ensure!(dump[51]["formatted"]["key"] == 51, "{map} is not readable: {}", dump[51]);
        }
        let services = daemon::dump_map(lab, "services")?;
        let vip: String = services.split_whitespace().collect();
        ensure!(vip.contains("10,0,2,15"), "the VIP is not readable: {services}");
        Ok(())
    });
}

/// Every element of a map, as bpftool prints it.
fn dump(lab: &Lab, map: &str) -> Result<Vec<Value>> {
    let text = harness::process::run(
        Command::new("bpftool")
            .args(["--json", "map", "dump", "pinned"])
            .arg(daemon::pinned(lab, map)?),
    )?;
    let dump: Vec<Value> = serde_json::from_str(&text).context("bpftool printed no JSON list")?;
    ensure!(!dump.is_empty(), "{map} is empty");
    Ok(dump)
}

/// With BTF, bpftool prints keys and values as objects; without, as bytes.
fn named_fields(map: &str, value: &Value) -> Result<()> {
    let fields = value.as_object().map(serde_json::Map::len);
    ensure!(fields.is_some_and(|n| n >= 2), "{map} has no named fields: {value}");
    Ok(())
}

#[test]
fn a_missing_interface_is_refused() {
    scenario(Method::Nat.shape(1), |lab| {
        let service = web(lab, Method::Nat, Family::V4);
        let config = Config::new(&["wan0", "eth9"])
            .vip(Method::Nat.vip(Family::V4), "wan0")
            .service(service);
        let path = daemon::write_as(lab, "refused.yaml", &config, &Paths::of(lab).pins)?;
        refused(lab, &mut daemon::run_command(lab, &path)?, &["eth9"])
    });
}

#[test]
fn a_pin_path_that_is_no_bpffs_is_refused() {
    scenario(Method::Nat.shape(1), |lab| {
        let config = file(lab, Method::Nat, Family::V4, web(lab, Method::Nat, Family::V4));
        let pins = lab.dir.path().join("plain");
        let path = daemon::write_as(lab, "refused.yaml", &config, &pins)?;
        let text = pins.display().to_string();
        refused(lab, &mut daemon::run_command(lab, &path)?, &[&text, "bpf"])?;
        ensure!(!pins.exists(), "{text} was made");
        Ok(())
    });
}

#[test]
fn a_user_without_rights_is_refused() {
    scenario(Method::Nat.shape(1), |lab| {
        let config = file(lab, Method::Nat, Family::V4, web(lab, Method::Nat, Family::V4));
        daemon::write(lab, &config)?;
        // The build tree may be closed to others.
        let binary = lab.dir.path().join("lb");
        std::fs::copy(programs::lb()?, &binary).context("copy lb")?;
        let mut command = lab.director.command("setpriv");
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups", "--"]);
        command.arg(binary).arg("run").arg("--config").arg(Paths::of(lab).config);
        command.arg("--state").arg(Paths::of(lab).state);
        refused(lab, &mut command, &["root", "CAP_", "permission", "privilege"])
    });
}

#[test]
fn a_second_daemon_on_one_pin_path_is_refused() {
    scenario(Method::Nat.shape(2), |lab| {
        let _servers = http_servers(lab)?;
        let config = file(lab, Method::Nat, Family::V4, web(lab, Method::Nat, Family::V4));
        let _first = Daemon::start(lab, &config)?;
        let path = daemon::write_as(lab, "second.yaml", &config, &Paths::of(lab).pins)?;
        let words = ["running", "in use", "another", "lock"];
        refused(lab, &mut daemon::run_command(lab, &path)?, &words)?;
        let answers = peer::get(&lab.client, &Method::Nat.url(Family::V4, WEB), 100)?;
        answers.exactly(&[("rs1", 50), ("rs2", 50)])
    });
}

/// Exit code 1, a message with one of `words`, and the host as before.
fn refused(lab: &Lab, command: &mut Command, words: &[&str]) -> Result<()> {
    let before = Snapshot::of(lab)?;
    let (status, said) = daemon::refused(lab, command)?;
    if status.code() != Some(1) {
        bail!("lb ended with {status} instead of 1: {said}");
    }
    let lower = said.to_lowercase();
    let clear = words.iter().any(|word| lower.contains(&word.to_lowercase()));
    ensure!(clear, "the message names none of {words:?}: {said}");
    Snapshot::of(lab)?.same_as(&before)
}

/// Services `nat4`, `nat6` on `wan0` and `dr4`, `dr6` on `lan0`.
fn both_methods(lab: &Lab) -> Config {
    let mut config = Config::new(&lab.director_interfaces());
    for method in [Method::Nat, Method::Dr] {
        for (family, n) in [(Family::V4, 4), (Family::V6, 6)] {
            let mut service = web(lab, method, family);
            service.name = format!("{}{n}", method.name());
            config = config.vip(method.vip(family), method.interface()).service(service);
        }
    }
    config
}
