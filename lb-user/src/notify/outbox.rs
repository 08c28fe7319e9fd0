//! Mails that wait: in order, tried again with growing pauses, bounded.
//!
//! Sans-IO: the caller asks [`Outbox::next`] what to do, and reports what became of the mail that
//! it was given. The first mail holds up the others, so that they arrive in order. A failed
//! delivery is tried again after a second, and after twice as long each time up to five minutes; a
//! mail that the server refuses for good is given up. When [`MAX_MAILS`] wait, a further one pushes
//! the oldest out.
//!
//! Must not know: SMTP, clocks.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use super::message::Mail;

/// Mails that wait, the one that is being sent included.
pub const MAX_MAILS: usize = 100;

/// The pause after the first failure.
pub const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause.
pub const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// A mail and whom it still has to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The mail.
    pub mail: Mail,
    /// Receivers that have not got it yet; `None`: all of them.
    pub left: Option<Vec<String>>,
    /// Which one it is, of all that were ever posted.
    pub number: u64,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing waits.
    Idle,
    /// Nothing before this moment.
    Wait(Instant),
    /// Send this one, and report it by its number.
    Send(Letter),
}

/// Mails that wait.
#[derive(Debug, Default)]
pub struct Outbox {
    letters: VecDeque<Letter>,
    posted: u64,
    /// Failures in a row.
    failures: u32,
    not_before: Option<Instant>,
}

impl Outbox {
    /// Adds a mail; gives the one that it pushed out.
    pub fn post(&mut self, mail: Mail) -> Option<Mail> {
        self.posted += 1;
        self.letters.push_back(Letter { mail, left: None, number: self.posted });
        if self.letters.len() <= MAX_MAILS {
            return None;
        }
        self.letters.pop_front().map(|letter| letter.mail)
    }

    /// What is to be done at `now`.
    pub fn next(&self, now: Instant) -> Next {
        match (self.letters.front(), self.not_before) {
            (None, _) => Next::Idle,
            (Some(_), Some(until)) if now < until => Next::Wait(until),
            (Some(letter), _) => Next::Send(letter.clone()),
        }
    }

    /// The letter has reached everybody, or will never reach them. The server answers, so what was
    /// held up goes out at once.
    pub fn done(&mut self, number: u64) {
        self.letters.retain(|letter| letter.number != number);
        self.hurry();
    }

    /// The letter was not sent; `left` names those whom it still has to reach when that is not all.
    /// Gives the pause.
    pub fn failed(&mut self, now: Instant, number: u64, left: Option<Vec<String>>) -> Duration {
        if let Some(letter) = self.letters.iter_mut().find(|letter| letter.number == number)
            && left.is_some()
        {
            letter.left = left;
        }
        let factor = 1_u32.checked_shl(self.failures).unwrap_or(u32::MAX);
        let pause = FIRST_PAUSE.saturating_mul(factor).min(LONGEST_PAUSE);
        self.failures = self.failures.saturating_add(1).min(16);
        self.not_before = Some(now + pause);
        pause
    }

    /// What waits goes out at once: the settings were changed, or there is no time left.
    pub fn hurry(&mut self) {
        self.failures = 0;
        self.not_before = None;
    }

    /// Throws away what waits; gives how many.
    pub fn clear(&mut self) -> usize {
        self.hurry();
        std::mem::take(&mut self.letters).len()
    }

    /// Mails that wait.
    pub fn len(&self) -> usize {
        self.letters.len()
    }

    /// No mail waits.
    pub fn is_empty(&self) -> bool {
        self.letters.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn mail(n: usize) -> Mail {
        Mail { subject: n.to_string(), body: String::new(), at: SystemTime::UNIX_EPOCH }
    }

    #[track_caller]
    fn first(outbox: &Outbox, now: Instant) -> (u64, String) {
        match outbox.next(now) {
            Next::Send(letter) => (letter.number, letter.mail.subject),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn mails_go_out_in_order_and_a_failure_holds_up_the_others() {
        let now = Instant::now();
        let mut outbox = Outbox::default();
        assert_eq!(outbox.next(now), Next::Idle);
        outbox.post(mail(0));
        outbox.post(mail(1));
        let (number, _) = first(&outbox, now);
        assert_eq!(outbox.failed(now, number, None), FIRST_PAUSE);
        assert_eq!(outbox.next(now), Next::Wait(now + FIRST_PAUSE));
        assert_eq!(first(&outbox, now + FIRST_PAUSE), (number, "0".to_owned()));
        outbox.done(number);
        assert_eq!(first(&outbox, now).1, "1");
    }

    #[test]
    fn pauses_double_up_to_five_minutes_and_begin_anew_after_a_success() {
        let now = Instant::now();
        let mut outbox = Outbox::default();
        outbox.post(mail(0));
        outbox.post(mail(1));
        let pauses: Vec<u64> = (0..12).map(|_| outbox.failed(now, 1, None).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300, 300]);
        for _ in 0..100 {
            assert_eq!(outbox.failed(now, 1, None), LONGEST_PAUSE);
        }
        outbox.done(1);
        assert_eq!(outbox.failed(now, 2, None), FIRST_PAUSE);
    }

    #[test]
    fn the_hundred_and_first_pushes_the_oldest_out() {
        let now = Instant::now();
        let mut outbox = Outbox::default();
        for n in 0..MAX_MAILS {
            assert_eq!(outbox.post(mail(n)), None);
        }
        let (number, _) = first(&outbox, now);
        assert_eq!(outbox.post(mail(1000)).map(|mail| mail.subject), Some("0".to_owned()));
        assert_eq!(outbox.len(), MAX_MAILS);
        // A report on the one that was pushed out while it was being sent harms no other.
        outbox.done(number);
        assert_eq!((outbox.len(), first(&outbox, now).1.as_str()), (MAX_MAILS, "1"));
        assert_eq!((outbox.clear(), outbox.is_empty()), (MAX_MAILS, true));
    }

    #[test]
    fn those_who_have_it_do_not_get_it_again() {
        let now = Instant::now();
        let mut outbox = Outbox::default();
        outbox.post(mail(0));
        let left = Some(vec!["b@example.com".to_owned()]);
        outbox.failed(now, 1, left.clone());
        outbox.failed(now, 1, None);
        outbox.hurry();
        let Next::Send(letter) = outbox.next(now) else { panic!("it waits") };
        assert_eq!(letter.left, left);
    }
}
