//! One row for each clause of the RFCs and for each of keepalived's ways that peers rely on.
//!
//! Must not know: several routers at once.

use super::*;
use crate::vrrp::fsm::Note;
use crate::vrrp::priority::OWNER;

fn seconds(seconds: u64) -> Interval {
    millis(Version::V3, seconds * 1000)
}

#[test]
fn a_router_begins_as_backup_and_takes_over_after_the_master_down_interval() {
    // RFC 9568 section 6.4.1 and 6.4.2; keepalived measured 3.609 s at priority 100.
    let mut bench = Bench::backup(settings(), 100);
    bench.due(3609.375);
    assert_eq!(bench.at(3609.374, Event::Timer), []);
    assert_eq!(bench.at(3609.375, Event::Timer), takeover(100, Cause::Silence(None)));
    bench.due(4609.375);
    assert_eq!(bench.instance.master(), Some(host(5)));
}

#[test]
fn the_address_owner_is_master_at_once() {
    // Section 6.4.1: priority 255.
    let mut bench = Bench::new(settings(), OWNER);
    assert_eq!(bench.at(0.0, Event::Startup), takeover(OWNER, Cause::Startup));
}

#[test]
fn nothing_happens_before_startup_and_after_shutdown() {
    let mut bench = Bench::new(settings(), 100);
    assert_eq!(bench.at(0.0, Event::Advert(advert(9, 200))), []);
    assert_eq!(bench.at(1.0, Event::Timer), []);
    let _ = bench.at(2.0, Event::Startup);
    assert_eq!(bench.at(3.0, Event::Shutdown), [entered(State::Init, Cause::Shutdown)]);
    assert_eq!(bench.at(9000.0, Event::Timer), []);
    assert_eq!(bench.at(9001.0, Event::LinkDown), []);
    assert_eq!(bench.instance.state().name(), "init");
}

#[test]
fn a_master_that_ends_says_priority_0_before_it_lets_the_addresses_go() {
    // Section 6.4.3, shutdown.
    let (mut bench, at) = Bench::master(settings(), 100);
    assert_eq!(
        bench.at(at + 5.0, Event::Shutdown),
        [send(0), Output::ReleaseVips, entered(State::Init, Cause::Shutdown)]
    );
}

#[test]
fn a_backup_that_hears_priority_0_waits_for_the_skew_only() {
    // Section 6.4.2; keepalived 1 s at priority 100: 609 ms.
    let mut bench = Bench::backup(settings(), 100);
    let _ = bench.at(100.0, Event::Advert(advert(9, 200)));
    assert_eq!(bench.at(500.0, Event::Advert(advert(9, 0))), []);
    bench.due(500.0 + 609.375);
    let outputs = bench.at(1109.375, Event::Timer);
    assert_eq!(outputs, takeover(100, Cause::MasterResigned(host(9))));
}

#[test]
fn an_equal_or_higher_advert_restarts_a_backups_timer() {
    let mut bench = Bench::backup(settings(), 100);
    for (at, priority) in [(1000.0, 100), (2000.0, 101), (3000.0, OWNER)] {
        assert_eq!(bench.at(at, Event::Advert(advert(9, priority))), []);
        bench.due(at + 3609.375);
    }
    assert_eq!(bench.instance.master(), Some(host(9)));
}

#[test]
fn a_lower_advert_does_not_touch_a_preempting_backups_timer() {
    // Section 6.4.2: discarded, so the backup takes over when its timer ends.
    let mut bench = Bench::backup(settings(), 100);
    assert_eq!(bench.at(3000.0, Event::Advert(advert(9, 99))), []);
    bench.due(3609.375);
    assert_eq!(bench.instance.master(), Some(host(9)));
    let outputs = bench.at(3609.375, Event::Timer);
    assert_eq!(outputs, takeover(100, Cause::Silence(Some(host(9)))));
}

#[test]
fn without_preemption_a_lower_master_is_followed_except_by_the_owner() {
    let mut bench = Bench::backup(Settings { preempt: false, ..settings() }, 100);
    assert_eq!(bench.at(3000.0, Event::Advert(advert(9, 1))), []);
    bench.due(6609.375);
    // Section 6.1: the owner preempts whatever the setting.
    let grouped = Settings { preempt: false, grouped: true, ..settings() };
    let mut bench = Bench::backup(grouped, OWNER);
    let _ = bench.at(1000.0, Event::Advert(advert(9, 1)));
    bench.due(3003.90625);
}

#[test]
fn preempt_delay_counts_from_the_first_advert_of_the_lower_master() {
    let delay = Duration::from_secs(10);
    let mut bench = Bench::backup(Settings { preempt_delay: delay, ..settings() }, 100);
    let lower = || Event::Advert(advert(9, 50));
    assert_eq!(bench.at(1000.0, lower()), [Output::Noted(Note::PreemptDelay(delay))]);
    for at in 2..11 {
        assert_eq!(bench.at(f64::from(at) * 1000.0, lower()), []);
        bench.due(f64::from(at) * 1000.0 + 3609.375);
    }
    // From 11 s on adverts are discarded, and the timer of the last accepted one runs out.
    assert_eq!(bench.at(11_000.0, lower()), []);
    bench.due(13_609.375);
    let outputs = bench.at(13_609.375, Event::Timer);
    assert_eq!(outputs, takeover(100, Cause::Silence(Some(host(9)))));
}

#[test]
fn a_better_master_ends_the_preempt_delay_and_a_dead_one_is_not_waited_for() {
    let delay = Duration::from_secs(10);
    let mut bench = Bench::backup(Settings { preempt_delay: delay, ..settings() }, 100);
    let _ = bench.at(1000.0, Event::Advert(advert(9, 50)));
    let _ = bench.at(2000.0, Event::Advert(advert(8, 200)));
    // The delay begins anew with the next lower master.
    let outputs = bench.at(3000.0, Event::Advert(advert(9, 50)));
    assert_eq!(outputs, [Output::Noted(Note::PreemptDelay(delay))]);
    bench.due(6609.375);
    let outputs = bench.at(6609.375, Event::Timer);
    assert_eq!(outputs[1], Output::AcquireVips);
}

#[test]
fn version_3_follows_the_masters_interval_while_backup() {
    // Section 6.4.2: Active_Adver_Interval; keepalived measured the same.
    let mut bench = Bench::backup(settings(), 100);
    let slow = Advert { interval: seconds(2), ..advert(9, 200) };
    let note = Note::IntervalMismatch { address: host(9), interval: seconds(2) };
    assert_eq!(bench.at(1000.0, Event::Advert(slow)), [Output::Noted(note)]);
    bench.due(1000.0 + 6000.0 + 1218.75);
    // Said once, and priority 0 uses the adopted interval's skew.
    assert_eq!(bench.at(2000.0, Event::Advert(slow)), []);
    let _ = bench.at(3000.0, Event::Advert(Advert { priority: 0, ..slow }));
    bench.due(3000.0 + 1218.75);
    // As master it is the own interval again.
    let _ = bench.at(4218.75, Event::Timer);
    bench.due(5218.75);
}

#[test]
fn version_2_counts_with_its_own_interval_and_a_skew_of_a_second() {
    // RFC 3768 section 6.1.
    let interval = millis(Version::V2, 5000);
    let v2 = Settings { version: Version::V2, interval, ..settings() };
    let mut bench = Bench::backup(v2, 100);
    bench.due(15_609.375);
    let _ = bench.at(1000.0, Event::Advert(Advert { interval, ..advert(9, 0) }));
    bench.due(1609.375);
}

#[test]
fn a_master_advertises_every_interval_without_drift_or_burst() {
    let (mut bench, at) = Bench::master(settings(), 100);
    assert_eq!(bench.at(at + 1003.0, Event::Timer), [send(100)]);
    bench.due(at + 2000.0);
    assert_eq!(bench.at(at + 2000.0, Event::Timer), [send(100)]);
    // Two and a half intervals late: one advert, and the next one an interval later.
    assert_eq!(bench.at(at + 4600.0, Event::Timer), [send(100)]);
    bench.due(at + 5000.0);
}

#[test]
fn a_master_answers_priority_0_at_once() {
    // Section 6.4.3: and resets its timer.
    let (mut bench, at) = Bench::master(settings(), 100);
    assert_eq!(bench.at(at + 300.0, Event::Advert(advert(9, 0))), [send(100)]);
    bench.due(at + 1300.0);
}

#[test]
fn a_master_answers_a_lower_advert_at_once_and_announces() {
    // Section 6.4.3 of RFC 9568; keepalived announces too, with a second block later.
    let (mut bench, at) = Bench::master(settings(), 100);
    let lower = Event::Advert(advert(9, 99));
    let note = Output::Noted(Note::DuplicateMaster(host(9)));
    let answer = [send(100), announce(Round::Answer)];
    let outputs = bench.at(at + 300.0, lower.clone());
    assert_eq!(outputs, [note, answer[0], answer[1]]);
    // Noted once for each rival; the timer of the own adverts goes on.
    assert_eq!(bench.at(at + 400.0, lower), answer);
    bench.due(at + 1000.0);
}

#[test]
fn a_master_gives_way_to_a_higher_priority_and_takes_its_interval() {
    let (mut bench, at) = Bench::master(settings(), 100);
    let better = Advert { interval: seconds(3), ..advert(9, 101) };
    let cause = Cause::BetterMaster { address: host(9), priority: 101 };
    let note = Note::IntervalMismatch { address: host(9), interval: seconds(3) };
    assert_eq!(
        bench.at(at + 300.0, Event::Advert(better)),
        [Output::ReleaseVips, entered(State::Backup, cause), Output::Noted(note)]
    );
    bench.due(at + 300.0 + 9000.0 + 1828.125);
}

#[test]
fn the_higher_address_decides_between_equals_unsigned() {
    // Section 6.4.3: 10.77.0.200 comes after 10.77.0.5 also as a signed byte.
    let mut rows = [(200, true), (6, true), (4, false)].into_iter();
    assert!(rows.all(|(from, gives_way)| {
        let (mut bench, at) = Bench::master(settings(), 100);
        let outputs = bench.at(at + 300.0, Event::Advert(advert(from, 100)));
        let state = bench.instance.state();
        (outputs[0] == Output::ReleaseVips) == gives_way && (state == State::Backup) == gives_way
    }));
}

#[test]
fn an_advert_from_the_own_address_changes_nothing() {
    let (mut bench, at) = Bench::master(settings(), 100);
    let note = Output::Noted(Note::DuplicateAddress(host(5)));
    assert_eq!(bench.at(at + 300.0, Event::Advert(advert(5, 200))), [note]);
    assert_eq!(bench.at(at + 400.0, Event::Advert(advert(5, 200))), []);
}

#[test]
fn of_two_owners_the_lower_address_gives_way_and_the_higher_one_is_patient() {
    // Erratum 8298: the election decides.
    let mut bench = Bench::new(settings(), OWNER);
    let _ = bench.at(0.0, Event::Startup);
    let cause = Cause::BetterMaster { address: host(9), priority: OWNER };
    assert_eq!(
        bench.at(1.0, Event::Advert(advert(9, OWNER))),
        [
            Output::Noted(Note::TwoOwners(host(9))),
            Output::ReleaseVips,
            entered(State::Backup, cause)
        ]
    );
    // A rival that does not know the rule goes on: one master is better than two.
    let mut bench = Bench::new(settings(), OWNER);
    let _ = bench.at(0.0, Event::Startup);
    let outputs = bench.at(1.0, Event::Advert(advert(3, OWNER)));
    assert_eq!(outputs[0], Output::Noted(Note::TwoOwners(host(3))));
    for at in [2.0, 3.0] {
        let outputs = bench.at(at, Event::Advert(advert(3, OWNER)));
        assert_eq!(outputs, [send(OWNER), announce(Round::Answer)]);
    }
    let outputs = bench.at(4.0, Event::Advert(advert(3, OWNER)));
    let cause = Cause::TwoOwners(host(3));
    assert_eq!(outputs, [Output::ReleaseVips, entered(State::Backup, cause)]);
}

#[test]
fn another_list_of_addresses_is_noted_and_never_a_reason_to_drop() {
    let mut bench = Bench::backup(settings(), 100);
    let other = Advert { same_addresses: false, ..advert(9, 200) };
    let note = Output::Noted(Note::AddressListMismatch(host(9)));
    assert_eq!(bench.at(1000.0, Event::Advert(other)), [note]);
    bench.due(4609.375);
    // Again only after they agreed, or from another router.
    assert_eq!(bench.at(2000.0, Event::Advert(other)), []);
    assert_eq!(bench.at(3000.0, Event::Advert(advert(9, 200))), []);
    assert_eq!(bench.at(4000.0, Event::Advert(other)), [note]);
    let second = Advert { source: host(8), ..other };
    let note = Output::Noted(Note::AddressListMismatch(host(8)));
    assert_eq!(bench.at(5000.0, Event::Advert(second)), [note]);
}

#[test]
fn announcements_follow_keepaliveds_schedule() {
    // Measured: five at once, five more after 5 s, then one for each refresh.
    let gratuitous = Gratuitous { refresh: Duration::from_secs(60), ..settings().gratuitous };
    let (mut bench, at) = Bench::master(Settings { gratuitous, ..settings() }, 100);
    let mut seen = Vec::new();
    while let Some(due) = bench.deadline().filter(|due| *due < at + 130_000.0) {
        for output in bench.at(due, Event::Timer) {
            if let Output::SendGratuitous { round, count } = output {
                seen.push(((due - at) as u64, round, count));
            }
        }
    }
    assert_eq!(
        seen,
        [(5000, Round::Second, 5), (65_000, Round::Refresh, 1), (125_000, Round::Refresh, 1)]
    );
}

#[test]
fn no_delay_is_no_second_block_and_no_count_is_none_at_all() {
    let gratuitous = Gratuitous { delay: Duration::ZERO, ..settings().gratuitous };
    let (mut bench, at) = Bench::master(Settings { gratuitous, ..settings() }, 100);
    assert_eq!(bench.at(at + 1000.0, Event::Timer), [send(100)]);
    let gratuitous = Gratuitous { count: 0, ..settings().gratuitous };
    let (mut bench, at) = Bench::master(Settings { gratuitous, ..settings() }, 100);
    for step in 1..=6 {
        let outputs = bench.at(at + f64::from(step) * 1000.0, Event::Timer);
        assert_eq!(outputs, [send(100)]);
    }
}

#[test]
fn a_priority_change_moves_a_backups_timer_by_the_skew() {
    let mut bench = Bench::backup(settings(), 100);
    let track = |priority| Event::Track { priority, standing: Standing::Fit };
    assert_eq!(bench.at(1000.0, track(228)), []);
    bench.due(3609.375 - 500.0);
    assert_eq!(bench.at(1000.0, track(36)), []);
    bench.due(3609.375 + 250.0);
    assert_eq!(bench.instance.priority(), 36);
}

#[test]
fn a_priority_change_of_a_master_goes_out_with_its_next_advert() {
    let (mut bench, at) = Bench::master(settings(), 100);
    let track = Event::Track { priority: 80, standing: Standing::Fit };
    assert_eq!(bench.at(at + 100.0, track), []);
    assert_eq!(bench.at(at + 1000.0, Event::Timer), [send(80)]);
}

#[test]
fn fault_resigns_and_its_end_is_a_backup_with_a_full_timer() {
    // keepalived: an advert of priority 0 on the way from master to fault.
    for (fault, end, cause) in [
        (Event::LinkDown, Event::LinkUp, Cause::LinkDown),
        (
            Event::Track { priority: 100, standing: Standing::Fault },
            Event::Track { priority: 100, standing: Standing::Fit },
            Cause::Tracking,
        ),
    ] {
        let (mut bench, at) = Bench::master(settings(), 100);
        assert_eq!(
            bench.at(at + 10.0, fault),
            [send(0), Output::ReleaseVips, entered(State::Fault, cause)]
        );
        assert_eq!(bench.at(at + 20.0, Event::Advert(advert(9, 0))), []);
        let outputs = bench.at(at + 30.0, end);
        assert_eq!(outputs, [entered(State::Backup, Cause::Recovered)]);
        bench.due(at + 30.0 + 3609.375);
    }
}

#[test]
fn fault_lasts_until_every_cause_is_gone() {
    let mut bench = Bench::backup(settings(), 100);
    let track = |standing| Event::Track { priority: 100, standing };
    let _ = bench.at(1.0, Event::LinkDown);
    assert_eq!(bench.at(2.0, track(Standing::Fault)), []);
    assert_eq!(bench.at(3.0, Event::LinkUp), []);
    assert_eq!(bench.instance.state().name(), "fault");
    let outputs = bench.at(4.0, track(Standing::Fit));
    assert_eq!(outputs, [entered(State::Backup, Cause::Recovered)]);
}

#[test]
fn an_instance_waits_for_the_first_result_of_its_conditions() {
    let mut bench = Bench::new(settings(), 100);
    let track = |standing| Event::Track { priority: 100, standing };
    let _ = bench.at(0.0, track(Standing::Pending));
    assert_eq!(bench.at(1.0, Event::Startup), []);
    let outputs = bench.at(2.0, track(Standing::Fit));
    assert_eq!(outputs, [entered(State::Backup, Cause::Recovered)]);
    // A condition that a reload adds does not end what runs.
    assert_eq!(bench.at(3.0, track(Standing::Pending)), []);
    assert_eq!(bench.instance.state(), State::Backup);
    let outputs = bench.at(4.0, track(Standing::Fault));
    assert_eq!(outputs, [entered(State::Fault, Cause::Tracking)]);
}

#[test]
fn a_router_that_resigned_leaves_mastership_to_others_until_they_are_gone() {
    let (mut bench, at) = Bench::master(settings(), 100);
    assert_eq!(
        bench.at(at, Event::Resign),
        [send(0), Output::ReleaseVips, entered(State::Backup, Cause::Resigned)]
    );
    for step in 1..20 {
        let outputs = bench.at(at + f64::from(step) * 1000.0, Event::Advert(advert(9, 50)));
        assert_eq!(outputs, []);
    }
    let silent = at + 19_000.0 + 3609.375;
    bench.due(silent);
    let outputs = bench.at(silent, Event::Timer);
    assert_eq!(outputs, takeover(100, Cause::Silence(Some(host(9)))));
    // Master once more, it preempts as before.
    let _ = bench.at(silent + 1.0, Event::Advert(advert(8, 200)));
    let _ = bench.at(silent + 2.0, Event::Advert(advert(9, 50)));
    bench.due(silent + 1.0 + 3609.375);
}

#[test]
fn a_backup_whose_timer_comes_late_listens_once_more() {
    let mut bench = Bench::backup(settings(), 100);
    let late = Duration::from_secs(2);
    let outputs = bench.at(3609.375 + 2000.0, Event::Timer);
    assert_eq!(outputs, [Output::Noted(Note::Late(late))]);
    // For an interval and the skew, and never twice for one silence.
    bench.due(5609.375 + 1609.375);
    let outputs = bench.at(20_000.0, Event::Timer);
    assert_eq!(outputs, takeover(100, Cause::Silence(None)));
}

#[test]
fn a_master_that_stalled_defends_itself_or_without_preemption_stops() {
    // 254 at 1 s takes over 3.0078 s after the last advert.
    let (mut bench, at) = Bench::master(settings(), 100);
    assert_eq!(bench.at(at + 3007.0, Event::Timer), [send(100)]);
    let late = Output::Noted(Note::Late(Duration::from_millis(2008)));
    let mut outputs = bench.at(at + 3007.0 + 3001.0, Event::Timer);
    assert_eq!(outputs.remove(0), send(100), "{outputs:?}");
    let (mut bench, at) = Bench::master(settings(), 100);
    let outputs = bench.at(at + 3008.0, Event::Timer);
    assert_eq!(outputs, [send(100), late, announce(Round::Answer)]);
    // Without preemption the first event after the stall ends mastership, whatever it is.
    for event in [Event::Timer, Event::Advert(advert(9, 50))] {
        let (mut bench, at) = Bench::master(Settings { preempt: false, ..settings() }, 100);
        let outputs = bench.at(at + 3008.0, event);
        let cause = Cause::Stalled(Duration::from_millis(2008));
        assert_eq!(outputs, [late, Output::ReleaseVips, entered(State::Backup, cause)]);
    }
}
