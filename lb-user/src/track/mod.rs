//! The scripts of `vrrp.scripts`: each runs at its interval, and its exit status says whether
//! something is well.
//!
//! [`Tracker::set_scripts`] is told which scripts are wanted; each has a task that runs it as its
//! user, one run at a time, and writes what it found into the script's [`Observation`]. Only a
//! change of what is taken to be so is an event.
//!
//! As with keepalived a script is neither well nor unwell before its first result, and that result
//! counts at once; after it `rise` and `fall` are strict. Exit code 0 is a success; another code,
//! a signal, a timeout and a command that may not run are failures. A run that did not start for a
//! lack on this host (memory, descriptors) says nothing.
//!
//! Must not know: priorities, instances, what an event leads to.

mod judge;
mod tracker;

pub use tracker::{Changes, Observation, Run, ScriptChanged, Tracker};
