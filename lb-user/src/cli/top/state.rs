//! What `lb top` shows, and how keys and readings change it. Pure.
//!
//! Must not know: terminals, the daemon, clocks.

use std::cmp::{Ordering, Reverse};
use std::collections::{BTreeMap, BTreeSet};

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyModifiers};

use crate::cli::render::endpoint;
use crate::controller::document::{Rates, RealServer, SorryServer, Stats, Status, VirtualService};

/// What the daemon said at one time.
#[derive(Clone, Debug, Default)]
pub(super) struct Reading {
    /// States and counts.
    pub(super) status: Status,
    /// Rates.
    pub(super) stats: Stats,
}

/// What happened.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// A key was pressed.
    Key(KeyEvent),
    /// The terminal has another size: it is drawn anew.
    Resized,
    /// The daemon answered.
    Reading(Box<Reading>),
    /// It did not.
    Failed(String),
    /// Nobody can see or say anything any more.
    TerminalGone,
}

/// A row: a service, or one of its real servers.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RowId {
    /// The service's name.
    pub(super) service: String,
    /// `ip:port` of a real server.
    pub(super) server: Option<String>,
}

/// One line of the table.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Row {
    /// Which.
    pub(super) id: RowId,
    /// Up, down, drain, disabled, unchecked.
    pub(super) state: String,
    /// `ip:port/proto` of a service.
    pub(super) listen: String,
    /// Effective weight of a server, or the sum of a service.
    pub(super) weight: u64,
    /// Active connections.
    pub(super) active: u64,
    /// Inactive connections.
    pub(super) inactive: u64,
    /// Per second.
    pub(super) rates: Rates,
    /// Last check of a server, or how many servers of a service take connections.
    pub(super) check: String,
    /// Whether a service's servers are shown.
    pub(super) open: bool,
}

/// What rows are sorted by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SortBy {
    /// The order of the file.
    File,
    /// Name or address.
    Name,
    /// Active connections.
    Active,
    /// Connections per second.
    Connections,
    /// Packets per second.
    Packets,
    /// Bytes per second, both ways.
    Bytes,
}

impl SortBy {
    /// Its name and the key that chooses it.
    pub(super) const ALL: [(Self, char, &'static str); 6] = [
        (Self::File, 'o', "order of the file"),
        (Self::Name, 'n', "name"),
        (Self::Active, 'a', "active connections"),
        (Self::Connections, 'c', "connections/s"),
        (Self::Packets, 'p', "packets/s"),
        (Self::Bytes, 'b', "bytes/s"),
    ];

    pub(super) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(by, ..)| *by == self).map_or("", |(.., name)| name)
    }
}

/// What keys do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mode {
    /// Commands.
    Table,
    /// Letters of the filter.
    Filter,
    /// The help is shown; any key ends it.
    Help,
}

/// Everything that is shown.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) reading: Reading,
    pub(super) sort: SortBy,
    pub(super) reverse: bool,
    pub(super) filter: String,
    pub(super) mode: Mode,
    pub(super) paused: bool,
    pub(super) color: bool,
    /// Why the last reading is not new.
    pub(super) failure: Option<String>,
    pub(super) selected: Option<RowId>,
    /// The first row that is drawn.
    pub(super) offset: usize,
    /// Rows that fit the screen, as it was drawn last.
    pub(super) page: usize,
    open: BTreeSet<String>,
    /// What is in the table by now.
    rows: Vec<Row>,
    over: bool,
}

impl State {
    pub(super) fn new(reading: Reading, color: bool) -> Self {
        let mut state = Self {
            reading,
            sort: SortBy::File,
            reverse: false,
            filter: String::new(),
            mode: Mode::Table,
            paused: false,
            color,
            failure: None,
            selected: None,
            offset: 0,
            page: 1,
            open: BTreeSet::new(),
            rows: Vec::new(),
            over: false,
        };
        state.arrange(0);
        state
    }

    /// Whether it was told to end.
    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Takes what happened.
    pub(super) fn update(&mut self, event: Event) {
        let place = self.selected_place();
        match event {
            Event::Key(key) => self.key(key),
            Event::Reading(reading) if !self.paused => {
                self.reading = *reading;
                self.failure = None;
            }
            Event::Failed(why) if !self.paused => self.failure = Some(why),
            Event::TerminalGone => self.over = true,
            Event::Resized | Event::Reading(_) | Event::Failed(_) => {}
        }
        self.arrange(place.unwrap_or(0));
    }

    fn key(&mut self, key: KeyEvent) {
        if key.modifiers.contains(KeyModifiers::CONTROL) {
            self.over |= matches!(key.code, KeyCode::Char('c' | 'd'));
            return;
        }
        match self.mode {
            Mode::Help => self.mode = Mode::Table,
            Mode::Filter => self.key_of_filter(key.code),
            Mode::Table => self.command(key.code),
        }
    }

    fn key_of_filter(&mut self, key: KeyCode) {
        match key {
            KeyCode::Enter => self.mode = Mode::Table,
            KeyCode::Esc => {
                self.filter.clear();
                self.mode = Mode::Table;
            }
            KeyCode::Backspace => drop(self.filter.pop()),
            KeyCode::Char(letter) => self.filter.push(letter),
            _ => {}
        }
    }

    fn command(&mut self, key: KeyCode) {
        let page = self.page as isize;
        match key {
            KeyCode::Char('q') => self.over = true,
            KeyCode::Esc if self.filter.is_empty() => self.over = true,
            KeyCode::Esc => self.filter.clear(),
            KeyCode::Char('?' | 'h') => self.mode = Mode::Help,
            KeyCode::Char('/') => self.mode = Mode::Filter,
            KeyCode::Char(' ') => self.paused = !self.paused,
            KeyCode::Char('r') => self.reverse = !self.reverse,
            KeyCode::Up | KeyCode::Char('k') => self.step(-1),
            KeyCode::Down | KeyCode::Char('j') => self.step(1),
            KeyCode::PageUp => self.step(-page),
            KeyCode::PageDown => self.step(page),
            KeyCode::Home => self.step(isize::MIN),
            KeyCode::End => self.step(isize::MAX),
            KeyCode::Enter => self.toggle(),
            KeyCode::Char('e') => self.toggle_all(),
            KeyCode::Char(letter) => {
                if let Some((by, ..)) = SortBy::ALL.iter().find(|(_, key, _)| *key == letter) {
                    self.sort = *by;
                }
            }
            _ => {}
        }
    }

    /// Moves the selection by so many rows.
    fn step(&mut self, by: isize) {
        let place = self.selected_place().unwrap_or(0);
        self.selected = None;
        self.keep_selection(place.saturating_add_signed(by));
    }

    fn toggle(&mut self) {
        let Some(selected) = &mut self.selected else { return };
        let service = selected.service.clone();
        selected.server = None;
        if !self.open.remove(&service) {
            self.open.insert(service);
        }
    }

    fn toggle_all(&mut self) {
        let services = self.reading.status.virtual_services.iter();
        let all: BTreeSet<String> = services.map(|service| service.name.clone()).collect();
        self.open = if self.open.is_superset(&all) { BTreeSet::new() } else { all };
    }

    /// Shows the servers of every service.
    pub(super) fn open_all(&mut self) {
        self.open.clear();
        self.toggle_all();
        self.arrange(0);
        self.selected = None;
    }

    fn selected_place(&self) -> Option<usize> {
        let selected = self.selected.as_ref()?;
        self.rows.iter().position(|row| row.id == *selected)
    }

    /// What was selected stays so wherever it is by now; else what is at its place.
    fn keep_selection(&mut self, place: usize) {
        let rows = &self.rows;
        if !self.selected.as_ref().is_some_and(|id| rows.iter().any(|row| row.id == *id)) {
            let place = place.min(rows.len().saturating_sub(1));
            self.selected = rows.get(place).map(|row| row.id.clone());
        }
    }

    fn arrange(&mut self, place: usize) {
        self.rows = self.arranged();
        self.keep_selection(place);
    }

    /// The rows by now: filtered, sorted, with the servers of services that are open.
    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    fn arranged(&self) -> Vec<Row> {
        let rates: BTreeMap<&str, _> =
            self.reading.stats.services.iter().map(|s| (s.name.as_str(), s)).collect();
        let mut services = Vec::new();
        for service in &self.reading.status.virtual_services {
            let stats = rates.get(service.name.as_str());
            let of_server: BTreeMap<String, Rates> = stats
                .into_iter()
                .flat_map(|stats| &stats.real_servers)
                .map(|server| (endpoint(&server.address, server.port), server.rates))
                .collect();
            let servers = service.real_servers.iter();
            let mut servers: Vec<Row> =
                servers.map(|server| server_row(service, server, &of_server)).collect();
            if !self.is_wanted(service, &servers) {
                continue;
            }
            let open = self.open.contains(&service.name);
            let rates = stats.map(|stats| stats.rates).unwrap_or_default();
            let row = service_row(service, &servers, rates, open);
            if open {
                self.sort(&mut servers, |server| server);
                servers
                    .extend(service.sorry_server.as_ref().map(|sorry| sorry_row(service, sorry)));
            } else {
                servers.clear();
            }
            services.push((row, servers));
        }
        self.sort(&mut services, |(service, _)| service);
        services
            .into_iter()
            .flat_map(|(row, servers)| std::iter::once(row).chain(servers))
            .collect()
    }

    fn is_wanted(&self, service: &VirtualService, servers: &[Row]) -> bool {
        let wanted = self.filter.to_lowercase();
        let has = |text: &str| text.to_lowercase().contains(&wanted);
        has(&service.name)
            || service.listen.iter().any(|listen| has(listen))
            || servers.iter().any(|row| row.id.server.as_deref().is_some_and(has))
            || servers.iter().any(|row| row.state == wanted)
    }

    fn sort<T>(&self, rows: &mut [T], row: impl Fn(&T) -> &Row) {
        let rate =
            |one: Option<f64>, two: Option<f64>| two.unwrap_or(0.0).total_cmp(&one.unwrap_or(0.0));
        let bytes = |rates: &Rates| Some(rates.bytes_in? + rates.bytes_out.unwrap_or(0.0));
        rows.sort_by(|one, two| {
            let (one, two) = (row(one), row(two));
            match self.sort {
                SortBy::File => Ordering::Equal,
                SortBy::Name => one.id.cmp(&two.id),
                SortBy::Active => Reverse(one.active).cmp(&Reverse(two.active)),
                SortBy::Connections => rate(one.rates.connections, two.rates.connections),
                SortBy::Packets => rate(one.rates.packets_in, two.rates.packets_in),
                SortBy::Bytes => rate(bytes(&one.rates), bytes(&two.rates)),
            }
        });
        if self.reverse {
            rows.reverse();
        }
    }

    /// Rates over all services.
    pub(super) fn totals(&self) -> Rates {
        let services = || self.reading.stats.services.iter().map(|service| service.rates);
        let sum = |of: fn(Rates) -> Option<f64>| services().filter_map(of).reduce(|a, b| a + b);
        Rates {
            connections: sum(|rates| rates.connections),
            packets_in: sum(|rates| rates.packets_in),
            packets_out: sum(|rates| rates.packets_out),
            bytes_in: sum(|rates| rates.bytes_in),
            bytes_out: sum(|rates| rates.bytes_out),
        }
    }
}

fn server_row(
    service: &VirtualService,
    server: &RealServer,
    rates: &BTreeMap<String, Rates>,
) -> Row {
    let name = endpoint(&server.address, server.port);
    let check = server.check.as_ref().map_or_else(String::new, |check| {
        let code = check.code.map_or_else(String::new, |code| format!("/{code}"));
        format!("{}{code} {} ms", check.status, check.duration_ms)
    });
    Row {
        state: server.state.clone(),
        listen: String::new(),
        weight: server.effective_weight.into(),
        active: server.active_connections,
        inactive: server.inactive_connections,
        rates: rates.get(&name).copied().unwrap_or_default(),
        check,
        open: false,
        id: RowId { service: service.name.clone(), server: Some(name) },
    }
}

/// The sorry server comes last, whatever rows are sorted by.
fn sorry_row(service: &VirtualService, sorry: &SorryServer) -> Row {
    Row {
        id: RowId {
            service: service.name.clone(),
            server: Some(endpoint(&sorry.address, sorry.port)),
        },
        state: if sorry.in_use { "sorry" } else { "standby" }.to_owned(),
        listen: String::new(),
        weight: sorry.in_use.into(),
        active: sorry.active_connections,
        inactive: sorry.inactive_connections,
        rates: Rates::default(),
        check: String::new(),
        open: false,
    }
}

fn service_row(service: &VirtualService, servers: &[Row], rates: Rates, open: bool) -> Row {
    let sum = |of: fn(&Row) -> u64| servers.iter().map(of).fold(0, u64::saturating_add);
    let taking = servers.iter().filter(|server| server.weight > 0).count();
    Row {
        id: RowId { service: service.name.clone(), server: None },
        state: service.state.clone(),
        listen: service.listen.join(" "),
        weight: sum(|server| server.weight),
        active: sum(|server| server.active),
        inactive: sum(|server| server.inactive),
        rates,
        check: if service.sorry_server.as_ref().is_some_and(|sorry| sorry.in_use) {
            "sorry".to_owned()
        } else {
            format!("{taking} of {}", servers.len())
        },
        open,
    }
}
