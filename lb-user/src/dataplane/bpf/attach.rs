//! Putting the entry program on interfaces, by links that are pinned and so outlive the process.
//!
//! Must not know: maps, services.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, anyhow};
use aya::Ebpf;
use aya::programs::links::{FdLink, PinnedLink};
use aya::programs::xdp::{XdpLink, XdpMode};
use aya::programs::{ProgramError, Xdp};
use lb_common::abi;

use super::{Dataplane, os_error, pins};
use crate::model::AttachMode;

/// How a program runs on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver.
    Native,
    /// In the stack, on skbs.
    Generic,
}

impl Mode {
    /// Its name in documents and pins.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    fn flag(self) -> XdpMode {
        match self {
            Self::Native => XdpMode::Driver,
            Self::Generic => XdpMode::Skb,
        }
    }
}

/// The program that frames enter by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Entry {
    /// The first stage itself: what there is to ask of access lists is nothing.
    Forward,
    /// The guard, which asks the access lists and goes on to the first stage.
    Guard,
}

impl Entry {
    /// The entry for access lists that have entries, or none.
    pub fn for_lists(have_entries: bool) -> Self {
        if have_entries { Self::Guard } else { Self::Forward }
    }

    fn program(self) -> &'static str {
        match self {
            Self::Forward => abi::PROGRAM_FORWARD,
            Self::Guard => abi::PROGRAM_GUARD,
        }
    }
}

/// An interface with our program on it.
#[derive(Debug)]
pub struct Attached {
    /// Its name.
    pub interface: String,
    /// How the program runs there.
    pub mode: Mode,
    /// Its index when the program was put there: an interface that is made anew has another.
    pub ifindex: u32,
    /// The program that it runs.
    pub entry: Entry,
    pin: PathBuf,
    _link: FdLink,
}

/// Takes over the links of an earlier daemon: each gets the new program, atomically. A link whose
/// interface is gone is removed.
pub(super) fn adopt(
    ebpf: &mut Ebpf,
    directory: &Path,
    entry: Entry,
) -> anyhow::Result<Vec<Attached>> {
    let mut links = Vec::new();
    for file in fs::read_dir(directory)? {
        let pin = file?.path();
        let Some((mode, interface)) = read_name(&pin) else {
            continue;
        };
        let link = open(&pin)?;
        match replace(ebpf, link, entry) {
            Ok(link) => {
                let ifindex = index_of(&interface);
                links.push(Attached { interface, mode, ifindex, entry, pin, _link: link });
            }
            Err(error) => {
                tracing::warn!(interface, %error, "a link of an earlier run is of no use; removed");
                fs::remove_file(&pin).with_context(|| format!("remove {}", pin.display()))?;
            }
        }
    }
    Ok(links)
}

/// Puts our program in the place of the one that the link runs.
fn replace(ebpf: &mut Ebpf, link: XdpLink, entry: Entry) -> anyhow::Result<FdLink> {
    let program = entry_program(ebpf, entry)?;
    let id = program.attach_to_link(link)?;
    Ok(FdLink::try_from(program.take_link(id)?)?)
}

/// The link behind a pin.
fn open(pin: &Path) -> anyhow::Result<XdpLink> {
    let pinned =
        PinnedLink::from_pin(pin).with_context(|| format!("open the link {}", pin.display()))?;
    XdpLink::try_from(FdLink::from(pinned)).context("a pinned link is not an XDP link")
}

fn entry_program(ebpf: &mut Ebpf, entry: Entry) -> anyhow::Result<&mut Xdp> {
    let program = ebpf.program_mut(entry.program()).context("the object has no such program")?;
    Ok(program.try_into()?)
}

impl Dataplane {
    /// Attaches to an interface, unless that is so already. `wanted` auto takes generic where the
    /// driver has no native mode; whoever asked sees it in what is returned.
    ///
    /// # Errors
    /// In words for the operator: no such interface, in use, not supported, MTU.
    pub fn attach(&mut self, interface: &str, wanted: AttachMode) -> anyhow::Result<Mode> {
        if let Some(link) = self.links.iter().find(|l| l.interface == interface) {
            let same = link.ifindex == index_of(interface);
            let fits = same
                && match wanted {
                    AttachMode::Auto => true,
                    AttachMode::Native => link.mode == Mode::Native,
                    AttachMode::Generic => link.mode == Mode::Generic,
                };
            if fits {
                return Ok(link.mode);
            }
            let before = link.mode;
            self.detach(interface)?;
            return self.attach_anew(interface, wanted).inspect_err(|_| {
                if let Err(error) = self.attach_as(interface, before) {
                    tracing::error!("{interface} is without XDP now: {error:#}");
                }
            });
        }
        self.attach_anew(interface, wanted)
    }

    fn attach_anew(&mut self, interface: &str, wanted: AttachMode) -> anyhow::Result<Mode> {
        let first = if wanted == AttachMode::Generic { Mode::Generic } else { Mode::Native };
        let mode = match self.attach_as(interface, first) {
            Ok(()) => first,
            Err(error) if wanted == AttachMode::Auto && is_mode_refused(&error) => {
                tracing::warn!(
                    interface,
                    error = format!("{error:#}"),
                    "the driver refuses native XDP: generic mode is used, which is slower"
                );
                self.attach_as(interface, Mode::Generic)?;
                Mode::Generic
            }
            Err(error) => return Err(error),
        };
        Ok(mode)
    }

    /// Detaches from an interface.
    ///
    /// # Errors
    /// When the pin cannot be removed.
    pub fn detach(&mut self, interface: &str) -> anyhow::Result<()> {
        for link in self.links.iter().filter(|l| l.interface == interface) {
            fs::remove_file(&link.pin).with_context(|| format!("remove {}", link.pin.display()))?;
        }
        self.links.retain(|l| l.interface != interface);
        Ok(())
    }

    fn attach_as(&mut self, interface: &str, mode: Mode) -> anyhow::Result<()> {
        let program = entry_program(&mut self.ebpf, self.entry)?;
        let id = program
            .attach(interface, mode.flag())
            .map_err(|error| explain(interface, mode, error))?;
        let link = FdLink::try_from(program.take_link(id)?)
            .context("this kernel has no XDP links: Linux 5.9 or newer is needed")?;
        let pin = self.directory.join(format!("{}{}-{interface}", pins::LINK_PREFIX, mode.name()));
        let link = link.pin(&pin).with_context(|| format!("pin the link of {interface}"))?;
        self.links.push(Attached {
            interface: interface.to_owned(),
            mode,
            ifindex: index_of(interface),
            entry: self.entry,
            pin,
            _link: link.into(),
        });
        Ok(())
    }

    /// Makes frames enter by this program on every interface: the link's program is exchanged, and
    /// no frame passes between the two. An interface that is gone is no error.
    ///
    /// # Errors
    /// When the kernel refuses for an interface that exists; the next call tries again.
    pub fn enter_by(&mut self, entry: Entry) -> anyhow::Result<()> {
        self.entry = entry;
        let mut result = Ok(());
        for attached in self.links.iter_mut().filter(|attached| attached.entry != entry) {
            let link = open(&attached.pin).and_then(|link| replace(&mut self.ebpf, link, entry));
            match link {
                Ok(link) => {
                    attached._link = link;
                    attached.entry = entry;
                }
                // It is attached to anew, by the right program, when it comes back.
                Err(_) if index_of(&attached.interface) != attached.ifindex => {}
                Err(error) => {
                    let what = format!("exchange the XDP program of {}", attached.interface);
                    result = Err(error.context(what));
                }
            }
        }
        result
    }
}

/// Index of an interface, or 0 when there is none of this name.
fn index_of(interface: &str) -> u32 {
    nix::net::if_::if_nametoindex(interface).unwrap_or(0)
}

/// Mode and interface of a pinned link's name.
fn read_name(pin: &Path) -> Option<(Mode, String)> {
    let name = pin.file_name()?.to_str()?.strip_prefix(pins::LINK_PREFIX)?;
    let (mode, interface) = name.split_once('-')?;
    let mode = match mode {
        "native" => Mode::Native,
        "generic" => Mode::Generic,
        _ => return None,
    };
    Some((mode, interface.to_owned()))
}

/// Whether another mode may work where this one was refused.
fn is_mode_refused(error: &anyhow::Error) -> bool {
    matches!(
        os_error(error.as_ref()),
        Some(libc::EOPNOTSUPP | libc::EINVAL | libc::ERANGE | libc::E2BIG)
    )
}

/// Says why an interface refused the program, and what helps.
fn explain(interface: &str, mode: Mode, error: ProgramError) -> anyhow::Error {
    let mtu = fs::read_to_string(format!("/sys/class/net/{interface}/mtu")).unwrap_or_default();
    let why = match (os_error(&error), &error) {
        (_, ProgramError::UnknownInterface { .. }) => {
            "no such interface: see `ip link`, or mend dataplane.interfaces".to_owned()
        }
        (Some(libc::EBUSY | libc::EEXIST), _) => format!(
            "another XDP program is on it: `ip link show {interface}` names it; \
             `lb detach` removes what an earlier lb left"
        ),
        (Some(libc::EOPNOTSUPP), _) => {
            "its driver has no native XDP: set dataplane.mode to auto or generic".to_owned()
        }
        (Some(libc::EINVAL | libc::ERANGE | libc::E2BIG), _) => format!(
            "its driver refuses native XDP as it is set up, most often for an MTU ({}) above what \
             it can do or for too many queues: lower the MTU, or set dataplane.mode to generic",
            mtu.trim()
        ),
        (Some(libc::EPERM | libc::EACCES), _) => {
            "no permission: run as root, or with CAP_NET_ADMIN and CAP_BPF".to_owned()
        }
        _ => "the kernel refused".to_owned(),
    };
    anyhow!(error).context(format!("attach XDP ({}) to {interface}: {why}", mode.name()))
}
