//! Whether the live weight of a service is enough: keepalived's quorum with its hysteresis.
//!
//! Must not know: what the weight is made of, who is told.

use crate::model::Quorum;

/// Whether a service has its quorum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    /// `None` until it is known for the first time.
    is_up: Option<bool>,
}

impl Gate {
    /// Whether there is a quorum; `None` while nobody knows yet.
    pub fn is_up(self) -> Option<bool> {
        self.is_up
    }

    /// Takes the live weight. `is_certain` says that it is more than a lack of first results: until
    /// then a quorum may be reached but not lost. True when the answer has changed, or is given for
    /// the first time.
    ///
    /// Up from `up + hysteresis` on, down below `up - hysteresis`; between them nothing changes.
    pub fn weigh(&mut self, quorum: &Quorum, live: u64, is_certain: bool) -> bool {
        let (up, hysteresis) = (u64::from(quorum.up), u64::from(quorum.hysteresis));
        let now = match self.is_up {
            Some(true) if is_certain && live < up.saturating_sub(hysteresis) => Some(false),
            None | Some(false) if live >= up + hysteresis => Some(true),
            None if is_certain => Some(false),
            same => same,
        };
        std::mem::replace(&mut self.is_up, now) != now
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Live weights (`?` before a weight that is not certain) and what becomes of them.
    #[track_caller]
    fn rows(up: u32, hysteresis: u32, weights: &str, expected: &str) {
        let quorum = Quorum { up, hysteresis, ..Quorum::default() };
        let mut gate = Gate::default();
        let seen: String = weights
            .split_whitespace()
            .map(|weight| {
                let live = weight.trim_start_matches('?').parse().expect("a weight");
                let told = gate.weigh(&quorum, live, !weight.starts_with('?'));
                match (told, gate.is_up()) {
                    (true, Some(true)) => 'U',
                    (true, Some(false)) => 'D',
                    (false, Some(true)) => 'u',
                    (false, Some(false)) => 'd',
                    (_, None) => '?',
                }
            })
            .collect();
        assert_eq!(seen, expected);
    }

    #[test]
    fn hysteresis_keeps_what_is_between_the_bounds() {
        rows(1, 0, "1 0 0 1 2", "UDdUu");
        rows(4, 1, "7 5 4 3 2 3 4 5 3", "UuuuDddUu");
        rows(4, 1, "4 5", "DU");
    }

    #[test]
    fn nothing_is_lost_before_it_is_certain() {
        rows(2, 0, "?0 ?1 ?2 ?1 ?0 1", "??UuuD");
        rows(2, 0, "?0 0", "?D");
    }
}
