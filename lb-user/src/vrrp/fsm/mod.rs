//! The state machine of one virtual router on this node.
//!
//! Sans-IO: [`Instance::handle`] takes an event and the time and says what is to be done, in that
//! order; [`Instance::next_deadline`] says when [`Event::Timer`] is due, and there is a deadline
//! exactly while the instance takes part in the election. The caller hands in received adverts
//! before a timer that is due at the same moment; the machine itself notices when it comes late.
//!
//! The states are those of RFC 9568 section 6.4 (Initialize, Backup, Active; version 2 calls the
//! last one Master) and keepalived's fault, which is an Initialize that waits for its cause to go.
//!
//! Must not know: sockets, clocks, packets, which addresses there are, scripts.

mod election;
mod gratuitous;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use crate::vrrp::priority::{OWNER, Standing};
use crate::vrrp::timing::{Interval, Version, master_down, skew};

use gratuitous::Schedule;
pub use gratuitous::{Gratuitous, Round};

/// What the configuration says of an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settings {
    /// The version of the protocol.
    pub version: Version,
    /// Its advertisement interval.
    pub interval: Interval,
    /// Whether it takes over from a master of lower priority.
    pub preempt: bool,
    /// How long it lets a master of lower priority be, from its first advert on.
    pub preempt_delay: Duration,
    /// When the virtual addresses are announced.
    pub gratuitous: Gratuitous,
    /// The address that its adverts leave from: it decides between equal priorities.
    pub primary: IpAddr,
    /// Whether it is in a sync group: then it becomes master when the group does.
    pub grouped: bool,
}

/// What happens to an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It begins to take part.
    Startup,
    /// It ends.
    Shutdown,
    /// A valid advert of another router.
    Advert(Advert),
    /// [`Instance::next_deadline`] has come.
    Timer,
    /// Its interface has carrier.
    LinkUp,
    /// Its interface has lost carrier, or is gone.
    LinkDown,
    /// The tracked objects amount to something else ([`crate::vrrp::priority::effective`]).
    Track {
        /// Its effective priority.
        priority: u8,
        /// Whether it may take part.
        standing: Standing,
    },
    /// It gives mastership up, and does not preempt until it is master again.
    Resign,
    /// A reload changed the virtual addresses.
    AddressesChanged,
    /// A reload changed the settings, or its primary address is another one.
    Configure(Settings),
    /// Its sync group moves; only [`crate::vrrp::group`] says so.
    Group(Follow),
}

/// An advert that passed the checks of [`crate::vrrp::receive`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Advert {
    /// The address that it came from.
    pub source: IpAddr,
    /// The sender's priority; 0 when it resigns.
    pub priority: u8,
    /// The sender's interval.
    pub interval: Interval,
    /// Whether it names the addresses that this router has too.
    pub same_addresses: bool,
}

/// What a sync group asks of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Follow {
    /// All members want to be master: be it.
    Master,
    /// A member is not master any more: be none.
    Backup,
    /// Whether a member is in fault.
    Fault(bool),
    /// A member had to defend its mastership: announce the addresses once more.
    Announce,
}

/// A state, as it is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum State {
    /// It does not take part yet, or not any more.
    Init,
    /// It listens to a master.
    Backup,
    /// It owns the addresses.
    Master,
    /// It may not take part.
    Fault,
}

/// Something to be done, in the order of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// Send an advert.
    SendAdvert {
        /// With this priority; 0 resigns.
        priority: u8,
    },
    /// Add the virtual addresses.
    AcquireVips,
    /// Make the virtual addresses those of the new configuration.
    ReplaceVips,
    /// Remove the virtual addresses.
    ReleaseVips,
    /// Announce each virtual address (gratuitous ARP, unsolicited neighbour advertisement).
    SendGratuitous {
        /// What for.
        round: Round,
        /// How many times each.
        count: u32,
    },
    /// The state is another one; what belongs to it has been asked for before.
    Entered {
        /// The new state.
        state: State,
        /// Why.
        cause: Cause,
    },
    /// Something that an operator wants to know.
    Noted(Note),
}

/// Why a state was entered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cause {
    /// The instance was started.
    Startup,
    /// The instance was stopped.
    Shutdown,
    /// No advert came for the master-down interval; this was the last one's sender.
    Silence(Option<IpAddr>),
    /// The master resigned.
    MasterResigned(IpAddr),
    /// A router that comes before this one is master.
    BetterMaster {
        /// Its address.
        address: IpAddr,
        /// Its priority.
        priority: u8,
    },
    /// Another router says that it is the address owner too, and does not give way.
    TwoOwners(IpAddr),
    /// This router was asked to resign.
    Resigned,
    /// This router sent nothing for so long that another one may be master.
    Stalled(Duration),
    /// The interface has no carrier.
    LinkDown,
    /// A tracked object says so.
    Tracking,
    /// What kept the instance from taking part is over.
    Recovered,
    /// The sync group moved.
    Group,
}

/// Something that an operator wants to know. Said once for each change, not for each advert.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Note {
    /// A router that comes after this one says that it is master too.
    DuplicateMaster(IpAddr),
    /// Somebody sends adverts from this router's address.
    DuplicateAddress(IpAddr),
    /// Two routers say that they are the address owner.
    TwoOwners(IpAddr),
    /// The master's interval is not the configured one; it is followed.
    IntervalMismatch {
        /// The master.
        address: IpAddr,
        /// Its interval.
        interval: Interval,
    },
    /// A router advertises other addresses.
    AddressListMismatch(IpAddr),
    /// A master of lower priority is left alone for this long.
    PreemptDelay(Duration),
    /// The process came to a deadline this much too late.
    Late(Duration),
}

impl State {
    /// Its name in documents, metrics and notify commands.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Init => "init",
            Self::Backup => "backup",
            Self::Master => "master",
            Self::Fault => "fault",
        }
    }
}

/// One virtual router on this node.
#[derive(Clone, Debug)]
pub struct Instance {
    settings: Settings,
    /// The effective priority.
    priority: u8,
    standing: Standing,
    started: bool,
    link_up: bool,
    /// Whether its sync group is in fault.
    group_fault: bool,
    mode: Mode,
    told: Told,
}

/// A state with what belongs to it.
#[derive(Clone, Debug)]
enum Mode {
    Init,
    Fault,
    Backup(Backup),
    Master(Master),
}

/// Being backup.
#[derive(Clone, Debug)]
struct Backup {
    /// When the master counts as gone.
    down_at: Instant,
    /// The master's interval; the own one before the first advert, and always in version 2.
    interval: Interval,
    /// Whose advert was the last one.
    master: Option<IpAddr>,
    /// Whether the last advert was the master's resignation.
    resigned: bool,
    /// When a master of lower priority may be preempted, once one was heard.
    preempt_at: Option<Instant>,
    /// Whether this router resigned and leaves mastership to others.
    yielding: bool,
    /// Whether the timer ran out late and was given more time already.
    postponed: bool,
    /// Whether it would be master if it were not for its sync group.
    ready: bool,
}

/// Being master.
#[derive(Clone, Debug)]
struct Master {
    /// When the next advert is due.
    advert_at: Instant,
    /// When the last one was sent.
    sent_at: Instant,
    announcements: Schedule,
    /// Adverts of another address owner that were answered.
    rival_owner: u8,
}

/// What has been noted of the adverts heard in this state.
#[derive(Clone, Debug, Default)]
struct Told {
    source: Option<IpAddr>,
    interval: Option<Interval>,
    addresses: bool,
    duplicate: bool,
}

impl Instance {
    /// An instance that does not take part yet, on an interface with carrier.
    #[must_use]
    pub fn new(settings: Settings, priority: u8, standing: Standing) -> Self {
        Self {
            settings,
            priority,
            standing,
            started: false,
            link_up: true,
            group_fault: false,
            mode: Mode::Init,
            told: Told::default(),
        }
    }

    /// Its state.
    #[must_use]
    pub fn state(&self) -> State {
        match self.mode {
            Mode::Init => State::Init,
            Mode::Fault => State::Fault,
            Mode::Backup(_) => State::Backup,
            Mode::Master(_) => State::Master,
        }
    }

    /// Its effective priority.
    #[must_use]
    pub fn priority(&self) -> u8 {
        self.priority
    }

    /// What it was configured with.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The master's address, as far as it is known.
    #[must_use]
    pub fn master(&self) -> Option<IpAddr> {
        match &self.mode {
            Mode::Backup(backup) => backup.master,
            Mode::Master(_) => Some(self.settings.primary),
            Mode::Init | Mode::Fault => None,
        }
    }

    /// When [`Event::Timer`] is due; `None` while it does not take part.
    #[must_use]
    pub fn next_deadline(&self) -> Option<Instant> {
        match &self.mode {
            Mode::Init | Mode::Fault => None,
            Mode::Backup(backup) => Some(backup.down_at),
            Mode::Master(master) => {
                let announcement = master.announcements.next();
                Some(announcement.map_or(master.advert_at, |at| at.min(master.advert_at)))
            }
        }
    }

    /// Whether it would be master if its sync group were.
    #[must_use]
    pub fn ready(&self) -> bool {
        matches!(&self.mode, Mode::Backup(backup) if backup.ready)
    }

    /// Whether it is in fault by itself, not only by its sync group.
    #[must_use]
    pub fn own_fault(&self) -> bool {
        self.started && (!self.link_up || self.standing == Standing::Fault)
    }

    /// Takes an event.
    #[must_use]
    pub fn handle(&mut self, now: Instant, event: Event) -> Vec<Output> {
        let mut out = Vec::new();
        self.leave_if_stalled(now, &mut out);
        match event {
            Event::Startup => {
                self.started = true;
                self.settle(now, Cause::Startup, &mut out);
            }
            Event::Shutdown => {
                self.started = false;
                self.settle(now, Cause::Shutdown, &mut out);
            }
            Event::Advert(advert) => self.hear(now, &advert, &mut out),
            Event::Timer => self.time(now, &mut out),
            Event::LinkUp | Event::LinkDown => {
                self.link_up = event == Event::LinkUp;
                self.settle(now, Cause::LinkDown, &mut out);
            }
            Event::Track { priority, standing } => {
                self.standing = standing;
                self.set_priority(priority);
                self.settle(now, Cause::Tracking, &mut out);
            }
            Event::Resign => self.resign(now, Cause::Resigned, true, &mut out),
            Event::AddressesChanged => self.readdress(now, &mut out),
            Event::Configure(settings) => self.configure(now, settings),
            Event::Group(follow) => self.follow(now, follow, &mut out),
        }
        out
    }

    /// Whether a master of lower priority is taken over from.
    fn preempts(&self) -> bool {
        // RFC 9568 section 6.1: the address owner always preempts.
        let yielding = matches!(&self.mode, Mode::Backup(backup) if backup.yielding);
        !yielding && (self.settings.preempt || self.priority == OWNER)
    }

    /// Makes the state fit to what keeps the instance from taking part.
    fn settle(&mut self, now: Instant, cause: Cause, out: &mut Vec<Output>) {
        let fault = self.own_fault() || self.group_fault;
        let takes_part = matches!(self.mode, Mode::Backup(_) | Mode::Master(_));
        let barred = if !self.started {
            Some(Mode::Init)
        } else if fault {
            Some(Mode::Fault)
        } else if self.standing == Standing::Pending && !takes_part {
            Some(Mode::Init)
        } else {
            None
        };
        match barred {
            Some(mode) => self.bar(mode, cause, out),
            None if takes_part => {}
            None => {
                let cause = if cause == Cause::Startup { cause } else { Cause::Recovered };
                let owner = self.priority == OWNER;
                if owner && !self.settings.grouped {
                    self.enter_master(now, cause, out);
                } else {
                    self.enter_backup(now, self.settings.interval, None, cause, out);
                    if let Mode::Backup(backup) = &mut self.mode {
                        backup.ready = owner;
                    }
                }
            }
        }
    }

    /// Leaves the election for Init or Fault.
    fn bar(&mut self, mode: Mode, cause: Cause, out: &mut Vec<Output>) {
        let before = self.state();
        if before == State::Master {
            out.push(Output::SendAdvert { priority: 0 });
            out.push(Output::ReleaseVips);
        }
        self.mode = mode;
        self.told = Told::default();
        if self.state() != before {
            out.push(Output::Entered { state: self.state(), cause });
        }
    }

    /// RFC 9568 section 6.4.2, the timer's end: the advert goes first, so that the old master has
    /// let the addresses go when they are announced.
    fn enter_master(&mut self, now: Instant, cause: Cause, out: &mut Vec<Output>) {
        let gratuitous = self.settings.gratuitous;
        self.mode = Mode::Master(Master {
            advert_at: now + self.settings.interval.duration(),
            sent_at: now,
            announcements: Schedule::new(now, gratuitous),
            rival_owner: 0,
        });
        self.told = Told::default();
        out.push(Output::SendAdvert { priority: self.priority });
        out.push(Output::AcquireVips);
        out.extend(gratuitous.output(Round::First));
        out.push(Output::Entered { state: State::Master, cause });
    }

    fn enter_backup(
        &mut self,
        now: Instant,
        interval: Interval,
        master: Option<IpAddr>,
        cause: Cause,
        out: &mut Vec<Output>,
    ) {
        if matches!(self.mode, Mode::Master(_)) {
            out.push(Output::ReleaseVips);
        }
        self.mode = Mode::Backup(Backup {
            down_at: now + master_down(self.settings.version, self.priority, interval),
            interval,
            master,
            resigned: false,
            preempt_at: None,
            yielding: false,
            postponed: false,
            ready: false,
        });
        self.told = Told::default();
        out.push(Output::Entered { state: State::Backup, cause });
    }

    /// Gives mastership up with an advert of priority 0.
    fn resign(&mut self, now: Instant, cause: Cause, yielding: bool, out: &mut Vec<Output>) {
        if matches!(self.mode, Mode::Master(_)) {
            out.push(Output::SendAdvert { priority: 0 });
            self.enter_backup(now, self.settings.interval, None, cause, out);
        }
        // A backup that is about to preempt leaves it.
        if let Mode::Backup(backup) = &mut self.mode
            && yielding
        {
            backup.yielding = true;
            backup.ready = false;
        }
    }

    /// A backup's timer moves by the difference of the skews, so a tracked object that fails
    /// while the master is silent still changes who is first.
    fn set_priority(&mut self, priority: u8) {
        if let Mode::Backup(backup) = &mut self.mode {
            let skew = |priority| skew(self.settings.version, priority, backup.interval);
            let (old, new) = (skew(self.priority), skew(priority));
            backup.down_at = if new > old {
                backup.down_at + (new - old)
            } else {
                // Never underflows: the difference was part of the timer.
                backup.down_at.checked_sub(old - new).unwrap_or(backup.down_at)
            };
        }
        self.priority = priority;
    }

    fn readdress(&mut self, now: Instant, out: &mut Vec<Output>) {
        self.told = Told::default();
        if let Mode::Master(master) = &mut self.mode {
            out.push(Output::ReplaceVips);
            out.push(Output::SendAdvert { priority: self.priority });
            out.extend(self.settings.gratuitous.output(Round::First));
            master.sent_at = now;
            master.advert_at = now + self.settings.interval.duration();
            master.announcements = Schedule::new(now, self.settings.gratuitous);
        }
    }

    /// The state is kept over a reload.
    fn configure(&mut self, now: Instant, settings: Settings) {
        let interval = settings.interval.duration();
        match &mut self.mode {
            Mode::Init | Mode::Fault => {}
            Mode::Backup(backup) => {
                let follows = settings.version == Version::V3 && backup.master.is_some();
                let own = !follows && backup.interval != settings.interval;
                if own || settings.version != self.settings.version {
                    backup.interval = if follows { backup.interval } else { settings.interval };
                    let wait = master_down(settings.version, self.priority, backup.interval);
                    backup.down_at = now + wait;
                }
                if settings.preempt_delay != self.settings.preempt_delay {
                    backup.preempt_at = None;
                }
            }
            Mode::Master(master) => {
                master.advert_at = master.advert_at.min(now + interval);
                if settings.gratuitous != self.settings.gratuitous {
                    master.announcements.configure(now, settings.gratuitous);
                }
            }
        }
        self.settings = settings;
        self.told = Told::default();
    }

    fn follow(&mut self, now: Instant, follow: Follow, out: &mut Vec<Output>) {
        match (follow, &mut self.mode) {
            (Follow::Master, Mode::Backup(_)) => self.enter_master(now, Cause::Group, out),
            (Follow::Backup, Mode::Master(_)) => self.resign(now, Cause::Group, false, out),
            (Follow::Fault(fault), _) => {
                self.group_fault = fault;
                self.settle(now, Cause::Group, out);
            }
            (Follow::Announce, Mode::Master(master)) => {
                master.announcements.repeat(now, self.settings.gratuitous);
                out.extend(self.settings.gratuitous.output(Round::Answer));
            }
            _ => {}
        }
    }
}
