//! A UDP server that answers with its name, and a client that counts the names.
//!
//! Each request comes from a socket of its own, so each is a new connection to the director; with
//! `--step` all come from one, a question for every line on stdin.
//!
//! Must not know: how requests are spread.

use crate::args::Args;
use crate::http::Tally;
use crate::{say, until_stdin_closes};
use anyhow::{Context, Result};
use serde_json::json;
use std::io::{self, BufRead};
use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::Duration;

/// `udp-echo`.
pub(crate) fn serve(args: &Args) -> Result<()> {
    let name: &'static str = args.text("name")?.to_string().leak();
    for bind in args.all("bind") {
        let socket = UdpSocket::bind(bind).with_context(|| format!("listen on {bind}"))?;
        thread::spawn(move || {
            let mut buffer = [0; 2048];
            while let Ok((_, from)) = socket.recv_from(&mut buffer) {
                let _ = socket.send_to(name.as_bytes(), from);
            }
        });
    }
    until_stdin_closes()
}

/// `udp-ask`.
pub(crate) fn ask(args: &Args) -> Result<()> {
    let to: SocketAddr = args.text("to")?.parse().context("--to")?;
    let timeout = args.millis("timeout-ms", 2000)?;
    if args.is_set("step") {
        return ask_on_command(to, timeout);
    }
    let mut tally = Tally::default();
    // All stay open: a port that was free again could be chosen twice, and two questions would be
    // one connection.
    let mut sockets = Vec::new();
    for _ in 0..args.value("count", 1)? {
        let answer = connected(to, timeout).and_then(|socket| {
            sockets.push(socket);
            question(&sockets[sockets.len() - 1])
        });
        tally.add(answer);
    }
    say(tally.json())
}

/// One socket, one question for every line on stdin.
fn ask_on_command(to: SocketAddr, timeout: Duration) -> Result<()> {
    let socket = connected(to, timeout)?;
    say("ready")?;
    for _ in io::stdin().lock().lines() {
        say(match question(&socket) {
            Ok(name) => json!({ "answer": name }),
            Err(error) => json!({ "error": error.to_string() }),
        })?;
    }
    Ok(())
}

fn connected(to: SocketAddr, timeout: Duration) -> io::Result<UdpSocket> {
    let any = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(timeout))?;
    Ok(socket)
}

fn question(socket: &UdpSocket) -> io::Result<String> {
    socket.send(b"who")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}
