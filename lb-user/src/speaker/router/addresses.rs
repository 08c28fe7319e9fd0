//! The virtual addresses of a router: put on interfaces, announced, defended and taken away.
//!
//! Must not know: the election, how the kernel is asked.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv6Addr};

use crate::speaker::hands::Hands;
use crate::speaker::kernel::Place;
use crate::speaker::protocol::Vip;
use crate::speaker::router::Router;
use crate::speaker::virtual_mac::Device;
use crate::vrrp::frame::{self, Mac};

/// Whom frames about an address come from.
#[derive(Clone, Copy)]
struct Speaks {
    ifindex: u32,
    mac: Mac,
    link_local: Option<Ipv6Addr>,
}

impl Router {
    /// All its addresses, advertised or not.
    pub(super) fn vips(&self) -> impl Iterator<Item = &Vip> {
        self.config.addresses.iter().chain(&self.config.excluded)
    }

    /// Takes its addresses. They are asked for first, but nobody's answer is waited for: it makes
    /// an address contested whenever it comes.
    pub(super) fn acquire(&mut self, handover: bool, hands: &mut Hands) {
        self.is_owner = true;
        self.contest.begin(handover);
        let asked: Vec<IpAddr> = self.vips().map(|vip| vip.address).collect();
        self.ask(&asked, hands);
        self.raise_device(hands);
        let _announced_next = self.replace(hands);
    }

    /// Makes the device again if something has removed it.
    fn renew_device(&mut self, hands: &mut Hands) {
        let gone = self.device.as_ref().filter(|device| !hands.station.has_link(device.ifindex));
        if let Some(ifindex) = gone.map(|device| device.ifindex) {
            hands.devices.remove(&ifindex);
            self.device = None;
            self.raise_device(hands);
        }
    }

    /// The device with the virtual MAC address, if there is to be one.
    fn raise_device(&mut self, hands: &mut Hands) {
        let Some((ifindex, v4)) = self.group().filter(|_| self.config.virtual_mac) else { return };
        if self.device.is_some() {
            return;
        }
        let mac = frame::virtual_mac(v4, self.config.vrid);
        let parent = (ifindex, self.config.interface.as_str());
        match Device::raise(&mut hands.kernel, parent, v4, mac) {
            Ok(device) => {
                hands.devices.insert(device.ifindex);
                self.device = Some(device);
                hands.look_again();
            }
            Err(error) => tracing::error!(
                instance = %self.config.name, %error,
                "there is no device with the virtual MAC address: the addresses have the \
                 interface's own"
            ),
        }
    }

    /// Makes what is on the interfaces what is configured; gives what was added.
    pub(super) fn replace(&mut self, hands: &mut Hands) -> Vec<IpAddr> {
        let vips: Vec<Vip> = self.vips().cloned().collect();
        let wanted: BTreeSet<Place> =
            vips.iter().filter_map(|vip| self.place(vip, hands)).collect();
        let gone: Vec<Place> = self.held.difference(&wanted).copied().collect();
        let mut missing: Vec<Place> = wanted.difference(&self.held).copied().collect();
        missing.retain(|place| !self.is_foreign(place, hands));
        self.held.retain(|place| wanted.contains(place));
        if !gone.is_empty() {
            hands.remove(&gone);
        }
        let mut added = Vec::new();
        if !missing.is_empty() {
            let new = hands.add(&missing);
            added.extend(new.iter().map(|place| place.address));
            self.held.extend(new);
        }
        if let Some(device) = &mut self.device {
            let on_device = wanted.iter().filter(|place| place.ifindex == device.ifindex);
            let addresses = on_device.map(|place| place.address).collect();
            device.rule(&mut hands.kernel, &addresses);
        }
        added
    }

    /// Whether somebody else put an address there: then it is left alone, now and at the end.
    fn is_foreign(&mut self, place: &Place, hands: &Hands) -> bool {
        let is_foreign = hands.station.holds(place) && !hands.station.is_virtual(place);
        if is_foreign && self.quiet.is_news("foreign", place.address) {
            tracing::warn!(
                instance = %self.config.name, address = %place.address,
                "the address is there already and not by VRRP: it stays when this node is backup"
            );
        }
        is_foreign
    }

    /// Gives its addresses up.
    pub(super) fn release(&mut self, hands: &mut Hands) {
        self.is_owner = false;
        self.contest.end();
        let held: Vec<Place> = std::mem::take(&mut self.held).into_iter().collect();
        if !held.is_empty() {
            hands.remove(&held);
        }
        if let Some(device) = self.device.take() {
            hands.devices.remove(&device.ifindex);
            device.lower(&mut hands.kernel);
        }
    }

    /// Announces every address `count` times.
    pub(super) fn announce(&mut self, count: u32, hands: &mut Hands) {
        let addresses: Vec<IpAddr> = self.vips().map(|vip| vip.address).collect();
        for _ in 0..count {
            self.tell(&addresses, hands);
        }
    }

    /// Goes on with what is contested, with every advert.
    pub(super) fn fight(&mut self, hands: &mut Hands) {
        let round = self.contest.advert();
        for address in &round.settled {
            tracing::info!(
                instance = %self.config.name, %address,
                "nobody else claims the address any more"
            );
        }
        self.ask(&round.ask, hands);
        self.tell(&round.announce, hands);
    }

    /// Somebody on an interface says that an address is at `mac`.
    pub(in crate::speaker) fn hear_claim(
        &mut self,
        ifindex: u32,
        address: IpAddr,
        mac: Mac,
        hands: &Hands,
    ) {
        let is_its = |vip: &Vip| {
            let is_there = || hands.station.link(&vip.interface).is_some_and(|(i, _)| i == ifindex);
            vip.address == address && is_there()
        };
        if !self.is_owner || !self.vips().any(is_its) {
            return;
        }
        if hands.station.links().any(|(_, link)| link.mac == Some(mac)) {
            return;
        }
        if self.contest.heard(address, mac) {
            self.counters.contests += 1;
            tracing::warn!(
                instance = %self.config.name, %address, mac = %text(mac),
                "somebody else claims the address too: it is announced with every advert until \
                 they are silent"
            );
        }
    }

    /// Addresses that are on this host because of it.
    pub(in crate::speaker) fn held(&self) -> impl Iterator<Item = Place> {
        self.held.iter().copied()
    }

    /// Something took an address away: it comes back.
    pub(in crate::speaker) fn put_back(&mut self, place: Place, hands: &mut Hands) {
        if !self.is_owner || hands.station.holds(&place) || !self.held.remove(&place) {
            return;
        }
        self.counters.put_back += 1;
        tracing::warn!(
            instance = %self.config.name, address = %place.address,
            "something removed the address: it is put back"
        );
        self.renew_device(hands);
        let added = self.replace(hands);
        self.tell(&added, hands);
    }

    /// Takes addresses that could not be there while their interface was not.
    pub(in crate::speaker) fn look_after(&mut self, hands: &mut Hands) {
        if self.is_owner {
            self.held.retain(|place| hands.station.has_link(place.ifindex));
            self.renew_device(hands);
            let added = self.replace(hands);
            self.tell(&added, hands);
        }
    }

    /// The same when events were lost, so that only what is there now is held.
    pub(in crate::speaker) fn look_after_everything(&mut self, hands: &mut Hands) {
        self.held.retain(|place| hands.station.holds(place));
        self.look_after(hands);
    }

    fn place(&mut self, vip: &Vip, hands: &Hands) -> Option<Place> {
        let Some((ifindex, _)) = hands.station.link(&vip.interface) else {
            if self.quiet.is_news("interface", vip.address) {
                tracing::error!(
                    instance = %self.config.name, address = %vip.address,
                    interface = %vip.interface, "there is no such interface for the address"
                );
            }
            return None;
        };
        let device = self.device.as_ref().filter(|_| vip.interface == self.config.interface);
        let ifindex = device.map_or(ifindex, |device| device.ifindex);
        Some(Place { ifindex, address: vip.address, prefix_len: vip.prefix_len })
    }

    fn ask(&self, addresses: &[IpAddr], hands: &Hands) {
        for (address, speaks) in self.speaking(addresses, hands) {
            let frame = frame::question(speaks.mac, address, speaks.link_local);
            // A lost question is asked again if there is a reason to.
            let _lost = hands.send(speaks.ifindex, &frame);
        }
    }

    fn tell(&mut self, addresses: &[IpAddr], hands: &Hands) {
        for (address, speaks) in self.speaking(addresses, hands) {
            let frame = frame::announcement(speaks.mac, address, hands.is_router);
            if hands.send(speaks.ifindex, &frame).is_ok() {
                self.counters.announcements += 1;
            }
        }
    }

    fn speaking(&self, addresses: &[IpAddr], hands: &Hands) -> Vec<(IpAddr, Speaks)> {
        let speaks = |vip: &Vip| {
            let (ifindex, link) = hands.station.link(&vip.interface)?;
            let device = self.device.as_ref().filter(|_| vip.interface == self.config.interface);
            let mac = device.map_or(link.mac, |device| Some(device.mac))?;
            let link_local = hands.station.link_local(ifindex);
            Some((vip.address, Speaks { ifindex, mac, link_local }))
        };
        self.vips().filter(|vip| addresses.contains(&vip.address)).filter_map(speaks).collect()
    }
}

fn text(mac: Mac) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}
