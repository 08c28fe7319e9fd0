//! Packets without a connection: is there a service, may it have one more, who gets it.
//!
//! Must not know: how frames are changed and sent.

use aya_ebpf::bindings::{xdp_action, xdp_md};
use lb_common::conn::{ConnKey, Direction, State, flags, next_state};
use lb_common::hash;
use lb_common::service::{METHOD_NAT, ServiceEntry, ServiceKey};
use lb_common::verdict::Counter;
use lb_common::wire::{Link, Packet, TCP};

use crate::conntrack::{self, New, Table};
use crate::frame::{Frame, ingress};
use crate::{maps, schedule, stats};

/// Real servers that nat tries when a client's address and port is taken on one.
const NAT_ATTEMPTS: u32 = 4;

/// Whether the destination can be a virtual address at all: one array element spares most foreign
/// packets every other table.
#[inline(always)]
pub fn is_possible<K: ConnKey>(key: &K) -> bool {
    let (word, bit) = hash::filter_place(key.filter_word());
    maps::FILTER.get(word).is_some_and(|bits| bits & bit != 0)
}

/// Finds the service, chooses a real server and makes the connection. Gives the real server's
/// index, or the verdict. `stale` is the word of an entry to close first.
#[inline(always)]
pub fn admit<K: Table>(
    ctx: *mut xdp_md,
    packet: &Packet<K>,
    now: u64,
    stale: u64,
) -> Result<u32, u32> {
    if stale != 0 {
        conntrack::close(&packet.key, stale);
    }
    // SAFETY: a value of the table; it is replaced as a whole and freed after a grace period.
    let Some(service) = (unsafe { maps::SERVICES.get(ServiceKey::of(&packet.key)) }) else {
        return Err(xdp_action::XDP_PASS);
    };
    let frame = Frame::new(ctx);
    if !is_addressed_to_us(ctx, &frame) {
        return Err(xdp_action::XDP_PASS);
    }
    let tcp = packet.key.protocol() == TCP;
    if tcp && packet.tcp_flags & flags::RST != 0 {
        return drop(Counter::RstWithoutConnection);
    }
    if is_flood(now) {
        return fallback(service, packet, Counter::Flood);
    }
    let scheduled = !tcp || packet.tcp_flags & (flags::SYN | flags::ACK) == flags::SYN;
    for attempt in 0..NAT_ATTEMPTS {
        let chosen = if scheduled {
            schedule::next_in_ring(service)
        } else {
            schedule::by_hash(service, &packet.key, attempt)
        };
        let Some(index) = chosen else {
            return drop(Counter::NoRealServer);
        };
        let Some(server) = maps::REAL_SERVERS.get(index) else {
            return drop(Counter::NoRealServer);
        };
        let nat = server.method == METHOD_NAT;
        let last_hop = match frame.macs() {
            Some(macs) if nat => Link::answering(macs, ingress(ctx), &packet.tags),
            _ => Link::zeroed(),
        };
        let new = New {
            key: &packet.key,
            index,
            server,
            service: service.id,
            state: first_state(packet, nat, scheduled),
            provisional: !scheduled,
            last_hop,
            now,
        };
        match conntrack::create(&new) {
            0 => {
                stats::connection(index);
                if !scheduled {
                    stats::count(Counter::PickedUp);
                }
                return Ok(index);
            }
            conntrack::TUPLE_IN_USE => {}
            errno => return refused(service, packet, errno),
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
    let before = if scheduled { State::NONE } else { State::ESTABLISHED };
    let direction = if nat { Direction::Input } else { Direction::InputOnly };
    next_state(before, direction, packet.tcp_flags)
}

/// The table refused: the packet goes on by the Maglev table, and the cause is counted.
#[inline(always)]
fn refused<K: Table>(service: &ServiceEntry, packet: &Packet<K>, errno: i32) -> Result<u32, u32> {
    let counter = match -errno {
        E2BIG => Counter::TableFull,
        EBUSY => Counter::TableBusy,
        EEXIST => {
            // Another CPU was faster with a packet of the same flow: its choice holds.
            if let Some(entry) = packet.key.find() {
                // SAFETY: a value of the table.
                let word = lb_common::conn::Word::from_raw(unsafe { (*entry).word });
                if !word.is_closed() {
                    return Ok(word.real_server());
                }
            }
            Counter::TableExists
        }
        _ => Counter::TableError,
    };
    fallback(service, packet, counter)
}

/// Forwarding without an entry.
#[inline(always)]
fn fallback<K: Table>(
    service: &ServiceEntry,
    packet: &Packet<K>,
    counter: Counter,
) -> Result<u32, u32> {
    match schedule::by_hash(service, &packet.key, 0) {
        Some(index) => {
            stats::count(counter);
            Ok(index)
        }
        None => drop(Counter::NoRealServer),
    }
}

#[inline(always)]
fn drop(counter: Counter) -> Result<u32, u32> {
    stats::count(counter);
    Err(xdp_action::XDP_DROP)
}

/// Whether the frame is for this node: a switch that floods, or a capture that makes an interface
/// promiscuous, must not make a standby director forward copies.
#[inline(always)]
fn is_addressed_to_us(ctx: *mut xdp_md, frame: &Frame) -> bool {
    let Some(interface) = maps::INTERFACES.get(ingress(ctx)) else {
        return true;
    };
    let Some([first, second, _]) = frame.macs() else {
        return false;
    };
    let [f, s] = [first.to_ne_bytes(), second.to_ne_bytes()];
    let destination = [f[0], f[1], f[2], f[3], s[0], s[1]];
    interface.mac == [0; 6] || interface.mac == destination
}

/// Counts new flows of this CPU in this second against the configured limit.
#[inline(always)]
fn is_flood(now: u64) -> bool {
    let (Some(config), Some(own)) = (maps::CONFIG.get(0), maps::PER_CPU.get_ptr_mut(0)) else {
        return false;
    };
    if config.flood_limit == 0 {
        return false;
    }
    // SAFETY: this CPU's own element.
    unsafe {
        if now.wrapping_sub((*own).second) >= config.hz {
            (*own).second = now;
            (*own).new_flows = 0;
        }
        (*own).new_flows += 1;
        (*own).new_flows > config.flood_limit
    }
}

const E2BIG: i32 = 7;
const EBUSY: i32 = 16;
const EEXIST: i32 = 17;
