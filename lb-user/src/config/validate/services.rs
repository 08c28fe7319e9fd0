//! Virtual services and their real servers: defaults and the rules between them.
//!
//! Must not know: how packets are forwarded beyond what each method requires.

use super::super::problem::{Place, Problems, quoted};
use super::super::raw::{At, File, RealServer, VirtualService, Written};
use super::checks::Checks;
use super::life;
use crate::model::{self, AddedServer, AdminState, ForwardingMethod, Listen, Protocol, Scheduler};
use crate::sched::ring;
use std::collections::HashMap;
use std::net::IpAddr;

/// Every service in file order, or `None` if one of them is faulty.
pub(super) fn all(
    file: &File,
    checks: &Checks<'_>,
    problems: &Problems,
) -> Option<Vec<model::VirtualService>> {
    let empty = Vec::new();
    let raw = file.virtual_services.at().map_or(&empty, |at| &at.value);
    unique_names(raw, problems);
    unique_listens(raw, problems);
    let context = Context { file, checks, problems, vips: vips(file, raw) };
    let services: Vec<_> = raw.iter().map(|service| context.service(service)).collect();
    if file.virtual_services.at().is_none() && !file.virtual_services.is_absent() {
        return None;
    }
    services.into_iter().collect()
}

fn unique_names(services: &[VirtualService], problems: &Problems) {
    let mut seen: HashMap<&str, &Place> = HashMap::new();
    for At { value, place } in services.iter().filter_map(|s| s.name.at()) {
        if let Some(first) = seen.get(value.as_str()) {
            let first = &first.path;
            problems.error(place, format!("name {} is taken by {first}", quoted(value)));
        } else {
            seen.insert(value, place);
        }
    }
}

fn unique_listens(services: &[VirtualService], problems: &Problems) {
    let mut seen: HashMap<Listen, (&VirtualService, &Place)> = HashMap::new();
    for service in services {
        for At { value, place } in service.listen.at().into_iter().flat_map(|at| &at.value) {
            if let Some((first, first_place)) = seen.get(value) {
                let of = first
                    .name
                    .at()
                    .map_or_else(String::new, |n| format!(" of {}", quoted(&n.value)));
                let message = format!("{} is already {}{of}", shown(value), first_place.path);
                problems.error(place, message);
            } else {
                seen.insert(*value, (service, place));
            }
        }
    }
}

/// Every address that is the director's, and where the file says so.
fn vips(file: &File, services: &[VirtualService]) -> HashMap<IpAddr, String> {
    let listens = services.iter().filter_map(|s| s.listen.at()).flat_map(|at| &at.value);
    let listens = listens.map(|at| (at.value.address, &at.place));
    let owned = file.dataplane.at().into_iter().flat_map(|at| &at.value.addresses);
    let owned = owned.map(|at| (at.value.0, &at.place));
    let instances = file.vrrp.at().into_iter().flat_map(|at| &at.value.instances.good);
    let moving = instances
        .flat_map(|at| at.value.addresses.good.iter().chain(&at.value.addresses_excluded.good));
    let moving = moving.map(|at| (at.value.0, &at.place));
    let mut vips = HashMap::new();
    for (address, place) in listens.chain(owned).chain(moving) {
        vips.entry(address).or_insert_with(|| place.path.clone());
    }
    vips
}

/// `listen` as the file writes it.
fn shown(listen: &Listen) -> String {
    let protocol = match listen.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    format!("{}/{protocol}", std::net::SocketAddr::new(listen.address, listen.port))
}

/// What every service is judged with.
struct Context<'a> {
    file: &'a File,
    checks: &'a Checks<'a>,
    problems: &'a Problems,
    vips: HashMap<IpAddr, String>,
}

/// What the real servers of one service must fit.
struct Terms {
    /// `None` when listens of both families, or faulty ones, were noted already.
    ipv4: Option<bool>,
    port: Option<u16>,
    forwarding: Option<ForwardingMethod>,
}

impl Terms {
    /// Whether the real servers must be of the service's family.
    fn keeps_family(&self) -> bool {
        matches!(self.forwarding, Some(ForwardingMethod::Dr | ForwardingMethod::Nat))
    }
}

impl Context<'_> {
    fn service(&self, raw: &VirtualService) -> Option<model::VirtualService> {
        let defaults = &self.file.default_service;
        if raw.name.is_absent() {
            self.problems.error(&raw.place.key("name"), "a virtual service needs a `name`");
        }
        let scheduler = raw.scheduler.or(&defaults.scheduler).value_or(Scheduler::Wlc);
        if let Some(hash) = raw.hash.at().filter(|_| !scheduler.hashes()) {
            let message =
                format!("{} does not hash: only sh and mh have options", scheduler.name());
            self.problems.warning(&hash.place, message);
        }
        let forwarding = raw.forwarding.or(&defaults.forwarding);
        if forwarding.is_absent() {
            let message =
                "the forwarding method must be said; write `forwarding: dr`, `nat` or `tunnel`";
            self.problems.error(&raw.place.key("forwarding"), message);
        }
        let forwarding = forwarding.at().map(|at| at.value);
        let terms = self.terms(raw, forwarding);
        let real_servers = self.real_servers(raw, &terms);
        if let (Scheduler::Wrr, Some(servers)) = (scheduler, &real_servers) {
            self.judge_ratios(raw, servers);
        }
        let servers = real_servers.as_deref();
        let life = life::meant(&raw.life, &defaults.life, scheduler, servers, self.problems);
        let sorry_server = self.sorry_server(raw, &terms, real_servers.as_deref());
        let life = life?;
        Some(model::VirtualService {
            name: raw.name.at()?.value.clone(),
            listen: raw.listen.at()?.value.iter().map(|at| at.value).collect(),
            scheduler,
            hash: raw.hash.or(&defaults.hash).value_or(model::Hash::default()),
            forwarding: forwarding?,
            tunnel: self.tunnel(raw, forwarding)?,
            on_failure: raw.on_failure.or(&defaults.on_failure).value_or(model::OnFailure::Remove),
            reset_on_removal: self.reset_on_removal(raw, forwarding)?,
            real_servers: real_servers?,
            added_server: self.added_server(raw)?,
            quorum: life.quorum,
            notify: life.notify,
            sorry_server: sorry_server?,
            slow_start: life.slow_start,
        })
    }

    /// Says so when wrr's ratios are not the weights' own.
    fn judge_ratios(&self, raw: &VirtualService, servers: &[model::RealServer]) {
        let enabled = servers.iter().filter(|server| server.admin != AdminState::Disabled);
        let weights: Vec<u32> = enabled.map(|server| server.weight).collect();
        if !ring::is_exact(&weights, ring::Kind::Wrr) {
            let message = format!(
                "the ratios of wrr are approximate, within 0.1 %: these weights need more than \
                 {} turns; use smaller ones, or ones with a common divisor",
                ring::EXACT_SLOTS
            );
            self.problems.warning(&raw.place.key("real_servers"), message);
        }
    }

    /// Only nat sees both ends of a connection.
    fn reset_on_removal(
        &self,
        raw: &VirtualService,
        forwarding: Option<ForwardingMethod>,
    ) -> Option<bool> {
        let nat = forwarding == Some(ForwardingMethod::Nat);
        if raw.reset_on_removal.is_absent() {
            // A default is for those services that can keep to it.
            let usual = &self.file.default_service.reset_on_removal;
            return Some(nat && usual.value_or(false));
        }
        let At { value, place } = raw.reset_on_removal.at()?;
        if *value && !nat {
            let message = "`reset_on_removal` is for nat: with dr and tunnel the real server answers \
                           the client itself, so what it expects next is not known here";
            self.problems.error(place, message);
            return None;
        }
        Some(*value)
    }

    /// How tunnels are made: each key of the service's own, else of the defaults.
    fn tunnel(
        &self,
        raw: &VirtualService,
        forwarding: Option<ForwardingMethod>,
    ) -> Option<model::Tunnel> {
        if let (Some(at), Some(ForwardingMethod::Dr | ForwardingMethod::Nat)) =
            (raw.tunnel.at(), forwarding)
        {
            let message = "has no effect without `forwarding: tunnel`";
            self.problems.warning(&at.place, message);
        }
        let usual = model::Tunnel::default();
        let written = [&raw.tunnel, &self.file.default_service.tunnel];
        // A faulty one was noted; what is absent is the default.
        if written.iter().any(|tunnel| tunnel.at().is_none() && !tunnel.is_absent()) {
            return None;
        }
        let mut meant = usual;
        for at in written.into_iter().rev().filter_map(|tunnel| tunnel.at()) {
            meant.kind = at.value.kind.value_or(meant.kind);
            meant.mss_clamp = at.value.mss_clamp.value_or(meant.mss_clamp);
        }
        Some(meant)
    }

    /// Judges the listens against each other.
    fn terms(&self, raw: &VirtualService, forwarding: Option<ForwardingMethod>) -> Terms {
        let none = Terms { ipv4: None, port: None, forwarding };
        if raw.listen.is_absent() {
            let message = "a virtual service needs a `listen`, such as 192.0.2.1:80/tcp";
            self.problems.error(&raw.place.key("listen"), message);
        }
        let Some(listens) = raw.listen.at() else { return none };
        let Some((first, others)) = listens.value.split_first() else {
            self.problems
                .error(&listens.place, "has no value; write at least one ADDRESS:PORT/tcp");
            return none;
        };
        let (ipv4, port) = (first.value.address.is_ipv4(), first.value.port);
        let mut terms = Terms { ipv4: Some(ipv4), port: Some(port), forwarding };
        for At { value, place } in others {
            if value.address.is_ipv4() != ipv4 && terms.keeps_family() {
                let message = "dr and nat keep the address family; write one service for IPv4 and one for IPv6";
                self.problems.error(place, message);
                terms.ipv4 = None;
            }
            if value.port != port {
                let message = format!(
                    "several ports in one service ({port} and {}) are not supported yet; write a service for each",
                    value.port
                );
                self.problems.error(place, message);
                terms.port = None;
            }
        }
        terms
    }

    fn real_servers(&self, raw: &VirtualService, terms: &Terms) -> Option<Vec<model::RealServer>> {
        let mut seen: HashMap<(IpAddr, u16), &Place> = HashMap::new();
        let mut servers = Vec::new();
        for server in &raw.real_servers {
            let meant = self.real_server(raw, server, terms);
            if let (Some(meant), Some(at)) = (&meant, server.address.at()) {
                if let Some(first) = seen.get(&(meant.address, meant.port)) {
                    let shown = std::net::SocketAddr::new(meant.address, meant.port);
                    let message = format!("real server {shown} is already {}", first.path);
                    self.problems.error(&at.place, message);
                } else {
                    seen.insert((meant.address, meant.port), &server.place);
                }
            }
            servers.push(meant);
        }
        let servers: Option<Vec<_>> = servers.into_iter().collect();
        if let Some(servers) = &servers
            && !servers.iter().any(|server| server.weight > 0 && server.admin == AdminState::Ready)
        {
            let message = "no real server takes new connections: clients get no answer";
            self.problems.warning(&raw.place.key("real_servers"), message);
        }
        servers
    }

    fn real_server(
        &self,
        service: &VirtualService,
        raw: &RealServer,
        terms: &Terms,
    ) -> Option<model::RealServer> {
        let defaults = &self.file.default_server;
        let service_defaults = &self.file.default_service;
        let is_disabled = raw.disabled.or(&defaults.disabled).value_or(false);
        let uses = [
            &raw.health_check,
            &service.health_check,
            &defaults.health_check,
            &service_defaults.health_check,
        ];
        let health_checks = self.checks.resolve(&uses);
        let used = uses.iter().find_map(|used| used.place()).unwrap_or(&raw.place);
        if raw.address.is_absent() {
            self.problems.error(&raw.place.key("address"), "a real server needs an `address`");
        }
        if let Some(address) = raw.address.at() {
            self.judge_address(address, terms);
        }
        let port = raw.port.or(&defaults.port);
        let health_checks = self.by_service((service, raw), (health_checks?, used), terms);
        self.judge_port(port, terms);
        Some(model::RealServer {
            address: raw.address.at()?.value,
            port: if port.is_absent() { terms.port? } else { port.at()?.value },
            weight: raw.weight.or(&defaults.weight).value_or(1),
            admin: if is_disabled { AdminState::Disabled } else { AdminState::Ready },
            health_checks: health_checks?,
        })
    }

    /// Completes checks that go by way of their service (`via: service`). `None` is a fault.
    fn by_service(
        &self,
        (service, server): (&VirtualService, &RealServer),
        (checks, used): (Vec<model::HealthCheck>, &Place),
        terms: &Terms,
    ) -> Option<Vec<model::HealthCheck>> {
        if checks.iter().all(|check| check.via == model::Via::Direct) {
            return Some(checks);
        }
        let (forwarding, address) = (terms.forwarding?, server.address.at()?.value);
        let vips: Vec<IpAddr> =
            service.listen.at()?.value.iter().map(|at| at.value.address).collect();
        // A method is the service's; an address is the server's.
        let place = if forwarding == ForwardingMethod::Nat { used } else { &server.place };
        let complete = |check: model::HealthCheck| {
            let via = check.via.for_server(&vips, forwarding, address);
            let via = via.map_err(|message| self.problems.error(place, message)).ok()?;
            Some(model::HealthCheck { via, ..check })
        };
        checks.into_iter().map(complete).collect()
    }

    /// What a server gets that is added at run time: what one would that only has an address here.
    fn added_server(&self, service: &VirtualService) -> Option<AddedServer> {
        let defaults = &self.file.default_server;
        let checks = [
            &service.health_check,
            &defaults.health_check,
            &self.file.default_service.health_check,
        ];
        Some(AddedServer {
            weight: defaults.weight.value_or(1),
            health_checks: self.checks.resolve(&checks)?,
        })
    }

    fn sorry_server(
        &self,
        service: &VirtualService,
        terms: &Terms,
        real_servers: Option<&[model::RealServer]>,
    ) -> Option<Option<model::SorryServer>> {
        let defaults = &self.file.default_service.life.sorry_server;
        let Some((raw, place)) = life::sorry_server(&service.life.sorry_server, defaults)? else {
            return Some(None);
        };
        if raw.address.is_absent() {
            self.problems.error(&place.key("address"), "a sorry server needs an `address`");
        }
        if let Some(address) = raw.address.at() {
            self.judge_address(address, terms);
        }
        self.judge_port(&raw.port, terms);
        let address = raw.address.at()?.value;
        let port = if raw.port.is_absent() { terms.port? } else { raw.port.at()?.value };
        let is_it = |server: &model::RealServer| (server.address, server.port) == (address, port);
        if real_servers.is_some_and(|servers| servers.iter().any(is_it)) {
            let shown = std::net::SocketAddr::new(address, port);
            let message = format!("{shown} is a real server of this service already");
            self.problems.error(&place.key("address"), message);
            return None;
        }
        Some(Some(model::SorryServer { address, port }))
    }

    fn judge_port(&self, port: &Written<u16>, terms: &Terms) {
        if let (Some(at), Some(method)) = (port.at(), terms.forwarding)
            && let Some(service_port) = terms.port
            && let Err(message) = method.fits_port(service_port, at.value)
        {
            self.problems.error(&at.place, format!("{message}; leave it out"));
        }
    }

    fn judge_address(&self, At { value, place }: &At<IpAddr>, terms: &Terms) {
        // A method that was not said is judged like one without a tunnel.
        let method = terms.forwarding.unwrap_or(ForwardingMethod::Nat);
        let fits = terms.ipv4.map_or(Ok(()), |ipv4| method.fits_family(ipv4, *value));
        if let Err(message) = fits {
            self.problems.error(place, message);
        } else if let Some(vip) = self.vips.get(value) {
            let message =
                format!("{value} is a virtual address ({vip}): its packets would come back");
            self.problems.error(place, message);
        }
    }
}
