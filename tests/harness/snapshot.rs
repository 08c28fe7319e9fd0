//! What a daemon can change on its host: to compare before and after.
//!
//! Must not know: why it changes.

use crate::daemon::Paths;
use crate::topology::Lab;
use anyhow::{Result, bail};
use std::fs;

/// Addresses, XDP programs, kept neighbours, forwarding sysctls and pins of the director.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot(Vec<(&'static str, Vec<String>)>);

impl Snapshot {
    /// Looks at the director now.
    ///
    /// # Errors
    /// When a part cannot be read.
    pub fn of(lab: &Lab) -> Result<Self> {
        let run = |line: &str| lab.director.run(line);
        let addresses = sorted(&run("ip -brief addr show")?, |_| true);
        let xdp = sorted(&run("ip link show")?, |line| line.contains("xdp"));
        let kept =
            |line: &str| ["managed", "PERMANENT", "proto"].iter().any(|word| line.contains(word));
        let neighbours = sorted(&run("ip neigh show")?, kept);
        let sysctls = lab.director.enter(|| {
            FORWARDING
                .iter()
                .map(|key| Ok(format!("{key} = {}", fs::read_to_string(key)?)))
                .collect()
        })?;
        let pins = fs::read_dir(Paths::of(lab).pins).into_iter().flatten().flatten();
        let pins = pins.map(|entry| entry.path().display().to_string()).collect();
        Ok(Self(vec![
            ("addresses", addresses),
            ("XDP programs", xdp),
            ("kept neighbours", neighbours),
            (SYSCTLS, sysctls),
            ("pins", pins),
        ]))
    }

    /// The same without sysctls: `lb detach` cannot know what they were before.
    #[must_use]
    pub fn without_sysctls(mut self) -> Self {
        self.0.retain(|(what, _)| *what != SYSCTLS);
        self
    }

    /// Fails with the first difference.
    ///
    /// # Errors
    /// When something differs.
    pub fn same_as(&self, other: &Self) -> Result<()> {
        for ((what, here), (_, there)) in self.0.iter().zip(&other.0) {
            if here != there {
                bail!("{what} differ:\n{here:#?}\n{there:#?}");
            }
        }
        Ok(())
    }
}

fn sorted(text: &str, wanted: impl Fn(&str) -> bool) -> Vec<String> {
    let mut lines: Vec<String> =
        text.lines().filter(|line| wanted(line)).map(String::from).collect();
    lines.sort();
    lines
}

const SYSCTLS: &str = "sysctls";
const FORWARDING: [&str; 6] = [
    "/proc/sys/net/ipv4/ip_forward",
    "/proc/sys/net/ipv4/conf/all/forwarding",
    "/proc/sys/net/ipv4/conf/lan0/forwarding",
    "/proc/sys/net/ipv4/conf/lan0/send_redirects",
    "/proc/sys/net/ipv6/conf/all/forwarding",
    "/proc/sys/net/ipv6/conf/lan0/forwarding",
];
