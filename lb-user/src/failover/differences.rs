//! What the two files say differently, where both have to say the same.
//!
//! Must not know: elections, failures.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::Node;
use super::pairs::{self, Pair};
use super::report::{Finding, Kind};
use crate::model::{
    AdminState, Director, InitialState, Listen, RealServer, VirtualService, VrrpInstance,
    VrrpVersion,
};

/// Every difference that matters.
pub(super) fn all(nodes: &[Node<'_>; 2], pairs: &[Pair<'_>]) -> Vec<Finding> {
    let files = Files { nodes, pairs };
    let mut findings = Vec::new();
    for pair in pairs {
        match pair.both() {
            Some(instances) => findings.extend(files.pair(pair, instances)),
            None => findings.push(files.alone(pair)),
        }
    }
    findings.extend(files.owned_twice());
    findings.extend(files.groups());
    findings.extend(files.services());
    findings
}

struct Files<'a> {
    nodes: &'a [Node<'a>; 2],
    pairs: &'a [Pair<'a>],
}

impl Files<'_> {
    fn name(&self, node: usize) -> &str {
        &self.nodes[node].name
    }

    fn director(&self, node: usize) -> &Director {
        self.nodes[node].director
    }

    /// An instance that only one file has.
    fn alone(&self, pair: &Pair<'_>) -> Finding {
        let node = usize::from(pair.of[0].is_none());
        let other = 1 - node;
        let instance = pair.any();
        let namesake =
            self.director(other).vrrp.instances.iter().find(|other| other.name == instance.name);
        let hint = match namesake {
            Some(namesake) if pairs::is_ipv4(namesake) != pairs::is_ipv4(instance) => {
                format!(": {} there is of the other address family", namesake.name)
            }
            Some(namesake) => {
                format!(
                    ": {} there has virtual_router_id {}",
                    namesake.name, namesake.virtual_router_id
                )
            }
            None => String::new(),
        };
        let message = format!(
            "virtual router {} of {} has no partner in the file of {}{hint}; nobody takes over from it",
            instance.virtual_router_id,
            self.name(node),
            self.name(other)
        );
        Finding::new(Kind::Error, Some(pair), message)
    }

    fn pair(&self, pair: &Pair<'_>, instances: [&VrrpInstance; 2]) -> Vec<Finding> {
        let mut findings = self.addresses(pair, instances);
        let [one, other] = instances;
        let mut warn =
            |message: String| findings.push(Finding::new(Kind::Warning, Some(pair), message));
        let interval =
            |i: &VrrpInstance| (i.version == VrrpVersion::V3).then_some(i.advertisement_interval);
        if let (Some(a), Some(b)) = (interval(one), interval(other))
            && a != b
        {
            warn(format!(
                "the advertisement intervals differ: {a:?} on {}, {b:?} on {}: a backup follows the \
                 master's, so fail-over takes another time each way",
                self.name(0),
                self.name(1)
            ));
        }
        if one.virtual_mac != other.virtual_mac {
            let node = usize::from(other.virtual_mac);
            warn(format!(
                "only {} uses a virtual MAC address: every neighbour has to learn another one at each \
                 fail-over; set `virtual_mac` alike",
                self.name(node)
            ));
        }
        if [one, other].iter().all(|i| i.initial_state == InitialState::Master) {
            let message = "both say `initial_state: master`, which is harmless: both wait for a \
                           master first, and the priority decides";
            findings.push(Finding::new(Kind::Note, Some(pair), message));
        }
        findings
    }

    fn addresses(&self, pair: &Pair<'_>, instances: [&VrrpInstance; 2]) -> Vec<Finding> {
        let owned = instances.map(|instance| -> BTreeMap<IpAddr, u8> {
            pairs::owned(instance).map(|owned| (owned.address, owned.prefix_len)).collect()
        });
        let mut findings = Vec::new();
        for node in [0, 1] {
            for (address, len) in &owned[node] {
                match owned[1 - node].get(address) {
                    None => findings.push(Finding::new(
                        Kind::Error,
                        Some(pair),
                        format!(
                            "{address} is only in the file of {}: when {} is master, nobody has it",
                            self.name(node),
                            self.name(1 - node)
                        ),
                    )),
                    Some(other) if node == 0 && other != len => findings.push(Finding::new(
                        Kind::Warning,
                        Some(pair),
                        format!(
                            "{address} has the mask /{len} on {} and /{other} on {}",
                            self.name(0),
                            self.name(1)
                        ),
                    )),
                    Some(_) => {}
                }
            }
        }
        let advertised = instances.map(|instance| -> BTreeSet<IpAddr> {
            instance.addresses.iter().map(|owned| owned.address).collect()
        });
        if findings.iter().all(|f| f.kind != Kind::Error) && advertised[0] != advertised[1] {
            let message = "the two advertise other addresses: lb accepts this and logs it, keepalived \
                           up to 2.3.2 drops such adverts and there are two masters";
            findings.push(Finding::new(Kind::Warning, Some(pair), message));
        }
        findings
    }

    /// Addresses that one node has although the other one may be master of them.
    fn owned_twice(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        let fixed = [0, 1].map(|node| -> BTreeSet<IpAddr> {
            let plane = self.director(node).dataplane.iter();
            plane.flat_map(|plane| &plane.addresses).map(|owned| owned.address).collect()
        });
        for address in fixed[0].intersection(&fixed[1]) {
            let message = format!(
                "{address} is in `dataplane.addresses` of both files: both nodes own it at once"
            );
            findings.push(Finding::new(Kind::Error, None, message));
        }
        for (index, pair) in self.pairs.iter().enumerate() {
            for node in [0, 1] {
                let Some(instance) = pair.of[node] else { continue };
                for owned in pairs::owned(instance) {
                    let address = owned.address;
                    if fixed[1 - node].contains(&address) {
                        let message = format!(
                            "{address} is in `dataplane.addresses` of {}, which keeps it when {} is \
                             master of it: write it in an instance there too",
                            self.name(1 - node),
                            self.name(node)
                        );
                        findings.push(Finding::new(Kind::Error, Some(pair), message));
                    }
                    findings.extend(self.of_another(index, node, address));
                }
            }
        }
        findings
    }

    /// The same address in another virtual router of the other node: told once, from node 0.
    fn of_another(&self, index: usize, node: usize, address: IpAddr) -> Option<Finding> {
        let link_local = matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local());
        let another = self.pairs.iter().enumerate().find(|(other, pair)| {
            *other != index
                && pair.of[1 - node]
                    .is_some_and(|i| pairs::owned(i).any(|owned| owned.address == address))
        });
        let (_, another) = another.filter(|_| node == 0 && !link_local)?;
        let message = format!(
            "{address} is in virtual router {} on {} and in {} on {}: both own it at once; give both \
             the same `virtual_router_id`",
            self.pairs[index].any().virtual_router_id,
            self.name(node),
            another.any().virtual_router_id,
            self.name(1 - node),
        );
        Some(Finding::new(Kind::Error, Some(&self.pairs[index]), message))
    }

    /// Instances that move together on one node only.
    fn groups(&self) -> Vec<Finding> {
        let all: Vec<usize> = (0..self.pairs.len()).collect();
        let groups = [0, 1].map(|node| -> BTreeSet<Vec<usize>> {
            let groups = pairs::groups(self.director(node), node, self.pairs, &all);
            groups.members.into_iter().filter(|members| members.len() > 1).collect()
        });
        let mut findings = Vec::new();
        for node in [0, 1] {
            for members in groups[node].difference(&groups[1 - node]) {
                let names: Vec<_> = members.iter().map(|&pair| self.pairs[pair].name()).collect();
                let message = format!(
                    "{} are a sync group on {} and not on {}: write the same groups in both files",
                    names.join(", "),
                    self.name(node),
                    self.name(1 - node)
                );
                findings.push(Finding::new(Kind::Warning, None, message));
            }
        }
        findings
    }

    /// Services on addresses that move.
    fn services(&self) -> Vec<Finding> {
        let instances = self.pairs.iter().flat_map(|pair| pair.of).flatten();
        let moving: BTreeSet<IpAddr> =
            instances.flat_map(pairs::owned).map(|owned| owned.address).collect();
        let listens = [0, 1].map(|node| -> BTreeMap<Listen, &VirtualService> {
            let services = self.director(node).virtual_services.iter();
            let listens =
                services.flat_map(|service| service.listen.iter().map(move |l| (*l, service)));
            listens.filter(|(listen, _)| moving.contains(&listen.address)).collect()
        });
        let mut findings = Vec::new();
        let mut told = BTreeSet::new();
        for node in [0, 1] {
            for (listen, service) in &listens[node] {
                match listens[1 - node].get(listen) {
                    None => findings.push(self.missing(node, listen, service)),
                    Some(other) if node == 0 && told.insert((&service.name, &other.name)) => {
                        findings.extend(self.service(service, other));
                    }
                    Some(_) => {}
                }
            }
        }
        findings
    }

    fn missing(&self, node: usize, listen: &Listen, service: &VirtualService) -> Finding {
        let address = std::net::SocketAddr::new(listen.address, listen.port);
        let protocol = format!("{:?}", listen.protocol).to_lowercase();
        let message = format!(
            "virtual service {} ({address}/{protocol}) is only in the file of {}: after a fail-over \
             nobody serves it",
            service.name,
            self.name(node)
        );
        Finding::new(Kind::Warning, None, message)
    }

    /// Where flows have to find their server again by hashing, both tables must be the same.
    fn service(&self, one: &VirtualService, other: &VirtualService) -> Option<Finding> {
        if !one.scheduler.hashes() && !other.scheduler.hashes() {
            return None;
        }
        let hashed = |service: &VirtualService| -> BTreeSet<(IpAddr, u16, u32)> {
            let in_pool = |server: &&RealServer| server.admin != AdminState::Disabled;
            let servers = service.real_servers.iter().filter(in_pool);
            servers
                .map(|RealServer { address, port, weight, .. }| (*address, *port, *weight))
                .collect()
        };
        let what = if one.scheduler != other.scheduler {
            format!(
                "the scheduler is {} on {} and {} on {}",
                one.scheduler.name(),
                self.name(0),
                other.scheduler.name(),
                self.name(1)
            )
        } else if one.hash != other.hash {
            "the options under `hash` differ".to_owned()
        } else if hashed(one) != hashed(other) {
            "addresses, ports or weights of the real servers differ".to_owned()
        } else {
            return None;
        };
        let message = format!(
            "virtual service {}: {what}: flows do not find their real server again after a fail-over; \
             write the same in both files",
            one.name
        );
        Some(Finding::new(Kind::Warning, None, message))
    }
}
