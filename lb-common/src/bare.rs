//! TCP segments that the director makes itself: headers alone, without options or data.
//!
//! An RST that answers a segment (RFC 9293 3.10.7.1) and the ACK that provokes an answer (3.10.7.4).
//!
//! Must not know: when one is sent, frames.

use crate::csum;
use crate::encap::{header4, header6};
use crate::key::{ConnKey, ConnKey4, ConnKey6};
use crate::pod::Pod;
use crate::wire::TCP;

/// A family whose bare segments can be made.
pub trait Bare: ConnKey {
    /// Its IP header and a TCP header.
    type Headers: Pod;

    /// The segment from this key's source to its destination. The sequence number, and the one that
    /// is acknowledged, are as they lie in a packet.
    fn bare(&self, sequence: u32, acknowledged: u32, flags: u8) -> Self::Headers;
}

impl Bare for ConnKey4 {
    type Headers = [u32; 10];

    #[inline(always)]
    fn bare(&self, sequence: u32, acknowledged: u32, flags: u8) -> Self::Headers {
        let (source, destination) = (self.source_words()[3], self.destination_words()[3]);
        let addresses = u64::from(source) + u64::from(destination);
        let [a, b, c, d, e] = segment(self.ports(), [sequence, acknowledged], flags, addresses);
        let length = size_of::<Self::Headers>() as u16;
        let [f, g, h, i, j] = header4(0, length, TCP, [source, destination]);
        [f, g, h, i, j, a, b, c, d, e]
    }
}

impl Bare for ConnKey6 {
    type Headers = [u32; 15];

    #[inline(always)]
    fn bare(&self, sequence: u32, acknowledged: u32, flags: u8) -> Self::Headers {
        let (source, destination) = (self.source_words(), self.destination_words());
        let sum =
            |[a, b, c, d]: [u32; 4]| u64::from(a) + u64::from(b) + u64::from(c) + u64::from(d);
        let addresses = sum(source) + sum(destination);
        let [a, b, c, d, e] = segment(self.ports(), [sequence, acknowledged], flags, addresses);
        let [f, g, h, i, j, k, l, m, n, o] = header6((0, 0), SEGMENT, TCP, &source, &destination);
        [f, g, h, i, j, k, l, m, n, o, a, b, c, d, e]
    }
}

/// Length of a TCP header without options.
const SEGMENT: u16 = 20;

/// A TCP header without a window. `addresses` is their sum for the pseudo header.
#[inline(always)]
fn segment(
    (source, destination): (u16, u16),
    [sequence, acknowledged]: [u32; 2],
    flags: u8,
    addresses: u64,
) -> [u32; 5] {
    let ports = (u32::from(source) << 16 | u32::from(destination)).to_be();
    let control = u32::from_ne_bytes([(SEGMENT as u8 / 4) << 4, flags, 0, 0]);
    let pseudo = u32::from(TCP) << 16 | u32::from(SEGMENT);
    let sum = addresses + u64::from(pseudo.to_be());
    let sum = sum + u64::from(ports) + u64::from(sequence);
    let sum = sum + u64::from(acknowledged) + u64::from(control);
    let [a, b] = (!csum::fold(sum)).to_ne_bytes();
    [ports, sequence, acknowledged, control, u32::from_ne_bytes([a, b, 0, 0])]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod;
    use crate::state::flags;

    /// The sum over the pseudo header and the segment of a packet; 0 when it is right.
    fn sum(addresses: &[u8], segment: &[u8]) -> u16 {
        let tail = [0, 0, 0, 20, 0, 0, 0, TCP];
        csum::full(&[addresses, &tail, segment].concat(), 0)
    }

    #[test]
    fn an_ipv4_segment_is_whole() {
        let ip = |bytes| u32::from_ne_bytes(bytes);
        let key = ConnKey4::new(ip([192, 0, 2, 1]), ip([10, 0, 0, 7]), [443, 40_001], TCP);
        let headers = key.bare(0x0102_0304u32.to_be(), 0, flags::RST);
        let bytes = pod::bytes_of(&headers);
        assert_eq!((bytes.len(), &bytes[2..4], bytes[9]), (40, &[0, 40][..], TCP));
        assert_eq!(bytes[12..20], [192, 0, 2, 1, 10, 0, 0, 7]);
        assert_eq!(bytes[20..24], [1, 0xbb, 0x9c, 0x41]);
        assert_eq!(bytes[24..36], [1, 2, 3, 4, 0, 0, 0, 0, 0x50, flags::RST, 0, 0]);
        assert_eq!(csum::full(&bytes[..20], 0), 0);
        assert_eq!(sum(&bytes[12..20], &bytes[20..]), 0);
    }

    #[test]
    fn an_ipv6_segment_is_whole() {
        let words = |last: u32| [0x2001_0db8u32.to_be(), 0, 0xffff_0001, last];
        let key = ConnKey6::new(words(0xffff_ffff), words(7), [65_535, 1], TCP);
        let headers = key.bare(u32::MAX, 0x8000_0001u32.to_be(), flags::ACK);
        let bytes = pod::bytes_of(&headers);
        assert_eq!((bytes.len(), &bytes[4..8]), (60, &[0, 20, TCP, 64][..]));
        assert_eq!(bytes[..4], [0x60, 0, 0, 0]);
        assert_eq!(bytes[40..44], [0xff, 0xff, 0, 1]);
        assert_eq!(bytes[48..54], [0x80, 0, 0, 1, 0x50, flags::ACK]);
        assert_eq!(sum(&bytes[8..40], &bytes[40..]), 0);
    }
}
