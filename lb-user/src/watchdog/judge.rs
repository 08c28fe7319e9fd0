//! Which parts are stuck, and what is new about that: pure, the times are given.
//!
//! Must not know: clocks, threads, where the times come from.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Weight;

/// A part at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// Its name.
    pub name: String,
    /// How long it may be at one thing.
    pub limit: Duration,
    /// What it means for the daemon.
    pub weight: Weight,
    /// For how long it has been at what it is at; nothing while it waits for others.
    pub busy: Option<Duration>,
}

impl Seen {
    /// Whether it has been at one thing for too long.
    pub fn is_stuck(&self) -> bool {
        self.busy.is_some_and(|busy| busy > self.limit)
    }

    /// For how long it has been stuck, counted from what it began; zero when it is well.
    pub fn stuck(&self) -> Duration {
        self.busy.filter(|_| self.is_stuck()).unwrap_or_default()
    }
}

/// What has changed from one look to the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum News {
    /// A part does not move.
    Stuck {
        /// Which.
        name: String,
        /// For how long.
        busy: Duration,
        /// What it means.
        weight: Weight,
    },
    /// One that did not moves again, or is over.
    Moves {
        /// Which.
        name: String,
        /// How long it did not, as far as was seen.
        was: Duration,
    },
}

impl News {
    /// Tells it in the log.
    pub fn log(&self) {
        match self {
            Self::Stuck { name, busy, weight } => {
                let hint = match weight {
                    Weight::Vital => "; without it this daemon is of no use",
                    Weight::Useful => "",
                };
                let seconds = busy.as_secs();
                tracing::error!(
                    severity = "crit",
                    part = name,
                    seconds,
                    "stuck: {name} has not moved for {seconds} s{hint}"
                );
            }
            Self::Moves { name, was } => {
                let seconds = was.as_secs();
                tracing::warn!(part = name, seconds, "{name} moves again after {seconds} s");
            }
        }
    }
}

/// Remembers who was stuck.
#[derive(Debug, Default)]
pub struct Judge {
    stuck: BTreeMap<String, Duration>,
}

impl Judge {
    /// What is new.
    pub fn look(&mut self, parts: &[Seen]) -> Vec<News> {
        let mut news = Vec::new();
        let stuck: BTreeMap<&str, &Seen> = parts
            .iter()
            .filter(|part| part.is_stuck())
            .map(|part| (part.name.as_str(), part))
            .collect();
        self.stuck.retain(|name, was| {
            let is_stuck = stuck.contains_key(name.as_str());
            if !is_stuck {
                news.push(News::Moves { name: name.clone(), was: *was });
            }
            is_stuck
        });
        for (name, part) in stuck {
            if self.stuck.insert(name.to_owned(), part.stuck()).is_none() {
                let (busy, weight) = (part.stuck(), part.weight);
                news.push(News::Stuck { name: name.to_owned(), busy, weight });
            }
        }
        news
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: Option<u64>) -> Seen {
        Seen {
            name: "sweep".to_owned(),
            limit: Duration::from_secs(5),
            weight: Weight::Useful,
            busy: seconds.map(Duration::from_secs),
        }
    }

    #[test]
    fn a_part_is_told_once_when_it_stops_and_once_when_it_moves() {
        let mut judge = Judge::default();
        let mut look = |seconds| judge.look(&[at(seconds)]);
        assert_eq!(look(None), [], "it waits for others");
        assert_eq!(look(Some(5)), [], "at its limit");
        let stuck = News::Stuck {
            name: "sweep".to_owned(),
            busy: Duration::from_secs(6),
            weight: Weight::Useful,
        };
        assert_eq!(look(Some(6)), std::slice::from_ref(&stuck));
        assert_eq!(look(Some(7)), []);
        let moves = News::Moves { name: "sweep".to_owned(), was: Duration::from_secs(7) };
        assert_eq!(look(Some(1)), [moves]);
        assert_eq!(look(None), []);
        assert_eq!(look(Some(6)), [stuck], "the next time");
    }

    #[test]
    fn a_part_that_is_over_is_not_stuck_any_more() {
        let mut judge = Judge::default();
        judge.look(&[at(Some(9))]);
        let news = judge.look(&[]);
        assert!(matches!(&news[..], [News::Moves { .. }]), "{news:?}");
    }

    #[test]
    fn only_a_stuck_part_has_a_time() {
        assert_eq!(at(Some(5)).stuck(), Duration::ZERO);
        assert_eq!(at(Some(6)).stuck(), Duration::from_secs(6));
        assert_eq!(at(None).stuck(), Duration::ZERO);
    }
}
