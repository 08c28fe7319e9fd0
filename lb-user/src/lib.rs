//! `lb`: an L4 director. The library holds everything; `main.rs` only calls [`cli`].
//!
//! Read ARCHITECTURE.md for the floors: a module may name what is below it, never the other way.
//!
//! Must not know: anything itself.

pub mod admin;
pub mod cli;
pub mod config;
pub mod controller;
pub mod dataplane;
pub mod doctor;
pub mod exec;
pub mod failover;
pub mod firewall;
pub mod health;
pub mod logging;
pub mod metrics;
pub mod model;
pub mod netlink;
pub mod notify;
pub mod plan;
pub mod real_server;
pub mod sched;
pub mod speaker;
pub mod track;
pub mod trusted;
pub mod vrrp;
pub mod watchdog;
