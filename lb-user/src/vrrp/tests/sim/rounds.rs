//! What a seed means: the routers' configuration, what disturbs them, and what is expected when
//! the network is whole again.
//!
//! Must not know: the state machine, the network's inner life.

use std::time::{Duration, Instant};

use super::super::{Rng, millis};
use super::node::{Node, Planted};
use super::world::{Disturbance, Item, ROUTERS, World};
use super::{Rule, Violation};
use crate::vrrp::fsm::{Settings, State};
use crate::vrrp::priority::{OWNER, Standing};
use crate::vrrp::timing::Version;

/// Plays the rounds of a seed: disturbed, whole, and a clean end of the master.
pub(super) fn play(mut rng: Rng, planted: Option<Planted>, trace: bool) -> Result<(), Violation> {
    let nodes = routers(&mut rng, planted);
    let distinct =
        nodes.iter().all(|node| nodes.iter().filter(|other| other.base == node.base).count() == 1);
    if trace {
        for node in &nodes {
            eprintln!("{} priority {}: {:?}", node.address, node.base, node.settings);
        }
    }
    let shortest = nodes.iter().map(|node| node.settings.interval.duration().as_nanos() as u64);
    // Less than the smallest skew, 1/256 of a second or an interval: what resigns and what claims
    // arrive in this order then.
    let calm = shortest.min().unwrap_or(0).min(1_000_000_000) / 1000;
    let mut world = World::new(rng, nodes, calm, trace);
    for node in 0..ROUTERS {
        world.disturb(Disturbance::Start(node))?;
    }
    for _ in 0..2 {
        disturbed(&mut world)?;
        world.heal(calm)?;
        settle(&mut world)?;
        clean_end(&mut world, distinct)?;
        world.heal(calm)?;
        settle(&mut world)?;
    }
    for node in 0..ROUTERS {
        world.disturb(Disturbance::Shutdown(node))?;
    }
    Ok(())
}

fn routers(rng: &mut Rng, planted: Option<Planted>) -> Vec<Node> {
    let version = if rng.one_in(3) { Version::V2 } else { Version::V3 };
    let shortest = match version {
        Version::V2 => [1000, 2000, 5000][rng.below(3) as usize],
        Version::V3 => [10, 100, 1000][rng.below(3) as usize],
    };
    let equal = rng.one_in(4);
    // Version 2 drops adverts of another interval, before the state machine.
    let mixed = version == Version::V3
        && planted != Some(Planted::NoSkew)
        && (rng.one_in(2) || planted == Some(Planted::NotAdopted));
    let mut priorities = [20, 60, 100, 140, 180, 220, 254, OWNER];
    for i in (1..priorities.len()).rev() {
        priorities.swap(i, rng.below(i as u64 + 1) as usize);
    }
    // 254 and 255 are too near each other for a skew that the network's delay cannot hide.
    if priorities[..ROUTERS].contains(&254) && priorities[..ROUTERS].contains(&OWNER) {
        priorities.iter_mut().filter(|priority| **priority == 254).for_each(|it| *it = 1);
    }
    let start = Instant::now();
    let router = |index: usize| {
        let factor = if mixed { [1, 2, 5][rng.below(3) as usize] } else { 1 };
        let interval = millis(version, shortest * factor);
        let preempt_delay = if rng.one_in(4) { 4 * interval.duration() } else { Duration::ZERO };
        let preempt = !rng.one_in(3);
        let settings = Settings { version, interval, preempt, preempt_delay, ..Node::defaults() };
        let base = priorities[if equal { 0 } else { index }];
        let origin = World::origin(start, rng.below(1 << 50));
        Node::new(index as u8, base, &settings, origin, planted)
    };
    (0..ROUTERS).map(router).collect()
}

/// Loss, delay and a handful of disturbances.
fn disturbed(world: &mut World) -> Result<(), Violation> {
    let longest = world.longest();
    let end = world.now + 30 * longest;
    let slow = world.rng.below(longest / 2);
    world.slow(slow);
    world.loss = world.rng.below(40);
    for _ in 0..world.rng.below(16) {
        let at = world.now + world.rng.below(30 * longest);
        let disturbance = any(&mut world.rng, longest);
        world.later(at, Item::Disturb(disturbance));
    }
    world.run_until(end)
}

fn any(rng: &mut Rng, longest: u64) -> Disturbance {
    let node = rng.below(ROUTERS as u64) as usize;
    let other = (node + 1 + rng.below(ROUTERS as u64 - 1) as usize) % ROUTERS;
    match rng.below(12) {
        0 => Disturbance::Crash(node),
        1 => Disturbance::Start(node),
        2 => Disturbance::Shutdown(node),
        3 => Disturbance::Resign(node),
        4 => Disturbance::Link(node, false),
        5 => Disturbance::Link(node, true),
        6 => Disturbance::Stall(node, rng.below(8 * longest)),
        7 => {
            let standing = [Standing::Fit, Standing::Pending, Standing::Fault];
            Disturbance::Track(node, 1 + rng.below(254) as u8, standing[rng.below(3) as usize])
        }
        8 => Disturbance::Readdress(node),
        9 => Disturbance::Loss(rng.below(100)),
        _ => Disturbance::Cut(node, other, !rng.one_in(4)),
    }
}

/// Gives a whole network its time, then expects one right master that stays.
fn settle(world: &mut World) -> Result<(), Violation> {
    // Each router may have to wait for the one before it.
    let wait = ROUTERS as u64 * (2 * world.down() + 5 * world.longest());
    world.run_until(world.now + wait)?;
    let masters: Vec<_> = world.nodes.iter().filter(|node| node.state() == State::Master).collect();
    let [master] = masters[..] else {
        return Err(world.broken(Rule::Unsettled, &format!("{} masters", masters.len())));
    };
    let priority = master.rank().0;
    let passed_over = world.nodes.iter().find(|node| {
        let preempts = !node.resigned && (node.settings.preempt || node.base == OWNER);
        preempts && node.rank().0 > priority && node.state() == State::Backup
    });
    if let Some(node) = passed_over {
        let text = format!("{} should be master", node.address);
        return Err(world.broken(Rule::Unsettled, &text));
    }
    if let Some(node) = world.nodes.iter().find(|node| node.state() == State::Fault) {
        return Err(world.broken(Rule::Unsettled, &format!("{} is in fault", node.address)));
    }
    let changes = world.changes;
    world.run_until(world.now + 2 * world.down())?;
    if world.changes != changes {
        return Err(world.broken(Rule::Restless, &format!("{} changes", world.changes - changes)));
    }
    Ok(())
}

/// Ends the master's life in a settled network: somebody takes over in time, and only one.
fn clean_end(world: &mut World, distinct: bool) -> Result<(), Violation> {
    let master = (0..ROUTERS).find(|node| world.nodes[*node].state() == State::Master);
    let Some(master) = master else { return Ok(()) };
    let (disturbance, skew_only) = match world.rng.below(5) {
        0 => (Disturbance::Crash(master), false),
        1 => (Disturbance::Shutdown(master), true),
        2 => (Disturbance::Resign(master), true),
        3 => (Disturbance::Track(master, world.nodes[master].base, Standing::Fault), true),
        _ => (Disturbance::Link(master, false), false),
    };
    world.clean = distinct;
    world.disturb(disturbance)?;
    let skew = world.longest().max(1_000_000_000 * u64::from(is_v2(world)));
    let wait = if skew_only { skew + world.delay } else { world.down() };
    world.run_until(world.now + wait + 1)?;
    if !world.nodes.iter().any(|node| node.vips) {
        return Err(world.broken(Rule::NoMaster, &format!("after {disturbance:?}")));
    }
    world.clean = false;
    Ok(())
}

fn is_v2(world: &World) -> bool {
    world.nodes.iter().any(|node| node.settings.version == Version::V2)
}
