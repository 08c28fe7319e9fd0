//! `lb run`: from the configuration file to a running controller.
//!
//! Nothing on the host is changed before the file is valid and the host has what it asks for.
//!
//! Must not know: what the controller does.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::Context as _;
use tokio::runtime::{Handle, Runtime};
use tokio::sync::{mpsc, oneshot};

use crate::admin::{HttpPlane, Server};
use crate::cli::args::Run;
use crate::cli::{check, output, runtime};
use crate::controller::preflight::Severity;
use crate::controller::{self, AdminPlane as _, Start, state_file, systemd};
use crate::{logging, watchdog};

pub(super) fn run(arguments: &Run) -> anyhow::Result<()> {
    let host_name = check::host_name();
    let loaded = check::load(&arguments.config, &host_name)?;
    let mut warnings: Vec<String> = loaded.warnings.iter().map(ToString::to_string).collect();
    let mut refused = 0;
    for finding in check::examine(&loaded.director)? {
        match finding.severity {
            Severity::Refuse => {
                refused += 1;
                output::complain(&finding.message);
            }
            Severity::Warn => warnings.push(finding.message),
        }
    }
    if refused > 0 {
        anyhow::bail!("{} cannot work on this host as it is", arguments.config.display());
    }
    let kept = state_file::read(&arguments.state)?;
    let (logger, _log) = logging::start(&loaded.director.log, &loaded.director.node, "lb")?;
    for warning in &warnings {
        tracing::warn!("{warning}");
    }
    let director = loaded.director;
    watchdog::start(|is_well| {
        if is_well {
            systemd::watchdog();
        }
    })?;
    // Who logs in, and what pages cost, must not hold up probes and plans.
    let web = Web::start()?;
    let handle = web.handle.clone();
    let result = to_the_end(runtime()?, async {
        watchdog::watch_runtime();
        let (events, queue) = mpsc::channel(controller::QUEUE);
        let admin = Arc::new(HttpPlane::new(events.clone(), handle)?);
        if let Err(faults) = admin.stage(&director) {
            faults.iter().for_each(|fault| output::complain(fault));
            anyhow::bail!("{} cannot work on this host as it is", arguments.config.display());
        }
        let start = Start {
            config_path: arguments.config.clone(),
            state_path: arguments.state.clone(),
            kept,
            host_name,
            director,
            warnings,
            keep_dataplane: arguments.keep_dataplane,
            drain_timeout: arguments.drain_timeout,
            logger,
            admin: admin.clone(),
        };
        let server = Server::bind(&start.director.admin.socket)?;
        admin.commit();
        let serving = tokio::spawn(server.run(events.clone()));
        let result = controller::run(start, events, queue).await;
        serving.abort();
        // The socket's file goes with the server.
        let _aborted = serving.await;
        result
    });
    web.end();
    result
}

/// A runtime on a thread of its own.
struct Web {
    handle: Handle,
    stop: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Web {
    fn start() -> anyhow::Result<Self> {
        let runtime = runtime()?;
        let handle = runtime.handle().clone();
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = thread::Builder::new().name("lb-admin-http".to_owned()).spawn(move || {
            to_the_end(runtime, async {
                // Told, or dropped: the end in either case.
                let _told = stopped.await;
            });
        });
        Ok(Self { handle, stop, thread: thread.context("start a thread for admin.http")? })
    }

    fn end(self) {
        drop(self.stop);
        // It has nothing to say.
        let _ended = self.thread.join();
    }
}

/// Runs `work`. Then a lookup in the user database, or whatever else hangs on a blocking thread,
/// holds nobody up.
fn to_the_end<T>(runtime: Runtime, work: impl Future<Output = T>) -> T {
    let result = runtime.block_on(work);
    runtime.shutdown_timeout(PATIENCE);
    result
}

/// How long what still runs on blocking threads is waited for at the end.
const PATIENCE: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use std::sync::mpsc::channel;

    use super::*;

    #[test]
    fn a_blocking_thread_that_hangs_does_not_hold_up_the_end() {
        let (release, released) = channel::<()>();
        let (ended, end) = channel();
        thread::spawn(move || {
            let result = to_the_end(runtime().expect("a runtime"), async {
                let (begun, begins) = oneshot::channel();
                tokio::task::spawn_blocking(move || {
                    let _ = begun.send(());
                    released.recv()
                });
                begins.await
            });
            ended.send(result)
        });
        let result = end.recv_timeout(Duration::from_secs(30));
        drop(release);
        assert_eq!(result.expect("it ends while that thread hangs"), Ok(()));
    }
}
