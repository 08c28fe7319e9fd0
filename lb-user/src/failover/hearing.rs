//! Whether each node would hear the other one's adverts, by the rules that receive them.
//!
//! Must not know: priorities, failures.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::pairs::{Pair, is_ipv4};
use crate::model::{VrrpInstance, VrrpVersion};
use crate::vrrp::packet::{self, Auth, Checksum, GROUP_V4, GROUP_V6, Packet, TTL};
use crate::vrrp::receive::{self, Expected, Facts};
use crate::vrrp::timing::{Interval, Version};

/// Why each node of a pair does not hear the other one, if so.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Hearing {
    /// By the node that listens.
    pub(super) deaf: [Option<String>; 2],
}

impl Hearing {
    /// Lets one advert go each way.
    pub(super) fn of(pair: &Pair<'_>) -> Self {
        let Some(instances) = pair.both() else { return Self::default() };
        Self { deaf: [0, 1].map(|node| deaf(instances, node)) }
    }

    /// Who hears the other one, by the node that listens.
    pub(super) fn matrix(&self) -> [bool; 2] {
        self.deaf.each_ref().map(Option::is_none)
    }
}

/// The version in the words of the core.
pub(super) fn version(instance: &VrrpInstance) -> Version {
    match instance.version {
        VrrpVersion::V2 => Version::V2,
        VrrpVersion::V3 => Version::V3,
    }
}

/// Why the node does not hear the other one's advert.
fn deaf(instances: [&VrrpInstance; 2], node: usize) -> Option<String> {
    let (receiver, sender) = (instances[node], instances[1 - node]);
    let source = source(sender, 1 - node);
    let destination = match (&sender.unicast, &receiver.unicast) {
        (Some(unicast), Some(own)) if unicast.peers.contains(&own.source) => own.source,
        (Some(_), Some(own)) => {
            return Some(format!("it sends none to {}, by its `unicast.peers`", own.source));
        }
        (Some(_), None) => return Some("it sends unicast and is listened to by multicast".into()),
        (None, _) if is_ipv4(sender) => GROUP_V4.into(),
        (None, _) => GROUP_V6.into(),
    };
    let interval = |of: &VrrpInstance| Interval::new(version(of), of.advertisement_interval);
    let list = |of: &VrrpInstance| of.addresses.iter().map(|owned| owned.address).collect();
    let (Some(sent), Some(expected)) = (interval(sender), interval(receiver)) else {
        return Some("its interval cannot be said".into());
    };
    let advert = Packet {
        version: version(sender),
        vrid: sender.virtual_router_id,
        priority: sender.priority,
        interval: sent,
        auth: auth(sender),
        checksum: if sender.version == VrrpVersion::V2 {
            Checksum::Message
        } else {
            Checksum::PseudoHeader
        },
        addresses: list(sender),
    };
    let message = match packet::encode(&advert, source, destination) {
        Ok(message) => message,
        Err(error) => return Some(format!("it cannot be sent: {error}")),
    };
    let facts = Facts { ttl: TTL, source, destination, interface: 1 };
    let expected = Expected {
        interface: 1,
        vrid: receiver.virtual_router_id,
        version: version(receiver),
        interval: expected,
        auth: auth(receiver),
        addresses: list(receiver),
        own: vec![self::source(receiver, node)],
        peers: receiver.unicast.as_ref().map_or_else(Vec::new, |unicast| unicast.peers.clone()),
    };
    let refused = receive::accept(&message, &facts, &expected).err()?;
    Some(refused.to_string())
}

fn auth(instance: &VrrpInstance) -> Auth {
    let password = instance.password.as_ref().and_then(|p| Auth::pass(p.0.as_bytes()));
    password.unwrap_or(Auth::None)
}

/// The address that adverts leave from: the file's, or a stand-in for one that it does not say.
fn source(instance: &VrrpInstance, node: usize) -> IpAddr {
    let last = if node == 0 { 1 } else { 2 };
    match &instance.unicast {
        Some(unicast) => unicast.source,
        // RFC 5737 and link-local: no file's own.
        None if is_ipv4(instance) => Ipv4Addr::new(192, 0, 2, last).into(),
        None => Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, last.into()).into(),
    }
}
