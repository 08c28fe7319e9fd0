//! Compares `tests/vectors/config`: `bad/*.yaml` with the whole output in the `.err` beside it,
//! `good/*.yaml` with no errors and the warnings in a `.warn`, if there is one.
//!
//! `UPDATE_EXPECT=1` writes what came out. Lines name the file as `bad/NAME.yaml`.
//!
//! Must not know: which message comes from which function.

use super::super::{ConfigError, load};
use super::repository;
use super::vrrp::{notifications_of_everything, vrrp_of_everything};
use crate::model::*;
use hickory_proto::rr::{Name, RecordType};
use http::{HeaderValue, Method};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Files of `folder` that end in `.yaml`, in order.
fn files(folder: &str) -> Vec<PathBuf> {
    let folder = repository("tests/vectors/config").join(folder);
    let entries = fs::read_dir(&folder).expect("the vectors are in the repository");
    let mut files: Vec<_> = entries.map(|entry| entry.unwrap().path()).collect();
    files.retain(|file| file.extension().is_some_and(|e| e == "yaml"));
    files.sort();
    files
}

fn short_name(file: &Path) -> String {
    let folder = file.parent().and_then(Path::file_name).unwrap().to_string_lossy();
    format!("{folder}/{}", file.file_name().unwrap().to_string_lossy())
}

fn lines(errors: &[ConfigError]) -> String {
    errors.iter().map(|e| format!("{e}\n")).collect()
}

/// `None` if equal, else the first line that differs.
fn difference(expected: &str, got: &str) -> Option<String> {
    if expected == got {
        return None;
    }
    let (mut a, mut b) = (expected.lines(), got.lines());
    loop {
        match (a.next(), b.next()) {
            (Some(a), Some(b)) if a == b => {}
            (None, None) => return Some("line ends differ".into()),
            (a, b) => {
                let (a, b) = (a.unwrap_or("(nothing)"), b.unwrap_or("(nothing)"));
                return Some(format!("expected {a}\n     got {b}"));
            }
        }
    }
}

fn compare(beside: &Path, got: &str, failures: &mut Vec<String>) {
    if std::env::var_os("UPDATE_EXPECT").is_some_and(|v| v == "1") {
        if got.is_empty() {
            let _ = fs::remove_file(beside);
        } else {
            fs::write(beside, got).expect("the repository is writable");
        }
        return;
    }
    let expected = fs::read_to_string(beside).unwrap_or_default();
    if let Some(difference) = difference(&expected, got) {
        failures.push(format!("{}:\n{difference}", beside.display()));
    }
}

fn list(prefixes: &[&str]) -> Prefixes {
    Prefixes::new(prefixes.iter().map(|text| text.parse().unwrap()).collect())
}

#[test]
fn bad_files_give_every_error_where_it_is() {
    let mut failures = Vec::new();
    let files = files("bad");
    assert!(files.len() >= 30, "{} files", files.len());
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        match load(&short_name(&file), &text, "host") {
            Ok(_) => failures.push(format!("{} is accepted", file.display())),
            Err(errors) => {
                assert!(!errors.is_empty(), "{}", file.display());
                compare(&file.with_extension("err"), &lines(&errors), &mut failures);
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn good_files_are_accepted_with_their_warnings() {
    let mut failures = Vec::new();
    for file in files("good") {
        let text = fs::read_to_string(&file).unwrap();
        match load(&short_name(&file), &text, "host") {
            Ok(loaded) => {
                compare(&file.with_extension("warn"), &lines(&loaded.warnings), &mut failures);
            }
            Err(errors) => failures.push(lines(&errors)),
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn examples_of_the_documentation_are_accepted_without_warnings() {
    let pages = ["configuration", "high-availability", "admin-api", "health-checks", "logging"]
        .map(|page| fs::read_to_string(repository(&format!("docs/{page}.md"))).unwrap());
    for page in &pages {
        assert!(page.contains("```yaml\n"));
    }
    for example in pages.iter().flat_map(|page| page.split("```yaml\n").skip(1)) {
        let example = example.split("```").next().unwrap();
        let loaded = load("example", example, "host").map_err(|e| lines(&e)).unwrap();
        assert_eq!(loaded.warnings, []);
    }
}

#[test]
fn a_wrong_column_is_a_difference() {
    let right = "f:1:2: p: m\nf:3:4: q: n\n";
    assert_eq!(difference(right, right), None);
    assert!(difference(right, "f:1:2: p: m\nf:3:5: q: n\n").is_some_and(|d| d.contains("f:3:5")));
    assert!(difference(right, "f:1:2: p: m\n").is_some_and(|d| d.contains("(nothing)")));
    // The same through a real file: one space more before the value.
    let file = |text| lines(&load("f", text, "host").unwrap_err());
    assert!(difference(&file("log: {level: loud}\n"), &file("log: {level:  loud}\n")).is_some());
}

/// The log of `everything.yaml`.
fn log_of_everything() -> Log {
    let target = |sink, max_level| LogTarget { sink, max_level };
    let syslog = |address, facility: &str, min_level| LogSink::Syslog {
        address,
        facility: Facility::named(facility).unwrap(),
        min_level,
    };
    let udp = |text: &str| SyslogAddress::Udp(text.parse().unwrap());
    let here = SyslogAddress::Unix("/dev/log".into());
    let targets = vec![
        target(LogSink::Stderr, Severity::Debug),
        target(syslog(udp("192.0.2.5:1514"), "local0", Severity::Crit), Severity::Notice),
        target(syslog(udp("[2001:db8::5]:514"), "daemon", Severity::Emerg), Severity::Debug),
        target(syslog(here, "daemon", Severity::Emerg), Severity::Debug),
        target(LogSink::File("/var/log/lb/lb.log".into()), Severity::Warning),
    ];
    Log { level: LogLevel::Debug, format: LogFormat::Json, targets }
}

/// The real servers of `everything.yaml`, whose checks have every key.
fn real_servers_of_everything() -> Vec<RealServer> {
    let seconds = Duration::from_secs;
    let deep = HealthCheck {
        kind: CheckKind::Tcp,
        interval: seconds(5),
        retry_interval: Duration::from_millis(500),
        timeout: seconds(3),
        rise: 4,
        fall: 5,
        port: Some(8081),
        starts_up: true,
        flap: Some(Flap { changes: 4, per: seconds(50), hold: seconds(30) }),
        via: Via::Direct,
    };
    let plain = HealthCheck {
        kind: CheckKind::Ping,
        interval: seconds(2),
        retry_interval: seconds(2),
        timeout: seconds(2),
        rise: 2,
        fall: 3,
        port: None,
        starts_up: false,
        flap: None,
        via: Via::Direct,
    };
    let header = |text| HeaderValue::from_static(text);
    let site = HttpCheck {
        method: Method::HEAD,
        path: "/health?deep=1".parse().unwrap(),
        host: Some(header("www.example.com:8443")),
        headers: vec![("x-probe".parse().unwrap(), header("lb"))],
        status: vec![200..=200, 301..=302],
        body: None,
        digest: None,
        tls: Some(TlsCheck { name: Some("example.com".try_into().unwrap()), verify: false }),
    };
    let page = HttpCheck {
        method: Method::GET,
        path: "/".parse().unwrap(),
        host: None,
        headers: Vec::new(),
        status: vec![200..=200],
        body: Some(Pattern::new("ok.*").unwrap()),
        digest: Some(Digest::Md5([0x11; 16])),
        tls: None,
    };
    let http = |check| HealthCheck { kind: CheckKind::Http(Arc::new(check)), ..plain.clone() };
    let [udp, dns, smtp, grpc, exec] = kinds_of_everything();
    let of = |kind| HealthCheck { kind, ..plain.clone() };
    let server = |address: &str, check| RealServer {
        address: address.parse().unwrap(),
        port: 80,
        weight: 3,
        admin: AdminState::Ready,
        health_checks: vec![check],
    };
    vec![
        RealServer {
            address: "192.168.20.203".parse().unwrap(),
            port: 8080,
            weight: 3,
            admin: AdminState::Disabled,
            health_checks: Vec::new(),
        },
        RealServer {
            address: "192.168.20.233".parse().unwrap(),
            port: 80,
            weight: 2,
            admin: AdminState::Ready,
            health_checks: vec![deep, plain.clone()],
        },
        server("192.168.20.234", http(site)),
        server("192.168.20.235", http(page)),
        server("192.168.20.236", plain.clone()),
        server("192.168.20.237", of(udp)),
        server("192.168.20.238", of(dns)),
        server("192.168.20.239", of(smtp)),
        server("192.168.20.240", of(grpc)),
        server("192.168.20.241", of(exec)),
    ]
}

/// The kinds of the last checks of `everything.yaml`.
fn kinds_of_everything() -> [CheckKind; 5] {
    let udp =
        UdpCheck { payload: b"ping".to_vec(), reply: Some(HexPattern::new("706f6e?7").unwrap()) };
    let dns = DnsCheck { name: "www.example.com.".parse().unwrap(), record: RecordType::AAAA };
    let exec = ExecCheck {
        command: ["/usr/libexec/lb/check-db", "{address}", "{port}"].map(str::to_owned).to_vec(),
        user: "lb".into(),
        dynamic_weight: false,
    };
    [
        CheckKind::Udp(Arc::new(udp)),
        CheckKind::Dns(Arc::new(dns)),
        CheckKind::Smtp(Arc::new(SmtpCheck { helo: Some("lb01.example.com".into()) })),
        CheckKind::Grpc(Arc::new(GrpcCheck { service: "orders.Orders".into() })),
        CheckKind::Exec(Arc::new(exec)),
    ]
}

#[test]
fn every_built_key_reaches_the_director() {
    let text = fs::read_to_string(repository("tests/vectors/config/good/everything.yaml")).unwrap();
    let loaded = load("everything.yaml", &text, "host").map_err(|e| lines(&e)).unwrap();
    let seconds = Duration::from_secs;
    let web = VirtualService {
        name: "web".into(),
        listen: vec![
            Listen { address: "192.168.20.50".parse().unwrap(), port: 80, protocol: Protocol::Tcp },
            Listen { address: "192.168.20.51".parse().unwrap(), port: 80, protocol: Protocol::Udp },
        ],
        scheduler: Scheduler::Mh,
        hash: Hash { port: true, fallback: true },
        forwarding: ForwardingMethod::Nat,
        tunnel: Tunnel { mss_clamp: false, ..Tunnel::default() },
        on_failure: OnFailure::Quiesce,
        reset_on_removal: true,
        added_server: AddedServer {
            weight: 3,
            health_checks: vec![real_servers_of_everything()[1].health_checks[0].clone()],
        },
        real_servers: real_servers_of_everything(),
        quorum: Quorum {
            up: 4,
            hysteresis: 1,
            on_up: words(&["/bin/quorum", "up"]),
            on_down: words(&["/bin/quorum", "down"]),
        },
        notify: ServiceNotify {
            up: words(&["/bin/up"]),
            down: words(&["/bin/down", "now"]),
            email: true,
        },
        sorry_server: Some(SorryServer { address: "192.168.20.9".parse().unwrap(), port: 8080 }),
        slow_start: seconds(30),
    };
    let dns = tunnels(&web);
    let expected = Director {
        node: "lb01".into(),
        dataplane: Some(Dataplane {
            interfaces: vec!["eth0".into(), "eth1".into()],
            mode: AttachMode::Generic,
            pin_path: "/sys/fs/bpf/other".into(),
            connections: 5000,
            timeouts: Timeouts {
                tcp: seconds(600),
                tcp_syn: seconds(30),
                tcp_fin: seconds(60),
                udp: seconds(120),
            },
            new_connections_per_second: 7000,
            deny: list(&["198.51.100.0/24", "2001:db8:bad::/48"]),
            allow: list(&["10.0.0.0/8", "192.0.2.7/32"]),
            replies: Replies::Route,
            addresses: vec![OwnedAddress {
                address: "192.168.20.50".parse().unwrap(),
                prefix_len: 24,
                interface: "eth1".into(),
            }],
        }),
        virtual_services: vec![web, dns],
        vrrp: vrrp_of_everything(),
        notifications: notifications_of_everything(),
        admin: admin_of_everything(),
        log: log_of_everything(),
    };
    assert_eq!(loaded.director, expected);
}

/// The service of `everything.yaml` that is forwarded by tunnels; what it inherits is as in `web`.
fn tunnels(web: &VirtualService) -> VirtualService {
    let listen =
        |ip: &str| Listen { address: ip.parse().unwrap(), port: 53, protocol: Protocol::Udp };
    let server = |ip: &str| RealServer {
        address: ip.parse().unwrap(),
        port: 53,
        weight: 3,
        admin: AdminState::Ready,
        health_checks: Vec::new(),
    };
    VirtualService {
        name: "dns".into(),
        listen: ["192.0.2.53", "2001:db8::53"].map(listen).to_vec(),
        scheduler: Scheduler::Rr,
        hash: Hash::default(),
        forwarding: ForwardingMethod::Tunnel,
        real_servers: ["10.1.0.5", "2001:db8:1::6"].map(server).to_vec(),
        tunnel: web.tunnel,
        on_failure: web.on_failure,
        reset_on_removal: false,
        added_server: AddedServer { weight: 3, health_checks: Vec::new() },
        quorum: Quorum::default(),
        notify: ServiceNotify::default(),
        sorry_server: None,
        slow_start: Duration::ZERO,
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().copied().map(str::to_owned).collect()
}

#[test]
fn what_is_not_said_has_the_defaults_of_the_reference() {
    let text = "dataplane: {interfaces: [eth0], addresses: [192.0.2.1]}\nhealth_checks: {c: {type: tcp}}\n\
        virtual_services: [{name: a, listen: 192.0.2.1:80/tcp, forwarding: dr, health_check: c,\n\
        real_servers: [{address: 192.0.2.9}]}]\n";
    let director = load("f", text, "host").map_err(|e| lines(&e)).unwrap().director;
    assert_eq!(director.node, "host");
    assert_eq!((director.admin, director.log), (Admin::default(), Log::default()));
    let dataplane = director.dataplane.unwrap();
    assert_eq!(dataplane.mode, AttachMode::Auto);
    assert_eq!(dataplane.pin_path, Path::new("/sys/fs/bpf/lb"));
    assert_eq!((dataplane.connections, dataplane.new_connections_per_second), (1_000_000, 0));
    assert_eq!(dataplane.timeouts, Timeouts::default());
    assert_eq!(dataplane.replies, Replies::LastHop);
    assert_eq!(
        (dataplane.addresses[0].prefix_len, dataplane.addresses[0].interface.as_str()),
        (32, "eth0")
    );
    let service = &director.virtual_services[0];
    assert_eq!(service.on_failure, OnFailure::Remove);
    assert_eq!((service.scheduler, service.hash), (Scheduler::Wlc, Hash::default()));
    let server = &service.real_servers[0];
    assert_eq!((server.port, server.weight, server.admin), (80, 1, AdminState::Ready));
    let two = Duration::from_secs(2);
    let check = &server.health_checks[0];
    assert_eq!((check.interval, check.retry_interval, check.timeout), (two, two, two));
    assert_eq!((check.rise, check.fall, check.port, check.starts_up), (2, 3, None, false));
    assert_eq!(check.flap, None);
}

#[test]
fn an_http_check_has_the_defaults_of_haproxy_and_of_the_reference() {
    let check = |written: &str| {
        let text = format!(
            "dataplane: {{interfaces: [eth0]}}\n\
             virtual_services: [{{name: a, listen: 192.0.2.1:80/tcp, scheduler: rr, forwarding: dr,\n\
             health_check: {{{written}}}, real_servers: [{{address: 192.0.2.9}}]}}]\n"
        );
        let director = load("f", &text, "host").map_err(|e| lines(&e)).unwrap().director;
        director.virtual_services[0].real_servers[0].health_checks[0].clone()
    };
    let http = |written: &str| match check(written).kind {
        CheckKind::Http(http) => http,
        other => panic!("{other:?}"),
    };
    let plain = http("type: http");
    assert_eq!((&plain.method, plain.path.path()), (&Method::GET, "/"));
    assert!(!plain.accepts(199) && plain.accepts(200) && plain.accepts(399) && !plain.accepts(400));
    assert_eq!((&plain.host, &plain.tls, plain.headers.len()), (&None, &None, 0));
    assert_eq!(http("type: https").tls, Some(TlsCheck { name: None, verify: true }));
    let name = http("type: https, host: 'www.example.com:8443'").tls.clone().unwrap().name;
    assert_eq!(name, Some("www.example.com".try_into().unwrap()));
    let flap = check("type: tcp, flap: {changes: 2}").flap.unwrap();
    assert_eq!((flap.changes, flap.per, flap.hold), (2, Duration::from_secs(60), flap.per));
    assert_eq!(check("type: tcp, flap: {}").flap, None);
}

#[test]
fn checks_of_other_types_have_the_defaults_of_keepalived() {
    let check = |written: &str| {
        let text = format!(
            "dataplane: {{interfaces: [eth0]}}\n\
             virtual_services: [{{name: a, listen: 192.0.2.1:80/tcp, scheduler: rr, forwarding: dr,\n\
             health_check: {{{written}}}, real_servers: [{{address: 192.0.2.9}}]}}]\n"
        );
        let director = load("f", &text, "host").map_err(|e| lines(&e)).unwrap().director;
        director.virtual_services[0].real_servers[0].health_checks[0].clone().kind
    };
    let udp = UdpCheck { payload: vec![0], reply: None };
    assert_eq!(check("type: udp"), CheckKind::Udp(Arc::new(udp)));
    let root = DnsCheck { name: Name::root(), record: RecordType::SOA };
    assert_eq!(check("type: dns"), CheckKind::Dns(Arc::new(root)));
    let name = |written: &str| match check(&format!("type: dns, dns: {{name: {written}}}")) {
        CheckKind::Dns(dns) => dns.name.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!((name("a.test"), name("a.test.")), ("a.test.".into(), "a.test.".into()));
    assert_eq!(check("type: smtp"), CheckKind::Smtp(Arc::new(SmtpCheck { helo: None })));
    let whole = GrpcCheck { service: String::new() };
    assert_eq!(check("type: grpc, grpc: {}"), CheckKind::Grpc(Arc::new(whole)));
    let exec = ExecCheck {
        command: vec!["/bin/true".into()],
        user: "nobody".into(),
        dynamic_weight: true,
    };
    assert_eq!(check("type: exec, command: [/bin/true]"), CheckKind::Exec(Arc::new(exec)));
}

#[test]
fn a_file_without_anything_needs_no_data_plane() {
    for text in [
        "",
        "# only a comment\n",
        "{}",
        "dataplane:\nvirtual_services:\nlog:\n",
        "\u{feff}node: a\n",
    ] {
        let loaded = load("f", text, "host").map_err(|e| lines(&e)).unwrap();
        assert_eq!(loaded.director.dataplane, None, "{text}");
        assert!(loaded.director.virtual_services.is_empty());
    }
}

#[test]
fn the_nearest_written_health_check_wins() {
    let text = |server: &str, service: &str, server_default: &str, service_default: &str| {
        format!(
            "dataplane: {{interfaces: [eth0]}}\n\
             health_checks: {{a: {{type: tcp, rise: 1}}, b: {{type: tcp, rise: 5}}}}\n\
             defaults: {{real_server: {{{server_default}}}, virtual_service: {{{service_default}}}}}\n\
             virtual_services: [{{name: s, listen: '192.0.2.1:80/tcp', scheduler: rr, forwarding: dr, {service}\n\
             real_servers: [{{address: 192.0.2.9, {server}}}]}}]\n"
        )
    };
    let check = |text: &str, expected: Option<u32>| {
        let director = load("f", text, "host").map_err(|e| lines(&e)).unwrap().director;
        let check = director.virtual_services[0].real_servers[0].health_checks.first().cloned();
        assert_eq!(check.map(|c| c.rise), expected, "{text}");
    };
    check(&text("", "", "", ""), None);
    check(&text("health_check: a", "health_check: b,", "", ""), Some(1));
    check(&text("health_check: off", "health_check: b,", "", ""), None);
    check(&text("", "health_check: b,", "health_check: a", ""), Some(5));
    check(&text("", "", "health_check: a", "health_check: b"), Some(1));
    check(&text("", "health_check: no,", "", "health_check: b"), None);
    check(&text("", "", "", "health_check: b"), Some(5));
}

#[test]
fn very_many_errors_are_cut_and_counted() {
    let text = format!("virtual_services: [{}]\n", "1,".repeat(1500));
    let errors = load("f", &text, "host").unwrap_err();
    assert_eq!(errors.len(), super::super::MAX_ERRORS + 1);
    let last = errors.last().unwrap().to_string();
    assert!(last.ends_with("and 500 more errors that are not shown"), "{last}");
}

#[test]
fn a_check_by_way_of_its_service_knows_the_virtual_address_of_its_servers_family() {
    let file = repository("tests/vectors/config/good/via-service.yaml");
    let loaded = load("f", &fs::read_to_string(file).unwrap(), "host").unwrap();
    let ways: Vec<Option<Way>> = (loaded.director.virtual_services.iter())
        .flat_map(|service| &service.real_servers)
        .map(|server| server.health_checks.first().and_then(|check| check.via.way()))
        .collect();
    let way = |vip: &str, server: &str, tunnel| {
        Some(Way { vip: vip.parse().unwrap(), server: server.parse().unwrap(), tunnel })
    };
    let expected = [
        way("192.0.2.1", "10.0.0.1", false),
        way("192.0.2.1", "10.0.0.1", true),
        way("2001:db8::f", "2001:db8::1", true),
        None,
    ];
    assert_eq!(ways, expected);
}

fn admin_of_everything() -> Admin {
    let result = "c29tZXNhbHRzb21lc2FsdA$e8GUAgB9SC9Rf0x0ACLXnYJ1jWb1CjdNgQUBPXhDRFo";
    let user = |name: &str, cost: &str, role| User {
        name: name.into(),
        password_hash: format!("$argon2id$v=19${cost}${result}"),
        role,
    };
    let certificate = Certificate {
        name: "www".into(),
        cert: "/etc/lb/www.pem".into(),
        key: "/etc/lb/www.key".into(),
    };
    Admin {
        socket: "/run/lb/other.sock".into(),
        http: Some(AdminHttp {
            bind: "[::]:1080".parse().unwrap(),
            stats_path: "/haproxy/stats".into(),
            refresh: Duration::from_secs(10),
            realm: "LB Stats".into(),
            hide_version: false,
            users: vec![
                user("admin", "m=65536,t=3,p=4", Role::Admin),
                user("guest", "m=19456,t=2,p=1", Role::ReadOnly),
            ],
            tls: Some(ServerTls {
                certificates: vec![certificate],
                min_version: TlsVersion::Tls13,
            }),
        }),
    }
}
