//! Scenarios: the real binary between real clients and servers, in network namespaces.
//!
//! They need root. `LB_BIN` names the binary under test. Labs are built one at a time, so the
//! order and the number of test threads do not matter. A scenario's name says what holds.

mod admin_http;
mod bans;
mod checks;
mod counts;
mod dashboard;
mod doctor;
mod edges;
mod explain;
mod fragments;
mod health;
mod itself;
mod life;
mod life_cycle;
mod load_of_checks;
mod logging;
mod metrics;
mod passing;
mod path_mtu;
mod probes;
mod prometheus;
mod rates;
mod real_servers;
mod resets;
mod schedulers;
mod scheduling;
mod stage;
mod steering;
mod top;
mod transfers;
mod via;
mod vrrp;
mod watchdog;
