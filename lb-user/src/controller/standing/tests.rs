//! Services through failures, returns and the operator's changes.
//!
//! Must not know: maps, processes.

use std::time::SystemTime;

use super::*;
use crate::config;
use crate::health::fsm::tests::result;
use crate::health::{Machine, Observed, Target};
use crate::model::{AdminState, Scheduler};

/// A director, what its checks know, and what is remembered.
struct World {
    director: Director,
    known: Known,
    observed: HashMap<Target, (Machine, Observed)>,
    lives: Lives,
    start: Instant,
}

impl World {
    /// `services` is the list under `virtual_services`. Nothing was probed yet.
    fn new(services: &str) -> Self {
        Self::starting("down", services)
    }

    /// The same, with checks that are in state `start` before their first results.
    fn starting(start: &str, services: &str) -> Self {
        let text = format!(
            "dataplane: {{interfaces: [eth0]}}\n\
             health_checks: {{c: {{type: tcp, rise: 1, fall: 1, start: {start}}}, d: {{type: tcp, port: 81, rise: 1, fall: 1}}}}\n\
             virtual_services:\n{services}"
        );
        let director = config::load("f", &text, "n").expect("it is right").director;
        let mut world = Self {
            director,
            known: Known::default(),
            observed: HashMap::new(),
            lives: Lives::default(),
            start: Instant::now(),
        };
        world.follow();
        world
    }

    fn follow(&mut self) {
        for service in &self.director.virtual_services {
            for target in service.real_servers.iter().flat_map(Target::all) {
                let machine = Machine::new(&target.check, self.start, 1);
                let observed = Observed::new(machine.state(), machine.doubt().1);
                self.observed.entry(target).or_insert((machine, observed));
            }
        }
        let observed = &self.observed;
        self.known.follow(&self.director, |target| {
            Some(Checked::new(observed.get(target)?.1.clone(), None))
        });
    }

    /// The check on `port` of server 10.0.0.`last` finds `letter`, as in the machine's tests.
    fn probe(&mut self, last: u8, port: u16, letter: char) {
        let address = SocketAddr::from(([10, 0, 0, last], port));
        for (target, (machine, observed)) in &mut self.observed {
            if target.address == address {
                let result = result(letter);
                machine.on_result(self.start, &result);
                observed.take(machine, result, SystemTime::UNIX_EPOCH);
                self.known.hear(target);
            }
        }
    }

    fn judge(&mut self, seconds: u64) -> (Standing, Vec<Transition>) {
        self.lives.judge(&self.director, &self.known, self.start + Duration::from_secs(seconds))
    }

    /// What is told, in a line: servers by their last byte and `q` for a quorum, `+` or `-`, `?`
    /// when it is for the first time, and how many services share it.
    fn told(&mut self) -> String {
        let (_, transitions) = self.judge(0);
        let sign = |up: bool, first: bool| {
            format!("{}{}", if up { "+" } else { "-" }, if first { "?" } else { "" })
        };
        let words: Vec<String> = transitions
            .iter()
            .map(|transition| match transition {
                Transition::Server(ServerTransition { endpoints, up, first, places, .. }) => {
                    let last = endpoints[0].ip().to_string();
                    let last = last.rsplit('.').next().unwrap_or_default();
                    format!("{last}{}x{}", sign(*up, *first), places.len())
                }
                Transition::Quorum { up, first, .. } => format!("q{}", sign(*up, *first)),
            })
            .collect();
        words.join(" ")
    }

    fn shares(&mut self, seconds: u64) -> Vec<u32> {
        let (standing, _) = self.judge(seconds);
        standing.services[0].servers.iter().map(|server| server.share).collect()
    }
}

const TWO: &str = "- {name: web, listen: 192.0.2.1:80/tcp, forwarding: dr, health_check: c, \
                   slow_start: 100s, scheduler: wrr, real_servers: [{address: 10.0.0.1}, {address: 10.0.0.2, weight: 3}]}\n";

#[test]
fn first_results_are_told_as_such_and_changes_as_changes() {
    let mut world = World::new(TWO);
    assert_eq!(world.told(), "", "nothing is known");
    world.probe(1, 80, '+');
    assert_eq!(world.told(), "1+?x1 q+?");
    world.probe(2, 80, '-');
    assert_eq!(world.told(), "2-?x1");
    assert_eq!(world.told(), "", "once");
    world.probe(1, 80, '-');
    assert_eq!(world.told(), "1-x1 q-");
    world.probe(2, 80, '+');
    assert_eq!(world.told(), "2+x1 q+");
}

#[test]
fn a_lack_on_this_host_says_nothing() {
    let mut world = World::new(TWO);
    world.probe(1, 80, '?');
    world.probe(2, 80, '?');
    assert_eq!(world.told(), "");
}

#[test]
fn a_server_is_up_while_all_its_checks_are() {
    let mut world = World::new(
        "- {name: web, listen: 192.0.2.1:80/tcp, forwarding: dr, health_check: [c, d], \
         real_servers: [{address: 10.0.0.1}]}\n",
    );
    world.probe(1, 80, '+');
    assert_eq!(world.told(), "", "the other has said nothing yet");
    world.probe(1, 81, '+');
    assert_eq!(world.told(), "1+?x1 q+?");
    world.probe(1, 81, '-');
    assert_eq!(world.told(), "1-x1 q-");
    world.probe(1, 80, '-');
    assert_eq!(world.told(), "", "it is down already");
    world.probe(1, 81, '+');
    assert_eq!(world.told(), "");
    world.probe(1, 80, '+');
    assert_eq!(world.told(), "1+x1 q+");
}

#[test]
fn what_several_services_share_is_one_transition() {
    let service = |name: &str, ip: u8, check: &str| {
        format!(
            "- {{name: {name}, listen: 192.0.2.{ip}:80/tcp, forwarding: dr, health_check: {check}, \
             real_servers: [{{address: 10.0.0.1}}, {{address: 10.0.0.2}}]}}\n"
        )
    };
    let services =
        [service("a", 1, "c"), service("b", 2, "c"), service("other", 3, "[c, d]")].concat();
    let mut world = World::new(&services);
    for last in [1, 2] {
        world.probe(last, 80, '+');
        world.probe(last, 81, '+');
    }
    world.told();
    world.probe(1, 80, '-');
    assert_eq!(world.told(), "1-x3", "one check decided it for all");
    world.probe(2, 81, '-');
    assert_eq!(world.told(), "2-x1 q-");
}

#[test]
fn one_check_of_several_ports_is_one_transition() {
    let service = |name: &str, port: u16| {
        format!(
            "- {{name: {name}, listen: 192.0.2.1:{port}/tcp, forwarding: dr, health_check: d, \
             real_servers: [{{address: 10.0.0.1}}]}}\n"
        )
    };
    let mut world = World::new(&[service("web", 80), service("secure", 443)].concat());
    world.probe(1, 81, '+');
    world.told();
    world.probe(1, 81, '-');
    let (_, transitions) = world.judge(0);
    let Transition::Server(changed) = &transitions[0] else { panic!("{transitions:?}") };
    assert_eq!((changed.name().as_str(), changed.places.len()), ("10.0.0.1", 2));
    let servers = transitions.iter().filter(|t| matches!(t, Transition::Server(_)));
    assert_eq!(servers.count(), 1, "{transitions:?}");
}

#[test]
fn a_quorum_does_not_wait_for_a_check_that_this_host_cannot_do() {
    let mut world = World::new(TWO);
    world.probe(1, 80, '+');
    assert_eq!(world.told(), "1+?x1 q+?");
    for _ in 0..ENOUGH {
        world.probe(2, 80, '?');
    }
    world.probe(1, 80, '-');
    assert_eq!(world.told(), "1-x1 q-");
}

#[test]
fn the_sorry_server_takes_over_when_the_quorum_is_lost_and_not_before_it_is_known() {
    let mut world = World::new(
        "- {name: web, listen: 192.0.2.1:80/tcp, forwarding: dr, health_check: c, \
         quorum: {up: 2}, sorry_server: {address: 10.0.0.9}, \
         real_servers: [{address: 10.0.0.1}, {address: 10.0.0.2}]}\n",
    );
    let stands = |world: &mut World| {
        let service = world.judge(0).0.services.remove(0);
        let shares: Vec<u32> = service.servers.iter().map(|server| server.share).collect();
        (shares, service.is_sorry, service.live_weight)
    };
    assert_eq!(stands(&mut world), (vec![0, 0], false, 0));
    world.probe(1, 80, '+');
    assert_eq!(stands(&mut world), (vec![1, 0], false, 1));
    world.probe(2, 80, '-');
    assert_eq!(stands(&mut world), (vec![0, 0], true, 1), "one is not enough");
    world.probe(2, 80, '+');
    assert_eq!(stands(&mut world), (vec![1, 1], false, 2));
}

#[test]
fn a_server_that_returns_gets_its_share_by_and_by() {
    let mut world = World::new(TWO);
    world.probe(1, 80, '+');
    world.probe(2, 80, '+');
    assert_eq!(world.shares(0), [1, 3], "not at the start");
    world.probe(2, 80, '-');
    assert_eq!(world.shares(10), [1, 0]);
    world.probe(2, 80, '+');
    let shares = world.shares(20);
    assert_eq!(shares, [64, 1], "it begins with next to nothing");
    for (seconds, part) in [(45, 0.25), (70, 0.5), (95, 0.75), (119, 0.99)] {
        let shares = world.shares(seconds);
        let found = f64::from(shares[1]) / f64::from(shares[0]) / 3.0;
        assert!((found - part).abs() < 0.02, "{found} after {seconds} s");
    }
    assert_eq!(world.shares(120), [1, 3], "all of it, and small numbers again");
    assert_eq!(world.lives.next_step(&world.director, world.start), None);
}

#[test]
fn a_server_that_joins_a_running_service_begins_slowly() {
    let mut world = World::new(TWO);
    world.probe(1, 80, '+');
    world.judge(0);
    world.probe(2, 80, '+');
    assert_eq!(world.shares(1), [1, 3], "it was there from the beginning");
    let mut third = world.director.virtual_services[0].real_servers[0].clone();
    third.address = "10.0.0.3".parse().expect("an address");
    world.director.virtual_services[0].real_servers.push(third);
    world.follow();
    assert_eq!(world.shares(2), [1, 3, 0]);
    world.probe(3, 80, '+');
    assert_eq!(world.shares(3), [64, 192, 1]);
}

#[test]
fn the_operator_brings_a_server_back_slowly_too_and_hashes_know_no_shares() {
    let mut world = World::new(TWO);
    world.probe(1, 80, '+');
    world.probe(2, 80, '+');
    world.judge(0);
    world.director.virtual_services[0].real_servers[0].admin = AdminState::Drain;
    assert_eq!(world.shares(1), [0, 3]);
    assert_eq!(world.told(), "", "nobody is told what the operator does");
    world.director.virtual_services[0].real_servers[0].admin = AdminState::Ready;
    assert_eq!(world.shares(2), [1, 192]);
    assert!(world.lives.next_step(&world.director, world.start).is_some());
    world.director.virtual_services[0].scheduler = Scheduler::Mh;
    assert_eq!(world.shares(3), [1, 3]);
}

#[test]
fn a_reload_forgets_only_what_left() {
    let mut world = World::new(TWO);
    world.probe(1, 80, '+');
    world.probe(2, 80, '+');
    world.told();
    world.director.virtual_services[0].real_servers.remove(1);
    world.follow();
    assert_eq!(world.told(), "", "the other is as it was");
    world.probe(1, 80, '-');
    assert_eq!(world.told(), "1-x1 q-");
}

#[test]
fn a_quorum_is_not_lost_for_lack_of_first_results() {
    let mut world = World::new(TWO);
    world.probe(1, 80, '+');
    world.probe(2, 80, '+');
    world.told();
    for server in &mut world.director.virtual_services[0].real_servers {
        server.address = format!("10.0.1.{}", server.weight).parse().expect("an address");
    }
    world.follow();
    assert_eq!(world.told(), "", "others, not asked yet");
}

/// One case of the recording: what the service is, and what is remembered of it.
struct Recorded {
    world: World,
    inhibits: bool,
    weights: Vec<u32>,
}

impl Recorded {
    /// `NAME: quorum Q, hysteresis H, weights A,B,..[, sorry][, inhibit][, alpha]`.
    fn new(case: &str) -> Self {
        let (_, words) = case.split_once(": ").expect("a name");
        let mut words = words.split(", ");
        let mut value = |key: &str| {
            let word = words.next().and_then(|word| word.strip_prefix(key));
            word.unwrap_or_else(|| panic!("{key} in {case}")).trim().to_owned()
        };
        let (quorum, hysteresis, weights) =
            (value("quorum"), value("hysteresis"), value("weights"));
        let options: Vec<&str> = words.flat_map(str::split_whitespace).collect();
        let inhibits = options.contains(&"inhibit");
        let weights: Vec<u32> =
            weights.split(',').map(|weight| weight.parse().expect("a weight")).collect();
        let servers: Vec<String> = (1..)
            .zip(&weights)
            .map(|(n, weight)| format!("{{address: 10.0.0.{n}, weight: {weight}}}"))
            .collect();
        let sorry =
            if options.contains(&"sorry") { "sorry_server: {address: 10.0.0.9}, " } else { "" };
        let on_failure = if inhibits { "quiesce" } else { "remove" };
        // Without alpha, keepalived takes servers to be up until it knows better.
        let start = if options.contains(&"alpha") { "down" } else { "up" };
        let services = format!(
            "- {{name: web, listen: 192.0.2.1:80/tcp, forwarding: dr, health_check: c, scheduler: wrr, \
             quorum: {{up: {quorum}, hysteresis: {hysteresis}}}, {sorry}on_failure: {on_failure}, \
             real_servers: [{}]}}\n",
            servers.join(", ")
        );
        Self { world: World::starting(start, &services), inhibits, weights }
    }

    /// Does a step; gives the pool as the recording has it, and what is told.
    fn step(&mut self, step: &str) -> String {
        let (verb, servers) = step.split_once(' ').expect("a step");
        let listed: Vec<u8> = servers.split(',').filter_map(|n| n.parse().ok()).collect();
        let (_, mut transitions) = self.world.judge(0);
        let all = 1..=u8::try_from(self.weights.len()).expect("few");
        for n in all {
            match (verb, listed.contains(&n)) {
                ("start", true) | ("return", true) => self.world.probe(n, 80, '+'),
                ("start", false) | ("fail", true) => self.world.probe(n, 80, '-'),
                _ => {}
            }
        }
        let (standing, later) = self.world.judge(0);
        transitions.extend(later);
        let service = &standing.services[0];
        let mut rows: Vec<String> = Vec::new();
        for (n, server) in (1..).zip(&service.servers) {
            // One that is quiesced has a row of weight 0 in IPVS.
            let is_weightless = server.effective.state == ServerState::Drain && !service.is_sorry;
            if server.share > 0 || is_weightless || self.inhibits {
                rows.push(format!("{n}:{}", server.share));
            }
        }
        if service.is_sorry {
            rows.push("s:1".to_owned());
        }
        let told = transitions.iter().filter_map(|transition| match transition {
            Transition::Quorum { up: true, .. } => Some("up"),
            Transition::Quorum { up: false, .. } => Some("down"),
            Transition::Server(_) => None,
        });
        let told: Vec<&str> = told.collect();
        let rows = if rows.is_empty() { "-".to_owned() } else { rows.join(" ") };
        if told.is_empty() { rows } else { format!("{rows} ; {}", told.join(" ")) }
    }
}

/// The pool and the quorum are those of keepalived, step by step.
#[test]
fn quorums_and_sorry_servers_are_keepalived_s() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/vectors/keepalived/quorum.txt");
    let text = std::fs::read_to_string(path).expect("the recording is in the repository");
    let (mut recorded, mut steps) = (None, 0);
    for line in text.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        if let Some(case) = line.strip_prefix("case ") {
            recorded = Some((case, Recorded::new(case)));
            continue;
        }
        let (case, recorded) = recorded.as_mut().expect("steps belong to a case");
        let (step, expected) = line.split_once(" -> ").expect("a step and what follows");
        if step != "stop" {
            let sorted = |rows: &str| {
                let (rows, told) = rows.split_once(" ; ").unwrap_or((rows, ""));
                let mut rows: Vec<&str> = rows.split(' ').collect();
                rows.sort_unstable();
                format!("{} ; {told}", rows.join(" "))
            };
            // With alpha, keepalived tells of a loss before anything is known; here nothing is.
            let expected = expected.replace("; down up", "; up");
            assert_eq!(sorted(&recorded.step(step)), sorted(&expected), "{case}: {step}");
            steps += 1;
        }
    }
    assert!(steps >= 100, "only {steps} steps");
}
