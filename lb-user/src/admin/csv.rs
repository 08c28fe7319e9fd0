//! HAProxy's statistics as CSV: the columns of version 2.6 in their order, which exporters rely on.
//!
//! A virtual service is what a `listen` section is there: FRONTEND, its servers, BACKEND. What XDP
//! does not know, such as queues and HTTP, is empty.
//!
//! Must not know: where the document comes from.

use std::collections::HashMap;
use std::fmt::Display;
use std::time::{SystemTime, UNIX_EPOCH};

use crate::admin::page::states::{State, state};
use crate::controller::document::{self, RealServer, Status, VirtualService};

/// The document.
pub(super) fn render(status: &Status, now: SystemTime) -> String {
    let now = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut text = format!("# {},\n", COLUMNS.join(","));
    for (at, service) in status.virtual_services.iter().enumerate() {
        let number = (at + 2).to_string();
        let mut rows = vec![frontend(service)];
        for (at, server) in service.real_servers.iter().enumerate() {
            rows.push(real_server(server, at + 1, now));
        }
        rows.push(backend(service));
        for mut row in rows {
            row.set("pxname", &service.name);
            row.set("pid", "1");
            row.set("iid", &number);
            row.set("mode", if is_udp(service) { "udp" } else { "tcp" });
            row.write(&mut text);
        }
    }
    text
}

fn frontend(service: &VirtualService) -> Row {
    let mut row = Row::default();
    row.set("svname", "FRONTEND");
    row.set("status", "OPEN");
    row.set("sid", "0");
    row.set("type", "0");
    totals(&mut row, service);
    row.set("conn_tot", service.connections);
    row
}

fn real_server(server: &RealServer, number: usize, now: u64) -> Row {
    let mut row = Row::default();
    let address = document::endpoint(&server.address, server.port);
    row.set("svname", &address);
    row.set("addr", &address);
    row.set("sid", number);
    row.set("type", "2");
    row.set("scur", server.active_connections);
    row.set("stot", server.connections);
    row.set("lbtot", server.connections);
    row.set("bin", server.bytes_in);
    row.set("bout", server.bytes_out);
    row.set("status", state(server).words());
    row.set("weight", server.effective_weight);
    row.set("uweight", server.weight);
    row.set("act", 1);
    row.set("bck", 0);
    if let Some(percent) = server.slow_start_percent {
        row.set("throttle", percent);
    }
    if let Some(check) = &server.check {
        row.set("check_status", &check.status);
        if let Some(code) = check.code {
            row.set("check_code", code);
        }
        row.set("check_duration", check.duration_ms);
        row.set("last_chk", &check.detail);
        if let Some(changed) = check.last_change {
            row.set("lastchg", now.saturating_sub(changed));
        }
    }
    row
}

fn backend(service: &VirtualService) -> Row {
    let mut row = Row::default();
    let live = |server: &&RealServer| server.effective_weight > 0;
    row.set("svname", "BACKEND");
    row.set("sid", "0");
    row.set("type", "1");
    totals(&mut row, service);
    row.set("lbtot", service.connections);
    row.set("status", if service.state == "up" { State::Up.words() } else { "DOWN".to_owned() });
    let weight: u64 = service.real_servers.iter().map(|s| u64::from(s.effective_weight)).sum();
    let configured: u64 = service.real_servers.iter().map(|s| u64::from(s.weight)).sum();
    row.set("weight", weight);
    row.set("uweight", configured);
    row.set("act", service.real_servers.iter().filter(live).count());
    row.set("bck", 0);
    row.set("algo", &service.scheduler);
    row
}

fn totals(row: &mut Row, service: &VirtualService) {
    let sum = |of: fn(&RealServer) -> u64| service.real_servers.iter().map(of).sum::<u64>();
    row.set("scur", sum(|server| server.active_connections));
    row.set("stot", service.connections);
    row.set("bin", sum(|server| server.bytes_in));
    row.set("bout", sum(|server| server.bytes_out));
}

fn is_udp(service: &VirtualService) -> bool {
    service.listen.iter().all(|listen| listen.ends_with("/udp"))
}

/// One line, by column.
#[derive(Default)]
struct Row(HashMap<&'static str, String>);

impl Row {
    fn set(&mut self, column: &'static str, value: impl Display) {
        debug_assert!(COLUMNS.contains(&column), "{column}");
        self.0.insert(column, format!("{value}"));
    }

    fn write(&self, text: &mut String) {
        for column in COLUMNS {
            let value = match *column {
                "-" => "-",
                column => self.0.get(column).map_or("", String::as_str),
            };
            text.push_str(&quoted(value));
            text.push(',');
        }
        text.push('\n');
    }
}

/// In quotes where it would not be one field; control characters end no line.
fn quoted(value: &str) -> String {
    let plain: String = value.chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
    if plain.contains([',', '"']) { format!("\"{}\"", plain.replace('"', "\"\"")) } else { plain }
}

/// Of HAProxy 2.6, in its order (management guide, 9.1).
const COLUMNS: &[&str] = &[
    "pxname",
    "svname",
    "qcur",
    "qmax",
    "scur",
    "smax",
    "slim",
    "stot",
    "bin",
    "bout",
    "dreq",
    "dresp",
    "ereq",
    "econ",
    "eresp",
    "wretr",
    "wredis",
    "status",
    "weight",
    "act",
    "bck",
    "chkfail",
    "chkdown",
    "lastchg",
    "downtime",
    "qlimit",
    "pid",
    "iid",
    "sid",
    "throttle",
    "lbtot",
    "tracked",
    "type",
    "rate",
    "rate_lim",
    "rate_max",
    "check_status",
    "check_code",
    "check_duration",
    "hrsp_1xx",
    "hrsp_2xx",
    "hrsp_3xx",
    "hrsp_4xx",
    "hrsp_5xx",
    "hrsp_other",
    "hanafail",
    "req_rate",
    "req_rate_max",
    "req_tot",
    "cli_abrt",
    "srv_abrt",
    "comp_in",
    "comp_out",
    "comp_byp",
    "comp_rsp",
    "lastsess",
    "last_chk",
    "last_agt",
    "qtime",
    "ctime",
    "rtime",
    "ttime",
    "agent_status",
    "agent_code",
    "agent_duration",
    "check_desc",
    "agent_desc",
    "check_rise",
    "check_fall",
    "check_health",
    "agent_rise",
    "agent_fall",
    "agent_health",
    "addr",
    "cookie",
    "mode",
    "algo",
    "conn_rate",
    "conn_rate_max",
    "conn_tot",
    "intercepted",
    "dcon",
    "dses",
    "wrew",
    "connect",
    "reuse",
    "cache_lookups",
    "cache_hits",
    "srv_icur",
    "src_ilim",
    "qtime_max",
    "ctime_max",
    "rtime_max",
    "ttime_max",
    "eint",
    "idle_conn_cur",
    "safe_conn_cur",
    "used_conn_cur",
    "need_conn_est",
    "uweight",
    "agg_server_status",
    "agg_server_check_status",
    "agg_check_status",
    "-",
    "ssl_sess",
    "ssl_reused_sess",
    "ssl_failed_handshake",
    "h2_headers_rcvd",
    "h2_data_rcvd",
    "h2_settings_rcvd",
    "h2_rst_stream_rcvd",
    "h2_goaway_rcvd",
    "h2_detected_conn_protocol_errors",
    "h2_detected_strm_protocol_errors",
    "h2_rst_stream_resp",
    "h2_goaway_resp",
    "h2_open_connections",
    "h2_backend_open_streams",
    "h2_total_connections",
    "h2_backend_total_streams",
    "h1_open_connections",
    "h1_open_streams",
    "h1_total_connections",
    "h1_total_streams",
    "h1_bytes_in",
    "h1_bytes_out",
    "h1_spliced_bytes_in",
    "h1_spliced_bytes_out",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::controller::document::Check;

    fn status() -> Status {
        let check = Check {
            status: "L7STS".into(),
            code: Some(503),
            duration_ms: 2,
            detail: "wrong, \"odd\"\nanswer".into(),
            last_change: Some(40),
            count: 0,
            of: 2,
            probes: 9,
        };
        let up = RealServer {
            address: "10.0.0.1".into(),
            port: 80,
            weight: 3,
            effective_weight: 3,
            state: "up".into(),
            active_connections: 4,
            connections: 40,
            bytes_in: 100,
            bytes_out: 1000,
            ..RealServer::default()
        };
        let down = RealServer {
            address: "2001:db8::2".into(),
            effective_weight: 0,
            state: "down".into(),
            check: Some(check),
            ..up.clone()
        };
        let web = VirtualService {
            name: "web".into(),
            listen: vec!["192.0.2.1:80/tcp".into()],
            scheduler: "wrr".into(),
            state: "up".into(),
            connections: 80,
            real_servers: vec![up, down],
            ..VirtualService::default()
        };
        Status { virtual_services: vec![web], ..Status::default() }
    }

    #[test]
    fn columns_and_rows_are_haproxys() {
        let text = render(&status(), UNIX_EPOCH + std::time::Duration::from_secs(100));
        let lines: Vec<&str> = text.lines().collect();
        assert!(
            lines[0].starts_with("# pxname,svname,qcur,qmax,scur,smax,slim,stot,bin,bout,dreq,")
        );
        assert!(lines[0].ends_with(",h1_spliced_bytes_in,h1_spliced_bytes_out,"));
        assert_eq!(lines[0].split(',').count(), 129, "as HAProxy 2.6 writes it");
        assert_eq!(lines.len(), 5);
        assert!(lines[1].starts_with("web,FRONTEND,,,8,,,80,200,2000,"), "{}", lines[1]);
        assert!(lines[2].starts_with("web,10.0.0.1:80,,,4,,,40,100,1000,,,,,,,,UP,3,1,0,"));
        assert!(
            lines[3].starts_with("web,[2001:db8::2]:80,,,4,,,40,100,1000,,,,,,,,DOWN,0,1,0,,,60,")
        );
        assert!(lines[3].contains(",L7STS,503,2,"));
        assert!(lines[3].contains(",\"wrong, \"\"odd\"\" answer\","), "{}", lines[3]);
        assert!(lines[4].starts_with("web,BACKEND,,,8,,,80,200,2000,,,,,,,,UP,3,1,0,"));
        for line in [lines[1], lines[2], lines[4]] {
            assert_eq!(line.split(',').count(), 129);
        }
    }
}
