//! What a router is told: instances of virtual routers, scripts, groups, as values.
//!
//! [`Setup::keepalived`] writes keepalived.conf(5), [`Setup::yaml`] the sections `vrrp` and
//! `notifications`. A scenario makes one setup for each node and need not know the make.
//!
//! Must not know: how either is read.

use crate::pair::INTERFACE;
use std::fmt::Write;
use std::net::IpAddr;
use std::time::Duration;

/// All that a node is told.
#[derive(Clone, Debug, Default)]
pub struct Setup {
    /// The virtual routers.
    pub instances: Vec<Instance>,
    /// Scripts that they track.
    pub scripts: Vec<Script>,
    /// Instances that change together: name and members.
    pub groups: Vec<(String, Vec<String>)>,
    /// How long virtual addresses are kept without a controller (lb only).
    pub grace: Option<Duration>,
    /// Whether keepalived runs as an ordinary process, as it does unless it is told otherwise; in
    /// the lab it runs before others, as lb does, or a busy machine would decide who is master.
    pub is_ordinary: bool,
    /// Where mail about transitions goes: `ADDRESS:PORT`.
    pub mail: Option<String>,
}

/// A tracked script.
#[derive(Clone, Debug)]
pub struct Script {
    /// Its name.
    pub name: String,
    /// Program and arguments.
    pub command: Vec<String>,
    /// -253 to 253; 0 makes it a condition.
    pub weight: i16,
}

/// One virtual router on one node.
#[derive(Clone, Debug)]
pub struct Instance {
    /// Its name.
    pub name: String,
    /// VRID.
    pub vrid: u8,
    /// 2 or 3.
    pub version: u8,
    /// 1 to 255.
    pub priority: u8,
    /// From one advert to the next.
    pub interval: Duration,
    /// `auth_pass` of version 2.
    pub password: Option<String>,
    /// Whether it takes over from a lower priority.
    pub preempt: bool,
    /// How long it waits before.
    pub preempt_delay: Duration,
    /// Addresses without a mask.
    pub addresses: Vec<String>,
    /// Owned and not advertised.
    pub excluded: Vec<String>,
    /// Own address and peer.
    pub unicast: Option<(String, String)>,
    /// Whether the addresses have the MAC address of their virtual router (lb only).
    pub virtual_mac: bool,
    /// Announcements of each address, once; the make's own default when absent.
    pub announcements: Option<u32>,
    /// Tracked scripts by name.
    pub track_scripts: Vec<String>,
    /// Tracked virtual services (lb only).
    pub track_services: Vec<String>,
    /// A program that is told of every transition.
    pub notify: Option<String>,
    /// A program for each state: it is given the state as its only own argument.
    pub notify_states: Option<String>,
    /// Whether mail goes out at transitions.
    pub mail: bool,
}

impl Instance {
    /// Version 3 with 100 ms, VRID 51, for these addresses.
    pub fn new(name: &str, priority: u8, addresses: &[&str]) -> Self {
        Self {
            name: name.into(),
            vrid: 51,
            version: 3,
            priority,
            interval: Duration::from_millis(100),
            password: None,
            preempt: true,
            preempt_delay: Duration::ZERO,
            addresses: addresses.iter().map(ToString::to_string).collect(),
            excluded: Vec::new(),
            unicast: None,
            virtual_mac: false,
            announcements: None,
            track_scripts: Vec::new(),
            track_services: Vec::new(),
            notify: None,
            notify_states: None,
            mail: false,
        }
    }

    /// The same with another priority.
    #[must_use]
    pub fn priority(mut self, priority: u8) -> Self {
        self.priority = priority;
        self
    }

    /// The same under another name and VRID.
    #[must_use]
    pub fn named(mut self, name: &str, vrid: u8) -> Self {
        (self.name, self.vrid) = (name.into(), vrid);
        self
    }

    /// The same at another interval.
    #[must_use]
    pub fn every(mut self, interval: Duration) -> Self {
        self.interval = interval;
        self
    }

    /// The same in version 2: one second, with a password.
    #[must_use]
    pub fn version2(mut self, password: &str) -> Self {
        (self.version, self.interval) = (2, Duration::from_secs(1));
        self.password = Some(password.into());
        self
    }

    /// The same without preemption.
    #[must_use]
    pub fn nopreempt(mut self) -> Self {
        self.preempt = false;
        self
    }

    /// How long a backup waits for a silent master, by the RFCs' formula: three intervals and the
    /// skew of its priority (RFC 3768 section 6.1, RFC 9568 section 6.1).
    pub fn down_interval(&self) -> Duration {
        self.interval * 3 + self.skew()
    }

    /// How long it waits for a master that has said goodbye.
    pub fn skew(&self) -> Duration {
        let unit = if self.version == 2 { Duration::from_secs(1) } else { self.interval };
        unit * (256 - u32::from(self.priority)) / 256
    }
}

impl Setup {
    /// One instance and nothing else.
    pub fn one(instance: Instance) -> Self {
        Self { instances: vec![instance], ..Self::default() }
    }

    /// As keepalived.conf(5).
    pub fn keepalived(&self, node: &str) -> String {
        let mut text = format!("global_defs {{\n  router_id {node}\n  script_user root\n");
        if !self.is_ordinary {
            // Its own limit of 10 ms without a pause, in microseconds, would kill it now and then.
            text.push_str("  vrrp_rt_priority 1\n  vrrp_rlimit_rttime 5000000\n");
        }
        if let Some(mail) = &self.mail {
            let (host, port) = mail.rsplit_once(':').unwrap_or((mail, "25"));
            let _ = writeln!(text, "  smtp_server {host} {port}\n  smtp_connect_timeout 2");
            text.push_str("  notification_email_from lb@lab\n");
            text.push_str("  notification_email {\n    ops@lab\n  }\n");
        }
        text.push_str("}\n");
        for Script { name, command, weight } in &self.scripts {
            let _ = writeln!(text, "vrrp_script {name} {{\n  script \"{}\"", command.join(" "));
            let _ = writeln!(text, "  interval 1\n  rise 1\n  fall 1\n  weight {weight}\n}}");
        }
        for (name, members) in &self.groups {
            let members = members.join("\n    ");
            let _ =
                writeln!(text, "vrrp_sync_group {name} {{\n  group {{\n    {members}\n  }}\n}}");
        }
        self.instances.iter().for_each(|instance| instance.keepalived(&mut text));
        text
    }

    /// The sections `vrrp` and `notifications`; nothing for nothing.
    pub fn yaml(&self) -> String {
        let mut text = String::new();
        if self.instances.is_empty() {
            return text;
        }
        text.push_str("vrrp:\n");
        if let Some(grace) = self.grace {
            let _ = writeln!(text, "  controller_grace: {}ms", grace.as_millis());
        }
        if !self.scripts.is_empty() {
            text.push_str("  scripts:\n");
        }
        for Script { name, command, weight } in &self.scripts {
            let command = list(command);
            let _ = writeln!(
                text,
                "    {name}: {{command: {command}, interval: 1s, timeout: 1s, rise: 1, fall: 1, \
                 weight: {weight}, user: root}}"
            );
        }
        text.push_str("  instances:\n");
        self.instances.iter().for_each(|instance| instance.yaml(&mut text));
        if !self.groups.is_empty() {
            text.push_str("  sync_groups:\n");
        }
        for (name, members) in &self.groups {
            let _ = writeln!(text, "    - {{name: {name}, instances: {}}}", list(members));
        }
        if let Some(mail) = &self.mail {
            let _ = writeln!(
                text,
                "notifications:\n  email: {{smtp: \"{mail}\", from: lb@lab, to: [ops@lab], timeout: 2s}}"
            );
        }
        text
    }
}

impl Instance {
    fn keepalived(&self, text: &mut String) {
        let _ = writeln!(text, "vrrp_instance {} {{", self.name);
        let mut line = |words: String| {
            let _ = writeln!(text, "  {words}");
        };
        line(format!("state BACKUP\n  interface {INTERFACE}\n  version {}", self.version));
        line(format!("virtual_router_id {}\n  priority {}", self.vrid, self.priority));
        line(format!("advert_int {}", self.interval.as_secs_f64()));
        if !self.preempt {
            line("nopreempt".into());
        }
        if !self.preempt_delay.is_zero() {
            line(format!("preempt_delay {}", self.preempt_delay.as_secs_f64()));
        }
        if let Some(password) = &self.password {
            line(format!("authentication {{\n    auth_type PASS\n    auth_pass {password}\n  }}"));
        }
        if let Some((source, peer)) = &self.unicast {
            line(format!("unicast_src_ip {source}\n  unicast_peer {{\n    {peer}\n  }}"));
        }
        line(format!("virtual_ipaddress {{\n    {}\n  }}", self.addresses.join("\n    ")));
        if !self.excluded.is_empty() {
            let excluded = self.excluded.join("\n    ");
            line(format!("virtual_ipaddress_excluded {{\n    {excluded}\n  }}"));
        }
        if let Some(count) = self.announcements {
            line(format!("garp_master_repeat {count}\n  garp_master_delay 0"));
        }
        if !self.track_scripts.is_empty() {
            line(format!("track_script {{\n    {}\n  }}", self.track_scripts.join("\n    ")));
        }
        if let Some(notify) = &self.notify {
            line(format!("notify \"{notify}\""));
        }
        if let Some(notify) = &self.notify_states {
            for state in STATES {
                line(format!("notify_{state} \"{notify} {state}\""));
            }
        }
        if self.mail {
            line("smtp_alert".into());
        }
        text.push_str("}\n");
    }

    fn yaml(&self, text: &mut String) {
        let _ = writeln!(text, "    - name: {}", self.name);
        let mut line = |words: String| {
            let _ = writeln!(text, "      {words}");
        };
        line(format!("virtual_router_id: {}", self.vrid));
        line(format!("interface: {INTERFACE}\n      version: {}", self.version));
        line(format!("priority: {}", self.priority));
        line(format!("advertisement_interval: {}ms", self.interval.as_millis()));
        if !self.preempt {
            line("preempt: false".into());
        }
        if !self.preempt_delay.is_zero() {
            line(format!("preempt_delay: {}ms", self.preempt_delay.as_millis()));
        }
        if let Some(password) = &self.password {
            line(format!("authentication: {{type: pass, password: \"{password}\"}}"));
        }
        if let Some((source, peer)) = &self.unicast {
            line(format!("unicast: {{source: \"{source}\", peers: [\"{peer}\"]}}"));
        }
        line(format!("addresses: {}", list(&self.addresses)));
        if !self.excluded.is_empty() {
            line(format!("addresses_excluded: {}", list(&self.excluded)));
        }
        if self.virtual_mac {
            line("virtual_mac: true".into());
        }
        if let Some(count) = self.announcements {
            line(format!("garp: {{count: {count}, delay: 0s}}"));
        }
        let mut track = Vec::new();
        if !self.track_scripts.is_empty() {
            track.push(format!("scripts: {}", list(&self.track_scripts)));
        }
        if !self.track_services.is_empty() {
            let services = self.track_services.iter();
            let services: Vec<String> =
                services.map(|name| format!("{{name: {name}, weight: 0}}")).collect();
            track.push(format!("virtual_services: [{}]", services.join(", ")));
        }
        if !track.is_empty() {
            line(format!("track: {{{}}}", track.join(", ")));
        }
        let mut notify = Vec::new();
        notify.extend(self.notify.iter().map(|program| format!("any: [\"{program}\"]")));
        notify.extend(
            self.notify_states.iter().flat_map(|program| {
                STATES.map(|state| format!("{state}: [\"{program}\", {state}]"))
            }),
        );
        if self.mail {
            notify.push("email: true".into());
        }
        if !notify.is_empty() {
            line(format!("notify: {{{}}}", notify.join(", ")));
        }
    }

    /// The family of its adverts: that of the first address.
    pub fn is_ipv6(&self) -> bool {
        let first = self.addresses.first().and_then(|address| address.parse().ok());
        matches!(first, Some(IpAddr::V6(_)))
    }
}

/// `["a", "b"]`.
fn list(items: &[String]) -> String {
    let quoted: Vec<String> = items.iter().map(|item| format!("\"{item}\"")).collect();
    format!("[{}]", quoted.join(", "))
}

/// The states that a program of its own is run for.
const STATES: [&str; 4] = ["master", "backup", "fault", "stop"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_makes_are_told_the_same() {
        let mut instance = Instance::new("VI_1", 150, &["10.0.1.50"]).version2("1111").nopreempt();
        instance.track_scripts.push("chk".into());
        let mut setup = Setup::one(instance);
        let command = vec!["/bin/test".into(), "-e".into(), "/x".into()];
        setup.scripts.push(Script { name: "chk".into(), command, weight: -60 });
        let conf = setup.keepalived("A");
        for wanted in ["  version 2\n", "  advert_int 1\n", "  nopreempt\n", "    auth_pass 1111\n"]
        {
            assert!(conf.contains(wanted), "{wanted:?} is not in {conf}");
        }
        let expected = "\
vrrp:
  scripts:
    chk: {command: [\"/bin/test\", \"-e\", \"/x\"], interval: 1s, timeout: 1s, rise: 1, fall: 1, weight: -60, user: root}
  instances:
    - name: VI_1
      virtual_router_id: 51
      interface: lan0
      version: 2
      priority: 150
      advertisement_interval: 1000ms
      preempt: false
      authentication: {type: pass, password: \"1111\"}
      addresses: [\"10.0.1.50\"]
      track: {scripts: [\"chk\"]}
";
        assert_eq!(setup.yaml(), expected);
    }

    #[test]
    fn the_timers_are_those_of_the_rfcs() {
        let v2 = Instance::new("x", 100, &["10.0.1.50"]).version2("1111");
        assert_eq!(v2.down_interval().as_millis(), 3609);
        let v3 = Instance::new("x", 100, &["10.0.1.50"]);
        assert_eq!((v3.skew().as_millis(), v3.down_interval().as_millis()), (60, 360));
    }
}
