//! One write to the maps.
//!
//! A plan is a list of them in an order that is safe to stop at any place: what a table or a
//! service names is written before it, and what nothing names any more is cleared after.
//!
//! Must not know: file descriptors, errors of the kernel.

use std::sync::Arc;

use lb_common::conn::Timeouts;
use lb_common::pod::Address;
use lb_common::service::{Interface, RealServer, ServiceEntry, ServiceKey};

use super::installed::{Installed, Settings};
use super::lists::{Denial, List};
use super::wanted::VirtualMac;
use crate::model::Prefix;

/// A write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MapOp {
    /// The settings in `config`; the heartbeat stays.
    SetConfig(Settings),
    /// An element of `timeouts`.
    SetTimeouts {
        /// Its index.
        profile: u32,
        /// Its value.
        value: Timeouts,
    },
    /// An element of `interfaces`.
    SetInterface {
        /// Its index.
        ifindex: u32,
        /// Its value; all zero is an unknown interface.
        value: Interface,
    },
    /// An element of `virtual_macs`.
    SetVirtualMac {
        /// The address.
        mac: VirtualMac,
        /// Whether frames to it are for this node.
        served: bool,
    },
    /// Zeroes `conn_counts` and `traffic` of an element that is about to be taken into use.
    ClearCounts {
        /// The real server.
        index: u32,
    },
    /// An element of `real_servers`.
    SetRealServer {
        /// Its index.
        index: u32,
        /// Its value.
        value: RealServer,
    },
    /// Zeroes the cursor and the retired traffic of an id that is about to be taken into use.
    ClearService {
        /// The id.
        id: u32,
    },
    /// Entries of `slots` that no service names yet.
    WriteSlots {
        /// The first one.
        base: u32,
        /// Their values.
        slots: Arc<[u32]>,
    },
    /// An entry of `vips`.
    SetVip {
        /// The address.
        address: Address,
    },
    /// A word of `filter`.
    SetFilter {
        /// Its index.
        word: u32,
        /// All of its bits.
        bits: u64,
    },
    /// An entry of `services`.
    SetService {
        /// Its key.
        key: ServiceKey,
        /// Its value.
        value: ServiceEntry,
    },
    /// Removes an entry of `services`.
    RemoveService {
        /// Its key.
        key: ServiceKey,
    },
    /// Removes an entry of `vips`.
    RemoveVip {
        /// The address.
        address: Address,
    },
    /// Adds an element's `traffic` to the `retired` traffic of its service.
    RetireTraffic {
        /// The real server.
        index: u32,
        /// The id of its service.
        service: u32,
    },
    /// Adds prefixes of the file that an access list does not have.
    AddPrefixes {
        /// The list.
        list: List,
        /// At most 4096, so that each write is short.
        prefixes: Arc<[Prefix]>,
    },
    /// Removes prefixes from an access list.
    RemovePrefixes {
        /// The list.
        list: List,
        /// As above.
        prefixes: Arc<[Prefix]>,
    },
    /// An entry of the deny list; what it has counted stays.
    SetDenial {
        /// Its key.
        prefix: Prefix,
        /// Why, and until when.
        denial: Denial,
    },
}

/// Does to the model what the operation does to the maps.
pub fn apply(installed: &mut Installed, op: &MapOp) {
    installed.apply(op, &mut Vec::new());
}

/// Operations sorted into the order of a plan.
#[derive(Clone, Debug, Default)]
pub(super) struct Phases {
    /// New entries of access lists: before the setting that makes the allow list count.
    pub(super) listed: Vec<MapOp>,
    /// Settings, timeouts, interfaces, virtual MAC addresses; cursors and counts of new service ids.
    pub(super) settings: Vec<MapOp>,
    /// New and changed real servers.
    pub(super) real_servers: Vec<MapOp>,
    /// Slot tables, virtual addresses and filter bits that services need.
    pub(super) before_services: Vec<MapOp>,
    /// Services.
    pub(super) services: Vec<MapOp>,
    /// Services that left.
    pub(super) removed: Vec<MapOp>,
    /// Real servers that get a new generation: only now does no table name them any more, so no
    /// connection of the new generation is made meanwhile.
    pub(super) expired: Vec<MapOp>,
    /// Virtual addresses and filter bits that left.
    pub(super) unreachable: Vec<MapOp>,
    /// Real servers that are given back.
    pub(super) retired: Vec<MapOp>,
    /// Entries that leave access lists: after that setting, and after those that replace them.
    pub(super) unlisted: Vec<MapOp>,
}

impl Phases {
    /// The operations in order.
    pub(super) fn into_ops(self) -> Vec<MapOp> {
        [
            self.listed,
            self.settings,
            self.real_servers,
            self.before_services,
            self.services,
            self.removed,
            self.expired,
            self.unreachable,
            self.retired,
            self.unlisted,
        ]
        .concat()
    }
}
