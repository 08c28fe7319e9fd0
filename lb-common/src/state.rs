//! IPVS's connection states and the tables that lead from one to the next.
//!
//! Must not know: packets beyond their TCP flags, clocks, maps.

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
    /// The state of a connection that a SYN has just opened, seen from either side.
    pub const AFTER_SYN: Self = Self::SYN_RECV;

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
    fn a_syn_opens_in_the_state_that_is_said() {
        for direction in [Direction::Input, Direction::InputOnly] {
            for f in (0..=255u8).filter(|f| f & (flags::SYN | flags::RST) == flags::SYN) {
                assert_eq!(next_state(State::NONE, direction, f), State::AFTER_SYN);
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
}
