//! Virtual addresses and the address filter: what makes a packet worth a look at any table.
//!
//! Bits of the filter are only ever added. Connections of a service that left the file go on, and a
//! stale bit costs a foreign packet one lookup; new maps begin without.
//!
//! Must not know: services beyond their addresses.

use std::collections::{BTreeMap, BTreeSet};

use lb_common::hash;
use lb_common::pod::{Address, mapped, unmapped};

use super::installed::Installed;
use super::op::{MapOp, Phases};

/// Adds the operations that make exactly `vips` reachable.
pub(super) fn diff(installed: &Installed, vips: &BTreeSet<Address>, phases: &mut Phases) {
    for address in vips.difference(&installed.vips) {
        phases.before_services.push(MapOp::SetVip { address: *address });
    }
    for address in installed.vips.difference(vips) {
        phases.unreachable.push(MapOp::RemoveVip { address: *address });
    }
}

/// Adds the operations that let packets with these addresses through the filter.
pub(super) fn open<'a>(
    installed: &Installed,
    addresses: impl Iterator<Item = &'a Address>,
    phases: &mut Phases,
) {
    let mut words: BTreeMap<u32, u64> = BTreeMap::new();
    for address in addresses {
        let (word, bit) = hash::filter_place(filter_word(address));
        *words.entry(word).or_default() |= bit;
    }
    for (word, bits) in words {
        let old = installed.filter.get(&word).copied().unwrap_or(0);
        if old | bits != old {
            phases.before_services.push(MapOp::SetFilter { word, bits: old | bits });
        }
    }
}

/// What a packet to this address has as its `ConnKey::filter_word`.
fn filter_word(address: &Address) -> u32 {
    if *address == mapped(unmapped(address)) {
        return u32::from_ne_bytes(unmapped(address));
    }
    let mut words = [0; 4];
    for (word, bytes) in words.iter_mut().zip(address.as_chunks::<4>().0) {
        *word = u32::from_ne_bytes(*bytes);
    }
    hash::filter_fold(&words)
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::conn::{ConnKey, ConnKey4, ConnKey6};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_filter_word_is_that_of_packets(v4: [u8; 4], mut v6: [u8; 16]) {
            v6[0] |= 0x20;
            let packet4 = ConnKey4 { destination: v4, ..ConnKey4::zeroed() };
            let packet6 = ConnKey6 { destination: v6, ..ConnKey6::zeroed() };
            prop_assert_eq!(filter_word(&mapped(v4)), packet4.filter_word());
            prop_assert_eq!(filter_word(&v6), packet6.filter_word());
        }
    }
}
