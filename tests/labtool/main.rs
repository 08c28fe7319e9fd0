//! `lb-labtool`: the tiny servers and clients that run inside the lab's namespaces.
//!
//! Servers print `ready` once they listen and end when their stdin is closed, so none outlives
//! its lab. Clients print one JSON document. Every wait has a deadline. One file per family:
//! `http` (server, counting client, load), `site` (what health checks ask), `smtp` and `smtp_sink` (mail), `syslog_sink` (log lines), `copy` (TCP and UDP
//! transfers compared by SHA-256), `hold` (thousands of connections opened and closed on command), `echo` (UDP), `fragments` (UDP
//! datagrams in IP fragments), `probe` (questions at a steady rate).
//!
//! Must not know: the product.

mod args;
mod copy;
mod echo;
mod fragments;
mod hold;
mod http;
mod load;
mod noise;
mod probe;
mod site;
mod smtp;
mod smtp_sink;
mod syslog_sink;
mod udp_copy;

use anyhow::{Result, bail};
use args::Args;
use std::io::{BufRead, Write};

fn main() -> Result<()> {
    let mut words = std::env::args().skip(1);
    let command = words.next().unwrap_or_default();
    let args = Args::parse(words)?;
    match command.as_str() {
        "http" => http::serve(&args),
        "site" => site::serve(&args),
        "smtp-sink" => smtp_sink::run(&args),
        "syslog-sink" => syslog_sink::run(&args),
        "get" => http::get(&args),
        "load" => load::run(&args),
        "tcp-sink" => copy::serve(&args),
        "tcp-send" => copy::send(&args),
        "udp-copy-server" => udp_copy::serve(&args),
        "udp-copy" => udp_copy::send(&args),
        "hold-server" => hold::serve(&args),
        "hold" => hold::hold(&args),
        "udp-echo" => echo::serve(&args),
        "udp-ask" => echo::ask(&args),
        "fragment-server" => fragments::serve(&args),
        "fragment-send" => fragments::send(&args),
        "fragment-orphans" => fragments::orphans(&args),
        "probe-server" => probe::serve(&args),
        "probe" => probe::run(&args),
        _ => bail!("{USAGE}"),
    }
}

/// Prints one line, now.
fn say(line: impl std::fmt::Display) -> Result<()> {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{line}")?;
    Ok(out.flush()?)
}

/// A server's life: says `ready`, then lives until its owner closes stdin.
fn until_stdin_closes() -> Result<()> {
    say("ready")?;
    std::io::stdin().lock().lines().for_each(drop);
    Ok(())
}

const USAGE: &str = "lb-labtool COMMAND [--key VALUE]...
  http            --name N --bind A:P [--bind ...]
  site            --bind A:P [--bind ...] [--cert F --key F]
  smtp-sink       --bind A:P [--bind ...] [--cert F --key F] [--refuse N] [--hang N]
                  [--auth U:P [--mechanism PLAIN|LOGIN]] [--unknown R] [--greylisted R]
                  [--inject yes] [--greeting TEXT]
  syslog-sink     [--bind A:P] [--unix PATH]
  get             --url U [--count N] [--concurrency K] [--cpus both|any] [--timeout-ms T]
  load            --url U [--threads K] [--pause-ms P] [--timeout-ms T] [--keep-alive yes]
  tcp-sink        --bind A:P
  tcp-send        --to A:P [--bytes N] [--direction up|down] [--step yes] [--flip yes]
  udp-copy-server --bind A:P
  udp-copy        --to A:P [--bytes N] [--flip yes]
  hold-server     --bind A:P
  hold            --to A:P [--seed S] [--from A]...
  udp-echo        --name N --bind A:P
  udp-ask         --to A:P [--count N] [--step yes]
  fragment-server --bind A:P
  fragment-send   --to A:P --order forward|reversed|interleaved|shuffled [--count N] [--first N]
                  [--flip yes] [--twice yes]
  fragment-orphans --to A:P [--count N]
  probe-server    --name N --bind A:P
  probe           --to A:P [--every-us U]
";
