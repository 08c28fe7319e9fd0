//! Access lists: prefixes of sources that are dropped, and of those that alone reach services.
//!
//! The lists are longest-prefix-match tries. A deny entry says itself whether it is in force, so a
//! ban ends by its time without a daemon; what is over hides no shorter prefix behind it, because
//! the program then asks again for a shorter one.
//!
//! Must not know: maps, who bans.

use crate::pod;

pod! {
    /// Key of an IPv4 trie. The address has eight bytes, so that values are aligned to eight.
    pub struct Prefix4 {
        /// Bits that count.
        pub len: u32,
        /// The address in network order.
        pub address: [u8; 4],
        /// Zero.
        pub pad: [u8; 4],
    }
}

pod! {
    /// Key of an IPv6 trie.
    pub struct Prefix6 {
        /// Bits that count.
        pub len: u32,
        /// The address in network order.
        pub address: [u8; 16],
    }
}

pod! {
    /// Value of every trie.
    pub struct AccessEntry {
        /// When a ban ends, in jiffies; 0 is never.
        pub expires: u64,
        /// Packets that it dropped; the program's to count.
        pub packets: u64,
        /// `ACCESS_*` flags.
        pub flags: u32,
        /// The prefix's own length.
        pub len: u32,
    }
}

/// The file lists the prefix.
pub const ACCESS_CONFIGURED: u32 = 1;
/// The prefix was banned at run time; `expires` belongs to this.
pub const ACCESS_BANNED: u32 = 2;

impl AccessEntry {
    /// Whether the entry counts at `now`, in jiffies.
    #[inline(always)]
    pub const fn is_in_force(&self, now: u64) -> bool {
        self.flags & ACCESS_CONFIGURED != 0 || self.expires == 0 || now < self.expires
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_in_force_until_its_time_unless_the_file_has_it() {
        let entry = |flags, expires| AccessEntry { flags, expires, ..AccessEntry::zeroed() };
        let check = |flags, expires, now, expected| {
            assert_eq!(entry(flags, expires).is_in_force(now), expected, "{flags} {expires} {now}");
        };
        check(ACCESS_BANNED, 0, u64::MAX, true);
        check(ACCESS_BANNED, 100, 99, true);
        check(ACCESS_BANNED, 100, 100, false);
        check(ACCESS_CONFIGURED, 0, 100, true);
        check(ACCESS_CONFIGURED | ACCESS_BANNED, 100, 200, true);
    }

    #[test]
    fn keys_are_what_the_kernels_trie_takes() {
        // The kernel keeps the value behind the address: both lengths must be multiples of eight.
        assert_eq!((size_of::<Prefix4>(), size_of::<Prefix6>()), (4 + 8, 4 + 16));
        assert_eq!(size_of::<AccessEntry>() % 8, 0);
    }
}
