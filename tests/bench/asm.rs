//! BPF instructions by hand, and the two small programs that the benchmark is made of.
//!
//! [`wrapper`] gives every run a fresh frame and leaves for the program that is measured;
//! [`floor`] is the least that a director can do: exchange the addresses and send back.

use std::os::fd::{AsRawFd, OwnedFd};

use harness::bpf::Map;

const R0: u8 = 0;
const R1: u8 = 1;
const R2: u8 = 2;
const R3: u8 = 3;
const R4: u8 = 4;
const R5: u8 = 5;
const R6: u8 = 6;

/// XDP verdicts.
const ABORTED: i32 = 0;
const TX: i32 = 3;
/// `bpf_tail_call`.
const TAIL_CALL: i32 = 12;

/// Bytes at the head of a frame that are written anew for every run.
pub(crate) const FRESH: usize = 96;

/// Where the wrapper's frame begins in its map; before it lies the number of runs.
pub(crate) const FRAME_AT: usize = 8;

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

    /// r2 = data; leaves `distance` further on when fewer than `bytes` are there.
    fn check(&mut self, bytes: i32, distance: i16) {
        self.load(0x61, R2, R1, 0);
        self.load(0x61, R3, R1, 4);
        self.copy(R4, R2);
        self.add(0x07, R4, 0, 0, bytes);
        self.add(0x2d, R4, R3, distance, 0);
    }
}

/// Writes the head of the frame from `state`, moves it to the next flow if that is wanted, and
/// leaves for program 0 of `programs`.
pub(crate) fn wrapper(state: &Map, programs: &Map, rotation: Option<Rotation>) -> Vec<u64> {
    let mut code = Code(Vec::new());
    code.copy(R6, R1);
    let words = FRESH / 8;
    let rotated = if rotation.is_some() { 12 } else { 0 };
    // Two instructions for the address of the map's value, two for every word.
    code.check(FRESH as i32, (2 + 2 * words + rotated + 5) as i16);
    code.map(R5, 2, state);
    for word in 0..words {
        let at = (word * 8) as i16;
        code.load(0x79, R4, R5, FRAME_AT as i16 + at);
        code.store(0x7b, R2, at, R4);
    }
    if let Some(rotation) = rotation {
        code.load(0x79, R0, R5, 0);
        code.add(0x07, R0, 0, 0, 1);
        code.store(0x7b, R5, 0, R0);
        // An odd multiplier: neighbours in time are not neighbours in the table.
        code.add(0x27, R0, 0, 0, 0x0012_d687);
        code.add(0x57, R0, 0, 0, rotation.flows.wrapping_sub(1).cast_signed());
        code.copy(R4, R0);
        code.add(0x77, R4, 0, 0, 14);
        code.store(0x6b, R2, rotation.address, R4);
        code.add(0x57, R0, 0, 0, 0x3fff);
        code.add(0x07, R0, 0, 0, 0x4000);
        code.add(0xdc, R0, 0, 0, 16);
        code.store(0x6b, R2, rotation.port, R0);
    }
    code.copy(R1, R6);
    code.map(R2, 1, programs);
    code.set(R3, 0);
    code.add(0x85, 0, 0, 0, TAIL_CALL);
    code.set(R0, ABORTED);
    code.exit();
    code.0
}

/// Exchanges source and destination and sends the frame back.
pub(crate) fn floor() -> Vec<u64> {
    let mut code = Code(Vec::new());
    code.check(14, 10);
    code.load(0x61, R4, R2, 0);
    code.load(0x69, R5, R2, 4);
    code.load(0x61, R0, R2, 6);
    code.load(0x69, R3, R2, 10);
    code.store(0x63, R2, 0, R0);
    code.store(0x6b, R2, 4, R3);
    code.store(0x63, R2, 6, R4);
    code.store(0x6b, R2, 10, R5);
    code.set(R0, TX);
    code.exit();
    code.set(R0, ABORTED);
    code.exit();
    code.0
}

/// Loads a program that can leave for, and be left for from, programs with fragments.
pub(crate) fn load(name: &str, code: &[u64]) -> anyhow::Result<OwnedFd> {
    use anyhow::Context;
    harness::bpf::load_xdp(name, code, true).with_context(|| format!("load {name}"))
}
