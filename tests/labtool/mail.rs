//! A mail server that keeps nothing: it tells of each mail in one line on stdout.
//!
//! It speaks as much SMTP (RFC 5321) as a notification needs, without TLS. With `--hang yes` it
//! accepts connections and never says a word.
//!
//! Must not know: who sends mail, or why.

use crate::args::Args;
use crate::say;
use anyhow::{Context, Result};
use serde_json::json;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

/// `smtp-sink`.
pub(crate) fn serve(args: &Args) -> Result<()> {
    let bind = args.text("bind")?;
    let listener = TcpListener::bind(bind).with_context(|| format!("listen on {bind}"))?;
    let hangs = args.is_set("hang");
    thread::spawn(move || {
        let mut kept = Vec::new();
        for stream in listener.incoming().map_while(Result::ok) {
            if hangs {
                kept.push(stream);
            } else {
                thread::spawn(move || converse(&stream));
            }
        }
    });
    crate::until_stdin_closes()
}

/// One connection; a client that breaks off is none of our business.
fn converse(stream: &TcpStream) -> Result<()> {
    let mut out = stream;
    let mut lines = BufReader::new(stream).lines();
    let (mut from, mut to) = (String::new(), Vec::new());
    out.write_all(b"220 sink\r\n")?;
    while let Some(line) = lines.next() {
        let line = line?;
        let verb = line.get(..4).unwrap_or_default().to_uppercase();
        let answer: &[u8] = match verb.as_str() {
            "HELO" | "EHLO" | "RSET" | "NOOP" => b"250 sink\r\n",
            "MAIL" => {
                (from, to) = (argument(&line), Vec::new());
                b"250 go on\r\n"
            }
            "RCPT" => {
                to.push(argument(&line));
                b"250 go on\r\n"
            }
            "DATA" => {
                out.write_all(b"354 end with a dot\r\n")?;
                let mut text = Vec::new();
                for line in lines.by_ref() {
                    let line = line?;
                    if line == "." {
                        break;
                    }
                    text.push(line);
                }
                let subject = text.iter().find_map(|line| line.strip_prefix("Subject: "));
                say(json!({"from": from, "to": to, "subject": subject, "lines": text}))?;
                b"250 taken\r\n"
            }
            "QUIT" => {
                out.write_all(b"221 bye\r\n")?;
                return Ok(());
            }
            _ => b"502 what?\r\n",
        };
        out.write_all(answer)?;
    }
    Ok(())
}

/// The address between `<` and `>`.
fn argument(line: &str) -> String {
    let inside = line.split_once('<').and_then(|(_, rest)| rest.split_once('>'));
    inside.map_or(line, |(address, _)| address).to_string()
}
