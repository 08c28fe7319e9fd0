//! Chromium without a screen, steered through chromedriver's WebDriver, inside a namespace.
//!
//! Must not know: which pages it looks at.

use crate::labdir::LabDir;
use crate::netns::Netns;
use crate::process::Background;
use crate::wait::{eventually, seconds};
use crate::web;
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::path::PathBuf;

/// A running chromedriver.
pub struct Driver<'a> {
    ns: &'a Netns,
    profiles: PathBuf,
    _process: Background,
}

/// A browser with one window and a profile of its own.
pub struct Browser<'a> {
    driver: &'a Driver<'a>,
    session: String,
}

/// What a browser is started with.
#[derive(Clone, Copy, Debug)]
pub struct Setup {
    /// Name of its profile, unique in a scenario.
    pub name: &'static str,
    /// Pages may run scripts.
    pub scripts: bool,
}

impl<'a> Driver<'a> {
    /// Starts it in `ns`; profiles go to `dir`.
    ///
    /// # Errors
    /// When it is not installed, or does not listen in time.
    pub fn start(ns: &'a Netns, dir: &LabDir) -> Result<Self> {
        let process = Background::spawn(ns, &format!("chromedriver --port={PORT}"))?;
        eventually(seconds(20), "chromedriver listens", || {
            ns.enter(|| Ok(TcpStream::connect(address()).is_ok()))
        })?;
        Ok(Self { ns, profiles: dir.path().join("chromium"), _process: process })
    }

    /// Opens a browser.
    ///
    /// # Errors
    /// When it does not start.
    pub fn open(&'a self, setup: Setup) -> Result<Browser<'a>> {
        let profile = self.profiles.join(setup.name);
        let mut preferences = json!({});
        if !setup.scripts {
            preferences["profile.managed_default_content_settings.javascript"] = json!(2);
        }
        let options = json!({
            // Root has no sandbox; the namespace reaches nobody.
            "args": [
                "--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage",
                "--hide-scrollbars", "--no-first-run", "--disable-background-networking",
                "--lang=en", format!("--user-data-dir={}", profile.display()),
            ],
            "prefs": preferences,
        });
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": options,
            "goog:loggingPrefs": { "browser": "ALL" },
        } } });
        let started = self.call("POST", "/session", &wanted)?;
        let session = started["sessionId"].as_str().context("no session")?.to_owned();
        Ok(Browser { driver: self, session })
    }

    fn call(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let body = if method == "POST" { body.to_string() } else { String::new() };
        let line = format!("{method} {path}");
        let request = web::request(&line, &["Content-Type: application/json"], &body);
        // It answers local names only.
        let request = request.replacen("Host: 127.0.0.1:1080", &format!("Host: {}", address()), 1);
        let reply = web::exchange(self.ns, address(), request.as_bytes())?;
        let answer: Value = serde_json::from_str(&reply.body)
            .with_context(|| format!("{line}: chromedriver answered {reply:?}"))?;
        let value = answer["value"].clone();
        if reply.status != 200 {
            bail!("{line}: {}: {}", value["error"], value["message"]);
        }
        Ok(value)
    }
}

impl Browser<'_> {
    fn call(&self, method: &str, path: &str, body: &Value) -> Result<Value> {
        self.driver.call(method, &format!("/session/{}{path}", self.session), body)
    }

    /// Goes to a page and waits until it is there.
    ///
    /// # Errors
    /// When it does not load.
    pub fn go(&self, url: &str) -> Result<()> {
        self.call("POST", "/url", &json!({ "url": url })).map(drop)
    }

    /// The texts of the elements that a CSS selector finds.
    ///
    /// # Errors
    /// When the page went away meanwhile.
    pub fn texts(&self, selector: &str) -> Result<Vec<String>> {
        self.elements(selector)?
            .iter()
            .map(|element| {
                let text = self.call("GET", &format!("/element/{element}/text"), &Value::Null)?;
                Ok(text.as_str().unwrap_or_default().to_owned())
            })
            .collect()
    }

    /// The text of the one element that a CSS selector finds.
    ///
    /// # Errors
    /// When there is not exactly one.
    pub fn text(&self, selector: &str) -> Result<String> {
        let mut texts = self.texts(selector)?;
        ensure!(texts.len() == 1, "{} elements are {selector}", texts.len());
        texts.pop().context("one element")
    }

    /// Clicks on the one element that a CSS selector finds.
    ///
    /// # Errors
    /// When there is not exactly one, or something lies over it.
    pub fn click(&self, selector: &str) -> Result<()> {
        let elements = self.elements(selector)?;
        let [element] = elements.as_slice() else {
            bail!("{} elements are {selector}", elements.len());
        };
        self.call("POST", &format!("/element/{element}/click"), &json!({})).map(drop)
    }

    /// What a function's body gives; of a promise, what it becomes.
    ///
    /// # Errors
    /// When it throws.
    pub fn run(&self, script: &str) -> Result<Value> {
        self.call("POST", "/execute/sync", &json!({ "script": script, "args": [] }))
    }

    /// A command of the DevTools protocol.
    ///
    /// # Errors
    /// When it is refused.
    pub fn devtools(&self, command: &str, parameters: &Value) -> Result<Value> {
        let body = json!({ "cmd": command, "params": parameters });
        self.call("POST", "/goog/cdp/execute", &body)
    }

    /// What is seen of the page, as PNG.
    ///
    /// # Errors
    /// When there is no picture.
    pub fn screenshot(&self) -> Result<Vec<u8>> {
        let picture = self.call("GET", "/screenshot", &Value::Null)?;
        web::decode(picture.as_str().context("no picture")?)
    }

    /// Errors that pages wrote to the console: of scripts, and of what their policy forbids.
    ///
    /// # Errors
    /// When the console cannot be read.
    pub fn complaints(&self) -> Result<Vec<String>> {
        let entries = self.call("POST", "/se/log", &json!({ "type": "browser" }))?;
        let entries = entries.as_array().cloned().unwrap_or_default();
        let severe = entries.iter().filter(|entry| entry["level"] == "SEVERE");
        Ok(severe.map(|entry| entry["message"].to_string()).collect())
    }

    fn elements(&self, selector: &str) -> Result<Vec<String>> {
        let wanted = json!({ "using": "css selector", "value": selector });
        let found = self.call("POST", "/elements", &wanted)?;
        let found = found.as_array().cloned().unwrap_or_default();
        let id = |element: &Value| Some(element.as_object()?.values().next()?.as_str()?.to_owned());
        found.iter().map(|element| id(element).context("an element without an id")).collect()
    }
}

impl Drop for Browser<'_> {
    fn drop(&mut self) {
        if let Err(error) = self.call("DELETE", "", &Value::Null) {
            eprintln!("lab: the browser was not closed: {error:#}");
        }
    }
}

fn address() -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, PORT))
}

const PORT: u16 = 9515;
