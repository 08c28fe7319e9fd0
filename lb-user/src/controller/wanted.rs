//! From the configuration and what is known of the world to what the maps should hold.
//!
//! Pure: the controller gathers [`World`], [`compile`] answers.
//!
//! Must not know: map operations, how health or next hops came to be known.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use lb_common::conn::{State, Timeouts};
use lb_common::pod::{Address, mapped};
use lb_common::service::{
    CONFIG_ALLOW_ONLY, CONFIG_REPLY_ROUTE, INTERFACE_DOWN, Interface, METHOD_DR, METHOD_NAT,
    METHOD_TUNNEL, SERVICE_HASH_FALLBACK, SERVICE_HASH_PORT, ServiceKey,
};
use lb_common::wire::{self, Link};

use crate::controller::routes::Routes;
use crate::controller::standing::{ServerStanding, ServiceStanding, Standing};
use crate::model::{
    Dataplane, Director, ForwardingMethod, Hash, Listen, Protocol, RealServer, Replies, Scheduler,
    SorryServer, VirtualService,
};
use crate::netlink::NextHop;
use crate::plan::{Path, Settings, Wanted, WantedServer, WantedService};

/// What is known beside the configuration.
pub struct World<'a> {
    /// Where services and real servers stand.
    pub standing: &'a Standing,
    /// Links and next hops.
    pub routes: &'a Routes,
    /// Addresses whose next hop is still being looked for: nothing new is sent there yet.
    pub resolving: &'a HashSet<IpAddr>,
    /// Addresses of real servers that left the file and still have connections, by index.
    pub leaving: &'a BTreeMap<u32, IpAddr>,
    /// Jiffies in a span of time.
    pub jiffies: &'a dyn Fn(Duration) -> u64,
    /// Age of the heartbeat above which next hops are not trusted.
    pub heartbeat_max: Duration,
}

/// What the maps should hold.
pub fn compile(director: &Director, plane: &Dataplane, world: &World<'_>) -> Wanted {
    Wanted {
        services: services(director, world),
        timeouts: vec![(0, timeouts(plane, world))],
        settings: Settings {
            heartbeat_max: (world.jiffies)(world.heartbeat_max),
            hz: (world.jiffies)(Duration::from_secs(1)),
            flood_limit: u64::from(plane.new_connections_per_second),
            flags: flags(plane),
        },
        interfaces: interfaces(plane, world.routes),
        // Nothing makes this node the master of a virtual router yet.
        virtual_macs: BTreeSet::new(),
        leaving_hops: leaving_hops(world),
        deny: Arc::clone(&plane.deny),
        allow: Arc::clone(&plane.allow),
    }
}

fn flags(plane: &Dataplane) -> u64 {
    let route = if plane.replies == Replies::Route { CONFIG_REPLY_ROUTE } else { 0 };
    let allow_only = if plane.allow.is_empty() { 0 } else { CONFIG_ALLOW_ONLY };
    route | allow_only
}

/// A service that nothing is known of yet is not in the maps.
fn services(director: &Director, world: &World<'_>) -> Vec<WantedService> {
    let pairs = director.virtual_services.iter().zip(&world.standing.services);
    pairs.map(|(written, stands)| service(written, stands, world)).collect()
}

fn service(service: &VirtualService, stands: &ServiceStanding, world: &World<'_>) -> WantedService {
    let pairs = service.real_servers.iter().zip(&stands.servers);
    let servers = pairs.map(|(written, stands)| server(written, stands, world));
    let sorry = service.sorry_server.map(|server| sorry_server(server, stands.is_sorry, world));
    WantedService {
        listen: service.listen.iter().map(key).collect(),
        scheduler: by_share(service.scheduler, stands.is_slow),
        method: match service.forwarding {
            ForwardingMethod::Dr => METHOD_DR,
            ForwardingMethod::Nat => METHOD_NAT,
            ForwardingMethod::Tunnel => METHOD_TUNNEL,
        },
        mss_clamp: service.tunnel.mss_clamp,
        reset: service.reset_on_removal,
        flags: hash_flags(service),
        timeouts: 0,
        servers: servers.chain(sorry).collect(),
    }
}

/// What the file says of hashing; it counts for the schedulers that hash.
fn hash_flags(service: &VirtualService) -> u32 {
    let Hash { port, fallback } = service.hash;
    if !service.scheduler.hashes() {
        return 0;
    }
    let flag = |set, flag| if set { flag } else { 0 };
    flag(port, SERVICE_HASH_PORT) | flag(fallback, SERVICE_HASH_FALLBACK)
}

/// While a server comes back slowly, its share counts for schedulers that go by no weights as well.
fn by_share(scheduler: Scheduler, is_slow: bool) -> Scheduler {
    match scheduler {
        Scheduler::Rr if is_slow => Scheduler::Wrr,
        Scheduler::Lc if is_slow => Scheduler::Wlc,
        same => same,
    }
}

fn server(server: &RealServer, stands: &ServerStanding, world: &World<'_>) -> WantedServer {
    let effective = stands.effective;
    WantedServer {
        weight: if waits(server.address, world) { 0 } else { stands.share },
        place: effective.in_pool.then_some(server.weight),
        expire: effective.expire_connections,
        ..reached(server.address, server.port, world)
    }
}

/// The sorry server is one of the service's servers, without a share while it is not needed.
fn sorry_server(server: SorryServer, is_used: bool, world: &World<'_>) -> WantedServer {
    WantedServer {
        weight: u32::from(is_used && !waits(server.address, world)),
        place: is_used.then_some(1),
        ..reached(server.address, server.port, world)
    }
}

/// Its next hop is still being looked for.
fn waits(ip: IpAddr, world: &World<'_>) -> bool {
    world.resolving.contains(&ip)
}

/// A server without a share, and the way to it.
fn reached(ip: IpAddr, port: u16, world: &World<'_>) -> WantedServer {
    WantedServer {
        address: address(ip),
        port,
        weight: 0,
        place: None,
        configured: true,
        next_hop: world.routes.hops.get(&ip).map(link),
        path: path(world.routes, ip),
        expire: false,
    }
}

/// The key of what a client connects to.
pub fn key(listen: &Listen) -> ServiceKey {
    ServiceKey {
        address: address(listen.address),
        port: listen.port,
        protocol: match listen.protocol {
            Protocol::Tcp => wire::TCP,
            Protocol::Udp => wire::UDP,
        },
        pad: [0; 5],
    }
}

/// An address as the maps have it.
pub fn address(ip: IpAddr) -> Address {
    match ip {
        IpAddr::V4(ip) => mapped(ip.octets()),
        IpAddr::V6(ip) => ip.octets(),
    }
}

/// Next hops of servers that left, so that what they still have goes on when a neighbour changes.
fn leaving_hops(world: &World<'_>) -> BTreeMap<u32, (Option<Link>, Path)> {
    let way = |ip: &IpAddr| (world.routes.hops.get(ip).map(link), path(world.routes, *ip));
    world.leaving.iter().map(|(index, ip)| (*index, way(ip))).collect()
}

fn path(routes: &Routes, ip: IpAddr) -> Path {
    let known = routes.paths.get(&ip);
    Path {
        mtu: known.map_or(0, |path| path.mtu),
        source: known.and_then(|path| path.source).map_or([0; 16], address),
    }
}

fn link(hop: &NextHop) -> Link {
    Link {
        peer_mac: hop.dmac,
        our_mac: hop.smac,
        ifindex: hop.ifindex,
        tags: [hop.vlan.unwrap_or(0), 0],
        tag_count: u8::from(hop.vlan.is_some()),
        pad: [0; 3],
    }
}

/// IPVS's timeouts, as far as the configuration does not say otherwise: `tcp_fin` bounds every
/// state after a FIN, `tcp_syn` those before the connection is made.
fn timeouts(plane: &Dataplane, world: &World<'_>) -> Timeouts {
    let configured = &plane.timeouts;
    let mut by_state = [0; 16];
    for state in State::ALL {
        let usual = Duration::from_secs(u64::from(state.default_timeout_seconds()));
        let timeout = match state {
            State::ESTABLISHED => configured.tcp,
            State::SYN_RECV => configured.tcp_syn,
            State::SYN_SENT | State::SYNACK => usual.min(configured.tcp_syn * 2),
            State::FIN_WAIT => configured.tcp_fin,
            State::TIME_WAIT | State::CLOSE_WAIT | State::LAST_ACK | State::CLOSE => {
                usual.min(configured.tcp_fin)
            }
            State::UDP => configured.udp,
            _ => usual,
        };
        by_state[state.raw() as usize] = (world.jiffies)(timeout);
    }
    Timeouts { by_state }
}

fn interfaces(plane: &Dataplane, routes: &Routes) -> BTreeMap<u32, Interface> {
    let known = |name: &String| {
        let link = routes.links.by_name(name)?;
        let flags = if link.up && link.running { 0 } else { INTERFACE_DOWN };
        let value = Interface { mac: link.mac.unwrap_or_default(), pad: [0; 2], flags };
        Some((link.index, value))
    };
    plane.interfaces.iter().filter_map(known).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::effective::{Effective, ServerState};
    use crate::model::{AdminState, AttachMode, OnFailure};

    fn plane() -> Dataplane {
        Dataplane {
            interfaces: vec![],
            mode: AttachMode::Auto,
            pin_path: "/sys/fs/bpf/lb".into(),
            connections: 1,
            timeouts: crate::model::Timeouts::default(),
            new_connections_per_second: 7,
            deny: Arc::default(),
            allow: Arc::default(),
            replies: Replies::Route,
            addresses: vec![],
        }
    }

    fn director() -> Director {
        let ip = |text: &str| text.parse().expect("an address");
        Director {
            node: "n".into(),
            dataplane: Some(plane()),
            virtual_services: vec![VirtualService {
                name: "web".into(),
                listen: vec![Listen {
                    address: ip("192.0.2.1"),
                    port: 80,
                    protocol: Protocol::Tcp,
                }],
                scheduler: Scheduler::Rr,
                hash: Hash::default(),
                forwarding: ForwardingMethod::Nat,
                tunnel: crate::model::Tunnel::default(),
                on_failure: OnFailure::Remove,
                reset_on_removal: false,
                real_servers: vec![RealServer {
                    address: ip("10.0.0.1"),
                    port: 8080,
                    weight: 3,
                    admin: AdminState::Ready,
                    health_checks: Vec::new(),
                }],
                added_server: crate::model::AddedServer::default(),
                quorum: crate::model::Quorum::default(),
                notify: crate::model::ServiceNotify::default(),
                sorry_server: Some(SorryServer { address: ip("10.0.0.9"), port: 80 }),
                slow_start: Duration::ZERO,
            }],
            vrrp: crate::model::Vrrp::default(),
            notifications: crate::model::Notifications::default(),
            admin: crate::model::Admin::default(),
            log: crate::model::Log::default(),
        }
    }

    const UP: Effective =
        Effective { weight: 3, state: ServerState::Up, in_pool: true, expire_connections: false };

    fn stands(effective: Effective) -> ServiceStanding {
        let server = ServerStanding { effective, share: effective.weight, ramp: None };
        ServiceStanding { servers: vec![server], ..ServiceStanding::default() }
    }

    fn compiled(director: &Director, stands: ServiceStanding, resolving: bool) -> WantedService {
        let address = director.virtual_services[0].real_servers[0].address;
        let resolving = resolving.then_some(address).into_iter().collect();
        let world = World {
            standing: &Standing { services: vec![stands] },
            leaving: &BTreeMap::new(),
            routes: &Routes::default(),
            resolving: &resolving,
            jiffies: &|span| span.as_secs() * 100,
            heartbeat_max: Duration::from_secs(4),
        };
        let mut wanted = compile(director, &plane(), &world);
        assert_eq!(wanted.settings.flags, CONFIG_REPLY_ROUTE);
        assert_eq!((wanted.settings.hz, wanted.settings.heartbeat_max), (100, 400));
        assert_eq!(wanted.timeouts[0].1.by_state[State::ESTABLISHED.raw() as usize], 90_000);
        wanted.services.remove(0)
    }

    #[test]
    fn servers_are_as_they_stand() {
        let up = compiled(&director(), stands(UP), false).servers[0];
        assert_eq!((up.weight, up.place, up.expire), (3, Some(3), false));
        let failed = Effective { weight: 0, in_pool: false, expire_connections: true, ..UP };
        let down = compiled(&director(), stands(failed), false).servers[0];
        assert_eq!((down.weight, down.place, down.expire), (0, None, true));
        let quiet = Effective { weight: 0, ..UP };
        let quiet = compiled(&director(), stands(quiet), false).servers[0];
        assert_eq!((quiet.weight, quiet.place, quiet.expire), (0, Some(3), false));
    }

    #[test]
    fn the_sorry_server_has_a_share_only_when_it_is_used() {
        let idle = compiled(&director(), stands(UP), false).servers[1];
        assert_eq!((idle.weight, idle.place), (0, None));
        let sorry = ServiceStanding { is_sorry: true, ..stands(UP) };
        let used = compiled(&director(), sorry, false).servers[1];
        assert_eq!((used.weight, used.place), (1, Some(1)));
    }

    #[test]
    fn shares_count_while_a_server_comes_back_slowly() {
        for (scheduler, slow) in [
            (Scheduler::Rr, Scheduler::Wrr),
            (Scheduler::Lc, Scheduler::Wlc),
            (Scheduler::Wlc, Scheduler::Wlc),
            (Scheduler::Mh, Scheduler::Mh),
        ] {
            let mut director = director();
            director.virtual_services[0].scheduler = scheduler;
            assert_eq!(compiled(&director, stands(UP), false).scheduler, scheduler);
            let is_slow = ServiceStanding { is_slow: true, ..stands(UP) };
            assert_eq!(compiled(&director, is_slow, false).scheduler, slow);
        }
    }

    #[test]
    fn hash_options_count_for_schedulers_that_hash() {
        let mut director = director();
        let service = &mut director.virtual_services[0];
        service.hash = Hash { port: true, fallback: true };
        for (scheduler, flags) in [
            (Scheduler::Wlc, 0),
            (Scheduler::Sh, SERVICE_HASH_PORT | SERVICE_HASH_FALLBACK),
            (Scheduler::Mh, SERVICE_HASH_PORT | SERVICE_HASH_FALLBACK),
        ] {
            service.scheduler = scheduler;
            assert_eq!(hash_flags(service), flags, "{scheduler:?}");
        }
        service.hash.fallback = false;
        assert_eq!(hash_flags(service), SERVICE_HASH_PORT);
    }

    #[test]
    fn a_server_without_a_next_hop_waits_while_it_is_looked_for() {
        let waiting = compiled(&director(), stands(UP), true).servers[0];
        assert_eq!((waiting.weight, waiting.place), (0, Some(3)));
    }
}
