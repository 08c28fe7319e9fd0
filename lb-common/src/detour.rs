//! The detour: whole frames that a program hands to user space, and how they are sent in again.
//!
//! A record in the ring is a [`DetourHead`] and the frame's bytes; without bytes it is an event.
//! User space runs the frame again by a test run of the stage that reads everything, with a
//! [`RerunNote`] as the frame's metadata: a frame from a wire has none, so the program knows the one
//! from the other, and writes into the note where the frame is to be sent.
//!
//! A packet that is to be split goes the same way: user space makes fragments of it and runs each.
//!
//! Must not know: who decides about a frame, how long it is held, how it is split.

use crate::fragment::FragmentKey;
use crate::pod;

pod! {
    /// What comes before a frame in the ring.
    #[repr(align(8))]
    pub struct DetourHead {
        /// `DETOUR_*`: why the frame is here.
        pub reason: u32,
        /// The interface that it came in by.
        pub ingress: u32,
        /// Its length in bytes; 0 for an event.
        pub length: u32,
        /// [`DETOUR_SPLIT`]: the longest packet that fits, from the IP header on; else 0.
        pub mtu: u32,
        /// The packet that it is a fragment of; all zero where that does not matter.
        pub key: FragmentKey,
    }
}

/// A later fragment whose first one was not seen yet.
pub const DETOUR_FRAGMENT: u32 = 1;
/// An event: what held fragments waited for was decided.
pub const DETOUR_DECIDED: u32 = 2;
/// An IPv4 packet without Don't Fragment that does not fit the way to its real server.
pub const DETOUR_SPLIT: u32 = 3;

pod! {
    /// Metadata of a frame that user space sends in again.
    pub struct RerunNote {
        /// The interface to send it by; 0 until the program knows.
        pub egress: u32,
        /// When it goes in: whether the frame was split already and must not be again (not 0). When
        /// it comes out: the MTU that it is to be split for, or what was there.
        pub mtu: u32,
    }
}

/// Room for a frame, a power of two so that the verifier sees the bound: beyond any jumbo frame.
pub const FRAME_ROOM: u32 = 16 * 1024;
/// The longest record.
pub const RECORD_ROOM: u32 = FRAME_ROOM + size_of::<DetourHead>() as u32;
