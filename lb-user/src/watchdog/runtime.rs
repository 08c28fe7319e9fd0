//! The asynchronous runtime and its blocking threads as watched parts.
//!
//! Must not know: what runs there.

use std::time::Duration;

use super::{Weight, part};

/// Watches the runtime that this is called in, as long as it is there.
pub fn watch_runtime() {
    let runtime = part("runtime", LIMIT, Weight::Vital);
    tokio::spawn(async move {
        loop {
            runtime.begin();
            tokio::time::sleep(EVERY).await;
        }
    });
    let blocking = part("blocking threads", LIMIT, Weight::Useful);
    tokio::spawn(async move {
        loop {
            blocking.begin();
            if tokio::task::spawn_blocking(|| {}).await.is_err() {
                // The runtime ends.
                return;
            }
            blocking.rest();
            tokio::time::sleep(EVERY).await;
        }
    });
}

const EVERY: Duration = Duration::from_secs(1);
/// A loaded host delays a task by a second or two.
const LIMIT: Duration = Duration::from_secs(5);
