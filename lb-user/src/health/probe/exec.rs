//! The probe by a command: its exit code, as keepalived's `MISC_CHECK`.
//!
//! 0 is a success, 1 a failure. With `dynamic_weight` the codes from 2 on are successes that set
//! the server's weight to two less, otherwise they are failures. A command that was killed or that
//! this host will not run (no such user or program, not safe) is a failure; one that could not be
//! started for lack of memory or descriptors says nothing.
//!
//! Must not know: thresholds, states, what a weight does.

use std::net::SocketAddr;
use std::time::Duration;

use crate::exec::{Command, End, Ran, RunAs};
use crate::health::probe::outcome;
use crate::health::report::{CheckStatus, ProbeResult};
use crate::model::ExecCheck;

/// Asks about one target, again and again.
#[derive(Debug)]
pub(super) struct ExecProbe {
    command: Command,
    dynamic_weight: bool,
}

impl ExecProbe {
    /// Prepares the command.
    pub(super) fn new(target: SocketAddr, check: &ExecCheck, timeout: Duration) -> Self {
        let command = Command {
            words: check.words(target),
            user: RunAs::User(check.user.clone()),
            environment: ExecCheck::environment(target, timeout),
            timeout,
            alone: true,
        };
        Self { command, dynamic_weight: check.dynamic_weight }
    }

    /// Runs it once.
    pub(super) async fn probe(&self) -> ProbeResult {
        self.judge(&self.command.run().await)
    }

    fn judge(&self, ran: &Ran) -> ProbeResult {
        let (mut code, mut weight) = (None, None);
        let status = match &ran.end {
            End::Exited(exit) => {
                code = u16::try_from(*exit).ok();
                match *exit {
                    0 => CheckStatus::ProcessOk,
                    2.. if self.dynamic_weight => {
                        weight = u32::try_from(exit - 2).ok();
                        CheckStatus::ProcessOk
                    }
                    _ => CheckStatus::ProcessError,
                }
            }
            End::Signalled(_) | End::Refused(_) => CheckStatus::ProcessError,
            End::TimedOut => CheckStatus::ProcessTimeout,
            End::NotStarted(_) => CheckStatus::SocketError,
        };
        let detail = match (&ran.end, weight) {
            (End::Exited(0), _) => String::new(),
            (end, Some(weight)) => format!("{end}: weight {weight}"),
            (end, None) => said(end, &ran.last_line()),
        };
        let result = outcome(status, detail);
        ProbeResult { duration: ran.duration, code, weight, ..result }
    }
}

/// How it ended, and the last line of what it wrote.
fn said(end: &End, line: &str) -> String {
    let shown: String = line.chars().take(LONGEST_EXCERPT).collect();
    if shown.is_empty() { end.to_string() } else { format!("{end}: {shown}") }
}

/// Characters of the output that are shown.
const LONGEST_EXCERPT: usize = 128;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exec::tests::Folder;
    use crate::health::probe::block_on;

    const TARGET: ([u8; 4], u16) = ([192, 0, 2, 1], 8080);

    fn probe(words: &[&str], dynamic_weight: bool, timeout: Duration) -> ProbeResult {
        let check = ExecCheck {
            command: words.iter().map(|word| (*word).to_owned()).collect(),
            user: "nobody".to_owned(),
            dynamic_weight,
        };
        block_on(ExecProbe::new(SocketAddr::from(TARGET), &check, timeout).probe())
    }

    #[test]
    fn exit_codes_are_those_of_misc_check() {
        let folder = Folder::new("probe");
        let exit = folder.script("exit", "echo first; echo why; exit $1");
        for (code, dynamic, status, weight, detail) in [
            (0, true, "PROCOK", None, ""),
            (1, true, "PROCERR", None, "exit code 1: why"),
            (2, true, "PROCOK", Some(0), "exit code 2: weight 0"),
            (255, true, "PROCOK", Some(253), "exit code 255: weight 253"),
            (0, false, "PROCOK", None, ""),
            (2, false, "PROCERR", None, "exit code 2: why"),
        ] {
            let found = probe(&[&exit, &code.to_string()], dynamic, Duration::from_secs(20));
            assert_eq!((found.status.name(), found.weight), (status, weight), "{found:?}");
            assert_eq!((found.code, found.detail.as_str()), (Some(code), detail));
        }
    }

    #[test]
    fn it_knows_its_target() {
        let folder = Folder::new("target");
        let body = "test \"$1 $2 $LB_ADDRESS $LB_PORT $LB_TIMEOUT_MS $(id -un)\" = \
                    'a192.0.2.1 8080 192.0.2.1 8080 20000 nobody'";
        let script = folder.script("args", body);
        let found = probe(&[&script, "a{address}", "{port}"], false, Duration::from_secs(20));
        assert_eq!(found.status.name(), "PROCOK", "{found:?}");
    }

    #[test]
    fn what_does_not_end_by_itself_is_no_success() {
        let folder = Folder::new("ends");
        let slow = folder.script("slow", "sleep 60");
        let found = probe(&[&slow], true, Duration::from_millis(300));
        assert_eq!((found.status.name(), found.code), ("PROCTOUT", None), "{found:?}");
        assert!(found.duration >= Duration::from_millis(300), "{found:?}");
        let killed = folder.script("killed", "kill -KILL $$");
        let found = probe(&[&killed], true, Duration::from_secs(20));
        assert_eq!((found.status.name(), found.code), ("PROCERR", None), "{found:?}");
        assert_eq!(found.detail, "killed by signal 9");
        let found = probe(&["/nowhere/check"], true, Duration::from_secs(20));
        assert_eq!(found.status.name(), "PROCERR", "{found:?}");
        assert!(found.detail.starts_with("not started: /nowhere: "), "{found:?}");
    }

    #[test]
    fn a_lack_of_this_host_says_nothing() {
        let probe = ExecProbe::new(
            SocketAddr::from(TARGET),
            &ExecCheck { command: Vec::new(), user: "nobody".to_owned(), dynamic_weight: true },
            Duration::from_secs(1),
        );
        let end = End::NotStarted("no memory".to_owned());
        let ran = Ran { end, duration: Duration::ZERO, output: String::new() };
        assert_eq!(probe.judge(&ran).status.name(), "SOCKERR");
    }
}
