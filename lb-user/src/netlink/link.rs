//! Network interfaces: what a frame's way out needs to know of them.
//!
//! [`Netlink::links`] reads all of them into a [`LinkTable`]; re-read it on `LinkChanged`.
//!
//! Must not know: why an interface is asked for.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use netlink_packet_route::link::{
    InfoData, InfoKind, InfoVlan, LinkAttribute, LinkFlags, LinkInfo, LinkLayerType, LinkMessage,
};

use crate::netlink::{Netlink, NetlinkError, answer};

/// One interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Link {
    /// Interface index.
    pub index: u32,
    /// Name.
    pub name: String,
    /// MAC address; `None` when it is not an Ethernet device.
    pub mac: Option<[u8; 6]>,
    /// Administratively up (`ip link set up`).
    pub up: bool,
    /// With a carrier (IFF_RUNNING: operational state up or unknown).
    pub running: bool,
    /// Largest packet in bytes, without the Ethernet header.
    pub mtu: u32,
    /// What it is on top of.
    pub kind: LinkKind,
}

/// Kinds of interface that a frame's way out has to tell apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkKind {
    /// Frames leave through it as they are.
    Plain,
    /// An 802.1Q or 802.1ad device: frames leave through the parent with a tag.
    Vlan {
        /// Index of the parent; `None` when the parent is in another network namespace.
        parent: Option<u32>,
        /// VLAN id.
        id: u16,
    },
}

/// All interfaces by index.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct LinkTable {
    links: BTreeMap<u32, Link>,
}

impl LinkTable {
    /// The interface of this index.
    pub fn get(&self, index: u32) -> Option<&Link> {
        self.links.get(&index)
    }

    /// The interface of this name.
    pub fn by_name(&self, name: &str) -> Option<&Link> {
        self.links.values().find(|link| link.name == name)
    }

    /// All interfaces by index.
    pub fn iter(&self) -> impl Iterator<Item = &Link> {
        self.links.values()
    }
}

impl FromIterator<Link> for LinkTable {
    fn from_iter<I: IntoIterator<Item = Link>>(links: I) -> Self {
        Self { links: links.into_iter().map(|link| (link.index, link)).collect() }
    }
}

impl Netlink {
    /// Reads all interfaces.
    pub async fn links(&self) -> Result<LinkTable, NetlinkError> {
        let request = self.handle.link().get().execute();
        let messages: Vec<LinkMessage> =
            answer(|| "list interfaces".into(), request.try_collect()).await?;
        Ok(messages.iter().filter_map(parse).collect())
    }
}

/// Reads a message; `None` when it carries no name, which the kernel never sends.
pub(super) fn parse(message: &LinkMessage) -> Option<Link> {
    let flags = message.header.flags;
    let mut link = Link {
        index: message.header.index,
        name: String::new(),
        mac: None,
        up: flags.contains(LinkFlags::Up),
        running: flags.contains(LinkFlags::Running),
        mtu: 0,
        kind: LinkKind::Plain,
    };
    let mut parent = None;
    let mut other_namespace = false;
    let mut vlan = None;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => link.name.clone_from(name),
            LinkAttribute::Address(bytes)
                if message.header.link_layer_type == LinkLayerType::Ether =>
            {
                link.mac = bytes.as_slice().try_into().ok();
            }
            LinkAttribute::Mtu(mtu) => link.mtu = *mtu,
            LinkAttribute::Link(index) => parent = Some(*index),
            LinkAttribute::LinkNetNsId(_) => other_namespace = true,
            LinkAttribute::LinkInfo(infos) => vlan = vlan_id(infos),
            _ => {}
        }
    }
    if let Some(id) = vlan {
        link.kind = LinkKind::Vlan { parent: parent.filter(|_| !other_namespace), id };
    }
    (!link.name.is_empty()).then_some(link)
}

fn vlan_id(infos: &[LinkInfo]) -> Option<u16> {
    if !infos.iter().any(|info| matches!(info, LinkInfo::Kind(InfoKind::Vlan))) {
        return None;
    }
    infos.iter().find_map(|info| match info {
        LinkInfo::Data(InfoData::Vlan(vlan)) => vlan.iter().find_map(|item| match item {
            InfoVlan::Id(id) => Some(*id),
            _ => None,
        }),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vlan(attributes: Vec<LinkAttribute>) -> LinkKind {
        let mut message = LinkMessage::default();
        message.attributes = vec![
            LinkAttribute::IfName("eth0.7".into()),
            LinkAttribute::Link(3),
            LinkAttribute::LinkInfo(vec![
                LinkInfo::Kind(InfoKind::Vlan),
                LinkInfo::Data(InfoData::Vlan(vec![InfoVlan::Id(7)])),
            ]),
        ];
        message.attributes.extend(attributes);
        parse(&message).expect("a link").kind
    }

    #[test]
    fn a_vlan_names_its_parent_and_id() {
        assert_eq!(vlan(vec![]), LinkKind::Vlan { parent: Some(3), id: 7 });
    }

    #[test]
    fn a_parent_in_another_namespace_is_no_parent() {
        let elsewhere = vlan(vec![LinkAttribute::LinkNetNsId(0)]);
        assert_eq!(elsewhere, LinkKind::Vlan { parent: None, id: 7 });
    }
}
