//! Causes and notes in words, as logs and `lb vrrp` show them.
//!
//! Must not know: who reads them.

use std::fmt;
use std::net::IpAddr;

use crate::vrrp::fsm::{Cause, Note};

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Startup => f.write_str("started"),
            Self::Shutdown => f.write_str("stopped"),
            Self::Silence(None) => f.write_str("no master was heard"),
            Self::Silence(Some(master)) => write!(f, "the master {master} is silent"),
            Self::MasterResigned(master) => write!(f, "the master {master} resigned"),
            Self::BetterMaster { address, priority } => {
                write!(f, "{address} is master with priority {priority}")
            }
            Self::TwoOwners(other) => {
                write!(f, "{other} says that it is the address owner too and does not give way")
            }
            Self::Resigned => f.write_str("asked to resign"),
            Self::Stalled(late) => {
                write!(
                    f,
                    "this process did not run for {}, another node may be master",
                    millis(late)
                )
            }
            Self::LinkDown => f.write_str("the interface has no carrier or no address"),
            Self::Tracking => f.write_str("a tracked object failed"),
            Self::Recovered => f.write_str("what kept it from taking part is over"),
            Self::Group => f.write_str("its sync group moved"),
        }
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::DuplicateMaster(other) => write!(f, "{other} says that it is master too"),
            Self::DuplicateAddress(own) => {
                write!(f, "somebody else sends adverts from this node's address {own}")
            }
            Self::TwoOwners(other) => {
                write!(f, "{other} has priority 255 too: only one node can own the addresses")
            }
            Self::IntervalMismatch { address, interval } => write!(
                f,
                "{address} advertises every {}, which is not the configured interval",
                millis(&interval.duration())
            ),
            Self::AddressListMismatch(other) => {
                write!(f, "{other} advertises other addresses than this node has")
            }
            Self::PreemptDelay(delay) => {
                write!(f, "the master has a lower priority and is left alone for {}", millis(delay))
            }
            Self::Late(late) => write!(f, "this process was {} late", millis(late)),
        }
    }
}

impl Note {
    /// The router that it is about, if it is one.
    #[must_use]
    pub fn about(&self) -> Option<IpAddr> {
        match self {
            Self::DuplicateMaster(address)
            | Self::DuplicateAddress(address)
            | Self::TwoOwners(address)
            | Self::AddressListMismatch(address)
            | Self::IntervalMismatch { address, .. } => Some(*address),
            Self::PreemptDelay(_) | Self::Late(_) => None,
        }
    }

    /// The note's name in metrics.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::DuplicateMaster(_) => "duplicate_master",
            Self::DuplicateAddress(_) => "duplicate_address",
            Self::TwoOwners(_) => "two_owners",
            Self::IntervalMismatch { .. } => "interval_mismatch",
            Self::AddressListMismatch(_) => "address_list_mismatch",
            Self::PreemptDelay(_) => "preempt_delay",
            Self::Late(_) => "late",
        }
    }
}

fn millis(duration: &std::time::Duration) -> String {
    format!("{} ms", duration.as_millis())
}
