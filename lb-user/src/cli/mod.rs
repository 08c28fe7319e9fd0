//! The command line: arguments in, results on stdout, errors on stderr, exit codes 0, 1 and 2.
//!
//! [`args`] is what can be said, one module for each group of commands does it, and [`render`]
//! turns documents into text for people. 0 is done, 1 means that the input or the state is wrong,
//! 2 is wrong usage. A reader that closes stdout early (`lb status | head`) is no error.
//!
//! Must not know: maps, netlink messages, HTTP.

pub mod args;
mod bans;
mod check;
mod detach;
mod doctor;
mod explain;
mod output;
mod query;
mod real_server;
pub mod render;
mod run;
mod steer;
mod top;
mod vrrp;

use std::ffi::OsString;
use std::process::ExitCode;

use clap::Parser;

use args::{Args, Command};

use crate::controller::overrides::Action;

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    run(std::env::args_os())
}

/// Runs one command line; the first item is the program's name.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = match Args::try_parse_from(arguments) {
        Ok(arguments) => arguments,
        Err(error) => {
            let code = if error.use_stderr() { ExitCode::from(2) } else { ExitCode::SUCCESS };
            let _unwritable = error.print();
            return code;
        }
    };
    match dispatch(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if output::is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            output::complain(&format!("lb: {}", output::describe(&error)));
            ExitCode::FAILURE
        }
    }
}

fn dispatch(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Run(arguments) => run::run(&arguments),
        Command::Check(arguments) => check::check(&arguments),
        Command::Reload(daemon) => query::reload(&daemon),
        Command::Status(arguments) => query::status(&arguments),
        Command::Stats(arguments) => query::stats(&arguments),
        Command::Connections(arguments) => query::connections(&arguments),
        Command::Explain(arguments) => explain::explain(&arguments),
        Command::Detach(arguments) => detach::detach(&arguments),
        Command::RealServer(arguments) => real_server::run(&arguments),
        Command::Bans(daemon) => bans::bans(&daemon),
        Command::Ban(arguments) => bans::ban(&arguments),
        Command::Unban(arguments) => bans::unban(&arguments),
        Command::Vrrp(arguments) => vrrp::run(&arguments),
        Command::Speaker(arguments) => vrrp::speak(&arguments),
        Command::Doctor(arguments) => doctor::doctor(&arguments),
        Command::Top(arguments) => top::top(&arguments),
        Command::ReopenLogs(daemon) => query::reopen_logs(&daemon),
        Command::Drain(arguments) => steer::drain(&arguments),
        Command::Enable(arguments) => steer::change(&arguments, Action::Enable),
        Command::Disable(arguments) => steer::change(&arguments, Action::Disable),
        Command::Weight(arguments) => steer::weight(&arguments),
        Command::Add(arguments) => steer::add(&arguments),
        Command::Remove(arguments) => steer::change(&arguments, Action::Remove),
        other => anyhow::bail!("`lb {}` is not supported yet", other.name()),
    }
}

/// A current-thread runtime: nothing here needs a second thread.
fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    use anyhow::Context as _;
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("start the asynchronous runtime")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_command_of_the_contract_is_known() {
        for line in [
            "run --config lb.yaml --keep-dataplane --drain-timeout 10s",
            "run --config lb.yaml --state state.json",
            "upgrade",
            "detach",
            "check lb.yaml",
            "check lb.yaml --state state.json",
            "check lb.yaml --peer other.yaml",
            "check lb.yaml --peer other.yaml --json",
            "plan lb.yaml",
            "reload",
            "status",
            "status web --json",
            "stats --rate -o json",
            "connections --service web --limit 10",
            "explain --from 192.0.2.1:4000 --to 192.0.2.9:80/tcp",
            "explain --http GET-http://host/path --from 192.0.2.1 -H Name:value",
            "drain web/10.0.0.1:80 --timeout 10s",
            "enable web/10.0.0.1:80",
            "disable web/10.0.0.1:80 --persist",
            "weight web/10.0.0.1:80 3",
            "add web 10.0.0.1:80 --weight 3",
            "remove web/10.0.0.1:80",
            "capture --service web --drops -w out.pcap",
            "reopen-logs",
            "vrrp",
            "vrrp VI_1 --json",
            "vrrp resign VI_1",
            "speaker --socket /run/lb/admin.speaker --log-level debug --log-format json",
            "bans",
            "ban 192.0.2.0/24 --for 10m",
            "unban 192.0.2.0/24",
            "top",
            "doctor --real-server 10.0.0.1",
            "real-server setup --vip 192.0.2.9 --method dr",
            "real-server setup --vip 2001:db8::9 --method tunnel --interface eth0",
            "real-server undo --vip 192.0.2.9",
            "import keepalived k.conf haproxy h.cfg --strict",
            "schema",
            "completions bash",
            "man out",
        ] {
            let words = ["lb"].into_iter().chain(line.split(' '));
            let parsed = Args::try_parse_from(words);
            let command = parsed.unwrap_or_else(|error| panic!("{line}: {error}")).command;
            let first = line.split(' ').next().expect("a word");
            assert_eq!(command.name(), first, "{line}");
            if !command.is_supported() {
                let error = dispatch(command).expect_err("not supported").to_string();
                assert_eq!(error, format!("`lb {first}` is not supported yet"));
            }
        }
    }

    #[test]
    fn wrong_usage_is_known_before_anything_is_done() {
        for line in [
            "",
            "nonsense",
            "run",
            "check",
            "check lb.yaml --json",
            "status --limit 3",
            "connections --limit x",
            "run --config f --drain-timeout soon",
            "stats -o xml",
            "real-server",
            "real-server setup",
            "real-server setup --vip web",
            "real-server setup --vip 192.0.2.9 --method nat",
            "real-server undo --vip 192.0.2.9 --method dr",
            "ban",
            "ban web",
            "ban 192.0.2.0/33",
            "ban 192.0.2.1 --for 0s",
            "unban 192.0.2.1 --for 5s",
            "explain",
            "explain --from 192.0.2.1",
            "explain --to 192.0.2.9:80/tcp",
            "drain",
            "drain web/10.0.0.1:80 --timeout soon",
            "weight web/10.0.0.1:80",
            "weight web/10.0.0.1:80 65536",
            "add web",
            "enable web/10.0.0.1:80 --weight 3",
        ] {
            let words = ["lb"].into_iter().chain(line.split_terminator(' '));
            let error = Args::try_parse_from(words).expect_err(line);
            assert!(error.use_stderr() || line.is_empty(), "{line}: {error}");
        }
    }
}
