//! Which commands run when: those of one subject in order, those of different subjects at once.
//!
//! Sans-IO: the caller pushes jobs, starts what [`Queue::start`] gives out and says when it has
//! [`Queue::finished`]. A subject that has a job running gets no other until then. Subjects take
//! turns, so one with many jobs does not hold up the others.
//!
//! A subject whose commands hang falls behind. When [`MAX_WAITING`] of its jobs wait, a further one
//! pushes the oldest of them out: the newest states are the ones that hold, and the last one's
//! command always runs, while one that was left out in between is made good by those after it.
//!
//! Must not know: processes, time, what a job is.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

/// Jobs of one subject that wait.
pub const MAX_WAITING: usize = 64;

/// Jobs that run at once, of all subjects.
pub const MAX_RUNNING: usize = 32;

/// Jobs `J` of subjects `K`.
#[derive(Debug)]
pub struct Queue<K, J> {
    /// Subjects with jobs that wait or run.
    lanes: HashMap<K, Lane<J>>,
    /// Subjects that have jobs waiting and none running, each once; in the order of their turns.
    ready: VecDeque<K>,
    running: usize,
}

#[derive(Debug)]
struct Lane<J> {
    waiting: VecDeque<J>,
    running: bool,
}

impl<K, J> Default for Queue<K, J> {
    fn default() -> Self {
        Self { lanes: HashMap::new(), ready: VecDeque::new(), running: 0 }
    }
}

impl<K: Clone + Eq + Hash, J> Queue<K, J> {
    /// Adds a job behind those of its subject; gives the one that it pushed out.
    pub fn push(&mut self, subject: &K, job: J) -> Option<J> {
        let empty = || Lane { waiting: VecDeque::new(), running: false };
        let lane = self.lanes.entry(subject.clone()).or_insert_with(empty);
        if lane.waiting.is_empty() && !lane.running {
            self.ready.push_back(subject.clone());
        }
        lane.waiting.push_back(job);
        if lane.waiting.len() > MAX_WAITING { lane.waiting.pop_front() } else { None }
    }

    /// A job to run now, if there is one.
    pub fn start(&mut self) -> Option<(K, J)> {
        if self.running >= MAX_RUNNING {
            return None;
        }
        let subject = self.ready.pop_front()?;
        let lane = self.lanes.get_mut(&subject)?;
        let job = lane.waiting.pop_front()?;
        lane.running = true;
        self.running += 1;
        Some((subject, job))
    }

    /// The running job of `subject` has ended, however it did.
    pub fn finished(&mut self, subject: &K) {
        let Some(lane) = self.lanes.get_mut(subject).filter(|lane| lane.running) else { return };
        lane.running = false;
        self.running -= 1;
        if lane.waiting.is_empty() {
            self.lanes.remove(subject);
        } else {
            self.ready.push_back(subject.clone());
        }
    }

    /// Jobs that run or wait.
    pub fn len(&self) -> usize {
        self.running + self.lanes.values().map(|lane| lane.waiting.len()).sum::<usize>()
    }

    /// Nothing runs and nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn jobs_of_one_subject_run_one_after_the_other() {
        let mut queue = Queue::default();
        for job in 0..3 {
            assert_eq!(queue.push(&'a', job), None);
        }
        queue.push(&'b', 9);
        assert_eq!(queue.start(), Some(('a', 0)));
        assert_eq!(queue.start(), Some(('b', 9)));
        assert_eq!(queue.start(), None);
        queue.finished(&'a');
        assert_eq!(queue.start(), Some(('a', 1)));
        queue.finished(&'b');
        assert_eq!((queue.start(), queue.len()), (None, 2));
        queue.finished(&'a');
        assert_eq!(queue.start(), Some(('a', 2)));
        queue.finished(&'a');
        assert!(queue.is_empty());
        queue.finished(&'a');
        assert!(queue.is_empty(), "an end that nothing began changes nothing");
    }

    #[test]
    fn a_full_lane_gives_up_its_oldest_and_keeps_its_newest() {
        let mut queue = Queue::default();
        queue.push(&0, 0);
        assert_eq!(queue.start(), Some((0, 0)));
        for job in 1..=MAX_WAITING {
            assert_eq!(queue.push(&0, job), None);
        }
        assert_eq!(queue.push(&0, 1000), Some(1), "not the one that runs");
        assert_eq!(queue.push(&1, 5), None, "another subject has its own lane");
        let mut ran = Vec::new();
        queue.finished(&0);
        while let Some((subject, job)) = queue.start() {
            queue.finished(&subject);
            ran.push(job);
        }
        assert_eq!((ran.len(), ran.last()), (MAX_WAITING + 1, Some(&1000)));
    }

    #[test]
    fn so_many_run_at_once() {
        let mut queue = Queue::default();
        for subject in 0..=MAX_RUNNING {
            queue.push(&subject, subject);
        }
        let started = std::iter::from_fn(|| queue.start()).count();
        assert_eq!(started, MAX_RUNNING);
        queue.finished(&0);
        assert_eq!(queue.start(), Some((MAX_RUNNING, MAX_RUNNING)));
    }

    proptest! {
        /// Whatever the order of events: per subject one job at a time, in the order of pushing,
        /// nothing lost but what was given back, and everything run in the end.
        #[test]
        fn order_holds_and_nothing_is_lost(steps in proptest::collection::vec((0_u8..4, 0_u8..3), 0..600)) {
            let mut queue = Queue::default();
            let (mut running, mut ran) = (HashMap::new(), HashMap::<u8, Vec<usize>>::new());
            let (mut pushed, mut out) = (0_usize, 0_usize);
            for (n, (subject, what)) in steps.into_iter().enumerate() {
                match what {
                    0 => {
                        pushed += 1;
                        out += usize::from(queue.push(&subject, n).is_some());
                    }
                    1 => {
                        if let Some((subject, job)) = queue.start() {
                            prop_assert!(running.insert(subject, job).is_none(), "two at once");
                        }
                    }
                    _ => {
                        queue.finished(&subject);
                        ran.entry(subject).or_default().extend(running.remove(&subject));
                    }
                }
            }
            while !queue.is_empty() {
                while let Some((subject, job)) = queue.start() {
                    prop_assert!(running.insert(subject, job).is_none(), "two at once");
                }
                for (subject, job) in running.drain() {
                    queue.finished(&subject);
                    ran.entry(subject).or_default().push(job);
                }
            }
            for jobs in ran.values() {
                prop_assert!(jobs.is_sorted(), "{jobs:?}");
            }
            prop_assert_eq!(ran.values().map(Vec::len).sum::<usize>() + out, pushed);
        }
    }
}
