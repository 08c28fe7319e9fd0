//! The dashboard: one page of HTML without anything from elsewhere.
//!
//! It is written here as a whole, works without JavaScript, and is what the script fetches again to
//! bring an open page up to date: there is one place where a document becomes something to look at.
//!
//! Must not know: requests, users' passwords, how documents come about.

mod chart;
mod html;
mod numbers;
mod sections;
mod services;
pub(super) mod states;

use std::sync::LazyLock;
use std::time::{Duration, SystemTime};

use aws_lc_rs::digest;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;

use crate::controller::document::{Events, History, Stats, Status};
use html::Html;
use numbers::{scaled, span, whole};
use states::{State, state};

/// Everything that is shown.
pub(super) struct View<'a> {
    /// What is.
    pub(super) status: &'a Status,
    /// What was counted.
    pub(super) stats: &'a Stats,
    /// The last minutes, if this daemon keeps them.
    pub(super) history: Option<History>,
    /// What happened.
    pub(super) events: Option<Events>,
    /// Who looks; empty without users.
    pub(super) user: &'a str,
    /// What the user may do; empty without users.
    pub(super) role: &'a str,
    /// For changes; `None` is that there are no buttons.
    pub(super) token: Option<&'a str>,
    /// What became of the change before this page, and whether it was done.
    pub(super) result: Option<(bool, &'a str)>,
    /// Where the page is.
    pub(super) stats_path: &'a str,
    /// Time between refreshes; zero is never.
    pub(super) refresh: Duration,
    /// Do not tell the version.
    pub(super) hide_version: bool,
    /// Age of the daemon.
    pub(super) uptime: Duration,
    /// The wall clock.
    pub(super) now: SystemTime,
    /// How it was asked for.
    pub(super) options: Options,
}

/// What a request may say of the page.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Options {
    /// `;norefresh`.
    pub(super) norefresh: bool,
    /// `;up`: servers that are down are left out.
    pub(super) up_only: bool,
    /// `?scope=`: services with this in their name only.
    pub(super) scope: String,
}

/// The page.
pub(super) fn render(view: &View<'_>) -> String {
    let mut html = Html::default();
    head(&mut html, view);
    bar(&mut html, view);
    html.raw("<main id=\"live\"");
    if let Some(token) = view.token {
        html.raw(" data-changes=\"yes\" data-token=\"").text(token).raw("\"");
    }
    html.raw(">");
    result(&mut html, view);
    sections::warnings(&mut html, view);
    tiles(&mut html, view);
    sections::vrrp(&mut html, view);
    services::all(&mut html, view);
    html.raw("<div class=\"pair\">");
    sections::drops(&mut html, view);
    sections::events(&mut html, view);
    html.raw("</div></main>");
    footer(&mut html, view);
    html.raw("<script>").raw(SCRIPT).raw("</script></body></html>\n");
    html.finish()
}

fn head(html: &mut Html, view: &View<'_>) {
    html.raw("<!DOCTYPE html><html lang=\"en\"><head><meta charset=\"utf-8\">");
    html.raw("<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">");
    html.raw("<meta name=\"robots\" content=\"noindex\"><title>").text(&view.status.node);
    html.raw(" \u{b7} lb</title><link rel=\"icon\" href=\"data:,\">");
    if !view.refresh.is_zero() && !view.options.norefresh {
        let seconds = view.refresh.as_secs().max(1);
        html.raw("<noscript><meta http-equiv=\"refresh\" content=\"").text(seconds);
        // A change's result is told once.
        html.raw(";url=").text(view.stats_path).raw("\"></noscript>");
    }
    html.raw("<style>").raw(STYLE).raw("</style></head><body data-refresh=\"");
    let refreshed = !view.options.norefresh;
    html.text(if refreshed { view.refresh.as_secs().max(1) } else { 0 }).raw("\">");
}

fn bar(html: &mut Html, view: &View<'_>) {
    html.raw("<header class=\"bar\"><h1>").text(&view.status.node).raw("</h1><p class=\"facts\">");
    if !view.hide_version && !view.status.version.is_empty() {
        html.raw("<span>lb ").text(&view.status.version).raw("</span>");
    }
    html.raw("<span>up <b id=\"uptime\">").text(span(view.uptime)).raw("</b></span>");
    if !view.user.is_empty() {
        html.raw("<span>").text(view.user).raw(" (").text(view.role).raw(")</span>");
    }
    html.raw("</p><form class=\"tools\" method=\"get\" action=\"").text(view.stats_path);
    html.raw(
        "\"><label>Filter <input type=\"search\" name=\"scope\" id=\"filter\" maxlength=\"64\"",
    );
    html.raw(" autocomplete=\"off\" placeholder=\"service or server\" value=\"");
    html.text(&view.options.scope).raw("\"></label>");
    html.raw("<label class=\"js\">Show <select id=\"show\"><option value=\"all\">all</option>");
    html.raw("<option value=\"up\">up only</option><option value=\"down\">not up only</option>");
    html.raw("</select></label><label class=\"js\">Refresh <select id=\"refresh\">");
    for (seconds, name) in
        [("0", "off"), ("1", "1 s"), ("2", "2 s"), ("5", "5 s"), ("10", "10 s"), ("30", "30 s")]
    {
        html.raw("<option value=\"").text(seconds).raw("\">").text(name).raw("</option>");
    }
    html.raw("</select></label><label class=\"js\">Theme <select id=\"theme\">");
    html.raw("<option value=\"\">system</option><option value=\"light\">light</option>");
    html.raw("<option value=\"dark\">dark</option></select></label>");
    html.raw("<noscript><button>Filter</button></noscript></form><nav aria-label=\"Forms\">");
    for (tail, name) in [("", "Refresh now"), (";up", "Hide down"), (";csv", "CSV")] {
        html.raw("<a href=\"").text(view.stats_path).text(tail).raw("\">").text(name).raw("</a>");
    }
    html.raw("<a href=\"/api/v1/status\">JSON</a><a href=\"/metrics\">Metrics</a>");
    html.raw("<a href=\"/api/v1/openapi.json\">API</a></nav></header>");
    html.raw("<p id=\"news\" class=\"sr\" role=\"status\" aria-live=\"polite\"></p>");
    html.raw("<p id=\"lost\" role=\"alert\" hidden></p>");
}

fn result(html: &mut Html, view: &View<'_>) {
    let Some((done, text)) = view.result else { return };
    html.raw("<p id=\"result\" role=\"status\" class=\"result ");
    html.text(if done { "done" } else { "refused" }).raw("\">").text(text).raw("</p>");
}

fn tiles(html: &mut Html, view: &View<'_>) {
    let status = view.status;
    let servers = || status.virtual_services.iter().flat_map(|service| &service.real_servers);
    let total = servers().count();
    let down = servers().filter(|s| matches!(state(s), State::Down | State::GoingUp(..))).count();
    let out = servers().filter(|s| matches!(state(s), State::Drain | State::Maint)).count();
    let services = status.virtual_services.len();
    let services_up = status.virtual_services.iter().filter(|s| s.state == "up").count();
    let drops: u64 = view.stats.drops.values().sum();
    html.raw("<dl class=\"tiles\">");
    let mut tile = |bad: bool, name: &'static str, value: String, detail: String| {
        html.raw(if bad { "<div class=\"bad\"><dt>" } else { "<div><dt>" }).text(name);
        html.raw("</dt><dd><b>")
            .text(value)
            .raw("</b> <span>")
            .text(detail)
            .raw("</span></dd></div>");
    };
    tile(services_up < services, "Services up", services_up.to_string(), format!("of {services}"));
    let others = match (down, out) {
        (0, 0) => format!("of {total}"),
        (down, 0) => format!("of {total}, {down} down"),
        (0, out) => format!("of {total}, {out} out"),
        (down, out) => format!("of {total}, {down} down, {out} out"),
    };
    tile(down > 0, "Servers up", (total - down - out).to_string(), others);
    let active: u64 = servers().map(|server| server.active_connections).sum();
    let connections: u64 = status.virtual_services.iter().map(|s| s.connections).sum();
    tile(false, "Active connections", whole(active), format!("{} in all", whole(connections)));
    if let Some(rate) = rate(view) {
        tile(
            false,
            "Now",
            scaled(rate.0, "/s"),
            format!("connections, {} in", scaled(rate.1, "b/s")),
        );
    }
    tile(false, "Dropped packets", whole(drops), String::new());
    let plane = &status.dataplane;
    if !plane.mode.is_empty() {
        let bad = plane.mode != "native";
        tile(bad, "XDP", plane.mode.clone(), format!("on {}", plane.interfaces.join(", ")));
        let (used, capacity) = (plane.connections.used, plane.connections.capacity);
        html.raw("<div><dt>Connection table</dt><dd><b>").text(whole(used)).raw("</b> <span>of ");
        html.text(whole(capacity)).raw("</span><meter min=\"0\" low=\"");
        html.text(capacity / 2)
            .raw("\" high=\"")
            .text(capacity / 10 * 8)
            .raw("\" optimum=\"0\" max=\"");
        html.text(capacity.max(1)).raw("\" value=\"").text(used).raw("\">");
        html.text(used * 100 / capacity.max(1)).raw(" %</meter></dd></div>");
    }
    html.raw("</dl>");
}

/// Connections and bits per second of all services by now.
fn rate(view: &View<'_>) -> Option<(f64, f64)> {
    let history = view.history.as_ref().filter(|history| !history.services.is_empty())?;
    let last = |values: &[f32]| f64::from(values.last().copied().unwrap_or(0.0));
    Some(history.services.iter().fold((0.0, 0.0), |(connections, bits), series| {
        (connections + last(&series.connections), bits + 8.0 * last(&series.bytes_in))
    }))
}

fn footer(html: &mut Html, view: &View<'_>) {
    html.raw("<footer><ul class=\"legend\" aria-label=\"Colours\">");
    for (class, name) in [
        ("up", "UP"),
        ("going-down", "UP, going down"),
        ("going-up", "DOWN, going up"),
        ("down", "DOWN"),
        ("no-check", "not checked"),
        ("drain", "DRAIN"),
        ("maint", "MAINT"),
    ] {
        html.raw("<li class=\"state ").text(class).raw("\">").text(name).raw("</li>");
    }
    html.raw("</ul><p>as of <time>").text(humantime::format_rfc3339_seconds(view.now));
    html.raw("</time></p></footer>");
}

/// What the page's browser may do with it: its own style and script, known by their hashes, and
/// requests to where it came from.
pub(super) static POLICY: LazyLock<String> = LazyLock::new(|| {
    let hash =
        |text: &str| BASE64_STANDARD.encode(digest::digest(&digest::SHA256, text.as_bytes()));
    format!(
        "default-src 'none'; style-src 'sha256-{}'; script-src 'sha256-{}'; img-src data:; \
         connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
        hash(STYLE),
        hash(SCRIPT)
    )
});

const STYLE: &str = include_str!("style.css");
const SCRIPT: &str = include_str!("page.js");

#[cfg(test)]
mod tests;
