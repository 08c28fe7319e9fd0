//! What the controller has heard of probed targets: the one truth that weights, expiry and
//! documents are made from.
//!
//! [`Health`] knows for each real server of the configuration in force which targets it hangs on.
//!
//! Must not know: probes, maps.

use std::collections::HashMap;

use crate::health::{HealthState, Observed, Target};
use crate::model::Director;

/// A probed target.
#[derive(Clone, Debug)]
pub struct Checked {
    /// Its state as of the last change that was heard of; before the first one, what it was
    /// assumed to be. What the maps do follows from this one.
    pub state: HealthState,
    /// The weight that it gives, and whether its state is borne out, as of then.
    heard: (Option<u32>, bool),
    /// It was up and failed. A server that was never up has no connections that somebody must be
    /// told of.
    pub failed: bool,
    /// What its probe knows now: newer than `state` until the change is heard.
    pub observed: Observed,
}

impl Checked {
    /// A target of which no change was heard yet. `assumed` is what an earlier daemon, or the maps
    /// before it was checked, took it for.
    pub fn new(observed: Observed, assumed: Option<HealthState>) -> Self {
        let failed = assumed == Some(HealthState::Down);
        Self { state: observed.state(), heard: (None, false), failed, observed }
    }

    /// Something of it has changed; true when something may have to follow. What counts is how it is
    /// now, so a change that was under way while the target left the file and came back does no harm.
    pub fn hear(&mut self) -> bool {
        let seen = self.observed.get();
        let heard = (seen.weight, seen.is_settled);
        let is_news = std::mem::replace(&mut self.heard, heard) != heard;
        if seen.state == self.state {
            return is_news;
        }
        self.state = seen.state;
        self.failed = seen.state == HealthState::Down;
        true
    }
}

/// All probed targets, and who hangs on them.
#[derive(Debug, Default)]
pub struct Health {
    ids: HashMap<Target, usize>,
    checked: Vec<Checked>,
    /// By service and real server, in file order: its targets.
    servers: Vec<Vec<Vec<usize>>>,
}

impl Health {
    /// Follows another configuration. What is known of targets that stay is kept; `begin` gives
    /// what is known of the others, or `None` when they are not probed.
    pub fn follow(&mut self, director: &Director, begin: impl Fn(&Target) -> Option<Checked>) {
        let mut before: Vec<Option<Checked>> =
            std::mem::take(&mut self.checked).into_iter().map(Some).collect();
        let known = std::mem::take(&mut self.ids);
        let mut id_of = |target: Target| -> Option<usize> {
            if let Some(id) = self.ids.get(&target) {
                return Some(*id);
            }
            let kept = known.get(&target).and_then(|id| before.get_mut(*id)?.take());
            let checked = kept.or_else(|| begin(&target))?;
            self.ids.insert(target, self.checked.len());
            self.checked.push(checked);
            Some(self.checked.len() - 1)
        };
        self.servers = director
            .virtual_services
            .iter()
            .map(|service| {
                let servers = service.real_servers.iter();
                servers.map(|server| Target::all(server).filter_map(&mut id_of).collect()).collect()
            })
            .collect();
    }

    /// Something of a target has changed; true when something may have to follow. One that is not known
    /// was removed while its change was under way.
    pub fn hear(&mut self, target: &Target) -> bool {
        self.ids.get(target).is_some_and(|id| self.checked[*id].hear())
    }

    /// The targets of a real server, by their places in the file; the numbers name targets until
    /// the next [`Self::follow`].
    pub fn ids(&self, service: usize, server: usize) -> &[usize] {
        let servers = self.servers.get(service);
        servers.and_then(|servers| servers.get(server)).map_or(&[], Vec::as_slice)
    }

    /// What is known of the targets of a real server, by their places in the file.
    pub fn of(&self, service: usize, server: usize) -> impl Iterator<Item = &Checked> {
        self.ids(service, server).iter().map(|id| &self.checked[*id])
    }

    /// What is known of a target by its number.
    pub fn get(&self, id: usize) -> Option<&Checked> {
        self.checked.get(id)
    }

    /// Every target.
    pub fn iter(&self) -> impl Iterator<Item = (&Target, &Checked)> {
        self.ids.iter().map(|(target, id)| (target, &self.checked[*id]))
    }

    /// How many targets are probed.
    pub fn len(&self) -> usize {
        self.checked.len()
    }

    /// Nothing is probed.
    pub fn is_empty(&self) -> bool {
        self.checked.is_empty()
    }
}

/// Of two assumptions about one target, the one that disturbs less.
pub fn milder(a: Option<HealthState>, b: Option<HealthState>) -> Option<HealthState> {
    match (a, b) {
        (Some(HealthState::Up), _) | (_, Some(HealthState::Up)) => Some(HealthState::Up),
        (Some(HealthState::Down), _) | (_, Some(HealthState::Down)) => Some(HealthState::Down),
        (None, None) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::sync::mpsc;

    use super::*;
    use crate::health::{Change, Runner, Wanted};
    use crate::model::{CheckKind, HealthCheck, Via};

    /// A check that follows a listener within milliseconds.
    fn target(port: u16) -> Target {
        let check = HealthCheck {
            kind: CheckKind::Tcp,
            interval: Duration::from_millis(5),
            retry_interval: Duration::from_millis(5),
            timeout: Duration::from_secs(2),
            rise: 1,
            fall: 1,
            port: None,
            starts_up: false,
            flap: None,
            via: Via::Direct,
        };
        Target { address: ([127, 0, 0, 1], port).into(), check }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn only_a_server_that_was_up_has_failed() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let target = target(listener.local_addr().expect("its address").port());
        let (sender, mut changes) = mpsc::channel::<Change>(4);
        let mut runner = Runner::new(sender, 1);
        runner.set_targets([Wanted::from(target.clone())]);
        let observed = runner.observed(&target).expect("it is probed");
        let mut checked = Checked::new(observed.clone(), None);
        assert!(!checked.hear(), "nothing has changed");
        assert!(!checked.failed);
        changes.recv().await.expect("it comes up");
        assert!(checked.hear());
        assert_eq!((checked.state, checked.failed), (HealthState::Up, false));
        assert!(!checked.hear(), "the same change again");
        drop(listener);
        changes.recv().await.expect("it goes down");
        assert!(checked.hear());
        assert_eq!((checked.state, checked.failed), (HealthState::Down, true));
        assert!(Checked::new(observed, Some(HealthState::Down)).failed);
    }

    #[test]
    fn a_server_in_use_anywhere_is_assumed_up() {
        let (up, down) = (Some(HealthState::Up), Some(HealthState::Down));
        assert_eq!(milder(down, up), up);
        assert_eq!(milder(None, down), down);
        assert_eq!(milder(None, None), None);
    }
}
