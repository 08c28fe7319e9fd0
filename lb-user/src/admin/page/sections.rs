//! The dashboard's sections beside the services: warnings, VRRP, drops, events.
//!
//! Must not know: services, requests.

use super::View;
use super::html::Html;
use super::numbers::whole;

/// What is not as it should be.
pub(super) fn warnings(html: &mut Html, view: &View<'_>) {
    let warnings = &view.status.dataplane.warnings;
    if warnings.is_empty() && view.stats.drift == 0 {
        return;
    }
    html.raw("<section class=\"warnings\" aria-label=\"Warnings\"><ul>");
    for warning in warnings {
        html.raw("<li>").text(warning).raw("</li>");
    }
    if view.stats.drift > 0 {
        html.raw("<li>connection counts have drifted by ").text(view.stats.drift).raw("</li>");
    }
    html.raw("</ul></section>");
}

/// VRRP instances.
pub(super) fn vrrp(html: &mut Html, view: &View<'_>) {
    let instances = &view.status.vrrp;
    if instances.is_empty() {
        return;
    }
    html.raw("<section><header><div><h2>VRRP</h2></div></header><div class=\"scroll\"><table>");
    html.raw("<caption class=\"sr\">VRRP instances</caption><thead><tr>");
    for name in ["Instance", "Role", "Priority", "Master", "Addresses", "Last transition"] {
        html.raw("<th scope=\"col\">").text(name).raw("</th>");
    }
    html.raw("</tr></thead><tbody>");
    for instance in instances {
        let class = match instance.state.as_str() {
            "master" => "up",
            "backup" => "drain",
            "fault" => "down",
            _ => "no-check",
        };
        html.raw("<tr><th scope=\"row\">").text(&instance.name).raw(" <span class=\"dim\">");
        html.text(&instance.interface).raw(", VRID ").text(instance.virtual_router_id);
        html.raw("</span></th><td data-label=\"Role\"><b class=\"state ").text(class).raw("\">");
        html.text(instance.state.to_uppercase()).raw("</b></td><td data-label=\"Priority\">");
        html.text(instance.effective_priority);
        if instance.effective_priority != instance.priority {
            html.raw("<span class=\"dim\">/").text(instance.priority).raw("</span>");
        }
        for reason in &instance.reasons {
            html.raw(" <span class=\"dim\">").text(&reason.name).raw(" ").text(&reason.effect);
            html.raw("</span>");
        }
        html.raw("</td><td data-label=\"Master\"><code>").text(&instance.master);
        html.raw("</code></td><td data-label=\"Addresses\">");
        for address in &instance.addresses {
            html.raw("<code>").text(address).raw("</code> ");
        }
        html.raw("</td><td data-label=\"Last transition\">");
        if let Some(last) = instance.transitions.first() {
            html.text(&last.from).raw(" \u{2192} ").text(&last.to).raw(" <time class=\"dim\">");
            html.text(&last.at)
                .raw("</time><span class=\"detail\">")
                .text(&last.cause)
                .raw("</span>");
        }
        html.raw("</td></tr>");
    }
    html.raw("</tbody></table></div></section>");
}

/// Dropped packets by reason, the most frequent first.
pub(super) fn drops(html: &mut Html, view: &View<'_>) {
    html.raw("<section><header><div><h2>Dropped packets</h2></div></header>");
    let mut drops: Vec<(&str, u64)> =
        view.stats.drops.iter().map(|(reason, count)| (reason.as_str(), *count)).collect();
    drops.retain(|(_, count)| *count > 0);
    drops.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    if drops.is_empty() {
        html.raw("<p class=\"none\">None.</p></section>");
        return;
    }
    html.raw("<table class=\"narrow\"><caption class=\"sr\">Drops by reason</caption><thead><tr>");
    html.raw(
        "<th scope=\"col\">Reason</th><th scope=\"col\" class=\"n\">Packets</th></tr></thead>",
    );
    html.raw("<tbody>");
    for (reason, count) in drops {
        html.raw("<tr><th scope=\"row\">")
            .text(reason.replace('_', " "))
            .raw("</th><td class=\"n\">");
        html.text(whole(count)).raw("</td></tr>");
    }
    html.raw("</tbody></table></section>");
}

/// What happened lately, the newest first.
pub(super) fn events(html: &mut Html, view: &View<'_>) {
    let Some(events) = &view.events else { return };
    html.raw("<section><header><div><h2>Events</h2></div></header>");
    if events.events.is_empty() {
        html.raw("<p class=\"none\">None since the start.</p></section>");
        return;
    }
    html.raw("<table class=\"narrow\"><caption class=\"sr\">Events, newest first</caption><thead>");
    html.raw(
        "<tr><th scope=\"col\">Time</th><th scope=\"col\">What</th><th scope=\"col\">Now</th>",
    );
    html.raw("<th scope=\"col\">Why</th></tr></thead><tbody>");
    for event in events.events.iter().rev().take(EVENTS) {
        html.raw("<tr><td><time class=\"dim\" datetime=\"").text(&event.time).raw("\">");
        html.text(moment(&event.time)).raw("</time></td><th scope=\"row\">");
        html.text(event.kind.replace('_', " ")).raw(" ").text(&event.name).raw("</th><td>");
        html.raw("<b class=\"state ").text(colour(&event.state)).raw("\">").text(&event.state);
        html.raw("</b></td><td>").text(&event.reason).raw("</td></tr>");
    }
    html.raw("</tbody></table></section>");
}

/// `2026-11-21 19:12:01` of RFC 3339, whatever follows the seconds.
fn moment(time: &str) -> String {
    time.chars().take(19).map(|c| if c == 'T' { ' ' } else { c }).collect()
}

/// The class of a state's colour; states are those of servers, services and VRRP.
fn colour(state: &str) -> &'static str {
    match state.to_ascii_lowercase().as_str() {
        "up" | "master" | "done" => "up",
        "down" | "fault" | "refused" => "down",
        "drain" | "backup" => "drain",
        "maint" | "disabled" => "maint",
        _ => "no-check",
    }
}

/// Events that are shown.
const EVENTS: usize = 20;
