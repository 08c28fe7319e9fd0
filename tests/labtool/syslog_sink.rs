//! `syslog-sink`: prints each datagram that it takes as one JSON line, its text as it came.
//!
//! Must not know: the format of the lines, who sends.

use crate::args::Args;
use crate::{say, until_stdin_closes};
use anyhow::{Context, Result};
use serde_json::json;
use std::net::UdpSocket;
use std::os::unix::net::UnixDatagram;
use std::thread;

/// Serves until stdin closes.
pub(crate) fn run(args: &Args) -> Result<()> {
    for bind in args.all("bind") {
        let socket = UdpSocket::bind(bind).with_context(|| format!("listen on {bind}"))?;
        thread::spawn(move || print(|buffer| socket.recv(buffer)));
    }
    for path in args.all("unix") {
        let socket = UnixDatagram::bind(path).with_context(|| format!("listen on {path}"))?;
        thread::spawn(move || print(|buffer| socket.recv(buffer)));
    }
    until_stdin_closes()
}

fn print(receive: impl Fn(&mut [u8]) -> std::io::Result<usize>) -> Result<()> {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let length = receive(&mut buffer)?;
        say(json!({ "text": String::from_utf8_lossy(&buffer[..length]) }))?;
    }
}
