//! Whether VRRP frames reach this host's XDP program and not its speaker.
//!
//! A packet socket hears before netfilter does, so what is between the two is a filter of another
//! kind, such as one of `tc`. The counts are of frames, whatever they say; the speaker counts
//! those that it refuses too.
//!
//! Must not know: maps, sockets, clocks.

use std::collections::HashMap;

/// What is known of each instance.
#[derive(Debug, Default)]
pub(super) struct Deafness {
    instances: HashMap<String, Heard>,
}

#[derive(Clone, Copy, Debug)]
struct Heard {
    /// Frames that XDP had counted when the speaker last heard one.
    frames: u64,
    /// What the speaker had heard.
    adverts: u64,
    is_deaf: bool,
}

impl Deafness {
    /// Takes counts of an instance: frames by XDP, and adverts by the speaker. True when they
    /// show for the first time that the speaker does not hear what comes in.
    pub(super) fn look(&mut self, instance: &str, frames: u64, adverts: u64) -> bool {
        let fresh = Heard { frames, adverts, is_deaf: false };
        let Some(heard) = self.instances.get_mut(instance) else {
            self.instances.insert(instance.to_owned(), fresh);
            return false;
        };
        // Counters of a speaker or of maps that were made anew begin at nothing.
        if heard.adverts != adverts || frames < heard.frames {
            *heard = fresh;
            return false;
        }
        let was = heard.is_deaf;
        heard.is_deaf = frames - heard.frames >= UNHEARD;
        heard.is_deaf && !was
    }

    /// Whether an instance does not hear what comes in.
    pub(super) fn is_deaf(&self, instance: &str) -> bool {
        self.instances.get(instance).is_some_and(|heard| heard.is_deaf)
    }
}

/// Frames in a row that were not heard, after which it is no matter of the moment of counting.
const UNHEARD: u64 = 5;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_that_nobody_hears_are_noticed_once_and_until_one_is_heard() {
        let mut deafness = Deafness::default();
        assert!(!deafness.look("a", 100, 7));
        assert!(!deafness.look("a", 104, 7));
        assert!(deafness.look("a", 105, 7) && deafness.is_deaf("a"));
        assert!(!deafness.look("a", 200, 7) && deafness.is_deaf("a"));
        assert!(!deafness.look("a", 201, 8) && !deafness.is_deaf("a"));
        assert!(!deafness.look("a", 205, 8) && !deafness.is_deaf("a"));
        assert!(deafness.look("a", 206, 8));
    }

    #[test]
    fn counters_that_begin_anew_are_no_deafness() {
        let mut deafness = Deafness::default();
        assert!(!deafness.look("a", 100, 7));
        assert!(!deafness.look("a", 3, 7));
        assert!(!deafness.look("a", 7, 7) && !deafness.is_deaf("a"));
        assert!(!deafness.is_deaf("b"));
    }
}
