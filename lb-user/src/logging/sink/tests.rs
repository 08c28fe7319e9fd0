//! Targets that are renamed, gone, slow or not there: what is written, what is lost, and who waits.
//!
//! Must not know: events, formats beyond the head of a datagram.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;

use super::*;
use crate::model::Facility;

/// A directory of its own, removed at the end.
struct Directory(PathBuf);

impl Directory {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("lb-log-{}-{name}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a directory");
        Self(path)
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _gone = std::fs::remove_dir_all(&self.0);
    }
}

fn open(sink: LogSink, max_level: Severity) -> Sink {
    Sink::open(&LogTarget { sink, max_level }, "lb01", "lb").expect("a sink")
}

fn syslog(address: SyslogAddress) -> LogSink {
    LogSink::Syslog { address, facility: Facility::DAEMON, min_level: Severity::Crit }
}

fn finish(sink: &Sink) {
    sink.close();
    sink.wait_end(Instant::now() + Duration::from_secs(10));
}

#[test]
fn a_file_that_was_renamed_is_opened_anew_and_no_line_is_lost() {
    let directory = Directory::new("rename");
    let (path, old) = (directory.0.join("lb.log"), directory.0.join("lb.log.1"));
    let sink = open(LogSink::File(path.clone()), Severity::Notice);
    sink.send(Timestamp::UNIX_EPOCH, Severity::Notice, "one");
    sink.send(Timestamp::UNIX_EPOCH, Severity::Info, "not severe enough");
    while std::fs::read_to_string(&path).expect("a file") != "one\n" {
        std::thread::yield_now();
    }
    std::fs::rename(&path, &old).expect("renamed");
    sink.send(Timestamp::UNIX_EPOCH, Severity::Err, "two");
    while std::fs::read_to_string(&old).expect("a file") != "one\ntwo\n" {
        std::thread::yield_now();
    }
    sink.reopen().recv().expect("an answer").expect("it can be opened");
    sink.send(Timestamp::UNIX_EPOCH, Severity::Err, "three");
    finish(&sink);
    assert_eq!(std::fs::read_to_string(&path).expect("a new file"), "three\n");
    assert_eq!(sink.lost(), 0);
}

#[test]
fn a_reopening_that_fails_is_told_and_the_old_file_stays() {
    let directory = Directory::new("fails");
    let path = directory.0.join("deep");
    std::fs::create_dir(&path).expect("a directory");
    let file = path.join("lb.log");
    let sink = open(LogSink::File(file), Severity::Debug);
    let moved = directory.0.join("moved");
    std::fs::rename(&path, &moved).expect("renamed");
    let refused = sink.reopen().recv().expect("an answer");
    assert_eq!(refused.map_err(|error| error.kind()), Err(io::ErrorKind::NotFound));
    sink.send(Timestamp::UNIX_EPOCH, Severity::Err, "still");
    finish(&sink);
    let text = std::fs::read_to_string(moved.join("lb.log")).expect("the old file");
    assert_eq!(text, "still\n");
}

#[test]
fn lines_wait_for_a_syslog_socket_that_comes_back() {
    let directory = Directory::new("socket");
    let path = directory.0.join("log");
    let sink = open(syslog(SyslogAddress::Unix(path.clone())), Severity::Debug);
    sink.send(Timestamp::UNIX_EPOCH, Severity::Emerg, "first");
    while sink.trouble().is_none() {
        std::thread::yield_now();
    }
    let server = UnixDatagram::bind(&path).expect("a socket");
    server.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
    let mut buffer = [0; 100];
    let length = server.recv(&mut buffer).expect("a datagram");
    let text = std::str::from_utf8(&buffer[..length]).expect("text");
    // Emergencies are told as critical: 3 * 8 + 2.
    assert!(text.starts_with("<26>Jan  1 "), "{text}");
    assert!(text.ends_with(&format!(" lb[{}]: first", std::process::id())), "{text}");
    while sink.trouble().is_some() {
        std::thread::yield_now();
    }
    assert_eq!(sink.lost(), 0);
}

#[test]
fn nobody_waits_for_a_socket_that_stays_away() {
    let directory = Directory::new("away");
    let sink = open(syslog(SyslogAddress::Unix(directory.0.join("none"))), Severity::Debug);
    let began = Instant::now();
    for _ in 0..10_000 {
        sink.send(Timestamp::UNIX_EPOCH, Severity::Err, "line");
    }
    finish(&sink);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert_eq!(sink.lost(), 10_000, "every line is accounted for");
}

#[test]
fn a_refused_datagram_is_counted() {
    let server = std::net::UdpSocket::bind("127.0.0.1:0").expect("a port");
    let address = server.local_addr().expect("its address");
    drop(server);
    let sink = open(syslog(SyslogAddress::Udp(address)), Severity::Debug);
    for _ in 0..3 {
        sink.send(Timestamp::UNIX_EPOCH, Severity::Err, "line");
    }
    finish(&sink);
    // Of the last one nobody knows yet.
    assert!(sink.lost() >= 2, "{}", sink.lost());
    assert!(sink.trouble().is_some());
}

#[test]
fn a_reader_that_does_not_read_costs_lines_and_no_time() {
    let directory = Directory::new("slow");
    let path = directory.0.join("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    let both = std::fs::OpenOptions::new().read(true).write(true).open(&path);
    let _reader = both.expect("the reader's end");
    let sink = open(LogSink::File(path), Severity::Debug);
    let began = Instant::now();
    let line = "x".repeat(1000);
    for _ in 0..10_000 {
        sink.send(Timestamp::UNIX_EPOCH, Severity::Err, &line);
    }
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    assert!(sink.lost() > 5_000, "{}", sink.lost());
    while sink.trouble().is_none() {
        std::thread::yield_now();
    }
    finish(&sink);
}

#[test]
fn what_would_make_a_writer_wait_is_refused() {
    let directory = Directory::new("fifo");
    let path = directory.0.join("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).expect("a FIFO");
    let target = LogTarget { sink: LogSink::File(path), max_level: Severity::Debug };
    let error = Sink::open(&target, "lb01", "lb").expect_err("nobody reads it");
    assert!(error.to_string().contains("nobody reads"), "{error}");
}
