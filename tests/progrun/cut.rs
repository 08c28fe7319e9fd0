//! Cutting a frame into IP fragments, as a sender or a router does.
//!
//! Nothing of the product's own parsing or checksumming is used here.

use crate::frames::{Frame, checksum};

/// The fragments of a frame's packet in order, each with at most `room` bytes of what is cut up (a
/// multiple of eight). A leading hop-by-hop header stays in every fragment (RFC 8200 4.5); the
/// other extension headers are cut up like the rest.
pub(crate) fn cut(frame: &Frame, identification: u32, room: usize) -> Vec<Vec<u8>> {
    assert!(room > 0 && room.is_multiple_of(8), "fragments end at multiples of eight bytes");
    let bytes = frame.bytes();
    let l3 = 14 + 4 * frame.tags.len();
    let is_ipv6 = frame.source.is_ipv6();
    let hops = frame.extensions.first().filter(|(number, _)| *number == 0);
    let l4 = match hops {
        _ if !is_ipv6 => l3 + 20 + frame.options.len(),
        Some((_, header)) => l3 + 40 + header.len(),
        None => l3 + 40,
    };
    let (head, body) = bytes[..bytes.len() - frame.padding].split_at(l4);
    let count = body.len().div_ceil(room);
    let piece = |(n, part): (usize, &[u8])| {
        let (offset, more) = ((n * room / 8) as u16, n + 1 < count);
        let mut head = head.to_vec();
        if is_ipv6 {
            finish6(&mut head, l3, part.len(), (offset << 3 | u16::from(more), identification));
        } else {
            let word = offset | if more { 0x2000 } else { 0 };
            finish4(&mut head, l3, part.len(), (word, identification as u16));
        }
        head.extend(part);
        head
    };
    body.chunks(room).enumerate().map(piece).collect()
}

/// The fragments of an untagged IPv4 frame without options, which may be a fragment itself.
pub(crate) fn cut_again(frame: &[u8], room: usize) -> Vec<Vec<u8>> {
    let (head, body) = frame.split_at(34);
    let word = u16::from_be_bytes([head[20], head[21]]);
    let identification = u16::from_be_bytes([head[18], head[19]]);
    let count = body.len().div_ceil(room);
    let piece = |(n, part): (usize, &[u8])| {
        let more = if n + 1 < count { 0x2000 } else { word & 0x2000 };
        let word = ((word & 0x1fff) + (n * room / 8) as u16) | more;
        let mut head = head.to_vec();
        finish4(&mut head, 14, part.len(), (word, identification));
        [&head[..], part].concat()
    };
    body.chunks(room).enumerate().map(piece).collect()
}

fn finish4(head: &mut [u8], l3: usize, length: usize, (word, identification): (u16, u16)) {
    let ip = &mut head[l3..];
    let total = (ip.len() + length) as u16;
    ip[2..4].copy_from_slice(&total.to_be_bytes());
    ip[4..6].copy_from_slice(&identification.to_be_bytes());
    ip[6..8].copy_from_slice(&word.to_be_bytes());
    ip[10..12].fill(0);
    let sum = checksum(&[ip]);
    ip[10..12].copy_from_slice(&sum.to_be_bytes());
}

/// Puts the fragment header behind the headers that stay.
fn finish6(head: &mut Vec<u8>, l3: usize, length: usize, (word, identification): (u16, u32)) {
    let at = if head.len() > l3 + 40 { l3 + 40 } else { l3 + 6 };
    let next = std::mem::replace(&mut head[at], 44);
    head.extend([next, 0]);
    head.extend(word.to_be_bytes());
    head.extend(identification.to_be_bytes());
    let payload = (head.len() - l3 - 40 + length) as u16;
    head[l3 + 4..l3 + 6].copy_from_slice(&payload.to_be_bytes());
}
