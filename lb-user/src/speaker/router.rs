//! One virtual router's side of the world: what its state machine asks for, done.
//!
//! Must not know: the election, sync groups, the controller's socket.

mod addresses;
mod status;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::time::Instant;

use crate::speaker::hands::Hands;
use crate::speaker::kernel::Place;
use crate::speaker::protocol::{Counters, Entered, InstanceConfig, Report, Tracked, Transition};
use crate::speaker::quiet::Quiet;
use crate::speaker::socket::Voice;
use crate::speaker::virtual_mac::Device;
use crate::vrrp::contest::Contest;
use crate::vrrp::frame::{self, Mac, Way};
use crate::vrrp::fsm::{Cause, Gratuitous, Note, Output, Settings, State};
use crate::vrrp::packet::{self, Auth, Checksum, GROUP_V4, GROUP_V6, Packet};
use crate::vrrp::priority::{self, Effective};
use crate::vrrp::receive::{self, Accepted, Expected, Facts, Refused};
use crate::vrrp::timing::{Interval, Version};

/// A virtual router on this node, without its state machine.
pub(super) struct Router {
    /// What it was configured with.
    pub(super) config: InstanceConfig,
    interval: Interval,
    version: Version,
    v4: bool,
    /// Where it is, while its interface can carry adverts.
    position: Option<Position>,
    /// Where it was last.
    last_position: Option<Position>,
    voice: Option<Voice>,
    expected: Option<Expected>,
    /// Addresses that are on this host because of it.
    held: BTreeSet<Place>,
    /// Where its addresses are, if they have a MAC address of their own.
    device: Option<Device>,
    /// Whether it is to have its addresses.
    is_owner: bool,
    contest: Contest,
    /// When an advert was accepted last.
    heard_at: Option<Instant>,
    /// Adverts that were accepted since the last look for filters.
    heard: u64,
    /// Adverts in a row that did not come through to the group's member.
    unheard: u64,
    filtered: bool,
    /// What the controller says of tracked objects.
    tracked: Vec<Tracked>,
    effective: Effective,
    counters: Counters,
    transitions: std::collections::VecDeque<Transition>,
    state: State,
    quiet: Quiet,
    cannot_send: bool,
}

/// Where adverts leave from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Position {
    ifindex: u32,
    /// The sender's MAC address: the interface's own or the virtual router's.
    mac: Mac,
    source: IpAddr,
}

impl Router {
    /// A router that has nothing yet; `None` for a configuration that cannot be spoken, which the
    /// controller does not send.
    pub(super) fn new(config: InstanceConfig, tracked: Vec<Tracked>) -> Option<Self> {
        let version = if config.version == 2 { Version::V2 } else { Version::V3 };
        let interval = Interval::new(version, config.interval)?;
        let v4 = config.addresses.first()?.address.is_ipv4();
        let effective = priority::effective(config.priority, []);
        Some(Self {
            config,
            interval,
            version,
            v4,
            position: None,
            last_position: None,
            voice: None,
            expected: None,
            held: BTreeSet::new(),
            device: None,
            is_owner: false,
            contest: Contest::default(),
            heard_at: None,
            heard: 0,
            unheard: 0,
            filtered: false,
            tracked,
            effective,
            counters: Counters::default(),
            transitions: std::collections::VecDeque::new(),
            state: State::Init,
            quiet: Quiet::default(),
            cannot_send: false,
        })
    }

    /// Takes a changed configuration of the same virtual router; true when its addresses are
    /// others.
    pub(super) fn reconfigure(&mut self, config: InstanceConfig) -> bool {
        let list = |config: &InstanceConfig| (config.addresses.clone(), config.excluded.clone());
        let readdressed = list(&self.config) != list(&config);
        if let Some(interval) = Interval::new(self.version, config.interval) {
            self.interval = interval;
        }
        if self.config.unicast != config.unicast {
            self.expected = None;
            self.voice = None;
        }
        self.config = config;
        readdressed
    }

    /// Whether a configuration is the same virtual router's: another one needs a new state.
    pub(super) fn is_same(&self, config: &InstanceConfig) -> bool {
        let family = |config: &InstanceConfig| {
            config.addresses.first().is_some_and(|vip| vip.address.is_ipv4())
        };
        let identity = |config: &InstanceConfig| {
            (config.interface.clone(), config.vrid, config.version, config.virtual_mac)
        };
        identity(&self.config) == identity(config) && family(&self.config) == family(config)
    }

    /// Its settings for the state machine.
    pub(super) fn settings(&self, grouped: bool) -> Settings {
        let unspecified: IpAddr = if self.v4 { [0; 4].into() } else { [0; 16].into() };
        Settings {
            version: self.version,
            interval: self.interval,
            preempt: self.config.preempt,
            preempt_delay: self.config.preempt_delay,
            gratuitous: Gratuitous {
                count: self.config.garp_count,
                delay: self.config.garp_delay,
                refresh: self.config.garp_refresh,
            },
            primary: self.position.map_or(unspecified, |position| position.source),
            grouped,
        }
    }

    /// Looks where its interface is by now and opens what it needs there; true when its interface
    /// can carry adverts.
    pub(super) fn locate(&mut self, hands: &mut Hands) -> bool {
        let before = self.position.take();
        self.position = self.find(hands, before);
        let Some(position) = self.position else { return false };
        self.last_position = Some(position);
        if let Err(error) = hands.join(position.ifindex, &self.config.interface, self.v4) {
            if self.quiet.is_news("join", position.source) {
                tracing::error!(instance = %self.config.name, %error, "VRRP cannot be heard");
            }
            self.position = None;
            return false;
        }
        let is_mute = self.config.unicast.is_some() && self.voice.is_none();
        if before != self.position || self.expected.is_none() || is_mute {
            self.open_voice(position.source);
        }
        self.listen_beside(hands);
        self.expected = Some(self.expect(position, hands));
        true
    }

    /// An address that adverts leave from stays theirs as long as it is there.
    fn find(&self, hands: &Hands, before: Option<Position>) -> Option<Position> {
        let (ifindex, link) = hands.station.link(&self.config.interface)?;
        let virtual_mac = frame::virtual_mac(self.v4, self.config.vrid);
        let mac = if self.config.virtual_mac { Some(virtual_mac) } else { link.mac };
        let own = self.vips().map(|vip| vip.address).collect();
        let known = before.filter(|before| {
            before.ifindex == ifindex
                && hands.station.own(ifindex, self.v4).contains(&before.source)
        });
        let source = match (&self.config.unicast, known) {
            (Some((source, _)), _) => hands.station.has_address(*source).then_some(*source),
            (None, Some(known)) => Some(known.source),
            (None, None) => hands.station.primary(ifindex, self.v4, &own),
        };
        match (link.running, mac, source) {
            (true, Some(mac), Some(source)) => Some(Position { ifindex, mac, source }),
            _ => None,
        }
    }

    fn open_voice(&mut self, source: IpAddr) {
        self.voice = None;
        if self.config.unicast.is_some() {
            match Voice::open(source) {
                Ok(voice) => self.voice = Some(voice),
                Err(error) => tracing::error!(
                    instance = %self.config.name, %source, %error,
                    "adverts cannot be sent from vrrp.instances.unicast.source"
                ),
            }
        }
    }

    /// Addresses may be on other interfaces, where others may claim them too.
    fn listen_beside(&self, hands: &mut Hands) {
        for vip in self.vips() {
            let Some(ifindex) = hands.station.link(&vip.interface).map(|(index, _)| index) else {
                continue;
            };
            if let Err(error) = hands.open_ear(ifindex) {
                tracing::warn!(interface = %vip.interface, %error, "cannot be listened to");
            }
        }
    }

    fn expect(&self, position: Position, hands: &Hands) -> Expected {
        let peers = self.config.unicast.as_ref().map(|(_, peers)| peers.clone());
        Expected {
            interface: position.ifindex,
            vrid: self.config.vrid,
            version: self.version,
            interval: self.interval,
            auth: self.config.password.map_or(Auth::None, Auth::Pass),
            addresses: self.advertised(),
            own: hands.station.own(position.ifindex, self.v4),
            peers: peers.unwrap_or_default(),
        }
    }

    fn advertised(&self) -> Vec<IpAddr> {
        self.config.addresses.iter().map(|vip| vip.address).collect()
    }

    /// Takes what the controller says of tracked objects. A controller that has begun anew knows
    /// nothing yet: then what the one before said holds.
    pub(super) fn track(&mut self, mut tracked: Vec<Tracked>) {
        for object in tracked.iter_mut().filter(|object| object.well.is_none()) {
            let known = self.tracked.iter().find(|known| known.name == object.name);
            object.well = known.and_then(|known| known.well);
        }
        self.tracked = tracked;
    }

    /// What all tracked objects amount to by now; `None` when that is what it was.
    pub(super) fn weigh(&mut self, hands: &Hands, plane: Option<bool>) -> Option<Effective> {
        let plane = plane.map(|well| object("data plane", 0, Some(well)));
        let interfaces = self.config.interfaces.iter().map(|(name, weight)| {
            let running = hands.station.link(name).is_some_and(|(_, link)| link.running);
            object(&format!("interface {name}"), *weight, Some(running))
        });
        let told = self.tracked.iter().map(|told| object(&told.name, told.weight, told.well));
        let objects: Vec<priority::Tracked> =
            plane.into_iter().chain(interfaces).chain(told).collect();
        let effective = priority::effective(self.config.priority, &objects);
        if effective == self.effective {
            return None;
        }
        self.effective = effective.clone();
        Some(effective)
    }

    /// What they amounted to last.
    pub(super) fn effective(&self) -> &Effective {
        &self.effective
    }

    /// Whether an advert on this interface with this identifier is for it.
    pub(super) fn is_for(&self, ifindex: u32, vrid: u8, v4: bool) -> bool {
        self.config.vrid == vrid
            && self.v4 == v4
            && self.position.is_some_and(|position| position.ifindex == ifindex)
    }

    /// Whether it hears this sender, if several routers have one identifier: some by unicast, each
    /// from its own peers, and one from the group.
    pub(super) fn hears(&self, facts: &Facts) -> bool {
        match &self.config.unicast {
            Some((_, peers)) => peers.contains(&facts.source),
            None => facts.destination.is_multicast(),
        }
    }

    /// Takes an advert, or refuses it with a log line now and then.
    pub(super) fn hear(&mut self, now: Instant, facts: &Facts, message: &[u8]) -> Option<Accepted> {
        let expected = self.expected.as_ref()?;
        match receive::accept(message, facts, expected) {
            Ok(accepted) => {
                self.heard_at = Some(now);
                self.heard += 1;
                self.counters.received += 1;
                if self.v4 && self.version == Version::V3 && accepted.checksum == Checksum::Message
                {
                    self.counters.plain_checksums += 1;
                }
                Some(accepted)
            }
            Err(refused) => {
                self.refuse(now, facts.source, &refused);
                None
            }
        }
    }

    fn refuse(&mut self, now: Instant, source: IpAddr, refused: &Refused) {
        let reason = refused.reason();
        *self.counters.refused.entry(reason.to_owned()).or_default() += 1;
        let Some(suppressed) = self.quiet.admit(now, reason, source) else { return };
        tracing::warn!(
            instance = %self.config.name, %source, reason, suppressed,
            "an advert is ignored: {refused}"
        );
    }

    /// Does what the state machine asks for.
    pub(super) fn carry_out(&mut self, now: Instant, output: &Output, hands: &mut Hands) {
        match output {
            Output::SendAdvert { priority } => self.advertise(*priority, hands),
            Output::AcquireVips => {
                let fresh = self.heard_at.is_some_and(|at| now < at + 2 * self.interval.duration());
                self.acquire(fresh, hands);
            }
            Output::ReplaceVips => {
                // They are announced next.
                let _added = self.replace(hands);
            }
            Output::ReleaseVips => self.release(hands),
            Output::SendGratuitous { count, .. } => self.announce(*count, hands),
            Output::Entered { state, cause } => self.entered(*state, cause, hands),
            Output::Noted(note) => self.note(note),
        }
    }

    fn advertise(&mut self, priority: u8, hands: &mut Hands) {
        // A goodbye leaves from where the router was, even if it may not be there any more.
        let goodbye = self.last_position.filter(|_| priority == 0);
        let Some(position) = self.position.or(goodbye) else { return };
        let mut result = Ok(());
        for destination in self.destinations() {
            let sent = self.message(priority, position.source, destination).and_then(|message| {
                let sent = match &self.voice {
                    Some(voice) => voice.send(destination, &message),
                    None if self.config.unicast.is_some() => {
                        Err(std::io::ErrorKind::NotConnected.into())
                    }
                    None => {
                        let to = frame::group_mac(destination);
                        let way = Way { from: position.mac, to };
                        let frame = frame::advert(way, position.source, destination, &message)
                            .unwrap_or_default();
                        hands.send(position.ifindex, &frame)
                    }
                };
                sent.map_err(|error| error.to_string())
            });
            result = result.and(sent);
        }
        match &result {
            Ok(()) => self.counters.sent += 1,
            Err(error) => {
                self.counters.send_errors += 1;
                if !self.cannot_send {
                    tracing::error!(instance = %self.config.name, "adverts cannot be sent: {error}");
                }
            }
        }
        self.cannot_send = result.is_err();
        if priority > 0 && self.is_owner {
            self.fight(hands);
        }
    }

    fn destinations(&self) -> Vec<IpAddr> {
        match &self.config.unicast {
            Some((_, peers)) => peers.clone(),
            None if self.v4 => vec![GROUP_V4.into()],
            None => vec![GROUP_V6.into()],
        }
    }

    fn message(&self, priority: u8, source: IpAddr, to: IpAddr) -> Result<Vec<u8>, String> {
        let packet = Packet {
            version: self.version,
            vrid: self.config.vrid,
            priority,
            interval: self.interval,
            auth: self.config.password.map_or(Auth::None, Auth::Pass),
            checksum: Checksum::PseudoHeader,
            addresses: self.advertised(),
        };
        packet::encode(&packet, source, to).map_err(|error| error.to_string())
    }

    fn entered(&mut self, state: State, cause: &Cause, hands: &mut Hands) {
        let from = std::mem::replace(&mut self.state, state);
        if state == State::Master {
            self.counters.masters += 1;
        }
        if self.transitions.len() == MAX_TRANSITIONS {
            self.transitions.pop_front();
        }
        let stopped = *cause == Cause::Shutdown;
        let cause = self.explain(cause);
        tracing::info!(
            instance = %self.config.name, priority = self.effective.priority,
            "{} -> {}: {cause}", from.name().to_uppercase(), state.name().to_uppercase()
        );
        self.transitions.push_back(Transition {
            from: from.name().to_owned(),
            to: state.name().to_owned(),
            cause: cause.clone(),
            at_ms: status::unix_millis(),
        });
        hands.reports.push(Report::Entered(Entered {
            group: false,
            name: self.config.name.clone(),
            state: state.name().to_owned(),
            stopped,
            priority: self.effective.priority,
            cause,
        }));
    }

    /// A cause in words, with what is tracked.
    fn explain(&self, cause: &Cause) -> String {
        let faults: Vec<&str> = match cause {
            Cause::Tracking => self
                .effective
                .reasons
                .iter()
                .filter(|reason| reason.part == priority::Part::Fault)
                .map(|reason| reason.name.as_str())
                .collect(),
            _ => Vec::new(),
        };
        if faults.is_empty() { cause.to_string() } else { format!("{} failed", faults.join(", ")) }
    }

    fn note(&mut self, note: &Note) {
        match note {
            Note::DuplicateMaster(_) | Note::TwoOwners(_) => self.counters.duplicate_masters += 1,
            Note::Late(_) => self.counters.late += 1,
            _ => {}
        }
        let own = self.position.map(|position| position.source.to_string()).unwrap_or_default();
        let about = note.about().unwrap_or(UNSPECIFIED);
        if self.quiet.is_news(note.name(), about) {
            tracing::warn!(instance = %self.config.name, note = note.name(), own, "{note}");
        }
    }

    /// Its state as it was entered last.
    pub(super) fn state(&self) -> State {
        self.state
    }
}

fn object(name: &str, weight: i16, well: Option<bool>) -> priority::Tracked {
    priority::Tracked { name: name.to_owned(), weight, reverse: false, well }
}

const UNSPECIFIED: IpAddr = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
/// Transitions that are remembered.
const MAX_TRANSITIONS: usize = 32;
