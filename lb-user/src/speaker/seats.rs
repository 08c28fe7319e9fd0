//! All virtual routers: made from a configuration, and changed by the next one.
//!
//! A reload is a difference: a router whose identity (interface, VRID, version, family) stays
//! keeps its state, its addresses and its timers.
//!
//! Must not know: sockets, the controller.

use std::collections::BTreeMap;
use std::time::Instant;

use netlink_packet_route::RouteNetlinkMessage;

use crate::speaker::hands::Hands;
use crate::speaker::protocol::{Configuration, InstanceConfig, Status, Tracked};
use crate::speaker::router::Router;
use crate::speaker::seat::Seat;
use crate::vrrp::frame::Mac;
use crate::vrrp::fsm::Event;
use crate::vrrp::receive::Facts;

/// What the controller says of tracked objects, by instance.
pub(super) type TrackedByName = BTreeMap<String, Vec<Tracked>>;

/// All virtual routers of this node.
#[derive(Default)]
pub(super) struct Seats {
    seats: Vec<Seat>,
    /// Interfaces on which a data plane must be attached.
    planes: Vec<String>,
}

impl Seats {
    /// Becomes what a configuration says.
    pub(super) fn configure(
        &mut self,
        now: Instant,
        configuration: &Configuration,
        mut tracked: TrackedByName,
        hands: &mut Hands,
    ) {
        self.planes.clone_from(&configuration.interfaces);
        // One may have been attached a moment ago.
        self.look_at_planes(now, hands);
        let mut before = std::mem::take(&mut self.seats);
        let wanted = arrange(configuration);
        // By their names first: several may have one identity, told apart by their peers.
        let mut kept: Vec<Option<Seat>> = Vec::new();
        for (group, configs) in &wanted {
            let found = before.iter().position(|seat| {
                has_names(seat, configs) && is_same(seat, group.as_ref(), configs)
            });
            kept.push(found.map(|at| before.remove(at)));
        }
        for ((group, configs), kept) in wanted.iter().zip(&mut kept) {
            let left = |seat: &Seat| {
                seat.routers.iter().all(|router| {
                    configuration.instances.iter().all(|config| config.name != router.config.name)
                })
            };
            let renamed = |seat: &Seat| left(seat) && is_same(seat, group.as_ref(), configs);
            if kept.is_none()
                && let Some(at) = before.iter().position(renamed)
            {
                *kept = Some(before.remove(at));
            }
        }
        // What leaves does so first: its addresses may be another one's now.
        for mut seat in before {
            seat.handle_all(now, &Event::Shutdown, hands);
        }
        for ((group, configs), seat) in wanted.into_iter().zip(kept) {
            let seat = match seat {
                Some(seat) => Some(change(now, seat, configs, &mut tracked, hands)),
                None => self.make(now, group, configs, &mut tracked, hands),
            };
            self.seats.extend(seat);
        }
        self.weigh(now, hands);
    }

    fn make(
        &self,
        now: Instant,
        group: Option<String>,
        configs: Vec<InstanceConfig>,
        tracked: &mut TrackedByName,
        hands: &mut Hands,
    ) -> Option<Seat> {
        let plane = self.plane(hands);
        let mut routers = Vec::new();
        for config in configs {
            let told = tracked.remove(&config.name).unwrap_or_default();
            let mut router = Router::new(config, told)?;
            router.locate(hands);
            router.weigh(hands, plane);
            routers.push(router);
        }
        let mut seat = Seat::new(group, routers);
        for member in 0..seat.routers.len() {
            if seat.routers[member].group().is_none() {
                seat.handle(now, member, Event::LinkDown, hands);
            }
        }
        seat.handle_all(now, &Event::Startup, hands);
        Some(seat)
    }

    /// Takes what the controller says of tracked objects.
    pub(super) fn track(&mut self, now: Instant, mut tracked: TrackedByName, hands: &mut Hands) {
        for router in self.seats.iter_mut().flat_map(|seat| &mut seat.routers) {
            if let Some(told) = tracked.remove(&router.config.name) {
                router.track(told);
            }
        }
        self.weigh(now, hands);
    }

    /// Lets what is tracked have its effect.
    fn weigh(&mut self, now: Instant, hands: &mut Hands) {
        let plane = self.plane(hands);
        for seat in &mut self.seats {
            for member in 0..seat.routers.len() {
                if let Some(effective) = seat.routers[member].weigh(hands, plane) {
                    let (priority, standing) = (effective.priority, effective.standing);
                    seat.handle(now, member, Event::Track { priority, standing }, hands);
                }
            }
        }
    }

    /// Whether the data plane is attached wherever it should be; `None` without one.
    fn plane(&self, hands: &Hands) -> Option<bool> {
        let attached =
            |name: &String| hands.station.link(name).is_some_and(|(_, link)| link.has_xdp);
        (!self.planes.is_empty()).then(|| self.planes.iter().all(attached))
    }

    /// Looks whether the data plane is still attached: the kernel tells nobody when a program is
    /// taken off through its link.
    pub(super) fn look_at_planes(&mut self, now: Instant, hands: &mut Hands) {
        let mut changed = false;
        for name in &self.planes {
            let Some((ifindex, _)) = hands.station.link(name) else { continue };
            match hands.kernel.link(ifindex) {
                Ok(Some(link)) => {
                    let message = RouteNetlinkMessage::NewLink(link);
                    changed |= hands.station.follow(&message).is_some();
                }
                // Its end comes as an event.
                Ok(None) => {}
                Err(error) => tracing::warn!(interface = %name, %error, "cannot be looked at"),
            }
        }
        if changed {
            self.look_around(now, hands);
        }
    }

    /// Links or addresses changed.
    pub(super) fn look_around(&mut self, now: Instant, hands: &mut Hands) {
        for seat in &mut self.seats {
            let grouped = seat.group.is_some();
            for member in 0..seat.routers.len() {
                let router = &mut seat.routers[member];
                let is_there = router.locate(hands);
                let settings = router.settings(grouped);
                if is_there && settings != *seat.instance(member).settings() {
                    seat.handle(now, member, Event::Configure(settings), hands);
                }
                let event = if is_there { Event::LinkUp } else { Event::LinkDown };
                seat.handle(now, member, event, hands);
                seat.routers[member].look_after(hands);
            }
        }
        self.weigh(now, hands);
    }

    /// An advert came in; false when nobody here has its identifier.
    pub(super) fn hear(
        &mut self,
        now: Instant,
        vrid: u8,
        facts: &Facts,
        message: &[u8],
        hands: &mut Hands,
    ) -> bool {
        let v4 = facts.source.is_ipv4();
        let is_for = |router: &Router| router.is_for(facts.interface, vrid, v4);
        let is_heard = self.routers().any(|router| is_for(router) && router.hears(facts));
        let mut known = false;
        for seat in &mut self.seats {
            for member in 0..seat.routers.len() {
                let router = &seat.routers[member];
                // What nobody hears is refused with the reason; what another one hears is his.
                if !is_for(router) || (is_heard && !router.hears(facts)) {
                    continue;
                }
                known = true;
                if let Some(accepted) = seat.routers[member].hear(now, facts, message) {
                    seat.handle(now, member, Event::Advert(accepted.advert), hands);
                }
            }
        }
        known
    }

    /// Somebody on an interface says that an address is theirs.
    pub(super) fn hear_claim(
        &mut self,
        ifindex: u32,
        address: std::net::IpAddr,
        mac: Mac,
        hands: &Hands,
    ) {
        for router in self.routers() {
            router.hear_claim(ifindex, address, mac, hands);
        }
    }

    /// All routers.
    pub(super) fn routers(&mut self) -> impl Iterator<Item = &mut Router> {
        self.seats.iter_mut().flat_map(|seat| &mut seat.routers)
    }

    /// When [`Self::timers`] is due.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.seats.iter().filter_map(Seat::next_deadline).min()
    }

    /// Does what is due.
    pub(super) fn timers(&mut self, now: Instant, hands: &mut Hands) {
        for seat in &mut self.seats {
            seat.timers(now, hands);
        }
    }

    /// Gives the mastership of an instance up; false when there is none of that name.
    pub(super) fn resign(&mut self, now: Instant, name: &str, hands: &mut Hands) -> bool {
        for seat in &mut self.seats {
            let found = seat.routers.iter().position(|router| router.config.name == name);
            if let Some(member) = found {
                seat.handle(now, member, Event::Resign, hands);
                return true;
            }
        }
        false
    }

    /// Ends: resigns everything and takes all addresses away.
    pub(super) fn stop(&mut self, now: Instant, hands: &mut Hands) {
        for mut seat in std::mem::take(&mut self.seats) {
            seat.handle_all(now, &Event::Shutdown, hands);
        }
    }

    /// All instances as they are.
    pub(super) fn status(&self) -> Vec<Status> {
        self.seats.iter().flat_map(Seat::status).collect()
    }
}

/// The configuration by seats: groups first, then whoever is in none.
fn arrange(configuration: &Configuration) -> Vec<(Option<String>, Vec<InstanceConfig>)> {
    let mut left = configuration.instances.clone();
    let mut wanted = Vec::new();
    for group in &configuration.groups {
        let mut members = Vec::new();
        for name in &group.instances {
            let found = left.iter().position(|config| config.name == *name);
            members.extend(found.map(|at| left.remove(at)));
        }
        if !members.is_empty() {
            wanted.push((Some(group.name.clone()), members));
        }
    }
    wanted.extend(left.into_iter().map(|config| (None, vec![config])));
    wanted
}

fn has_names(seat: &Seat, configs: &[InstanceConfig]) -> bool {
    let names = seat.routers.iter().map(|router| &router.config.name);
    names.eq(configs.iter().map(|config| &config.name))
}

fn is_same(seat: &Seat, group: Option<&String>, configs: &[InstanceConfig]) -> bool {
    seat.group.as_ref() == group
        && seat.routers.len() == configs.len()
        && seat.routers.iter().zip(configs).all(|(router, config)| router.is_same(config))
}

fn change(
    now: Instant,
    mut seat: Seat,
    configs: Vec<InstanceConfig>,
    tracked: &mut TrackedByName,
    hands: &mut Hands,
) -> Seat {
    let grouped = seat.group.is_some();
    for (member, config) in configs.into_iter().enumerate() {
        let router = &mut seat.routers[member];
        router.track(tracked.remove(&config.name).unwrap_or_default());
        let readdressed = router.reconfigure(config);
        router.locate(hands);
        let settings = router.settings(grouped);
        if settings != *seat.instance(member).settings() {
            seat.handle(now, member, Event::Configure(settings), hands);
        }
        if readdressed {
            seat.handle(now, member, Event::AddressesChanged, hands);
        }
    }
    seat
}
