//! `lb top` on a terminal of its own: it shows what there is, obeys keys, and leaves the terminal as
//! it was, however it ends.

use crate::stage::{Method, WEB, all_servers, file, http_servers, web};
use anyhow::{Context, Result, ensure};
use harness::config::Service;
use harness::daemon::{self, Daemon, Paths};
use harness::programs;
use harness::topology::{Family, server_address};
use harness::wait::{eventually, seconds};
use harness::{Lab, scenario};
use std::io::{Read, Write};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Mutex, PoisonError};

#[test]
fn it_shows_sorts_and_restores_the_terminal() {
    scenario(Method::Nat.shape(2), |lab| {
        let _servers = http_servers(lab)?;
        let listen = (Method::Nat.vip(Family::V4), WEB + 1, "tcp");
        let api = Service::new("api", listen, "nat", all_servers(lab, Family::V4));
        let config =
            file(lab, Method::Nat, Family::V4, web(lab, Method::Nat, Family::V4)).service(api);
        let lb = Daemon::start(lab, &config)?;

        let mut top = Top::start(lab, "")?;
        top.wait("both services", |screen| below(screen, "+ web", "+ api"))?;
        top.wait("native mode", |screen| screen.contains("native XDP on"))?;
        top.press("n")?;
        top.wait("the order of names", |screen| below(screen, "+ api", "+ web"))?;
        top.press("e")?;
        let server = format!("{}:{WEB}", server_address(Family::V4, 2));
        top.wait("real servers", |screen| screen.contains(&server))?;
        top.press("q")?;
        top.ends()?;

        // A signal ends it as well, with the same care.
        let top = Top::start(lab, "timeout --foreground -s TERM 3")?;
        top.wait("both services", |screen| below(screen, "+ web", "+ api"))?;
        top.ends()?;

        // Nobody can restore anything after a kill: the check would see it.
        let top = Top::start(lab, "timeout --foreground -s KILL 3")?;
        top.wait("both services", |screen| below(screen, "+ web", "+ api"))?;
        ensure!(top.ends().is_err(), "a terminal that was not restored is taken for one");

        let page = lb.text(&["top", "--refresh", "200ms"])?;
        ensure!(page.contains(&server) && !page.contains('\u{1b}'), "{page}");
        lb.kill();
        let output = daemon::lb(lab, &["top"])?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(!output.status.success() && said.contains("no daemon listens"), "{said}");
        Ok(())
    });
}

/// Whether a line of the screen begins with `first` and a later one with `second`.
fn below(screen: &str, first: &str, second: &str) -> bool {
    let line = |text: &str| screen.lines().position(|line| line.starts_with(text));
    line(first).is_some_and(|first| line(second).is_some_and(|second| first < second))
}

/// `lb top` behind a pseudo terminal of 80 by 24, which script(1) makes.
struct Top {
    child: Child,
    keys: ChildStdin,
    output: Arc<Mutex<Vec<u8>>>,
}

impl Top {
    fn start(lab: &Lab, before: &str) -> Result<Self> {
        let socket = Paths::of(lab).socket;
        let lb = programs::lb()?;
        let line = format!(
            "stty rows 24 cols 80; TERM=xterm {before} {} top --refresh 200ms --socket {}; \
             echo ENDED $?; stty -a",
            lb.display(),
            socket.display()
        );
        let mut command = lab.director.command("script");
        command.args(["--quiet", "--return", "--command", &line, "/dev/null"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().context("start script (package bsdutils)")?;
        let keys = child.stdin.take().context("no stdin")?;
        let mut stdout = child.stdout.take().context("no stdout")?;
        let output = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&output);
        std::thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(count @ 1..) = stdout.read(&mut buffer) {
                kept.lock().unwrap_or_else(PoisonError::into_inner).extend(&buffer[..count]);
            }
        });
        Ok(Self { child, keys, output })
    }

    fn press(&mut self, keys: &str) -> Result<()> {
        self.keys.write_all(keys.as_bytes())?;
        Ok(self.keys.flush()?)
    }

    fn text(&self) -> String {
        let output = self.output.lock().unwrap_or_else(PoisonError::into_inner);
        String::from_utf8_lossy(&output).into_owned()
    }

    fn wait(&self, what: &str, holds: impl Fn(&str) -> bool) -> Result<()> {
        eventually(seconds(10), what, || Ok(holds(&screen(&self.text()))))
            .with_context(|| screen(&self.text()))
    }

    /// It ended by itself and left the alternate screen; lines and echo are the terminal's again.
    fn ends(mut self) -> Result<()> {
        eventually(seconds(15), "the end", || Ok(self.text().contains("ENDED")))
            .with_context(|| screen(&self.text()))?;
        self.child.wait()?;
        let text = self.text();
        let (seen, after) = text.split_once("ENDED").context("it did not end")?;
        ensure!(seen.contains("\u{1b}[?1049h") && seen.contains("\u{1b}[?1049l"), "{seen:?}");
        ensure!(seen.rfind("\u{1b}[?25h") > seen.rfind("\u{1b}[?25l"), "the cursor is hidden");
        let set = |word: &str| after.split([' ', ';', '\r', '\n']).any(|found| found == word);
        ensure!(["icanon", "echo", "isig"].iter().all(|word| set(word)), "{after}");
        Ok(())
    }
}

impl Drop for Top {
    fn drop(&mut self) {
        harness::process::end_tree(&mut self.child);
    }
}

/// What a terminal of 80 by 24 shows after this output: text, cursor movements and clearing.
fn screen(output: &str) -> String {
    let mut cells = vec![vec![' '; 80]; 24];
    let (mut x, mut y) = (0usize, 0usize);
    let mut letters = output.chars();
    while let Some(letter) = letters.next() {
        match letter {
            '\u{1b}' => {
                if letters.next() != Some('[') {
                    continue;
                }
                // It ends with its first letter.
                let (mut text, mut end) = (String::new(), ' ');
                for letter in letters.by_ref() {
                    if letter.is_ascii_alphabetic() {
                        end = letter;
                        break;
                    }
                    text.push(letter);
                }
                let mut numbers = text.split(';').map(|n| n.parse::<usize>().unwrap_or(1));
                match end {
                    'H' => {
                        y = numbers.next().unwrap_or(1) - 1;
                        x = numbers.next().unwrap_or(1) - 1;
                    }
                    'J' => cells.iter_mut().for_each(|line| line.fill(' ')),
                    _ => {}
                }
            }
            '\r' => x = 0,
            '\n' => y += 1,
            letter => {
                if let Some(cell) = cells.get_mut(y).and_then(|line| line.get_mut(x)) {
                    *cell = letter;
                }
                x += 1;
            }
        }
    }
    let lines = cells.iter().map(|line| line.iter().collect::<String>());
    lines.map(|line| line.trim_end().to_owned() + "\n").collect()
}
