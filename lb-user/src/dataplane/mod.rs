//! The kernel side: loading, pinning and attaching the programs, and reading and writing their maps.
//!
//! [`bpf`] is the only code that touches maps, and writes them only from `plan::MapOp`s. [`sweep`]
//! walks the connection table and proposes what is over; the decision is the kernel program's.
//!
//! Must not know: YAML, health, VRRP, who asks.

pub mod bpf;
pub mod listing;
pub mod sweep;
