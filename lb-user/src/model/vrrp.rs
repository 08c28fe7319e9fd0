//! The sections `vrrp` and `notifications`: who owns virtual addresses, and who is told.
//!
//! Must not know: packets, states, sockets, how commands run.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use super::OwnedAddress;

/// The `vrrp` section; without instances this node speaks no VRRP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Vrrp {
    /// How long virtual addresses are kept while the controller is away.
    pub controller_grace: Duration,
    /// Scripts that instances may track.
    pub scripts: Vec<Script>,
    /// Instances in file order.
    pub instances: Vec<VrrpInstance>,
    /// Instances that change together.
    pub sync_groups: Vec<SyncGroup>,
}

impl Default for Vrrp {
    fn default() -> Self {
        Self {
            controller_grace: Duration::from_secs(5),
            scripts: Vec::new(),
            instances: Vec::new(),
            sync_groups: Vec::new(),
        }
    }
}

/// A command whose exit status says whether something is well (keepalived `vrrp_script`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Script {
    /// Unique name.
    pub name: String,
    /// Program and arguments; the program by its absolute path.
    pub command: Vec<String>,
    /// From one run to the next.
    pub interval: Duration,
    /// After which a run is killed and counts as failed.
    pub timeout: Duration,
    /// Successes in a row after which it is well.
    pub rise: u32,
    /// Failures in a row after which it is not.
    pub fall: u32,
    /// -253 to 253: its part in the priority; 0 makes it a condition.
    pub weight: i16,
    /// Whom it runs as.
    pub user: String,
}

/// The version of the protocol.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum VrrpVersion {
    /// RFC 3768: IPv4, whole seconds.
    V2,
    /// RFC 9568: both families, from 10 ms on.
    V3,
}

/// The state that an instance is said to begin in. It waits for a master to be silent in either;
/// only the address owner begins as master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InitialState {
    /// keepalived `state MASTER`.
    Master,
    /// keepalived `state BACKUP`.
    Backup,
}

/// One virtual router on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VrrpInstance {
    /// Unique name.
    pub name: String,
    /// Where adverts go and come from, by name.
    pub interface: String,
    /// VRID, 1 to 255.
    pub virtual_router_id: u8,
    /// The version it speaks.
    pub version: VrrpVersion,
    /// 1 to 255; 255 is the owner of the addresses.
    pub priority: u8,
    /// From one advert to the next; the version can say it.
    pub advertisement_interval: Duration,
    /// The state it is said to begin in.
    pub initial_state: InitialState,
    /// Whether it takes over from a master of lower priority.
    pub preempt: bool,
    /// How long it lets such a master be, from its first advert on.
    pub preempt_delay: Duration,
    /// The password of version 2.
    pub password: Option<Password>,
    /// Owned and advertised; not empty. The first one's family is the instance's.
    pub addresses: Vec<OwnedAddress>,
    /// Owned and not advertised, of any family.
    pub addresses_excluded: Vec<OwnedAddress>,
    /// Adverts go to these routers instead of the multicast group.
    pub unicast: Option<Unicast>,
    /// The addresses are on a device of their own with the MAC address of RFC 9568 section 7.3.
    pub virtual_mac: bool,
    /// How the addresses are announced.
    pub garp: Garp,
    /// What its priority depends on.
    pub track: Track,
    /// What runs at its transitions.
    pub notify: VrrpNotify,
}

/// The password of version 2: at most 8 bytes, sent in clear. Never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Password(pub String);

impl fmt::Debug for Password {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Password(..)")
    }
}

/// Adverts from router to router.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unicast {
    /// The address that adverts leave from.
    pub source: IpAddr,
    /// The other routers; not empty.
    pub peers: Vec<IpAddr>,
}

/// Gratuitous ARP and unsolicited neighbour advertisements of a master.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Garp {
    /// Announcements of each address in a block (keepalived `garp_master_repeat`).
    pub count: u32,
    /// From the first block to the second; 0 is no second one.
    pub delay: Duration,
    /// Between single ones after that; 0 is none.
    pub refresh: Duration,
}

impl Default for Garp {
    /// keepalived's: five at once, five more after 5 s, no refreshing.
    fn default() -> Self {
        Self { count: 5, delay: Duration::from_secs(5), refresh: Duration::ZERO }
    }
}

/// What an instance's priority depends on besides the data plane.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Track {
    /// Scripts by name.
    pub scripts: Vec<String>,
    /// Interfaces that must have carrier.
    pub interfaces: Vec<Weighted>,
    /// Virtual services that must have their quorum.
    pub virtual_services: Vec<Weighted>,
}

/// A tracked object with its part in the priority.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Weighted {
    /// Its name.
    pub name: String,
    /// -253 to 253; 0 makes it a condition.
    pub weight: i16,
}

/// Commands at an instance's transitions; an empty command is none. keepalived's arguments are
/// appended: type, name, state, priority.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VrrpNotify {
    /// When it becomes master.
    pub master: Vec<String>,
    /// When it becomes backup.
    pub backup: Vec<String>,
    /// When it goes into fault.
    pub fault: Vec<String>,
    /// When it ends.
    pub stop: Vec<String>,
    /// At every transition.
    pub any: Vec<String>,
    /// Whether a mail goes out too.
    pub email: bool,
}

/// Instances that are master together or not at all (keepalived `vrrp_sync_group`).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncGroup {
    /// Unique name.
    pub name: String,
    /// Its instances by name; each in one group at most.
    pub instances: Vec<String>,
    /// Commands at the group's transitions; only master, backup and fault.
    pub notify: VrrpNotify,
}

/// The `notifications` section.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Notifications {
    /// How mail goes out; `None` sends none.
    pub email: Option<Email>,
}

/// `notifications.email`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Email {
    /// The mail server's name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The sender.
    pub from: String,
    /// The receivers; not empty.
    pub to: Vec<String>,
    /// Whether the connection must turn to TLS before anything is said.
    pub starttls: bool,
    /// Whom to authenticate as; needs the password file.
    pub username: Option<String>,
    /// A file with the password, read when a mail goes out.
    pub password_file: Option<PathBuf>,
    /// For each step of a delivery.
    pub timeout: Duration,
}
