//! What user space hands to the expire program: a batch of connection keys as packet data.
//!
//! The program decides; a key here is a proposal. Layout: an Ethernet-sized head, then the keys.
//!
//! Must not know: maps, when a sweep runs.

use crate::pod;

pod! {
    /// Head of a batch. It fills an Ethernet header's place, the least that a test run accepts.
    pub struct BatchHead {
        /// Number of keys, at most [`BATCH`].
        pub count: u32,
        /// 4 or 6.
        pub family: u32,
        /// Zero.
        pub pad: [u32; 2],
    }
}

/// Keys in one batch: 64 keys of 40 bytes fit the page that a test run's packet has.
pub const BATCH: u32 = 64;
