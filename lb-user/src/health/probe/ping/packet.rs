//! ICMP and ICMPv6 echo as bytes: requests, what answers them, and the filter for both.
//!
//! RFC 792 and RFC 4443. Raw IPv4 sockets deliver the IP header too, raw IPv6 sockets do not.
//!
//! Must not know: sockets, who waits for an answer.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// IPv4 or IPv6.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Family {
    /// ICMP.
    V4,
    /// ICMPv6.
    V6,
}

/// What identifies a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Echo {
    /// The process.
    pub(super) ident: u16,
    /// The request.
    pub(super) sequence: u16,
    /// Payload that only the asked host has seen.
    pub(super) token: u64,
}

/// A message that may answer a request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Message {
    /// An echo reply.
    Reply(Echo),
    /// An error about a request of ours.
    Unreachable {
        /// The request's identifier.
        ident: u16,
        /// The request's sequence number.
        sequence: u16,
        /// Where the request went.
        to: IpAddr,
        /// Why.
        why: &'static str,
    },
}

impl Echo {
    /// The request's bytes. The kernel fills in ICMPv6's checksum.
    pub(super) fn request(&self, family: Family) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[0] = match family {
            Family::V4 => 8,
            Family::V6 => 128,
        };
        bytes[4..6].copy_from_slice(&self.ident.to_be_bytes());
        bytes[6..8].copy_from_slice(&self.sequence.to_be_bytes());
        bytes[8..].copy_from_slice(&self.token.to_be_bytes());
        if family == Family::V4 {
            let sum = checksum(&bytes);
            bytes[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        bytes
    }
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8; 16]) -> u16 {
    let words = bytes.chunks_exact(2).map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
    let sum: u32 = words.sum();
    let folded = (sum & 0xffff) + (sum >> 16);
    !((folded & 0xffff) + (folded >> 16)) as u16
}

/// Reads what a raw socket delivered; `None` is nothing that concerns a ping.
pub(super) fn parse(family: Family, bytes: &[u8]) -> Option<Message> {
    match family {
        Family::V4 => {
            let icmp = bytes.get(ipv4_header(bytes)?..)?;
            let (kind, code) = (*icmp.first()?, *icmp.get(1)?);
            match kind {
                0 => reply(icmp),
                3 | 11 => {
                    let inner = icmp.get(8..)?;
                    let to = Ipv4Addr::from(array::<4>(inner, 16)?);
                    let request = inner.get(ipv4_header(inner)?..)?;
                    (inner[9] == 1 && *request.first()? == 8)
                        .then(|| unreachable(request, to.into(), why4(kind, code)))?
                }
                _ => None,
            }
        }
        Family::V6 => {
            let (kind, code) = (*bytes.first()?, *bytes.get(1)?);
            match kind {
                129 => reply(bytes),
                1 | 3 => {
                    let inner = bytes.get(8..)?;
                    let to = Ipv6Addr::from(array::<16>(inner, 24)?);
                    let request = inner.get(40..)?;
                    // Our requests have no extension headers.
                    (inner[6] == 58 && *request.first()? == 128)
                        .then(|| unreachable(request, to.into(), why6(kind, code)))?
                }
                _ => None,
            }
        }
    }
}

fn ipv4_header(bytes: &[u8]) -> Option<usize> {
    let length = usize::from(*bytes.first()? & 0x0f) * 4;
    (length >= 20).then_some(length)
}

fn reply(icmp: &[u8]) -> Option<Message> {
    Some(Message::Reply(Echo {
        ident: u16::from_be_bytes(array(icmp, 4)?),
        sequence: u16::from_be_bytes(array(icmp, 6)?),
        token: u64::from_be_bytes(array(icmp, 8)?),
    }))
}

fn unreachable(request: &[u8], to: IpAddr, why: &'static str) -> Option<Message> {
    let ident = u16::from_be_bytes(array(request, 4)?);
    let sequence = u16::from_be_bytes(array(request, 6)?);
    Some(Message::Unreachable { ident, sequence, to, why })
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at + N)?.try_into().ok()
}

fn why4(kind: u8, code: u8) -> &'static str {
    match (kind, code) {
        (11, _) => "time to live exceeded: a routing loop?",
        (_, 0) => "network unreachable",
        (_, 1) => "host unreachable",
        (_, 2) => "protocol unreachable",
        (_, 9 | 10 | 13) => "administratively prohibited: a firewall on the way",
        _ => "destination unreachable",
    }
}

fn why6(kind: u8, code: u8) -> &'static str {
    match (kind, code) {
        (3, _) => "hop limit exceeded: a routing loop?",
        (_, 0) => "no route to the host",
        (_, 1) => "administratively prohibited: a firewall on the way",
        (_, 3) => "address unreachable",
        _ => "destination unreachable",
    }
}

/// A classic BPF program, as `[code, jump if true, jump if false, value]`: replies with `ident`,
/// and errors of any kind, whose inside [`parse`] looks at.
pub(super) fn filter(family: Family, ident: u16) -> Vec<[u32; 4]> {
    let (reply, errors) = match family {
        Family::V4 => (0, [3, 11]),
        Family::V6 => (129, [1, 3]),
    };
    // X is where the ICMP header begins.
    let start = match family {
        Family::V4 => [LDX_MSH, 0, 0, 0],
        Family::V6 => [LDX_IMM, 0, 0, 0],
    };
    vec![
        start,
        [LDB_IND, 0, 0, 0],
        [JEQ, 2, 0, reply],
        [JEQ, 3, 0, errors[0]],
        [JEQ, 2, 3, errors[1]],
        [LDH_IND, 0, 0, 4],
        [JEQ, 0, 1, u32::from(ident)],
        [RET, 0, 0, u32::MAX],
        [RET, 0, 0, 0],
    ]
}

// linux/bpf_common.h
const LDX_MSH: u32 = 0xb1;
const LDX_IMM: u32 = 0x01;
const LDB_IND: u32 = 0x50;
const LDH_IND: u32 = 0x48;
const JEQ: u32 = 0x15;
const RET: u32 = 0x06;

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const ECHO: Echo = Echo { ident: 0x1234, sequence: 0x5678, token: 0x0102_0304_0506_0708 };

    /// Runs the filter as the kernel would; true lets the packet in.
    fn passes(program: &[[u32; 4]], packet: &[u8]) -> bool {
        let (mut a, mut x, mut at) = (0_u32, 0_u32, 0_usize);
        let byte = |at: u32| packet.get(at as usize).copied().map(u32::from);
        loop {
            let [code, jt, jf, k] = program[at];
            at += 1;
            match code {
                LDX_MSH => match byte(k) {
                    Some(b) => x = (b & 0xf) * 4,
                    None => return false,
                },
                LDX_IMM => x = k,
                LDB_IND => match byte(x + k) {
                    Some(b) => a = b,
                    None => return false,
                },
                LDH_IND => match (byte(x + k), byte(x + k + 1)) {
                    (Some(high), Some(low)) => a = high << 8 | low,
                    _ => return false,
                },
                JEQ => at += if a == k { jt } else { jf } as usize,
                RET => return k != 0,
                _ => panic!("instruction {code:#x}"),
            }
        }
    }

    fn ip4(inner: &[u8], to: [u8; 4], protocol: u8) -> Vec<u8> {
        let mut bytes = vec![0x46, 0, 0, 0, 0, 0, 0, 0, 64, protocol, 0, 0, 192, 0, 2, 9];
        bytes.extend(to);
        bytes.extend([0; 4]); // an option
        bytes.extend(inner);
        bytes
    }

    fn ip6(inner: &[u8], to: Ipv6Addr, next: u8) -> Vec<u8> {
        let mut bytes = vec![0x60, 0, 0, 0, 0, 0, next, 64];
        bytes.extend([0; 16]);
        bytes.extend(to.octets());
        bytes.extend(inner);
        bytes
    }

    fn icmp(kind: u8, code: u8, rest: &[u8]) -> Vec<u8> {
        let mut bytes = vec![kind, code, 0, 0, 0, 0, 0, 0];
        bytes.extend(rest);
        bytes
    }

    #[test]
    fn a_request_has_a_right_checksum() {
        let bytes = ECHO.request(Family::V4);
        assert_eq!(bytes[..2], [8, 0]);
        assert_eq!(checksum(&bytes), 0);
        assert_eq!(ECHO.request(Family::V6)[..4], [128, 0, 0, 0]);
    }

    #[test]
    fn replies_are_read_and_let_in() {
        let mut echo = ECHO.request(Family::V4);
        echo[0] = 0;
        let bytes = ip4(&echo, [192, 0, 2, 9], 1);
        assert_eq!(parse(Family::V4, &bytes), Some(Message::Reply(ECHO)));
        assert!(passes(&filter(Family::V4, ECHO.ident), &bytes));
        assert!(!passes(&filter(Family::V4, ECHO.ident + 1), &bytes), "a foreign reply");
        echo[0] = 129;
        assert_eq!(parse(Family::V6, &echo), Some(Message::Reply(ECHO)));
        assert!(passes(&filter(Family::V6, ECHO.ident), &echo));
        assert!(!passes(&filter(Family::V6, ECHO.ident + 1), &echo), "a foreign reply");
    }

    #[test]
    fn requests_of_others_are_kept_out() {
        let request = ip4(&ECHO.request(Family::V4), [192, 0, 2, 9], 1);
        assert!(!passes(&filter(Family::V4, ECHO.ident), &request));
        assert_eq!(parse(Family::V4, &request), None);
        let request = ECHO.request(Family::V6);
        assert!(!passes(&filter(Family::V6, ECHO.ident), &request));
        assert_eq!(parse(Family::V6, &request), None);
    }

    #[test]
    fn errors_name_the_host_that_was_asked() {
        let request = ECHO.request(Family::V4);
        let unreachable = |to: IpAddr, why| {
            Some(Message::Unreachable { ident: ECHO.ident, sequence: ECHO.sequence, to, why })
        };
        let inner = ip4(&request[..8], [10, 0, 0, 7], 1);
        let bytes = ip4(&icmp(3, 1, &inner), [192, 0, 2, 9], 1);
        let to = IpAddr::from([10, 0, 0, 7]);
        assert_eq!(parse(Family::V4, &bytes), unreachable(to, "host unreachable"));
        assert!(passes(&filter(Family::V4, ECHO.ident), &bytes));
        // About somebody's TCP connection.
        let bytes = ip4(&icmp(3, 3, &ip4(&request[..8], [10, 0, 0, 7], 6)), [192, 0, 2, 9], 1);
        assert_eq!(parse(Family::V4, &bytes), None);

        let request = ECHO.request(Family::V6);
        let to: Ipv6Addr = "2001:db8::7".parse().expect("an address");
        let bytes = icmp(1, 3, &ip6(&request, to, 58));
        assert_eq!(parse(Family::V6, &bytes), unreachable(to.into(), "address unreachable"));
        assert!(passes(&filter(Family::V6, ECHO.ident), &bytes));
        assert_eq!(parse(Family::V6, &icmp(1, 3, &ip6(&request, to, 6))), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..120)) {
            let _ = parse(Family::V4, &bytes);
            let _ = parse(Family::V6, &bytes);
        }

        #[test]
        fn a_cut_message_is_nothing(length in 0_usize..60) {
            let inner = ip4(&ECHO.request(Family::V4)[..8], [10, 0, 0, 7], 1);
            let bytes = ip4(&icmp(3, 1, &inner), [192, 0, 2, 9], 1);
            let whole = bytes.len();
            prop_assert_eq!(parse(Family::V4, &bytes[..length.min(whole)]).is_some(), length >= whole);
        }
    }
}
