//! Virtual services and their real servers: defaults and the rules between them.
//!
//! Must not know: how packets are forwarded beyond what each method requires.

use super::super::problem::{Place, Problems, quoted};
use super::super::raw::{At, File, RealServer, VirtualService};
use super::checks::Checks;
use crate::model::{self, ForwardingMethod, Listen, Protocol, Scheduler};
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
        })
    }

    /// Says so when wrr's ratios are not the weights' own.
    fn judge_ratios(&self, raw: &VirtualService, servers: &[model::RealServer]) {
        let enabled = servers.iter().filter(|server| !server.disabled);
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
            && !servers.iter().any(|server| server.weight > 0 && !server.disabled)
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
        let uses = [
            &raw.health_check,
            &service.health_check,
            &defaults.health_check,
            &service_defaults.health_check,
        ];
        let health_check = self.checks.resolve(&uses);
        let used = uses.iter().find_map(|used| used.place()).unwrap_or(&raw.place);
        if raw.address.is_absent() {
            self.problems.error(&raw.place.key("address"), "a real server needs an `address`");
        }
        if let Some(address) = raw.address.at() {
            self.judge_address(address, terms);
        }
        let port = raw.port.or(&defaults.port);
        let keeps_port = match terms.forwarding {
            Some(ForwardingMethod::Dr) => Some("dr"),
            Some(ForwardingMethod::Tunnel) => Some("tunnel"),
            Some(ForwardingMethod::Nat) | None => None,
        };
        if let (Some(at), Some(service_port), Some(method)) = (port.at(), terms.port, keeps_port)
            && at.value != service_port
        {
            let message = format!(
                "{method} keeps the packet's port: it must be the service's {service_port}; leave it out"
            );
            self.problems.error(&at.place, message);
        }
        let health_check = self.by_service((service, raw), (health_check?, used), terms);
        Some(model::RealServer {
            address: raw.address.at()?.value,
            port: if port.is_absent() { terms.port? } else { port.at()?.value },
            weight: raw.weight.or(&defaults.weight).value_or(1),
            disabled: raw.disabled.or(&defaults.disabled).value_or(false),
            health_check: health_check?,
        })
    }

    /// Completes a check that goes by way of its service: `via: service`. `None` is a fault.
    fn by_service(
        &self,
        (service, server): (&VirtualService, &RealServer),
        (check, used): (Option<model::HealthCheck>, &Place),
        terms: &Terms,
    ) -> Option<Option<model::HealthCheck>> {
        let Some(check) = check else { return Some(None) };
        if check.via == model::Via::Direct {
            return Some(Some(check));
        }
        let address = server.address.at()?;
        let tunnel = match terms.forwarding? {
            ForwardingMethod::Dr => false,
            ForwardingMethod::Tunnel => true,
            ForwardingMethod::Nat => {
                let message = "this check is `via: service`, which is for dr and tunnel: with nat \
                               the real server never sees the virtual address; use one with \
                               `via: direct`";
                self.problems.error(used, message);
                return None;
            }
        };
        let mut listens = service.listen.at()?.value.iter().map(|at| at.value.address);
        let Some(vip) = listens.find(|vip| vip.is_ipv4() == address.value.is_ipv4()) else {
            let message = "its check is `via: service`, which needs a `listen` address of the real \
                           server's family; add one, or use a check with `via: direct`";
            self.problems.error(&server.place, message);
            return None;
        };
        let way = model::Way { vip, server: address.value, tunnel };
        Some(Some(model::HealthCheck { via: model::Via::Service(Some(way)), ..check }))
    }

    fn judge_address(&self, At { value, place }: &At<IpAddr>, terms: &Terms) {
        if terms.forwarding != Some(ForwardingMethod::Tunnel)
            && terms.ipv4.is_some_and(|ipv4| ipv4 != value.is_ipv4())
        {
            let (server, service) =
                if value.is_ipv4() { ("IPv4", "IPv6") } else { ("IPv6", "IPv4") };
            let message =
                format!("an {server} server can serve an {service} service by tunnel only");
            self.problems.error(place, message);
        } else if let Some(vip) = self.vips.get(value) {
            let message =
                format!("{value} is a virtual address ({vip}): its packets would come back");
            self.problems.error(place, message);
        }
    }
}
