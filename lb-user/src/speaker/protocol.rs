//! What the controller and the speaker say to each other, over a Unix socket.
//!
//! Each message is its length (four bytes, little endian) and a JSON document. The controller
//! sends [`Request`]s, the speaker [`Report`]s. The speaker outlives its controller, so either end
//! may be of another version: the speaker's first message names [`PROTOCOL`], and a controller
//! that does not speak it asks it to stop and starts its own.
//!
//! Must not know: sockets, who runs where, the configuration file.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::log::LogSettings;

/// Version of what is said here.
pub const PROTOCOL: u32 = 2;

/// The longest message that is taken, in bytes.
pub const LONGEST: usize = 16 << 20;

/// What the controller says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// Be this, with tracked objects as they are now. Instances that do not change keep their
    /// state.
    Configure(Box<Configuration>, BTreeMap<String, Vec<Tracked>>),
    /// What the tracked objects of each instance are by now; also says that the controller lives.
    Track(BTreeMap<String, Vec<Tracked>>),
    /// Give mastership of this instance up.
    Resign(String),
    /// The controller lives.
    Alive,
    /// Log so.
    Log(Box<LogSettings>),
    /// Log files were renamed: open them anew.
    ReopenLogs,
    /// Resign everything, take the addresses away, and end.
    Stop,
}

/// What the speaker says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Report {
    /// The first message.
    Hello {
        /// [`PROTOCOL`] of the speaker.
        protocol: u32,
    },
    /// A [`Request::Resign`] of this instance, or with an empty name a [`Request::Configure`], was
    /// carried out, or why it was not.
    Done(String, Result<(), String>),
    /// All instances as they are now: after each change, and once a second.
    Status(Vec<Status>),
    /// An instance or a group changed its state.
    Entered(Entered),
}

/// Everything that the speaker has to know.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Configuration {
    /// How long the addresses are kept without a controller.
    pub grace: Duration,
    /// Interfaces on which a data plane must be attached, by name.
    pub interfaces: Vec<String>,
    /// The virtual routers.
    pub instances: Vec<InstanceConfig>,
    /// Instances that change together.
    pub groups: Vec<GroupConfig>,
}

/// One virtual router.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct InstanceConfig {
    /// Its name.
    pub name: String,
    /// Its interface by name.
    pub interface: String,
    /// Virtual router identifier.
    pub vrid: u8,
    /// 2 or 3.
    pub version: u8,
    /// The configured priority.
    pub priority: u8,
    /// From one advert to the next.
    pub interval: Duration,
    /// Whether it takes over from a master of lower priority.
    pub preempt: bool,
    /// How long it lets such a master be.
    pub preempt_delay: Duration,
    /// The password of version 2, padded with zeros.
    pub password: Option<[u8; 8]>,
    /// Advertised addresses.
    pub addresses: Vec<Vip>,
    /// Addresses that are not advertised.
    pub excluded: Vec<Vip>,
    /// Where adverts leave from and go to, instead of the group.
    pub unicast: Option<(IpAddr, Vec<IpAddr>)>,
    /// Whether the addresses have the virtual router's own MAC address.
    pub virtual_mac: bool,
    /// Announcements in a block.
    pub garp_count: u32,
    /// From the first block to the second.
    pub garp_delay: Duration,
    /// Between later announcements.
    pub garp_refresh: Duration,
    /// Interfaces that must have carrier, with their weights.
    pub interfaces: Vec<(String, i16)>,
}

/// An address on an interface.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Vip {
    /// The address.
    pub address: IpAddr,
    /// Its prefix length.
    pub prefix_len: u8,
    /// The interface by name.
    pub interface: String,
}

/// A sync group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupConfig {
    /// Its name.
    pub name: String,
    /// Its instances by name.
    pub instances: Vec<String>,
}

/// A tracked object of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracked {
    /// What it is, for people: `script chk_disk`.
    pub name: String,
    /// Its weight; 0 is a condition.
    pub weight: i16,
    /// Whether it is well; `None` before the first result.
    pub well: Option<bool>,
}

/// One instance as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// Its name.
    pub name: String,
    /// `init`, `backup`, `master` or `fault`.
    pub state: String,
    /// The configured priority.
    pub priority: u8,
    /// What it is by now.
    pub effective_priority: u8,
    /// Why it differs, or why there is a fault.
    pub reasons: Vec<Reason>,
    /// The master, as far as it is known.
    pub master: Option<IpAddr>,
    /// Where its adverts leave from.
    pub source: Option<IpAddr>,
    /// The addresses that are on this node because of it.
    pub held: Vec<IpAddr>,
    /// Addresses that somebody else claims too.
    pub contested: Vec<IpAddr>,
    /// Whether its adverts come in but are dropped by a filter of this host.
    pub filtered: bool,
    /// What it counted.
    pub counters: Counters,
    /// Its last transitions, the newest last.
    pub transitions: VecDeque<Transition>,
}

/// What differs from the configured priority.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Reason {
    /// The tracked object.
    pub name: String,
    /// What it does: `+20`, `-2`, `fault`, or `pending`.
    pub part: String,
}

/// A change of state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Transition {
    /// The state that was left.
    pub from: String,
    /// The state that was entered.
    pub to: String,
    /// Why.
    pub cause: String,
    /// Milliseconds since the beginning of 1970.
    pub at_ms: u64,
}

/// Counters of an instance; they begin with the speaker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
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
    /// Times that an address was put back because something else had removed it.
    pub put_back: u64,
    /// Times that this process came to a deadline too late.
    pub late: u64,
}

/// A change of state, as it happens.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entered {
    /// Whether it is a sync group.
    pub group: bool,
    /// Its name.
    pub name: String,
    /// The state.
    pub state: String,
    /// Whether it ends.
    pub stopped: bool,
    /// The effective priority; 0 for a group.
    pub priority: u8,
    /// Why.
    pub cause: String,
}

/// A message that is not understood.
#[derive(Debug, thiserror::Error)]
pub enum ProtocolError {
    /// Longer than [`LONGEST`].
    #[error("a message of {0} bytes is too long")]
    TooLong(usize),
    /// Not what is said here.
    #[error("a message is not understood: {0}")]
    Content(#[from] serde_json::Error),
}

/// The bytes of a message.
///
/// # Errors
/// When it is too long.
pub fn encode(message: &impl Serialize) -> Result<Vec<u8>, ProtocolError> {
    let mut bytes = vec![0; 4];
    serde_json::to_writer(&mut bytes, message)?;
    let length = bytes.len() - 4;
    let field = u32::try_from(length).ok().filter(|_| length <= LONGEST);
    let field = field.ok_or(ProtocolError::TooLong(length))?;
    bytes[..4].copy_from_slice(&field.to_le_bytes());
    Ok(bytes)
}

/// Takes the first message out of what was received; `None` when it is not all there yet.
///
/// # Errors
/// When it is too long or not understood: nothing after it can be read either.
pub fn decode<T: DeserializeOwned>(received: &mut Vec<u8>) -> Result<Option<T>, ProtocolError> {
    let Some((field, rest)) = received.split_first_chunk() else { return Ok(None) };
    let length = u32::from_le_bytes(*field) as usize;
    if length > LONGEST {
        return Err(ProtocolError::TooLong(length));
    }
    let Some(body) = rest.get(..length) else { return Ok(None) };
    let message = serde_json::from_slice(body)?;
    received.drain(..4 + length);
    Ok(Some(message))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_read_as_they_were_written_in_any_pieces() {
        let tracked = Tracked { name: "script a".into(), weight: -2, well: None };
        let messages = [
            Request::Alive,
            Request::Track(BTreeMap::from([("VI_1".to_owned(), vec![tracked])])),
            Request::Configure(Box::default(), BTreeMap::new()),
        ];
        let bytes: Vec<u8> =
            messages.iter().flat_map(|message| encode(message).expect("short")).collect();
        let (mut received, mut read) = (Vec::new(), Vec::new());
        for byte in bytes {
            received.push(byte);
            while let Some(message) = decode::<Request>(&mut received).expect("valid") {
                read.push(message);
            }
        }
        assert_eq!((read.as_slice(), received.len()), (&messages[..], 0));
    }

    #[test]
    fn what_is_no_message_is_an_error_and_nothing_is_allocated_for_it() {
        let mut endless = vec![0xff, 0xff, 0xff, 0xff, b'{'];
        assert!(matches!(decode::<Request>(&mut endless), Err(ProtocolError::TooLong(_))));
        let mut strange = encode(&"Dance").expect("short");
        assert!(matches!(decode::<Request>(&mut strange), Err(ProtocolError::Content(_))));
    }
}
