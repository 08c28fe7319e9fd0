//! The programs of probes by way of a service, on the interfaces that those leave and return by.
//!
//! Nothing is pinned: they end with the process, which is the only one that sends such probes.
//!
//! Must not know: which checks ask for it, next hops.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::{Context, anyhow};
use aya::maps::{Array, MapData};
use aya::programs::tc::{self, NlOptions, TcAttachOptions};
use aya::programs::{LinkOrder, SchedClassifier, TcAttachType};
use aya::util::KernelVersion;
use aya::{Ebpf, EbpfLoader};
use lb_common::pod::{from_bytes, mapped};
use lb_common::via::{self, Way};

use super::os_error;
use crate::model;

/// The compiled programs.
static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("LB_VIA_OBJECT"));

/// The first kernel with the links (tcx) that end with their process whatever becomes of it.
const LINKS_SINCE: KernelVersion = KernelVersion::new(6, 6, 0);

/// The loaded programs with their ways and interfaces.
pub struct ViaService {
    ebpf: Ebpf,
    ways: Array<MapData, Way>,
    /// By interface: its index when the programs were put there.
    interfaces: BTreeMap<String, u32>,
}

impl ViaService {
    /// Loads the programs, with no way and on no interface.
    ///
    /// # Errors
    /// In words for the operator: no privilege, no BPF.
    pub fn load() -> anyhow::Result<Self> {
        let mut ebpf = EbpfLoader::new().load(OBJECT).map_err(|e| explain(anyhow!(e)))?;
        for name in [via::PROGRAM_OUT, via::PROGRAM_IN] {
            program(&mut ebpf, name)?.load().map_err(|e| explain(anyhow!(e)))?;
        }
        let ways = ebpf.take_map(via::MAP_WAYS).context("the object has no map of ways")?;
        Ok(Self { ebpf, ways: ways.try_into()?, interfaces: BTreeMap::new() })
    }

    /// Packets with the mark of this index go this way from now on; with `None` they are dropped.
    ///
    /// # Errors
    /// When the index is beyond [`via::MAX_WAYS`]; else the kernel's.
    pub fn set(&mut self, index: u16, way: Option<&model::Way>) -> anyhow::Result<()> {
        let value = way.map_or(Way::zeroed(), value);
        self.ways.set(u32::from(index), value, 0).context("write the way of a probe")
    }

    /// Puts the programs on an interface, unless they are there. `index` tells an interface from
    /// one of the same name that was there before, with which its programs went.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn attach(&mut self, interface: &str, index: u32) -> anyhow::Result<()> {
        if self.interfaces.get(interface) == Some(&index) {
            return Ok(());
        }
        let sides =
            [(via::PROGRAM_OUT, TcAttachType::Egress), (via::PROGRAM_IN, TcAttachType::Ingress)];
        let mut first = None;
        for (name, side) in sides {
            let options = options(interface, name, side);
            let attached = program(&mut self.ebpf, name)?
                .attach_with_options(interface, side, options)
                .with_context(|| format!("put {name} on {interface} (traffic control)"));
            match (attached, first.take()) {
                (Ok(link), _) => first = Some((name, link)),
                (Err(error), half) => {
                    // Half of them would bar the next attempt.
                    if let Some((name, link)) = half {
                        program(&mut self.ebpf, name)?.detach(link)?;
                    }
                    return Err(error);
                }
            }
        }
        self.interfaces.insert(interface.to_owned(), index);
        Ok(())
    }

    /// A descriptor of one of the programs, for test runs.
    ///
    /// # Errors
    /// When there is none of this name.
    pub fn program(&mut self, name: &str) -> anyhow::Result<OwnedFd> {
        let fd = program(&mut self.ebpf, name)?.fd()?;
        fd.as_fd().try_clone_to_owned().context("copy a program's descriptor")
    }

    /// How many instructions the verifier walked for each program, by name.
    ///
    /// # Errors
    /// The kernel's.
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

/// The way that a probe goes, as the programs have it.
fn value(way: &model::Way) -> Way {
    let words = |ip: IpAddr| {
        let bytes = match ip {
            IpAddr::V4(ip) => mapped(ip.octets()),
            IpAddr::V6(ip) => ip.octets(),
        };
        from_bytes(&bytes).unwrap_or_default()
    };
    Way { vip: words(way.vip), server: words(way.server), tunnel: u32::from(way.tunnel) }
}

/// Links where the kernel has them; else filters, of which those of a daemon that was killed are
/// removed first.
fn options(interface: &str, name: &str, side: TcAttachType) -> TcAttachOptions {
    if KernelVersion::current().is_ok_and(|kernel| kernel >= LINKS_SINCE) {
        return TcAttachOptions::TcxOrder(LinkOrder::default());
    }
    // What is there already is as good, and what is wrong shows when the filter is added.
    let _exists = tc::qdisc_add_clsact(interface);
    let _none = tc::qdisc_detach_program(interface, side, name);
    TcAttachOptions::Netlink(NlOptions::default())
}

fn program<'a>(ebpf: &'a mut Ebpf, name: &str) -> anyhow::Result<&'a mut SchedClassifier> {
    let program = ebpf.program_mut(name);
    Ok(program.with_context(|| format!("the object has no program {name}"))?.try_into()?)
}

fn explain(error: anyhow::Error) -> anyhow::Error {
    let hint = match os_error(error.as_ref()) {
        Some(libc::EPERM | libc::EACCES) => {
            "no permission: run as root, or with CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
        }
        _ => "the kernel refused them",
    };
    error.context(format!("load the programs of `via: service`: {hint}"))
}
