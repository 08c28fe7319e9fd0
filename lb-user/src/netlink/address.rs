//! Addresses on interfaces: added once, removed when they are ours.
//!
//! Must not know: why an address is wanted (a VIP, VRRP), services.

use std::net::IpAddr;

use futures::TryStreamExt;
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol,
    AddressScope, CacheInfo,
};

use crate::netlink::{Netlink, NetlinkError, OWNER, Ownership, answer};

/// An address on an interface.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Address {
    /// Index of the interface.
    pub ifindex: u32,
    /// The address.
    pub address: IpAddr,
    /// Prefix length.
    pub prefix_len: u8,
}

impl Netlink {
    /// Sees to it that the address is on the interface. IPv6 addresses skip duplicate address
    /// detection, so that they serve at once, and are never chosen as a source.
    pub async fn add_address(&self, wanted: Address) -> Result<Ownership, NetlinkError> {
        let mark = AddressAttribute::Protocol(AddressProtocol::Other(OWNER));
        match self.add(wanted, AddressScope::Universe, Some(mark)).await {
            Ok(()) => Ok(Ownership::Ours),
            Err(error) if error.errno() == Some(libc::EEXIST) => {
                let ours = self.owned_addresses().await?.contains(&wanted);
                Ok(if ours { Ownership::Ours } else { Ownership::Foreign })
            }
            Err(error) => Err(error),
        }
    }

    /// Sees to it that this host takes the address as its own and never speaks for it: of scope
    /// host, so that neither ARP nor the choice of a source address uses it (IPv6: as above).
    /// Without this program's mark: no daemon's end removes it.
    pub async fn add_silent_address(&self, wanted: Address) -> Result<Ownership, NetlinkError> {
        match self.add(wanted, AddressScope::Host, None).await {
            Ok(()) => Ok(Ownership::Ours),
            Err(error) if error.errno() == Some(libc::EEXIST) => Ok(Ownership::Foreign),
            Err(error) => Err(error),
        }
    }

    async fn add(
        &self,
        wanted: Address,
        scope: AddressScope,
        mark: Option<AddressAttribute>,
    ) -> Result<(), NetlinkError> {
        let mut request =
            self.handle.address().add(wanted.ifindex, wanted.address, wanted.prefix_len);
        let message = request.message_mut();
        message.attributes.extend(mark);
        if wanted.address.is_ipv4() {
            message.header.scope = scope;
        }
        if wanted.address.is_ipv6() {
            message.header.flags |= AddressHeaderFlags::Nodad;
            message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
            // Deprecated: a /128 would win the choice of a source address by its long prefix, and
            // what this host sends to its real servers would come from the virtual address.
            let mut lifetimes = CacheInfo::default();
            lifetimes.ifa_preferred = 0;
            lifetimes.ifa_valid = u32::MAX;
            message.attributes.push(AddressAttribute::CacheInfo(lifetimes));
        }
        answer(|| format!("add address {}", describe(wanted)), request.execute()).await
    }

    /// Removes an address; one that is gone already, or whose interface is, is no error. Call it
    /// only for what [`Self::add_address`] said is ours.
    pub async fn remove_address(&self, address: Address) -> Result<(), NetlinkError> {
        let mut template =
            self.handle.address().add(address.ifindex, address.address, address.prefix_len);
        let message = std::mem::take(template.message_mut());
        let request = self.handle.address().del(message).execute();
        match answer(|| format!("remove address {}", describe(address)), request).await {
            Err(error) if matches!(error.errno(), Some(libc::EADDRNOTAVAIL | libc::ENODEV)) => {
                Ok(())
            }
            other => other,
        }
    }

    /// All addresses on this host that carry this program's mark, also those of a daemon that is
    /// gone. Kernels before 5.18 keep no mark and show none.
    pub async fn owned_addresses(&self) -> Result<Vec<Address>, NetlinkError> {
        self.marked_addresses(OWNER).await
    }

    /// All addresses on this host that carry a mark.
    pub async fn marked_addresses(&self, mark: u8) -> Result<Vec<Address>, NetlinkError> {
        let mark = AddressAttribute::Protocol(AddressProtocol::Other(mark));
        let mut messages = self.address_messages().await?;
        messages.retain(|message| message.attributes.contains(&mark));
        Ok(messages.iter().filter_map(parse).collect())
    }

    /// Removes all addresses that carry a mark, and says which.
    pub async fn remove_marked(&self, mark: u8) -> Result<Vec<Address>, NetlinkError> {
        let found = self.marked_addresses(mark).await?;
        for address in &found {
            self.remove_address(*address).await?;
        }
        Ok(found)
    }

    /// All addresses on this host.
    pub async fn addresses(&self) -> Result<Vec<Address>, NetlinkError> {
        Ok(self.address_messages().await?.iter().filter_map(parse).collect())
    }

    async fn address_messages(&self) -> Result<Vec<AddressMessage>, NetlinkError> {
        let request = self.handle.address().get().execute();
        answer(|| "list addresses".into(), request.try_collect()).await
    }
}

/// `IFA_LOCAL` is the address where both are given; on a point-to-point link `IFA_ADDRESS` is the
/// other end's.
fn parse(message: &AddressMessage) -> Option<Address> {
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(local) => address = Some(*local),
            AddressAttribute::Address(other) => address = address.or(Some(*other)),
            _ => {}
        }
    }
    let header = &message.header;
    Some(Address { ifindex: header.index, address: address?, prefix_len: header.prefix_len })
}

fn describe(address: Address) -> String {
    format!("{}/{} on interface {}", address.address, address.prefix_len, address.ifindex)
}
