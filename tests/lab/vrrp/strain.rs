//! Routers on a machine that has no time for them.
//!
//! Must not know: makes, except how long each is watched.

use crate::vrrp::handover::heard_by_backup;
use crate::vrrp::stage::{VIP, instance, owns, setups, stays};
use anyhow::{Result, ensure};
use harness::answers::Answers;
use harness::config::{Config, RealServer, Service};
use harness::daemon::Daemon;
use harness::pair::{INTERFACE, Pair};
use harness::peer;
use harness::topology::{Family, endpoint, server_address};
use harness::vrrp::capture::{Capture, now};
use harness::vrrp::router::{Make, Router};
use harness::wait::seconds;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

/// A minute for `lb`; keepalived, without real-time priority, is only watched for a moment.
pub(crate) fn busy(pair: &Pair, makes: [Make; 2]) -> Result<()> {
    let capture = Capture::start(pair)?;
    let setups = setups(&instance());
    let _web = peer::http_server(pair.server(1)?, "rs1", PORT)?;
    let servers = vec![RealServer::new(server_address(Family::V4, 1))];
    let service = Service::new("web", (VIP, PORT, "tcp"), "dr", servers);
    let config = || Config::new(&[INTERFACE]).service(service.clone());
    let routers = [
        Router::start_director(makes[0], &pair.a, &setups[0], config())?,
        Router::start_director(makes[1], &pair.b, &setups[1], config())?,
    ];
    owns(&pair.a, &pair.b, VIP)?;
    heard_by_backup(&capture, pair, &instance())?;
    let ours = makes.contains(&Make::Lb);
    let span = if ours { seconds(60) } else { seconds(3) };
    let since = now();
    // What lb forwards, and what its operators ask; keepalived has neither.
    let traffic = match ours {
        true => Some(peer::Load::start(&pair.client, &peer::url(&endpoint(VIP, PORT)))?),
        false => None,
    };
    let daemons = || routers.iter().filter_map(Router::daemon);
    under_load(daemons, || stays(&capture, [&pair.a, &pair.b], VIP, span))?;
    if let Some(traffic) = traffic {
        let answered: u64 = traffic.stop()?.iter().map(Answers::total).sum();
        ensure!(answered > 100, "only {answered} requests were answered");
    }
    let silence = capture.longest_silence(&pair.a, since, now())?;
    eprintln!("longest silence of A under load: {silence:?}");
    ensure!(silence < setups[1].instances[0].down_interval(), "A was silent for {silence:?}");
    Ok(())
}

/// Runs `body` while every core has two threads that never rest, and the daemons are asked without
/// a pause.
fn under_load<'a, T, I>(daemons: impl Fn() -> I, body: impl FnOnce() -> Result<T>) -> Result<T>
where
    I: Iterator<Item = &'a Daemon<'a>>,
{
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
        for daemon in daemons() {
            let over = &over;
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    // A machine that has no time may refuse; what counts is that it is asked.
                    let _answer = daemon.status();
                }
            });
        }
        let outcome = body();
        over.store(true, Ordering::Relaxed);
        outcome
    })
}

const PORT: u16 = 80;
