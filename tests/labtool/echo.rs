//! A UDP server that answers with its name, and a client that counts the names.
//!
//! Each request comes from a socket of its own, so each is a new connection to the director.
//!
//! Must not know: how requests are spread.

use crate::args::Args;
use crate::http::Tally;
use crate::{say, until_stdin_closes};
use anyhow::{Context, Result};
use std::io;
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
    let mut tally = Tally::default();
    for _ in 0..args.value("count", 1)? {
        tally.add(ask_once(to, timeout));
    }
    say(tally.json())
}

fn ask_once(to: SocketAddr, timeout: Duration) -> io::Result<String> {
    let any = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any)?;
    socket.connect(to)?;
    socket.set_read_timeout(Some(timeout))?;
    socket.send(b"who")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
}
