//! The dashboard in a real browser: what its user sees and does.

use crate::stage::{Method, WEB, http_servers, web};
use anyhow::{Result, ensure};
use harness::browser::{Browser, Driver, Setup};
use harness::config::{Config, RealServer, Service};
use harness::daemon::Daemon;
use harness::peer::Load;
use harness::topology::{Family, server_address};
use harness::vrrp::instance::{Instance, Setup as Vrrp};
use harness::wait::{eventually, idle, seconds};
use harness::web;
use harness::{Lab, scenario};
use serde_json::json;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

#[test]
fn an_admin_sees_a_server_go_down_and_drains_another_by_its_button() {
    scenario(Method::Nat.shape(3), |lab| {
        let mut servers = http_servers(lab)?;
        let lb = Daemon::start(lab, &file(lab))?;
        for n in 1..=3 {
            lb.wait_state("web", &server_address(Family::V4, n), "up", seconds(10))?;
        }
        let _load = Load::start(&lab.client, &Method::Nat.url(Family::V4, WEB))?;
        let driver = Driver::start(&lab.director, lab_dir(lab))?;
        let browser = driver.open(Setup { name: "admin", scripts: true })?;
        browser.devtools("Emulation.setDeviceMetricsOverride", &metrics(1440, 1000))?;
        browser.go(&page("ada", "correct horse"))?;
        let heading = browser.texts("h1")?;
        ensure!(heading == ["lab"], "another page: {heading:?} {:?}", browser.texts("body")?);
        ensure!(status_of(&browser, 3)?.starts_with("UP"), "rs3 is {}", status_of(&browser, 3)?);

        eventually(seconds(10), "the page shows who is master", || {
            Ok(browser.text("main section:not(.service) tbody tr:has([data-label=Role]) .state")?
                == "MASTER")
        })?;
        eventually(seconds(30), "the last minutes are drawn", || {
            Ok(browser.texts("section[data-service=web] .chart .line")?.len() == 4)
        })?;
        if wants_pictures() {
            // A history worth looking at.
            idle(seconds(25))?;
            let _more = Load::start(&lab.client, &Method::Nat.url(Family::V4, WEB))?;
            idle(seconds(20))?;
        }
        drop(servers.pop());
        lb.wait_state("web", &server_address(Family::V4, 3), "down", seconds(10))?;
        let down = Instant::now();
        eventually(seconds(10), "the page shows rs3 down", || {
            Ok(status_of(&browser, 3)?.starts_with("DOWN"))
        })?;
        // Once a second, and what a loaded machine needs to fetch and show it.
        ensure!(down.elapsed() < REFRESH + seconds(2), "only after {:?}", down.elapsed());
        eventually(seconds(5), "it is said aloud", || {
            Ok(browser
                .run("return document.getElementById('news').textContent")?
                .as_str()
                .is_some_and(|news| news.contains("is DOWN")))
        })?;

        press(&browser, 2, "drain")?;
        eventually(seconds(5), "the page tells the result", || {
            Ok(browser.text("#result")? == format!("drain web/{}: done", endpoint(2)))
        })?;
        lb.wait_state("web", &server_address(Family::V4, 2), "drain", seconds(5))?;
        ensure!(status_of(&browser, 2)? == "DRAIN", "rs2 is {}", status_of(&browser, 2)?);
        let who = format!("admin: ada (from 127.0.0.1) drain web/{}: done", endpoint(2));
        ensure!(lb.log().contains(&who), "no line {who:?} in the log");

        browser.run(
            "document.querySelector('#filter').value = 'dns';
                     document.querySelector('#filter').dispatchEvent(new Event('input'))",
        )?;
        ensure!(visible(&browser)? == ["dns"], "the filter shows {:?}", visible(&browser)?);
        browser.run(
            "document.querySelector('#filter').value = '';
                     document.querySelector('#filter').dispatchEvent(new Event('input'))",
        )?;
        pictures(&browser)?;
        let complaints = browser.complaints()?;
        ensure!(complaints.is_empty(), "the console: {complaints:?}");
        // What the page's policy forbids would have been heard.
        browser.run("document.body.innerHTML = '<p style=\"color:red\">x</p>'")?;
        ensure!(!browser.complaints()?.is_empty(), "a style of a stranger's goes unnoticed");
        Ok(())
    });
}

#[test]
fn without_scripts_the_page_reloads_itself_and_its_buttons_work() {
    scenario(Method::Nat.shape(3), |lab| {
        let _servers = http_servers(lab)?;
        let lb = Daemon::start(lab, &file(lab))?;
        lb.wait_state("web", &server_address(Family::V4, 1), "up", seconds(10))?;
        let driver = Driver::start(&lab.director, lab_dir(lab))?;
        let browser = driver.open(Setup { name: "plain", scripts: false })?;
        browser.go(&page("ada", "correct horse"))?;
        ensure!(browser.texts("body.script")?.is_empty(), "scripts run");
        press(&browser, 1, "maint")?;
        lb.wait_state("web", &server_address(Family::V4, 1), "disabled", seconds(5))?;
        eventually(seconds(5), "the page shows it", || Ok(status_of(&browser, 1)? == "MAINT"))?;
        press(&browser, 1, "ready")?;
        lb.wait_state("web", &server_address(Family::V4, 1), "up", seconds(10))?;
        eventually(seconds(5), "the page comes by itself", || {
            Ok(status_of(&browser, 1)?.starts_with("UP"))
        })
    });
}

#[test]
fn a_reader_has_no_buttons_and_the_api_refuses_its_changes() {
    scenario(Method::Nat.shape(3), |lab| {
        let _servers = http_servers(lab)?;
        let lb = Daemon::start(lab, &file(lab))?;
        lb.wait_state("web", &server_address(Family::V4, 1), "up", seconds(10))?;
        let driver = Driver::start(&lab.director, lab_dir(lab))?;
        let browser = driver.open(Setup { name: "reader", scripts: true })?;
        browser.go(&page("bob", "just looking"))?;
        ensure!(status_of(&browser, 1)?.starts_with("UP"), "rs1 is {}", status_of(&browser, 1)?);
        ensure!(browser.texts("main button")?.is_empty(), "a reader has buttons");
        ensure!(browser.texts("main form")?.is_empty(), "a reader has forms");
        let drain = format!(
            "return fetch(location.origin + '/api/v1/drain', {{method: 'POST',
               headers: {{'content-type': 'application/json'}},
               body: JSON.stringify({{target: 'web/{}'}})}}).then(answer => answer.status)",
            endpoint(1)
        );
        ensure!(browser.run(&drain)? == 403, "a reader drained a server");
        let server = lb.real_server("web", &server_address(Family::V4, 1))?;
        ensure!(server["state"] == "up", "rs1 is {}", server["state"]);
        let line = "admin: bob (from 127.0.0.1) drain: refused: your role is read-only";
        ensure!(lb.log().contains(line), "no line {line:?} in the log");
        Ok(())
    });
}

fn file(lab: &Lab) -> Config {
    let vip = Method::Nat.vip(Family::V4);
    let listen = (vip, 53, "udp");
    let servers = (1..=2).map(|n| RealServer::new(server_address(Family::V4, n))).collect();
    let dns = Service::new("dns", listen, "nat", servers).scheduler("mh");
    let mut web = web(lab, Method::Nat, Family::V4).check(CHECK);
    web.real_servers[0].weight = 2;
    let mut config = Config::new(&lab.director_interfaces())
        .vip(vip, Method::Nat.interface())
        .service(web.scheduler("wlc"))
        .service(dns);
    config.vrrp = Vrrp::one(Instance::new("VI_1", 200, &["10.0.1.60"]));
    config.admin = vec![
        "http:".to_owned(),
        "  bind: 127.0.0.1:1080".to_owned(),
        format!("  refresh: {}s", REFRESH.as_secs()),
        "  users:".to_owned(),
        format!("    - {{name: ada, role: admin, password_hash: \"{ADAS}\"}}"),
        format!("    - {{name: bob, role: read-only, password_hash: \"{BOBS}\"}}"),
    ];
    config
}

fn lab_dir(lab: &Lab) -> &harness::labdir::LabDir {
    harness::daemon::Director::dir(lab)
}

fn page(user: &str, password: &str) -> String {
    format!("http://{user}:{}@127.0.0.1:1080/stats", web::escape(password))
}

fn endpoint(n: usize) -> String {
    format!("{}:{WEB}", server_address(Family::V4, n))
}

fn row(n: usize) -> String {
    format!("section[data-service=web] tr[data-server=\"{}\"]", endpoint(n))
}

fn status_of(browser: &Browser, n: usize) -> Result<String> {
    browser.text(&format!("{} td .state", row(n)))
}

fn press(browser: &Browser, n: usize, action: &str) -> Result<()> {
    browser.click(&format!("{} button[value={action}]", row(n)))
}

fn visible(browser: &Browser) -> Result<Vec<String>> {
    browser.texts("section.service:not([hidden]) h2")
}

/// Light, dark and on a telephone: into docs/images with LB_SCREENSHOTS=1, else beside the builds.
fn pictures(browser: &Browser) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let folder: PathBuf =
        if wants_pictures() { root.join("docs/images") } else { root.join("target/screenshots") };
    fs::create_dir_all(&folder)?;
    for (name, scheme, width, height) in [
        ("dashboard-light", "light", 1440, 1000),
        ("dashboard-dark", "dark", 1440, 1000),
        ("dashboard-phone", "light", 390, 844),
    ] {
        browser.devtools("Emulation.setDeviceMetricsOverride", &metrics(width, height))?;
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        browser.devtools("Emulation.setEmulatedMedia", &json!({ "features": features }))?;
        let ground = browser.run("return getComputedStyle(document.body).backgroundColor")?;
        let is_dark = ground == "rgb(18, 21, 26)";
        ensure!(is_dark == (scheme == "dark"), "{scheme} is {ground}");
        let wider = "return document.documentElement.scrollWidth - innerWidth";
        ensure!(browser.run(wider)? == 0, "{name} is wider than its window");
        fs::write(folder.join(format!("{name}.png")), browser.screenshot()?)?;
    }
    Ok(())
}

fn wants_pictures() -> bool {
    std::env::var_os("LB_SCREENSHOTS").is_some_and(|value| value == "1")
}

fn metrics(width: u32, height: u32) -> serde_json::Value {
    json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false })
}

/// Of `correct horse`, and of `just looking`, at little cost.
pub(crate) const ADAS: &str = "$argon2id$v=19$m=1024,t=1,p=1$c29tZXNhbHRzb21lc2FsdA$3c0ycNEDxOgJhiuRr9xNfvQH/V2UyjGe0ueFCh75FAM";
pub(crate) const BOBS: &str = "$argon2id$v=19$m=1024,t=1,p=1$b3RoZXJzYWx0b3RoZXJzYWx0$4TLmUoSJ8UYfEdP3hcZRFEBDfh/Le7LbEctVyL1oGkg";

const REFRESH: Duration = seconds(1);
const CHECK: &str = "type: http, interval: 400ms, retry_interval: 200ms, rise: 2, fall: 2";
