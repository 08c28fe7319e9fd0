//! `lb explain`: what would become of a packet, in words.
//!
//! A made-up packet is run in the sandbox; [`tell`], which is pure, turns what happened into steps.
//!
//! Must not know: HTTP, argv, how the sandbox works.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use lb_common::conn::{ConnectionCounts, PROVISIONAL, REPLY, State};
use lb_common::hash;
use lb_common::pod::Address;
use lb_common::sched;
use lb_common::service::{
    METHOD_NAT, METHOD_TUNNEL, RealServer, SCHEDULER_HASH, SCHEDULER_LC, SCHEDULER_RING,
    SERVICE_HASH_PORT, ServiceEntry,
};
use lb_common::verdict::{Counter, CounterKind};

use crate::controller::document::Explanation;
use crate::controller::request::{Asked, Document, Refusal, RefusalKind, Request};
use crate::controller::task::{Controller, failed};
use crate::controller::wanted;
use crate::dataplane::bpf::{Clock, Known, Member, Outcome};
use crate::dataplane::listing::ip;
use crate::dataplane::made_up::{self, Segment};
use crate::model::Protocol;
use crate::netlink::{Link, LinkKind, LinkTable};

/// The source port of a packet for which none was given: the first ephemeral one (RFC 6335).
const EPHEMERAL: u16 = 49_152;
/// Real servers of which the scheduler's inputs are listed.
const LISTED: usize = 64;

/// Names of what the programs know by number.
struct Names {
    /// Name and scheduler of services, by id.
    services: BTreeMap<u32, (String, &'static str)>,
    links: LinkTable,
}

/// The packet that was made up.
struct Packet {
    source: SocketAddr,
    destination: SocketAddr,
    segment: Segment,
    /// Its source port was not given.
    any_port: bool,
    /// The interface that it comes in by.
    ingress: Link,
    /// How long its connection has been idle, if it has one.
    idle: Option<std::time::Duration>,
}

impl Controller {
    /// `lb explain`. The sandbox is used on a blocking thread: loading it takes a while.
    pub(super) fn explain(&mut self, request: Request, asked: Asked) {
        let (Some(plane), Some(engine)) = (&self.start.director.dataplane, &mut self.engine) else {
            let text = "there is no data plane to ask: the file has no dataplane section";
            return request.answer(Err(Refusal::new(RefusalKind::Invalid, text)));
        };
        let links = self.routes.links.clone();
        let ours: Vec<Link> =
            plane.interfaces.iter().filter_map(|name| links.by_name(name).cloned()).collect();
        let mut services = BTreeMap::new();
        for service in &self.start.director.virtual_services {
            let key = service.listen.first().map(wanted::key);
            if let Some(id) = key.and_then(|key| engine.service_id(&key)) {
                services.insert(id, (service.name.clone(), service.scheduler.name()));
            }
        }
        let (explainer, clock) = (engine.explainer(), engine.dataplane().clock());
        let (netlink, names) = (self.netlink.clone(), Names { services, links });
        tokio::spawn(async move {
            // A source without a route may come by any interface.
            let route = netlink.route(asked.from).await.ok().flatten();
            let by = route.and_then(|route| names.links.get(route.ifindex)).cloned();
            let Some(ingress) = ingress(&ours, by.as_ref()).cloned() else {
                let text = "none of dataplane.interfaces is there";
                return request.answer(Err(Refusal::new(RefusalKind::Failed, text)));
            };
            tokio::task::spawn_blocking(move || {
                let done = explainer.ask(|sandbox| {
                    let mut packet = packet(&asked, ingress);
                    let ends = (packet.source, packet.destination);
                    let flow = made_up::flow(ends.0, ends.1, packet.segment.protocol());
                    let flow = flow.ok_or_else(|| anyhow::anyhow!("ends of two families"))?;
                    if let Some(known) = sandbox.known(&flow) {
                        packet.know(&known, clock);
                    }
                    let mac = packet.ingress.mac.unwrap_or_default();
                    let frame = made_up::frame(mac, ends, packet.segment).unwrap_or_default();
                    let outcome = sandbox.run(&frame, packet.ingress.index, &flow)?;
                    Ok(tell(&packet, &names, &outcome))
                });
                let reply = done.map(Document::Explanation).map_err(|error| failed(&error));
                request.answer(reply);
            });
        });
    }
}

/// The interface that frames from beyond `by` come in by: itself or its parent, else the first.
fn ingress<'a>(ours: &'a [Link], by: Option<&Link>) -> Option<&'a Link> {
    let parent = by.and_then(|link| match link.kind {
        LinkKind::Vlan { parent, .. } => parent,
        LinkKind::Plain => None,
    });
    let is_it =
        |link: &&Link| by.is_some_and(|by| by.index == link.index) || parent == Some(link.index);
    ours.iter().find(is_it).or(ours.first())
}

fn packet(asked: &Asked, ingress: Link) -> Packet {
    Packet {
        source: SocketAddr::new(asked.from, asked.port.unwrap_or(EPHEMERAL)),
        destination: SocketAddr::new(asked.to.address, asked.to.port),
        segment: match asked.to.protocol {
            Protocol::Tcp => Segment::Syn,
            Protocol::Udp => Segment::Udp,
        },
        any_port: asked.port.is_none(),
        ingress,
        idle: None,
    }
}

impl Packet {
    /// It belongs to a connection: a TCP packet is one of its middle.
    fn know(&mut self, known: &Known, clock: Clock) {
        if self.segment == Segment::Syn {
            self.segment = Segment::Ack;
        }
        self.idle = Some(clock.span_of(clock.now().saturating_sub(known.seen)));
    }
}

/// What happened, as a document.
fn tell(packet: &Packet, names: &Names, outcome: &Outcome) -> Explanation {
    let mut document = Explanation::default();
    document.steps.push(arrival(packet));
    let refused = refusal(outcome);
    document.steps.push(refused.clone().unwrap_or_else(|| "access lists: it passes".to_owned()));
    if refused.is_none() {
        document.steps.push(connection(packet, outcome));
        service(&mut document, packet, names, outcome);
    }
    let chosen = chosen(outcome);
    if let Some(member) = chosen {
        document.real_server = end(&member.server.address, member.server.port);
        document.steps.push(choice(outcome, &document.real_server));
    }
    document.verdict = verdict(outcome).to_owned();
    for (counter, _) in &outcome.counted {
        let what = match counter.kind() {
            CounterKind::Drop => "dropped",
            CounterKind::Answered => "answered, not forwarded",
            CounterKind::WithoutEntry => "forwarded without an entry",
            CounterKind::Detour | CounterKind::Note => "noted",
        };
        document.steps.push(format!("{what}: {}: {}", counter.name(), counter.meaning()));
    }
    match document.verdict.as_str() {
        "forward" => {
            if let Some(member) = chosen {
                document.steps.push(way(packet, names, outcome, &member.server));
            }
        }
        "pass" => document.steps.push("it goes on to the stack of this host".to_owned()),
        _ => return document,
    }
    document.packet = outcome.frame.iter().map(|byte| format!("{byte:02x}")).collect();
    document
}

fn arrival(packet: &Packet) -> String {
    let Packet { source, destination, segment, ingress, .. } = packet;
    let made_up = if packet.any_port { " (a port of our own choice)" } else { "" };
    format!("{} from {source}{made_up} to {destination}, in by {}", segment.name(), ingress.name)
}

/// What the access lists said, if they dropped it.
fn refusal(outcome: &Outcome) -> Option<String> {
    if counted(outcome, Counter::Denied) {
        let by = outcome.denied_by.map_or("an entry".to_owned(), |prefix| prefix.to_string());
        return Some(format!("deny list: {by} drops it"));
    }
    counted(outcome, Counter::NotAllowed).then(|| "allow list: its source is not on it".to_owned())
}

fn counted(outcome: &Outcome, counter: Counter) -> bool {
    outcome.counted.iter().any(|(c, _)| *c == counter)
}

fn connection(packet: &Packet, outcome: &Outcome) -> String {
    let Some(known) = outcome.known else {
        return "connection table: no connection of these ends".to_owned();
    };
    let word = known.word;
    let mut text = format!("connection table: known, {}", word.state().name());
    if word.has(REPLY) {
        "connection table: the reply of a nat connection".clone_into(&mut text);
    }
    if word.has(PROVISIONAL) {
        text.push_str(", not confirmed");
    }
    if let Some(member) = member(outcome, word.real_server()) {
        text.push_str(&format!(", of {}", end(&member.server.address, member.server.port)));
        if member.server.generation != word.generation() {
            text.push_str(", which is gone since");
        }
    }
    let idle = packet.idle.unwrap_or_default();
    text.push_str(&format!(", idle for {:.1} s", idle.as_secs_f64()));
    if !goes_on(outcome) && !word.has(REPLY) {
        text.push_str("; it is over");
    }
    text
}

/// Whether the packet followed the connection that it had.
fn goes_on(outcome: &Outcome) -> bool {
    let pair = outcome.known.zip(outcome.after);
    pair.is_some_and(|(known, after)| after.pairs_with(known.word))
}

/// Names the service and, if the scheduler was asked, what it looked at.
fn service(document: &mut Explanation, packet: &Packet, names: &Names, outcome: &Outcome) {
    let Some(service) = outcome.service else {
        document.steps.push(format!("no service listens on {}", packet.destination));
        return;
    };
    let (name, scheduler) = match names.services.get(&service.id) {
        Some((name, scheduler)) => (name.clone(), *scheduler),
        None => (format!("number {}", service.id), kind(&service)),
    };
    document.steps.push(format!("service {name}, scheduler {scheduler}"));
    (document.service, document.scheduler) = (name, scheduler.to_owned());
    if goes_on(outcome) {
        return;
    }
    let hashed = service.scheduler == SCHEDULER_HASH || packet.segment == Segment::Ack;
    document.steps.push(place(packet, &service, outcome.cursor, hashed));
    let members = outcome.members.iter().filter(|member| member.server.service == service.id);
    let with_load = matches!(service.scheduler, SCHEDULER_RING | SCHEDULER_HASH);
    let lines: Vec<String> = members.map(|member| inputs(member, !with_load)).collect();
    let more = lines.len().saturating_sub(LISTED);
    document.steps.extend(lines.into_iter().take(LISTED));
    if more > 0 {
        document.steps.push(format!("and {more} more real servers"));
    }
}

/// A scheduler of a service that has left the file.
fn kind(service: &ServiceEntry) -> &'static str {
    match service.scheduler {
        SCHEDULER_RING => "rr",
        SCHEDULER_LC => "lc",
        SCHEDULER_HASH => "mh",
        _ => "wlc",
    }
}

/// Where the scheduler looks first.
fn place(packet: &Packet, service: &ServiceEntry, cursor: u64, hashed: bool) -> String {
    let region = if hashed { service.maglev } else { service.slots };
    if region.len == 0 {
        return "scheduler: the service has no real server to choose from".to_owned();
    }
    let (slot, len) = match (hashed, service.scheduler) {
        (true, _) => {
            let with_port = service.flags & SERVICE_HASH_PORT != 0;
            let port = if with_port { packet.source.port() } else { 0 };
            let source = wanted::address(packet.source.ip());
            let flow = hash::address(hash::FLOW_SEED, &source, port);
            return format!(
                "scheduler: the source's hash is slot {} of {} in the service's table",
                hash::slot(flow, region.len),
                region.len
            );
        }
        (false, SCHEDULER_RING) => ((cursor % u64::from(region.len)) as u32, region.len),
        (false, _) => (sched::start(cursor, region.len), region.len),
    };
    format!("scheduler: choice number {cursor} begins with place {slot} of {len}")
}

fn inputs(member: &Member, with_load: bool) -> String {
    let ConnectionCounts { active, inactive, .. } = member.counts;
    let server = end(&member.server.address, member.server.port);
    let mut text = format!(
        "real server {server}: weight {}, {active} active, {inactive} inactive",
        member.server.weight
    );
    if with_load {
        text.push_str(&format!(", overhead {}", sched::overhead(&member.counts)));
    }
    text
}

fn member(outcome: &Outcome, index: u32) -> Option<&Member> {
    outcome.members.iter().find(|member| member.index == index)
}

/// The real server that the packet was counted for, or for which a connection was made.
fn chosen(outcome: &Outcome) -> Option<&Member> {
    let made = outcome.after.map(|word| word.real_server());
    member(outcome, outcome.server.map(|(index, _)| index).or(made)?)
}

fn choice(outcome: &Outcome, server: &str) -> String {
    match outcome.after {
        Some(word) if goes_on(outcome) => {
            format!("it stays with {server}; the connection is then {}", word.state().name())
        }
        Some(word) if word.state() == State::UDP => format!("{server} is chosen"),
        Some(word) => {
            format!("{server} is chosen; the connection is then {}", word.state().name())
        }
        None => format!("{server} gets it"),
    }
}

/// How it leaves.
fn way(packet: &Packet, names: &Names, outcome: &Outcome, server: &RealServer) -> String {
    let is_reply = outcome.server.is_some_and(|(_, traffic)| traffic.packets_out > 0);
    let method = match server.method {
        METHOD_NAT if is_reply => "nat: its source becomes the virtual address".to_owned(),
        METHOD_NAT => {
            format!("nat: its destination becomes {}", end(&server.address, server.port))
        }
        METHOD_TUNNEL => {
            let (from, to) = (ip(&server.tunnel_source), ip(&server.address));
            format!("tunnel: in a packet from {from} to {to}")
        }
        _ => "dr: only its Ethernet addresses change".to_owned(),
    };
    let [to, from] = [0, 6].map(|at| mac(outcome.frame.get(at..at + 6).unwrap_or_default()));
    let asked = counted(outcome, Counter::RouteLookups);
    // The frame says by its source who sends it; what a route lookup found is said nowhere else.
    let by_mac = || names.links.iter().find(|link| link.mac.map(|m| mac(&m)) == Some(from.clone()));
    let link = if asked || is_reply { by_mac() } else { names.links.get(server.next_hop.ifindex) };
    let name = if outcome.verdict == XDP_TX {
        packet.ingress.name.clone()
    } else {
        link.map_or_else(|| "another interface".to_owned(), |link| link.name.clone())
    };
    let how = if asked { " (asked from the routing table)" } else { "" };
    format!("{method}; out by {name} to {to} from {from}{how}")
}

fn verdict(outcome: &Outcome) -> &'static str {
    let is_answer = outcome.counted.iter().any(|(c, _)| c.kind() == CounterKind::Answered);
    match outcome.verdict {
        XDP_TX | XDP_REDIRECT if !is_answer => "forward",
        XDP_PASS => "pass",
        _ => "drop",
    }
}

fn end(address: &Address, port: u16) -> String {
    SocketAddr::new(ip(address), port).to_string()
}

fn mac(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(":")
}

const XDP_PASS: u32 = 2;
const XDP_TX: u32 = 3;
const XDP_REDIRECT: u32 = 4;
