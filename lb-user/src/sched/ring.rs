//! The ring of rr and wrr: one round of turns, interleaved so that no server's turns clump.
//!
//! [`build`] gives real-server indices in the order in which new connections take them. Ratios are
//! exact as long as the weights, divided by their greatest common divisor, add up to at most
//! [`EXACT_SLOTS`]; above that, see [`is_exact`].
//!
//! Must not know: identities, slot regions, why a weight is what it is.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// How turns are shared out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Every server of weight above 0 once.
    Rr,
    /// In proportion to the weights.
    Wrr,
}

/// The longest round that holds exact ratios; longer ones are approximated.
pub const EXACT_SLOTS: u64 = 4096;

/// The longest approximated round. Only needed when many servers' shares are below one slot.
const MAX_ROUND: u64 = 65_536;

/// One round over `(index, weight)` pairs: indices in turn; empty when no weight is above 0.
///
/// A turn goes to the server that, of all whose next turn has begun in a perfectly even division of
/// the round, has to have it soonest (WF2Q, Bennett and Zhang 1996; equals by their order). So
/// after any number of turns no server is a whole turn ahead, and the round's counts are exact.
pub fn build(weights: &[(u32, u32)], kind: Kind) -> Vec<u32> {
    let servers: Vec<(u32, u32)> = weights.iter().copied().filter(|(_, w)| *w > 0).collect();
    match kind {
        Kind::Rr => servers.iter().map(|(index, _)| *index).collect(),
        Kind::Wrr => {
            let weights: Vec<u32> = servers.iter().map(|(_, weight)| *weight).collect();
            let turns = turns(&weights);
            interleave(&turns).into_iter().map(|place| servers[place].0).collect()
        }
    }
}

/// Whether the ring's ratios are the weights' own. Otherwise a server's share is off by at most
/// 0.1 % of all connections, unless more than about 60 servers' shares are so small that they are
/// raised to one slot.
pub fn is_exact(weights: &[u32], kind: Kind) -> bool {
    kind == Kind::Rr || reduced_sum(weights) <= EXACT_SLOTS
}

/// Greatest common divisor of all weights above 0; 1 without any.
fn divisor(weights: &[u32]) -> u64 {
    let gcd = weights.iter().fold(0u64, |mut a, w| {
        let mut b = u64::from(*w);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a
    });
    gcd.max(1)
}

fn reduced_sum(weights: &[u32]) -> u64 {
    weights.iter().map(|w| u64::from(*w)).sum::<u64>() / divisor(weights)
}

/// Turns of each server in one round; all weights are above 0.
fn turns(weights: &[u32]) -> Vec<u64> {
    if reduced_sum(weights) <= EXACT_SLOTS {
        let gcd = divisor(weights);
        return weights.iter().map(|w| u64::from(*w) / gcd).collect();
    }
    let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
    let mut round = EXACT_SLOTS.max((weights.len() as u64).next_power_of_two());
    loop {
        let turns = scaled(weights, round);
        // Off by at most a thousandth: |turns / round - weight / sum| <= 1 / 1000.
        let close = turns.iter().zip(weights).all(|(turns, weight)| {
            let is = i128::from(*turns) * i128::from(sum);
            let meant = i128::from(*weight) * i128::from(round);
            (is - meant).abs() * 1000 <= i128::from(sum) * i128::from(round)
        });
        if close || round >= MAX_ROUND {
            return turns;
        }
        round *= 2;
    }
}

/// Shares `round` turns out by largest remainder, at least one to each.
fn scaled(weights: &[u32], round: u64) -> Vec<u64> {
    let mut turns = vec![0u64; weights.len()];
    let mut left = round;
    let mut sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
    // Those below one turn get it first; the others share what is left, which may lower another.
    loop {
        let (before, total) = (left, sum);
        for (turns, weight) in turns.iter_mut().zip(weights) {
            let weight = u64::from(*weight);
            if *turns == 0 && weight * before < total {
                *turns = 1;
                left -= 1;
                sum -= weight;
            }
        }
        if left == before {
            break;
        }
    }
    let mut remainders = Vec::new();
    let (pool, total) = (left, sum);
    for (place, weight) in weights.iter().enumerate() {
        if turns[place] == 0 {
            let product = u64::from(*weight) * pool;
            turns[place] = product / total;
            left -= turns[place];
            remainders.push((Reverse(product % total), place));
        }
    }
    remainders.sort_unstable();
    for (_, place) in remainders.into_iter().take(left as usize) {
        turns[place] += 1;
    }
    turns
}

/// Places of `turns` in order, each as often as its number says.
fn interleave(turns: &[u64]) -> Vec<usize> {
    let round: u64 = turns.iter().sum();
    // When the turn `number` of a server with `turns` turns is due, in parts of the round.
    let due = |number: u64, turns: u64| ((number + 1) << 40) / turns;
    let mut waiting = BinaryHeap::with_capacity(turns.len());
    let mut begun: BinaryHeap<Reverse<(u64, usize, u64)>> = turns
        .iter()
        .enumerate()
        .filter(|(_, turns)| **turns > 0)
        .map(|(place, turns)| Reverse((due(0, *turns), place, 0)))
        .collect();
    let mut order = Vec::with_capacity(round as usize);
    for slot in 0..round {
        while let Some(Reverse((begins, place, number))) = waiting.peek().copied() {
            if begins > slot {
                break;
            }
            waiting.pop();
            begun.push(Reverse((due(number, turns[place]), place, number)));
        }
        // One has always begun: the shares of what has passed add up to the turns given.
        let Some(Reverse((_, place, number))) = begun.pop() else {
            break;
        };
        order.push(place);
        let next = number + 1;
        if next < turns[place] {
            waiting.push(Reverse(((next * round).div_ceil(turns[place]), place, next)));
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[track_caller]
    fn check(kind: Kind, weights: &[u32], expected: &[u32]) {
        let servers: Vec<_> = (0..).zip(weights.iter().copied()).collect();
        assert_eq!(build(&servers, kind), expected);
    }

    fn counts(ring: &[u32], servers: usize) -> Vec<u64> {
        let mut counts = vec![0; servers];
        ring.iter().for_each(|index| counts[*index as usize] += 1);
        counts
    }

    #[test]
    fn rings_are_these() {
        check(Kind::Rr, &[1, 0, 7], &[0, 2]);
        check(Kind::Rr, &[], &[]);
        check(Kind::Wrr, &[0, 0], &[]);
        check(Kind::Wrr, &[3, 3], &[0, 1]);
        check(Kind::Wrr, &[100, 200], &[1, 0, 1]);
        check(Kind::Wrr, &[5, 1, 1], &[0, 1, 0, 0, 2, 0, 0]);
        check(Kind::Wrr, &[3, 0, 1], &[0, 2, 0, 0]);
    }

    #[test]
    fn many_small_servers_do_not_clump() {
        let mut weights = vec![(0, 100)];
        weights.extend((1..=100).map(|index| (index, 1)));
        let ring = build(&weights, Kind::Wrr);
        assert!(ring.iter().step_by(2).all(|index| *index == 0));
        assert_eq!(ring.len(), 200);
    }

    #[test]
    fn exactness_is_told() {
        assert!(is_exact(&[65_535, 65_535], Kind::Wrr));
        assert!(is_exact(&[4095, 1, 0], Kind::Wrr));
        assert!(!is_exact(&[4096, 1], Kind::Wrr));
        assert!(is_exact(&[4096, 1], Kind::Rr));
        assert!(is_exact(&[], Kind::Wrr));
    }

    #[test]
    fn a_share_below_a_slot_is_one_slot_of_a_longer_round() {
        let mut weights = vec![(0, 65_535)];
        weights.extend((1..=50).map(|index| (index, 1)));
        let ring = build(&weights, Kind::Wrr);
        assert!(ring.len() > 4096 && ring.len() <= 65_536);
        assert!(counts(&ring, 51).iter().all(|count| *count >= 1));
    }

    proptest! {
        #[test]
        fn counts_are_exact_and_nobody_runs_ahead(weights in prop::collection::vec(0u32..60, 1..40)) {
            let servers: Vec<_> = (0..).zip(weights.iter().copied()).collect();
            let ring = build(&servers, Kind::Wrr);
            let gcd = divisor(&weights);
            let mut given = vec![0u64; weights.len()];
            for (slot, index) in ring.iter().enumerate() {
                let index = *index as usize;
                // Its turn has begun: given / turns <= slot / round.
                let turns = u64::from(weights[index]) / gcd;
                prop_assert!(given[index] * ring.len() as u64 <= slot as u64 * turns);
                given[index] += 1;
            }
            let meant: Vec<_> = weights.iter().map(|w| u64::from(*w) / gcd).collect();
            prop_assert_eq!(given, meant);
        }

        #[test]
        fn large_weights_are_a_thousandth_off_at_most(
            weights in prop::collection::vec(1u32..=65_535, 1..60),
        ) {
            let servers: Vec<_> = (0..).zip(weights.iter().copied()).collect();
            let ring = build(&servers, Kind::Wrr);
            let sum: u64 = weights.iter().map(|w| u64::from(*w)).sum();
            for (count, weight) in counts(&ring, weights.len()).iter().zip(&weights) {
                let is = *count as f64 / ring.len() as f64;
                prop_assert!(*count > 0);
                prop_assert!((is - f64::from(*weight) / sum as f64).abs() <= 0.001);
            }
        }
    }
}
