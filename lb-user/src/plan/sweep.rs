//! What the sweep decides: whether an entry is proposed, and whether counts have drifted.
//!
//! Must not know: maps, when a sweep runs.

use std::collections::BTreeMap;

use lb_common::conn::{REPLY, Timeouts, Word};

/// What becomes of an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It stays.
    Keep,
    /// The expire program is asked to look at it.
    Propose,
}

/// Whether an entry looks over. `generation` is that of its real server now. Reply halves are
/// proposed when nothing has refreshed them for longer than any live pair goes without.
pub fn judge(
    word: Word,
    seen: u64,
    now: u64,
    generation: u16,
    timeouts: &Timeouts,
    hz: u64,
) -> Verdict {
    let over = if word.has(REPLY) {
        // A live reply half is stamped with its forward half at most a second late, if replies come
        // at all; an old one may be an orphan, which the expire program finds out.
        now.wrapping_sub(seen) as i64 > 2 * hz as i64
    } else {
        word.generation() != generation || timeouts.is_expired(word, seen, now)
    };
    if over { Verdict::Propose } else { Verdict::Keep }
}

/// What a pass counted for one real server, and what the kernel's counts were around it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counted {
    /// The kernel's active and inactive count when the pass first met the server.
    pub before: (u64, u64),
    /// The same when the pass was over.
    pub after: (u64, u64),
    /// Active connections that were found.
    pub active: u64,
    /// Inactive connections that were found.
    pub inactive: u64,
    /// How many of them were proposed, and so may be gone.
    pub proposed: u64,
}

impl Counted {
    /// Counts one connection.
    pub fn add(&mut self, active: bool, verdict: Verdict) {
        if active {
            self.active += 1;
        } else {
            self.inactive += 1;
        }
        self.proposed += u64::from(verdict == Verdict::Propose);
    }

    /// By how much the kernel's counts are off; `None` when they moved, so that it cannot be said.
    fn difference(&self) -> Option<(i64, i64)> {
        let still = self.before == self.after && self.proposed == 0;
        let off = |count: u64, found: u64| count.wrapping_sub(found) as i64;
        still.then(|| (off(self.before.0, self.active), off(self.before.1, self.inactive)))
    }
}

/// Remembers differences from one pass to the next.
#[derive(Debug, Default)]
pub struct Recount {
    suspects: BTreeMap<u32, (i64, i64)>,
}

impl Recount {
    /// The drift that two passes in a row agree on, summed over all servers. One pass alone may
    /// have met a connection on either side of a change.
    pub fn compare(&mut self, counted: BTreeMap<u32, Counted>) -> u64 {
        let mut drift = 0;
        let mut suspects = BTreeMap::new();
        for (index, counted) in counted {
            let Some(difference) = counted.difference().filter(|d| *d != (0, 0)) else {
                continue;
            };
            if self.suspects.get(&index) == Some(&difference) {
                drift += difference.0.unsigned_abs() + difference.1.unsigned_abs();
            }
            suspects.insert(index, difference);
        }
        self.suspects = suspects;
        drift
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use lb_common::conn::State;

    fn timeouts() -> Timeouts {
        Timeouts { by_state: [100; 16] }
    }

    #[test]
    fn an_entry_is_proposed_when_its_time_is_up_or_its_server_is_another() {
        let word = Word::new(1, 5, 0, State::ESTABLISHED, 0);
        let check = |seen, now, generation, expected| {
            assert_eq!(judge(word, seen, now, generation, &timeouts(), 10), expected);
        };
        check(0, 100, 5, Verdict::Keep);
        check(0, 101, 5, Verdict::Propose);
        check(100, 100, 6, Verdict::Propose);
        let reply = word.with_flags(REPLY);
        assert_eq!(judge(reply, 0, 20, 6, &timeouts(), 10), Verdict::Keep);
        assert_eq!(judge(reply, 0, 21, 5, &timeouts(), 10), Verdict::Propose);
    }

    #[test]
    fn drift_is_told_when_two_quiet_passes_agree() {
        let off = Counted { before: (3, 1), after: (3, 1), active: 2, inactive: 1, proposed: 0 };
        let right = Counted { active: 3, ..off };
        let busy = Counted { after: (4, 1), ..off };
        let mut recount = Recount::default();
        let mut pass = |counted| recount.compare(BTreeMap::from([(7, counted)]));
        assert_eq!(pass(off), 0, "once may be a race");
        assert_eq!(pass(off), 1, "twice is not");
        assert_eq!(pass(right), 0);
        assert_eq!(pass(off), 0);
        assert_eq!(pass(busy), 0, "counts that move say nothing");
        assert_eq!(pass(off), 0);
    }

    #[test]
    fn servers_without_entries_are_compared_as_well() {
        // A count that stays above 0 with no entry at all is the worst drift there is.
        let ghost = Counted { before: (1, 0), after: (1, 0), ..Counted::default() };
        let mut recount = Recount::default();
        recount.compare(BTreeMap::from([(1, ghost)]));
        assert_eq!(recount.compare(BTreeMap::from([(1, ghost)])), 1);
    }
}
