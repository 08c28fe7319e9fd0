//! What a reload does to an instance that runs.
//!
//! Must not know: configuration files.

use super::*;

#[test]
fn other_addresses_are_replaced_and_announced_while_master() {
    let (mut bench, at) = Bench::master(settings(), 100);
    assert_eq!(
        bench.at(at + 300.0, Event::AddressesChanged),
        [Output::ReplaceVips, send(100), announce(Round::First)]
    );
    bench.due(at + 1300.0);
    let mut bench = Bench::backup(settings(), 100);
    assert_eq!(bench.at(300.0, Event::AddressesChanged), []);
}

#[test]
fn the_state_is_kept_and_times_follow_the_new_settings() {
    let quick = Settings { interval: millis(Version::V3, 100), ..settings() };
    let (mut bench, at) = Bench::master(settings(), 100);
    assert_eq!(bench.at(at + 300.0, Event::Configure(quick.clone())), []);
    bench.due(at + 400.0);
    assert_eq!(bench.instance.settings(), &quick);
    // A backup follows its master in version 3 and has nobody to follow before the first advert.
    let mut bench = Bench::backup(settings(), 100);
    assert_eq!(bench.at(300.0, Event::Configure(quick.clone())), []);
    bench.due(300.0 + 360.9375);
    let mut bench = Bench::backup(settings(), 100);
    let _ = bench.at(100.0, Event::Advert(advert(9, 200)));
    assert_eq!(bench.at(300.0, Event::Configure(quick)), []);
    bench.due(100.0 + 3609.375);
}

#[test]
fn another_primary_address_decides_from_then_on() {
    let (mut bench, at) = Bench::master(settings(), 100);
    let _ = bench.at(at, Event::Configure(Settings { primary: host(20), ..settings() }));
    let outputs = bench.at(at + 1.0, Event::Advert(advert(9, 100)));
    assert_eq!(outputs[1], send(100));
    assert_eq!(bench.instance.master(), Some(host(20)));
}

#[test]
fn other_announcements_are_scheduled_anew() {
    let gratuitous = Gratuitous { refresh: Duration::from_millis(700), ..settings().gratuitous };
    let (mut bench, at) = Bench::master(settings(), 100);
    let _ = bench.at(at, Event::Configure(Settings { gratuitous, ..settings() }));
    bench.due(at + 700.0);
    let outputs = bench.at(at + 700.0, Event::Timer);
    assert_eq!(outputs, [Output::SendGratuitous { round: Round::Refresh, count: 1 }]);
    let off = Gratuitous { delay: Duration::ZERO, refresh: Duration::ZERO, ..gratuitous };
    let _ = bench.at(at + 800.0, Event::Configure(Settings { gratuitous: off, ..settings() }));
    bench.due(at + 1000.0);
}
