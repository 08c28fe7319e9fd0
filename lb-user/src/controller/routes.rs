//! Keeps the next hop of every real server current, in a task of its own.
//!
//! It hears the kernel's events, asks for routes and neighbours, keeps the neighbours managed and
//! sends [`Routes`] whenever an answer changed. The controller says which destinations matter.
//!
//! Must not know: services, maps, health.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot};

use crate::controller::event::Event;
use crate::controller::path_mtu::PathMtus;
use crate::netlink::{
    LinkTable, Neighbour, Netlink, NetlinkError, NetlinkEvent, NextHop, Ownership, Path, Resolution,
};

/// What the task is told.
#[derive(Debug)]
pub enum Ask {
    /// These destinations matter from now on.
    Destinations(BTreeSet<IpAddr>),
    /// The kernel program dropped packets for want of this destination's neighbour.
    Missed(IpAddr),
    /// A router reported the path MTU of a tunnel.
    PathMtu {
        /// The tunnel's far end.
        destination: IpAddr,
        /// Its near end; a report about somebody else's tunnel has another one.
        source: IpAddr,
        /// The MTU, 0 if the router did not say.
        mtu: u32,
    },
    /// The kernel's links, neighbours or routes changed.
    Netlink(NetlinkEvent),
    /// End; the neighbours that were added are removed, unless they are to stay.
    Stop {
        /// Leave the neighbours.
        keep: bool,
        /// Told when it is done.
        done: oneshot::Sender<()>,
    },
}

impl From<NetlinkEvent> for Ask {
    fn from(event: NetlinkEvent) -> Self {
        Self::Netlink(event)
    }
}

/// Links, and the next hops that are known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Routes {
    /// All interfaces.
    pub links: LinkTable,
    /// Next hop by destination; a destination without one is not reachable by now.
    pub hops: BTreeMap<IpAddr, NextHop>,
    /// Path by destination, also while its next hop does not answer.
    pub paths: BTreeMap<IpAddr, Path>,
}

/// When what failed is asked again.
const RETRY: std::time::Duration = std::time::Duration::from_secs(1);
/// Neighbours that are managed for clients' side at most: the program asks for them by dropping.
const MAX_MISSED: usize = 1024;

/// Starts the task. It ends when told to, or with the last sender.
pub fn spawn(netlink: Netlink, events: mpsc::Sender<Event>) -> mpsc::Sender<Ask> {
    let (sender, asks) = mpsc::channel(256);
    tokio::spawn(Resolver::new(netlink, events).run(asks));
    sender
}

struct Resolver {
    netlink: Netlink,
    events: mpsc::Sender<Event>,
    links: LinkTable,
    destinations: BTreeMap<IpAddr, Option<Resolution>>,
    missed: BTreeSet<IpAddr>,
    /// What routers reported of paths.
    learnt: PathMtus,
    managed: BTreeSet<(u32, IpAddr)>,
    sent: Option<Routes>,
    /// The last round left something open.
    retry: bool,
}

/// What a round has to look at again.
#[derive(Default)]
struct Round {
    links: bool,
    all: bool,
    some: BTreeSet<IpAddr>,
    /// Destinations may have gone.
    prune: bool,
}

impl Resolver {
    fn new(netlink: Netlink, events: mpsc::Sender<Event>) -> Self {
        Self {
            netlink,
            events,
            links: LinkTable::default(),
            destinations: BTreeMap::new(),
            missed: BTreeSet::new(),
            learnt: PathMtus::default(),
            managed: BTreeSet::new(),
            sent: None,
            retry: false,
        }
    }

    async fn run(mut self, mut asks: mpsc::Receiver<Ask>) {
        loop {
            let now = Instant::now();
            let retry = std::mem::take(&mut self.retry).then_some(RETRY);
            let forgotten = self.learnt.expires_at().map(|at| at.saturating_duration_since(now));
            let asked = asks.recv();
            let first = if let Some(wait) = retry.into_iter().chain(forgotten).min() {
                match tokio::time::timeout(wait, asked).await {
                    Ok(first) => first,
                    Err(_elapsed) => Some(Ask::Netlink(NetlinkEvent::Resync)),
                }
            } else {
                asked.await
            };
            let Some(first) = first else { return };
            // The first round also reads the links.
            let mut round = Round { links: self.sent.is_none(), ..Round::default() };
            let mut next = Some(first);
            while let Some(ask) = next {
                match ask {
                    Ask::Stop { keep, done } => {
                        self.stop(keep).await;
                        let _gone = done.send(());
                        return;
                    }
                    other => self.note(other, &mut round),
                }
                next = asks.try_recv().ok();
            }
            self.look(round).await;
            self.send().await;
        }
    }

    fn note(&mut self, ask: Ask, round: &mut Round) {
        match ask {
            Ask::Destinations(wanted) => {
                round.prune = true;
                self.destinations.retain(|ip, _| wanted.contains(ip) || self.missed.contains(ip));
                for ip in wanted {
                    if let std::collections::btree_map::Entry::Vacant(slot) =
                        self.destinations.entry(ip)
                    {
                        slot.insert(None);
                        round.some.insert(ip);
                    }
                }
            }
            Ask::Missed(ip) => {
                if self.missed.len() < MAX_MISSED && self.missed.insert(ip) {
                    self.destinations.entry(ip).or_insert(None);
                }
                round.some.insert(ip);
            }
            Ask::Netlink(NetlinkEvent::NeighbourChanged(neighbour)) => {
                round.some.extend(self.behind(&neighbour));
            }
            Ask::Netlink(NetlinkEvent::RouteChanged) => round.all = true,
            Ask::Netlink(NetlinkEvent::LinkChanged { .. } | NetlinkEvent::Resync) => {
                round.links = true;
                round.all = true;
            }
            Ask::PathMtu { destination, source, mtu } => self.hear(destination, source, mtu),
            Ask::Stop { .. } => {}
        }
    }

    /// Takes a router's report, if it is about a path of ours.
    fn hear(&mut self, destination: IpAddr, source: IpAddr, mtu: u32) {
        let Some(path) = self.path(&destination) else { return };
        if path.source == Some(source)
            && self.learnt.hear(Instant::now(), destination, mtu, path.mtu)
        {
            tracing::info!(%destination, mtu, "a router reports a smaller path MTU");
        }
    }

    /// The path to a destination, as narrow as it is known to be.
    fn path(&self, destination: &IpAddr) -> Option<Path> {
        let path = self.destinations.get(destination)?.as_ref()?.path?;
        Some(Path { mtu: self.learnt.narrowed(*destination, path.mtu), ..path })
    }

    /// Destinations whose packets go to this neighbour.
    fn behind(&self, neighbour: &Neighbour) -> Vec<IpAddr> {
        let is_by_way = |(ip, resolution): &(&IpAddr, &Option<Resolution>)| {
            let route = resolution.and_then(|r| r.route);
            route.is_some_and(|route| {
                route.ifindex == neighbour.ifindex && route.neighbour(**ip) == neighbour.address
            })
        };
        self.destinations.iter().filter(is_by_way).map(|(ip, _)| *ip).collect()
    }

    async fn look(&mut self, round: Round) {
        if round.links {
            match self.netlink.links().await {
                Ok(links) => self.links = links,
                Err(error) => self.failed(&error),
            }
        }
        let again: Vec<IpAddr> = if round.all {
            self.destinations.keys().copied().collect()
        } else {
            round.some.into_iter().filter(|ip| self.destinations.contains_key(ip)).collect()
        };
        for ip in again {
            let resolution = match self.netlink.resolve(&self.links, ip).await {
                Ok(resolution) => resolution,
                Err(error) => {
                    // Unknown, so that the kernel program asks for itself meanwhile.
                    self.destinations.insert(ip, None);
                    self.failed(&error);
                    continue;
                }
            };
            if let Some(route) = resolution.route.filter(|route| !route.local) {
                self.manage(route.ifindex, route.neighbour(ip)).await;
            }
            self.destinations.insert(ip, Some(resolution));
        }
        if round.prune {
            self.prune().await;
        }
    }

    /// Something could not be asked: it is asked again a little later.
    fn failed(&mut self, error: &NetlinkError) {
        tracing::warn!(%error, "a next hop is not known; the routing table is asked per packet");
        self.retry = true;
    }

    /// Lets go of neighbours that no destination is behind any more, those of an earlier run too.
    async fn prune(&mut self) {
        if let Ok(owned) = self.netlink.owned_neighbours().await {
            self.managed.extend(owned.iter().map(|n| (n.ifindex, n.address)));
        }
        let needed: BTreeSet<(u32, IpAddr)> = self
            .destinations
            .iter()
            .filter_map(|(ip, resolution)| {
                let route = resolution.as_ref()?.route?;
                Some((route.ifindex, route.neighbour(*ip)))
            })
            .collect();
        for gone in self.managed.difference(&needed).copied().collect::<Vec<_>>() {
            self.managed.remove(&gone);
            if let Err(error) = self.netlink.remove_neighbour(gone.0, gone.1).await {
                tracing::warn!(address = %gone.1, %error, "a managed neighbour stays behind");
            }
        }
    }

    async fn manage(&mut self, ifindex: u32, address: IpAddr) {
        match self.netlink.manage_neighbour(ifindex, address).await {
            Ok(Ownership::Ours) => {
                self.managed.insert((ifindex, address));
            }
            Ok(Ownership::Foreign) => {}
            Err(error) => tracing::warn!(%address, %error, "a neighbour cannot be kept resolved"),
        }
    }

    async fn send(&mut self) {
        let destinations = &self.destinations;
        self.learnt.expire(Instant::now(), |ip| destinations.contains_key(ip));
        let hop = |(ip, resolution): (&IpAddr, &Option<Resolution>)| {
            Some((*ip, resolution.as_ref()?.next_hop.ok()?))
        };
        let hops = self.destinations.iter().filter_map(hop).collect();
        let paths = self.destinations.keys().filter_map(|ip| Some((*ip, self.path(ip)?))).collect();
        let routes = Routes { links: self.links.clone(), hops, paths };
        if self.sent.as_ref() != Some(&routes) {
            self.sent = Some(routes.clone());
            // A controller that is gone needs no routes.
            let _gone = self.events.send(Event::Routes(routes)).await;
        }
    }

    async fn stop(&mut self, keep: bool) {
        if keep {
            return;
        }
        for (ifindex, address) in std::mem::take(&mut self.managed) {
            if let Err(error) = self.netlink.remove_neighbour(ifindex, address).await {
                tracing::warn!(%address, %error, "a managed neighbour stays behind");
            }
        }
    }
}
