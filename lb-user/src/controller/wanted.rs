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

use crate::controller::checked;
use crate::controller::effective::{AdminState, Effective, Health, effective};
use crate::controller::routes::Routes;
use crate::health::Target;
use crate::model::{
    Dataplane, Director, ForwardingMethod, Hash, Listen, Protocol, RealServer, Replies,
    VirtualService,
};
use crate::netlink::NextHop;
use crate::plan::{Path, Settings, Wanted, WantedServer, WantedService};

/// What is known beside the configuration.
pub struct World<'a> {
    /// What was heard of checked targets.
    pub health: &'a checked::Health,
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

impl World<'_> {
    /// What becomes of a real server now.
    pub fn effective(&self, service: &VirtualService, server: &RealServer) -> Effective {
        let checked = Target::of(server).and_then(|target| self.health.get(&target));
        let health = checked.map(|c| Health { state: c.state, failed: c.failed });
        effective(server, service.on_failure, health, AdminState::Ready)
    }
}

/// What the maps should hold.
pub fn compile(director: &Director, plane: &Dataplane, world: &World<'_>) -> Wanted {
    Wanted {
        services: director.virtual_services.iter().map(|s| service(s, world)).collect(),
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

fn service(service: &VirtualService, world: &World<'_>) -> WantedService {
    WantedService {
        listen: service.listen.iter().map(key).collect(),
        scheduler: service.scheduler,
        method: match service.forwarding {
            ForwardingMethod::Dr => METHOD_DR,
            ForwardingMethod::Nat => METHOD_NAT,
            ForwardingMethod::Tunnel => METHOD_TUNNEL,
        },
        mss_clamp: service.tunnel.mss_clamp,
        reset: service.reset_on_removal,
        flags: hash_flags(service),
        timeouts: 0,
        servers: service.real_servers.iter().map(|rs| server(service, rs, world)).collect(),
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

fn server(service: &VirtualService, server: &RealServer, world: &World<'_>) -> WantedServer {
    let effective = world.effective(service, server);
    let waits = world.resolving.contains(&server.address);
    WantedServer {
        address: address(server.address),
        port: server.port,
        weight: if waits { 0 } else { effective.weight },
        place: effective.in_pool.then_some(server.weight),
        configured: true,
        next_hop: world.routes.hops.get(&server.address).map(link),
        path: path(world.routes, server.address),
        expire: effective.expire_connections,
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
    use crate::health::{HealthState, Observed};
    use crate::model::{AttachMode, CheckKind, HealthCheck, OnFailure, Scheduler, Via};

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

    fn director(health_check: Option<HealthCheck>, on_failure: OnFailure) -> Director {
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
                on_failure,
                reset_on_removal: false,
                real_servers: vec![RealServer {
                    address: ip("10.0.0.1"),
                    port: 8080,
                    weight: 3,
                    disabled: false,
                    health_check,
                }],
            }],
            vrrp: crate::model::Vrrp::default(),
            notifications: crate::model::Notifications::default(),
            admin: crate::model::Admin::default(),
            log: crate::model::Log::default(),
        }
    }

    fn tcp_check() -> HealthCheck {
        HealthCheck {
            kind: CheckKind::Tcp,
            interval: Duration::from_secs(1),
            retry_interval: Duration::from_secs(1),
            timeout: Duration::from_secs(1),
            rise: 1,
            fall: 1,
            port: None,
            starts_up: false,
            flap: None,
            via: Via::Direct,
        }
    }

    fn compiled(
        director: &Director,
        health: Option<HealthState>,
        failed: bool,
        resolving: bool,
    ) -> WantedServer {
        let target = Target::of(&director.virtual_services[0].real_servers[0]);
        let checked = |state| checked::Checked { state, failed, observed: Observed::new(state, 1) };
        let health = target.zip(health.map(checked)).into_iter().collect();
        let address = director.virtual_services[0].real_servers[0].address;
        let resolving = resolving.then_some(address).into_iter().collect();
        let world = World {
            health: &health,
            leaving: &BTreeMap::new(),
            routes: &Routes::default(),
            resolving: &resolving,
            jiffies: &|span| span.as_secs() * 100,
            heartbeat_max: Duration::from_secs(4),
        };
        let wanted = compile(director, &plane(), &world);
        assert_eq!(wanted.settings.flags, CONFIG_REPLY_ROUTE);
        assert_eq!((wanted.settings.hz, wanted.settings.heartbeat_max), (100, 400));
        assert_eq!(wanted.timeouts[0].1.by_state[State::ESTABLISHED.raw() as usize], 90_000);
        wanted.services[0].servers[0]
    }

    #[test]
    fn a_failed_check_takes_the_weight_and_expires_as_configured() {
        let checked = director(Some(tcp_check()), OnFailure::Remove);
        let up = compiled(&checked, Some(HealthState::Up), false, false);
        assert_eq!((up.weight, up.expire), (3, false));
        let down = compiled(&checked, Some(HealthState::Down), true, false);
        assert_eq!((down.weight, down.expire), (0, true));
        let quiet = director(Some(tcp_check()), OnFailure::Quiesce);
        let down = compiled(&quiet, Some(HealthState::Down), true, false);
        assert_eq!((down.weight, down.expire), (0, false));
    }

    #[test]
    fn a_server_that_was_never_up_is_not_expired() {
        let checked = director(Some(tcp_check()), OnFailure::Remove);
        let first = compiled(&checked, Some(HealthState::Down), false, false);
        assert_eq!((first.weight, first.expire), (0, false));
    }

    #[test]
    fn a_removed_server_leaves_its_place_and_a_quiesced_one_keeps_it() {
        for (on_failure, place) in [(OnFailure::Remove, None), (OnFailure::Quiesce, Some(3))] {
            let checked = director(Some(tcp_check()), on_failure);
            let up = compiled(&checked, Some(HealthState::Up), false, false);
            assert_eq!((up.weight, up.place), (3, Some(3)));
            for failed in [false, true] {
                let down = compiled(&checked, Some(HealthState::Down), failed, false);
                assert_eq!((down.weight, down.place), (0, place), "{on_failure:?}");
            }
        }
        let waiting = compiled(&director(None, OnFailure::Remove), None, false, true);
        assert_eq!((waiting.weight, waiting.place), (0, Some(3)));
    }

    #[test]
    fn hash_options_count_for_schedulers_that_hash() {
        let mut director = director(None, OnFailure::Remove);
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
        let unchecked = director(None, OnFailure::Remove);
        assert_eq!(compiled(&unchecked, None, false, true).weight, 0);
        assert_eq!(compiled(&unchecked, None, false, false).weight, 3);
    }
}
