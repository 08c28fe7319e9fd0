//! Connections: keys, entries, the word that holds a connection's state, and IPVS's state tables.
//!
//! The state, the real server and the use of the table element are one 64-bit [`Word`] that is only
//! ever changed by compare-exchange: whoever wins the exchange moves the active and inactive counts,
//! so the counts are exact whatever races (see ARCHITECTURE.md, "Exact counts").
//!
//! Must not know: clocks, maps.

use crate::pod::{Address, mapped, unmapped};
use crate::rewrite::{End, Unfit};
use crate::wire::{Buf, Link, Packet};
use crate::{csum, hash, pod, rewrite};

pod! {
    /// Key of an IPv4 connection half: the packet's own addresses and ports.
    #[repr(align(8))]
    pub struct ConnKey4 {
        /// Source address.
        pub source: [u8; 4],
        /// Destination address.
        pub destination: [u8; 4],
        /// Source port, host order.
        pub source_port: u16,
        /// Destination port, host order.
        pub destination_port: u16,
        /// IP protocol number.
        pub protocol: u8,
        /// Zero.
        pub pad: [u8; 3],
    }
}

pod! {
    /// Key of an IPv6 connection half.
    #[repr(align(8))]
    pub struct ConnKey6 {
        /// Source address.
        pub source: [u8; 16],
        /// Destination address.
        pub destination: [u8; 16],
        /// Source port, host order.
        pub source_port: u16,
        /// Destination port, host order.
        pub destination_port: u16,
        /// IP protocol number.
        pub protocol: u8,
        /// Zero.
        pub pad: [u8; 3],
    }
}

/// A key of either family.
pub trait ConnKey: pod::Pod {
    /// The key whose bytes are all zero.
    const ZERO: Self;

    /// Source address, IPv4 mapped.
    fn source(&self) -> Address;

    /// Destination address, IPv4 mapped.
    fn destination(&self) -> Address;

    /// Source and destination port.
    fn ports(&self) -> (u16, u16);

    /// IP protocol number.
    fn protocol(&self) -> u8;

    /// Whether both are the same key.
    fn is_same(&self, other: &Self) -> bool;

    /// Four bytes that stand for the destination in the address filter.
    fn filter_word(&self) -> u32;

    /// The key of what a server at this address and port answers to this packet.
    #[must_use]
    fn reply_from(&self, server: &Address, port: u16) -> Self;

    /// Ages the packet, and with `End`, address and port given, rewrites that end of it.
    fn edit<B: Buf + ?Sized>(
        buf: &mut B,
        packet: &Packet<Self>,
        nat: Option<(End, [u32; 4], u16)>,
    ) -> Result<(), Unfit>;

    /// The destination's address as `edit` takes it.
    fn destination_words(&self) -> [u32; 4];
}

impl ConnKey for ConnKey4 {
    const ZERO: Self = Self::zeroed();

    #[inline(always)]
    fn source(&self) -> Address {
        mapped(self.source)
    }

    #[inline(always)]
    fn destination(&self) -> Address {
        mapped(self.destination)
    }

    #[inline(always)]
    fn ports(&self) -> (u16, u16) {
        (self.source_port, self.destination_port)
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        self.protocol
    }

    #[inline(always)]
    fn is_same(&self, other: &Self) -> bool {
        let [a, b] = [self, other].map(pod::head::<Self, [u64; 2]>);
        (a[0] ^ b[0]) | (a[1] ^ b[1]) == 0
    }

    #[inline(always)]
    fn filter_word(&self) -> u32 {
        pod::head::<Self, [u32; 2]>(self)[1]
    }

    #[inline(always)]
    fn reply_from(&self, server: &Address, port: u16) -> Self {
        Self {
            source: unmapped(server),
            destination: self.source,
            source_port: port,
            destination_port: self.source_port,
            protocol: self.protocol,
            pad: [0; 3],
        }
    }

    #[inline(always)]
    fn edit<B: Buf + ?Sized>(
        buf: &mut B,
        packet: &Packet<Self>,
        nat: Option<(End, [u32; 4], u16)>,
    ) -> Result<(), Unfit> {
        match nat {
            None => rewrite::age4(buf, packet.l3(), csum::Delta::ZERO),
            Some((end, address, port)) => rewrite::nat4(
                buf,
                (packet.l3(), packet.l4(), packet.key.protocol),
                end,
                address[3],
                port,
            ),
        }
    }

    #[inline(always)]
    fn destination_words(&self) -> [u32; 4] {
        [0, 0, 0, pod::head::<Self, [u32; 2]>(self)[1]]
    }
}

impl ConnKey for ConnKey6 {
    const ZERO: Self = Self::zeroed();

    #[inline(always)]
    fn source(&self) -> Address {
        self.source
    }

    #[inline(always)]
    fn destination(&self) -> Address {
        self.destination
    }

    #[inline(always)]
    fn ports(&self) -> (u16, u16) {
        (self.source_port, self.destination_port)
    }

    #[inline(always)]
    fn protocol(&self) -> u8 {
        self.protocol
    }

    #[inline(always)]
    fn is_same(&self, other: &Self) -> bool {
        let [a, b] = [self, other].map(pod::head::<Self, [u64; 5]>);
        let first = (a[0] ^ b[0]) | (a[1] ^ b[1]) | (a[2] ^ b[2]);
        first | (a[3] ^ b[3]) | (a[4] ^ b[4]) == 0
    }

    #[inline(always)]
    fn filter_word(&self) -> u32 {
        hash::filter_fold(&self.destination_words())
    }

    #[inline(always)]
    fn reply_from(&self, server: &Address, port: u16) -> Self {
        Self {
            source: *server,
            destination: self.source,
            source_port: port,
            destination_port: self.source_port,
            protocol: self.protocol,
            pad: [0; 3],
        }
    }

    #[inline(always)]
    fn edit<B: Buf + ?Sized>(
        buf: &mut B,
        packet: &Packet<Self>,
        nat: Option<(End, [u32; 4], u16)>,
    ) -> Result<(), Unfit> {
        match nat {
            None => rewrite::age6(buf, packet.l3()),
            Some((end, address, port)) => rewrite::nat6(
                buf,
                (packet.l3(), packet.l4(), packet.key.protocol),
                end,
                &address,
                port,
            ),
        }
    }

    #[inline(always)]
    fn destination_words(&self) -> [u32; 4] {
        let words = pod::head::<Self, [u32; 8]>(self);
        [words[4], words[5], words[6], words[7]]
    }
}

/// One half of a connection. Dr needs one; nat has a forward and a reply half under two keys.
#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnEntry<K: ConnKey> {
    /// The [`Word`]. A reply half carries the sequence and the real server of its forward half.
    pub word: u64,
    /// When a packet last used this half, in jiffies.
    pub seen: u64,
    /// Where replies go: back to the neighbour that the request came from (nat).
    pub last_hop: Link,
    /// Id of the virtual service.
    pub service: u32,
    /// Zero.
    pub pad: u32,
    /// Key of the other half (nat); all zero without one.
    pub other: K,
}

impl<K: ConnKey> ConnEntry<K> {
    /// The entry whose bytes are all zero.
    pub const ZERO: Self =
        Self { word: 0, seen: 0, last_hop: Link::zeroed(), service: 0, pad: 0, other: K::ZERO };
}

/// An IPv4 entry.
pub type ConnEntry4 = ConnEntry<ConnKey4>;
/// An IPv6 entry.
pub type ConnEntry6 = ConnEntry<ConnKey6>;

const _: () = assert!(size_of::<ConnEntry4>() == 64 && size_of::<ConnEntry6>() == 88);
// SAFETY: repr(C); every field is Pod, and the assertion above leaves no room for padding.
#[allow(unsafe_code)]
unsafe impl<K: ConnKey> pod::Pod for ConnEntry<K> {}
#[cfg(feature = "user")]
// SAFETY: as above.
#[allow(unsafe_code)]
unsafe impl<K: ConnKey> aya::Pod for ConnEntry<K> {}

pod! {
    /// Connections of one real server. A cache line, so that servers do not share one.
    pub struct ConnectionCounts {
        /// Those in an active state (two's complement: never below 0 unless something is wrong).
        pub active: u64,
        /// All others, and every UDP connection.
        pub inactive: u64,
        /// Zero.
        pub pad: [u64; 6],
    }
}

pod! {
    /// Idle times by [`State`], in jiffies.
    pub struct Timeouts {
        /// Indexed by `State::raw()`.
        pub by_state: [u64; 16],
    }
}

/// IPVS's connection states (`include/net/ip_vs.h`), and one for UDP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct State(u8);

#[allow(missing_docs)] // The names are RFC 9293's, as ipvsadm prints them.
impl State {
    pub const NONE: Self = Self(0);
    pub const ESTABLISHED: Self = Self(1);
    pub const SYN_SENT: Self = Self(2);
    pub const SYN_RECV: Self = Self(3);
    pub const FIN_WAIT: Self = Self(4);
    pub const TIME_WAIT: Self = Self(5);
    pub const CLOSE: Self = Self(6);
    pub const CLOSE_WAIT: Self = Self(7);
    pub const LAST_ACK: Self = Self(8);
    pub const LISTEN: Self = Self(9);
    pub const SYNACK: Self = Self(10);
    pub const UDP: Self = Self(11);
}

impl State {
    /// Every state.
    pub const ALL: [Self; 12] = [
        Self::NONE,
        Self::ESTABLISHED,
        Self::SYN_SENT,
        Self::SYN_RECV,
        Self::FIN_WAIT,
        Self::TIME_WAIT,
        Self::CLOSE,
        Self::CLOSE_WAIT,
        Self::LAST_ACK,
        Self::LISTEN,
        Self::SYNACK,
        Self::UDP,
    ];

    /// The state with this number; the four that no state has are read as CLOSE.
    #[inline(always)]
    pub const fn from_raw(raw: u8) -> Self {
        if raw > Self::UDP.0 { Self::CLOSE } else { Self(raw) }
    }

    /// Its number, 0..=11.
    #[inline(always)]
    pub const fn raw(self) -> u8 {
        self.0
    }

    /// Whether a connection in this state is counted as active (IPVS tcp_state_active_table).
    #[inline(always)]
    pub const fn is_active(self) -> bool {
        const ACTIVE: u16 = 1 << State::ESTABLISHED.0
            | 1 << State::SYN_SENT.0
            | 1 << State::SYN_RECV.0
            | 1 << State::SYNACK.0;
        ACTIVE >> self.0 & 1 != 0
    }

    /// Whether a SYN in this state opens a new connection (IPVS conn_reuse_mode 1, and FIN_WAIT,
    /// the last state that a dr director sees).
    #[inline(always)]
    pub const fn is_reopened_by_syn(self) -> bool {
        const REOPENED: u16 =
            1 << State::FIN_WAIT.0 | 1 << State::TIME_WAIT.0 | 1 << State::CLOSE.0;
        REOPENED >> self.0 & 1 != 0
    }

    /// The state's name as `ipvsadm -Lnc` prints it.
    pub const fn name(self) -> &'static str {
        match self.0 {
            0 => "NONE",
            1 => "ESTABLISHED",
            2 => "SYN_SENT",
            3 => "SYN_RECV",
            4 => "FIN_WAIT",
            5 => "TIME_WAIT",
            6 => "CLOSE",
            7 => "CLOSE_WAIT",
            8 => "LAST_ACK",
            9 => "LISTEN",
            10 => "SYNACK",
            11 => "UDP",
            _ => "CLOSE",
        }
    }

    /// IPVS's timeout in seconds (`tcp_timeouts`, `udp_timeouts`).
    pub const fn default_timeout_seconds(self) -> u32 {
        match self.0 {
            0 => 2,
            1 => 15 * 60,
            2 | 4 | 5 | 9 | 10 => 2 * 60,
            3 | 7 => 60,
            6 => 10,
            8 => 30,
            11 => 5 * 60,
            _ => 10,
        }
    }
}

/// Which packets of a connection the director sees, and which one this is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Direction {
    /// Client to server, where replies are seen too (nat).
    Input = 0,
    /// Server to client (nat).
    Output = 1,
    /// Client to server, where nothing else is ever seen (dr, tunnel).
    InputOnly = 2,
}

/// TCP flags, as they lie in byte 13 of the header.
pub mod flags {
    /// No more data from the sender.
    pub const FIN: u8 = 0x01;
    /// Synchronise sequence numbers.
    pub const SYN: u8 = 0x02;
    /// Reset.
    pub const RST: u8 = 0x04;
    /// The acknowledgement field counts.
    pub const ACK: u8 = 0x10;
}

/// The state after a TCP packet (kernel `net/netfilter/ipvs/ip_vs_proto_tcp.c`, `tcp_states`).
/// RST counts before SYN, SYN before FIN, FIN before ACK; a packet with none of them closes.
#[inline(always)]
pub fn next_state(state: State, direction: Direction, tcp_flags: u8) -> State {
    let row = TRANSITIONS[direction as usize][(tcp_flags & FLAGS_THAT_COUNT) as usize];
    State(((row >> (state.0 * 4)) & 0xf) as u8)
}

/// The word of a connection: everything that a transition may change, in one atomic unit.
///
/// Bits, low to high: 4 flags, 4 state, 20 real-server index, 12 generation, 24 sequence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Word(u64);

/// The reply half of a nat pair.
pub const REPLY: u64 = 1;
/// Picked up in its middle and not confirmed by a second packet: lives as long as SYN_RECV.
pub const PROVISIONAL: u64 = 2;
/// Closed by whoever set this flag, who also deletes the entry. Nobody else touches it.
pub const DEAD: u64 = 4;
/// Closed, but the deletion failed: anybody may claim it by turning this flag into `DEAD`.
pub const ABANDONED: u64 = 8;

impl Word {
    /// A word of these parts; each is cut to its width.
    #[inline(always)]
    pub const fn new(
        sequence: u32,
        generation: u16,
        real_server: u32,
        state: State,
        flags: u64,
    ) -> Self {
        Self(
            (sequence as u64) << 40
                | (generation as u64 & 0xfff) << 28
                | (real_server as u64 & 0xf_ffff) << 8
                | (state.0 as u64) << 4
                | flags & 0xf,
        )
    }

    /// The word as it lies in an entry.
    #[inline(always)]
    pub const fn from_raw(raw: u64) -> Self {
        Self(raw)
    }

    /// See [`Word::from_raw`].
    #[inline(always)]
    pub const fn raw(self) -> u64 {
        self.0
    }

    /// Which use of the table element this is, 24 bits.
    #[inline(always)]
    pub const fn sequence(self) -> u32 {
        (self.0 >> 40) as u32
    }

    /// Generation of the real server that the connection belongs to, 12 bits.
    #[inline(always)]
    pub const fn generation(self) -> u16 {
        (self.0 >> 28 & 0xfff) as u16
    }

    /// Index of the real server, 20 bits.
    #[inline(always)]
    pub const fn real_server(self) -> u32 {
        (self.0 >> 8 & 0xf_ffff) as u32
    }

    /// The state.
    #[inline(always)]
    pub const fn state(self) -> State {
        State::from_raw((self.0 >> 4 & 0xf) as u8)
    }

    /// Whether any of these flags is set.
    #[inline(always)]
    pub const fn has(self, flags: u64) -> bool {
        self.0 & flags != 0
    }

    /// Whether the entry is closed and only waits for its deletion.
    #[inline(always)]
    pub const fn is_closed(self) -> bool {
        self.has(DEAD | ABANDONED)
    }

    /// This word in another state; confirmed, if it was provisional.
    #[inline(always)]
    #[must_use]
    pub const fn in_state(self, state: State) -> Self {
        Self(self.0 & !(0xf0 | PROVISIONAL) | (state.0 as u64) << 4)
    }

    /// This word with exactly these flags.
    #[inline(always)]
    #[must_use]
    pub const fn with_flags(self, flags: u64) -> Self {
        Self(self.0 & !0xf | flags & 0xf)
    }

    /// Whether `other` is the other half of the same pair: same use, same server, same generation.
    #[inline(always)]
    pub const fn pairs_with(self, other: Self) -> bool {
        self.0 >> 8 == other.0 >> 8
    }

    /// Index into [`Timeouts`]: the state's, or SYN_RECV's for a provisional connection.
    #[inline(always)]
    pub const fn timeout_index(self) -> usize {
        if self.has(PROVISIONAL) {
            State::SYN_RECV.0 as usize
        } else {
            (self.0 >> 4 & 0xf) as usize
        }
    }
}

impl Timeouts {
    /// Whether a connection with this word, last seen at `seen`, is past its deadline at `now`.
    #[inline(always)]
    pub const fn is_expired(&self, word: Word, seen: u64, now: u64) -> bool {
        let idle = now.wrapping_sub(seen);
        // Another CPU may have stamped the entry a tick after `now` was read.
        (idle as i64) > 0 && idle > self.by_state[word.timeout_index() & 0xf]
    }
}

/// FIN, SYN, RST and ACK.
const FLAGS_THAT_COUNT: u8 = flags::FIN | flags::SYN | flags::RST | flags::ACK;

/// Next states by direction and by the flags that count: a table without branches, so that the
/// verifier follows one path and not one for each event.
static TRANSITIONS: [[u64; 32]; 3] = [table(&INPUT), table(&OUTPUT), table(&INPUT_ONLY)];

/// Spreads the four events over all flag combinations.
const fn table(rows: &Rows) -> [u64; 32] {
    let mut spread = [row([CL; 11]); 32];
    let mut f = 0u8;
    while f < 32 {
        if f & flags::RST != 0 {
            spread[f as usize] = rows.rst;
        } else if f & flags::SYN != 0 {
            spread[f as usize] = rows.syn;
        } else if f & flags::FIN != 0 {
            spread[f as usize] = rows.fin;
        } else if f & flags::ACK != 0 {
            spread[f as usize] = rows.ack;
        }
        f += 1;
    }
    spread
}

/// Four rows of next states, one nibble a state.
struct Rows {
    syn: u64,
    fin: u64,
    ack: u64,
    rst: u64,
}

/// Packs a row; the columns are NO ES SS SR FW TW CL CW LA LI SA, as in the kernel's table.
const fn row(next: [State; 11]) -> u64 {
    let mut packed = 0;
    let mut i = 0;
    while i < 11 {
        packed |= (next[i].0 as u64) << (i * 4);
        i += 1;
    }
    // A UDP entry never meets a TCP packet (the protocol is in the key); stay in UDP if it does.
    packed | (State::UDP.0 as u64) << 44
}

const ES: State = State::ESTABLISHED;
const SS: State = State::SYN_SENT;
const SR: State = State::SYN_RECV;
const FW: State = State::FIN_WAIT;
const TW: State = State::TIME_WAIT;
const CL: State = State::CLOSE;
const CW: State = State::CLOSE_WAIT;
const LA: State = State::LAST_ACK;
const LI: State = State::LISTEN;

const INPUT: Rows = Rows {
    syn: row([SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR]),
    fin: row([CL, CW, SS, TW, TW, TW, CL, CW, LA, LI, TW]),
    ack: row([ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES]),
    rst: row([CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, SR]),
};

const OUTPUT: Rows = Rows {
    syn: row([SS, ES, SS, SR, SS, SS, SS, SS, SS, LI, SR]),
    fin: row([TW, FW, SS, TW, FW, TW, CL, TW, LA, LI, TW]),
    ack: row([ES, ES, SS, ES, FW, TW, CL, CW, LA, ES, ES]),
    rst: row([CL, CL, SS, CL, CL, TW, CL, CL, CL, CL, CL]),
};

const INPUT_ONLY: Rows = Rows {
    syn: row([SR, ES, ES, SR, SR, SR, SR, SR, SR, SR, SR]),
    fin: row([CL, FW, SS, TW, FW, TW, CL, CW, LA, LI, TW]),
    ack: row([ES, ES, SS, ES, FW, TW, CL, CW, CL, LI, ES]),
    rst: row([CL, CL, CL, SR, CL, CL, CL, CL, LA, LI, CL]),
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn path(direction: Direction, packets: &[u8]) -> State {
        packets.iter().fold(State::NONE, |state, &f| next_state(state, direction, f))
    }

    #[test]
    fn dr_follows_the_input_only_rows() {
        use flags::*;
        let check = |packets: &[u8], expected| {
            assert_eq!(path(Direction::InputOnly, packets), expected, "{packets:x?}");
        };
        check(&[SYN], SR);
        check(&[SYN, ACK], ES);
        check(&[SYN, SYN], SR);
        check(&[SYN, ACK, FIN | ACK], FW);
        check(&[SYN, ACK, FIN | ACK, ACK], FW);
        check(&[SYN, ACK, FIN | ACK, SYN], SR);
        check(&[SYN, ACK, RST], CL);
        check(&[SYN, RST | ACK], SR);
        check(&[ACK], ES);
        check(&[SYN, ACK, 0], CL);
    }

    #[test]
    fn nat_follows_both_halves() {
        use Direction::{Input, Output};
        use flags::*;
        let mut state = State::NONE;
        let mut step = |direction, f, expected| {
            state = next_state(state, direction, f);
            assert_eq!(state, expected);
        };
        step(Input, SYN, SR);
        step(Output, SYN | ACK, SR);
        step(Input, ACK, ES);
        step(Input, FIN | ACK, CW);
        step(Output, ACK, CW);
        step(Output, FIN | ACK, TW);
        step(Input, ACK, TW);
        assert_eq!(next_state(ES, Output, FIN | ACK), FW);
        assert_eq!(next_state(FW, Input, FIN | ACK), TW);
        assert_eq!(next_state(ES, Output, RST), CL);
    }

    #[test]
    fn next_state_is_total_over_every_state_direction_and_flag_byte() {
        for state in State::ALL {
            for direction in [Direction::Input, Direction::Output, Direction::InputOnly] {
                for f in 0..=255u8 {
                    let next = next_state(state, direction, f);
                    assert_eq!(State::from_raw(next.raw()), next);
                    if state == State::UDP && f & 0x17 != 0 {
                        assert_eq!(next, State::UDP);
                    }
                }
            }
        }
    }

    #[test]
    fn a_reset_closes_whatever_is_established() {
        for direction in [Direction::Input, Direction::Output, Direction::InputOnly] {
            for extra in 0..=255u8 {
                assert_eq!(next_state(ES, direction, extra | flags::RST), CL);
            }
        }
    }

    #[test]
    fn active_states_are_the_four_of_ipvs() {
        let active: Vec<_> =
            State::ALL.iter().filter(|s| s.is_active()).map(|s| s.name()).collect();
        assert_eq!(active, ["ESTABLISHED", "SYN_SENT", "SYN_RECV", "SYNACK"]);
    }

    #[test]
    fn a_provisional_connection_lives_as_long_as_syn_recv() {
        let mut t = Timeouts { by_state: [1000; 16] };
        t.by_state[State::SYN_RECV.raw() as usize] = 10;
        let provisional = Word::new(1, 1, 1, ES, PROVISIONAL);
        assert!(t.is_expired(provisional, 0, 11));
        assert!(!t.is_expired(provisional, 0, 10));
        assert!(!t.is_expired(provisional.in_state(ES), 0, 1000));
        // A stamp from a CPU that is one tick ahead is not an age of 2^64 ticks.
        assert!(!t.is_expired(provisional, 12, 11));
    }

    proptest! {
        #[test]
        fn a_word_keeps_its_parts(seq in 0u32..1 << 24, gen_ in 0u16..1 << 12,
                                  rs in 0u32..1 << 20, state in 0u8..12, flags in 0u64..16) {
            let w = Word::new(seq, gen_, rs, State::from_raw(state), flags);
            prop_assert_eq!(w.sequence(), seq);
            prop_assert_eq!(w.generation(), gen_);
            prop_assert_eq!(w.real_server(), rs);
            prop_assert_eq!(w.state().raw(), state);
            prop_assert_eq!(w.raw() & 0xf, flags);
            let moved = w.in_state(State::CLOSE);
            prop_assert!(moved.pairs_with(w) && !moved.has(PROVISIONAL));
            prop_assert_eq!(moved.state(), State::CLOSE);
            prop_assert!(w.with_flags(DEAD).is_closed() && w.with_flags(DEAD).pairs_with(w));
        }
    }
}
