//! The kernel side: loading, pinning and attaching the programs, and reading and writing their maps.
//!
//! [`bpf`] is the only code that touches maps, and writes them only from `plan::MapOp`s. [`sweep`]
//! walks the connection table and proposes what is over; the decision is the kernel program's. On its
//! way `resets` makes idle ends of a removed server's connections send, so that they are told.
//! [`detour`] takes frames that the program cannot decide about yet and runs them again; which and
//! when, [`fragments`] says; [`split`] makes fragments of what is too big. What would become of a
//! packet is asked with a [`made_up`] frame in a [`bpf::Sandbox`].
//!
//! Must not know: YAML, health, VRRP, who asks.

pub mod bpf;
pub mod detour;
pub mod fragments;
pub mod listing;
pub mod made_up;
mod resets;
pub mod sampling;
pub mod split;
pub mod sweep;
