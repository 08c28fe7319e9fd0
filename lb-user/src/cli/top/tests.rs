//! What the screen shows after which keys.
//!
//! Must not know: a real terminal, a daemon.

use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::style::{Color, Modifier};

use super::state::{Event, Reading, State};
use super::view;
use crate::controller::document::{
    Capacity, Check, Dataplane, Rates, RealServer, RealServerStats, ServiceStats, SorryServer,
    Stats, Status, VirtualService, VrrpInstance,
};

fn rates(connections: f64) -> Rates {
    Rates {
        connections: Some(connections),
        packets_in: Some(connections * 10.0),
        packets_out: Some(connections * 8.0),
        bytes_in: Some(connections * 1_000.0),
        bytes_out: Some(connections * 50_000.0),
    }
}

fn service(name: &str, listen: &str, servers: &[(&str, &str, u64)]) -> VirtualService {
    let servers = servers.iter().map(|(address, state, active)| RealServer {
        address: (*address).into(),
        port: 80,
        weight: 1,
        effective_weight: u32::from(*state == "up"),
        state: (*state).into(),
        active_connections: *active,
        inactive_connections: 7,
        check: Some(Check {
            status: if *state == "down" { "L7STS" } else { "L7OK" }.into(),
            code: Some(if *state == "down" { 503 } else { 200 }),
            duration_ms: 3,
            ..Check::default()
        }),
        ..RealServer::default()
    });
    VirtualService {
        name: name.into(),
        listen: vec![listen.into()],
        state: "up".into(),
        real_servers: servers.collect(),
        ..VirtualService::default()
    }
}

/// Two services; `per_second` are their connections per second.
fn reading(per_second: [f64; 2]) -> Reading {
    let virtual_services = vec![
        service("web", "192.0.2.1:80/tcp", &[("10.0.0.1", "up", 12_345), ("10.0.0.2", "down", 0)]),
        service("mail", "192.0.2.1:25/tcp", &[("10.0.0.3", "drain", 3)]),
    ];
    let stats = virtual_services.iter().zip(per_second).map(|(service, per_second)| ServiceStats {
        name: service.name.clone(),
        rates: rates(per_second),
        real_servers: service
            .real_servers
            .iter()
            .map(|server| RealServerStats {
                address: server.address.clone(),
                port: server.port,
                rates: rates(per_second / 2.0),
                ..RealServerStats::default()
            })
            .collect(),
        ..ServiceStats::default()
    });
    let stats = Stats { services: stats.collect(), ..Stats::default() };
    let master = VrrpInstance { name: "VI_1".into(), state: "master".into(), ..Default::default() };
    let status = Status {
        node: "lb01".into(),
        dataplane: Dataplane {
            mode: "native".into(),
            interfaces: vec!["eth0".into()],
            connections: Capacity { used: 12_348, capacity: 1_000_000 },
            warnings: Vec::new(),
        },
        virtual_services,
        vrrp: vec![master],
        ..Status::default()
    };
    Reading { status, stats }
}

fn state() -> State {
    State::new(reading([120.0, 4.0]), true)
}

fn press(state: &mut State, keys: &str) {
    for key in keys.chars() {
        let code = match key {
            '\n' => KeyCode::Enter,
            '\u{1b}' => KeyCode::Esc,
            '\u{8}' => KeyCode::Backspace,
            '^' => KeyCode::Home,
            '$' => KeyCode::End,
            letter => KeyCode::Char(letter),
        };
        state.update(Event::Key(KeyEvent::new(code, KeyModifiers::NONE)));
    }
}

fn screen(state: &mut State, width: u16, height: u16) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(width, height)).expect("a terminal");
    terminal.draw(|frame| view::draw(state, frame)).expect("drawn");
    terminal.backend().buffer().clone()
}

fn shown(state: &mut State) -> String {
    view::text(&screen(state, 80, 24))
}

/// The first words of the table's rows.
fn names(state: &mut State) -> Vec<String> {
    let text = shown(state);
    let rows = text.lines().skip(4).take(19).filter(|line| !line.is_empty());
    rows.map(|row| row.trim_start_matches(['+', '-', ' ']).split(' ').next().unwrap_or("").into())
        .collect()
}

#[test]
fn a_small_screen_has_everything_that_matters() {
    let mut state = state();
    press(&mut state, "\n");
    let text = shown(&mut state);
    let expected = "\
lb lb01  native XDP on eth0  12.3k of 1.0M connections (1 %)
per second: 124 connections  packets 1240 in 992 out  bytes 124k in 6.2M out
VRRP: VI_1 master
Service             State     Weight Active Conn/s PktIn/s  In/s Out/s Check
- web  192.0.2.1:80 up             1  12.3k    120    1200  120k  6.0M 1 of 2
    10.0.0.1:80     up             1  12.3k     60     600 60.0k  3.0M L7OK/200
    10.0.0.2:80     down           0      0     60     600 60.0k  3.0M L7STS/503
+ mail  192.0.2.1:2 up             0      3    4.0      40  4000  200k 0 of 1
";
    let (table, foot) = text.split_once("\n\n").expect("a blank line");
    assert_eq!(format!("{table}\n"), expected);
    assert!(foot.ends_with("Enter servers  / filter  sorted by order of the file\n"), "{foot}");
}

#[test]
fn a_wide_screen_has_all_columns() {
    let mut state = state();
    let text = view::text(&screen(&mut state, 120, 10));
    for title in ["Inact", "PktOut/s"] {
        assert!(text.contains(title), "{text}");
    }
    press(&mut state, "e");
    let text = view::text(&screen(&mut state, 120, 10));
    assert!(text.contains("L7OK/200 3 ms") && text.contains(" 14 "), "{text}");
}

#[test]
fn states_have_colours_unless_they_are_not_wanted() {
    let colour_of = |state: &mut State, word: &str| {
        let buffer = screen(state, 80, 24);
        let text = view::text(&buffer);
        let mut places =
            text.lines().enumerate().filter_map(|(y, line)| Some((line.find(word)?, y)));
        let (x, y) = places.next().expect(word);
        buffer[(x as u16, y as u16)].fg
    };
    let mut colored = state();
    press(&mut colored, "e");
    for (word, color) in [
        ("down", Color::Red),
        ("drain", Color::Yellow),
        ("up ", Color::Green),
        ("master", Color::Green),
    ] {
        assert_eq!(colour_of(&mut colored, word), color, "{word}");
    }
    let mut plain = State::new(reading([1.0, 1.0]), false);
    press(&mut plain, "e");
    assert_eq!(colour_of(&mut plain, "down"), Color::Reset);
}

#[test]
fn rows_are_sorted_and_reversed() {
    let mut state = state();
    assert_eq!(names(&mut state), ["web", "mail"]);
    press(&mut state, "n");
    assert_eq!(names(&mut state), ["mail", "web"]);
    for key in ["c", "p", "b", "a"] {
        press(&mut state, key);
        assert_eq!(names(&mut state), ["web", "mail"], "{key}");
        press(&mut state, "r");
        assert_eq!(names(&mut state), ["mail", "web"], "{key} reversed");
        press(&mut state, "r");
    }
    // What is sorted by rate follows the rates.
    press(&mut state, "c");
    state.update(Event::Reading(Box::new(reading([1.0, 2.0]))));
    assert_eq!(names(&mut state), ["mail", "web"]);
}

#[test]
fn servers_are_shown_and_hidden() {
    let mut state = state();
    press(&mut state, "\n");
    assert_eq!(names(&mut state), ["web", "10.0.0.1:80", "10.0.0.2:80", "mail"]);
    // From a server, Enter closes its service and the selection stays there.
    press(&mut state, "j\n");
    assert_eq!(names(&mut state), ["web", "mail"]);
    assert_eq!(state.selected.as_ref().map(|id| id.service.as_str()), Some("web"));
    press(&mut state, "e");
    assert_eq!(names(&mut state).len(), 5);
    press(&mut state, "e");
    assert_eq!(names(&mut state).len(), 2);
}

#[test]
fn a_sorry_server_comes_last_and_says_whether_it_serves() {
    for (in_use, state_shown, servers) in [(false, "standby", "1 of 2"), (true, "sorry ", "sorry")]
    {
        let mut reading = reading([1.0, 1.0]);
        let sorry =
            SorryServer { address: "10.0.0.9".into(), port: 80, in_use, ..SorryServer::default() };
        reading.status.virtual_services[0].sorry_server = Some(sorry);
        let mut state = State::new(reading, true);
        press(&mut state, "\nnr");
        let text = shown(&mut state);
        let row = text.lines().nth(7).unwrap_or_default();
        assert!(row.starts_with("    10.0.0.9:80") && row.contains(state_shown), "{text}");
        let service = text.lines().nth(4).unwrap_or_default();
        assert!(service.starts_with("- web") && service.ends_with(servers), "{text}");
    }
}

#[test]
fn a_filter_keeps_what_it_matches() {
    let mut state = state();
    press(&mut state, "/MAIL");
    assert!(shown(&mut state).contains("filter: MAIL_"));
    assert_eq!(names(&mut state), ["mail"]);
    // Letters are the filter's, not commands; Enter keeps it and ends that.
    press(&mut state, "q");
    assert!(!state.is_over());
    assert!(shown(&mut state).contains("nothing matches \"MAILq\""));
    press(&mut state, "\u{8}\n");
    assert_eq!(names(&mut state), ["mail"]);
    press(&mut state, "\u{1b}/10.0.0.1");
    assert_eq!(names(&mut state), ["web"]);
    press(&mut state, "\u{1b}/drain\n");
    assert_eq!(names(&mut state), ["mail"]);
    press(&mut state, "\u{1b}");
    assert_eq!(names(&mut state), ["web", "mail"]);
    assert!(!state.is_over(), "Esc first ends the filter");
    press(&mut state, "\u{1b}");
    assert!(state.is_over());
}

#[test]
fn a_pause_holds_everything() {
    let mut state = state();
    press(&mut state, " ");
    state.update(Event::Reading(Box::new(reading([777.0, 0.0]))));
    state.update(Event::Failed("no daemon".into()));
    let text = shown(&mut state);
    assert!(
        text.contains("PAUSED") && !text.contains("777") && !text.contains("no daemon"),
        "{text}"
    );
    press(&mut state, " ");
    state.update(Event::Reading(Box::new(reading([777.0, 0.0]))));
    assert!(shown(&mut state).contains("777"));
}

#[test]
fn a_daemon_that_is_gone_is_told_until_it_is_back() {
    let mut state = state();
    state.update(Event::Failed("no daemon listens".into()));
    let text = shown(&mut state);
    assert!(text.contains("not current: no daemon listens") && text.contains("web"), "{text}");
    state.update(Event::Reading(Box::new(reading([1.0, 1.0]))));
    assert!(!shown(&mut state).contains("not current"));
}

#[test]
fn the_selection_stays_with_its_row_and_on_the_screen() {
    let mut many = reading([0.0, 0.0]);
    many.status.virtual_services =
        (0..100).map(|n| service(&format!("s{n:02}"), "192.0.2.1:80/tcp", &[])).collect();
    let mut state = State::new(many.clone(), true);
    press(&mut state, "$");
    assert_eq!(names(&mut state).last().map(String::as_str), Some("s99"));
    press(&mut state, "k");
    let buffer = screen(&mut state, 80, 24);
    let selected: Vec<_> = (4..23)
        .filter(|y| buffer[(0, *y)].modifier.contains(Modifier::REVERSED))
        .map(|y| (0..5).map(|x| buffer[(x, y)].symbol()).collect::<String>())
        .collect();
    assert_eq!(selected, ["+ s98"]);
    // It is gone: what is at its place is selected.
    many.status.virtual_services.truncate(10);
    state.update(Event::Reading(Box::new(many)));
    assert_eq!(state.selected.as_ref().map(|id| id.service.as_str()), Some("s09"));
    assert_eq!(names(&mut state).len(), 10);
    press(&mut state, "^");
    assert_eq!(state.selected.as_ref().map(|id| id.service.as_str()), Some("s00"));
}

#[test]
fn every_size_is_drawn() {
    let mut state = state();
    press(&mut state, "e?");
    for width in [1, 2, 3, 9, 10, 20, 39, 40, 55, 56, 79, 80, 109, 110, 200] {
        for height in [1, 2, 3, 4, 5, 6, 24, 60] {
            state.update(Event::Resized);
            screen(&mut state, width, height);
        }
    }
    assert!(shown(&mut state).contains("show or hide the real servers"), "the help");
    press(&mut state, "q");
    assert!(!state.is_over(), "any key ends the help alone");
    assert!(!shown(&mut state).contains("show or hide the real servers"));
}

#[test]
fn what_ends_it() {
    for end in [
        Event::Key(KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE)),
        Event::Key(KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL)),
        Event::TerminalGone,
    ] {
        let mut state = state();
        state.update(end);
        assert!(state.is_over());
    }
}

#[test]
fn a_page_has_all_servers_and_no_control_characters() {
    let page = view::page(reading([120.0, 4.0]), 80);
    assert!(page.contains("10.0.0.3:80") && page.contains("mail"), "{page}");
    assert!(page.lines().count() == 4 + 5 && !page.contains('\u{1b}'), "{page}");
    let empty = view::page(Reading::default(), 80);
    assert!(!empty.is_empty());
}

#[test]
fn numbers_take_five_characters() {
    for (value, expected) in [
        (0, "0"),
        (9_999, "9999"),
        (10_000, "10.0k"),
        (12_345, "12.3k"),
        (99_949, "99.9k"),
        (99_950, "100k"),
        (999_499, "999k"),
        (999_500, "1.0M"),
        (1_500_000_000, "1.5G"),
        (u64::MAX, "18.4E"),
    ] {
        assert_eq!(view::number(value), expected);
    }
    for (value, expected) in [
        (None, "-"),
        (Some(0.0), "0"),
        (Some(0.2), "0.2"),
        (Some(9.96), "10"),
        (Some(1e30), "18.4E"),
    ] {
        assert_eq!(view::rate(value), expected);
    }
}
