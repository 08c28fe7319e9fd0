//! One write to the data plane's maps.
//!
//! Must not know: how a map is written.

use lb_common::conn::Timeouts;
use lb_common::pod::Address;
use lb_common::service::{Config, Interface, RealServer, ServiceEntry, ServiceKey};

/// A map operation.
#[derive(Clone, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum MapOp {
    SetRealServer { index: u32, value: RealServer },
    ClearCounts { index: u32 },
    RetireTraffic { index: u32, service: u32 },
    ClearService { id: u32 },
    WriteSlots { base: u32, slots: Vec<u32> },
    SetService { key: ServiceKey, value: ServiceEntry },
    RemoveService { key: ServiceKey },
    SetVip { address: Address },
    RemoveVip { address: Address },
    SetFilter { word: u32, bits: u64 },
    SetTimeouts { profile: u32, value: Timeouts },
    SetInterface { ifindex: u32, value: Interface },
    SetConfig(Config),
}
