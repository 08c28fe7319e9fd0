//! Requests in a loop until told to stop.
//!
//! A request belongs to the phase in which it was sent: the line `mark` on stdin ends a phase and
//! is answered with its number, so that a scenario can say "no request sent after this moment
//! failed". Closing stdin, or `stop`, ends the run; then one line tells every phase.
//!
//! Must not know: what changes between phases.

use crate::args::Args;
use crate::http::{Connection, Tally, Target};
use crate::say;
use anyhow::{Result, anyhow};
use serde_json::json;
use std::io::{self, BufRead};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

/// `load`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let load = Load {
        target: Target::parse(args.text("url")?)?,
        timeout: args.millis("timeout-ms", 3000)?,
        pause: args.millis("pause-ms", 5)?,
        keep_alive: args.is_set("keep-alive"),
        phase: AtomicUsize::new(0),
        stop: AtomicBool::new(false),
        phases: Mutex::new(vec![Tally::default()]),
    };
    let threads: usize = args.value("threads", 2)?;
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| load.ask_until_stopped());
        }
        let obeyed = load.obey(io::stdin().lock().lines());
        load.stop.store(true, Ordering::SeqCst);
        obeyed
    })?;
    let phases = load.phases.into_inner().map_err(|_| anyhow!("a thread panicked"))?;
    let phases: Vec<_> = phases.iter().map(Tally::json).collect();
    say(json!({ "phases": phases }))
}

struct Load {
    target: Target,
    timeout: Duration,
    pause: Duration,
    keep_alive: bool,
    phase: AtomicUsize,
    stop: AtomicBool,
    phases: Mutex<Vec<Tally>>,
}

impl Load {
    fn obey(&self, lines: impl Iterator<Item = io::Result<String>>) -> Result<()> {
        say("ready")?;
        for line in lines.map_while(Result::ok) {
            match line.as_str() {
                "mark" => {
                    self.lock()?.push(Tally::default());
                    let phase = self.phase.fetch_add(1, Ordering::SeqCst) + 1;
                    say(json!({ "phase": phase }))?;
                }
                "count" => {
                    let tally = self.lock()?.last().map(Tally::json);
                    say(tally.ok_or_else(|| anyhow!("no phase"))?)?;
                }
                _ => break,
            }
        }
        Ok(())
    }

    fn ask_until_stopped(&self) {
        let mut open = None;
        while !self.stop.load(Ordering::SeqCst) {
            let phase = self.phase.load(Ordering::SeqCst);
            let answer = self.ask(&mut open);
            if let Ok(mut phases) = self.lock() {
                phases[phase].add(answer);
            }
            thread::sleep(self.pause);
        }
    }

    fn ask(&self, open: &mut Option<Connection>) -> io::Result<String> {
        let mut connection = match open.take() {
            Some(connection) => connection,
            None => Connection::open(self.target.address, self.timeout)?,
        };
        let body = connection.ask(&self.target, self.keep_alive)?;
        if self.keep_alive {
            *open = Some(connection);
        }
        Ok(body)
    }

    fn lock(&self) -> Result<std::sync::MutexGuard<'_, Vec<Tally>>> {
        self.phases.lock().map_err(|_| anyhow!("a thread panicked"))
    }
}
