//! The advert that is followed through the rules, and what an expression of nftables reads of it.
//!
//! Must not know: rules, chains, what is compared.

use std::net::IpAddr;

use serde_json::Value as Json;

/// An advert as it comes in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The interface that it comes in on, by name.
    pub interface: String,
    /// Its sender, as far as it is known.
    pub source: Option<IpAddr>,
    /// Its destination: the group, or this node with unicast.
    pub destination: IpAddr,
}

/// What an expression reads of a packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// The packet does not have it, so the rule does not match, whatever it compares with.
    Absent,
    /// The packet has it, and nobody here knows what it is.
    Unknown,
    /// A number, and the names that nftables has for it.
    Number(u64, &'static [&'static str]),
    /// An address.
    Address(IpAddr),
    /// An interface's name or a MAC address.
    Text(String),
    /// Whether something is there.
    Flag(bool),
    /// One of these states of conntrack.
    States(&'static [&'static str]),
    /// `frag-off` of a packet that is no fragment: Don't Fragment may be set.
    Whole,
    /// Several, side by side.
    Concat(Vec<Value>),
}

/// Where a packet is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Before conntrack has seen it.
    Early,
    /// After that.
    Tracked,
}

impl Packet {
    pub(super) fn is_v4(&self) -> bool {
        self.destination.is_ipv4()
    }

    /// What an expression of a rule reads.
    pub(super) fn read(&self, expression: &Json, place: Place) -> Value {
        let Some((kind, what)) = expression.as_object().and_then(|object| object.iter().next())
        else {
            return Value::Unknown;
        };
        let text = |key: &str| what.get(key).and_then(Json::as_str).unwrap_or_default();
        match kind.as_str() {
            // Newer versions write a key that needs nothing else as a plain word.
            "meta" => self.meta(what.as_str().unwrap_or(text("key"))),
            "payload" => match what.get("base") {
                Some(_) => self.raw(what),
                None => self.payload(text("protocol"), text("field")),
            },
            "ct" if text("key") == "state" => Value::States(self.states(place)),
            "fib" => self.fib(what),
            // No advert has any.
            "exthdr" | "rt" if self.is_v4() => Value::Absent,
            "ip option" if !self.is_v4() => Value::Absent,
            "exthdr" | "ip option" if what.get("field").is_none() => Value::Flag(false),
            "exthdr" | "ip option" | "tcp option" | "sctp chunk" | "osf" => Value::Absent,
            "concat" => self.side_by_side(what, place),
            "&" => self.masked(what, place),
            _ => Value::Unknown,
        }
    }

    fn meta(&self, key: &str) -> Value {
        match key {
            "iifname" | "iif" | "ibriport" => Value::Text(self.interface.clone()),
            "iiftype" => Value::Number(1, &["ether"]),
            "l4proto" => PROTOCOL,
            "nfproto" if self.is_v4() => Value::Number(2, &["ipv4"]),
            "nfproto" => Value::Number(10, &["ipv6"]),
            "protocol" => self.ether_type(),
            "pkttype" if self.destination.is_multicast() => Value::Number(2, &["multicast"]),
            "pkttype" => Value::Number(0, &["host", "unicast"]),
            // Nothing that comes in has them.
            "oif" | "oifname" | "oiftype" => Value::Absent,
            _ => Value::Unknown,
        }
    }

    fn ether_type(&self) -> Value {
        if self.is_v4() { Value::Number(0x0800, &["ip"]) } else { Value::Number(0x86dd, &["ip6"]) }
    }

    fn payload(&self, protocol: &str, field: &str) -> Value {
        let source = self.source.map_or(Value::Unknown, Value::Address);
        match (protocol, field, self.is_v4()) {
            ("ip", _, false) | ("ip6", _, true) => Value::Absent,
            ("ip" | "ip6", "saddr", _) => source,
            ("ip" | "ip6", "daddr", _) => Value::Address(self.destination),
            ("ip", "protocol", _) | ("ip6", "nexthdr", _) => PROTOCOL,
            ("ip", "ttl", _) | ("ip6", "hoplimit", _) => Value::Number(255, &[]),
            ("ip", "version", _) => Value::Number(4, &[]),
            ("ip6", "version", _) => Value::Number(6, &[]),
            ("ip", "hdrlength", _) => Value::Number(5, &[]),
            ("ip", "frag-off", _) => Value::Whole,
            ("ether", "type", _) => self.ether_type(),
            ("ether", "daddr", _) => self.group_mac(),
            // Ports are read from whatever follows the IP header.
            ("ip" | "ip6" | "ether" | "th", ..) => Value::Unknown,
            _ => Value::Absent,
        }
    }

    /// RFC 1112 section 6.4, RFC 2464 section 7.
    fn group_mac(&self) -> Value {
        match self.destination {
            IpAddr::V4(group) if group.is_multicast() => {
                let [_, b, c, d] = group.octets();
                Value::Text(format!("01:00:5e:{:02x}:{c:02x}:{d:02x}", b & 0x7f))
            }
            IpAddr::V6(group) if group.is_multicast() => {
                let [.., a, b, c, d] = group.octets();
                Value::Text(format!("33:33:{a:02x}:{b:02x}:{c:02x}:{d:02x}"))
            }
            _ => Value::Unknown,
        }
    }

    /// Bits counted from the beginning of a header.
    fn raw(&self, what: &Json) -> Value {
        let number = |key: &str| what.get(key).and_then(Json::as_u64);
        let base = what.get("base").and_then(Json::as_str);
        match (base, number("offset"), number("len"), self.is_v4()) {
            (Some("nh"), Some(72), Some(8), true) | (Some("nh"), Some(48), Some(8), false) => {
                PROTOCOL
            }
            _ => Value::Unknown,
        }
    }

    fn fib(&self, what: &Json) -> Value {
        let is_destination = what
            .get("flags")
            .and_then(Json::as_array)
            .is_some_and(|flags| flags.iter().any(|flag| flag == "daddr"));
        match what.get("result").and_then(Json::as_str) {
            Some("type") if is_destination && self.destination.is_multicast() => {
                Value::Number(5, &["multicast"])
            }
            Some("type") if is_destination => Value::Number(2, &["local"]),
            _ => Value::Unknown,
        }
    }

    /// Nobody answers a multicast packet, so it never becomes part of an established connection;
    /// and conntrack takes every packet of a protocol that it knows nothing of.
    fn states(&self, place: Place) -> &'static [&'static str] {
        match place {
            Place::Early => &["invalid", "untracked"],
            Place::Tracked if self.destination.is_multicast() => &["new", "untracked"],
            Place::Tracked => &["new", "established", "related", "untracked"],
        }
    }

    fn side_by_side(&self, what: &Json, place: Place) -> Value {
        let parts = what.as_array().map(Vec::as_slice).unwrap_or_default();
        let values: Vec<Value> = parts.iter().map(|part| self.read(part, place)).collect();
        if values.contains(&Value::Absent) { Value::Absent } else { Value::Concat(values) }
    }

    fn masked(&self, what: &Json, place: Place) -> Value {
        let Some([left, mask]) = what.as_array().map(Vec::as_slice) else { return Value::Unknown };
        match (self.read(left, place), mask.as_u64()) {
            (Value::Absent, _) => Value::Absent,
            (Value::Number(number, _), Some(mask)) => Value::Number(number & mask, &[]),
            (Value::Whole, Some(mask)) if mask & DONT_FRAGMENT == 0 => Value::Number(0, &[]),
            _ => Value::Unknown,
        }
    }
}

/// VRRP by the names that `/etc/protocols` has on one host or another.
const PROTOCOL: Value = Value::Number(112, &["vrrp", "carp"]);

/// Its bit in `frag-off`.
const DONT_FRAGMENT: u64 = 0x4000;
