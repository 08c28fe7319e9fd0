//! Mails that wait: in order, tried again with growing pauses, bounded.
//!
//! Sans-IO: the caller asks [`Outbox::next`] what to do, and reports what became of the mail that
//! it was given. The first mail holds up the others, so that they arrive in order. A failed
//! delivery is tried again after a second, and after twice as long each time up to five minutes; a
//! mail that the server refuses for good is given up. When [`MAX_MAILS`] wait, a further one pushes
//! the oldest out.
//!
//! Mails that may come together are gathered: the first of them waits [`GATHERING`] for others of the
//! same moment, later ones until [`DIGEST_PAUSE`] after the last digest; then all go out as one.
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

/// How long the first mail of a digest waits for others of the same moment.
pub const GATHERING: Duration = Duration::from_millis(200);

/// From one digest to the next, at the least.
pub const DIGEST_PAUSE: Duration = Duration::from_secs(10);

/// Mails in a digest; the last line of a longer one says how many were left out.
pub const MAX_GATHERED: usize = 1000;

/// A mail and whom it still has to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Letter {
    /// The mail.
    pub mail: Mail,
    /// Receivers that have not got it yet; `None`: all of them.
    pub left: Option<Vec<String>>,
    /// Which one it is, of all that were ever posted.
    pub number: u64,
    /// It is a digest: the next one waits for it.
    pub is_digest: bool,
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
    /// Mails of the next digest.
    gathered: Vec<Mail>,
    /// How many more there were.
    left_out: usize,
    /// When the next digest goes out, if there is something in it.
    digest_at: Option<Instant>,
    /// When the last one went out.
    last_digest: Option<Instant>,
}

impl Outbox {
    /// Adds a mail; gives the one that it pushed out.
    pub fn post(&mut self, mail: Mail) -> Option<Mail> {
        self.add(mail, false)
    }

    /// Adds a digest; gives the mail that it pushed out.
    pub fn post_digest(&mut self, mail: Mail) -> Option<Mail> {
        self.add(mail, true)
    }

    fn add(&mut self, mail: Mail, is_digest: bool) -> Option<Mail> {
        self.posted += 1;
        self.letters.push_back(Letter { mail, left: None, number: self.posted, is_digest });
        if self.letters.len() <= MAX_MAILS {
            return None;
        }
        self.letters.pop_front().map(|letter| letter.mail)
    }

    /// Adds a mail to the next digest.
    pub fn gather(&mut self, now: Instant, mail: Mail) {
        let paused = self.last_digest.map(|last| last + DIGEST_PAUSE);
        let soon = now + GATHERING;
        self.digest_at.get_or_insert(paused.map_or(soon, |paused| paused.max(soon)));
        if self.gathered.len() < MAX_GATHERED {
            self.gathered.push(mail);
        } else {
            self.left_out += 1;
        }
    }

    /// The mails of a digest that is due, and how many were left out of it.
    pub fn digest(&mut self, now: Instant) -> Option<(Vec<Mail>, usize)> {
        self.digest_due().filter(|at| *at <= now)?;
        self.digest_at = None;
        self.last_digest = Some(now);
        Some((std::mem::take(&mut self.gathered), std::mem::take(&mut self.left_out)))
    }

    /// When the next digest goes out; not while one waits to be sent, so that what happens while the
    /// server is away comes as one as well.
    fn digest_due(&self) -> Option<Instant> {
        let waits = self.letters.iter().any(|letter| letter.is_digest);
        self.digest_at.filter(|_| !waits)
    }

    /// What is to be done at `now`.
    pub fn next(&self, now: Instant) -> Next {
        match (self.letters.front(), self.not_before) {
            (None, _) => self.digest_due().map_or(Next::Idle, Next::Wait),
            (Some(_), Some(until)) if now < until => {
                Next::Wait(self.digest_due().map_or(until, |digest| digest.min(until)))
            }
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

    /// A digest goes out now: there is no time left.
    pub fn hurry_digest(&mut self, now: Instant) {
        self.digest_at = self.digest_at.map(|_| now);
    }

    /// Throws away what waits; gives how many.
    pub fn clear(&mut self) -> usize {
        self.hurry();
        self.digest_at = None;
        let gathered =
            std::mem::take(&mut self.gathered).len() + std::mem::take(&mut self.left_out);
        std::mem::take(&mut self.letters).len() + gathered
    }

    /// Mails that wait.
    pub fn len(&self) -> usize {
        self.letters.len() + self.gathered.len()
    }

    /// No mail waits.
    pub fn is_empty(&self) -> bool {
        self.letters.is_empty() && self.gathered.is_empty()
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
    fn what_happens_at_once_is_one_mail_and_ten_seconds_lie_between_two() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut outbox = Outbox::default();
        outbox.gather(at(0), mail(0));
        outbox.gather(at(150), mail(1));
        assert_eq!((outbox.len(), outbox.next(at(150))), (2, Next::Wait(at(200))));
        assert_eq!(outbox.digest(at(199)), None);
        assert_eq!(outbox.digest(at(200)), Some((vec![mail(0), mail(1)], 0)));
        assert_eq!(outbox.digest(at(201)), None);
        outbox.gather(at(300), mail(2));
        assert_eq!(outbox.next(at(300)), Next::Wait(at(10_200)));
        outbox.gather(at(9_000), mail(3));
        assert_eq!(outbox.digest(at(10_200)), Some((vec![mail(2), mail(3)], 0)));
        outbox.gather(at(60_000), mail(4));
        outbox.hurry_digest(at(60_001));
        assert_eq!(outbox.digest(at(60_001)), Some((vec![mail(4)], 0)));
        for n in 0..MAX_GATHERED + 2 {
            outbox.gather(at(70_000), mail(n));
        }
        let (mails, left_out) = outbox.digest(at(90_000)).expect("it is due");
        assert_eq!((mails.len(), left_out), (MAX_GATHERED, 2));
    }

    #[test]
    fn a_digest_that_waits_holds_up_the_next_and_not_other_mails() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut outbox = Outbox::default();
        outbox.post_digest(mail(0));
        outbox.failed(start, 1, None);
        outbox.gather(at(0), mail(1));
        outbox.gather(at(30), mail(2));
        assert_eq!(outbox.digest(at(60)), None);
        assert_eq!(first(&outbox, at(60)).1, "0");
        outbox.failed(at(60), 1, None);
        assert_eq!(outbox.next(at(60)), Next::Wait(at(62)), "nobody spins meanwhile");
        outbox.done(1);
        assert_eq!(outbox.digest(at(70)), Some((vec![mail(1), mail(2)], 0)));
    }

    #[test]
    fn a_digest_does_not_wait_for_a_mail_that_is_held_up() {
        let start = Instant::now();
        let mut outbox = Outbox::default();
        outbox.post(mail(0));
        outbox.failed(start, 1, None);
        outbox.gather(start, mail(1));
        assert_eq!(outbox.next(start), Next::Wait(start + GATHERING));
        assert_eq!(outbox.clear(), 2);
        assert_eq!(outbox.next(start), Next::Idle);
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
