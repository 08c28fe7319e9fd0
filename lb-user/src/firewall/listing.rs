//! Has `nft` list this host's rules, and says what came of it in lines for people.
//!
//! There is always at least one line: if no rule is to blame, where else to look.
//!
//! Must not know: how a listing is judged, who asks.

use std::path::Path;
use std::time::Duration;

use super::judge::judge;
use super::packet::Packet;
use crate::exec::{Command, End, RunAs};

/// Which rules drop these packets: one line for each, in the order of the packets' way. Needs
/// `CAP_NET_ADMIN` and asks in the network namespace of the caller.
pub async fn ask(packets: &[Packet]) -> Vec<String> {
    let installed = PLACES.iter().find(|place| Path::new(place).exists());
    let nft = installed.copied().unwrap_or(PLACES[0]);
    let families = LEGACY_TABLES.iter().filter(|(v4, _)| packets.iter().any(|p| p.is_v4() == *v4));
    let legacy: Vec<String> = families.flat_map(|(_, file)| legacy_tables(file)).collect();
    ask_of(nft, packets, &legacy).await
}

/// [`ask`]'s rules alone, without lines about where else to look: empty when none was found.
pub async fn rules(packets: &[Packet]) -> Vec<String> {
    let mut lines = ask(packets).await;
    let elsewhere = [NOTHING_FOUND, "nft could not be asked", "legacy iptables has"];
    lines.retain(|line| !elsewhere.iter().any(|other| line.starts_with(other)));
    lines
}

/// [`ask`] with its surroundings: the program, and the tables of legacy iptables.
pub(super) async fn ask_of(nft: &str, packets: &[Packet], legacy: &[String]) -> Vec<String> {
    let (mut lines, mut is_certain) = match list(nft).await {
        Ok(listing) => judged(&listing, packets),
        Err(why) => (vec![not_looked_at(&why)], false),
    };
    if lines.is_empty() {
        lines.push(NOTHING_FOUND.to_owned());
        is_certain = false;
    }
    if !is_certain && !legacy.is_empty() {
        let tables = legacy.join(", ");
        lines.push(format!(
            "legacy iptables has rules as well (tables {tables}), which are not looked at: see \
             iptables-legacy-save and ip6tables-legacy-save"
        ));
    }
    lines
}

/// The lines about all packets, and whether each packet's loss is explained for certain.
fn judged(listing: &str, packets: &[Packet]) -> (Vec<String>, bool) {
    let (mut lines, mut is_certain) = (Vec::new(), true);
    for packet in packets {
        match judge(listing, packet) {
            Ok(found) => {
                is_certain &= found.iter().any(|line| !line.starts_with("perhaps "));
                lines.extend(found);
            }
            Err(error) => {
                return (vec![not_looked_at(&format!("its output is unreadable: {error}"))], false);
            }
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    lines.retain(|line| seen.insert(line.clone()));
    (lines, is_certain)
}

async fn list(nft: &str) -> Result<String, String> {
    let words = [nft, "-j", "-a", "list", "ruleset"].map(str::to_owned).to_vec();
    let user = RunAs::User("root".to_owned());
    let command = Command { words, user, environment: Vec::new(), timeout: TIMEOUT, alone: true };
    if !Path::new(nft).exists() {
        return Err("it is not installed (package nftables)".to_owned());
    }
    let ran = command.run_keeping(MAX_LISTING).await;
    match ran.end {
        End::Exited(0) if ran.output.len() >= MAX_LISTING => {
            Err(format!("it lists more than {} MiB", MAX_LISTING >> 20))
        }
        End::Exited(0) => Ok(ran.output),
        ref end => Err(match ran.last_line() {
            line if line.is_empty() => end.to_string(),
            line => format!("{end}: {line}"),
        }),
    }
}

fn not_looked_at(why: &str) -> String {
    format!(
        "nft could not be asked for the rule: {why}; run `nft -a list ruleset` or \
         `iptables-save` and look for what drops protocol 112"
    )
}

/// Tables of iptables that do not go through nftables; the kernel lists those of this namespace.
fn legacy_tables(file: &str) -> Vec<String> {
    let names = std::fs::read_to_string(file).unwrap_or_default();
    names.split_whitespace().map(str::to_owned).collect()
}

/// Where the distributions put it.
const PLACES: [&str; 3] = ["/usr/sbin/nft", "/usr/bin/nft", "/sbin/nft"];

/// Whether a file is about IPv4, and the file.
const LEGACY_TABLES: [(bool, &str); 2] =
    [(true, "/proc/self/net/ip_tables_names"), (false, "/proc/self/net/ip6_tables_names")];

/// Sets of a million elements are listed in less.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Bytes of a listing.
const MAX_LISTING: usize = 16 << 20;

const NOTHING_FOUND: &str = "no rule of nftables was found that does: look at `tc filter show` (ingress), at rp_filter, \
     and at IPAddressDeny= of the unit";
