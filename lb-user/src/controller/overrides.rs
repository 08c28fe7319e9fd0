//! What the operator changed at run time, over what the file says.
//!
//! Two layers: what was changed until the next reload, over what is kept (`--persist`). The file
//! itself is never rewritten: [`Overrides::apply`] makes the configuration in force out of it.
//!
//! Must not know: who asked, where it is kept, what follows from it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crate::config;
use crate::model::{AdminState, Director, HealthCheck, RealServer, VirtualService};

/// Which server is meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ServerName {
    /// The virtual service.
    pub service: String,
    /// The server's address.
    pub address: IpAddr,
    /// The server's port.
    pub port: u16,
}

impl std::fmt::Display for ServerName {
    /// `service/address:port`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.service, SocketAddr::new(self.address, self.port))
    }
}

/// What is to become of a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// It takes connections when it is healthy.
    Enable,
    /// It takes no new connections.
    Drain,
    /// It is out of service.
    Disable,
    /// Another weight.
    Weight(u32),
    /// It is there; with this weight, or what the file gives to every server.
    Add(Option<u32>),
    /// It is not there.
    Remove,
}

/// What was changed of one server; `None` is nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Override {
    /// What the operator wants of it.
    pub admin: Option<AdminState>,
    /// Its weight.
    pub weight: Option<u32>,
    /// Whether it is there at all.
    pub present: Option<bool>,
}

/// What was changed of every server.
pub type Layer = BTreeMap<ServerName, Override>;

/// A change that does not fit the file any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ignored {
    /// Of which server.
    pub server: ServerName,
    /// Why not.
    pub why: String,
}

impl std::fmt::Display for Ignored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { server, why } = self;
        write!(f, "{server}: what was changed at run time is ignored: {why}")
    }
}

/// Everything that was changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Overrides {
    /// Until it is changed again.
    pub kept: Layer,
    /// Until the next reload.
    pub passing: Layer,
}

impl Overrides {
    /// Takes a change. A kept one also ends what was changed of the same for a while.
    pub fn take(&mut self, server: &ServerName, action: Action, persist: bool) {
        if persist {
            change(self.kept.entry(server.clone()).or_default(), action);
            if let Some(passing) = self.passing.get_mut(server) {
                forget(passing, action);
            }
        } else {
            change(self.passing.entry(server.clone()).or_default(), action);
        }
    }

    /// Drops what changes nothing of what the file says: what was kept and is now in the file, or
    /// was taken back.
    pub fn tidy(&mut self, file: &Director) {
        for layer in [&mut self.kept, &mut self.passing] {
            layer.retain(|_, change| *change != Override::default());
        }
        self.kept.retain(|server, change| {
            let written = service(file, &server.service).and_then(|s| find(s, server));
            // What is kept of one that has left may hold again; its removal says nothing more.
            let Some(written) = written else { return change.present != Some(false) };
            change.admin = change.admin.filter(|admin| *admin != written.admin);
            change.weight = change.weight.filter(|weight| *weight != written.weight);
            change.present = change.present.filter(|present| !present);
            *change != Override::default()
        });
    }

    /// The configuration in force, and what no longer fits the file.
    pub fn apply(&self, file: &Director) -> (Director, Vec<Ignored>) {
        let mut director = file.clone();
        let mut ignored = Vec::new();
        let mut ignore = |server: &ServerName, why: String| {
            ignored.push(Ignored { server: server.clone(), why });
        };
        let layers = || self.kept.iter().chain(&self.passing);
        // Who is there first, then how they are: what is kept holds for one that is added anew.
        for (server, change) in layers() {
            if let Some(present) = change.present
                && let Err(why) = place(&mut director, file, server, present)
            {
                ignore(server, why);
            }
        }
        for (server, change) in layers() {
            let removed = |layer: &Layer| layer.get(server).and_then(|c| c.present) == Some(false);
            if (change.admin, change.weight) == (None, None) || removed(&self.passing) {
                continue;
            }
            if let Err(why) = set(&mut director, server, change) {
                ignore(server, why);
            }
        }
        (director, ignored)
    }

    /// A line for each kept change.
    pub fn describe(&self) -> Vec<String> {
        self.kept.iter().map(|(server, change)| format!("{server}: {}", words(change))).collect()
    }
}

fn change(entry: &mut Override, action: Action) {
    match action {
        Action::Enable => entry.admin = Some(AdminState::Ready),
        Action::Drain => entry.admin = Some(AdminState::Drain),
        Action::Disable => entry.admin = Some(AdminState::Disabled),
        Action::Weight(weight) => entry.weight = Some(weight),
        Action::Add(weight) => {
            *entry = Override { admin: None, weight, present: Some(true) };
        }
        Action::Remove => *entry = Override { admin: None, weight: None, present: Some(false) },
    }
}

/// Takes back what `action` says anew elsewhere.
fn forget(entry: &mut Override, action: Action) {
    match action {
        Action::Enable | Action::Drain | Action::Disable => entry.admin = None,
        Action::Weight(_) => entry.weight = None,
        Action::Add(_) | Action::Remove => *entry = Override::default(),
    }
}

fn service<'a>(director: &'a Director, name: &str) -> Option<&'a VirtualService> {
    director.virtual_services.iter().find(|service| service.name == name)
}

fn find<'a>(service: &'a VirtualService, server: &ServerName) -> Option<&'a RealServer> {
    let is = |rs: &&RealServer| (rs.address, rs.port) == (server.address, server.port);
    service.real_servers.iter().find(is)
}

fn service_mut<'a>(
    director: &'a mut Director,
    server: &ServerName,
) -> Result<&'a mut VirtualService, String> {
    let mut services = director.virtual_services.iter_mut();
    let found = services.find(|service| service.name == server.service);
    found.ok_or_else(|| "the file has no such service".to_owned())
}

/// Puts a server into its service, or takes it out.
fn place(
    director: &mut Director,
    file: &Director,
    server: &ServerName,
    present: bool,
) -> Result<(), String> {
    let service = service_mut(director, server)?;
    let is = |rs: &RealServer| (rs.address, rs.port) == (server.address, server.port);
    if !present {
        service.real_servers.retain(|rs| !is(rs));
    } else if !service.real_servers.iter().any(is) {
        let written = self::service(file, &server.service).and_then(|s| find(s, server));
        let added = match written {
            Some(written) => written.clone(),
            None => added(service, server, file)?,
        };
        service.real_servers.push(added);
    }
    Ok(())
}

/// Gives a server that is there another weight or state.
fn set(director: &mut Director, server: &ServerName, change: &Override) -> Result<(), String> {
    let service = service_mut(director, server)?;
    let is = |rs: &&mut RealServer| (rs.address, rs.port) == (server.address, server.port);
    let Some(rs) = service.real_servers.iter_mut().find(is) else {
        return Err("the service has no such server".to_owned());
    };
    rs.admin = change.admin.unwrap_or(rs.admin);
    rs.weight = change.weight.unwrap_or(rs.weight);
    Ok(())
}

/// A server as the file gives every one of the service, if it can serve it.
fn added(
    service: &VirtualService,
    server: &ServerName,
    file: &Director,
) -> Result<RealServer, String> {
    config::address(&server.address.to_string())?;
    if let Some(listen) = service.listen.first() {
        service.forwarding.fits_port(listen.port, server.port)?;
        service.forwarding.fits_family(listen.address.is_ipv4(), server.address)?;
    }
    if is_virtual(file, server.address) {
        return Err("it is a virtual address: its packets would come back".to_owned());
    }
    if service.sorry_server.is_some_and(|s| (s.address, s.port) == (server.address, server.port)) {
        return Err("it is the service's sorry server".to_owned());
    }
    let vips: Vec<IpAddr> = service.listen.iter().map(|listen| listen.address).collect();
    let complete = |check: &HealthCheck| {
        let via = check.via.for_server(&vips, service.forwarding, server.address)?;
        Ok(HealthCheck { via, ..check.clone() })
    };
    let checks = service.added_server.health_checks.iter().map(complete);
    let health_checks: Result<_, &str> = checks.collect();
    Ok(RealServer {
        address: server.address,
        port: server.port,
        weight: service.added_server.weight,
        admin: AdminState::Ready,
        health_checks: health_checks?,
    })
}

/// Whether an address is the director's own: of a service, of the data plane or of VRRP.
fn is_virtual(file: &Director, address: IpAddr) -> bool {
    let listens = file.virtual_services.iter().flat_map(|s| &s.listen).map(|l| l.address);
    let fixed = file.dataplane.iter().flat_map(|plane| &plane.addresses).map(|a| a.address);
    let moving = file.vrrp.instances.iter();
    let moving = moving.flat_map(|i| i.addresses.iter().chain(&i.addresses_excluded));
    listens.chain(fixed).chain(moving.map(|a| a.address)).any(|own| own == address)
}

fn words(change: &Override) -> String {
    let present = match change.present {
        Some(true) => Some("added".to_owned()),
        Some(false) => Some("removed".to_owned()),
        None => None,
    };
    let admin = change.admin.map(|admin| admin.name().to_owned());
    let weight = change.weight.map(|weight| format!("weight {weight}"));
    present.into_iter().chain(admin).chain(weight).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(servers: &str) -> Director {
        let text = format!(
            "dataplane: {{interfaces: [eth0]}}\nvirtual_services:\n- {{name: web, listen: \
             192.0.2.1:80/tcp, forwarding: dr, real_servers: [{servers}]}}\n"
        );
        config::load("f", &text, "n").expect("it is right").director
    }

    fn server(ip: &str) -> ServerName {
        ServerName { service: "web".into(), address: ip.parse().expect("an address"), port: 80 }
    }

    /// The servers in force: last byte of the address, weight, state.
    fn shown(overrides: &Overrides, file: &Director) -> String {
        let (director, ignored) = overrides.apply(file);
        let servers = director.virtual_services[0].real_servers.iter().map(|rs| {
            let last = rs.address.to_string().rsplit('.').next().unwrap_or_default().to_owned();
            format!("{last}:{}:{}", rs.weight, rs.admin.name())
        });
        let mut shown: Vec<String> = servers.collect();
        shown.extend(ignored.iter().map(|_| "ignored".to_owned()));
        shown.join(" ")
    }

    const TWO: &str = "{address: 10.0.0.1}, {address: 10.0.0.2, weight: 2, disabled: true}";

    #[test]
    fn a_change_holds_over_the_file_and_a_passing_one_over_a_kept_one() {
        let file = file(TWO);
        let mut overrides = Overrides::default();
        overrides.take(&server("10.0.0.1"), Action::Weight(5), true);
        overrides.take(&server("10.0.0.1"), Action::Drain, true);
        overrides.take(&server("10.0.0.2"), Action::Enable, false);
        assert_eq!(shown(&overrides, &file), "1:5:drain 2:2:ready");
        overrides.take(&server("10.0.0.1"), Action::Enable, false);
        assert_eq!(shown(&overrides, &file), "1:5:ready 2:2:ready");
        overrides.passing.clear();
        assert_eq!(shown(&overrides, &file), "1:5:drain 2:2:disabled");
    }

    #[test]
    fn a_kept_change_ends_a_passing_one_of_the_same() {
        let file = file(TWO);
        let mut overrides = Overrides::default();
        overrides.take(&server("10.0.0.1"), Action::Weight(7), false);
        overrides.take(&server("10.0.0.1"), Action::Drain, false);
        overrides.take(&server("10.0.0.1"), Action::Weight(9), true);
        assert_eq!(shown(&overrides, &file), "1:9:drain 2:2:disabled");
    }

    #[test]
    fn servers_come_and_go() {
        let file = file(TWO);
        let mut overrides = Overrides::default();
        overrides.take(&server("10.0.0.3"), Action::Add(Some(4)), true);
        overrides.take(&server("10.0.0.1"), Action::Remove, true);
        assert_eq!(shown(&overrides, &file), "2:2:disabled 3:4:ready");
        overrides.take(&server("10.0.0.1"), Action::Add(None), false);
        assert_eq!(shown(&overrides, &file), "2:2:disabled 3:4:ready 1:1:ready");
        // A second thought on the same.
        overrides.take(&server("10.0.0.3"), Action::Remove, false);
        assert_eq!(shown(&overrides, &file), "2:2:disabled 1:1:ready");
    }

    #[test]
    fn what_no_longer_fits_is_told_and_ignored() {
        let mut overrides = Overrides::default();
        overrides.take(&server("10.0.0.9"), Action::Drain, true);
        let port = ServerName { port: 8080, ..server("10.0.0.3") };
        overrides.take(&port, Action::Add(None), true);
        overrides.take(&server("192.0.2.1"), Action::Add(None), true);
        let gone = ServerName { service: "dns".into(), ..server("10.0.0.1") };
        overrides.take(&gone, Action::Weight(1), true);
        assert_eq!(shown(&overrides, &file("{address: 10.0.0.1}")).matches("ignored").count(), 4);
    }

    #[test]
    fn what_is_kept_of_a_server_that_left_does_not_bar_its_return() {
        let file = file("{address: 10.0.0.1}");
        let mut overrides = Overrides::default();
        overrides.take(&server("10.0.0.9"), Action::Weight(7), true);
        overrides.take(&server("10.0.0.9"), Action::Add(None), false);
        assert_eq!(shown(&overrides, &file), "1:1:ready 9:7:ready");
        overrides.passing.clear();
        assert_eq!(shown(&overrides, &file), "1:1:ready ignored");
        overrides.take(&server("10.0.0.9"), Action::Remove, true);
        overrides.tidy(&file);
        assert_eq!(overrides, Overrides::default());
    }

    #[test]
    fn nobody_is_added_that_the_file_could_not_have() {
        for ip in ["127.0.0.1", "224.0.0.1", "192.0.2.1"] {
            let mut overrides = Overrides::default();
            overrides.take(&server(ip), Action::Add(None), false);
            assert_eq!(
                shown(&overrides, &file("{address: 10.0.0.1}")),
                "1:1:ready ignored",
                "{ip}"
            );
        }
    }

    #[test]
    fn what_the_file_says_too_is_not_kept() {
        let file = file(TWO);
        let mut overrides = Overrides::default();
        for action in [Action::Weight(5), Action::Drain, Action::Weight(1), Action::Enable] {
            overrides.take(&server("10.0.0.1"), action, true);
        }
        overrides.take(&server("10.0.0.3"), Action::Add(None), true);
        overrides.tidy(&file);
        assert_eq!(overrides.describe(), ["web/10.0.0.3:80: added"]);
        overrides.take(&server("10.0.0.3"), Action::Remove, true);
        overrides.tidy(&file);
        assert_eq!(overrides, Overrides::default());
        overrides.take(&server("10.0.0.1"), Action::Remove, true);
        overrides.tidy(&file);
        assert_eq!(overrides.describe(), ["web/10.0.0.1:80: removed"]);
    }
}
