//! The loaded data plane: programs, maps and links of one pin path.
//!
//! [`Dataplane::open`] loads or adopts, [`Dataplane::attach`] puts the program on an interface,
//! [`Tables::apply`] carries out one map operation. Everything outlives the process, because
//! maps and links are pinned; [`remove`] is what ends it.
//!
//! Must not know: YAML, health, why a map changes.
#![allow(unsafe_code)] // System calls that aya has no safe form of (`sys`, `connections`).

mod access;
mod attach;
mod clock;
mod connections;
mod decap;
mod load;
mod namespace;
mod pins;
mod rerun;
mod sandbox;
pub mod sys;
mod tables;
mod via;
mod yielding;

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use aya::Ebpf;

pub use access::{Denials, Lists};
pub use attach::{Attached, Entry, Mode};
pub use clock::Clock;
pub use connections::ConnTable;
pub use decap::Decapsulator;
pub use load::Options;
pub use namespace::network_namespace;
pub use pins::{Lock, is_on_bpffs, remove, survey};
pub use rerun::{Detours, Rerun, Verdict};
pub use sandbox::{Flow, Known, Member, Outcome, Sandbox};
pub(crate) use tables::add;
pub use tables::{ConnTables, Tables};
pub use via::ViaService;

/// The system's error number behind an error, if there is one.
fn os_error(error: &(dyn std::error::Error + 'static)) -> Option<i32> {
    std::iter::successors(Some(error), |e| e.source())
        .find_map(|e| e.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error))
}

/// The data plane of one pin path, locked against other daemons.
pub struct Dataplane {
    ebpf: Ebpf,
    tables: Tables,
    links: Vec<Attached>,
    entry: Entry,
    directory: PathBuf,
    clock: Clock,
    adopted: bool,
    _lock: Lock,
}

impl Dataplane {
    /// The maps.
    pub fn tables(&mut self) -> &mut Tables {
        &mut self.tables
    }

    /// The kernel's time.
    pub fn clock(&self) -> Clock {
        self.clock
    }

    /// Whether maps of an earlier daemon were taken over.
    pub fn is_adopted(&self) -> bool {
        self.adopted
    }

    /// Interfaces that the program is attached to.
    pub fn links(&self) -> &[Attached] {
        &self.links
    }

    /// Where this data plane's maps are pinned.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// A descriptor of one of its programs, for test runs.
    pub fn program(&self, name: &str) -> anyhow::Result<OwnedFd> {
        load::program_fd(&self.ebpf, name)
    }

    /// How many instructions the verifier walked for each program, by name. Its limit is a million;
    /// kernels before 5.16 do not tell.
    pub fn verified_instructions(&self) -> anyhow::Result<BTreeMap<String, u32>> {
        let mut counts = BTreeMap::new();
        for (name, program) in self.ebpf.programs() {
            if let Some(count) = program.info()?.verified_instruction_count() {
                counts.insert(name.to_owned(), count);
            }
        }
        Ok(counts)
    }
}
