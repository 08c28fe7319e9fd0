//! The page for one director with everything on it.
//!
//! Must not know: how it looks in a browser.

use super::*;
use crate::controller::document::{
    Capacity, Check, Dataplane, Event, Quorum, RealServer, SorryServer, VirtualService,
    VrrpInstance, VrrpTransition,
};

/// One that is up and comes back slowly, one that is down, one that is drained.
fn web() -> VirtualService {
    let check = Check {
        status: "L7OK".into(),
        code: Some(200),
        duration_ms: 1,
        count: 3,
        of: 3,
        probes: 9,
        last_change: Some(940),
        ..Check::default()
    };
    let server = |address: &str, state: &str, check: &Check| RealServer {
        address: address.into(),
        port: 80,
        weight: 2,
        effective_weight: u32::from(state == "up") * 2,
        state: state.into(),
        bytes_in: 1_500_000,
        check: Some(check.clone()),
        ..RealServer::default()
    };
    let failed = Check {
        status: "L4CON".into(),
        code: None,
        count: 0,
        detail: "<b>refused</b>".into(),
        ..check.clone()
    };
    let slow = RealServer {
        slow_start_percent: Some(40),
        checks: vec![failed.clone(), check.clone()],
        ..server("10.0.0.1", "up", &check)
    };
    VirtualService {
        name: "web&co".into(),
        listen: vec!["192.0.2.1:80/tcp".into()],
        scheduler: "wlc".into(),
        forwarding: "nat".into(),
        state: "up".into(),
        connections: 12_345,
        live_weight: 2,
        quorum: Quorum { up: 3, hysteresis: 1 },
        sorry_server: Some(SorryServer {
            address: "10.0.0.9".into(),
            port: 8080,
            in_use: true,
            connections: 4,
            ..SorryServer::default()
        }),
        real_servers: vec![
            slow,
            server("10.0.0.2", "down", &failed),
            server("2001:db8::3", "drain", &check),
        ],
        ..VirtualService::default()
    }
}

fn status() -> Status {
    let instance = VrrpInstance {
        name: "VI_1".into(),
        state: "master".into(),
        priority: 100,
        effective_priority: 90,
        transitions: vec![VrrpTransition {
            from: "backup".into(),
            to: "master".into(),
            ..VrrpTransition::default()
        }],
        ..VrrpInstance::default()
    };
    Status {
        node: "lb01".into(),
        version: "9.9.9".into(),
        dataplane: Dataplane {
            mode: "native".into(),
            interfaces: vec!["eth0".into()],
            connections: Capacity { used: 10, capacity: 1000 },
            warnings: vec!["XDP is <slow>".into()],
        },
        virtual_services: vec![web()],
        vrrp: vec![instance],
        ..Status::default()
    }
}

fn page(change: impl FnOnce(&mut View<'_>)) -> String {
    let (status, mut stats) = (status(), Stats::default());
    stats.drops = [("no_server".to_owned(), 7), ("denied".to_owned(), 0)].into();
    let series = Series {
        name: "web&co".into(),
        connections: vec![0.0, 4.0, 2.0],
        bytes_in: vec![0.0, 125_000.0],
        ..Series::default()
    };
    let event = Event {
        kind: "real_server".into(),
        name: "web&co/10.0.0.2:80".into(),
        state: "down".into(),
        ..Event::default()
    };
    let mut view = View {
        status: &status,
        stats: &stats,
        history: Some(History { interval_s: 5, services: vec![series] }),
        events: Some(Events { events: vec![event] }),
        user: "ada",
        role: "admin",
        token: Some("the-token-of-this-page"),
        result: None,
        stats_path: "/stats",
        refresh: Duration::from_secs(30),
        hide_version: false,
        uptime: Duration::from_secs(3700),
        now: SystemTime::UNIX_EPOCH + Duration::from_secs(1000),
        options: Options::default(),
    };
    change(&mut view);
    render(&view)
}

#[track_caller]
fn has(page: &str, parts: &[&str]) {
    for part in parts {
        assert!(page.contains(part), "{part:?} is not in {page}");
    }
}

/// Tags that are opened are closed, in order: the browser's view is then what was meant.
fn unbalanced(page: &str) -> Option<String> {
    const VOID: &[&str] = &["meta", "link", "input", "path", "!DOCTYPE"];
    let mut open: Vec<&str> = Vec::new();
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        let end = rest.find('>')?;
        let (tag, after) = (&rest[..end], &rest[end + 1..]);
        let name = tag.split([' ', '/']).find(|part| !part.is_empty()).unwrap_or("");
        if let Some(closed) = tag.strip_prefix('/') {
            match open.pop() {
                Some(opened) if opened == closed => {}
                opened => return Some(format!("</{closed}> closes {opened:?}")),
            }
        } else if !VOID.contains(&name) {
            open.push(name);
        }
        rest = after;
        if !tag.starts_with('/') && (name == "script" || name == "style") {
            rest = &rest[rest.find(&format!("</{name}>"))?..];
        }
    }
    (!open.is_empty()).then(|| format!("{open:?} stay open"))
}

#[test]
fn everything_has_its_place() {
    let page = page(|_| {});
    assert_eq!(unbalanced(&page), None);
    has(
        &page,
        &[
            "<h1>lb01</h1>",
            "lb 9.9.9",
            "up <b id=\"uptime\">1h 1m</b>",
            "ada (admin)",
            "web&amp;co",
            "192.0.2.1:80/tcp",
            "wlc \u{b7} nat",
            "L7OK/200 in 1ms",
            "for 1m 0s",
            "<b class=\"state down\">DOWN</b>",
            "<b class=\"state drain\">DRAIN</b>",
            "[2001:db8::3]:80",
            "VI_1",
            "backup \u{2192} master",
            "90<span class=\"dim\">/100</span>",
            "no server",
            "real server web&amp;co/10.0.0.2:80",
            "12\u{202f}345",
            "1.50\u{202f}MB",
            "peak 4/s",
            "1.00\u{202f}Mb/s",
            "name=\"csrf_token\" value=\"the-token-of-this-page\"",
            "value=\"drain\"",
            "content=\"30;url=/stats\"",
            "1970-01-01T00:16:40Z",
            "10.0.0.9:8080",
            "sorry server, in use",
            "live weight 2 of 3",
            "slow start, 40 %",
        ],
    );
    assert!(!page.contains("denied"), "a reason without drops is not listed");
}

#[test]
fn whoever_may_only_look_has_no_buttons_and_no_token() {
    let page = page(|view| {
        view.token = None;
        view.role = "read-only";
    });
    assert_eq!(unbalanced(&page), None);
    let body = page.split("<script>").next().expect("a body");
    assert!(!body.contains("method=\"post\"") && !body.contains("csrf_token"), "{body}");
    assert!(!body.contains("data-changes"), "{body}");
}

#[test]
fn nothing_that_others_say_is_markup() {
    let page = page(|view| view.result = Some((false, "drain <i>x</i>: refused")));
    has(
        &page,
        &["XDP is &lt;slow&gt;", "&lt;b&gt;refused&lt;/b&gt;", "drain &lt;i&gt;x&lt;/i&gt;"],
    );
    assert!(!page.contains("<i>") && !page.contains("<b>refused"));
}

#[test]
fn a_request_may_leave_things_out() {
    let hidden = page(|view| view.options.up_only = true);
    assert!(!hidden.contains("data-server=\"10.0.0.2:80\"") && hidden.contains("10.0.0.1:80"));
    let other = page(|view| view.options.scope = "dns".into());
    assert!(!other.contains("class=\"service\"") && other.contains("value=\"dns\""));
    let found = page(|view| view.options.scope = "2001:db8".into());
    assert!(found.contains("class=\"service\""));
    let still = page(|view| view.options.norefresh = true);
    assert!(!still.contains("http-equiv") && still.contains("data-refresh=\"0\""));
    let anonymous = page(|view| view.hide_version = true);
    assert!(!anonymous.contains("9.9.9"));
}

/// The policy lets the page's own style and script through by their hashes alone, so nothing may
/// stand in attributes.
#[test]
fn the_policy_fits_the_page() {
    let page = page(|_| {});
    for (tag, text) in [("style", STYLE), ("script", SCRIPT)] {
        let hash = BASE64_STANDARD.encode(digest::digest(&digest::SHA256, text.as_bytes()));
        assert!(POLICY.contains(&format!("{tag}-src 'sha256-{hash}'")), "{}", *POLICY);
        assert!(page.contains(&format!("<{tag}>{text}</{tag}>")));
    }
    let markup = page.replace(STYLE, "").replace(SCRIPT, "");
    let handler = regex::Regex::new(r#"\s(on\w+|style)="#).expect("a pattern");
    assert!(!handler.is_match(&markup), "{markup}");
    assert!(handler.is_match("<p onclick=\"x\">") && handler.is_match("<p style=\"x\">"));
    assert!(!POLICY.contains("unsafe") && POLICY.contains("frame-ancestors 'none'"));
    assert!(!STYLE.contains("url(") && !STYLE.contains("@import"), "nothing from elsewhere");
    assert!(!page.contains("http://") && !page.contains("https://"), "nothing from elsewhere");
}

#[test]
fn a_tag_that_stays_open_is_found() {
    assert!(unbalanced("<p><b></p></b>").is_some());
    assert!(unbalanced("<p>").is_some());
    assert_eq!(unbalanced("<p><input x=\"1\"><b></b></p>"), None);
}
