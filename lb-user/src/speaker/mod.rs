//! The speaker: the small process that owns the virtual addresses (`lb speaker`).
//!
//! It runs the core of [`crate::vrrp`] with real sockets, so that neither the death, the restart
//! nor the load of its controller moves an address. [`protocol`] is what the two say to each
//! other; [`client`] is the controller's end. Inside, `task` is the loop, `seats` the virtual
//! routers, `router` what their state machines ask for, `hands` what it is done with: `kernel`
//! (addresses and links, kept in `station`) and `socket`. `process` makes the process one that is
//! neither delayed nor killed for others.
//!
//! Must not know: services, health checks, BPF maps, the configuration file.

pub mod client;
mod hands;
mod kernel;
mod leftovers;
mod line;
pub mod log;
mod process;
pub mod protocol;
mod quiet;
mod router;
mod seat;
mod seats;
mod socket;
mod station;
mod task;
mod virtual_mac;

pub use client::socket_beside;
pub use kernel::OWNER;
pub use leftovers::{clear, end};
pub use process::settle;
pub use task::run;
