//! Unix signals as events.
//!
//! Must not know: what is done about a signal.

use std::io;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::controller::event::{Event, Signal};

/// Sends SIGHUP as [`Signal::Reload`], SIGUSR1 as [`Signal::ReopenLogs`], and SIGTERM and SIGINT as
/// [`Signal::Stop`] until the receiver is gone.
pub fn spawn(events: mpsc::Sender<Event>) -> io::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut user = signal(SignalKind::user_defined1())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::spawn(async move {
        loop {
            let signal = tokio::select! {
                _ = hangup.recv() => Signal::Reload,
                _ = user.recv() => Signal::ReopenLogs,
                _ = terminate.recv() => Signal::Stop,
                _ = interrupt.recv() => Signal::Stop,
            };
            if events.send(signal.into()).await.is_err() {
                return;
            }
        }
    });
    Ok(())
}
