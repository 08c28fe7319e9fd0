//! Adverts that no router should send: any field wrong, from a host that is no router.
//!
//! Must not know: what a router does with them.

use crate::frame::{Mac, Wire, checksum};
use crate::netns::Netns;
use crate::pair::INTERFACE;
use crate::vrrp::packet::PROTOCOL;
use anyhow::{Result, bail};
use std::net::IpAddr;

/// An advert as it is sent; every field may be wrong.
#[derive(Clone, Debug)]
pub struct Forged {
    /// Source and destination address, of one family.
    pub ends: [IpAddr; 2],
    /// TTL or hop limit.
    pub ttl: u8,
    /// Version of the protocol.
    pub version: u8,
    /// Type of the packet.
    pub kind: u8,
    /// VRID.
    pub vrid: u8,
    /// Priority.
    pub priority: u8,
    /// The count of addresses; `None` counts them.
    pub count: Option<u8>,
    /// Version 2: the authentication type and the interval in seconds. Version 3: the reserved
    /// bits and the interval in centiseconds, as they lie in the packet.
    pub middle: [u8; 2],
    /// Added to the right checksum.
    pub checksum_error: u16,
    /// Whether the checksum covers the pseudo-header too.
    pub pseudo_header: bool,
    /// The addresses.
    pub addresses: Vec<IpAddr>,
    /// What follows the addresses.
    pub tail: Vec<u8>,
}

impl Forged {
    /// A flawless advert of version 3, 100 ms, VRID 51.
    pub fn version3(source: IpAddr, priority: u8, addresses: &[IpAddr]) -> Self {
        let group = if source.is_ipv4() { GROUP4 } else { GROUP6 };
        Self {
            ends: [source, group],
            ttl: 255,
            version: 3,
            kind: 1,
            vrid: 51,
            priority,
            count: None,
            middle: [0, 10],
            checksum_error: 0,
            pseudo_header: true,
            addresses: addresses.to_vec(),
            tail: Vec::new(),
        }
    }

    /// A flawless advert of version 2, one second, VRID 51, with a password of 8 bytes at most.
    pub fn version2(source: IpAddr, priority: u8, addresses: &[IpAddr], password: &str) -> Self {
        let mut tail = password.as_bytes().to_vec();
        tail.resize(8, 0);
        Self {
            version: 2,
            middle: [1, 1],
            pseudo_header: false,
            tail,
            ..Self::version3(source, priority, addresses)
        }
    }

    /// The frame.
    ///
    /// # Errors
    /// When the ends are of two families or the message is too long.
    pub fn frame(&self, from: Mac) -> Result<Vec<u8>> {
        let count = self.count.unwrap_or(u8::try_from(self.addresses.len())?);
        let first = self.version << 4 | self.kind;
        let mut message = vec![first, self.vrid, self.priority, count];
        message.extend(self.middle);
        message.extend([0, 0]);
        for address in &self.addresses {
            match address {
                IpAddr::V4(address) => message.extend(address.octets()),
                IpAddr::V6(address) => message.extend(address.octets()),
            }
        }
        message.extend(&self.tail);
        let length = u16::try_from(message.len())?;
        let (kind, header, pseudo) = self.ip_header(length)?;
        let covered =
            if self.pseudo_header { [&pseudo[..], &message].concat() } else { message.clone() };
        let sum = checksum(&covered).wrapping_add(self.checksum_error);
        message[6..8].copy_from_slice(&sum.to_be_bytes());
        let to = self.link_destination();
        let mut frame = [&to[..], &from, &kind, &header, &message].concat();
        frame.resize(frame.len().max(60), 0);
        Ok(frame)
    }

    /// Sends it from the interface of a host.
    ///
    /// # Errors
    /// As [`Self::frame`]; when the interface refuses.
    pub fn send(&self, from: &Netns) -> Result<()> {
        let mut wire = Wire::open(from, INTERFACE)?;
        let frame = self.frame(wire.mac())?;
        wire.send(&frame)
    }

    fn ip_header(&self, length: u16) -> Result<([u8; 2], Vec<u8>, Vec<u8>)> {
        match self.ends {
            [IpAddr::V4(source), IpAddr::V4(destination)] => {
                let ends = [source.octets(), destination.octets()].concat();
                let mut header = vec![0x45, 0xc0];
                header.extend((length + 20).to_be_bytes());
                header.extend([0, 1, 0, 0, self.ttl, PROTOCOL, 0, 0]);
                header.extend(&ends);
                let sum = checksum(&header);
                header[10..12].copy_from_slice(&sum.to_be_bytes());
                let pseudo = [&ends[..], &[0, PROTOCOL], &length.to_be_bytes()].concat();
                Ok(([8, 0], header, pseudo))
            }
            [IpAddr::V6(source), IpAddr::V6(destination)] => {
                let ends = [source.octets(), destination.octets()].concat();
                let mut header = vec![0x60, 0, 0, 0];
                header.extend(length.to_be_bytes());
                header.extend([PROTOCOL, self.ttl]);
                header.extend(&ends);
                let zeros = [0, 0, 0, PROTOCOL];
                let pseudo = [&ends[..], &[0, 0], &length.to_be_bytes(), &zeros].concat();
                Ok(([0x86, 0xdd], header, pseudo))
            }
            ends => bail!("{ends:?} are of two families"),
        }
    }

    /// The Ethernet address of a group (RFC 1112, RFC 2464), or everybody's.
    fn link_destination(&self) -> Mac {
        match self.ends[1] {
            IpAddr::V4(group) if group.is_multicast() => {
                let [_, a, b, c] = group.octets();
                [1, 0, 0x5e, a & 0x7f, b, c]
            }
            IpAddr::V6(group) if group.is_multicast() => {
                let octets = group.octets();
                [0x33, 0x33, octets[12], octets[13], octets[14], octets[15]]
            }
            _ => [0xff; 6],
        }
    }
}

const GROUP4: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(224, 0, 0, 18));
const GROUP6: IpAddr = IpAddr::V6(std::net::Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 0x12));

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vrrp::packet::{Advert, Checksum, Said};
    use std::net::Ipv6Addr;

    fn read(forged: &Forged) -> Advert {
        match Said::read(&forged.frame([2, 0, 0, 0, 0, 12]).expect("it is built")) {
            Some(Said::Advert(advert)) => advert,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn what_is_forged_is_what_is_read() {
        let (source, vip) = (IpAddr::from([10, 0, 1, 9]), IpAddr::from([10, 0, 1, 50]));
        let v2 = read(&Forged::version2(source, 200, &[vip], "1111"));
        assert_eq!((v2.version, v2.priority, v2.length), (2, 200, 20));
        assert_eq!((v2.checksum, v2.auth.as_slice()), (Checksum::Message, &b"1111\0\0\0\0"[..]));
        let v3 = Forged::version3(source, 200, &[vip]);
        assert_eq!(read(&v3).checksum, Checksum::PseudoHeader);
        assert_eq!(read(&v3).macs[1], [1, 0, 0x5e, 0, 0, 18]);
        let wrong = Forged { checksum_error: 1, ttl: 254, count: Some(3), ..v3 };
        assert_eq!(read(&wrong).checksum, Checksum::Wrong);
        assert_eq!((read(&wrong).ttl, read(&wrong).count), (254, 3));
        let source: Ipv6Addr = "fe80::9".parse().expect("an address");
        let v6 = read(&Forged::version3(source.into(), 1, &[source.into()]));
        assert_eq!((v6.checksum, v6.length), (Checksum::PseudoHeader, 24));
    }
}
