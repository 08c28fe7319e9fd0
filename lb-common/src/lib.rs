//! What the XDP program and user space share: table layouts, packet parsing and rewriting,
//! hashing and connection states. Pure, `no_std`, no allocation; it runs in the kernel, in
//! unit tests and in fuzzers unchanged.
//!
//! A packet's road: [`wire`] reads it, [`conn`] names its connection and its state, [`service`]
//! describes where it may go, [`rewrite`] changes its headers, [`verdict`] says what became of it.
//!
//! Must not know: BPF helpers, maps as objects, clocks, files, YAML.
#![cfg_attr(not(test), no_std)]

pub mod abi;
pub mod conn;
pub mod csum;
pub mod expire;
pub mod hash;
pub mod key;
pub mod pod;
pub mod rewrite;
pub mod service;
pub mod state;
pub mod table;
pub mod verdict;
pub mod wire;
