//! Each type of check against a real server of its kind: up, down by refusal, by silence and by a
//! wrong answer, each with state, status, code and duration in `lb status --json`. TCP, HTTP and
//! ping are in `probes`.
//!
//! A server that was stopped (SIGSTOP) is silent: the kernel still takes its connections.

use crate::probes::{certificate, one, says};
use crate::stage::Method;
use anyhow::{Context, Result, bail, ensure};
use harness::daemon::{self, Daemon, number};
use harness::process::{Background, Tool, freeze};
use harness::topology::{Family, server_address};
use harness::wait::{eventually, seconds};
use harness::{Lab, scenario};
use serde_json::Value;
use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Starts the daemon with one server that is checked so.
fn checked<'a>(lab: &'a Lab, check: &str) -> Result<Daemon<'a>> {
    // A Linux host sends one ICMP error a second; these checks ask more often.
    lab.server(1)?.sysctl(&[("net/ipv4/icmp_ratelimit", "0")])?;
    Daemon::start(lab, &one(lab, check))
}

/// Reloads with another check of the same server.
fn recheck(lb: &Daemon<'_>, lab: &Lab, check: &str) -> Result<()> {
    lb.reload(&one(lab, check))
}

/// Waits for state and status, and compares the code; a number of milliseconds is the least that
/// the probe may have taken, `None` is an answer at once.
fn finds(
    lb: &Daemon<'_>,
    (state, status): (&str, &str),
    code: Option<u64>,
    waits: Option<u64>,
) -> Result<Value> {
    let what = format!("{state} by {status} with code {code:?}");
    let check = eventually(seconds(10), &what, || {
        let server = lb.real_server("web", &server_address(Family::V4, 1))?;
        let check = &server["check"];
        let right = server["state"] == state && check["status"] == status;
        ensure!(right && check["code"].as_u64() == code, "{server}");
        Ok(Some(check.clone()))
    })?;
    let took = number(&check, "duration_ms")?;
    let right = match waits {
        Some(least) => (least..least + 1500).contains(&took),
        None => took < 300,
    };
    ensure!(right, "it took {took} ms: {check}");
    Ok(check)
}

/// What every type has in common once it is up: a server that is stopped is silent by `timeout`,
/// and one that is gone refuses.
fn silent_then_gone(
    lb: &Daemon<'_>,
    timeout: &str,
    pid: u32,
    gone: impl FnOnce(),
) -> Result<Value> {
    freeze(&[pid])?;
    let silent = finds(lb, ("down", timeout), None, Some(300))?;
    gone();
    says(&finds(lb, ("down", "L4CON"), None, None)?, "Connection refused")?;
    Ok(silent)
}

#[test]
fn udp_compares_the_answer_or_trusts_silence() {
    scenario(Method::Nat.shape(1), |lab| {
        let server = |name: &str| {
            Tool::serve(lab.server(1)?, &["udp-echo", "--name", name, "--bind", "0.0.0.0:5000"])
        };
        let udp = server("pong")?;
        let check = "type: udp, port: 5000, udp: {payload: '70696e67', reply: '706f6?67'}";
        let lb = checked(lab, check)?;
        finds(&lb, ("up", "L7OK"), None, None)?;
        let pid = udp.pid();
        let silent = silent_then_gone(&lb, "L7TOUT", pid, || drop(udp))?;
        says(&silent, "no answer within 300ms")?;
        let wrong = server("gone")?;
        let other = finds(&lb, ("down", "L7RSP"), None, None)?;
        says(&other, "differs at byte 0 (4 bytes): 676f6e65, expected 706f6?67")?;
        // Without a pattern any answer will do, and silence; an ICMP error will not.
        recheck(&lb, lab, "type: udp, port: 5000")?;
        finds(&lb, ("up", "L7OK"), None, None)?;
        freeze(&[wrong.pid()])?;
        finds(&lb, ("up", "L4OK"), None, Some(300))?;
        drop(wrong);
        finds(&lb, ("down", "L4CON"), None, None).map(drop)
    });
}

/// dnsmasq with one name and, over TCP only, one with many addresses.
fn dnsmasq(lab: &Lab, names: &str) -> Result<Background> {
    let hosts = lab.dir.path().join("hosts");
    fs::write(&hosts, names)?;
    let line = format!(
        "dnsmasq --keep-in-foreground --conf-file=/dev/null --no-resolv --no-hosts --user=root \
         --pid-file --port=53 --addn-hosts={}",
        hosts.display()
    );
    Background::spawn(lab.server(1)?, &line)
}

#[test]
fn dns_asks_dnsmasq_over_udp_and_tcp() {
    scenario(Method::Nat.shape(1), |lab| {
        let many: String = (1..=80).map(|n| format!("10.9.0.{n} big.lab.test\n")).collect();
        let names = format!("10.9.9.9 www.lab.test\n{many}");
        let server = dnsmasq(lab, &names)?;
        let lb = checked(lab, "type: dns, port: 53, dns: {name: www.lab.test, record: A}")?;
        finds(&lb, ("up", "L7OK"), Some(0), None)?;
        // 80 addresses do not fit into 512 bytes.
        let big = "type: dns, port: 53, dns: {name: big.lab.test, record: A}";
        recheck(&lb, lab, big)?;
        finds(&lb, ("up", "L7OK"), Some(0), None)?;
        let rules = "add table ip t\nadd chain ip t c { type filter hook input priority 0; }\n\
                     add rule ip t c tcp dport 53 reject with tcp reset\n";
        let file = lab.dir.path().join("no-tcp.nft");
        fs::write(&file, rules)?;
        lab.server(1)?.run(&format!("nft -f {}", file.display()))?;
        let refused = finds(&lb, ("down", "L4CON"), None, None)?;
        says(&refused, "over TCP, since the answer was truncated: Connection refused")?;
        lab.server(1)?.run("nft delete table ip t")?;
        finds(&lb, ("up", "L7OK"), Some(0), None)?;
        let pid = server.pid();
        silent_then_gone(&lb, "L7TOUT", pid, || drop(server))?;
        let _knows_nothing = dnsmasq(lab, "")?;
        let wrong = finds(&lb, ("down", "L7STS"), Some(5), None)?;
        says(&wrong, "response code 5 (Query Refused)")
    });
}

#[test]
fn smtp_greets_a_mail_server() {
    scenario(Method::Nat.shape(1), |lab| {
        let server = |more: &[&str]| {
            let args = [&["smtp-sink", "--bind", "0.0.0.0:25"], more].concat();
            Tool::serve(lab.server(1)?, &args)
        };
        let sink = server(&[])?;
        let lb = checked(lab, "type: smtp, port: 25")?;
        finds(&lb, ("up", "L7OK"), Some(250), None)?;
        let pid = sink.pid();
        let silent = silent_then_gone(&lb, "L7TOUT", pid, || drop(sink))?;
        says(&silent, "connected, but no greeting within 300ms")?;
        let busy = server(&["--greeting", "554 too busy"])?;
        let wrong = finds(&lb, ("down", "L7STS"), Some(554), None)?;
        says(&wrong, "the greeting: 554 instead of 220: \"too busy\"")?;
        drop(busy);
        let _other = server(&["--greeting", "SSH-2.0-OpenSSH"])?;
        says(&finds(&lb, ("down", "L7RSP"), None, None)?, "not an SMTP reply")
    });
}

/// gRPC's own library with its health service.
fn grpc(lab: &Lab) -> Result<Tool> {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/grpc_health.py");
    let script = script.to_str().context("the path is text")?;
    // -I: neither the user's nor this folder's modules.
    Tool::serve_program(lab.server(1)?, "/usr/bin/python3", &["-I", script, "0.0.0.0:50051"])
}

#[test]
fn grpc_asks_the_health_service_of_another_make() {
    scenario(Method::Nat.shape(1), |lab| {
        let mut server = grpc(lab)?;
        let lb = checked(lab, "type: grpc, port: 50051")?;
        finds(&lb, ("up", "L7OK"), Some(1), None)?;
        let mut tell = |line: &str| {
            server.tell(line)?;
            let said = server.line(seconds(5))?;
            if said == "ok" { Ok(()) } else { bail!("it said {said}") }
        };
        tell("- 2")?;
        says(&finds(&lb, ("down", "L7STS"), Some(2), None)?, "health status 2 (NOT_SERVING)")?;
        tell("- 0")?;
        says(&finds(&lb, ("down", "L7STS"), Some(0), None)?, "health status 0 (UNKNOWN)")?;
        tell("- 1")?;
        finds(&lb, ("up", "L7OK"), Some(1), None)?;
        recheck(&lb, lab, "type: grpc, port: 50051, grpc: {service: shop.Orders}")?;
        let unknown = finds(&lb, ("down", "L7STS"), Some(5), None)?;
        says(&unknown, "gRPC status 5 (NOT_FOUND): unknown service")?;
        tell("shop.Orders 1")?;
        finds(&lb, ("up", "L7OK"), Some(1), None)?;
        let pid = server.pid();
        let silent = silent_then_gone(&lb, "L7TOUT", pid, || drop(server))?;
        says(&silent, "connected, but no answer within 300ms")?;
        let _http = Tool::serve(
            lab.server(1)?,
            &["smtp-sink", "--bind", "0.0.0.0:50051", "--greeting", "HTTP/1.1 400 Bad Request"],
        )?;
        finds(&lb, ("down", "L7RSP"), None, None).map(drop)
    });
}

#[test]
fn exec_takes_the_exit_code_of_an_unprivileged_command() {
    scenario(Method::Nat.shape(1), |lab| {
        let (script, answer) = (lab.dir.path().join("check"), lab.dir.path().join("answer"));
        let text = format!(
            "#!/bin/sh\n[ \"$(id -un)\" = nobody ] || exit 1\n\
             [ \"$1 $LB_ADDRESS $LB_PORT\" = \"10.0.1.11:7 10.0.1.11 7\" ] || exit 1\n. {}\n",
            answer.display()
        );
        fs::write(&script, text)?;
        fs::set_permissions(&script, Permissions::from_mode(0o755))?;
        fs::set_permissions(lab.dir.path(), Permissions::from_mode(0o755))?;
        let answers = |line: &str| fs::write(&answer, line);
        answers("exit 0\n")?;
        let check =
            format!("type: exec, port: 7, command: [{}, '{{address}}:{{port}}']", script.display());
        let lb = checked(lab, &check)?;
        finds(&lb, ("up", "PROCOK"), Some(0), None)?;
        answers("echo the database is read-only; exit 1\n")?;
        let down = finds(&lb, ("down", "PROCERR"), Some(1), None)?;
        says(&down, "exit code 1: the database is read-only")?;
        answers("exit 9\n")?;
        says(&finds(&lb, ("up", "PROCOK"), Some(9), None)?, "exit code 9: weight 7")?;
        answers("sleep 60\n")?;
        let slow = finds(&lb, ("down", "PROCTOUT"), None, Some(300))?;
        says(&slow, "timed out and was killed")?;
        answers("kill -SEGV $$\n")?;
        says(&finds(&lb, ("down", "PROCERR"), None, None)?, "killed by signal 11")?;
        answers("exit 0\n")?;
        finds(&lb, ("up", "PROCOK"), Some(0), None)?;
        // Somebody else could have changed it: that is told beforehand, and it is not run.
        fs::set_permissions(&script, Permissions::from_mode(0o777))?;
        let refused = eventually(seconds(10), "it is refused", || {
            let check = finds(&lb, ("down", "PROCERR"), None, None)?;
            says(&check, "can be written by others: chmod o-w")?;
            Ok(Some(check))
        })?;
        says(&refused, "not started: ")?;
        let paths = daemon::Paths::of(lab);
        let file = paths.config.to_str().context("the path is text")?;
        let output = daemon::lb(lab, &["check", file])?;
        let said =
            String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        ensure!(said.contains("virtual_services, web: health check: "), "{said}");
        // With `dynamic_weight: false` every other code is a failure.
        fs::set_permissions(&script, Permissions::from_mode(0o755))?;
        answers("exit 9\n")?;
        recheck(&lb, lab, &format!("{check}, dynamic_weight: false"))?;
        says(&finds(&lb, ("down", "PROCERR"), Some(9), None)?, "exit code 9")
    });
}

/// nginx, one process, with these blocks of servers.
pub(crate) fn nginx(lab: &Lab, servers: &str) -> Result<Background> {
    let dir = lab.dir.path().display();
    let text = format!(
        "daemon off; master_process off; pid {dir}/nginx.pid; error_log {dir}/nginx-error.log;\n\
         events {{ worker_connections 4096; }}\nhttp {{\n access_log off;\n\
         client_body_temp_path {dir}; proxy_temp_path {dir}; fastcgi_temp_path {dir};\n\
         uwsgi_temp_path {dir}; scgi_temp_path {dir};\n{servers}\n}}\n"
    );
    let file = lab.dir.path().join("nginx.conf");
    fs::write(&file, text)?;
    Background::spawn(lab.server(1)?, &format!("nginx -c {}", file.display()))
}

/// TLS on 443 and none on 8080.
fn site(cert: &Path, key: &Path) -> String {
    format!(
        "server {{\n listen 443 ssl; listen 8080; server_name www.lab.test;\n\
         ssl_certificate {}; ssl_certificate_key {};\n\
         location = /health {{ return 200 \"ok\\n\"; }}\n location / {{ return 503; }}\n}}\n",
        cert.display(),
        key.display()
    )
}

#[test]
fn http_and_https_ask_nginx() {
    scenario(Method::Nat.shape(1), |lab| {
        let (cert, key) = certificate(lab)?;
        let server = nginx(lab, &site(&cert, &key))?;
        let https = "type: https, port: 443, host: www.lab.test, path: /health";
        let lb = checked(lab, https)?;
        finds(&lb, ("up", "L7OK"), Some(200), None)?;
        // MD5 and SHA-256 of "ok\n".
        let md5 = "eff5bc1ef8ec9d03e640fc4370f5eacd";
        recheck(&lb, lab, &format!("{https}, expect: {{digest: 'md5:{md5}'}}"))?;
        finds(&lb, ("up", "L7OK"), Some(200), None)?;
        let sha256 = "dc51b8c96c2d745df3bd5590d990230a482fd247123599548e0632fdbf97fc22";
        recheck(&lb, lab, &format!("{https}, expect: {{digest: 'sha256:{sha256}'}}"))?;
        finds(&lb, ("up", "L7OK"), Some(200), None)?;
        let other = "00000000000000000000000000000000";
        recheck(&lb, lab, &format!("{https}, expect: {{digest: 'md5:{other}'}}"))?;
        let wrong = finds(&lb, ("down", "L7RSP"), Some(200), None)?;
        says(&wrong, &format!("the body (3 bytes) is md5:{md5}, not md5:{other}"))?;
        recheck(&lb, lab, "type: https, port: 443, host: www.lab.test, path: /other")?;
        finds(&lb, ("down", "L7STS"), Some(503), None)?;
        recheck(&lb, lab, "type: https, port: 443, host: other.lab.test, path: /health")?;
        says(&finds(&lb, ("down", "L6RSP"), None, None)?, "the certificate is for www.lab.test")?;
        let http = "type: http, port: 8080, host: www.lab.test, path: /health";
        recheck(&lb, lab, http)?;
        finds(&lb, ("up", "L7OK"), Some(200), None)?;
        recheck(&lb, lab, "type: tcp, port: 8080")?;
        finds(&lb, ("up", "L4OK"), None, None)?;
        recheck(&lb, lab, https)?;
        finds(&lb, ("up", "L7OK"), Some(200), None)?;
        freeze(&[server.pid()])?;
        says(&finds(&lb, ("down", "L6TOUT"), None, Some(300))?, "no end of the TLS handshake")?;
        recheck(&lb, lab, http)?;
        finds(&lb, ("down", "L7TOUT"), None, Some(300))?;
        drop(server);
        finds(&lb, ("down", "L4CON"), None, None)?;
        recheck(&lb, lab, https)?;
        says(&finds(&lb, ("down", "L4CON"), None, None)?, "Connection refused")
    });
}
