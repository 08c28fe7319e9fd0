//! A mail server that keeps nothing: it hands each mail that it takes to its owner.
//!
//! It speaks as much of RFC 5321 as clients of the product need: EHLO, STARTTLS (RFC 3207), AUTH
//! PLAIN and LOGIN (RFC 4954), MAIL, RCPT, DATA, QUIT. It can refuse, hang and misbehave. It stands
//! on the standard library and rustls alone, so that unit tests can include this file.
//!
//! Must not know: who sends, what becomes of mails.

use rustls::{ServerConfig, ServerConnection, StreamOwned};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;

/// How it behaves.
#[derive(Default)]
pub(crate) struct Behaviour {
    /// Deliveries that are still refused with 451 at the end of DATA.
    pub(crate) refuse: AtomicU32,
    /// What it says instead of a greeting, such as `554 no`.
    pub(crate) greeting: Option<String>,
    /// Connections that are still left without a greeting.
    pub(crate) hang: AtomicU32,
    /// A receiver that is refused with 550.
    pub(crate) unknown: Option<String>,
    /// A receiver that is refused with 450 as often as `refuse` says, instead of the delivery.
    pub(crate) greylisted: Option<String>,
    /// The user and password that it wants before MAIL, and the one mechanism that it offers.
    pub(crate) auth: Option<(String, String, String)>,
    /// With it, STARTTLS is offered.
    pub(crate) tls: Option<Arc<ServerConfig>>,
    /// Puts an answer in clear behind that to STARTTLS, as an attacker in between would.
    pub(crate) inject: bool,
}

/// A mail that it took.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Mail {
    pub(crate) from: String,
    pub(crate) to: Vec<String>,
    pub(crate) subject: String,
    pub(crate) body: String,
    /// The authenticated user.
    pub(crate) user: Option<String>,
    pub(crate) tls: bool,
}

/// Serves until the process ends.
pub(crate) fn serve(
    listener: TcpListener,
    behaviour: Arc<Behaviour>,
    taken: impl Fn(Mail) + Clone + Send + 'static,
) {
    thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let (behaviour, taken) = (Arc::clone(&behaviour), taken.clone());
            // An error is the client's end of the connection.
            thread::spawn(move || drop(connection(stream, &behaviour, &taken)));
        }
    });
}

trait Stream: Read + Write {}
impl<T: Read + Write> Stream for T {}

/// One more of a number of times, if any are left.
fn once_more(left: &AtomicU32) -> bool {
    left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok()
}

fn connection(
    mut stream: TcpStream,
    behaviour: &Behaviour,
    taken: &dyn Fn(Mail),
) -> io::Result<()> {
    if once_more(&behaviour.hang) {
        // Until the client is tired of it.
        return io::copy(&mut stream, &mut io::sink()).map(drop);
    }
    let greeting = behaviour.greeting.as_deref().unwrap_or("220 sink.test ESMTP");
    stream.write_all(format!("{greeting}\r\n").as_bytes())?;
    let mut clear = Session::new(behaviour, Box::new(stream.try_clone()?), false);
    if clear.talk(taken)? == Then::Close {
        return Ok(());
    }
    let Some(config) = &behaviour.tls else { return Ok(()) };
    let tls = ServerConnection::new(Arc::clone(config)).map_err(io::Error::other)?;
    let mut secure = Session::new(behaviour, Box::new(StreamOwned::new(tls, stream)), true);
    secure.talk(taken).map(drop)
}

#[derive(PartialEq)]
enum Then {
    Close,
    StartTls,
}

struct Session<'a> {
    behaviour: &'a Behaviour,
    stream: BufReader<Box<dyn Stream>>,
    mail: Mail,
}

impl<'a> Session<'a> {
    fn new(behaviour: &'a Behaviour, stream: Box<dyn Stream>, tls: bool) -> Self {
        let mail = Mail { tls, ..Mail::default() };
        Self { behaviour, stream: BufReader::new(stream), mail }
    }

    fn say(&mut self, text: &str) -> io::Result<()> {
        let stream = self.stream.get_mut();
        stream.write_all(format!("{text}\r\n").as_bytes())?;
        stream.flush()
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(line.trim_end_matches(['\r', '\n']).to_owned())
    }

    fn talk(&mut self, taken: &dyn Fn(Mail)) -> io::Result<Then> {
        loop {
            let line = self.line()?;
            let upper = line.to_ascii_uppercase();
            if upper.starts_with("EHLO ") {
                self.hello()?;
            } else if upper == "STARTTLS" && self.behaviour.tls.is_some() && !self.mail.tls {
                let more = if self.behaviour.inject { "\r\n250 injected" } else { "" };
                self.say(&format!("220 go ahead{more}"))?;
                return Ok(Then::StartTls);
            } else if let Some(rest) = upper.strip_prefix("AUTH ") {
                let mechanism = rest.split(' ').next().unwrap_or_default().to_owned();
                self.auth(&mechanism, &line["AUTH ".len() + mechanism.len()..])?;
            } else if upper.starts_with("MAIL FROM:") {
                self.from(&line)?;
            } else if upper.starts_with("RCPT TO:") {
                self.to(&line)?;
            } else if upper == "DATA" {
                self.data(taken)?;
            } else if upper == "QUIT" {
                self.say("221 bye")?;
                return Ok(Then::Close);
            } else {
                self.say("502 what?")?;
            }
        }
    }

    fn hello(&mut self) -> io::Result<()> {
        let mut answer = "250-sink.test".to_owned();
        if self.behaviour.tls.is_some() && !self.mail.tls {
            answer += "\r\n250-STARTTLS";
        }
        if let Some((_, _, mechanism)) = &self.behaviour.auth {
            answer += &format!("\r\n250-AUTH {mechanism}");
        }
        self.say(&(answer + "\r\n250 8BITMIME"))
    }

    fn auth(&mut self, mechanism: &str, initial: &str) -> io::Result<()> {
        let Some((user, password, offered)) = &self.behaviour.auth else {
            return self.say("503 nobody asked");
        };
        let (user, password) = (user.clone(), password.clone());
        if mechanism != offered {
            return self.say("504 not that one");
        }
        let said = if mechanism == "PLAIN" {
            let plain = decode(initial.trim());
            plain.strip_prefix('\0').and_then(|rest| rest.split_once('\0')).map(owned)
        } else {
            let user = if initial.is_empty() {
                self.say("334 VXNlcm5hbWU6")?;
                decode(&self.line()?)
            } else {
                decode(initial.trim())
            };
            self.say("334 UGFzc3dvcmQ6")?;
            Some((user, decode(&self.line()?)))
        };
        if said == Some((user.clone(), password)) {
            self.mail.user = Some(user);
            return self.say("235 welcome");
        }
        self.say("535 who are you?")
    }

    fn from(&mut self, line: &str) -> io::Result<()> {
        if self.behaviour.auth.is_some() && self.mail.user.is_none() {
            return self.say("530 authenticate first");
        }
        self.mail.from = between(line);
        self.mail.to.clear();
        self.say("250 ok")
    }

    fn to(&mut self, line: &str) -> io::Result<()> {
        let to = between(line);
        if self.behaviour.unknown.as_ref() == Some(&to) {
            return self.say("550 unknown here");
        }
        if self.behaviour.greylisted.as_ref() == Some(&to) && once_more(&self.behaviour.refuse) {
            return self.say("450 come back later");
        }
        self.mail.to.push(to);
        self.say("250 ok")
    }

    fn data(&mut self, taken: &dyn Fn(Mail)) -> io::Result<()> {
        self.say("354 go on")?;
        let mut lines = Vec::new();
        loop {
            let line = self.line()?;
            if line == "." {
                break;
            }
            lines.push(line.strip_prefix('.').unwrap_or(&line).to_owned());
        }
        if self.behaviour.greylisted.is_none() && once_more(&self.behaviour.refuse) {
            return self.say("451 not now");
        }
        let end = lines.iter().position(String::is_empty).unwrap_or(lines.len());
        let headers = lines[..end].join("\n").replace("\n ", " ");
        let subject = headers.lines().find_map(|line| line.strip_prefix("Subject: "));
        self.mail.subject = subject.unwrap_or_default().to_owned();
        self.mail.body = lines.get(end + 1..).unwrap_or_default().join("\n");
        taken(self.mail.clone());
        self.say("250 taken")
    }
}

fn owned((a, b): (&str, &str)) -> (String, String) {
    (a.to_owned(), b.to_owned())
}

/// The address between angle brackets.
fn between(line: &str) -> String {
    let rest = line.split_once('<').map_or("", |(_, rest)| rest);
    rest.split('>').next().unwrap_or_default().to_owned()
}

/// Base64 as RFC 4648 has it; what is none ends it.
fn decode(text: &str) -> String {
    let value = |byte: u8| match byte {
        b'A'..=b'Z' => Some(byte - b'A'),
        b'a'..=b'z' => Some(byte - b'a' + 26),
        b'0'..=b'9' => Some(byte - b'0' + 52),
        b'+' => Some(62),
        b'/' => Some(63),
        _ => None,
    };
    let (mut bits, mut count, mut bytes) = (0_u32, 0, Vec::new());
    for value in text.bytes().map_while(value) {
        bits = (bits << 6) | u32::from(value);
        count += 6;
        if count >= 8 {
            count -= 8;
            bytes.push((bits >> count) as u8);
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}
