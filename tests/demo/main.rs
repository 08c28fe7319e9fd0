//! `cargo xtask demo`: the real `lb` in a small lab, told as a story, and removed afterwards.
//!
//! A client, a director and three real servers in network namespaces; one nat and one dr service;
//! 300 requests through each; one real server is stopped under load and started again; then what
//! `lb status` and bpftool show. Ctrl-C and failures clean up too.
//!
//! Must not know: lb-user's internals; it uses the command line only.

mod table;

use anyhow::{Context, Result};
use harness::answers::Answers;
use harness::config::{Config, RealServer, Service};
use harness::daemon::{self, Daemon};
use harness::peer::{self, Load};
use harness::process::Tool;
use harness::topology::{Family, address, endpoint, server_address};
use harness::wait::{eventually, seconds};
use harness::{Lab, Shape, interrupt};
use std::process::ExitCode;
use std::time::Instant;

fn main() -> ExitCode {
    let start = Instant::now();
    match interrupt::catch().and_then(|()| demo()) {
        Ok(()) => {
            println!("\nDone in {:.1} s. Nothing is left behind.", start.elapsed().as_secs_f64());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("\nlb-demo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn demo() -> Result<()> {
    let lab = Lab::new(Shape::Both { servers: SERVERS })?;
    let told = tell(&lab);
    if told.is_err() {
        lab.print_logs();
    }
    told
}

fn tell(lab: &Lab) -> Result<()> {
    heading("The lab");
    println!("{LAB}");
    let mut servers = start_servers(lab)?;

    let config = config(lab);
    heading("The configuration");
    print!("{}", daemon::write(lab, &config)?);

    heading("lb run");
    let start = Instant::now();
    let lb = Daemon::start(lab, &config)?;
    println!("ready after {} ms, pid {}", start.elapsed().as_millis(), lb.pid());
    for (service, address) in SERVICES.iter().flat_map(|service| servers_of(service)) {
        lb.wait_state(service, &address, "up", seconds(10))?;
    }
    println!("every real server has passed its health check");

    for (service, vip, what) in [(NAT, address::VIP_WAN[0], "rr"), (DR, address::VIP_LAN[0], "wrr")]
    {
        heading(&format!("{REQUESTS} requests through {service} ({what}), from both CPUs"));
        table::print(&ask(lab, vip)?);
    }

    heading("rs2 is stopped while requests go on");
    let mut load = Load::start(&lab.client, &peer::url(&endpoint(address::VIP_WAN[0], PORT)))?;
    let stopped = Instant::now();
    drop(servers.remove(1));
    for (service, address) in SERVICES.map(|service| (service, server_address(Family::V4, 2))) {
        lb.wait_state(service, &address, "down", seconds(15))?;
    }
    println!("lb status shows it down after {:.1} s", stopped.elapsed().as_secs_f64());
    load.mark()?;
    eventually(seconds(10), "200 more requests", || Ok(load.count()?.total() >= 200))?;
    let [while_failing, after] = phases(load)?;
    println!("requests sent before that: {while_failing}");
    println!("requests sent after that:");
    table::print(&after);

    heading("rs2 is started again");
    let started = Instant::now();
    servers.insert(1, peer::http_server(lab.server(2)?, "rs2", PORT)?);
    lb.wait_state(NAT, &server_address(Family::V4, 2), "up", seconds(15))?;
    println!("lb status shows it up after {:.1} s", started.elapsed().as_secs_f64());
    table::print(&ask(lab, address::VIP_WAN[0])?);

    heading("lb status");
    print!("{}", lb.text(&["status"])?);

    heading("The service table in the kernel (bpftool map dump)");
    let dump = daemon::dump_map(lab, "services")?;
    dump.lines().take(SHOWN_LINES).for_each(|line| println!("{line}"));

    heading("SIGTERM");
    let status = lb.terminate()?;
    println!("lb ended with {status}");
    println!("XDP on the director: {}", xdp_programs(lab)?);
    Ok(())
}

fn config(lab: &Lab) -> Config {
    let weights = [1, 2, 3];
    let servers = |weighted: bool| {
        let server = |n: usize| {
            let weight = if weighted { weights[n - 1] } else { 1 };
            RealServer::new(server_address(Family::V4, n)).weight(weight)
        };
        (1..=SERVERS).map(server).collect::<Vec<_>>()
    };
    let [nat, dr] = [address::VIP_WAN[0], address::VIP_LAN[0]];
    Config::new(&lab.director_interfaces())
        .vip(nat, "wan0")
        .vip(dr, "lan0")
        .service(Service::new(NAT, (nat, PORT, "tcp"), "nat", servers(false)).check(CHECK))
        .service(
            Service::new(DR, (dr, PORT, "tcp"), "dr", servers(true)).scheduler("wrr").check(CHECK),
        )
}

fn start_servers(lab: &Lab) -> Result<Vec<Tool>> {
    let names = (1..).map(|n| format!("rs{n}"));
    let start = |(ns, name): (_, String)| peer::http_server(ns, &name, PORT);
    lab.servers.iter().zip(names).map(start).collect()
}

fn servers_of(service: &'static str) -> impl Iterator<Item = (&'static str, String)> {
    (1..=SERVERS).map(move |n| (service, server_address(Family::V4, n)))
}

fn ask(lab: &Lab, vip: &str) -> Result<Answers> {
    let answers = peer::get(&lab.client, &peer::url(&endpoint(vip, PORT)), REQUESTS)?;
    answers.unbroken()?;
    Ok(answers)
}

fn phases(load: Load) -> Result<[Answers; 2]> {
    let phases = load.stop()?;
    phases.try_into().ok().context("the load has two phases")
}

/// What `ip link` says about XDP in the director.
fn xdp_programs(lab: &Lab) -> Result<String> {
    let text = lab.director.run("ip link show")?;
    let programs: Vec<&str> = text.lines().filter(|line| line.contains("xdp")).collect();
    Ok(if programs.is_empty() { "none".into() } else { programs.join("\n") })
}

fn heading(text: &str) {
    println!("\n== {text} ==");
}

const SERVERS: usize = 3;
const PORT: u16 = 80;
const REQUESTS: u32 = 300;
const SHOWN_LINES: usize = 24;
const NAT: &str = "web-nat";
const DR: &str = "web-dr";
const SERVICES: [&str; 2] = [NAT, DR];
const CHECK: &str =
    "type: tcp, interval: 500ms, retry_interval: 100ms, timeout: 500ms, rise: 2, fall: 3";
const LAB: &str = "\
  client 10.0.2.2 ---- wan0 director lan0 ---- rs1 10.0.1.11
         10.0.1.2 ------------------+--------- rs2 10.0.1.12
                                    '--------- rs3 10.0.1.13
  nat: 10.0.2.15:80, replies come back through the director
  dr:  10.0.1.50:80, the real servers answer the client themselves";
