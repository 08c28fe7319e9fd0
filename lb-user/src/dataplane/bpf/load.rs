//! Loading the object, with the maps of an earlier daemon where there are any.
//!
//! Must not know: which interfaces, which services.

use std::fs::{self, File};
use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow, bail};
use aya::maps::{Array, Map, MapData, ProgramArray};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};
use lb_common::hash::TableSeed;
use lb_common::service::Config;
use lb_common::table::{self, TableShape};
use lb_common::{abi, pod};

use super::attach::Entry;
use super::clock::{Clock, beat};
use super::yielding::Yielding;
use super::{Dataplane, Tables, attach, os_error, pins};

/// The compiled programs.
pub(super) static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("LB_EBPF_OBJECT"));

/// What the data plane is made with.
#[derive(Clone, Debug)]
pub struct Options {
    /// Directory on a bpffs.
    pub pin_path: PathBuf,
    /// Capacity in connections. Maps that are adopted keep theirs.
    pub connections: u32,
}

impl Dataplane {
    /// Locks the pin path, takes over the maps that are there or makes new ones, and loads the
    /// programs. Nothing that is attached changes yet.
    ///
    /// # Errors
    /// In words for the operator: no bpffs, no privilege, another daemon, another version.
    pub fn open(options: &Options) -> anyhow::Result<Self> {
        let _yielding = Yielding::begin();
        let lock = pins::lock(&options.pin_path)?;
        let directory = pins::version_directory(&options.pin_path)?;
        let adopted = is_complete(&directory)?;
        raise_memlock_limit();
        let mut ebpf = load_object(&directory, options, adopted)?;
        load_programs(&mut ebpf)?;
        // Pinned, so what it holds outlives this descriptor.
        drop(fill_stages(&mut ebpf)?);
        let tables = Tables::take(&mut ebpf)?;
        let clock_program = program_fd(&ebpf, abi::PROGRAM_CLOCK)?;
        let clock = Clock::calibrate(|| {
            beat(clock_program.as_fd())?;
            tables.heartbeat()
        })?;
        let entry = Entry::for_lists(!tables.lists().is_empty()?);
        let links = attach::adopt(&mut ebpf, &directory, entry)?;
        Ok(Self { ebpf, tables, links, entry, directory, clock, adopted, _lock: lock })
    }

    /// Stamps the heartbeat: the controller is here, its next hops are current.
    ///
    /// # Errors
    /// When the program cannot be run.
    pub fn beat(&self) -> anyhow::Result<()> {
        beat(self.program(abi::PROGRAM_CLOCK)?.as_fd())
    }

    /// Detaches every interface and removes every pin: nothing is forwarded any more.
    ///
    /// # Errors
    /// When a pin cannot be removed.
    pub fn remove(mut self) -> anyhow::Result<()> {
        self.links.clear();
        let parent = self.directory.parent().context("the pin path")?.to_path_buf();
        pins::remove_locked(&parent).map(|_| ())
    }
}

/// Gives every program to the verifier.
pub(super) fn load_programs(ebpf: &mut Ebpf) -> anyhow::Result<()> {
    let _yielding = Yielding::begin();
    for (name, program) in ebpf.programs_mut() {
        let program: &mut Xdp = program.try_into()?;
        program.load().with_context(|| format!("load the XDP program {name}"))?;
    }
    Ok(())
}

/// A descriptor of a loaded program.
pub(super) fn program_fd(ebpf: &Ebpf, name: &str) -> anyhow::Result<OwnedFd> {
    let program: &Xdp = ebpf
        .program(name)
        .with_context(|| format!("the object has no program {name}"))?
        .try_into()?;
    program.fd()?.as_fd().try_clone_to_owned().context("copy a program's descriptor")
}

/// Whether every map is pinned. The version in the path vouches for their layout. Leftovers of a start that
/// never finished are removed: without a link nothing uses them.
fn is_complete(directory: &Path) -> anyhow::Result<bool> {
    let present: Vec<_> = abi::MAPS.iter().filter(|name| directory.join(name).exists()).collect();
    if present.len() == abi::MAPS.len() {
        return Ok(true);
    }
    for entry in fs::read_dir(directory)? {
        let pin = entry?.path();
        if pins::is_link(&pin) {
            bail!(
                "{} holds an attached program but not all of its maps: `lb detach` removes both",
                directory.display()
            );
        }
        fs::remove_file(&pin).with_context(|| format!("remove {}", pin.display()))?;
    }
    Ok(false)
}

fn load_object(directory: &Path, options: &Options, adopted: bool) -> anyhow::Result<Ebpf> {
    let mut loader = EbpfLoader::new();
    for name in abi::MAPS {
        loader.map_pin_path(name, directory.join(name));
    }
    let (buckets, known) = if adopted {
        let slots = MapData::from_pin(directory.join(abi::MAP_CONN4))?;
        (slots.info()?.max_entries(), seed_of(directory)?)
    } else {
        (table::buckets_for(options.connections), TableSeed::zeroed())
    };
    // A daemon that ended before it had written a seed put nothing into the tables either.
    let seed = if known.multiply == 0 { new_seed()? } else { known };
    let shape = TableShape { seed, buckets, pad: 0 };
    loader.override_global(abi::GLOBAL_TABLE, &shape, true);
    for name in [abi::MAP_CONN4, abi::MAP_CONN6] {
        loader.map_max_entries(name, buckets);
    }
    for name in [abi::MAP_INSERTS4, abi::MAP_INSERTS6] {
        loader.map_max_entries(name, table::regions_of(buckets));
    }
    let mut ebpf = loader.load(OBJECT).map_err(explain)?;
    if seed != known {
        let map = ebpf.map_mut(abi::MAP_CONFIG).context("the object has no configuration map")?;
        let mut config: Array<&mut MapData, Config> = map.try_into()?;
        config.set(0, Config { seed, ..Config::zeroed() }, 0).context("write the tables' seed")?;
    }
    Ok(ebpf)
}

/// The seed of tables that are there.
pub(super) fn seed_of(directory: &Path) -> anyhow::Result<TableSeed> {
    let map = Map::Array(MapData::from_pin(directory.join(abi::MAP_CONFIG))?);
    let config: Array<MapData, Config> = map.try_into()?;
    Ok(config.get(&0, 0).context("read the seed of the connection tables")?.seed)
}

/// A seed that nobody can know.
fn new_seed() -> anyhow::Result<TableSeed> {
    let mut bytes = [0; 16];
    let mut random = File::open("/dev/urandom").context("open /dev/urandom")?;
    random.read_exact(&mut bytes).context("read /dev/urandom")?;
    let [add, multiply] = pod::from_bytes(&bytes).unwrap_or([1, 1]);
    Ok(TableSeed { add, multiply: multiply | 1 })
}

/// Turns the errors that an operator meets into what to do about them.
pub(super) fn explain(error: aya::EbpfError) -> anyhow::Error {
    let hint = match os_error(&error) {
        Some(libc::EPERM | libc::EACCES) => {
            "no permission: run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
        }
        Some(libc::ENOSYS | libc::EINVAL) => {
            "this kernel has no BPF, or one too old: Linux 5.18 or newer with CONFIG_BPF_SYSCALL"
        }
        Some(libc::ENOMEM | libc::E2BIG) => {
            "not enough memory for the maps: make dataplane.connections smaller"
        }
        _ => "the kernel refused the maps or programs",
    };
    anyhow!(error).context(format!("load the data plane: {hint}"))
}

/// Makes every stage reachable from the others. The kernel empties the table when its last descriptor
/// and pin go.
pub(super) fn fill_stages(ebpf: &mut Ebpf) -> anyhow::Result<ProgramArray<MapData>> {
    let map = ebpf.take_map(abi::MAP_STAGES).context("the object has no map of stages")?;
    let mut stages: ProgramArray<MapData> = map.try_into()?;
    for (stage, name) in abi::Stage::PROGRAMS {
        let program: &Xdp =
            ebpf.program(name).with_context(|| format!("no program {name}"))?.try_into()?;
        stages.set(stage as u32, program.fd()?, 0).with_context(|| format!("reach {name}"))?;
    }
    Ok(stages)
}

/// Kernels before 5.11 charge maps to RLIMIT_MEMLOCK; later ones ignore it.
fn raise_memlock_limit() {
    use nix::sys::resource::{RLIM_INFINITY, Resource, setrlimit};
    let _ = setrlimit(Resource::RLIMIT_MEMLOCK, RLIM_INFINITY, RLIM_INFINITY);
}
