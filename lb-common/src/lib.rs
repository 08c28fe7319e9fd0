//! What the XDP program and user space share: table layouts, packet parsing and rewriting,
//! hashing and connection states. Pure, `no_std`, no allocation; it runs in the kernel, in
//! unit tests and in fuzzers unchanged.
//!
//! A packet's road: [`access`] may keep it out, [`wire`] reads it, [`conn`] names its connection and
//! its state, [`service`] describes where it may go and [`sched`] compares those places, [`rewrite`]
//! changes its headers, [`verdict`] says what became of it.
//!
//! Must not know: BPF helpers, maps as objects, clocks, files, YAML.
#![cfg_attr(not(test), no_std)]

pub mod abi;
pub mod access;
pub mod bare;
pub mod conn;
pub mod csum;
pub mod decap;
pub mod detour;
pub mod encap;
pub mod expire;
pub mod fragment;
pub mod hash;
pub mod icmp;
pub mod key;
pub mod pod;
pub mod rewrite;
pub mod sched;
pub mod service;
pub mod state;
pub mod table;
pub mod verdict;
pub mod via;
pub mod wire;
