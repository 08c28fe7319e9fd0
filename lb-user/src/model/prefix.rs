//! A prefix of addresses, as access lists and bans name them.
//!
//! Must not know: lists, YAML.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Addresses that agree in their first bits. An IPv4-mapped IPv6 prefix is the IPv4 one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix {
    address: IpAddr,
    len: u8,
}

impl Prefix {
    /// The prefix of this length around an address, whose further bits are dropped; `None` when
    /// its family has not as many.
    pub fn new(address: IpAddr, len: u8) -> Option<Self> {
        match address {
            IpAddr::V4(v4) => {
                let left = 32u32.checked_sub(u32::from(len))?;
                let mask = u32::MAX.checked_shl(left).unwrap_or(0);
                Some(Self { address: Ipv4Addr::from_bits(v4.to_bits() & mask).into(), len })
            }
            IpAddr::V6(v6) => {
                if let (Some(v4), Some(len)) = (v6.to_ipv4_mapped(), len.checked_sub(96)) {
                    return Self::new(v4.into(), len);
                }
                let left = 128u32.checked_sub(u32::from(len))?;
                let mask = u128::MAX.checked_shl(left).unwrap_or(0);
                Some(Self { address: Ipv6Addr::from_bits(v6.to_bits() & mask).into(), len })
            }
        }
    }

    /// Its first address.
    pub fn address(&self) -> IpAddr {
        self.address
    }

    /// Bits that count.
    pub fn length(&self) -> u8 {
        self.len
    }

    /// Whether it has every address of its family.
    pub fn is_everything(&self) -> bool {
        self.len == 0
    }

    /// The same with one bit less; `None` when there is none.
    pub fn parent(&self) -> Option<Self> {
        Self::new(self.address, self.len.checked_sub(1)?)
    }

    /// Reads `IP[/LEN]`, and says whether bits beyond the length were set and dropped.
    ///
    /// # Errors
    /// In words for whoever wrote it.
    pub fn parse(text: &str) -> Result<(Self, bool), String> {
        let (ip, len) = match text.split_once('/') {
            Some((ip, len)) => (ip, Some(len)),
            None => (text, None),
        };
        let address: IpAddr = ip
            .parse()
            .map_err(|_| format!("{} is not IP or IP/LEN, such as 198.51.100.0/24", shown(text)))?;
        let most = if address.is_ipv4() { 32 } else { 128 };
        let len = match len {
            None => most,
            Some(len) => {
                let digits = !len.is_empty() && len.bytes().all(|b| b.is_ascii_digit());
                let number = len.parse().ok().filter(|len| digits && *len <= most);
                number.ok_or_else(|| {
                    format!("{} is not a prefix length from 0 to {most}", shown(len))
                })?
            }
        };
        let wrong = || format!("{} is not a prefix", shown(text));
        let prefix = Self::new(address, len).ok_or_else(wrong)?;
        let host = Self::new(address, most).ok_or_else(wrong)?;
        Ok((prefix, prefix.address != host.address))
    }
}

/// Foreign text for a message of one line.
fn shown(text: &str) -> String {
    let start: String = text.chars().take(60).collect();
    format!("`{}`", start.escape_debug())
}

impl FromStr for Prefix {
    type Err = String;

    /// As [`Prefix::parse`]; bits beyond the length are dropped.
    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text).map(|(prefix, _)| prefix)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: Result<(&str, bool), &str>) {
        match (Prefix::parse(text), expected) {
            (Ok((prefix, cut)), Ok(expected)) => {
                assert_eq!((prefix.to_string().as_str(), cut), expected);
            }
            (Err(message), Err(part)) => assert!(message.contains(part), "{message}"),
            (found, expected) => panic!("{text}: {found:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn prefixes_are_read_and_cut_to_their_length() {
        check("198.51.100.0/24", Ok(("198.51.100.0/24", false)));
        check("198.51.100.7", Ok(("198.51.100.7/32", false)));
        check("198.51.100.7/24", Ok(("198.51.100.0/24", true)));
        check("0.0.0.0/0", Ok(("0.0.0.0/0", false)));
        check("1.2.3.4/0", Ok(("0.0.0.0/0", true)));
        check("2001:db8::/32", Ok(("2001:db8::/32", false)));
        check("2001:DB8::1", Ok(("2001:db8::1/128", false)));
        check("2001:db8::1/127", Ok(("2001:db8::/127", true)));
        check("::/0", Ok(("::/0", false)));
        check("::ffff:192.0.2.0/120", Ok(("192.0.2.0/24", false)));
        check("::ffff:192.0.2.9", Ok(("192.0.2.9/32", false)));
        check("::ffff:192.0.2.9/120", Ok(("192.0.2.0/24", true)));
        check("::ffff:0:0/95", Ok(("::fffe:0:0/95", true)));
        for wrong in ["", "/24", "1.2.3", "1.2.3.4/", "eth0", "[::1]", "1.2.3.4 /8", "1.2.3.4:80"] {
            check(wrong, Err("is not"));
        }
        check("1.2.3.4/33", Err("from 0 to 32"));
        check("1.2.3.4/+8", Err("from 0 to 32"));
        check("::1/129", Err("from 0 to 128"));
        check("::1/256", Err("from 0 to 128"));
    }

    #[test]
    fn parents_lead_to_everything() {
        let mut prefix: Prefix = "198.51.100.7".parse().expect("a prefix");
        let mut steps = 0;
        while let Some(parent) = prefix.parent() {
            prefix = parent;
            steps += 1;
        }
        assert!(prefix.is_everything());
        assert_eq!((steps, prefix.to_string().as_str()), (32, "0.0.0.0/0"));
    }
}
