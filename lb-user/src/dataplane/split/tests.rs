//! What a receiver makes of the pieces is the packet; and it notices when it is not.
//!
//! Must not know: how pieces are made.

use proptest::prelude::*;

use super::*;

/// A packet to be split.
#[derive(Clone, Debug)]
struct Sample {
    tags: Vec<u16>,
    options: Vec<u8>,
    payload: Vec<u8>,
    offset: u16,
    more: bool,
    trailing: usize,
}

impl Sample {
    fn frame(&self) -> Vec<u8> {
        let mut frame = vec![2; 12];
        for tag in &self.tags {
            frame.extend([0x81, 0]);
            frame.extend(tag.to_be_bytes());
        }
        frame.extend([8, 0]);
        let at = frame.len();
        let length = (20 + self.options.len() + self.payload.len()) as u16;
        frame.extend([0x45 + (self.options.len() / 4) as u8, 0x1c]);
        frame.extend(length.to_be_bytes());
        frame.extend([0xab, 0xcd]);
        frame.extend((u16::from(self.more) * MORE | self.offset).to_be_bytes());
        frame.extend([63, 17, 0, 0, 192, 0, 2, 1, 203, 0, 113, 9]);
        frame.extend(&self.options);
        let sum = sum_of(&frame[at..]);
        frame[at + 10..at + 12].copy_from_slice(&sum.to_be_bytes());
        frame.extend(&self.payload);
        frame.extend(vec![0x55; self.trailing]);
        frame
    }
}

/// The header checksum by RFC 1071's words.
fn sum_of(header: &[u8]) -> u16 {
    let words = header.chunks(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    !((sum & 0xffff) as u16)
        .wrapping_add((sum >> 16) as u16)
        .wrapping_add(u16::from((sum & 0xffff) + (sum >> 16) > 0xffff))
}

/// What a receiver reads of a piece.
struct Piece<'a> {
    head: &'a [u8],
    ip: &'a [u8],
    header: usize,
    word: u16,
}

impl<'a> Piece<'a> {
    fn read(frame: &'a [u8], head: usize) -> Result<Self, &'static str> {
        let (head, ip) = frame.split_at(head);
        let header = usize::from(ip[0] & 0xf) * 4;
        if ip.len() != usize::from(u16::from_be_bytes([ip[2], ip[3]])) {
            return Err("length");
        }
        if sum_of(&ip[..header]) != 0 {
            return Err("checksum");
        }
        Ok(Self { head, ip, header, word: u16::from_be_bytes([ip[6], ip[7]]) })
    }
}

/// Whether these pieces are the sample's packet for this MTU.
fn judge(sample: &Sample, mtu: usize, pieces: &[Vec<u8>]) -> Result<(), &'static str> {
    let frame = sample.frame();
    let head = 14 + 4 * sample.tags.len();
    let mut payload: Vec<u8> = Vec::new();
    for (n, bytes) in pieces.iter().enumerate() {
        let piece = Piece::read(bytes, head)?;
        let is_last = n + 1 == pieces.len();
        let body = &piece.ip[piece.header..];
        let unchanged =
            |range: std::ops::Range<usize>| piece.ip[range.clone()] == frame[head..][range];
        if piece.ip.len() > mtu {
            return Err("too long");
        }
        if piece.head != &frame[..head] || !unchanged(1..2) || !unchanged(4..6) {
            return Err("head");
        }
        if !unchanged(8..10) || !unchanged(12..20) {
            return Err("header");
        }
        if piece.word & !(MORE | OFFSET) != 0 || !is_last && body.len() % 8 != 0 {
            return Err("flags or unit");
        }
        if (piece.word & MORE != 0) != (!is_last || sample.more) {
            return Err("more fragments");
        }
        if usize::from(piece.word & OFFSET) * 8 != usize::from(sample.offset) * 8 + payload.len() {
            return Err("offset");
        }
        if n == 0 && piece.ip[20..piece.header] != sample.options {
            return Err("first options");
        }
        payload.extend(body);
    }
    if payload != sample.payload { Err("payload") } else { Ok(()) }
}

prop_compose! {
    fn samples()(
        tags in proptest::collection::vec(any::<u16>(), 0..3),
        options in prop_oneof![
            Just(vec![]),
            // Router alert is copied, record route is not.
            Just(vec![148, 4, 0, 0]),
            Just(vec![7, 7, 4, 0, 0, 0, 0, 1]),
            Just(vec![1, 148, 4, 0, 0, 7, 3, 4, 1, 1, 1, 0]),
        ],
        payload in proptest::collection::vec(any::<u8>(), 1400..9000),
        offset in prop_oneof![Just(0u16), 3u16..7000],
        more in any::<bool>(),
        trailing in 0usize..20,
    ) -> Sample {
        Sample { tags, options, payload, offset, more, trailing }
    }
}

proptest! {
    #[test]
    fn pieces_are_the_packet_and_fit(sample in samples(), mtu in 400u32..2000) {
        let pieces = split(&sample.frame(), mtu).expect("pieces");
        prop_assert_eq!(judge(&sample, mtu as usize, &pieces), Ok(()));
        // As few as can be, with the first one's header on all.
        let room = (mtu as usize - 20 - sample.options.len()) / 8 * 8;
        prop_assert_eq!(pieces.len(), sample.payload.len().div_ceil(room));
        // Splitting them again for a narrower path is the same packet still.
        let again: Vec<_> = pieces.iter().flat_map(|p| split(p, 300).expect("again")).collect();
        prop_assert_eq!(judge(&sample, 300, &again), Ok(()));
    }

    #[test]
    fn any_bytes_and_any_mtu_do_no_harm(
        mut frame in proptest::collection::vec(any::<u8>(), 0..200),
        mtu in any::<u32>(),
    ) {
        let _ = split(&frame, mtu);
        if let Some(start) = frame.get_mut(12..15) {
            start.copy_from_slice(&[8, 0, 0x4f]);
        }
        let _ = split(&frame, mtu % 128);
    }
}

fn plain() -> Sample {
    let payload = (0..3000u16).map(|n| (n % 251) as u8).collect();
    Sample { tags: vec![], options: vec![], payload, offset: 0, more: false, trailing: 0 }
}

/// Something that a wrong splitter could do.
type Fault = fn(&mut Vec<Vec<u8>>);

#[test]
fn a_wrong_piece_is_noticed() {
    let sample = plain();
    let pieces = split(&sample.frame(), 1480).expect("pieces");
    assert_eq!(pieces.iter().map(|p| p.len() - 14).collect::<Vec<_>>(), [1476, 1476, 108]);
    let faults: [(&str, Fault); 7] = [
        ("more fragments", |pieces| _ = pieces.pop()),
        ("payload", |pieces| pieces[1][500] ^= 1),
        ("offset", |pieces| pieces.swap(0, 1)),
        ("more fragments", |pieces| patch(&mut pieces[2], 20, 0x20)),
        ("offset", |pieces| patch(&mut pieces[1], 21, 1)),
        ("head", |pieces| patch(&mut pieces[1], 18, 1)),
        ("checksum", |pieces| pieces[2][24] ^= 1),
    ];
    for (expected, fault) in faults {
        let mut wrong = pieces.clone();
        fault(&mut wrong);
        assert_eq!(judge(&sample, 1480, &wrong), Err(expected));
    }
    assert_eq!(judge(&sample, 1475, &pieces), Err("too long"));
}

/// Changes a byte of the header and makes its checksum right.
fn patch(frame: &mut [u8], at: usize, bits: u8) {
    frame[at] ^= bits;
    frame[24..26].fill(0);
    let sum = sum_of(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
}

#[test]
fn later_pieces_keep_the_options_that_are_copied() {
    // Record route with two free places, then router alert, then nothing.
    let options = vec![7, 11, 4, 0, 0, 0, 0, 0, 0, 0, 0, 148, 4, 0, 1, 0];
    let sample = Sample { options: options.clone(), ..plain() };
    let pieces = split(&sample.frame(), 1480).expect("pieces");
    assert_eq!(pieces[0][34..50], options);
    for later in &pieces[1..] {
        assert_eq!((later[14], &later[34..38]), (0x46, &[148, 4, 0, 1][..]));
    }
}

#[test]
fn what_cannot_be_split_is_left() {
    let sample = plain();
    let frame = sample.frame();
    assert!(split(&frame, 1480).is_some());
    let mut dont = frame.clone();
    patch(&mut dont, 20, 0x40);
    let mut damaged = frame.clone();
    damaged[22] ^= 1;
    let v6 = [&[2; 12][..], &[0x86, 0xdd, 0x60], &[0; 100]].concat();
    let option = |options: &[u8]| Sample { options: options.to_vec(), ..plain() }.frame();
    let beyond = Sample { offset: 0x1ff0, more: true, ..plain() }.frame();
    for (what, frame, mtu) in [
        ("Don't Fragment", dont, 1480),
        ("a wrong checksum", damaged, 1480),
        ("cut short", frame[..1000].to_vec(), 1480),
        ("IPv6", v6, 60),
        ("an option without length", option(&[148, 0, 0, 0]), 1480),
        ("an option beyond the header", option(&[148, 5, 0, 0]), 1480),
        ("beyond 64 KiB", beyond, 1480),
        ("no room", frame.clone(), 27),
        ("too many", frame, 60),
    ] {
        assert_eq!(split(&frame, mtu), None, "{what}");
    }
}
