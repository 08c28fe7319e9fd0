//! The election: what adverts and timers do to a backup and to a master.
//!
//! RFC 9568 section 6.4 with keepalived's answers where it leaves room. Two rules are about this
//! process and not about the protocol. A backup whose timer runs out late has perhaps not read
//! what its master sent meanwhile, so it waits once more for as long as a live master needs. A
//! master that sent nothing for as long as the quickest backup waits may have been replaced: with
//! preemption it defends itself, without it becomes backup, since it may not preempt.
//!
//! Must not know: sockets, sync groups, tracking.

use std::time::{Duration, Instant};

use crate::vrrp::fsm::{
    Advert, Cause, Instance, Interval, Master, Mode, Note, OWNER, Output, Round, State, Version,
    master_down, skew,
};

impl Instance {
    pub(super) fn hear(&mut self, now: Instant, advert: &Advert, out: &mut Vec<Output>) {
        match self.state() {
            State::Init | State::Fault => {}
            State::Backup => self.backup_hears(now, advert, out),
            State::Master => self.master_hears(now, advert, out),
        }
    }

    pub(super) fn time(&mut self, now: Instant, out: &mut Vec<Output>) {
        match self.state() {
            State::Init | State::Fault => {}
            State::Backup => self.backup_times(now, out),
            State::Master => self.master_times(now, out),
        }
    }

    /// RFC 9568 section 6.4.2, an advert.
    fn backup_hears(&mut self, now: Instant, advert: &Advert, out: &mut Vec<Output>) {
        self.note_addresses(advert, out);
        let (own, version) = (self.priority, self.settings.version);
        let preempts = self.preempts();
        let Mode::Backup(backup) = &mut self.mode else { return };
        if advert.priority == 0 {
            backup.down_at = now + skew(version, own, backup.interval);
            backup.master = Some(advert.source);
            backup.resigned = true;
            return;
        }
        if advert.priority >= own {
            backup.preempt_at = None;
        } else if preempts {
            let delay = self.settings.preempt_delay;
            if backup.preempt_at.is_none() && !delay.is_zero() {
                out.push(Output::Noted(Note::PreemptDelay(delay)));
            }
            if now >= *backup.preempt_at.get_or_insert(now + delay) {
                // Discarded: the timer runs on, and at its end this router takes over.
                backup.master = Some(advert.source);
                return;
            }
        }
        let interval = match version {
            Version::V2 => self.settings.interval,
            // Section 6.4.2: the master's interval counts, not the configured one.
            Version::V3 => advert.interval,
        };
        backup.interval = interval;
        backup.down_at = now + master_down(version, own, interval);
        backup.master = Some(advert.source);
        backup.resigned = false;
        backup.postponed = false;
        backup.ready = false;
        self.note_interval(advert, interval, out);
    }

    fn backup_times(&mut self, now: Instant, out: &mut Vec<Output>) {
        let version = self.settings.version;
        let Mode::Backup(backup) = &mut self.mode else { return };
        if now < backup.down_at {
            return;
        }
        let late = now - backup.down_at;
        if late > backup.interval.duration() && !backup.postponed {
            backup.postponed = true;
            let live = backup.interval.duration() + skew(version, self.priority, backup.interval);
            backup.down_at = now + live;
            out.push(Output::Noted(Note::Late(late)));
            return;
        }
        if self.settings.grouped {
            backup.ready = true;
            backup.down_at = now + master_down(version, self.priority, backup.interval);
            return;
        }
        let cause = match (backup.resigned, backup.master) {
            (true, Some(master)) => Cause::MasterResigned(master),
            (_, master) => Cause::Silence(master),
        };
        self.enter_master(now, cause, out);
    }

    /// RFC 9568 section 6.4.3, an advert.
    fn master_hears(&mut self, now: Instant, advert: &Advert, out: &mut Vec<Output>) {
        self.note_addresses(advert, out);
        let (own, primary) = (self.priority, self.settings.primary);
        let Mode::Master(master) = &mut self.mode else { return };
        if advert.source == primary {
            if !std::mem::replace(&mut self.told.duplicate, true) {
                out.push(Output::Noted(Note::DuplicateAddress(primary)));
            }
            return;
        }
        if advert.priority == 0 {
            out.push(Output::SendAdvert { priority: own });
            master.sent_at = now;
            master.advert_at = now + self.settings.interval.duration();
            return;
        }
        // The numerically higher address decides between equals (in network order, unsigned).
        if (advert.priority, advert.source) > (own, primary) {
            if advert.priority == OWNER && own == OWNER {
                out.push(Output::Noted(Note::TwoOwners(advert.source)));
            }
            let cause = Cause::BetterMaster { address: advert.source, priority: advert.priority };
            return self.give_way(now, advert, cause, out);
        }
        if advert.priority == OWNER {
            // Erratum 8298: the election decides between two owners. One that does not know the
            // rule would stay, so this one gives way rather than being the second master.
            if master.rival_owner >= PATIENCE_WITH_OWNERS {
                return self.give_way(now, advert, Cause::TwoOwners(advert.source), out);
            }
            master.rival_owner += 1;
            if master.rival_owner == 1 {
                out.push(Output::Noted(Note::TwoOwners(advert.source)));
            }
        }
        self.answer(now, advert, out);
    }

    /// Asserts mastership to a router of lower priority and to whoever believed it.
    fn answer(&mut self, now: Instant, advert: &Advert, out: &mut Vec<Output>) {
        let Mode::Master(master) = &mut self.mode else { return };
        if !std::mem::replace(&mut self.told.duplicate, true) {
            out.push(Output::Noted(Note::DuplicateMaster(advert.source)));
        }
        out.push(Output::SendAdvert { priority: self.priority });
        out.extend(self.settings.gratuitous.output(Round::Answer));
        master.sent_at = now;
        master.announcements.repeat(now, self.settings.gratuitous);
    }

    /// Becomes backup of the advert's sender.
    fn give_way(&mut self, now: Instant, advert: &Advert, cause: Cause, out: &mut Vec<Output>) {
        let interval = match self.settings.version {
            Version::V2 => self.settings.interval,
            Version::V3 => advert.interval,
        };
        self.enter_backup(now, interval, Some(advert.source), cause, out);
        self.note_interval(advert, interval, out);
    }

    fn master_times(&mut self, now: Instant, out: &mut Vec<Output>) {
        let stalled = self.stalled(now);
        let (priority, gratuitous) = (self.priority, self.settings.gratuitous);
        let interval = self.settings.interval.duration();
        let Mode::Master(master) = &mut self.mode else { return };
        if now >= master.advert_at {
            out.push(Output::SendAdvert { priority });
            if let Some(late) = stalled {
                out.push(Output::Noted(Note::Late(late)));
                out.extend(gratuitous.output(Round::Answer));
                master.announcements.repeat(now, gratuitous);
            }
            master.sent_at = now;
            // In step with the schedule, but never a burst.
            let next = master.advert_at + interval;
            master.advert_at = if next > now { next } else { now + interval };
        }
        master.announcements.due(now, gratuitous, out);
    }

    /// How late the advert is, if a backup may have taken over meanwhile.
    fn stalled(&self, now: Instant) -> Option<Duration> {
        let Mode::Master(Master { sent_at, advert_at, .. }) = &self.mode else { return None };
        let quickest = master_down(self.settings.version, OWNER - 1, self.settings.interval);
        (now > *sent_at + quickest).then(|| now.saturating_duration_since(*advert_at))
    }

    pub(super) fn leave_if_stalled(&mut self, now: Instant, out: &mut Vec<Output>) {
        if let Some(late) = self.stalled(now)
            && !self.preempts()
        {
            out.push(Output::Noted(Note::Late(late)));
            let interval = self.settings.interval;
            self.enter_backup(now, interval, None, Cause::Stalled(late), out);
        }
    }

    /// Notes an interval that is not the configured one when it is first heard.
    fn note_interval(&mut self, advert: &Advert, interval: Interval, out: &mut Vec<Output>) {
        let known = self.told.interval.replace(interval);
        if interval != self.settings.interval && known != Some(interval) {
            let address = advert.source;
            out.push(Output::Noted(Note::IntervalMismatch { address, interval }));
        }
    }

    /// Notes another list of addresses when it is first heard of a router.
    fn note_addresses(&mut self, advert: &Advert, out: &mut Vec<Output>) {
        if self.told.source != Some(advert.source) {
            self.told.source = Some(advert.source);
            self.told.addresses = false;
            self.told.duplicate = false;
        }
        let told = std::mem::replace(&mut self.told.addresses, !advert.same_addresses);
        if !advert.same_addresses && !told {
            out.push(Output::Noted(Note::AddressListMismatch(advert.source)));
        }
    }
}

/// Adverts of another address owner that are answered before this one gives way.
const PATIENCE_WITH_OWNERS: u8 = 3;
