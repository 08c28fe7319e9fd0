//! The sandbox says what the programs then really do with the same packet, and changes nothing.

use anyhow::{Context, Result, ensure};
use harness::bpf::{Map, pin_to_cpu};
use lb_common::abi;
use lb_common::service::{
    METHOD_DR, METHOD_NAT, METHOD_TUNNEL, SCHEDULER_HASH, SCHEDULER_LC, SCHEDULER_RING,
};
use lb_user::dataplane::bpf::{Flow, Outcome, Sandbox};
use lb_user::plan::{Denial, MapOp};

use crate::census::Census;
use crate::dice::{Dice, seed};
use crate::frames::{Frame, L4, flag};
use crate::rig::*;
use crate::services::*;
use crate::tunnels::source;

/// Packets of a run.
const PACKETS: usize = 1000;
/// Real servers and services of which everything is compared.
const SERVERS: u32 = 256;

/// What must have been met for a run to mean something: a counter's name, or a verdict.
const MET: [&str; 8] = [
    "denied",
    "nat_tuple_in_use",
    "no_real_server",
    "rst_without_connection",
    "connections_picked_up",
    "reply_without_connection",
    "passed",
    "forwarded",
];

#[test]
fn a_thousand_packets_meet_the_fate_that_the_sandbox_told() {
    with(4096, |rig| {
        let met = play(rig, seed(1), &mut |_| Ok(()))?;
        for what in MET {
            let count = met.iter().filter(|m| **m == what).count();
            println!("{what}: {count}");
            ensure!(count > 0, "{what} was never met");
        }
        Ok(())
    });
}

#[test]
fn a_cursor_that_the_sandbox_did_not_see_is_found_out() {
    with(4096, |rig| {
        let cursors = Map::open(&rig.dataplane.directory().join(abi::MAP_CURSORS))?;
        let mut advance = |outcome: &Outcome| {
            let Some(service) = outcome.service.filter(|s| s.scheduler == SCHEDULER_RING) else {
                return Ok(());
            };
            Ok(cursors.write(&service.id.to_ne_bytes(), &(outcome.cursor + 1).to_ne_bytes())?)
        };
        let error = play(rig, seed(1), &mut advance).err().context("nobody saw it")?;
        let text = format!("{error:#}");
        ensure!(text.contains("packet "), "failed for another reason: {text}");
        Ok(())
    });
}

/// Tells and does; `between` is done in between. Gives what was met.
fn play(
    rig: &mut Rig,
    seed: u64,
    between: &mut dyn FnMut(&Outcome) -> Result<()>,
) -> Result<Vec<&'static str>> {
    // A connection's word says on which CPU it was made.
    pin_to_cpu(0)?;
    let mut services = install(rig)?;
    // One that is over hides the shorter ones that are in force.
    let over = "198.51.100.206/31".parse().map_err(anyhow::Error::msg)?;
    let denial = Denial { configured: false, banned: Some(1) };
    rig.apply(&MapOp::SetDenial { prefix: over, denial })?;
    for prefix in ["198.51.100.202/31", "198.51.100.204/30", "2001:db8:c:bad::/64"] {
        let prefix = prefix.parse().map_err(anyhow::Error::msg)?;
        let denial = Denial { configured: false, banned: Some(0) };
        rig.apply(&MapOp::SetDenial { prefix, denial })?;
    }
    rig.enter_by_guard()?;
    let mut sandbox = Sandbox::open(rig.dataplane.directory())?;
    let mut dice = Dice::new(seed);
    let mut met = Vec::new();
    for n in 0..PACKETS {
        if n % 20 == 19 {
            // A real server fails: its connections are over.
            let service = dice.below(services.len());
            rig.bump(&mut services[service], 0)?;
        }
        let (frame, ingress) = roll(&mut dice, &services);
        let whole = n % 50 == 0;
        let before = Everything::read(rig, whole)?;
        let bytes = frame.bytes();
        let flow = match conn_key(&frame) {
            Key::V4(key) => Flow::V4(key),
            Key::V6(key) => Flow::V6(key),
        };
        let told = sandbox.run(&bytes, ingress, &flow).with_context(|| format!("{frame:?}"))?;
        let after = Everything::read(rig, whole)?;
        ensure!(before == after, "packet {n}, {frame:?}: the live tables changed");
        between(&told)?;
        let (out, counted) = rig.counted(|rig| rig.run(&bytes, ingress))?;
        let done = Everything::read(rig, false)?;
        let found = (out.verdict, &out.frame, &counted, done.served(&before));
        let names = told.counted.iter().map(|(c, by)| (c.name(), *by)).collect::<Counted>();
        let expected = (told.verdict, &told.frame, &names, told.server.map(|(index, _)| index));
        ensure!(
            found == expected,
            "packet {n} (LB_SIM_SEED={seed}), {frame:?}: found {found:?}, told {expected:?}"
        );
        let entry = rig.entry(&frame)?.map(|entry| entry.word);
        ensure!(entry == told.after, "packet {n}, {frame:?}: {entry:?}, told {:?}", told.after);
        met.extend(names.keys().copied());
        met.push(match out.verdict {
            PASS => "passed",
            TX | REDIRECT => "forwarded",
            _ => "dropped",
        });
    }
    Ok(met)
}

/// Services of every scheduler, method and family; those by nat share their servers' addresses.
fn install(rig: &mut Rig) -> Result<Vec<Installed>> {
    let mut services = Vec::new();
    let mut port = 100;
    for method in [METHOD_DR, METHOD_NAT, METHOD_TUNNEL] {
        for v6 in [false, true] {
            for (kind, scheduler) in
                [SCHEDULER_RING, SCHEDULER_RING, SCHEDULER_LC, 2, SCHEDULER_HASH, SCHEDULER_HASH]
                    .into_iter()
                    .enumerate()
            {
                port += 1;
                let protocol = if (port / 3) % 3 == 0 { UDP } else { TCP };
                let end = if method == METHOD_NAT { 8080 } else { port };
                let mut wanted = Wanted::new(method, protocol, vip(v6, port), &servers(v6, 3, end));
                wanted.scheduler = scheduler;
                wanted.weights = vec![1, if kind == 0 { 1 } else { 3 }, u32::from(kind % 2 == 0)];
                wanted.ring = match (scheduler, kind) {
                    (SCHEDULER_HASH, _) => vec![],
                    (SCHEDULER_RING, 1) => vec![0, 1, 1, 1],
                    _ => vec![0, 1, 2],
                };
                wanted.maglev = vec![2, 0, 1, 1, 0, 2, 1];
                wanted.hash_port = kind == 5;
                wanted.hash_fallback = kind != 5;
                wanted.tunnel_source = (method == METHOD_TUNNEL).then(|| source(v6));
                services.push(rig.install(&wanted)?);
            }
        }
    }
    // One without any server that takes connections.
    let mut empty = Wanted::new(METHOD_DR, TCP, vip(false, 99), &servers(false, 1, 99));
    (empty.ring, empty.maglev) = (vec![], vec![]);
    services.push(rig.install(&empty)?);
    Ok(services)
}

/// A packet and the interface that it comes by.
fn roll(dice: &mut Dice, services: &[Installed]) -> (Frame, u32) {
    let service = dice.pick(services);
    let v6 = service.wanted.listen.0.is_ipv6();
    // Few clients, so that they come again.
    let mut from = client(v6, dice.below(2) as u16);
    if dice.one_in(8) {
        let last = 200 + dice.below(8);
        let text = match v6 {
            true => format!("[2001:db8:c:bad::{last:x}]:40000"),
            false => format!("198.51.100.{last}:40000"),
        };
        from = end(&text);
    }
    let flags = [
        flag::SYN,
        flag::SYN,
        flag::SYN,
        flag::ACK,
        flag::ACK,
        flag::RST,
        flag::FIN | flag::ACK,
        flag::SYN | flag::ACK,
    ];
    let flags = if dice.one_in(20) { dice.next() as u8 } else { *dice.pick(&flags) };
    let l4 = if service.wanted.protocol == TCP { L4::Tcp(flags) } else { L4::Udp };
    if service.wanted.method == METHOD_NAT && dice.one_in(4) {
        return (service.reply(l4, dice.below(3), from), SERVER_SIDE);
    }
    let mut frame = service.request(l4, from);
    if dice.one_in(20) {
        frame.ports.1 = 7;
    }
    if dice.one_in(20) {
        frame.ttl = dice.below(3) as u8;
    }
    if dice.one_in(20) {
        frame.tags = vec![(0x8100, 5)];
    }
    (frame, CLIENT_SIDE)
}

/// What the programs write of the live tables.
#[derive(PartialEq, Eq)]
struct Everything {
    arrays: Vec<Vec<u8>>,
    /// Packets to and from each real server.
    traffic: Vec<[u64; 2]>,
    denied: Vec<u64>,
    census: Option<Census>,
}

impl Everything {
    fn read(rig: &mut Rig, whole: bool) -> Result<Self> {
        let array = |name: &str, count: u32| -> Result<Vec<u8>> {
            let map = Map::open(&rig.dataplane.directory().join(name))?;
            let mut bytes = vec![0; map.value_size() * count as usize];
            map.read_array(count, &mut bytes).with_context(|| format!("read {name}"))?;
            Ok(bytes)
        };
        let arrays = vec![
            array(abi::MAP_COUNTERS, lb_common::verdict::COUNTERS)?,
            array(abi::MAP_CURSORS, SERVERS)?,
            array(abi::MAP_CONNECTION_COUNTS, SERVERS)?,
            array(abi::MAP_TRAFFIC, SERVERS)?,
            array(abi::MAP_PER_CPU, 1)?,
        ];
        let census = if whole { Some(Census::take(rig)?) } else { None };
        let denials = rig.dataplane.tables().lists().denials()?.read()?;
        let mut traffic = Vec::new();
        for index in 0..SERVERS {
            let of = rig.traffic(index)?;
            traffic.push([of.packets_in, of.packets_out]);
        }
        let denied = denials.into_iter().map(|(_, _, packets)| packets).collect();
        Ok(Self { arrays, traffic, denied, census })
    }

    /// The real server for which a packet was counted since.
    fn served(&self, before: &Self) -> Option<u32> {
        let pairs = self.traffic.iter().zip(&before.traffic);
        (0..).zip(pairs).find(|(_, (now, then))| now != then).map(|(index, _)| index)
    }
}
