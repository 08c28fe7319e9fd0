//! What each type of health check asks beside HTTP: UDP, DNS, SMTP, gRPC and commands.
//!
//! Must not know: sockets, processes, YAML.

use std::fmt::{self, Write as _};
use std::net::SocketAddr;
use std::time::Duration;

use hickory_proto::rr::{Name, RecordType};

/// A check of type `udp`: one datagram, and perhaps an answer.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UdpCheck {
    /// What is sent.
    pub payload: Vec<u8>,
    /// How the answer has to begin; `None` takes any answer, and silence too.
    pub reply: Option<HexPattern>,
}

/// A check of type `dns`: one question, answered with NOERROR.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct DnsCheck {
    /// Whose record is asked for, from the root.
    pub name: Name,
    /// Its type.
    pub record: RecordType,
}

/// A check of type `smtp`: greeting, EHLO, QUIT.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SmtpCheck {
    /// What the client calls itself; `None` is the address that it connects from.
    pub helo: Option<String>,
}

/// A check of type `grpc`: `grpc.health.v1.Health/Check` over HTTP/2 in the clear.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GrpcCheck {
    /// The service that is asked about; empty is the server as a whole.
    pub service: String,
}

/// A check of type `exec`: a command's exit code.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ExecCheck {
    /// Program by its absolute path, and arguments. `{address}` and `{port}` in arguments stand
    /// for those of the target.
    pub command: Vec<String>,
    /// As whom it runs.
    pub user: String,
    /// Exit codes from 2 on are successes that set the server's weight to two less (keepalived
    /// `misc_dynamic`); false: every code but 0 is a failure.
    pub dynamic_weight: bool,
}

impl ExecCheck {
    /// The command for one target. The program itself has no placeholders, so that it can be
    /// looked at beforehand.
    pub fn words(&self, target: SocketAddr) -> Vec<String> {
        let (address, port) = (target.ip().to_string(), target.port().to_string());
        let fill = |word: &String| word.replace("{address}", &address).replace("{port}", &port);
        let (program, arguments) = self.command.split_at(1.min(self.command.len()));
        program.iter().cloned().chain(arguments.iter().map(fill)).collect()
    }

    /// What it finds in its environment beside `PATH`.
    pub fn environment(target: SocketAddr, timeout: Duration) -> Vec<(String, String)> {
        vec![
            ("LB_ADDRESS".to_owned(), target.ip().to_string()),
            ("LB_PORT".to_owned(), target.port().to_string()),
            ("LB_TIMEOUT_MS".to_owned(), timeout.as_millis().to_string()),
        ]
    }
}

/// The digest that a whole body has to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Digest {
    /// SHA-256.
    Sha256([u8; 32]),
    /// MD5, as keepalived's `digest`: it finds changes, not attackers.
    Md5([u8; 16]),
}

impl Digest {
    /// Its algorithm, as it is written.
    pub fn algorithm(&self) -> &'static str {
        match self {
            Self::Sha256(_) => "sha256",
            Self::Md5(_) => "md5",
        }
    }

    /// Its bytes.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Sha256(bytes) => bytes,
            Self::Md5(bytes) => bytes,
        }
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm(), hex(self.bytes()))
    }
}

/// Bytes in hexadecimal, of which any digit may be open.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct HexPattern {
    /// Value and mask of each byte.
    bytes: Vec<(u8, u8)>,
}

impl HexPattern {
    /// Reads pairs of digits, `?` for any digit.
    ///
    /// # Errors
    /// In words, when it is none.
    pub fn new(text: &str) -> Result<Self, String> {
        let nibble = |letter: u8| match letter {
            b'?' => Ok((0, 0)),
            _ => match char::from(letter).to_digit(16) {
                Some(digit) => Ok((u8::try_from(digit).unwrap_or_default(), 0xf)),
                None => Err("has something else than hexadecimal digits and `?`".to_owned()),
            },
        };
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        let pair = |[high, low]: &[u8; 2]| {
            let ((high, high_mask), (low, low_mask)) = (nibble(*high)?, nibble(*low)?);
            Ok((high << 4 | low, high_mask << 4 | low_mask))
        };
        let bytes = pairs.iter().map(pair).collect::<Result<Vec<_>, String>>()?;
        if let [left] = rest {
            nibble(*left)?;
            return Err("has an odd number of digits; two make a byte".to_owned());
        }
        Ok(Self { bytes })
    }

    /// How many bytes it speaks of.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Whether it speaks of none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The bytes, if none of them is open.
    pub fn exactly(&self) -> Option<Vec<u8>> {
        self.bytes.iter().map(|(value, mask)| (*mask == 0xff).then_some(*value)).collect()
    }

    /// The place of the first byte that is not as it has to be, or where `seen` ends too early.
    /// What follows the pattern may be anything.
    pub fn mismatch(&self, seen: &[u8]) -> Option<usize> {
        let fits =
            |n: usize, (value, mask): (u8, u8)| seen.get(n).is_some_and(|b| b & mask == value);
        self.bytes.iter().enumerate().find(|(n, byte)| !fits(*n, **byte)).map(|(n, _)| n)
    }
}

impl fmt::Display for HexPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (value, mask) in &self.bytes {
            for (value, mask) in [(value >> 4, mask >> 4), (value & 0xf, mask & 0xf)] {
                if mask == 0 { f.write_char('?')? } else { write!(f, "{value:x}")? }
            }
        }
        Ok(())
    }
}

/// Lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing into a string does not fail.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pattern_leaves_digits_and_the_rest_open() {
        let pattern = HexPattern::new("0aF?????7?").expect("a pattern");
        assert_eq!((pattern.len(), pattern.exactly()), (5, None));
        assert_eq!(pattern.to_string(), "0af?????7?");
        assert_eq!(pattern.mismatch(&[0x0a, 0xf9, 1, 2, 0x70]), None);
        assert_eq!(pattern.mismatch(&[0x0a, 0xf9, 1, 2, 0x7f, 9, 9]), None);
        assert_eq!(pattern.mismatch(&[0x0a, 0xe9, 1, 2, 0x7f]), Some(1));
        assert_eq!(pattern.mismatch(&[0x0a, 0xf9, 1, 2]), Some(4));
        assert_eq!(pattern.mismatch(&[]), Some(0));
        for bad in ["1", "1g", "0x12", "12 34", "é"] {
            assert!(HexPattern::new(bad).is_err(), "{bad}");
        }
        assert_eq!(HexPattern::new("00ff").expect("bytes").exactly(), Some(vec![0, 255]));
    }

    #[test]
    fn placeholders_are_filled_in_arguments_only() {
        let words = ["/bin/{port}", "http://{address}:{port}/", "{address}{", "{other}"];
        let check = ExecCheck {
            command: words.map(str::to_owned).to_vec(),
            user: "nobody".to_owned(),
            dynamic_weight: true,
        };
        let target = "192.0.2.1:81".parse().expect("an address");
        let expected = ["/bin/{port}", "http://192.0.2.1:81/", "192.0.2.1{", "{other}"];
        assert_eq!(check.words(target), expected);
    }

    proptest! {
        #[test]
        fn what_is_written_out_matches_itself(bytes: Vec<u8>, more: Vec<u8>) {
            let pattern = HexPattern::new(&hex(&bytes)).expect("hexadecimal");
            prop_assert_eq!(pattern.exactly(), Some(bytes.clone()));
            prop_assert_eq!(pattern.mismatch(&bytes), None);
            prop_assert_eq!(pattern.mismatch(&[&bytes[..], &more[..]].concat()), None);
        }

        #[test]
        fn any_text_is_a_pattern_or_none(text: String) {
            if let Ok(pattern) = HexPattern::new(&text) {
                prop_assert_eq!(pattern.to_string(), text.to_lowercase());
            }
        }
    }
}
