//! Maglev tables (Eisenbud et al., NSDI 2016, section 3.4) with weights as IPVS `mh` has them.
//!
//! A table depends on the servers' identities and weights alone, never on their order, so two
//! directors with the same file send a flow to the same server. [`size`] follows the configured
//! servers, not the healthy ones: a failed check must not move other servers' flows.
//!
//! Must not know: flows, slot regions, why a weight is what it is.

use lb_common::hash::{self, OFFSET_SEED, SKIP_SEED};
use lb_common::pod::Address;

/// What a server's place in the table is made from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// Its address.
    pub address: Address,
    /// Its port.
    pub port: u16,
}

/// A server that wants slots.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Server {
    /// Who it is.
    pub identity: Identity,
    /// Its share; 0 gets no slot.
    pub weight: u32,
    /// What its slots hold.
    pub index: u32,
}

/// Table sizes: primes, so that every skip visits every slot.
const SIZES: [u32; 10] = [251, 509, 1021, 2039, 4093, 8191, 16_381, 32_749, 65_521, 131_071];

/// What a table is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Use {
    /// Flows without an entry, of a service whose scheduler does not hash: shares to about 1 %.
    Fallback,
    /// Every flow of sh and mh: fine enough that a server that leaves moves less than a hundredth
    /// of the others' flows, where 100 slots each would move three.
    Scheduler,
}

/// The smallest size with 100 slots for each of `configured` servers (800 for a scheduler), or the
/// largest.
pub fn size(configured: usize, purpose: Use) -> u32 {
    let slots = match purpose {
        Use::Fallback => 100,
        Use::Scheduler => 800,
    };
    let wanted = configured.saturating_mul(slots);
    SIZES.into_iter().find(|size| *size as usize >= wanted).unwrap_or(131_071)
}

/// A table of `size` slots (a prime), all of them filled; empty when no weight is above 0.
///
/// Servers take turns by weight: in each pass a server collects its weight, and takes a slot when
/// it has collected the greatest weight of all. Its slot is the next free one of its permutation.
/// A server whose share is below a slot may get none.
pub fn build(servers: &[Server], size: u32) -> Vec<u32> {
    let mut servers: Vec<Server> = servers.iter().copied().filter(|s| s.weight > 0).collect();
    servers.sort_unstable();
    let Some(greatest) = servers.iter().map(|s| u64::from(s.weight)).max() else {
        return Vec::new();
    };
    if size < 2 {
        return vec![servers[0].index; size as usize];
    }
    let mut takers: Vec<Taker> = servers.iter().map(|server| Taker::new(server, size)).collect();
    let mut table = vec![FREE; size as usize];
    let mut left = size;
    loop {
        for taker in &mut takers {
            taker.collected += taker.weight;
            if taker.collected < greatest {
                continue;
            }
            taker.collected -= greatest;
            while table[taker.next as usize] != FREE {
                taker.step(size);
            }
            table[taker.next as usize] = taker.index;
            taker.step(size);
            left -= 1;
            if left == 0 {
                return table;
            }
        }
    }
}

/// A server on its way through its permutation.
struct Taker {
    next: u32,
    skip: u32,
    weight: u64,
    collected: u64,
    index: u32,
}

impl Taker {
    fn new(server: &Server, size: u32) -> Self {
        let Identity { address, port } = server.identity;
        let hash =
            |seed, range: u32| (hash::address(seed, &address, port) % u64::from(range)) as u32;
        Self {
            next: hash(OFFSET_SEED, size),
            skip: hash(SKIP_SEED, size - 1) + 1,
            weight: u64::from(server.weight),
            collected: 0,
            index: server.index,
        }
    }

    fn step(&mut self, size: u32) {
        self.next += self.skip;
        if self.next >= size {
            self.next -= size;
        }
    }
}

/// No index: they are below 2^20.
const FREE: u32 = u32::MAX;

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::pod::mapped;
    use proptest::prelude::*;

    fn server(number: u32, weight: u32) -> Server {
        let [_, _, c, d] = number.to_be_bytes();
        let identity = Identity { address: mapped([10, 0, c, d]), port: 80 };
        Server { identity, weight, index: number }
    }

    fn servers(weights: &[u32]) -> Vec<Server> {
        (0..).zip(weights).map(|(number, weight)| server(number, *weight)).collect()
    }

    #[test]
    fn sizes_follow_the_configured_servers() {
        for (configured, expected) in
            [(0, 251), (1, 251), (2, 251), (3, 509), (10, 1021), (1310, 131_071), (9999, 131_071)]
        {
            assert_eq!(size(configured, Use::Fallback), expected, "{configured}");
        }
        for (configured, expected) in
            [(0, 251), (1, 1021), (10, 8191), (11, 16_381), (999, 131_071)]
        {
            assert_eq!(size(configured, Use::Scheduler), expected, "{configured}");
        }
    }

    #[test]
    fn sizes_are_prime() {
        for size in SIZES {
            assert!((2..).take_while(|d| d * d <= size).all(|d| size % d != 0), "{size}");
        }
    }

    #[test]
    fn the_vector_is_fixed() {
        // A change here moves the flows of every service: the two directors of a pair would differ.
        let table = build(&servers(&[1, 2, 3, 0]), 251);
        assert_eq!(table[..16], VECTOR);
        let sum = table.iter().fold(0u64, |sum, index| hash::mix(sum ^ u64::from(*index)));
        assert_eq!(sum, VECTOR_SUM);
    }

    const VECTOR: [u32; 16] = [2, 1, 2, 0, 2, 2, 0, 1, 0, 2, 2, 1, 1, 2, 2, 1];
    const VECTOR_SUM: u64 = 10_832_781_594_533_535_686;

    #[test]
    fn without_weight_the_table_is_empty() {
        assert!(build(&servers(&[0, 0]), 251).is_empty());
        assert!(build(&[], 251).is_empty());
    }

    proptest! {
        #[test]
        fn order_does_not_count_and_shares_follow_weights(
            weights in prop::collection::vec(0u32..20, 1..20),
            turn in 0usize..20,
        ) {
            let mut list = servers(&weights);
            let size = size(list.len(), Use::Fallback);
            let table = build(&list, size);
            prop_assert_eq!(&table, &build(&list, size));
            let turn = turn % list.len();
            list.rotate_left(turn);
            list.reverse();
            prop_assert_eq!(&table, &build(&list, size));
            let sum: u32 = weights.iter().sum();
            if sum == 0 {
                prop_assert!(table.is_empty());
                return Ok(());
            }
            prop_assert_eq!(table.len(), size as usize);
            for (number, weight) in (0u32..).zip(&weights) {
                let is = table.iter().filter(|index| **index == number).count() as f64;
                let meant = f64::from(size) * f64::from(*weight) / f64::from(sum);
                prop_assert!((is - meant).abs() <= 2.0 + meant * 0.03, "{is} {meant}");
            }
        }

        #[test]
        fn a_removed_server_moves_few_other_slots(count in 2u32..30, gone in 0u32..30) {
            let gone = gone % count;
            let list = servers(&vec![1; count as usize]);
            let size = size(list.len(), Use::Fallback);
            let before = build(&list, size);
            let rest: Vec<_> = list.iter().copied().filter(|s| s.index != gone).collect();
            let after = build(&rest, size);
            let moved = before.iter().zip(&after).filter(|(a, b)| a != b).count() as f64;
            let share = f64::from(size) / f64::from(count);
            prop_assert!(moved <= share + 0.06 * f64::from(size), "{moved} of {size}");
        }
    }
}
