//! Draws the state of `lb top`. Pure: a state in, cells out.
//!
//! Must not know: terminals, keys' meaning, the daemon.

use ratatui::Frame;
use ratatui::buffer::Buffer;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Cell, Clear, Paragraph, Row as TableRow, Table, Widget};

use super::state::{Mode, Reading, Row, SortBy, State};

/// From this width on the table has all its columns.
const WIDE: u16 = 110;
/// Lines above the table's rows: three of the header, one of titles.
const HEAD: u16 = 4;

/// Draws a screen, and notes how many rows fit it.
pub(super) fn draw(state: &mut State, frame: &mut Frame<'_>) {
    let area = frame.area();
    state.page = usize::from(area.height.saturating_sub(HEAD + 1)).max(1);
    follow_selection(state);
    render(state, area, frame.buffer_mut());
}

/// Scrolls so that the selected row is on the screen.
fn follow_selection(state: &mut State) {
    let rows = state.rows();
    let place = state.selected.as_ref().and_then(|id| rows.iter().position(|row| row.id == *id));
    let place = place.unwrap_or(0);
    let last = rows.len().saturating_sub(state.page);
    state.offset = state.offset.clamp((place + 1).saturating_sub(state.page), place).min(last);
}

/// One page with everything, for an output that is no terminal.
pub(super) fn page(reading: Reading, width: u16) -> String {
    let mut state = State::new(reading, false);
    state.open_all();
    let rows = u16::try_from(state.rows().len()).unwrap_or(u16::MAX);
    state.page = usize::from(rows);
    let area = Rect::new(0, 0, width.max(40), rows.saturating_add(HEAD));
    let mut buffer = Buffer::empty(area);
    let [head, table] =
        Layout::vertical([Constraint::Length(HEAD - 1), Constraint::Min(1)]).areas(area);
    header(&state, head, &mut buffer);
    body(&state, table, &mut buffer);
    text(&buffer)
}

/// A buffer's lines without blanks at their ends.
pub(super) fn text(buffer: &Buffer) -> String {
    let mut text = String::new();
    for line in buffer.content.chunks(usize::from(buffer.area.width).max(1)) {
        let line: String = line.iter().map(ratatui::buffer::Cell::symbol).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

/// The whole screen.
pub(super) fn render(state: &State, area: Rect, buffer: &mut Buffer) {
    let parts = [Constraint::Length(HEAD - 1), Constraint::Min(1), Constraint::Length(1)];
    let [head, table, foot] = Layout::vertical(parts).areas(area);
    header(state, head, buffer);
    body(state, table, buffer);
    footer(state, foot, buffer);
    if state.mode == Mode::Help {
        help(area, buffer);
    }
}

fn header(state: &State, area: Rect, buffer: &mut Buffer) {
    let status = &state.reading.status;
    let plane = &status.dataplane;
    let bold = Style::new().add_modifier(Modifier::BOLD);
    let mut first = vec![
        Span::styled(format!("lb {}", status.node), bold),
        Span::raw(match plane.mode.as_str() {
            "" => "  no data plane".to_owned(),
            mode => format!("  {mode} XDP on {}", plane.interfaces.join(", ")),
        }),
    ];
    let (used, capacity) = (plane.connections.used, plane.connections.capacity);
    let percent = used.saturating_mul(100) / capacity.max(1);
    let fill = format!("  {} of {} connections ({percent} %)", number(used), number(capacity));
    let full = if percent >= 80 { colored(state, Color::Red) } else { Style::new() };
    first.push(Span::styled(fill, full));
    if state.paused {
        first.push(Span::styled("  PAUSED", colored(state, Color::Yellow)));
    }
    let totals = state.totals();
    let second = format!(
        "per second: {} connections  packets {} in {} out  bytes {} in {} out",
        rate(totals.connections),
        rate(totals.packets_in),
        rate(totals.packets_out),
        rate(totals.bytes_in),
        rate(totals.bytes_out),
    );
    let mut third = vec![Span::raw("VRRP:")];
    for instance in &status.vrrp {
        third.push(Span::raw(format!(" {} ", instance.name)));
        third.push(Span::styled(instance.state.clone(), of_state(state, &instance.state)));
    }
    if status.vrrp.is_empty() {
        third.push(Span::raw(" none"));
    }
    third.extend(plane.warnings.iter().map(|warning| {
        Span::styled(format!("  warning: {warning}"), colored(state, Color::Yellow))
    }));
    Paragraph::new(vec![Line::from(first), Line::from(second), Line::from(third)])
        .render(area, buffer);
}

fn body(state: &State, area: Rect, buffer: &mut Buffer) {
    let wide = area.width >= WIDE;
    let mut titles = vec!["Service", "State", "Weight", "Active"];
    let mut widths = vec![9, 6, 6];
    if wide {
        titles.extend(["Inact", "Conn/s", "PktIn/s", "PktOut/s"]);
        widths.extend([6, 6, 7, 8]);
    } else {
        titles.extend(["Conn/s", "PktIn/s"]);
        widths.extend([6, 7]);
    }
    titles.extend(["In/s", "Out/s", "Check"]);
    widths.extend([5, 5, if wide { 18 } else { 9 }]);
    let fixed = widths.iter().map(|width| Constraint::Length(*width));
    let constraints: Vec<Constraint> = std::iter::once(Constraint::Min(10)).chain(fixed).collect();
    let page = usize::from(area.height.saturating_sub(1));
    let rows = state.rows();
    let shown = rows.iter().skip(state.offset).take(page);
    let lines = shown.map(|row| line(state, row, wide));
    let titles = titles.iter().enumerate().map(|(at, title)| match at {
        2.. if *title != "Check" => Cell::from(Line::from(*title).right_aligned()),
        _ => Cell::from(*title),
    });
    let head = TableRow::new(titles).style(Style::new().add_modifier(Modifier::REVERSED));
    Widget::render(Table::new(lines, constraints).header(head), area, buffer);
    if rows.is_empty() {
        let why = match state.filter.as_str() {
            "" => "no virtual services".to_owned(),
            filter => format!("nothing matches {filter:?}"),
        };
        let below = Rect { y: area.y + 1, height: area.height.saturating_sub(1).min(1), ..area };
        Paragraph::new(why).render(below, buffer);
    }
}

fn line<'a>(state: &State, row: &'a Row, wide: bool) -> TableRow<'a> {
    let name = match &row.id.server {
        Some(server) => format!("    {server}"),
        None => {
            let mark = if row.open { "-" } else { "+" };
            format!("{mark} {}  {}", row.id.service, row.listen)
        }
    };
    let right = |text: String| Cell::from(Line::from(text).right_aligned());
    let mut cells = vec![
        Cell::from(name),
        Cell::from(Span::styled(row.state.as_str(), of_state(state, &row.state))),
        right(number(row.weight)),
        right(number(row.active)),
    ];
    if wide {
        cells.push(right(number(row.inactive)));
    }
    cells.extend([right(rate(row.rates.connections)), right(rate(row.rates.packets_in))]);
    if wide {
        cells.push(right(rate(row.rates.packets_out)));
    }
    cells.extend([right(rate(row.rates.bytes_in)), right(rate(row.rates.bytes_out))]);
    cells.push(Cell::from(row.check.as_str()));
    let selected = state.selected.as_ref() == Some(&row.id);
    let style = match (selected, row.id.server.is_none()) {
        (true, _) => Style::new().add_modifier(Modifier::REVERSED),
        (false, true) => Style::new().add_modifier(Modifier::BOLD),
        (false, false) => Style::new(),
    };
    TableRow::new(cells).style(style)
}

fn footer(state: &State, area: Rect, buffer: &mut Buffer) {
    let line = if state.mode == Mode::Filter {
        Line::from(format!("filter: {}_  (Enter keeps it, Esc clears it)", state.filter))
    } else if let Some(failure) = &state.failure {
        Line::styled(format!("not current: {failure}"), colored(state, Color::Red))
    } else {
        let order = if state.reverse { ", reversed" } else { "" };
        let filter = match state.filter.as_str() {
            "" => String::new(),
            filter => format!("  filter: {filter}"),
        };
        let name = state.sort.name();
        Line::from(format!(
            "q quit  ? help  Enter servers  / filter  sorted by {name}{order}{filter}"
        ))
    };
    Paragraph::new(line).render(area, buffer);
}

fn help(area: Rect, buffer: &mut Buffer) {
    let mut lines = vec![
        Line::from("up, down, PgUp, PgDn, Home, End   move"),
        Line::from("Enter   show or hide the real servers of a service"),
        Line::from("e       show or hide all of them"),
        Line::from("/       filter by name, address or state"),
        Line::from("space   pause"),
        Line::from("r       reverse the order"),
    ];
    let sorts = SortBy::ALL.iter();
    lines.extend(sorts.map(|(_, key, name)| Line::from(format!("{key}       sort by {name}"))));
    lines.push(Line::from("q, Esc  quit"));
    let height = (lines.len() as u16 + 2).min(area.height);
    let width = 56.min(area.width);
    let place = Rect {
        x: area.x + (area.width - width) / 2,
        y: area.y + (area.height - height) / 2,
        width,
        height,
    };
    Clear.render(place, buffer);
    Paragraph::new(lines).block(Block::bordered().title(" Keys ")).render(place, buffer);
}

fn colored(state: &State, color: Color) -> Style {
    if state.color { Style::new().fg(color) } else { Style::new() }
}

fn of_state(state: &State, name: &str) -> Style {
    let color = match name {
        "up" | "master" => Color::Green,
        "down" | "fault" => Color::Red,
        "drain" | "sorry" => Color::Yellow,
        "disabled" | "standby" => Color::DarkGray,
        _ => Color::Cyan,
    };
    colored(state, color)
}

/// At most five characters: `999`, `1.2k`, `12.3k`, `123k`, `1.2M`.
pub(super) fn number(value: u64) -> String {
    if value < 10_000 {
        return value.to_string();
    }
    #[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
    let mut scaled = value as f64;
    let mut unit = "";
    for larger in ["k", "M", "G", "T", "P", "E"] {
        if scaled < 999.5 {
            break;
        }
        scaled /= 1000.0;
        unit = larger;
    }
    if scaled < 99.95 { format!("{scaled:.1}{unit}") } else { format!("{scaled:.0}{unit}") }
}

/// The same of a rate; `-` when there is none, a decimal below ten.
pub(super) fn rate(value: Option<f64>) -> String {
    match value {
        None => "-".to_owned(),
        Some(value) if value > 0.0 && value < 9.95 => format!("{value:.1}"),
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rate is not negative, and beyond u64 it is cut off"
        )]
        Some(value) => number(value.round() as u64),
    }
}
