//! The access lists' tries: reading them, and what `Tables::apply` does to them.
//!
//! Prefixes of both families are one list here; each family has its own trie, because an IPv4
//! lookup in a trie of mapped addresses would walk 96 bits for nothing.
//!
//! Must not know: why a prefix is listed.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::Context;
use aya::Ebpf;
use aya::maps::Map;
use lb_common::abi;
use lb_common::access::{ACCESS_BANNED, ACCESS_CONFIGURED, AccessEntry, Prefix4, Prefix6};
use lb_common::pod::Pod;

use super::sys;
use crate::model::Prefix;
use crate::plan::{Denial, List};

/// Open tries.
pub struct Lists {
    deny: Tries,
    allow: Tries,
}

/// A list's two tries.
struct Tries {
    v4: OwnedFd,
    v6: OwnedFd,
}

/// A trie's key.
trait Key: Pod {
    const ZERO: Self;
    fn of(prefix: &Prefix) -> Option<Self>;
    fn prefix(&self) -> Option<Prefix>;
    fn len(&self) -> u32;
}

impl Key for Prefix4 {
    const ZERO: Self = Self::zeroed();

    fn of(prefix: &Prefix) -> Option<Self> {
        let IpAddr::V4(address) = prefix.address() else { return None };
        Some(Self { len: prefix.length().into(), address: address.octets(), pad: [0; 4] })
    }

    fn prefix(&self) -> Option<Prefix> {
        Prefix::new(Ipv4Addr::from(self.address).into(), u8::try_from(self.len).ok()?)
    }

    fn len(&self) -> u32 {
        self.len
    }
}

impl Key for Prefix6 {
    const ZERO: Self = Self::zeroed();

    fn of(prefix: &Prefix) -> Option<Self> {
        let IpAddr::V6(address) = prefix.address() else { return None };
        Some(Self { len: prefix.length().into(), address: address.octets() })
    }

    fn prefix(&self) -> Option<Prefix> {
        Prefix::new(Ipv6Addr::from(self.address).into(), u8::try_from(self.len).ok()?)
    }

    fn len(&self) -> u32 {
        self.len
    }
}

impl Lists {
    pub(super) fn take(ebpf: &Ebpf) -> anyhow::Result<Self> {
        Ok(Self {
            deny: Tries { v4: trie(ebpf, abi::MAP_DENY4)?, v6: trie(ebpf, abi::MAP_DENY6)? },
            allow: Tries { v4: trie(ebpf, abi::MAP_ALLOW4)?, v6: trie(ebpf, abi::MAP_ALLOW6)? },
        })
    }

    /// Whether no list has an entry.
    ///
    /// # Errors
    /// When a trie cannot be read.
    pub fn is_empty(&self) -> anyhow::Result<bool> {
        Ok(self.deny.is_empty()? && self.allow.is_empty()?)
    }

    /// The prefixes of the allow list.
    ///
    /// # Errors
    /// When a trie cannot be read.
    pub fn allowed(&self) -> anyhow::Result<Vec<Prefix>> {
        Ok(self.allow.entries()?.into_keys().collect())
    }

    /// The deny list, to be read by a thread that may block.
    ///
    /// # Errors
    /// When no descriptor is left.
    pub fn denials(&self) -> anyhow::Result<Denials> {
        let copy = |fd: &OwnedFd| fd.try_clone().context("copy a trie's descriptor");
        Ok(Denials(Tries { v4: copy(&self.deny.v4)?, v6: copy(&self.deny.v6)? }))
    }

    pub(super) fn add(&self, list: List, prefixes: &[Prefix]) -> anyhow::Result<()> {
        let denial = Denial { configured: true, banned: None };
        let tries = self.tries(list);
        add::<Prefix4>(tries.v4.as_fd(), prefixes, denial)?;
        add::<Prefix6>(tries.v6.as_fd(), prefixes, denial)
    }

    pub(super) fn remove(&self, list: List, prefixes: &[Prefix]) -> anyhow::Result<()> {
        let tries = self.tries(list);
        remove::<Prefix4>(tries.v4.as_fd(), prefixes)?;
        remove::<Prefix6>(tries.v6.as_fd(), prefixes)
    }

    pub(super) fn set(&self, prefix: &Prefix, denial: Denial) -> anyhow::Result<()> {
        match prefix.address() {
            IpAddr::V4(_) => set::<Prefix4>(self.deny.v4.as_fd(), prefix, denial),
            IpAddr::V6(_) => set::<Prefix6>(self.deny.v6.as_fd(), prefix, denial),
        }
    }

    fn tries(&self, list: List) -> &Tries {
        match list {
            List::Deny => &self.deny,
            List::Allow => &self.allow,
        }
    }
}

/// The deny list for a thread that may block.
pub struct Denials(Tries);

impl Denials {
    /// Every entry: why it is there, and the packets that it dropped.
    ///
    /// # Errors
    /// When a trie cannot be read.
    pub fn read(&self) -> anyhow::Result<Vec<(Prefix, Denial, u64)>> {
        let entries = self.0.entries()?.into_iter();
        Ok(entries.map(|(prefix, entry)| (prefix, denial(&entry), entry.packets)).collect())
    }
}

impl Tries {
    fn is_empty(&self) -> anyhow::Result<bool> {
        Ok(is_empty::<Prefix4>(self.v4.as_fd())? && is_empty::<Prefix6>(self.v6.as_fd())?)
    }

    fn entries(&self) -> anyhow::Result<BTreeMap<Prefix, AccessEntry>> {
        let mut entries = BTreeMap::new();
        walk::<Prefix4>(self.v4.as_fd(), &mut entries)?;
        walk::<Prefix6>(self.v6.as_fd(), &mut entries)?;
        Ok(entries)
    }
}

fn entry(denial: Denial, packets: u64, len: u32) -> AccessEntry {
    let configured = if denial.configured { ACCESS_CONFIGURED } else { 0 };
    let banned = if denial.banned.is_some() { ACCESS_BANNED } else { 0 };
    let expires = denial.banned.unwrap_or(0);
    AccessEntry { expires, packets, flags: configured | banned, len }
}

fn denial(entry: &AccessEntry) -> Denial {
    Denial {
        configured: entry.flags & ACCESS_CONFIGURED != 0,
        banned: (entry.flags & ACCESS_BANNED != 0).then_some(entry.expires),
    }
}

fn add<K: Key>(map: BorrowedFd<'_>, prefixes: &[Prefix], denial: Denial) -> anyhow::Result<()> {
    let keys: Vec<K> = prefixes.iter().filter_map(K::of).collect();
    let entries: Vec<_> = keys.iter().map(|key| entry(denial, 0, key.len())).collect();
    sys::update_batch(map, &keys, &entries).context("add to an access list")
}

/// What a batch that failed halfway removed already is no fault.
fn remove<K: Key>(map: BorrowedFd<'_>, prefixes: &[Prefix]) -> anyhow::Result<()> {
    let keys: Vec<K> = prefixes.iter().filter_map(K::of).collect();
    let mut left = &keys[..];
    while !left.is_empty() {
        let (done, result) = sys::delete_batch(map, left);
        let absent = match result {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => 1,
            Err(error) => return Err(error).context("remove from an access list"),
        };
        left = left.get(done + absent..).unwrap_or_default();
    }
    Ok(())
}

fn set<K: Key>(map: BorrowedFd<'_>, prefix: &Prefix, denial: Denial) -> anyhow::Result<()> {
    let key = K::of(prefix).context("a prefix of another family")?;
    let old: Option<AccessEntry> = sys::lookup(map, &key).context("read an access list")?;
    // A shorter prefix that matches is found as well.
    let packets = old.filter(|old| old.len == key.len()).map_or(0, |old| old.packets);
    let new = entry(denial, packets, key.len());
    sys::update_batch(map, &[key], &[new]).context("write an access list")
}

fn is_empty<K: Key>(map: BorrowedFd<'_>) -> anyhow::Result<bool> {
    let (mut keys, mut entries) = ([K::ZERO], [AccessEntry::zeroed()]);
    let read = sys::lookup_batch(map, &mut sys::Cursor::default(), &mut keys, &mut entries);
    Ok(read.context("read an access list")?.0 == 0)
}

/// Entries that come and go meanwhile may make the kernel begin anew: each is kept once.
fn walk<K: Key>(
    map: BorrowedFd<'_>,
    found: &mut BTreeMap<Prefix, AccessEntry>,
) -> anyhow::Result<()> {
    const CHUNK: usize = 4096;
    let (mut keys, mut entries) = (vec![K::ZERO; CHUNK], vec![AccessEntry::zeroed(); CHUNK]);
    let mut cursor = sys::Cursor::default();
    loop {
        let (count, last) = sys::lookup_batch(map, &mut cursor, &mut keys, &mut entries)
            .context("read an access list")?;
        let read = keys.iter().zip(&entries).take(count);
        // The entry of a key that went meanwhile is that of a shorter prefix.
        let own = read.filter(|(key, entry)| entry.len == key.len());
        found.extend(own.filter_map(|(key, entry)| Some((key.prefix()?, *entry))));
        if last {
            return Ok(());
        }
    }
}

/// The entries of a list that an address meets, the longest prefix first.
pub(super) fn covering(
    map: BorrowedFd<'_>,
    address: IpAddr,
) -> anyhow::Result<Vec<(Prefix, AccessEntry)>> {
    match address {
        IpAddr::V4(_) => met::<Prefix4>(map, address),
        IpAddr::V6(_) => met::<Prefix6>(map, address),
    }
}

fn met<K: Key>(map: BorrowedFd<'_>, address: IpAddr) -> anyhow::Result<Vec<(Prefix, AccessEntry)>> {
    let mut found = Vec::new();
    let mut wanted = Prefix::new(address, if address.is_ipv4() { 32 } else { 128 });
    while let Some(key) = wanted.as_ref().and_then(K::of) {
        let entry: Option<AccessEntry> = sys::lookup(map, &key).context("read an access list")?;
        let Some(entry) = entry else { break };
        let Ok(length) = u8::try_from(entry.len) else { break };
        found.extend(Prefix::new(address, length).map(|prefix| (prefix, entry)));
        wanted = length.checked_sub(1).and_then(|shorter| Prefix::new(address, shorter));
    }
    Ok(found)
}

/// Writes entries of one family to a list, or removes them.
pub(super) fn copy_entries(
    map: BorrowedFd<'_>,
    entries: &[(Prefix, AccessEntry)],
    remove_them: bool,
) -> anyhow::Result<()> {
    fn go<K: Key>(
        map: BorrowedFd<'_>,
        entries: &[(Prefix, AccessEntry)],
        remove_them: bool,
    ) -> anyhow::Result<()> {
        let (keys, values): (Vec<K>, Vec<AccessEntry>) =
            entries.iter().filter_map(|(prefix, entry)| Some((K::of(prefix)?, *entry))).unzip();
        if remove_them {
            return sys::delete_batch(map, &keys).1.context("clear an access list");
        }
        sys::update_batch(map, &keys, &values).context("write an access list")
    }
    match entries.first().map(|(prefix, _)| prefix.address()) {
        Some(IpAddr::V4(_)) => go::<Prefix4>(map, entries, remove_them),
        Some(IpAddr::V6(_)) => go::<Prefix6>(map, entries, remove_them),
        None => Ok(()),
    }
}

pub(super) fn trie(ebpf: &Ebpf, name: &str) -> anyhow::Result<OwnedFd> {
    match ebpf.map(name) {
        Some(Map::LpmTrie(map)) => Ok(map.fd().as_fd().try_clone_to_owned()?),
        _ => anyhow::bail!("the object has no trie {name}"),
    }
}
