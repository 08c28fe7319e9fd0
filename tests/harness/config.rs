//! Configuration files for scenarios, built as values so that a reload can change one thing.
//!
//! Must not know: how the product reads them; only the reference's keys are written.

use crate::topology::endpoint;
use crate::vrrp::instance::Setup;
use std::fmt::Write;
use std::net::IpAddr;
use std::path::Path;

/// A configuration file without the lab's own paths.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// `dataplane.interfaces`.
    pub interfaces: Vec<String>,
    /// `dataplane.mode`; absent when empty.
    pub mode: String,
    /// `dataplane.timeouts`, as written between the braces; absent when empty.
    pub timeouts: String,
    /// More lines for the `dataplane` section, without indentation.
    pub dataplane: Vec<String>,
    /// `dataplane.addresses`.
    pub addresses: Vec<String>,
    /// `virtual_services`.
    pub services: Vec<Service>,
    /// More lines for the `admin` section, without indentation.
    pub admin: Vec<String>,
    /// Lines of the `log` section, without indentation; absent when empty.
    pub log: Vec<String>,
    /// `vrrp` and `notifications`; absent without instances.
    pub vrrp: Setup,
    /// More lines for the top level.
    pub more: Vec<String>,
}

/// One entry of `virtual_services`.
#[derive(Clone, Debug)]
pub struct Service {
    /// `name`.
    pub name: String,
    /// `listen`.
    pub listen: String,
    /// `scheduler`; absent when empty.
    pub scheduler: String,
    /// `hash`, as written between the braces; absent when empty.
    pub hash: String,
    /// `forwarding`.
    pub forwarding: String,
    /// `health_check`, as written; absent when empty.
    pub health_check: String,
    /// `on_failure`; absent when empty.
    pub on_failure: String,
    /// More keys, a line each, without indentation.
    pub more: Vec<String>,
    /// `real_servers`.
    pub real_servers: Vec<RealServer>,
}

/// One entry of `real_servers`.
#[derive(Clone, Debug)]
pub struct RealServer {
    /// `address`.
    pub address: String,
    /// `port`; absent when `None`.
    pub port: Option<u16>,
    /// `weight`.
    pub weight: u32,
    /// `disabled`.
    pub disabled: bool,
}

impl RealServer {
    /// A server of weight 1 on the service's port.
    pub fn new(address: impl Into<String>) -> Self {
        Self { address: address.into(), port: None, weight: 1, disabled: false }
    }

    /// The same with another weight.
    #[must_use]
    pub fn weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// The same on a port of its own.
    #[must_use]
    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }
}

impl Service {
    /// An rr service without a health check.
    pub fn new(
        name: &str,
        (address, port, protocol): (&str, u16, &str),
        forwarding: &str,
        real_servers: Vec<RealServer>,
    ) -> Self {
        Self {
            name: name.into(),
            listen: format!("{}/{protocol}", endpoint(address, port)),
            scheduler: "rr".into(),
            hash: String::new(),
            forwarding: forwarding.into(),
            health_check: String::new(),
            on_failure: String::new(),
            more: Vec::new(),
            real_servers,
        }
    }

    /// The same with another scheduler.
    #[must_use]
    pub fn scheduler(mut self, scheduler: &str) -> Self {
        self.scheduler = scheduler.into();
        self
    }

    /// The same with a health check, as written between the braces.
    #[must_use]
    pub fn check(mut self, check: &str) -> Self {
        self.health_check = format!("{{{check}}}");
        self
    }

    /// The same with one more key, as written.
    #[must_use]
    pub fn with(mut self, line: &str) -> Self {
        self.more.push(line.into());
        self
    }

    /// The same with `on_failure`.
    #[must_use]
    pub fn on_failure(mut self, what: &str) -> Self {
        self.on_failure = what.into();
        self
    }
}

impl Config {
    /// A file for these interfaces, without services.
    pub fn new(interfaces: &[&str]) -> Self {
        Self { interfaces: interfaces.iter().map(ToString::to_string).collect(), ..Self::default() }
    }

    /// The same with one more VIP, on `interface` while the daemon runs.
    #[must_use]
    pub fn vip(mut self, address: &str, interface: &str) -> Self {
        let prefix = match address.parse::<IpAddr>() {
            Ok(IpAddr::V6(_)) => 128,
            _ => 32,
        };
        self.addresses.push(format!("{address}/{prefix} dev {interface}"));
        self
    }

    /// The same with one more service.
    #[must_use]
    pub fn service(mut self, service: Service) -> Self {
        self.services.push(service);
        self
    }

    /// The same with other timeouts, as written between the braces.
    #[must_use]
    pub fn timeouts(mut self, timeouts: &str) -> Self {
        self.timeouts = timeouts.into();
        self
    }

    /// The same with another `dataplane.mode`.
    #[must_use]
    pub fn mode(mut self, mode: &str) -> Self {
        self.mode = mode.into();
        self
    }

    /// The file's text, with the paths that the lab gives it.
    pub fn yaml(&self, pin_path: &Path, socket: &Path) -> String {
        let mut text = String::from("node: lab\ndataplane:\n");
        let _ = writeln!(text, "  interfaces: [{}]", self.interfaces.join(", "));
        let _ = writeln!(text, "  pin_path: {}", pin_path.display());
        if !self.mode.is_empty() {
            let _ = writeln!(text, "  mode: {}", self.mode);
        }
        if !self.timeouts.is_empty() {
            let _ = writeln!(text, "  timeouts: {{{}}}", self.timeouts);
        }
        for line in &self.dataplane {
            let _ = writeln!(text, "  {line}");
        }
        if !self.addresses.is_empty() {
            text.push_str("  addresses:\n");
            for address in &self.addresses {
                let _ = writeln!(text, "    - \"{address}\"");
            }
        }
        if !self.services.is_empty() {
            text.push_str("virtual_services:\n");
            self.services.iter().for_each(|service| service.write(&mut text));
        }
        text.push_str(&self.vrrp.yaml());
        if !self.log.is_empty() {
            text.push_str("log:\n");
        }
        for line in &self.log {
            let _ = writeln!(text, "  {line}");
        }
        for line in &self.more {
            let _ = writeln!(text, "{line}");
        }
        let _ = writeln!(text, "admin:\n  socket: {}", socket.display());
        for line in &self.admin {
            let _ = writeln!(text, "  {line}");
        }
        text
    }
}

impl Service {
    fn write(&self, text: &mut String) {
        let _ = writeln!(text, "  - name: {}", self.name);
        let _ = writeln!(text, "    listen: \"{}\"", self.listen);
        if !self.scheduler.is_empty() {
            let _ = writeln!(text, "    scheduler: {}", self.scheduler);
        }
        if !self.hash.is_empty() {
            let _ = writeln!(text, "    hash: {{{}}}", self.hash);
        }
        let _ = writeln!(text, "    forwarding: {}", self.forwarding);
        if !self.health_check.is_empty() {
            let _ = writeln!(text, "    health_check: {}", self.health_check);
        }
        if !self.on_failure.is_empty() {
            let _ = writeln!(text, "    on_failure: {}", self.on_failure);
        }
        for line in &self.more {
            let _ = writeln!(text, "    {line}");
        }
        text.push_str("    real_servers:\n");
        for server in &self.real_servers {
            let _ = write!(text, "      - {{address: \"{}\"", server.address);
            if let Some(port) = server.port {
                let _ = write!(text, ", port: {port}");
            }
            let _ = write!(text, ", weight: {}", server.weight);
            if server.disabled {
                text.push_str(", disabled: true");
            }
            text.push_str("}\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_reads_as_an_operator_would_write_it() {
        let servers = vec![RealServer::new("10.0.1.11").port(8080), RealServer::new("10.0.1.12")];
        let config = Config::new(&["wan0", "lan0"]).vip("10.0.2.15", "wan0").service(Service::new(
            "web",
            ("10.0.2.15", 80, "tcp"),
            "nat",
            servers,
        ));
        let expected = "\
node: lab
dataplane:
  interfaces: [wan0, lan0]
  pin_path: /p
  addresses:
    - \"10.0.2.15/32 dev wan0\"
virtual_services:
  - name: web
    listen: \"10.0.2.15:80/tcp\"
    scheduler: rr
    forwarding: nat
    real_servers:
      - {address: \"10.0.1.11\", port: 8080, weight: 1}
      - {address: \"10.0.1.12\", weight: 1}
admin:
  socket: /s
";
        assert_eq!(config.yaml(Path::new("/p"), Path::new("/s")), expected);
    }
}
