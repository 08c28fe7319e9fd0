//! Random packets, time, reloads and sweeps: the program and the model agree after every step.
//!
//! A seed is one run of a few hundred steps over a few flows. `LB_SIM_SEED` replays one.

use anyhow::{Context, Result, bail, ensure};
use lb_common::conn::{PROVISIONAL, State, Timeouts};
use lb_common::expire::BatchHead;
use lb_common::pod::bytes_of;
use lb_common::service::METHOD_NAT;

use crate::census::Census;
use crate::dice::{Dice, seed};
use crate::frames::{Frame, L4, flag};
use crate::model::{FAULTS, Fate, Fault, FlowKey, Model, lifetime};
use crate::rig::*;
use crate::services::*;

/// Runs of the property, and steps of each.
const SEEDS: u64 = 40;
const STEPS: usize = 800;

/// Clients of every service.
const CLIENTS: u16 = 3;

#[test]
fn the_program_does_what_the_model_does() {
    with(65_536, |rig| {
        let replayed = std::env::var_os("LB_SIM_SEED").is_some();
        let seeds = if replayed { seed(0)..seed(0) + 1 } else { 0..SEEDS };
        let mut world = World::new(rig)?;
        for seed in seeds {
            world.play(rig, seed, Fault::None, STEPS)?;
        }
        println!("{:?}", world.seen);
        // One seed need not meet everything.
        ensure!(
            replayed || world.seen.iter().all(|(_, count)| *count > 50),
            "hardly tested: {:?}",
            world.seen
        );
        Ok(())
    });
}

#[test]
fn every_wrong_belief_of_the_model_is_found() {
    with(65_536, |rig| {
        let mut world = World::new(rig)?;
        for fault in FAULTS {
            let found = (0..20).any(|seed| world.play(rig, seed, fault, STEPS).is_err());
            ensure!(found, "nobody saw {fault:?}");
        }
        Ok(())
    });
}

/// One step.
#[derive(Clone, Copy, Debug)]
enum Step {
    Request(FlowKey, u8),
    Reply(FlowKey, usize, u8),
    Advance(u64),
    Bump(usize, usize),
    Expire,
}

struct World {
    /// Jiffies of a unit.
    unit: u64,
    profile: u32,
    next_port: u16,
    /// How often what became of a packet.
    seen: Vec<(&'static str, u64)>,
}

impl World {
    fn new(rig: &mut Rig) -> Result<Self> {
        // So long that the time that the test takes is nothing to it.
        let unit = rig.hz() * 1000;
        let mut value = Timeouts { by_state: [0; 16] };
        for state in State::ALL {
            value.by_state[state.raw() as usize] = lifetime(state.name()) * unit + unit / 2;
        }
        let profile = rig.timeouts(value)?;
        rig.configure(|config| (config.hz, config.heartbeat_max) = (unit / 2, unit))?;
        let fates = ["to a server", "to a client", "passed", "reset dropped", "tuple in use"];
        Ok(Self { unit, profile, next_port: 100, seen: fates.map(|f| (f, 0)).to_vec() })
    }

    /// Services for one run: the nat ones of a family and protocol share their servers.
    fn services(&mut self, rig: &mut Rig) -> Result<Vec<Installed>> {
        let mut services = Vec::new();
        let base = self.next_port;
        self.next_port += 20;
        for (n, (method, v6)) in (0..).zip(KINDS) {
            for (m, protocol) in (0..).zip([TCP, TCP, UDP]) {
                let listen = vip(v6, base + n * 4 + m);
                let port = if method == METHOD_NAT { base } else { listen.1 };
                let mut wanted = Wanted::new(method, protocol, listen, &servers(v6, 2, port));
                wanted.maglev = vec![1, 0, 0, 1, 1, 0, 1];
                wanted.profile = self.profile;
                services.push(rig.install(&wanted)?);
            }
        }
        Ok(services)
    }

    /// One run; an error names the seed, the step and the steps before it.
    fn play(&mut self, rig: &mut Rig, seed: u64, fault: Fault, steps: usize) -> Result<()> {
        let services = self.services(rig)?;
        let mut model = Model::new(services, fault);
        let mut dice = Dice::new(seed);
        // What an earlier run left is counted in both.
        let others = Census::take(rig)?;
        let mut log: Vec<Step> = Vec::new();
        let result = (0..steps).try_for_each(|n| {
            let step = roll(&mut dice, &model);
            log.push(step);
            self.step(rig, &mut model, step).with_context(|| format!("step {n}: {step:?}"))?;
            if n % 100 == 99 {
                let census = Census::take(rig)?;
                let own = (census.forward - others.forward, census.replies - others.replies);
                ensure!(own == model.sizes(), "{own:?} entries, the model has {:?}", model.sizes());
                ensure!(
                    census.orphans + census.widows + census.busy + census.twice == 0,
                    "{census:?}"
                );
            }
            Ok(())
        });
        let last = &log[log.len().saturating_sub(12)..];
        result.with_context(|| format!("LB_SIM_SEED={seed:#x}, last steps {last:?}"))?;
        self.clear(rig, &mut model)
    }

    /// Ends every connection of a run, so that the next one starts afresh.
    fn clear(&mut self, rig: &mut Rig, model: &mut Model) -> Result<()> {
        for service in 0..model.services.len() {
            for server in 0..model.services[service].index.len() {
                rig.bump(&mut model.services[service], server)?;
                model.bump(service, server);
            }
        }
        self.step(rig, model, Step::Expire)?;
        ensure!(model.sizes() == (0, 0), "the model kept {:?}", model.sizes());
        Ok(())
    }

    /// Does one step on both sides and compares.
    fn step(&mut self, rig: &mut Rig, model: &mut Model, step: Step) -> Result<()> {
        match step {
            Step::Request(flow, flags) => {
                let fate = model.request(flow, flags);
                self.note(fate);
                let request = request(model, flow, flags);
                compare(rig, model, &request, CLIENT_SIDE, fate, flow)?;
            }
            Step::Reply(flow, server, flags) => {
                let fate = model.reply(flow, server, flags);
                self.note(fate);
                let service = &model.services[flow.0];
                let reply = service.reply(l4(service, flags), server, flow.1);
                compare(rig, model, &reply, SERVER_SIDE, fate, flow)?;
            }
            Step::Advance(units) => {
                for frame in known_halves(model) {
                    if rig.entry(&frame)?.is_some() {
                        rig.age(&frame, units * self.unit)?;
                    }
                }
                model.advance(units);
            }
            Step::Bump(service, server) => {
                rig.bump(&mut model.services[service], server)?;
                model.bump(service, server);
            }
            Step::Expire => {
                for frame in known_halves(model) {
                    propose(rig, &frame)?;
                }
                let flows: Vec<FlowKey> = model.flows.keys().copied().collect();
                flows.into_iter().for_each(|flow| model.expire(flow));
            }
        }
        states(rig, model)
    }

    fn note(&mut self, fate: Fate) {
        let at = match fate {
            Fate::ToServer(_) => 0,
            Fate::ToClient(_) => 1,
            Fate::Pass => 2,
            Fate::Drop("rst_without_connection") => 3,
            Fate::Drop(_) => 4,
        };
        self.seen[at].1 += 1;
    }
}

fn roll(dice: &mut Dice, model: &Model) -> Step {
    let flags = [
        flag::SYN,
        flag::SYN,
        flag::ACK,
        flag::ACK,
        flag::FIN | flag::ACK,
        flag::SYN | flag::ACK,
        flag::RST,
        flag::RST | flag::ACK,
        flag::PSH,
    ];
    let service = dice.below(model.services.len());
    let v6 = model.services[service].wanted.listen.0.is_ipv6();
    let flow = (service, client(v6, dice.below(CLIENTS.into()) as u16));
    let mut flags = *dice.pick(&flags);
    if dice.one_in(20) {
        flags = dice.next() as u8;
    }
    match dice.below(100) {
        0..50 => Step::Request(flow, flags),
        50..88 => {
            // Mostly of the server that has the connection.
            let server = match model.flows.get(&flow) {
                Some(known) if !dice.one_in(10) => known.server,
                _ => dice.below(2),
            };
            Step::Reply(flow, server, flags)
        }
        88..94 => Step::Advance(1 + dice.below(3) as u64),
        94..97 => Step::Bump(service, dice.below(2)),
        _ => Step::Expire,
    }
}

fn l4(service: &Installed, flags: u8) -> L4 {
    if service.wanted.protocol == TCP { L4::Tcp(flags) } else { L4::Udp }
}

fn request(model: &Model, flow: FlowKey, flags: u8) -> Frame {
    let service = &model.services[flow.0];
    service.request(l4(service, flags), flow.1)
}

/// Frames that stand for every half that can be in the tables.
fn known_halves(model: &Model) -> Vec<Frame> {
    let mut frames = Vec::new();
    for (flow, known) in &model.flows {
        let service = &model.services[flow.0];
        frames.push(request(model, *flow, 0));
        if service.wanted.method == METHOD_NAT {
            frames.push(service.reply(l4(service, 0), known.server, flow.1));
        }
    }
    frames
}

/// Proposes a frame's connection to the expire program.
pub(crate) fn propose(rig: &mut Rig, frame: &Frame) -> Result<()> {
    let head = |family| bytes_of(&BatchHead { count: 1, family, pad: [0; 2] }).to_vec();
    let data = match conn_key(frame) {
        Key::V4(key) => [head(4), bytes_of(&key).to_vec()].concat(),
        Key::V6(key) => [head(6), bytes_of(&key).to_vec()].concat(),
    };
    rig.run_expire(&data).map(|_| ())
}

/// Runs a frame and compares what became of it with what the model says.
fn compare(
    rig: &mut Rig,
    model: &Model,
    frame: &Frame,
    ingress: u32,
    fate: Fate,
    flow: FlowKey,
) -> Result<()> {
    let (out, counted) = rig.counted(|rig| rig.run(&frame.bytes(), ingress))?;
    let expected = match fate {
        Fate::ToServer(server) => (REDIRECT, model.services[flow.0].sent(frame, server).bytes()),
        Fate::ToClient(owner) => {
            let asked = request(model, (owner, flow.1), 0);
            (REDIRECT, model.services[owner].returned(frame, &asked).bytes())
        }
        Fate::Pass => (PASS, frame.bytes()),
        Fate::Drop(reason) => {
            ensure!(counted.get(reason) == Some(&1), "not dropped for {reason}: {counted:?}");
            (DROP, frame.bytes())
        }
    };
    let drops = u64::from(matches!(fate, Fate::Drop(_)));
    ensure!(drops_in(&counted) == drops, "{fate:?}, and counted {counted:?}");
    if (out.verdict, &out.frame) != (expected.0, &expected.1) {
        bail!("the model says {fate:?}; the program's verdict is {}; {counted:?}", out.verdict);
    }
    Ok(())
}

/// Compares the state of every connection, and the counts of every server.
fn states(rig: &mut Rig, model: &Model) -> Result<()> {
    for (flow, known) in &model.flows {
        let entry = rig.entry(&request(model, *flow, 0))?;
        let entry = entry.with_context(|| format!("{flow:?} is not in the table"))?;
        let found = (entry.state().name(), entry.word.has(PROVISIONAL), entry.word.real_server());
        let index = model.services[flow.0].index[known.server];
        ensure!(
            found == (known.state, known.provisional, index),
            "{flow:?} is {found:?}, the model has {known:?}"
        );
    }
    for (number, service) in model.services.iter().enumerate() {
        for (server, &index) in service.index.iter().enumerate() {
            let (found, expected) = (rig.counts(index)?, model.counts(number, server));
            ensure!(found == expected, "counts of {number}/{server}: {found:?}, {expected:?}");
        }
    }
    Ok(())
}
