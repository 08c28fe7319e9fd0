//! Mutated packets: no panic, and nothing that moves a state machine.
//!
//! `LB_FUZZ_PACKETS=N` says how many; a million in optimised builds.
//!
//! Must not know: which check refuses what.

use super::wire::{GOLDEN_V2, GOLDEN_V3, GOLDEN_V6, expected, facts, facts_v6, hex};
use super::*;
use crate::vrrp::packet::{decode, encode};
use crate::vrrp::receive::accept;

fn mutate(rng: &mut Rng, bytes: &mut Vec<u8>) {
    for _ in 0..=rng.below(4) {
        let at = rng.below(bytes.len() as u64 + 1) as usize;
        let byte = rng.next() as u8;
        match rng.below(5) {
            0 => bytes.truncate(at),
            1 => bytes.insert(at, byte),
            2 => bytes.extend(vec![byte; at]),
            _ => {
                if let Some(place) = bytes.get_mut(at) {
                    *place ^= 1 << rng.below(8);
                }
            }
        }
    }
}

#[test]
fn mutated_packets_neither_panic_nor_move_a_state() {
    let packets = number("LB_FUZZ_PACKETS").unwrap_or(1_000_000);
    let mut rng = Rng(112);
    let (mut master, at) = Bench::master(settings(), 254);
    let mut backup = Bench::backup(settings(), 254);
    let goldens = [GOLDEN_V2, GOLDEN_V3, GOLDEN_V6].map(|text| (text, hex(text)));
    let mut refused = 0;
    for _ in 0..packets {
        let (text, golden) = &goldens[rng.below(3) as usize];
        let facts = if *text == GOLDEN_V6 { facts_v6() } else { facts() };
        let mut bytes = golden.clone();
        mutate(&mut rng, &mut bytes);
        if let Ok(packet) = decode(&bytes, facts.source, facts.destination) {
            // Whatever is understood is understood wholly; reserved bits are not kept.
            let again = encode(&packet, facts.source, facts.destination);
            let understood = again.is_err() || again.is_ok_and(|it| it.len() == bytes.len());
            assert!(understood, "{bytes:x?}");
        }
        match accept(&bytes, &facts, &expected(text)) {
            Err(reason) => {
                refused += 1;
                assert!(!reason.reason().is_empty() && !reason.to_string().is_empty());
            }
            // Changed back, or a collision of 16 bits: no better master may come of it.
            Ok(accepted) if bytes != *golden => {
                let _ = backup.at(1.0, Event::Advert(accepted.advert));
                let _ = master.at(at + 1.0, Event::Advert(accepted.advert));
            }
            Ok(_) => {}
        }
    }
    assert_eq!(backup.instance.state(), State::Backup);
    assert_eq!(master.instance.state(), State::Master);
    assert!(refused > packets * 9 / 10, "only {refused} of {packets} were refused");
}

/// Any bytes at all, also with the right length and an honest checksum.
#[test]
fn arbitrary_bytes_do_not_panic() {
    let mut rng = Rng(9568);
    let (mut master, at) = Bench::master(settings(), 100);
    for step in 0..20_000 {
        let mut bytes: Vec<u8> = (0..rng.below(60)).map(|_| rng.next() as u8).collect();
        if let [kind, _, _, count, ..] = &mut bytes[..] {
            *kind = [0x21, 0x31][rng.below(2) as usize];
            *count = rng.below(14) as u8;
        }
        for text in [GOLDEN_V2, GOLDEN_V3, GOLDEN_V6] {
            let facts = if text == GOLDEN_V6 { facts_v6() } else { facts() };
            let _ = decode(&bytes, facts.source, facts.destination);
            let _ = accept(&bytes, &facts, &expected(text));
        }
        // Any advert, at any moment, to a state machine.
        let advert = Advert {
            same_addresses: rng.one_in(2),
            interval: Interval::from_centiseconds(1 + rng.below(4095) as u16).expect("not 0"),
            ..advert(rng.next() as u8, rng.next() as u8)
        };
        let event = if rng.one_in(2) { Event::Timer } else { Event::Advert(advert) };
        let _ = master.at(at + f64::from(step) * 250.0, event);
    }
}
