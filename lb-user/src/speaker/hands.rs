//! What the speaker acts with: the kernel's tables, its sockets, and what it has to report.
//!
//! Must not know: states, when something is done.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io;

use crate::speaker::kernel::{Kernel, Place};
use crate::speaker::protocol::Report;
use crate::speaker::socket::{Ear, Member};
use crate::speaker::station::Station;
use crate::speaker::virtual_mac;

/// The means of all virtual routers.
pub(super) struct Hands {
    /// Requests to the kernel.
    pub(super) kernel: Kernel,
    /// Links and addresses.
    pub(super) station: Station,
    /// Devices with a virtual MAC address.
    pub(super) devices: BTreeSet<u32>,
    /// Sockets by index of the interface.
    pub(super) ears: BTreeMap<u32, Listening>,
    /// What the controller is to hear.
    pub(super) reports: Vec<Report>,
    /// Whether this host forwards IPv6, which its advertisements say.
    pub(super) is_router: bool,
}

/// The sockets of one interface.
pub(super) struct Listening {
    /// All frames of interest.
    pub(super) ear: Ear,
    /// The member of IPv4's group.
    pub(super) v4: Option<Member>,
    /// The member of IPv6's group.
    pub(super) v6: Option<Member>,
}

impl Hands {
    /// Opens them; what an earlier life left is taken away first, and said.
    pub(super) fn open() -> io::Result<(Self, Vec<String>)> {
        let mut kernel = Kernel::open()?;
        let station = Station::read(&kernel.links()?, &kernel.addresses()?);
        let mut hands = Self {
            kernel,
            station,
            devices: BTreeSet::new(),
            ears: BTreeMap::new(),
            reports: Vec::new(),
            is_router: forwards_ipv6(),
        };
        let mut removed = virtual_mac::clear(&mut hands.kernel)?;
        let stale = hands.station.virtual_places();
        removed.extend(stale.iter().map(|place| {
            let link = hands.station.links().find(|(index, _)| *index == place.ifindex);
            let name = link.map_or("?", |(_, link)| link.name.as_str());
            format!("address {}/{} dev {name}", place.address, place.prefix_len)
        }));
        hands.remove(&stale);
        Ok((hands, removed))
    }

    /// Reads links and addresses anew, after events were lost.
    pub(super) fn look_again(&mut self) {
        match (self.kernel.links(), self.kernel.addresses()) {
            (Ok(links), Ok(addresses)) => self.station = Station::read(&links, &addresses),
            (Err(error), _) | (_, Err(error)) => {
                tracing::error!(%error, "links and addresses cannot be read");
            }
        }
    }

    /// Adds addresses; gives those that are there now because of it.
    pub(super) fn add(&mut self, places: &[Place]) -> BTreeSet<Place> {
        let (mut added, mut there) = (BTreeSet::new(), Vec::new());
        let answers = match self.kernel.add(places, &self.devices) {
            Ok(answers) => answers,
            Err(error) => {
                tracing::error!(%error, "the kernel does not answer: addresses may be missing");
                self.look_again();
                let there = places.iter().copied().filter(|place| self.station.is_virtual(place));
                return there.collect();
            }
        };
        for (place, answer) in places.iter().zip(answers) {
            match answer {
                Ok(()) => {
                    added.insert(*place);
                }
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => there.push(*place),
                Err(error) => tracing::error!(
                    %error, address = %place.address, ifindex = place.ifindex,
                    "a virtual address cannot be added"
                ),
            }
        }
        if !there.is_empty() {
            // Its own, put there a moment ago, or an administrator's, which stays.
            self.look_again();
            added.extend(there.into_iter().filter(|place| self.station.is_virtual(place)));
        }
        added
    }

    /// Removes addresses; those that are gone already, or whose interface is, are no error.
    pub(super) fn remove(&mut self, places: &[Place]) {
        let answers = match self.kernel.remove(places) {
            Ok(answers) => answers,
            Err(error) => {
                tracing::error!(%error, "the kernel does not answer: no address was removed");
                return;
            }
        };
        for (place, answer) in places.iter().zip(answers) {
            let Err(error) = answer else { continue };
            if !matches!(error.raw_os_error(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) {
                tracing::error!(
                    %error, address = %place.address, ifindex = place.ifindex,
                    "a virtual address cannot be removed"
                );
            }
        }
    }

    /// Sends a frame by an interface.
    pub(super) fn send(&self, ifindex: u32, frame: &[u8]) -> io::Result<()> {
        match self.ears.get(&ifindex) {
            Some(listening) => listening.ear.send(frame),
            None => Err(io::ErrorKind::NotConnected.into()),
        }
    }

    /// Closes the sockets of interfaces that are gone.
    pub(super) fn forget_lost_links(&mut self) {
        let station = &self.station;
        self.ears.retain(|ifindex, _| station.has_link(*ifindex));
    }

    /// Opens the packet socket of an interface, unless it is open.
    pub(super) fn open_ear(&mut self, ifindex: u32) -> io::Result<()> {
        if let Entry::Vacant(place) = self.ears.entry(ifindex) {
            place.insert(Listening { ear: Ear::open(ifindex)?, v4: None, v6: None });
        }
        Ok(())
    }

    /// Makes this host a member of a group on an interface, unless it is one.
    pub(super) fn join(&mut self, ifindex: u32, name: &str, v4: bool) -> io::Result<()> {
        self.open_ear(ifindex)?;
        let Some(listening) = self.ears.get_mut(&ifindex) else { return Ok(()) };
        let member = if v4 { &mut listening.v4 } else { &mut listening.v6 };
        if member.is_none() {
            *member = Some(Member::join(ifindex, name, v4)?);
        }
        Ok(())
    }

    /// How many adverts came through to the members of a group since the last call.
    pub(super) fn drain(&self, ifindex: u32, v4: bool) -> u64 {
        let listening = self.ears.get(&ifindex);
        let member = listening.and_then(|found| if v4 { &found.v4 } else { &found.v6 }.as_ref());
        member.map_or(0, Member::drain)
    }
}

fn forwards_ipv6() -> bool {
    let path = "/proc/sys/net/ipv6/conf/all/forwarding";
    std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "1")
}
