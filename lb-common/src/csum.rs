//! Internet checksums: RFC 1624 incremental update, and the full sum for headers that we build.
//!
//! Only sums of changed words are computed on the packet path; a packet that came in with a wrong
//! checksum leaves with a wrong one, so faults stay visible to the receiver.
//!
//! Must not know: where in the frame a checksum is.

/// The change of a one's complement sum when words of a packet change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Delta(u64);

impl Delta {
    /// No change.
    pub const ZERO: Self = Self(0);

    /// A 16-bit word (as it lies in memory) changes from `old` to `new`.
    #[inline(always)]
    #[must_use]
    pub fn word(self, old: u16, new: u16) -> Self {
        Self(self.0 + (!old) as u64 + new as u64)
    }

    /// Four bytes at an even offset change from `old` to `new`, as they lie in memory.
    #[inline(always)]
    #[must_use]
    pub fn quad(self, old: u32, new: u32) -> Self {
        Self(self.0 + (!old) as u64 + new as u64)
    }

    /// Sixteen bytes at an even offset change.
    #[inline(always)]
    #[must_use]
    pub fn address(self, old: &[u32; 4], new: &[u32; 4]) -> Self {
        self.quad(old[0], new[0]).quad(old[1], new[1]).quad(old[2], new[2]).quad(old[3], new[3])
    }

    /// The checksum field after the change (RFC 1624 equation 3), as it lies in memory.
    #[inline(always)]
    pub fn apply(self, checksum: u16) -> u16 {
        !fold(self.0 + (!checksum) as u64)
    }
}

/// Folds a sum of words to 16 bits with end-around carry.
#[inline(always)]
pub fn fold(mut sum: u64) -> u16 {
    sum = (sum & 0xffff_ffff) + (sum >> 32);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum = (sum & 0xffff) + (sum >> 16);
    sum as u16
}

/// The checksum of `bytes` (RFC 1071), as it lies in memory; an odd last byte is padded with zero.
pub fn full(bytes: &[u8], start: u64) -> u16 {
    let mut sum = start;
    let mut chunks = bytes.chunks_exact(2);
    for pair in &mut chunks {
        sum += u64::from(u16::from_ne_bytes([pair[0], pair[1]]));
    }
    if let [last] = chunks.remainder() {
        sum += u64::from(u16::from_ne_bytes([*last, 0]));
    }
    !fold(sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn rfc_1624_example_does_not_give_minus_zero() {
        // RFC 1624 section 4: 0xDD2F, word 0x5555 to 0x3285, gives 0x0000 and not 0xFFFF.
        assert_eq!(Delta::ZERO.word(0x5555, 0x3285).apply(0xDD2F), 0x0000);
    }

    proptest! {
        #[test]
        fn incremental_equals_full(mut bytes in proptest::collection::vec(any::<u8>(), 24..64),
                                   quad in any::<u32>(), word in any::<u16>(), at in 0usize..4) {
            // A word that never changes keeps the sum away from the two zeros.
            bytes[22] = 0x12;
            let before = full(&bytes, 0);
            let q = at * 4;
            let old = u32::from_ne_bytes(bytes[q..q + 4].try_into().expect("four bytes"));
            let old16 = u16::from_ne_bytes(bytes[20..22].try_into().expect("two bytes"));
            bytes[q..q + 4].copy_from_slice(&quad.to_ne_bytes());
            bytes[20..22].copy_from_slice(&word.to_ne_bytes());
            let after = Delta::ZERO.quad(old, quad).word(old16, word).apply(before);
            prop_assert_eq!(after, full(&bytes, 0));
        }
    }
}
