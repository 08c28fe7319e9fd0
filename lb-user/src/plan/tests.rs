//! Random histories of plans against a model and an invariant checker, and the rules one by one.
//!
//! Must not know: the kernel.

mod adoption;
mod checker;
mod histories;
mod rules;
mod schedulers;

use std::collections::BTreeSet;

use lb_common::conn::Timeouts;
use lb_common::pod::{Address, mapped};
use lb_common::service::{METHOD_DR, METHOD_NAT, METHOD_TUNNEL, ServiceKey};
use lb_common::wire::vrrp::Family;
use lb_common::wire::{Link, TCP};
use proptest::prelude::*;

use super::*;
use crate::model::Scheduler;

/// Few enough that histories meet every limit.
const SMALL: Limits = Limits { services: 8, real_servers: 20, slots: 6000, prefixes: 8 };

fn key(number: u8) -> ServiceKey {
    // Two keys an address, one address in three IPv6.
    let address = match number / 2 % 3 {
        2 => [0x20; 16],
        other => mapped([192, 0, 2, other]),
    };
    ServiceKey { address, port: 80 + u16::from(number), protocol: TCP, pad: [0; 5] }
}

fn address(number: u8) -> Address {
    mapped([10, 0, 0, number])
}

fn link(number: u8) -> Link {
    Link { peer_mac: [2, 0, 0, 0, 0, number], ifindex: 3, ..Link::zeroed() }
}

fn server(number: u8, weight: u32) -> WantedServer {
    WantedServer {
        address: address(number),
        port: 80,
        weight,
        place: Some(weight),
        configured: true,
        next_hop: None,
        path: Path::default(),
        expire: false,
    }
}

fn service(listen: &[u8], servers: &[WantedServer]) -> WantedService {
    WantedService {
        listen: listen.iter().map(|number| key(*number)).collect(),
        scheduler: Scheduler::Wrr,
        method: METHOD_DR,
        mss_clamp: false,
        reset: false,
        flags: 0,
        timeouts: 0,
        servers: servers.to_vec(),
    }
}

fn wanted(services: &[WantedService]) -> Wanted {
    Wanted { services: services.to_vec(), ..Wanted::default() }
}

fn indices(numbers: &[u32]) -> BTreeSet<u32> {
    numbers.iter().copied().collect()
}

fn any_server() -> impl Strategy<Value = WantedServer> {
    let quiet = prop::bool::weighted(0.2);
    let path = prop::option::of((1000u32..1003, 0u8..2));
    (0u8..6, 0u32..4, prop::option::of(0u8..3), prop::bool::weighted(0.2), quiet, path).prop_map(
        |(number, weight, hop, expire, quiet, path)| WantedServer {
            next_hop: hop.map(link),
            path: path.map_or_else(Path::default, |(mtu, n)| Path { mtu, source: address(n) }),
            expire,
            weight: if expire || quiet { 0 } else { weight },
            place: (!expire).then_some(weight),
            ..server(number, weight)
        },
    )
}

fn any_service() -> impl Strategy<Value = WantedService> {
    let servers = prop::collection::vec(any_server(), 0..5);
    let scheduler = prop::sample::select(vec![
        Scheduler::Rr,
        Scheduler::Wrr,
        Scheduler::Lc,
        Scheduler::Wlc,
        Scheduler::Sh,
        Scheduler::Mh,
    ]);
    let method = prop::sample::select(vec![METHOD_DR, METHOD_DR, METHOD_NAT, METHOD_TUNNEL]);
    let way = (method, any::<bool>());
    (servers, scheduler, way, 0u32..2).prop_map(|(mut servers, scheduler, way, timeouts)| {
        // Each is for one method only.
        let (method, mss_clamp) = way;
        let reset = mss_clamp && method == METHOD_NAT;
        let mut seen = BTreeSet::new();
        servers.retain(|server| seen.insert(server.address));
        WantedService { scheduler, method, mss_clamp, reset, timeouts, ..service(&[], &servers) }
    })
}

/// Up to four services on the keys 0..8, each on up to two of them.
fn any_wanted() -> impl Strategy<Value = Wanted> {
    let listens = Just((0u8..8).collect::<Vec<_>>()).prop_shuffle();
    let services = prop::collection::vec((any_service(), 1usize..3), 0..5);
    let interfaces = prop::collection::btree_map(1u32..4, 0u32..2, 0..3);
    let families = prop::sample::select(vec![Family::V4, Family::V6]);
    let virtual_macs = (families, 1u8..4).prop_map(|(family, vrid)| VirtualMac { family, vrid });
    let links = (interfaces, prop::collection::btree_set(virtual_macs, 0..4));
    (listens, services, links, 0u64..3, 1u64..3).prop_map(
        |(mut listens, services, (interfaces, virtual_macs), flood_limit, timeout)| {
            let services = services
                .into_iter()
                .map(|(mut service, keys)| {
                    service.listen =
                        listens.split_off(listens.len() - keys).into_iter().map(key).collect();
                    service
                })
                .collect();
            let interface = |flags| lb_common::service::Interface {
                flags,
                ..lb_common::service::Interface::zeroed()
            };
            Wanted {
                services,
                timeouts: vec![(0, Timeouts { by_state: [timeout; 16] })],
                settings: Settings { flood_limit, ..Settings::default() },
                interfaces: interfaces
                    .into_iter()
                    .map(|(i, flags)| (i, interface(flags)))
                    .collect(),
                virtual_macs,
                ..Wanted::default()
            }
        },
    )
}
