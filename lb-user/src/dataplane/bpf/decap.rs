//! The program of a real server: loaded anew, or found again by its id.
//!
//! Nothing is pinned: an interface that has the program keeps it, and the program its maps.
//!
//! Must not know: interfaces, which addresses are wanted and why.

use std::net::IpAddr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::{Context, anyhow};
use aya::EbpfLoader;
use aya::maps::{HashMap, Map, MapData, MapInfo, PerCpuArray};
use aya::programs::{ProgramInfo, Xdp, loaded_programs};
use lb_common::decap::{self, Count};
use lb_common::pod::{Address, mapped};

use super::os_error;

/// The compiled program.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("LB_DECAP_OBJECT"));

/// The decapsulation program with its addresses.
pub struct Decapsulator {
    id: u32,
    program: OwnedFd,
    vips: HashMap<MapData, Address, u32>,
    counts: PerCpuArray<MapData, u64>,
}

impl Decapsulator {
    /// Loads the program, with no address.
    ///
    /// # Errors
    /// In words for the operator: no privilege, no BPF.
    pub fn load() -> anyhow::Result<Self> {
        let mut ebpf = EbpfLoader::new().load(OBJECT).map_err(|e| explain(anyhow!(e)))?;
        let program: &mut Xdp = ebpf
            .program_mut(decap::PROGRAM)
            .with_context(|| format!("the object has no program {}", decap::PROGRAM))?
            .try_into()?;
        program.load().map_err(|e| explain(anyhow!(e)))?;
        let id = program.info().context("ask for the program's id")?.id();
        let program = program.fd()?.as_fd().try_clone_to_owned().context("copy a descriptor")?;
        let vips = ebpf.take_map(decap::MAP_VIPS).context("the object has no map of addresses")?;
        let counts = ebpf.take_map(decap::MAP_COUNTS).context("the object has no counts")?;
        Ok(Self { id, program, vips: vips.try_into()?, counts: counts.try_into()? })
    }

    /// The program of this id, if it is (still) one of ours.
    ///
    /// # Errors
    /// When the kernel does not tell of its maps.
    pub fn find(id: u32) -> anyhow::Result<Option<Self>> {
        let ours = |info: &ProgramInfo| {
            info.id() == id && info.name_as_str().is_some_and(|name| name == decap::PROGRAM)
        };
        let Some(info) = loaded_programs().filter_map(Result::ok).find(ours) else {
            return Ok(None);
        };
        let Ok(fd) = info.fd() else { return Ok(None) };
        let program = fd.as_fd().try_clone_to_owned().context("copy a descriptor")?;
        let (mut vips, mut counts) = (None, None);
        for map in info.map_ids().context("list the program's maps")?.unwrap_or_default() {
            let named = MapInfo::from_id(map).context("open a map of the program")?;
            match named.name_as_str() {
                Some(decap::MAP_VIPS) => vips = Some(Map::HashMap(MapData::from_id(map)?)),
                Some(decap::MAP_COUNTS) => {
                    counts = Some(Map::PerCpuArray(MapData::from_id(map)?));
                }
                _ => {}
            }
        }
        let (Some(vips), Some(counts)) = (vips, counts) else { return Ok(None) };
        Ok(Some(Self { id, program, vips: vips.try_into()?, counts: counts.try_into()? }))
    }

    /// Its id, as `bpftool prog` and `ip link` show it.
    pub fn id(&self) -> u32 {
        self.id
    }

    /// Its descriptor.
    pub fn program(&self) -> BorrowedFd<'_> {
        self.program.as_fd()
    }

    /// How often something has happened since the program was loaded.
    ///
    /// # Errors
    /// The kernel's.
    pub fn count(&self, what: Count) -> anyhow::Result<u64> {
        let values = self.counts.get(&(what as u32), 0).context("read the counts")?;
        Ok(values.iter().sum())
    }

    /// From now on packets to this address are unpacked. Tells whether that is new.
    ///
    /// # Errors
    /// E2BIG with too many addresses.
    pub fn add(&mut self, vip: IpAddr) -> anyhow::Result<bool> {
        let key = key(vip);
        if self.vips.get(&key, 0).is_ok() {
            return Ok(false);
        }
        let full = || format!("unpack packets to {vip} (at most {} addresses)", decap::MAX_VIPS);
        self.vips.insert(key, 1, 0).with_context(full)?;
        Ok(true)
    }

    /// No longer.
    ///
    /// # Errors
    /// The kernel's.
    pub fn remove(&mut self, vip: IpAddr) -> anyhow::Result<()> {
        match self.vips.remove(&key(vip)) {
            Err(error) if os_error(&error) != Some(libc::ENOENT) => {
                Err(error).with_context(|| format!("stop unpacking packets to {vip}"))
            }
            _ => Ok(()),
        }
    }
}

fn key(vip: IpAddr) -> Address {
    match vip {
        IpAddr::V4(vip) => mapped(vip.octets()),
        IpAddr::V6(vip) => vip.octets(),
    }
}

fn explain(error: anyhow::Error) -> anyhow::Error {
    let hint = match os_error(error.as_ref()) {
        Some(libc::EPERM | libc::EACCES) => "no permission: run as root",
        Some(libc::ENOSYS | libc::EINVAL) => {
            "this kernel has no BPF, or one too old: Linux 5.18 or newer with CONFIG_BPF_SYSCALL"
        }
        _ => "the kernel refused it",
    };
    error.context(format!("load the decapsulation program: {hint}"))
}
