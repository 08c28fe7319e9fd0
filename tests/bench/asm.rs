//! BPF instructions by hand, and the small programs that the benchmark is made of.
//!
//! [`wrapper`] gives every run a fresh frame and leaves for the program that is measured.
//! [`swap`] is the least that anything on the way can do: exchange the addresses and send back.
//! [`lookup`] is the least that a director with connections can do: find the flow in a hash table of
//! the kernel, which [`remember`] has filled, and send back.
//!
//! Must not know: the product's programs and tables.

use std::os::fd::{AsRawFd, OwnedFd};

use harness::bpf::Map;

const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R3: u8 = 3;
const R4: u8 = 4;
const R5: u8 = 5;
const R6: u8 = 6;
/// The stack's end.
const R10: u8 = 10;

/// XDP verdicts.
const ABORTED: i32 = 0;
const TX: i32 = 3;
/// Helpers: `bpf_map_lookup_elem`, `bpf_map_update_elem`, `bpf_tail_call`, `bpf_xdp_adjust_head`.
const LOOKUP: i32 = 1;
const UPDATE: i32 = 2;
const TAIL_CALL: i32 = 12;
const ADJUST_HEAD: i32 = 44;

/// Bytes at the head of a frame that are written anew for every run.
pub(crate) const FRESH: usize = 96;

/// Where the number of runs lies in the wrapper's map.
const RUNS_AT: i16 = 0;

/// Where the number of packets lies in that map that a table of flows did not know, or had no room
/// for.
pub(crate) const MISSES_AT: usize = 8;

/// Where the wrapper's frame begins in its map.
pub(crate) const FRAME_AT: usize = 16;

/// Bytes of the wrapper's map.
pub(crate) const STATE: u32 = (FRAME_AT + FRESH) as u32;

/// What a run changes in its frame, so that it belongs to another flow than the one before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rotation {
    /// Offset of the client's port.
    pub(crate) port: i16,
    /// Offset of the low two bytes of the client's address.
    pub(crate) address: i16,
    /// Flows are counted modulo this power of two.
    pub(crate) flows: u32,
    /// The number of a run times this is its flow. Odd, so that as many runs as there are flows
    /// take each of them once; another one for inserting than for reading, so that what is read
    /// one after the other does not lie one behind the other.
    pub(crate) step: i32,
}

/// A flow's key: that many bytes in a table, from the packet's addresses, ports and protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct KeyOf {
    pub(crate) v6: bool,
}

impl KeyOf {
    /// Its length.
    pub(crate) fn length(self) -> i16 {
        if self.v6 { 40 } else { 16 }
    }
}

/// Code under construction.
struct Code(Vec<u64>);

impl Code {
    fn add(&mut self, op: u8, to: u8, from: u8, offset: i16, value: i32) {
        let registers = u64::from(from << 4 | to) << 8;
        let offset = u64::from(offset.cast_unsigned()) << 16;
        let value = u64::from(value.cast_unsigned()) << 32;
        self.0.push(u64::from(op) | registers | offset | value);
    }

    fn set(&mut self, to: u8, value: i32) {
        self.add(0xb7, to, 0, 0, value);
    }

    fn copy(&mut self, to: u8, from: u8) {
        self.add(0xbf, to, from, 0, 0);
    }

    /// A load of `size`: 0x61 word, 0x79 double word, 0x69 half word.
    fn load(&mut self, size: u8, to: u8, from: u8, offset: i16) {
        self.add(size, to, from, offset, 0);
    }

    /// A store of `size`: 0x63 word, 0x7b double word, 0x6b half word.
    fn store(&mut self, size: u8, to: u8, offset: i16, from: u8) {
        self.add(size, to, from, offset, 0);
    }

    /// A map's descriptor (`kind` 1), or the address of an array's value (`kind` 2).
    fn map(&mut self, to: u8, kind: u8, map: &Map) {
        self.add(0x18, to, kind, 0, map.fd().as_raw_fd());
        self.0.push(0);
    }

    fn exit(&mut self) {
        self.add(0x95, 0, 0, 0, 0);
    }

    fn call(&mut self, helper: i32) {
        self.add(0x85, 0, 0, 0, helper);
    }

    fn leave(&mut self, verdict: i32) {
        self.set(R0, verdict);
        self.exit();
    }

    /// A jump to a place that [`Code::land`] names: 0x15 when `to` is `value`, 0x55 when not, 0x2d
    /// when `to` is greater than `from`.
    fn jump(&mut self, op: u8, to: u8, from: u8, value: i32) -> usize {
        self.add(op, to, from, 0, value);
        self.0.len() - 1
    }

    /// Lets jumps lead to here.
    fn land(&mut self, jumps: &[usize]) {
        for &jump in jumps {
            let distance = (self.0.len() - jump - 1) as u64;
            self.0[jump] |= distance << 16;
        }
    }

    /// r2 = data; the jump is taken when fewer than `bytes` are there. The context is in r1.
    fn check(&mut self, bytes: i32) -> usize {
        self.load(0x61, R2, R1, 0);
        self.load(0x61, R3, R1, 4);
        self.copy(R4, R2);
        self.add(0x07, R4, 0, 0, bytes);
        self.jump(0x2d, R4, R3, 0)
    }

    /// r2 = address of the packet's key, which is put at the stack's end. The jump is taken when the
    /// packet is too short.
    fn key(&mut self, key: KeyOf) -> usize {
        let short = self.check(14 + if key.v6 { 44 } else { 24 });
        let words: &[(u8, i16, u8, i16)] = if key.v6 {
            // Addresses, ports, the number of the next header.
            &[
                (0x79, 22, 0x7b, 0),
                (0x79, 30, 0x7b, 8),
                (0x79, 38, 0x7b, 16),
                (0x79, 46, 0x7b, 24),
                (0x61, 54, 0x63, 32),
                (0x71, 20, 0x63, 36),
            ]
        } else {
            &[(0x79, 26, 0x7b, 0), (0x61, 34, 0x63, 8), (0x71, 23, 0x63, 12)]
        };
        for &(load, from, store, to) in words {
            self.load(load, R4, R2, from);
            self.store(store, R10, to - key.length(), R4);
        }
        self.copy(R2, R10);
        self.add(0x07, R2, 0, 0, -i32::from(key.length()));
        short
    }

    /// Counts a miss in the wrapper's map, and gives the packet up.
    fn miss(&mut self, state: &Map) {
        self.map(R1, 2, state);
        self.load(0x79, R0, R1, MISSES_AT as i16);
        self.add(0x07, R0, 0, 0, 1);
        self.store(0x7b, R1, MISSES_AT as i16, R0);
        self.leave(ABORTED);
    }
}

/// Takes off what the run before has put before the frame of `length` bytes, writes its head from
/// `state`, moved on to the next flow, and leaves for program 0 of `programs`.
pub(crate) fn wrapper(state: &Map, programs: &Map, rotation: Rotation, length: usize) -> Vec<u64> {
    let mut code = Code(Vec::new());
    code.copy(R6, R1);
    code.load(0x61, R3, R1, 0);
    code.load(0x61, R2, R1, 4);
    code.add(0x1f, R2, R3, 0, 0);
    code.add(0x07, R2, 0, 0, -(length as i32));
    let same = code.jump(0x15, R2, 0, 0);
    code.call(ADJUST_HEAD);
    let stuck = code.jump(0x55, R0, 0, 0);
    code.copy(R1, R6);
    code.land(&[same]);
    let short = code.check(FRESH as i32);
    code.map(R5, 2, state);
    for word in 0..FRESH / 8 {
        let at = (word * 8) as i16;
        code.load(0x79, R4, R5, FRAME_AT as i16 + at);
        code.store(0x7b, R2, at, R4);
    }
    code.load(0x79, R0, R5, RUNS_AT);
    code.add(0x07, R0, 0, 0, 1);
    code.store(0x7b, R5, RUNS_AT, R0);
    code.add(0x27, R0, 0, 0, rotation.step);
    code.add(0x57, R0, 0, 0, rotation.flows.wrapping_sub(1).cast_signed());
    code.copy(R4, R0);
    code.add(0x77, R4, 0, 0, 14);
    code.store(0x6b, R2, rotation.address, R4);
    code.add(0x57, R0, 0, 0, 0x3fff);
    code.add(0x07, R0, 0, 0, 0x4000);
    code.add(0xdc, R0, 0, 0, 16);
    code.store(0x6b, R2, rotation.port, R0);
    code.copy(R1, R6);
    code.map(R2, 1, programs);
    code.set(R3, 0);
    code.call(TAIL_CALL);
    code.land(&[stuck, short]);
    code.leave(ABORTED);
    code.0
}

/// Exchanges source and destination and sends the frame back.
pub(crate) fn swap() -> Vec<u64> {
    let mut code = Code(Vec::new());
    let short = code.check(14);
    code.load(0x61, R4, R2, 0);
    code.load(0x69, R5, R2, 4);
    code.load(0x61, R0, R2, 6);
    code.load(0x69, R3, R2, 10);
    code.store(0x63, R2, 0, R0);
    code.store(0x6b, R2, 4, R3);
    code.store(0x63, R2, 6, R4);
    code.store(0x6b, R2, 10, R5);
    code.leave(TX);
    code.land(&[short]);
    code.leave(ABORTED);
    code.0
}

/// Finds the flow in `table` and sends the frame back as it is; a flow that is not there counts as a
/// miss.
pub(crate) fn lookup(state: &Map, table: &Map, key: KeyOf) -> Vec<u64> {
    let mut code = Code(Vec::new());
    let short = code.key(key);
    code.map(R1, 1, table);
    code.call(LOOKUP);
    let none = code.jump(0x15, R0, 0, 0);
    code.leave(TX);
    code.land(&[short, none]);
    code.miss(state);
    code.0
}

/// Puts the flow into `table`; one for which there is no room counts as a miss.
pub(crate) fn remember(state: &Map, table: &Map, key: KeyOf) -> Vec<u64> {
    let mut code = Code(Vec::new());
    let short = code.key(key);
    code.copy(R3, R10);
    let value = -(key.length() + 8);
    code.add(0x07, R3, 0, 0, i32::from(value));
    code.set(R4, 0);
    code.store(0x7b, R10, value, R4);
    code.map(R1, 1, table);
    code.call(UPDATE);
    let full = code.jump(0x55, R0, 0, 0);
    code.leave(TX);
    code.land(&[short, full]);
    code.miss(state);
    code.0
}

/// Loads a program that can leave for, and be left for from, programs with fragments.
pub(crate) fn load(name: &str, code: &[u64]) -> anyhow::Result<OwnedFd> {
    use anyhow::Context;
    harness::bpf::load_xdp(name, code, true).with_context(|| format!("load {name}"))
}
