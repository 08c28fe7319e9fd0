//! `lb vrrp`, and the `vrrp` part of `lb status`.
//!
//! Must not know: HTTP, how a document is shown, the speaker.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// `lb vrrp`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Vrrp {
    /// The process that owns the addresses: `running`, or `absent`; `none` when no instance asks
    /// for one.
    pub speaker: String,
    /// Instances in file order.
    pub instances: Vec<VrrpInstance>,
    /// Scripts in file order.
    pub scripts: Vec<VrrpScript>,
}

/// An instance in [`Vrrp`] and in `lb status`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VrrpInstance {
    /// Its name.
    pub name: String,
    /// `master`, `backup`, `fault` or `init`.
    pub state: String,
    /// The configured priority.
    pub priority: u8,
    /// The priority by now.
    pub effective_priority: u8,
    /// The virtual addresses, those that are not advertised too.
    pub addresses: Vec<String>,
    /// The master's address; empty while it is not known.
    pub master: String,
    /// The interface.
    pub interface: String,
    /// VRID.
    pub virtual_router_id: u8,
    /// 2 or 3.
    pub version: u8,
    /// Its sync group; empty without one.
    pub sync_group: String,
    /// Where its adverts leave from.
    pub source: String,
    /// Why the effective priority differs, or why there is a fault.
    pub reasons: Vec<VrrpReason>,
    /// Addresses that are on this node by now.
    pub held: Vec<String>,
    /// Addresses that somebody else claims too.
    pub contested: Vec<String>,
    /// A packet filter of this host drops VRRP.
    pub filtered: bool,
    /// The rules that do, as far as they were found.
    pub filters: Vec<String>,
    /// VRRP frames reach XDP and not the speaker.
    pub unheard: bool,
    /// The last transitions, the newest first.
    pub transitions: Vec<VrrpTransition>,
    /// What the speaker counted.
    pub counters: VrrpCounters,
}

/// A tracked object that has an effect.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VrrpReason {
    /// What it is: `script chk_disk`.
    pub name: String,
    /// `+20`, `-2`, `fault` or `pending`.
    pub effect: String,
}

/// A change of state.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VrrpTransition {
    /// RFC 3339, UTC.
    pub at: String,
    /// The state before.
    pub from: String,
    /// The state after.
    pub to: String,
    /// Why.
    pub cause: String,
}

/// Counters of an instance; they begin with the speaker.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VrrpCounters {
    /// Adverts sent.
    pub sent: u64,
    /// Adverts that could not be sent.
    pub send_errors: u64,
    /// Adverts accepted.
    pub received: u64,
    /// Of these, version 3 over IPv4 without the pseudo header in the checksum.
    pub plain_checksums: u64,
    /// Adverts refused, by reason.
    pub refused: BTreeMap<String, u64>,
    /// Frames that announce an address.
    pub announcements: u64,
    /// Times that it became master.
    pub masters: u64,
    /// Times that a second master was heard.
    pub duplicate_masters: u64,
    /// Times that an address began to be contested.
    pub contests: u64,
    /// Times that an address was put back after something had removed it.
    pub put_back: u64,
    /// Times that the speaker came to a deadline too late.
    pub late: u64,
}

/// A script in [`Vrrp`].
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VrrpScript {
    /// Its name.
    pub name: String,
    /// `up`, `down`, or `init` before its first result.
    pub state: String,
    /// How its last run ended, in words.
    pub last: String,
    /// How long that took.
    pub duration_ms: u64,
}

/// `lb vrrp resign`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Resigned {
    /// The instance.
    pub resigned: String,
}
