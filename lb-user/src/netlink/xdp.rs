//! The XDP program of an interface, attached without a link object: it stays until somebody takes
//! it off or the interface goes, needs no pin, and `ip link` shows it.
//!
//! Must not know: what the program does, how it was loaded.

use std::os::fd::{AsRawFd, BorrowedFd};

use futures::TryStreamExt;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached};
use rtnetlink::LinkUnspec;
use serde::{Deserialize, Serialize};

use crate::netlink::{Netlink, NetlinkError, answer};

/// Where a program runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum XdpMode {
    /// In the driver.
    Native,
    /// In the stack, on packets that the driver has received.
    Generic,
}

impl XdpMode {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Generic => "generic",
        }
    }

    /// Flags of linux/if_link.h.
    fn flag(self) -> u32 {
        match self {
            Self::Native => 1 << 2,
            Self::Generic => 1 << 1,
        }
    }
}

impl Netlink {
    /// Id of the XDP program on an interface.
    pub async fn xdp_program(&self, ifindex: u32) -> Result<Option<u32>, NetlinkError> {
        let request = self.handle.link().get().match_index(ifindex).execute();
        let messages: Vec<LinkMessage> =
            answer(|| format!("read interface {ifindex}"), request.try_collect()).await?;
        let attributes = messages.into_iter().flat_map(|message| message.attributes);
        let xdp = attributes.filter_map(|attribute| match attribute {
            LinkAttribute::Xdp(xdp) => Some(xdp),
            _ => None,
        });
        Ok(xdp.flatten().find_map(|attribute| match attribute {
            LinkXdp::ProgId(id) if id != 0 => Some(id),
            _ => None,
        }))
    }

    /// How a program is attached to an interface, if one is.
    pub async fn xdp_mode(&self, ifindex: u32) -> Result<Option<XdpMode>, NetlinkError> {
        let request = self.handle.link().get().match_index(ifindex).execute();
        let messages: Vec<LinkMessage> =
            answer(|| format!("read interface {ifindex}"), request.try_collect()).await?;
        let attributes = messages.into_iter().flat_map(|message| message.attributes);
        let xdp = attributes.filter_map(|attribute| match attribute {
            LinkAttribute::Xdp(xdp) => Some(xdp),
            _ => None,
        });
        Ok(xdp.flatten().find_map(|attribute| match attribute {
            LinkXdp::Attached(XdpAttached::None) => None,
            LinkXdp::Attached(XdpAttached::SocketBuffer) => Some(XdpMode::Generic),
            LinkXdp::Attached(_) => Some(XdpMode::Native),
            _ => None,
        }))
    }

    /// Puts a program on an interface that has none: EBUSY or EEXIST when it has one.
    pub async fn attach_xdp(
        &self,
        ifindex: u32,
        program: BorrowedFd<'_>,
        mode: XdpMode,
    ) -> Result<(), NetlinkError> {
        let attributes =
            vec![LinkXdp::Fd(program.as_raw_fd()), LinkXdp::Flags(mode.flag() | IF_NONE)];
        let what = || format!("attach XDP ({}) to interface {ifindex}", mode.name());
        self.set_xdp(ifindex, attributes, what).await
    }

    /// Takes this program off an interface: EEXIST when another is there.
    pub async fn detach_xdp(
        &self,
        ifindex: u32,
        program: BorrowedFd<'_>,
        mode: XdpMode,
    ) -> Result<(), NetlinkError> {
        let attributes = vec![
            LinkXdp::Fd(-1),
            LinkXdp::ExpectedFd(program.as_raw_fd().cast_unsigned()),
            LinkXdp::Flags(mode.flag() | REPLACE),
        ];
        self.set_xdp(ifindex, attributes, || format!("detach XDP from interface {ifindex}")).await
    }

    async fn set_xdp(
        &self,
        ifindex: u32,
        attributes: Vec<LinkXdp>,
        what: impl Fn() -> String,
    ) -> Result<(), NetlinkError> {
        let mut message = LinkUnspec::new_with_index(ifindex).build();
        message.attributes.push(LinkAttribute::Xdp(attributes));
        answer(what, self.handle.link().change(message).execute()).await
    }
}

/// Flags of linux/if_link.h: only where no program is; only where the expected one is.
const IF_NONE: u32 = 1 << 0;
const REPLACE: u32 = 1 << 4;
