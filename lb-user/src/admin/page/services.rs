//! The services of the dashboard: a table each, with charts, checks, counters and buttons.
//!
//! Must not know: how a change is made.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::View;
use super::chart::Chart;
use super::html::Html;
use super::numbers::{scaled, span, whole};
use super::states::{State, state};
use crate::controller::document::{self, Check, RealServer, SorryServer, VirtualService};

/// Every service that the view wants.
pub(super) fn all(html: &mut Html, view: &View<'_>) {
    for service in view.status.virtual_services.iter().filter(|service| wanted(view, service)) {
        one(html, view, service);
    }
    if view.status.virtual_services.is_empty() {
        html.raw("<p class=\"none\">No virtual services are configured.</p>");
    }
}

fn wanted(view: &View<'_>, service: &VirtualService) -> bool {
    let scope = view.options.scope.as_str();
    let holds =
        |server: &RealServer| document::endpoint(&server.address, server.port).contains(scope);
    scope.is_empty()
        || service.name.contains(scope)
        || service.listen.iter().any(|listen| listen.contains(scope))
        || service.real_servers.iter().any(holds)
}

fn one(html: &mut Html, view: &View<'_>, service: &VirtualService) {
    let class = if service.state == "up" { State::Up.class() } else { State::Down.class() };
    html.raw("<section class=\"service\" data-service=\"").text(&service.name);
    html.raw("\"><header><div><h2>").text(&service.name).raw("</h2> <b class=\"state ");
    html.text(class).raw("\">").text(service.state.to_uppercase()).raw("</b><p>");
    for listen in &service.listen {
        html.raw("<code>").text(listen).raw("</code> ");
    }
    html.raw("<span>").text(&service.scheduler);
    for flag in &service.scheduler_flags {
        html.raw(", ").text(flag);
    }
    html.raw(" \u{b7} ").text(&service.forwarding).raw("</span>");
    if service.quorum.up > 1 || service.sorry_server.is_some() {
        html.raw(" <span>\u{b7} live weight ").text(service.live_weight).raw(" of ");
        html.text(service.quorum.up).raw("</span>");
    }
    html.raw("</p></div>");
    charts(html, view, service);
    html.raw("</header><div class=\"scroll\"><table><caption class=\"sr\">Real servers of ");
    html.text(&service.name).raw("</caption><thead><tr>");
    for (name, numeric) in COLUMNS {
        html.raw(if *numeric { "<th scope=\"col\" class=\"n\">" } else { "<th scope=\"col\">" });
        html.text(name).raw("</th>");
    }
    if view.token.is_some() {
        html.raw("<th scope=\"col\">Change</th>");
    }
    html.raw("</tr></thead><tbody>");
    for server in &service.real_servers {
        let is_down = matches!(state(server), State::Down | State::GoingUp(..));
        if !(view.options.up_only && is_down) {
            row(html, view, service, server);
        }
    }
    if let Some(sorry) = &service.sorry_server {
        sorry_row(html, view, sorry);
    }
    html.raw("</tbody>");
    sums(html, view, service);
    html.raw("</table></div></section>");
}

fn charts(html: &mut Html, view: &View<'_>, service: &VirtualService) {
    let Some(history) = &view.history else { return };
    let Some(series) = history.services.iter().find(|series| series.name == service.name) else {
        return;
    };
    let bits = |bytes: &[f32]| bytes.iter().map(|bytes| bytes * 8.0).collect::<Vec<_>>();
    let (bits_in, bits_out) = (bits(&series.bytes_in), bits(&series.bytes_out));
    html.raw("<div class=\"charts\">");
    for (title, unit, values) in [
        ("Connections", "", &series.connections),
        ("Packets in", "", &series.packets_in),
        ("In", "b", &bits_in),
        ("Out", "b", &bits_out),
    ] {
        let span = history.interval_s * values.len() as u64;
        Chart { title, unit, values, span }.write(html);
    }
    html.raw("</div>");
}

fn row(html: &mut Html, view: &View<'_>, service: &VirtualService, server: &RealServer) {
    let state = state(server);
    let endpoint = document::endpoint(&server.address, server.port);
    html.raw("<tr data-server=\"").text(&endpoint).raw("\" data-state=\"").text(state.class());
    html.raw("\"><th scope=\"row\"><code>").text(&endpoint).raw("</code></th>");
    html.raw("<td data-label=\"Status\"><b class=\"state ").text(state.class()).raw("\">");
    html.text(state.words()).raw("</b></td><td data-label=\"Last check\">");
    match (&server.check, server.checks.as_slice()) {
        (None, _) => drop(html.raw("<span class=\"dim\">none</span>")),
        (Some(check), []) => last_check(html, check, view.now),
        (Some(_), several) => several.iter().for_each(|check| {
            html.raw("<div>");
            last_check(html, check, view.now);
            html.raw("</div>");
        }),
    }
    html.raw("</td><td class=\"n\" data-label=\"Weight\">").text(server.effective_weight);
    if server.effective_weight != server.weight {
        html.raw("<span class=\"dim\">/").text(server.weight).raw("</span>");
    }
    if let Some(percent) = server.slow_start_percent {
        html.raw("<span class=\"detail\">slow start, ").text(percent).raw(" %</span>");
    }
    let cells = [
        ("Active", server.active_connections),
        ("Inactive", server.inactive_connections),
        ("Total", server.connections),
    ];
    for (label, number) in cells {
        html.raw("</td><td class=\"n\" data-label=\"").text(label).raw("\">").text(whole(number));
    }
    volume(html, "In", server.bytes_in, server.packets_in);
    volume(html, "Out", server.bytes_out, server.packets_out);
    html.raw("</td>");
    if let Some(token) = view.token {
        html.raw("<td class=\"change\" data-label=\"Change\">");
        buttons(html, view, service, server, token);
        html.raw("</td>");
    }
    html.raw("</tr>");
}

/// The server of last resort.
fn sorry_row(html: &mut Html, view: &View<'_>, sorry: &SorryServer) {
    let endpoint = document::endpoint(&sorry.address, sorry.port);
    html.raw("<tr data-server=\"").text(&endpoint).raw("\"><th scope=\"row\"><code>");
    html.text(&endpoint).raw("</code></th><td data-label=\"Status\" colspan=\"2\">");
    html.raw(if sorry.in_use {
        "<b class=\"state going-down\">sorry server, in use</b>"
    } else {
        "<b class=\"state no-check\">sorry server</b>"
    });
    html.raw("</td><td class=\"n empty\">");
    let cells = [
        ("Active", sorry.active_connections),
        ("Inactive", sorry.inactive_connections),
        ("Total", sorry.connections),
    ];
    for (label, number) in cells {
        html.raw("</td><td class=\"n\" data-label=\"").text(label).raw("\">").text(whole(number));
    }
    html.raw("</td><td class=\"empty\"></td><td class=\"empty\"></td>");
    if view.token.is_some() {
        html.raw("<td class=\"empty\"></td>");
    }
    html.raw("</tr>");
}

fn volume(html: &mut Html, label: &'static str, bytes: u64, packets: u64) {
    html.raw("</td><td class=\"n\" data-label=\"").text(label).raw("\" title=\"");
    html.text(whole(bytes)).raw(" bytes, ").text(whole(packets)).raw(" packets\">");
    html.text(scaled(bytes as f64, "B"));
}

/// As HAProxy: `L7OK/200 in 1ms`, and for how long the state holds.
fn last_check(html: &mut Html, check: &Check, now: SystemTime) {
    html.raw("<span class=\"check\">").text(&check.status);
    if let Some(code) = check.code {
        html.raw("/").text(code);
    }
    if check.probes > 0 {
        html.raw(" in ").text(check.duration_ms).raw("ms");
    }
    html.raw("</span>");
    if let Some(changed) = check.last_change {
        let now = now.duration_since(UNIX_EPOCH).unwrap_or_default();
        let since = now.saturating_sub(Duration::from_secs(changed));
        html.raw(" <span class=\"dim\">for ").text(span(since)).raw("</span>");
    }
    if !check.detail.is_empty() {
        html.raw("<span class=\"detail\">").text(&check.detail).raw("</span>");
    }
}

fn buttons(
    html: &mut Html,
    view: &View<'_>,
    service: &VirtualService,
    server: &RealServer,
    token: &str,
) {
    let now = match state(server) {
        State::Drain => "drain",
        State::Maint => "maint",
        _ => "ready",
    };
    form(html, view, service, server, token);
    html.raw("<span class=\"buttons\">");
    for action in ["ready", "drain", "maint"] {
        html.raw("<button name=\"action\" value=\"").text(action).raw("\" aria-label=\"");
        html.text(action)
            .raw(" ")
            .text(&service.name)
            .raw("/")
            .text(document::endpoint(&server.address, server.port));
        html.raw(if action == now { "\" class=\"now\">" } else { "\">" });
        html.text(action.to_uppercase()).raw("</button>");
    }
    html.raw("</span></form>");
    // A form of its own: the return key in the field presses a form's first button.
    form(html, view, service, server, token);
    html.raw("<input type=\"hidden\" name=\"action\" value=\"weight\">");
    html.raw(
        "<input class=\"weight\" type=\"number\" name=\"weight\" min=\"0\" max=\"65535\" required",
    );
    html.raw(" aria-label=\"Weight of ")
        .text(&service.name)
        .raw("/")
        .text(document::endpoint(&server.address, server.port));
    html.raw("\" value=\"").text(server.weight).raw("\"><button>Set</button></form>");
}

fn form(
    html: &mut Html,
    view: &View<'_>,
    service: &VirtualService,
    server: &RealServer,
    token: &str,
) {
    html.raw("<form method=\"post\" action=\"").text(view.stats_path).raw("\">");
    let fields = [
        ("b", service.name.as_str()),
        ("s", &document::endpoint(&server.address, server.port)),
        ("csrf_token", token),
    ];
    for (name, value) in fields {
        html.raw("<input type=\"hidden\" name=\"").text(name).raw("\" value=\"").text(value);
        html.raw("\">");
    }
}

/// The line of the whole service, HAProxy's BACKEND.
fn sums(html: &mut Html, view: &View<'_>, service: &VirtualService) {
    let sum = |of: fn(&RealServer) -> u64| service.real_servers.iter().map(of).sum::<u64>();
    let up = service.real_servers.iter().filter(|server| server.effective_weight > 0).count();
    html.raw("<tfoot><tr><th scope=\"row\">Service</th><td data-label=\"Status\">").text(up);
    html.raw(" of ").text(service.real_servers.len()).raw(" up</td><td class=\"empty\">");
    html.raw("</td><td class=\"n\" data-label=\"Weight\">")
        .text(sum(|s| s.effective_weight.into()));
    let cells = [
        ("Active", sum(|server| server.active_connections)),
        ("Inactive", sum(|server| server.inactive_connections)),
        ("Total", service.connections),
    ];
    for (label, number) in cells {
        html.raw("</td><td class=\"n\" data-label=\"").text(label).raw("\">").text(whole(number));
    }
    volume(html, "In", sum(|server| server.bytes_in), sum(|server| server.packets_in));
    volume(html, "Out", sum(|server| server.bytes_out), sum(|server| server.packets_out));
    html.raw("</td>");
    if view.token.is_some() {
        html.raw("<td class=\"empty\"></td>");
    }
    html.raw("</tr></tfoot>");
}

/// Headings, and whether numbers are below them.
const COLUMNS: &[(&str, bool)] = &[
    ("Server", false),
    ("Status", false),
    ("Last check", false),
    ("Weight", true),
    ("Active", true),
    ("Inactive", true),
    ("Total", true),
    ("In", true),
    ("Out", true),
];
