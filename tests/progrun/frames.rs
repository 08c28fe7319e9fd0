//! Frames as they lie on the wire, built from what they say; every checksum is summed from scratch.
//!
//! A test describes a frame, changes the description into what must come out, and compares bytes.
//! Nothing of the product's own parsing, rewriting or checksumming is used here.

use std::net::IpAddr;

/// An Ethernet address.
pub(crate) type Mac = [u8; 6];

/// TCP flags.
pub(crate) mod flag {
    pub(crate) const FIN: u8 = 0x01;
    pub(crate) const SYN: u8 = 0x02;
    pub(crate) const RST: u8 = 0x04;
    pub(crate) const PSH: u8 = 0x08;
    pub(crate) const ACK: u8 = 0x10;
}

/// What an IP packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum L4 {
    /// TCP with these flags.
    Tcp(u8),
    /// UDP with a checksum.
    Udp,
    /// UDP whose sender computed none.
    UdpUnsummed,
    /// Only the payload, under this protocol number.
    Raw(u8),
}

/// A VLAN tag: its EtherType and its tag control information.
pub(crate) type Tag = (u16, u16);

/// What a frame says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame {
    /// Destination.
    pub(crate) to: Mac,
    /// Source.
    pub(crate) from: Mac,
    /// VLAN tags, outer first.
    pub(crate) tags: Vec<Tag>,
    /// Addresses, of one family.
    pub(crate) source: IpAddr,
    pub(crate) destination: IpAddr,
    /// Time to live or hop limit.
    pub(crate) ttl: u8,
    /// IPv4 options; a multiple of four bytes.
    pub(crate) options: Vec<u8>,
    /// IPv4 flags and fragment offset.
    pub(crate) fragment: u16,
    /// IPv6 extension headers: number and bytes; the first byte of each is filled in.
    pub(crate) extensions: Vec<(u8, Vec<u8>)>,
    pub(crate) l4: L4,
    /// TCP options; a multiple of four bytes.
    pub(crate) tcp_options: Vec<u8>,
    pub(crate) ports: (u16, u16),
    pub(crate) payload: Vec<u8>,
    /// Bytes after the packet, as short frames have them.
    pub(crate) padding: usize,
}

impl Frame {
    /// A frame between two ends, each an address and a port.
    pub(crate) fn new(l4: L4, source: (IpAddr, u16), destination: (IpAddr, u16)) -> Self {
        Self {
            to: [0; 6],
            from: [0; 6],
            tags: Vec::new(),
            source: source.0,
            destination: destination.0,
            ttl: 64,
            options: Vec::new(),
            fragment: 0,
            extensions: Vec::new(),
            l4,
            tcp_options: Vec::new(),
            ports: (source.1, destination.1),
            payload: b"payload".to_vec(),
            padding: 0,
        }
    }

    /// Its IP packet's length: what is counted as its bytes.
    pub(crate) fn ip_length(&self) -> u64 {
        let head = match self.source {
            IpAddr::V4(_) => 20 + self.options.len(),
            IpAddr::V6(_) => 40 + self.extensions.iter().map(|(_, e)| e.len()).sum::<usize>(),
        };
        (head + self.l4_bytes().len()) as u64
    }

    /// The frame's bytes.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut out = [self.to, self.from].concat();
        for (ethertype, control) in &self.tags {
            out.extend(ethertype.to_be_bytes());
            out.extend(control.to_be_bytes());
        }
        match self.source {
            IpAddr::V4(_) => self.add_ipv4(&mut out),
            IpAddr::V6(_) => self.add_ipv6(&mut out),
        }
        out.extend(self.l4_bytes());
        out.extend((0..self.padding).map(|i| 0xa0 | (i as u8 & 0xf)));
        out
    }

    fn protocol(&self) -> u8 {
        match self.l4 {
            L4::Tcp(_) => 6,
            L4::Udp | L4::UdpUnsummed => 17,
            L4::Raw(protocol) => protocol,
        }
    }

    fn add_ipv4(&self, out: &mut Vec<u8>) {
        out.extend([0x08, 0x00]);
        let mut head = vec![0x45 + (self.options.len() / 4) as u8, 0x10];
        head.extend((self.ip_length() as u16).to_be_bytes());
        head.extend([0x12, 0x34]);
        head.extend(self.fragment.to_be_bytes());
        head.extend([self.ttl, self.protocol(), 0, 0]);
        head.extend(octets(self.source));
        head.extend(octets(self.destination));
        head.extend(&self.options);
        let sum = checksum(&[&head]).to_be_bytes();
        head[10..12].copy_from_slice(&sum);
        out.extend(head);
    }

    fn add_ipv6(&self, out: &mut Vec<u8>) {
        out.extend([0x86, 0xdd]);
        let numbers: Vec<u8> =
            self.extensions.iter().map(|(number, _)| *number).chain([self.protocol()]).collect();
        out.extend([0x60, 0x12, 0x34, 0x56]);
        out.extend((self.ip_length() as u16 - 40).to_be_bytes());
        out.extend([numbers[0], self.ttl]);
        out.extend(octets(self.source));
        out.extend(octets(self.destination));
        for ((_, bytes), next) in self.extensions.iter().zip(&numbers[1..]) {
            out.push(*next);
            out.extend(&bytes[1..]);
        }
    }

    fn l4_bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        if !matches!(self.l4, L4::Raw(_)) {
            out.extend(self.ports.0.to_be_bytes());
            out.extend(self.ports.1.to_be_bytes());
        }
        match self.l4 {
            L4::Tcp(flags) => {
                out.extend([0x01, 0x02, 0x03, 0x04, 0x05, 0x06, 0x07, 0x08]);
                let words = 5 + self.tcp_options.len() / 4;
                out.extend([(words as u8) << 4, flags, 0x20, 0x00, 0, 0, 0, 0]);
                out.extend(&self.tcp_options);
                out.extend(&self.payload);
                let sum = self.l4_checksum(&out).to_be_bytes();
                out[16..18].copy_from_slice(&sum);
            }
            L4::Udp | L4::UdpUnsummed => {
                out.extend((8 + self.payload.len() as u16).to_be_bytes());
                out.extend([0, 0]);
                out.extend(&self.payload);
                if self.l4 == L4::Udp {
                    let sum = match self.l4_checksum(&out) {
                        0 => 0xffff,
                        sum => sum,
                    };
                    out[6..8].copy_from_slice(&sum.to_be_bytes());
                }
            }
            L4::Raw(_) => out.extend(&self.payload),
        }
        out
    }

    /// The sum over the pseudo header (RFC 768, 9293, 8200 8.1) and a segment whose own is zero.
    fn l4_checksum(&self, segment: &[u8]) -> u16 {
        let tail =
            [&(segment.len() as u32).to_be_bytes()[..], &[0, 0, 0, self.protocol()]].concat();
        checksum(&[&octets(self.source), &octets(self.destination), &tail, segment])
    }

    /// The UDP checksum as computed, before a zero is sent as all ones.
    pub(crate) fn computed_udp_checksum(&self) -> u16 {
        let mut segment = Self { l4: L4::UdpUnsummed, ..self.clone() }.l4_bytes();
        segment[6..8].fill(0);
        self.l4_checksum(&segment)
    }
}

/// RFC 1071 over parts of even length, but for the last.
pub(crate) fn checksum(parts: &[&[u8]]) -> u16 {
    let mut sum = 0u32;
    for pair in parts.iter().flat_map(|part| part.chunks(2)) {
        sum += u32::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u32::from(*low));
    }
    while sum > 0xffff {
        sum = (sum >> 16) + (sum & 0xffff);
    }
    !(sum as u16)
}

/// An address's bytes.
pub(crate) fn octets(address: IpAddr) -> Vec<u8> {
    match address {
        IpAddr::V4(a) => a.octets().to_vec(),
        IpAddr::V6(a) => a.octets().to_vec(),
    }
}

/// Bytes as a dump, for what a failed comparison says.
pub(crate) fn hex(bytes: &[u8]) -> String {
    let line = |(i, chunk): (usize, &[u8])| {
        let digits: Vec<String> = chunk.iter().map(|b| format!("{b:02x}")).collect();
        format!("{:4}: {}\n", i * 16, digits.join(" "))
    };
    bytes.chunks(16).enumerate().map(line).collect()
}

#[test]
fn the_checksum_is_that_of_rfc_1071() {
    // The example of its section 3: the sum is ddf2.
    assert_eq!(checksum(&[&[0x00, 0x01, 0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
    assert_eq!(checksum(&[&[0x00, 0x01], &[0xf2, 0x03, 0xf4, 0xf5, 0xf6, 0xf7]]), !0xddf2);
}
