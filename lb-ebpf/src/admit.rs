//! Packets without a connection: is there a service, may it have one more, who gets it.
//!
//! Must not know: how frames are changed and sent.

use aya_ebpf::bindings::{xdp_action, xdp_md};
use lb_common::conn::{ConnKey, Direction, State, flags, next_state};
use lb_common::hash;
use lb_common::service::{Config, METHOD_NAT, ServiceEntry, ServiceKey};
use lb_common::verdict::Counter;
use lb_common::wire::{Packet, TCP};

use crate::conntrack::{self, New, Table};
use crate::frame::{Frame, ingress};
use crate::station::{as_sent_to_us, is_addressed_to_us};
use crate::{maps, schedule, stats};

/// Real servers that nat tries when a client's address and port is taken on one.
const NAT_ATTEMPTS: u32 = 4;

/// Whether the destination can be a virtual address at all: one array element spares foreign
/// packets every other table.
#[inline(always)]
pub fn is_to_service<K: ConnKey>(key: &K) -> bool {
    is_in_filter(key.filter_word())
}

/// Whether the source can be a real server whose replies come through here.
#[inline(always)]
pub fn is_from_server<K: ConnKey>(key: &K) -> bool {
    is_in_filter(key.source_filter_word())
}

#[inline(always)]
fn is_in_filter(address: u32) -> bool {
    let (word, bit) = hash::filter_place(address);
    maps::FILTER.get(word).is_some_and(|bits| bits & bit != 0)
}

/// Who gets a packet.
pub struct Admitted {
    /// Index of the real server.
    pub index: u32,
    /// The packet began a connection that has an entry.
    pub is_new: bool,
}

/// Finds the service, chooses a real server and makes the connection. Gives the real server,
/// or the verdict. `stale` is the word of an entry to close first.
#[inline(always)]
pub fn admit<K: Table>(
    ctx: *mut xdp_md,
    packet: &Packet<K>,
    config: &Config,
    now: u64,
    stale: u64,
) -> Result<Admitted, u32> {
    if stale != 0 {
        conntrack::close(&packet.key, stale);
    }
    // SAFETY: a value of the table; it is replaced as a whole and freed after a grace period.
    let Some(service) = (unsafe { maps::SERVICES.get(ServiceKey::of(&packet.key)) }) else {
        return Err(xdp_action::XDP_PASS);
    };
    let Some(macs) = Frame::new(ctx).macs().filter(|macs| is_addressed_to_us(ctx, *macs)) else {
        return Err(xdp_action::XDP_PASS);
    };
    let tcp = packet.key.protocol() == TCP;
    if tcp && packet.tcp_flags & flags::RST != 0 {
        return drop(Counter::RstWithoutConnection);
    }
    if is_flood(config, now) {
        return fallback(service, packet, Counter::Flood);
    }
    let scheduled = !tcp || packet.tcp_flags & (flags::SYN | flags::ACK) == flags::SYN;
    let from = (as_sent_to_us(macs, ingress(ctx)), ingress(ctx), packet.tags);
    let mut tried = schedule::UNTRIED;
    for _ in 0..NAT_ATTEMPTS {
        let index = if scheduled {
            schedule::for_new(service, &packet.key, &tried)
        } else {
            schedule::for_known(service, &packet.key, &tried)
        };
        let Some(server) = maps::REAL_SERVERS.get(index) else {
            // No other server is left, or there was none.
            let none = tried[0] == schedule::NONE;
            return drop(if none { Counter::NoRealServer } else { Counter::NatTupleInUse });
        };
        let nat = server.method == METHOD_NAT;
        let new = New {
            key: &packet.key,
            index,
            server,
            state: first_state(packet, nat, scheduled),
            provisional: !scheduled,
            from,
            now,
        };
        match conntrack::create(&new) {
            conntrack::MADE => {
                if !scheduled {
                    stats::count(Counter::PickedUp);
                }
                return Ok(Admitted { index, is_new: true });
            }
            conntrack::TUPLE_IN_USE => tried = [index, tried[0], tried[1]],
            refusal => return refused(service, packet, refusal),
        }
    }
    drop(Counter::NatTupleInUse)
}

/// The state of a connection whose first known packet this is.
#[inline(always)]
fn first_state<K: ConnKey>(packet: &Packet<K>, nat: bool, scheduled: bool) -> State {
    if packet.key.protocol() != TCP {
        return State::UDP;
    }
    if scheduled {
        return State::AFTER_SYN;
    }
    let direction = if nat { Direction::Input } else { Direction::InputOnly };
    next_state(State::ESTABLISHED, direction, packet.tcp_flags)
}

/// The table refused: the packet goes on by the Maglev table, and the cause is counted.
#[inline(always)]
fn refused<K: Table>(
    service: &ServiceEntry,
    packet: &Packet<K>,
    refusal: i32,
) -> Result<Admitted, u32> {
    let counter = match refusal {
        conntrack::FULL => Counter::TableFull,
        conntrack::BUSY => Counter::TableBusy,
        _ => {
            // Another CPU was faster with a packet of the same flow: its choice holds.
            if let Some(entry) = packet.key.find() {
                let word = conntrack::word_of(entry);
                if word.is_live() {
                    return Ok(Admitted { index: word.real_server(), is_new: false });
                }
            }
            Counter::TableExists
        }
    };
    fallback(service, packet, counter)
}

/// Forwarding without an entry.
#[inline(always)]
fn fallback<K: Table>(
    service: &ServiceEntry,
    packet: &Packet<K>,
    counter: Counter,
) -> Result<Admitted, u32> {
    match schedule::by_hash(service, &packet.key, &schedule::UNTRIED) {
        schedule::NONE => drop(Counter::NoRealServer),
        index => {
            stats::count(counter);
            Ok(Admitted { index, is_new: false })
        }
    }
}

#[inline(always)]
fn drop(counter: Counter) -> Result<Admitted, u32> {
    Err(stats::drop(counter))
}

/// ICMP errors that one CPU makes in a second at most, as the kernel's icmp_msgs_per_sec: senders can
/// be forged, and the answers must not become a flood of their own. One is enough for a sender.
const ICMP_A_SECOND: u64 = 1000;

/// Whether this CPU may make one more ICMP error, or tell the controller of one, in this second.
#[inline(always)]
pub fn may_send_icmp(now: u64) -> bool {
    let (Some(own), Some(config)) = (maps::PER_CPU.get_ptr_mut(0), maps::CONFIG.get(0)) else {
        return false;
    };
    // SAFETY: this CPU's own element.
    unsafe { !(*own).icmp.exceeds(ICMP_A_SECOND, now, config.hz) }
}

/// Counts new flows of this CPU in this second against the configured limit.
#[inline(always)]
fn is_flood(config: &Config, now: u64) -> bool {
    if config.flood_limit == 0 {
        return false;
    }
    let Some(own) = maps::PER_CPU.get_ptr_mut(0) else {
        return false;
    };
    // SAFETY: this CPU's own element.
    unsafe { (*own).new_flows.exceeds(config.flood_limit, now, config.hz) }
}
