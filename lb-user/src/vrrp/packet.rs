//! The bytes of an advertisement: versions 2 and 3, both directions, and their checksums.
//!
//! [`decode`] checks what the message itself says, in the order of RFC 9568 section 7.1, and
//! [`encode`] is its inverse. What depends on the datagram or on the configuration is
//! [`super::receive`]'s. The length of `message` is what the IP header says: short frames arrive
//! padded.
//!
//! Must not know: sockets, configuration, states.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use lb_common::csum;

use crate::vrrp::timing::{Interval, Version};

/// The IP protocol number of VRRP.
pub const PROTOCOL: u8 = 112;

/// The TTL and hop limit of every multicast advert (RFC 9568 sections 5.1.1.3 and 5.1.2.3).
pub const TTL: u8 = 255;

/// Where adverts go over IPv4.
pub const GROUP_V4: Ipv4Addr = Ipv4Addr::new(224, 0, 0, 18);

/// Where adverts go over IPv6.
pub const GROUP_V6: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12);

/// An advertisement, as it is said on the wire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// The version of the protocol.
    pub version: Version,
    /// Virtual router identifier.
    pub vrid: u8,
    /// The sender's priority; 0 is a master that resigns.
    pub priority: u8,
    /// The sender's advertisement interval.
    pub interval: Interval,
    /// Authentication; [`Auth::None`] in version 3.
    pub auth: Auth,
    /// Which form of checksum the message has.
    pub checksum: Checksum,
    /// The virtual addresses, of one family and in the sender's order.
    pub addresses: Vec<IpAddr>,
}

/// Authentication of version 2 (removed by RFC 3768, spoken by keepalived).
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// Type 0.
    None,
    /// Type 1: a password in clear, padded with zeros.
    Pass([u8; 8]),
    /// Another type; 2 is the IP authentication header, which is not spoken.
    Other(u8),
}

/// What a checksum covers besides the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checksum {
    /// Nothing: version 2, and the letter of RFC 9568 section 5.2.8 for IPv4.
    Message,
    /// A pseudo header with the addresses: IPv6, and what keepalived and FRR do for IPv4.
    PseudoHeader,
}

/// Why bytes are no advertisement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Neither version 2 over IPv4 nor version 3.
    #[error("version {0} is not spoken here")]
    Version(u8),
    /// Another type than ADVERTISEMENT.
    #[error("type {0} is no advertisement")]
    Type(u8),
    /// The message is not as long as it says.
    #[error("{got} bytes instead of {wanted}")]
    Length {
        /// Bytes that there are.
        got: usize,
        /// Bytes that its fields ask for.
        wanted: usize,
    },
    /// The checksum fits neither form.
    #[error("the checksum is wrong")]
    Checksum,
    /// It names no virtual address.
    #[error("it names no address")]
    NoAddress,
    /// It says that its interval is 0.
    #[error("its interval is 0")]
    NoInterval,
}

/// Why an advertisement cannot be said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum EncodeError {
    /// None, or more than 255 addresses.
    #[error("{0} addresses do not fit into an advert (1 to 255 do)")]
    AddressCount(usize),
    /// An address, or the way, of another family than the first address.
    #[error("an advert holds addresses of one family, and version 2 only IPv4")]
    Family,
    /// Version 2 says whole seconds up to 255 s, version 3 up to 40.95 s.
    #[error("the interval cannot be said in this version")]
    Interval,
    /// Authentication in version 3, or of a type that is not spoken.
    #[error("this authentication cannot be said in this version")]
    Auth,
}

impl DecodeError {
    /// The reason's name in counters.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::Version(_) => "version",
            Self::Type(_) => "type",
            Self::Length { .. } => "length",
            Self::Checksum => "checksum",
            Self::NoAddress => "address_count",
            Self::NoInterval => "interval_zero",
        }
    }
}

impl std::fmt::Debug for Auth {
    /// Says the type and never the password.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::None => f.write_str("None"),
            Self::Pass(_) => f.write_str("Pass(..)"),
            Self::Other(kind) => write!(f, "Other({kind})"),
        }
    }
}

impl Auth {
    /// The password as version 2 sends it: at most 8 bytes, padded with zeros.
    #[must_use]
    pub fn pass(password: &[u8]) -> Option<Self> {
        let mut field = [0; 8];
        field.get_mut(..password.len())?.copy_from_slice(password);
        Some(Self::Pass(field))
    }
}

/// The virtual router that a message is for, before anything is checked: to find the instance.
#[must_use]
pub fn vrid(message: &[u8]) -> Option<u8> {
    message.get(1).copied()
}

/// Reads the message of a datagram between two addresses of one family.
pub fn decode(message: &[u8], source: IpAddr, destination: IpAddr) -> Result<Packet, DecodeError> {
    let &[kind, vrid, priority, count, high, low, _, _, ..] = message else {
        return Err(DecodeError::Length { got: message.len(), wanted: HEADER });
    };
    let version = match (kind >> 4, source) {
        (2, IpAddr::V4(_)) => Version::V2,
        (3, _) => Version::V3,
        (other, _) => return Err(DecodeError::Version(other)),
    };
    if kind & 0xf != ADVERTISEMENT {
        return Err(DecodeError::Type(kind & 0xf));
    }
    let address_size = if source.is_ipv4() { 4 } else { 16 };
    let end = HEADER + usize::from(count) * address_size;
    let wanted = end + if version == Version::V2 { AUTH_DATA } else { 0 };
    if message.len() != wanted {
        return Err(DecodeError::Length { got: message.len(), wanted });
    }
    let checksum = checksum_form(version, message, source, destination)?;
    if count == 0 {
        return Err(DecodeError::NoAddress);
    }
    let interval = match version {
        Version::V2 => Interval::from_seconds(low),
        // The four high bits are reserved and ignored on receipt.
        Version::V3 => Interval::from_centiseconds(u16::from_be_bytes([high & 0xf, low])),
    };
    let auth = match (version, high) {
        (Version::V3, _) | (Version::V2, 0) => Auth::None,
        (Version::V2, 1) => Auth::pass(&message[end..]).unwrap_or(Auth::Other(1)),
        (Version::V2, other) => Auth::Other(other),
    };
    Ok(Packet {
        version,
        vrid,
        priority,
        interval: interval.ok_or(DecodeError::NoInterval)?,
        auth,
        checksum,
        addresses: message[HEADER..end].chunks_exact(address_size).filter_map(address).collect(),
    })
}

/// Writes the message that says `packet` between two addresses.
pub fn encode(
    packet: &Packet,
    source: IpAddr,
    destination: IpAddr,
) -> Result<Vec<u8>, EncodeError> {
    let count = u8::try_from(packet.addresses.len()).ok().filter(|count| *count > 0);
    let count = count.ok_or(EncodeError::AddressCount(packet.addresses.len()))?;
    let v4 = source.is_ipv4();
    let fits = |address: &IpAddr| address.is_ipv4() == v4;
    if !packet.addresses.iter().all(fits)
        || !fits(&destination)
        || (packet.version == Version::V2 && !v4)
    {
        return Err(EncodeError::Family);
    }
    if Interval::new(packet.version, packet.interval.duration()).is_none() {
        return Err(EncodeError::Interval);
    }
    let (kind, field) = match packet.version {
        Version::V2 => (0x20, packet.interval.centiseconds() / 100),
        Version::V3 => (0x30, packet.interval.centiseconds()),
    };
    let [mut high, low] = field.to_be_bytes();
    let mut tail = [0; AUTH_DATA];
    match (packet.version, packet.auth) {
        (_, Auth::None) => {}
        (Version::V2, Auth::Pass(password)) => {
            high = 1;
            tail = password;
        }
        (Version::V2, Auth::Other(_)) | (Version::V3, _) => return Err(EncodeError::Auth),
    }
    let mut message =
        vec![kind | ADVERTISEMENT, packet.vrid, packet.priority, count, high, low, 0, 0];
    for address in &packet.addresses {
        match address {
            IpAddr::V4(address) => message.extend(address.octets()),
            IpAddr::V6(address) => message.extend(address.octets()),
        }
    }
    if packet.version == Version::V2 {
        message.extend(tail);
    }
    let with_pseudo_header = match packet.version {
        Version::V2 => false,
        Version::V3 => !v4 || packet.checksum == Checksum::PseudoHeader,
    };
    let start =
        if with_pseudo_header { pseudo_header(source, destination, message.len()) } else { 0 };
    let sum = csum::full(&message, start).to_ne_bytes();
    message[6..8].copy_from_slice(&sum);
    Ok(message)
}

/// Which form the checksum of a message has, if any.
fn checksum_form(
    version: Version,
    message: &[u8],
    source: IpAddr,
    destination: IpAddr,
) -> Result<Checksum, DecodeError> {
    let correct = |start| csum::full(message, start) == 0;
    let pseudo = || correct(pseudo_header(source, destination, message.len()));
    match version {
        Version::V2 if correct(0) => Ok(Checksum::Message),
        Version::V3 if pseudo() => Ok(Checksum::PseudoHeader),
        Version::V3 if source.is_ipv4() && correct(0) => Ok(Checksum::Message),
        _ => Err(DecodeError::Checksum),
    }
}

/// The sum of the words of the pseudo header, as they lie in memory.
fn pseudo_header(source: IpAddr, destination: IpAddr, length: usize) -> u64 {
    let words = |bytes: &[u8]| -> u64 {
        bytes.chunks_exact(2).map(|pair| u64::from(u16::from_ne_bytes([pair[0], pair[1]]))).sum()
    };
    let address = |address| match address {
        IpAddr::V4(address) => words(&Ipv4Addr::octets(&address)),
        IpAddr::V6(address) => words(&Ipv6Addr::octets(&address)),
    };
    // A message is at most 8 + 255 * 16 bytes long, so the high word of IPv6's length is 0.
    let length = u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes();
    address(source) + address(destination) + words(&[0, PROTOCOL]) + words(&length)
}

fn address(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(IpAddr::from),
        _ => <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from),
    }
}

/// The only type of message.
const ADVERTISEMENT: u8 = 1;

/// Bytes before the addresses.
const HEADER: usize = 8;

/// Bytes of authentication data, always there in version 2.
const AUTH_DATA: usize = 8;
