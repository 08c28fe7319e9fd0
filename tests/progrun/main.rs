//! Packet tables, a model, fuzzing and races through the loaded programs, by test runs.
//!
//! They need root and no network. Every test has a data plane of its own, so the order and the
//! number of test threads do not matter. A test's name says what holds.

mod access;
mod admission;
mod census;
mod classify;
mod cut;
mod decap;
mod dice;
mod errors;
mod expiry;
mod forwarding;
mod fragments;
mod frames;
mod fuzz;
mod hammer;
mod hashing;
mod ipvs;
mod ipvs_traces;
mod least;
mod least_oracle;
mod lifetimes;
mod model;
mod passing;
mod path_mtu;
mod resets;
mod rig;
mod routes;
mod sampling;
mod sandbox;
mod services;
mod simulation;
mod sweeping;
mod tunnels;
mod unusual;
mod verified;
mod via;
mod vrrp;
