//! IPVS's connection states as text, after `net/netfilter/ipvs/ip_vs_proto_tcp.c` of Linux 6.12
//! (`tcp_states`, `tcp_timeouts`, `tcp_state_active_table`): the tables that tests believe.
//!
//! Nothing here comes from the product's own tables.

use crate::frames::flag;

/// What a director sees of a connection, and which half a packet belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    /// To the server, with the other half seen as well (nat).
    Input,
    /// From the server (nat).
    Output,
    /// To the server, and nothing else is seen (dr).
    InputOnly,
}

const COLUMNS: &str = "NO ES SS SR FW TW CL CW LA LI SA";

const INPUT: &str = "
syn SR ES ES SR SR SR SR SR SR SR SR
fin CL CW SS TW TW TW CL CW LA LI TW
ack ES ES SS ES FW TW CL CW CL LI ES
rst CL CL CL SR CL CL CL CL LA LI SR";

const OUTPUT: &str = "
syn SS ES SS SR SS SS SS SS SS LI SR
fin TW FW SS TW FW TW CL TW LA LI TW
ack ES ES SS ES FW TW CL CW LA ES ES
rst CL CL SS CL CL TW CL CL CL CL CL";

const INPUT_ONLY: &str = "
syn SR ES ES SR SR SR SR SR SR SR SR
fin CL FW SS TW FW TW CL CW LA LI TW
ack ES ES SS ES FW TW CL CW CL LI ES
rst CL CL CL SR CL CL CL CL LA LI CL";

/// Name, timeout in seconds, whether it is counted as active.
const STATES: [(&str, &str, u64, bool); 11] = [
    ("NO", "NONE", 2, false),
    ("ES", "ESTABLISHED", 900, true),
    ("SS", "SYN_SENT", 120, true),
    ("SR", "SYN_RECV", 60, true),
    ("FW", "FIN_WAIT", 120, false),
    ("TW", "TIME_WAIT", 120, false),
    ("CL", "CLOSE", 10, false),
    ("CW", "CLOSE_WAIT", 60, false),
    ("LA", "LAST_ACK", 30, false),
    ("LI", "LISTEN", 120, false),
    ("SA", "SYNACK", 120, true),
];

/// The state after a packet (`tcp_state_idx` orders the flags; none of them closes).
pub(crate) fn next(state: &str, half: Half, flags: u8) -> &'static str {
    let event = match flags {
        f if f & flag::RST != 0 => "rst",
        f if f & flag::SYN != 0 => "syn",
        f if f & flag::FIN != 0 => "fin",
        f if f & flag::ACK != 0 => "ack",
        _ => return "CLOSE",
    };
    let table = match half {
        Half::Input => INPUT,
        Half::Output => OUTPUT,
        Half::InputOnly => INPUT_ONLY,
    };
    let row = table.lines().find(|line| line.starts_with(event)).expect("four rows");
    let column = COLUMNS.split(' ').position(|c| c == short(state)).expect("a state");
    let next = row.split(' ').nth(column + 1).expect("a full row");
    STATES.iter().find(|(short, ..)| *short == next).expect("a state").1
}

/// The time that a connection in this state may be idle, in seconds.
pub(crate) fn timeout(state: &str) -> u64 {
    if state == "UDP" { 300 } else { of(state).2 }
}

/// Whether a connection in this state is counted as active.
pub(crate) fn is_active(state: &str) -> bool {
    state != "UDP" && of(state).3
}

/// Every state's name.
pub(crate) fn names() -> impl Iterator<Item = &'static str> {
    STATES.iter().map(|(_, name, ..)| *name)
}

fn short(state: &str) -> &'static str {
    of(state).0
}

fn of(state: &str) -> &'static (&'static str, &'static str, u64, bool) {
    STATES.iter().find(|(_, name, ..)| *name == state).expect("a state")
}
