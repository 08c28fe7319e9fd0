//! Bans: `lb bans`, `lb ban` and `lb unban`, and the end of those whose time is up.
//!
//! Must not know: HTTP, map layouts.

use std::time::Duration;

use crate::controller::document::{self, Bans, Lifted};
use crate::controller::engine::Engine;
use crate::controller::request::{Document, Refusal, RefusalKind, Reply, Request};
use crate::controller::task::{Controller, failed};
use crate::dataplane::bpf::Clock;
use crate::model::Prefix;
use crate::plan::Denial;

impl Controller {
    /// `lb bans`. The list may be long: it is read on a blocking thread.
    pub(super) fn bans(&mut self, request: Request) {
        let Some(engine) = &mut self.engine else {
            return request.answer(Ok(Document::Bans(Bans::default())));
        };
        let clock = engine.dataplane().clock();
        match engine.dataplane().tables().lists().denials() {
            Ok(denials) => drop(tokio::task::spawn_blocking(move || {
                let read = denials.read().map_err(|error| failed(&error));
                request.answer(read.map(|list| {
                    let rows = list.into_iter();
                    let bans = rows.filter_map(|(prefix, why, packets)| {
                        ban(prefix, why, packets, clock.now(), clock)
                    });
                    Document::Bans(Bans { bans: bans.collect() })
                }));
            })),
            Err(error) => request.answer(Err(failed(&error))),
        }
    }

    /// `lb ban`.
    pub(super) fn ban(&mut self, prefix: Prefix, span: Option<Duration>) -> Reply {
        let engine = with_lists(&mut self.engine)?;
        let clock = engine.dataplane().clock();
        let until = span.map_or(0, |span| clock.now().saturating_add(clock.jiffies_in(span)));
        engine.ban(prefix, until).map_err(|error| failed(&error))?;
        tracing::info!(%prefix, ?span, "banned");
        let why = Denial { configured: false, banned: Some(until) };
        let bans = ban(prefix, why, 0, clock.now(), clock).into_iter().collect();
        Ok(Document::Bans(Bans { bans }))
    }

    /// `lb unban`. A prefix that something else denies as well is not let through by this, and the
    /// answer says so.
    pub(super) fn unban(&mut self, prefix: Prefix) -> Reply {
        let engine = with_lists(&mut self.engine)?;
        let lifted = engine.unban(prefix).map_err(|error| failed(&error))?;
        let installed = engine.installed();
        let is_configured = installed.deny.contains_key(&prefix);
        let around = installed.denied_around(prefix);
        if !lifted {
            let text = match around {
                _ if is_configured => format!(
                    "{prefix} was not banned: it is in dataplane.deny of the file; remove it \
                     there and reload"
                ),
                Some(around) => format!("{prefix} is not banned itself: {around} is denied"),
                None => format!("{prefix} is not banned"),
            };
            return Err(Refusal::new(RefusalKind::NotFound, text));
        }
        tracing::info!(%prefix, "ban lifted");
        let denied_by = is_configured.then_some(prefix).or(around);
        Ok(Document::Lifted(Lifted {
            prefix: prefix.to_string(),
            denied_by: denied_by.map(|prefix| prefix.to_string()),
        }))
    }
}

fn with_lists(engine: &mut Option<Engine>) -> Result<&mut Engine, Refusal> {
    engine.as_mut().ok_or_else(|| {
        let text = "there is no data plane that could ban: the file has no dataplane section";
        Refusal::new(RefusalKind::Invalid, text)
    })
}

/// A row of `lb bans`; `None` when its time is up.
fn ban(prefix: Prefix, why: Denial, packets: u64, now: u64, clock: Clock) -> Option<document::Ban> {
    let until = match why {
        Denial { configured: true, .. } => 0,
        Denial { banned, .. } => banned?,
    };
    let left = until.saturating_sub(now);
    if until != 0 && left == 0 {
        return None;
    }
    Some(document::Ban {
        prefix: prefix.to_string(),
        reason: if why.configured { "config" } else { "manual" }.to_owned(),
        expires_s: clock.span_of(left).as_millis().div_ceil(1000) as u64,
        packets,
    })
}
