//! What systemd is told about the daemon (`Type=notify`, `WatchdogSec=`).
//!
//! Without systemd (`NOTIFY_SOCKET` unset) nothing happens. A message that cannot be sent is
//! logged once at debug level and otherwise ignored: it must never disturb forwarding.
//!
//! Must not know: what the daemon does.

use sd_notify::NotifyState;

/// Every plane serves.
pub fn ready(status: &str) {
    send(&[NotifyState::Ready, NotifyState::Status(&one_line(status))]);
}

/// A reload has begun; [`ready`] ends it, also when the new file was refused.
pub fn reloading() {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => send(&[NotifyState::Reloading, now]),
        Err(error) => tracing::debug!(%error, "no monotonic clock for systemd"),
    }
}

/// The daemon is ending.
pub fn stopping(status: &str) {
    send(&[NotifyState::Stopping, NotifyState::Status(&one_line(status))]);
}

/// No part without which the daemon is useless is stuck: sent once a second.
pub fn watchdog() {
    send(&[NotifyState::Watchdog]);
}

fn send(states: &[NotifyState]) {
    if let Err(error) = sd_notify::notify(states) {
        tracing::debug!(%error, "systemd was not told");
    }
}

/// A line break would start another assignment of the protocol.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_cannot_smuggle_in_another_assignment() {
        assert_eq!(one_line("bad file\nREADY=1"), "bad file READY=1");
    }
}
