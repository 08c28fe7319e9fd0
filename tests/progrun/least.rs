//! lc and wlc: every choice of the program is one that IPVS's formula allows.

use anyhow::{Context, Result, bail, ensure};
use lb_common::conn::{State, Timeouts};
use lb_common::service::{METHOD_DR, METHOD_NAT, SCHEDULER_LC, SCHEDULER_WLC};
use lb_common::verdict::Counter;

use crate::dice::{Dice, seed};
use crate::frames::{Frame, L4, flag};
use crate::ipvs;
use crate::least_oracle::{Belief, Kind, Oracle, Step, WRONG};
use crate::rig::*;
use crate::services::*;
use crate::simulation::propose;

const SYN: L4 = L4::Tcp(flag::SYN);
const SCHEDULERS: [u32; 2] = [SCHEDULER_LC, SCHEDULER_WLC];

/// A service over servers of these weights.
fn least(scheduler: u32, method: u8, v6: bool, port: u16, weights: &[u32]) -> Wanted {
    let mut wanted =
        Wanted::new(method, TCP, vip(v6, port), &servers(v6, weights.len() as u16, port));
    (wanted.scheduler, wanted.weights) = (scheduler, weights.to_vec());
    wanted
}

/// The server that a new connection of the `n`th client is given.
#[track_caller]
fn opens(rig: &mut Rig, service: &Installed, n: u16) -> usize {
    let request = service.request(SYN, client(service.wanted.listen.0.is_ipv6(), n));
    let out = rig.run(&request.bytes(), CLIENT_SIDE).expect("a test run");
    let sent = |server: &usize| service.sent(&request, *server).bytes() == out.frame;
    let server = (0..service.index.len()).find(sent).expect("it goes to a server");
    assert_eq!(out.verdict, REDIRECT);
    server
}

/// Lets a frame's connection expire.
fn end(rig: &mut Rig, frame: &Frame) -> Result<()> {
    rig.age(frame, rig.hz() * 3600)?;
    propose(rig, frame)?;
    ensure!(rig.entry(frame)?.is_none(), "it is still there");
    Ok(())
}

#[test]
fn a_busy_server_gets_nothing_until_the_other_one_is_as_busy() {
    with(1000, |rig| {
        for (n, (method, v6)) in (0u16..).zip(KINDS) {
            for scheduler in SCHEDULERS {
                let port = 100 + n * 10 + scheduler as u16;
                let mut service = rig.install(&least(scheduler, method, v6, port, &[1, 0]))?;
                for client in 0..20 {
                    ensure!(opens(rig, &service, client) == 0, "weight 0 was chosen");
                }
                rig.set_weight(&mut service, 1, 1)?;
                for client in 20..40 {
                    ensure!(opens(rig, &service, client) == 1, "{client} goes to the busy one");
                }
                let counts = [rig.counts(service.index[0])?, rig.counts(service.index[1])?];
                ensure!(counts == [(20, 0), (20, 0)], "{counts:?}");
            }
        }
        Ok(())
    });
}

#[test]
fn equal_servers_share_a_cold_start_in_turn() {
    with(1000, |rig| {
        for scheduler in SCHEDULERS {
            let wanted = least(scheduler, METHOD_DR, false, 90 + scheduler as u16, &[3; 7]);
            let service = rig.install(&wanted)?;
            for round in 0..3 {
                let mut chosen: Vec<_> =
                    (0..7).map(|n| opens(rig, &service, round * 7 + n)).collect();
                chosen.sort_unstable();
                ensure!(chosen == [0, 1, 2, 3, 4, 5, 6], "round {round}: {chosen:?}");
            }
            // One at a time, each ended before the next: all servers are equal every time.
            let mut chosen = std::collections::BTreeSet::new();
            for n in 0..21 {
                let request = service.request(SYN, client(false, n));
                end(rig, &request)?;
            }
            for n in 100..107 {
                chosen.insert(opens(rig, &service, n));
                end(rig, &service.request(SYN, client(false, n)))?;
            }
            ensure!(chosen.len() == 7, "an idle service uses {chosen:?} alone");
        }
        Ok(())
    });
}

#[test]
fn without_weight_new_connections_are_dropped() {
    with(1000, |rig| {
        for (n, scheduler) in (0u16..).zip(SCHEDULERS) {
            let mut empty = least(scheduler, METHOD_DR, false, 95 + n, &[1, 1]);
            empty.ring = Vec::new();
            let empty = rig.install(&empty)?;
            let quiet = rig.install(&least(scheduler, METHOD_DR, false, 85 + n, &[0, 0]))?;
            for service in [empty, quiet] {
                let request = service.request(SYN, client(false, 0));
                rig.drops(&request, CLIENT_SIDE, Counter::NoRealServer);
            }
        }
        Ok(())
    });
}

#[test]
fn nat_tries_every_other_server_before_it_gives_up() {
    with(1000, |rig| {
        for scheduler in SCHEDULERS {
            let v6 = scheduler == SCHEDULER_LC;
            // Five services over the same four servers: a client's fifth connection finds no room.
            let services = (0..5u16)
                .map(|n| {
                    let mut wanted = least(scheduler, METHOD_NAT, v6, 700 + n, &[1, 2, 3, 4]);
                    wanted.servers = servers(v6, 4, 8080);
                    rig.install(&wanted)
                })
                .collect::<Result<Vec<_>>>()?;
            for n in 0..10 {
                let mut chosen: Vec<_> =
                    services[..4].iter().map(|service| opens(rig, service, n)).collect();
                chosen.sort_unstable();
                ensure!(chosen == [0, 1, 2, 3], "{chosen:?}");
                let request = services[4].request(SYN, client(v6, n));
                rig.drops(&request, CLIENT_SIDE, Counter::NatTupleInUse);
            }
        }
        Ok(())
    });
}

#[test]
fn more_members_than_are_compared_still_share() {
    const SERVERS: u16 = 600;
    with(65_536, |rig| {
        let weights: Vec<u32> = (0..SERVERS).map(|n| 1 + u32::from(n % 2)).collect();
        let wanted = least(SCHEDULER_WLC, METHOD_DR, true, 444, &weights);
        let service = rig.install(&wanted)?;
        // Ten for a weight of one.
        for n in 0..SERVERS * 15 {
            let request = service.request(SYN, client(true, n));
            let out = rig.run(&request.bytes(), CLIENT_SIDE)?;
            ensure!(out.verdict == REDIRECT, "{n}: {}", out.verdict);
        }
        for (place, &index) in service.index.iter().enumerate() {
            let (active, _) = rig.counts(index)?;
            let meant = 10 * i64::from(weights[place]);
            ensure!((active - meant).abs() <= 2, "{place}: {active}, not {meant}");
        }
        Ok(())
    });
}

#[test]
fn every_choice_is_one_that_ipvs_allows() {
    with(65_536, |rig| {
        let mut world = World::new(rig)?;
        for (scheduler, kind) in [(SCHEDULER_WLC, Kind::Wlc), (SCHEDULER_LC, Kind::Lc)] {
            let seen = world.play(rig, scheduler, kind, Belief::True, (seed(0x1c), 5000))?;
            println!("{kind:?}: {seen:?}");
            ensure!(seen.choices > 1000 && seen.none > 5 && seen.ended > 500, "{seen:?}");
            ensure!(seen.single > seen.choices / 3, "hardly any choice was narrow: {seen:?}");
        }
        Ok(())
    });
}

#[test]
fn a_wrong_formula_is_found() {
    with(65_536, |rig| {
        let mut world = World::new(rig)?;
        // Rounding only makes more servers equal, so no choice speaks against it here; IPVS's own
        // choices do, see `ipvs_traces`.
        for belief in WRONG.into_iter().filter(|belief| *belief != Belief::Rounded) {
            let found = (0..5).any(|seed| {
                world.play(rig, SCHEDULER_WLC, Kind::Wlc, belief, (seed, 1000)).is_err()
            });
            ensure!(found, "nobody saw {belief:?}");
        }
        // The other scheduler in the program.
        for (scheduler, kind) in [(SCHEDULER_LC, Kind::Wlc), (SCHEDULER_WLC, Kind::Lc)] {
            let run = world.play(rig, scheduler, kind, Belief::True, (1, 1000));
            ensure!(run.is_err(), "scheduler {scheduler} passes for {kind:?}");
        }
        Ok(())
    });
}

/// What a run met.
#[derive(Debug, Default)]
struct Seen {
    choices: usize,
    /// Choices of which only one was right.
    single: usize,
    none: usize,
    ended: usize,
}

struct World {
    /// Jiffies that stand for a second: so many that the time of the test itself is nothing.
    second: u64,
    profile: u32,
    next_port: u16,
}

impl World {
    fn new(rig: &mut Rig) -> Result<Self> {
        let second = rig.hz() * 1000;
        let mut value = Timeouts { by_state: [0; 16] };
        for state in State::ALL.into_iter().filter(|state| *state != State::UDP) {
            value.by_state[state.raw() as usize] = ipvs::timeout(state.name()) * second;
        }
        Ok(Self { second, profile: rig.timeouts(value)?, next_port: 2000 })
    }

    fn play(
        &mut self,
        rig: &mut Rig,
        scheduler: u32,
        kind: Kind,
        belief: Belief,
        (seed, steps): (u64, usize),
    ) -> Result<Seen> {
        let mut dice = Dice::new(seed);
        let weights = [1, 2, 3, 5, 0, 100];
        self.next_port += 1;
        let mut wanted = least(scheduler, METHOD_DR, false, self.next_port, &weights);
        wanted.profile = self.profile;
        let mut service = rig.install(&wanted)?;
        let mut oracle = Oracle::new(kind, belief, &weights.map(u64::from));
        let mut seen = Seen::default();
        for step in 0..steps {
            self.step(rig, &mut service, &mut oracle, &mut dice, &mut seen)
                .with_context(|| format!("LB_SIM_SEED={seed:#x}, step {step}"))?;
        }
        Ok(seen)
    }

    fn step(
        &mut self,
        rig: &mut Rig,
        service: &mut Installed,
        oracle: &mut Oracle,
        dice: &mut Dice,
        seen: &mut Seen,
    ) -> Result<()> {
        let n = dice.below(60) as u16;
        match dice.below(100) {
            0..45 => packet(rig, service, oracle, n, flag::SYN, seen)?,
            45..65 => packet(rig, service, oracle, n, flag::ACK, seen)?,
            65..80 => packet(rig, service, oracle, n, flag::FIN | flag::ACK, seen)?,
            80..86 => packet(rig, service, oracle, n, flag::RST, seen)?,
            86..92 => {
                let server = dice.below(oracle.weights.len());
                // The great ones make inactive connections count.
                let weight = *dice.pick(&[0, 1, 2, 3, 5, 7, 300, 30_000]);
                rig.set_weight(service, server, weight)?;
                oracle.weights[server] = weight.into();
            }
            92 => {
                // All quiet for a moment.
                for server in 0..oracle.weights.len() {
                    rig.set_weight(service, server, 0)?;
                }
                let weights = std::mem::replace(&mut oracle.weights, vec![0; service.index.len()]);
                for n in 100..103 {
                    packet(rig, service, oracle, n, flag::SYN, seen)?;
                }
                oracle.weights = weights;
                for server in 0..oracle.weights.len() {
                    rig.set_weight(service, server, oracle.weights[server] as u32)?;
                }
            }
            _ => {
                let seconds = 7 * (1 + dice.below(9) as u64);
                let frames: Vec<Frame> =
                    oracle.flows.keys().map(|n| service.request(SYN, client(false, *n))).collect();
                frames.iter().try_for_each(|frame| rig.age(frame, seconds * self.second))?;
                let before = oracle.flows.len();
                oracle.advance(seconds);
                seen.ended += before - oracle.flows.len();
                frames.iter().try_for_each(|frame| propose(rig, frame))?;
            }
        }
        for (server, index) in service.index.iter().enumerate() {
            let (active, inactive) = oracle.counts(server);
            let found = rig.counts(*index)?;
            ensure!(
                found == (active as i64, inactive as i64),
                "server {server} has {found:?}, the oracle counts {active} and {inactive}"
            );
        }
        Ok(())
    }
}

/// A packet through the program; its fate must be one that the oracle allows.
fn packet(
    rig: &mut Rig,
    service: &Installed,
    oracle: &mut Oracle,
    n: u16,
    flags: u8,
    seen: &mut Seen,
) -> Result<()> {
    // The program picks connections up in their middle, IPVS does not: that is tested elsewhere.
    if flags != flag::SYN && !oracle.flows.contains_key(&n) {
        return Ok(());
    }
    let request = service.request(L4::Tcp(flags), client(false, n));
    let (out, counted) = rig.counted(|rig| rig.run(&request.bytes(), CLIENT_SIDE))?;
    let server = (0..service.index.len())
        .find(|server| service.sent(&request, *server).bytes() == out.frame)
        .filter(|_| out.verdict == REDIRECT);
    match (oracle.packet(n, flags), server) {
        (Step::Stays(own), Some(server)) if own == server => {}
        (Step::Opens, Some(server)) => {
            let allowed = oracle.allowed();
            ensure!(allowed.contains(&server), "{server} was chosen, allowed are {allowed:?}");
            seen.choices += 1;
            seen.single += usize::from(allowed.len() == 1);
            oracle.open(n, server);
        }
        (Step::Opens, None) if out.verdict == DROP => {
            ensure!(counted.get("no_real_server") == Some(&1), "{counted:?}");
            let allowed = oracle.allowed();
            ensure!(allowed.is_empty(), "dropped, allowed are {allowed:?}");
            seen.none += 1;
        }
        (step, server) => bail!("the oracle says {step:?}, the program {server:?}: {counted:?}"),
    }
    Ok(())
}
