//! Both CPUs at the same few flows, with sweeps in between: counts stay exact and halves paired.

use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail, ensure};
use harness::bpf::{Run, pin_to_cpu, possible_cpus};
use lb_common::conn::Timeouts;
use lb_common::service::METHOD_NAT;
use lb_user::dataplane::sweep::Sweeper;

use crate::census::Census;
use crate::dice::{Dice, seed};
use crate::frames::{L4, flag};
use crate::rig::*;
use crate::services::*;

/// How frames are run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// One at a time, for its verdict only.
    Plain,
    /// In small batches that are really sent, passed and redirected.
    Live,
}

/// Flows of a service that both CPUs share.
const FLOWS: usize = 24;

/// A service's frames by flow, each with the interface that it comes by.
type Flows = [Vec<(Vec<u8>, u32)>; FLOWS];

/// Flows whose turn it is at a time.
const TURN: usize = 3;

#[test]
fn counts_are_exact_after_two_cpus_hammered_the_same_flows() {
    hammer(Way::Plain, Duration::from_secs(4), 100_000);
}

#[test]
fn counts_are_exact_after_live_frames_hammered_the_same_flows() {
    // Each live run makes a page pool of its own, which takes milliseconds.
    hammer(Way::Live, Duration::from_secs(2), 200);
}

#[test]
fn one_flow_that_begins_on_two_cpus_at_once_is_one_whole_connection() {
    const NEW: u16 = 6_000;
    with(65_536, |rig| {
        let mut indices = Vec::new();
        let mut expected = 0;
        for (method, v6) in KINDS {
            // With one server both choose the same one, with three they do not.
            for count in [1, 3] {
                let listen = vip(v6, 80 + u16::from(method) * 10 + count);
                let wanted = Wanted::new(method, TCP, listen, &servers(v6, count, listen.1));
                let service = rig.install(&wanted)?;
                let frames: Vec<_> = (0..NEW)
                    .map(|n| service.request(L4::Tcp(flag::SYN), client(v6, n)).bytes())
                    .collect();
                in_step(rig.program(), &frames)?;
                indices.extend(&service.index);
                expected += usize::from(NEW);
                let census = Census::take(rig)?;
                let counters = rig.counters()?;
                ensure!(census.drift(rig, &indices)? == 0, "{census:?}");
                ensure!(census.widows + census.orphans == 0, "{census:?} {counters:?}");
                ensure!(census.twice + census.busy == 0, "{census:?} {counters:?}");
                ensure!(census.forward == expected, "{census:?} {counters:?}");
            }
        }
        Ok(())
    });
}

/// Runs every frame on two CPUs at the same time; none may be dropped or passed.
fn in_step(program: &OwnedFd, frames: &[Vec<u8>]) -> Result<()> {
    let place = [AtomicUsize::new(0), AtomicUsize::new(0)];
    let run_all = |n: usize| -> Result<()> {
        pin_to_cpu(n)?;
        let mut output = vec![0; 4096];
        for (at, frame) in (1..).zip(frames) {
            // Neither runs ahead of the other.
            place[n].store(at, Ordering::SeqCst);
            let mut turns = 0;
            while place[1 - n].load(Ordering::SeqCst) < at {
                turns += 1;
                if turns < 10_000 { std::hint::spin_loop() } else { std::thread::yield_now() }
            }
            let run = Run { ingress: CLIENT_SIDE, repeat: 1 };
            let ran = run.on(program.as_fd(), frame, &mut output)?;
            if ran.verdict != REDIRECT {
                // Let the other one end.
                place[n].store(usize::MAX, Ordering::SeqCst);
                bail!("verdict {}", ran.verdict);
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let run_all = &run_all;
        let workers = [0, 1].map(|n| scope.spawn(move || run_all(n)));
        let mut results = workers.map(|w| w.join().expect("no panic")).into_iter();
        results.try_for_each(|result| result)
    })
}

fn hammer(way: Way, time: Duration, at_least: u64) {
    with(4096, |rig| {
        let seed = seed(0x6861_6d6d);
        let hz = rig.hz();
        // Shorter than any timeout that can be configured, so that flows end all the time.
        let profile = rig.timeouts(Timeouts { by_state: [hz * 3 / 10; 16] })?;
        let mut indices = Vec::new();
        let mut frames = Vec::new();
        for (method, v6) in KINDS {
            for protocol in [TCP, UDP] {
                let listen = vip(v6, 80 + u16::from(method));
                let mut wanted = Wanted::new(method, protocol, listen, &servers(v6, 3, listen.1));
                wanted.profile = profile;
                let service = rig.install(&wanted)?;
                indices.extend(&service.index);
                frames.push(all_frames(&service));
            }
        }
        rig.passive_peers()?;
        let stop = AtomicBool::new(false);
        let ran = AtomicU64::new(0);
        let program = rig.program().try_clone()?;
        let mut sweeper = Sweeper::new(&mut rig.dataplane)?;
        let cpus = possible_cpus()?.max(2);
        std::thread::scope(|scope| -> Result<()> {
            let workers: Vec<_> = (0..2)
                .map(|n| {
                    let (program, frames, stop, ran) = (&program, &frames, &stop, &ran);
                    scope.spawn(move || {
                        pin_to_cpu(n % cpus)?;
                        let dice = Dice::new(seed + n as u64);
                        strike(way, dice, program, frames, (stop, ran))
                    })
                })
                .collect();
            let start = Instant::now();
            let mut swept = Ok(0);
            while start.elapsed() < time && swept.is_ok() {
                swept = sweeper.pass(|_| {}).map(|report| report.proposed);
                std::thread::sleep(Duration::from_millis(2));
            }
            stop.store(true, Ordering::Relaxed);
            for worker in workers {
                worker.join().map_err(|_| anyhow!("a worker panicked"))??;
            }
            swept.map(|_| ())
        })
        .with_context(|| format!("LB_SIM_SEED={seed:#x}"))?;
        let ran = ran.into_inner();
        let census = Census::take(rig)?;
        println!("{way:?}: {ran} frames; {census:?}; {:?}", rig.counters()?);
        ensure!(ran > at_least, "only {ran} frames");
        let drift = census.drift(rig, &indices)?;
        ensure!(drift == 0, "the counts are off by {drift}: {census:?}");
        ensure!(census.widows == 0, "nat connections without replies: {census:?}");
        ensure!(census.twice + census.busy == 0, "keys twice, or claims left: {census:?}");
        // Nothing is used any more: all of it ends, and every half with it.
        std::thread::sleep(Duration::from_millis(1500));
        for _ in 0..4 {
            let report = sweeper.pass(|_| {})?;
            ensure!(report.drift == 0, "{report:?}");
            std::thread::sleep(Duration::from_millis(400));
        }
        let census = Census::take(rig)?;
        ensure!(census.forward + census.replies + census.busy == 0, "left: {census:?}");
        ensure!(census.drift(rig, &indices)? == 0, "counts of nothing are not zero");
        Ok(())
    });
}

/// Every frame that a hammer strikes with, by flow: requests with any flags, and nat replies.
fn all_frames(service: &Installed) -> Flows {
    let v6 = service.wanted.listen.0.is_ipv6();
    let l4s: Vec<L4> = if service.wanted.protocol == TCP {
        let (syn, fin, rst, ack) = (flag::SYN, flag::FIN, flag::RST, flag::ACK);
        [syn, syn, syn, ack, ack, fin | ack, rst, syn | ack].map(L4::Tcp).to_vec()
    } else {
        vec![L4::Udp]
    };
    std::array::from_fn(|n| {
        let who = client(v6, n as u16);
        let mut frames = Vec::new();
        for &l4 in &l4s {
            frames.push((service.request(l4, who).bytes(), CLIENT_SIDE));
            if service.wanted.method == METHOD_NAT {
                let reply = service.reply(l4, n % service.index.len(), who);
                frames.push((reply.bytes(), SERVER_SIDE));
            }
        }
        frames
    })
}

/// Runs random frames until it is told to stop. The flows come in turns, so that those whose turn
/// it is not expire; now and then one is met again just then.
fn strike(
    way: Way,
    mut dice: Dice,
    program: &OwnedFd,
    frames: &[Flows],
    (stop, ran): (&AtomicBool, &AtomicU64),
) -> Result<()> {
    let mut output = vec![0; 4096];
    let mut own = 0;
    let start = Instant::now();
    while !stop.load(Ordering::Relaxed) {
        let turn = start.elapsed().as_millis() as usize / 60 % (FLOWS / TURN) * TURN;
        let flow = if dice.one_in(5000) { dice.below(FLOWS) } else { turn + dice.below(TURN) };
        let service = dice.pick(frames);
        let (frame, ingress) = dice.pick(&service[flow]);
        match way {
            Way::Plain => {
                let run = Run { ingress: *ingress, repeat: 1 };
                run.on(program.as_fd(), frame, &mut output)?;
                own += 1;
            }
            Way::Live => {
                let repeat = 1 + dice.below(2) as u32;
                Run { ingress: *ingress, repeat }.live(program.as_fd(), frame)?;
                own += u64::from(repeat);
            }
        }
    }
    ran.fetch_add(own, Ordering::Relaxed);
    Ok(())
}
