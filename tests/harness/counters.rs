//! What the kernels of clients and servers count: checksum errors, open sockets.
//!
//! Must not know: the product.

use crate::netns::Netns;
use anyhow::{Context, Result, bail};
use std::collections::BTreeMap;
use std::fs;

/// Checksum errors of one namespace since it was made, by counter name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChecksumErrors(BTreeMap<String, u64>);

impl ChecksumErrors {
    /// Reads every `InCsumErrors` counter: IP, ICMP, TCP, UDP, UDPv6 and the others.
    ///
    /// # Errors
    /// When the counters cannot be read.
    pub fn of(ns: &Netns) -> Result<Self> {
        let files = ns.enter(|| {
            let read = |name: &str| {
                fs::read_to_string(format!("/proc/thread-self/net/{name}"))
                    .with_context(|| format!("read {name}"))
            };
            Ok([read("snmp")?, read("netstat")?, read("snmp6")?])
        })?;
        let [snmp, netstat, snmp6] = files;
        let mut all = paired(&snmp);
        all.extend(paired(&netstat));
        all.extend(single(&snmp6));
        all.retain(|name, _| name.contains("CsumErrors"));
        if !all.contains_key("TcpInCsumErrors") {
            bail!("the kernel shows no TcpInCsumErrors");
        }
        Ok(Self(all))
    }

    /// Fails if any of them is not 0.
    ///
    /// # Errors
    /// With the counters that are not 0.
    pub fn none(&self, whose: &str) -> Result<()> {
        let bad: Vec<_> = self.0.iter().filter(|(_, count)| **count > 0).collect();
        if !bad.is_empty() {
            bail!("{whose} counted checksum errors: {bad:?}");
        }
        Ok(())
    }
}

/// ESTABLISHED sockets on local port `port`.
///
/// # Errors
/// When `ss` fails.
pub fn established(ns: &Netns, port: u16) -> Result<u64> {
    let text = ns.run(&format!("ss -Htn state established sport = :{port}"))?;
    Ok(text.lines().filter(|line| !line.trim().is_empty()).count() as u64)
}

/// `Tcp: A B` followed by `Tcp: 1 2`.
fn paired(text: &str) -> BTreeMap<String, u64> {
    let lines: Vec<&str> = text.lines().collect();
    let mut all = BTreeMap::new();
    for pair in lines.chunks_exact(2) {
        let (Some((kind, names)), Some((_, values))) =
            (pair[0].split_once(':'), pair[1].split_once(':'))
        else {
            continue;
        };
        for (name, value) in names.split_whitespace().zip(values.split_whitespace()) {
            all.insert(format!("{kind}{name}"), value.parse().unwrap_or(0));
        }
    }
    all
}

/// `Udp6InCsumErrors   0`, one a line.
fn single(text: &str) -> BTreeMap<String, u64> {
    text.lines()
        .filter_map(|line| line.split_once(char::is_whitespace))
        .map(|(name, value)| (name.to_string(), value.trim().parse().unwrap_or(0)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_are_read_in_both_layouts() {
        let snmp = "Tcp: InSegs InCsumErrors\nTcp: 7 2\n";
        assert_eq!(paired(snmp).get("TcpInCsumErrors"), Some(&2));
        let snmp6 = "Udp6InDatagrams  \t5\nUdp6InCsumErrors  \t3\n";
        assert_eq!(single(snmp6).get("Udp6InCsumErrors"), Some(&3));
    }

    #[test]
    fn one_checksum_error_is_found() {
        let clean = ChecksumErrors(BTreeMap::from([("TcpInCsumErrors".into(), 0)]));
        clean.none("the client").expect("all are 0");
        let bad = ChecksumErrors(BTreeMap::from([("TcpInCsumErrors".into(), 1)]));
        assert!(bad.none("the client").is_err());
    }
}
