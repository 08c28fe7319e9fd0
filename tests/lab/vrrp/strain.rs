//! Routers on a machine that has no time for them.
//!
//! Must not know: makes, except how long each is watched.

use crate::vrrp::handover::heard_by_backup;
use crate::vrrp::stage::{VIP, instance, setups, start, stays};
use anyhow::{Result, ensure};
use harness::pair::Pair;
use harness::vrrp::capture::{Capture, now};
use harness::vrrp::router::Make;
use harness::wait::seconds;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// A minute for `lb`; keepalived, without real-time priority, is only watched for a moment.
pub(crate) fn busy(pair: &Pair, makes: [Make; 2]) -> Result<()> {
    let capture = Capture::start(pair)?;
    let setups = setups(&instance());
    let _routers = start(pair, makes, &setups)?;
    heard_by_backup(&capture, pair, &instance())?;
    let ours = makes.contains(&Make::Lb);
    let span = if ours { seconds(60) } else { seconds(3) };
    let since = now();
    under_load(|| stays(&capture, [&pair.a, &pair.b], VIP, span))?;
    let silence = capture.longest_silence(&pair.a, since, now())?;
    eprintln!("longest silence of A under load: {silence:?}");
    ensure!(silence < setups[1].instances[0].down_interval(), "A was silent for {silence:?}");
    Ok(())
}

/// Runs `body` while every core has two threads that never rest.
fn under_load<T>(body: impl FnOnce() -> Result<T>) -> Result<T> {
    let over = AtomicBool::new(false);
    let threads = thread::available_parallelism()?.get() * 2;
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            });
        }
        let outcome = body();
        over.store(true, Ordering::Relaxed);
        outcome
    })
}
